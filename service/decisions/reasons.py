"""Reasons in words: what every id in a record's exclusions means, and where it comes from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from service.decisions.missing import BY_INPUT, BY_OWN, BY_STATE, Telling, of_register, of_rule, stands
from service.rules.compiler import NO_RULES
from service.rules.inputs import INPUTS
from service.rules.rulebook import EVERYWHERE, Rulebook


class Reason(NamedTuple):
    """A reason in words, and where it comes from.

    `telling` is the event that mends it, None where none does; `needs` are inputs of a rule, `stands` whether it
    denies for good where they are known.
    """

    reason: str
    source: str
    jurisdictions: tuple[str, ...] = ()
    checked_on: str | None = None
    confidence: str | None = None
    note: str = ""
    telling: Telling | None = None
    needs: tuple[str, ...] = ()
    stands: bool = False


OWN: Final = {
    "unknown_player": Reason("nothing is known of this player", "house: unknown denies"),
    "rulebook_unreadable": Reason("the rulebook that was promoted cannot be read", "house: unknown denies"),
    "offer_elsewhere": Reason("the offer is not for where the player lives, is licensed or is now", "catalogue"),
    "time_zone": Reason("the player's hour is unknown", "house: unknown denies"),
    "lifecycle_stage": Reason("the offer is for another stage of a player's life", "catalogue"),
    "features_unavailable": Reason("behaviour could not be read", "house: unknown denies"),
    "features_stale": Reason("behaviour is older than it may be", "house: stale denies"),
    "holdout": Reason("the player belongs to the group that gets no marketing", "experiment"),
    "global_holdout": Reason("the player belongs to the permanent group that no marketing reaches", "experiment"),
    "left_out": Reason("the player's variant of an experiment goes without it", "experiment"),
    "not_requested": Reason("the caller asked for other purposes, channels or offers", "request"),
    "shared_address": Reason(
        "the address is also that of somebody who is excluded", "house: a shared address is silent"
    ),
    "offer_gone": Reason("the catalogue that serves now has no such offer", "catalogue"),
}
"""Reasons that are no rule of the rulebook."""


TROUBLES: Final = {
    "unknown": "it is not known",
    "stale": "what is known is too old",
    "future": "it was told for a moment that lies ahead",
}


def reasons(book: Rulebook) -> dict[str, Reason]:
    """Every reason that a rulebook can give, by id, in words with its source."""
    found = dict(OWN)
    for pack in book.packs:
        for rule in pack.rules:
            found[rule.id] = Reason(
                f"{rule.reason} ({rule.asks})" if rule.asks else rule.reason,
                rule.source,
                rule.jurisdictions or pack.jurisdictions,
                str(rule.checked_on or pack.checked_on),
                rule.confidence,
                rule.note,
                of_rule(rule),
                rule.needs,
                stands(rule),
            )
    titles = {name: one.title for name, one in INPUTS.items()}
    titles |= {name: one.title for name, one in book.registers.items()}
    tellings = {**BY_INPUT, **{name: of_register(name) for name in book.registers}}
    if book.settings.scores:
        tellings["harm"] = Telling("harm_scored", ("source", "level"))
    for name, title in titles.items():
        for trouble, told in TROUBLES.items():
            reason = Reason(f"{title}: {told}", "house: unknown, stale and future inputs deny")
            telling = tellings.get(name) or (None if trouble == "unknown" else BY_STATE.get(name))
            found[f"{trouble}_{name}"] = reason._replace(telling=telling)
    for name, mended in BY_OWN.items():
        found[name] = found[name]._replace(telling=mended)
    return found


_LIMITS: Final = {
    "cap": "the cap has no room",
    "gap": "it would be too close to another contact",
    "pause": "contacts of this kind rest after what became of the last ones",
    "budget": "what all players together may cost on that day is given out",
}


def reason(rule: str, known: Mapping[str, Reason]) -> Reason:
    """The reason of an id; limits are the catalogue's, an id of another rulebook speaks for itself."""
    kind, divided, which = rule.partition(":")  # no id of a rule has a colon
    if divided and kind == NO_RULES:
        told = f"{which} is licensed, and the rulebook holds no rules of its own: what its law forbids is not known"
        return Reason(told, "house: unknown denies", (which,))
    if divided and kind == "stop":
        return Reason("marketing was stopped", f"house: stop {which}")
    if divided and (limit := _LIMITS.get(kind)):
        return Reason(limit, "catalogue")
    return known.get(rule, Reason(f"{rule}, a rule of another rulebook", "the rulebook that the record names"))


def tells_place(rule: str, known: Mapping[str, Reason]) -> bool:
    """Whether the id of a rule says where the player lives; that of another rulebook might."""
    if rule.partition(":")[0] in {*_LIMITS, "stop"}:
        return False
    return not {*reason(rule, known).jurisdictions} <= {EVERYWHERE} or (rule not in known and rule not in OWN)
