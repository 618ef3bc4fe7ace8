"""Releases of every kind in a running house: gate, refusal, way back, journals; and tools that take what serves."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import redis
import yaml
from conftest import Opened, app_of
from frozen.cases import cases
from mlflow.tracking import MlflowClient
from rich.console import Console
from support.callers import asked
from support.deadlines import PATIENT
from support.players import adult_events, tell
from support.rule_cases import BOOK, HOUSE, SERVICE, changed
from support.snapshots import ONE, THREE, TWO
from typer.testing import CliRunner

from features.files import CatalogueError
from features.store.bundles import publish, serving_hashes
from features.store.deployment import real_now_us
from features.store.errors import StoreError
from features.store.keys import (
    CHURN_PROMOTIONS,
    LIVE,
    POLICY_HELD,
    POLICY_HISTORY,
    POLICY_RECORDED,
    POLICY_WAITING,
    RULES_PROMOTIONS,
    live_key,
    pointer_key,
)
from features.store.server import Server
from models.catalogue.offers import load_catalogue
from models.policy.learned import PolicyVersion
from models.releases import release
from models.releases.journal import serves
from models.releases.release import GateRefused, Released, change, journal, new_release
from pipelines.cli.app import app
from pipelines.experiments import releases as experiments
from pipelines.learning import policy
from pipelines.rules import catalogues, compare, rulebooks
from pipelines.rules.explain import explain
from pipelines.served import bytes_of, served_catalogue, served_rulebook
from pipelines.training.promotion import settle
from pipelines.worker.process import wait_until_in_lake
from service.settings import Settings

WHY = "a test"


def own(tmp_path: Path, name: str = "own", **change: Any) -> Path:
    """A file of a catalogue whose first offer is the house's own."""
    said = yaml.safe_load((SERVICE / "catalogue.yaml").read_text("utf8"))
    said["offers"][0] |= {"id": f"{name}_offer", **change}
    said["caps"] = [cap for cap in said["caps"] if cap.get("offer") != HOUSE.offers[0].id]
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(said, sort_keys=False), "utf8")
    return file


