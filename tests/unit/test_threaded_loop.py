"""The event loop in a thread: cancellation and errors pass between its work and the waiting caller."""

import asyncio

import pytest

from service.api.threaded_loop import ThreadedLoop


async def _waits(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        ended.append("ended")


async def _begun(loop: ThreadedLoop, ended: list[str]) -> asyncio.Task[None]:
    waiting = asyncio.create_task(loop.run(_waits(ended)))
    await asyncio.sleep(0)
    await loop.run(asyncio.sleep(0))  # it was begun before this
    return waiting


async def test_what_runs_still_when_the_loop_is_left_is_cancelled_and_so_is_who_waits_for_it() -> None:
    ended: list[str] = []
    async with ThreadedLoop() as loop:
        waiting = await _begun(loop, ended)
    assert ended == ["ended"]
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 5)


async def test_work_is_cancelled_with_who_waits_for_it() -> None:
    ended: list[str] = []
    async with ThreadedLoop() as loop:
        waiting = await _begun(loop, ended)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert ended == ["ended"]


async def test_what_work_raises_is_raised_where_it_is_waited_for() -> None:
    async def fails() -> None:
        raise LookupError("gone")

    async with ThreadedLoop() as loop:
        with pytest.raises(LookupError, match="gone"):
            await loop.run(fails())
