"""Rulebook files: refusals with file, line and field, what binds where and when, and the generated page."""

from datetime import date, datetime
from pathlib import Path
from shutil import copytree
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rule_cases import BOOK, HOUSE, SERVICE

from features import zones
from features.files import CatalogueError
from features.moments import micros
from models.catalogue.candidates import CandidateSpace
from models.policy.context import READINGS
from pipelines.rules.inspection import lint, rules_on, terms
from pipelines.rules.page import page
from service.rules.compiler import CompiledRulebook
from service.rules.inputs import INPUTS, age_on
from service.rules.rule import RuleBase
from service.rules.rulebook import OWN, Rulebook, load_rulebook, places
from service.rules.types import AnyRule

DOCS = SERVICE.parent / "docs"
PACK = """pack: test
title: Test
version: 1
checked_on: 2026-11-22
jurisdictions: [FI]
time_zone: UTC
rules:
  - id: T1
    type: age_band
    under: 18
    reason: the player is too young
    valid_from: 2020-01-01
    source: a law of this test
    confidence: R
"""


HOUR = 'rules.0.allow.0.to: an hour is written in quotes as "21:00"'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(copytree(SERVICE / "rulebook", tmp_path / "rulebook"))


def refusal(folder: Path, text: str) -> str:
    (folder / "packs" / "test.yaml").write_text(text, "utf8")
    with pytest.raises(CatalogueError) as refused:
        load_rulebook(folder)
    return str(refused.value)


def test_a_pack_that_is_sound_joins_the_rulebook_and_changes_its_hash(folder: Path) -> None:
    assert load_rulebook(folder).hash == BOOK.hash
    (folder / "packs" / "test.yaml").write_text(PACK, "utf8")
    book = load_rulebook(folder)
    assert book.hash != BOOK.hash
    assert [one.rule.id for one in book.bound() if one.pack.pack == "test"] == ["T1"]
    assert Rulebook.model_validate_json(book.model_dump_json(by_alias=True)).hash == book.hash


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("under: 18", "under: 17", "test.yaml:10: rules.0.under"),
        ("under: 18", "older: 18", "test.yaml:10: rules.0.older"),
        ("type: age_band", "type: age_bend", "test.yaml:8: rules.0"),
        ("confidence: R", "confidence: M", "T1: confidence M ships `off` or `strict`, never `on`"),
        ("confidence: R", "confidence: R\n    state: off", "put it in quotes"),
        ("confidence: R", 'confidence: R\n    state: "off"', "T1: a rule that is off needs a note"),
        ("2020-01-01", "2020-01-01\n    valid_to: 2020-01-01", "valid_to must lie after valid_from"),
        ("2020-01-01", "2020-01-01\n    jurisdictions: [IS]", "T1: IS is no place of this pack"),
        ("2020-01-01", "2020-01-01\n    purposes: [service]", "test.yaml:13: rules.0.purposes.0"),
        ("2020-01-01", "2020-01-01\n    override: true", "override"),
        ("time_zone: UTC", "time_zone: Mars", "test.yaml:6: time_zone"),
        ("checked_on: 2026-11-22", "checked_on: soon", "test.yaml:4: checked_on"),
        ("id: T1", "id: GB3", "two rules share the id GB3"),
        ("version: 1", "version: 1\nversion: 2", "version stands twice"),
        ("type: age_band\n    under: 18", "type: exclusion_register\n    registers: [nobody]", "T1 asks nobody"),
        ("type: age_band\n    under: 18", 'type: time_window\n    allow: [{from: "08:00", to: 21:00}]', HOUR),
        ("type: age_band\n    under: 18", 'type: time_window\n    allow: [{from: "21:00", to: "08:00"}]', "two spans"),
        ("rules:", "rules: 7", "test.yaml"),
        ("too young", "too\n\n      young", "rules.0.reason: a reason is one line"),
    ],
)
def test_a_faulty_pack_is_refused_with_file_line_and_field(folder: Path, old: str, new: str, told: str) -> None:
    assert told in refusal(folder, PACK.replace(old, new))


def test_a_rulebook_without_its_parts_is_refused(folder: Path) -> None:
    (folder / "harm.yaml").unlink()
    with pytest.raises(CatalogueError, match=r"harm\.yaml"):
        load_rulebook(folder)
    with pytest.raises(CatalogueError, match="no pack"):
        load_rulebook(folder / "packs")


def test_every_type_of_rule_is_used_by_a_pack() -> None:
    """Twenty-five types, each with a law or a house rule that needs it."""
    known = {one.model_fields["type"].annotation.__args__[0] for one in get_args(get_args(AnyRule)[0])}
    assert len(known) == 25
    assert {rule.type for pack in BOOK.packs for rule in pack.rules} == known


def test_every_rule_says_what_it_needs_by_the_names_of_inputs() -> None:
    for pack in BOOK.packs:
        for rule in pack.rules:
            assert set(rule.needs) <= {*INPUTS, *BOOK.registers, OWN}, rule.id


