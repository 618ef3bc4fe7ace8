"""Events with unknown words or impossible values: restrictions in the strictest reading, the rest unknown."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from features.events import EVENT, Event, micros
from features.words import ClosedList, Door
from service.api import reading
from service.decisions.outcomes import Outcome
from service.errors import BeforeTradingError
from service.players import facts
from service.players.facts import Assertion, Facts
from service.rules import inputs

AT = "2026-05-01T10:00:00Z"
TODAY = date(2026, 5, 1)
NOW_US = micros(datetime(2026, 5, 1, 12, tzinfo=UTC))
DOOR = Door(
    brands=ClosedList("brand", ("main", "north")),
    registers=ClosedList("register", ("spelpaus", "rofus")),
    tags=ClosedList("tag", facts.TAGS),
    trading_since=date(2024, 3, 1),
)
STRANGE = ["sea food", "Großes Wort", "x" * 80, "\u0000", "", 7, None, ["email"], {"a": 1}]


def parsed(**said: Any) -> tuple[Any, dict[str, str]]:
    told, doubts = reading.parse(
        EVENT, json.dumps({"event_id": "e", "player_id": "p", "occurred_at": AT, **said}), DOOR
    )
    return told, dict(doubts)


def held(*said: Any, others: list[Assertion] | None = None) -> dict[bytes, bytes]:
    """The store's hash of registers after some events, each as it is read at the door."""
    found: dict[str, Assertion] = {one.field: one for one in others or []}
    for one in said:
        told, doubts = parsed(**one)
        for each in [*facts.assertions(told), *reading.beside(told, doubts, DOOR)]:
            if each.field not in found or each[1:] > found[each.field][1:]:
                found[each.field] = each
    return {one.field.encode(): f"{one.moment_us} {one.rank} {one.text}".encode() for one in found.values()}


def known(brand: str, *said: Any, others: list[Assertion] | None = None) -> Facts:
    return facts.read(held(*said, others=others), brand)


def granted(brand: str, channel: str, product: str | None = None) -> dict[str, Any]:
    at = "2026-04-01T10:00:00Z"
    said = {"type": "consent_changed", "channel": channel, "granted": True, "occurred_at": at, "brand": brand}
    return said | ({"product": product} if product else {})


RESTRICTING: list[tuple[dict[str, Any], str]] = [
    ({"type": "self_excluded"}, "scope"),
    ({"type": "self_excluded", "scope": "brand"}, "brand"),
    ({"type": "time_out", "until": "2027-01-01T00:00:00Z"}, "brand"),
    ({"type": "closure_requested"}, "brand"),
    ({"type": "account_closed"}, "brand"),
    ({"type": "objection_changed", "objects": True}, "brand"),
    *(
        ({"type": "consent_changed", "channel": "email", "granted": False}, name)
        for name in ("brand", "channel", "product", "basis", "origin")
    ),
    ({"type": "register_checked", "register_name": "rofus", "listed": True}, "register_name"),
    ({"type": "register_checked", "register_name": "rofus", "listed": True}, "brand"),
    *(({"type": "harm_scored", "source": "model-x", "level": "strong"}, name) for name in ("level", "source", "brand")),
    ({"type": "harm_reviewed", "level": "moderate"}, "level"),
    *(({"type": "limit_set", "limit": "loss", "change": "raised"}, name) for name in ("limit", "change", "brand")),
    ({"type": "limit_set", "limit": "loss", "change": "raised"}, "amount_minor"),
    ({"type": "limit_set", "limit": "loss", "change": "raised", "amount_minor": 5}, "currency"),
    *(({"type": "vip_changed", "vip": True}, name) for name in ("brand", "checked")),
    *(({"type": "support_contact", "tags": ["harm"]}, name) for name in ("brand", "by", "solved")),
    ({"type": "identify", "anonymous_id": "cookie"}, "brand"),
    ({"type": "alias", "previous_id": "old"}, "brand"),
    ({"type": "household_changed", "household_id": "h"}, "brand"),
    *(({"type": "kyc_verified", "birth_date": "2011-02-03"}, name) for name in ("brand",)),
    *(
        ({"type": "registered", "birth_date": "2011-02-03"}, name)
        for name in ("brand", "jurisdiction", "licence", "time_zone")
    ),
]


@pytest.mark.parametrize("strange", STRANGE, ids=repr)
@pytest.mark.parametrize(("said", "field"), RESTRICTING, ids=lambda one: one if isinstance(one, str) else one["type"])
def test_what_restricts_is_never_refused_for_a_word_that_nobody_knows(
    said: dict[str, Any], field: str, strange: object
) -> None:
    told, doubts = parsed(**said | {field: strange})
    assert facts.restricts(told)
    spelt = strange.replace(" ", "-") if isinstance(strange, str) else strange
    assert getattr(told, field) in (strange, spelt) or field in doubts


