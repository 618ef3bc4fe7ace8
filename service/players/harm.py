"""Harm level and lifecycle stage of a player, derived from features and facts. Pure.

Harm is an input of rules only; no model sees it. Markers of behaviour give points and points give a level; some
markers, any mention of harm to support, other systems' scores and reviews speak for themselves, and the gravest
counts. A level rises at once and falls only by a review or after quiet days without any new sign. Definitions,
thresholds and evidence stand in `service/rulebook/harm.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import pairwise
from math import inf, isnan
from operator import itemgetter
from typing import Annotated, Final, Literal, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from features.events import LEVELS, SKEW, HarmLevel, Jurisdiction
from features.moments import DAY_US
from features.schema import PRODUCTS, VECTOR
from models.catalogue.offers import Stage
from service.players.facts import Assertion, Facts

Vector = NDArray[np.float64]
_AT: Final = {reading.name: index for index, reading in enumerate(VECTOR)}
_WEEKS: Final = 30 / 7
_ACTIVITY: Final = [_AT[f"last_{what}_days_ago"] for what in ("deposit", "bet", "session", "login")]
_LOSSES: Final = tuple(_AT[f"net_loss_final_week_{ago}"] for ago in range(4))
_BREADTH: Final = [_AT[f"bet_{product}_30d"] for product in PRODUCTS]
_SEEN: Final = (
    *("deposit_count_7d", "deposit_count_30d", "deposit_sum_7d", "deposit_sum_30d", "deposit_declined_1d"),
    *("bet_count_7d", "bet_count_30d", "bet_sum_1d", "bet_sum_7d", "bet_sum_30d", "win_sum_1d", "returned_sum_1d"),
    *("session_count_30d", "stake_variability", "active_days_30d", "night_share", "withdrawal_cancelled_30d"),
    *("limit_raised_30d", "limit_reached_30d", "support_count_30d", "chargeback_30d", "net_deposit_final_month_0"),
)
"""Readings that markers are computed of, beside losses and products."""
_READ: Final = itemgetter(*(_AT[name] for name in _SEEN))
_FIVE: Final = 3.9
"""Decayed count of five events spread evenly over one half-life."""
_FADED: Final = 0.5
"""Decayed count of one event that is one half-life old."""
SKEW_US: Final = int(SKEW.total_seconds() * 1e6)
"""A moment further ahead than this lies in the future, microseconds."""
_REFRESH_US: Final = DAY_US
"""A continuing sign is asserted again once a day, microseconds."""


class Marker(BaseModel):
    """A marker of harm in behaviour: definition, threshold, points or level, and where it counts.

    Attributes:
        id: Number of the marker, such as `M12`.
        threshold: It is triggered at this value or above.
        points: Points that it adds; ignored where `level` is given.
        level: Level that it reaches by itself.
        places: Where it is law and counts; everywhere if omitted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: Annotated[str, StringConstraints(pattern=r"^M\d+$")]
    definition: str
    threshold: float = Field(gt=0)
    points: int = Field(default=0, ge=0)
    level: Literal["low", "moderate", "strong"] | None = None
    places: tuple[Jurisdiction, ...] | None = None
    evidence: str

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.points and self.level is None:
            raise ValueError(f"{self.id}: a marker gives points or a level")
        return self


class HarmSettings(BaseModel):
    """Markers, points of each level, and how long a sign of harm holds.

    Attributes:
        markers: Marker by the name of the value that `markers` computes.
        not_computed: Markers that our events cannot show, with the reason.
        levels: Least points of each level.
        quiet_days: Days without a sign after which a level falls.
        big_loss_minor: Net loss of a day, decayed by a day's half-life, that counts as a big one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    markers: dict[str, Marker]
    not_computed: dict[str, str]
    levels: dict[Literal["low", "moderate", "strong"], int]
    quiet_days: float = Field(ge=30)
    big_loss_minor: int = Field(gt=0)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Require a marker for every value, and levels in rising order of points."""
        if missing := sorted(set(MARKERS) - set(self.markers) - _LATER):
            raise ValueError(f"markers: {missing[0]} is missing")
        if unknown := sorted(set(self.markers) - set(MARKERS)):
            raise ValueError(f"markers: {unknown[0]} is no value that is computed")
        for level in LEVELS[1:]:
            if level not in self.levels:
                raise ValueError(f"levels: {level} is missing")
        for lesser, greater in pairwise(LEVELS[1:]):
            if self.levels[lesser] > self.levels[greater]:  # type: ignore[index]
                raise ValueError(f"levels: {greater} must not be reached before {lesser}")
        return self

    @cached_property
    def thresholds(self) -> tuple[tuple[str, float, tuple[str, ...] | None], ...]:
        """Each marker's value by name, with the threshold and where it counts."""
        return tuple((name, one.threshold, one.places) for name, one in self.markers.items())

    @cached_property
    def quiet_us(self) -> int:
        """How long a sign of harm holds, microseconds."""
        return int(self.quiet_days * DAY_US)


class Harm(NamedTuple):
    """Harm level, the value of every marker, and the level of each source."""

    level: HarmLevel
    markers: dict[str, float]
    sources: dict[str, str]


