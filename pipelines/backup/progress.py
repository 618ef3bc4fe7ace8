"""Progress of what handles many files."""

from __future__ import annotations

import time
from typing import Final

from features.store.server import Say

_SECONDS: Final = 5.0


class Progress:
    """Says every few seconds how many files are done."""

    def __init__(self, what: str, total: int, say: Say) -> None:
        self._what, self._total, self._say = what, total, say
        self._done = 0
        self._say_at = time.monotonic() + _SECONDS

    def step(self) -> None:
        """Count one more."""
        self._done += 1
        if time.monotonic() >= self._say_at:
            self._say(f"  {self._what}: {self._done:,} of {self._total:,} files")
            self._say_at = time.monotonic() + _SECONDS
