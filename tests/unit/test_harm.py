"""Markers of harm and stages of a player, at their boundaries."""

from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from features.aggregates import empty, encode, forward
from features.events import HarmLevel
from features.files import load_yaml
from features.schema import MICROS, PRODUCTS, VECTOR
from service.players.facts import Assertion, Facts, FactValue
from service.players.harm import (
    MARKERS,
    AgeAndPlaces,
    Harm,
    HarmSettings,
    StageDays,
    TriggeredMarker,
    assess,
    explained,
    markers,
    may_show_signs,
    of_markers,
    signs,
    stage,
    triggered,
)
from service.rules.rulebook import places

SETTINGS = load_yaml(Path(__file__).parents[2] / "service" / "rulebook" / "harm.yaml", HarmSettings)
NOW = 1_795_000_000 * MICROS
DAY = 86_400 * MICROS
HOLDS = 30 * DAY
LEVELS: tuple[HarmLevel, ...] = get_args(HarmLevel)
GROWN = AgeAndPlaces(40, places(["MT"]))
"""Of full age, where no marker is law."""


def vector(**readings: float) -> NDArray[np.float64]:
    values = dict(zip((one.name for one in VECTOR), forward(encode(empty()), NOW), strict=True))
    assert readings.keys() <= values.keys()
    return np.array(list((values | readings).values()), dtype=np.float64)


def level(
    values: NDArray[np.float64], facts: Facts | None = None, now: int = NOW, person: AgeAndPlaces = GROWN
) -> Harm:
    return assess(values, facts or Facts(), now, person, SETTINGS)


def values_of(readings: dict[str, float], facts: Facts | None = None, age: int | None = 40) -> dict[str, float]:
    return markers(vector(**readings), facts or Facts(), NOW, age)


def below(number: float) -> float:
    return float(np.nextafter(number, 0))


# Readings at which a marker speaks exactly, and the one that just misses it. All go together: of 2,000 bets on 20 days
# the last 10 were large, of 15 deposits in 5 sessions 7 were of the last week.
BETS = {"bet_count_30d": 2_000.0, "active_days_30d": 20.0}
MONTH = {"deposit_count_30d": 15.0}
CASES: dict[str, tuple[dict[str, float], str]] = {
    "deposit_escalation": ({"deposit_count_7d": 7.0, **MONTH}, "deposit_count_7d"),
    "deposit_sum_escalation": ({"deposit_sum_7d": 7.0, "deposit_sum_30d": 15.0, **MONTH}, "deposit_sum_7d"),
    "deposits_per_session": ({**MONTH, "session_count_30d": 5.0}, "deposit_count_30d"),
    "stake_growth": (
        {"bet_sum_7d": 15.0, "bet_count_7d": 10.0, "bet_sum_30d": 2_000.0, "bet_count_30d": 2_000.0},
        "bet_sum_7d",
    ),
    "stake_variability": ({"stake_variability": 2.0, "bet_count_30d": 2_000.0}, "stake_variability"),
    "bets_per_active_day": (BETS, "bet_count_30d"),
    "loss_of_a_day": ({"bet_sum_1d": 150_000.0, "win_sum_1d": 50_000.0}, "bet_sum_1d"),
    "night_share": ({"night_share": 0.3}, "night_share"),
    "withdrawals_cancelled": ({"withdrawal_cancelled_30d": 1.5}, "withdrawal_cancelled_30d"),
    "deposits_declined": ({"deposit_declined_1d": 2.2}, "deposit_declined_1d"),
    "limits_raised": ({"limit_raised_30d": 0.5}, "limit_raised_30d"),
    "products": ({f"bet_{one}_30d": 0.5 for one in PRODUCTS[:3]}, f"bet_{PRODUCTS[1]}_30d"),
    "support_contacts": ({"support_count_30d": 2.2}, "support_count_30d"),
    "chargebacks": ({"chargeback_30d": 0.5}, "chargeback_30d"),
    "limits_reached": ({"limit_reached_30d": 2.2}, "limit_reached_30d"),
    "loss_weeks": ({f"net_loss_final_week_{ago}": 60_000.0 for ago in range(3)}, "net_loss_final_week_1"),
    "deposit_month": ({"net_deposit_final_month_0": 70_000.0}, "net_deposit_final_month_0"),
}
OF_FACTS = {"breaks_taken", "returned"}
OF_THE_YOUNG = {"loss_weeks_young", "deposit_month_young"}
EVERYWHERE = [name for name in CASES if SETTINGS.markers[name].places is None]


