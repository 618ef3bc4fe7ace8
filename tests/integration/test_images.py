"""The image of a player's features in a running house: drawn by whoever reads first, never of somebody erased."""

from collections.abc import Mapping
from typing import Any

import pytest
from support.fault_house import Caller, World

from features import image
from features.read_plan import ReadPlan
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
