"""The clients: `Croupier`, and `AsyncCroupier` with the same methods to be awaited."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine
from copy import copy
from datetime import UTC, datetime
from functools import update_wrapper
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, overload

import anyio
import httpx

from croupier_client import calls
from croupier_client.conversation import Call, Conversation, Means, Send, Wait, converse
from croupier_client.messages import Failure, Reply, Request

DEADLINE_SECONDS: Final = 10.0
"""How long a call may take as a whole, attempts and pauses included."""
BATCH_SECONDS: Final = 60.0
EXPORT_SECONDS: Final = 120.0
GRACE_SECONDS: Final = 0.05
"""By which the deadline of an attempt follows those of its connection, so that what never arrived is known to."""
AT_ONCE: Final = 32
"""Requests of an asynchronous client under way; others wait here, as a queue before the connections takes a time that
grows with its square."""
_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=AT_ONCE)
_UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_MEANS: Final = Means(time.monotonic, lambda: datetime.now(UTC), random.random)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Operation(Generic[_P, _T]):
    """A call as a method of both clients: of the one it answers, of the other it is awaited."""

    def __init__(self, call: Callable[_P, Call[_T]], seconds: float = DEADLINE_SECONDS) -> None:
        self._call = call
        self._seconds = seconds
        self.__doc__ = call.__doc__

    @overload
    def __get__(self, house: None, kind: type) -> Self: ...
    @overload
    def __get__(self, house: Croupier, kind: type) -> Callable[_P, _T]: ...
    @overload
    def __get__(self, house: AsyncCroupier, kind: type) -> Callable[_P, Coroutine[Any, Any, _T]]: ...
    def __get__(self, house: Croupier | AsyncCroupier | None, kind: type) -> Any:
        """The method of a client."""
        if house is None:
            return self

        def method(*given: _P.args, **named: _P.kwargs) -> Any:  # noqa: ANN401 - as the overloads say
            return house.run(self._call(*given, **named), self._seconds)

        return update_wrapper(method, self._call)


class House:
    """What both clients are: an address, a deadline, and a method for each call."""

    decide = Operation(calls.decide)
    decide_many = Operation(calls.decide_many, BATCH_SECONDS)
    decision = Operation(calls.decision)
    confirm = Operation(calls.confirm)
    event = Operation(calls.event)
    events = Operation(calls.events, BATCH_SECONDS)
    outcome = Operation(calls.outcome)
    erase = Operation(calls.erase)
    export = Operation(calls.export, EXPORT_SECONDS)
    stop = Operation(calls.stop)
    stops = Operation(calls.stops)
    lift = Operation(calls.lift)
    keys = Operation(calls.keys)
    create_key = Operation(calls.create_key)
    rotate_key = Operation(calls.rotate_key)
    revoke_key = Operation(calls.revoke_key)
    ready = Operation(calls.ready)
    request = Operation(calls.request)

    def __init__(self, url: str, deadline_seconds: float | None) -> None:
        self._url = _checked(url)
        self._deadline_seconds = deadline_seconds

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def within(self, seconds: float) -> Self:
        """The same client, over the same connections, whose calls may take so long as a whole."""
        other = copy(self)
        other._deadline_seconds = seconds  # noqa: SLF001 - a copy of its own
        return other

    def _conversation(self, call: Call[_T], seconds: float) -> Conversation[_T]:
        return converse(call, seconds if self._deadline_seconds is None else self._deadline_seconds, _MEANS)


class Croupier(House):
    """A house, asked by somebody who waits for the answer; may be shared by threads.

    Args:
        url: Address of the house, as `https://croupier.example`.
        key: One of its keys, whose scopes allow what is asked.
        deadline_seconds: How long each call may take as a whole, attempts and pauses included; by default ten seconds,
            a minute for many at once, two for an export.
        transport: How connections are made, where the usual way will not do.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        deadline_seconds: float | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, deadline_seconds)
        self._http = httpx.Client(base_url=self._url, headers=_headers(key), transport=transport, limits=_LIMITS)

    def run(self, call: Call[_T], seconds: float = DEADLINE_SECONDS) -> _T:
        """Carry out a call."""
        conversation, got = self._conversation(call, seconds), None
        try:
            step = next(conversation)
            while True:
                got = self._done(step)
                step = conversation.send(got)
        except StopIteration as done:
            result: _T = done.value
            return result

    def _done(self, step: Send | Wait) -> Reply | Failure | None:
        if isinstance(step, Wait):
            time.sleep(step.seconds)
            return None
        return self._exchange(step.request, step.seconds)

    def _exchange(self, request: Request, seconds: float) -> Reply | Failure:
        until, body = time.monotonic() + seconds, bytearray()
        try:
            with self._http.stream(**_wire(request, seconds)) as answer:
                for part in answer.iter_bytes():
                    body += part
                    if time.monotonic() > until:
                        return _LATE
                return Reply(answer.status_code, dict(answer.headers), bytes(body))
        except httpx.RequestError as error:
            return _failure(error)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncCroupier(House):
    """A house, asked from an event loop; the arguments are those of `Croupier`."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        deadline_seconds: float | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, deadline_seconds)
        self._http = httpx.AsyncClient(base_url=self._url, headers=_headers(key), transport=transport, limits=_LIMITS)
        self._turns = anyio.Semaphore(AT_ONCE)

    async def run(self, call: Call[_T], seconds: float = DEADLINE_SECONDS) -> _T:
        """Carry out a call."""
        conversation, got = self._conversation(call, seconds), None
        try:
            step = next(conversation)
            while True:
                got = await self._done(step)
                step = conversation.send(got)
        except StopIteration as done:
            result: _T = done.value
            return result

    async def _done(self, step: Send | Wait) -> Reply | Failure | None:
        if isinstance(step, Wait):
            await anyio.sleep(step.seconds)
            return None
        until, begun = time.monotonic() + step.left, False
        with anyio.move_on_after(step.left + 2 * GRACE_SECONDS):
            async with self._turns:
                if begun := (seconds := min(step.seconds, until - time.monotonic())) > 0:
                    return await self._exchange(step.request, seconds)
        return _LATE if begun else Failure("too many calls were made at once for this one to be sent in time", False)

    async def _exchange(self, request: Request, seconds: float) -> Reply | Failure:
        try:
            with anyio.move_on_after(seconds + GRACE_SECONDS):
                answer = await self._http.request(**_wire(request, seconds))
                return Reply(answer.status_code, dict(answer.headers), answer.content)
        except httpx.RequestError as error:
            return _failure(error)
        return _LATE

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


_LATE: Final = Failure("the answer did not come in time", True)


def _wire(request: Request, seconds: float) -> dict[str, Any]:
    """A request as httpx takes it."""
    typed = {} if request.body is None else {"content-type": "application/json"}
    return {
        "method": request.method,
        "url": request.path,
        "params": request.query or None,
        "content": request.body,
        "headers": typed,
        "timeout": seconds,
    }


def _failure(error: httpx.RequestError) -> Failure:
    """Why nothing came back, without what the library holds: its request has the key."""
    return Failure(f"no answer from the house: {str(error) or type(error).__name__}", not isinstance(error, _UNSENT))


def _headers(key: str) -> dict[str, str]:
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        key = ""  # a traceback may show what stands here
        raise ValueError("a key is printable ASCII without blanks")
    return {"authorization": f"Bearer {key}", "user-agent": f"croupier-client/{version('croupier-client')}"}


def _checked(url: str) -> str:
    parts = httpx.URL(url)
    if parts.scheme not in {"http", "https"} or not parts.host or parts.userinfo or parts.query or parts.fragment:
        url = ""  # it may hold a password
        raise ValueError("the address of a house is http:// or https:// with its name, without user or query")
    return url
