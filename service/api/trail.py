"""Ids by which a request is followed: its own, and the trace that its caller is in.

    X-Request-Id: order-4711                   the caller's, where it is a short plain word; ours otherwise; answered
    traceparent: 00-TRACE-SPAN-FLAGS           as W3C Trace Context, level 1, has it; what is not whole is ignored

Both are bound to every line that is logged meanwhile, as is the id of the decision.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from itertools import count
from typing import Final, NamedTuple

from structlog.contextvars import bind_contextvars, clear_contextvars

HEADER: Final = b"x-request-id"
_TRACEPARENT: Final = b"traceparent"
_PLAIN: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_PROCESS: Final = secrets.token_hex(6)
_NUMBERS: Final = count()


class Parent(NamedTuple):
    """The caller's span: its trace and own id, hex, and whether it is recorded."""

    trace_id: str
    span_id: str
    sampled: bool


class Trail(NamedTuple):
    """The ids of a request."""

    request_id: bytes
    parent: Parent | None


def follow(headers: Iterable[tuple[bytes, bytes]]) -> Trail:
    """Read a request's ids from its headers, by names in lower case, and bind them to what is logged from here on."""
    clear_contextvars()  # a pipelined request begins within the one before it
    request_id, parents = b"", []
    for name, value in headers:
        if name == HEADER and _PLAIN.fullmatch(value):
            request_id = value
        elif name == _TRACEPARENT:
            parents.append(value)
    request_id = request_id or b"%s-%x" % (_PROCESS.encode(), next(_NUMBERS))
    parent = read_parent(parents[0]) if len(parents) == 1 else None
    if parent is None:
        bind_contextvars(request_id=request_id.decode())
    else:
        bind_contextvars(request_id=request_id.decode(), trace_id=parent.trace_id)
    return Trail(request_id, parent)


def read_parent(text: bytes) -> Parent | None:
    """Read a traceparent; None if it is not whole. A later version than ours may hold more at its end."""
    found = _PARENT.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if (
        version == b"ff"
        or (version == b"00" and more is not None)
        or not trace_id.strip(b"0")
        or not span_id.strip(b"0")
    ):
        return None
    return Parent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & 1))
