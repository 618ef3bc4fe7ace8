"""Calls to one server: a deadline for each, and a circuit breaker for a server that does not answer.

Silent is not slow: a server is silent while calls end without an answer of it, whatever it was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf
from time import monotonic
from types import TracebackType
from typing import Any, Final

import redis
import redis.asyncio
from redis.backoff import NoBackoff

LONGEST_SECONDS: Final = 10.0
"""What a call may take at most, however much time its request has: a connection that is lost must not stay taken."""
MISSES: Final = 3
"""Deadlines in a row that pass without any answer before a server counts as silent."""
PATIENT_SECONDS: Final = 4.0
"""A call with this much time left is always sent: a silent server may answer again meanwhile."""
_PROBE_SECONDS: Final = 1.0
_ROUNDS: Final = 4
"""Of the loop, after which what had arrived was read and whoever waited for it ran."""


class SilentError(redis.ConnectionError):
    """The server has been silent for longer than the call could wait; it was not asked.

    Outside the tree of errors: `Store.command` makes a StoreError of it, as of every error of redis.
    """


class Deadline:
    """Ends what waits for a server that is silent, not for a reply that this process was too busy to read.

    When time is up, the loop goes round a few times first: what lies in the socket is read, and whoever waits for it
    woken, before anything is cancelled.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)
        self._over = False

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._timeout.__aenter__()
        self._timer = self._loop.call_later(self._seconds, self._late, _ROUNDS)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._over = True
        await self._timeout.__aexit__(kind, error, trace)

    def _late(self, rounds: int) -> None:
        if self._timeout.when() is None and not self._over:
            if rounds:
                self._loop.call_soon(self._late, rounds - 1)
            else:
                self._timeout.reschedule(self._loop.time())


class Breaker:
    """Measures how long a server has been silent, and asks it until it answers.

    Open, it refuses a call whose time is shorter than the present silence. Any answer closes it, an error or a refused
    connection too: then the server, or its absence, is known at once.

    Args:
        probe: Asks the server anything; raises whatever a call may raise.
    """

    def __init__(self, probe: Callable[[], Awaitable[object]]) -> None:
        self._probe = probe
        self._misses = 0
        self._silent_since = inf
        self._heard_at = -inf
        self._probing: asyncio.Task[None] | None = None

    def refuses(self, seconds: float) -> bool:
        """Whether a call with this much time would wait in vain."""
        return self._misses >= MISSES and seconds < min(monotonic() - self._silent_since, PATIENT_SECONDS)

    def heard(self) -> None:
        """Note that the server answered."""
        self._misses, self._silent_since, self._heard_at = 0, inf, monotonic()

    def missed(self, sent_at: float) -> None:
        """Note that a call sent at a moment of the monotonic clock met its deadline; others may have been answered."""
        if sent_at <= self._heard_at:
            return
        self._misses += 1
        self._silent_since = min(self._silent_since, sent_at)
        if self._misses >= MISSES and self._probing is None:
            self._probing = asyncio.create_task(self._ask())

    async def close(self) -> None:
        """Stop asking."""
        if (probing := self._probing) is not None:
            probing.cancel()
            await asyncio.wait([probing])

    async def _ask(self) -> None:
        """Ask until anything comes back."""
        try:
            while self._misses:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PROBE_SECONDS):
                        with suppress(redis.RedisError, ConnectionError):
                            await self._probe()
                    self.heard()
        finally:
            self._probing = None


class Lane:
    """Some connections to one server; a call's deadline is for its turn and the server's answer together."""

    def __init__(self, url: str, connections: int) -> None:
        self._client = redis.asyncio.Redis.from_url(url, retry=redis.asyncio.retry.Retry(NoBackoff(), 0))
        self._free = asyncio.Semaphore(connections)
        self._breaker = Breaker(lambda: self._client.execute_command("PING"))  # type: ignore[no-untyped-call]

    async def send(self, seconds: float, *parts: Any) -> Any:  # noqa: ANN401 - replies have the shape of the command
        """Reply to a command.

        Raises:
            TimeoutError: It did not come in time; whether the server did what it was asked is not known.
            SilentError: The server is silent and was not asked.
            redis.RedisError: As the server has it.
        """
        if seconds <= 0:
            raise TimeoutError
        if self._breaker.refuses(seconds):
            raise SilentError("it has been silent for longer than this call could wait")
        sent_at = -inf
        try:
            async with Deadline(min(seconds, LONGEST_SECONDS)), self._free:
                sent_at = monotonic()
                reply = await self._client.execute_command(*parts)  # type: ignore[no-untyped-call]
        except TimeoutError:
            self._breaker.missed(sent_at)
            raise
        except redis.RedisError:
            self._breaker.heard()
            raise
        self._breaker.heard()
        return reply

    async def silent(self, seconds: float, keys: Sequence[str]) -> tuple[dict[str, bool], list[str]]:
        """Node -> whether it answers, and those of some keys whose node does not."""
        there = await answers(self, seconds)
        return {"store": there}, [] if there else list(keys)

    async def close(self) -> None:
        """Close all connections."""
        await self._breaker.close()
        await self._client.aclose()


async def answers(lane: Lane, seconds: float) -> bool:
    """Whether a server answers."""
    try:
        return bool(await lane.send(seconds, "PING"))
    except (redis.RedisError, OSError):
        return False
