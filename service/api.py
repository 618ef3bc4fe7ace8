"""The HTTP door: bodies in, answers and problems out. Every write is idempotent; errors follow RFC 9457."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_type_hints

import orjson
import structlog
from fastapi import Depends, FastAPI, Path, Request, Response
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from features.events import AnyEvent
from features.store import StoreError, order
from models.actions import Catalogue
from service import answer, log
from service.confirm import Revoked, confirm
from service.decide import Answered, Contended, DecisionRequest, RequestReused, Table, Unread, decide
from service.know import Refused, know
from service.ledger import Keys, RedisLedger
from service.log import Record
from service.outcomes import Outcome, take

BODY_BYTES: Final = 256 * 1024
AFTER_SECONDS: Final = 0.5
_AFTER_STEP: Final = 0.005
BATCH_MOST: Final = 500
_LOG: Final = structlog.get_logger()

DECISIONS: Final = Counter("croupier_decisions", "Decisions answered", ["variant", "action", "recorded"])
EXCLUSIONS: Final = Counter("croupier_exclusions", "Decisions in which a rule or cap excluded something", ["rule"])
SECONDS: Final = Histogram(
    "croupier_request_seconds",
    "Time to answer",
    ["route"],
    buckets=(0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.5, 2.5),
)


@dataclass
class Desk:
    """What a request needs: the table (swapped whole when something is promoted), the ledger, the callers' keys."""

    table: Table
    ledger: RedisLedger
    keys: frozenset[str]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class Offered(_Answer):
    """What to send: the offer, how, and from when."""

    offer: dict[str, Any]
    channel: str
    timing_slot: str
    purpose: str
    send_at: str


class DecisionAnswer(_Answer):
    """What now for this player: an action with its exact probability, or to leave the player alone."""

    decision_id: str | None = Field(description="Null when nothing was recorded.")
    player_id: str | None
    action: Offered | Literal["NO_CONTACT"]
    propensity: float | None
    lease: dict[str, str] | None
    degraded: list[str]
    recorded: bool


class ConfirmAnswer(_Answer):
    """Leave to send, from `send_at` and by `send_by`."""

    decision_id: str
    confirmed_at: str
    send_at: str
    send_by: str


class AcceptedAnswer(_Answer):
    """Taken and durable; `position` may be given as `after` to a decision that must have seen it."""

    position: str
    duplicate: bool


class BatchRequest(BaseModel):
    """Decisions for many players; each is checked on its own."""

    model_config = ConfigDict(extra="forbid")
    requests: list[dict[str, Any]] = Field(max_length=BATCH_MOST)


class BatchAnswer(_Answer):
    """One answer or problem per request, in order."""

    answers: list[dict[str, Any]]


class Problem(BaseModel):
    """RFC 9457 problem; `code` is for machines, `pointer` names the place in the body."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    pointer: str | None = None


class ProblemError(Exception):
    """A problem to answer with."""

    def __init__(self, status: int, code: str, detail: str, pointer: str | None = None, **more: object) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"type": "about:blank", "title": _TITLES[status], "status": status, "code": code, "detail": detail}
        self.body |= ({"pointer": pointer} if pointer is not None else {}) | more


_ABOUT: Final = """Deals the next best action to each player, under the rules of the house.

