"""Unknown words and impossible values over HTTP, in files and commands: refused, or taken as strictest."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import yaml
from conftest import Opened
from support.callers import asked, facts_of, post, settled
from support.players import event

from features.files import CatalogueError
from features.store.deployment import House
from features.store.server import Server
from pipelines.imports import importer
from pipelines.rules.explain import explain
from pipelines.rules.inspection import RulesRefused, lint_files
from pipelines.rules.rulebooks import promote
from service.api.app import serving_of_files
from service.settings import Settings

SERVICE = Path(__file__).parents[2] / "service"


def rulebook(folder: Path, **settings: Any) -> Path:
    """A copy of the rulebook whose settings say more."""
    made = Path(copytree(SERVICE / "rulebook", folder))
    said = yaml.safe_load((made / "settings.yaml").read_text("utf8"))
    (made / "settings.yaml").write_text(yaml.safe_dump(said | settings), "utf8")
    return made


async def refused(client: Any, path: str, body: dict[str, Any]) -> str:
    answer = await client.post(path, json=body)
    assert answer.status_code == 422, answer.text
    return f"{answer.json()['pointer']}: {answer.json()['detail']}"


async def test_an_unknown_word_over_http_is_refused_at_its_place_with_the_nearest(opened: Opened) -> None:
    async with opened() as client:
        wrong: list[tuple[dict[str, Any], str, str]] = [
            ({"type_": "registered", "jurisdiction": "IRL"}, "/jurisdiction", "IE"),
            ({"type_": "login", "location": "CA-ONT"}, "/location", "CA-ON"),
            ({"type_": "support_contact", "tags": ["late", "complant"]}, "/tags/0", "complaint"),
            ({"type_": "register_checked", "register_name": "crucks", "listed": False}, "/register_name", "cruks"),
            ({"type_": "deposit", "status": "aproved", "method": "x", "amount_minor": 1}, "/status", "approved"),
            ({"type_": "login", "brand": "mainn"}, "/brand", "main"),
        ]
        for said, place, near in wrong:
            found = await refused(client, "/v1/events", event("p1", **said))
            assert found.startswith(f"{place}: ")
            assert place == "/tags/0" or f"did you mean {near}?" in found
        assert "did you mean main?" in await refused(client, "/v1/decisions", {"player_id": "p1", "brand": "mayn"})
        free = await refused(client, "/v1/decisions", {"player_id": "p1", "offers": ["free_bets"]})
        assert "did you mean free_bet?" in free
        batch = {"requests": [{"player_id": "p1", "brand": "mayn"}, {"player_id": "p1", "channels": ["In App"]}]}
        first, second = (await post(client, "/v1/decisions/batch", batch))["answers"]
        assert (first["code"], second["player_id"]) == ("invalid_body", "p1")


@pytest.mark.usefixtures("worker")
async def test_what_restricts_is_taken_warned_of_and_known_again(opened: Opened) -> None:
    async with opened() as client:
        strange: list[dict[str, Any]] = [
            {"type_": "self_excluded", "scope": "this site"},
            {"type_": "self_excluded", "scope": "brand", "brand": "Süd"},
            {"type_": "time_out", "until": "2999-01-01T00:00:00Z", "brand": "south"},
            {"type_": "register_checked", "register_name": "gam-ban", "listed": True},
            {"type_": "harm_scored", "source": "model-x", "level": "9/10"},
            {"type_": "consent_changed", "channel": "letter", "granted": False, "brand": "south"},
        ]
        for number, said in enumerate(strange):
            player = f"p{number}"
            await settled(client, player)
            assert (await asked(client, player, dry_run=True))["candidates"]["eligible"] > 1
            told = event(player, **said)
            first, again = [await post(client, "/v1/events", told) for _ in range(2)]
            assert (first["duplicate"], again["duplicate"]) == (False, True)
            assert first["warnings"] == again["warnings"] != []
            found = await asked(client, player, dry_run=True)
            assert found["candidates"]["eligible"] == 1, (said, found["exclusions"])
        outcome = {"outcome_id": "o", "type": "unsubscribed", "player_id": "p9", "channel": "fax"}
        await settled(client, "p9")
        answer = await post(client, "/v1/outcomes", outcome | {"occurred_at": datetime.now(UTC).isoformat()})
        assert "it holds for every channel" in answer["warnings"][0]
        assert (await asked(client, "p9", dry_run=True))["candidates"]["eligible"] == 1


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("born", ["0001-01-01", "1890-06-01", "2199-12-31"])
async def test_a_birth_date_that_cannot_be_makes_no_adult(opened: Opened, born: str) -> None:
    async with opened() as client:
        at = (datetime.now(UTC) - timedelta(days=2)).isoformat()
        told: list[dict[str, Any]] = [
            {"type_": "registered", "jurisdiction": "MT", "time_zone": "Europe/Malta", "birth_date": born},
            {"type_": "kyc_verified", "birth_date": born},
            {"type_": "consent_changed", "channel": "email", "granted": True},
        ]
        for said in told:
            answer = await post(client, "/v1/events", event("child", **said) | {"occurred_at": at})
            assert ("birth_date" in said) == ("birth_date: nobody" in str(answer.get("warnings")))
        assert "birth_date" not in await facts_of(client, "child")
        found = await asked(client, "child", dry_run=True)
        assert "age" in {one["rule"] for one in found["exclusions"]}
        assert found["candidates"]["eligible"] == 1


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A rulebook with brands, a tag and a first day of its own, ten days ago; asked for before the house."""
    day = (datetime.now(UTC) - timedelta(days=10)).date()
    settings = {"brands": ["main", "north_shore"], "tags": ["late_payment"], "trading_since": day}
    folder = rulebook(tmp_path / "own", **settings)
    monkeypatch.setenv("CROUPIER_RULES", str(folder))
    return folder


