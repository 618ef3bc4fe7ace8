"""Bench of restricting facts under load: facts of linked ids, told while decisions fill every API process.

    ids linked in chains and rings --> callers keep the processes full with decisions
                                   `-> others tell facts that restrict, of clocks ahead and of years ago
                                                     `--> every linked id is asked about: all are left alone

All ids are of adults who may be contacted, but for what is told now. A fact that is not acknowledged is a fault, and so
is a decision to contact an id of which, or of whose links, any was told. Some chains are whole; of the others, and of
rings, the callers died before anything was taken in.
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import aiohttp
import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks import builds, sides
from benchmarks.sides import Served
from benchmarks.silence import catalogue_without_caps, people
from features.store.connection import Store
from features.store.deployment import House
from features.store.keys import PlayerKeys
from features.store.server import socket_path
from service.contacts.ledger import RedisLedger
from service.players import sealing

WORKERS: Final = 4
LONGEST: Final = 200
"""Ids of the longest chains and rings."""
FACTS_PER_ID: Final = 4
TELLERS: Final = 16
"""Callers that tell facts; each waits for its answer."""
CALLERS: Final = 64
"""Callers that keep asking for decisions while facts are told."""
OTHERS: Final = [f"other-{number}" for number in range(500)]
"""Players of whom nothing is told: it is they whom decisions are asked for meanwhile."""
SEED: Final = 17
_FACTS: Final[Sequence[dict[str, Any]]] = (
    {"type": "self_excluded"},
    {"type": "closure_requested"},
    {"type": "account_closed"},
    {"type": "objection_changed", "objects": True},
    {"type": "time_out", "until": "2999-01-01T00:00:00Z"},
    {"type": "register_checked", "register_name": "gamstop", "listed": True},
    {"type": "harm_scored", "source": "model-x", "level": "strong"},
    {"type": "support_contact", "tags": ["harm", "complaint"]},
    {"type": "consent_changed", "channel": "email", "granted": False},
)


class LinkedIds(NamedTuple):
    """Linked ids of one person, in a chain or a ring."""

    names: Sequence[str]
    round: bool
    taken_in: bool


class Fact(NamedTuple):
    """A fact to send: route and body."""

    route: str
    body: dict[str, Any]


class FactResult(NamedTuple):
    """Result of sending a fact: HTTP status, seconds until acknowledged."""

    status: int
    seconds: float


def restricting(times: int, console: Console) -> dict[str, Any]:
    """Send restricting facts of linked ids; a quarter of them are outcomes that name no decision."""
    chance = Random(SEED)
    groups = list(_groups(max(1, times // FACTS_PER_ID), chance))
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="croupier-restricting-")))
        catalogue = catalogue_without_caps(home)
        served = stack.enter_context(sides.croupier(builds.here(), home, sides.free_port(), catalogue, WORKERS))
        url = f"unix://{socket_path(home)}"
        house = people(url, [*OTHERS, *(name for group in groups for name in group.names)], console)
        return asyncio.run(_run(list(_facts(times, groups, chance)), groups, served, url, house, console))


def _groups(ids: int, chance: Random) -> Iterator[LinkedIds]:
    """Ids in alternating chains and rings of up to `LONGEST`."""
    made, number = 0, 0
    while made < ids:
        size = min(chance.choice((2, 5, 33, 100, LONGEST)), max(2, ids - made))
        names = [f"restricted-{number}-{at}" for at in chance.sample(range(size), size)]
        yield LinkedIds(names, number % 3 == 2, number % 3 == 0)
        made, number = made + size, number + 1


async def _run(
    facts: Sequence[Fact], groups: Sequence[LinkedIds], served: Served, url: str, house: House, console: Console
) -> dict[str, Any]:
    store = Store(url, TELLERS)
    ledger = RedisLedger(store, house)
    # Before the server ends a connection that nobody uses.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    async with aiohttp.ClientSession(served.address, connector=connector, headers=served.headers) as session:
        for group in track(groups, "ids are linked", console=console, transient=True):
            await _link(group, house, ledger, session)
        asked, told = await _under_load(facts, session, console)
        names = [name for group in groups for name in group.names]
        after, otherwise = [await _contacted(some, session, console) for some in (names, OTHERS)]
    await store.close()
    found = {"contacted_after": after, "contacted_otherwise": f"{otherwise} of {len(OTHERS)}"}
    return _result(told, asked, groups) | found


async def _link(group: LinkedIds, house: House, ledger: RedisLedger, session: aiohttp.ClientSession) -> None:
    """Link the ids of a group over HTTP, or leave marks as a caller that dies half way."""
    if group.taken_in:
        for place, (name, to) in enumerate(pairwise(group.names)):
            link = {"event_id": f"l{place}", "type": "alias", "player_id": to, "previous_id": name}
            status, said = await _post(session, "/v1/events", link | {"occurred_at": datetime.now(UTC).isoformat()})
            if status != 200:
                raise RuntimeError(said)
        return
    ends = [*group.names[1:], group.names[0]] if group.round else group.names[1:]
    for name, to in zip(group.names, ends, strict=False):
        key = house.player_key(to)
        seal = (await ledger.seal(PlayerKeys(key))).key
        sealed = base64.b64encode(sealing.seal(seal, {"player_id": to}, sealing.NAME)).decode()
        await ledger.identities.begin_merge(house.player_key(name), key, sealed)


def _facts(times: int, groups: Sequence[LinkedIds], chance: Random) -> Iterator[Fact]:
    """Restricting facts of any linked id, with clocks up to ten minutes ahead and up to three years old."""
    for number in range(times):
        group = groups[number % len(groups)]
        ahead = timedelta(seconds=chance.uniform(-600, 600))
        when = datetime.now(UTC) + (ahead if number % 2 else -timedelta(days=chance.uniform(0, 3 * 365)))
        common = {"player_id": chance.choice(group.names), "occurred_at": when.isoformat()}
        if number % 4:
            yield Fact("/v1/events", common | {"event_id": f"f{number}"} | chance.choice(_FACTS))
        else:
            kind = chance.choice(("unsubscribed", "complained"))
            yield Fact("/v1/outcomes", common | {"outcome_id": f"f{number}", "type": kind, "channel": "sms"})


async def _under_load(
    facts: Sequence[Fact], session: aiohttp.ClientSession, console: Console
) -> tuple[list[FactResult], list[FactResult]]:
    """Send facts while callers ask for decisions; results of both."""
    asked, told = list[FactResult](), list[FactResult]()
    waiting = iter(track(facts, "facts are told", console=console, transient=True))
    stop = asyncio.Event()

    async def ask(caller: int) -> None:
        while not stop.is_set():
            player = OTHERS[(caller * 7 + len(asked)) % len(OTHERS)]
            asked.append(await _timed(session, Fact("/v1/decisions", {"player_id": player})))

    async def tell() -> None:
        for fact in waiting:
            told.append(await _timed(session, fact))

    crowd = [asyncio.create_task(ask(number)) for number in range(CALLERS)]
    await asyncio.gather(*(tell() for _ in range(TELLERS)))
    stop.set()
    await asyncio.gather(*crowd)
    return asked, told


async def _contacted(names: Sequence[str], session: aiohttp.ClientSession, console: Console) -> int:
    """Number of ids that would be contacted."""
    contacted = 0
    for name in track(names, "every id is asked about", console=console, transient=True):
        status, said = await _post(
            session, "/v1/decisions", {"player_id": name, "dry_run": True, "deadline_ms": 10_000}
        )
        if status != 200:
            raise RuntimeError(said)
        contacted += said["action"] != "NO_CONTACT"
    return contacted


async def _timed(session: aiohttp.ClientSession, fact: Fact) -> FactResult:
    begun = time.perf_counter()
    status, _ = await _post(session, fact.route, fact.body)
    return FactResult(status, time.perf_counter() - begun)


async def _post(session: aiohttp.ClientSession, route: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with session.post(route, json=body) as answer:
        return answer.status, await answer.json()


def _result(told: Sequence[FactResult], asked: Sequence[FactResult], groups: Sequence[LinkedIds]) -> dict[str, Any]:
    statuses = Counter(one.status for one in told)
    return {
        "facts": len(told),
        "acknowledged": statuses[200],
        "refused": {str(status): count for status, count in statuses.items() if status != 200},
        "seconds": _spread([one.seconds for one in told]),
        "ids": sum(len(group.names) for group in groups),
        "chains": sum(not group.round for group in groups),
        "rings": sum(group.round for group in groups),
        "longest": max(len(group.names) for group in groups),
        "workers": WORKERS,
        "decisions_beside": len(asked),
        "decisions_seconds": _spread([one.seconds for one in asked]),
        "decisions_answered": {str(key): count for key, count in Counter(one.status for one in asked).items()},
    }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    found = np.array(seconds)
    return {
        name: round(float(np.quantile(found, share)), 4) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1))
    }
