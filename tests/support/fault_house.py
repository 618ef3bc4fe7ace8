"""A small house for fault tests: store, lake, serving process, and a caller who checks acknowledged writes."""

import gc
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Self

import duckdb
import httpx
import numpy as np
import redis
import uvicorn
from support.keys import HEADERS
from support.players import adult_events

from features.read_plan import ReadPlan
from features.steps import Step, no_step
from features.store.bundles import publish
from features.store.connection import connect, load_library
from features.store.deployment import House, create_house, order
from features.store.keys import PlayerKeys, decision_key
from features.store.server import Server, start_server
from models.catalogue.experiment import variant
from models.catalogue.offers import load_catalogue
from pipelines.worker.consumer import Consumer
from pipelines.worker.lake import Lake, reach
from service.api import routes
from service.api.app import lifespan
from service.players.harm import HarmSettings
from service.rules.rulebook import load_rulebook, rulebook_path
from service.settings import Settings, catalogue_path

PATIENCE: Final = 120.0
PROCESSES: Final = multiprocessing.get_context("forkserver")
"""Starts processes from one that has imported everything: a killed one is replaced within a moment."""
PROCESSES.set_forkserver_preload(
    [
        "duckdb",
        "httpx",
        "pytest",
        "uvicorn",
        "pipelines.learning.learner",
        "pipelines.worker.process",
        "service.api.app",
    ]
)


def killed(server: Server) -> None:
    """Kill a server outright and wait until it has ended; this process uses it no more."""
    server.signal(signal.SIGKILL)
    until(lambda: not server.lives())
    server.stop()


class World:
    """A house with an embedded store of its own.

    Attributes:
        home: Where it lives.
        server: The store.
        client: A connection to it.
        house: What was created in it.
    """

    def __init__(self, home: Path, plan: ReadPlan, environment: dict[str, str] | None = None) -> None:
        self.home, self.lake = home, home / "lake"
        self._environment = environment or {}
        self.server = self._start()
        self.client = connect(self.server.url)
        load_library(self.client, "service.contacts", "ledger.lua")
        load_library(self.client, "pipelines.worker", "consume.lua")
        publish(self.client, "plan", plan.dumps())
        self.house: House = create_house(self.client)
        self._plan = plan

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.signal(signal.SIGCONT)
        self.server.stop()

    def _start(self) -> Server:
        kept = dict(os.environ)
        os.environ.update(self._environment)
        try:
            return start_server(self.home)
        finally:
            os.environ.clear()
            os.environ.update(kept)

    @property
    def store(self) -> Path:
        """The store's socket."""
        return Path(self.server.url.removeprefix("unix://"))

    def restart(self) -> None:
        """Kill the store, if it still runs, and start it again on what it had written."""
        self.client.close()
        killed(self.server)
        self.server = self._start()
        self.client = connect(self.server.url)

    def consumer(self, step: Step = no_step) -> Consumer:
        """A new owner of the partitions, whoever held them before having run out."""
        for key in self.client.scan_iter("lease:*"):
            self.client.hset(key, "until", "0")
        return self.consumer_beside(step)

    def consumer_beside(self, step: Step = no_step) -> Consumer:
        """One more consumer, beside whoever holds the partitions."""
        return Consumer(self.client, self._plan, harm_settings(), step)

    def apply(self) -> None:
        """Bring features up to what was logged."""
        consumer = self.consumer()
        consumer.renew()
        while consumer.step(1):
            pass
        consumer.release()

    def flush(self) -> None:
        """Bring the lake up to what was logged."""
        Lake(self.client, self.lake).flush()

    def keeps(self, caller: "Caller") -> None:
        """Everything that a caller was promised is in the store and once in the lake, and the chain is intact."""
        self.flush()
        for name in caller.decisions:
            assert self.client.exists(decision_key(name)), f"the store forgot {name}"
        for table, column, promised in (
            ("events", "event_id", caller.events),
            ("decisions", "decision_id", caller.decisions),
            ("outcomes", "outcome_id", caller.outcomes),
        ):
            once(self.lake, table, column, promised)
        linked(self.lake)

    def ledger(self, player: str) -> dict[str, str]:
        """Reservations of a player by decision, as the store holds them."""
        held: Any = self.client.hgetall(PlayerKeys(self.house.player_key(player)).ledger)
        return {name.decode(): entry.decode() for name, entry in held.items() if name != b"v"}


