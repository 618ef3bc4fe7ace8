"""Shared fixtures: a Valkey server, a Feast registry, houses, workers and the application."""

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import redis
from fastapi import FastAPI
from hypothesis import settings
from support.cluster import cluster
from support.contracts import conforms
from support.deadlines import PATIENT
from support.fault_house import Caller, Serving, World
from support.faulty_store import Between
from support.keys import HEADERS, KEY, grant
from support.workers import running

from features.events import micros
from features.read_plan import ReadPlan
from features.store.bundles import publish
from features.store.connection import connect, load_library
from features.store.deployment import House, create_house
from features.store.server import start_server
from pipelines.machine import up
from pipelines.worker.process import Worker
from service.api import routes
from service.api.app import lifespan
from service.settings import Settings

SEEDED_PLAYERS = 400
MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a private folder in it
ROOM = 4 << 30
"""Bytes that must be free in memory for the tests to keep their files there."""


class Stored(Protocol):
    """A running store: the embedded server, or a cluster."""

    @property
    def url(self) -> str: ...


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of tests that are coroutines."""
    return "asyncio"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    """The embedded store; with CROUPIER_TEST_STORE=cluster three servers that share its keys."""
    home = tmp_path_factory.mktemp("store")
    if os.environ.get("CROUPIER_TEST_STORE") == "cluster":
        with cluster(home) as servers:
            yield servers
        return
    embedded = start_server(home)
    yield embedded
    embedded.stop()


@pytest.fixture(scope="session")
def plan(server: Stored, tmp_path_factory: pytest.TempPathFactory) -> ReadPlan:
    from features.definitions import apply, open_store

    home = tmp_path_factory.mktemp("feast")
    return apply(open_store(home, server.url), home / "lake")


@pytest.fixture
def store(server: Stored, plan: ReadPlan) -> Iterator[redis.Redis]:
    client = connect(server.url)
    client.flushall()
    load_library(client, "service.contacts", "ledger.lua")
    load_library(client, "pipelines.worker", "consume.lua")
    publish(client, "plan", plan.dumps())
    grant(client)
    yield client
    client.close()


@pytest.fixture
def world(tmp_path: Path, plan: ReadPlan) -> Iterator[World]:
    """A house on a store of its own, for faults."""
    with World(tmp_path, plan) as made:
        yield made


@pytest.fixture
def caller(world: World, tmp_path: Path) -> Iterator[Caller]:
    """A caller of a serving process of that house."""
    with Serving(world.server.url, tmp_path, **PATIENT) as serving, Caller(serving.socket) as made:
        yield made


@pytest.fixture
def between(world: World, tmp_path: Path) -> Iterator[Between]:
    """What stands between that store and its callers."""
    with Between(tmp_path / "between.sock", world.store) as made:
        yield made


@pytest.fixture
def house(store: redis.Redis) -> House:
    return create_house(store)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


@pytest.fixture
def worker(
    server: Stored,
    house: House,  # noqa: ARG001 - a worker needs a house
    lake: Path,
) -> Iterator[Worker]:
    with running(Worker(server.url, lake)) as made:
        yield made


@pytest.fixture
def where(server: Stored, lake: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # The deadline has tests of its own; elsewhere a busy machine must not decide the outcome.
    for name, seconds in PATIENT.items():
        monkeypatch.setenv(name, seconds)
    return replace(Settings.here(server.url), lake=lake)


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a house with a small world in its lake and an empty registry, whose own store runs."""
    from models.releases.registry import ChurnRegistry
    from pipelines.training.churn import churn_frame

    home = tmp_path_factory.mktemp("seeded")
    server = start_server(home)
    client = connect(server.url)
    wish = up.Options(home, players=SEEDED_PLAYERS, clock_us=micros(datetime(2020, 3, 15, tzinfo=UTC)))
    house = up.prepare(client, wish, server.url)
    with running(Worker(server.url, wish.lake)):
        up.fill(client, house, wish)
    churn_frame(home, server.url)
    ChurnRegistry(home)
    yield home
    client.close()
    server.stop()


Opened = Callable[[], AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def opened(
    house: House,  # noqa: ARG001 - the application needs a house
    where: Settings,
) -> Opened:
    """The application over the real store, without a socket; `client.app` is the application."""

    @asynccontextmanager
    async def enter() -> Any:
        app = routes.build(lifespan)
        app.state.settings = where
        async with lifespan(app):
            transport = httpx.ASGITransport(app)
            # Whatever a test is about, what it is answered is as the page of the API says.
            hooks = {"response": [conforms]}
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost", timeout=60, event_hooks=hooks, headers=HEADERS
            ) as client:
                client.app = app  # type: ignore[attr-defined]
                yield client

    return enter


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what takes longest begin first."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_configure() -> None:
    """Let no law depend on chance, or on how busy the machine is, and let no test wait for a disk.

    Stores sync every write. What a killed process wrote is there in memory as on a disk; only a machine that loses its
    power would tell them apart, and no test does that.
    """
    # Whatever a test starts takes the key of the tests, and sends it.
    os.environ |= {"CROUPIER_KEYS": KEY, "CROUPIER_KEY": KEY}
    settings.register_profile("lawful", deadline=None, derandomize=True)
    settings.load_profile("lawful")
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    # Searching all that the tests' libraries hold for cycles takes a tenth of the time.
    gc.set_threshold(50_000, 20, 50)


def app_of(client: httpx.AsyncClient) -> FastAPI:
    app: FastAPI = client.app  # type: ignore[attr-defined]
    return app