def shown(names: set[str]) -> NDArray[np.float64]:
    """A player who reaches the thresholds of these markers exactly, and of no other."""
    readings: dict[str, float] = {}
    for name in names:
        readings |= CASES[name][0]
    if "bets_per_active_day" not in names:
        readings.pop("active_days_30d", None)
    return vector(**readings)


def test_the_tables_of_these_tests_name_every_marker() -> None:
    assert {*CASES} | OF_FACTS | OF_THE_YOUNG == {*MARKERS} == {*SETTINGS.markers}
    assert set(MARKERS).isdisjoint(SETTINGS.not_computed)


def test_a_player_without_history_shows_nothing() -> None:
    found = level(vector())
    assert found.level == "none"
    assert set(found.markers) == set(SETTINGS.markers)
    assert set(found.markers.values()) == {0.0}
    assert found.sources == {"behaviour": "none"}
    assert explained(found, GROWN.places, SETTINGS) == []


@pytest.mark.parametrize("name", CASES)
def test_a_marker_speaks_at_its_threshold_and_not_below(name: str) -> None:
    readings, nearly = CASES[name]
    where = places(SETTINGS.markers[name].places or ["MT"])
    at = values_of(readings)
    assert at[name] == SETTINGS.markers[name].threshold
    assert triggered(at, where, SETTINGS) == [name]
    missed = values_of(readings | {nearly: below(readings[nearly])})
    assert missed[name] < at[name]
    assert triggered(missed, where, SETTINGS) == []


def test_every_marker_of_the_reference_has_a_number_and_evidence() -> None:
    for one in SETTINGS.markers.values():
        assert one.definition
        assert one.evidence


# What a marker is -------------------------------------------------------------------------------------------------

ENOUGH: list[tuple[str, dict[str, float], str, float]] = [
    ("deposit_escalation", {"deposit_count_7d": 3.9, "deposit_count_30d": 3.9}, "deposit_count_7d", 30 / 7),
    (
        "deposit_sum_escalation",
        {"deposit_sum_7d": 70.0, "deposit_sum_30d": 100.0, "deposit_count_30d": 3.9},
        "deposit_count_30d",
        3.0,
    ),
    ("deposits_per_session", {"deposit_count_30d": 12.0, "session_count_30d": 3.0}, "session_count_30d", 4.0),
    (
        "stake_growth",
        {"bet_sum_7d": 40.0, "bet_count_7d": 10.0, "bet_sum_30d": 20.0, "bet_count_30d": 10.0},
        "bet_count_7d",
        2.0,
    ),
    ("stake_variability", {"stake_variability": 2.5, "bet_count_30d": 20.0}, "bet_count_30d", 2.5),
    ("bets_per_active_day", {"bet_count_30d": 4_000.0, "active_days_30d": 20.0}, "active_days_30d", 200.0),
]


@pytest.mark.parametrize(("name", "readings", "least", "value"), ENOUGH)
def test_a_ratio_is_nought_until_enough_happened_to_tell(
    name: str, readings: dict[str, float], least: str, value: float
) -> None:
    assert values_of(readings)[name] == pytest.approx(value, rel=1e-12)
    assert values_of(readings | {least: below(readings[least])})[name] == 0.0


def test_a_ratio_over_nothing_is_nought() -> None:
    found = values_of({"deposit_sum_7d": 5.0, "deposit_count_30d": 5.0, "bet_sum_7d": 5.0, "bet_count_7d": 10.0})
    assert (found["deposit_sum_escalation"], found["stake_growth"]) == (0.0, 0.0)


def test_a_day_that_was_won_is_no_loss() -> None:
    assert values_of({"bet_sum_1d": 100.0, "win_sum_1d": 300.0})["loss_of_a_day"] == 0.0
    assert values_of({"bet_sum_1d": 300.0, "win_sum_1d": 100.0})["loss_of_a_day"] == 200.0


def test_products_count_until_half_of_one_bet_is_left() -> None:
    """A bet fades by half in thirty days: so long its product counts."""
    readings = {f"bet_{one}_30d": 0.5 for one in PRODUCTS}
    assert values_of(readings)["products"] == len(PRODUCTS)
    assert values_of(readings | {f"bet_{PRODUCTS[0]}_30d": below(0.5)})["products"] == len(PRODUCTS) - 1


