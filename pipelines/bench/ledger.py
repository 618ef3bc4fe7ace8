"""Bench of the ledger: reading a player, evaluating limits, committing, beside a plain append.

The peer is what any service that keeps its decisions would pay: the same record under its id and in a stream, in one
transaction with every write on disk. Server times are the store's own count of its main thread per command.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, cast

import redis
from rich.console import Console
from rich.progress import track

from features.store.connection import Store, connect, load_library
from features.store.deployment import House, create_house
from features.store.keys import PlayerKeys
from features.store.server import start_server
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import Catalogue, load_catalogue
from service.contacts import limits
from service.contacts.entries import Reservation
from service.contacts.ledger import Booking, RedisLedger
from service.contacts.limits import Held, LimitQuery
from service.contacts.snapshot import NO_DECISION
from service.players import sealing
from service.settings import catalogue_path

CALLS: Final = 400
PLAYERS: Final = 40
HELD: Final = 6
"""Contacts that a player holds already."""
_RECORD: Final = 3_000
"""Bytes of a record."""
_HOUR: Final = 3_600_000_000


def ledger(rounds: int, console: Console) -> dict[str, Any]:
    """Measure in turns; medians over the rounds, microseconds."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="croupier-ledger-")))
        server = start_server(home)
        stack.callback(server.stop)
        client = connect(server.url)
        stack.callback(client.close)
        load_library(client, "service.contacts", "ledger.lua")
        bench = _Bench(client, server.url, create_house(client), _catalogue())
        turns = {"view": bench.view, "limits": bench.limits, "reserve": bench.reserve, "append": bench.append}
        found: dict[str, list[float]] = {name: [] for name in turns}
        for _ in track(range(rounds + 1), "rounds", console=console, transient=True):
            for name, turn in turns.items():
                found[name].append(turn())
        bench.close()
    cost = {name: statistics.median(times[1:]) for name, times in found.items()}
    ratios = [reserve / append for reserve, append in zip(found["reserve"][1:], found["append"][1:], strict=True)]
    return {
        "caps": len(bench.layout.catalogue.caps),
        "held": HELD,
        **{f"{name}_us": round(value, 1) for name, value in cost.items()},
        "ledger_us": round(cost["view"] + cost["limits"] + cost["reserve"], 1),
        "reserve_to_append": round(statistics.median(ratios), 2),
    }


def _catalogue() -> Catalogue:
    """The catalogue with eight caps that all count the reserved offer, each with room."""
    plain = load_catalogue(catalogue_path()).model_dump(mode="json")
    windows: list[dict[str, Any]] = [{"hours": hours} for hours in (1, 24, 72, 168, 720)]
    windows += [{"calendar": "day"}, {"calendar": "week"}, {"lifetime": True}]
    limits = [{"id": f"cap_{at}", "contacts": 10_000, **window} for at, window in enumerate(windows)]
    return Catalogue.model_validate(plain | {"caps": limits})


class _Bench:
    def __init__(self, client: redis.Redis, url: str, house: House, catalogue: Catalogue) -> None:
        self.layout = CandidateSpace(catalogue)
        self._client = client
        self._loop = asyncio.new_event_loop()
        self._store = Store(url, 1)
        self._ledger = RedisLedger(self._store, house)
        self._house = house
        self._names = 0
        self._keys = [PlayerKeys(house.player_key(f"player-{number}")) for number in range(PLAYERS)]

    def close(self) -> None:
        self._loop.run_until_complete(self._store.close())
        self._loop.close()

    def view(self) -> float:
        """Server time of reading a player, microseconds."""
        return self._server_us("fcall", self._view_all)

    def limits(self) -> float:
        """Time of evaluating eight caps in every slot for a player with some contacts, microseconds."""
        held = Held({f"d{at}": self._reservation(-at) for at in range(HELD)})
        now_us = self._house.now_us(time.time_ns() // 1_000)
        slots = [(now_us + at * _HOUR, bits) for at, bits in enumerate(self.layout.slots)]
        asking = LimitQuery("main", "Europe/Malta", now_us)
        begun = time.perf_counter()
        for _ in range(CALLS):
            limits.evaluate(self.layout, held, slots, asking)
        return (time.perf_counter() - begun) / CALLS * 1e6

    def reserve(self) -> float:
        """Server time of committing a contact of a player with some contacts, microseconds."""
        for keys in self._keys:
            self._client.delete(keys.ledger)
        return self._server_us("fcall", self._reserve_all, less=self.view())

    def append(self) -> float:
        """Server time of the peer, microseconds: the record under its id and in a stream, in one transaction."""
        return self._server_us("", self._append_all)

    def _view_all(self) -> None:
        for number in range(CALLS):
            self._loop.run_until_complete(self._ledger.view(self._keys[number % PLAYERS], NO_DECISION))

    def _reserve_all(self) -> None:
        for number in range(CALLS):
            self._loop.run_until_complete(self._reserve(self._keys[number % PLAYERS]))

    async def _reserve(self, keys: PlayerKeys) -> None:
        view = await self._ledger.view(keys, NO_DECISION)
        self._names += 1
        outdated = sorted(view.held.own)[: max(0, len(view.held.own) - HELD)]
        seal = view.seal or sealing.new_seal()
        booking = Booking(
            f"{keys.partition:03d}-{self._names:024d}",
            b"x" * _RECORD,
            b"",  # kept whole, as the peers do
            view.facts_version,
            view.ledger_version,
            seal,
            self._reservation(0),
            outdated,
            {},
            (),
        )
        status, _ = await self._ledger.reserve(keys, booking)
        if status != "reserved":
            raise RuntimeError(status)

    def _append_all(self) -> None:
        for number in range(CALLS):
            keys = self._keys[number % PLAYERS]
            self._names += 1
            pipe = self._client.pipeline(transaction=True)
            pipe.set(keys.decision(f"peer-{self._names}"), b"x" * _RECORD, ex=3_000_000)
            pipe.xadd(f"peer:{keys.log}", {"k": "decision", "t": "0", "z": "", "b": b"x" * _RECORD})
            pipe.execute()

    def _reservation(self, hours: int) -> Reservation:
        now_us = self._house.now_us(time.time_ns() // 1_000) + hours * _HOUR
        return Reservation(now_us, now_us + _HOUR, "reserved", "bonus", "welcome_bonus", "sms", "night")

    def _server_us(self, command: str, work: Any, less: float = 0.0) -> float:  # noqa: ANN401 - a method of this bench
        """Time of the store's main thread per call, microseconds; `less` is work of each call to subtract."""
        self._client.config_resetstat()
        work()
        stats = cast("dict[str, dict[str, float]]", self._client.info("commandstats"))
        counted = {"cmdstat_exec", "cmdstat_set", "cmdstat_xadd", "cmdstat_multi"} if not command else {"cmdstat_fcall"}
        return sum(stats[name]["usec"] for name in counted if name in stats) / CALLS - less
