"""Eight callers with raw sockets that stay open for a turn; no retries, every answer counts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

CALLERS: Final = 8
_SECONDS: Final = 30.0
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class CallerAnswer(NamedTuple):
    """Answer to a caller; status 0 for a broken or silent connection."""

    status: int
    body: bytes


def request(path: str, body: bytes | None = None, key: str | None = None) -> bytes:
    """Bytes of a request, with a key if there is one; a GET without a body."""
    sent = "" if key is None else f"\r\nauthorization: Bearer {key}"
    if body is None:
        return f"GET {path} HTTP/1.1\r\nhost: localhost{sent}\r\n\r\n".encode()
    fields = f"host: localhost{sent}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body


def ask(port: int, requests: Sequence[bytes], callers: int = CALLERS) -> list[CallerAnswer]:
    """Send requests to a server on this machine; each caller sends the next when the last is answered."""
    return asyncio.run(_ask(port, requests, callers))


async def _ask(port: int, requests: Sequence[bytes], callers: int) -> list[CallerAnswer]:
    waiting, answers = iter(requests), list[CallerAnswer]()
    await asyncio.gather(*(_caller(port, waiting, answers) for _ in range(callers)))
    return answers


async def _caller(port: int, waiting: Iterator[bytes], answers: list[CallerAnswer]) -> None:
    """Send waiting requests over one connection, and a new one when it breaks."""
    connection: Connection | None = None
    for sent in waiting:
        try:
            async with asyncio.timeout(_SECONDS):
                connection = connection or await asyncio.open_connection("127.0.0.1", port)
                answers.append(await _exchange(*connection, sent))
        except (OSError, EOFError):
            answers.append(CallerAnswer(0, b""))
            await _close(connection)
            connection = None
    await _close(connection)


async def _close(connection: Connection | None) -> None:
    if connection is not None:
        connection[1].close()
        with suppress(OSError):
            await connection[1].wait_closed()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> CallerAnswer:
    writer.write(sent)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    body = await reader.readexactly(int(length.partition(b":")[2]))
    return CallerAnswer(int(head.split(b" ", 2)[1]), body)