@given(words=st.dictionaries(st.sampled_from(["brand", "channel", "product", "basis", "origin"]), st.text(max_size=40)))
def test_several_unknown_words_of_a_withdrawal_leave_it_a_withdrawal(words: dict[str, str]) -> None:
    told, doubts = parsed(**{"type": "consent_changed", "channel": "sms", "granted": False} | words)
    every = [*facts.assertions(told), *reading.beside(told, doubts, DOOR)]
    assert not told.granted
    assert all(one.text.startswith("withdrawn") or one.field.startswith("unsubscribed") for one in every)


def test_a_warning_names_the_known_words_the_nearest_and_what_holds() -> None:
    _, doubts = parsed(type="self_excluded", scope="brand", brand="nort")
    assert doubts == {
        "brand": "brand: 'nort' is no brand: did you mean north? known are main, north; it holds for every brand"
    }


@pytest.mark.parametrize("strange", STRANGE, ids=repr)
def test_a_complaint_of_which_nobody_knows_whether_it_is_solved_stays_open(strange: object) -> None:
    told, _ = parsed(type="support_contact", tags=["complaint"], solved=strange)
    assert Assertion("complaint", micros(told.occurred_at), 1, "open") in facts.assertions(told)


@pytest.mark.parametrize("strange", [7, "not-ours", "", ["x"]], ids=repr)
def test_a_withdrawal_of_a_player_holds_whatever_stands_in_place_of_a_decision(strange: object) -> None:
    outcome: TypeAdapter[Any] = TypeAdapter(Outcome)
    said = {"outcome_id": "o", "type": "unsubscribed", "decision_id": strange, "occurred_at": AT}
    told, doubts = reading.parse(outcome, json.dumps(said | {"player_id": "p", "channel": "sms"}), DOOR)
    assert (told.player_id, told.channel, told.decision_id) == ("p", "sms", None)
    assert doubts["decision_id"].endswith("it is left out")
    with pytest.raises(ValidationError):
        reading.parse(outcome, json.dumps(said), DOOR)


@pytest.mark.parametrize("strange", STRANGE, ids=repr)
def test_doubts_are_told_in_plain_words(strange: object) -> None:
    for said, field in RESTRICTING:
        for doubt in parsed(**said | {field: strange})[1].values():
            assert not [word for word in ("Input", "should", "Value error") if word in doubt]


def test_an_exclusion_of_an_unknown_brand_or_scope_holds_for_the_whole_house() -> None:
    for said in ({"scope": "brand", "brand": "nort"}, {"scope": "site"}, {"scope": "site", "brand": "nort"}):
        for brand in ("main", "north", "opened-later"):
            assert known(brand, {"type": "self_excluded"} | said).excluded_us is not None


def test_a_break_from_an_unknown_brand_holds_for_every_brand() -> None:
    for brand in ("main", "north", "nort", "opened-later"):
        found = known(brand, {"type": "time_out", "until": "2027-01-01T00:00:00Z", "brand": "nort"})
        assert found.time_out_until_us == micros(datetime(2027, 1, 1, tzinfo=UTC))
    longest = [
        {"type": "time_out", "until": f"202{year}-01-01T00:00:00Z", "brand": brand}
        for year, brand in ((8, "main"), (7, "nort"))
    ]
    assert known("main", *longest).time_out_until_us == micros(datetime(2028, 1, 1, tzinfo=UTC))


def test_a_withdrawal_of_an_unknown_brand_ends_consent_to_every_brand_and_a_later_grant_holds() -> None:
    before = [granted(brand, "email", product) for brand in ("main", "north") for product in (None, "casino")]
    told = {"type": "consent_changed", "granted": False, "channel": "email", "brand": "nort", "product": "casino"}
    for brand in ("main", "north"):
        found = known(brand, *before, granted(brand, "sms"), told).consent
        assert not found["email", "*"].granted
        assert not found["email", "casino"].granted
        assert found["sms", "*"].granted
        again = granted(brand, "email") | {"occurred_at": "2026-05-02T10:00:00Z"}
        assert known(brand, *before, told, again).consent["email", "*"].granted
    # A brand that the settings name only later.
    later = [Assertion("consent:later:email", NOW_US - 10**12, 0, "granted")]
    assert not known("later", told, others=later).consent["email", "*"].granted


def test_a_withdrawal_on_an_unknown_channel_ends_consent_on_every_channel() -> None:
    channels = ("email", "sms", "push", "in_app", "call")
    before = [granted("main", channel) for channel in channels]
    found = known("main", *before, {"type": "consent_changed", "granted": False, "channel": "whatsapp"}).consent
    assert not any(found[channel, "*"].granted for channel in channels)


