"""Events: accepted and refused fields, times, and stored rows."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.event_fields import MINIMAL, OPTIONAL

from features.events import (
    EVENT,
    PERSONAL,
    REMEMBERED,
    SKEW,
    Event,
    TimeOut,
    is_id,
    micros,
    moment,
    personal,
    row,
    timeliness,
)
from features.schema import CHANNELS, PRODUCTS

SETTINGS = settings(max_examples=200, deadline=None, derandomize=True)
NOW = datetime(2026, 11, 20, 10, 30, 15, 123_456, tzinfo=UTC)
US = timedelta(microseconds=1)
TYPES = sorted(MINIMAL)


def body(kind: str, **changes: Any) -> dict[str, Any]:
    said = {"type": kind, "event_id": "e-77", "player_id": "player-4711", "occurred_at": NOW.isoformat()}
    return said | MINIMAL[kind] | changes


def whole(kind: str) -> dict[str, Any]:
    return body(kind, brand="other-brand", **OPTIONAL.get(kind, {}))


def read(said: dict[str, Any]) -> Event:
    return EVENT.validate_json(orjson.dumps(said))


def refused(said: dict[str, Any]) -> str:
    """The field that an event is refused for."""
    with pytest.raises(ValidationError) as refusal:
        read(said)
    return ".".join(str(part) for part in refusal.value.errors()[0]["loc"])


def test_the_tables_of_these_tests_name_every_type() -> None:
    known = {get_args(model.model_fields["type"].annotation)[0] for model in get_args(Event)}
    assert set(MINIMAL) == known
    for model in get_args(Event):
        kind = get_args(model.model_fields["type"].annotation)[0]
        fields = {name for name in model.model_fields if name not in {"type", "event_id", "player_id", "occurred_at"}}
        assert fields == {"brand", *MINIMAL[kind], *OPTIONAL.get(kind, {})}


@pytest.mark.parametrize("kind", TYPES)
def test_a_minimal_body_is_enough_and_nothing_of_it_can_be_left_out(kind: str) -> None:
    said = body(kind)
    event = read(said)
    assert (event.type, event.brand, event.occurred_at) == (kind, "main", NOW)
    for name in said:
        refused({key: value for key, value in said.items() if key != name})


@pytest.mark.parametrize("kind", TYPES)
def test_every_declared_field_is_taken(kind: str) -> None:
    event = read(whole(kind))
    assert event.brand == "other-brand"
    for name in OPTIONAL.get(kind, {}):
        assert getattr(event, name) is not None


@pytest.mark.parametrize("kind", TYPES)
def test_unknown_fields_are_refused(kind: str) -> None:
    assert refused(body(kind, colour="red")).endswith("colour")


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("when", ["2026-11-20T10:30:15", "2026-11-20", 1_763_634_615, None, "yesterday", ""])
def test_times_without_a_zone_are_refused(kind: str, when: object) -> None:
    assert refused(body(kind, occurred_at=when)).endswith("occurred_at")


def test_a_break_ends_at_an_aware_moment() -> None:
    assert refused(body("time_out", until="2026-12-01T00:00:00")).endswith("until")


@pytest.mark.parametrize(
    "until", ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"]
)
def test_a_break_for_ever_ends_within_what_calendars_count(until: str) -> None:
    told = read(body("time_out", until=until))
    assert isinstance(told, TimeOut)
    assert 1970 <= told.until.year <= 2200
    assert moment(micros(told.until)) == told.until


def test_unknown_types_are_refused() -> None:
    for kind in ("purchase", "Login", "", None, 7):
        refused({"type": kind, "event_id": "e", "player_id": "p", "occurred_at": NOW.isoformat()})


BAD_IDS = ["", " ", "a b", " a", "a ", "a{b", "}", "x" * 65, "é", "a\tb", "a\n", "\x7f", "日本", "a\u200b", None, 7]


@pytest.mark.parametrize("bad", BAD_IDS)
@pytest.mark.parametrize("field", ["event_id", "player_id"])
def test_bad_ids_are_refused(field: str, bad: object) -> None:
    assert refused(body("login", **{field: bad})).endswith(field)


@pytest.mark.parametrize("good", ["a", "x" * 64, "a.b-c_d:e/f", "|~!\"#$%&'()*+,;<=>?@[\\]^`"])
def test_printable_ids_are_taken(good: str) -> None:
    assert read(body("login", event_id=good, player_id=good)).player_id == good
    assert is_id(good)


@SETTINGS
@given(st.text(max_size=70) | st.text(st.characters(min_codepoint=32, max_codepoint=127), max_size=70))
def test_an_id_is_one_to_sixty_four_printable_ascii_characters_without_braces(text: str) -> None:
    lawful = 1 <= len(text) <= 64 and all("!" <= sign <= "~" and sign not in "{}" for sign in text)
    assert is_id(text) == lawful
    try:
        read(body("login", event_id=text))
        taken = True
    except ValidationError:
        taken = False
    assert taken == lawful


WRONG: list[tuple[str, str, object]] = [
    *(("registered", "jurisdiction", bad) for bad in ("MLT", "CA-", "CA-ONTO", "C", "M1", 1)),
    *(("registered", "time_zone", bad) for bad in ("x" * 65, "a\x00b", "a\nb", 3_600)),
    *(("registered", "birth_date", bad) for bad in ("1981-02-29", "17.05.1981", "", 0, "1981-07-13T00:00:00Z")),
    ("kyc_verified", "birth_date", "1900-02-29"),
    *(("deposit", "status", bad) for bad in ("pending", "", None)),
    *(("deposit", "target", bad) for bad in ("purse", None)),
    *(("deposit", "method", bad) for bad in ("", "x" * 201, "a\nb", "a\u202eb", "a\u2028b", "a\x9bb", None)),
    *(("deposit", "amount_minor", bad) for bad in (-1, 10**12 + 1, 1.5, "500", True, None)),
    *(("bet", "product", bad) for bad in ("slots", None)),
    ("bet", "amount_minor", -1),
    ("win", "product", "roulette"),
    *((f"withdrawal_{what}", "amount_minor", -1) for what in ("requested", "paid", "cancelled")),
    *((f"withdrawal_{what}", "method", "") for what in ("requested", "paid", "cancelled")),
    *(("support_contact", "tags", bad) for bad in (["a"] * 17, [""], ["a\nb"], "harm", None)),
    *(("consent_changed", "channel", bad) for bad in ("post", None)),
    *(("consent_changed", "granted", bad) for bad in ("true", 1, None)),
    *(("limit_set", "limit", bad) for bad in ("money", None)),
    *(("limit_set", "change", bad) for bad in ("doubled", None)),
    ("limit_set", "amount_minor", -5),
    *(("registered", "licence", bad) for bad in ("MLT", "MT-", 1)),
    *((kind, "location", bad) for kind in ("login", "session_started") for bad in ("MLT", "US-NEWJ", "", 1)),
    *(("consent_changed", "product", bad) for bad in ("slots", "", 7)),
    *(("consent_changed", "basis", bad) for bad in ("opt_in", "", True)),
    *(("consent_changed", "origin", bad) for bad in ("", "a{b", "x" * 65, "caf\u00e9", 7)),
    *(("register_checked", "register_name", bad) for bad in ("", "1st", "a.b", "x" * 33, None)),
    *(("register_checked", "listed", bad) for bad in ("false", 0, None)),
    *(("objection_changed", "objects", bad) for bad in ("true", 1, None)),
    *(("harm_scored", "source", bad) for bad in ("", "mindway&ai", "x" * 65, None)),
    *((f"harm_{what}", "level", bad) for what in ("scored", "reviewed") for bad in ("high", "", 3, None)),
    *(("vip_changed", name, bad) for name in ("vip", "checked") for bad in ("yes", 1, None)),
    *(("bonus_granted", "amount_minor", bad) for bad in (-1, 1.5, None)),
    ("bonus_granted", "product", "slots"),
    *((kind, "scope", bad) for kind in ("self_excluded", "exclusion_ended") for bad in ("house", "main", None)),
    *(("login", "brand", bad) for bad in ("", "x" * 33, "a:b", None)),
]


@pytest.mark.parametrize(("kind", "field", "bad"), WRONG)
def test_wrong_values_are_refused_and_the_field_is_named(kind: str, field: str, bad: object) -> None:
    assert field in refused(body(kind, **{field: bad})).split(".")


def test_every_channel_and_product_of_the_schema_is_known_to_events() -> None:
    for channel in CHANNELS:
        read(body("consent_changed", channel=channel))
    for product in PRODUCTS:
        read(body("bet", product=product))
        read(body("consent_changed", product=product))
        read(body("bonus_granted", product=product))


def test_every_level_and_basis_is_taken() -> None:
    for level in ("none", "low", "moderate", "strong"):
        read(body("harm_scored", level=level))
        read(body("harm_reviewed", level=level))
    for basis in ("express", "soft_opt_in", "implied", "enquiry"):
        read(body("consent_changed", basis=basis))


def test_what_is_not_said_is_not_assumed() -> None:
    """A VIP is not checked, a closed account not opened again, a consent rests on nothing unless that is told."""
    plain: Any = {kind: read(body(kind)) for kind in ("vip_changed", "registered", "consent_changed", "login")}
    assert plain["vip_changed"].checked is False
    assert (plain["registered"].reopened, plain["registered"].licence) == (False, None)
    assert (plain["consent_changed"].product, plain["consent_changed"].basis) == (None, None)
    assert plain["login"].location is None


def test_events_are_immutable() -> None:
    event: Any = read(body("login"))
    with pytest.raises(ValidationError, match="frozen"):
        event.player_id = "other"


@SETTINGS
@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001 - the zone is drawn beside
    st.integers(-24 * 60 + 1, 24 * 60 - 1),
)
def test_microseconds_name_a_moment_exactly_whatever_its_zone(naive: datetime, minutes: int) -> None:
    aware = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert moment(micros(aware)) == aware
    assert micros(aware + US) == micros(aware) + 1


@pytest.mark.parametrize(
    ("when", "lawful"),
    [
        ("1970-01-01T23:59:59.999999Z", False),
        ("1970-01-02T00:00:00Z", True),
        ("1970-01-02T00:30:00+01:00", False),
        ("2199-12-31T23:59:59.999999Z", True),
        ("2200-01-01T00:00:00Z", False),
        ("0001-01-01T00:00:00+14:00", False),
        ("9999-12-31T23:59:59-14:00", False),
    ],
)
def test_moments_lie_in_our_time(when: str, lawful: bool) -> None:  # noqa: FBT001 - a column of the table
    said = body("login", occurred_at=when)
    if lawful:
        assert read(said).occurred_at == datetime.fromisoformat(when)
    else:
        assert refused(said).endswith("occurred_at")


def test_a_clock_may_run_five_seconds_ahead_and_not_a_microsecond_more() -> None:
    assert timeliness(micros(NOW + SKEW), micros(NOW)) is None
    assert timeliness(micros(NOW + SKEW + US), micros(NOW)) == "ahead"


def test_ids_are_remembered_for_thirty_five_days_and_not_a_microsecond_more() -> None:
    assert timeliness(micros(NOW), micros(NOW)) is None
    assert timeliness(micros(NOW - REMEMBERED), micros(NOW)) is None
    assert timeliness(micros(NOW - REMEMBERED - US), micros(NOW)) == "old"


COLUMNS = {"event_id", "type", "occurred_at", "brand", "amount_minor", "status", "method", "target", "product"}
COLUMNS |= {"channel", "detail", "counts_at", "currency", "said_minor"}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("make", [body, whole])
def test_a_row_is_flat_and_names_neither_the_player_nor_what_is_personal(kind: str, make: Any) -> None:
    said = make(kind)
    flat = row(read(said))
    assert set(flat) <= COLUMNS
    assert flat["occurred_at"] == micros(NOW)
    assert flat["type"] == kind
    packed = msgspec.msgpack.encode(flat)
    for hidden in (said["player_id"], "1981", "birth_date"):
        assert hidden.encode() not in packed


@pytest.mark.parametrize("kind", TYPES)
def test_a_row_keeps_everything_else(kind: str) -> None:
    said = whole(kind)
    flat = row(read(said))
    kept = flat | flat.get("detail", {})
    if "currency" in said:  # without a rate there is no amount in the house's currency
        assert flat["amount_minor"] is None
        kept["amount_minor"] = flat["said_minor"]
    for name in said.keys() - PERSONAL - {"player_id", "occurred_at"}:
        wanted = tuple(said[name]) if name in {"tags", "asked"} else said[name]
        assert kept[name] == wanted


def test_what_is_absent_makes_no_column() -> None:
    assert set(row(read(body("withdrawal_paid")))) == {"event_id", "type", "occurred_at", "brand", "amount_minor"}


def test_a_changed_limit_shows_its_direction_as_status() -> None:
    for change in ("set", "lowered", "raised", "removed"):
        flat = row(read(body("limit_set", change=change)))
        assert (flat["status"], flat["detail"]) == (change, {"limit": "deposit", "change": change})


@pytest.mark.parametrize("kind", TYPES)
def test_personal_fields_are_the_birth_date_other_ids_and_addresses(kind: str) -> None:
    said = whole(kind)
    ids = {"birth_date", "anonymous_id", "previous_id", "household_id", "address", "name"}
    assert personal(read(said)) == {name: said[name] for name in ids & said.keys()}
    assert personal(read(body(kind))) == {name: text for name, text in body(kind).items() if name in PERSONAL}
