"""Malformed requests without end, by a seed: bodies that are no JSON, or not what a route takes, and broken HTTP."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from support.keys import KEY

WHOLE: Final[Mapping[str, dict[str, Any]]] = {
    "/v1/events": {
        "type": "deposit",
        "event_id": "e-1",
        "player_id": "p-1",
        "occurred_at": "2026-03-02T12:00:00Z",
        "amount_minor": 1_000,
        "status": "approved",
    },
    "/v1/decisions": {"player_id": "p-1", "request_id": "r-1", "channels": ["email"], "explain": True, "context": {}},
    "/v1/decisions/batch": {"requests": [{"player_id": "p-1"}, {"player_id": "p-2"}]},
    "/v1/outcomes": {
        "outcome_id": "o-1",
        "decision_id": f"000-{'a' * 24}",
        "type": "sent",
        "occurred_at": "2026-03-02T12:00:00Z",
    },
    "/v1/stops": {"channel": "sms", "reason": "a wrong link"},
    "/v1/erasures": {"player_id": "p-1", "reason": "asked by letter"},
    "/v1/exports": {"player_id": "p-1"},
    "/v1/keys": {"scopes": ["read"], "label": "reader", "rate": 10},
}
"""A body of each route that takes one; its parts are exchanged for others."""
ODD: Final[tuple[Any, ...]] = (
    *(
        None,
        True,
        -1,
        0.5,
        1e308,
        10**400,
        -(10**30),
        "",
        " ",
        "\0",
        "a" * 70_000,
        "\U0010ffff",
        "{}",
        "../../etc/passwd",
    ),
    *([], {}, [[]], {"": {}}, [None] * 1_000, {str(number): number for number in range(500)}),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:60Z", "2026-02-30T00:00:00Z", "2026-03-02T12:00:00+99:99", "now"),
)
KINDS: Final = (
    *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/xml"),
    *("application/json; charset=utf-16", "application/json\t; q", "APPLICATION/JSON"),
)
CHUNKED: Final = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


class Malformed(NamedTuple):
    """A request over a client: where, which bytes, with which fields."""

    path: str
    body: bytes
    fields: dict[str, str]


def requests(seed: int) -> Iterator[Malformed]:
    chance = random.Random(seed)
    while True:
        path = chance.choice(list(WHOLE))
        body = chance.choice(BODIES)(path, chance)
        kind = chance.choice(KINDS) if chance.random() < 0.1 else "application/json"
        yield Malformed(path, body[:300_000], {"content-type": kind})


def _changed(path: str, chance: random.Random) -> bytes:
    """A body with some of its parts exchanged, taken out or put in."""
    body = dict(WHOLE[path])
    for _ in range(chance.randint(1, 3)):
        name = chance.choice([*body, "colour", "", "player_id", "\ud800"])
        if chance.random() < 0.2:
            body.pop(name, None)
        else:
            body[name] = chance.choice(ODD)
    return json.dumps(body, ensure_ascii=chance.random() < 0.8).encode("utf8", "surrogatepass")


def _cut(path: str, chance: random.Random) -> bytes:
    body = json.dumps(WHOLE[path]).encode()
    return body[: chance.randrange(len(body))]


def _scrambled(path: str, chance: random.Random) -> bytes:
    body = bytearray(json.dumps(WHOLE[path]).encode())
    for _ in range(chance.randint(1, 20)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    return bytes(body)


def _twice(path: str, chance: random.Random) -> bytes:
    """A body in which names stand twice."""
    body = json.dumps(WHOLE[path])
    return f"{body[:-1]}, {json.dumps({chance.choice(list(WHOLE[path])): chance.choice(ODD)})[1:]}".encode()


def _other_numbers(path: str, chance: random.Random) -> bytes:
    number = chance.choice(
        ["NaN", "Infinity", "-Infinity", "1e999", "-0", "01", "1_000", "0x1", "1" * 5_000, "1." + "0" * 5_000]
    )
    name = chance.choice(list(WHOLE[path]))
    return f"{json.dumps(WHOLE[path])[:-1]}, {json.dumps(name)}: {number}}}".encode()


def _encoded(path: str, chance: random.Random) -> bytes:
    body = json.dumps(WHOLE[path])
    return chance.choice(
        [
            body.encode("utf-16"),
            body.encode("utf-32"),
            b"\xef\xbb\xbf" + body.encode(),
            body.encode("cp037"),
            gzip.compress(body.encode()),
            body.replace("p-1", "\\ud800").encode(),
            body.replace("p-1", "\\u0000").encode(),
            body.encode().replace(b"p-1", b"\xff\xfe"),
        ]
    )


def _deep(_: str, chance: random.Random) -> bytes:
    """Nesting that ends, or does not."""
    depth, opening, closing = chance.choice([(1_000, b"[", b"]"), (100_000, b"[", b"]"), (40_000, b'{"a":', b"}")])
    return opening * depth + (b"1" + closing * depth if chance.random() < 0.5 else b"")


def _noise(_: str, chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice([0, 1, 17, 4_000, 280_000]))


BODIES: Final[tuple[Callable[[str, random.Random], bytes], ...]] = (
    *(_changed, _changed, _changed, _cut, _scrambled, _twice, _other_numbers, _encoded, _deep, _noise),
)


def broken(seed: int) -> Iterator[bytes]:
    """Bytes that are no HTTP/1.1, or only just."""
    chance = random.Random(seed)
    body = json.dumps(WHOLE["/v1/events"]).encode()
    head = (
        f"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    )
    whole = head.encode() + b"\r\n\r\n" + body
    while True:
        yield chance.choice(
            [
                chance.randbytes(chance.randint(1, 2_000)),
                _with_noise(whole, chance),
                whole.replace(b"\r\n", b"\n"),
                whole.replace(b"HTTP/1.1", chance.choice([b"HTTP/9.9", b"HTTP/1.0", b"http/1.1", b""])),
                whole.replace(b"POST", chance.choice([b"post", b"P\0ST", b"PURGE", b"CONNECT", b"PRI", b"M-SEARCH"])),
                whole.replace(
                    b"/v1/events", chance.choice([b"*", b"//", b"/%", b"/%00", b"\xff", b"http://[::1", b"/" * 9_000])
                ),
                whole.replace(
                    b"Host: localhost", chance.choice([b"Host:", b"Host: [", b"Host: a b", b"Host: \xff", b"X: y"])
                ),
                whole.replace(str(len(body)).encode(), chance.choice([b"-1", b"1e3", b"9" * 30, b"0", b"5, 5", b""])),
                CHUNKED
                + chance.choice(
                    [b"zz\r\n", b"-1\r\n", b"ffffffffffffffff\r\n", b"5\r\nabc", b"0\r\n\r\n", b"1;a=b\r\nx"]
                ),
                whole * 3,
            ]
        )


def _with_noise(whole: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(whole))
    return whole[:at] + chance.randbytes(chance.randint(1, 10)) + whole[at:]
