"""Experiments that are started, ramped and stopped in a running house, and the commands for it."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml
from conftest import Opened, app_of
from support.callers import asked, player_of, variant_of
from support.experiment_lakes import experiment
from support.players import adult_events, tell
from support.rule_cases import HOUSE
from typer.testing import CliRunner

from features.files import CatalogueError
from features.store.bundles import publish
from features.store.errors import StoreError
from features.store.keys import pointer_key
from features.store.server import Server
from models.experiments.assignment import Splits
from models.experiments.definition import GlobalHoldout
from models.releases.release import GateRefused, journal
from pipelines.cli.app import app
from pipelines.experiments import releases
from pipelines.machine import up
from pipelines.rules import catalogues
from pipelines.rules.explain import explain
from pipelines.served import served_experiments
from service.decisions.record import VERSION

WHY = "a test"
NAMES = [f"member-{number}" for number in range(300)]


def summer(tmp_path: Path) -> Path:
    """A file with one experiment."""
    shares = {"control": (0.2, "none"), "ours": (0.5, "learnt"), "fixed": (0.3, "business_rules")}
    variants = [{"name": name, "share": share, "policy": policy} for name, (share, policy) in shares.items()]
    file = tmp_path / "summer.yaml"
    said = {"version": 1, "layers": [{"layer": "policy", "experiments": [{"key": "summer", "variants": variants}]}]}
    file.write_text(yaml.safe_dump(said), "utf8")
    return file


def plain(tmp_path: Path) -> Path:
    """The house's catalogue without an experiment."""
    said = yaml.safe_load((Path(up.__file__).parents[2] / "service" / "catalogue.yaml").read_text("utf8"))
    del said["experiment"]
    file = tmp_path / "plain.yaml"
    file.write_text(yaml.safe_dump(said, sort_keys=False), "utf8")
    return file


def splits(client: httpx.AsyncClient) -> Splits:
    """How the application splits players."""
    found: Splits = app_of(client).state.deps.serving.splits
    return found


def reasons(answer: dict[str, Any]) -> set[str]:
    return {one["rule"] for one in answer.get("exclusions", ())}


def held_out(split: Splits, names: Iterable[str] = NAMES) -> list[str]:
    return [name for name in names if "global_holdout" in split.assign(name).withheld]


@pytest.mark.usefixtures("worker")
async def test_the_global_holdout_silences_whom_it_takes_moves_nobody_and_is_taken_back(
    opened: Opened, server: Server, store: redis.Redis
) -> None:
    async with opened() as client:
        before = {name: splits(client).assign(name).memberships[0].variant for name in NAMES}
        assert held_out(splits(client)) == []
        assert before == {name: variant_of(name) for name in NAMES}
        done = await asyncio.to_thread(releases.hold_out, server.url, 0.05, WHY, "ann")
        assert (done.kind, done.action, done.serving, done.by, done.reason) == ("experiments", "promote", 1, "ann", WHY)
        assert done.evidence["global_holdout"] == 0.05
        assert done.evidence["moved"] == {"policy_2026": 0.0}
        held = held_out(splits(client))
        player = next(name for name in held if before[name] == "policy")
        position = await tell(client, adult_events(player))
        answer = await asked(client, player, after=position)
        assert (answer["action"], answer["experiment"]["variant"]) == ("NO_CONTACT", "policy")
        assert "global_holdout" in reasons(answer)
        assert answer["propensity"] == 1.0
        shown = (await client.get(f"/v1/players/{player}")).json()
        assert "global_holdout" in {one["rule"] for one in shown["denied"]}
        assert shown["experiments"][0]["version"] == done.version
        told = await asyncio.to_thread(explain, server.url, player)
        assert [one["rule"] for one in told["denied"]] == [one["rule"] for one in shown["denied"]]
        assert {name: splits(client).assign(name).memberships[0].variant for name in NAMES} == before
        with pytest.raises(GateRefused, match=r"^that is what serves already$"):
            await asyncio.to_thread(releases.hold_out, server.url, 0.05, WHY)
        back = await asyncio.to_thread(releases.rollback, server.url, WHY)
        assert (back.version, held_out(splits(client))) == (done.replaced, [])
        assert journal(store, "experiments")[-1].action == "rollback"


