"""Digests of events: the same for the same content in any spelling, and across builds."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import create_model
from support.first_build import lines

from features.digests import digest, earlier, form_of
from features.events import EVENT, Event, Login
from features.zones import zone
from service.decisions.outcomes import _FORM, Outcome

FIRST: dict[str, Event] = {}
for line in lines("hashes/event_digests"):
    told = EVENT.validate_json(line["given"])
    FIRST.setdefault(told.type, told)
BREAK = {"event_id": "e1", "player_id": "player-1", "type": "time_out"}
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2199, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive
OFFSETS = st.integers(-48, 56).map(lambda quarters: timezone(timedelta(minutes=15 * quarters)))


def read(**fields: Any) -> Event:
    return EVENT.validate_json(json.dumps(fields))


def of(event: Any) -> bytes:
    return digest(event, form_of(event))


@pytest.mark.parametrize("type_", FIRST)
def test_a_field_added_to_an_event_enters_only_where_it_says_something(type_: str) -> None:
    event = FIRST[type_]
    grown: Any = create_model("Renamed", __base__=type(event), later=(int | None, None))
    same, other = (grown(**dict(event), **more) for more in ({}, {"later": 1}))
    assert of(same) == of(event) != of(other)


def test_a_field_added_to_an_outcome_enters_only_where_it_says_something() -> None:
    outcome = {"outcome_id": "o1", "decision_id": "017-" + "a" * 24, "type": "sent", "occurred_at": "2026-03-02T10:11Z"}
    later: Any = create_model("Renamed", __base__=Outcome, later=(int | None, None))
    before = digest(Outcome.model_validate(outcome), _FORM)
    assert digest(later.model_validate(outcome), _FORM) == before
    assert digest(later.model_validate(outcome | {"later": 1}), _FORM) != before


class Later(Login):
    type: Literal["later"]  # type: ignore[assignment]
    amount: int | None = None


def test_a_type_added_to_the_events_has_a_digest_of_all_that_it_says() -> None:
    told = {"event_id": "e1", "player_id": "p", "occurred_at": datetime(2026, 3, 2, tzinfo=UTC), "type": "later"}
    events: list[Any] = [Later.model_validate(told | more) for more in ({}, {"amount": 1}, {"event_id": "e2"})]
    assert len({of(event) for event in events}) == len(events)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(MOMENTS, MOMENTS, OFFSETS, OFFSETS)
def test_moments_in_other_offsets_have_the_same_digest(at: datetime, until: datetime, one: Any, other: Any) -> None:
    utc = read(**BREAK, occurred_at=at.isoformat(), until=until.isoformat())
    aside = read(**BREAK, occurred_at=at.astimezone(one).isoformat(), until=until.astimezone(other).isoformat())
    assert of(utc) == of(aside)
    assert of(read(**BREAK, occurred_at=at.isoformat(), until=(until + timedelta(microseconds=1)).isoformat())) != of(
        utc
    )


@settings(max_examples=50, deadline=None, derandomize=True)
@given(MOMENTS, OFFSETS, OFFSETS)
def test_what_the_first_build_remembered_in_any_offset_is_among_the_earlier_digests(
    at: datetime, then: Any, now: Any
) -> None:
    """The first build took the digest of an event as it was spelt."""
    fields = {"event_id": "e1", "player_id": "player-1", "type": "login"}
    told, again, other = (
        read(**fields, occurred_at=one.isoformat())
        for one in (at.astimezone(then), at.astimezone(now), at + timedelta(seconds=1))
    )
    remembered = next(earlier(told, form_of(told)))
    assert remembered in set(earlier(again, form_of(again)))
    assert remembered not in set(earlier(other, form_of(other)))


@pytest.mark.parametrize("place", ["Europe/Stockholm", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kathmandu"])
def test_moments_of_an_imported_file_stand_in_its_zone_and_have_the_digest_of_utc(place: str) -> None:
    at = datetime(2026, 7, 2, 10, 11, 12, 500, tzinfo=zone(place))
    until = datetime(2027, 1, 2, tzinfo=zone(place))
    mapped = EVENT.validate_python({**BREAK, "occurred_at": at, "until": until})
    assert of(mapped) == of(read(**BREAK, occurred_at=at.astimezone(UTC).isoformat(), until=until.isoformat()))
