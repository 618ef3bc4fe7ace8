"""The rules of the house: which candidates must not be sent now, each with all its reasons. Pure.

Every rule answers with the candidates it blocks, as booleans that broadcast over offer x channel x slot.
Deny overrides: a candidate is allowed if no rule blocks it. An unknown input denies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, time
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, get_args
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from features.events import Channel, Jurisdiction, moment
from features.schema import CHANNELS
from models.actions import PROMOTIONAL, SLOTS, Cap, Catalogue, Purpose, Stage, Window, content_hash, load_yaml
from service.facts import Facts
from service.harm import Harm, Marker, MarkerName, StageDays

Blocked = NDArray[np.bool_]


def _hour(text: object) -> time:
    # YAML reads an unquoted 21:00 as the number 1260, and a zone of its own would not be the player's.
    if not isinstance(text, str) or re.fullmatch(r"\d\d:\d\d", text) is None:
        raise ValueError('an hour is written in quotes as "21:00"')
    return time.fromisoformat(text)


Hour = Annotated[time, BeforeValidator(_hour)]
HARM_ORDER: Final = ("low", "moderate", "strong")


class QuietHours(BaseModel):
    """Local hours in which a channel rests; may cross midnight."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    start: Hour = Field(alias="from")
    end: Hour = Field(alias="to")

    def covers(self, clock: time) -> bool:
        """Whether a local time of day lies in the quiet hours, the start included, the end not."""
        if self.start < self.end:
            return self.start <= clock < self.end
        return clock >= self.start or clock < self.end


class Rulebook(BaseModel):
    """A dated rule file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1]
    valid_from: date
    licensed: tuple[Jurisdiction, ...]
    minimum_age: dict[Jurisdiction | Literal["default"], Annotated[int, Field(ge=18)]]
    quiet_hours: dict[Channel, QuietHours]
    harm: dict[Literal["low", "moderate", "strong"], tuple[Literal["marketing", "bonus"], ...]]
    markers: dict[MarkerName, Marker]
    levels: dict[Literal["low", "moderate", "strong"], int]
    stages: StageDays

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Nothing may be left out, and more harm never stops less."""
        _complete("minimum_age", self.minimum_age, ["default"])
        _complete("harm", self.harm, HARM_ORDER)
        _complete("markers", self.markers, get_args(MarkerName))
        _complete("levels", self.levels, HARM_ORDER)
        for lesser, greater in pairwise(HARM_ORDER):
            if not set(self.harm[lesser]) <= set(self.harm[greater]):  # type: ignore[index]
                raise ValueError(f"harm: {greater} must stop all that {lesser} stops")
            if self.levels[lesser] > self.levels[greater]:  # type: ignore[index]
                raise ValueError(f"levels: {greater} must not be reached before {lesser}")
        return self

    @cached_property
    def hash(self) -> str:
        """Content hash; decisions log it."""
        return content_hash(self)


def _complete(section: str, given: Mapping[Any, object], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in given]
    if missing:
        raise ValueError(f"{section}: {missing[0]} is missing")


def load_rulebook(path: Path) -> Rulebook:
    """Read a rule file; raises CatalogueError naming file and field."""
    return load_yaml(path, Rulebook)


