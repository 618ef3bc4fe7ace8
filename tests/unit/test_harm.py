"""Signs of harm and stages of a player's life, at their boundaries."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.aggregates import empty, encode, forward
from features.schema import MICROS, VECTOR
from service.facts import Facts
from service.harm import Harm, MarkerName, StageDays, assess, markers, stage
from service.rules import load_rulebook

BOOK = load_rulebook(Path(__file__).parents[2] / "service" / "rules.yaml")
NOW = 1_795_000_000 * MICROS
DAY = 86_400 * MICROS
HOLDS = 30 * DAY
LEVELS = ("none", "low", "moderate", "strong")
SOURCE: dict[MarkerName, str] = {
    "night_share": "night_share",
    "withdrawals_cancelled": "withdrawal_cancelled_30d",
    "deposits_declined": "deposit_declined_1d",
    "limits_raised": "limit_raised_30d",
}
"""Readings that are markers as they stand."""


def vector(**readings: float) -> NDArray[np.float64]:
    values = dict(zip((one.name for one in VECTOR), forward(encode(empty()), NOW), strict=True))
    assert readings.keys() <= values.keys()
    return np.array(list((values | readings).values()), dtype=np.float64)


def level(values: NDArray[np.float64], facts: Facts | None = None, now: int = NOW) -> Harm:
    return assess(values, facts or Facts(), now, BOOK.markers, BOOK.levels)


def escalated(ratio: float, week: float = 6.0) -> dict[str, float]:
    """Deposits of which the last week's are so many times the weekly share of the month."""
    return {"deposit_count_7d": week, "deposit_count_30d": week * 30 / 7 / ratio}


def test_a_player_without_history_shows_nothing() -> None:
    found = level(vector())
    assert found.level == "none"
    assert set(found.markers) == set(BOOK.markers)
    assert set(found.markers.values()) == {0.0}


@pytest.mark.parametrize("name", SOURCE)
def test_a_marker_is_its_reading(name: MarkerName) -> None:
    assert markers(vector(**{SOURCE[name]: 0.25}))[name] == 0.25


def test_escalation_compares_a_week_with_the_weekly_share_of_a_month_once_it_has_five_deposits() -> None:
    assert markers(vector(**escalated(1.5)))["deposit_escalation"] == pytest.approx(1.5, rel=1e-12)
    assert markers(vector(**escalated(3.0, week=5.0)))["deposit_escalation"] == pytest.approx(3.0, rel=1e-12)
    assert markers(vector(**escalated(3.0, week=np.nextafter(5.0, 0))))["deposit_escalation"] == 0.0


def shown(names: set[MarkerName]) -> NDArray[np.float64]:
    """A player who reaches the thresholds of these markers exactly, and of no other."""
    readings = {SOURCE[name]: BOOK.markers[name].threshold for name in names if name in SOURCE}
    if "deposit_escalation" in names:
        # 7 and 15 are exact in binary, so that the ratio is exactly 2.
        readings |= {"deposit_count_7d": 7.0, "deposit_count_30d": 15.0}
    return vector(**readings)


@pytest.mark.parametrize("name", [*SOURCE, "deposit_escalation"])
def test_a_marker_speaks_at_its_threshold_and_not_below(name: MarkerName) -> None:
    alone = {"low": BOOK.markers[name].points, "moderate": 99, "strong": 99}
    values = shown({name})
    assert assess(values, Facts(), NOW, BOOK.markers, alone).level == "low"  # type: ignore[arg-type]
    above = {**BOOK.markers, name: BOOK.markers[name]._replace(threshold=np.nextafter(markers(values)[name], 9))}
    assert assess(values, Facts(), NOW, above, alone).level == "none"  # type: ignore[arg-type]


@pytest.mark.parametrize("chosen", list(product([False, True], repeat=5)))
def test_points_add_up_to_a_level(chosen: tuple[bool, ...]) -> None:
    names = {name for name, one in zip(BOOK.markers, chosen, strict=True) if one}
    points = sum(BOOK.markers[name].points for name in names)
    assert level(shown(names)).level == LEVELS[(points >= 2) + (points >= 4) + (points >= 6)]


def test_all_markers_together_are_strong() -> None:
    assert level(shown(set(BOOK.markers))).level == "strong"
    assert level(shown({"limits_raised"})).level == "low"
    assert level(shown({"limits_raised", "night_share", "deposits_declined"})).level == "moderate"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 10), min_size=4, max_size=4), st.sampled_from(list(SOURCE)), st.floats(0, 10))
