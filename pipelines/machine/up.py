"""`croupier up`: start, watch and stop store, worker, learner, API and MLflow's screen on one machine.

What serves starts first; what nobody waits for, the first churn model and the screen, afterwards and more slowly.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import msgspec
import redis
from rich.console import Console

from features.errors import CroupierError
from features.events import moment
from features.kept_schemas import TODAY
from features.schema import schema_hash
from features.settings.environment import Environment, environment, for_children
from features.store.bundles import READY, publish, serving_hashes
from features.store.connection import Store, connect, load_library
from features.store.deployment import FORMAT, PARTITIONS, House, create_house, raised, real_now_us
from features.store.errors import StoreError
from features.store.keys import HOUSE, LEARNER_LEASE, SEEDED, bundle_key, lease_key, pointer_key
from features.store.server import Say, Server, aloud, keeping, start_server, store_url
from models.experiments.definition import GlobalHoldout
from models.releases.release import journal
from pipelines.experiments.releases import hold_out
from pipelines.imports import bulk
from pipelines.machine.closing import close
from pipelines.machine.development_key import own_key, settle_key
from pipelines.privacy import house_keys
from pipelines.simulation import world
from pipelines.worker.child import LAST, Child
from pipelines.worker.consumer import serving_plan
from pipelines.worker.process import wait_until_applied, wait_until_in_lake
from pipelines.worker.schedule import read_schedules
from pipelines.worker.webhooks import read_webhooks
from service.contacts.ledger import RedisLedger
from service.decisions.decide import requested_id
from service.events.accept import accept
from service.players.sealing import seals_of
from service.settings import Settings

PLAYERS: Final = 500
SEED: Final = 7
_TRIED: Final = 30
"""Players among whom one is looked for to whom a mail goes soon."""
_CHUNK: Final = 5_000
_READY_SECONDS: Final = 180.0
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LEARNER_NICENESS: Final = 10
"""What learns gives way to what serves."""
VIEW: Final = "/#/experiments?workflowType=machine_learning"
"""Path of the view of runs and models; without it, whichever of the screen's views was seen last opens."""


@dataclass(frozen=True)
class Options:
    """Options of `croupier up`.

    Attributes:
        home: Where state lives.
        port: Port of the API on 127.0.0.1; MLflow's screen gets the one after it.
        clock_us: House time at creation, None for the store's.
        rate: House seconds per real second, None for 1.
        players: Players of the seeded world; 0 leaves the house empty.
        workers: API processes.
        screen: Whether MLflow's own screen is started.
    """

    home: Path
    port: int = 8000
    clock_us: int | None = None
    rate: float | None = None
    players: int = PLAYERS
    workers: int = 1
    screen: bool = True

    @property
    def lake(self) -> Path:
        """Folder of the lake."""
        return self.home / "lake"

    @property
    def address(self) -> str:
        """Address of the API."""
        return f"http://127.0.0.1:{self.port}"


class PortTakenError(CroupierError):
    """A port that another process of this machine listens on."""

    code = "port_taken"
    exit_code = 2


def up(options: Options, console: Console) -> None:
    """Start everything, fill and train a new house, print addresses, and watch until stopped.

    Raises:
        PortTakenError: Another process listens where the API or the screen is to.
        StoreError: The store did not start, or holds another house than asked for.
        SettingError: mlflow.yaml or a variable is not valid.
        KeyFileRefused: The file of the development key can be read by others.
        ScheduleError: It schedules what cannot be.
        CatalogueError: Catalogue, rulebook or the file of the webhooks is not valid.
    """
    read_schedules(options.home)
    read_webhooks()
    Settings.here("").files()
    _demand_free([options.port, *([options.port + 1] if options.screen else [])])
    options.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    close(options.home)
    for name in ENDING:
        signal.signal(name, _interrupt)
    begun = time.monotonic()
    with _store(options, console) as (url, server):
        client = connect(url)
        with _step(console, "house and feature definitions"):
            house = settle_in(client, options, url, console.print)
        key = settle_key(options.home, url)
        children = _children(options, url)
        watch = ProcessWatch(children, server, options, console)
        try:
            for child in children:
                child.start()
            watch.start()
            fill_and_await(client, house, options, url, console)
            console.print(f"[green]ready[/] after {time.monotonic() - begun:.0f} s")
            _print_addresses(house, options, key, console)
            children += _afterwards(client, options, url, console)
            watch.join()
        finally:
            for name in ENDING:
                signal.signal(name, signal.SIG_IGN)  # what is being ended is ended whole
            watch.stop()
            with _step(console, "stopping"):
                for child in reversed(children):
                    child.stop()


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def _store(options: Options, console: Console) -> Iterator[tuple[str, list[Server]]]:
    """Address of the store, and the embedded server in a list (empty for an external store).

    The server of a command that runs, or one that outlived its house, is taken over.
    """
    if environment().store is not None:
        yield store_url(options.home), []
        return
    with keeping(options.home):
        running = [start_server(options.home, console.print)]
        try:
            yield running[0].url, running
        finally:
            running[-1].stop(console.print)