@cache
def harm_settings() -> HarmSettings:
    """What counts as a sign of harm; read once, for reading it takes longer than most faults."""
    return load_rulebook(rulebook_path()).harm


def rows(lake: Path, table: str, columns: str) -> list[tuple[Any, ...]]:
    """Columns of a table of a lake; nothing where there is no table yet."""
    if not list(lake.glob(f"{table}/*/*.parquet")):
        return []
    with duckdb.connect() as reader:
        return reader.execute(f"select {columns} from read_parquet('{lake}/{table}/*/*.parquet')").fetchall()


def once(lake: Path, table: str, column: str, promised: Sequence[str]) -> None:
    """Every promised id stands in a table of the lake, and nothing stands twice."""
    times = Counter(row[0] for row in rows(lake, table, column) if row[0] is not None)
    assert not [one for one in promised if times[one] != 1], table
    assert max(times.values(), default=1) == 1, table


def linked(lake: Path) -> None:
    """The chain of every partition runs over all its decisions in order, from nothing to the head that is kept."""
    heads: dict[str, bytes] = {}
    found = rows(lake, "decisions", "position, record, chain")
    for place, record, chain in sorted(found, key=lambda row: (row[0][1:4], order(row[0][5:]))):
        partition = str(int(place[1:4]))
        heads[partition] = hashlib.sha256(heads.get(partition, b"") + record).digest()
        assert heads[partition] == chain, f"the chain of {partition} breaks at {place}"
    assert {name: head.hex() for name, head in heads.items()} == reach(lake).heads