Tell what players do as *events*; facts such as a self-exclusion hold the moment they are acknowledged. Ask for a
*decision*, *confirm* it just before sending, tell its *outcomes*. Every write is idempotent; errors follow RFC 9457."""
_TITLES: Final = {
    400: "Bad request",
    401: "Unauthorised",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Too large",
    422: "Not valid",
    500: "Fault",
    503: "Unavailable",
}
_STATUS: Final = {
    "unknown_decision": 404,
    "no_contact": 409,
    "event_id_reused": 409,
    "outcome_id_reused": 409,
}


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")


def _problem(error: ProblemError) -> Response:
    headers = {"retry-after": "1"} if error.status == 503 else None
    return Response(orjson.dumps(error.body), error.status, headers, "application/problem+json")


def _parse(adapter: TypeAdapter[Any], body: bytes) -> Any:  # noqa: ANN401 - the adapter's type
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: ValidationError) -> ProblemError:
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return ProblemError(400, "invalid_json", first["msg"])
    # pydantic puts the event type into the path of a union; the body has no such level.
    path = [part for part in first["loc"] if part not in _EVENT_TYPES]
    pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
    if first["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        return ProblemError(422, "unknown_type", first["msg"], f"{pointer}/type")
    return ProblemError(422, "invalid_body", first["msg"], pointer)


def _event_types() -> frozenset[str]:
    schema = TypeAdapter(AnyEvent).json_schema()
    return frozenset(schema["discriminator"]["mapping"])


_EVENT_TYPES: Final = _event_types()


async def _translated(work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - what the work returns
    """Errors of the house as problems."""
    try:
        return await work
    except Refused as refusal:
        status = _STATUS.get(refusal.code, 422)
        raise ProblemError(status, refusal.code, str(refusal), refusal.pointer or None) from refusal
    except Revoked as revoked:
        raise ProblemError(409, revoked.code, str(revoked), rules=list(revoked.by)) from revoked
    except RequestReused as reused:
        detail = "this request_id was used before with another body"
        raise ProblemError(409, "request_id_reused", detail, "/request_id") from reused
    except Contended as contended:
        raise ProblemError(503, "contended", "the player changed at every attempt; try again") from contended
    except StoreError as error:
        raise ProblemError(503, "store_unavailable", f"{error}; a retry under the same id is safe") from error


class Route(APIRoute):
    """A route that parses the body itself: FastAPI documents it, but its per-request machinery is not paid for."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler: keys, body, endpoint, problem."""
        endpoint = self.endpoint
        hints = get_type_hints(endpoint, include_extras=True)
        adapter = TypeAdapter(hints["body"]) if "body" in hints else None
        timer = SECONDS.labels(self.path)
        named = [name for name in inspect.signature(endpoint).parameters if name not in {"desk", "body"}]

        async def handle(request: Request) -> Response:
            begun = time.perf_counter()
            try:
                desk = request.app.state.desk
                _authorise(request, desk)
                arguments = {name: request.path_params[name] for name in named}
                if adapter is not None:
                    arguments["body"] = _parse(adapter, await _body(request))
                answered: Response = await _translated(endpoint(desk=desk, **arguments))
            except ProblemError as problem:
                answered = _problem(problem)
            except Exception:  # noqa: BLE001 - a caller gets a problem, never a traceback
                _LOG.exception("fault", route=self.path)
                answered = _problem(ProblemError(500, "fault", "this is our mistake, and it was logged"))
            timer.observe(time.perf_counter() - begun)
            return answered

        return handle


def _authorise(request: Request, desk: Desk) -> None:
    if not desk.keys:
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or key not in desk.keys:
        raise ProblemError(401, "unauthorised", "send one of the house's keys as `Authorization: Bearer KEY`")


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise ProblemError(413, "too_large", f"a body has at most {BODY_BYTES} bytes")
    return bytes(body)


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


At = Annotated[Desk, Depends(_desk)]
DecisionId = Annotated[str, Path(pattern=r"^\d{3}-[a-z2-7]{24}$")]


async def post_decision(body: DecisionRequest, desk: At) -> Response:
    """Ask what to do for a player now."""
    return _json(await _decided(body, desk))


async def _decided(body: DecisionRequest, desk: Desk) -> dict[str, Any]:
    if body.after is not None:
        await _wait(body.after, body, desk)
    try:
        done = await decide(body, desk.table, desk.ledger)
    except Unread:
        return _unserved(body, "store_unavailable", "the store did not answer, so nothing is sent")
    except Contended:
        return _unserved(body, "contended", "the player changed at every attempt, so nothing is sent")
    _count(done)
    return answer.decision(done.record, body.player_id, desk.table.layout.catalogue, recorded=done.recorded)


def _unserved(body: DecisionRequest, rule: str, reason: str) -> dict[str, Any]:
    DECISIONS.labels("none", "no_contact", "false").inc()
    EXCLUSIONS.labels(rule).inc()
    return answer.unserved(body.player_id, rule, reason)


def _count(done: Answered) -> None:
    action = "no_contact" if done.record.action is None else "contact"
    DECISIONS.labels(done.record.variant, action, str(done.recorded).lower()).inc()
    for rule in done.record.choice.excluded:
        EXCLUSIONS.labels(rule).inc()


async def _wait(after: str, body: DecisionRequest, desk: Desk) -> None:
    """Wait, bounded, until the features of the player's partition include a position."""
    keys = Keys(desk.table.house.player_key(body.player_id), b"")
    if int(after[1:4]) != keys.partition:
        raise ProblemError(422, "foreign_position", "this position is not of the player's partition", "/after")
    wanted = order(after[5:])
    deadline = time.monotonic() + AFTER_SECONDS
    try:
        while order(await desk.ledger.progress(keys.partition)) < wanted and time.monotonic() < deadline:  # noqa: ASYNC110 - what is waited for is in the store
            await asyncio.sleep(_AFTER_STEP)
    except StoreError:
        return  # the decision meets the same store and answers for it


async def post_batch(body: BatchRequest, desk: At) -> Response:
    """Ask for many players at once; one bad item never spoils the rest."""
    answers = await asyncio.gather(*(_item(item, desk) for item in body.requests))
    return _json({"answers": answers})


_REQUEST: Final = TypeAdapter(DecisionRequest)


async def _item(item: dict[str, Any], desk: Desk) -> dict[str, Any]:
    try:
        found: dict[str, Any] = await _translated(_decided(_REQUEST.validate_python(item), desk))
    except ValidationError as error:
        return _invalid(error).body
    except ProblemError as problem:
        return problem.body
    return found


