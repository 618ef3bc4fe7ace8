"""Aggregates: folding rows in any order, and bringing stored values forward to now."""

import math
import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.folding import folded

from features import aggregates, zones
from features.aggregates import DAY_MICROS, Activity, empty, encode, forward, local_parts, merge, update
from features.events import EVENT, micros
from features.moments import moment as aware
from features.schema import (
    CHANNELS,
    DAYS_WINDOW,
    MICROS,
    PRODUCTS,
    STORED,
    TIMING_SLOTS,
    VECTOR,
    WEEKS_BACK,
    Feature,
    Kind,
)

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
START = 20_400 * DAY_MICROS
HOUR = 3_600 * MICROS
AT = {feature.name: index for index, feature in enumerate(STORED)}
READ = {reading.name: index for index, reading in enumerate(VECTOR)}
DECAYED = [feature for feature in STORED if feature.kind is Kind.DECAYED]
MOMENTS = [feature for feature in STORED if feature.kind in (Kind.FIRST, Kind.LAST)]
DAYS = [feature for feature in STORED if feature.kind is Kind.DAYS]
BUCKETS = [feature for feature in STORED if feature.kind in (Kind.WEEK, Kind.MONTH)]
# Ties, the edges of UTC days, weeks and months, and gaps longer than the window of days.
WHEN = st.builds(
    lambda day, part: START + day * DAY_MICROS + part,
    st.integers(-45, 45),
    st.sampled_from([0, 1, DAY_MICROS - 1]) | st.integers(0, DAY_MICROS - 1),
)
ROW = st.builds(
    Activity,
    type=st.sampled_from(["bet", "deposit", "deposit", "win", "login", "session_started", "sent", "opened", "clicked"])
    | st.sampled_from(["withdrawal_paid", "withdrawal_cancelled", "support_contact", "limit_set", "time_out"])
    | st.just("bonus_granted"),
    occurred_us=WHEN,
    amount_minor=st.none() | st.integers(0, 10**9),
    status=st.sampled_from([None, "approved", "approved", "approved", "declined", "raised"]),
    target=st.sampled_from([None, "account", "account", "account", "wallet"]),
    product=st.sampled_from(PRODUCTS),
    channel=st.sampled_from([None, *CHANNELS]),
    timing_slot=st.sampled_from([None, *TIMING_SLOTS]),
    night=st.sampled_from([None, True, False]),
    counts_us=st.none(),
)
ROWS = st.lists(ROW, max_size=30)
NOW = st.integers(START - 50 * DAY_MICROS, START + 200 * DAY_MICROS)


def counts(feature: Any, row: Activity) -> bool:
    return all(getattr(row, column) in allowed for column, allowed in feature.when.items())


def opens(kind: Kind, moment_us: int, before: int) -> date:
    """First day of the calendar week or month that lies so many before that of a moment."""
    day = aware(moment_us).date()
    if kind is Kind.WEEK:
        return day - timedelta(days=day.weekday(), weeks=before)
    for _ in range(before):
        day = day.replace(day=1) - timedelta(days=1)
    return day.replace(day=1)


def in_bucket(feature: Feature, rows: list[Activity], as_of: int) -> int:
    """What the rows that count bring to a calendar week or month, by the calendar of the standard library."""
    wanted = opens(feature.kind, as_of, feature.nth)
    return sum(
        row.amount_minor or 0
        for row in rows
        if counts(feature, row) and opens(feature.kind, row.occurred_us, 0) == wanted
    )


