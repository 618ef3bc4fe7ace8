"""Attackers in a process of their own: `attackers.py PORT SLOW ENDLESS`; whoever is cut off comes again."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

HEAD = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNK = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"


async def slow(writer: asyncio.StreamWriter, number: int) -> None:
    """A header, a body or blank lines, byte by byte."""
    sent = (HEAD + b"X: ", HEAD + b"Content-Length: 5000\r\n\r\n", b"\r\n")[number % 3]
    writer.write(sent)
    while not writer.is_closing():
        writer.write(b"\r\n" if number % 3 == 2 else b"x")
        await writer.drain()
        await asyncio.sleep(0.2 + random.random())


async def endless(writer: asyncio.StreamWriter, number: int) -> None:
    """Header fields, one header, a body or requests without end, as fast as they are taken."""
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    first, then = (
        (HEAD, b"X: " + b"a" * 1_000 + b"\r\n"),
        (HEAD + b"X: ", b"a" * 16_384),
        (chunked, CHUNK),
        (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500),
    )[number % 4]
    writer.write(first)
    while not writer.is_closing():
        writer.write(then)
        await writer.drain()


async def again(port: int, attack: Callable[[asyncio.StreamWriter, int], Awaitable[None]], number: int) -> None:
    for _ in itertools.count():
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            with suppress(OSError):
                await attack(writer, number)
            writer.transport.abort()
        await asyncio.sleep(0.05)


async def main(port: int, slow_ones: int, endless_ones: int) -> None:
    attacks = [(slow, number) for number in range(slow_ones)] + [(endless, number) for number in range(endless_ones)]
    await asyncio.gather(*(again(port, attack, number) for attack, number in attacks))


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