def weeks(*losses: float) -> dict[str, float]:
    return {f"net_loss_final_week_{ago}": loss for ago, loss in enumerate(losses)}


def test_three_weeks_running_are_the_last_three_or_the_three_before_the_running_one() -> None:
    assert values_of(weeks(500, 700, 600, 0))["loss_weeks"] == 500
    assert values_of(weeks(0, 700, 600, 400))["loss_weeks"] == 400
    assert values_of(weeks(700, 700, 0, 700))["loss_weeks"] == 0
    assert values_of(weeks(-700, -700, -700, -700))["loss_weeks"] == 0


@pytest.mark.parametrize(("age", "losses", "deposits"), [(None, 1, 1), (24, 1, 1), (25, 1, 0), (26, 0, 0), (40, 0, 0)])
def test_thresholds_of_the_young_count_up_to_their_age_and_where_it_is_unknown(
    age: int | None, losses: int, deposits: int
) -> None:
    found = values_of(weeks(900, 900, 900) | {"net_deposit_final_month_0": 800.0}, age=age)
    assert (found["loss_weeks"], found["deposit_month"]) == (900, 800)
    assert (found["loss_weeks_young"], found["deposit_month_young"]) == (900 * losses, 800 * deposits)


def test_a_month_with_more_paid_out_than_in_is_nought() -> None:
    assert values_of({"net_deposit_final_month_0": -5.0}, age=None)["deposit_month"] == 0
    assert values_of({"net_deposit_final_month_0": -5.0}, age=None)["deposit_month_young"] == 0


def test_a_break_speaks_for_a_year_and_a_return_for_ninety_days() -> None:
    def found(facts: Facts, now: int) -> tuple[float, float]:
        values = markers(vector(), facts, now, 40)
        return values["breaks_taken"], values["returned"]

    back = Facts(known=True, returned_us=NOW)
    assert found(back, NOW) == found(back, NOW + 90 * DAY - 1) == (1.0, 1.0)
    assert found(back, NOW + 90 * DAY) == found(back, NOW + 365 * DAY - 1) == (1.0, 0.0)
    assert found(back, NOW + 365 * DAY) == (0.0, 0.0)
    out = Facts(known=True, time_out_until_us=NOW)
    for now in (NOW - 30 * DAY, NOW, NOW + 365 * DAY - 1):
        assert found(out, now) == (1.0, 0.0)
    assert found(out, NOW + 365 * DAY) == (0.0, 0.0)
    assert found(Facts(), NOW) == (0.0, 0.0)


# What markers mean ------------------------------------------------------------------------------------------------


def leveled(points: int) -> str:
    return LEVELS[(points >= 3) + (points >= 5) + (points >= 7)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sets(st.sampled_from(EVERYWHERE)))
def test_points_of_what_is_shown_add_up_to_a_level(names: set[str]) -> None:
    found = level(shown(names))
    assert set(triggered(found.markers, GROWN.places, SETTINGS)) == names
    assert found.level == leveled(sum(SETTINGS.markers[name].points for name in names))
    assert found.sources == {"behaviour": found.level}


@pytest.mark.parametrize("chosen", list(product([False, True], repeat=5)))
def test_three_five_and_seven_points_are_the_levels(chosen: tuple[bool, ...]) -> None:
    names = ("limits_raised", "deposits_per_session", "night_share", "deposits_declined", "support_contacts")
    points = sum(SETTINGS.markers[name].points for name, one in zip(names, chosen, strict=True) if one)
    wanted = {0: "none", 1: "none", 2: "none", 3: "low", 4: "low", 5: "moderate", 6: "moderate", 7: "strong"}
    assert level(shown({name for name, one in zip(names, chosen, strict=True) if one})).level == wanted[points]


def test_two_values_of_one_marker_count_once() -> None:
    """A raised limit and a break are both M17."""
    out = Facts(known=True, time_out_until_us=NOW)
    both = level(shown({"limits_raised"}), out)
    assert set(triggered(both.markers, GROWN.places, SETTINGS)) == {"limits_raised", "breaks_taken"}
    assert both.level == "none"
    assert level(shown({"limits_raised", "night_share"}), out).level == "low"


def test_a_return_from_an_exclusion_is_a_break_too_and_is_low_by_itself() -> None:
    back = Facts(known=True, returned_us=NOW - DAY)
    assert level(vector(), back).level == "low"
    assert level(vector(), back, NOW + 90 * DAY).level == "none"


