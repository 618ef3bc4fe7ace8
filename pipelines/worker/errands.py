"""Errands of a worker: what callers asked for over HTTP and a process beside it does, at one worker at a time.

Features do not wait for it, nor for the libraries that it imports, and it gives way to everything else.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import redis
import structlog

from features.settings.environment import for_children
from features.store.keys import EXPORTS_LEASE, EXPORTS_WAITING, HISTORY_LEASE
from pipelines.worker.child import LAST, Child
from service.events import history

_LEASE_SECONDS: Final = 15
_STOP_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 10.0
"""How long a process that failed is left alone."""
_LOG: Final = structlog.get_logger()


class Errand(NamedTuple):
    """What is done while something waits for it.

    Attributes:
        name: For logs.
        command: Words of the command that does it; it ends when nothing waits any more, or does some of it.
        lease: Key of the lease of the one worker that has it done.
        waits: Whether anything waits.
        every_seconds: How often to look.
    """

    name: str
    command: tuple[str, ...]
    lease: str
    waits: Callable[[redis.Redis], bool]
    every_seconds: float


EXPORTS: Final = Errand(
    "exports", ("make-exports",), EXPORTS_LEASE, lambda client: bool(client.llen(EXPORTS_WAITING)), 0.0
)
HISTORY: Final = Errand("history", ("import", "history"), HISTORY_LEASE, history.waits, 5.0)


class Runner:
    """Starts an errand while something waits for it, if no other worker has it done."""

    def __init__(self, errand: Errand, client: redis.Redis, url: str, home: Path) -> None:
        self._errand, self._client, self._owner = errand, client, secrets.token_hex(8)
        command = [sys.executable, "-m", "pipelines", *errand.command]
        log = home / "logs" / f"{errand.name}.log"
        self._child = Child(errand.name, command, for_children(home, url), log, LAST)
        self._running = False
        self._next = 0.0

    def look(self) -> None:
        """Start it if it is wanted; raises redis.RedisError if the store is away."""
        if self._running and self._child.dead():
            self._running = False
            code = None if self._child.process is None else self._child.process.returncode
            _LOG.info(self._errand.name, ended=code, log=str(self._child.log))
            self._release()
            if code:
                self._next = time.monotonic() + _AGAIN_SECONDS
        if (self._running or self._is_wanted()) and self._lease() and not self._running:
            self._child.log.parent.mkdir(parents=True, exist_ok=True)
            self._child.start()
            self._running = True

    def stop(self) -> None:
        """End it: what it had begun is done by the next worker."""
        if self._running:
            self._child.stop(_STOP_SECONDS)
            self._running = False
            self._release()

    def _is_wanted(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._errand.every_seconds
        return self._errand.waits(self._client)

    def _lease(self) -> bool:
        held_us = str(_LEASE_SECONDS * 1_000_000)
        held: object = self._client.fcall("croupier_lease", 1, self._errand.lease, self._owner, held_us, "")
        return held != 0

    def _release(self) -> None:
        self._client.fcall("croupier_release", 1, self._errand.lease, self._owner)