class Layout:
    """A catalogue as arrays over offer x channel x slot, made once per catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        offers = catalogue.offers
        self.catalogue = catalogue
        self.purposes = np.array([offer.purpose for offer in offers])
        self.promotional = np.isin(self.purposes, list(PROMOTIONAL))[:, None, None]
        self.offer_ids = np.array([offer.id for offer in offers])
        self.by_jurisdiction = {
            place: self._offers(place, "jurisdictions") for offer in offers for place in offer.jurisdictions
        }
        self.scopes = {cap.id: self._scope(cap) for cap in catalogue.caps}
        self.by_stage = {stage: self._offers(stage, "stages") for offer in offers for stage in offer.stages}

    def _scope(self, cap: Cap) -> Blocked:
        """The promotional candidates that a cap counts."""
        offers = np.array([cap.offer in (None, offer.id) and offer.promotional for offer in self.catalogue.offers])
        channels = np.array([cap.channel in (None, channel) for channel in CHANNELS])
        return np.broadcast_to(offers[:, None, None] & channels[:, None], self.catalogue.shape)

    def find(self, offer: str, channel: str, timing_slot: str) -> tuple[int, int, int] | None:
        """Where an action stands, None if the catalogue no longer has its offer."""
        found = np.flatnonzero(self.offer_ids == offer)
        return (int(found[0]), CHANNELS.index(channel), SLOTS.index(timing_slot)) if len(found) else None

    def _offers(self, value: str, listed: str) -> Blocked:
        return np.array([value in getattr(offer, listed) for offer in self.catalogue.offers])[:, None, None]


@dataclass(frozen=True, slots=True)
class Situation:
    """All that rules look at, as it was read.

    Attributes:
        layout: The catalogue.
        book: The rule file.
        facts: Facts of the player for the brand.
        now_us: House time, unix microseconds.
        windows: Sending window of each timing slot, in the player's zone (UTC where it is unknown).
        harm: See `service.harm`.
        stage: Lifecycle stage.
        features: Why features cannot be relied on (`features_unavailable`, `features_stale`), or None.
        variant: Variant of the experiment.
        purposes: Purposes asked for.
        channels: Channels asked for, None for all.
        offers: Offers asked for, None for all.
        at_once: Whether the contact is shown right now, so that only the running timing slot will do.
    """

    layout: Layout
    book: Rulebook
    facts: Facts
    now_us: int
    windows: Sequence[Window]
    harm: Harm
    stage: Stage
    features: str | None
    variant: str
    purposes: frozenset[Purpose]
    channels: frozenset[str] | None = None
    offers: frozenset[str] | None = None
    at_once: bool = False

    def at(self, window: Window) -> Situation:
        """The same situation for a contact whose sending window is already decided."""
        return replace(self, windows=(window,) * len(self.windows))


class Rule(NamedTuple):
    """A rule's id, its reason in words, where it comes from, and what it blocks."""

    id: str
    reason: str
    source: str
    blocks: Callable[[Situation], Blocked | bool]


class Exclusion(NamedTuple):
    """A rule and the candidates that it blocked, shape (offers, channels, slots)."""

    rule: str
    blocked: Blocked


def age_on(born: date, today: date) -> int:
    """Completed years of age; one born on 29 February comes of age on 1 March."""
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


def _under_age(situation: Situation) -> bool:
    facts, ages = situation.facts, situation.book.minimum_age
    if not facts.kyc_verified or facts.birth_date is None:
        return True
    zone = ZoneInfo(facts.time_zone) if facts.time_zone else ZoneInfo("UTC")
    today = moment(situation.now_us).astimezone(zone).date()
    place = facts.jurisdiction or ""
    # A region (US-NJ) may have its own age, else its country's holds.
    return age_on(facts.birth_date, today) < ages.get(place, ages.get(place.partition("-")[0], ages["default"]))


def _but(served: Blocked | None) -> Blocked | bool:
    """All but what is served."""
    return True if served is None else ~served


def _elsewhere(situation: Situation) -> Blocked | bool:
    place = situation.facts.jurisdiction
    if place is None or place not in situation.book.licensed:
        return True
    return _but(situation.layout.by_jurisdiction.get(place))


def _no_consent(situation: Situation) -> Blocked:
    since = situation.facts.returned_us

    def given(channel: str) -> bool:
        granted, at = situation.facts.consent.get(channel, (False, 0))
        # Consent from before an exclusion does not survive it.
        return granted and (since is None or at > since)

    return np.array([not given(channel) for channel in CHANNELS])[:, None]


def _too_harmed(situation: Situation) -> Blocked | bool:
    if situation.harm.level == "none":
        return False
    stopped = list(situation.book.harm.get(situation.harm.level, ()))
    return np.isin(situation.layout.purposes, stopped)[:, None, None]