def test_all_markers_together_are_strong() -> None:
    assert level(shown(set(EVERYWHERE))).level == "strong"


BY_LAW = [
    ("ES", 40, weeks(60_000, 60_000, 60_000), "strong"),
    ("ES", 25, weeks(20_000, 20_000, 20_000), "strong"),
    ("ES", None, weeks(20_000, 20_000, 20_000), "strong"),
    ("ES", 26, weeks(20_000, 20_000, 20_000), "none"),
    ("ES", 40, weeks(60_000, 60_000, below(60_000)), "none"),
    ("ES-MD", 40, weeks(60_000, 60_000, 60_000), "strong"),
    ("NL", 40, {"net_deposit_final_month_0": 70_000.0}, "moderate"),
    ("NL", 24, {"net_deposit_final_month_0": 30_000.0}, "moderate"),
    ("NL", None, {"net_deposit_final_month_0": 30_000.0}, "moderate"),
    ("NL", 25, {"net_deposit_final_month_0": 30_000.0}, "none"),
    ("NL", 24, {"net_deposit_final_month_0": below(30_000.0)}, "none"),
]


@pytest.mark.parametrize(("place", "age", "readings", "wanted"), BY_LAW)
def test_a_marker_of_law_means_its_level_by_itself_where_it_is_law(
    place: str, age: int | None, readings: dict[str, float], wanted: str
) -> None:
    assert level(vector(**readings), person=AgeAndPlaces(age, places([place]))).level == wanted
    assert level(vector(**readings), person=AgeAndPlaces(age, places(["MT", place]))).level == wanted
    elsewhere = level(vector(**readings), person=AgeAndPlaces(age, places(["MT"])))
    assert elsewhere.level == "none"
    assert explained(elsewhere, places(["MT"]), SETTINGS) == []


def test_a_level_by_itself_adds_no_points() -> None:
    month = vector(net_deposit_final_month_0=30_000.0, limit_raised_30d=0.5, night_share=0.3)
    assert level(month).level == "low"
    assert level(month, person=AgeAndPlaces(24, places(["NL"]))).level == "moderate"


VALUES = st.fixed_dictionaries(
    {
        name: st.sampled_from([0.0, below(one.threshold), one.threshold, one.threshold * 3])
        for name, one in SETTINGS.markers.items()
    }
)
WHERE = st.sets(st.sampled_from(["MT", "ES", "NL", "GB"]), min_size=1).map(places)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(VALUES, st.sampled_from(list(SETTINGS.markers)), st.floats(0, 1e6), WHERE)
def test_a_marker_that_grows_never_lowers_the_level(
    values: dict[str, float], name: str, more: float, where: frozenset[str]
) -> None:
    grown = values | {name: values[name] + more}
    before, after = (LEVELS.index(of_markers(one, where, SETTINGS)) for one in (values, grown))
    assert after >= before


@settings(max_examples=200, deadline=None, derandomize=True)
@given(VALUES, WHERE, WHERE)
def test_more_places_never_lower_the_level(
    values: dict[str, float], where: frozenset[str], more: frozenset[str]
) -> None:
    before, after = (LEVELS.index(of_markers(values, one, SETTINGS)) for one in (where, where | more))
    assert after >= before


def test_what_speaks_is_told_with_its_number_value_and_threshold() -> None:
    found = level(shown({"night_share"}))
    what = SETTINGS.markers["night_share"].definition
    assert explained(found, GROWN.places, SETTINGS) == [
        TriggeredMarker(marker="night_share", id="M12", value=0.3, threshold=0.3, what=what)
    ]


# What others say, and how long it holds ---------------------------------------------------------------------------


def said(**by: tuple[str, int]) -> Facts:
    """What sources said: a level and a moment; of our own and other systems by `own_` and `by_`."""
    names = {name: name.replace("own_", "own:").replace("by_", "by:") for name in by}
    return Facts(known=True, harm={names[name]: FactValue(*one) for name, one in by.items()})


