"""Explain a decision: score terms of the chosen action, the runners-up, contributions to the churn score. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from features.aggregates import forward
from features.kept_schemas import Schema, by_name, lacking
from features.schema import CHANNELS, CHURN_DEFAULT, VECTOR
from models.catalogue.offers import NO_CONTACT, SLOTS, Catalogue
from models.churn.scorer import Scorer
from models.policy.context import context
from models.policy.learned import LearnedPolicy, ScoreTerms
from service.decisions.record import Record, unpack_floats, unpack_places

SHOWN: Final = 5
"""Reasons that are told; the others are smaller."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a record was made with, as far as it is still kept.

    Attributes:
        catalogue: The one that the record names.
        policy: The snapshot that the record names, None for policies that were not learnt.
        churn: The churn model that the record names, None while none served.
        schema: The schema of its features, None where it is not kept.
        unread: What is kept and cannot be read by this build: `policy`, `churn model`.
    """

    catalogue: Catalogue
    policy: LearnedPolicy | None
    churn: Scorer | None
    schema: Schema | None
    unread: tuple[str, ...] = ()


class ScoreParts(msgspec.Struct, frozen=True, kw_only=True):
    """Parts of a score: net = lever x (worth - worth left alone) - cost - (penalty - penalty left alone)."""

    conversion_probability: float
    worth_minor: float
    worth_left_alone_minor: float
    lever: float
    cost_minor: float
    penalty_minor: float
    penalty_left_alone_minor: float
    net_minor: float


class ScoredAction(msgspec.Struct, frozen=True, kw_only=True):
    """An action with its score and probability: `action` for leaving the player alone, else offer, channel, slot."""

    action: str | UnsetType = UNSET
    offer: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    timing_slot: str | UnsetType = UNSET
    score: float
    probability: float
    parts: Annotated[ScoreParts | UnsetType, Meta(description="For policies that were learnt.")] = UNSET


class Leaning(msgspec.Struct, frozen=True, kw_only=True):
    """A reading of the player that speaks for or against the action, in log odds of a conversion."""

    reading: str
    log_odds: float


class ActionReasons(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen action beside the best other one."""

    policy: str
    role: str
    chosen: ScoredAction
    next_best: ScoredAction | None
    explored: Annotated[bool, Meta(description="Whether another action had a higher score.")]
    leanings: list[Leaning]


class ChurnReason(msgspec.Struct, frozen=True, kw_only=True):
    """A feature that moved the churn score, in log odds; `value` is null where it never happened."""

    feature: str
    log_odds: float
    value: float | None


