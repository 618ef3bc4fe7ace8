"""Routing: keys, request bodies, answers and refusals, for every route alike."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, get_type_hints

import orjson
import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute
from msgspec import Struct, to_builtins
from prometheus_client import Histogram
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect
from structlog.contextvars import clear_contextvars

from features.store.errors import StoreError
from models.churn.scorer import Scorer
from service.access.scopes import Scope
from service.api import contract
from service.api.bounds import BOUNDS
from service.api.door import demand_json
from service.api.problems import AT_THE_DOOR, EVERYWHERE, REFUSALS, Refusals, invalid, refuse
from service.api.reading import Doubts, parse
from service.api.threaded_loop import Result, ThreadedLoop
from service.contacts.ledger import RedisLedger
from service.decisions.serving import Serving
from service.errors import FaultError, TooLargeError, UnauthorisedError

RESTRICTING_SECONDS: Final = 5.0
"""Deadline of what restricts contact; it is waited for while the store is silent too."""
_LOG: Final = structlog.get_logger()
SECONDS: Final = Histogram(
    "croupier_request_seconds",
    "Time to answer",
    ["route"],
    buckets=(0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 2.5, 5),
)


@dataclass(repr=False)
class Dependencies:
    """What a route needs: the serving configuration, the ledger with the request's deadline, the callers' keys.

    Attributes:
        serving: What serves now; swapped whole when something is promoted.
        ledger: The ledger, with the deadline of the request.
        restricting_ledger: The same for what restricts contact, over connections that nothing else takes.
        restricting_loop: The loop of those connections, whatever the serving loop is busy with.
        keys: The callers' keys.
        read_seconds: Deadline of a decision that names none.
        write_seconds: Deadline of every request whose route names no other.
        lake: Where records are that the log has no more; None looks nowhere.
        asked_at: When the request was there, on the monotonic clock.
        until: When it must have been answered.
        kept: The churn model that was last needed to explain an old decision.
        doubts: Fields of the request's body whose word nobody knows, and how each was read.
    """

    serving: Serving
    ledger: RedisLedger
    restricting_ledger: RedisLedger
    restricting_loop: ThreadedLoop
    keys: frozenset[str]
    read_seconds: float
    write_seconds: float
    lake: Path | None = None
    asked_at: float = 0.0
    until: float = inf
    kept: dict[str, Scorer] = field(default_factory=dict)
    doubts: Doubts = field(default_factory=dict)

    def asked(self) -> Dependencies:
        """The dependencies of a request that arrived now."""
        now = time.monotonic()
        return replace(self, asked_at=now, until=(until := now + self.write_seconds), ledger=self.ledger.by(until))

    async def restricting(self, work: Callable[[RedisLedger], Coroutine[Any, Any, Result]]) -> Result:
        """Do what restricts contact: it has the longest deadline, and nothing else stands before it."""
        return await self.restricting_loop.run(work(self.restricting_ledger.by(self.asked_at + RESTRICTING_SECONDS)))

    def within(self, seconds: float) -> Dependencies:
        """The same for a request that must be answered so long after it was there."""
        until = self.asked_at + seconds
        return replace(self, ledger=self.ledger.by(until), until=until)


def respond(body: Struct) -> Response:
    """Answer with JSON."""
    return Response(orjson.dumps(to_builtins(body)), media_type="application/json")


def _parse(adapter: TypeAdapter[Any], body: bytes, deps: Dependencies) -> tuple[Any, Doubts]:
    try:
        return parse(adapter, body, deps.serving.door)
    except ValidationError as error:
        raise invalid(error) from error


async def retriable(work: Coroutine[Any, Any, Result]) -> Result:
    """Do what may be asked again under the same id, and say so where the store fails."""
    try:
        return await work
    except StoreError as error:
        raise StoreError(f"{error}; a retry under the same id is safe") from error


class Route(APIRoute):
    """A route that parses the body itself: FastAPI documents it, but its per-request machinery is not paid for."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler: keys, body, endpoint, problem."""
        endpoint = self.endpoint
        hints = get_type_hints(endpoint, include_extras=True)
        adapter = TypeAdapter(hints["body"]) if "body" in hints else None
        timer = SECONDS.labels(self.path)
        parameters = inspect.signature(endpoint).parameters
        named = [name for name in self.param_convertors if name in parameters]
        queried = [name for name in parameters if name not in {"deps", "body", *named}]

        async def handle(request: Request) -> Response:
            begun = time.perf_counter()
            clear_contextvars()  # a pipelined request begins within the one before it
            try:
                deps = dependencies_of(request)
                _authorise(request, deps)
                arguments = {name: request.path_params[name] for name in named}
                arguments |= {name: request.query_params[name] for name in queried if name in request.query_params}
                body = b"" if adapter is None else await _body(request)
                deps = deps.asked()
                if adapter is not None:
                    arguments["body"], deps.doubts = _parse(adapter, body, deps)
                answered: Response = await retriable(endpoint(deps=deps, **arguments))
            except REFUSALS as refusal:
                answered = refuse(refusal)
            except ClientDisconnect:
                raise  # to the door: there is nobody to answer
            except Exception:  # noqa: BLE001 - a caller gets a problem, never a traceback
                _LOG.exception("fault", route=self.path)
                answered = refuse(FaultError())
            timer.observe(time.perf_counter() - begun)
            return answered

        return handle


def _authorise(request: Request, deps: Dependencies) -> None:
    if not deps.keys:
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or key not in deps.keys:
        raise UnauthorisedError


async def _body(request: Request) -> bytes:
    demand_json(request.headers)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BOUNDS.body_bytes:
            raise TooLargeError(f"a body has at most {BOUNDS.body_bytes} bytes")
    return bytes(body)


def dependencies_of(request: Request) -> Dependencies:
    """The dependencies of the application that a request reached."""
    deps: Dependencies = request.app.state.deps
    return deps


Deps = Annotated[Dependencies, Depends(dependencies_of)]


class Operation(NamedTuple):
    """An operation of the API as its page tells it.

    Attributes:
        path: With `{name}` for each parameter.
        endpoint: What answers; the first line of its docstring is the summary, the rest the description.
        tag: Under which heading it stands.
        scope: What the caller's key must allow; None asks for no key.
        answer: The struct of its answer, or the media type of what is no JSON.
        refusals: Errors that it may answer with.
        method: GET, POST or DELETE.
    """

    path: str
    endpoint: Callable[..., Any]
    tag: str
    scope: Scope | None
    answer: type[Struct] | str
    refusals: Refusals
    method: str = "GET"


def add_route(app: FastAPI, operation: Operation) -> None:
    """Add a route."""
    told, _, more = (inspect.getdoc(operation.endpoint) or "").partition("\n")
    keyed = operation.scope is not None
    app.router.add_api_route(
        operation.path,
        operation.endpoint,
        methods=[operation.method],
        response_class=Response,
        responses=contract.responses(operation.answer, operation.refusals + (EVERYWHERE if keyed else AT_THE_DOOR)),
        route_class_override=Route if keyed else APIRoute,
        summary=told.rstrip("."),
        description=more.strip(),
        tags=[operation.tag],
        openapi_extra={"security": contract.SECURITY} if keyed else None,
    )
