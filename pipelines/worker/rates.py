"""Rates of providers, leased over all workers: each draws a part of a window, and nothing is given out twice."""

from __future__ import annotations

from math import ceil, floor
from typing import Final

from features.store.connection import TimedStore
from features.store.keys import budget_given_key

PARTS: Final = 8
"""A worker draws this part of a window at once, so that others get theirs."""
_FORGET_SECONDS: Final = 60


class ConnectorRate:
    """What a worker may send over one connector.

    Args:
        connector: Its name.
        per_second: Messages a real second over all workers; None for any.
    """

    def __init__(self, connector: str, per_second: float | None) -> None:
        self._connector = connector
        self._seconds = 1 if per_second is None else max(1, ceil(1 / per_second))
        self._whole = None if per_second is None else max(1, floor(per_second * self._seconds))
        self._window, self._left = -1, 0

    async def wait_seconds(self, store: TimedStore, real_us: int) -> float:
        """Take leave for one message: 0, or the seconds after which to ask again. `real_us` is the store's clock."""
        if self._whole is None:
            return 0.0
        window = real_us // 1_000_000 // self._seconds
        if window != self._window:
            self._window, self._left = window, 0
        if self._left == 0:
            key = budget_given_key(f"rate/{self._connector}/{window}")
            wanted = max(1, self._whole // PARTS)
            self._left = await store.call("croupier_grant", [key], [self._whole, 1, wanted, _FORGET_SECONDS])
        if self._left == 0:
            return (window + 1) * self._seconds - real_us / 1_000_000
        self._left -= 1
        return 0.0