@pytest.mark.parametrize(("source", "longer"), [("signal", 0), ("own_strong", DAY), ("by_mindway", 0)])
def test_a_sign_holds_for_thirty_quiet_days_to_the_microsecond(source: str, longer: int) -> None:
    """Our own are noted once a day only, so the last one may be a day younger than its note: it holds a day longer."""
    facts = said(**{source: ("strong", NOW)})
    for now in (NOW - 1, NOW, NOW + HOLDS + longer - 1):
        found = level(vector(night_share=0.1), facts, now)
        assert found.level == "strong"
        assert len(found.sources) == 2
        assert found.markers["night_share"] == 0.1
    after = level(vector(), facts, NOW + HOLDS + longer)
    assert (after.level, after.sources) == ("none", {"behaviour": "none"})
    low = {"limits_raised", "night_share"}
    assert level(shown(low), facts, NOW + HOLDS + longer).level == "low"


def test_of_what_our_own_markers_showed_the_gravest_counts_as_long_as_it_holds() -> None:
    facts = said(own_strong=("strong", NOW), own_moderate=("moderate", NOW + 10 * DAY), own_low=("low", NOW + 20 * DAY))
    falls = [(30, "strong"), (31, "moderate"), (40, "moderate"), (41, "low"), (50, "low"), (51, "none")]
    for days, wanted in falls:
        assert level(vector(), facts, NOW + days * DAY).level == wanted


def test_of_several_sources_the_gravest_counts() -> None:
    for one, other in product(LEVELS, LEVELS):
        facts = said(by_mindway=(one, NOW), by_other=(other, NOW))
        assert level(vector(), facts).level == max(one, other, key=LEVELS.index)
        assert level(shown({"limits_raised", "night_share"}), facts).level == max(one, other, "low", key=LEVELS.index)


def test_a_lower_score_later_does_not_undo_a_graver_one() -> None:
    held = {"by:mindway": FactValue("low", NOW + DAY), "by:mindway:strong": FactValue("strong", NOW)}
    facts = Facts(known=True, harm=held | {"by:mindway:low": FactValue("low", NOW + DAY)})
    assert level(vector(), facts, NOW + HOLDS - 1).level == "strong"
    assert level(vector(), facts, NOW + HOLDS).level == "low"


def test_a_review_voids_older_signs_and_newer_ones_count() -> None:
    for name in ("signal", "own_strong", "by_mindway"):
        older = said(**{name: ("strong", NOW - 1), "review": ("none", NOW)})
        at_once = said(**{name: ("strong", NOW), "review": ("none", NOW)})
        newer = said(**{name: ("strong", NOW + 1), "review": ("none", NOW)})
        assert level(vector(), older, NOW + DAY).level == "none"
        # One of the very moment may not have been seen by who reviewed.
        assert level(vector(), at_once, NOW + DAY).level == "strong"
        assert level(vector(), newer, NOW + DAY).level == "strong"


