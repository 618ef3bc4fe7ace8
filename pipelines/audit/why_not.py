"""Why not another action: what stood against it in a decision, or how likely it was beside the one drawn. Pure.

excluded   rules, limits, experiments and the house's own reasons that denied it
eligible   nothing did: its score and probability beside those of the action that was drawn
lost       it was drawn, and a budget over all players could not bear it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.schema import CHANNELS
from features.words import unknown
from models.catalogue.offers import NO_CONTACT, SLOTS, Catalogue
from models.experiments import assignment
from pipelines.audit.period import AuditRefused
from service.decisions.explain import action_names, extent
from service.decisions.reasons import OWN, Reason, reason
from service.decisions.record import Record, unpack_floats, unpack_places
from service.decisions.replay import is_limit

_ALONE: Final = "NO_CONTACT"


def why_not(record: Record, catalogue: Catalogue, known: Mapping[str, Reason], action: str) -> dict[str, Any]:
    """Why an action was not the one.

    Args:
        record: The decision.
        catalogue: The one that it names.
        known: Reasons of the rulebook that it names.
        action: `offer/channel/timing_slot`, or `NO_CONTACT`.

    Raises:
        AuditRefused: The catalogue has no such action.
    """
    place, choice = _place(action, catalogue), record.choice
    told = {"decision_id": record.decision_id, "action": action, "policy": choice.policy_version, "role": choice.role}
    against = [name for name, bits in choice.excluded.items() if _holds(bits, place, catalogue)]
    if against:
        return told | {"standing": "excluded", "against": [_reason(name, known) for name in against]}
    scored = {one["place"]: one for one in _scored(record, catalogue)}
    drawn = place == choice.place
    standing = "eligible" if not drawn else "chosen" if record.action is not None or place == NO_CONTACT else "lost"
    put_off = [
        {"rule": one.rule, "allowed_from_us": one.allowed_from_us}
        for one in choice.deferrals
        if _holds(one.candidates, place, catalogue)
    ]
    return told | {
        "standing": standing,
        "against": [],
        "put_off": put_off,
        "this": scored.get(place),
        "drawn": scored.get(choice.place),
        "u": choice.u,
    }


def why_not_others(record: Record, catalogue: Catalogue, known: Mapping[str, Reason]) -> dict[str, Any]:
    """Why each other action was not the one: grouped by what denied them, and those that nothing denied."""
    choice = record.choice
    groups = [
        _reason(name, known) | extent(unpack_places(bits, catalogue.size), catalogue)
        for name, bits in choice.excluded.items()
    ]
    scored = _scored(record, catalogue)
    others = [one for one in scored if one["place"] != choice.place]
    return {
        "decision_id": record.decision_id,
        "policy": choice.policy_version,
        "role": choice.role,
        "against": sorted(groups, key=lambda one: -one["actions"]),
        "drawn": next((one for one in scored if one["place"] == choice.place), None),
        "eligible": sorted(others, key=lambda one: (-one["probability"], -one["score"])),
    }


def kind_of(name: str) -> str:
    """What sort of reason an id is: a limit's, an experiment's, the request's, a stop, the house's own, or a rule's."""
    if is_limit(name):
        return "limit"
    if name in assignment.REASONS:
        return "experiment"
    if name == "not_requested":
        return "request"
    if name.startswith("stop:"):
        return "stop"
    return "house" if name in OWN else "rule"


def _reason(name: str, known: Mapping[str, Reason]) -> dict[str, Any]:
    found = reason(name, known)
    return {"rule": name, "kind": kind_of(name), "reason": found.reason, "source": found.source}


def _scored(record: Record, catalogue: Catalogue) -> list[dict[str, Any]]:
    """Every eligible action with score and probability, in the order of places."""
    choice = record.choice
    places = np.flatnonzero(unpack_places(choice.mask, catalogue.size)).tolist()
    numbers: tuple[NDArray[np.float64], ...] = unpack_floats(choice.scores), unpack_floats(choice.pmf)
    scores, pmf = (one.tolist() for one in numbers)
    return [
        {"place": place, "action": _named(place, catalogue), "score": score, "probability": probability}
        for place, score, probability in zip(places, scores, pmf, strict=False)
    ]


def _named(place: int, catalogue: Catalogue) -> str:
    return "/".join(action_names(place, catalogue).values())


def _holds(bits: bytes, place: int, catalogue: Catalogue) -> bool:
    return bool(unpack_places(bits, catalogue.size)[place])


def _place(action: str, catalogue: Catalogue) -> int:
    """The place of an action by its name."""
    if action == _ALONE:
        return NO_CONTACT
    parts = action.split("/")
    if len(parts) != 3:
        raise AuditRefused(f"an action is offer/channel/timing_slot or {_ALONE}, not {action!r}")
    for kind, part, words in zip(
        ("offer", "channel", "timing slot"), parts, (catalogue.ids, CHANNELS, SLOTS), strict=True
    ):
        if part not in words:
            raise AuditRefused(unknown(part, f"{kind} of the decision's catalogue", words))
    return catalogue.place(*parts)