def test_a_marker_that_grows_never_lowers_the_level(values: list[float], name: MarkerName, more: float) -> None:
    readings = {SOURCE[one]: value for one, value in zip(SOURCE, values, strict=True)}
    grown = readings | {SOURCE[name]: readings[SOURCE[name]] + more}
    before, after = level(vector(**readings)).level, level(vector(**grown)).level
    assert LEVELS.index(after) >= LEVELS.index(before)


def test_a_mention_of_harm_is_strong_for_thirty_days_to_the_microsecond() -> None:
    facts = Facts(known=True, harm_signal_us=NOW)
    for now in (NOW - 1, NOW, NOW + HOLDS - 1):
        found = level(vector(night_share=0.1), facts, now)
        assert found.level == "strong"
        assert found.markers["harm_signal"] == 1.0
        assert found.markers["night_share"] == 0.1
    after = level(vector(), facts, NOW + HOLDS)
    assert after.level == "none"
    assert "harm_signal" not in after.markers
    assert level(shown({"limits_raised"}), facts, NOW + HOLDS).level == "low"


BOUNDS = StageDays(new_days=7, lapsing_days=14, lapsed_days=30)
IDLE = ("last_deposit_days_ago", "last_bet_days_ago", "last_session_days_ago", "last_login_days_ago")
ONE = {"first_deposit_days_ago": 90.0}
TWO = ONE | {"second_deposit_days_ago": 80.0}
BELOW = float(np.nextafter(30, 0))


def stage_at(readings: dict[str, float], facts: Facts | None = None, now: int = NOW) -> str:
    return stage(vector(**readings), facts or Facts(), now, BOUNDS)


def stage_of(base: dict[str, float], **readings: float) -> str:
    return stage_at(base | readings)


def test_before_the_first_deposit_an_account_is_new_for_seven_days() -> None:
    opened = Facts(known=True, opened_us=NOW)
    assert stage_at({}, opened) == "new"
    assert stage_at({}, opened, NOW + 7 * DAY - 1) == "new"
    assert stage_at({}, opened, NOW + 7 * DAY) == "never_deposited"
    assert stage_at({"last_login_days_ago": 0.0}) == "never_deposited"
    assert stage_at({"last_login_days_ago": 0.0}, opened) == "new"


def test_between_first_and_second_deposit_is_a_stage_of_its_own() -> None:
    assert stage_of(ONE, last_bet_days_ago=1.0) == "first_deposit"
    assert stage_of(ONE, last_bet_days_ago=20.0) == "first_deposit"
    assert stage_of(ONE, last_bet_days_ago=BELOW) == "first_deposit"
    assert stage_of(ONE, last_bet_days_ago=30.0) == "lapsed"
    assert stage_of(TWO, last_bet_days_ago=1.0) == "active"


@pytest.mark.parametrize("name", IDLE)
def test_who_does_nothing_lapses_and_any_activity_brings_back(name: str) -> None:
    assert stage_at(TWO | {name: 0.0}) == "active"
    assert stage_at(TWO | {name: float(np.nextafter(14, 0))}) == "active"
    assert stage_at(TWO | {name: 14.0}) == "lapsing"
    assert stage_at(TWO | {name: BELOW}) == "lapsing"
    assert stage_at(TWO | {name: 30.0}) == "lapsed"
    others = {other: 100.0 for other in IDLE if other != name}
    assert stage_at(TWO | others | {name: 1.0}) == "active"
    assert stage_at(TWO | others) == "lapsed"


def test_deposits_without_any_known_activity_are_lapsed() -> None:
    assert stage_at(TWO) == "lapsed"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.none() | st.floats(0, 60), min_size=6, max_size=6), st.none() | st.integers(0, 20))
def test_everybody_has_exactly_one_stage(days: list[float | None], opened: int | None) -> None:
    names = ("first_deposit_days_ago", "second_deposit_days_ago", *IDLE)
    readings = {name: value for name, value in zip(names, days, strict=True) if value is not None}
    facts = Facts(opened_us=None if opened is None else NOW - opened * DAY)
    found = stage_at(readings, facts)
    idle = min((readings[name] for name in IDLE if name in readings), default=np.inf)
    deposits = [name in readings for name in names[:2]]
    assert (found in {"new", "never_deposited"}) == (not deposits[0])
    assert (found == "new") == (not deposits[0] and opened is not None and opened < 7)
    assert (found == "lapsed") == (deposits[0] and idle >= 30)
    assert (found == "first_deposit") == (deposits == [True, False] and idle < 30)
