"""Wiring of the serving process: one lifespan opens, watches and closes everything."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI

from features import zones
from features.files import CatalogueError
from features.read_plan import ReadPlan
from features.schema import schema_hash
from features.settings.environment import Environment, SettingError, environment
from features.store.bundles import KINDS, READY
from features.store.connection import Store
from features.store.deployment import House
from features.store.errors import StoreError
from features.store.keys import LIVE, bundle_key, live_key, pointer_key
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import load_catalogue
from models.churn.scorer import ChurnBundle, Scorer
from models.policy.learned import LearnedPolicy, PolicyVersion
from models.policy.policy import BusinessRules, Priority, Uniform, priorities
from service.api import routes
from service.api.readiness import Readiness
from service.api.routing import Dependencies
from service.api.threaded_loop import ThreadedLoop
from service.contacts.ledger import RedisLedger, finish_fetches
from service.decisions.serving import Serving
from service.rules.compiler import CompiledRulebook
from service.rules.rulebook import Rulebook, load_rulebook
from service.settings import Settings

POLL_SECONDS = 0.2
"""A promotion or rollback waits for every process to look; two small reads a look."""
REPORT_SECONDS = 1.0
LIVE_SECONDS = 5
CONNECTIONS = 8
SPARE_CONNECTIONS = 4
"""Kept for what restricts contact, so that nothing else stands before it."""

_LOG = structlog.get_logger()


def serving_of_files(house: House, where: Settings) -> Serving:
    """What the files hold, before any bundle is loaded; raises CatalogueError if a file is not valid."""
    catalogue, book = load_catalogue(where.catalogue), load_rulebook(where.rules)
    if strange := book.unknown_tags(catalogue):
        raise CatalogueError("; ".join(f"{where.catalogue.name}: offer {offer}: {what}" for offer, what in strange))
    ranks = priorities(catalogue)
    return Serving(
        house=house,
        plan=None,
        law=CompiledRulebook(book, CandidateSpace(catalogue)),
        policies={
            "policy": Uniform(catalogue.size),
            "business_rules": BusinessRules(ranks, catalogue.exploration_floor),
            "uniform": Uniform(catalogue.size),
            "priority": Priority(ranks),
        },
        churn=None,
    )


class Watch:
    """Loads what the store's pointers name, swaps it in whole, and reports what serves."""

    def __init__(self, store: Store, deps: Dependencies, readiness: Readiness) -> None:
        self._store = store
        self._desk = deps
        self._readiness = readiness
        self._law = deps.serving.law
        self._serving: dict[str, str] = {}
        self._refused: dict[str, str] = {}
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
        away = [trouble for kind in KINDS if (trouble := await self._follow(kind))]
        if away and self._begins:
            raise away[0]  # what was never read must not be taken for what was never set
        self._begins = False
        await self._report()
        if away:
            raise away[0]

    async def _report(self) -> None:
        at, reported = self._reported
        serving = self._serving | ({} if self._readiness.trouble else {READY: "yes"})
        if reported == serving and time.monotonic() - at < REPORT_SECONDS:
            return
        await self._store.command(2.0, "SET", self._name, msgspec.json.encode(serving), "EX", LIVE_SECONDS)
        await self._store.command(2.0, "SADD", LIVE, self._name)
        self._reported = (time.monotonic(), serving)

    async def _follow(self, kind: str) -> StoreError | None:
        """Load a kind if its pointer moved; the trouble if that cannot be known now, which holds up no other kind."""
        try:
            found = await self._store.command(2.0, "GET", pointer_key(kind))
            digest = found.decode() if found else ""
            if digest not in {self._serving.get(kind, ""), self._refused.get(kind)}:
                await self._load(kind, digest)
        except StoreError as error:
            return error
        return None

    async def close(self) -> None:
        """Withdraw the report."""
        with suppress(StoreError):
            await self._store.command(2.0, "DEL", self._name)

    async def _load(self, kind: str, digest: str) -> None:
        bundle = await self._store.command(2.0, "GET", bundle_key(digest)) if digest else None
        if digest and (bundle is None or hashlib.sha256(bundle).hexdigest() != digest):
            _LOG.error("bundle", kind=kind, digest=digest, trouble="missing or damaged; the old one goes on serving")
            return
        try:
            # Reading a model takes tens of milliseconds, in which others must be answered.
            self._swap(await asyncio.to_thread(self._read, kind, bundle))
        except Exception as error:  # noqa: BLE001 - whatever a bundle holds, the old one goes on and others are looked for
            self._refused[kind] = digest  # what cannot be read once cannot be read again
            _LOG.error("bundle", kind=kind, digest=digest, trouble=f"{type(error).__name__}: {error}")
            if kind == "rules" and self._begins:
                # Nothing of it ever served here: the files' rules may allow what it forbids.
                self._swap({"lawful": False})
            return
        self._serving[kind] = digest
        self._refused.pop(kind, None)
        serving = self._desk.serving
        barred = serving.barred(serving.house.now_us(time.time_ns() // 1_000))
        _LOG.info("serving", kind=kind, digest=digest[:12], **({"business_rules_in": sorted(barred)} if barred else {}))

    def _swap(self, change: Mapping[str, Any]) -> None:
        self._desk.serving = replace(self._desk.serving, **change)

    def _read(self, kind: str, bundle: bytes | None) -> dict[str, Any]:
        """A bundle as the field of `Serving` that it fills; raises ValueError if it is not one."""
        if kind == "rules":
            return {"law": self._law if bundle is None else _law(bundle, self._desk.serving.layout), "lawful": True}
        if kind == "plan":
            return {"plan": None if bundle is None else _own_plan(bundle)}
        if kind == "churn":
            return {"churn": None if bundle is None else Scorer(ChurnBundle.loads(bundle))}
        serving = self._desk.serving
        catalogue = serving.layout.catalogue
        chosen = Uniform(catalogue.size) if bundle is None else LearnedPolicy(PolicyVersion.loads(bundle), catalogue)
        return {"policies": {**serving.policies, "policy": chosen}}


def _law(bundle: bytes, layout: CandidateSpace) -> CompiledRulebook:
    """A rulebook as it was promoted, compiled for the catalogue."""
    return CompiledRulebook(Rulebook.model_validate_json(bundle), layout)


def _own_plan(bundle: bytes) -> ReadPlan:
    plan = ReadPlan.loads(bundle)
    if plan.schema_hash != schema_hash():
        raise ValueError(f"the plan was compiled for schema {plan.schema_hash}, this build has {schema_hash()}")
    return plan


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the store, load files and bundles, watch for new ones; close all at the end."""
    where: Settings = app.state.settings
    store = Store(where.store, CONNECTIONS)
    try:
        house = await store.house()
        serving = serving_of_files(house, where)
        await _keep(store, serving)
        async with _spare(where.store) as (spare, restricting_loop):
            ledgers = RedisLedger(store, house), RedisLedger(spare, house)
            deps = Dependencies(
                serving, *ledgers, restricting_loop, frozenset(where.keys), where.read_seconds, where.write_seconds
            )
            readiness = Readiness(deps)
            async with _watched(Watch(store, deps, readiness)), _running(readiness):
                app.state.deps, app.state.readiness = deps, readiness
                yield
    finally:
        await finish_fetches()
        await store.close()


@asynccontextmanager
async def _spare(url: str) -> AsyncIterator[tuple[Store, ThreadedLoop]]:
    """The store over connections of their own, and where they may be used."""
    async with ThreadedLoop() as restricting_loop:
        spare = Store(url, SPARE_CONNECTIONS)
        try:
            yield spare, restricting_loop
        finally:
            await restricting_loop.run(spare.close())


async def _keep(store: Store, serving: Serving) -> None:
    """Keep catalogue and rules by their hashes: records name them, and must be explained after they have changed."""
    for kept in (serving.layout.catalogue, serving.book):
        await store.command(5.0, "SET", bundle_key(kept.hash), kept.model_dump_json(by_alias=True), "NX")


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


def create() -> FastAPI:
    """The application over the store that CROUPIER_STORE names, for uvicorn's `--factory`."""
    zones.pin()
    app = routes.build(lifespan)
    if (store := environment().store) is None:
        raise SettingError(f"{Environment.store.name} names no store")
    app.state.settings = Settings.here(store)
    return app
