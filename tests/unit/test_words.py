"""Closed lists of words: one meaning in any spelling, and a refusal that suggests the nearest."""

import json
import re
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from typer.testing import CliRunner

from features import events, places, zones
from features.files import CatalogueError
from features.settings.environment import SettingError
from features.settings.mlflow_file import read_mlflow
from features.words import FILE, ClosedList, Door, fold, nearest, sentence
from models.catalogue.offers import load_catalogue
from pipelines.__main__ import app
from pipelines.imports.mapping import ImportRefused, load
from pipelines.learning.attribution import RewardTerms
from service.rules.rulebook import Rulebook, load_rulebook

SERVICE = Path(__file__).parents[2] / "service"
DOOR = Door(
    brands=ClosedList("brand", ("main", "north_shore")),
    registers=ClosedList("register", ("spelpaus", "rofus", "cruks")),
    tags=ClosedList("tag", ("harm", "complaint", "resolved", "late_payment")),
)
EVERY: dict[str, Any] = {"event_id": "e", "player_id": "p", "occurred_at": "2026-05-01T10:00:00Z"}


def read(door: Door | None = DOOR, /, **said: Any) -> Any:
    return events.EVENT.validate_json(json.dumps(EVERY | said), context=door)


def refusal(door: Door | None = DOOR, /, **said: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        read(door, **said)
    return sentence(refused.value.errors()[0])


@pytest.mark.parametrize(
    ("field", "written", "meant"),
    [
        ("channel", "In-App", "in_app"),
        ("channel", " EMAIL ", "email"),
        ("basis", "Soft Opt-In", "soft_opt_in"),
        ("product", "CASINO", "casino"),
        ("brand", "North Shore", "north_shore"),
        ("brand", "north-shore", "north_shore"),
    ],
)
def test_case_blanks_and_dashes_do_not_change_a_word(field: str, written: str, meant: str) -> None:
    said = {"type": "consent_changed", "channel": "sms", "granted": True, field: written}
    assert getattr(read(**said), field) == meant


@pytest.mark.parametrize(
    ("written", "meant"), [("ca-on", "CA-ON"), (" mt", "MT"), ("us_nj", "US-NJ"), ("gb", "GB"), ("XK", "XK")]
)
def test_a_place_is_known_whatever_its_case(written: str, meant: str) -> None:
    assert read(type="registered", jurisdiction=written).jurisdiction == meant


@pytest.mark.parametrize(
    ("written", "near"),
    [
        ("UK", "GB"),
        ("EL", "GR"),
        ("SWE", "SE"),
        ("Denmark", "DK"),
        ("UK-SCT", "GB-SCT"),
        ("CA-ONT", "CA-ON"),
        ("US-New Jersey", "US-NJ"),
        ("AU-NWS", "AU-NSW"),
    ],
)
def test_a_place_that_there_is_not_is_refused_with_the_one_that_was_meant(written: str, near: str) -> None:
    for field in ("jurisdiction", "licence"):
        assert f"did you mean {near}?" in refusal(type="registered", **{field: written})
    assert f"did you mean {near}?" in refusal(type="login", location=written)


@pytest.mark.parametrize("real", ["FR-IDF", "BR-SP", "DE-BY", "JP-13", "MT-01", "PT", "AQ"])
def test_a_real_place_of_which_no_rulebook_speaks_is_taken(real: str) -> None:
    assert read(type="login", location=real).location == real


@pytest.mark.parametrize(
    ("said", "known", "near"),
    [
        ({"type": "register_checked", "register_name": "rofuss", "listed": False}, "cruks", "rofus"),
        ({"type": "register_checked", "register_name": "spel_paus", "listed": False}, "cruks", "spelpaus"),
        ({"type": "support_contact", "tags": ["harn"]}, "resolved", "harm"),
        ({"type": "login", "brand": "mian"}, "north_shore", "main"),
        ({"type": "bet", "amount_minor": 1, "product": "casion"}, "lottery", "casino"),
        ({"type": "self_excludet"}, "time_out", "self_excluded"),
    ],
)
def test_an_unknown_word_is_refused_with_the_known_ones_and_the_nearest(said: Any, known: str, near: str) -> None:
    told = refusal(**said)
    assert known in told
    assert f"did you mean {near}?" in told


def test_what_is_stored_is_read_whatever_lists_say_today() -> None:
    assert read(None, type="registered", jurisdiction="UK").jurisdiction == "UK"
    assert read(None, type="register_checked", register_name="spel_paus", listed=False).register_name == "spel_paus"
    assert read(None, type="login", brand="long-gone").brand == "long-gone"


def test_a_tag_is_kept_as_it_was_sent_for_a_retry_to_be_the_same() -> None:
    assert read(type="support_contact", tags=["Late Payment"]).tags == ("Late Payment",)


NAMES = {
    "brand": (events.Brand, r"[a-z0-9_-]{1,32}"),
    "register": (events.RegisterName, r"[a-z][a-z0-9_]{0,31}"),
    "origin": (events.Origin, r"[a-z0-9_.-]{1,64}"),
    "place": (events.Jurisdiction, r"[A-Z]{2}(-[A-Z0-9]{1,3})?"),
}


@pytest.mark.parametrize("kind", NAMES)
@given(data=st.data())
def test_folding_leaves_alone_what_was_taken_before_there_was_any(kind: str, data: st.DataObject) -> None:
    type_, pattern = NAMES[kind]
    word = data.draw(st.from_regex(rf"\A(?:{pattern})\Z"))
    assert TypeAdapter[str](type_).validate_python(word) == word


@given(st.text(max_size=20))
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)


