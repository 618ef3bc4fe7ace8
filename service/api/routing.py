"""Routing: keys, request bodies, answers and refusals, for every route alike."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, get_type_hints
from urllib.parse import quote

import structlog
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from msgspec import Struct
from msgspec.json import Encoder
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Send
from starlette.types import Scope as HttpScope

from features.errors import CroupierError
from features.store.errors import StoreError
from models.churn.scorer import Scorer
from service.access.keyring import STALE_SECONDS
from service.access.keys import NOBODY, Caller
from service.access.scopes import Scope
from service.api import contract
from service.api.admission import Admission, Turn
from service.api.bounds import BOUNDS
from service.api.callers import Callers, Look
from service.api.door import demand_json
from service.api.house_state import HouseState
from service.api.metrics import Metrics
from service.api.packed import Unpacking
from service.api.problems import AT_THE_DOOR, EVERYWHERE, REFUSALS, Refusals, Refused, invalid, problem, refuse
from service.api.reading import Doubts, legible, parse
from service.api.room import StoreRoom
from service.api.schemas import Problem
from service.api.threaded_loop import Result, ThreadedLoop
from service.api.tracing import Tracing
from service.api.trail import HEADER, follow
from service.contacts.ledger import RedisLedger
from service.decisions.decide import Stages
from service.decisions.serving import Serving
from service.delivery.callbacks import CallbackDoor
from service.delivery.links import NO_LINKS, Links
from service.errors import FaultError, InvalidJsonError, RateLimitedError, TooLargeError, UnauthorisedError

SIGN_IN: Final = "/sign-in"
RESTRICTING_SECONDS: Final = 5.0
"""Deadline of what restricts contact; it is waited for while the store is silent too."""
_ENCODER: Final = Encoder()
_LOG: Final = structlog.get_logger()


@dataclass(repr=False)
class Dependencies:
    """What a route needs: the serving configuration, the ledger with the request's deadline, the callers' keys.

    Attributes:
        serving: What serves now; swapped whole when something is promoted.
        ledger: The ledger, with the deadline of the request.
        restricting_ledger: The same for what restricts contact, over a connection that nothing else takes.
        restricting_loop: The loop of that connection, whatever the serving loop is busy with.
        callers: Who may ask.
        read_seconds: Deadline of a decision that names none.
        write_seconds: Deadline of every request whose route names no other.
        lake: Where records are that the log has no more; None looks nowhere.
        store_url: Address of the store, for what goes to all of its partitions at once.
        metrics: What is counted of what is served.
        tracing: Spans of what is served; None keeps none.
        house: The state of the house, as scrapes are told it.
        asked_at: When the request was there, on the monotonic clock.
        until: When it must have been answered.
        kept: The churn model that was last needed to explain an old decision.
        doubts: Fields of the request's body whose word nobody knows, and how each was read.
        caller: Who sent the request; nobody before they are known.
        admission: Gives places to requests.
        room: Knows whether the store is nearly full.
        delivers: Channels on which the house sends by itself.
        delivers_unasked: Whether it does for a request that does not say.
        callbacks: Reads what providers call back.
        links: Reads the tokens in links of messages.
    """

    serving: Serving
    ledger: RedisLedger
    restricting_ledger: RedisLedger
    restricting_loop: ThreadedLoop
    callers: Callers
    room: StoreRoom
    read_seconds: float
    write_seconds: float
    lake: Path | None = None
    store_url: str = ""
    metrics: Metrics = field(default_factory=Metrics)
    tracing: Tracing | None = None
    house: HouseState | None = None
    asked_at: float = 0.0
    until: float = inf
    kept: dict[str, Scorer] = field(default_factory=dict)
    doubts: Doubts = field(default_factory=dict)
    caller: Caller = NOBODY
    admission: Admission = field(default_factory=Admission)
    delivers: frozenset[str] = frozenset()
    delivers_unasked: bool = False
    callbacks: CallbackDoor = field(default_factory=CallbackDoor)
    links: Links = NO_LINKS

    def asked(self, caller: Caller = NOBODY) -> Dependencies:
        """The dependencies of a request that arrived now."""
        until = (now := time.monotonic()) + self.write_seconds
        return self._with(asked_at=now, until=until, ledger=self.ledger.by(until), caller=caller)

    async def renew(self, at: float) -> None:
        """Read the keys anew for a request that arrived at a moment; raises StoreError."""
        await self.callers.keyring.renew(at, at + self.write_seconds)

    async def renew_soon(self, at: float) -> None:
        """The same within the time that a decision has."""
        await self.callers.keyring.renew(at, at + self.read_seconds)

    async def renew_if_it_answers(self, at: float) -> None:
        """The same for what is answered while the store is silent: to keys that were seen last."""
        with suppress(StoreError):
            await self.renew_soon(at)

    async def renew_aside(self, at: float) -> None:
        """The same for what may restrict contact, for which nothing else is in the way."""
        deps, until = self._with(asked_at=at), at + RESTRICTING_SECONDS
        await deps.restricting(lambda ledger: self.callers.keyring.renew(at, until, ledger.store))

    async def restricting(self, work: Callable[[RedisLedger], Coroutine[Any, Any, Result]]) -> Result:
        """Do what restricts contact: it has the longest deadline, and nothing else stands before it."""
        return await self.restricting_loop.run(work(self.restricting_ledger.by(self.asked_at + RESTRICTING_SECONDS)))

    async def in_turn(self, turn: Turn, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Do some work when there is a place for it.

        Raises:
            OverloadedError: It could not be done in time.
            StoreFullError: It would need room in the store that is kept for what restricts contact.
        """
        if turn is not Turn.CONFIRM:
            self.room.demand()
        await self.admission.enter(turn, self.caller.id, self.until)
        try:
            return await work()
        finally:
            self.admission.leave(turn)

    def stages(self) -> Stages:
        """What notes how a decision passes its stages."""
        return Stages(time.perf_counter) if self.tracing is None else self.tracing.stages(time.perf_counter)

    def within(self, seconds: float) -> Dependencies:
        """The same for a request that must be answered so long after it was there."""
        until = self.asked_at + seconds
        return self._with(ledger=self.ledger.by(until), until=until)

    def _with(self, **changed: Any) -> Dependencies:  # noqa: ANN401 - fields of every type
        """A copy with some fields changed; `dataclasses.replace` takes three times as long, twice a request."""
        made = object.__new__(Dependencies)
        made.__dict__.update(self.__dict__, **changed)
        return made


