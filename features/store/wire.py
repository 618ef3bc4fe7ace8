"""One connection to a server: commands go out as they come, replies come back in their order.

redis-py shakes hands, with whatever an address asks for (TLS, a password); from then on replies are read here. Its own
way, a connection for each call under way and a dozen coroutines for each reply, takes eight times the CPU.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis._parsers.base import BaseParser


class Wire(asyncio.Protocol):
    """A connection whose calls share it.

    Attributes:
        lost: Whether it has ended, or is about to.

    Args:
        writer: Of a connection that has shaken hands; it ends the connection when it is forgotten.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.lost = False
        self._writer = writer
        self._transport: Any = writer.transport
        self._reader = hiredis.Reader(protocolError=redis.InvalidResponse, replyError=BaseParser.parse_error)
        self._awaited: deque[asyncio.Future[Any] | None] = deque()
        self._outgoing: list[bytes] = []
        self._refused: Exception | None = None
        """Why a command of the transaction that is being answered was not taken."""
        self._transport.set_protocol(self)

    @classmethod
    async def open(cls, pool: redis.asyncio.ConnectionPool) -> Wire:
        """Connect and shake hands; raises redis.RedisError or OSError."""
        connection = pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        writer, connection._writer = connection._writer, None  # noqa: SLF001 - it ends with the client's own otherwise
        return cls(writer)

    def send(self, commands: Sequence[Sequence[Any]], reply: asyncio.Future[Any]) -> None:
        """Send a command, or several as one transaction; the reply is for whoever waits for it, if anybody still does.

        The server says of each command of a transaction that it is queued, and gives all replies at the end.
        """
        if len(commands) > 1:
            self._awaited.extend([None] * (len(commands) + 1))
            commands = [("MULTI",), *commands, ("EXEC",)]
        self._awaited.append(reply)
        if not self._outgoing:
            reply.get_loop().call_soon(self._leave)
        self._outgoing += [hiredis.pack_command(tuple(parts)) for parts in commands]

    def _leave(self) -> None:
        """Write what calls of one round of the loop sent, at once: each write wakes the server."""
        outgoing, self._outgoing = self._outgoing, []
        if not self.lost:
            self._transport.write(b"".join(outgoing))

    def close(self) -> None:
        """End the connection, and what still waits with redis.ConnectionError."""
        self.lost = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Hand out replies."""
        self._reader.feed(data)
        try:
            while (found := self._reader.gets()) is not False:
                self._hand_out(found, self._awaited.popleft())
        except (redis.InvalidResponse, IndexError):  # what follows belongs to nobody
            self.close()

    def _hand_out(self, found: Any, reply: asyncio.Future[Any] | None) -> None:  # noqa: ANN401 - replies have the shape of the command
        error = found if isinstance(found, Exception) else None
        if reply is None:
            self._refused = self._refused or error
            return
        error, self._refused = self._refused or error, None
        if reply.done():
            return
        if error is not None:
            reply.set_exception(error)
        else:
            reply.set_result(found)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self.lost = True
        for reply in self._awaited:
            if reply is not None and not reply.done():
                error = redis.ConnectionError("the server closed the connection")
                error.__cause__ = exc
                reply.set_exception(error)
        self._awaited.clear()
