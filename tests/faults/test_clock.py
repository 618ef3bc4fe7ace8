"""The store's clock set forward and back: log positions only grow, no entry is lost, no limit overstepped."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clock import COMPILER, Clock
from support.fault_house import Caller, World, players, rows, until

from features.moments import moment
from features.read_plan import ReadPlan
from features.steps import Step, no_step
from features.store.deployment import order, real_now_us
from features.store.keys import LAKE_LEASE
from pipelines.worker.lake import Lake, reach

HOUR = 3_600
JUMPS = [HOUR, -HOUR, 26 * HOUR, 0, -2 * HOUR, 0]
"""Offsets of the store's clock from this machine's, one after the other."""
pytestmark = pytest.mark.skipif(COMPILER is None, reason="the lie about the time is compiled, and there is no compiler")


def jump(world: World, clock: Clock, seconds: int) -> None:
    """Set the store's clock, and wait until it looked: it does so once a millisecond at most."""
    clock.set(seconds)
    until(lambda: abs(real_now_us(world.client) / 1e6 - time.time() - seconds) < 60)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def world(tmp_path: Path, plan: ReadPlan, clock: Clock) -> Iterator[World]:
    with World(tmp_path, plan, clock.environment) as made:
        yield made


def places(world: World) -> dict[str, list[tuple[int, int]]]:
    """Places of each partition's entries, in the order of its chain of files."""
    found: dict[str, list[tuple[int, int]]] = {}
    for table in ("events", "decisions", "outcomes"):
        for (place,) in rows(world.lake, table, "position"):
            found.setdefault(place[:4], []).append(order(place[5:]))
    return found


def test_the_lie_is_believed_by_the_store_alone(world: World, clock: Clock) -> None:
    before = real_now_us(world.client)
    jump(world, clock, HOUR)
    assert HOUR - 60 < (real_now_us(world.client) - before) / 1e6 < HOUR + 60


def test_whatever_the_clock_does_everything_stands_in_the_lake_once_and_at_once(
    world: World, clock: Clock, caller: Caller
) -> None:
    """After every jump the next flush has all that was told, and its boundary lies behind the last one's."""
    people = players("p", 3)
    for player in people:
        caller.welcome(player)
    world.apply()
    world.flush()
    reached = reach(world.lake).flushed
    for offset in JUMPS:
        jump(world, clock, offset)
        for flushed in (False, True):
            for player in people:
                assert caller.event(player, occurred_at=moment_of(world)).status_code == 200
                assert caller.ask(player, channels=["email", "in_app"]).status_code == 200
            if flushed:
                world.apply()
            world.keeps(caller)
            assert reach(world.lake).flushed > reached
            reached = reach(world.lake).flushed
    for partition, found in places(world).items():
        assert len(set(found)) == len(found), f"one place twice in {partition}"


def moment_of(world: World) -> str:
    """What the house's clock shows, as callers tell it."""
    return moment(world.house.now_us(real_now_us(world.client))).isoformat()


def test_entries_that_features_still_miss_are_not_written_again_when_the_clock_was_set_back(
    world: World, clock: Clock, caller: Caller
) -> None:
    """The log keeps them after they were flushed; a boundary that went back would write them twice."""
    (player,) = players("p")
    caller.welcome(player)
    world.flush()
    jump(world, clock, -HOUR)
    world.flush()
    jump(world, clock, 0)
    caller.event(player)
    world.keeps(caller)


def test_a_log_only_grows_and_features_miss_nothing(world: World, clock: Clock, caller: Caller) -> None:
    (player,) = players("p")
    caller.welcome(player)
    told: list[tuple[int, int]] = []
    for offset in JUMPS:
        jump(world, clock, offset)
        for _ in range(3):
            approved = {"type": "deposit", "status": "approved", "method": "card", "amount_minor": 100}
            answer = caller.event(player, occurred_at=moment_of(world), **approved)
            told.append(order(answer.json()["position"][5:]))
        world.apply()
        found = caller.ask(player, dry_run=True, explain=True).json()
        assert found["features"]["values"]["deposit_count"] == 2 + len(told)
    assert told == sorted(set(told))


def test_a_partition_has_one_owner_at_a_time_and_the_one_before_is_fenced(
    world: World, clock: Clock, caller: Caller
) -> None:
    """Forward, a lease runs out under its owner; back, nobody has to wait for a clock that is hours away."""
    (player,) = players("p")
    caller.welcome(player)
    first, second = world.consumer(), world.consumer()
    first.renew()
    second.renew()
    assert (len(first.owned), len(second.owned)) == (256, 0)
    jump(world, clock, HOUR)
    second.renew()
    assert len(second.owned) == 256
    assert first.step(1) > 0
    lease = f"lease:{world.house.player_key(player)[:6]}"
    assert not world.client.hexists(lease, "cursor"), "who lost a partition went on with it"
    first.renew()
    assert not first.owned
    assert second.step(1) > 0
    assert world.client.hexists(lease, "cursor")
    jump(world, clock, -HOUR)
    third = world.consumer_beside()
    third.renew()
    assert len(third.owned) == 256, "the dead would hold their partitions for hours"
    second.renew()
    assert not second.owned
    told = caller.ask(player, dry_run=True, explain=True).json()
    assert told["features"]["values"]["deposit_count"] == 2


def test_two_writers_of_the_lake_never_overlap_though_the_lease_ran_out(
    world: World, clock: Clock, caller: Caller
) -> None:
    """The first is in the middle of its flush when the clock is set forward and a second one takes the lake."""
    (player,) = players("p")
    caller.welcome(player)
    caller.ask(player)
    reached, go_on = threading.Event(), threading.Event()

    def wait(step: str) -> None:
        if step == "gather":
            reached.set()
            assert go_on.wait(60)

    def lease(owner: str) -> Any:
        return world.client.fcall("croupier_lease", 1, LAKE_LEASE, owner, "15000000")

    def flush(step: Step = no_step) -> int:
        return Lake(world.client, world.lake, step).flush()

    assert lease("first")
    slow = threading.Thread(target=flush, args=(wait,))
    slow.start()
    assert reached.wait(60)
    jump(world, clock, HOUR)
    assert lease("second")
    caller.ask(player)
    assert flush() == 0, "two flushes at once"
    go_on.set()
    slow.join()
    assert flush() > 0
    world.keeps(caller)


def test_caps_hold_however_the_clock_jumps_within_a_day(world: World, clock: Clock, caller: Caller) -> None:
    """At most two contacts a player in any day of the house's clock, counted at their sending."""
    (player,) = players("p")
    caller.welcome(player)
    world.apply()
    # What is drawn below may all be for later.
    assert caller.confirm(caller.contact(player, channels=["email", "in_app"])).status_code == 200
    for offset in (0, 2 * HOUR, -HOUR, 3 * HOUR, 0):
        jump(world, clock, offset)
        world.apply()
        for number in range(10):
            asked = {"channels": ["email", "in_app"], "activate": number % 2 == 0}
            assert caller.ask(player, **asked).status_code == 200
        for decision in world.ledger(player):
            assert caller.confirm(decision).status_code in {200, 409}
    confirmed = [entry for entry in world.ledger(player).values() if entry.split(" ")[2] == "confirmed"]
    sent = sorted(int(entry.split(" ")[0]) for entry in confirmed)
    assert sent
    day = 24 * HOUR * 1_000_000
    assert all(later - earlier >= day for earlier, later in zip(sent, sent[2:], strict=False)), confirmed