def respond(body: Struct, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(_ENCODER.encode(body), status, media_type="application/json")


def _parse(adapter: TypeAdapter[Any], body: bytes, deps: Dependencies, operation: Operation) -> tuple[Any, Doubts]:
    try:
        return parse(adapter, body, deps.serving.door)
    except ValidationError as error:
        refusal = invalid(error, adapter)
        if operation.costs is not None and isinstance(refusal, InvalidJsonError):
            with suppress(ValidationError):  # of many, one that is no text spoils only itself
                return parse(adapter, legible(body), deps.serving.door)
        raise refusal from error


async def retriable(work: Coroutine[Any, Any, Result]) -> Result:
    """Do what may be asked again under the same id, and say so where the store fails."""
    try:
        return await work
    except StoreError as error:
        told = StoreError(f"{error}; a retry under the same id is safe")
        told.beside = error.beside
        raise told from error


async def settled(work: Coroutine[Any, Any, Result], deps: Dependencies, what: str) -> Result | Problem:
    """The answer of an item of a batch, or a problem in its place: one item spoils nothing, and a fault is logged."""
    try:
        return await retriable(work)
    except REFUSALS as error:
        refusal: CroupierError = error
    except Exception:  # noqa: BLE001 - a caller gets a problem, never a traceback
        _LOG.exception("fault", route=what)
        refusal = FaultError()
    deps.metrics.refused(refusal)
    return problem(refusal)


class Route(APIRoute):
    """A route that parses the body itself: FastAPI documents it, but its per-request machinery is not paid for."""

    operation: Operation

    async def handle(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        """Answer, without the stacks of things to close that FastAPI puts around an endpoint: there are none."""
        if scope["method"] not in (self.methods or ()):
            raise HTTPException(405)
        answered = await self._answer(Request(scope, receive))
        await answered(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler: caller, body, endpoint, problem."""
        endpoint, operation = self.endpoint, self.operation
        hints = get_type_hints(endpoint, include_extras=True)
        adapter = TypeAdapter(hints["body"]) if "body" in hints else None
        parameters = inspect.signature(endpoint).parameters
        named = [name for name in self.param_convertors if name in parameters]
        queried = [name for name in parameters if name not in {"deps", "body", *named}]

        async def handle(request: Request) -> Response:
            try:
                found = dependencies_of(request)
                caller, limited = await _admitted(request, operation, found)
                arguments = {name: request.path_params[name] for name in named}
                arguments |= {name: request.query_params[name] for name in queried if name in request.query_params}
                if adapter is not None:
                    packed = demand_json(request.scope["headers"])
                    arrived, body = time.monotonic(), await (unpacked_body_of if packed else body_of)(request)
                    if time.monotonic() - arrived >= STALE_SECONDS:  # a key must not outlive its end by a slow body
                        caller, limited = await _admitted(request, operation, found)
                deps = found.asked(caller)
                if adapter is not None:
                    arguments["body"], deps.doubts = _parse(adapter, body, deps, operation)
                    _count(arguments["body"], operation, deps, limited)
                work: Callable[[], Coroutine[Any, Any, Response]] = partial(endpoint, deps=deps, **arguments)
                if operation.turn is not None and not (operation.spares and operation.spares(arguments["body"])):
                    work = partial(deps.in_turn, operation.turn, work)
                answered = await retriable(work())
            except UnauthorisedError as refusal:
                answered = _signs_in(request, operation) or refuse(refusal)
            except REFUSALS as refusal:
                answered = refuse(refusal)
            except ClientDisconnect:
                raise  # to the door: there is nobody to answer
            except Exception:  # noqa: BLE001 - a caller gets a problem, never a traceback
                _LOG.exception("fault", route=self.path)
                answered = refuse(FaultError())
            return answered

        self._answer = _observed(handle, self.path)
        return self._answer


def keyless(
    endpoint: Callable[[Request, Dependencies], Coroutine[Any, Any, Response]], path: str
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """The handler of a route that asks for no key, and looks at the request itself."""

    async def handle(request: Request) -> Response:
        try:
            return await endpoint(request, dependencies_of(request).asked())
        except REFUSALS as refusal:
            return refuse(refusal)
        except ClientDisconnect:
            raise
        except Exception:  # noqa: BLE001 - a caller gets a problem, never a traceback
            _LOG.exception("fault", route=path)
            return refuse(FaultError())

    observed = _observed(handle, path)
    observed.__name__ = endpoint.__name__  # its page names operations by it
    return observed


def _observed(
    handle: Callable[[Request], Coroutine[Any, Any, Response]], path: str
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """A route's handler with the ids of each request bound and answered, the request counted, and traced if wanted."""

    async def observed(request: Request) -> Response:
        begun = time.perf_counter()
        trail, deps = follow(request.scope["headers"]), dependencies_of(request)
        try:
            if deps.tracing is None:
                answered = await handle(request)
            else:
                answered = await deps.tracing.request(request.method, path, trail, handle(request))
        except ClientDisconnect:
            deps.metrics.disconnected(path)
            raise
        if isinstance(answered, Refused):
            deps.metrics.refused(answered.error)
        answered.raw_headers.append((HEADER, trail.request_id))
        deps.metrics.answered(path, request.method, answered.status_code, time.perf_counter() - begun)
        return answered

    return observed


async def _admitted(
    request: Request, operation: Operation, deps: Dependencies
) -> tuple[Caller, RateLimitedError | None]:
    """The caller of a request, who may do this, and why they would have to wait.

    Raises what `Callers.admitted` does, and RateLimitedError unless what the body says is to be known first.
    """
    renew = _renewal(operation, deps)
    scope: Any = operation.scope  # of an operation that asks for a key
    caller = await deps.callers.admitted(request, scope, renew)
    if caller.rate is None or operation.costs is not None:
        return caller, None
    limited = deps.callers.limited(caller)
    if limited is not None and operation.spares is None:
        raise limited
    return caller, limited


def _renewal(operation: Operation, deps: Dependencies) -> Look:
    """How keys are read anew for an operation, where they were read too long ago."""
    if operation.storeless:
        return deps.renew_if_it_answers
    if operation.spares:
        return deps.renew_aside
    return deps.renew_soon if operation.hurried else deps.renew


def _count(body: Any, operation: Operation, deps: Dependencies, limited: RateLimitedError | None) -> None:  # noqa: ANN401 - of the operation's type
    """Raise RateLimitedError for a body that must wait: never for one that restricts contact."""
    if operation.costs is not None:
        limited = deps.callers.limited(deps.caller, operation.costs(body))
    if limited is not None and not (operation.spares and operation.spares(body)):
        raise limited


def _signs_in(request: Request, operation: Operation) -> Response | None:
    """Where a browser is sent that asks for a page without a key; None for whoever is none."""
    if operation.answer != "text/html" or "text/html" not in request.headers.get("accept", ""):
        return None
    asked = quote(request.url.path + (f"?{request.url.query}" if request.url.query else ""), safe="/")
    return RedirectResponse(f"{SIGN_IN}?next={asked}", 303)


async def body_of(request: Request, most_bytes: int = BOUNDS.body_bytes) -> bytes:
    """The body of a request; raises TooLargeError."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise TooLargeError(f"a body has at most {most_bytes} bytes")
    return bytes(body)


async def unpacked_body_of(request: Request) -> bytes:
    """The body of a gzipped request, unpacked; raises TooLargeError and InvalidGzipError."""
    body, unpacking = bytearray(), Unpacking(BOUNDS.unpacked_bytes)
    async for chunk in request.stream():
        unpacking.add(body, chunk)
    unpacking.end()
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
        answer: The struct of its answer, or the media type of what is no JSON; None where `meanwhile` is all.
        refusals: Errors that it may answer with.
        method: GET, POST or DELETE.
        spares: Whether a body restricts contact, so that no rate keeps it out; None where none does.
        costs: How many requests a body counts for; None where every one is one.
        hurried: Whether it has the deadline of a decision.
        storeless: Whether it is answered while the store is silent.
        turn: Its class at admission; None where it needs no place, or takes one itself.
        meanwhile: The struct of its answer while what was asked for is being made, which has status 202.
        keyless: Whether its endpoint looks at the request itself, which carries no key.
    """

    path: str
    endpoint: Callable[..., Any]
    tag: str
    scope: Scope | None
    answer: type[Struct] | str | None
    refusals: Refusals
    method: str = "GET"
    spares: Callable[[Any], bool] | None = None
    costs: Callable[[Any], int] | None = None
    hurried: bool = False
    storeless: bool = False
    turn: Turn | None = None
    meanwhile: type[Struct] | None = None
    keyless: bool = False


def add_route(app: FastAPI, operation: Operation) -> None:
    """Add a route."""
    told, _, more = (inspect.getdoc(operation.endpoint) or "").partition("\n")
    keyed = operation.scope is not None
    app.router.add_api_route(
        operation.path,
        keyless(operation.endpoint, operation.path) if operation.keyless else operation.endpoint,
        methods=[operation.method],
        status_code=202 if operation.answer is None else 200,
        response_class=Response,
        responses=contract.responses(
            operation.answer,
            operation.refusals + (EVERYWHERE if keyed else AT_THE_DOOR),
            keyed=keyed,
            meanwhile=operation.meanwhile,
        ),
        route_class_override=type("Route", (Route,), {"operation": operation}) if keyed else APIRoute,
        summary=told.rstrip("."),
        description=more.strip(),
        tags=[operation.tag],
        openapi_extra=None if operation.scope is None else {"security": contract.security(operation.scope)},
    )
