"""Readiness: a process is ready once its probe was served in time; the probe leaves no data behind."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from support.fault_house import World, calling
from support.faulty_store import Between, Fault

from features.store.bundles import READY, serving_hashes
from service.api.readiness import TIMES

LATE = 0.3
"""Longer than a decision may take, so a store this slow serves nobody."""


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not await true():  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(0.01)


async def ready(caller: httpx.AsyncClient) -> bool:
    answer = await caller.get("/readyz")
    assert answer.status_code in {200, 503}
    return answer.status_code == 200


async def test_a_process_is_ready_when_it_is_there_and_leaves_nothing_but_what_ends_by_itself(world: World) -> None:
    before = {key for key in everything(world) if not key.startswith(b"croupier:bundle")}
    async with calling(world.server.url) as caller:
        assert await ready(caller)
        left = {key for key in everything(world) if not key.startswith(b"croupier:bundle")} - before
        assert left
        for key in left:
            assert key.startswith((b"croupier:probe:", b"croupier:live"))
        assert all(0 < int(str(world.client.ttl(key))) <= 60 for key in left if b"probe" in key)
        assert "croupier_decisions_total{" not in (await caller.get("/metrics")).text
        await until(lambda: asyncio.to_thread(lambda: serving_hashes(world.client, READY) == ["yes"]))


def everything(world: World) -> list[bytes]:
    keys: Any = world.client.keys("*")
    return list(keys)


async def test_a_process_whose_store_is_too_slow_is_not_ready_before_it_is_fast_enough(
    world: World, between: Between
) -> None:
    between.delay = LATE
    async with calling(between.url) as caller:
        answer = await caller.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert await asyncio.to_thread(lambda: serving_hashes(world.client, READY)) == [None]
        between.delay = 0
        await until(lambda: ready(caller))


async def test_a_process_whose_write_was_not_acknowledged_is_not_ready_before_the_next_ones_are(
    between: Between,
) -> None:
    between.fault = Fault("SET croupier", "before", "hang")  # what else is written, a full store takes too
    async with calling(between.url) as caller:
        assert (await caller.get("/readyz")).status_code == 503  # whoever asks may meet the same connection
        await until(lambda: ready(caller))


async def test_a_process_that_lost_its_store_is_ready_again_only_when_it_was_seen_to_serve_again(
    world: World, between: Between
) -> None:
    async with calling(between.url) as caller:
        assert await ready(caller)
        world.server.stop()
        assert not await ready(caller)
        between.calls.clear()
        world.restart()
        await until(lambda: ready(caller))
        assert between.calls.count("MULTI") >= TIMES