@pytest.fixture
def where(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of serving processes with files of their own, of which the shell of the tools knows nothing."""
    for name, seconds in PATIENT.items():
        monkeypatch.setenv(name, seconds)
    elders = changed(tmp_path, "elders", "age", under=60)
    return replace(Settings.here(server.url), catalogue=own(tmp_path), rules=elders)


def hashes(client: httpx.AsyncClient) -> tuple[str, str]:
    """Catalogue and rulebook that the application serves."""
    law = app_of(client).state.deps.serving.law
    return law.layout.catalogue.hash, law.book.hash


# --- Tools take what serves


@pytest.mark.usefixtures("worker")
async def test_tools_take_what_processes_serve_of_files_unknown_to_the_tools(
    opened: Opened, where: Settings, server: Server, store: redis.Redis, lake: Path
) -> None:
    async with opened() as client:
        served = hashes(client)
        assert served != (HOUSE.hash, BOOK.hash)
        position = await tell(client, adult_events("p-mt"))
        await asked(client, "p-mt", after=position)
        told = await asyncio.to_thread(explain, server.url, "p-mt")
        assert (told["catalogue"], told["rulebook"]) == served
        assert "age" in {one["rule"] for one in told["denied"]}
        linted = await asyncio.to_thread(rulebooks.lint_served, server.url)
        assert (linted["catalogue"], linted["rulebook"]) == served
        await asyncio.to_thread(wait_until_in_lake, lake, real_now_us(store))
        quiet, books = Console(quiet=True), (served[1], str(where.rules))
        judged = await asyncio.to_thread(compare.compare_rulebooks, server.url, lake, *books, "1d", quiet)
        assert (judged["catalogue"], judged["decisions"], judged["reproduced"]) == (served[0], 1, 1)
    assert served_catalogue(store).hash == HOUSE.hash, "nobody serves: the shell's files count"
    assert served_rulebook(store).hash == BOOK.hash


@pytest.mark.usefixtures("house")
def test_where_processes_differ_no_tool_picks_one(store: redis.Redis) -> None:
    for name, told in (("a", "0" * 12), ("b", "1" * 12)):
        store.set(live_key(name), json.dumps({"catalogue_hash": told}), px=60_000)
        store.sadd(LIVE, live_key(name))
    with pytest.raises(CatalogueError, match=r"^no one catalogue serves: processes report 000000000000, 111111111111"):
        served_catalogue(store)
    publish(store, "catalogue", bytes_of(HOUSE), HOUSE.hash)
    assert served_catalogue(store) == HOUSE


@pytest.mark.parametrize("command", ["serve", "up"])
def test_files_that_are_not_valid_are_told_before_anything_starts(command: str, tmp_path: Path) -> None:
    home, bad = tmp_path / "home", own(tmp_path, "bad", tags=["unheard_of"])
    environment = {**os.environ, "CROUPIER_HOME": str(home), "CROUPIER_CATALOGUE": str(bad), "CROUPIER_STORE": ""}
    del environment["CROUPIER_KEYS"]  # which both warn of
    words = [sys.executable, "-m", "pipelines", command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, cwd=SERVICE.parent)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("croupier: bad.yaml: offer bad_offer: ")
    assert not home.exists()


# --- The catalogue


@pytest.mark.usefixtures("worker")
async def test_a_catalogue_is_promoted_under_way_with_the_rulebook_and_rolled_back(
    opened: Opened, server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    policy.let_follow(store, ONE)
    async with opened() as client:
        files = hashes(client)
        position = await tell(client, adult_events("p-mt"))
        before = await asked(client, "p-mt", after=position)
        summer = own(tmp_path, "summer", cost_minor=77)
        done = await asyncio.to_thread(catalogues.promote, server.url, str(summer), WHY, "ann")
        assert (done.replaced, done.serving, done.reason, done.by) == (files[0], 1, WHY, "ann")
        assert done.evidence == {"rulebook": files[1], "added": 1, "dropped": 1, "changed": 0}
        assert hashes(client) == (done.version, files[1])
        after = await asked(client, "p-mt")
        assert after["policy_version"] in {before["policy_version"], ONE.version, "business_rules"}
        whole = (await client.get(f"/v1/decisions/{before['decision_id']}")).json()
        assert whole["versions"]["catalogue"] == files[0]
        again = await asyncio.to_thread(rulebooks.promote, server.url, str(SERVICE / "rulebook"), WHY, weaker=True)
        assert hashes(client) == (done.version, BOOK.hash) == (done.version, again.version)
        back = await asyncio.to_thread(catalogues.rollback, server.url, WHY)
        assert hashes(client) == (files[0], BOOK.hash) == (back.version, BOOK.hash)
        with pytest.raises(GateRefused, match="no promotion of a catalogue to take back"):
            await asyncio.to_thread(catalogues.rollback, server.url, WHY)
    async with opened() as client:  # a process that begins now does not take its files
        assert hashes(client) == (files[0], BOOK.hash)


@pytest.mark.usefixtures("house")
async def test_a_catalogue_that_does_not_suit_the_rulebook_is_refused_and_the_old_one_serves(
    opened: Opened, server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    async with opened() as client:
        files = hashes(client)
        strange = own(tmp_path, "strange", tags=["unheard_of"])
        with pytest.raises(GateRefused, match=r"^not promoted: strange_offer: .*unheard_of"):
            await asyncio.to_thread(catalogues.promote, server.url, str(strange), WHY)
        with pytest.raises(CatalogueError, match=r"senseless.yaml:.*cost_minor"):
            await asyncio.to_thread(catalogues.promote, server.url, str(own(tmp_path, "senseless", cost_minor=-1)), WHY)
        with pytest.raises(GateRefused, match=r"^nothing is no file of a catalogue"):
            await asyncio.to_thread(catalogues.promote, server.url, "nothing", WHY)
        assert journal(store, "catalogue") == []
        digest = publish(store, "catalogue", bytes_of(load_catalogue(strange)))
        for later in (ONE, TWO):  # the second is looked for after the catalogue was
            await asyncio.to_thread(taken_up, store, later)
        assert digest not in serving_hashes(store, "catalogue")
        assert hashes(client) == files
        assert app_of(client).state.deps.serving.lawful


@pytest.mark.usefixtures("house")
async def test_a_process_that_begins_under_a_catalogue_it_cannot_read_is_silent_until_that_is_taken_back(
    opened: Opened, store: redis.Redis
) -> None:
    publish(store, "catalogue", b"junk")
    async with opened() as client:
        assert not app_of(client).state.deps.serving.lawful
        store.delete(pointer_key("catalogue"))
        for later in (ONE, TWO):
            await asyncio.to_thread(taken_up, store, later)
        assert app_of(client).state.deps.serving.lawful


def taken_up(store: redis.Redis, snapshot: PolicyVersion) -> None:
    """Let a snapshot serve; returns when every process reports it."""
    held = journal(store, "policy")
    entry = new_release(store, "policy", "promote", snapshot.version, serves(held), reason=WHY)
    change(store, entry, snapshot.dumps())


# --- Every kind


class Tried(NamedTuple):
    """How a kind is promoted and rolled back here."""

    kind: str
    promote: Callable[[str], Released]
    rollback: Callable[[str], Released]


def tried(kind: str, tmp_path: Path) -> Tried:
    if kind == "rules":
        folder = str(changed(tmp_path, "younger", "age", under=19))
        return Tried(kind, lambda url: rulebooks.promote(url, folder, WHY), lambda url: rulebooks.rollback(url, WHY))
    if kind == "catalogue":
        file = str(own(tmp_path, "tried"))
        return Tried(kind, lambda url: catalogues.promote(url, file, WHY), lambda url: catalogues.rollback(url, WHY))
    if kind == "experiments":
        return Tried(
            kind,
            lambda url: experiments.hold_out(url, 0.05, WHY),
            lambda url: experiments.rollback(url, WHY),
        )
    return Tried(kind, lambda url: policy.promote(url, WHY), lambda url: policy.rollback(url, WHY, ONE.version))


def learnt(store: redis.Redis, server: Server) -> None:
    """Two snapshots that served, of which a rollback took back the second, and a third that it holds."""
    policy.let_follow(store, ONE)
    policy.let_follow(store, TWO)
    policy.rollback(server.url, WHY)
    policy.let_follow(store, THREE)


def reported(store: redis.Redis, kind: str, milliseconds: int) -> None:
    """A serving process that reports once what serves now and is not heard of again."""
    pointer = store.get(pointer_key(kind))
    told = {kind: pointer.decode() if isinstance(pointer, bytes) else ""}
    store.set(live_key("silent"), json.dumps(told), px=milliseconds)
    store.sadd(LIVE, live_key("silent"))


@pytest.mark.usefixtures("house")
@pytest.mark.parametrize("kind", ["policy", "rules", "catalogue", "experiments"])
def test_a_release_that_one_process_does_not_load_is_taken_back_and_one_that_ended_is_not_waited_for(
    kind: str, store: redis.Redis, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt(store, server)
    does = tried(kind, tmp_path)
    before = store.get(pointer_key(kind)), journal(store, kind), store.get(POLICY_HELD), store.get(POLICY_WAITING)
    reported(store, kind, 60_000)
    monkeypatch.setattr(release, "LIVE_WAIT_SECONDS", 0.1)
    with pytest.raises(StoreError, match=f"^1 serving processes did not load the {kind} release"):
        does.promote(server.url)
    now = store.get(pointer_key(kind)), journal(store, kind), store.get(POLICY_HELD), store.get(POLICY_WAITING)
    assert now == before
    monkeypatch.undo()
    reported(store, kind, 3_000)
    done = does.promote(server.url)
    assert (done.serving, done.silent) == (0, 1)
    assert journal(store, kind)[-1].reason == WHY
    assert does.rollback(server.url).replaced == done.version


@pytest.mark.usefixtures("house")
@pytest.mark.parametrize("kind", ["churn", "policy", "rules", "catalogue"])
@pytest.mark.parametrize("reason", [[], ["--reason", "  "]])
def test_nothing_is_promoted_or_rolled_back_without_a_reason(
    kind: str, reason: list[str], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    monkeypatch.setenv("CROUPIER_HOME", str(tmp_path))
    version = {"churn": ["1"], "policy": [], "rules": [str(SERVICE / "rulebook")], "catalogue": ["nothing"]}[kind]
    for words in (["promote", kind, *version], ["rollback", kind]):
        done = CliRunner().invoke(app, [*words, *reason])
        assert isinstance(done.exception, GateRefused)
        assert str(done.exception) == "say why, for the journal: --reason TEXT"


@pytest.mark.usefixtures("house")
def test_all_journals_are_listed_those_of_the_first_build_too(
    store: redis.Redis, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    monkeypatch.setenv("CROUPIER_HOME", str(tmp_path))
    lists = {
        "churn_promotions": CHURN_PROMOTIONS,
        "policy_changes": POLICY_HISTORY,
        "rulebook_changes": RULES_PROMOTIONS,
    }
    for name, key in lists.items():
        store.rpush(key, *(case.raw.encode() for case in cases(name, 1)))
    catalogues.promote(server.url, str(own(tmp_path, "summer")), "summer offers", "ann")
    every = json.loads(CliRunner().invoke(app, ["releases", "--json"]).stdout)["releases"]
    assert Counter(one["kind"] for one in every) == {"churn": 3, "policy": 3, "rules": 2, "catalogue": 1}
    assert [one["at"] for one in every] == sorted(one["at"] for one in every)
    assert {one["reason"] for one in every} == {"", "summer offers"}
    listed = CliRunner().invoke(app, ["releases", "catalogue"]).stdout.splitlines()
    assert len(listed) == 2
    assert listed[1].split()[1:3] == ["catalogue", "promote"]
    assert listed[1].endswith("ann  summer offers")
    refused = CliRunner().invoke(app, ["releases", "journeys"])
    assert (
        str(refused.exception)
        == "journeys is no kind of release: churn, policy, rules, catalogue, experiments, templates"
    )


@pytest.mark.usefixtures("house")
def test_what_persons_did_stays_in_the_journal_however_much_is_learnt(
    store: redis.Redis, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "_REMEMBERED", 4)
    learnt(store, server)
    policy.promote(server.url, WHY)
    for rows in range(5):
        policy.let_follow(store, msgspec.structs.replace(THREE, number=THREE.number + rows))
    assert [one.action for one in journal(store, "policy")] == ["rollback", "promote", "learn", "learn"]
    assert policy.rollback(server.url, WHY).version == ONE.version


@pytest.mark.usefixtures("house")
def test_mlflow_is_told_once_of_policies_that_somebody_chose_and_of_no_other(
    store: redis.Redis, server: Server, tmp_path: Path
) -> None:
    learnt(store, server)
    settle(tmp_path, store)
    policy.promote(server.url, WHY)
    for _ in range(2):
        registry = settle(tmp_path, store)
    store.delete(POLICY_RECORDED)
    settle(tmp_path, store)
    name, mlflow = registry.settings.models.policy, MlflowClient(registry.settings.tracking.uri)
    versions = sorted(mlflow.search_model_versions(f"name = '{name}'"), key=lambda one: int(one.version))
    assert [one.tags["snapshot"] for one in versions] == [ONE.version, THREE.version]
    assert mlflow.get_model_version_by_alias(name, "champion").tags["snapshot"] == THREE.version
    file = mlflow.download_artifacts(str(versions[1].run_id), "bundle.msgpack", str(tmp_path))
    assert PolicyVersion.loads(Path(file).read_bytes()) == THREE
    assert mlflow.get_run(str(versions[0].run_id)).data.tags["reason"] == WHY
    assert registry.records() == [], "these are the churn model's"
