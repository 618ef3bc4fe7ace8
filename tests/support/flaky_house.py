"""A server that stands before a house and fails on purpose: each request meets the next fault of a list."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

Canned = tuple[int, dict[str, str], bytes]
"""Status, header fields and body of an answer that no house gave."""


class Fault(NamedTuple):
    """What a request meets.

    Attributes:
        forwarded: Whether the house gets it.
        answer: What is answered in place of the house; None cuts the connection.
        reset: Whether the connection is reset rather than closed.
        drip: Seconds between the bytes of the answer.
        waits: Whether nothing at all is answered, until the caller goes.
    """

    forwarded: bool = False
    answer: Canned | None = None
    reset: bool = False
    drip: float = 0.0
    waits: bool = False


NO_FAULT: Final = Fault(forwarded=True)


class Seen(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


def busy(**fields: str) -> Fault:
    """The answer of a house that cannot serve now."""
    body = b'{"title": "Unavailable", "status": 503, "code": "store_unavailable", "detail": "try again"}'
    return Fault(answer=(503, {"content-type": "application/problem+json", **fields}, body))


def canned(status: int, body: bytes, **fields: str) -> Fault:
    return Fault(answer=(status, fields, body))


class FlakyHouse:
    """Where it listens, what it saw, and the faults still to come; without one, requests reach the house."""

    def __init__(self, house: str | None = None) -> None:
        self.house = house
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.over = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"flaky": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def forward(self, asked: Seen) -> Canned:
        """What the house answers."""
        assert self.house is not None
        there = HTTPConnection(urlsplit(self.house).netloc, timeout=30)
        there.request(asked.method, asked.path, asked.body or None, asked.headers)
        answer = there.getresponse()
        body = answer.read()
        there.close()
        fields = {name: value for name, value in answer.getheaders() if name.lower() in {"content-type", "retry-after"}}
        return answer.status, fields, body


class _Handler(BaseHTTPRequestHandler):
    flaky: FlakyHouse
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        flaky, body = self.flaky, self.rfile.read(int(self.headers.get("content-length", 0)))
        passed = {name: value for name, value in self.headers.items() if name.lower() not in {"host", "content-length"}}
        asked = Seen(self.command, self.path, body, passed)
        flaky.seen.append(asked)
        if not flaky.faults:
            self._answer(NO_FAULT, flaky.forward(asked))
            return
        fault = flaky.faults.pop(0)
        if fault.forwarded:
            flaky.forward(asked)
        self._answer(fault, fault.answer)

    def _answer(self, fault: Fault, answer: Canned | None) -> None:
        if fault.waits:
            self.flaky.over.wait(30)
        if answer is None:
            self.close_connection = True
            if fault.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        status, fields, body = answer
        self.send_response_only(status)
        for name, value in {**fields, "content-length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with suppress(OSError):
            self._write(body, fault.drip)

    def _write(self, body: bytes, drip: float) -> None:
        if not drip:
            self.wfile.write(body)
            return
        for byte in body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            self.flaky.over.wait(drip)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - names of the base class


@contextmanager
def before(house: str | None = None) -> Iterator[FlakyHouse]:
    """A flaky house before one that runs, or one that only says what its faults hold."""
    flaky = FlakyHouse(house)
    thread = threading.Thread(target=flaky.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield flaky
    finally:
        flaky.over.set()
        flaky.server.shutdown()
        flaky.server.server_close()
        thread.join()
