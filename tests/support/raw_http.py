"""Speak HTTP in raw bytes: what no client library would send, and what comes back until the connection ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

Address = tuple[str, int]


class Answer(NamedTuple):
    """An answer in parts; fields by their names in lower case."""

    status: int
    fields: dict[str, str]
    body: bytes


@contextmanager
def connected(address: Address, patience: float = 30) -> Iterator[socket.socket]:
    with socket.create_connection(address, patience) as made:
        yield made


def exchange(address: Address, *parts: bytes, patience: float = 30) -> list[Answer]:
    """Send parts as far as they are taken, then read all answers until the connection ends or nothing more comes."""
    with connected(address, patience) as made:
        with suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                made.sendall(part)
        return answers(read(made))


def read(made: socket.socket) -> bytes:
    """All that comes until the connection ends or its patience does."""
    received = bytearray()
    with suppress(ConnectionResetError, TimeoutError):
        while part := made.recv(65_536):
            received += part
    return bytes(received)


def answers(received: bytes) -> list[Answer]:
    """Answers with a Content-Length, one after the other."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(fields.get("content-length", 0))
        status = int(first.split()[1])
        if status >= 200:
            found.append(Answer(status, fields, rest[:length]))
        received = rest[length if status >= 200 else 0 :]
    return found


def request(
    target: str = "/", *fields: str, method: str = "GET", host: str | None = "localhost", body: bytes = b""
) -> bytes:
    """A request; the body's length is told by the caller."""
    named = () if host is None else (f"Host: {host}",)
    return "\r\n".join((f"{method} {target} HTTP/1.1", *named, *fields, "", "")).encode("latin-1") + body