def test_a_known_word_is_its_own_nearest() -> None:
    for word in DOOR.registers.words if DOOR.registers else ():
        assert nearest(word, ("spelpaus", "rofus", "cruks")) == word


def test_zones_are_known_whatever_their_case_and_a_near_one_is_named() -> None:
    assert read(type="registered", time_zone="europe/stockholm").time_zone == "Europe/Stockholm"
    assert "did you mean Europe/Stockholm?" in events.no_zone("Europe/Stokholm")
    assert all(zones.spelt(name) == name for name in zones.names())


def test_every_place_that_the_rulebook_names_is_one() -> None:
    book = load_rulebook(SERVICE / "rulebook")
    named = {place for one in book.bound() for place in one.places} | book.licensed()
    assert not [place for place in named - {"*"} if not places.known(place)]


# Files -------------------------------------------------------------------------------------------------------------


def rulebook(tmp_path: Path, file: str, old: str, new: str) -> Rulebook:
    folder = Path(copytree(SERVICE / "rulebook", tmp_path / "rulebook"))
    text = (folder / file).read_text("utf8")
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1), "utf8")
    return load_rulebook(folder)


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("packs/ie.yaml", "jurisdictions: [IE]", "jurisdictions: [NO]", "reads an unquoted NO or OFF as false"),
        ("packs/ie.yaml", "jurisdictions: [IE]", "jurisdictions: [EI]", "is no country in ISO 3166"),
        ("packs/house.yaml", "licensed: [MT, GB,", "licensed: [MT, UK,", "did you mean GB?"),
        ("packs/us.yaml", "jurisdictions: [US-FL]", "jurisdictions: [US-FLO]", "did you mean US-FL?"),
        ("harm.yaml", "places: [NL]", "places: [HOL]", "is no country in ISO 3166"),
        ("harm.yaml", "quiet_days: ", "quiet_days: .inf # ", "harm.yaml:"),
        ("settings.yaml", "exchange: {}", "exchange: {SEK: .nan}", "settings.yaml:10: exchange.SEK: must be a finite"),
        ("settings.yaml", "scores: {}", "scores: {model-x: 1e999}", "scores.model-x: must be a finite number"),
        ("settings.yaml", "lapsed_days: 30", "lapsed_days: -.Inf", "stages.lapsed_days: must be a finite number"),
    ],
)
def test_a_rulebook_that_means_nothing_is_refused_with_the_place(
    tmp_path: Path, file: str, old: str, new: str, told: str
) -> None:
    with pytest.raises(CatalogueError) as refused:
        rulebook(tmp_path, file, old, new)
    assert told in str(refused.value)


