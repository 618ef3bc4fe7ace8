"""Calls to one server: a deadline for each, and a circuit breaker for a server that does not answer.

Silent is not slow: a server is silent while calls end without an answer of it, whatever it was asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Any, Final

import redis
import redis.asyncio
from redis.backoff import NoBackoff

from features.store.wire import Wire

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

    @property
    def open(self) -> bool:
        """Whether the server counts as silent."""
        return self._misses >= MISSES

    def refuses(self, seconds: float) -> bool:
        """Whether a call with this much time would wait in vain."""
        return self.open and seconds < min(monotonic() - self._silent_since, PATIENT_SECONDS)

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


Commands = Sequence[Sequence[Any]]


class Call:
    """A command, or several that are done together, on its way to a server, and its reply.

    `sent_at` is when the server could have had it, on the monotonic clock: not while it waits for its turn.
    """

    __slots__ = ("commands", "reply", "sent_at", "under_way")

    def __init__(self, commands: Commands, reply: asyncio.Future[Any]) -> None:
        self.commands = commands
        self.reply = reply
        self.sent_at = -inf
        self.under_way = False


class Lane:
    """One connection to a server, which calls share; a call's deadline is for its turn and the answer together.

    When time is up, the loop goes round a few times first: what lies in the socket is read, and whoever waits for it
    woken. A call is late for a server that is silent, not for a reply that this process was too busy to read.

    Args:
        url: Of the server.
        most: Calls that may be under way at once.
    """

    def __init__(self, url: str, most: int) -> None:
        self._pool = redis.asyncio.ConnectionPool.from_url(url, retry=redis.asyncio.retry.Retry(NoBackoff(), 0))
        self._most = most
        self._under_way = 0
        self._waiting: deque[Call] = deque()
        self._wire: Wire | None = None
        self._retired: list[Wire] = []
        self._connecting: asyncio.Task[None] | None = None
        self._breaker = Breaker(lambda: self._begun([("PING",)]).reply)

    async def send(self, seconds: float, *commands: Sequence[Any]) -> Any:  # noqa: ANN401 - replies have the shape of the command
        """Reply to a command, or the replies to several that are done together, all of them or none.

        Raises:
            TimeoutError: It did not come in time; whether the server did what it was asked is not known.
            SilentError: The server is silent and was not asked.
            redis.RedisError: As the server has it.
        """
        if seconds <= 0:
            raise TimeoutError
        if self._breaker.refuses(seconds):
            raise SilentError("it has been silent for longer than this call could wait")
        call = self._begun(commands)
        loop = call.reply.get_loop()
        timer = loop.call_later(min(seconds, LONGEST_SECONDS), _late, loop, call.reply, _ROUNDS)
        try:
            reply = await call.reply
        except TimeoutError:
            self._breaker.missed(call.sent_at)
            if self._breaker.open:
                self._retire()
            raise
        except redis.RedisError:
            self._breaker.heard()
            raise
        finally:
            timer.cancel()
            self._ended(call)
        self._breaker.heard()
        return reply

    def _begun(self, commands: Commands) -> Call:
        """A call that was sent, or will be as soon as there is a connection and it is its turn."""
        call = Call(commands, asyncio.get_running_loop().create_future())
        if self._under_way < self._most:
            call.sent_at = monotonic()
        self._waiting.append(call)
        self._go_on()
        return call

    def _ended(self, call: Call) -> None:
        if call.under_way:
            self._under_way -= 1
        else:
            self._waiting.remove(call)
        if self._waiting:
            self._go_on()

    def _go_on(self) -> None:
        """Send what waits, as far as it may."""
        if self._wire is None or self._wire.lost:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
            return
        while self._waiting and self._under_way < self._most:
            call = self._waiting.popleft()
            call.under_way, self._under_way = True, self._under_way + 1
            call.sent_at = monotonic()
            self._wire.send(call.commands, call.reply)

    async def _connect(self) -> None:
        """Connect for whoever waits, who all hear of it if that fails."""
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                self._wire = await Wire.open(self._pool)
        except TimeoutError:
            pass  # some may have begun to wait a moment ago
        except (redis.RedisError, OSError) as error:
            for call in self._waiting:
                if not call.reply.done():
                    call.reply.set_exception(_again(error))
        finally:
            self._connecting = None
        if any(not call.reply.done() for call in self._waiting):
            self._go_on()

    def _retire(self) -> None:
        """Ask over another connection from now on: this one may lead nowhere; whoever waits for it still may."""
        if (wire := self._wire) is not None:
            self._wire, self._retired = None, [one for one in (*self._retired, wire) if not one.lost]
            asyncio.get_running_loop().call_later(LONGEST_SECONDS, wire.close)

    async def silent(self, seconds: float, keys: Sequence[str]) -> tuple[dict[str, bool], list[str]]:
        """Node -> whether it answers, and those of some keys whose node does not."""
        there = await reply_in(self, seconds, "PING") is not None
        return {"store": there}, [] if there else list(keys)

    async def everywhere(self, seconds: float, *parts: Any) -> dict[str, Any]:  # noqa: ANN401 - parts of a command are of many types
        """Node -> its reply to a command, None if it does not answer in time."""
        return {"store": await reply_in(self, seconds, *parts)}

    async def close(self) -> None:
        """Close all connections."""
        await self._breaker.close()
        if (connecting := self._connecting) is not None:
            connecting.cancel()
            await asyncio.wait([connecting])
        for wire in (self._wire, *self._retired):
            if wire is not None:
                wire.close()


def _late(loop: asyncio.AbstractEventLoop, reply: asyncio.Future[Any], rounds: int) -> None:
    if reply.done():
        return
    if rounds:
        loop.call_soon(_late, loop, reply, rounds - 1)
    else:
        reply.set_exception(TimeoutError())


def _again(error: Exception) -> Exception:
    """The same error for one more call, with what it came from."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__ or error.__context__
    return copy


async def reply_in(lane: Lane, seconds: float, *parts: Any) -> Any:  # noqa: ANN401 - replies have the shape of the command
    """Reply of a server to a command, None if it does not answer in time."""
    try:
        return await lane.send(seconds, parts)
    except (redis.RedisError, OSError):
        return None
