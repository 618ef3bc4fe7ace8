"""Places without rules in the rulebook: nothing is sent there, and the commands say why."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from support.rule_cases import BASE, BOOK, DAY_US, HOUSE, SERVICE, inputs_of, merged, offer_of, us

from features.places import regions
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import Catalogue, Offer, Window
from pipelines.rules.inspection import lint, rules_of_place
from service.decisions import reasons
from service.rules.compiler import CompiledRulebook, Verdict
from service.rules.rulebook import EVERYWHERE, Rulebook, load_rulebook
from service.rules.types import JurisdictionScope

NOON = "2026-06-01T12:00:00+00:00"
TODAY = date(2026, 11, 28)
UNRULED = [
    "AU-VIC",
    "AU-SA",
    "AU-QLD",
    "US-WV",
    "US-MI",
    "CA-AB",
    "DE-BY",
    "ES-MD",
    "GB-NIR",
    "MT-01",
    "FI",
    "NO",
    "JP",
]
"""Parts of countries that have packs, a member of the EU that a rule on consent names, and places that nobody knows."""
RULED = sorted(BOOK.ruled())
OFFERS = [offer_of({"base": "message"}), offer_of({"base": "bonus", "id": "bonus", "kind": "free_bet"})]


def licensed(*places: str, book: Rulebook = BOOK) -> Rulebook:
    """The rulebook of a house that is licensed in some places."""

    def scoped(rule: Any) -> Any:
        return rule.model_copy(update={"licensed": places}) if isinstance(rule, JurisdictionScope) else rule

    packs = tuple(pack.model_copy(update={"rules": tuple(map(scoped, pack.rules))}) for pack in book.packs)
    return book.model_copy(update={"packs": packs})


def judged(
    book: Rulebook, at: str = NOON, offers: list[Offer] | None = None, **player: Any
) -> tuple[CompiledRulebook, Verdict]:
    wanted = [one.model_dump() for one in offers or OFFERS]
    layout = CandidateSpace(Catalogue.model_validate(HOUSE.model_dump() | {"offers": wanted, "caps": []}))
    law, now_us = CompiledRulebook(book, layout), us(at)
    seen = inputs_of(merged(BASE["player"], {"time_zone": "UTC"}, player), now_us)
    return law, law.judge(seen, (Window(now_us, now_us + DAY_US),) * 4)


def findings(book: Rulebook) -> set[tuple[str, str]]:
    return {(one["grade"], one["where"]) for one in lint(book, HOUSE, TODAY)}


@pytest.mark.parametrize("place", UNRULED)
def test_a_licensed_place_without_rules_of_its_own_is_silent_and_an_error(place: str) -> None:
    book = licensed("MT", place)
    law, verdict = judged(book, jurisdiction=place)
    assert verdict.blocked[f"no_rules:{place}"] == law.layout.promotional
    assert "jurisdiction" not in verdict.blocked
    assert ("error", place) in findings(book)
    said = reasons.reason(f"no_rules:{place}", reasons.reasons(book))
    assert said.reason.startswith(f"{place} is licensed")
    assert said.jurisdictions == (place,)


@pytest.mark.parametrize("place", RULED)
def test_a_place_with_rules_of_its_own_is_judged_by_them(place: str) -> None:
    book = licensed(place)
    assert not [name for name in judged(book, jurisdiction=place)[1].blocked if name.startswith("no_rules")]
    assert ("error", place) not in findings(book)


@pytest.mark.parametrize("told", ["jurisdiction", "licence", "location"])
def test_residence_licence_and_present_place_each_need_rules_of_their_own(told: str) -> None:
    verdict = judged(licensed("MT", "AU-VIC"), NOON, OFFERS, **{told: "AU-VIC"})[1]
    assert "no_rules:AU-VIC" in verdict.blocked


def test_a_place_where_the_house_holds_no_licence_is_denied_as_that_alone() -> None:
    blocked = judged(licensed("MT"), jurisdiction="AU-VIC")[1].blocked
    assert "jurisdiction" in blocked
    assert "no_rules:AU-VIC" not in blocked


def test_what_serves_the_player_passes_in_a_place_without_rules() -> None:
    notice = offer_of({"base": "message", "id": "notice", "purpose": "service"})
    law, verdict = judged(licensed("AU-VIC"), offers=[*OFFERS, notice], jurisdiction="AU-VIC")
    assert law.layout.everything & ~law.layout.promotional & ~verdict.blocked["no_rules:AU-VIC"]
    assert not any(bits & ~law.layout.promotional for bits in verdict.blocked.values())


# --- What makes a rule a place's own


def without(book: Rulebook, *rules: str, state: str = "off") -> Rulebook:
    def changed(rule: Any) -> Any:
        return rule.model_copy(update={"state": state}) if rule.id in rules else rule

    packs = tuple(pack.model_copy(update={"rules": tuple(map(changed, pack.rules))}) for pack in book.packs)
    return book.model_copy(update={"packs": packs})


def test_rules_that_are_off_are_none() -> None:
    book = licensed("MT", book=without(BOOK, "MT1", "MT2"))
    assert "no_rules:MT" in judged(book)[1].blocked
    assert ("error", "MT") in findings(book)


def test_rules_that_have_ended_are_none_from_that_moment_on() -> None:
    def ended(rule: Any) -> Any:
        return rule.model_copy(update={"valid_to": date(2026, 6, 2)}) if rule.id in {"MT1", "MT2"} else rule

    packs = tuple(pack.model_copy(update={"rules": tuple(map(ended, pack.rules))}) for pack in BOOK.packs)
    book = licensed("MT", book=BOOK.model_copy(update={"packs": packs}))
    law, before = judged(book, "2026-06-01T23:59:59+02:00")
    mail = law.layout.find("asked", "email", "evening")
    assert not before.blocked["no_rules:MT"] & mail, "what hours put off to the next day is denied already"
    assert judged(book, "2026-06-02T00:00:00+02:00")[1].blocked["no_rules:MT"] == law.layout.promotional
    assert ("error", "MT") in findings(book)


def test_a_pack_of_the_house_opens_a_place_once_it_holds_a_rule_of_it(tmp_path: Path) -> None:
    folder = Path(copytree(SERVICE / "rulebook", tmp_path / "rulebook"))
    (folder / "packs" / "au_vic.yaml").write_text(
        """pack: au_vic