def test_an_unknown_level_counts_as_strong() -> None:
    for type_ in ("harm_scored", "harm_reviewed"):
        told, _ = parsed(type=type_, level="alarming", **({"source": "x"} if type_ == "harm_scored" else {}))
        assert told.level == "strong"


def test_a_listing_in_a_register_that_nobody_knows_denies_everywhere_until_the_player_comes_back() -> None:
    listed = {"type": "register_checked", "register_name": "spel_paus", "listed": True}
    back = {"type": "exclusion_ended", "occurred_at": "2026-05-01T11:00:00Z"}
    for said, excluded in (([listed], True), ([listed, back], False), ([back, listed], False), ([], False)):
        found = inputs.Inputs(now_us=NOW_US)
        facts_held = known("main", {"type": "registered"}, *said)
        inputs._state(found, facts_held)
        inputs._registers(found, facts_held, {"rofus": 10**12, "spelpaus": 10**12})
        assert found.listed["own"] is excluded, said


@pytest.mark.parametrize(
    "said",
    [
        {"type": "support_contact", "tags": ["harn"]},
        {"type": "support_contact", "tags": ["harn", "complant"]},
        {"type": "register_checked", "register_name": "spel_paus", "listed": False},
        {"type": "exclusion_ended", "scope": "site"},
        {"type": "exclusion_ended", "brand": "nort"},
        {"type": "consent_changed", "channel": "post", "granted": True},
        {"type": "objection_changed", "objects": False, "brand": "nort"},
        {"type": "registered", "jurisdiction": "UK"},
        {"type": "registered", "jurisdiction": "UK", "birth_date": "1980-01-01"},
        {"type": "bet", "amount_minor": 5, "product": "slots"},
        {"type": "self_excluded", "event_id": ""},
        {"type": "self_excluded", **{f"more_{number}": 1 for number in range(21)}},
        {"type": "exclusion_ended", "until": "2027-01-01T00:00:00Z"},
        {"type": "consent_changed", "chanel": "email", "granted": False},
        {"type": "bet", "amount_minor": 5, "product": "casino", "game": "roulette"},
        {"type": "consent_changed", "granted": False},
    ],
    ids=json.dumps,
)
def test_what_does_not_restrict_or_is_no_event_at_all_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parsed(**said)


@pytest.mark.parametrize("more", [{"until": "2027-01-01T00:00:00Z"}, {"reason": "by letter", "note": {"a": [1]}}])
def test_a_field_that_nobody_knows_keeps_out_nothing_that_restricts(more: dict[str, Any]) -> None:
    told, doubts = parsed(type="self_excluded", brand="main", **more)
    assert told == parsed(type="self_excluded", brand="main")[0]
    assert doubts.keys() == more.keys()
    assert all("it is left out" in sentence for sentence in doubts.values())
    assert not reading.beside(told, doubts, DOOR)


def test_an_unknown_tag_beside_one_that_restricts_is_left_out() -> None:
    told, doubts = parsed(type="support_contact", tags=["vip desk", "HARM"])
    assert [one.field for one in facts.assertions(told)] == ["support", "harm:signal"]
    assert "'vip desk' is no tag" in doubts["tags"]


@pytest.mark.parametrize("tag", ["harm", "Harm", " HARM ", "hArM"])
def test_a_mention_of_harm_is_one_in_any_spelling(tag: str) -> None:
    told, doubts = parsed(type="support_contact", tags=[tag])
    assert not doubts
    assert facts.restricts(told)
    assert Assertion("harm:signal", micros(told.occurred_at), 0, "strong") in facts.assertions(told)


def test_who_unsubscribes_on_a_channel_that_nobody_knows_is_left_alone_on_all() -> None:
    outcome: TypeAdapter[Any] = TypeAdapter(Outcome)
    said = {"outcome_id": "o", "type": "unsubscribed", "player_id": "p", "occurred_at": AT}
    told, doubts = reading.parse(outcome, json.dumps(said | {"channel": "fax", "brand": "nort"}), DOOR)
    ended = {one.field for one in reading.beside(told, doubts, DOOR)}
    assert ended == {
        f"{what}:{brand}:{channel}"
        for what in ("consent", "unsubscribed")
        for brand in ("main", "north", "*")
        for channel in ("email", "sms", "push", "in_app", "call")
    }
    with pytest.raises(ValidationError):
        reading.parse(outcome, json.dumps(said | {"type": "clicked", "channel": "fax"}), DOOR)