@pytest.mark.usefixtures("worker")
async def test_an_experiment_takes_the_place_of_the_catalogues_ramps_in_phases_and_ends(
    opened: Opened, server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    async with opened() as client:
        player = player_of("policy")
        position = await tell(client, adult_events(player))
        first = await asked(client, player, after=position)
        with pytest.raises(GateRefused, match="policy_2026 and summer take the same players; give them ranges apart"):
            await asyncio.to_thread(releases.start, server.url, summer(tmp_path), WHY)
        await asyncio.to_thread(releases.stop, server.url, "policy_2026", WHY)
        alone = await asked(client, player)
        assert (alone["experiment"], first["experiment"]["key"]) == (None, "policy_2026")
        done = await asyncio.to_thread(releases.start, server.url, summer(tmp_path), WHY)
        assert done.evidence["shares"] == {"summer": {"control": 0.2, "fixed": 0.3, "ours": 0.5}}
        before = {name: splits(client).assign(name).memberships[0] for name in NAMES}
        answer = await asked(client, player)
        assert answer["experiment"] == {
            "key": "summer",
            "variant": splits(client).assign(player).memberships[0].variant,
        }
        ramped = await asyncio.to_thread(releases.ramp, server.url, "summer", {"ours": 0.7, "fixed": 0.1}, WHY)
        assert (ramped.evidence["phases"], ramped.evidence["moved"]) == ({"summer": 2}, {"summer": 0.2})
        after = {name: splits(client).assign(name).memberships[0] for name in NAMES}
        assert {before[name].variant for name in NAMES if before[name].variant != after[name].variant} == {"fixed"}
        assert {member.phase for member in after.values()} == {2}
        await asyncio.to_thread(releases.rollback, server.url, WHY)
        assert {name: splits(client).assign(name).memberships[0] for name in NAMES} == before
        again = await asyncio.to_thread(releases.ramp, server.url, "summer", {"ours": 0.6, "fixed": 0.2}, WHY)
        assert again.evidence["phases"] == {"summer": 3}, "no two sets of shares have one number"
        gone = await asyncio.to_thread(releases.stop, server.url, "summer", WHY)
        with pytest.raises(GateRefused, match=r"^summer was stopped"):
            await asyncio.to_thread(releases.start, server.url, summer(tmp_path), WHY)
    assert served_experiments(store).hash == gone.version
    async with opened() as client:  # a process that begins now
        assert splits(client).experiments.hash == gone.version


@pytest.mark.usefixtures("worker")
async def test_a_second_experiment_leaves_out_what_it_says_beside_the_first(
    opened: Opened, server: Server, tmp_path: Path
) -> None:
    offers = [offer.id for offer in HOUSE.offers if offer.promotional]
    said = {
        "key": "fewer",
        "variants": [{"name": "fewer", "share": 1, "leave_out": {"offers": offers[1:], "channels": ["sms"]}}],
    }
    file = tmp_path / "fewer.yaml"
    file.write_text(yaml.safe_dump({"layers": [{"layer": "offers", "experiments": [said]}]}), "utf8")
    async with opened() as client:
        await asyncio.to_thread(releases.start, server.url, file, WHY)
        player = player_of("policy")
        position = await tell(client, adult_events(player))
        answer = await asked(client, player, after=position, explain=True)
        shown = (await client.get(f"/v1/players/{player}")).json()
        record = (await client.get(f"/v1/decisions/{answer['decision_id']}")).json()
        version = splits(client).experiments.hash
        assert [(one["key"], one["variant"]) for one in answer["experiments"]] == [
            ("fewer", "fewer"),
            ("policy_2026", "policy"),
        ]
        assert answer["experiment"] == {"key": "fewer", "variant": "fewer"}
        assert record["experiments"] == answer["experiments"] == shown["experiments"]
        assert {one["version"] for one in answer["experiments"]} == {record["versions"]["experiments"]} == {version}
        assert (record["use"], record["format"], record["role"]) == ("train", VERSION, "drawn")
        assert {one["offer"] for one in shown["allowed"]} <= {offers[0]}
        assert "sms" not in {one["channel"] for one in shown["allowed"]}
        assert "left_out" in {one["rule"] for one in shown["denied"]}
        strange = {"key": "y", "variants": [{"name": "a", "share": 1, "leave_out": {"offers": ["unheard_of"]}}]}
        file.write_text(yaml.safe_dump({"layers": [{"layer": "x", "experiments": [strange]}]}), "utf8")
        with pytest.raises(GateRefused, match=r"^y: 'unheard_of' is no offer of the catalogue"):
            await asyncio.to_thread(releases.start, server.url, file, WHY)


@pytest.mark.usefixtures("house")
async def test_a_process_that_begins_under_experiments_it_cannot_read_leaves_everybody_alone(
    opened: Opened, server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    publish(store, "experiments", b"junk")
    async with opened() as client:
        assert held_out(splits(client)) == NAMES
        await asyncio.to_thread(catalogues.promote, server.url, str(plain(tmp_path)), WHY)
        assert held_out(splits(client)) == NAMES, "another catalogue opens no holdout"
    store.delete(pointer_key("experiments"))
    async with opened() as client:
        assert held_out(splits(client)) == []


@pytest.mark.usefixtures("house")
def test_experiments_that_are_gone_or_unreadable_stop_changes_and_are_rolled_back(
    server: Server, store: redis.Redis
) -> None:
    for share in (0.05, 0.06):
        releases.hold_out(server.url, share, WHY)
    for broken in (b"no such bundle", None):
        if broken is None:
            publish(store, "experiments", b"junk")
        else:
            store.set(pointer_key("experiments"), broken)
        with pytest.raises((StoreError, CatalogueError), match=r"experiments"):
            releases.hold_out(server.url, 0.07, WHY)
    releases.rollback(server.url, WHY)
    assert served_experiments(store).holdout == GlobalHoldout(share=0.05)


@pytest.mark.usefixtures("house")
def test_a_key_that_ran_never_begins_anew_whatever_was_rolled_back(server: Server, tmp_path: Path) -> None:
    releases.stop(server.url, "policy_2026", WHY)
    releases.start(server.url, summer(tmp_path), WHY)
    releases.rollback(server.url, WHY)
    with pytest.raises(GateRefused, match=r"^summer ran already"):
        releases.start(server.url, summer(tmp_path), WHY)


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.usefixtures("house")
def test_the_commands_as_a_person_types_them(
    store: redis.Redis, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    monkeypatch.setenv("CROUPIER_HOME", str(tmp_path))
    assert "by the catalogue; global holdout 0.00% of all players" in run("experiment", "list")
    started = json.loads(run("experiment", "start", "--holdout", "0.05", "--reason", "yardstick", "--json"))
    assert (started["global_holdout"], started["experiments"]) == (0.05, ["policy_2026"])
    run("experiment", "ramp", "global_holdout", "holdout=0.06", "--reason", "more")
    run("experiment", "ramp", "policy_2026", "policy=0.5", "business_rules=0.3", "--reason", "it works")
    listed = run("experiment", "list").splitlines()
    assert listed[0].endswith("by release; global holdout 6.00% of all players.")
    assert listed[1] == "policy_2026, phase 2, layer policy, players 0 to 1:"
    assert "   50.00%  policy: learnt"[1:] in [line[1:] for line in listed]
    assert [line.rpartition(": ")[2] for line in listed[-3:]] == ["yardstick", "more", "it works"]
    found = json.loads(run("catalogue", "lint", "--json"))
    assert found["findings"][-1]["what"].startswith("ignored, because experiments were released")
    assert len(journal(store, "experiments")) == 3
    for words, why in {
        ("ramp", "policy_2026", "policy=half", "--reason", "x"): "shares are told as NAME=SHARE",
        ("ramp", "policy_2026", "policy=0.1", "policy=0.2", "--reason", "x"): "a variant is named twice",
        ("ramp", "global_holdout", "policy=0.1", "--reason", "x"): "of global_holdout only the share of holdout",
        ("start", "--reason", "x"): "name a file of experiments, or --holdout",
        ("stop", "winter", "--reason", "x"): "'winter' is no running experiment",
        ("stop", "policy_2026"): "say why, for the journal: --reason TEXT",
    }.items():
        assert why in str(CliRunner().invoke(app, ["experiment", *words]).exception)


def test_a_new_house_has_a_global_holdout_and_one_that_stood_gets_none(
    store: redis.Redis, server: Server, tmp_path: Path
) -> None:
    options = up.Options(tmp_path, players=0)
    up.settle_in(store, options, server.url)
    (entry,) = journal(store, "experiments")
    assert (entry.reason, entry.evidence["global_holdout"]) == ("the house was created", 0.05)
    store.delete(pointer_key("experiments"), "croupier:promotions:experiments")
    up.settle_in(store, options, server.url)
    assert journal(store, "experiments") == []
    assert served_experiments(store).holdout is None


@pytest.mark.usefixtures("house")
def test_a_catalogue_without_an_experiment_may_serve(server: Server, store: redis.Redis, tmp_path: Path) -> None:
    catalogues.promote(server.url, str(plain(tmp_path)), WHY)
    assert list(served_experiments(store).running) == []


@pytest.mark.usefixtures("house")
def test_every_command_of_the_page_about_experiments_does_what_the_page_says(
    server: Server, store: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(up.__file__).parents[2] / "docs" / "experiments.md").read_text("utf8")
    (tmp_path / "summer.yaml").write_text(page.partition("<<'END'\n")[2].partition("\nEND\n")[0], "utf8")
    experiment(500, 1, days=28).write(tmp_path / "lake")
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    monkeypatch.setenv("CROUPIER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    lines = [line for line in page.splitlines() if line.startswith("croupier ")]
    said = [run(*shlex.split(line)[1:]) for line in lines]
    assert len(said) == 9
    assert "ours against control: " in said[0]
    assert "summer_2026, phase 2, layer policy, players 0 to 1:" not in said[5]
    entries = journal(store, "experiments")
    assert [entry.action for entry in entries] == ["promote"] * 4 + ["rollback"] + ["promote"] * 2
    assert served_experiments(store).holdout is not None
