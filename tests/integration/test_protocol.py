"""Protocol of the API: bounds on what callers can make a process hold or wait for, and one reading of a request."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import uvicorn
from support.cluster import free_ports
from support.raw_http import Address, answers, connected, exchange, read, request

from service.api import protocol
from service.api.bounds import Bounds
from service.api.protocol import BoundedProtocol

TIGHT = Bounds(
    connections=12,
    refused=2,
    target_bytes=200,
    head_bytes=2_000,
    fields=20,
    body_bytes=100_000,
    pipelined=4,
    head_seconds=1.0,
    body_seconds=1.0,
    write_seconds=1.0,
    linger_seconds=0.3,
    leave_seconds=0.5,
    grace_seconds=0.2,
)


class TightProtocol(BoundedProtocol):
    bounds: ClassVar[Bounds] = TIGHT


async def told(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what was asked; `/unread` answers without the body, `/slow` later, `/large` at length, `/fields` with
    the names of the header fields."""
    body = b""
    if scope["path"] == "/slow":
        await asyncio.sleep(1.2)
    while scope["path"] != "/unread":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    if scope["path"] == "/fields":
        body = b" ".join(name for name, _ in scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
        return
    answer = b"x" * 8_000_000 if scope["path"] == "/large" else f"{scope['path']} {len(body)}".encode()
    fields = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    """A server of the protocol within tight bounds."""
    with serving() as (where, _):
        yield where


@contextmanager
def serving() -> Iterator[tuple[Address, uvicorn.Server]]:
    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "LOOK_SECONDS", 0.05)
        config = uvicorn.Config(
            told, port=port, http=TightProtocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            threading.Event().wait(0.01)
        yield ("127.0.0.1", port), server
        server.should_exit = True
        thread.join()


def codes(address: Address, *parts: bytes) -> list[str]:
    """The codes of problems, or the texts, that come back."""
    return [
        json.loads(one.body)["code"] if one.status >= 400 else one.body.decode() for one in exchange(address, *parts)
    ]


def posted(target: str, *fields: str, body: bytes = b"") -> bytes:
    return request(target, *fields, method="POST", body=body)


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([request(f"/{'a' * 300}")], "target_too_long"),
        ([b"GET /", *[b"a" * 100] * 500], "target_too_long"),
        ([request("/", f"X: {'a' * 3_000}")], "headers_too_large"),
        ([request("/", *[f"X{number}: a" for number in range(30)])], "headers_too_large"),
        ([b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", *[b"a" * 1_000] * 500], "headers_too_large"),
        ([b"GET / HTTP/1.1\r\nHost: localhost\r\nX", *[b"a" * 1_000] * 500], "headers_too_large"),
        ([b"GET / HTTP/1.1\r\n", *[b"X: a\r\n" * 100] * 500], "headers_too_large"),
        ([posted("/", "Transfer-Encoding: chunked"), b"1;", *[b"x" * 1_000] * 90], "headers_too_large"),
        ([posted("/", "Transfer-Encoding: chunked"), b"0\r\nX: ", *[b"x" * 1_000] * 90], "headers_too_large"),
        ([posted("/", "Content-Length: 100001")], "too_large"),
        ([posted("/unread", f"Content-Length: {10**15}")], "too_large"),
        ([posted("/", "Transfer-Encoding: chunked"), *[b"3e8\r\n" + b"x" * 1_000 + b"\r\n"] * 200], "too_large"),
        ([request("/", "Host: localhost")], "malformed_request"),
        ([request("/", host=None)], "malformed_request"),
        ([request("http://other/")], "malformed_request"),
        ([posted("/", "Content-Length: 2", "Content-Length: 2", body=b"{}")], "malformed_request"),
        ([posted("/", "Content-Length: 2", "Content-Length: 3", body=b"{}")], "malformed_request"),
        ([posted("/", "Content-Length: 2", "Transfer-Encoding: chunked", body=b"0\r\n\r\n")], "malformed_request"),
        ([posted("/", "Transfer-Encoding: chunked", "Content-Length: 2", body=b"0\r\n\r\n")], "malformed_request"),
        ([posted("/", "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")], "malformed_request"),
        ([posted("/", "Transfer-Encoding: xchunked", body=b"0\r\n\r\n")], "malformed_request"),
        ([posted("/", "Content-Length: +2", body=b"{}")], "malformed_request"),
        ([posted("/", "Content-Length: -2", body=b"{}")], "malformed_request"),
        ([posted("/", "Content-Length: 0x2", body=b"{}")], "malformed_request"),
        ([posted("/", "Content-Length : 2", body=b"{}")], "malformed_request"),
        ([posted("/", "Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n0\r\n\r\n")], "malformed_request"),
        ([b"GET / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], "malformed_request"),
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], "malformed_request"),
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], "malformed_request"),
        ([b"GET\r\n\r\n"], "malformed_request"),
        ([b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n"], "malformed_request"),
        ([b"GET / HTTP/1.1\r\nHost: localhost\r\n"], "too_slow"),
        ([b"G"], "too_slow"),
        ([posted("/", "Content-Length: 10", body=b"x")], "too_slow"),
        ([posted("/", "Transfer-Encoding: chunked", body=b"1\r\nx\r\n")], "too_slow"),
    ],
)
def test_what_oversteps_a_bound_or_reads_in_two_ways_is_refused_and_cut(
    address: Address, parts: list[bytes], code: str
) -> None:
    assert codes(address, *parts) == [code]


@pytest.mark.parametrize("silent", [b"", b"\r\n", b"\r\n" * 1_000])
def test_a_connection_without_a_request_ends_without_a_word(address: Address, silent: bytes) -> None:
    begun = time.monotonic()
    assert exchange(address, silent) == []
    assert time.monotonic() - begun < 5


def test_blank_lines_keep_no_connection_open(address: Address) -> None:
    with connected(address, 0.1) as made:
        until, ended = time.monotonic() + 10, False
        while not ended and time.monotonic() < until:
            try:
                made.sendall(b"\r\n")
                ended = made.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended


def test_an_idle_connection_is_closed_and_a_busy_one_stays(address: Address) -> None:
    assert codes(address, request("/one")) == ["/one 0"]
    with connected(address) as made:
        for _ in range(3):
            made.sendall(request("/two"))
            assert answers(made.recv(65_536))[0].body == b"/two 0"


def test_pipelined_requests_are_answered_in_their_order_however_many_and_however_cut(address: Address) -> None:
    targets = [f"/{number}" for number in range(300)]
    asked = b"".join(
        posted(target, "Content-Length: 2", body=b"{}") if number % 3 else request(target)
        for number, target in enumerate(targets)
    )
    expected = [f"{target} {2 if number % 3 else 0}" for number, target in enumerate(targets)]
    assert codes(address, asked) == expected
    cut = [asked[start : start + 777] for start in range(0, len(asked), 777)]
    assert codes(address, *cut) == expected


def test_a_refusal_comes_after_the_answers_that_are_due(address: Address) -> None:
    bad = posted("/bad", "Content-Length: 2", "Content-Length: 3", body=b"{}")
    assert codes(address, request("/slow") + request("/next") + bad) == ["/slow 0", "/next 0", "malformed_request"]
    assert codes(address, request("/slow") + bad + request("/never")) == ["/slow 0", "malformed_request"]
    unfinished = posted("/bad", "Content-Length: 200000", body=b"x")
    assert codes(address, request("/slow") + unfinished) == ["/slow 0", "too_large"]
    assert codes(address, request("/slow") + b"GET / HT") == ["/slow 0", "too_slow"], "nobody is hurried meanwhile"


def test_an_answer_without_the_body_ends_a_connection_whose_body_never_ends(address: Address) -> None:
    head = posted("/unread", "Transfer-Encoding: chunked")
    assert codes(address, head) == ["/unread 0"]
    assert codes(address, head, *[b"3e8\r\n" + b"x" * 1_000 + b"\r\n"] * 300)[0] == "/unread 0"
    assert codes(address, posted("/unread", "Content-Length: 2", body=b"{}") + request("/on")) == ["/unread 0", "/on 0"]


def test_another_protocol_on_offer_is_passed_over(address: Address) -> None:
    offer = "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"
    assert codes(address, request("/plain", *offer)) == ["/plain 0"]
    assert codes(address, posted("/plain", *offer, "Content-Length: 2", body=b"{}")) == ["malformed_request"], (
        "not lost"
    )
    assert codes(address, request("/plain", "Connection: Upgrade", "Upgrade: websocket")) == ["/plain 0"]


def test_a_caller_who_does_not_read_is_cut_off(address: Address) -> None:
    with connected(address, 10) as made:
        made.sendall(request("/large") * 4)
        threading.Event().wait(3)
        assert len(read(made)) < 32_000_000


def test_when_all_connections_are_taken_the_slowest_makes_room_and_without_one_it_is_503(address: Address) -> None:
    slow = [exchanging(address, b"GET / HTTP/1.1\r\nX: ") for _ in range(TIGHT.connections)]
    threading.Event().wait(TIGHT.grace_seconds * 1.5)
    assert codes(address, request("/in", "Connection: close")) == ["/in 0"]
    busy = [exchanging(address, request("/slow")) for _ in range(TIGHT.connections)]
    threading.Event().wait(0.1)
    (refused,) = exchange(address, request("/"))
    assert (refused.status, json.loads(refused.body)["code"]) == (503, "too_many_connections")
    assert refused.fields["retry-after"] == "1"
    assert refused.fields["connection"] == "close"
    for one in slow + busy:
        one.join()


def exchanging(address: Address, sent: bytes) -> threading.Thread:
    thread = threading.Thread(target=exchange, args=(address, sent))
    thread.start()
    return thread


def test_what_comes_after_a_body_is_no_header_field(address: Address) -> None:
    """A trailer could name another host, caller or address than the head that was judged (RFC 9110, 6.5.1)."""
    sent = request("/fields", "Transfer-Encoding: chunked", method="POST", body=b"0\r\nhost: other\r\nx-a: b\r\n\r\n")
    (answer,) = exchange(address, sent, patience=5)
    assert (answer.status, answer.body) == (200, b"host transfer-encoding")


def test_what_comes_after_a_body_is_bounded_in_number(address: Address) -> None:
    trailers = b"a: b\r\n" * (TIGHT.fields + 1)
    sent = request("/fields", "Transfer-Encoding: chunked", method="POST", body=b"0\r\n" + trailers + b"\r\n")
    assert [one.status for one in exchange(address, sent, patience=5)] == [431]


def test_a_process_that_ends_answers_what_still_comes_as_the_last_of_its_connection() -> None:
    with serving() as (address, server), connected(address) as used, connected(address) as silent:
        used.sendall(request("/first"))
        first = b""
        while not first.endswith(b"/first 0"):
            first += used.recv(1_024)
        server.should_exit = True
        while is_listened_to(address):
            threading.Event().wait(0.01)
        used.sendall(request("/second"))
        (last,) = answers(read(used))
        assert (last.body, last.fields["connection"]) == (b"/second 0", "close")
        assert read(silent) == b""


def is_listened_to(address: Address) -> bool:
    try:
        with connected(address):
            return True
    except ConnectionRefusedError:
        return False