def test_what_was_only_remembered_or_is_doubted_is_never_plainly_on() -> None:
    for pack in BOOK.packs:
        for rule in pack.rules:
            assert rule.confidence not in {"M", "weak"} or rule.state != "on"
            assert rule.state == "on" or rule.note
            assert "unsure" not in rule.note.lower() or rule.state != "on", rule.id


# Where and when ----------------------------------------------------------------------------------------------------


def test_places_are_the_regions_their_countries_and_everywhere() -> None:
    assert places(["US-NJ", "MT"]) == {"*", "US-NJ", "US", "MT"}
    assert places([]) == {"*"}


def ids(place: str, on: date) -> set[str]:
    return {str(one["rule"]) for one in rules_on(BOOK, place, on)}


def test_rules_are_listed_by_place_and_by_day() -> None:
    before, after = ids("GB", date(2026, 1, 18)), ids("GB", date(2026, 1, 19))
    assert "GB6" not in before
    assert "GB6" in after
    assert before < after
    assert "self_excluded" in after
    assert "DK1" not in after
    assert {"H4b-FL", "H4"} <= ids("US-FL", date(2026, 1, 1))
    assert "H4b-FL" not in ids("US-NJ", date(2026, 1, 1))
    assert "ES3b" in ids("ES", date(2024, 4, 10))
    assert "ES3b" not in ids("ES", date(2024, 4, 11))


def test_a_law_begins_at_the_midnight_of_its_own_place() -> None:
    one = next(one for one in BOOK.bound() if one.rule.id == "GB5")
    assert one.begins_us == micros(datetime(2025, 5, 1, tzinfo=zones.zone("Europe/London")))


# Selection ---------------------------------------------------------------------------------------------------------


def test_a_policy_that_sees_what_a_law_forbids_is_barred_there_and_nowhere_else() -> None:
    now_us = 1_800_000_000_000_000
    barred = BOOK.barred(READINGS, now_us)
    assert {"DK", "US-MA"} <= set(barred)
    assert "churn_score" in barred["DK"]
    assert "MT" not in barred
    assert not BOOK.barred([], now_us)
    allowed = [name for name in READINGS if name not in barred["DK"] and name not in barred["US-MA"]]
    assert not BOOK.barred(allowed, now_us)
    assert "DK" not in BOOK.barred(READINGS, 0)


# For people --------------------------------------------------------------------------------------------------------


def test_the_page_of_the_rules_is_that_of_the_rulebook() -> None:
    """`croupier rules page > docs/rules.md` makes it anew."""
    assert (DOCS / "rules.md").read_text("utf8") == page(BOOK)


def test_terms_name_all_that_a_rule_asks_and_nothing_that_it_leaves_out() -> None:
    rules = {rule.id: rule for pack in BOOK.packs for rule in pack.rules}
    assert terms(rules["GB6"]) == "silences bonus; most_wagering: 10; wagering_bases: bonus"
    assert "rofus" in terms(rules["DK1"])


def test_lint_warns_of_what_a_person_should_do() -> None:
    today = date(2026, 11, 22)
    warned = [one for one in lint(BOOK, HOUSE, today) if one["grade"] != "note"]
    assert not warned, "our own rulebook is promoted as it stands"
    late = [one for one in lint(BOOK, HOUSE, date(2027, 11, 22)) if one["grade"] == "warning"]
    assert {one["where"] for one in late} >= {pack.pack for pack in BOOK.packs}
    fewer = BOOK.model_copy(update={"packs": tuple(pack for pack in BOOK.packs if pack.pack != "se")})
    assert ("SE", "error") in {(one["where"], one["grade"]) for one in lint(fewer, HOUSE, today)}
    in_two_years = lint(BOOK, HOUSE, date(2027, 11, 22))
    assert "its holidays end in 2027" in next(one["what"] for one in in_two_years if one["where"] == "H9")
    notes = {one["where"]: one["what"] for one in lint(BOOK, HOUSE, today) if one["grade"] == "note"}
    assert "ended on 2024-04-11" in notes["ES3b"]
    assert notes["DE3"].startswith("off")


def test_the_generated_function_holds_no_text_of_the_files() -> None:
    """Reasons, notes and sources are for people: conditions are made of validated values only."""
    source = CompiledRulebook(BOOK, CandidateSpace(HOUSE)).source
    for pack in BOOK.packs:
        for rule in pack.rules:
            assert rule.reason not in source
            assert rule.source not in source


def test_every_field_of_a_rule_is_told_on_the_page_or_is_its_own() -> None:
    assert set(RuleBase.model_fields) >= {"id", "reason", "source", "confidence", "state", "valid_from", "valid_to"}


# Age ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.dates(date(1900, 1, 1), date(2050, 12, 31)), st.dates(date(1900, 1, 1), date(2060, 12, 31)))
def test_age_grows_by_one_on_each_birthday_and_on_no_other_day(born: date, today: date) -> None:
    if today < born:
        return
    passed = [year for year in range(born.year + 1, today.year + 1) if _birthday(born, year) <= today]
    assert age_on(born, today) == len(passed)


def _birthday(born: date, year: int) -> date:
    leap = born.month == 2 and born.day == 29 and not (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))
    return date(year, 3, 1) if leap else born.replace(year=year)
