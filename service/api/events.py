"""Events and outcomes at the HTTP door: what players did, one or many, and what became of contacts."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final

from fastapi import FastAPI, Response
from msgspec import UNSET
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from structlog.contextvars import bind_contextvars

from features.events import AnyEvent, Event
from features.moments import moment
from features.unshown import Unshown
from service.api import reading
from service.api.admission import Turn
from service.api.problems import OF_A_BODY, in_words, problem
from service.api.reading import Doubts
from service.api.routing import Dependencies, Deps, Operation, add_route, respond, settled
from service.api.schemas import AcceptedAnswer, EventsAnswer, Problem
from service.contacts.ledger import RedisLedger
from service.decisions.outcomes import WITHDRAWING, Outcome, take
from service.errors import (
    AlreadyLinkedError,
    BeforeTradingError,
    EventIdReused,
    EventInFutureError,
    EventTooOldError,
    HistoryFullError,
    ImplausibleError,
    NoContactError,
    OutcomeIdReused,
    OutcomeInFutureError,
    OutcomeTooOldError,
    OverloadedError,
    StoreFullError,
    UnknownDecisionError,
    UnknownTypeError,
)
from service.events.accept import Accepted, accept
from service.events.history import stage
from service.players.facts import restricts

EVENTS_MOST: Final = 500
"""Events of a batch."""
EVENTS_SECONDS: Final = 30.0
"""Deadline of a batch as a whole; what restricts contact is taken first, within its own."""
_LANES: Final = 16
"""Players of a batch whose events are taken at once; those of one player are taken in their order."""
_EVENT: Final = TypeAdapter[Event](AnyEvent)
_JSON: Final = TypeAdapter[Any](Any, config=ConfigDict(ser_json_inf_nan="constants"))


async def post_event(body: AnyEvent, deps: Deps) -> Response:
    """Tell what a player did, or a fact about them.

    It is answered once it holds and is durable. What restricts contact is never refused for its moment or for a word
    that nobody knows: it is taken in its strictest reading, and `warnings` say so. Other events enter within 35 days;
    older ones with a key that also allows `history`, which are `staged` for the import, or by `croupier import`. The
    same `event_id` again is answered as a `duplicate`.
    """
    told = ToldEvent(body, deps.doubts)
    if not restricts(body):
        return respond(await told.accepted(deps, deps.ledger))
    return respond(await deps.restricting(lambda ledger: told.accepted(deps, ledger)))


@dataclass(slots=True)
class ToldEvent:
    """An event as it was read, with the words of it that nobody knows, and its answer once it has one."""

    event: Event
    doubts: Doubts
    answer: AcceptedAnswer | Problem | None = None

    async def accepted(self, deps: Dependencies, ledger: RedisLedger) -> AcceptedAnswer:
        """Accept it, or stage it for the import where it is history."""
        event, serving, door = self.event, deps.serving, deps.serving.door
        reading.check(event, door)
        today = moment(serving.house.now_us(time.time_ns() // 1_000)).date()
        beside = reading.beside(event, self.doubts, door)
        try:
            done = await accept(event, serving.house, ledger, beside)
        except EventTooOldError:
            if "history" not in deps.caller.scopes:
                raise
            place = await stage(event, serving.house, ledger)
            return _answer(Accepted(place, duplicate=False), self.doubts, reading.mangled(event), staged=True)
        return _answer(done, self.doubts, [*reading.doubtful(event, today), *reading.mangled(event)])

    async def settle(self, deps: Dependencies, ledger: RedisLedger) -> None:
        """Give it its answer, whatever becomes of it."""
        work = partial(self.accepted, deps, ledger)
        if not restricts(self.event):
            work = partial(deps.in_turn, Turn.BATCH, work)
        self.answer = await settled(work(), deps, "an event of a batch")


_ITEM: Final = {
    "type": "object",
    "description": "An event as `POST /v1/events` takes it; what is not valid gets a problem in its place.",
    "additionalProperties": True,
}


class EventBatch(Unshown, BaseModel):
    """Events of any players; each is checked and answered on its own."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    events: list[Annotated[Any, WithJsonSchema(_ITEM)]] = Field(max_length=EVENTS_MOST)


