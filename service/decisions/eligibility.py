"""Eligibility: which candidates the house, the law and the request leave, as sets with reasons. Pure.

Deny overrides: a candidate is allowed if nothing blocks it. Service, safer-gambling and regulatory messages pass all
but the request. What blocks is named by id: a rule of the rulebook, a trouble with an input that rules ask for
(`stale_rofus`), or one of the house's own reasons below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import and_
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from models.catalogue.candidates import Candidates
from models.catalogue.offers import PROMOTIONAL, Purpose, Stage, Window
from service.contacts.stops import StopInForce
from service.rules.compiler import CompiledRulebook, Verdict
from service.rules.inputs import Inputs


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


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What eligibility looks at.

    Attributes:
        law: The rulebook, compiled for the catalogue.
        inputs: What rules look at.
        known: Whether anything is known of the player.
        windows: Sending window of each timing slot, in the player's zone (UTC where it is unknown).
        stage: Lifecycle stage.
        features: Why features cannot be relied on (`features_unavailable`, `features_stale`), or None.
        withheld: What experiments keep from the player, by reason.
        asked: By the caller.
        lawful: Whether the rulebook that should serve could be read.
        stops: What the house has stopped.
    """

    law: CompiledRulebook
    inputs: Inputs
    known: bool
    windows: Sequence[Window]
    stage: Stage
    features: str | None
    withheld: Mapping[str, Candidates]
    asked: Asked
    lawful: bool = True
    stops: Sequence[StopInForce] = ()

    def settled(self, window: Window) -> Standing:
        """The same for a contact whose window of sending is settled."""
        asked = self.asked._replace(settled=window)
        return replace(self, windows=(window,) * len(self.windows), asked=asked)


_REQUESTS: Final = 100
"""Kinds of requests whose candidates are remembered; callers use a few."""


def evaluate(standing: Standing) -> Verdict:
    """Everything that blocks, each with all that it blocks."""
    layout = standing.law.layout
    # What is shown at once cannot wait for its hours.
    fixed = standing.asked.at_once or standing.asked.settled is not None
    verdict = standing.law.judge(standing.inputs, standing.windows, fixed=fixed)
    own = [
        ("unknown_player", 0 if standing.known else layout.everything),
        ("rulebook_unreadable", 0 if standing.lawful else layout.everything),
        ("offer_elsewhere", _elsewhere(standing)),
        ("time_zone", layout.everything if standing.inputs.zone is None else 0),
        ("lifecycle_stage", layout.everything & ~layout.by_stage[standing.stage]),
        (standing.features or "", layout.everything if standing.features else 0),
        *standing.withheld.items(),
        *[(one.rule, _stopped(one, standing)) for one in standing.stops],
    ]
    found = {name: kept for name, bits in own if (kept := bits & layout.promotional)}
    found |= verdict.blocked
    if unasked := _not_requested(standing):
        found["not_requested"] = unasked
    return verdict._replace(blocked=found)


def _elsewhere(standing: Standing) -> Candidates:
    """Offers that are not for each of the player's jurisdictions."""
    layout, named = standing.law.layout, standing.inputs.named
    if named is None:
        return layout.everything
    return layout.everything & ~reduce(and_, (layout.by_jurisdiction.get(one, 0) for one in named), layout.everything)


def _stopped(stop: StopInForce, standing: Standing) -> Candidates:
    """What a stop reaches of what may be sent to a player."""
    layout = standing.law.layout
    if stop.scope == "jurisdiction":
        return layout.everything if stop.binds(standing.inputs.named) else 0
    if stop.scope == "offer":
        return layout.where(lambda offer, _: offer.id == stop.value)
    return layout.where(lambda _, channel: stop.scope == "all" or channel == stop.value)


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