def test_all_faulty_files_of_a_rulebook_are_named_at_once(tmp_path: Path) -> None:
    folder = Path(copytree(SERVICE / "rulebook", tmp_path / "rulebook"))
    for name in ("ie", "mt", "se"):
        file = folder / "packs" / f"{name}.yaml"
        file.write_text(file.read_text("utf8").replace("time_zone: ", "time_zone: Nowhere/"), "utf8")
    with pytest.raises(CatalogueError, match=r"ie\.yaml.*mt\.yaml.*se\.yaml"):
        load_rulebook(folder)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("jurisdictions: [MT, GB, CA-ON, IE]", "jurisdictions: [MT, EIRE]", "offers.0.jurisdictions.1"),
        ("exploration_floor: ", "exploration_floor: .nan # ", "exploration_floor"),
        ("    parameters: {", "    parameters: {x: .inf, ", "offers.0.parameters.x: must be a finite number"),
    ],
)
def test_a_catalogue_that_means_nothing_is_refused_with_the_place(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    text = (SERVICE / "catalogue.yaml").read_text("utf8")
    assert old in text
    file = tmp_path / "catalogue.yaml"
    file.write_text(text.replace(old, new, 1), "utf8")
    with pytest.raises(CatalogueError) as refused:
        load_catalogue(file)
    assert told in str(refused.value)


def test_tags_of_offers_are_those_that_rules_name() -> None:
    book, catalogue = load_rulebook(SERVICE / "rulebook"), load_catalogue(SERVICE / "catalogue.yaml")
    assert not book.unknown_tags(catalogue)
    first = catalogue.offers[0].model_copy(update={"tags": ("unsubcribe", "urgency")})
    ((offer, told),) = book.unknown_tags(catalogue.model_copy(update={"offers": (first,)}))
    assert offer == first.id
    assert "did you mean unsubscribe?" in told


def test_other_files_take_finite_numbers_only(tmp_path: Path) -> None:
    reward = (SERVICE.parent / "pipelines" / "reward.yaml").read_text("utf8")
    (tmp_path / "reward.yaml").write_text(re.sub(r"share: [0-9.]+", "share: .nan", reward, count=1), "utf8")
    with pytest.raises(CatalogueError, match="share"):
        RewardTerms.read(tmp_path / "reward.yaml")
    (tmp_path / "mlflow.yaml").write_text("gates: {churn: {auc_above_recency: .nan}}", "utf8")
    with pytest.raises(SettingError, match=r"mlflow\.yaml:1: gates\.churn\.auc_above_recency: must be a finite number"):
        read_mlflow(tmp_path)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("assume: {jurisdiction: UK}", "did you mean GB?"),
        ("assume: {jurisdiction: NO}", "reads an unquoted NO or OFF as false"),
        ("max_rejected_share: .nan", "max_rejected_share: must be a finite number"),
    ],
)
def test_a_mapping_that_means_nothing_is_refused(tmp_path: Path, more: str, told: str) -> None:
    file = tmp_path / "map.yaml"
    file.write_text(f"player: p\ntime: t\nrules: [{{when: {{}}, event: login}}]\n{more}\n", "utf8")
    with pytest.raises(ImportRefused) as refused:
        load(file)
    assert told in str(refused.value)


def test_what_settings_leave_out_is_neither_hashed_nor_written() -> None:
    book = load_rulebook(SERVICE / "rulebook")
    written = json.loads(book.model_dump_json(by_alias=True))["settings"]
    assert not {"brands", "tags", "trading_since"} & written.keys()
    said = book.model_copy(update={"settings": book.settings.model_copy(update={"brands": ("main", "north")})})
    assert said.hash != book.hash
    assert Rulebook.model_validate_json(said.model_dump_json(by_alias=True)).settings.brands == ("main", "north")
    assert FILE.brands is None


@pytest.mark.parametrize(
    "words",
    [
        ["up", "--rate", "nan"],
        ["simulate", "--days", "inf"],
        ["simulate", "--days", "nan"],
        ["import", "events", "x.csv", "--max-rejected-share", "nan"],
    ],
    ids=" ".join,
)
def test_numbers_of_the_command_line_are_finite(words: list[str]) -> None:
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert f"Invalid value for '{words[-2]}'" in refused.output
