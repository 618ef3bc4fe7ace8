"""A proxy before the store that delays or fails a call on purpose, before the store runs it or after."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, Self

import hiredis

Moment = Literal["before", "after"]
"""Before the store gets a call, or after it answered and before the caller hears of it."""
OWN = ("GET croupier", "SET croupier", "SADD croupier", "DEL croupier")
"""What a serving process asks by itself: what serves now, and that it lives."""


class Fault(NamedTuple):
    """What happens at the nth call of a name: `act` is run, then the connection is cut, hangs for good or goes on."""

    call: str
    moment: Moment
    then: Literal["cut", "hang", "go on"] = "cut"
    act: Callable[[], object] = int
    nth: int = 1


def name_of(command: list[bytes]) -> str:
    """A call by its name: the function, or the command and what kind of key it is about."""
    verb, *rest = command[:2]
    if verb == b"FCALL":
        return rest[0].decode()
    # A key of Feast's is no text.
    kind = [word.partition(b":")[0].decode() for word in rest if word.isascii() and b"\0" not in word]
    return " ".join([verb.decode(), *kind])


def _packed(command: list[bytes]) -> bytes:
    parts = [b"*%d\r\n" % len(command), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in command)]
    return b"".join(parts)


class Between:
    """Listens on a path of its own and passes commands on to the store, one by one.

    Attributes:
        calls: Names of the calls seen.
        delay: Seconds by which each reply is late.
        lateness: Seconds by which the next call reaches the store late.
        fault: What the next call of its name meets, once.
    """

    def __init__(self, path: Path, store: Path) -> None:
        self.url = f"unix://{path}"
        self.calls: list[str] = []
        self.delay = 0.0
        self.lateness: Callable[[], float] = float
        self.fault: Fault | None = None
        self._path, self._store = path, store
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._pumps: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_unix_server(self._meet, self._path))
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: "asyncio.Future[object] | object") -> "asyncio.Server":
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)  # type: ignore[arg-type]

    async def _close(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        with suppress(OSError, EOFError, asyncio.CancelledError):
            await self._pump(reader, writer)
        writer.close()
        self._pumps.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass commands on until either side ends, or a fault cuts them apart."""
        there, back = await asyncio.open_unix_connection(self._store)
        calls: asyncio.Queue[tuple[list[list[bytes]], float]] = asyncio.Queue()
        reading = asyncio.create_task(_read(reader, calls))
        try:
            while (arrived := await calls.get())[0] and await self._pass(*arrived, there, back, writer):
                pass
        finally:
            reading.cancel()
            back.close()

    async def _pass(
        self,
        call: list[list[bytes]],
        arrived_at: float,
        there: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Pass one command on, or a whole transaction."""
        name = name_of(call[0])
        self.calls.append(name)
        if await self._fails(name, "before"):
            return False
        await asyncio.sleep(max(0.0, arrived_at + self.lateness() - time.monotonic()))
        back.write(b"".join(map(_packed, call)))
        reply = await _reply(there, len(call))
        # What arrived meanwhile waited as well: many calls on one way are late together, not one after the other.
        await asyncio.sleep(max(0.0, arrived_at + self.delay - time.monotonic()))
        if await self._fails(name, "after"):
            return False
        writer.write(reply)
        await writer.drain()
        return True

    async def _fails(self, name: str, moment: Moment) -> bool:
        fault = self.fault
        if fault is None or (fault.call, fault.moment) != (name, moment):
            return False
        self.fault = fault._replace(nth=fault.nth - 1) if fault.nth > 1 else None
        if self.fault is not None:
            return False
        fault.act()
        if fault.then == "hang":
            await asyncio.Event().wait()
        return fault.then == "cut"


async def _read(reader: asyncio.StreamReader, calls: asyncio.Queue[tuple[list[list[bytes]], float]]) -> None:
    """Put each command, or each whole transaction, into a queue with when it arrived; an empty one at the end."""
    commands, call = hiredis.Reader(), list[list[bytes]]()
    while chunk := await reader.read(65_536):
        commands.feed(chunk)
        while command := commands.gets():
            call.append(command)
            if call[0][0] != b"MULTI" or command[0] == b"EXEC":
                calls.put_nowait((call, time.monotonic()))
                call = []
    calls.put_nowait(([], 0.0))


async def _reply(there: asyncio.StreamReader, replies: int) -> bytes:
    """The bytes of some whole replies."""
    parser, whole = hiredis.Reader(), b""
    while replies:
        if parser.gets() is not False:
            replies -= 1
            continue
        chunk = await there.read(65_536)
        if not chunk:
            raise EOFError
        parser.feed(chunk)
        whole += chunk
    return whole
