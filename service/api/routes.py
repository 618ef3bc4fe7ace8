"""The application with all routes of the API. Every write is idempotent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.routing import Match
from starlette.types import ASGIApp, Scope

from service.api import (
    callbacks,
    contract,
    decisions,
    events,
    explorer,
    front,
    inbox,
    keys,
    links,
    operation,
    personal,
    players,
    reports,
    sign_in,
    stops,
)
from service.api.door import Doorkeeper
from service.api.problems import refuse
from service.api.routing import Route, dependencies_of
from service.errors import NoSuchMethodError, NoSuchRouteError, RequestRefused

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]


def build(lifespan: Lifespan) -> FastAPI:
    """The application with all its routes."""
    app = FastAPIOffline(
        title="Croupier",
        version="1",
        lifespan=lifespan,
        description=contract.ABOUT,
        openapi_tags=contract.TAGS,
        redirect_slashes=False,
        docs_url=None,  # see `explorer`
        exception_handlers={404: _no_route, 405: _no_method},
    )
    # In the order in which a request looks for its route.
    for noun in (
        *(decisions, events, players, personal, reports, stops, inbox, callbacks),
        *(operation, keys, links, sign_in, front, explorer),
    ):
        noun.add(app)
    contract.describe(app)
    app.middleware_stack = Doorkeeper(app.build_middleware_stack(), dict(_direct(app)))
    return app


def _direct(app: FastAPI) -> Iterator[tuple[tuple[str, str], ASGIApp]]:
    """Routes that the door leads to itself, by method and path."""
    for route in app.routes:
        if isinstance(route, Route) and not route.param_convertors:
            yield from (((method, route.path), route.handle) for method in route.methods or ())


async def _no_route(request: Request, _: Exception) -> Response:
    return _refused(request, NoSuchRouteError(f"{request.scope['path']} is no route; see /docs"))


async def _no_method(request: Request, _: Exception) -> Response:
    sentence = f"{request.method} is not for {request.scope['path']}; see /docs"
    return _refused(request, NoSuchMethodError(sentence, allowed(request.app, request.scope)))


def _refused(request: Request, error: RequestRefused) -> Response:
    """The answer of what reaches no route, counted."""
    dependencies_of(request).metrics.refused(error)
    return refuse(error)


def allowed(app: FastAPI, scope: Scope) -> list[str]:
    """The methods of all routes of a path."""
    matching = [route for route in app.routes if route.matches(scope)[0] is not Match.NONE]
    methods = {method for route in matching for method in getattr(route, "methods", None) or ()}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))
