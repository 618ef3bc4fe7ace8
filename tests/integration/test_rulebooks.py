"""The rulebook in a running house: effect on decisions, promotion, rollback and the officers' commands."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from conftest import Opened, app_of
from rich.console import Console
from support.callers import asked, player_of, rules
from support.learning_log import BEGAN, record
from support.players import adult_events, event, tell
from support.rule_cases import BOOK, HOUSE, SERVICE, changed
from support.schemas import ALIKE, FEWER, keep_schema, rewritten, under
from support.workers import last_flush

from features.kept_schemas import TODAY
from features.store.bundles import HASH_OF, publish, serving_hashes
from features.store.deployment import real_now_us
from features.store.keys import bundle_key, pointer_key
from features.store.server import Server
from models.policy.policy import Uniform
from models.releases.release import journal
from pipelines.audit.period import AuditRefused
from pipelines.rules import compare, inspection, rulebooks
from pipelines.rules.explain import explain
from pipelines.worker.lake import Lake
from pipelines.worker.process import Worker, wait_until_in_lake
from service.rules.rulebook import load_rulebook, rulebook_path


def dane(player: str, asked_hours_ago: float = 1.0) -> list[dict[str, Any]]:
    """A Dane about whom ROFUS was asked some hours ago."""
    events = adult_events(player, jurisdiction="DK", time_zone="Europe/Copenhagen")
    at = datetime.now(UTC) - timedelta(hours=asked_hours_ago)
    return [*events, checked(player, at, listed=False)]


def checked(player: str, at: datetime, *, listed: bool) -> dict[str, Any]:
    return {
        "event_id": f"{player}-rofus-{at.timestamp()}",
        "player_id": player,
        "occurred_at": at.isoformat(),
        "type": "register_checked",
        "register_name": "rofus",
        "listed": listed,
    }


LATE = [{"from": "23:58", "to": "23:59"}]


# Decisions ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
async def test_an_old_answer_of_a_register_silences_marketing_and_no_help_and_a_listing_at_once(opened: Opened) -> None:
    async with opened() as client:
        for hours, player in ((1.0, "fresh"), (24.1, "frozen")):
            position = await tell(client, dane(player, hours))
            found = await asked(client, player, after=position)
            assert ("stale_rofus" in rules(found)) == (player == "frozen")
            assert (found["candidates"]["eligible"] == 1) == (player == "frozen")
            told = (await client.get(f"/v1/decisions/{found['decision_id']}")).json()
            register = told["personal"]["inputs"]["rofus"]
            assert register["age_seconds"] == pytest.approx(hours * 3600, abs=60)
            assert register.get("trouble") == ("stale" if player == "frozen" else None)
            assert any(pack.startswith("dk@") for pack in told["versions"]["packs"])
            helped = await asked(client, player, purpose="rg_intervention")
            assert helped["action"]["offer"]["id"] == "play_check_in"
        await tell(client, [checked("fresh", datetime.now(UTC), listed=True)])
        assert {"DK1"} <= rules(await asked(client, "fresh"))


@pytest.mark.usefixtures("worker")
async def test_where_a_law_forbids_what_a_policy_sees_business_rules_serve_and_elsewhere_the_policy(
    opened: Opened,
) -> None:
    class Seeing(Uniform):
        @property
        def readings(self) -> tuple[str, ...]:
            return ("last_bet_days_ago",)

    async with opened() as client:
        deps = app_of(client).state.deps
        served = {}
        for sees, policy in (("much", Seeing(HOUSE.size)), ("little", Uniform(HOUSE.size))):
            deps.serving = replace(deps.serving, policies={**deps.serving.policies, "learnt": policy})
            for place, make in (("DK", dane), ("MT", adult_events)):
                player = player_of("policy", f"{place}-{sees}-")
                position = await tell(client, make(player))
                found = await asked(client, player, after=position)
                assert found["experiment"]["variant"] == "policy"
                served[sees, place] = found["policy_version"].partition("-")[0]
        assert served == {
            ("much", "DK"): "business_rules",
            ("much", "MT"): "uniform",
            ("little", "DK"): "uniform",
            ("little", "MT"): "uniform",
        }
        ready = (await client.get("/readyz")).json()
        assert ready["barred"] == {}
        deps.serving = replace(deps.serving, policies={**deps.serving.policies, "learnt": Seeing(HOUSE.size)})
        ready = (await client.get("/readyz")).json()
        assert ready["barred"]["DK"] == ["last_bet_days_ago"]


@pytest.mark.usefixtures("worker")
async def test_who_objects_to_profiling_gets_no_score_and_no_promotion_until_it_is_taken_back(opened: Opened) -> None:
    async with opened() as client:
        position = await tell(client, adult_events("objector"))
        assert (await asked(client, "objector", after=position))["churn"] is not None
        await tell(client, [event("objector", "objection_changed", objects=True)])
        found = await asked(client, "objector")
        assert found["churn"] is None
        assert found["action"] == "NO_CONTACT"
        assert found["candidates"]["eligible"] == 1
        assert "H1" in rules(found)
        assert found["why"]["churn"] is None
        told = (await client.get(f"/v1/decisions/{found['decision_id']}")).json()
        assert told["role"] == "objected"
        assert (await client.get("/v1/players/objector")).json()["churn"] is None
        assert (await asked(client, "objector", purpose="service"))["action"]["offer"]["id"] == "account_notice"
        await tell(client, [event("objector", "objection_changed", objects=False)])
        assert (await asked(client, "objector"))["candidates"]["eligible"] > 1


@pytest.mark.usefixtures("worker", "store")
async def test_a_sign_of_harm_in_play_is_held_and_a_review_lets_it_go(opened: Opened) -> None:
    """Limits raised, deposits declined, withdrawals taken back and night-long play: strong, until somebody looked."""
    async with opened() as client:
        await tell(client, adult_events("harmed"))
        raised = [
            event("harmed", "limit_set", limit="deposit", change="raised") | {"event_id": f"raised-{n}"}
            for n in range(2)
        ]
        declined = [
            event("harmed", "deposit", status="declined", method="card", amount_minor=100) | {"event_id": f"no-{n}"}
            for n in range(4)
        ]
        cancelled = [
            event("harmed", "withdrawal_cancelled", amount_minor=100) | {"event_id": f"back-{n}"} for n in range(3)
        ]
        contacts = [event("harmed", "support_contact") | {"event_id": f"support-{n}"} for n in range(4)]
        position = await tell(client, raised + declined + cancelled + contacts)
        found = await asked(client, "harmed", after=position)
        assert found["harm_level"] == "moderate"
        assert "harm_bonus" in rules(found)
        assert found["harm_sources"]["behaviour"] == "moderate"
        assert "own:moderate" in found["harm_sources"]
        await tell(client, [event("harmed", "harm_scored", source="mindway", level="strong")])
        assert (await asked(client, "harmed"))["harm_level"] == "strong"
        await tell(client, [event("harmed", "harm_reviewed", level="low") | {"occurred_at": _now()}])
        reviewed = await asked(client, "harmed")
        assert reviewed["harm_level"] == "low"
        assert reviewed["harm_sources"] == {"review": "low"}


def _now() -> str:
    return datetime.now(UTC).isoformat()


# Another rulebook --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
async def test_a_rulebook_is_promoted_under_way_and_rolled_back(opened: Opened, server: Server, tmp_path: Path) -> None:
    elders = changed(tmp_path, "elders", "age", under=60)
    async with opened() as client:
        position = await tell(client, adult_events("adult"))
        before = await asked(client, "adult", after=position)
        assert before["rules_version"] == BOOK.hash
        assert "age" not in rules(before)
        done = await asyncio.to_thread(rulebooks.promote, server.url, str(elders), "a test", "an officer")
        assert done.serving == 1
        assert done.replaced == BOOK.hash
        after = await asked(client, "adult")
        assert after["rules_version"] == done.version != BOOK.hash
        assert "age" in rules(after)
        old = (await client.get(f"/v1/decisions/{before['decision_id']}")).json()
        assert old["rules_version"] == BOOK.hash
        back = await asyncio.to_thread(rulebooks.rollback, server.url, "a test")
        assert back.version == BOOK.hash
        assert "age" not in rules(await asked(client, "adult"))
        named = (await client.get(f"/v1/decisions/{after['decision_id']}")).json()
        assert "a rule of another rulebook" not in str(named["exclusions"])
        again = await asyncio.to_thread(rulebooks.promote, server.url, done.version, "a test")
        assert again.version == done.version
        await asyncio.to_thread(rulebooks.rollback, server.url, "a test")
        with pytest.raises(inspection.RulesRefused, match="no promotion of a rulebook"):
            await asyncio.to_thread(rulebooks.rollback, server.url, "a test")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("junk", [b"junk", b'{"settings": {}}', b"{}"])
async def test_a_rulebook_that_does_not_load_leaves_the_old_one_serving(
    opened: Opened, store: redis.Redis, junk: bytes
) -> None:
    async with opened() as client:
        position = await tell(client, adult_events("adult"))
        wanted = (await asked(client, "adult", after=position, dry_run=True))["candidates"]
        digest = publish(store, "rules", junk)
        watch = asyncio.get_running_loop().time() + 1.0
        while asyncio.get_running_loop().time() < watch:
            assert (await asked(client, "adult", dry_run=True))["rules_version"] == BOOK.hash
        assert digest not in serving_hashes(store, "rules")
        assert (await asked(client, "adult", dry_run=True))["candidates"] == wanted
        store.delete(pointer_key("rules"))


@pytest.mark.usefixtures("worker")
async def test_a_process_that_begins_under_a_rulebook_it_cannot_read_sends_nothing_promotional(
    opened: Opened, store: redis.Redis, server: Server
) -> None:
    """The files' rules may allow what the promoted ones forbid."""
    publish(store, "rules", b"junk")
    async with opened() as client:
        position = await tell(client, adult_events("adult"))
        found = await asked(client, "adult", after=position)
        assert "rulebook_unreadable" in rules(found)
        assert found["candidates"]["eligible"] == 1
        assert (await asked(client, "adult", purpose="rg_intervention"))["action"] != "NO_CONTACT"
        # It tells no tool that it serves the files, so that rules of the promoted book cannot be dropped by mistake.
        assert await asyncio.to_thread(serving_hashes, store, HASH_OF["rules"]) == [None]
        with pytest.raises(inspection.RulesRefused, match="a rulebook that this build cannot read would be applied no"):
            await asyncio.to_thread(rulebooks.promote, server.url, str(rulebook_path()), "a test")
        promoting = partial(rulebooks.promote, server.url, str(rulebook_path()), "a test", weaker=True)
        assert (await asyncio.to_thread(promoting)).version == BOOK.hash
        deadline = asyncio.get_running_loop().time() + 10
        while "rulebook_unreadable" in rules(await asked(client, "adult", dry_run=True)):
            assert asyncio.get_running_loop().time() < deadline
        store.delete(pointer_key("rules"))


