"""Bench of load: one house under rates fixed ahead, as shares of what it can do, beside another commit.

    furnish a home --copy--> `croupier up --workers 1` of this build, and of another commit
    capacity   callers who wait for each answer, with the same mix
    rates      an open loop of each share of it, the builds by turns: what was recorded, shed, failed, and how late

Latency counts from the moment at which a request was due, whatever became of those before it. The mix is 70 %
decisions, 15 % events, 10 % confirms and outcomes of what was decided before, 5 % batches.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import redis
from rich.console import Console
from rich.table import Table

from benchmarks import builds, open_loop, population, rounds, sides
from benchmarks.callers import ask, request
from benchmarks.decide import CATALOGUE
from benchmarks.open_loop import OpenAnswer, OpenRequest, ScheduledRequest
from benchmarks.sides import Served
from features.moments import moment
from features.store.connection import connect
from features.store.deployment import open_house, real_now_us
from features.store.server import socket_path

_BATCH: Final = 10
"""Players of a batch."""
_SHED: Final = frozenset({429, 503})
_BOUNDS_MS: Final = (30, 100)
_REST_SECONDS: Final = 1.0
_MARGIN_US: Final = 100_000
_SEED: Final = 29


class LoadPlan(NamedTuple):
    """Options of the bench.

    Attributes:
        players: Players of the home.
        seconds: How long each rate lasts, and the measuring of the capacity.
        shares: Rates, as shares of the capacity of this build.
        against: A commit to measure beside this build.
    """

    players: int
    seconds: float
    shares: Sequence[float]
    against: str | None


class Crowd:
    """Callers of a house: makes requests of the mix, and keeps decisions that may be confirmed."""

    def __init__(self, served: Served, client: redis.Redis, players: int, seed: int) -> None:
        self.served, self._players, self._numbers = served, players, 0
        self._client, self._house = client, open_house(client)
        self._random = np.random.default_rng([_SEED, seed])
        self._waiting: deque[str] = deque(maxlen=10_000)
        self._confirmed: deque[str] = deque(maxlen=10_000)
        self._ahead_us = real_now_us(client) - time.time_ns() // 1_000
        """By how much the store's clock is ahead of this machine's."""

    def request(self) -> OpenRequest:
        """The next request of the mix."""
        share = self._random.random()
        if share < 0.70:
            return OpenRequest("decision", "/v1/decisions", self.decision())
        if share < 0.85:
            return self._event()
        if share < 0.95:
            return self._follow()
        return OpenRequest("batch", "/v1/decisions/batch", {"requests": [self.decision() for _ in range(_BATCH)]})

    def heard(self, answer: OpenAnswer) -> None:
        """Note what may be confirmed, and what was."""
        if answer.status != 200:
            return
        if answer.kind == "decision" and answer.body["action"] != "NO_CONTACT":
            self._waiting.append(answer.body["decision_id"])
        elif answer.kind == "confirm":
            self._confirmed.append(answer.body["decision_id"])

    def decision(self) -> dict[str, Any]:
        """What a decision is asked with."""
        return {"player_id": self._player(), "request_id": self._name("r")}

    def _event(self) -> OpenRequest:
        amount = int(self._random.integers(50, 5_000))
        about = {"event_id": self._name("e"), "player_id": self._player(), "occurred_at": self._now()}
        return OpenRequest("event", "/v1/events", about | {"type": "bet", "amount_minor": amount, "product": "casino"})

    def exclusion(self) -> OpenRequest:
        """Some player excludes themselves."""
        about = {"event_id": self._name("x"), "player_id": self._player(), "occurred_at": self._now()}
        return OpenRequest("exclusion", "/v1/events", about | {"type": "self_excluded"})

    def confirm(self) -> OpenRequest:
        """A confirm of a contact that was decided before; an event where none is left."""
        if not self._waiting:
            return self._event()
        return OpenRequest("confirm", f"/v1/decisions/{self._waiting.popleft()}/confirm", {})

    def _follow(self) -> OpenRequest:
        """A confirm or an outcome by turns; an event while nothing was decided yet."""
        if self._confirmed and self._numbers % 2:
            about = {"outcome_id": self._name("o"), "decision_id": self._confirmed.popleft(), "type": "sent"}
            return OpenRequest("outcome", "/v1/outcomes", about | {"occurred_at": self._now()})
        return self.confirm()

    def _player(self) -> str:
        return population.name(int(self._random.integers(self._players)))

    def _name(self, word: str) -> str:
        self._numbers += 1
        return f"{word}{os.getpid()}-{self._numbers}"

    def _now(self) -> str:
        return moment(self._house.now_us(time.time_ns() // 1_000 + self._ahead_us - _MARGIN_US)).isoformat()


class _Rate(NamedTuple):
    """What became of a rate."""

    share: float
    seconds: float
    answers: Sequence[OpenAnswer]


def measure(plan: LoadPlan, console: Console) -> dict[str, Any]:
    """Furnish a home, measure the capacity, and offer each rate to each build; shows progress.

    Raises:
        BuildError: The commit cannot be built.
        TimeoutError: A house does not start.
    """
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="croupier-bench-")))
        crowds = _crowds(plan, folder, stack, console)
        with console.status("capacity"):
            most = {name: capacity(crowd, plan.seconds) for name, crowd in crowds.items()}
        offered, found = most["this_build"], dict[str, list[_Rate]]((name, []) for name in crowds)
        for number, share in enumerate(plan.shares):
            for name in rounds.order(list(crowds), number):
                with console.status(f"{share:g} of capacity: {name}"):
                    found[name].append(_offer(crowds[name], share, offered * share, plan.seconds, number))
    result = {"capacity_per_second": round(offered, 1), **_told(found["this_build"]), "load_before": round(load, 2)}
    if "commit" in found:
        result["commit"] = {"capacity_per_second": round(most["commit"], 1), **_told(found["commit"])}
    return result | {"players": plan.players, "seconds": plan.seconds}


def _crowds(plan: LoadPlan, folder: Path, stack: ExitStack, console: Console) -> dict[str, Crowd]:
    compared = [builds.here()] + ([] if plan.against is None else [builds.of(plan.against, folder)])
    compared[-1].furnish(folder / "home0", plan.players, CATALOGUE)
    for number in range(1, len(compared)):
        shutil.copytree(folder / "home0", folder / f"home{number}")
    crowds = {}
    for number, build in enumerate(compared):
        home = folder / f"home{number}"
        with console.status(f"{build.name} starts"):
            served = stack.enter_context(sides.croupier(build, home, sides.free_port(), CATALOGUE))
        client = connect(f"unix://{socket_path(home)}")
        stack.callback(client.close)
        crowds["commit" if number else "this_build"] = Crowd(served, client, plan.players, number)
    return crowds


def capacity(crowd: Crowd, seconds: float) -> float:
    """Requests of the mix that are answered in a second while callers wait for each; the better of two spans."""
    count, best, port = 50, 0.0, int(crowd.served.address.rpartition(":")[2])
    for _ in range(2):
        begun = until = time.monotonic()
        answered = 0
        while until - begun < seconds / 2:
            asked = [crowd.request() for _ in range(count)]
            answers = ask(port, [request(one.path, json.dumps(one.body).encode(), crowd.served.key) for one in asked])
            # Callers take requests in order, and answers come as they come: only what names itself is noted.
            for told in (json.loads(answer.body) for answer in answers if answer.status == 200):
                if "action" in told:
                    crowd.heard(OpenAnswer("decision", 200, 0.0, 0.0, told))
            answered, until = answered + len(answers), time.monotonic()
        best = max(best, answered / (until - begun))
    return best


def _offer(crowd: Crowd, share: float, rate: float, seconds: float, number: int) -> _Rate:
    time.sleep(_REST_SECONDS)
    schedule = [ScheduledRequest(at, crowd.request) for at in open_loop.poisson(rate, seconds, _SEED + number)]
    served = crowd.served
    return _Rate(share, seconds, asyncio.run(open_loop.send(served.address, served.headers, schedule, crowd.heard)))


# --- The result


def _told(taken: Sequence[_Rate]) -> dict[str, Any]:
    rates = [_row(one) for one in taken]
    best = max(row["recorded"] for row in rates)
    twice = next((row["recorded"] for row in rates if row["share"] == 2), None)
    return {
        "rates": rates,
        "goodput_share_at_2x": None if twice is None or not best else round(twice / best, 3),
        "p99_passes": {f"{bound}_ms": _passes(rates, bound) for bound in _BOUNDS_MS},
    }


def _row(rate: _Rate) -> dict[str, Any]:
    """What became of a rate: requests a second by fate, latency of what was served, of decisions and of refusals."""
    served = [one for one in rate.answers if _recorded(one)]
    shed = [one for one in rate.answers if is_shed(one)]
    p50, p99, p999 = open_loop.percentiles(served, 50, 99, 99.9)
    decisions = open_loop.percentiles([one for one in served if one.kind == "decision"], 50, 99, 99.9)
    # What is served after the rate has ended took that time too.
    until = max([rate.seconds, *(one.ended for one in rate.answers)])
    per_second: Callable[[int], float] = lambda count: round(count / until, 1)  # noqa: E731 - of this rate
    return {
        "share": rate.share,
        "offered": round(len(rate.answers) / rate.seconds, 1),
        "answered_within_seconds": round(until, 1),
        "recorded": per_second(len(served)),
        "shed": per_second(len(shed)),
        "errors": per_second(len(rate.answers) - len(served) - len(shed)),
        "p50_ms": p50,
        "p99_ms": p99,
        "p999_ms": p999,
        "decision_ms": dict(zip(("p50", "p99", "p999"), decisions, strict=True)),
        "refusal_p99_ms": open_loop.percentiles(shed, 99)[0],
        "unrecorded": sum(map(_is_silent, rate.answers)),
        "statuses": {str(status): count for status, count in Counter(one.status for one in rate.answers).items()},
        "sent_late_p99_ms": round(float(np.percentile([one.late for one in rate.answers] or [0.0], 99)) * 1_000, 1),
    }


def is_shed(answer: OpenAnswer) -> bool:
    """Whether a request was refused openly, or an item of a batch."""
    if answer.status == 200 and answer.kind == "batch":
        return any(item.get("status") in _SHED for item in answer.body["answers"])
    return answer.status in _SHED


def _is_silent(answer: OpenAnswer) -> bool:
    """Whether a decision was answered and not recorded: nobody may rest on it."""
    if answer.status != 200 or answer.kind not in {"decision", "batch"}:
        return False
    return any(item.get("recorded") is False for item in answer.body.get("answers", [answer.body]))


def _recorded(answer: OpenAnswer) -> bool:
    """Whether a request was done: of a batch all items, of a confirm that was refused for good the refusal."""
    if answer.status == 409 and answer.kind == "confirm":
        return True  # revoked or expired meanwhile is the right answer
    if answer.status != 200:
        return False
    if answer.kind == "batch":
        return all(item.get("recorded", False) for item in answer.body["answers"])
    return answer.kind != "decision" or bool(answer.body["recorded"])


def _passes(rates: Sequence[Mapping[str, Any]], bound_ms: float) -> float | None:
    """The rate at which decisions' p99 passes a bound, between two rates in a straight line; None if at none."""
    points = [(row["offered"], row["decision_ms"]["p99"]) for row in rates if row["decision_ms"]["p99"] is not None]
    if points and points[0][1] >= bound_ms:
        return float(points[0][0])
    for (rate, late), (next_rate, next_late) in pairwise(points):
        if late < bound_ms <= next_late:
            passed: float = rate + (next_rate - rate) * (bound_ms - late) / (next_late - late)
            return round(passed, 1)
    return None


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print both builds' rates in one table."""
    table = Table("of capacity", title="Requests a second, and latency from the moment they were due")
    sides_of = [("this build", found)] + ([("commit", found["commit"])] if "commit" in found else [])
    for heading in ("build", "offered", "recorded", "shed", "errors", "p50 ms", "p99 ms", "p99.9 ms", "refusals' p99"):
        table.add_column(heading, justify="right")
    for at, row in enumerate(found["rates"]):
        for name, side in sides_of:
            one = side["rates"][at]
            shown = [one[key] for key in ("offered", "recorded", "shed", "errors", "p50_ms", "p99_ms", "p999_ms")]
            table.add_row(f"{row['share']:g}", name, *map(str, shown), str(one["refusal_p99_ms"]))
    console.print(table)
    for name, side in sides_of:
        console.print(
            f"{name}: {side['capacity_per_second']} requests a second with callers who wait; goodput at twice the "
            f"capacity {side['goodput_share_at_2x']} of the best; decisions' p99 passes {side['p99_passes']}",
            highlight=False,
            soft_wrap=True,
        )
