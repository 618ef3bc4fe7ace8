"""The serving policy version: newer versions follow, a rollback pins one, and a release lets it go."""

from typing import Any

import msgspec
import pytest
import redis
from support.snapshots import ONE, THREE, TWO

from features.store.deployment import create_house
from features.store.keys import pointer_key
from features.store.server import Server
from models.policy.learned import SnapshotError
from models.releases.release import GateRefused, journal
from pipelines.learning import policy


@pytest.fixture
def client(store: redis.Redis) -> redis.Redis:
    create_house(store)
    return store


def serving(client: redis.Redis) -> str:
    found = policy.serving(client)
    assert found is not None
    return found.version


def test_a_later_snapshot_follows_and_an_earlier_one_does_not(client: redis.Redis) -> None:
    assert policy.let_follow(client, TWO)
    assert not policy.let_follow(client, ONE)
    assert not policy.let_follow(client, TWO)
    assert policy.let_follow(client, THREE)
    assert serving(client) == THREE.version


def test_one_learnt_another_way_follows_only_from_no_fewer_rows(client: redis.Redis) -> None:
    policy.let_follow(client, TWO)
    other = msgspec.structs.replace(THREE, lineage="other", rows=TWO.rows - 1)
    assert not policy.let_follow(client, other)
    assert policy.let_follow(client, msgspec.structs.replace(other, rows=TWO.rows))


def test_one_that_cannot_be_served_is_not_published(client: redis.Redis) -> None:
    policy.let_follow(client, ONE)
    with pytest.raises(SnapshotError):
        policy.let_follow(client, msgspec.structs.replace(TWO, smear=float("nan")))
    assert serving(client) == ONE.version


def test_a_rollback_holds_what_is_learnt_until_it_is_let_go(client: redis.Redis, server: Server) -> None:
    policy.let_follow(client, ONE)
    policy.let_follow(client, TWO)
    back = policy.rollback(server.url, "a test", by="ann")
    assert (back.version, back.replaced, back.by) == (ONE.version, TWO.version, "ann")
    assert not policy.let_follow(client, THREE)
    assert serving(client) == ONE.version
    again = policy.promote(server.url, "a test", by="ann")
    assert again.version == THREE.version == serving(client)
    assert [one.action for one in journal(client, "policy")] == ["learn", "learn", "rollback", "promote"]


def test_a_rollback_may_name_a_version_and_refuses_what_is_not_there(client: redis.Redis, server: Server) -> None:
    for one in (ONE, TWO, THREE):
        policy.let_follow(client, one)
    assert policy.rollback(server.url, "a test", TWO.version).version == TWO.version
    for wrong in ("kalman-9-nothing", TWO.version):
        with pytest.raises(GateRefused):
            policy.rollback(server.url, "a test", wrong)
    assert serving(client) == TWO.version


def test_without_a_rollback_there_is_nothing_to_let_go_and_without_a_policy_nothing_to_go_back_to(
    client: redis.Redis, server: Server
) -> None:
    with pytest.raises(GateRefused):
        policy.promote(server.url, "a test")
    with pytest.raises(GateRefused):
        policy.rollback(server.url, "a test")
    pointer: Any = client.get(pointer_key("policy"))
    assert pointer is None


def test_who_let_go_before_anything_was_learnt_can_go_back_a_day_without_naming_a_version(
    client: redis.Redis, server: Server
) -> None:
    for version in (ONE, TWO):
        policy.let_follow(client, version)
    policy.rollback(server.url, "a test")
    policy.promote(server.url, "a test")
    assert policy.let_follow(client, THREE)
    assert policy.rollback(server.url, "a test").version == ONE.version


def test_let_go_before_anything_was_learnt_the_next_one_follows(client: redis.Redis, server: Server) -> None:
    policy.let_follow(client, ONE)
    policy.let_follow(client, TWO)
    policy.rollback(server.url, "a test")
    assert policy.promote(server.url, "a test").version == ONE.version
    assert policy.let_follow(client, THREE)
