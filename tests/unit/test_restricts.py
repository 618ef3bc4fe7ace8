"""Which events restrict contact, by what they assert."""

from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from features.events import EVENT, Event
from service.players import facts
from service.players.facts import Assertion, changes, from_now, restricts

RESTRICTING: list[dict[str, Any]] = [
    {"type": "self_excluded", "scope": "brand"},
    {"type": "self_excluded", "scope": "all"},
    {"type": "time_out", "until": "2026-12-01T00:00:00Z"},
    {"type": "closure_requested"},
    {"type": "account_closed"},
    {"type": "consent_changed", "channel": "sms", "granted": False},
    {"type": "consent_changed", "channel": "call", "granted": False, "product": "sports"},
    {"type": "objection_changed", "objects": True},
    {"type": "register_checked", "register_name": "rofus", "listed": True},
    {"type": "harm_scored", "source": "model-x", "level": "low"},
    {"type": "harm_scored", "source": "model-x", "level": "strong"},
    {"type": "harm_reviewed", "level": "moderate"},
    {"type": "support_contact", "tags": ["late_payment", "complaint"]},
    {"type": "support_contact", "tags": ["harm"]},
    {"type": "limit_set", "limit": "loss", "change": "raised"},
    {"type": "limit_set", "limit": "time", "change": "removed"},
    {"type": "vip_changed", "vip": True},
    {"type": "registered", "birth_date": "2012-02-29"},
    {"type": "kyc_verified", "birth_date": "2010-01-31"},
    {"type": "identify", "anonymous_id": "cookie-9"},
    {"type": "alias", "previous_id": "old-9"},
    {"type": "household_changed", "household_id": "home-9"},
]
ALLOWING: list[dict[str, Any]] = [
    {"type": "exclusion_ended"},
    {"type": "consent_changed", "channel": "sms", "granted": True},
    {"type": "objection_changed", "objects": False},
    {"type": "register_checked", "register_name": "rofus", "listed": False},
    {"type": "harm_scored", "source": "model-x", "level": "none"},
    {"type": "harm_reviewed", "level": "none"},
    {"type": "support_contact", "tags": ["resolved"]},
    {"type": "support_contact"},
    {"type": "limit_set", "limit": "loss", "change": "lowered"},
    {"type": "vip_changed", "vip": False},
    {"type": "registered", "reopened": True},
    {"type": "registered", "birth_date": "1971-02-28", "jurisdiction": "MT"},
    {"type": "kyc_verified"},
    {"type": "household_changed", "household_id": None},
    {"type": "address_changed", "kind": "mail", "address": "anna@player.example"},
    {"type": "login"},
    {"type": "login", "result": "failed", "location": "GB"},
    {"type": "kyc_requested", "asked": ["funds"]},
    {"type": "limit_reached", "limit": "loss"},
    {"type": "satisfaction_rated", "score": 1, "scale": "1-5"},
    {"type": "chargeback", "amount_minor": 1},
    {"type": "bet_cancelled", "bet_id": "b", "amount_minor": 1, "product": "casino"},
    {"type": "bet_settled", "bet_id": "b", "amount_minor": 1, "product": "casino"},
    {"type": "session_started"},
    {"type": "session_ended"},
    {"type": "deposit", "status": "approved", "method": "card", "amount_minor": 1},
    {"type": "bet", "amount_minor": 1, "product": "casino"},
    {"type": "win", "amount_minor": 1, "product": "casino"},
    {"type": "bonus_granted", "amount_minor": 1},
    {"type": "withdrawal_requested", "amount_minor": 1},
    {"type": "withdrawal_paid", "amount_minor": 1},
    {"type": "withdrawal_cancelled", "amount_minor": 1},
]
AT = {"event_id": "e1", "player_id": "p1", "occurred_at": "2026-11-20T10:00:00Z"}
NOW_US = 1_800_000_000_000_000


def event(said: dict[str, Any], **changed: str) -> Event:
    return EVENT.validate_python(AT | said | changed, strict=False)


def test_every_type_of_event_stands_in_these_tables() -> None:
    known = {get_args(model.model_fields["type"].annotation)[0] for model in get_args(Event)}
    assert {said["type"] for said in RESTRICTING + ALLOWING} == known


@pytest.mark.parametrize("said", RESTRICTING)
def test_what_leaves_less_allowed_restricts(said: dict[str, Any]) -> None:
    assert restricts(event(said))


