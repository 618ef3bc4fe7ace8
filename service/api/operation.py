"""Operation at the HTTP door: whether the process is alive and serves, and its counters."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request, Response

from features.errors import CroupierError
from features.moments import when
from features.store.errors import StoreError
from service.api.metrics import MEDIA_TYPE
from service.api.problems import REFUSALS, refuse
from service.api.readiness import Readiness
from service.api.routing import Dependencies, Deps, Operation, add_route, dependencies_of, respond
from service.api.schemas import HealthAnswer, HouseClock, ReadyAnswer, StoreReach
from service.errors import NoDefinitionsError, NotReadyError


async def get_health() -> Response:
    """Whether the process is alive."""
    return respond(HealthAnswer(alive=True))


async def get_ready(request: Request) -> Response:
    """Whether the process serves.

    It does once it was seen to decide and to write in time, and while some of the store answers. What it serves, what
    is away, or why it does not serve, is told to who sends a key that allows `operate`.
    """
    found = dependencies_of(request)
    told = await found.callers.may(request, "operate", found.renew_soon)
    try:
        answer = await _ready(request, found.asked())
    except REFUSALS as refusal:
        return refuse(refusal if told else _without_detail(refusal))
    return respond(answer if told else ReadyAnswer(ready=answer.ready))


async def serves(request: Request) -> bool:
    """Whether the process serves, for who is told no more."""
    try:
        await _ready(request, dependencies_of(request).asked())
    except REFUSALS:
        return False
    return True


async def _ready(request: Request, deps: Dependencies) -> ReadyAnswer:
    """What the process serves; raises StoreError, NoDefinitionsError or NotReadyError."""
    readiness: Readiness = request.app.state.readiness
    try:
        now_us = await deps.ledger.now_us()
        nodes, away = await deps.ledger.store.reach()
    except StoreError as error:
        readiness.trouble = str(error)
        raise
    serving = deps.serving
    if serving.plan is None:
        raise NoDefinitionsError
    if readiness.trouble is not None:
        raise NotReadyError(f"not yet seen to serve in time: {readiness.trouble}")
    return ReadyAnswer(
        ready=True,
        store=StoreReach(nodes=nodes, partitions_away=away, memory_share=round(deps.room.used, 3)),
        churn_model=None if serving.churn is None else serving.churn.bundle.version,
        policy=serving.policies["learnt"].version,
        rulebook=serving.book.hash,
        barred=serving.barred(now_us),
        clock=HouseClock(now=when(now_us), rate=serving.house.rate, sandbox=serving.house.sandbox),
    )


def _without_detail(refusal: CroupierError) -> CroupierError:
    """A refusal by its code alone: what is the matter is for those who operate the house."""
    return type(refusal)("not ready: who sends a key that allows `operate` is told why")


async def get_metrics(deps: Deps) -> Response:
    """Counters and timings in Prometheus' text format."""
    house = [] if deps.house is None else await deps.house.families()
    # Adding up takes milliseconds, in which others must be answered.
    return Response(await asyncio.to_thread(deps.metrics.told, house), media_type=MEDIA_TYPE)


def add(app: FastAPI) -> None:
    """Add the routes to an application; the first two ask for no key."""
    not_ready = StoreError, NoDefinitionsError, NotReadyError
    for operation in (
        Operation("/healthz", get_health, "Operate", None, HealthAnswer, ()),
        Operation("/readyz", get_ready, "Operate", None, ReadyAnswer, not_ready),
        Operation("/metrics", get_metrics, "Operate", "operate", "text/plain", (), storeless=True),
    ):
        add_route(app, operation)
