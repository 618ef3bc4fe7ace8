"""Harm level and lifecycle stage of a player, derived from features and facts. Pure.

Harm is an input of rules only; no model sees it. Levels follow the compliance reference, section 3: markers
give points, points give a level, and a strong signal (any mention of harm to support) overrides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.schema import DAY, MICROS, VECTOR
from models.actions import Stage
from service.facts import HARM_HOLDS, Facts

HarmLevel = Literal["none", "low", "moderate", "strong"]
MarkerName = Literal["deposit_escalation", "night_share", "withdrawals_cancelled", "deposits_declined", "limits_raised"]
_AT: Final = {reading.name: index for index, reading in enumerate(VECTOR)}
_ESCALATION_LEAST: Final = 5.0
"""M1 needs this many deposits in seven days before it speaks."""
_WEEKS: Final = 30 / 7
_ACTIVITY: Final = [_AT[f"last_{what}_days_ago"] for what in ("deposit", "bet", "session", "login")]


class Marker(NamedTuple):
    """Threshold of a marker, and the points that it gives when reached."""

    threshold: float
    points: int


class Harm(NamedTuple):
    """Level, and the value of every marker behind it."""

    level: HarmLevel
    markers: dict[str, float]


def markers(vector: NDArray[np.float64]) -> dict[MarkerName, float]:
    """Marker values of a feature vector (see `features.schema.VECTOR`)."""
    week, month = vector[_AT["deposit_count_7d"]], vector[_AT["deposit_count_30d"]]
    return {
        "deposit_escalation": float(week * _WEEKS / month) if week >= _ESCALATION_LEAST else 0.0,
        "night_share": float(vector[_AT["night_share"]]),
        "withdrawals_cancelled": float(vector[_AT["withdrawal_cancelled_30d"]]),
        "deposits_declined": float(vector[_AT["deposit_declined_1d"]]),
        "limits_raised": float(vector[_AT["limit_raised_30d"]]),
    }


def assess(
    vector: NDArray[np.float64],
    facts: Facts,
    now_us: int,
    thresholds: Mapping[MarkerName, Marker],
    levels: Mapping[Literal["low", "moderate", "strong"], int],
) -> Harm:
    """Harm level at a moment: the override first, else the points of the markers that reach their threshold."""
    values = markers(vector)
    shown = {str(name): value for name, value in values.items()}
    if facts.harm_signal_us is not None and now_us - facts.harm_signal_us < HARM_HOLDS:
        return Harm("strong", shown | {"harm_signal": 1.0})
    points = sum(thresholds[name].points for name, value in values.items() if value >= thresholds[name].threshold)
    reached: list[HarmLevel] = [level for level in ("low", "moderate", "strong") if points >= levels[level]]
    return Harm(reached[-1] if reached else "none", shown)


class StageDays(NamedTuple):
    """Bounds of the lifecycle stages, days."""

    new_days: float
    lapsing_days: float
    lapsed_days: float


def stage(vector: NDArray[np.float64], facts: Facts, now_us: int, bounds: StageDays) -> Stage:
    """Lifecycle stage, derived afresh from the first two deposits and the last activity; never stepped."""
    idle = np.nanmin(np.append(vector[_ACTIVITY], np.inf))
    if np.isnan(vector[_AT["first_deposit_days_ago"]]):
        age_days = np.inf if facts.opened_us is None else (now_us - facts.opened_us) / (DAY * MICROS)
        return "new" if age_days < bounds.new_days else "never_deposited"
    if idle >= bounds.lapsed_days:
        return "lapsed"
    if np.isnan(vector[_AT["second_deposit_days_ago"]]):
        return "first_deposit"
    return "lapsing" if idle >= bounds.lapsing_days else "active"
