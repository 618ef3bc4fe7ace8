"""Decisions at the HTTP door: ask for one or many, read one with its reasons, confirm one just before sending."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Annotated, Any, Final, TypeVar

import structlog
from fastapi import FastAPI, Path, Response
from msgspec import UNSET, UnsetType, structs
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from structlog.contextvars import bind_contextvars

from features.errors import CroupierError
from features.kept_schemas import TODAY, Schema, SchemaError, find
from features.moments import when
from features.store.bundles import read_bundle, read_version
from features.store.deployment import order
from features.store.errors import StoreAbsentError, StoreError
from features.store.keys import STOPS, PlayerKeys
from features.unshown import Unshown
from models.catalogue.offers import Catalogue
from models.churn.scorer import ChurnBundle, Scorer
from models.policy.learned import LearnedPolicy, PolicyVersion
from models.policy.policy import Policy
from service.api import answers
from service.api.admission import Turn
from service.api.problems import OF_A_BODY, in_words
from service.api.routing import Dependencies, Deps, Operation, add_route, respond, settled
from service.api.schemas import BatchAnswer, ConfirmAnswer, DecisionAnswer, Problem, RecordAnswer
from service.contacts.stops import read_journal
from service.decisions.archive import find_record
from service.decisions.confirm import confirm
from service.decisions.decide import decide
from service.decisions.explain import Evidence, why
from service.decisions.personal import personal
from service.decisions.reasons import Reason, reasons, tells_place
from service.decisions.record import Record
from service.decisions.request import DecisionRequest
from service.errors import (
    ArchivedError,
    Contended,
    Expired,
    ForeignPositionError,
    InvalidBodyError,
    LakeUnreadableError,
    NoContactError,
    OverloadedError,
    Released,
    RequestIdReused,
    Revoked,
    SendingError,
    StoreFullError,
    TooEarlyError,
    UnknownDecisionError,
)
from service.rules.rulebook import Rulebook

AFTER_SECONDS: Final = 0.05
"""What is left of a request's time when it stops waiting for an event position."""
_AFTER_STEP: Final = 0.005
BATCH_SECONDS: Final = 30.0
"""Deadline of a batch as a whole, shared by the items that name none."""
BATCH_MOST: Final = 500
_PERSONAL: Final = ("player_id", "personal")
"""Fields of a record that are sealed."""
_LOCAL: Final = ("exclusions", "deferrals", "missing", "stops", "versions.packs")
"""Fields of a record that may say where the player lives."""
_NO_ID: Final = "this is no decision's id: take `decision_id` from its answer, such as 017-a2b3a2b3a2b3a2b3a2b3a2b3"
_ABSENT: Final = "store_unavailable"
_LOG: Final = structlog.get_logger()

_Model = TypeVar("_Model")

DecisionId = Annotated[str, Path(pattern=r"^\d{3}-[a-z2-7]{24}$", description="As the decision answered it.")]


_ITEM: Final = {
    "anyOf": [
        {"$ref": "#/components/schemas/DecisionRequest"},
        {
            "type": "object",
            "description": "What is not valid gets a problem in its place.",
            "additionalProperties": True,
        },
    ]
}