async def post_events(body: EventBatch, deps: Deps) -> Response:
    """Tell many events at once.

    Answers stand in the order of the events, each as `POST /v1/events` would answer it; one that is not valid gets a
    problem in its place and spoils nothing. What restricts contact is taken first, and no rate keeps it out; other
    events of one player are taken in their order. All of it may be sent again: what was taken is a `duplicate`.
    """
    deps = deps.within(EVENTS_SECONDS)
    deps.metrics.batch("events", len(body.events))
    read = [_read(item, deps) for item in body.events]
    told = [one for one in read if isinstance(one, ToldEvent)]
    first = [one for one in told if restricts(one.event)]
    rest = [one for one in told if not restricts(one.event)]
    limited = deps.callers.limited(deps.caller, max(1, len(read) - len(first)))
    if limited is not None and not first:
        raise limited
    if first:
        await deps.restricting(lambda ledger: _take(first, deps, ledger))
    if limited is None:
        await _take(rest, deps, deps.ledger)
    else:
        for one in rest:
            one.answer = _refused(limited, deps)
    answers = [one.answer if isinstance(one, ToldEvent) else one for one in read]
    return respond(EventsAnswer(answers=await in_words(answers, _EVENT, deps.metrics.refused)))


def _read(item: object, deps: Dependencies) -> ToldEvent | ValidationError:
    """An event of a batch, or what is wrong; it is read as JSON again, for that is what models of events take."""
    try:
        return ToldEvent(*reading.parse(_EVENT, _JSON.dump_json(item), deps.serving.door))
    except ValidationError as error:
        return error


async def _take(told: Sequence[ToldEvent], deps: Dependencies, ledger: RedisLedger) -> None:
    """Take events, of some players at once and of each in their order."""
    players: defaultdict[str, list[ToldEvent]] = defaultdict(list)
    for one in told:
        players[one.event.player_id].append(one)
    turns = asyncio.Semaphore(_LANES)

    async def lane(mine: list[ToldEvent]) -> None:
        async with turns:
            for one in mine:
                await one.settle(deps, ledger)

    await asyncio.gather(*(lane(mine) for mine in players.values()))


def _refused(error: Any, deps: Dependencies) -> Problem:  # noqa: ANN401 - of the tree of errors
    deps.metrics.refused(error)
    return problem(error)


async def post_outcome(body: Outcome, deps: Deps) -> Response:
    """Tell what became of a contact.

    `failed` and `cancelled` give its room back; `unsubscribed` and `complained` withdraw consent in the same call, and
    may name player and channel in place of a decision. What cannot be, as a contact that was delivered without being
    confirmed, is refused as `implausible`; a withdrawal holds all the same. The same `outcome_id` again is answered as
    a `duplicate`.
    """
    if body.decision_id is not None:
        bind_contextvars(decision_id=body.decision_id)
    serving, beside = deps.serving, reading.beside(body, deps.doubts, deps.serving.door)
    doubts: list[str] = []
    work = lambda ledger: take(body, serving.house, serving.layout.catalogue, ledger, beside, doubts)  # noqa: E731 - called with either ledger
    done = await _done(work, deps, restricting=_withdraws(body))
    return respond(_answer(done, deps.doubts, doubts))


def _withdraws(body: Outcome) -> bool:
    return body.type in WITHDRAWING


async def _done(
    work: Callable[[RedisLedger], Coroutine[Any, Any, Accepted]], deps: Dependencies, *, restricting: bool
) -> Accepted:
    return await (deps.restricting(work) if restricting else work(deps.ledger))


def _answer(done: Accepted, doubts: Doubts, doubtful: Iterable[str] = (), *, staged: bool = False) -> AcceptedAnswer:
    warnings = [*doubts.values(), *doubtful] or UNSET
    return AcceptedAnswer(
        position=done.position, duplicate=done.duplicate, warnings=warnings, staged=True if staged else UNSET
    )


_OF_AN_EVENT: Final = (
    UnknownTypeError,
    EventInFutureError,
    EventTooOldError,
    HistoryFullError,
    BeforeTradingError,
    EventIdReused,
    AlreadyLinkedError,
)
_OF_AN_OUTCOME: Final = (
    UnknownDecisionError,
    NoContactError,
    ImplausibleError,
    OutcomeInFutureError,
    OutcomeTooOldError,
    OutcomeIdReused,
)


def add(app: FastAPI) -> None:
    """Add the routes to an application."""
    waits = OverloadedError, StoreFullError
    told, became, path = OF_A_BODY + _OF_AN_EVENT + waits, OF_A_BODY + _OF_AN_OUTCOME + waits, "/v1/events"
    free, taken, turn = (lambda _: 0), (lambda _: True), Turn.TOLD  # a batch counts itself: some pass whatever the rate
    for operation in (
        Operation(path, post_event, "Know", "events", AcceptedAnswer, told, "POST", restricts, turn=turn),
        Operation(f"{path}/batch", post_events, "Know", "events", EventsAnswer, OF_A_BODY, "POST", taken, free),
        Operation(
            "/v1/outcomes",
            post_outcome,
            "Learn",
            "outcomes",
            AcceptedAnswer,
            became,
            "POST",
            _withdraws,
            turn=turn,
        ),
    ):
        add_route(app, operation)
