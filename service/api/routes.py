"""The routes of the API, and the application that holds them. Every write is idempotent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal

import structlog
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from features.events import AnyEvent
from features.moments import moment, when
from features.store.bundles import read_bundle, read_version
from features.store.deployment import order
from features.store.errors import StoreAbsentError, StoreError
from features.store.keys import PlayerKeys
from models.catalogue.offers import Catalogue
from models.churn.scorer import ChurnBundle, Scorer
from models.policy.learned import LearnedPolicy, PolicyVersion
from models.policy.policy import Policy
from service.api import answers, players, reading, reports
from service.api.readiness import Readiness
from service.api.routing import (
    REFUSALS,
    Answer,
    DecisionId,
    Dependencies,
    Deps,
    add_route,
    dependencies_of,
    invalid,
    problem,
    refuse,
    respond,
    retriable,
    summary,
)
from service.contacts.ledger import RedisLedger
from service.decisions.confirm import confirm
from service.decisions.decide import Decided, decide
from service.decisions.explain import Evidence, why
from service.decisions.outcomes import WITHDRAWING, Outcome, take
from service.decisions.reasons import Reason, reasons
from service.decisions.record import Record, load_record
from service.decisions.request import DecisionRequest
from service.errors import (
    ForeignPositionError,
    NoDefinitionsError,
    NoSuchMethodError,
    NoSuchRouteError,
    NotReadyError,
    UnknownDecisionError,
)
from service.events.accept import Accepted, accept
from service.players import sealing
from service.players.facts import restricts
from service.rules.rulebook import Rulebook

AFTER_SECONDS: Final = 0.05
"""What is left of a request's time when it stops waiting for an event position."""
_AFTER_STEP: Final = 0.005
BATCH_SECONDS: Final = 30.0
"""Deadline of a batch as a whole, shared by the items that name none."""
BATCH_MOST: Final = 500
_LOG: Final = structlog.get_logger()

DECISIONS: Final = Counter("croupier_decisions", "Decisions answered", ["variant", "action", "recorded"])
EXCLUSIONS: Final = Counter("croupier_exclusions", "Decisions in which a rule or cap excluded something", ["rule"])
_ABOUT: Final = """Deals the next best action to each player, under the rules of the house.

Tell what players do as *events*; facts such as a self-exclusion hold the moment they are acknowledged. Ask for a
*decision*, *confirm* it just before sending, tell its *outcomes*. Every write is idempotent; errors follow RFC 9457."""


class Offered(Answer):
    """What to send: the offer, how, and from when."""

    offer: dict[str, Any]
    channel: str
    timing_slot: str
    purpose: str
    send_at: str


class DecisionAnswer(Answer):
    """What now for this player: an action with its exact probability, or to leave the player alone."""

    decision_id: str | None = Field(description="Null when nothing was recorded.")
    player_id: str | None
    action: Offered | Literal["NO_CONTACT"]
    propensity: float | None
    lease: dict[str, str] | None
    degraded: list[str]
    recorded: bool


class ConfirmAnswer(Answer):
    """Leave to send, from `send_at` and by `send_by`."""

    decision_id: str
    confirmed_at: str
    send_at: str
    send_by: str


class AcceptedAnswer(Answer):
    """Taken and durable; `position` may be given as `after` to a decision that must have seen it."""

    position: str
    duplicate: bool
    warnings: list[str] = Field(default=[], description="What was unknown or cannot be, and how it was read.")


class BatchRequest(BaseModel):
    """Decisions for many players; each is checked on its own."""

    model_config = ConfigDict(extra="forbid")
    requests: list[dict[str, Any]] = Field(max_length=BATCH_MOST)


class BatchAnswer(Answer):
    """One answer or problem per request, in order."""

    answers: list[dict[str, Any]]


async def post_decision(body: DecisionRequest, deps: Deps) -> Response:
    """Ask what to do for a player now."""
    return respond(await _decided(body, deps.within(deps.read_seconds)))


async def _decided(body: DecisionRequest, deps: Dependencies) -> dict[str, Any]:
    """A decision as it is told, within the deadline that the request names or else by default."""
    if body.deadline_ms is not None:
        deps = deps.within(body.deadline_ms / 1_000)
    waited = {} if body.after is None else {"after_reached": await _wait(body.after, body, deps)}
    try:
        done = await decide(body, deps.serving, deps.ledger)
    except StoreAbsentError:
        if body.request_id is not None:
            raise  # an earlier request of this id may have been recorded
        return _unserved(body, "store_unavailable", "the store is not there, so nothing is sent") | waited
    _count(done)
    # A retry is told by what its record was made with, which may have been replaced since.
    catalogue, known = await _catalogue(done.record, deps), await _reasons(done.record, deps)
    told = answers.decision(done.record, body.player_id, catalogue, known, recorded=done.recorded)
    if body.explain:
        told["why"] = why(done.record, await _evidence(done.record, deps))
    return told | waited


