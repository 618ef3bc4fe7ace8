"""Bench from exclusion to silence: players exclude themselves during decisions and confirms about them.

Per player, over several API processes on one real store:

    decide until leases wait --> confirm them all, decide, and tell `self_excluded`, all at once
                                                    `--> acknowledged: confirm all again, decide, read the ledger

A confirm that succeeds after the acknowledgement is a fault, and so is a decision to contact. The clocks are one
machine's, so moments can be compared: of the answer to the event as the caller received it, and of the confirm.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import numpy as np
import yaml
from rich.console import Console
from rich.progress import track

from benchmarks import builds, sides
from benchmarks.sides import Served
from features.events import EVENT, Event, micros, moment
from features.schema import MICROS
from features.store.connection import Store, connect
from features.store.deployment import House, open_house, real_now_us
from features.store.keys import PlayerKeys
from features.store.server import socket_path
from models.catalogue.offers import load_catalogue
from pipelines.imports import bulk
from pipelines.worker.process import wait_until_applied
from service.contacts.entries import Reservation
from service.settings import catalogue_path

WORKERS: Final = 4
AT_ONCE: Final = 4
"""Players whose stories run side by side."""
LEASES: Final = 3
ASKS: Final = 40
_CHANNELS: Final = ("in_app", "email", "push")
_CHUNK: Final = 5_000


class Story(NamedTuple):
    """History of one player; times in milliseconds after the acknowledgement.

    Attributes:
        leases: Leases that waited when the player excluded themselves.
        confirmed: Confirms that had succeeded before.
        late: Confirms that succeeded after it.
        contacted: Decisions after it that were to contact.
        silent_ms: When the ledger was read and no lease was open.
    """

    leases: int
    confirmed: int
    late: int
    contacted: int
    silent_ms: float


def silence(times: int, console: Console) -> dict[str, Any]:
    """Exclude new players, one run each, while they are decided about."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="croupier-silence-")))
        served = stack.enter_context(
            sides.croupier(
                builds.here(), home, sides.free_port(), catalogue_without_caps(home), WORKERS, read_seconds=5.0
            )
        )
        url = f"unix://{socket_path(home)}"
        house = people(url, [_name(number) for number in range(times)], console)
        found = asyncio.run(_stories(times, served, url, house, console))
    silent = np.array([one.silent_ms for one in found])
    return {
        "exclusions": len(found),
        "workers": WORKERS,
        "leases_open": sum(one.leases for one in found),
        "confirmed_before": sum(one.confirmed for one in found),
        "confirmed_after": sum(one.late for one in found),
        "contacted_after": sum(one.contacted for one in found),
        "silent_ms": {
            name: round(float(np.quantile(silent, share)), 2)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1))
        },
    }


def catalogue_without_caps(home: Path) -> Path:
    """Catalogue without caps and with random decisions for all, so that leases come quickly."""
    plain = load_catalogue(catalogue_path()).model_dump(mode="json")
    plain |= {"caps": [], "experiment": {"key": "silence", "variants": {"uniform": 1.0}}}
    path = home / "catalogue.yaml"
    path.write_text(yaml.safe_dump(plain), "utf8")
    return path


