"""Calendar and lifetime caps, gaps, pauses and budgets, each against counting by hand."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.ledger_house import WHOLE

from features import zones
from features.moments import micros, moment
from models.catalogue.candidates import CandidateSpace
from models.catalogue.limits import Cap, ContactGroup, Gap, Pause
from models.catalogue.offers import Catalogue
from service.contacts.entries import ContactResponse, Reservation
from service.contacts.limits import (
    Held,
    LimitQuery,
    account,
    charges,
    evaluate,
    outdated,
    over,
    period,
)

EXTEND = Path(__file__).parents[2] / "docs" / "extend.md"
SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
HOUR = 3_600_000_000
DAY = 24 * HOUR
NOW = micros(datetime(2026, 3, 28, 12, tzinfo=UTC))
"""The day before clocks change in Europe."""
ZONES = ("Europe/Malta", "America/New_York", "Asia/Kolkata", "UTC")
OFFERS = ("first", "second")
SENDS = st.integers(-9 * 24, 9 * 24).map(lambda hours: NOW + hours * HOUR)
HELD = st.lists(
    st.builds(
        lambda send, offer, channel, brand, priority: Reservation(
            send, send + DAY, "confirmed", "bonus", offer, channel, "night", 1, brand, f"of_{offer}", priority
        ),
        SENDS,
        st.sampled_from(OFFERS),
        st.sampled_from(["sms", "email"]),
        st.sampled_from(["main", "other"]),
        st.sampled_from([10, 90]),
    ),
    max_size=8,
)


def house(**limits: Any) -> CandidateSpace:
    """A house of two offers, of priorities 10 and 90, with some limits alone."""
    offers = [
        WHOLE.offers[0].model_dump(mode="json") | {"id": name, "category": f"of_{name}", "priority": priority}
        for name, priority in zip(OFFERS, (10, 90), strict=True)
    ]
    return CandidateSpace(
        Catalogue.model_validate(WHOLE.model_dump(mode="json") | {"offers": offers, "caps": []} | limits)
    )


def denied(
    layout: CandidateSpace, held: Held, at_us: int, *, brand: str = "main", zone: str = "UTC"
) -> set[tuple[str, str]]:
    """Offers and channels that limits deny at a moment."""
    found = evaluate(layout, held, [(at_us, layout.everything)], LimitQuery(brand, zone, NOW))
    return {
        (offer, channel)
        for offer in OFFERS
        for channel in ("sms", "email")
        if any(bits & layout.find(offer, channel, "night") for bits in found.values())
    }


def named(contacts: list[Reservation]) -> dict[str, Reservation]:
    return {f"d{at}": one for at, one in enumerate(contacts)}


EVERYTHING = {(offer, channel) for offer in OFFERS for channel in ("sms", "email")}


@SETTINGS
@given(HELD, SENDS, st.sampled_from(["day", "week"]), st.sampled_from(ZONES), st.integers(0, 3))
def test_a_calendar_cap_counts_the_players_own_day_or_week(
    held: list[Reservation], at_us: int, calendar: str, zone: str, most: int
) -> None:
    def place(send_us: int) -> Any:
        local = moment(send_us).astimezone(zones.zone(zone))
        return local.date() if calendar == "day" else local.isocalendar()[:2]

    layout = house(caps=[{"id": "c", "contacts": most, "calendar": calendar}])
    full = sum(place(one.send_us) == place(at_us) for one in held) >= most
    assert denied(layout, Held(named(held)), at_us, zone=zone) == (EVERYTHING if full else set())


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 6, 1), 24)])
def test_a_local_day_is_as_long_as_clocks_make_it(day: tuple[int, int, int], hours: int) -> None:
    noon = datetime(*day, 12, tzinfo=zones.zone("Europe/Malta"))
    begins, ends = period(micros(noon), "day", "Europe/Malta")
    assert ends - begins == hours * HOUR
    assert moment(begins).astimezone(noon.tzinfo).hour == 0


@SETTINGS
@given(HELD, SENDS, st.integers(0, 3))
def test_a_cap_for_life_never_forgets(held: list[Reservation], at_us: int, most: int) -> None:
    layout = house(caps=[{"id": "c", "contacts": most, "lifetime": True, "offer": "first"}])
    full = sum(one.offer == "first" for one in held) >= most
    wanted = {one for one in EVERYTHING if one[0] == "first"} if full else set()
    assert denied(layout, Held(named(held)), at_us + 5_000 * DAY) == wanted
    assert outdated(layout.catalogue, Held(named(held)), NOW + 5_000 * DAY, 0, ever=False) == [
        name for name, one in named(held).items() if one.offer != "first"
    ]


@SETTINGS
@given(HELD, SENDS, st.integers(1, 3), st.data())
def test_lower_priorities_never_take_what_is_kept_and_higher_ones_may(
    held: list[Reservation], at_us: int, most: int, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, most))
    layout = house(caps=[{"id": "c", "contacts": most, "lifetime": True, "keep": keep, "keep_for": 50}])
    low = sum(one.priority < 50 for one in held)
    wanted = set(EVERYTHING) if len(held) >= most else set()
    if low >= most - keep:
        wanted |= {one for one in EVERYTHING if one[0] == "first"}
    assert denied(layout, Held(named(held)), at_us) == wanted


@SETTINGS
@given(HELD, HELD, SENDS, st.sampled_from(["player", "household", "brand"]), st.sampled_from(["main", "other"]))
def test_a_scope_says_whose_contacts_count(
    own: list[Reservation], all_members: list[Reservation], at_us: int, scope: str, brand: str
) -> None:
    layout = house(caps=[{"id": "c", "contacts": 2, "lifetime": True, "scope": scope, "channel": "sms"}])
    held = Held(named(own), named(all_members))
    # What the household was not told of yet counts there too.
    household = all_members + own[len(all_members) :]
    counted = {"player": own, "household": household, "brand": [one for one in own if one.brand == brand]}[scope]
    full = sum(one.channel == "sms" for one in counted) >= 2
    assert denied(layout, held, at_us, brand=brand) == (
        {one for one in EVERYTHING if one[1] == "sms"} if full else set()
    )
    alone = Held(named(own))
    assert (denied(layout, alone, at_us) != set()) == (
        sum(one.channel == "sms" and (scope != "brand" or one.brand == "main") for one in own) >= 2
    )


@SETTINGS
@given(st.lists(st.tuples(SENDS, st.sampled_from(OFFERS)), max_size=8), st.sampled_from([1, 24, 72]))
def test_whatever_order_contacts_are_asked_for_none_follows_too_soon(asked: list[tuple[int, str]], hours: int) -> None:
    """`first` never within some hours after `second`; and nothing within an hour of anything."""
    layout = house(
        gaps=[
            {"id": "after", "hours": hours, "of": {"offer": "first"}, "after": {"category": "of_second"}},
            {"id": "rest", "hours": 1},
        ]
    )
    held: list[Reservation] = []
    for at_us, offer in asked:
        fits = (offer, "sms") not in denied(layout, Held(named(held)), at_us)
        bad = any(
            abs(one.send_us - at_us) < HOUR
            or (offer == "first" and one.offer == "second" and 0 <= at_us - one.send_us < hours * HOUR)
            or (offer == "second" and one.offer == "first" and 0 <= one.send_us - at_us < hours * HOUR)
            for one in held
        )
        assert fits != bad
        if fits:
            held.append(
                Reservation(at_us, at_us, "confirmed", "bonus", offer, "sms", "night", 1, "main", f"of_{offer}")
            )
    for earlier, later in pairwise(sorted(held)):
        assert later.send_us - earlier.send_us >= HOUR


SCOPES = st.sampled_from(["brand", "player"])
ANSWERS = st.lists(
    st.builds(
        lambda at, type_, offer, brand: ContactResponse(at, type_, "bonus", offer, "sms", brand, f"of_{offer}"),
        SENDS,
        st.sampled_from(["opened", "failed"]),
        st.sampled_from(OFFERS),
        st.sampled_from(["main", "other"]),
    ),
    max_size=8,
)


@SETTINGS
@given(ANSWERS, SENDS, st.integers(1, 3), st.sampled_from([1, 3]), st.sampled_from([1, 5]), SCOPES)
def test_a_group_rests_after_so_many_answers_of_a_type(
    answers: list[ContactResponse], at_us: int, most: int, days: int, rest: int, scope: str
) -> None:
    limit = {"id": "p", "type": "failed", "responses": most, "days": days, "pause_days": rest, "of": {"offer": "first"}}
    layout = house(pauses=[limit | {"scope": scope}])
    told = [one for one in answers if one.type == "failed" and one.offer == "first"]
    told = [one for one in told if one.brand == "main" or scope == "player"]
    resting = False
    for last in told:
        span = [one for one in told if last.at_us - days * DAY < one.at_us <= last.at_us]
        resting |= len(span) >= most and last.at_us <= at_us < last.at_us + rest * DAY
    held = Held(answers={f"~{at}": one for at, one in enumerate(answers)})
    assert denied(layout, held, at_us) == ({one for one in EVERYTHING if one[0] == "first"} if resting else set())
    later = NOW + 30 * DAY
    assert set(outdated(layout.catalogue, held, later, 0, ever=False)) == {
        name for name, one in held.answers.items() if one.at_us + (days + rest) * DAY < later
    }


@SETTINGS
@given(st.integers(0, 3_000), st.sampled_from(["dry", "more"]), SENDS)
def test_a_budget_denies_only_once_nothing_more_is_to_be_had(left: int, state: str, at_us: int) -> None:
    layout = house(budgets=[{"id": "b", "cost_minor": 9_000, "offer": "first", "time_zone": "America/New_York"}])
    budget = layout.catalogue.budgets[0]
    name = account(budget, at_us)
    assert name == f"b/{moment(at_us).astimezone(zones.zone('America/New_York')).date()}"
    held = Held(shares={name: left}, dry=frozenset({name} if state == "dry" else ()))
    cost = layout.catalogue.offers[0].cost_minor
    wanted = {one for one in EVERYTHING if one[0] == "first"} if state == "dry" and left < cost else set()
    assert denied(layout, held, at_us) == wanted
    first, second = layout.catalogue.offers
    assert charges(layout.catalogue, first, "sms", at_us) == ((name, cost),)
    assert charges(layout.catalogue, second, "sms", at_us) == ()


def test_days_of_budgets_are_kept_until_no_contact_of_theirs_can_be_told_to_have_failed() -> None:
    shares = {f"b/{(moment(NOW) - timedelta(days=days)).date()}": 1 for days in (0, 1, 40, 41, 200)}
    assert sorted(over(Held(shares=shares), NOW)) == ["b/2025-09-09", "b/2026-02-15"]


@SETTINGS
@given(st.sampled_from(["sms", "email"]), st.one_of(st.none(), st.just("of_first")), st.integers(0, 2**50))
def test_an_answer_is_read_as_it_was_written(channel: str, category: str | None, at_us: int) -> None:
    one = ContactResponse(at_us, "opened", "bonus", "first", channel, "main", category)
    assert ContactResponse.loads(one.dumps()) == one


@pytest.mark.parametrize(
    ("kind", "fields", "told"),
    [
        ("caps", {"contacts": 1}, "one of hours, calendar and lifetime"),
        ("caps", {"contacts": 1, "hours": 1, "lifetime": True}, "one of hours, calendar and lifetime"),
        ("caps", {"contacts": 1, "hours": 1, "keep": 2, "keep_for": 5}, "keep is at most contacts"),
        ("caps", {"contacts": 1, "hours": 1, "keep": 1}, "keep is at most contacts"),
        ("caps", {"contacts": 1, "hours": 1, "category": "nothing"}, "'nothing' is no category"),
        ("gaps", {"hours": 1, "after": {"offer": "nothing"}}, "'nothing' is no offer"),
        ("pauses", {"type": "ignored", "responses": 1, "days": 1, "pause_days": 1}, "Input should be"),
        ("budgets", {"cost_minor": 1, "time_zone": "Mars/Olympus"}, "no IANA time zone"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(kind: str, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        house(**{kind: [{"id": "x", **fields}]})


def test_the_limits_that_the_page_of_extensions_shows_are_valid() -> None:
    shown = EXTEND.read_text("utf8").partition("```yaml\ncaps:\n")[2].partition("```")[0]
    limits = yaml.safe_load("caps:\n" + shown)
    assert set(limits) == {"caps", "gaps", "pauses", "budgets"}
    Catalogue.model_validate(WHOLE.model_dump(mode="json") | limits)


def test_limits_look_back_as_far_as_they_say() -> None:
    assert Cap(id="x", contacts=1, calendar="week").reach_us >= 7 * DAY + HOUR
    assert Cap(id="x", contacts=1, hours=5).reach_us == 5 * HOUR
    assert Cap(id="x", contacts=1, lifetime=True).reach_us == 0
    assert Gap(id="x", hours=2).reach_us == 2 * HOUR
    assert Pause(id="x", type="opened", responses=1, days=2, pause_days=3).reach_us == 5 * DAY
    assert ContactGroup().holds("rg_intervention", "x", None, "sms") is False
    with pytest.raises(TypeError):
        assert Cap(id="x", contacts=1, calendar="day").window_us