class ChurnReasons(msgspec.Struct, frozen=True, kw_only=True):
    """The churn score with the features that moved it most (LightGBM's own contributions)."""

    score: float
    model_version: str | None
    base_log_odds: Annotated[float | UnsetType, Meta(description="Where the model is kept.")] = UNSET
    reasons: list[ChurnReason]


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Reasons of a decision, numbers as the decision saw them; money in minor units."""

    action: Annotated[ActionReasons | None, Meta(description="Null where its catalogue is not kept any more.")]
    churn: ChurnReasons | None
    missing: Annotated[str | UnsetType, Meta(description="Why there are no reasons, or which are left out.")] = UNSET


def why(record: Record, evidence: Evidence | None) -> Why:
    """The reasons of a decision, numbers as the decision saw them; money in minor units.

    What is not kept any more, or rests on features that the record lacks, is told by `missing` and never guessed.
    """
    if evidence is None:
        return Why(action=None, churn=None, missing="its models could not be read")
    if (schema := evidence.schema) is None:
        unnamed = f"its features are of schema {record.versions.schema}, which is not kept"
        return Why(action=None, churn=None, missing=unnamed)
    evidence, missing = _exact(evidence, lacking(schema))
    vector = forward(by_name(unpack_floats(record.seen.features), schema), record.at_us)
    action, churn = _action(record, evidence, vector), _churn(record, evidence, vector)
    return Why(action=action, churn=churn, missing="; ".join(missing) or UNSET)


def _exact(evidence: Evidence, lacks: AbstractSet[str]) -> tuple[Evidence, list[str]]:
    """Evidence without the models that read what a record lacks, and sentences about what is left out."""
    policy, churn = evidence.policy, evidence.churn
    read = {"policy": policy.readings if policy else (), "churn model": churn.bundle.features if churn else ()}
    without = {name: [one for one in seen if one.partition("=")[0] in lacks] for name, seen in read.items()}
    told = [f"its {name} could not be read" for name in evidence.unread]
    told += [f"it lacks {', '.join(names)}, which its {name} reads" for name, names in without.items() if names]
    exact = replace(
        evidence,
        policy=None if without["policy"] else policy,
        churn=None if without["churn model"] else churn,
    )
    return exact, told


def _action(record: Record, evidence: Evidence, vector: NDArray[np.float64]) -> ActionReasons | None:
    """The chosen action beside the best other one; None where the catalogue of the record is not kept."""
    choice, catalogue = record.choice, evidence.catalogue
    if catalogue.hash != record.versions.catalogue:
        return None
    places = np.flatnonzero(unpack_places(choice.mask, catalogue.size))
    scores, pmf = unpack_floats(choice.scores), unpack_floats(choice.pmf)
    seen = context(vector, CHURN_DEFAULT if record.seen.churn_score is None else record.seen.churn_score)
    scored = evidence.policy.score(seen) if evidence.policy else None
    others = np.flatnonzero(places != choice.place)
    best = int(others[np.argmax(scores[others])]) if len(others) else None

    def scored_action(at: int) -> ScoredAction:
        place = int(places[at])
        parts = UNSET if scored is None else _parts(scored, place, catalogue)
        names = action_names(place, catalogue)
        return ScoredAction(**names, score=float(scores[at]), probability=float(pmf[at]), parts=parts)

    chosen = int(np.searchsorted(places, choice.place))
    return ActionReasons(
        policy=choice.policy_version,
        role=choice.role,
        chosen=scored_action(chosen),
        next_best=None if best is None else scored_action(best),
        explored=bool(scores[chosen] < scores.max()),
        leanings=[] if evidence.policy is None else _leanings(evidence.policy, seen, choice.place, catalogue),
    )


def _parts(scored: ScoreTerms, place: int, catalogue: Catalogue) -> ScoreParts:
    return ScoreParts(
        conversion_probability=float(scored.conversion[place]),
        worth_minor=float(scored.worth[place]),
        worth_left_alone_minor=float(scored.worth[NO_CONTACT]),
        lever=1.0 if place == NO_CONTACT else catalogue.action(place).offer.lever,
        cost_minor=float(scored.cost[place]),
        penalty_minor=float(scored.penalty[place]),
        penalty_left_alone_minor=float(scored.penalty[NO_CONTACT]),
        net_minor=float(scored.net[place]),
    )


def _leanings(policy: LearnedPolicy, seen: NDArray[np.float64], place: int, catalogue: Catalogue) -> list[Leaning]:
    """Readings of the player that speak most for or against the action."""
    largest = _largest(policy.contributions(seen, place, catalogue))
    return [Leaning(reading=name, log_odds=log_odds) for name, log_odds in largest.items()]


def _churn(record: Record, evidence: Evidence, vector: NDArray[np.float64]) -> ChurnReasons | None:
    score, version = record.seen.churn_score, record.versions.churn
    if score is None:
        return None
    if evidence.churn is None:
        return ChurnReasons(score=score, model_version=version, reasons=[])
    contributions = evidence.churn.contributions(vector)
    base = contributions.pop("")
    values = dict(zip((reading.name for reading in VECTOR), vector.tolist(), strict=True))
    reasons = [
        ChurnReason(feature=name, log_odds=log_odds, value=None if np.isnan(values[name]) else values[name])
        for name, log_odds in _largest(contributions).items()
    ]
    return ChurnReasons(score=score, model_version=version, base_log_odds=base, reasons=reasons)


def _largest(contributions: Mapping[str, float]) -> dict[str, float]:
    ranked = sorted(contributions, key=lambda name: -abs(contributions[name]))[:SHOWN]
    return {name: contributions[name] for name in ranked if contributions[name]}


def extent(blocked: NDArray[np.bool_], catalogue: Catalogue) -> dict[str, Any]:
    """What a reason denies, over all places, as fields of a struct: how many actions; all offers, channels, slots."""
    cube = blocked[1:].reshape(catalogue.shape)
    return {
        "actions": int(cube.sum()),
        "offers": [catalogue.offers[at].id for at in np.flatnonzero(cube.any(axis=(1, 2)))],
        "channels": [CHANNELS[at] for at in np.flatnonzero(cube.any(axis=(0, 2)))],
        "timing_slots": [SLOTS[at] for at in np.flatnonzero(cube.any(axis=(0, 1)))],
    }


def action_names(place: int, catalogue: Catalogue) -> dict[str, Any]:
    """An action by its names, as fields of a struct: `action`, or `offer`, `channel` and `timing_slot`."""
    if place == NO_CONTACT:
        return {"action": "NO_CONTACT"}
    offer, channel, slot = catalogue.action(place)
    return {"offer": offer.id, "channel": channel, "timing_slot": slot}
