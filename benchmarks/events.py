"""Bench of events in: CPU per event by process from file and HTTP to features and lake, beside another commit.

    houses of this build and another commit, empty but for what the bench tells --> turns, first to last and back
    file   `croupier import events` into the running house, until features and lake have all of it
    http   batches of 500 by some callers, until features have all of it
    visible (this build, at the end)  single events at a steady rate; from the answer to the moment features show it

CPU is what the processes spent (schedstat), the importer's less what an import of one event spends, the others' less
what they spend idle. Only ratios carry over to another machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
import redis
from rich.console import Console
from rich.progress import track

from benchmarks import builds, cpu, open_loop, rounds, sides
from benchmarks.builds import Build
from benchmarks.callers import ask, request
from benchmarks.decide import CATALOGUE, IDLE_SECONDS
from benchmarks.open_loop import OpenAnswer, OpenRequest, ScheduledRequest
from benchmarks.sides import Served
from features.image import APPLIED
from features.store.connection import connect
from features.store.deployment import open_house, order, place
from features.store.server import socket_path
from pipelines.worker.consumer import serving_plan
from pipelines.worker.process import wait_until_applied

_BATCH: Final = 500
_CALLERS: Final = 4
_DAYS: Final = 30
_SAMPLE: Final = 10
"""Every so many of the single events are watched until features show them."""
_POLL_SECONDS: Final = 0.002
_SEED: Final = 23


class EventsPlan(NamedTuple):
    """Options of the bench.

    Attributes:
        players: Players that events are about.
        rounds: Counted rounds, after one that is not.
        events: Events of a turn, by file and by HTTP each.
        rate: Single events a second while visibility is measured.
        seconds: How long that lasts.
        against: A commit to measure beside this build.
    """

    players: int
    rounds: int
    events: int
    rate: float
    seconds: float
    against: str | None


class _House(NamedTuple):
    """A house that takes events: its build, home, client, and CPU of its processes while idle, us a second."""

    name: str
    build: Build
    home: Path
    served: Served
    client: redis.Redis
    idle: Mapping[str, float]
    importing_us: float

    @property
    def processes(self) -> dict[str, int]:
        return {"worker": self.served.worker, "store": self.served.store, "api": self.served.api}


class _Turn(NamedTuple):
    """CPU per event by process, microseconds, and events a second."""

    us: Mapping[str, float]
    per_second: float


def measure(plan: EventsPlan, console: Console) -> dict[str, Any]:
    """Start the houses, let them take turns, then watch single events become visible; shows progress.

    Raises:
        BuildError: The commit cannot be built.
        TimeoutError: A house does not start.
    """
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="croupier-bench-")))
        compared = [builds.here()] + ([] if plan.against is None else [builds.of(plan.against, folder)])
        houses = [_house(build, folder / f"home{at}", stack, console) for at, build in enumerate(compared)]
        turns: dict[str, list[dict[str, _Turn]]] = {house.name: [] for house in houses}
        for number in track(range(plan.rounds + 1), "rounds", console=console, transient=True):
            told = list(_events(plan, number))
            file = _file(folder / "events.jsonl", told)
            for house in rounds.order(houses, number):
                turns[house.name].append({"file": _by_file(house, file, told), "http": _by_http(house, told)})
        counted = {name: taken[1:] for name, taken in turns.items()}
        visible = asyncio.run(_visible(houses[0], plan))
    return _result(plan, load, counted, visible)


def _house(build: Build, home: Path, stack: ExitStack, console: Console) -> _House:
    home.mkdir()
    with console.status(f"{build.name} starts"):
        served = stack.enter_context(sides.croupier(build, home, sides.free_port(), CATALOGUE))
    client = connect(f"unix://{socket_path(home)}")
    stack.callback(client.close)
    name = "this_build" if build == builds.here() else "commit"
    house = _House(name, build, home, served, client, {}, 0.0)
    alone = _file(home / "one.jsonl", [_event(datetime.now(UTC) - timedelta(days=1), "one", "nobody", 0.9, 100)])
    with console.status(f"{build.name} imports one event"):
        _imported(house, alone)
        spent, _ = _imported(house, alone)
    before = _read(house)
    time.sleep(IDLE_SECONDS)
    return house._replace(idle=_spent(house, before, 0.0, IDLE_SECONDS), importing_us=spent)


def _events(plan: EventsPlan, number: int) -> Iterator[dict[str, Any]]:
    """Events of the last days, in order of time: play, money and visits of many players."""
    random = np.random.default_rng([_SEED, number])
    now = datetime.now(UTC).replace(microsecond=0)
    players = random.integers(0, plan.players, 2 * plan.events)
    kinds, amounts = random.random(2 * plan.events), random.integers(50, 5_000, 2 * plan.events)
    for at in range(2 * plan.events):
        moment = now - timedelta(days=_DAYS) * (1 - at / (2 * plan.events)) - timedelta(seconds=1)
        yield _event(moment, f"b{number}-{at}", f"player-{players[at]}", kinds[at], int(amounts[at]))


def _event(at: datetime, name: str, player: str, kind: float, amount: int) -> dict[str, Any]:
    about = {"event_id": name, "player_id": player, "occurred_at": at.isoformat()}
    product = "sports" if amount % 2 else "casino"
    if kind < 0.55:
        return about | {"type": "bet", "amount_minor": amount, "product": product}
    if kind < 0.80:
        return about | {"type": "win", "amount_minor": amount, "product": product}
    if kind < 0.88:
        return about | {"type": "deposit", "status": "approved", "method": "card", "amount_minor": 5 * amount}
    return about | {"type": "login" if kind < 0.94 else "session_started"}


def _file(path: Path, told: Sequence[Mapping[str, Any]]) -> Path:
    """The first half of the events as a file; all of them if it is one."""
    path.write_text("".join(json.dumps(one) + "\n" for one in told[: (len(told) + 1) // 2]), "utf8")
    return path


def _imported(house: _House, file: Path) -> tuple[float, float]:
    """Import a file; CPU of the importer in microseconds, and its seconds by its own account."""
    command = [house.build.croupier, "import", "events", str(file), "--json"]
    own, before = {**os.environ, "CROUPIER_HOME": str(house.home)}, _children_us()
    done = subprocess.run(command, env=own, cwd=house.build.folder, stdout=subprocess.PIPE, check=True)
    return _children_us() - before, float(json.loads(done.stdout)["seconds"])


def _children_us() -> float:
    """CPU of children that have ended, microseconds."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (spent.ru_utime + spent.ru_stime) * 1e6


