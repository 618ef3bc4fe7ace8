"""Explain a decision: score terms of the chosen action, the runners-up, contributions to the churn score. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.aggregates import forward
from features.schema import CHANNELS, CHURN_DEFAULT, VECTOR, schema_hash
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
    """

    catalogue: Catalogue
    policy: LearnedPolicy | None
    churn: Scorer | None


def why(record: Record, evidence: Evidence | None) -> dict[str, Any]:
    """The reasons of a decision, numbers as the decision saw them; money in minor units.

    What is not kept any more, or was made by another build, is told by `missing` and never guessed.
    """
    if evidence is None or record.versions.schema != schema_hash():
        why_not = "its models could not be read" if evidence is None else "it was made with features of another build"
        return {"action": None, "churn": None, "missing": why_not}
    vector = forward(unpack_floats(record.seen.features), record.at_us)
    return {"action": _action(record, evidence, vector), "churn": _churn(record, evidence, vector)}


def _action(record: Record, evidence: Evidence, vector: NDArray[np.float64]) -> dict[str, Any] | None:
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

    def told(at: int) -> dict[str, Any]:
        place = int(places[at])
        parts = {} if scored is None else {"parts": _parts(scored, place, catalogue)}
        return {**action_names(place, catalogue), "score": float(scores[at]), "probability": float(pmf[at]), **parts}

    chosen = int(np.searchsorted(places, choice.place))
    return {
        "policy": choice.policy_version,
        "role": choice.role,
        "chosen": told(chosen),
        "next_best": None if best is None else told(best),
        "explored": bool(scores[chosen] < scores.max()),
        "leanings": [] if evidence.policy is None else _leanings(evidence.policy, seen, choice.place, catalogue),
    }


def _parts(scored: ScoreTerms, place: int, catalogue: Catalogue) -> dict[str, float]:
    """What a score is made of: net = lever x (worth - worth left alone) - cost - (penalty - penalty left alone)."""
    lever = 1.0 if place == NO_CONTACT else catalogue.action(place).offer.lever
    return {
        "conversion_probability": float(scored.conversion[place]),
        "worth_minor": float(scored.worth[place]),
        "worth_left_alone_minor": float(scored.worth[NO_CONTACT]),
        "lever": lever,
        "cost_minor": float(scored.cost[place]),
        "penalty_minor": float(scored.penalty[place]),
        "penalty_left_alone_minor": float(scored.penalty[NO_CONTACT]),
        "net_minor": float(scored.net[place]),
    }


def _leanings(
    policy: LearnedPolicy, seen: NDArray[np.float64], place: int, catalogue: Catalogue
) -> list[dict[str, str | float | None]]:
    """Readings of the player that speak most for or against the action, in log odds of a conversion."""
    return _largest(policy.contributions(seen, place, catalogue), "reading")


def _churn(record: Record, evidence: Evidence, vector: NDArray[np.float64]) -> dict[str, Any] | None:
    """The churn score with the features that moved it most, in log odds (LightGBM's own contributions)."""
    if record.seen.churn_score is None:
        return None
    told: dict[str, Any] = {"score": record.seen.churn_score, "model_version": record.versions.churn}
    if evidence.churn is None:
        return told | {"reasons": []}
    contributions = evidence.churn.contributions(vector)
    base = contributions.pop("")
    values = dict(zip((reading.name for reading in VECTOR), vector.tolist(), strict=True))
    reasons = _largest(contributions, "feature")
    for one in reasons:
        value = values[str(one["feature"])]
        one["value"] = None if value != value else value  # noqa: PLR0124 - NaN: it never happened
    return told | {"base_log_odds": base, "reasons": reasons}


def _largest(found: Mapping[str, float], kind: str) -> list[dict[str, str | float | None]]:
    ranked = sorted(found, key=lambda name: -abs(found[name]))[:SHOWN]
    return [{kind: name, "log_odds": found[name]} for name in ranked if found[name]]


def extent(blocked: NDArray[np.bool_], catalogue: Catalogue) -> dict[str, Any]:
    """What a reason denies, over all places: how many actions, and every offer, channel and slot among them."""
    cube = blocked[1:].reshape(catalogue.shape)
    return {
        "actions": int(cube.sum()),
        "offers": [catalogue.offers[at].id for at in np.flatnonzero(cube.any(axis=(1, 2)))],
        "channels": [CHANNELS[at] for at in np.flatnonzero(cube.any(axis=(0, 2)))],
        "timing_slots": [SLOTS[at] for at in np.flatnonzero(cube.any(axis=(0, 1)))],
    }


def action_names(place: int, catalogue: Catalogue) -> dict[str, str]:
    """An action by its names."""
    if place == NO_CONTACT:
        return {"action": "NO_CONTACT"}
    offer, channel, slot = catalogue.action(place)
    return {"offer": offer.id, "channel": channel, "timing_slot": slot}