@pytest.mark.usefixtures("own")
async def test_a_house_names_its_brands_its_tags_and_the_day_it_began(opened: Opened) -> None:
    async with opened() as client:
        await post(client, "/v1/events", event("p", "support_contact", tags=["Late Payment"]))
        await post(client, "/v1/events", event("p", "login", brand="North Shore"))
        assert (await post(client, "/v1/decisions", {"player_id": "p", "brand": "north-shore"}))["player_id"] == "p"
        for days, status in ((9, 200), (11, 422)):
            at = (datetime.now(UTC) - timedelta(days=days)).isoformat()
            money = event("p", "bet", amount_minor=5, product="casino") | {"occurred_at": at}
            answer = await client.post("/v1/events", json=money)
            assert answer.status_code == status
        assert answer.json()["code"] == "before_trading"
        assert answer.json()["pointer"] == "/occurred_at"


@pytest.mark.usefixtures("store")
def test_a_catalogue_whose_tags_no_rule_can_mean_neither_starts_nor_passes_lint_nor_lets_a_rulebook_serve(
    house: House, where: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (SERVICE / "catalogue.yaml").read_text("utf8")
    file = tmp_path / "catalogue.yaml"
    file.write_text(text.replace("postal_address", "postal_adress", 2).replace("age_notice", "ag_notice", 1), "utf8")
    monkeypatch.setenv("CROUPIER_CATALOGUE", str(file))
    with pytest.raises(CatalogueError, match=r"did you mean postal_address\?.*did you mean age_notice\?"):
        serving_of_files(house, Settings(**{**where.__dict__, "catalogue": file}))
    found = lint_files(None, datetime.now(UTC).date())["findings"]
    assert len([one for one in found if one["grade"] == "error" and "did you mean" in one["what"]]) == 3
    with pytest.raises(RulesRefused, match="postal_address"):
        promote(where.store, str(SERVICE / "rulebook"), "a test")


@pytest.mark.usefixtures("house")
def test_the_command_that_explains_knows_the_brands(server: Server) -> None:
    with pytest.raises(RulesRefused, match="did you mean main"):
        explain(server.url, "p", "mainly")


# Import ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own", "worker")
def test_an_import_rejects_what_nobody_knows_and_takes_what_restricts(
    where: Settings, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROUPIER_STORE", where.store)
    home = lake.parent

    old = (datetime.now(UTC) - timedelta(days=400)).isoformat()
    said = [
        event("p", "registered", jurisdiction="UK"),
        event("p", "register_checked", register_name="gam_ban", listed=False),
        event("p", "bet", amount_minor=5, product="casino") | {"occurred_at": old},
        event("p", "login", brand="southern"),
        event("q", "register_checked", register_name="gam_ban", listed=True),
        event("q", "consent_changed", channel="letter", granted=False) | {"occurred_at": old},
        event("q", "kyc_verified", birth_date="1066-10-14"),
        event("q", "login"),
    ]
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in said), "utf8")
    done = importer.run(home, file, rejects=tmp_path / "rejects.jsonl", max_rejected_share=1, progress=False)
    assert (done.accepted, done.rejected) == (4, 4)
    assert [
        word
        for word in ("GB", "known are betguard", "trades since", "known are main")
        if not any(word in reason for reason in done.reasons)
    ] == []
    assert len(done.warnings) == 3
    again = importer.run(home, file, rejects=tmp_path / "rejects.jsonl", max_rejected_share=1, progress=False)
    assert (again.accepted, again.duplicates, again.rejected) == (0, 4, 4)
    mapping = tmp_path / "map.yaml"
    mapping.write_text(
        "player: p\ntime: t\n"
        "rules: [{when: {}, event: register_checked, fields: {register_name: gam_ban, listed: false}}]\n",
        "utf8",
    )
    (tmp_path / "rows.csv").write_text("p,t\nq,2026-01-01T00:00:00Z\n", "utf8")
    with pytest.raises(
        importer.ImportRefused, match=r"rules\.0 of the mapping: register_checked register_name: 'gam_ban'"
    ):
        importer.run(home, tmp_path / "rows.csv", mapping=mapping, progress=False)