class BatchRequest(Unshown, BaseModel):
    """Decisions for many players; each is checked on its own."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    requests: list[Annotated[Any, WithJsonSchema(_ITEM)]] = Field(max_length=BATCH_MOST)


async def post_decision(body: DecisionRequest, deps: Deps) -> Response:
    """Ask what to do for a player now.

    The answer is one contact to send, or `NO_CONTACT`, with the exact probability of the draw. The contact is reserved
    until its lease ends: confirm it just before you send it. With a `request_id`, a retry gets the same answer.
    """
    return respond(await _decided(body, deps.within(deps.read_seconds), Turn.DECISION))


async def _decided(body: DecisionRequest, deps: Dependencies, turn: Turn) -> DecisionAnswer:
    """A decision as it is told, within the deadline that the request names or else by default."""
    if body.deadline_ms is not None:
        deps = deps.within(body.deadline_ms / 1_000)
    if body.after is None:
        return await deps.in_turn(turn, partial(_answered, body, deps, UNSET))
    reached = await _wait(body.after, body, deps)
    try:
        return await deps.in_turn(turn, partial(_answered, body, deps, reached))
    except CroupierError as error:
        error.beside = {"after_reached": reached}
        raise


async def _answered(body: DecisionRequest, deps: Dependencies, reached: bool | UnsetType) -> DecisionAnswer:  # noqa: FBT001 - as it is told
    """A decision as it is told; `reached` is whether it saw the position that it was to wait for."""
    stages, done = deps.stages(), None
    delivers = _delivers(body, deps)
    try:
        done = await decide(body, deps.serving, deps.ledger, stages, delivers or ())
    except StoreAbsentError as error:
        if body.request_id is not None:
            raise  # an earlier request of this id may have been recorded
        deps.metrics.unserved(error)
        return _unserved(body, reached)
    finally:
        deps.metrics.passed(stages)
        stages.end(done)
    deps.metrics.decided(done)
    # A retry is told by what its record was made with, which may have been replaced since.
    known = await _reasons(done.kept.rules_version, deps)
    answer = answers.decision(done.kept, body.player_id, known, recorded=done.recorded, after_reached=reached)
    if delivers is not None and done.kept.action is not None:
        answer.delivers = await deps.ledger.is_delivered(done.kept.decision_id) if done.replayed else done.delivers
    if body.explain and done.record is not None:
        schema = await _schema(done.record, deps)
        answers.explain(answer, done.record, await _catalogue(done.record, deps), known, schema)
        answer.why = why(done.record, await _evidence(done.record, schema, deps))
    return answer


def _delivers(body: DecisionRequest, deps: Dependencies) -> frozenset[str] | None:
    """Channels on which the house sends what a request asks for; None where it is not to send at all."""
    if not (deps.delivers_unasked if body.deliver is None else body.deliver):
        return None
    if not body.activate:
        return deps.delivers
    if body.deliver:
        raise InvalidBodyError("activate confirms at once what you show yourself: leave one of the two out", "/deliver")
    return None


def _unserved(body: DecisionRequest, reached: bool | UnsetType) -> DecisionAnswer:  # noqa: FBT001 - as it is told
    said = "the store is not there, so nothing is sent"
    return answers.unserved(body.player_id, _ABSENT, said, after_reached=reached)


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
    """Ask for many players at once.

    Answers stand in the order of the requests; one that is not valid gets a problem in its place and spoils nothing.
    They share a deadline of 30 seconds.
    """
    deps = deps.within(BATCH_SECONDS)
    deps.metrics.batch("decisions", len(body.requests))
    answers = await asyncio.gather(*(_item(item, deps) for item in body.requests))
    return respond(BatchAnswer(answers=await in_words(answers, _REQUEST, deps.metrics.refused)))


_REQUEST: Final = TypeAdapter(DecisionRequest)


async def _item(item: object, deps: Dependencies) -> DecisionAnswer | Problem | ValidationError:
    try:
        request = _REQUEST.validate_python(item, context=deps.serving.door)
    except ValidationError as error:
        return error
    return await settled(_decided(request, deps, Turn.BATCH), deps, "an item of a batch")


async def get_decision(decision_id: DecisionId, deps: Deps) -> Response:
    """The whole record of a decision, with its reasons.

    Why this action and not the next: everything eligible with score and probability, everything excluded with its rule.
    What is sealed in it as personal, and reasons that tell where the player lives, are told to a key that allows
    `personal`; else `withheld` names what is left out or shortened.
    """
    if not _is_decision_id(decision_id):
        raise UnknownDecisionError(_NO_ID)
    bind_contextvars(decision_id=decision_id)
    record = await find_record(decision_id, deps.ledger, deps.lake)
    withholds = "personal" not in deps.caller.scopes
    opened = None if withholds else personal(await deps.ledger.seal_of(PlayerKeys(record.player)), record)
    catalogue, known = await _catalogue(record, deps), await _reasons(record.versions.rules, deps)
    schema = await _schema(record, deps)
    reasons_of_it = why(record, await _evidence(record, schema, deps))
    stops = read_journal(await deps.ledger.store.hash(STOPS)) if record.stops else {}
    answer = answers.whole(record, opened, catalogue, known, schema, reasons_of_it, stops)
    if withholds:
        _withhold(answer, record, known)
    return respond(answer)


def _withhold(answer: RecordAnswer, record: Record, known: Mapping[str, Reason]) -> None:
    """Leave out what is sealed, and what tells where the player lives."""
    local = {stop.rule for stop in record.stops or () if stop.scope == "jurisdiction"}

    def shown(rule: str) -> bool:
        return rule not in local and not tells_place(rule, known)

    answer.withheld = [*_PERSONAL, *_LOCAL]
    answer.versions = structs.replace(answer.versions, packs=())
    answer.exclusions = [one for one in answer.exclusions or () if shown(one.rule)]
    answer.deferrals = [one for one in answer.deferrals or () if shown(one.rule)]
    if answer.missing:  # a register is one of a place
        answer.missing = [one for one in answer.missing if not one.values]
    if answer.stops:
        answer.stops = [stop for stop in answer.stops if stop.rule not in local]


async def _evidence(record: Record, schema: Schema | None, deps: Dependencies) -> Evidence | None:
    """What a record was made with: what serves if it is that, else what is kept; None if the store does not tell."""
    unread: list[str] = []
    try:
        catalogue = await _catalogue(record, deps)
        policy = await _read("policy", _policy(record, catalogue, deps), unread)
        churn = await _read("churn model", _churn(record, deps), unread)
    except StoreError as error:
        _LOG.warning("evidence", trouble=str(error))
        return None
    return Evidence(catalogue, policy, churn, schema, tuple(unread))


async def _read(name: str, reading: Awaitable[_Model | None], unread: list[str]) -> _Model | None:
    """A model that a record names; one that this build cannot read is noted as unread."""
    try:
        return await reading
    except ValueError as error:
        _LOG.warning("evidence", trouble=f"its {name}: {error}")
        unread.append(name)
        return None


async def _schema(record: Record, deps: Dependencies) -> Schema | None:
    """The schema of a record's features, None if it is not kept as its hash says."""
    name = record.versions.schema
    kept = None if name == TODAY.hash else await read_bundle(deps.ledger.store, name)
    try:
        return find(name, lambda _: kept)
    except SchemaError as error:
        _LOG.warning("schema", trouble=str(error))
        return None


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