@pytest.mark.usefixtures("house")
def test_a_rulebook_that_lacks_rules_is_promoted_only_if_that_is_meant_and_taken_back_whole(
    store: redis.Redis, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edited in place, promoted and rolled back: what served before comes back, not what the folder holds now."""
    folder = changed(tmp_path, "laxer", "GB3", state="off", note="a test", confidence="M")
    with pytest.raises(inspection.RulesRefused, match="GB3 would be applied no more"):
        rulebooks.promote(server.url, str(folder), "a test")
    narrower = changed(tmp_path, "narrower", "age", channels=["sms"])
    assert rulebooks.lost_rules(BOOK, load_rulebook(narrower)) == ("age",)
    assert rulebooks.lost_rules(BOOK, BOOK) == ()
    monkeypatch.setenv("CROUPIER_RULES", str(folder))
    (folder / "packs" / "gb.yaml").write_text((SERVICE / "rulebook" / "packs" / "gb.yaml").read_text("utf8"), "utf8")
    laxer = changed(tmp_path, "again", "GB3", state="off", note="a test", confidence="M")
    done = rulebooks.promote(server.url, str(laxer), "a test", weaker=True)
    assert done.evidence == {"catalogue": HOUSE.hash, "weaker": ["GB3"]}
    (folder / "packs" / "gb.yaml").write_text((laxer / "packs" / "gb.yaml").read_text("utf8"), "utf8")
    assert rulebooks.rollback(server.url, "a test").version == BOOK.hash
    assert [one.action for one in journal(store, "rules")] == ["promote", "rollback"]


@pytest.mark.usefixtures("house")
def test_a_rulebook_that_lint_warns_of_is_not_promoted(store: redis.Redis, server: Server, tmp_path: Path) -> None:
    lawless = changed(tmp_path, "lawless", "jurisdiction", licensed=["MT", "JP"])
    with pytest.raises(inspection.RulesRefused, match="JP is licensed, and no pack holds its law"):
        rulebooks.promote(server.url, str(lawless), "a test")
    assert store.get(pointer_key("rules")) is None


# What officers are told --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
async def test_a_player_is_explained_as_a_decision_would_find_them(opened: Opened, server: Server) -> None:
    async with opened() as client:
        position = await tell(client, dane("p-dk", 30))
        found = await asked(client, "p-dk", after=position, dry_run=True)
        told = await asyncio.to_thread(explain, server.url, "p-dk")
        assert told["allowed"] == []
        assert {"stale_rofus", "DK1"} <= {one["rule"] for one in told["denied"]} <= rules(found) | {"stale_rofus"}
        assert told["places"] == ["DK"]
        assert told["inputs"]["rofus"]["trouble"] == "stale"
        position = await tell(client, adult_events("p-mt"))
        found = await asked(client, "p-mt", after=position, dry_run=True)
        if found["experiment"]["variant"] != "holdout":
            told = await asyncio.to_thread(explain, server.url, "p-mt")
            assert len(told["allowed"]) == found["candidates"]["eligible"] - 1
        for player in ("p-dk", "p-mt"):
            told = await asyncio.to_thread(explain, server.url, player)
            page = (await client.get(f"/v1/players/{player}")).json()
            for part in ("brand", "rulebook", "catalogue", "denied", "put_off", "stage"):
                assert page[part] == told[part]
            assert [one["offer"] for one in page["allowed"]] == [one["offer"] for one in told["allowed"]]
        with pytest.raises(inspection.RulesRefused, match="nothing is known"):
            await asyncio.to_thread(explain, server.url, "nobody")


@pytest.mark.usefixtures("worker")
async def test_the_page_of_a_player_is_of_a_brand_that_the_house_knows(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, adult_events("p-mt"))
        for spelt in ("main", "MAIN"):
            assert (await client.get("/v1/players/p-mt", params={"brand": spelt})).json()["brand"] == "main"
        unknown = await client.get("/v1/players/p-mt", params={"brand": "mainly"})
        assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_brand")
        assert "did you mean main?" in unknown.json()["detail"]


async def test_two_rulebooks_are_compared_on_what_was_decided(
    opened: Opened, worker: Worker, server: Server, store: redis.Redis, lake: Path, tmp_path: Path
) -> None:
    """Nothing changes under the same book; under one for over-sixties every contact would have been stopped."""
    elders = changed(tmp_path, "elders", "age", under=60)
    async with opened() as client:
        position = await tell(client, adult_events("p-mt"))
        await asked(client, "p-mt", after=position)
        decided = [await asked(client, "p-mt") for _ in range(20)]
    last_flush(worker, store, lake)
    quiet = Console(quiet=True)
    same = compare.compare_rulebooks(server.url, lake, str(rulebook_path()), str(rulebook_path()), "1d", quiet)
    assert same["decisions"] == same["made_under_old"] == same["reproduced"] == 21
    assert same["changes"] == []
    assert same["erased"] == same["other_build"] == same["other_catalogue"] == same["contacts_put_off"] == 0
    later = changed(tmp_path, "later", "quiet_push", channels=["email", "in_app", "push"], allow=LATE)
    assert compare.compare_rulebooks(server.url, lake, BOOK.hash, str(later), "1d", quiet)["decisions"] == 21
    other = compare.compare_rulebooks(server.url, lake, BOOK.hash, str(elders), "1d", quiet)
    contacts = sum(one["action"] != "NO_CONTACT" for one in decided)
    assert other["contacts"] >= contacts
    assert other["contacts_stopped"] == other["contacts"]
    assert [(one["rule"], one["jurisdiction"]) for one in other["changes"]] == [("age", "MT")]
    back = compare.compare_rulebooks(server.url, lake, str(elders), BOOK.hash, "1d", quiet)
    assert back["changes"][0]["actions_allowed"] == other["changes"][0]["actions_denied"]
    assert back["contacts_stopped"] == 0
    with pytest.raises(AuditRefused, match="--since"):
        compare.compare_rulebooks(server.url, lake, BOOK.hash, str(elders), "lately", quiet)
    with pytest.raises(AuditRefused, match="--since"):
        compare.compare_rulebooks(server.url, lake, BOOK.hash, str(elders), "999999d", quiet)
    with pytest.raises(inspection.RulesRefused, match="no rulebook that this build can read"):
        compare.compare_rulebooks(server.url, lake, HOUSE.hash, str(elders), "1d", quiet)
    with pytest.raises(inspection.RulesRefused, match="no folder of a rulebook"):
        compare.compare_rulebooks(server.url, lake, "0" * 12, str(elders), "1d", quiet)


@pytest.mark.usefixtures("worker")
async def test_two_rulebooks_are_compared_on_what_builds_with_other_features_decided(
    opened: Opened, server: Server, store: redis.Redis, lake: Path, tmp_path: Path
) -> None:
    elders = changed(tmp_path, "elders", "age", under=60)
    async with opened() as client:
        position = await tell(client, adult_events("p-mt"))
        await asked(client, "p-mt", after=position)
    wait_until_in_lake(lake, real_now_us(store))
    assert (lake / "_schemas" / f"{TODAY.hash}.json").read_bytes() == TODAY.dumps()

    def compared(lake: Path) -> dict[str, Any]:
        return compare.compare_rulebooks(server.url, lake, BOOK.hash, str(elders), "1d", Console(quiet=True))

    here = compared(lake)
    assert (here["decisions"], here["reproduced"], here["fewer_features"]) == (1, 1, 0)
    for number, schema in enumerate((*ALIKE.values(), *FEWER.values())):
        other = shutil.copytree(lake, tmp_path / f"lake-{number}")
        rewritten(other, schema)
        unnamed = compared(other)
        assert (unnamed["decisions"], unnamed["other_build"], unnamed["changes"]) == (0, 1, [])
        keep_schema(other, schema)
        assert compared(other) == here | {"fewer_features": int(schema in FEWER.values())}


def test_the_lake_keeps_the_schema_of_every_decision_that_the_store_or_this_build_knows(
    store: redis.Redis, lake: Path
) -> None:
    known, damaged, unknown = ALIKE.values()
    store.set(bundle_key(known.hash), known.dumps())
    store.set(bundle_key(damaged.hash), known.dumps())
    made = record("d", "{p001}a", BEGAN, 0, np.random.default_rng(1))
    records = [made, *(under(made, one) for one in (known, damaged, unknown))]
    Lake(store, lake)._keep_schemas({one.versions.schema for one in records})
    assert {file.name: file.read_bytes() for file in (lake / "_schemas").iterdir()} == {
        f"{one.hash}.json": one.dumps() for one in (TODAY, known)
    }


def croupier(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False, cwd=SERVICE.parent
    )


def test_the_commands_answer_people_and_machines_and_refuse_in_one_sentence(tmp_path: Path) -> None:
    linted = croupier("rules", "lint", "--json")
    assert linted.returncode == 0, linted.stderr
    assert json.loads(linted.stdout)["rulebook"] == BOOK.hash
    told = croupier("rules", "list", "--jurisdiction", "GB", "--on", "2026-01-19")
    assert "GB6" in told.stdout
    before = json.loads(croupier("rules", "list", "--jurisdiction", "GB", "--on", "2026-01-18", "--json").stdout)
    assert "GB6" not in {one["rule"] for one in before["rules"]}
    lawless = changed(tmp_path, "lawless", "jurisdiction", licensed=["MT", "JP"])
    assert croupier("rules", "lint", str(lawless)).returncode == 1
    unknown = croupier("rules", "list", "--jurisdiction", "UK")
    assert unknown.stderr == "croupier: 'UK' is no country in ISO 3166: did you mean GB?\n"
    refused = croupier("rules", "list", "--jurisdiction", "JP")
    assert refused.returncode == 2
    assert refused.stderr.startswith("croupier: no pack holds the law of JP")
    faulty = changed(tmp_path, "faulty", "GB3", at_least="severe")
    refused = croupier("rules", "lint", str(faulty))
    assert refused.returncode == 2
    assert "gb.yaml:" in refused.stderr
    assert "at_least" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