title: Victoria
version: 1
checked_on: 2026-11-22
jurisdictions: [AU-VIC]
time_zone: Australia/Melbourne
rules:
  - {id: VIC1, type: age_band, under: 18, reason: the player is too young, valid_from: 2019-05-26,
     source: a law of this test, confidence: R}
""",
        "utf8",
    )
    book = licensed("AU-VIC", book=load_rulebook(folder))
    assert not judged(book, jurisdiction="AU-VIC")[1].blocked
    assert ("error", "AU-VIC") not in findings(book)


def test_a_rulebook_that_names_no_licence_is_an_error() -> None:
    assert ("error", "rulebook") in findings(without(BOOK, "jurisdiction"))


# --- Nations and their parts


@pytest.mark.parametrize("pack", [pack for pack in BOOK.packs if EVERYWHERE not in pack.jurisdictions], ids=str)
def test_what_binds_a_country_binds_each_of_its_parts(pack: Any) -> None:
    for place in pack.jurisdictions:
        part = place if "-" in place else min(regions(place))
        told = {one["rule"] for one in rules_of_place(None, part, TODAY)["rules"]}
        begun = {one.id for one in pack.rules if one.valid_from <= TODAY and (one.valid_to or date.max) > TODAY}
        assert {one.id for one in pack.rules if one.jurisdictions is None and one.id in begun} <= told


def test_the_officer_is_told_of_a_place_without_rules_where_its_rules_are_listed() -> None:
    assert rules_of_place(None, "AU-VIC", TODAY)["note"].startswith("AU-VIC has no rules of its own")
    assert rules_of_place(None, "AU-NSW", TODAY)["note"] == ""


@pytest.mark.parametrize(("place", "silent"), [("FR", "push, in_app, call"), ("US-FL", "email, push, in_app")])
def test_lint_warns_of_a_place_whose_own_rules_do_not_speak_of_bonuses(place: str, silent: str) -> None:
    told = [one for one in lint(licensed(place), HOUSE, TODAY) if one["where"] == place]
    assert told == [{"grade": "warning", "where": place, "what": f"no rule of its own speaks of bonuses by {silent}"}]


def test_lint_warns_of_a_country_whose_parts_have_rules_that_its_bare_name_misses() -> None:
    for place, part in (("AU", "AU-NSW"), ("US", "US-NJ"), ("CA", "CA-ON")):
        assert any(part in one["what"] for one in lint(licensed(place), HOUSE, TODAY) if one["where"] == place)


@pytest.mark.parametrize(("place", "code", "grade"), [("AU-VIC", 1, "error"), ("FR", 1, "warning"), ("SE", 0, "note")])
def test_the_command_fails_on_what_may_not_serve_as_it_stands(
    tmp_path: Path, place: str, code: int, grade: str
) -> None:
    folder = Path(copytree(SERVICE / "rulebook", tmp_path / "rulebook"))
    house = folder / "packs" / "house.yaml"
    house.write_text(house.read_text("utf8").replace("licensed: [MT, GB,", f"licensed: [{place}, MT, GB,"), "utf8")
    command = [sys.executable, "-m", "pipelines", "rules", "lint", str(folder), "--json"]
    done = subprocess.run(command, cwd=SERVICE.parent, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stderr
    assert grade in {one["grade"] for one in json.loads(done.stdout)["findings"]}


# --- What has to be told


def test_an_exclusion_says_what_the_rule_asks_a_house_to_tell() -> None:
    texts = reasons.reasons(BOOK)
    assert "ontario_site" in texts["CA-ON1"].reason
    for pack in BOOK.packs:
        for rule in pack.rules:
            asked = [*getattr(rule, "origins", ()), *getattr(rule, "bases", ()), *getattr(rule, "must", ())]
            if rule.type in {"consent_required", "content_required"}:
                assert all(word in texts[rule.id].reason for word in asked), rule.id