def people(url: str, names: Sequence[str], console: Console) -> House:
    """Register players who may be contacted, and wait until features include them; their house."""
    client = connect(url)
    house = open_house(client)
    items = bulk.Items(client, house)
    now = moment(house.now_us(real_now_us(client))) - timedelta(days=20)
    reached: dict[int, str] = {}
    for first in track(range(0, len(names), _CHUNK // 10), "players arrive", console=console, transient=True):
        known = [event for name in names[first : first + _CHUNK // 10] for event in _known(name, now)]
        reached |= bulk.append(client, house, [items.event(event) for event in known]).reached
    wait_until_applied(client, reached)
    client.close()
    return house


def _known(name: str, at: datetime) -> Iterator[Event]:
    facts: list[dict[str, Any]] = [
        {"type": "registered", "jurisdiction": "MT", "time_zone": "Europe/Malta", "birth_date": "1980-05-17"},
        {"type": "kyc_verified"},
        *({"type": "consent_changed", "channel": channel, "granted": True} for channel in _CHANNELS),
        *({"type": "deposit", "status": "approved", "method": "card", "amount_minor": 5_000} for _ in range(2)),
    ]
    for place, fields in enumerate(facts):
        about = {"event_id": f"k{place}", "player_id": name, "occurred_at": at + timedelta(minutes=place)}
        yield EVENT.validate_python(fields | about, strict=False)


def _name(number: int) -> str:
    return f"silence-{number}"


async def _stories(times: int, served: Served, url: str, house: House, console: Console) -> list[Story]:
    store = Store(url, AT_ONCE)
    numbers = iter(track(range(times), "players exclude themselves", console=console, transient=True))
    found: list[Story] = []

    async def tell(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            found.append(await _story(_Caller(session, store, house, _name(number))))  # noqa: PERF401 - one after the other

    # A connection for each request in flight, so that the processes share them.
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(served.address, connector=connector, headers=served.headers) as session:
        await asyncio.gather(*(tell(session) for _ in range(AT_ONCE)))
    await store.close()
    return found


class _Caller(NamedTuple):
    """Concurrent callers about one player."""

    session: aiohttp.ClientSession
    store: Store
    house: House
    player: str

    async def post(self, route: str, body: Mapping[str, object]) -> tuple[int, dict[str, Any]]:
        async with self.session.post(route, json=body) as answer:
            return answer.status, await answer.json()

    async def decide(self) -> dict[str, Any]:
        _, told = await self.post("/v1/decisions", {"player_id": self.player, "channels": _CHANNELS})
        return told

    async def confirm(self, decision_id: str) -> int | None:
        """Moment at which a contact was confirmed, unix microseconds; None if it was not."""
        status, told = await self.post(f"/v1/decisions/{decision_id}/confirm", {})
        return micros(datetime.fromisoformat(told["confirmed_at"])) if status == 200 else None

    async def exclude(self) -> int:
        """Send the exclusion; moment of its acknowledgement, unix microseconds."""
        at = datetime.now(UTC).isoformat()
        event = {"type": "self_excluded", "event_id": "stop", "player_id": self.player, "occurred_at": at}
        status, told = await self.post("/v1/events", event)
        if status != 200:
            raise RuntimeError(str(told))
        return time.time_ns() // 1_000

    async def silent_us(self) -> int:
        """Moment at which the player's ledger was read without an open lease, unix microseconds."""
        while True:
            held = await self.store.command(5.0, "HGETALL", PlayerKeys(self.house.player_key(self.player)).ledger)
            entries = [Reservation.loads(text.decode()) for name, text in held.items() if name[:1].isdigit()]
            if all(one.state != "reserved" for one in entries):
                return time.time_ns() // 1_000


async def _story(caller: _Caller) -> Story:
    leases = await _leases(caller)
    before = asyncio.gather(*(caller.confirm(one) for one in leases), *(_late(caller) for _ in range(2)))
    acknowledged_us = await caller.exclude()
    asked = asyncio.gather(*(caller.decide() for _ in range(2)))
    after = asyncio.gather(*(caller.confirm(one) for one in leases))
    silent_us = await caller.silent_us()
    told, again = [one for one in await before if one is not None], await after
    # What was in flight may have been confirmed before the event was taken; what was asked after it never.
    late = sum(one > acknowledged_us for one in told) + sum(one is not None for one in again)
    contacted = sum(one["action"] != "NO_CONTACT" for one in await asked)
    return Story(len(leases), len(told), late, contacted, (silent_us - acknowledged_us) / MICROS * 1_000)


async def _leases(caller: _Caller) -> list[str]:
    """Ask for decisions until some leases wait, of which at least one may be confirmed now."""
    found: list[str] = []
    due = False
    for _ in range(ASKS):
        told = await caller.decide()
        if told["action"] != "NO_CONTACT":
            found.append(told["decision_id"])
            due |= datetime.fromisoformat(told["action"]["send_at"]) <= datetime.now(UTC) + timedelta(seconds=30)
        if due and len(found) >= LEASES:
            break
    return found


async def _late(caller: _Caller) -> int | None:
    """A decision in flight while the exclusion arrives, confirmed as soon as it is answered."""
    told = await caller.decide()
    return None if told["action"] == "NO_CONTACT" else await caller.confirm(told["decision_id"])
