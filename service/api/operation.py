"""Operation at the HTTP door: whether the process is alive and serves, and its counters."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from features.moments import when
from features.store.errors import StoreError
from service.api.problems import refuse
from service.api.readiness import Readiness
from service.api.routing import Operation, add_route, dependencies_of, respond
from service.api.schemas import HealthAnswer, HouseClock, ReadyAnswer, StoreReach
from service.errors import NoDefinitionsError, NotReadyError


async def get_health() -> Response:
    """Whether the process is alive."""
    return respond(HealthAnswer(alive=True))


async def get_ready(request: Request) -> Response:
    """Whether the process serves, and what.

    It does once it was seen to decide and to write in time, and while some of the store answers; the rest is named.
    """
    deps = dependencies_of(request).asked()
    readiness: Readiness = request.app.state.readiness
    try:
        now_us = await deps.ledger.now_us()
        nodes, away = await deps.ledger.store.reach()
    except StoreError as error:
        readiness.trouble = str(error)
        return refuse(error)
    serving = deps.serving
    if serving.plan is None:
        return refuse(NoDefinitionsError())
    if readiness.trouble is not None:
        return refuse(NotReadyError(f"not yet seen to serve in time: {readiness.trouble}"))
    return respond(
        ReadyAnswer(
            ready=True,
            store=StoreReach(nodes=nodes, partitions_away=away),
            churn_model=None if serving.churn is None else serving.churn.bundle.version,
            policy=serving.policies["learnt"].version,
            rulebook=serving.book.hash,
            barred=serving.barred(now_us),
            clock=HouseClock(now=when(now_us), rate=serving.house.rate, sandbox=serving.house.sandbox),
        )
    )


async def get_metrics() -> Response:
    """Counters and timings in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def add(app: FastAPI) -> None:
    """Add the routes to an application; they ask for no key."""
    not_ready = StoreError, NoDefinitionsError, NotReadyError
    for operation in (
        Operation("/healthz", get_health, "Operate", None, HealthAnswer, ()),
        Operation("/readyz", get_ready, "Operate", None, ReadyAnswer, not_ready),
        Operation("/metrics", get_metrics, "Operate", None, "text/plain", ()),
    ):
        add_route(app, operation)
