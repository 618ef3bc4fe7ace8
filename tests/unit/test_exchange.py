"""Exchange of currencies: rates by day, rounding, what is refused, and the rules that name amounts."""

from datetime import UTC, date, datetime
from typing import Any

import orjson
import pytest
from pydantic import ValidationError
from support.rule_cases import BOOK, HOUSE

from features.events import EVENT, row
from features.exchange import Exchange
from features.words import Door
from models.catalogue.candidates import CandidateSpace
from service.api.reading import parse
from service.rules.compiler import CompiledRulebook
from service.rules.rulebook import RulebookSettings

RATES: dict[str, Any] = {"SEK": 0.085, "GBP": {date(2026, 1, 1): 1.15, date(2026, 7, 1): 1.2}}
EXCHANGE = Exchange("EUR", RATES, "a-book")
DOOR = Door(exchange=EXCHANGE)


def deposit(**changes: Any) -> dict[str, Any]:
    said = {"type": "deposit", "event_id": "d", "player_id": "p", "occurred_at": "2026-06-30T23:59:59.999999Z"}
    return said | {"status": "approved", "method": "card", "amount_minor": 1_000} | changes


def read(said: dict[str, Any], door: Door = DOOR) -> dict[str, Any]:
    return row(parse(EVENT, orjson.dumps(said), door)[0])


@pytest.mark.parametrize(
    ("at", "rate"),
    [
        ("2026-06-30T23:59:59.999999Z", 1.15),
        ("2026-07-01T00:00:00Z", 1.2),
        ("2026-07-01T01:00:00+02:00", 1.15),
        ("2030-01-01T00:00:00Z", 1.2),
    ],
)
def test_an_amount_has_the_rate_of_its_day_in_utc(at: str, rate: float) -> None:
    found = read(deposit(occurred_at=at, currency="GBP"))
    assert (found["amount_minor"], found["rate"]) == (round(1_000 * rate), rate)
    assert (found["currency"], found["said_minor"], found["rate_source"]) == ("GBP", 1_000, "a-book")


@pytest.mark.parametrize(("said", "house"), [(100, 8), (300, 26), (500, 42), (700, 60), (0, 0), (10**12, 85 * 10**9)])
def test_halves_are_rounded_to_even_and_nothing_else_is_lost(said: int, house: int) -> None:
    assert read(deposit(amount_minor=said, currency="SEK"))["amount_minor"] == house


def test_the_currency_of_the_house_is_the_one_that_is_not_told() -> None:
    assert read(deposit(currency="eur")) == read(deposit())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"currency": "USD"}, "USD has no rate in `exchange` of the rulebook's settings: known are EUR, GBP, SEK"),
        ({"currency": "GBP", "occurred_at": "2025-12-31T23:00:00Z"}, "has it from 2026-01-01 on"),
        ({"currency": "EURO"}, "should match pattern"),
        ({"currency": ""}, "should match pattern"),
        ({"currency": 978}, "valid string"),
    ],
)
def test_a_currency_without_a_rate_is_refused_with_those_that_are_known(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match="currency") as refusal:
        read(deposit(**changes))
    assert sentence in str(refusal.value)


def test_what_restricts_contact_is_taken_in_any_currency_without_its_amount() -> None:
    said = deposit(type="limit_set", limit="loss", change="raised", currency="XXX")
    del said["status"], said["method"]
    event, doubts = parse(EVENT, orjson.dumps(said), DOOR)
    assert (event.amount_minor, event.currency) == (None, None)
    assert "known are EUR, GBP, SEK; the amount is left out" in doubts["currency"]
    with pytest.raises(ValidationError):
        read(said | {"change": "lowered"})


def test_without_rates_an_amount_of_another_currency_is_no_amount_of_the_house() -> None:
    found = read(deposit(currency="SEK"), Door())
    assert (found["amount_minor"], found["said_minor"]) == (None, 1_000)


def settings(**changes: Any) -> RulebookSettings:
    return RulebookSettings.model_validate_json(orjson.dumps(BOOK.settings.model_dump(mode="json") | changes))


def test_rates_are_written_and_read_with_and_without_days() -> None:
    dated = settings(exchange={"SEK": 0.085, "GBP": {"2026-01-01": 1.15}})
    assert dated.exchange == {"SEK": 0.085, "GBP": {date(2026, 1, 1): 1.15}}
    assert RulebookSettings.model_validate_json(dated.model_dump_json()) == dated
    wrongs: list[dict[str, Any]] = [
        {"SEK": {}},
        {"SEK": {"soon": 1}},
        {"SEK": {"2026-01-01": 0}},
        {"sek": 1},
        {"SEK": -1},
    ]
    for wrong in wrongs:
        with pytest.raises(ValidationError):
            settings(exchange=wrong)


def test_a_rule_in_another_currency_binds_at_the_rate_of_each_day() -> None:
    plain = CompiledRulebook(BOOK, CandidateSpace(HOUSE))
    rates = {"EUR": 1.0, "DKK": {date(2026, 1, 1): 0.125, date(2026, 7, 1): 0.25}}
    book = BOOK.model_copy(update={"settings": BOOK.settings.model_copy(update={"exchange": rates})})
    dated = CompiledRulebook(book, CandidateSpace(HOUSE))
    named = {one.rule.id for one in plain.bound if getattr(one.rule, "currency", "") == "DKK"}
    assert named, "the rulebook has rules of Denmark"
    for rule in named:
        (whole,) = [one for one in plain.bound if one.rule.id == rule]
        parts = [one for one in dated.bound if one.rule.id == rule]
        assert [one.begins_us for one in parts][1:] == [one.ends_us for one in parts][:-1], "no gap, no overlap"
        assert (parts[0].begins_us, parts[-1].ends_us) == (whole.begins_us, whole.ends_us)
        turn = datetime(2026, 7, 1, tzinfo=UTC)
        assert any(one.begins_us == int(turn.timestamp()) * 1_000_000 for one in parts)
        moneys = [dated._money(one).house(8, "DKK") for one in parts]
        assert moneys == [None, 1.0, 2.0][-len(parts) :]
    assert {one.rule.id for one in dated.bound} == {one.rule.id for one in plain.bound}