@contextmanager
def _step(console: Console, name: str) -> Iterator[None]:
    begun = time.monotonic()
    with console.status(name):
        yield
    console.print(f"  {name}: {time.monotonic() - begun:.1f} s", style="dim")


def settle_in(client: redis.Redis, options: Options, url: str, say: Say = aloud) -> House:
    """Prepare a house, and start the global holdout in one that is new; later nobody is silenced unasked."""
    is_new = not client.exists(HOUSE)
    house = prepare(client, options, url, say)
    if is_new and not journal(client, "experiments"):
        hold_out(url, GlobalHoldout().share, "the house was created")
    return house


def prepare(client: redis.Redis, options: Options, url: str, say: Say = aloud) -> House:
    """Create or open the house, seal it, load the store's functions, keep the features' schema, apply definitions."""
    sandbox = options.players > 0 or options.clock_us is not None or options.rate is not None
    house = create_house(client, clock_us=options.clock_us, rate=options.rate, sandbox=sandbox)
    if house.format < FORMAT:  # before anything of it is changed: earlier builds refuse it from then on
        house = raised(house)
        client.set(HOUSE, msgspec.json.encode(house))
    load_library(client, "service.contacts", "ledger.lua")
    load_library(client, "pipelines.worker", "consume.lua")
    house = house_keys.seal_up(client, house, options.home, say)
    client.set(bundle_key(TODAY.hash), TODAY.dumps(), nx=True)
    plan = serving_plan(client)
    if plan is None or plan.schema_hash != schema_hash():
        from features.definitions import apply, open_store  # noqa: PLC0415 - Feast takes seconds to import

        publish(client, "plan", apply(open_store(options.home, url), options.lake).dumps())
    return house


def _children(options: Options, url: str) -> list[Child]:
    """Processes of a house besides its store."""
    serve = ["serve", "--port", str(options.port), "--workers", str(options.workers)]
    return [
        _child(options, url, "worker", ["worker"]),
        _child(options, url, "learner", ["learn"], LEARNER_NICENESS),
        _child(options, url, "api", serve),
    ]


def _child(options: Options, url: str, name: str, words: Sequence[str], niceness: int = 0) -> Child:
    """A process that runs one of our commands for the house."""
    logs = options.home / "logs"
    logs.mkdir(exist_ok=True)
    own = dict(for_children(options.home, url))
    if environment().connectors is None:  # nothing leaves a house that was not told where to
        own.setdefault(Environment.connectors.name, str(resources.files("service.delivery").joinpath("house.yaml")))
    return Child(name, [sys.executable, "-m", "pipelines", *words], own, logs / f"{name}.log", niceness)


def fill_and_await(client: redis.Redis, house: House, options: Options, url: str, console: Console) -> None:
    """Fill a new house, and wait until every process is up.

    Raises:
        StoreError: A part did not come up.
    """
    if options.players and not client.exists(SEEDED):
        with _step(console, f"a world of {options.players} players"):
            fill(client, house, options)
            asyncio.run(tell_addresses(house, options, url, house.now_us(real_now_us(client))))
        client.set(SEEDED, options.players)
    with _step(console, "API, worker and learner"):
        _await(lambda: _ready(client) >= options.workers and _get(f"{options.address}/readyz"), "API", "api")
        _await(lambda: any(_leased(client, lease_key(one)) for one in range(PARTITIONS)), "worker", "worker")
        _await(lambda: _leased(client, LEARNER_LEASE), "learner", "learner")


