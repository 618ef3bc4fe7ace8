"""The application with all routes of the API. Every write is idempotent."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline

from service.api import contract, decisions, events, operation, players, reports
from service.api.problems import refuse
from service.errors import NoSuchMethodError, NoSuchRouteError

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
_PAGE: Final[dict[str, Any]] = {"defaultModelsExpandDepth": 0, "displayRequestDuration": True}
"""How the page at /docs shows itself: schemas folded, the way of each request timed."""


def build(lifespan: Lifespan) -> FastAPI:
    """The application with all its routes."""
    app = FastAPIOffline(
        title="Croupier",
        version="1",
        lifespan=lifespan,
        description=contract.ABOUT,
        openapi_tags=contract.TAGS,
        redirect_slashes=False,
        swagger_ui_parameters=_PAGE,
        exception_handlers={404: _no_route, 405: _no_method},
    )
    for noun in (events, decisions, players, reports, operation):
        noun.add(app)
    contract.describe(app)
    return app


async def _no_route(request: Request, _: Exception) -> Response:
    return refuse(NoSuchRouteError(f"{request.url.path} is no route; see /docs"))


async def _no_method(request: Request, _: Exception) -> Response:
    return refuse(NoSuchMethodError(f"{request.method} is not for {request.url.path}; see /docs"))
