"""Sending hours: by the player's local clock, deferral within the slot, and blocked slots."""

from datetime import date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rule_cases import HOUSE

from features import zones
from features.moments import micros, moment
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import SLOTS, Window, send_window
from service.rules.rulebook import FOREVER_US
from service.rules.sending_hours import HoursGroup, Timetable, defer
from service.rules.types import TimeWindow

LAYOUT = CandidateSpace(HOUSE)
HOUR = 3_600_000_000
SETTINGS = settings(max_examples=300, deadline=None, derandomize=True)
PLAIN = {
    "id": "hours",
    "type": "time_window",
    "reason": "a rule of this test",
    "source": "this test",
    "confidence": "house",
    "valid_from": "2000-01-01",
}


def hours(*allow: dict[str, Any], **fields: Any) -> Timetable:
    return Timetable(TimeWindow.model_validate({**PLAIN, "allow": list(allow), **fields}))


def at(*parts: int, zone: str = "Europe/Malta", us: int = 0, fold: int = 0) -> int:
    return micros(datetime(*parts, tzinfo=zones.zone(zone), fold=fold)) + us  # type: ignore[arg-type, misc]


EIGHT_TO_NINE = hours({"from": "08:00", "to": "21:00"})


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Malta", (2026, 3, 29)),
        ("Europe/Malta", (2026, 10, 25)),
        ("America/New_York", (2026, 3, 8)),
        ("America/New_York", (2026, 11, 1)),
        ("Pacific/Auckland", (2026, 4, 5)),
        ("Asia/Kolkata", (2026, 6, 1)),
    ],
)
def test_hours_begin_and_end_by_the_clock_on_the_players_wall(zone: str, day: tuple[int, int, int]) -> None:
    begins, ends = at(*day, 8, zone=zone), at(*day, 21, zone=zone)
    following = date(*day) + timedelta(days=1)
    tomorrow = at(following.year, following.month, following.day, 8, zone=zone)
    assert EIGHT_TO_NINE.next(begins, zone) == begins
    assert EIGHT_TO_NINE.next(begins - 1, zone) == begins
    assert EIGHT_TO_NINE.next(ends - 1, zone) == ends - 1
    assert EIGHT_TO_NINE.next(ends, zone) == tomorrow


def test_an_hour_that_comes_twice_is_judged_the_same_both_times() -> None:
    nightly = hours({"from": "02:00", "to": "02:30"})
    for fold in (0, 1):
        inside = at(2026, 10, 25, 2, 10, fold=fold)
        assert nightly.next(inside, "Europe/Malta") == inside
    between = at(2026, 10, 25, 2, 40, fold=0)
    assert nightly.next(between, "Europe/Malta") in {at(2026, 10, 25, 2, 0, fold=1), at(2026, 10, 26, 2, 0)}


def test_an_hour_that_a_night_leaves_out_begins_when_the_clock_has_passed_it() -> None:
    nightly = hours({"from": "02:30", "to": "04:00"})
    window = Window(at(2026, 3, 29, 1), at(2026, 3, 29, 8))
    found = defer((window,) * 4, [hearing(nightly)], "Europe/Malta", LAYOUT, fixed=False)
    assert [moment for moment, _ in found.moments] == [at(2026, 3, 29, 3, 30)]


def test_days_holidays_and_eves_have_hours_of_their_own() -> None:
    italian = hours(
        {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "09:00", "to": "20:00"},
        {"days": ["sat", "eve"], "from": "10:00", "to": "19:00"},
        holidays=["2026-06-02", "2026-12-25"],
    )
    assert italian.on(date(2026, 6, 1)) == ((600, 1140),)  # the eve of 2 June, a Monday
    assert italian.on(date(2026, 6, 2)) == ()
    assert italian.on(date(2026, 6, 3)) == ((540, 1200),)
    assert italian.on(date(2026, 6, 6)) == ((600, 1140),)
    assert italian.on(date(2026, 6, 7)) == ()
    assert italian.on(date(2028, 6, 7)) == (), "holidays of that year are not known"
    sundays = hours({"days": ["holiday"], "from": "11:00", "to": "12:00"}, holidays=["2026-06-02"])
    assert sundays.on(date(2026, 6, 2)) == ((660, 720),)
    assert sundays.on(date(2026, 6, 3)) == ()
    evening = at(2026, 6, 1, 19, zone="Europe/Rome")
    assert italian.next(evening, "Europe/Rome") == at(2026, 6, 3, 9, zone="Europe/Rome")


