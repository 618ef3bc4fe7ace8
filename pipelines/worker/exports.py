"""Exports that are asked for over HTTP: one worker at a time has them made, by a process beside it that gives way."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Final

import redis
import structlog

from features.settings.environment import for_children
from features.store.keys import EXPORTS_LEASE, EXPORTS_WAITING
from pipelines.worker.child import LAST, Child

COMMAND: Final = "make-exports"
_LEASE_SECONDS: Final = 15
_STOP_SECONDS: Final = 5.0
_LOG: Final = structlog.get_logger()


class Exporter:
    """Starts what makes exports while some wait; features do not wait for it, nor for the libraries that it imports."""

    def __init__(self, client: redis.Redis, url: str, home: Path) -> None:
        self._client, self._owner, self._home = client, secrets.token_hex(8), home
        command = [sys.executable, "-m", "pipelines", COMMAND]
        self._child = Child("exports", command, for_children(home, url), home / "logs" / "exports.log", LAST)
        self._running = False

    def look(self) -> None:
        """Start it if exports wait and no other worker has them made; raises redis.RedisError if the store is away."""
        if self._running and self._child.dead():
            self._running = False
            code = None if self._child.process is None else self._child.process.returncode
            _LOG.info("exports", ended=code, log=str(self._child.log))
            self._release()
        if (self._running or self._client.llen(EXPORTS_WAITING)) and self._lease() and not self._running:
            self._child.log.parent.mkdir(parents=True, exist_ok=True)
            self._child.start()
            self._running = True

    def stop(self) -> None:
        """End it: what it had begun is made by the next worker."""
        if self._running:
            self._child.stop(_STOP_SECONDS)
            self._running = False
            self._release()

    def _lease(self) -> bool:
        held_us = str(_LEASE_SECONDS * 1_000_000)
        held: object = self._client.fcall("croupier_lease", 1, EXPORTS_LEASE, self._owner, held_us, "")
        return held != 0

    def _release(self) -> None:
        self._client.fcall("croupier_release", 1, EXPORTS_LEASE, self._owner)