async def get_decision(decision_id: DecisionId, desk: At) -> Response:
    """The whole record of a decision, with its reasons."""
    held = await desk.ledger.record(decision_id) if _is_decision_id(decision_id) else None
    if held is None:
        raise ProblemError(404, "unknown_decision", "no decision of this id is kept")
    record = log.loads(held)
    personal = log.unseal(await desk.ledger.seal_of(Keys(record.player, b"")), record.sealed, decision_id)
    told = answer.whole(record, (personal or {}).get("player_id"), await _catalogue(record, desk))
    return _json(told | {"personal": personal})


async def _catalogue(record: Record, desk: Desk) -> Catalogue:
    """The catalogue that a record was made from, which may have been replaced since."""
    current = desk.table.layout.catalogue
    if record.versions.catalogue == current.hash:
        return current
    kept = await desk.ledger.bundle(record.versions.catalogue)
    return current if kept is None else Catalogue.model_validate_json(kept)


async def post_confirm(decision_id: DecisionId, desk: At) -> Response:
    """Ask, just before sending, whether a decided contact may still be sent."""
    if not _is_decision_id(decision_id):
        raise ProblemError(404, "unknown_decision", "no decision of this id is kept")
    done = await confirm(decision_id, desk.table, desk.ledger)
    moments = {"confirmed_at": done.confirmed_us, "send_at": done.send_us, "send_by": done.send_by_us}
    return _json({"decision_id": decision_id} | {name: answer.when(at) for name, at in moments.items()})


def _is_decision_id(text: str) -> bool:
    return len(text) == 28 and text[:3].isdigit() and int(text[:3]) < 256 and text[3] == "-" and text[4:].isalnum()


async def post_event(body: AnyEvent, desk: At) -> Response:
    """Tell what a player did, or a fact about them; answered once it holds and is durable."""
    done = await know(body, desk.table.house, desk.ledger)
    return _json({"position": done.position, "duplicate": done.duplicate})


async def post_outcome(body: Outcome, desk: At) -> Response:
    """Tell what became of a contact."""
    done = await take(body, desk.ledger)
    return _json({"position": done.position, "duplicate": done.duplicate})


async def get_health() -> Response:
    """Whether the process is alive."""
    return _json({"alive": True})


async def get_ready(request: Request) -> Response:
    """Whether decisions can be answered in full: the store answers and feature definitions are loaded."""
    desk = _desk(request)
    try:
        now_us = await desk.ledger.now_us()
    except StoreError as error:
        return _problem(ProblemError(503, "store_unavailable", str(error)))
    table = desk.table
    if table.plan is None:
        return _problem(ProblemError(503, "no_definitions", "feature definitions were not applied yet"))
    return _json(
        {
            "ready": True,
            "churn_model": None if table.churn is None else table.churn.bundle.version,
            "policy": table.policies["policy"].version,
            "clock": {"now": answer.when(now_us), "rate": table.house.rate, "sandbox": table.house.sandbox},
        }
    )


async def get_metrics() -> Response:
    """Counters and timings in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def build(lifespan: Lifespan) -> FastAPI:
    """The application with all its routes."""
    app = FastAPIOffline(
        title="Croupier",
        version="1",
        lifespan=lifespan,
        description=_ABOUT,
        redirect_slashes=False,
        exception_handlers={404: _no_route, 405: _no_method},
    )
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "content": {"application/problem+json": {}}}
        for status in (400, 404, 409, 413, 422, 503)
    }

    def add(path: str, endpoint: Callable[..., Any], method: str, model: type[BaseModel], tag: str) -> None:
        app.router.add_api_route(
            path,
            endpoint,
            methods=[method],
            response_model=model,
            responses=problems,
            route_class_override=Route,
            summary=_summary(endpoint),
            tags=[tag],
        )

    add("/v1/decisions", post_decision, "POST", DecisionAnswer, "Decide")
    add("/v1/decisions/batch", post_batch, "POST", BatchAnswer, "Decide")
    add("/v1/decisions/{decision_id}", get_decision, "GET", DecisionAnswer, "Decide")
    add("/v1/decisions/{decision_id}/confirm", post_confirm, "POST", ConfirmAnswer, "Decide")
    add("/v1/events", post_event, "POST", AcceptedAnswer, "Know")
    add("/v1/outcomes", post_outcome, "POST", AcceptedAnswer, "Know")
    for path, endpoint in (("/healthz", get_health), ("/readyz", get_ready), ("/metrics", get_metrics)):
        app.add_api_route(path, endpoint, response_class=Response, summary=_summary(endpoint), tags=["Operate"])
    return app


def _summary(endpoint: Callable[..., Any]) -> str:
    return (endpoint.__doc__ or "").split("\n")[0].rstrip(".")


async def _no_route(request: Request, _: Exception) -> Response:
    return _problem(ProblemError(404, "no_such_route", f"{request.url.path} is no route; see /docs"))


async def _no_method(request: Request, _: Exception) -> Response:
    return _problem(ProblemError(405, "no_such_method", f"{request.method} is not for {request.url.path}; see /docs"))
