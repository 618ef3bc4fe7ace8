"""Events and outcomes at the HTTP door: what players did, and what became of contacts."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from fastapi import FastAPI, Response
from msgspec import UNSET
from structlog.contextvars import bind_contextvars

from features.events import AnyEvent
from features.moments import moment
from service.api import reading
from service.api.problems import OF_A_BODY
from service.api.routing import Dependencies, Deps, Operation, add_route, respond
from service.api.schemas import AcceptedAnswer
from service.contacts.ledger import RedisLedger
from service.decisions.outcomes import WITHDRAWING, Outcome, take
from service.errors import (
    AlreadyLinkedError,
    BeforeTradingError,
    EventIdReused,
    EventInFutureError,
    EventTooOldError,
    NoContactError,
    OutcomeIdReused,
    OutcomeInFutureError,
    OutcomeTooOldError,
    UnknownDecisionError,
    UnknownTypeError,
)
from service.events.accept import Accepted, accept
from service.players.facts import restricts


async def post_event(body: AnyEvent, deps: Deps) -> Response:
    """Tell what a player did, or a fact about them.

    It is answered once it holds and is durable. What restricts contact is never refused for its moment or for a word
    that nobody knows: it is taken in its strictest reading, and `warnings` say so. Other events enter within 35 days;
    older ones by `croupier import`. The same `event_id` again is answered as a `duplicate`.
    """
    serving, door = deps.serving, deps.serving.door
    reading.check(body, door)
    beside = reading.beside(body, deps.doubts, door)
    today = moment(serving.house.now_us(time.time_ns() // 1_000)).date()
    work = lambda ledger: accept(body, serving.house, ledger, beside)  # noqa: E731 - called with either ledger
    return await _accepted(work, deps, reading.doubtful(body, today), restricting=restricts(body))


async def post_outcome(body: Outcome, deps: Deps) -> Response:
    """Tell what became of a contact.

    `failed` and `cancelled` give its room back; `unsubscribed` and `complained` withdraw consent in the same call, and
    may name player and channel in place of a decision. The same `outcome_id` again is answered as a `duplicate`.
    """
    if body.decision_id is not None:
        bind_contextvars(decision_id=body.decision_id)
    serving, beside = deps.serving, reading.beside(body, deps.doubts, deps.serving.door)
    work = lambda ledger: take(body, serving.house, serving.layout.catalogue, ledger, beside)  # noqa: E731 - called with either ledger
    return await _accepted(work, deps, restricting=_withdraws(body))


def _withdraws(body: Outcome) -> bool:
    return body.type in WITHDRAWING


async def _accepted(
    work: Callable[[RedisLedger], Coroutine[Any, Any, Accepted]],
    deps: Dependencies,
    doubtful: Iterable[str] = (),
    *,
    restricting: bool,
) -> Response:
    done = await (deps.restricting(work) if restricting else work(deps.ledger))
    warnings = [*deps.doubts.values(), *doubtful] or UNSET
    return respond(AcceptedAnswer(position=done.position, duplicate=done.duplicate, warnings=warnings))


_OF_AN_EVENT: Final = (
    UnknownTypeError,
    EventInFutureError,
    EventTooOldError,
    BeforeTradingError,
    EventIdReused,
    AlreadyLinkedError,
)
_OF_AN_OUTCOME: Final = (
    UnknownDecisionError,
    NoContactError,
    OutcomeInFutureError,
    OutcomeTooOldError,
    OutcomeIdReused,
)


def add(app: FastAPI) -> None:
    """Add the routes to an application."""
    told, became = OF_A_BODY + _OF_AN_EVENT, OF_A_BODY + _OF_AN_OUTCOME
    for operation in (
        Operation("/v1/events", post_event, "Know", "events", AcceptedAnswer, told, "POST", restricts),
        Operation("/v1/outcomes", post_outcome, "Learn", "outcomes", AcceptedAnswer, became, "POST", _withdraws),
    ):
        add_route(app, operation)