def _unserved(body: DecisionRequest, rule: str, reason: str) -> dict[str, Any]:
    DECISIONS.labels("none", "no_contact", "false").inc()
    EXCLUSIONS.labels(rule).inc()
    return answers.unserved(body.player_id, rule, reason)


def _count(done: Decided) -> None:
    action = "no_contact" if done.record.action is None else "contact"
    DECISIONS.labels(done.record.variant, action, str(done.recorded).lower()).inc()
    for rule in done.record.choice.excluded:
        EXCLUSIONS.labels(rule).inc()


async def _wait(after: str, body: DecisionRequest, deps: Dependencies) -> bool:
    """Wait, bounded, until the features of the player's partition include a position; whether they do."""
    asked = deps.serving.house.player_key(body.player_id)
    ledger = deps.ledger.by(deps.until - AFTER_SECONDS)
    try:
        keys = PlayerKeys(await ledger.identities.owner(asked))
    except StoreError:
        return False  # the decision meets the same store and answers for it
    if int(after[1:4]) != keys.partition:
        raise ForeignPositionError
    wanted = order(after[5:])
    try:
        while order(await ledger.progress(keys.partition)) < wanted:  # noqa: ASYNC110 - what is waited for is in the store
            await asyncio.sleep(_AFTER_STEP)
    except StoreError:
        return False
    return True


async def post_batch(body: BatchRequest, deps: Deps) -> Response:
    """Ask for many players at once; one bad item never spoils the rest."""
    deps = deps.within(BATCH_SECONDS)
    answers = await asyncio.gather(*(_item(item, deps) for item in body.requests))
    return respond({"answers": answers})


_REQUEST: Final = TypeAdapter(DecisionRequest)


async def _item(item: dict[str, Any], deps: Dependencies) -> dict[str, Any]:
    try:
        found: dict[str, Any] = await retriable(
            _decided(_REQUEST.validate_python(item, context=deps.serving.door), deps)
        )
    except ValidationError as error:
        return problem(invalid(error))
    except REFUSALS as refusal:
        return problem(refusal)
    return found


async def get_decision(decision_id: DecisionId, deps: Deps) -> Response:
    """The whole record of a decision, with its reasons."""
    held = await deps.ledger.record(decision_id) if _is_decision_id(decision_id) else None
    if held is None:
        raise UnknownDecisionError
    record = load_record(held)
    personal = sealing.unseal(await deps.ledger.seal_of(PlayerKeys(record.player)), record.sealed, decision_id)
    player_id, texts = (personal or {}).get("player_id"), await _reasons(record, deps)
    told = answers.whole(record, player_id, await _catalogue(record, deps), texts)
    return respond(told | {"personal": personal, "why": why(record, await _evidence(record, deps))})


async def _evidence(record: Record, deps: Dependencies) -> Evidence | None:
    """What a record was made with: what serves if it is that, else what is kept; None if that cannot be read."""
    try:
        catalogue = await _catalogue(record, deps)
        policy, churn = await _policy(record, catalogue, deps), await _churn(record, deps)
    except (StoreError, ValueError) as error:
        _LOG.warning("evidence", decision=record.decision_id, trouble=str(error))
        return None
    return Evidence(catalogue, policy, churn)


async def _policy(record: Record, catalogue: Catalogue, deps: Dependencies) -> LearnedPolicy | None:
    """The snapshot that a record names; None for policies that were not learnt."""
    name = record.choice.policy_version
    serving: dict[str, Policy] = {one.version: one for one in deps.serving.policies.values()}
    if name in serving and catalogue is deps.serving.layout.catalogue:
        found: Policy | None = serving[name]
    else:
        kept = await read_version(deps.ledger.store, name)
        found = LearnedPolicy(PolicyVersion.loads(kept), catalogue) if kept else None
    return found if isinstance(found, LearnedPolicy) else None


async def _churn(record: Record, deps: Dependencies) -> Scorer | None:
    """The churn model that a record names."""
    name, serving = record.versions.churn, deps.serving.churn
    if name is None or (serving is not None and serving.bundle.version == name):
        return None if name is None else serving
    if name not in deps.kept and (kept := await read_version(deps.ledger.store, name)):
        deps.kept.clear()  # one is enough: explanations of old decisions come in runs
        deps.kept[name] = await asyncio.to_thread(Scorer, ChurnBundle.loads(kept))
    return deps.kept.get(name)


async def _catalogue(record: Record, deps: Dependencies) -> Catalogue:
    """The catalogue that a record was made from, which may have been replaced since."""
    current = deps.serving.layout.catalogue
    if record.versions.catalogue == current.hash:
        return current
    name = record.versions.catalogue
    kept = await read_bundle(deps.ledger.store, name) or await read_version(deps.ledger.store, name)
    try:
        return current if kept is None else Catalogue.model_validate_json(kept)
    except ValueError:  # of a build that asked less of a catalogue
        return current