def test_what_a_review_voided_stays_void_when_the_review_itself_no_longer_holds() -> None:
    facts = said(own_strong=("strong", NOW), review=("none", NOW + DAY // 24))
    for now in (NOW + DAY, NOW + HOLDS, NOW + HOLDS + DAY // 12, NOW + HOLDS + DAY - 1):
        assert level(vector(), facts, now).level == "none"


def test_a_review_of_the_future_lowers_nothing() -> None:
    ahead = said(signal=("strong", NOW), review=("none", NOW + DAY))
    assert level(vector(), ahead, NOW).level == "strong"
    assert level(vector(), ahead, NOW + DAY).level == "none"


def test_a_review_holds_its_own_level() -> None:
    for wanted in LEVELS:
        facts = said(signal=("strong", NOW - DAY), review=(wanted, NOW))
        assert level(vector(), facts, NOW + HOLDS - 1).level == wanted
        assert level(vector(), facts, NOW + HOLDS).level == "none"


def test_behaviour_up_to_a_review_was_weighed_there() -> None:
    """Sums fade over weeks: else what a person has reviewed would raise the level again the next moment."""
    values, facts = shown(set(EVERYWHERE)), said(review=("low", NOW))
    found = level(values, facts, NOW + HOLDS - 1)
    assert (found.level, found.sources) == ("low", {"review": "low"})
    assert found.markers["night_share"] == 0.3
    assert level(values, facts, NOW + HOLDS).level == "strong"


def test_after_a_review_a_new_sign_of_behaviour_counts_as_our_own() -> None:
    facts = said(review=("none", NOW), own_moderate=("moderate", NOW + 5))
    found = level(shown(set(EVERYWHERE)), facts, NOW + DAY)
    assert (found.level, found.sources) == ("moderate", {"review": "none", "own:moderate": "moderate"})


# New signs --------------------------------------------------------------------------------------------------------

LOW = shown({"limits_raised", "night_share"})


def noted(before: NDArray[np.float64], after: NDArray[np.float64], facts: Facts | None = None, at: int = NOW) -> Any:
    return signs(before, after, facts or Facts(), at, GROWN, SETTINGS)


def test_a_marker_that_grows_beyond_its_threshold_is_a_sign_of_the_level_then_reached() -> None:
    assert noted(vector(), LOW) == [Assertion("harm:own:low", NOW, 1, "low")]
    assert noted(shown({"limits_raised"}), LOW) == [Assertion("harm:own:low", NOW, 1, "low")]
    strong = shown(set(EVERYWHERE) - {"loss_of_a_day"})
    assert noted(LOW, strong) == [Assertion("harm:own:strong", NOW, 3, "strong")]


def test_a_new_sign_renews_the_gravest_of_our_own_that_still_stands() -> None:
    """A level falls after quiet days only: a lesser sign in between is no quiet."""
    moderate = said(own_moderate=("moderate", NOW))
    later = NOW + 20 * DAY
    assert noted(vector(), LOW, moderate, later) == [Assertion("harm:own:moderate", later, 2, "moderate")]
    fallen = NOW + HOLDS + DAY
    assert noted(vector(), LOW, moderate, fallen) == [Assertion("harm:own:low", fallen, 1, "low")]
    void = said(own_moderate=("moderate", NOW), review=("none", NOW + DAY))
    assert noted(vector(), LOW, void, later) == [Assertion("harm:own:low", later, 1, "low")]


def test_what_only_stays_or_fades_is_no_sign() -> None:
    assert noted(LOW, LOW) == []
    assert noted(vector(limit_raised_30d=0.9, night_share=0.9), LOW) == []
    # A marker that grows below its threshold is none either.
    readings = {"limit_raised_30d": 0.5, "night_share": 0.3}
    assert noted(vector(**readings), vector(**readings, deposit_declined_1d=below(2.2))) == []


def test_points_that_reach_no_level_are_no_sign() -> None:
    assert noted(vector(), shown({"limits_raised"})) == []


def test_a_sign_that_goes_on_is_noted_once_a_day_and_another_level_at_once() -> None:
    more = vector(limit_raised_30d=0.6, night_share=0.3)
    held = said(own_low=("low", NOW))
    assert noted(LOW, more, held, NOW + DAY - 1) == []
    assert noted(LOW, more, held, NOW + DAY) == [Assertion("harm:own:low", NOW + DAY, 1, "low")]
    moderate = shown({"limits_raised", "night_share", "deposits_per_session"})
    assert noted(LOW, moderate, held, NOW + 1) == [Assertion("harm:own:moderate", NOW + 1, 2, "moderate")]
    # What arrives late is older than what is noted.
    assert noted(LOW, more, held, NOW - DAY) == []


def test_a_sign_after_a_review_is_noted_though_one_before_it_was_noted_the_same_day() -> None:
    """The review voided the one before: without another note the new sign would not count for a day."""
    more = vector(limit_raised_30d=0.6, night_share=0.3)
    hour = DAY // 24
    held = said(own_low=("low", NOW), review=("none", NOW + hour))
    assert noted(LOW, more, held, NOW + 2 * hour) == [Assertion("harm:own:low", NOW + 2 * hour, 1, "low")]
    # And one of before the review adds nothing.
    assert noted(LOW, more, held, NOW + hour // 2) == []


def test_a_noted_sign_raises_the_level_that_is_assessed() -> None:
    (sign,) = noted(vector(), shown(set(EVERYWHERE) - {"loss_of_a_day"}))
    name = sign.field.removeprefix("harm:")
    facts = Facts(known=True, harm={name: FactValue(sign.text, sign.moment_us)})
    assert level(vector(), facts, NOW + HOLDS - 1).level == "strong"


def test_signs_of_law_are_signs_where_they_are_law() -> None:
    after = vector(**weeks(60_000, 60_000, 60_000))
    for place, wanted in (("ES", [Assertion("harm:own:strong", NOW, 3, "strong")]), ("MT", [])):
        assert signs(vector(), after, Facts(), NOW, AgeAndPlaces(40, places([place])), SETTINGS) == wanted


def test_a_big_loss_is_noted_when_it_grows_to_its_threshold() -> None:
    big = float(SETTINGS.big_loss_minor)
    loss = [Assertion("big_loss", NOW, 0, "")]
    assert noted(vector(), vector(bet_sum_1d=big)) == loss
    assert noted(vector(bet_sum_1d=big - 1), vector(bet_sum_1d=big)) == loss
    assert noted(vector(), vector(bet_sum_1d=below(big))) == []
    assert noted(vector(bet_sum_1d=big), vector(bet_sum_1d=big)) == []
    assert noted(vector(bet_sum_1d=2 * big), vector(bet_sum_1d=2 * big, win_sum_1d=big)) == []


def test_one_activity_may_show_harm_and_a_big_loss() -> None:
    both = noted(vector(), shown({"limits_raised", "loss_of_a_day"}))
    assert [one.field for one in both] == ["harm:own:low", "big_loss"]


# Settings ---------------------------------------------------------------------------------------------------------


def settings_said() -> dict[str, Any]:
    return SETTINGS.model_dump()


FAULTS: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "a marker that says nothing": (("markers", "night_share", "points"), 0, "gives points or a level"),
    "a threshold of nought": (("markers", "night_share", "threshold"), 0, "greater than 0"),
    "a number that is none": (("markers", "night_share", "id"), "12", "should match"),
    "fewer quiet days than thirty": (("quiet_days",), 29.9, "greater than or equal to 30"),
    "levels out of order": (("levels", "moderate"), 8, "strong must not be reached before moderate"),
    "a level that is missing": (("levels",), {"low": 3, "moderate": 5}, "levels: strong is missing"),
    "a marker that nobody computes": (("markers", "mood"), settings_said()["markers"]["night_share"], "no value"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_settings_that_cannot_be_meant_are_refused(fault: str) -> None:
    path, value, words = FAULTS[fault]
    content = settings_said()
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValidationError, match=words):
        HarmSettings.model_validate(content)


def test_no_marker_may_be_left_out() -> None:
    content = settings_said()
    del content["markers"]["returned"]
    with pytest.raises(ValidationError, match="returned is missing"):
        HarmSettings.model_validate(content)


def test_levels_of_the_house_rise() -> None:
    assert SETTINGS.levels == {"low": 3, "moderate": 5, "strong": 7}
    assert SETTINGS.quiet_us == HOLDS
    for lesser, greater in pairwise(LEVELS[1:]):
        assert SETTINGS.levels[lesser] < SETTINGS.levels[greater]  # type: ignore[index]


# Stages -----------------------------------------------------------------------------------------------------------

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


def test_a_file_of_an_earlier_build_lacks_later_markers_which_count_nothing_there() -> None:
    earlier = {name: one for name, one in SETTINGS.markers.items() if name not in {"chargebacks", "limits_reached"}}
    read = HarmSettings.model_validate(SETTINGS.model_dump(by_alias=True) | {"markers": earlier})
    there = vector(chargeback_30d=9.0, limit_reached_30d=9.0)
    assert triggered(markers(there, Facts(), NOW, 40), GROWN.places, read) == []
    with pytest.raises(ValidationError, match="returned is missing"):
        HarmSettings.model_validate(
            SETTINGS.model_dump() | {"markers": {name: one for name, one in earlier.items() if name != "returned"}}
        )


READING = st.sampled_from([0.0, 0.5, 1.0, 3.0, 5.0, 20.0, 1_000.0, 10_000_000.0])
KNOWN = st.builds(
    Facts,
    returned_us=st.sampled_from([None, NOW - DAY]),
    time_out_until_us=st.sampled_from([None, NOW - DAY]),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.sampled_from([one.name for one in VECTOR]), READING, max_size=12),
    st.dictionaries(st.sampled_from([one.name for one in VECTOR]), READING, max_size=3),
    KNOWN,
    st.builds(AgeAndPlaces, st.sampled_from([None, 18, 25, 60]), st.sampled_from([places(["MT"]), places(["GB"])])),
)
def test_activity_that_is_a_sign_of_anybody_may_show_signs(
    now: dict[str, float], less: dict[str, float], facts: Facts, person: AgeAndPlaces
) -> None:
    before, after = (vector(**{**one, "deposit_count_30d": 20.0}) for one in (now | less, now))
    if signs(before, after, facts, NOW, person, SETTINGS):
        assert may_show_signs(after, SETTINGS)


def test_nothing_done_shows_no_signs_and_a_big_loss_does() -> None:
    assert not may_show_signs(vector(), SETTINGS)
    assert may_show_signs(vector(bet_sum_1d=float(SETTINGS.big_loss_minor)), SETTINGS)