def _quiet(situation: Situation) -> Blocked | bool:
    zone = situation.facts.time_zone
    if zone is None:
        return True
    clocks = [moment(window.send_us).astimezone(ZoneInfo(zone)).time() for window in situation.windows]
    hours = situation.book.quiet_hours
    return np.array([[channel in hours and hours[channel].covers(clock) for clock in clocks] for channel in CHANNELS])


def _wrong_stage(situation: Situation) -> Blocked | bool:
    return _but(situation.layout.by_stage.get(situation.stage))


RULES: Final = (
    Rule("unknown_player", "nothing is known of this player", "DESIGN: unknown denies", lambda s: not s.facts.known),
    Rule(
        "self_excluded",
        "the player has excluded themselves",
        "UKGC SR 3.5.3; MGA; GDPR Art. 21",
        lambda s: s.facts.excluded_us is not None,
    ),
    Rule(
        "time_out",
        "the player is taking a break",
        "UKGC RTS 13; AGCO 2.13",
        lambda s: s.facts.time_out_until_us is not None and s.facts.time_out_until_us > s.now_us,
    ),
    Rule(
        "account_state",
        "the account is closed, or its state is unknown",
        "house policy",
        lambda s: s.facts.closed is not False,
    ),
    Rule(
        "age",
        "the player is too young, or age or identity is not verified",
        "205 CMR 248.06; KSA bonus rules",
        _under_age,
    ),
    Rule("jurisdiction", "the offer is not for where the player lives", "licence conditions", _elsewhere),
    Rule("consent", "no standing consent for the channel", "ePrivacy Art. 13; GDPR Art. 21", _no_consent),
    Rule("harm", "signs of harm stop this purpose", "UKGC SR 3.4.3(10)", _too_harmed),
    Rule(
        "quiet_hours",
        "the channel rests at the sending hour, or the player's hour is unknown",
        "47 CFR 64.1200(c)(1)",
        _quiet,
    ),
    Rule("lifecycle_stage", "the offer is for another stage of a player's life", "catalogue", _wrong_stage),
    Rule(
        "features_unavailable",
        "behaviour could not be read",
        "DESIGN section 4",
        lambda s: s.features == "features_unavailable",
    ),
    Rule(
        "features_stale",
        "behaviour is older than it may be",
        "DESIGN section 4",
        lambda s: s.features == "features_stale",
    ),
    Rule(
        "holdout",
        "the player belongs to the group that gets no marketing",
        "experiment",
        lambda s: s.variant == "holdout",
    ),
)
"""Rules that silence promotional actions; service, safer-gambling and regulatory messages pass them."""


def _not_requested(situation: Situation) -> Blocked:
    layout = situation.layout
    offers = ~np.isin(layout.purposes, list(situation.purposes))
    if situation.offers is not None:
        offers = offers | ~np.isin(layout.offer_ids, list(situation.offers))
    wanted = CHANNELS if situation.channels is None else situation.channels
    channels = np.array([channel not in wanted for channel in CHANNELS])
    later = np.array([situation.at_once and window.send_us > situation.now_us for window in situation.windows])
    return np.asarray(offers[:, None, None] | channels[:, None] | later)


REQUEST: Final = Rule(
    "not_requested", "the caller asked for other purposes, channels or offers", "request", _not_requested
)


def evaluate(situation: Situation) -> list[Exclusion]:
    """All exclusions of a situation, each with every candidate that its rule blocks."""
    shape = situation.layout.catalogue.shape
    promotional = np.broadcast_to(situation.layout.promotional, shape)
    found = [Exclusion(rule.id, promotional & rule.blocks(situation)) for rule in RULES]
    found.append(Exclusion(REQUEST.id, np.broadcast_to(_not_requested(situation), shape)))
    return [exclusion for exclusion in found if exclusion.blocked.any()]


REASONS: Final = {rule.id: rule for rule in (*RULES, REQUEST)}


def reason(rule: str) -> Rule:
    """The rule of an id; a cap counts as one that the catalogue makes."""
    if rule.startswith("cap:"):
        return Rule(rule, "the cap has no room", "catalogue", lambda _: True)
    return REASONS[rule]