async def _reasons(record: Record, deps: Dependencies) -> Mapping[str, Reason]:
    """The reasons of the rulebook that a record was made under, which may have been replaced since."""
    if record.versions.rules == deps.serving.book.hash:
        return deps.serving.reasons
    name = record.versions.rules
    kept = await read_bundle(deps.ledger.store, name) or await read_version(deps.ledger.store, name)
    try:
        return {} if kept is None else reasons(Rulebook.model_validate_json(kept))
    except ValueError:  # of a build whose rules were told otherwise
        return {}


async def post_confirm(decision_id: DecisionId, deps: Deps) -> Response:
    """Ask, just before sending, whether a decided contact may still be sent."""
    if not _is_decision_id(decision_id):
        raise UnknownDecisionError
    done = await confirm(decision_id, deps.serving, deps.ledger)
    moments = {"confirmed_at": done.confirmed_us, "send_at": done.send_us, "send_by": done.send_by_us}
    return respond({"decision_id": decision_id} | {name: when(at) for name, at in moments.items()})


def _is_decision_id(text: str) -> bool:
    return len(text) == 28 and text[:3].isdigit() and int(text[:3]) < 256 and text[3] == "-" and text[4:].isalnum()


async def post_event(body: AnyEvent, deps: Deps) -> Response:
    """Tell what a player did, or a fact about them; answered once it holds and is durable."""
    serving, door = deps.serving, deps.serving.door
    reading.check(body, door)
    beside = reading.beside(body, deps.doubts, door)
    today = moment(serving.house.now_us(time.time_ns() // 1_000)).date()
    work = lambda ledger: accept(body, serving.house, ledger, beside)  # noqa: E731 - called with either ledger
    return await _accepted(work, deps, reading.doubtful(body, today), restricting=restricts(body))


async def post_outcome(body: Outcome, deps: Deps) -> Response:
    """Tell what became of a contact."""
    serving, beside = deps.serving, reading.beside(body, deps.doubts, deps.serving.door)
    work = lambda ledger: take(body, serving.house, serving.layout.catalogue, ledger, beside)  # noqa: E731 - called with either ledger
    return await _accepted(work, deps, restricting=body.type in WITHDRAWING)


async def _accepted(
    work: Callable[[RedisLedger], Coroutine[Any, Any, Accepted]],
    deps: Dependencies,
    doubtful: Iterable[str] = (),
    *,
    restricting: bool,
) -> Response:
    done = await (deps.restricting(work) if restricting else work(deps.ledger))
    told = {"position": done.position, "duplicate": done.duplicate}
    warnings = [*deps.doubts.values(), *doubtful]
    return respond(told | ({"warnings": warnings} if warnings else {}))


async def get_health() -> Response:
    """Whether the process is alive."""
    return respond({"alive": True})


async def get_ready(request: Request) -> Response:
    """Whether this process serves: it was seen to, and some of the store answers; what of it does not is told."""
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
        {
            "ready": True,
            "store": {"nodes": nodes, "partitions_away": away},
            "churn_model": None if serving.churn is None else serving.churn.bundle.version,
            "policy": serving.policies["learnt"].version,
            "rulebook": serving.book.hash,
            "barred": serving.barred(now_us),
            "clock": {"now": when(now_us), "rate": serving.house.rate, "sandbox": serving.house.sandbox},
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
    add_route(app, "/v1/decisions", post_decision, "POST", DecisionAnswer, "Decide")
    add_route(app, "/v1/decisions/batch", post_batch, "POST", BatchAnswer, "Decide")
    add_route(app, "/v1/decisions/{decision_id}", get_decision, "GET", DecisionAnswer, "Decide")
    add_route(app, "/v1/decisions/{decision_id}/confirm", post_confirm, "POST", ConfirmAnswer, "Decide")
    add_route(app, "/v1/events", post_event, "POST", AcceptedAnswer, "Know")
    add_route(app, "/v1/outcomes", post_outcome, "POST", AcceptedAnswer, "Know")
    players.add(app)
    reports.add(app)
    for path, endpoint in (("/healthz", get_health), ("/readyz", get_ready), ("/metrics", get_metrics)):
        app.add_api_route(path, endpoint, response_class=Response, summary=summary(endpoint), tags=["Operate"])
    return app


async def _no_route(request: Request, _: Exception) -> Response:
    return refuse(NoSuchRouteError(f"{request.url.path} is no route; see /docs"))


async def _no_method(request: Request, _: Exception) -> Response:
    return refuse(NoSuchMethodError(f"{request.method} is not for {request.url.path}; see /docs"))
