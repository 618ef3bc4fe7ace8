"""Bench of classes: what one class of requests leaves to another, on one process.

    half of what it can do, decisions alone       share served, p99
    the same beside batches of 500, one after the other
    four times what it can do, of the mix, with exclusions and confirms among it

Latency counts from the moment at which a request was due.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
from rich.console import Console

from benchmarks import builds, open_loop, sides
from benchmarks.decide import CATALOGUE
from benchmarks.load import Crowd, capacity
from benchmarks.open_loop import OpenAnswer, OpenRequest, ScheduledRequest
from features.store.connection import connect
from features.store.server import socket_path

_BATCH: Final = 500
_BESIDE: Final = 10.0
"""Exclusions, and confirms, a second among the overload."""
_SEED: Final = 41


class ClassesPlan(NamedTuple):
    """Options of the bench: players of the home, seconds of each part."""

    players: int
    seconds: float


def measure(plan: ClassesPlan, console: Console) -> dict[str, Any]:
    """Furnish a home, start it, and measure each part; shows progress.

    Raises:
        TimeoutError: The house does not start.
    """
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="croupier-bench-") as name:
        home = Path(name) / "home"
        builds.here().furnish(home, plan.players, CATALOGUE)
        with (
            sides.croupier(builds.here(), home, sides.free_port(), CATALOGUE) as served,
            connect(f"unix://{socket_path(home)}") as client,
        ):
            crowd = Crowd(served, client, plan.players, 0)
            with console.status("capacity"):
                most = capacity(crowd, plan.seconds)
            with console.status("decisions alone"):
                alone = asyncio.run(_decisions(crowd, most / 2, plan.seconds, 1))
            with console.status("decisions beside batches of 500"):
                beside, batches = asyncio.run(_beside_batches(crowd, most / 2, plan.seconds))
            with console.status("exclusions and confirms at four times"):
                over = asyncio.run(_overload(crowd, 4 * most, plan.seconds))
    return {
        "capacity_per_second": round(most, 1),
        "load_before": round(load, 2),
        "decisions_alone": _told(alone),
        "decisions_beside_batches": _told(beside),
        "batches": batches,
        "at_four_times": {kind: _told([one for one in over if one.kind == kind]) for kind in _KINDS},
    }


_KINDS: Final = ("exclusion", "confirm", "decision", "event", "outcome", "batch")


async def _decisions(crowd: Crowd, rate: float, seconds: float, seed: int) -> list[OpenAnswer]:
    make: Callable[[], OpenRequest] = lambda: OpenRequest("decision", "/v1/decisions", crowd.decision())  # noqa: E731
    schedule = [ScheduledRequest(at, make) for at in open_loop.poisson(rate, seconds, _SEED + seed)]
    return await open_loop.send(crowd.served.address, crowd.served.headers, schedule, crowd.heard)


async def _beside_batches(crowd: Crowd, rate: float, seconds: float) -> tuple[list[OpenAnswer], dict[str, Any]]:
    """Decisions, and what became of the items of batches that were sent meanwhile, each once the last was answered."""
    statuses, stopping = Counter[str](), asyncio.Event()
    sending = asyncio.create_task(_batches(crowd, statuses, stopping))
    answers = await _decisions(crowd, rate, seconds, 2)
    stopping.set()
    await sending
    items = sum(statuses.values())
    served = statuses["200"] / items if items else 0.0
    return answers, {"items": items, "served": round(served, 4), "statuses": dict(statuses)}


async def _batches(crowd: Crowd, statuses: Counter[str], stopping: asyncio.Event) -> None:
    async with aiohttp.ClientSession(crowd.served.address, headers=crowd.served.headers) as session:
        while not stopping.is_set():
            body = {"requests": [crowd.decision() for _ in range(_BATCH)]}
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.post("/v1/decisions/batch", json=body) as answered:
                    told = await answered.json()
                    items = told.get("answers", [told] * _BATCH)
                    statuses.update(str(item.get("status", 200)) for item in items)


async def _overload(crowd: Crowd, rate: float, seconds: float) -> list[OpenAnswer]:
    """The mix at a rate, with exclusions and confirms of their own among it."""
    schedule = [ScheduledRequest(at, crowd.request) for at in open_loop.poisson(rate, seconds, _SEED + 3)]
    schedule += [ScheduledRequest(at, crowd.exclusion) for at in open_loop.poisson(_BESIDE, seconds, _SEED + 4)]
    schedule += [ScheduledRequest(at, crowd.confirm) for at in open_loop.poisson(_BESIDE, seconds, _SEED + 5)]
    schedule.sort(key=lambda one: one.at)
    return await open_loop.send(crowd.served.address, crowd.served.headers, schedule, crowd.heard)


def _told(answers: Sequence[OpenAnswer]) -> dict[str, Any]:
    """Requests, the share that was served, and latency of these; a confirm that is refused for good is served."""
    served = [one for one in answers if one.status == 200 or (one.kind == "confirm" and one.status == 409)]
    return {
        "requests": len(answers),
        "served": round(len(served) / len(answers), 4) if answers else None,
        "statuses": {str(status): count for status, count in Counter(one.status for one in answers).items()},
        "codes": dict(
            Counter(one.body["code"] for one in answers if isinstance(one.body, dict) and "code" in one.body)
        ),
        "p50_p99_ms": open_loop.percentiles(served, 50, 99),
    }
