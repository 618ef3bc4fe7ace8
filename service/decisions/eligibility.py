"""Eligibility: which candidates the house, the law and the request leave, as sets with reasons. Pure.

Deny overrides: a candidate is allowed if nothing blocks it. Service, safer-gambling and regulatory messages pass all
but the request. What blocks is named by id: a rule of the rulebook, a trouble with an input that rules ask for
(`stale_rofus`), or one of the house's own reasons below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_
from typing import Final, NamedTuple

from models.catalogue.candidates import Candidates
from models.catalogue.offers import PROMOTIONAL, Purpose, Stage, Window
from service.rules.compiler import NO_RULES, CompiledRulebook, Verdict
from service.rules.inputs import INPUTS, Inputs
from service.rules.rulebook import Rulebook


class Asked(NamedTuple):
    """What an assessment is asked about; None for all.

    Attributes:
        brand: Whose contact it would be.
        purposes: Purposes asked for.
        channels: Channels asked for.
        offers: Offers asked for, by id.
        at_once: Only what can be shown right now.
        settled: The window in which it is sent, where that is settled as at a confirm: hours then forbid instead of
            putting off.
    """

    brand: str = "main"
    purposes: frozenset[Purpose] = PROMOTIONAL
    channels: frozenset[str] | None = None
    offers: frozenset[str] | None = None
    at_once: bool = False
    settled: Window | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What eligibility looks at.

    Attributes:
        law: The rulebook, compiled for the catalogue.
        inputs: What rules look at.
        known: Whether anything is known of the player.
        windows: Sending window of each timing slot, in the player's zone (UTC where it is unknown).
        stage: Lifecycle stage.
        features: Why features cannot be relied on (`features_unavailable`, `features_stale`), or None.
        variant: Variant of the experiment.
        asked: By the caller.
        lawful: Whether the rulebook that should serve could be read.
    """

    law: CompiledRulebook
    inputs: Inputs
    known: bool
    windows: Sequence[Window]
    stage: Stage
    features: str | None
    variant: str
    asked: Asked
    lawful: bool = True

    def settled(self, window: Window) -> Standing:
        """The same for a contact whose window of sending is settled."""
        asked = self.asked._replace(settled=window)
        return replace(self, windows=(window,) * len(self.windows), asked=asked)


class Reason(NamedTuple):
    """A reason in words, and where it comes from."""

    reason: str
    source: str
    jurisdictions: tuple[str, ...] = ()
    checked_on: str | None = None
    confidence: str | None = None
    note: str = ""


OWN: Final = {
    "unknown_player": Reason("nothing is known of this player", "house: unknown denies"),
    "rulebook_unreadable": Reason("the rulebook that was promoted cannot be read", "house: unknown denies"),
    "offer_elsewhere": Reason("the offer is not for where the player lives, is licensed or is now", "catalogue"),
    "time_zone": Reason("the player's hour is unknown", "house: unknown denies"),
    "lifecycle_stage": Reason("the offer is for another stage of a player's life", "catalogue"),
    "features_unavailable": Reason("behaviour could not be read", "house: unknown denies"),
    "features_stale": Reason("behaviour is older than it may be", "house: stale denies"),
    "holdout": Reason("the player belongs to the group that gets no marketing", "experiment"),
    "not_requested": Reason("the caller asked for other purposes, channels or offers", "request"),
}
"""Reasons that are no rule of the rulebook."""


_REQUESTS: Final = 100
"""Kinds of requests whose candidates are remembered; callers use a few."""
TROUBLES: Final = {
    "unknown": "it is not known",
    "stale": "what is known is too old",
    "future": "it was told for a moment that lies ahead",
}


def evaluate(standing: Standing) -> Verdict:
    """Everything that blocks, each with all that it blocks."""
    layout = standing.law.layout
    # What is shown at once cannot wait for its hours.
    fixed = standing.asked.at_once or standing.asked.settled is not None
    verdict = standing.law.judge(standing.inputs, standing.windows, fixed=fixed)
    own = {
        "unknown_player": 0 if standing.known else layout.everything,
        "rulebook_unreadable": 0 if standing.lawful else layout.everything,
        "offer_elsewhere": _elsewhere(standing),
        "time_zone": layout.everything if standing.inputs.zone is None else 0,
        "lifecycle_stage": layout.everything & ~layout.by_stage[standing.stage],
        "features_unavailable": layout.everything if standing.features == "features_unavailable" else 0,
        "features_stale": layout.everything if standing.features == "features_stale" else 0,
        "holdout": layout.everything if standing.variant == "holdout" else 0,
    }
    found = {name: bits & layout.promotional for name, bits in own.items()} | verdict.blocked
    found["not_requested"] = _not_requested(standing)
    return verdict._replace(blocked={name: bits for name, bits in found.items() if bits})


def _elsewhere(standing: Standing) -> Candidates:
    """Offers that are not for each of the player's jurisdictions."""
    layout, named = standing.law.layout, standing.inputs.named
    if named is None:
        return layout.everything
    return layout.everything & ~reduce(and_, (layout.by_jurisdiction.get(one, 0) for one in named), layout.everything)


def _not_requested(standing: Standing) -> Candidates:
    layout, asked = standing.law.layout, standing.asked
    key = asked.purposes, asked.channels, asked.offers
    if key not in layout.requests:
        if len(layout.requests) >= _REQUESTS:
            layout.requests.clear()
        layout.requests[key] = layout.everything & ~layout.where(
            lambda offer, channel: (
                offer.purpose in asked.purposes
                and (asked.channels is None or channel in asked.channels)
                and (asked.offers is None or offer.id in asked.offers)
            )
        )
    blocked = layout.requests[key]
    if asked.at_once:
        for window, bits in zip(standing.windows, layout.slots, strict=True):
            blocked |= bits if window.send_us > standing.inputs.now_us else 0
    return blocked


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
            )
    titles = {name: one.title for name, one in INPUTS.items()}
    titles |= {name: one.title for name, one in book.registers.items()}
    for name, title in titles.items():
        for trouble, told in TROUBLES.items():
            found[f"{trouble}_{name}"] = Reason(f"{title}: {told}", "house: unknown, stale and future inputs deny")
    return found


_LIMITS: Final = {
    "cap": "the cap has no room",
    "gap": "it would be too close to another contact",
    "pause": "contacts of this kind rest after what became of the last ones",
    "budget": "what all players together may cost on that day is given out",
}


def reason(rule: str, known: Mapping[str, Reason]) -> Reason:
    """The reason of an id; limits are the catalogue's, an id of another rulebook speaks for itself."""
    kind, _, which = rule.partition(":")
    if kind == NO_RULES:
        told = f"{which} is licensed, and the rulebook holds no rules of its own: what its law forbids is not known"
        return Reason(told, "house: unknown denies", (which,))
    if told := _LIMITS.get(kind, ""):
        return Reason(told, "catalogue")
    return known.get(rule, Reason(f"{rule}, a rule of another rulebook", "the rulebook that the record names"))