def _ready(client: redis.Redis) -> int:
    """Number of ready serving processes, as far as known."""
    try:
        return sum(found is not None for found in serving_hashes(client, READY))
    except redis.RedisError:
        return 0


def _leased(client: redis.Redis, name: str) -> bool:
    """Whether a process holds a lease; no while that part of the store is away."""
    try:
        until = cast("bytes | None", client.hget(name, "until"))
    except redis.RedisError:
        return False
    return until is not None and int(until) > real_now_us(client)


def _afterwards(client: redis.Redis, options: Options, url: str, console: Console) -> list[Child]:
    """Start what nobody waits for, at low priority: a first churn model, MLflow's screen."""
    if options.players and not client.exists(pointer_key("churn")):
        with _step(console, "first churn model"):
            trouble = _train(options, url)
        if trouble:
            console.print(f"decisions go on without a churn model: {trouble}", style="yellow")
    if not options.screen:
        return []
    screen = _child(options, url, "mlflow", ["screen", "--port", str(options.port + 1)], LAST)
    screen.start()
    return [screen]


def fill(client: redis.Redis, house: House, options: Options) -> None:
    """Send the events of a seeded world as usual, and wait until features and lake have them."""
    items = bulk.Items(client, house, seals_of(house, options.home))
    reached: dict[int, str] = {}
    now_us = house.now_us(real_now_us(client))
    chunk = []
    for event in world.events(options.players, now_us, SEED):
        chunk.append(items.event(event))
        if len(chunk) == _CHUNK:
            reached |= bulk.append(client, house, chunk).reached
            chunk = []
    reached |= bulk.append(client, house, chunk).reached
    wait_until_applied(client, reached)
    wait_until_in_lake(options.lake, real_now_us(client))


async def tell_addresses(house: House, options: Options, url: str, now_us: int) -> None:
    """Tell the mail addresses of the seeded world, one by one as callers do: whoever shares one is known then."""
    store = Store(url, 1)
    try:
        ledger = RedisLedger(store, house, seals=seals_of(house, options.home))
        for event in world.addresses(options.players, now_us):
            await accept(event, house, ledger)
    finally:
        await store.close()


def _train(options: Options, url: str) -> str | None:
    """Train and promote in a process of its own, to free its memory; why there is no model, if it failed."""
    child = _child(options, url, "train", ["train", "churn", "--promote"], LAST)
    child.start()
    try:
        code = child.wait()
    finally:
        child.stop()
    return f"{child.log.read_text('utf8').strip().rpartition(chr(10))[2]} (logs/train.log)" if code else None


