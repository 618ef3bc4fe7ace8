"""Bench of restarts: what callers notice while serving processes are replaced, killed and frozen under load.

    `croupier up --workers 2` <--open loop: decisions, events, confirms-- callers
              `<-- SIGHUP to `croupier serve`, SIGKILL and SIGSTOP to one of its processes

Afterwards every decision that was answered as recorded must be in the store.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import redis
from rich.console import Console

from benchmarks import builds, cpu, open_loop, sides
from benchmarks.decide import CATALOGUE
from benchmarks.load import Crowd, is_shed
from benchmarks.open_loop import OpenAnswer, ScheduledRequest
from features.store.connection import connect
from features.store.keys import decision_key
from features.store.server import socket_path

_WORKERS: Final = 2
_SEED: Final = 31
_CHILD: Final = "spawn_main"
"""What stands in the command of a process that the supervisor started."""


class RestartsPlan(NamedTuple):
    """Options of the bench: players of the home, requests a second, seconds of load around each fault."""

    players: int
    rate: float
    seconds: float


class _Fault(NamedTuple):
    """What is done to the serving processes after a third of the load."""

    name: str
    do: Callable[[int], None]


def measure(plan: RestartsPlan, console: Console) -> dict[str, Any]:
    """Furnish a home, start it, and do each fault under load; shows progress.

    Raises:
        TimeoutError: The house does not start.
    """
    with tempfile.TemporaryDirectory(prefix="croupier-bench-") as name:
        home = Path(name) / "home"
        builds.here().furnish(home, plan.players, CATALOGUE)
        with (
            sides.croupier(builds.here(), home, sides.free_port(), CATALOGUE, _WORKERS) as served,
            connect(f"unix://{socket_path(home)}") as client,
        ):
            found = [
                _under_load(fault, plan, Crowd(served, client, plan.players, at), client, console)
                for at, fault in enumerate(_FAULTS)
            ]
    return {"rate": plan.rate, "seconds": plan.seconds, "faults": found}


def _serving(root: int) -> list[int]:
    """The processes that serve."""
    return [one for one in cpu.tree(root) if _CHILD in " ".join(cpu.command(one))]


def _renew(root: int) -> None:
    os.kill(root, signal.SIGHUP)


def _kill_one(root: int) -> None:
    os.kill(_serving(root)[0], signal.SIGKILL)


def _freeze_one(root: int) -> None:
    os.kill(_serving(root)[0], signal.SIGSTOP)


_FAULTS: Final = (
    _Fault("none", lambda _: None),
    _Fault("rolling restart", _renew),
    _Fault("one killed", _kill_one),
    _Fault("one frozen", _freeze_one),
)


def _under_load(
    fault: _Fault, plan: RestartsPlan, crowd: Crowd, client: redis.Redis, console: Console
) -> dict[str, Any]:
    root, heard = crowd.served.api, list[OpenAnswer]()
    before = _serving(root)

    def note(answer: OpenAnswer) -> None:
        crowd.heard(answer)
        heard.append(answer)

    async def run() -> None:
        schedule = [ScheduledRequest(at, crowd.request) for at in open_loop.poisson(plan.rate, plan.seconds, _SEED)]
        asyncio.get_running_loop().call_later(plan.seconds / 3, fault.do, root)
        await open_loop.send(crowd.served.address, crowd.served.headers, schedule, note)

    with console.status(fault.name):
        asyncio.run(run())
        time.sleep(1.0)
    return {
        "fault": fault.name,
        "requests": len(heard),
        "unanswered": sum(one.status == 0 for one in heard),
        "refused": sum(map(is_shed, heard)),
        "statuses": {str(status): count for status, count in Counter(one.status for one in heard).items()},
        "p50_p99_p999_ms": open_loop.percentiles([one for one in heard if one.status == 200], 50, 99, 99.9),
        "replaced": len(set(before) - set(_serving(root))),
        "serve": len(_serving(root)),
        "lost": _lost(heard, client),
    }


def _lost(heard: Sequence[OpenAnswer], client: redis.Redis) -> int:
    """Decisions that were answered as recorded and that the store does not hold."""
    told = [one.body for one in heard if one.status == 200 and one.kind in {"decision", "batch"}]
    items = [item for body in told for item in body.get("answers", [body])]
    pipe = client.pipeline(transaction=False)
    for item in items:
        if item.get("recorded"):
            pipe.exists(decision_key(item["decision_id"]))
    return sum(not there for there in cast("list[int]", pipe.execute()))