def _serve(store: str, socket: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    app = routes.build(lifespan)
    app.state.settings = Settings.here(store)
    with Path(socket).with_suffix(".log").open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
        uvicorn.run(app, uds=socket, log_level="warning", access_log=False)


class Serving:
    """A serving process over a store, on a socket of its own."""

    def __init__(self, store: str, folder: Path, **environment: str) -> None:
        self.socket = folder / "api.sock"
        self._arguments = (store, str(self.socket), environment)
        self.process: BaseProcess = self._begin()

    def _begin(self) -> BaseProcess:
        self.socket.unlink(missing_ok=True)
        process = PROCESSES.Process(target=_serve, args=self._arguments)
        process.start()
        until(lambda: self._ready() or not process.is_alive())
        assert process.is_alive(), self.socket.with_suffix(".log").read_text()
        return process

    def _ready(self) -> bool:
        if not self.socket.exists():
            return False
        with speaking(self.socket) as client:
            return client.get("/readyz").status_code == 200

    def kill(self) -> None:
        """Kill it outright; may be called from any thread."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)

    def again(self) -> None:
        """Start it again after it was killed."""
        self.process.join(PATIENCE)
        self.process = self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.join(PATIENCE)


def speaking(socket: Path) -> httpx.Client:
    """A client of a serving process."""
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://localhost", timeout=30, headers=HEADERS
    )


class Caller:
    """Sends, and keeps the ids of all that was acknowledged, so that it can be asked for later."""

    def __init__(self, socket: Path) -> None:
        self._client = speaking(socket)
        self._number = 0
        self.events: list[str] = []
        self.decisions: list[str] = []
        self.outcomes: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def fresh(self, word: str) -> str:
        """An id that was not used before."""
        self._number += 1
        return f"{word}-{self._number}"

    def get(self, path: str) -> httpx.Response:
        """Read."""
        return self._client.get(path)

    def welcome(self, player: str) -> None:
        """Tell all that makes a player known and contactable."""
        for told in adult_events(player):
            until(lambda told=told: self.event(player, **told).status_code == 200)  # type: ignore[misc]

    def event(self, player: str, **more: Any) -> httpx.Response:
        """Tell an event; a login if nothing else is said."""
        body = {"event_id": self.fresh("event"), "player_id": player, "type": "login", "occurred_at": now(), **more}
        answer = self._client.post("/v1/events", json=body)
        self._note(answer, self.events, body["event_id"])
        return answer

    def ask(self, player: str, **more: Any) -> httpx.Response:
        """Ask for a decision."""
        answer = self._client.post("/v1/decisions", json={"player_id": player, **more})
        if answer.status_code == 200 and answer.json()["recorded"]:
            self._note(answer, self.decisions, answer.json()["decision_id"])
        return answer

    def unless_left_alone(self, player: str, **more: Any) -> httpx.Response:
        """Ask until the read was in time; how many asks a busy machine needs is no fault."""
        for _ in range(200):
            answer = self.ask(player, **more)
            if answer.status_code != 200 or answer.json()["recorded"]:
                return answer
        raise AssertionError("the store was never read in time")

    def contact(self, player: str, **more: Any) -> str:
        """Ask until a contact is drawn and recorded that can be confirmed now; its decision's id."""
        for _ in range(200):
            found = self.ask(player, **more).json()
            if found.get("recorded") and found["action"] != "NO_CONTACT":
                if found["action"]["send_at"] <= now():
                    return str(found["decision_id"])
                self.outcome(found["decision_id"])
        raise AssertionError("no contact was drawn")

    def confirm(self, decision: str) -> httpx.Response:
        """Ask for leave to send."""
        answer = self._client.post(f"/v1/decisions/{decision}/confirm")
        self._note(answer, self.outcomes, f"confirm/{decision}")
        return answer

    def outcome(self, decision: str, **more: Any) -> httpx.Response:
        """Tell what became of a contact; that it failed if nothing else is said."""
        told = {"outcome_id": self.fresh("outcome"), "type": "failed", "occurred_at": now(), **more}
        answer = self._client.post("/v1/outcomes", json={"decision_id": decision, **told})
        self._note(answer, self.outcomes, told["outcome_id"])
        return answer

    def _note(self, answer: httpx.Response, kept: list[str], name: str) -> None:
        if answer.status_code == 200 and name not in kept:
            kept.append(name)


def now() -> str:
    """This moment as callers tell it."""
    return datetime.now(UTC).isoformat()


def players(prefix: str, count: int = 1) -> list[str]:
    """Players whose actions a policy draws."""
    experiment = load_catalogue(catalogue_path()).experiment
    assert experiment is not None
    names = (f"{prefix}{number}" for number in range(10_000))
    drawn = [name for name in names if variant(experiment.key, name, experiment.variants) == "policy"]
    return drawn[:count]


def until(reached: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait for something to become true; an answer that does not come is not yet true."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if reached():
                return
        except (httpx.HTTPError, redis.RedisError):
            pass
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.01)


def timed(word: str, calls: Sequence[Callable[[], httpx.Response]], deadline_ms: float = 250) -> list[httpx.Response]:
    """Answers to some calls one after the other; what they were and how long they took is shown by `make faults`."""
    answers, took = [], []
    gc.disable()  # a test run has so much in memory that one collection takes longer than all the calls
    for call in calls:
        begun = time.perf_counter()
        answers.append(call())
        took.append((time.perf_counter() - begun) * 1_000)
    gc.enable()
    kinds = Counter(kind_of(answer) for answer in answers)
    middle, last = np.quantile(took, (0.5, 0.99))
    late = sum(one > deadline_ms + GRACE_MS for one in took)
    sys.stdout.write(
        f"{word}: {', '.join(f'{times} {kind}' for kind, times in kinds.items())}; "
        f"p50 {middle:.1f} ms, p99 {last:.1f} ms, {late} later than {deadline_ms:g} + {GRACE_MS} ms\n"
    )
    return answers


GRACE_MS: Final = 20
"""By which an answer may follow its deadline, on a quiet machine."""


def kind_of(answer: httpx.Response) -> str:
    """Status of an answer, and of a decision whether it was recorded."""
    recorded = answer.json().get("recorded") if answer.status_code == 200 else None
    return str(answer.status_code) + {None: "", True: " recorded", False: " not recorded"}[recorded]


@asynccontextmanager
async def calling(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of the application over a store, in this process."""
    app = routes.build(lifespan)
    app.state.settings = Settings.here(url)
    transport = httpx.ASGITransport(app)
    async with (
        lifespan(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=HEADERS) as caller,
    ):
        yield caller
