"""Retries under one request id after a 503: all get the one recorded decision, however late the store was."""

import asyncio
import os
import sys
from random import Random
from typing import Any, Final

import httpx
import pytest
from support.fault_house import World, calling, once, players, rows
from support.faulty_store import Between
from support.players import adult_events

from features.store.keys import decision_key
from service.decisions.kept import load_stored

STORIES: Final = 1_000 if os.environ.get("CROUPIER_FAULTS") == "all" else 200
AT_ONCE: Final = 8
TRIES: Final = 200
SLOWEST_SECONDS: Final = 0.06
"""Of two calls on their way to the store and back; deadlines lie in between, so that any of them may be missed."""


async def asked(caller: httpx.AsyncClient, random: Random, body: dict[str, Any]) -> list[httpx.Response]:
    """Answers to a request that is sent again and again, now and then twice at once, until it is answered."""
    answers: list[httpx.Response] = []
    for _ in range(TRIES):
        told = body | {"deadline_ms": random.randint(10, int(SLOWEST_SECONDS * 2_000))}
        twice = [caller.post("/v1/decisions", json=told) for _ in range(random.choice((1, 1, 2)))]
        found = await asyncio.gather(*twice)
        answers += found
        if any(one.status_code == 200 for one in found):
            return answers
    raise AssertionError("it was never answered")


@pytest.mark.parametrize("seed", range(2))
async def test_a_retry_gets_the_recorded_answer_however_late_the_store_took_what_came_before(
    world: World, between: Between, seed: int
) -> None:
    random = Random(seed)
    names = players(f"r{seed}-", STORIES // 2)
    late, decisions = 0, []

    async def retried(caller: httpx.AsyncClient, name: str, turn: asyncio.Semaphore) -> None:
        nonlocal late
        body = {"player_id": name, "request_id": "once", "channels": ["email", "in_app", "push"]}
        async with turn:
            answers = await asked(caller, random, body)
        late += answers[0].status_code == 503
        for one in answers:
            assert one.status_code in {200, 503}
            assert one.status_code == 503 or one.json()["recorded"], "a request with an id was answered unrecorded"
        given = {one.content for one in answers if one.status_code == 200}
        assert len(given) == 1, "two answers to one request"
        (decision,) = {one.json()["decision_id"] for one in answers if one.status_code == 200}
        decisions.append(decision)
        held = await asyncio.to_thread(world.client.get, decision_key(decision))
        assert load_stored(held).kept.decision_id == decision  # type: ignore[arg-type]
        assert set(world.ledger(name)) <= {decision}, "a second contact is reserved"

    turn = asyncio.Semaphore(AT_ONCE)
    async with calling(between.url) as caller:
        for name in names:
            for event in adult_events(name):
                assert (await caller.post("/v1/events", json=event)).status_code == 200
        world.apply()
        between.lateness = lambda: random.uniform(0, SLOWEST_SECONDS / 2)
        await asyncio.gather(*(retried(caller, name, turn) for name in names))
        between.lateness = float
    assert late > len(names) // 10, "nothing came late"
    world.flush()
    once(world.lake, "decisions", "decision_id", decisions)
    assert len(rows(world.lake, "decisions", "decision_id")) == len(names)
    sys.stdout.write(f"{len(names)} requests, {late} of them told 503 at first, each recorded once\n")
