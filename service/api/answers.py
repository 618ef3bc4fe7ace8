"""API answers: decision records as JSON, the same bytes for the same record. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.aggregates import forward
from features.moments import when
from features.schema import STORED, VECTOR, schema_hash
from models.catalogue.offers import NO_CONTACT, Catalogue
from service.decisions.explain import action_names, extent
from service.decisions.reasons import Reason, reason
from service.decisions.record import ChosenContact, DeferredContact, Record, unpack_floats, unpack_places

_NO_CONTACT: Final = "NO_CONTACT"


Reasons = Mapping[str, Reason]
"""Reasons of the rulebook that a record names, by id."""


def decision(
    record: Record, player_id: str | None, catalogue: Catalogue, reasons: Reasons, *, recorded: bool
) -> dict[str, Any]:
    """The answer to a decision request; with every reason and number if it asked to explain."""
    answer: dict[str, Any] = {
        "decision_id": record.decision_id if recorded else None,
        "player_id": player_id,
        "action": _action(record.action),
        "propensity": record.choice.propensity,
        "lease": None if record.action is None else {"valid_until": when(record.action.valid_until_us)},
        "churn": _churn(record),
        "harm_level": record.seen.harm_level,
        "experiment": {"key": record.experiment, "variant": record.variant} if record.experiment else None,
        "policy_version": record.choice.policy_version,
        "rules_version": record.versions.rules,
        "degraded": list(record.seen.degraded),
        "recorded": recorded,
        "sandbox": record.sandbox,
    }
    if record.sandbox:
        answer["assumed"] = list(record.seen.assumed)
    if record.action is None and record.choice.place != NO_CONTACT:
        answer["lost"] = "the contact drawn would have cost more than a budget over all players had left"
    if record.explain:
        return answer | _explanation(record, catalogue, reasons)
    if record.action is None:
        answer["exclusions"] = [_reason(rule, reasons) for rule in record.choice.excluded]
    return answer


def unserved(player_id: str, rule: str, why: str) -> dict[str, Any]:
    """The answer when nothing could be committed: leave the player alone, without a propensity."""
    return {
        "decision_id": None,
        "player_id": player_id,
        "action": _NO_CONTACT,
        "propensity": None,
        "lease": None,
        "churn": None,
        "harm_level": None,
        "experiment": None,
        "policy_version": None,
        "rules_version": None,
        "degraded": [rule],
        "recorded": False,
        "exclusions": [{"rule": rule, "reason": why}],
    }


def whole(record: Record, player_id: str | None, catalogue: Catalogue, reasons: Reasons) -> dict[str, Any]:
    """A record with its reasons, as `GET /v1/decisions/{id}` tells it."""
    choice = record.choice
    return (
        decision(record, player_id, catalogue, reasons, recorded=True)
        | _explanation(record, catalogue, reasons)
        | {
            "player": record.player,
            "brand": record.brand,
            "at": when(record.at_us),
            "attempt": record.attempt,
            "purposes": list(record.purposes),
            "decision_point": record.decision_point,
            "role": choice.role,
            "bucket": record.bucket,
            "draw": {"u": choice.u, "place": choice.place},
            "eligible": _eligible(record, catalogue),
            "versions": msgspec.to_builtins(record.versions),
            "schema": {"stored": [feature.name for feature in STORED]},
            "facts_version": record.seen.facts_version,
            "ledger_version": record.seen.ledger_version,
            "format": record.v,
        }
    )


def _churn(record: Record) -> dict[str, Any] | None:
    """The churn score; none of a player who objected to profiling."""
    if record.seen.churn_score is None:
        return None
    return {"score": record.seen.churn_score, "model_version": record.versions.churn}


def _action(sent: ChosenContact | None) -> dict[str, Any] | str:
    if sent is None:
        return _NO_CONTACT
    offer = {"id": sent.offer, "name": sent.name, "template": sent.template, "parameters": sent.parameters}
    return {
        "offer": offer,
        "channel": sent.channel,
        "timing_slot": sent.timing_slot,
        "purpose": sent.purpose,
        "send_at": when(sent.send_us),
    }


def _reason(rule: str, reasons: Reasons) -> dict[str, str]:
    known = reason(rule, reasons)
    return {"rule": rule, "reason": known.reason, "source": known.source}


def _explanation(record: Record, catalogue: Catalogue, reasons: Reasons) -> dict[str, Any]:
    return {
        "exclusions": [
            _reason(rule, reasons) | _extent(blocked, record, catalogue)
            for rule, blocked in record.choice.excluded.items()
        ],
        "deferrals": [_deferral(one, record, catalogue) for one in record.choice.deferrals],
        "candidates": {"all": catalogue.size, "eligible": len(unpack_floats(record.choice.pmf))},
        "score": _chosen_score(record, catalogue),
        "stage": record.seen.stage,
        "markers": record.seen.markers,
        "harm_sources": record.seen.harm_sources,
        "features": _features(record),
    }


def _extent(blocked: bytes, record: Record, catalogue: Catalogue) -> dict[str, Any]:
    """What a rule reached: how many actions, and every offer, channel and slot among them."""
    if record.versions.catalogue != catalogue.hash:
        return {}
    return extent(unpack_places(blocked, catalogue.size), catalogue)


def _deferral(one: DeferredContact, record: Record, catalogue: Catalogue) -> dict[str, Any]:
    """What a rule put off, and to when."""
    return {"rule": one.rule, "allowed_from": when(one.allowed_from_us)} | _extent(one.candidates, record, catalogue)


def _chosen_score(record: Record, catalogue: Catalogue) -> float | None:
    places = np.flatnonzero(_mask(record, catalogue))
    scores = unpack_floats(record.choice.scores)
    return float(scores[np.searchsorted(places, record.choice.place)]) if len(places) == len(scores) else None


def _mask(record: Record, catalogue: Catalogue) -> NDArray[np.bool_]:
    size = catalogue.size if record.versions.catalogue == catalogue.hash else 8 * len(record.choice.mask)
    return unpack_places(record.choice.mask, size)


def _eligible(record: Record, catalogue: Catalogue) -> list[dict[str, Any]]:
    """Every eligible action with score and probability, in the order of the catalogue's places."""
    numbers = zip(unpack_floats(record.choice.scores).tolist(), unpack_floats(record.choice.pmf).tolist(), strict=True)
    named = record.versions.catalogue == catalogue.hash
    return [
        {
            "place": int(place),
            **(action_names(int(place), catalogue) if named else {}),
            "score": score,
            "probability": p,
        }
        for place, (score, p) in zip(np.flatnonzero(_mask(record, catalogue)), numbers, strict=False)
    ]


def _features(record: Record) -> dict[str, Any]:
    """Features as the decision saw them: brought forward to its moment, None where nothing ever happened."""
    stored = unpack_floats(record.seen.features)
    if record.versions.schema != schema_hash():
        return {"age_seconds": record.seen.age_seconds, "as_of": when(record.seen.as_of_us), "values": None}
    values = dict(zip((reading.name for reading in VECTOR), forward(stored, record.at_us).tolist(), strict=True))
    return {
        "age_seconds": record.seen.age_seconds,
        "as_of": when(record.seen.as_of_us),
        "values": {name: None if np.isnan(value) else value for name, value in values.items()},
    }