@pytest.mark.parametrize("said", ALLOWING)
def test_what_allows_more_or_is_play_does_not(said: dict[str, Any]) -> None:
    assert not restricts(event(said))


@pytest.mark.parametrize("said", RESTRICTING)
@pytest.mark.parametrize(("when", "held"), [("0001-01-01T00:00:00+14:00", 1970), ("9999-12-31T23:59:59-14:00", 2200)])
def test_what_restricts_is_read_from_any_moment(said: dict[str, Any], when: str, held: int) -> None:
    if said["type"] not in {"registered", "kyc_verified"}:
        assert event(said, occurred_at=when).occurred_at.astimezone(UTC).year == held


def raw(*told: Assertion) -> dict[bytes, bytes]:
    return {one.field.encode(): f"{one.moment_us} {one.rank} {one.text}".encode() for one in told} | {b"v": b"3"}


def test_what_a_clock_far_ahead_told_is_later_than_all_that_is_held() -> None:
    said = event({"type": "consent_changed", "channel": "sms", "granted": False})
    told = facts.assertions(said)
    granted = facts.consent("main", "sms", NOW_US + 4_000_000, granted=True)
    held = from_now(told, raw(granted), NOW_US)
    assert [one.moment_us for one in held] == [NOW_US + 4_000_001, NOW_US]
    assert changes(held, raw(granted))
    assert not changes([granted], raw(*held))


def test_a_break_ends_when_it_was_told_to_whatever_the_clock() -> None:
    said = event({"type": "time_out", "until": "2026-12-01T00:00:00Z"})
    until_us = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1e6)
    assert [one.moment_us for one in from_now(facts.assertions(said), raw(), NOW_US)] == [until_us]


def test_what_is_held_already_changes_nothing() -> None:
    told = facts.assertions(event({"type": "self_excluded"}))
    assert changes(told, {})
    assert not changes(told, raw(*told))
    assert not changes(told, raw(*(one._replace(moment_us=one.moment_us + 1, rank=0, text="ended") for one in told)))
    assert changes(told, raw(*(one._replace(moment_us=one.moment_us, rank=0, text="ended") for one in told)))


def later_than_held(said: dict[str, Any], *held: Assertion) -> dict[str, str]:
    """Facts by register after an event that a clock far ahead told."""
    stands = {one.field: one for one in held}
    told = from_now(facts.assertions(event(said)), raw(*held), NOW_US)
    stands |= {one.field: one for one in told if changes([one], raw(*held))}
    return {name: one.text for name, one in stands.items()}


def test_a_review_by_a_clock_far_ahead_voids_no_sign_and_no_graver_review() -> None:
    sign = Assertion("harm:signal", NOW_US - 1, 0, "strong")
    graver = Assertion("harm:review", NOW_US - 1, 3, "strong")
    stands = later_than_held({"type": "harm_reviewed", "level": "low"}, sign, graver)
    assert stands == {"harm:signal": "strong", "harm:review": "strong", "harm:by:review:low": "low"}
    read = facts.read(
        raw(*from_now(facts.assertions(event({"type": "harm_reviewed", "level": "moderate"})), {}, 7)), "m"
    )
    assert {told.text for told in read.harm.values()} == {"moderate"}


def test_what_a_clock_far_ahead_allows_beside_a_restriction_undoes_nothing_that_is_held() -> None:
    young = {"type": "registered", "birth_date": "2012-02-29", "reopened": True, "jurisdiction": "MT"}
    closed = Assertion("account", NOW_US - 1, 2, "closed")
    stands = later_than_held(young, closed, Assertion("jurisdiction", NOW_US - 1, 0, "GB"))
    assert (stands["account"], stands["jurisdiction"], stands["birth_date"]) == ("closed", "GB", "2012-02-29")
    both = {"type": "support_contact", "tags": ["harm", "resolved"]}
    stands = later_than_held(both, Assertion("complaint", NOW_US - 1, 1, "open"), Assertion("support", 1, 0, ""))
    assert (stands["complaint"], stands["harm:signal"]) == ("open", "strong")


def test_what_a_clock_far_ahead_allows_beside_a_restriction_fills_gaps() -> None:
    young = {"type": "registered", "birth_date": "2012-02-29", "jurisdiction": "MT"}
    assert later_than_held(young)["jurisdiction"] == "MT"
