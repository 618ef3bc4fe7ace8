"""An event loop in a thread of its own, so that facts that restrict contact never wait for other requests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from threading import Thread
from types import TracebackType
from typing import Any, Final, Self, TypeVar

TURN_SECONDS: Final = 0.001
"""How long a thread that has work waits for its turn at most; Python's own default is five times that."""
Result = TypeVar("Result")


class ThreadedLoop:
    """Runs coroutines while it is entered, and cancels what runs still when it is left.

    Connections that they open belong to its loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="aside", daemon=True)

    async def __aenter__(self) -> Self:
        sys.setswitchinterval(TURN_SECONDS)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.run(_cancelled())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of a coroutine, or what it raises; cancelled where the caller is."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


async def _cancelled() -> None:
    """Cancel all else on this loop, and wait until it has ended: whoever waits for it would wait for ever."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        if not task.cancelling():  # a second time would break off what it ends with
            task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
