"""Soak: one house under a steady load for long, on a clock that may run fast; what grows must be what should.

    furnish a home --`croupier up`--> all loops <--open loop of the mix at a fixed rate-- callers
                                      `--every few seconds--> memory, open files, lags, sizes
    half-way: `croupier retrain`

Flat is what the last fifth of the time has no more of than the second; the store and the lake grow by what is told and
decided, and are held against what a decision takes.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, cast

import redis
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import builds, open_loop, sides
from benchmarks.decide import CATALOGUE
from benchmarks.load import Crowd, is_shed
from benchmarks.open_loop import OpenAnswer, ScheduledRequest
from features.store.connection import connect
from features.store.deployment import PARTITIONS, real_now_us
from features.store.keys import LAKE_LEASE, LEARNER_LEASE, lease_key, log_key
from features.store.server import socket_path

_SAMPLES: Final = 240
_SEED: Final = 37
_PART_SECONDS: Final = 60.0
"""The load is made in parts, so that no schedule of an hour lies in memory."""


class SoakPlan(NamedTuple):
    """Options of the soak: players, requests a second, minutes, house seconds per real second."""

    players: int
    rate: float
    minutes: float
    clock: float


class Sample(NamedTuple):
    """What was seen at a moment.

    Attributes:
        at: Minutes since the load began.
        resident: Process -> resident memory, MiB.
        files: Process -> open files.
        store: Memory that the store uses, MiB.
        logged: Entries of the logs.
        lags: Seconds by which features, lake and learner are behind.
        lake: Size of the lake, MiB.
    """

    at: float
    resident: Mapping[str, float]
    files: Mapping[str, int]
    store: float
    logged: int
    lags: Mapping[str, float]
    lake: float


def measure(plan: SoakPlan, console: Console) -> dict[str, Any]:
    """Furnish a home, start it, load it, and look at it all the while; shows progress.

    Raises:
        TimeoutError: The house does not start.
    """
    with tempfile.TemporaryDirectory(prefix="croupier-bench-") as name:
        home = Path(name) / "home"
        builds.here().furnish(home, plan.players, CATALOGUE, plan.clock)
        with (
            sides.croupier(builds.here(), home, sides.free_port(), CATALOGUE) as served,
            connect(f"unix://{socket_path(home)}") as client,
        ):
            return _soaked(plan, home, served, client, console)


def _soaked(plan: SoakPlan, home: Path, served: sides.Served, client: redis.Redis, console: Console) -> dict[str, Any]:
    watching = _Watching(home, served, client, plan.minutes * 60 / _SAMPLES)
    answers, crowd = _Tally(), Crowd(served, client, plan.players, 0)
    before = watching.sample()
    retrained: subprocess.Popen[bytes] | None = None
    watching.start()
    until = time.monotonic() + plan.minutes * 60
    with console.status("soak") as status:
        part = 0
        while (left := until - time.monotonic()) > 1:
            _load(crowd, plan.rate, min(_PART_SECONDS, left), part, answers)
            part += 1
            status.update(f"soak: {left / 60:.0f} minutes left, {answers.requests:,} requests")
            if retrained is None and left < plan.minutes * 30:
                retrained = _retrain(home)
        time.sleep(10)
    watching.stop()
    samples = watching.samples
    return {
        **plan._asdict(),
        **answers.told(),
        "retrained": None if retrained is None else retrained.wait(300),
        "flat": _flatness(samples),
        "grown": {
            "store_bytes": round((samples[-1].store - before.store) * 2**20),
            "lake_bytes": round((samples[-1].lake - before.lake) * 2**20),
        },
        "samples": [one._asdict() for one in samples],
    }


class _Tally:
    """What became of the requests, in counts and by minute."""

    def __init__(self) -> None:
        self.requests = self.decisions = self.events = 0
        self._statuses, self._shed = Counter[str](), 0
        self._p99: list[float] = []

    def add(self, answers: Sequence[OpenAnswer]) -> None:
        self.requests += len(answers)
        self._statuses.update(str(one.status) for one in answers)
        self._shed += sum(map(is_shed, answers))
        done = [one for one in answers if one.status == 200]
        self.events += sum(one.kind == "event" for one in done)
        items = [item for one in done for item in one.body.get("answers", [one.body]) if one.kind != "event"]
        self.decisions += sum(bool(item.get("recorded")) for item in items)
        p99 = open_loop.percentiles([one for one in done if one.kind == "decision"], 99)[0]
        self._p99.append(float("nan") if p99 is None else p99)

    def told(self) -> dict[str, Any]:
        counts = {"requests": self.requests, "decisions": self.decisions, "events": self.events, "shed": self._shed}
        return {**counts, "statuses": dict(self._statuses), "decision_p99_ms_by_minute": self._p99}


def _load(crowd: Crowd, rate: float, seconds: float, part: int, tally: _Tally) -> None:
    schedule = [ScheduledRequest(at, crowd.request) for at in open_loop.poisson(rate, seconds, _SEED + part)]
    tally.add(asyncio.run(open_loop.send(crowd.served.address, crowd.served.headers, schedule, crowd.heard)))


def _retrain(home: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "CROUPIER_HOME": str(home), "CROUPIER_CATALOGUE": str(CATALOGUE)}
    with (home / "retrain.log").open("ab") as log:
        return subprocess.Popen([builds.here().croupier, "retrain"], env=environment, stdout=log, stderr=log)


class _Watching(threading.Thread):
    """Looks at the house's processes, store and lake again and again."""

    def __init__(self, home: Path, served: sides.Served, client: redis.Redis, seconds: float) -> None:
        super().__init__(daemon=True)
        self._lake, self._client, self._seconds = home / "lake", client, seconds
        self._processes = {"serve": served.api, "valkey-server": served.store, "worker": served.worker}
        self._begun, self._stopping = time.monotonic(), threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        while not self._stopping.wait(self._seconds):
            with suppress(OSError):
                self.samples.append(self.sample())

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def sample(self) -> Sample:
        memory = cast("dict[str, Any]", self._client.info("memory"))
        pipe = self._client.pipeline(transaction=False)
        for partition in range(PARTITIONS):
            pipe.xlen(log_key(partition))
        for lease in (LAKE_LEASE, LEARNER_LEASE, *map(lease_key, range(PARTITIONS))):
            pipe.hget(lease, "watermark")
        found = pipe.execute()
        now_us, marks = real_now_us(self._client), [int(one or 0) for one in found[PARTITIONS:]]
        lags = [(now_us - mark) / 1e6 if mark else 0.0 for mark in marks]
        return Sample(
            at=(time.monotonic() - self._begun) / 60,
            resident={name: _resident(process) for name, process in self._processes.items()},
            files={name: len([*Path(f"/proc/{process}/fd").iterdir()]) for name, process in self._processes.items()},
            store=int(memory["used_memory"]) / 2**20,
            logged=sum(found[:PARTITIONS]),
            lags={"lake": lags[0], "learner": lags[1], "features": max(lags[2:])},
            lake=sum(file.stat().st_size for file in self._lake.rglob("*") if file.is_file()) / 2**20,
        )


