"""The circuit breaker of a store connection: opens on silence, not on slowness or errors, and probes."""

import asyncio
from collections.abc import AsyncIterator
from math import inf
from time import monotonic
from typing import Final

import pytest
import redis

from features.store.lane import MISSES, PATIENT_SECONDS, Breaker

LONG_AGO: Final = -3_600.0


class Server:
    """Answers a breaker's question when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> object:
        self.asked += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return b"PONG"


@pytest.fixture
def remote() -> Server:
    return Server()


@pytest.fixture
async def breaker(remote: Server) -> AsyncIterator[Breaker]:
    made = Breaker(remote)
    yield made
    await made.close()


def silent(breaker: Breaker, times: int = MISSES) -> None:
    for _ in range(times):
        breaker.missed(monotonic() + LONG_AGO)


async def settled(breaker: Breaker) -> None:
    """Until the breaker lets everybody through."""
    while breaker.refuses(0.001):  # noqa: ASYNC110 - it is the breaker's own task that is waited for
        await asyncio.sleep(0)


async def test_a_few_deadlines_in_a_row_without_an_answer_send_the_next_away(breaker: Breaker) -> None:
    silent(breaker, MISSES - 1)
    assert not breaker.refuses(0.001)
    silent(breaker, 1)
    assert breaker.refuses(0.001)


async def test_an_answer_in_between_begins_the_count_anew(breaker: Breaker) -> None:
    silent(breaker, MISSES - 1)
    breaker.heard()
    breaker.missed(monotonic())
    assert not breaker.refuses(0.001)


async def test_a_deadline_of_a_call_that_saw_others_answered_is_no_silence(breaker: Breaker) -> None:
    sent_at = monotonic()
    breaker.heard()
    for _call in range(2 * MISSES):
        breaker.missed(sent_at)
    assert not breaker.refuses(0.001)


async def test_calls_that_were_never_sent_say_nothing_of_the_server(breaker: Breaker) -> None:
    for _call in range(2 * MISSES):
        breaker.missed(-inf)
    assert not breaker.refuses(0.001)


async def test_whoever_can_wait_longer_than_the_silence_lasts_is_let_through(breaker: Breaker) -> None:
    for _call in range(MISSES):
        breaker.missed(monotonic())
    assert not breaker.refuses(PATIENT_SECONDS - 1)


async def test_whoever_is_patient_is_let_through_however_long_the_silence(breaker: Breaker) -> None:
    silent(breaker)
    assert breaker.refuses(PATIENT_SECONDS - 0.001)
    assert not breaker.refuses(PATIENT_SECONDS)


@pytest.mark.parametrize("error", [None, redis.ConnectionError("refused"), redis.ResponseError("LOADING")])
async def test_whatever_the_server_answers_to_the_question_in_the_background_ends_the_silence(
    breaker: Breaker, remote: Server, error: Exception | None
) -> None:
    silent(breaker)
    remote.error = error
    remote.answers.set()
    await asyncio.wait_for(settled(breaker), 60)
    assert remote.asked == 1


async def test_a_silent_server_is_asked_by_one_question_at_a_time(breaker: Breaker, remote: Server) -> None:
    silent(breaker, 5 * MISSES)
    await asyncio.sleep(0)
    assert remote.asked == 1
