"""Bench of sends: from a decision to the provider's socket, and what a message costs beside a decision.

    `croupier up` with a webhook of this process as its connector, players with a phone
    plain   decisions that nobody sends, one after the other
    sent    the same with `deliver: true`: what a message adds is its cost
    open    decisions at a rate fixed ahead, each sent at once: when it was due, when it was answered, when it arrived

Messages are about the account, so that each decision is a contact and each contact is sent now.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from aiohttp import web
from rich.console import Console
from rich.progress import track

from benchmarks import builds, cpu, open_loop, rounds, sides
from benchmarks.callers import ask, request
from benchmarks.open_loop import OpenAnswer, OpenRequest, ScheduledRequest
from benchmarks.sides import Served
from service.settings import catalogue_path

_BATCH: Final = 500
_IDLE_SECONDS: Final = 3.0
_SEED: Final = 31
_SECRET: Final = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_WAIT_SECONDS: Final = 30.0


class SendsPlan(NamedTuple):
    """Options of the bench.

    Attributes:
        players: Players that are written to.
        rounds: Counted rounds, after one that is not.
        requests: Decisions of a turn.
        rate: Decisions a second in the open loop.
        seconds: How long that lasts.
        channel: The channel: `email` is rendered as a mail, `sms` as a short text.
    """

    players: int
    rounds: int
    requests: int
    rate: float
    seconds: float
    channel: str


class _Provider:
    """An endpoint that takes every message; `arrived` is when, by decision, `time.perf_counter()`."""

    def __init__(self) -> None:
        self.arrived: dict[str, float] = {}
        self._loop = asyncio.new_event_loop()
        self.port = 0

    async def _take(self, asked: web.Request) -> web.Response:
        now = time.perf_counter()
        self.arrived[json.loads(await asked.read())["data"]["decision_id"]] = now
        return web.Response()

    async def _open(self) -> None:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_post("/", self._take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self.port = sides.free_port()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen in a thread of its own."""
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()

    def wait_for(self, decisions: Iterable[str]) -> set[str]:
        """Wait until the messages of some decisions have arrived; those that have not."""
        deadline, missing = time.monotonic() + _WAIT_SECONDS, set(decisions)
        while missing and time.monotonic() < deadline:
            time.sleep(0.01)
            missing -= self.arrived.keys()
        return missing


def measure(plan: SendsPlan, console: Console) -> dict[str, Any]:
    """Start a house that sends, let the two kinds of turns alternate, then keep a rate; shows progress.

    Raises:
        TimeoutError: The house does not start.
    """
    load, provider = os.getloadavg()[0], _Provider()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="croupier-bench-")))
        stack.enter_context(provider.listening())
        file = folder / "connectors.json"
        file.write_text(json.dumps(_connectors(plan.channel, provider.port)), "utf8")
        own = {"CROUPIER_CONNECTORS": str(file), "SENDS_SECRET": _SECRET}
        home = folder / "home"
        home.mkdir()
        with console.status("a house starts, and gets its players"):
            house = sides.croupier(builds.here(), home, sides.free_port(), catalogue_path(), settings=own)
            served = stack.enter_context(house)
            _tell(served, plan)
        turns = _turns(served, plan, provider, console)
        with console.status(f"{plan.rate:g} decisions a second"):
            opened = asyncio.run(_open_loop(served, plan, provider))
    return _result(plan, load, turns, opened)


def _connectors(channel: str, port: int) -> dict[str, Any]:
    own = {"kind": "webhook", "url": f"http://127.0.0.1:{port}/", "secret": {"env": "SENDS_SECRET"}, "at_once": 64}
    return {
        "public_url": "https://house.example",
        "allow_private": ["127.0.0.0/8"],
        "connectors": {"own": own},
        "routes": [{"channel": channel, "connector": "own", "sender": "House <house@casino.example>"}],
    }


def _tell(served: Served, plan: SendsPlan) -> None:
    """Register the players, with an address each."""
    port, joined = int(served.address.rpartition(":")[2]), datetime.now(UTC) - timedelta(days=30)
    kind, address = ("mail", "player-{}@players.example") if plan.channel == "email" else ("phone", "+3569{:07}")
    told: list[dict[str, Any]] = []
    for number in range(plan.players):
        about = {"player_id": f"player-{number}", "occurred_at": joined.isoformat()}
        place = {"jurisdiction": "MT", "time_zone": _morning(), "birth_date": "1980-05-17"}
        held = {"kind": kind, "address": address.format(number), "name": "Anna", "verified": True}
        told.append(about | {"event_id": f"s-{number}-r", "type": "registered"} | place)
        told.append(about | {"event_id": f"s-{number}-k", "type": "kyc_verified"})
        told.append(about | {"event_id": f"s-{number}-a", "type": "address_changed"} | held)
    for at in range(0, len(told), _BATCH):
        body = json.dumps({"events": told[at : at + _BATCH]}).encode()
        (answer,) = ask(port, [request("/v1/events/batch", body, served.key)], 1)
        if answer.status != 200:
            raise TimeoutError(f"the house answered {answer.status} to its players")
    time.sleep(_IDLE_SECONDS)