def _resident(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _flatness(samples: Sequence[Sample]) -> dict[str, float]:
    """What the last fifth of the time has over the second, as a ratio of medians."""
    fifth = max(1, len(samples) // 5)
    early, late = samples[fifth : 2 * fifth], samples[-fifth:]

    def over(of: Any) -> float:  # noqa: ANN401 - a function of a sample
        return round(float(median(map(of, late))) / max(float(median(map(of, early))), 1e-9), 3)

    names = samples[0].resident
    found = {f"memory of {name}": over(lambda one, name=name: one.resident[name]) for name in names}
    found |= {f"files of {name}": over(lambda one, name=name: one.files[name]) for name in names}
    found |= {f"lag of {name}": over(lambda one, name=name: one.lags[name]) for name in samples[0].lags}
    return found | {"entries of the log": over(lambda one: one.logged)}


def draw(found: Mapping[str, Any]) -> Figure:
    """Memory, open files, lags and sizes over time."""
    samples = found["samples"]
    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    panels: Any = figure.subplots(2, 2, sharex=True)
    minutes = [one["at"] for one in samples]
    shown = (
        (
            panels[0][0],
            "resident memory, MiB",
            {name: [s["resident"][name] for s in samples] for name in samples[0]["resident"]},
        ),
        (panels[0][1], "open files", {name: [s["files"][name] for s in samples] for name in samples[0]["files"]}),
        (panels[1][0], "lag, seconds", {name: [s["lags"][name] for s in samples] for name in samples[0]["lags"]}),
        (panels[1][1], "size, MiB", {"store": [s["store"] for s in samples], "lake": [s["lake"] for s in samples]}),
    )
    for panel, title, lines in shown:
        for at, (name, values) in enumerate(lines.items()):
            panel.plot(minutes, values, label=name, linewidth=1.4, linestyle=("-", "--", ":", "-.")[at % 4])
        panel.set_title(title, fontsize=10, loc="left")
        panel.set_ylim(0, None)
        panel.legend(frameon=False, fontsize=8)
        panel.grid(axis="y", color="0.9")
    for panel in panels[1]:
        panel.set_xlabel("minutes")
    return figure


def summary(found: Mapping[str, Any]) -> str:
    """The figures without the samples, as JSON."""
    return json.dumps({name: value for name, value in found.items() if name != "samples"}, indent=2)
