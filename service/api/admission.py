"""Admission: which requests a process works at, in which order, and which it sheds because it could not answer in time.

    request --enter--> a place --its work--> leave
               |`--no place is free--> waits in its class, fair over keys --its turn--> a place
               `--could not be answered in time--> OverloadedError, at once

A process that takes on all that arrives answers nobody in time once more arrives than it can do. So few requests are
worked at at once, others wait in the order of what they are worth, and whoever would wait in vain is told so before
anything was done for them. Facts that restrict contact never come here: nothing is in their way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from time import monotonic
from typing import Final, NamedTuple

from service.errors import OverloadedError

PLACES: Final = 32
"""Requests worked at at once: enough to keep a core busy while the store answers in some tens of milliseconds."""
BATCH_PLACES: Final = PLACES // 2
"""Of these, how many items of batches may have while nothing else is at work."""
BATCH_BESIDE: Final = 3
"""How many they may have beside others: each item at work is ahead of whoever comes meanwhile."""
MOST_WAITING: Final = 2_000
"""Of one class."""
_SHARE: Final = 0.7
"""Of the time that a request has, how much may be expected to pass until it is answered: expectations are rough."""
_BUSY: Final = 4
"""Requests at work from which on the time between two answers tells how fast the process is, not how far the store."""
_FIRST_PACE: Final = 0.002
_SMOOTHING: Final = 0.1
_RISE: Final = 8.0
_RISE_SECONDS: Final = 0.005
"""A pause between two answers counts as no longer than `_RISE` usual ones and this: one stall is no slow process."""


class Turn(IntEnum):
    """Classes of requests, in the order in which they get places."""

    CONFIRM = 0
    TOLD = 1
    DECISION = 2
    BATCH = 3


class _Waiting(NamedTuple):
    place: asyncio.Future[None]
    until: float


class _Queue:
    """Requests of one class that wait, served key by key in turn."""

    def __init__(self) -> None:
        self._by_key: dict[str, deque[_Waiting]] = {}
        self.count = 0

    def before(self, key: str) -> int:
        """How many get a place before another request of a key would: of each other key no more than of this."""
        own = len(self._by_key.get(key, ())) + 1
        return sum(min(len(waiting), own) for waiting in self._by_key.values())

    def add(self, key: str, one: _Waiting) -> None:
        """Add a request of a key behind its own."""
        self._by_key.setdefault(key, deque()).append(one)
        self.count += 1

    def next(self) -> _Waiting:
        """Take the first request of the key whose turn it is; there must be one."""
        key = next(iter(self._by_key))
        waiting = self._by_key.pop(key)
        one = waiting.popleft()
        if waiting:
            self._by_key[key] = waiting  # behind all others
        self.count -= 1
        return one


class Admission:
    """Gives places to requests.

    Args:
        clock: Seconds that only rise.
        places: Requests worked at at once.
        batch_places: Of these, how many items of batches may have while nothing else is at work.
    """

    def __init__(
        self, clock: Callable[[], float] = monotonic, places: int = PLACES, batch_places: int = BATCH_PLACES
    ) -> None:
        self._clock, self._places, self._batch_places = clock, places, batch_places
        self._taken = self._batches = 0
        self._queues = tuple(_Queue() for _ in Turn)
        self._pace = _FIRST_PACE
        self._left_at: float | None = None

    async def enter(self, turn: Turn, key: str, until: float) -> None:
        """Wait for a place, which `leave` must give back.

        Args:
            turn: The request's class.
            key: Whose it is.
            until: When it must have been answered, by the clock.

        Raises:
            OverloadedError: It could not be answered by then, or too many wait: nothing was done.
        """
        ahead = sum([queue.before(key) for queue in self._queues[: turn + 1] if queue.count])
        expected = (self._taken + ahead + 1) * self._pace
        if self._taken and expected > _SHARE * (until - self._clock()):
            raise OverloadedError(expected)
        if not ahead and self._has_place(turn):
            self._take(turn)
            return
        if self._queues[turn].count >= MOST_WAITING:
            raise OverloadedError(expected)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues[turn].add(key, _Waiting(place, until))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave(turn)  # it got its place in the same moment
            raise

    def leave(self, turn: Turn) -> None:
        """Give a place back, to whoever waits for it."""
        now = self._clock()
        self._note(now)
        self._taken -= 1
        self._batches -= turn is Turn.BATCH
        while (after := self._after()) is not None:
            one = self._queues[after].next()
            if one.place.done():  # whoever waited is gone
                continue
            if now + self._pace > one.until:
                one.place.set_exception(OverloadedError(self._pace))
                continue
            self._take(after)
            one.place.set_result(None)

    def _has_place(self, turn: Turn) -> bool:
        if self._taken >= self._places:
            return False
        if turn is not Turn.BATCH:
            return True
        alone = self._taken == self._batches
        return self._batches < (self._batch_places if alone else min(BATCH_BESIDE, self._batch_places))

    def _take(self, turn: Turn) -> None:
        self._taken += 1
        self._batches += turn is Turn.BATCH

    def _after(self) -> Turn | None:
        """The class whose turn it is; None if nobody waits who may have a place."""
        return next((turn for turn in Turn if self._queues[turn].count and self._has_place(turn)), None)

    def _note(self, now: float) -> None:
        """Learn from an answer how fast others follow."""
        if self._taken < _BUSY:
            self._left_at = None
            return
        if self._left_at is not None:
            longest = _RISE * self._pace + _RISE_SECONDS
            self._pace += _SMOOTHING * (min(now - self._left_at, longest) - self._pace)
        self._left_at = now