def _morning() -> str:
    """A time zone in which it is between nine and ten in the morning: what is about the account is sent then."""
    ahead = 9 - datetime.now(UTC).hour
    return f"Etc/GMT{-(ahead + (24 if ahead < -12 else 0)):+d}"


def _asked(plan: SendsPlan, number: int, *, sent: bool) -> dict[str, Any]:
    player = f"player-{number % plan.players}"
    return {"player_id": player, "purpose": "service", "channels": [plan.channel], "deliver": sent}


def _turns(served: Served, plan: SendsPlan, provider: _Provider, console: Console) -> dict[str, list[float]]:
    """CPU per decision alone, and per decision that is sent: of API, worker and store, microseconds."""
    idle_us = _idle(served)
    taken: dict[str, list[float]] = {"plain": [], "sent": []}
    random = np.random.default_rng(_SEED)
    for number in track(range(plan.rounds + 1), "rounds", console=console, transient=True):
        for name in sorted(taken, reverse=bool(number % 2)):
            players = [int(one) for one in random.integers(0, plan.players, plan.requests)]
            bodies = [json.dumps(_asked(plan, player, sent=name == "sent")).encode() for player in players]
            taken[name].append(_turn(served, bodies, idle_us, provider, sent=name == "sent"))
    return {name: one[1:] for name, one in taken.items()}


def _read(served: Served) -> cpu.Reading:
    return cpu.read([*cpu.tree(served.api), *cpu.tree(served.worker), served.store])


def _idle(served: Served) -> float:
    """What a house spends in a second while nobody asks, microseconds."""
    before = _read(served)
    time.sleep(_IDLE_SECONDS)
    return cpu.microseconds(before, _read(served)) / _IDLE_SECONDS


def _turn(served: Served, bodies: list[bytes], idle_us: float, provider: _Provider, *, sent: bool) -> float:
    """CPU per request of a turn that ends when the last of its messages has arrived."""
    asked = [request("/v1/decisions", body, served.key) for body in bodies]
    before, begun = _read(served), time.monotonic()
    answers = ask(int(served.address.rpartition(":")[2]), asked)
    if sent and (missing := provider.wait_for(json.loads(answer.body)["decision_id"] for answer in answers)):
        raise TimeoutError(f"{len(missing)} messages did not arrive")
    time.sleep(sides.TAIL_SECONDS)
    spent = cpu.microseconds(before, _read(served))
    return (spent - idle_us * (time.monotonic() - begun)) / len(bodies)


async def _open_loop(served: Served, plan: SendsPlan, provider: _Provider) -> dict[str, Any]:
    due: dict[str, tuple[float, float]] = {}

    def heard(answer: OpenAnswer) -> None:
        now = time.perf_counter()
        if answer.status == 200 and answer.body.get("delivers"):
            due[answer.body["decision_id"]] = now - answer.seconds, now

    def made(number: int) -> OpenRequest:
        return OpenRequest("sent", "/v1/decisions", _asked(plan, number, sent=True))

    times = open_loop.poisson(plan.rate, plan.seconds, _SEED)
    schedule = [ScheduledRequest(moment, partial(made, number)) for number, moment in enumerate(times)]
    answers = await open_loop.send(served.address, served.headers, schedule, heard)
    await asyncio.to_thread(provider.wait_for, due)
    arrived = {name: provider.arrived[name] for name in due if name in provider.arrived}
    return {
        "offered_per_second": plan.rate,
        "decisions": len(answers),
        "delivered": len(arrived),
        "refused": sum(one.status != 200 for one in answers),
        "answer_ms": _percentiles([one.seconds for one in answers]),
        "decision_to_socket_ms": _percentiles([at - due[name][0] for name, at in arrived.items()]),
        "answer_to_socket_ms": _percentiles([at - due[name][1] for name, at in arrived.items()]),
    }


def _percentiles(seconds: list[float]) -> dict[str, float | None]:
    found = np.percentile(seconds or [np.nan], [50, 99]) * 1_000
    return {"p50": round(float(found[0]), 1), "p99": round(float(found[1]), 1)}


def _result(
    plan: SendsPlan, load: float, turns: Mapping[str, list[float]], opened: Mapping[str, Any]
) -> dict[str, Any]:
    plain, more = turns["plain"], [both - alone for both, alone in zip(turns["sent"], turns["plain"], strict=True)]
    return {
        "channel": plan.channel,
        "cpu_us": {"decision": round(float(np.median(plain)), 1), "message": round(float(np.median(more)), 1)},
        "message_to_decision": {
            name: None if one is None else round(one, 3) for name, one in rounds.ratio(more, plain)._asdict().items()
        },
        "open": opened,
        "rounds": plan.rounds,
        "players": plan.players,
        "load_before": round(load, 2),
    }