def _by_file(house: _House, file: Path, told: Sequence[Mapping[str, Any]]) -> _Turn:
    count, before, begun = (len(told) + 1) // 2, _read(house), time.monotonic()
    importer, seconds = _imported(house, file)
    spent = _spent(house, before, time.monotonic() - begun, 1.0)
    us = {"importer": importer - house.importing_us, **spent}
    return _Turn({name: one / count for name, one in us.items()}, count / seconds)


def _by_http(house: _House, told: Sequence[Mapping[str, Any]]) -> _Turn:
    """Tell the second half of the events in batches, and wait until features have them."""
    rest = told[(len(told) + 1) // 2 :]
    bodies = [json.dumps({"events": rest[at : at + _BATCH]}).encode() for at in range(0, len(rest), _BATCH)]
    asked = [request("/v1/events/batch", body, house.served.key) for body in bodies]
    before, begun = _read(house), time.monotonic()
    answers = ask(int(house.served.address.rpartition(":")[2]), asked, _CALLERS)
    places = [place(one["position"]) for answer in answers for one in json.loads(answer.body)["answers"]]
    last: dict[int, str] = {}
    for partition, stream_id in places:
        last[partition] = max(last.get(partition, "0-0"), stream_id, key=order)
    wait_until_applied(house.client, last)
    seconds = time.monotonic() - begun
    spent = _spent(house, before, seconds, 1.0)
    return _Turn({name: one / len(rest) for name, one in spent.items()}, len(rest) / seconds)


def _read(house: _House) -> dict[str, cpu.Reading]:
    return {name: cpu.read([process]) for name, process in house.processes.items()}


def _spent(house: _House, before: Mapping[str, cpu.Reading], idle_seconds: float, over: float) -> dict[str, float]:
    """CPU of a house's processes since a reading, microseconds, less what they spend idle, over a number."""
    now = _read(house)
    spent = {name: cpu.microseconds(before[name], now[name]) for name in now}
    return {name: (one - house.idle.get(name, 0.0) * idle_seconds) / over for name, one in spent.items()}


# --- From the answer to the moment features show it


class _Watch:
    """Looks until features show what was answered; `seconds` are the times that took."""

    def __init__(self, house: _House) -> None:
        plan = serving_plan(house.client)
        assert plan is not None  # noqa: S101 - `croupier up` has published it
        self._key, self._client = plan.key, house.client
        self._player = open_house(house.client).player_key
        self._waiting: list[tuple[bytes, tuple[int, int], float]] = []
        self._number = 0
        self.seconds: list[float] = []

    def heard(self, answer: OpenAnswer) -> None:
        """Watch for an event, if it is one of the sample."""
        if answer.status == 200 and answer.kind.startswith("watched "):
            key = self._key(self._player(answer.kind.removeprefix("watched ")))
            self._waiting.append((key, order(place(answer.body["position"])[1]), time.perf_counter()))

    def _note(self, applied: Sequence[tuple[int, int]], now: float) -> None:
        asked, rest = self._waiting[: len(applied)], self._waiting[len(applied) :]
        self.seconds += [now - one[2] for one, last in zip(asked, applied, strict=True) if last >= one[1]]
        self._waiting = [one for one, last in zip(asked, applied, strict=True) if last < one[1]] + rest

    async def look(self, ended: asyncio.Event) -> None:
        """Look until all is seen once nothing more comes."""
        while self._waiting or not ended.is_set():
            pipe = self._client.pipeline(transaction=False)
            for key, _, _ in self._waiting:
                pipe.hget(cast("str", key), cast("str", APPLIED))
            applied, now = pipe.execute(), time.perf_counter()
            self._note([(0, 0) if told is None else order(told.decode()) for told in applied], now)
            await asyncio.sleep(_POLL_SECONDS)


def _same(asked: OpenRequest) -> OpenRequest:
    return asked


async def _visible(house: _House, plan: EventsPlan) -> dict[str, Any]:
    """Tell single events at a steady rate; how long their answers take, and then features."""
    random, watch, ended = np.random.default_rng(_SEED), _Watch(house), asyncio.Event()
    schedule = []
    for at, moment in enumerate(open_loop.poisson(plan.rate, plan.seconds, _SEED)):
        watched = at % _SAMPLE == 0
        player = f"watched-{at}" if watched else f"player-{random.integers(plan.players)}"
        body = _event(datetime.now(UTC), f"v-{at}", player, float(random.random()), int(random.integers(50, 5_000)))
        asked = OpenRequest(f"watched {player}" if watched else "", "/v1/events", body)
        schedule.append(ScheduledRequest(moment, partial(_same, asked)))
    looking = asyncio.create_task(watch.look(ended))
    answers = await open_loop.send(house.served.address, house.served.headers, schedule, watch.heard)
    ended.set()
    await looking
    shown = np.percentile(watch.seconds or [np.nan], [50, 99]) * 1_000
    p50, p99 = open_loop.percentiles([one for one in answers if one.status == 200], 50, 99)
    return {
        "offered_per_second": plan.rate,
        "told": len(answers),
        "refused": sum(one.status != 200 for one in answers),
        "watched": len(watch.seconds),
        "p50": round(float(shown[0]), 1),
        "p99": round(float(shown[1]), 1),
        "answer_ms": {"p50": p50, "p99": p99},
        "sent_late_ms_p99": round(float(np.percentile([one.late for one in answers], 99)) * 1_000, 1),
    }


# --- The result


def _result(
    plan: EventsPlan, load: float, turns: Mapping[str, Sequence[Mapping[str, _Turn]]], visible: Mapping[str, Any]
) -> dict[str, Any]:
    own = turns["this_build"]
    result: dict[str, Any] = {
        "events": plan.events * plan.rounds,
        "events_per_second": round(statistics.median(one["file"].per_second for one in own)),
        "events_per_second_by_http": round(statistics.median(one["http"].per_second for one in own)),
        "cpu_us_per_event": {name: _medians(taken) for name, taken in turns.items()},
        "visible_ms": visible,
        "rounds": plan.rounds,
        "players": plan.players,
        "load_before": round(load, 2),
    }
    if "commit" in turns:
        result["ratio_to_commit"] = {way: _ratios(own, turns["commit"], way) for way in ("file", "http")}
    return result


def _medians(taken: Sequence[Mapping[str, _Turn]]) -> dict[str, dict[str, float]]:
    found = {}
    for way in taken[0]:
        us = [turn[way].us for turn in taken]
        found[way] = {name: round(statistics.median(one[name] for one in us), 1) for name in us[0]}
        found[way]["all"] = round(statistics.median(sum(one.values()) for one in us), 1)
    return found


def _ratios(
    own: Sequence[Mapping[str, _Turn]], other: Sequence[Mapping[str, _Turn]], way: str
) -> dict[str, dict[str, float | None]]:
    """Paired ratios of CPU per event, by process and of all together."""
    found = {}
    for name in (*own[0][way].us, "all"):
        pairs = [[_of(turn[way], name) for turn in side] for side in (own, other)]
        ratio = rounds.ratio(*pairs)
        found[name] = {key: None if one is None else round(one, 3) for key, one in ratio._asdict().items()}
    return found


def _of(turn: _Turn, name: str) -> float:
    return sum(turn.us.values()) if name == "all" else turn.us[name]
