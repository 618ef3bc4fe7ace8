"""API answers: decision records as structs, the same bytes for the same record. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from msgspec import UNSET, UnsetType, structs
from numpy.typing import NDArray

from features.aggregates import forward
from features.kept_schemas import Schema, by_name, lacking
from features.moments import when
from features.schema import VECTOR
from models.catalogue.offers import NO_CONTACT, Catalogue
from service.api.schemas import (
    AskedFor,
    CandidateCount,
    ChurnScore,
    Decided,
    DecisionAnswer,
    Deferral,
    Draw,
    EligibleAction,
    Exclusion,
    ExperimentPlace,
    Lease,
    OfferAnswer,
    Offered,
    Personal,
    RecordAnswer,
    RecordedFeatures,
    StoredFeatures,
)
from service.contacts.stops import JournalledStop, StopInForce
from service.decisions import personal
from service.decisions.explain import Why, action_names, extent
from service.decisions.explain_player import ExperimentMembership
from service.decisions.kept import KeptDecision
from service.decisions.missing import MissingFact, missing
from service.decisions.reasons import Reason, reason
from service.decisions.record import ChosenContact, DeferredContact, Record, unpack_floats, unpack_places

_NO_CONTACT: Final = "NO_CONTACT"
_LOST: Final = "the contact drawn would have cost more than a budget over all players had left"


Reasons = Mapping[str, Reason]
"""Reasons of the rulebook that a record names, by id."""


def decision(
    kept: KeptDecision,
    player_id: str | None,
    reasons: Reasons,
    *,
    recorded: bool,
    after_reached: bool | UnsetType = UNSET,
) -> DecisionAnswer:
    """The answer to a decision request."""
    action = kept.action
    answer = DecisionAnswer(
        decision_id=kept.decision_id if recorded else None,
        player_id=player_id,
        action=_action(action),
        propensity=kept.propensity,
        lease=None if action is None else Lease(valid_until=when(action.valid_until_us)),
        churn=_churn(kept),
        harm_level=kept.harm_level,
        experiment=next((ExperimentPlace(key=one.key, variant=one.variant) for one in kept.experiments), None),
        experiments=[ExperimentMembership(**one._asdict()) for one in kept.experiments],
        policy_version=kept.policy_version,
        rules_version=kept.rules_version,
        degraded=list(kept.degraded),
        recorded=recorded,
        sandbox=kept.sandbox,
        assumed=list(kept.assumed) if kept.sandbox else UNSET,
        lost=_LOST if action is None and kept.place != NO_CONTACT else UNSET,
        after_reached=after_reached,
    )
    if action is None:
        answer.exclusions, answer.missing = _why_not(kept, reasons)
    return answer


_WHY_NOT: Final[dict[tuple[str, tuple[str, ...], bytes], tuple[list[Exclusion], list[MissingFact]]]] = {}
"""Why nobody is contacted, by rulebook and exclusions: most players are left alone for the same few reasons."""
_REMEMBERED: Final = 1_000


def _why_not(kept: KeptDecision, reasons: Reasons) -> tuple[list[Exclusion], list[MissingFact]]:
    """What excluded contacts, and what must be told of the player; remembered, and never changed."""
    key = kept.rules_version, kept.excluded_by, kept.whole
    if (found := _WHY_NOT.get(key)) is None:
        exclusions = [_exclusion(rule, reasons) for rule in kept.excluded_by]
        found = exclusions, missing(kept.excluded_by, kept.whole, reasons)
        if len(_WHY_NOT) >= _REMEMBERED:
            _WHY_NOT.clear()
        if reasons:  # else the rulebook cannot be read now
            _WHY_NOT[key] = found
    return found


def unserved(player_id: str, rule: str, why: str, *, after_reached: bool | UnsetType = UNSET) -> DecisionAnswer:
    """The answer when nothing could be committed: leave the player alone, without a propensity."""
    return DecisionAnswer(
        decision_id=None,
        player_id=player_id,
        action=_NO_CONTACT,
        propensity=None,
        lease=None,
        churn=None,
        harm_level=None,
        experiment=None,
        experiments=[],
        policy_version=None,
        rules_version=None,
        degraded=[rule],
        recorded=False,
        exclusions=[Exclusion(rule=rule, reason=why)],
        missing=[],
        after_reached=after_reached,
    )


def whole(
    record: Record,
    opened: personal.Personal | None,
    catalogue: Catalogue,
    reasons: Reasons,
    schema: Schema | None,
    why: Why,
    stops: Mapping[str, JournalledStop] | None = None,
) -> RecordAnswer:
    """A record with its reasons, as `GET /v1/decisions/{id}` tells it.

    Args:
        record: The record.
        opened: Its personal fields, None once they were erased.
        catalogue: The one it was made from, or one that serves.
        reasons: Those of its rulebook.
        schema: That of its features, None where it is not kept.
        why: Its reasons.
        stops: The journal of stops by id, as far as it was read.
    """
    player_id = None if opened is None else opened.player_id
    answer = decision(KeptDecision.of(record), player_id, reasons, recorded=True)
    explain(answer, record, catalogue, reasons, schema)
    choice = record.choice
    return RecordAnswer(
        **{name: getattr(answer, name) for name in Decided.__struct_fields__},
        player=record.player,
        brand=record.brand,
        at=when(record.at_us),
        attempt=record.attempt,
        purposes=list(record.purposes),
        decision_point=record.decision_point,
        role=choice.role,
        bucket=next((one.bucket for one in record.experiments), 0.0),
        draw=Draw(u=choice.u, place=choice.place),
        eligible=_eligible(record, catalogue),
        versions=record.versions,
        schema=StoredFeatures(stored=list(schema.definitions) if schema else []),
        facts_version=record.seen.facts_version,
        ledger_version=record.seen.ledger_version,
        format=record.v,
        personal=None if opened is None else _personal(opened),
        why=why,
        use=record.use,
        journey=record.journey,
        shadows=list(record.shadows),
        stops=[_stop(one, stops or {}) for one in record.stops] if record.stops else UNSET,
    )


def _stop(one: StopInForce, journal: Mapping[str, JournalledStop]) -> JournalledStop:
    """A stop with who did it and why, where the journal that was read knows it."""
    return journal.get(one.id) or JournalledStop(id=one.id, scope=one.scope, value=one.value, at="", by="", reason="")


def _personal(opened: personal.Personal) -> Personal:
    """What was sealed; the first builds sealed less."""
    return Personal(
        player_id=opened.player_id,
        request_id=opened.request_id,
        context=dict(opened.context),
        facts={name.decode(): text.decode() for name, text in opened.facts.items()},
        inputs=UNSET if opened.inputs is None else dict(opened.inputs),
        contacts=UNSET if opened.contacts is None else [(*contact,) for contact in opened.contacts],
        asked=UNSET if opened.asked is None else _asked_for(opened.asked),
    )


def _asked_for(asked: personal.Narrowed) -> AskedFor:
    channels, offers = asked.channels, asked.offers
    return AskedFor(
        channels=None if channels is None else list(channels),
        offers=None if offers is None else list(offers),
        activate=asked.activate,
    )


def _churn(kept: KeptDecision) -> ChurnScore | None:
    """The churn score; none of a player who objected to profiling."""
    if kept.churn_score is None:
        return None
    default = UNSET if kept.churn_is_default is None else kept.churn_is_default
    return ChurnScore(score=kept.churn_score, model_version=kept.churn_version, is_default=default)


def _action(sent: ChosenContact | None) -> Offered | Literal["NO_CONTACT"]:
    if sent is None:
        return _NO_CONTACT
    return Offered(
        offer=OfferAnswer(id=sent.offer, name=sent.name, template=sent.template, parameters=sent.parameters),
        channel=sent.channel,
        timing_slot=sent.timing_slot,
        purpose=sent.purpose,
        send_at=when(sent.send_us),
    )


def _exclusion(rule: str, reasons: Reasons) -> Exclusion:
    known = reason(rule, reasons)
    return Exclusion(rule=rule, reason=known.reason, source=known.source)


def explain(answer: Decided, record: Record, catalogue: Catalogue, reasons: Reasons, schema: Schema | None) -> None:
    """Add every reason and number to an answer."""
    choice, seen = record.choice, record.seen
    answer.exclusions = [
        structs.replace(_exclusion(rule, reasons), **_extent(blocked, record, catalogue))
        for rule, blocked in choice.excluded.items()
    ]
    answer.deferrals = [_deferral(put_off, record, catalogue) for put_off in choice.deferrals]
    answer.candidates = CandidateCount(all=catalogue.size, eligible=len(unpack_floats(choice.pmf)))
    answer.score = _chosen_score(record, catalogue)
    answer.stage, answer.markers, answer.harm_sources = seen.stage, seen.markers, seen.harm_sources
    answer.features = _features(record, schema)


def _extent(blocked: bytes, record: Record, catalogue: Catalogue) -> dict[str, Any]:
    """What a rule reached, as fields of a struct: how many actions; all offers, channels and slots among them."""
    if record.versions.catalogue != catalogue.hash:
        return {}
    return extent(unpack_places(blocked, catalogue.size), catalogue)


def _deferral(put_off: DeferredContact, record: Record, catalogue: Catalogue) -> Deferral:
    """What a rule put off, and to when."""
    reached = _extent(put_off.candidates, record, catalogue)
    return Deferral(rule=put_off.rule, allowed_from=when(put_off.allowed_from_us), **reached)


def _chosen_score(record: Record, catalogue: Catalogue) -> float | None:
    places = np.flatnonzero(_mask(record, catalogue))
    scores = unpack_floats(record.choice.scores)
    return float(scores[np.searchsorted(places, record.choice.place)]) if len(places) == len(scores) else None


def _mask(record: Record, catalogue: Catalogue) -> NDArray[np.bool_]:
    size = catalogue.size if record.versions.catalogue == catalogue.hash else 8 * len(record.choice.mask)
    return unpack_places(record.choice.mask, size)


def _eligible(record: Record, catalogue: Catalogue) -> list[EligibleAction]:
    """Every eligible action with score and probability, in the order of the catalogue's places."""
    numbers = zip(unpack_floats(record.choice.scores).tolist(), unpack_floats(record.choice.pmf).tolist(), strict=True)
    named = record.versions.catalogue == catalogue.hash
    return [
        EligibleAction(
            place=int(place), **(action_names(int(place), catalogue) if named else {}), score=score, probability=p
        )
        for place, (score, p) in zip(np.flatnonzero(_mask(record, catalogue)), numbers, strict=False)
    ]


def _features(record: Record, schema: Schema | None) -> RecordedFeatures:
    """Features as the decision saw them: brought forward to its moment, None where nothing ever happened.

    Without those that its build did not have; None as a whole where nothing says what its build had.
    """
    values: dict[str, float | None] | None = None
    if schema is not None:
        numbers = forward(by_name(unpack_floats(record.seen.features), schema), record.at_us).tolist()
        values = {
            reading.name: None if np.isnan(value) else value
            for reading, value in zip(VECTOR, numbers, strict=True)
            if reading.name not in lacking(schema)
        }
    return RecordedFeatures(age_seconds=record.seen.age_seconds, as_of=when(record.seen.as_of_us), values=values)
