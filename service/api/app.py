"""Wiring of the serving process: one lifespan opens, watches and closes everything."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import multiprocessing
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from fastapi import FastAPI

from features import logs, zones
from features.kept_schemas import TODAY
from features.read_plan import ReadPlan
from features.schema import schema_hash
from features.settings.environment import Environment, SettingError, environment
from features.store.bundles import HASH_OF, KINDS, READY
from features.store.connection import Store
from features.store.deployment import FORMAT, House, raised
from features.store.errors import StoreError
from features.store.keys import HOUSE, LIVE, bundle_key, live_key, pointer_key
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import Catalogue
from models.churn.scorer import ChurnBundle, Scorer
from models.experiments.allocation import of_catalogue
from models.experiments.assignment import Splits
from models.experiments.definition import Experiments, GlobalHoldout
from models.policy.learned import LearnedPolicy, PolicyVersion
from models.policy.policy import BusinessRules, Policy, Priority, Uniform, priorities
from service.api import routes
from service.api.callers import Callers
from service.api.heartbeat import Heartbeat
from service.api.house_state import HouseState
from service.api.metrics import Metrics
from service.api.readiness import Readiness
from service.api.room import StoreRoom
from service.api.routing import Dependencies
from service.api.threaded_loop import ThreadedLoop
from service.api.tracing import open_tracing
from service.contacts.ledger import RedisLedger, finish_fetches
from service.decisions.serving import Serving
from service.delivery.callbacks import CallbackDoor
from service.delivery.links import Links
from service.players.sealing import seals_of
from service.rules.compiler import CompiledRulebook
from service.rules.rulebook import Rulebook
from service.settings import Settings

POLL_SECONDS = 0.2
"""A promotion or rollback waits for every process to look; two small reads a look."""
REPORT_SECONDS = 1.0
LIVE_SECONDS = 5
UNDER_WAY = 64
"""Calls that wait for the store at once; what restricts contact has a connection of its own, and as many."""

_LAW = ("catalogue", "rules")
_FOLLOWED = (_LAW, *((kind,) for kind in KINDS if kind not in _LAW))
"""Kinds in the order in which they are loaded; those of one group serve as one set."""

_NOBODY = Experiments(holdout=GlobalHoldout.model_construct(share=1.0))
"""Holds everybody out."""

_LOG = structlog.get_logger()


def serving_of_files(house: House, where: Settings) -> Serving:
    """What the files hold, before any bundle is loaded; raises CatalogueError if a file is not valid."""
    catalogue, book = where.files()
    layout = CandidateSpace(catalogue)
    return Serving(
        house=house,
        plan=None,
        law=CompiledRulebook(book, layout),
        policies=_policies(catalogue, None),
        churn=None,
        splits=Splits(of_catalogue(catalogue.experiment), layout),
    )


def _policies(catalogue: Catalogue, snapshot: PolicyVersion | None) -> dict[str, Policy]:
    """Policies over a catalogue by name; `learnt` draws uniformly until something was learnt."""
    ranks = priorities(catalogue)
    return {
        "learnt": Uniform(catalogue.size) if snapshot is None else LearnedPolicy(snapshot, catalogue),
        "business_rules": BusinessRules(ranks, catalogue.exploration_floor),
        "uniform": Uniform(catalogue.size),
        "priority": Priority(ranks),
    }


_ON_DEATH_OF_PARENT: Final = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
_COLLECT_AFTER: Final = 20_000
"""New objects after which cycles among them are looked for: what a decision makes has none."""


class Watch:
    """Loads what the store's pointers name, swaps it in whole, and reports what serves."""

    def __init__(self, store: Store, deps: Dependencies, readiness: Readiness) -> None:
        self._store = store
        self._desk = deps
        self._readiness = readiness
        self._files = deps.serving.law
        self._snapshot: PolicyVersion | None = None
        self._experiments: Experiments | None = None
        self._serving: dict[str, str] = {}
        self._refused: dict[tuple[str, ...], dict[str, str]] = {}
        self._name = live_key(secrets.token_hex(6))
        self._reported: tuple[float, dict[str, str]] = (0.0, {})
        self._begins = True

    async def run(self) -> None:
        """Look several times a second until cancelled; a store that is away is asked again."""
        last = ""
        while True:
            trouble = await self._troubled()
            if trouble not in {"", last}:
                _LOG.warning("watch", trouble=trouble)
            last = trouble
            await asyncio.sleep(POLL_SECONDS)

    async def _troubled(self) -> str:
        """What kept it from looking; empty if nothing did."""
        try:
            await self.look()
        except StoreError as error:
            return str(error)
        return ""

    async def look(self) -> None:
        """Load whatever moved, then report: changes at once, and now and then to be known as alive."""
        away = [trouble for kinds in _FOLLOWED if (trouble := await self._follow(kinds))]
        if away and self._begins:
            raise away[0]  # what was never read must not be taken for what was never set
        self._begins = False
        await self._report()
        if away:
            raise away[0]

    async def _report(self) -> None:
        at, reported = self._reported
        law = self._desk.serving.law
        # A process that is silent, because it cannot read what was promoted, serves neither.
        lawful = self._desk.serving.lawful
        hashes = {HASH_OF["catalogue"]: law.layout.catalogue.hash, HASH_OF["rules"]: law.book.hash} if lawful else {}
        serving = self._serving | hashes | ({} if self._readiness.trouble else {READY: "yes"})
        if reported == serving and time.monotonic() - at < REPORT_SECONDS:
            return
        told = msgspec.json.encode(serving)
        await self._store.command_beyond(2.0, "SET", self._name, told, "EX", LIVE_SECONDS)
        await self._store.command_beyond(2.0, "SADD", LIVE, self._name)
        self._reported = (time.monotonic(), serving)
        self._desk.callers.rates.processes = await self._processes()

    async def _processes(self) -> int:
        """Serving processes that live, this one with them: each gives its share of a key's rate."""
        named: Iterable[bytes] = await self._store.command(2.0, "SMEMBERS", LIVE)
        living: dict[bytes, int] = {name: await self._store.command(2.0, "EXISTS", name) for name in named}
        if gone := [name for name, lives in living.items() if not lives]:
            await self._store.command(2.0, "SREM", LIVE, *gone)
        return max(1, sum(living.values()))

    async def _follow(self, kinds: tuple[str, ...]) -> StoreError | None:
        """Load kinds if one of their pointers moved; the trouble if that cannot be known, which holds up no others."""
        try:
            digests = {kind: await self._pointer(kind) for kind in kinds}
            now, refused = {kind: self._serving.get(kind, "") for kind in kinds}, self._refused.get(kinds)
            if digests != refused and (digests != now or refused is not None):
                await self._load(digests)
        except StoreError as error:
            return error
        return None

    async def _pointer(self, kind: str) -> str:
        found = await self._store.command(2.0, "GET", pointer_key(kind))
        return found.decode() if found else ""

    async def close(self) -> None:
        """Withdraw the report."""
        with suppress(StoreError):
            await self._store.command(2.0, "DEL", self._name)

    async def _load(self, digests: dict[str, str]) -> None:
        """Load kinds that serve as one set; if one of them cannot be read, the old set serves on."""
        kinds, named = tuple(digests), {"kind": " ".join(digests), "digest": " ".join(digests.values())}
        try:
            bundles = {kind: await self._bundle(digest) for kind, digest in digests.items()}
            # Reading a model takes tens of milliseconds, in which others must be answered.
            self._swap(await asyncio.to_thread(self._read, bundles))
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a bundle holds, the old one goes on and others are looked for
            # What cannot be read once cannot be read again; what is missing may come.
            self._refused[kinds] = {} if isinstance(error, FileNotFoundError) else digests
            _LOG.error("bundle", **named, trouble=f"{type(error).__name__}: {error}")
            if kinds == _LAW and self._begins:
                # Nothing of it ever served here: the files' rules may allow what it forbids.
                self._swap({"lawful": False})
            if kinds == ("experiments",) and self._begins:
                # Who cannot be assigned is left alone: the catalogue's split would open a holdout.
                self._experiments = _NOBODY
                self._swap({"splits": Splits(_NOBODY, self._desk.serving.layout)})
            return
        self._serving |= digests
        self._refused.pop(kinds, None)
        serving = self._desk.serving
        barred = serving.barred(serving.house.now_us(time.time_ns() // 1_000))
        _LOG.info("serving", **named, **({"business_rules_in": sorted(barred)} if barred else {}))

    async def _bundle(self, digest: str) -> bytes | None:
        """A bundle by its hash, None for none; raises FileNotFoundError if the store does not have it whole."""
        if not digest:
            return None
        bundle: bytes | None = await self._store.command(2.0, "GET", bundle_key(digest))
        if bundle is None or hashlib.sha256(bundle).hexdigest() != digest:
            raise FileNotFoundError("missing or damaged; the old one goes on serving")
        return bundle

    def _swap(self, change: Mapping[str, Any]) -> None:
        self._desk.serving = replace(self._desk.serving, **change)

    def _read(self, bundles: Mapping[str, bytes | None]) -> dict[str, Any]:
        """Bundles as the fields of `Serving` that they fill, None for none; raises ValueError if one cannot be read."""
        if tuple(bundles) == _LAW:
            return self._read_law(bundles["catalogue"], bundles["rules"])
        ((kind, bundle),) = bundles.items()
        if kind == "plan":
            return {"plan": None if bundle is None else _own_plan(bundle)}
        if kind == "churn":
            return {"churn": None if bundle is None else Scorer(ChurnBundle.loads(bundle))}
        if kind == "experiments":
            self._experiments = None if bundle is None else Experiments.model_validate_json(bundle)
            return {"splits": self._splits(self._desk.serving.layout)}
        snapshot = None if bundle is None else PolicyVersion.loads(bundle)
        policies = _policies(self._desk.serving.layout.catalogue, snapshot)
        self._snapshot = snapshot
        return {"policies": policies}

    def _read_law(self, catalogue: bytes | None, book: bytes | None) -> dict[str, Any]:
        """The rulebook compiled for the catalogue, and all policies over it; what was never promoted is the files'."""
        layout, rules = self._files.layout, self._files.book
        if catalogue is not None:
            layout = CandidateSpace(Catalogue.model_validate_json(catalogue))
        if book is not None:
            rules = Rulebook.model_validate_json(book)
        if catalogue is not None and (strange := rules.unknown_tags(layout.catalogue)):
            raise ValueError("; ".join(f"offer {offer}: {what}" for offer, what in strange))
        law = self._files if catalogue is book is None else CompiledRulebook(rules, layout)
        policies, splits = _policies(layout.catalogue, self._snapshot), self._splits(layout)
        return {"law": law, "lawful": True, "policies": policies, "splits": splits}

    def _splits(self, layout: CandidateSpace) -> Splits:
        """How players are split: by the release of experiments, else by what the catalogue says."""
        return Splits(self._experiments or of_catalogue(layout.catalogue.experiment), layout)


def _own_plan(bundle: bytes) -> ReadPlan:
    plan = ReadPlan.loads(bundle)
    if plan.schema_hash != schema_hash():
        raise ValueError(f"the plan was compiled for schema {plan.schema_hash}, this build has {schema_hash()}")
    return plan


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Open and close what serves; connections get `metrics`.

    Why it cannot is told here: uvicorn has it as text only, which may hold values.
    """
    try:
        async with _opened(app) as metrics:
            yield {"metrics": metrics}
    except Exception:
        _LOG.exception("serving failed")
        raise


@asynccontextmanager
async def _opened(app: FastAPI) -> AsyncIterator[Metrics]:
    """Open the store, load files and bundles, watch for new ones; close all at the end."""
    where: Settings = app.state.settings
    tracing, metrics = open_tracing(environment()), Metrics(where.metrics)
    store_of: Callable[[str, int], Store] = Store if tracing is None else tracing.store
    store = store_of(where.store, UNDER_WAY)
    try:
        house = await _raised(store)
        seals = seals_of(house, where.home)
        serving = replace(serving_of_files(house, where), seals=seals)
        await _keep(store, serving)
        async with _spare(partial(store_of, where.store)) as (spare, restricting_loop):
            ledgers = RedisLedger(store, house, seals=seals), RedisLedger(spare, house, seals=seals, restricting=True)
            callers = Callers(store, house, where.keys)
            room = StoreRoom(store)
            await asyncio.gather(callers.keyring.look(), room.look())
            deps = Dependencies(
                serving,
                *ledgers,
                restricting_loop,
                callers,
                room,
                where.read_seconds,
                where.write_seconds,
                where.lake,
                where.store,
                metrics,
                tracing,
                HouseState(where.store, house),
                callbacks=CallbackDoor.of(where.connectors),
                delivers=where.connectors.channels,
                delivers_unasked=where.connectors.deliver,
                links=Links.of(house),
            )
            readiness = Readiness(deps)
            watch = Watch(store, deps, readiness)
            async with (
                _beside(Heartbeat("requests").beat()),
                _beside(restricting_loop.run(Heartbeat("restricting").beat())),
                _watched(watch),
                _beside(callers.keyring.run()),
                _beside(room.run()),
            ):
                if deps.serving is not serving:
                    await _keep(store, deps.serving)  # what was promoted
                async with _running(readiness):
                    app.state.deps, app.state.readiness = deps, readiness
                    yield metrics
    finally:
        await finish_fetches()
        await store.close()
        metrics.close()
        if tracing is not None:
            await tracing.close()


@asynccontextmanager
async def _spare(store_of: Callable[[int], Store]) -> AsyncIterator[tuple[Store, ThreadedLoop]]:
    """The store over a connection of its own, and where it may be used."""
    async with ThreadedLoop() as restricting_loop:
        spare = store_of(UNDER_WAY)
        try:
            yield spare, restricting_loop
        finally:
            await restricting_loop.run(spare.close())


async def _raised(store: Store) -> House:
    """The house, in the format of what this process writes, from before it writes anything."""
    house = await store.house()
    if house.format < FORMAT:
        house = raised(house)
        await store.command(5.0, "SET", HOUSE, msgspec.json.encode(house))
    return house


async def _keep(store: Store, serving: Serving) -> None:
    """Keep what records name by hash, so that they can be explained after it has changed."""
    named = (serving.layout.catalogue, serving.book, serving.splits.experiments)
    kept = {one.hash: one.model_dump_json(by_alias=True).encode() for one in named}
    for name, content in (kept | {TODAY.hash: TODAY.dumps()}).items():
        await store.command_beyond(5.0, "SET", bundle_key(name), content, "NX")


@asynccontextmanager
async def _watched(watch: Watch) -> AsyncIterator[None]:
    """Watch in the background; the first look is over before the body runs."""
    await watch.look()
    try:
        async with _beside(watch.run()):
            yield
    finally:
        await watch.close()


@asynccontextmanager
async def _running(readiness: Readiness) -> AsyncIterator[None]:
    """See whether this process serves: once before it is asked anything, then for as long as it does not."""
    await readiness.look()
    async with _beside(readiness.run()):
        yield


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do something without an end while the body runs."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _end_with_parent() -> None:
    """Have this process end too when the one that started it is killed; elsewhere than on Linux it goes on."""
    if multiprocessing.parent_process() is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_ON_DEATH_OF_PARENT, signal.SIGTERM)


def create() -> FastAPI:
    """The application over the store that CROUPIER_STORE names, for uvicorn's `--factory`."""
    _end_with_parent()
    zones.pin()
    logs.begin()
    app = routes.build(lifespan)
    if (store := environment().store) is None:
        raise SettingError(f"{Environment.store.name} names no store")
    app.state.settings = Settings.here(store)
    # Code and models of bodies live as long as the process, and are most of what a collection of garbage would visit.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 10, 10)
    return app