@SETTINGS
@given(
    st.integers(0, 40),
    st.integers(44, 96),
    st.integers(0, 200 * 96),
    st.sampled_from(["Europe/Malta", "America/New_York", "Asia/Kolkata", "UTC"]),
)
def test_the_next_moment_is_the_first_that_lies_in_the_hours(first: int, last: int, quarter: int, zone: str) -> None:
    def clock(number: int) -> str:
        return f"{number * 15 // 60:02d}:{number * 15 % 60:02d}"

    table = hours({"from": clock(first), "to": clock(last)})
    now = at(2026, 1, 1, zone="UTC") + quarter * HOUR // 4

    def inside(at_us: int) -> bool:
        local = moment(at_us).astimezone(zones.zone(zone)).time()
        ends = time.max if last == 96 else time.fromisoformat(clock(last))
        return time.fromisoformat(clock(first)) <= local and (local < ends or last == 96)

    found = table.next(now, zone)
    assert found is not None
    steps = range(now, found, HOUR // 4)
    assert not any(inside(step) for step in steps)
    assert inside(found)


# Put off -----------------------------------------------------------------------------------------------------------


def hearing(*tables: Timetable, begins: int = 0, ends: int = FOREVER_US) -> HoursGroup:
    rules = tuple((number, table, begins, ends) for number, table in enumerate(tables))
    return HoursGroup(rules, LAYOUT.everything)


def windows(now: int) -> tuple[Window, ...]:
    return tuple(send_window(slot, now, "Europe/Malta") for slot in SLOTS)


def test_a_contact_waits_for_the_hours_of_every_rule_inside_its_slot() -> None:
    now = at(2026, 6, 1, 5)
    from_nine, from_ten = hours({"from": "09:00", "to": "20:00"}), hours({"from": "10:00", "to": "22:00"})
    found = defer(windows(now), [hearing(from_nine, from_ten)], "Europe/Malta", LAYOUT, fixed=False)
    moments = {slot: next(t for t, bits in found.moments if bits & LAYOUT.slots[n]) for n, slot in enumerate(SLOTS)}
    assert moments["morning"] == at(2026, 6, 1, 10)
    assert moments["afternoon"] == at(2026, 6, 1, 12)
    assert moments["evening"] == at(2026, 6, 1, 17)
    night = LAYOUT.slots[SLOTS.index("night")]
    assert found.blocked == {0: night, 1: night}, "the night that runs now ends at eight, before the hours begin"
    assert {(one.timing_slot, one.allowed_from_us) for one in found.deferrals} == {("morning", at(2026, 6, 1, 10))}


def test_all_rules_that_object_at_the_same_moment_are_named() -> None:
    now = at(2026, 6, 1, 22)
    found = defer(windows(now), [hearing(EIGHT_TO_NINE, EIGHT_TO_NINE)], "Europe/Malta", LAYOUT, fixed=False)
    night = LAYOUT.slots[SLOTS.index("night")]
    assert found.blocked == {0: night, 1: night}


def test_a_settled_moment_is_blocked_rather_than_moved() -> None:
    window = Window(at(2026, 6, 1, 7, 59), at(2026, 6, 1, 12))
    found = defer((window,) * 4, [hearing(EIGHT_TO_NINE)], "Europe/Malta", LAYOUT, fixed=True)
    assert found.blocked == {0: LAYOUT.everything}
    assert found.moments == [(window.send_us, LAYOUT.everything)]
    on_time = Window(at(2026, 6, 1, 8), at(2026, 6, 1, 12))
    assert not defer((on_time,) * 4, [hearing(EIGHT_TO_NINE)], "Europe/Malta", LAYOUT, fixed=True).blocked


def test_a_rule_that_is_not_in_force_at_the_moment_of_sending_puts_nothing_off() -> None:
    window = Window(at(2026, 6, 1, 5), at(2026, 6, 1, 12))
    for begins, ends, wanted in (
        (at(2026, 6, 2), FOREVER_US, at(2026, 6, 1, 5)),
        (0, at(2026, 6, 1, 5), at(2026, 6, 1, 5)),
        (0, at(2026, 6, 1, 6), at(2026, 6, 1, 6)),
        (0, at(2026, 6, 2), at(2026, 6, 1, 8)),
    ):
        heard = hearing(EIGHT_TO_NINE, begins=begins, ends=ends)
        found = defer((window,) * 4, [heard], "Europe/Malta", LAYOUT, fixed=False)
        assert found.moments == [(wanted, LAYOUT.everything)], (begins, ends)


def test_without_a_zone_every_rule_in_force_blocks() -> None:
    window = Window(at(2026, 6, 1, 10), at(2026, 6, 1, 12))
    found = defer((window,) * 4, [hearing(EIGHT_TO_NINE)], None, LAYOUT, fixed=False)
    assert found.blocked == {0: LAYOUT.everything}
    assert found.moments == [(window.send_us, LAYOUT.everything)]