class TriggeredMarker(msgspec.Struct, frozen=True, kw_only=True):
    """A marker of harm at or above its threshold, with its definition."""

    marker: str
    id: str
    value: float
    threshold: float
    what: str


class AgeAndPlaces(NamedTuple):
    """Inputs of markers beside behaviour: age in completed years (None if unknown) and places whose rules bind."""

    age: int | None
    places: frozenset[str]


def markers(vector: Vector, facts: Facts, now_us: int, age: int | None) -> dict[str, float]:
    """Marker values of a feature vector (`features.schema.VECTOR`); 0 where there is too little activity."""
    read = vector.tolist()
    at = dict(zip(_SEEN, _READ(read), strict=True))
    week, month, bets = at["deposit_count_7d"], at["deposit_count_30d"], at["bet_count_30d"]
    latest, *losses, oldest = [read[place] for place in _LOSSES]
    run = max(min(latest, *losses), min(*losses, oldest))
    deposited = at["net_deposit_final_month_0"]
    returned = None if facts.returned_us is None else (now_us - facts.returned_us) / DAY_US
    broke = facts.time_out_until_us is not None and now_us - facts.time_out_until_us < 365 * DAY_US
    return {
        "deposit_escalation": week * _WEEKS / month if week >= _FIVE else 0.0,
        "deposit_sum_escalation": _ratio(at["deposit_sum_7d"] * _WEEKS, at["deposit_sum_30d"], month >= _FIVE),
        "deposits_per_session": _ratio(month, at["session_count_30d"], at["session_count_30d"] >= 3),
        "stake_growth": _ratio(
            at["bet_sum_7d"] * bets, at["bet_count_7d"] * at["bet_sum_30d"], at["bet_count_7d"] >= 10
        ),
        "stake_variability": at["stake_variability"] if bets >= 20 else 0.0,
        "bets_per_active_day": _ratio(bets, at["active_days_30d"], at["active_days_30d"] >= 20),
        "loss_of_a_day": max(0.0, at["bet_sum_1d"] - at["win_sum_1d"] - at["returned_sum_1d"]),
        "night_share": at["night_share"],
        "withdrawals_cancelled": at["withdrawal_cancelled_30d"],
        "deposits_declined": at["deposit_declined_1d"],
        "limits_raised": at["limit_raised_30d"],
        "breaks_taken": float(broke or (returned is not None and returned < 365)),
        "products": float(sum([read[place] >= _FADED for place in _BREADTH])),
        "support_contacts": at["support_count_30d"],
        "loss_weeks": max(0.0, run),
        "loss_weeks_young": max(0.0, run) if age is None or age <= 25 else 0.0,
        "deposit_month": max(0.0, deposited),
        "deposit_month_young": max(0.0, deposited) if age is None or age <= 24 else 0.0,
        "returned": float(returned is not None and returned < 90),
        "chargebacks": at["chargeback_30d"],
        "limits_reached": at["limit_reached_30d"],
    }


def _ratio(part: float, whole: float, enough: bool) -> float:  # noqa: FBT001 - one condition
    return part / whole if enough and whole > 0 else 0.0


_NOBODY: Final = np.zeros(len(VECTOR))
MARKERS: Final = tuple(markers(_NOBODY, Facts(), 0, None))
"""Names of the values that `markers` computes."""
_LATER: Final = frozenset({"chargebacks", "limits_reached"})
"""Markers that files of earlier builds do not have; there they count nothing."""


def assess(vector: Vector, facts: Facts, now_us: int, person: AgeAndPlaces, settings: HarmSettings) -> Harm:
    """Harm level at a moment: the gravest of behaviour, support, other systems and reviews."""
    values = markers(vector, facts, now_us, person.age)
    if len(values) > len(settings.markers):  # a rulebook of an earlier build asks for fewer
        values = {name: value for name, value in values.items() if name in settings.markers}
    shown = of_markers(values, person.places, settings)
    standing = _standing_levels(facts, now_us, settings)
    reviewed = standing.get("review")
    # The review weighed behaviour so far; after it only new signs count.
    sources = standing if reviewed is not None else standing | {"behaviour": shown}
    level = max(sources.values(), key=LEVELS.index, default="none")
    return Harm(level, values, sources)  # type: ignore[arg-type]


def _standing_levels(facts: Facts, now_us: int, settings: HarmSettings) -> dict[str, str]:
    """Levels that hold now, by source: asserted since the last review and not expired.

    A sign at the same moment as a review still counts, for it may not have been seen. An assertion for the future
    raises the level and never lowers it. Our own signs are asserted once a day, so they hold a day longer.
    """
    reviewed = facts.harm.get("review")
    if reviewed is not None and reviewed.at_us > now_us + SKEW_US:
        reviewed = None
    # Signs that a review voided stay void after the review expires.
    since_us = -1 if reviewed is None else reviewed.at_us
    found = {} if reviewed is None or now_us - reviewed.at_us >= settings.quiet_us else {"review": reviewed.text}
    for name, told in facts.harm.items():
        holds_us = settings.quiet_us + (_REFRESH_US if name.startswith("own:") else 0)
        if name != "review" and told.at_us >= since_us and now_us - told.at_us < holds_us:
            found[name] = told.text
    return found