# What is no text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b'"\\ud83d"', "\0"),  # the half of an emoji that a program left when it cut a text
        (b'"\\uDE00x"', "\0x"),
        (b'"\\ud83d\\ud83d\\ude00"', "\0\U0001f600"),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (rb'"\\ud83d"', "\\ud83d"),
        (rb'"\\\ud83d"', "\\\0"),
        (b'"\xdcberweisung"', "\0berweisung"),
        ('"Überweisung"'.encode(), "Überweisung"),
        (b'"\xed\xa0\xbd"', "\0"),
    ],
)
def test_what_is_no_text_is_made_legible_and_all_else_stays(sent: bytes, read: str) -> None:
    assert json.loads(reading.legible(sent)) == read


@given(st.recursive(st.none() | st.integers() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)))
def test_what_is_json_stays_as_it_is(said: Any) -> None:
    for ascii_only in (True, False):
        content = json.dumps(said, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        assert reading.legible(content) == content


# What cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "born", ["0001-01-01", "1753-01-01", "1899-12-30", "1900-01-01", "1905-12-31", "2026-05-03", "9999-12-31"]
)
@pytest.mark.parametrize("type_", ["registered", "kyc_verified"])
def test_a_birth_date_of_nobody_who_lives_changes_nothing_and_is_warned_of(type_: str, born: str) -> None:
    said = {"type": type_, "birth_date": born}
    told, _ = parsed(**said)
    (doubt,) = reading.doubtful(told, TODAY)
    assert doubt.startswith("birth_date: nobody who lives was born then")
    assert born not in doubt  # imports log what they doubt
    assert known("main", said).birth_date is None
    for before in ("2011-02-03", "1980-01-01"):
        earlier = {"type": type_, "birth_date": before, "occurred_at": "2026-01-01T00:00:00Z"}
        assert known("main", earlier, said).birth_date == date.fromisoformat(before)


@given(st.dates(date(1907, 1, 1), TODAY))
def test_a_birth_date_of_somebody_who_may_live_is_taken(born: date) -> None:
    said = {"type": "kyc_verified", "birth_date": born.isoformat()}
    assert known("main", said).birth_date == born
    warned = list(reading.doubtful(parsed(**said)[0], TODAY))
    assert bool(warned) == (born == date(1970, 1, 1))


@pytest.mark.parametrize("field", ["verified_birth_date", "birth_date"])
@pytest.mark.parametrize("born", [date(1, 1, 1), date(1900, 1, 1), date(2080, 1, 1)])
def test_what_an_earlier_build_stored_of_a_birth_that_cannot_be_is_no_age(field: str, born: date) -> None:
    at = born.toordinal() if field == "birth_date" else NOW_US - 1
    stored = [Assertion(field, at, 0, born.isoformat()), Assertion("kyc", NOW_US - 1, 0, "verified")]
    assert inputs.age_of(known("main", others=stored), NOW_US) is None
    if field == "verified_birth_date":
        stated = Assertion("birth_date", date(1980, 1, 1).toordinal(), 0, "1980-01-01")
        assert inputs.age_of(known("main", others=[*stored, stated]), NOW_US) is None


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "GMT+25", "Mars", "+01:00", "", "../UTC"])
def test_a_zone_that_is_none_leaves_the_known_one_and_is_warned_of(zone: str) -> None:
    earlier = {"type": "registered", "time_zone": "Europe/Malta", "occurred_at": "2026-01-01T00:00:00Z"}
    said = {"type": "registered", "time_zone": zone}
    assert known("main", earlier, said).time_zone == "Europe/Malta"
    assert known("main", said).time_zone is None
    assert len(list(reading.doubtful(parsed(**said)[0], TODAY))) == 1


MONEY: list[dict[str, Any]] = [
    {"type": "deposit", "status": "approved", "method": "card", "amount_minor": 1},
    *({"type": what, "amount_minor": 1, "product": "casino"} for what in ("bet", "win")),
    *({"type": f"withdrawal_{what}", "amount_minor": 1} for what in ("requested", "paid", "cancelled")),
    *({"type": f"session_{what}"} for what in ("started", "ended")),
]


@pytest.mark.parametrize("said", MONEY, ids=lambda one: str(one["type"]))
def test_money_and_play_before_the_house_traded_are_refused(said: dict[str, Any]) -> None:
    first = datetime(2024, 3, 1, tzinfo=UTC)

    def told(at: datetime) -> Event:
        event: Event = parsed(**said | {"occurred_at": at.isoformat()})[0]
        return event

    reading.check(told(first), DOOR)
    with pytest.raises(BeforeTradingError, match="trades since 2024-03-01"):
        reading.check(told(first - timedelta(microseconds=1)), DOOR)
    reading.check(told(first - timedelta(days=900)), DOOR._replace(trading_since=None))


def test_other_events_are_older_than_the_house() -> None:
    for said in ({"type": "registered"}, {"type": "self_excluded"}, {"type": "login"}):
        reading.check(parsed(**said | {"occurred_at": "2001-01-01T00:00:00Z"})[0], DOOR)