def by_definition(feature: Any, rows: list[Activity], as_of: int) -> Any:
    """A stored value straight from the words of `Kind`."""
    hit = [row for row in rows if counts(feature, row)]
    moments = sorted(row.occurred_us for row in hit)
    match feature.kind:
        case Kind.AS_OF:
            return as_of
        case Kind.DECAYED:
            worth = [(row, 1 if feature.value is None else (row.amount_minor or 0) ** feature.power) for row in hit]
            half_life = feature.half_life * MICROS
            return math.fsum(value * 2 ** ((row.occurred_us - as_of) / half_life) for row, value in worth)
        case Kind.COUNT:
            return len(hit) or None
        case Kind.FIRST:
            return moments[feature.nth - 1] if len(moments) >= feature.nth else None
        case Kind.LAST:
            return moments[-1] if moments else None
        case Kind.DAYS:
            ages = {as_of // DAY_MICROS - moment // DAY_MICROS for moment in moments}
            return sum(1 << age for age in ages if age < DAYS_WINDOW) if moments else None
        case Kind.WEEK | Kind.MONTH:
            return in_bucket(feature, rows, as_of) if moments else None
        case Kind.LATEST:
            return max((row.occurred_us, str(row.product)) for row in hit)[1] if hit else None


@SETTINGS
@given(ROWS, ROWS)
def test_two_ids_of_one_person_together_are_one_player_who_did_it_all(
    one: list[Activity], other: list[Activity]
) -> None:
    whole = update(empty(), [*one, *other])
    for pair in ((one, other), (other, one)):
        found = merge(*(update(empty(), rows) for rows in pair))
        for feature, value, wanted in zip(STORED, found, whole, strict=True):
            if feature.kind is Kind.DECAYED:
                assert (value or 0.0) == pytest.approx(wanted or 0.0, rel=1e-9, abs=1e-280), feature.name
            else:
                assert value == wanted, feature.name


@SETTINGS
@given(ROWS.filter(bool), st.randoms(use_true_random=False))
def test_every_stored_value_is_what_its_kind_says_whatever_the_order_of_arrival(
    rows: list[Activity], draw: random.Random
) -> None:
    stored = folded(rows, draw)
    as_of = max(row.occurred_us for row in rows)
    for feature, value in zip(STORED, stored, strict=True):
        wanted = by_definition(feature, rows, as_of)
        if feature.kind is Kind.DECAYED:
            assert value == pytest.approx(wanted, rel=1e-9, abs=1e-280), feature.name
        else:
            assert value == wanted, feature.name


@SETTINGS
@given(ROWS, st.randoms(use_true_random=False), st.randoms(use_true_random=False))
def test_two_orders_of_arrival_store_the_same(rows: list[Activity], one: random.Random, other: random.Random) -> None:
    for feature, some, others in zip(STORED, folded(rows, one), folded(rows, other), strict=True):
        if feature.kind is Kind.DECAYED and some is not None:
            assert some == pytest.approx(others, rel=1e-9, abs=1e-280), feature.name
        else:
            assert some == others, feature.name


@SETTINGS
@given(ROWS)
def test_folding_reads_its_input_and_changes_only_its_result(rows: list[Activity]) -> None:
    stored = update(empty(), rows[: len(rows) // 2])
    before = list(stored)
    update(stored, rows[len(rows) // 2 :])
    assert stored == before
    assert update(stored, []) == stored


def test_of_two_products_at_one_moment_the_greater_text_is_the_last_one() -> None:
    rows = [Activity("bet", START, product=product) for product in ("sports", "casino")]
    for order in (rows, rows[::-1]):
        assert update(empty(), order)[AT["last_product"]] == "sports"


def test_a_bet_without_a_product_does_not_make_the_order_of_arrival_matter() -> None:
    rows = [Activity("bet", START, product="casino"), Activity("bet", START + 1)]
    assert update(empty(), rows)[AT["last_product"]] == update(empty(), rows[::-1])[AT["last_product"]]


def test_without_rows_nothing_is_stored_and_nothing_read_but_zeros() -> None:
    assert set(empty()) == {None}
    vector = forward(encode(empty()), START)
    for reading, value in zip(VECTOR, vector.tolist(), strict=True):
        if reading.name.endswith("_days_ago") or reading.name == "last_product":
            assert math.isnan(value), reading.name
        else:
            assert value == 0.0, reading.name


@SETTINGS
@given(ROWS.filter(bool), NOW)
def test_sums_decay_by_their_half_life_and_stand_still_before_as_of(rows: list[Activity], now: int) -> None:
    stored = update(empty(), rows)
    vector, since = forward(encode(stored), now), max(0, now - stored[0])
    for feature in DECAYED:
        wanted = stored[AT[feature.name]] * 2 ** (-since / (feature.half_life * MICROS))
        assert vector[READ[feature.name]] == pytest.approx(wanted, rel=1e-12, abs=1e-300), feature.name


@SETTINGS
@given(ROWS.filter(bool), st.integers(0, 100 * DAY_MICROS))
def test_an_event_that_changes_nothing_but_as_of_changes_no_reading(rows: list[Activity], later: int) -> None:
    """Forward from an old as_of equals forward from one that something else moved."""
    stored = update(empty(), rows)
    now = stored[0] + later
    moved = update(stored, [Activity("session_ended", now)])
    assert moved[0] == now
    some, others = forward(encode(moved), now), forward(encode(stored), now)
    varies = READ["stake_variability"]  # the root of a difference that is 0 for equal stakes: half the digits are left
    assert some[varies] == pytest.approx(others[varies], abs=1e-6)
    some[varies] = others[varies]
    np.testing.assert_allclose(some, others, rtol=1e-9, atol=1e-280)


@SETTINGS
@given(ROWS.filter(bool), NOW)
def test_moments_are_read_as_days_ago_and_never_negative(rows: list[Activity], now: int) -> None:
    stored = update(empty(), rows)
    vector = forward(encode(stored), now)
    for feature in MOMENTS:
        value, held = vector[READ[f"{feature.name.removesuffix('_at')}_days_ago"]], stored[AT[feature.name]]
        if held is None:
            assert math.isnan(value)
        else:
            assert value == max(0, now - held) / DAY_MICROS


@SETTINGS
@given(ROWS.filter(bool), st.integers(0, 60 * DAY_MICROS))
def test_days_count_the_utc_days_with_activity_of_the_last_thirty(rows: list[Activity], later: int) -> None:
    stored = update(empty(), rows)
    now = stored[0] + later
    vector = forward(encode(stored), now)
    for feature in DAYS:
        days = {row.occurred_us // DAY_MICROS for row in rows if counts(feature, row)}
        recent = {day for day in days if now // DAY_MICROS - day < DAYS_WINDOW}
        assert vector[READ[feature.name]] == len(recent), feature.name


def test_a_day_leaves_the_window_with_the_thirtieth_midnight() -> None:
    stored = encode(update(empty(), [Activity("login", START + 5 * HOUR)]))
    last = START + DAYS_WINDOW * DAY_MICROS
    days = [forward(stored, now)[READ["active_days_30d"]] for now in (START, last - 1, last, last + 1, last * 2)]
    assert days == [1, 1, 0, 0, 0]


def test_a_row_thirty_days_before_the_latest_is_not_kept_and_one_a_microsecond_later_is() -> None:
    edge = START - (DAYS_WINDOW - 1) * DAY_MICROS
    for moment, bit in ((edge - 1, 0), (edge, 1 << (DAYS_WINDOW - 1))):
        rows = [Activity("login", moment), Activity("login", START)]
        for order in (rows, rows[::-1]):
            together, one_by_one = update(empty(), order), update(update(empty(), order[:1]), order[1:])
            assert together[AT["active_days_30d"]] == one_by_one[AT["active_days_30d"]] == 1 + bit


@SETTINGS
@given(ROWS.filter(bool), st.sampled_from([0, 1, 7, 28, 31]) | st.integers(0, 70), st.sampled_from([0, -1, 1, HOUR]))
def test_weeks_and_months_are_read_as_those_of_now(rows: list[Activity], days: int, part: int) -> None:
    stored = update(empty(), rows)
    now = (stored[0] // DAY_MICROS + days) * DAY_MICROS + part
    vector = forward(encode(stored), now)
    for feature in BUCKETS:
        assert vector[READ[feature.name]] == in_bucket(feature, rows, max(now, stored[0])), feature.name


def at(*parts: int) -> int:
    return micros(datetime(*parts, tzinfo=UTC))  # type: ignore[misc, arg-type]


LAST = (23, 59, 59, 999_999)


@pytest.mark.parametrize(
    ("moment", "now", "weeks", "months"),
    [
        (at(2026, 3, 8, *LAST), at(2026, 3, 8, *LAST), 0, 0),
        (at(2026, 3, 8, *LAST), at(2026, 3, 9), 1, 0),
        (at(2026, 3, 9), at(2026, 3, 15, *LAST), 0, 0),
        (at(2026, 3, 9), at(2026, 3, 30), 3, 0),
        (at(2026, 3, 9), at(2026, 4, 6), 4, 1),
        (at(2026, 3, 31, *LAST), at(2026, 4, 1), 0, 1),
        (at(2026, 4, 1), at(2026, 4, 30, *LAST), 4, 0),
        (at(2026, 2, 28, *LAST), at(2026, 3, 1), 0, 1),
        (at(2028, 2, 28, *LAST), at(2028, 2, 29), 0, 0),
        (at(2028, 2, 29, *LAST), at(2028, 3, 1), 0, 1),
        (at(2100, 2, 28, *LAST), at(2100, 3, 1), 1, 1),
        (at(2026, 12, 31, *LAST), at(2027, 1, 1), 0, 1),
        (at(2026, 1, 31), at(2027, 1, 31), 52, 12),
        (at(1970, 1, 1), at(1970, 1, 4, *LAST), 0, 0),
        (at(1970, 1, 4, *LAST), at(1970, 1, 5), 1, 0),
    ],
)
def test_weeks_turn_with_monday_and_months_with_their_first_day(moment: int, now: int, weeks: int, months: int) -> None:
    rows = [Activity("bet", moment, 700), Activity("deposit", moment, 500, "approved", "account")]
    later = [*rows, Activity("session_ended", now)]
    for stored in (update(empty(), rows), update(empty(), later), update(update(empty(), later[2:]), rows)):
        vector = forward(encode(stored), now)
        bets = [vector[READ[f"bet_week_{nth}"]] for nth in range(4)]
        assert bets == [700 if nth == weeks else 0 for nth in range(4)]
        assert vector[READ["deposit_month_0"]] == (0 if months else 500)


def test_late_rows_go_into_their_own_week_and_older_ones_than_are_kept_are_dropped() -> None:
    monday = at(2026, 3, 30)
    rows = [Activity("bet", monday - 7 * week * DAY_MICROS, 10**week) for week in range(6)]
    rows.append(Activity("bet", monday - 1, 5))
    for order in (rows, rows[::-1], rows[3:] + rows[:3]):
        stored = empty()
        for row in order:
            stored = update(stored, [row])
        assert [stored[AT[f"bet_week_{nth}"]] for nth in range(4)] == [1, 15, 100, 1000]
    assert update(update(empty(), rows[:1]), [Activity("win", monday - 1000 * DAY_MICROS, 7)])[AT["win_week_0"]] == 0


def test_what_was_not_kept_from_the_start_begins_with_the_next_row() -> None:
    stored = update(empty(), [Activity("bet", START, 700, product="casino")])
    for feature in (*BUCKETS, STORED[AT["bet_square_30d"]], STORED[AT["bet_casino_30d"]], STORED[AT["bonus_count"]]):
        stored[AT[feature.name]] = None
    vector = forward(encode(stored), START)
    assert [vector[READ[name]] for name in ("bet_week_0", "bet_casino_30d", "stake_variability")] == [0, 0, 0]
    later = START + 14 * DAY_MICROS
    stored = update(stored, [Activity("bet", later, 300, product="casino")])
    assert [stored[AT[f"bet_week_{nth}"]] for nth in range(4)] == [300, 0, 0, 0]
    assert stored[AT["win_week_0"]] is None
    vector = forward(encode(stored), later)
    assert [vector[READ[name]] for name in ("net_loss_week_0", "bet_casino_30d")] == [300, 1]
    assert np.isfinite(vector[READ["stake_variability"]])


def test_bets_are_counted_by_product() -> None:
    stored = update(empty(), [Activity("bet", START, 1, product=one) for one in ("casino", "sports", "casino", None)])
    assert [stored[AT[f"bet_{product}_30d"]] for product in PRODUCTS] == [2, 1, 0, 0, 0]


@pytest.mark.parametrize("stakes", [[100], [100, 100, 100], [0, 200], [1, 10**12], [5, 10, 20, 400], [0], []])
def test_stakes_vary_by_their_standard_deviation_over_their_mean_however_long_ago(stakes: list[int]) -> None:
    stored = encode(update(empty(), [Activity("bet", START, stake) for stake in stakes]))
    wanted = np.std(stakes) / np.mean(stakes) if any(stakes) else 0.0
    for later in (0, 10 * DAY_MICROS, 2_000 * DAY_MICROS):
        assert forward(stored, START + later)[READ["stake_variability"]] == pytest.approx(wanted, abs=1e-6)


def test_bonuses_are_counted() -> None:
    rows = [Activity("bonus_granted", START + day * DAY_MICROS, 100) for day in (0, 3, 2)]
    assert update(empty(), rows)[AT["bonus_count"]] == 3


@SETTINGS
@given(st.lists(ROWS, min_size=1, max_size=6), st.data())
def test_many_at_once_are_read_as_one_by_one(players: list[list[Activity]], data: st.DataObject) -> None:
    stored = np.stack([encode(update(empty(), rows)) for rows in players])
    nows = np.array(data.draw(st.lists(NOW, min_size=len(players), max_size=len(players))), dtype=np.float64)
    together = forward(stored, nows)
    assert together.shape == (len(players), len(VECTOR))
    for row, one, now in zip(together, stored, nows, strict=True):
        np.testing.assert_array_equal(row, forward(one, now))
        np.testing.assert_array_equal(row, forward(one, int(now)))
    np.testing.assert_array_equal(forward(stored, int(nows[0])), np.stack([forward(one, nows[0]) for one in stored]))
    cube = forward(stored[None, ...], nows[None, ...])
    np.testing.assert_array_equal(cube[0], together)


@SETTINGS
@given(ROWS.filter(bool), NOW)
def test_reading_leaves_what_is_stored_alone_and_derives_what_it_says(rows: list[Activity], now: int) -> None:
    stored = encode(update(empty(), rows))
    before = stored.copy()
    vector = dict(zip(READ, forward(stored, now).tolist(), strict=True))
    np.testing.assert_array_equal(stored, before)
    assert vector["net_loss_7d"] == vector["bet_sum_7d"] - vector["win_sum_7d"]
    assert vector["net_loss_30d"] == vector["bet_sum_30d"] - vector["win_sum_30d"]
    for nth in range(WEEKS_BACK):
        assert vector[f"net_loss_week_{nth}"] == vector[f"bet_week_{nth}"] - vector[f"win_week_{nth}"]
        assert vector[f"net_loss_final_week_{nth}"] == vector[f"net_loss_week_{nth}"] - vector[f"returned_week_{nth}"]
    assert vector["net_deposit_month_0"] == vector["deposit_month_0"] - vector["withdrawal_month_0"]
    assert vector["net_deposit_final_month_0"] == vector["net_deposit_month_0"] - vector["chargeback_month_0"]
    assert vector["net_loss_final_30d"] == vector["net_loss_30d"] - vector["returned_sum_30d"]
    if total := vector["bet_sum_30d"]:
        spread = max(0.0, vector["bet_count_30d"] * vector["bet_square_30d"] - total**2) ** 0.5
        assert vector["stake_variability"] == pytest.approx(spread / total, abs=1e-6)
    shares = {
        "deposit_trend": ("deposit_count_7d", "deposit_count_30d"),
        "play_trend": ("bet_count_7d", "bet_count_30d"),
        "night_share": ("night_bet_sum_30d", "bet_sum_30d"),
    }
    for name, (part, whole) in shares.items():
        assert vector[name] == (vector[part] / vector[whole] if vector[whole] > 0 else 0.0)
        assert 0 <= vector[name] <= 1 + 1e-9


def test_stored_values_are_encoded_as_numbers() -> None:
    stored = empty()
    stored[AT["last_product"]] = "bingo"
    stored[AT["deposit_count"]] = 3
    numbers = encode(stored)
    assert numbers[AT["last_product"]] == PRODUCTS.index("bingo")
    assert numbers[AT["deposit_count"]] == 3
    assert np.isnan(numbers).sum() == len(STORED) - 2
    stored[AT["last_product"]] = "a product of another release"
    assert math.isnan(encode(stored)[AT["last_product"]])


def moment(zone: str, *parts: int, fold: int = 0) -> int:
    return micros(datetime(*parts, tzinfo=zones.zone(zone), fold=fold))  # type: ignore[misc, arg-type]


def test_where_no_zone_is_known_there_is_no_part_of_the_day() -> None:
    assert local_parts(START, None) == (None, None)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Malta", "Asia/Kolkata", "Asia/Kathmandu", "America/Toronto"])
def test_every_minute_of_a_day_has_its_slot_and_night_ends_at_six(zone: str) -> None:
    for minute in range(24 * 60):
        hour = minute // 60
        slot = next(
            name
            for name, (begin, end) in TIMING_SLOTS.items()
            if (begin.hour <= hour < end.hour) or (begin > end and (hour >= begin.hour or hour < end.hour))
        )
        opens = moment(zone, 2026, 7, 1, hour, minute % 60)
        assert local_parts(opens, zone) == (slot, hour < 6)
        assert local_parts(opens + 60 * MICROS - 1, zone) == (slot, hour < 6)


@pytest.mark.parametrize(
    ("zone", "before", "after"),
    [
        # The hour that is skipped or repeated lies in the night, so its ends do not move with the clock.
        ("Europe/Malta", (2026, 3, 29, 5, 59), (2026, 3, 29, 6, 0)),
        ("Europe/Malta", (2026, 10, 25, 5, 59), (2026, 10, 25, 6, 0)),
        ("America/Toronto", (2026, 3, 8, 5, 59), (2026, 3, 8, 6, 0)),
        ("America/Toronto", (2026, 11, 1, 5, 59), (2026, 11, 1, 6, 0)),
    ],
)
def test_night_ends_by_the_clock_on_the_wall(zone: str, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    assert local_parts(moment(zone, *before), zone) == ("night", True)
    assert local_parts(moment(zone, *after), zone) == ("night", False)


def test_both_runs_of_a_repeated_hour_are_night() -> None:
    for fold in (0, 1):
        assert local_parts(moment("Europe/Malta", 2026, 10, 25, 2, 30, fold=fold), "Europe/Malta") == ("night", True)


def test_before_nineteen_seventy_the_day_has_the_same_parts() -> None:
    assert local_parts(moment("UTC", 1960, 5, 5, 9, 0) + 1, "UTC") == ("morning", False)
    assert local_parts(moment("UTC", 1960, 5, 5, 8, 0) - 1, "UTC") == ("night", False)


def test_slots_that_leave_a_gap_are_refused_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = {name: bounds for name, bounds in TIMING_SLOTS.items() if name != "evening"}
    monkeypatch.setattr(aggregates, "TIMING_SLOTS", slots)
    with pytest.raises(ValueError, match="no timing slot covers 18:30"):
        aggregates._parts_of_minute.__wrapped__(18, 30)


@pytest.mark.parametrize("when", ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_has_no_place_in_a_local_day_is_refused(when: str) -> None:
    """An accepted event must not stop the worker, which asks for its slot."""
    with pytest.raises(ValidationError, match="moments lie between 1970 and 2200"):
        EVENT.validate_json(f'{{"type":"login","event_id":"e","player_id":"p","occurred_at":"{when}"}}')
