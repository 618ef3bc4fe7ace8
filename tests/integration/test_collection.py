"""Snapshots that nothing names are collected; every decision can still be replayed, and every rollback still done."""

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import redis
from integration.test_audit import Story, verified
from integration.test_audit import story as story  # noqa: PLC0414 - a fixture
from support.fault_house import World
from support.snapshots import snapshots
from typer.testing import CliRunner

from features.moments import DAY_US
from features.store.bundles import keep, publish, published
from features.store.keys import (
    BUNDLES,
    COLLECTING,
    LAKE_LEASE,
    POLICY_HELD,
    POLICY_WAITING,
    SHA256_BUNDLES,
    bundle_key,
    live_key,
)
from features.store.keys import LIVE as LIVE_PROCESSES
from models.policy.learned import PolicyVersion
from models.releases.journal import LEARN
from models.releases.release import KINDS, follow, journal, new_release
from pipelines.audit.collection import collect
from pipelines.audit.period import AuditRefused
from pipelines.cli.app import app
from pipelines.lake import compaction
from pipelines.worker.lake import reach
from pipelines.worker.lake_keeping import COLLECTION

MADE = snapshots(9)[3:]


def a_day_later(client: redis.Redis) -> None:
    """Let a day go by for all that was noted."""
    for name, at in client.hgetall(COLLECTING).items():  # type: ignore[union-attr]
        client.hset(COLLECTING, name.decode(), str(int(at) - DAY_US))


def kept(client: redis.Redis, snapshot: PolicyVersion) -> str:
    return keep(client, snapshot.dumps(), snapshot.version)


def is_kept(client: redis.Redis, snapshot: PolicyVersion) -> bool:
    return published(client, snapshot.version) == snapshot.dumps()


def collected(client: redis.Redis, lake: Path) -> set[str]:
    """Versions that go, once noted and a day later."""
    collect(client, lake)
    a_day_later(client)
    return {one.version for one in collect(client, lake) if one.goes}


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    return tmp_path / "lake"


@pytest.mark.usefixtures("house")
def test_what_nothing_names_goes_a_day_after_that_was_noted(store: redis.Redis, lake: Path) -> None:
    digest = kept(store, MADE[0])
    noted = collect(store, lake)
    assert [(one.version, one.goes) for one in noted] == [(MADE[0].version, False)]
    assert collect(store, lake)[0].since == noted[0].since
    a_day_later(store)
    assert [one.goes for one in collect(store, lake, dry_run=True)] == [True]
    assert is_kept(store, MADE[0]), "a dry run changes nothing"
    assert [one.goes for one in collect(store, lake)] == [True]
    assert not store.hexists(BUNDLES, MADE[0].version)
    assert not store.exists(bundle_key(digest))
    assert collect(store, lake) == []
    assert set(store.hkeys(COLLECTING)) == {b"looked"}  # type: ignore[arg-type]


@pytest.mark.usefixtures("house")
@pytest.mark.parametrize("by", ["pointer", "journal", "replaced", "held", "waiting", "a process", "another again"])
def test_what_something_names_stays(store: redis.Redis, lake: Path, by: str) -> None:
    first, second = MADE[:2]
    digest = kept(store, first)
    match by:
        case "pointer":
            publish(store, "policy", first.dumps())
        case "journal":
            follow(store, new_release(store, "policy", LEARN, first.version, None, by="t"), first.dumps())
            follow(store, new_release(store, "policy", LEARN, second.version, first.version, by="t"), second.dumps())
        case "replaced":
            follow(store, new_release(store, "policy", LEARN, second.version, first.version, by="t"), second.dumps())
        case "held":
            store.set(POLICY_HELD, first.version)
        case "waiting":
            store.set(POLICY_WAITING, first.version)
        case "a process":
            store.sadd(LIVE_PROCESSES, live_key("1"))
            store.set(live_key("1"), json.dumps({"policy": digest}))
        case "another again":
            collect(store, lake)
            a_day_later(store)
            store.set(POLICY_WAITING, first.version)
            collect(store, lake)
            store.delete(POLICY_WAITING)
            assert [one.goes for one in collect(store, lake)] == [False], "its day begins anew"
    if by != "another again":
        assert collected(store, lake) == set()
    assert is_kept(store, first)


@pytest.mark.usefixtures("house")
def test_other_kinds_of_bundles_stay(store: redis.Redis, lake: Path) -> None:
    named = [(b'{"a": 1}', "0123456789ab"), (b"model", "croupier-churn/1"), (b"", None)]
    before = {keep(store, bundle, version) for bundle, version in named}
    assert collected(store, lake) == set()
    assert before <= {key.decode().rpartition(":")[2] for key in store.scan_iter(SHA256_BUNDLES)}


@pytest.mark.usefixtures("house")
def test_beside_a_lake_that_lacks_what_the_log_had_nothing_is_collected(store: redis.Redis, lake: Path) -> None:
    kept(store, MADE[0])
    store.hset(LAKE_LEASE, "watermark", "1790000000000000")
    with pytest.raises(AuditRefused, match="is not the lake"):
        collect(store, lake)
    store.hset(LAKE_LEASE, "watermark", "0")
    folder = lake / "decisions" / "day=2026-01-01"
    folder.mkdir(parents=True)
    (folder / "1-2.parquet").write_bytes(b"nothing")
    with pytest.raises(AuditRefused, match="cannot be read"):
        collect(store, lake)
    assert is_kept(store, MADE[0])


def test_afterwards_every_decision_is_replayed_and_every_rollback_possible(story: Story, tmp_path: Path) -> None:
    """In the log, in the lake and in a lake whose days became one file."""
    world: World = story.world
    client = world.client
    before = verified(world)
    ways = {
        (kind, version)
        for kind in KINDS
        for entry in journal(client, kind)
        for version in (entry.version, entry.replaced)
        if version is not None and published(client, version) is not None
    }
    for snapshot in MADE:
        kept(client, snapshot)
    assert collected(client, world.lake) == {snapshot.version for snapshot in MADE}
    whole = tmp_path / "whole"
    shutil.copytree(world.lake, whole)
    for task in compaction.tasks(whole, date.max, reach(whole).flushed):
        compaction.compact(task)
    assert collected(client, whole) == set()
    after = verified(world)
    assert (after.first_fault, after.checked, after.reproduced, after.not_recomputable) == (
        before.first_fault,
        before.checked,
        before.reproduced,
        before.not_recomputable,
    )
    assert all(published(client, version) is not None for _, version in ways)


@pytest.mark.usefixtures("house")
def test_by_hand_it_says_what_goes_and_a_worker_does_it_once_a_day(
    store: redis.Redis, lake: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROUPIER_HOME", str(lake.parent))
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    assert not COLLECTION.waits(store), "a new house has nothing to collect"
    kept(store, MADE[0])
    told = CliRunner().invoke(app, ["lake", "collect"]).stdout
    assert "0 snapshots were deleted, 0.0 MB; 1 wait for their day" in told
    assert not COLLECTION.waits(store)
    a_day_later(store)
    assert COLLECTION.waits(store)
    dry = json.loads(CliRunner().invoke(app, ["lake", "collect", "--dry-run", "--json"]).stdout)["snapshots"]
    assert [(one["version"], one["goes"]) for one in dry] == [(MADE[0].version, True)]
    assert "1 snapshots were deleted" in CliRunner().invoke(app, ["lake", "collect"]).stdout
    assert not COLLECTION.waits(store)