def of_markers(values: Mapping[str, float], places: frozenset[str], settings: HarmSettings) -> HarmLevel:
    """Harm level of marker values: by the points of those at their threshold, or by a marker's own level."""
    heard = [settings.markers[name] for name in triggered(values, places, settings)]
    reached = _points(heard)
    found = [one.level for one in heard if one.level is not None]
    found += [level for level in settings.levels if reached >= settings.levels[level]]
    return max(found, key=LEVELS.index, default="none")


def points(values: Mapping[str, float], settings: HarmSettings) -> int:
    """Points of all markers at or above their threshold, wherever they count; values that nobody computed are none."""
    return _points([one for name, one in settings.markers.items() if values.get(name, -inf) >= one.threshold])


def _points(heard: Iterable[Marker]) -> int:
    """Points of markers; two values may belong to one marker, whose points count once."""
    by_marker = {one.id: one.points for one in sorted(heard, key=lambda one: one.points) if one.level is None}
    return sum(by_marker.values())


def triggered(values: Mapping[str, float], places: frozenset[str], settings: HarmSettings) -> list[str]:
    """Names of the markers at or above their threshold in these places."""
    return [
        name
        for name, threshold, where in settings.thresholds
        if values[name] >= threshold and (where is None or not places.isdisjoint(where))
    ]


def may_show_signs(vector: Vector, settings: HarmSettings) -> bool:
    """Whether activity that led to a vector can be a sign of harm, whoever the player is; false for most."""
    values = markers(vector, _NOTHING_KNOWN, 0, None)
    if values["loss_of_a_day"] >= settings.big_loss_minor:
        return True
    # What facts alone show never grows, places only narrow, and of unknown age every marker of the young counts.
    return any(values[name] >= one.threshold for name, one in settings.markers.items())


_NOTHING_KNOWN: Final = Facts()


def signs(
    before: Vector, after: Vector, facts: Facts, at_us: int, person: AgeAndPlaces, settings: HarmSettings
) -> list[Assertion]:
    """Signs of harm in new activity, as facts to assert; empty if it shows none.

    Args:
        before: Feature vector at a moment without the activity.
        after: The same with it.
        facts: The player's facts; a sign in them is not asserted again within a day.
        at_us: The moment, unix microseconds.
        person: Age and places.
        settings: Markers and levels.
    """
    was, now = (markers(vector, facts, at_us, person.age) for vector in (before, after))
    grown = [name for name in triggered(now, person.places, settings) if now[name] > was[name] * (1 + 1e-9)]
    found = []
    if grown and (level := _sign(of_markers(now, person.places, settings), facts, at_us, settings)) != "none":
        name = f"own:{level}"
        # A sign that a review voided no longer counts as asserted.
        if name not in _standing_levels(facts, at_us, settings) or at_us >= facts.harm[name].at_us + _REFRESH_US:
            found.append(Assertion(f"harm:{name}", at_us, LEVELS.index(level), level))
    loss = now["loss_of_a_day"]
    if loss >= settings.big_loss_minor and loss > was["loss_of_a_day"]:
        found.append(Assertion("big_loss", at_us, 0, ""))
    return found


def _sign(shown: HarmLevel, facts: Facts, at_us: int, settings: HarmSettings) -> str:
    """Level of a new sign: the gravest of it and our own standing signs, for the quiet days begin anew."""
    own = [text for name, text in _standing_levels(facts, at_us, settings).items() if name.startswith("own:")]
    return "none" if shown == "none" else max([shown, *own], key=LEVELS.index)


class StageDays(NamedTuple):
    """Bounds of the lifecycle stages, in days."""

    new_days: float
    lapsing_days: float
    lapsed_days: float


def stage(vector: Vector, facts: Facts, now_us: int, bounds: StageDays) -> Stage:
    """Lifecycle stage from the first two deposits and the last activity, computed afresh each time."""
    idle = min((ago for ago in vector[_ACTIVITY].tolist() if not isnan(ago)), default=inf)
    if isnan(vector[_AT["first_deposit_days_ago"]]):
        age_days = inf if facts.opened_us is None else (now_us - facts.opened_us) / DAY_US
        return "new" if age_days < bounds.new_days else "never_deposited"
    if idle >= bounds.lapsed_days:
        return "lapsed"
    if isnan(vector[_AT["second_deposit_days_ago"]]):
        return "first_deposit"
    return "lapsing" if idle >= bounds.lapsing_days else "active"


def explained(harm: Harm, places: frozenset[str], settings: HarmSettings) -> list[TriggeredMarker]:
    """Triggered markers for explanations."""
    heard = {name: settings.markers[name] for name in triggered(harm.markers, places, settings)}
    return [
        TriggeredMarker(marker=name, id=one.id, value=harm.markers[name], threshold=one.threshold, what=one.definition)
        for name, one in heard.items()
    ]