def _await(ready: Callable[[], bool], part: str, log: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise StoreError(f"the {part} did not come up in {_READY_SECONDS:.0f} s; see logs/{log}.log")
        time.sleep(0.05)


def _get(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _post(url: str, body: Mapping[str, object], key: str) -> dict[str, Any]:
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own loopback address
        found: dict[str, Any] = json.load(answer)
        return found


def _demand_free(ports: Sequence[int]) -> None:
    for port in ports:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError as error:
                said = f"port {port} cannot be had ({error.strerror}): does another house run? PORT names another one"
                raise PortTakenError(said) from error


def _print_addresses(house: House, options: Options, key: str | None, console: Console) -> None:
    screen = f"\n  MLflow    http://127.0.0.1:{options.port + 1}{VIEW}  (starts last)" if options.screen else ""
    console.print(f"  API docs  {options.address}/docs{screen}", highlight=False)
    sent = "$KEY" if key is None else key
    if key is None:
        whose = Environment.keys.name if environment().keys else "`croupier keys list`"
        console.print(
            f"\n  $KEY stands for a key of yours, of {whose}: no development key is live",
            highlight=False,
            soft_wrap=True,
        )
    if options.players:
        lines = _examples(house, options, sent)
        console.print("\nTry:", style="bold")
    else:
        lines = [f"curl -s {options.address}/readyz {_header(sent)}"]
    for line in lines:
        print(line, flush=True)  # noqa: T201 - whole, so that it can be copied


def _examples(house: House, options: Options, sent: str) -> list[str]:
    """Curl lines that tell an event of somebody, ask what to do for them, and read why."""
    now = moment(house.now_us(time.time_ns() // 1_000)).replace(microsecond=0)
    asked, (notice, sent_at) = _someone(options), _notice(options, now)
    player = str(asked["player_id"])
    event = {
        "type": "login",
        "event_id": f"hello-{now:%Y%m%dT%H%M%S}",
        "player_id": player,
        "occurred_at": now.isoformat(),
    }
    key = house.player_key(player)
    answered_as = requested_id(house, key, key, "hello")
    return [
        _curl(f"{options.address}/v1/events", event, sent),
        _curl(f"{options.address}/v1/decisions", asked, sent),
        f"curl -s {options.address}/v1/decisions/{answered_as} {_header(sent)}",
        _curl(f"{options.address}/v1/decisions", notice, sent),
        f"# the last sends a mail at {max(sent_at, now):%Y-%m-%d %H:%M} UTC: {options.address}/inbox-of-the-house",
    ]


def _someone(options: Options) -> dict[str, object]:
    """A request about a player of the world whom the policy may contact now; about anybody without a key to ask."""
    asked: dict[str, object] = {}
    for number in range(1, options.players + 1):
        asked = {"player_id": f"player-{number}", "request_id": "hello", "explain": True}
        answered = _dry(options, asked)
        if answered is None or answered["candidates"]["eligible"] > 1:
            break
    return asked


def _notice(options: Options, now: datetime) -> tuple[dict[str, object], datetime]:
    """A request for a mail about the account that the house sends, and when: the soonest among some players."""
    asked: dict[str, object] = {"purpose": "service", "channels": ["email"]}
    found = {"player-1": now}
    for number in range(1, min(options.players, _TRIED) + 1):
        answered = _dry(options, asked | {"player_id": f"player-{number}"})
        if answered is None:
            break
        if isinstance(answered["action"], dict):
            found[f"player-{number}"] = datetime.fromisoformat(answered["action"]["send_at"])
    player = min(found, key=lambda name: (found[name], name)) if len(found) > 1 else "player-1"
    return {"player_id": player, **asked, "deliver": True}, found[player]


def _dry(options: Options, asked: Mapping[str, object]) -> dict[str, Any] | None:
    """What would be answered; None where the machine is busy, or the key not live: whoever it is, lines can be sent."""
    dry = {**asked, "dry_run": True, "explain": True, "deadline_ms": 5_000}
    try:
        return _post(f"{options.address}/v1/decisions", dry, own_key(options.home) or "")
    except OSError:
        return None


def _curl(url: str, body: Mapping[str, object], sent: str) -> str:
    return f"curl -s {url} {_header(sent)} -H 'content-type: application/json' -d '{json.dumps(body)}'"


def _header(sent: str) -> str:
    """The key as curl sends it; in quotes in which a shell still puts what $KEY stands for."""
    quote = '"' if sent.startswith("$") else "'"
    return f"-H {quote}Authorization: Bearer {sent}{quote}"


class ProcessWatch(threading.Thread):
    """Restarts processes that died, the store first; ends when stopped, or when a restart fails."""

    def __init__(self, children: Sequence[Child], server: list[Server], options: Options, console: Console) -> None:
        super().__init__(daemon=True)
        self._children = children
        self._server = server
        self._wish = options
        self._console = console
        self._stopping = threading.Event()

    def run(self) -> None:
        """Poll the processes several times a second until stopped."""
        while not self._stopping.wait(0.2):
            if self._server and not self._server[-1].lives():
                self._tell("store")
                if not self._restarted_store():
                    return
            for child in self._children:
                if child.dead():
                    self._tell(child.name)
                    child.start()

    def _restarted_store(self) -> bool:
        before = self._server[-1]
        try:
            self._server.append(start_server(self._wish.home, self._console.print, self._stopping))
        except StoreError as error:
            self._console.print(str(error), style="red")
            return False
        before.stop(self._console.print)
        return True

    def stop(self) -> None:
        """Stop watching, so that processes that end now stay ended."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def _tell(self, name: str) -> None:
        self._console.print(f"the {name} died and is started again", style="yellow")
