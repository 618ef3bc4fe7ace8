"""The image of a player's features in a running house: drawn by whoever reads first, never of somebody erased."""

from collections.abc import Mapping
from typing import Any

import pytest
from support.fault_house import Caller, World

from features import image
from features.aggregates import empty
from features.read_plan import ReadPlan
from features.schema import STORED
from features.store.connection import Store, TimedStore
from features.store.keys import PlayerKeys
from service.contacts.snapshot import NO_DECISION, read_snapshot


@pytest.fixture
def keys(world: World, plan: ReadPlan, caller: Caller) -> PlayerKeys:
    """Keys of a player who did something."""
    caller.welcome("p")
    world.apply()
    key = world.house.player_key("p")
    return PlayerKeys(key, plan.key(key))


def held(world: World, keys: PlayerKeys) -> Any:
    return world.client.hgetall(keys.features)  # type: ignore[arg-type]


async def seen(world: World, keys: PlayerKeys, plan: ReadPlan) -> Mapping[bytes, bytes | None]:
    store = Store(world.server.url, most=4)
    snapshot = await read_snapshot(TimedStore(store), keys, NO_DECISION, plan)
    await store.close()
    assert snapshot.features is not None
    return snapshot.features


async def test_an_image_that_is_missing_or_outdated_is_drawn_by_whoever_reads_first(
    world: World, plan: ReadPlan, keys: PlayerKeys
) -> None:
    before = held(world, keys)
    for other in (None, b"", b"of another build", before[image.FIELD][:-1] + b"!"):
        if other is None:
            world.client.hdel(keys.features, image.FIELD)  # type: ignore[arg-type]
        else:
            world.client.hset(keys.features, image.FIELD, other)  # type: ignore[arg-type]
        found = image.load(await seen(world, keys, plan), plan)
        assert found is not None
        assert found.tobytes() == before[image.FIELD][: found.nbytes]
        assert held(world, keys) == before


async def test_no_image_is_left_of_somebody_who_was_erased_meanwhile(
    world: World, plan: ReadPlan, keys: PlayerKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = image.draw

    def erased(found: Mapping[bytes, bytes], by: ReadPlan) -> bytes | None:
        world.client.delete(keys.features)
        world.client.hset(keys.features, image.APPLIED, "9999999999999-0")  # type: ignore[arg-type]
        return draw(found, by)

    world.client.hdel(keys.features, image.FIELD)  # type: ignore[arg-type]
    monkeypatch.setattr(image, "draw", erased)
    await seen(world, keys, plan)
    assert held(world, keys).keys() == {image.APPLIED}


async def test_a_store_without_room_is_read_without_an_image(world: World, plan: ReadPlan, keys: PlayerKeys) -> None:
    world.client.hdel(keys.features, image.FIELD)  # type: ignore[arg-type]
    before = held(world, keys)
    world.client.config_set("maxmemory", "1")
    assert await seen(world, keys, plan) == before
    world.client.config_set("maxmemory", "0")
    assert held(world, keys) == before


class _Feast:
    """Writes one view of a player between what a worker reads and what it writes, once."""

    def __init__(self, world: World, keys: PlayerKeys, plan: ReadPlan, view: bytes | None) -> None:
        self._world, self._keys, self._view = world, keys, view
        self.moment = plan.encode(empty(), 2**52)[-1]

    def __call__(self, step: str) -> None:
        if step == "apply" and self._view is not None:
            self._world.client.hset(self._keys.features, self._view, self.moment)  # type: ignore[arg-type]
            self._view = None


@pytest.mark.parametrize("seen", ["image", "none", "outdated"])
def test_a_worker_folds_once_whatever_the_image_tells_and_feast_writes_meanwhile(
    world: World, caller: Caller, plan: ReadPlan, keys: PlayerKeys, seen: str
) -> None:
    if seen != "image":
        world.client.hset(keys.features, image.FIELD, b"" if seen == "none" else b"of another build")  # type: ignore[arg-type]
    before = plan.decode([held(world, keys).get(name) for name in plan.fields]).values
    at = [one.name for one in STORED].index("bet_week_0")
    caller.event("p", type="bet", amount_minor=700, product="casino")
    consumer = world.consumer(_Feast(world, keys, plan, plan.fields[-1] if seen == "image" else None))
    for _ in range(3):
        consumer.renew()
        consumer.step(1)
    consumer.release()
    after = held(world, keys)
    values = plan.decode([after.get(name) for name in plan.fields]).values
    assert values[at] == (before[at] or 0) + 700
    assert image.values(after, plan) == values
    assert after[image.APPLIED] != b""
