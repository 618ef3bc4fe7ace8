"""Heartbeat: a process whose event loop stands still is ended, so that whoever started it starts another.

A loop that never comes back answers nobody, while the process looks alive to everybody outside.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import threading
from time import monotonic
from typing import Final

import structlog

HANG_SECONDS: Final = 20.0
"""After which a loop counts as hung: far more than the slowest model takes to load on a busy machine."""
_BEAT_SECONDS: Final = 1.0
_LOG: Final = structlog.get_logger()


class Heartbeat(threading.Thread):
    """Watches from a thread of its own whether a loop goes round, and ends the process when it does not.

    A process that was stopped and goes on, or a machine that slept, is no loop that hangs: the thread stood still too.

    Args:
        name: Of the loop, as logs tell it.
        seconds: After which it counts as hung.
    """

    def __init__(self, name: str, seconds: float = HANG_SECONDS) -> None:
        super().__init__(name=f"heartbeat of {name}", daemon=True)
        self._loop_name, self._seconds = name, seconds
        self._step = min(_BEAT_SECONDS, seconds / 4)
        self._beat_at = monotonic()
        self._stopping = threading.Event()

    async def beat(self) -> None:
        """Beat on the loop that is watched, and watch it, until cancelled."""
        self._beat_at = monotonic()
        self.start()
        try:
            while True:
                self._beat_at = monotonic()
                await asyncio.sleep(self._step)
        finally:
            self._stopping.set()

    def run(self) -> None:
        """Look again and again."""
        looked_at = monotonic()
        while not self._stopping.wait(self._step):
            now = monotonic()
            if now - looked_at > 3 * self._step:
                self._beat_at = now
            elif (still := now - self._beat_at) > self._seconds:
                _kill(self._loop_name, still)
                return
            looked_at = now


def _kill(name: str, seconds: float) -> None:
    _LOG.critical("hung", loop=name, seconds=round(seconds, 1))
    faulthandler.dump_traceback()  # places in the code, no values
    os.kill(os.getpid(), signal.SIGKILL)