async def _reasons(name: str, deps: Dependencies) -> Mapping[str, Reason]:
    """The reasons of the rulebook that a decision was made under, which may have been replaced since."""
    if name == deps.serving.book.hash:
        return deps.serving.reasons
    kept = await read_bundle(deps.ledger.store, name) or await read_version(deps.ledger.store, name)
    try:
        return {} if kept is None else reasons(Rulebook.model_validate_json(kept))
    except ValueError:  # of a build whose rules were told otherwise
        return {}


async def post_confirm(decision_id: DecisionId, deps: Deps) -> Response:
    """Ask, just before sending, whether a contact may still be sent.

    Facts, rules and limits are asked again. 200 is leave to send from `send_at` and by `send_by`; 409 forbids it, and
    `rules` say why. Ask within a minute of the decision's `send_at` or later; to ask again changes nothing. A contact
    that the house was to send is yours from then on, unless it has begun to send it.
    """
    if not _is_decision_id(decision_id):
        raise UnknownDecisionError(_NO_ID)
    done = await confirm(decision_id, deps.serving, deps.ledger)
    return respond(
        ConfirmAnswer(
            decision_id=decision_id,
            confirmed_at=when(done.confirmed_us),
            send_at=when(done.send_us),
            send_by=when(done.send_by_us),
        )
    )


def _is_decision_id(text: str) -> bool:
    if len(text) != 28 or not text.isascii() or text[3] != "-":  # some digits of other scripts are no numbers
        return False
    return text[:3].isdigit() and int(text[:3]) < 256 and text[4:].isalnum()


_DECIDING: Final = (ForeignPositionError, RequestIdReused, Contended, OverloadedError, StoreFullError)
_NOT_SENT: Final = (
    *(UnknownDecisionError, NoContactError, Revoked, Expired, Released, SendingError, TooEarlyError, Contended),
    OverloadedError,
)


def add(app: FastAPI) -> None:
    """Add the routes to an application."""
    path, tag = "/v1/decisions", "Decide"
    one = f"{path}/{{decision_id}}"
    many = lambda body: max(1, len(body.requests))  # noqa: E731 - of a batch
    for operation in (
        Operation(path, post_decision, tag, "decide", DecisionAnswer, OF_A_BODY + _DECIDING, "POST", hurried=True),
        Operation(f"{one}/confirm", post_confirm, tag, "decide", ConfirmAnswer, _NOT_SENT, "POST", turn=Turn.CONFIRM),
        Operation(f"{path}/batch", post_batch, tag, "decide", BatchAnswer, OF_A_BODY, "POST", costs=many),
        Operation(
            one, get_decision, tag, "read", RecordAnswer, (UnknownDecisionError, ArchivedError, LakeUnreadableError)
        ),
    ):
        add_route(app, operation)
