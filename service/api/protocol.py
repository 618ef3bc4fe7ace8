"""HTTP/1.1 as the serving process reads it: uvicorn's protocol within bounds, and refusing what is ambiguous."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Transport
from collections.abc import Sequence
from math import inf
from operator import itemgetter
from typing import Any, ClassVar, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from features.errors import CroupierError
from service.api.bounds import BOUNDS, Bounds
from service.api.door import name_of
from service.api.problems import refuse
from service.errors import (
    HeadersTooLargeError,
    MalformedRequestError,
    RequestRefused,
    TargetTooLongError,
    TooLargeError,
    TooManyConnectionsError,
    TooSlowError,
)

SLICE_BYTES: Final = 4096
"""Bytes that are parsed before it is looked at again whether there is room for more."""
LOOK_SECONDS: Final = 1.0

Fields = Sequence[tuple[bytes, bytes]]


class Flow(FlowControl):
    """Whether a connection is read from; nothing resumes it while what was read waits to be parsed."""

    held = False

    def resume_reading(self) -> None:
        """Read on, unless enough was read."""
        if not self.held:
            super().resume_reading()


class BoundedProtocol(HttpToolsProtocol):
    """A connection: uvicorn's own, with a bound on all that its caller can make it keep or wait for.

    Requests are answered in their order, a refusal in its turn; after a refusal nothing of the connection is read.
    """

    bounds: ClassVar[Bounds] = BOUNDS

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._in_body = False
        """Whether the header fields of a request are complete, and its body is not."""
        self._begun = False
        """Whether a byte of a request is there whose header fields are not complete."""
        self._body_bytes = 0
        self._trailers = 0
        self._unspent_bytes = 0
        """Parsed since the request began, or since its body last grew: of these the parser may keep all."""
        self._grew = False
        """Whether a request began, or its body grew, in the slice that is being parsed."""
        self._due = inf
        """When a request, or the part of it that is awaited, must be there."""
        self._unread_until = inf
        """When the caller must have read an answer."""
        self._waits_since = self.loop.time()
        self._refusal: RequestRefused | None = None
        self._deaf = False
        """Whether what still arrives is thrown away."""
        self._spilt_bytes = 0
        self._farewell = b""
        """The refusal, while earlier requests are still to be answered."""
        self._held = b""
        """What was read and is not yet parsed."""
        self._leaving = False
        """Whether the process is about to end."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin to watch a connection; if there are too many, one of them is cut."""
        super().connection_made(transport)
        self.flow = Flow(transport)
        self._due = self.loop.time() + self.bounds.head_seconds
        self._look_again = self.loop.call_later(LOOK_SECONDS, self._look)
        over = len(self.connections) - self.bounds.connections
        if over <= 0 or self._made_room():
            return
        if over <= self.bounds.refused:
            self._refuse(TooManyConnectionsError())
        else:
            transport.abort()

    def _made_room(self) -> bool:
        """Cut the connection that has been idle or slow for longest, if there is one."""
        waiting = [(since, one) for one in self.connections if (since := one.waits_since()) is not None]  # type: ignore[union-attr]
        since, slowest = min(waiting, key=itemgetter(0))  # itself at least
        if self.loop.time() - since < self.bounds.grace_seconds:
            return False
        self._count(TooSlowError())
        slowest.transport.abort()
        return True

    def waits_since(self) -> float | None:
        """Since when its caller is the one to go on, on the loop's clock; None while an answer or a body is awaited."""
        busy = self._in_body or not (self.cycle is None or self.cycle.response_complete)
        return None if busy and not self._deaf else self._waits_since

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection and what it read, without waiting for a search for cycles: its request names it."""
        self._look_again.cancel()
        self._held = b""
        super().connection_lost(exc)
        self.cycle = None  # type: ignore[assignment]

    def shutdown(self) -> None:
        """Answer what is under way, or what comes within a moment, as the last of the connection.

        A connection that is cut while its caller sends takes the request with it, and nobody knows what became of it.
        """
        self._leaving = True
        if self._in_body or self._owes():
            self.cycle.keep_alive = False
        else:
            self._due = min(self._due, self.loop.time() + self.bounds.leave_seconds)

    def _look(self) -> None:
        """Look whether something is overdue; once a second for each connection, rather than a timer a request."""
        now = self.loop.time()
        if now >= self._unread_until or (self._deaf and now >= self._due):
            self.transport.abort()
            return
        if now >= self._due:
            self._overdue(now)
        self._look_again = self.loop.call_later(LOOK_SECONDS, self._look)

    def _overdue(self, now: float) -> None:
        if self._owes():
            self._due = now + self.bounds.head_seconds  # nothing was read meanwhile: the caller is not to blame
        elif self._begun or self._in_body:
            self._refuse(TooSlowError())
        else:
            self.transport.close()

    def _answered(self) -> bool:
        """Whether the request whose body is being read has its answer."""
        return self._in_body and self.cycle.response_complete

    def _owes(self) -> bool:
        """Whether an answer is due to a request that is complete."""
        return bool(self.pipeline) or not (self.cycle is None or self.cycle.response_complete or self.cycle.more_body)

    def data_received(self, data: bytes) -> None:
        """Take what a caller sent."""
        if self._deaf:
            self._spill(len(data))
            return
        self._unset_keepalive_if_required()
        if self._due == inf and not self._in_body:
            self._due = self.loop.time() + self.bounds.head_seconds
        if self._held:
            self._held += data
        else:
            self._parse(data)

    def _spill(self, count: int) -> None:
        """Throw away what is of no use; of one who sends too much of it, no more is read."""
        self._spilt_bytes += count
        if self._spilt_bytes > self.bounds.body_bytes:
            self.flow.pause_reading()

    def _parse(self, data: bytes) -> None:
        """Parse what was read, in slices, until too many requests wait; the rest is kept, and no more is read."""
        for start in range(0, len(data), SLICE_BYTES):
            if self._deaf or self.transport.is_closing():
                break
            if len(self.pipeline) >= self.bounds.pipelined:
                self._held = data[start:]
                self.flow.pause_reading()
                break
            self._parse_slice(data[start : start + SLICE_BYTES])
        self.flow.held = bool(self._held)  # type: ignore[attr-defined]

    def _parse_slice(self, data: bytes) -> None:
        self._grew = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # No other protocol is spoken here: it is answered as if it had not been offered, and is the last.
            self._deaf = True
            self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self._refuse(self._refusal or MalformedRequestError())
        else:
            self._unspent_bytes = 0 if self._grew else self._unspent_bytes + len(data)
            if self._unspent_bytes > self.bounds.head_bytes and (self._begun or self._in_body):
                self._refuse(HeadersTooLargeError() if self.headers else TargetTooLongError())

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._begun = self._grew = True
        self._body_bytes = self._trailers = 0
        if self._due == inf:
            self._due = self.loop.time() + self.bounds.head_seconds

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field; those after a body are counted and dropped, for they change nothing (RFC 9110, 6.5.1)."""
        if not self._in_body:
            super().on_header(name, value)
            return
        self._trailers += 1
        if self._trailers > self.bounds.fields:
            self._stop(HeadersTooLargeError())

    def on_headers_complete(self) -> None:
        """Begin to answer a request, if it can be read in one way only."""
        refusal = framing(self.url, self.headers, self.parser.get_http_version(), self.bounds)
        if refusal is None and self.parser.should_upgrade() and _has_body(self.headers):
            refusal = MalformedRequestError("a request with a body offers no other protocol (Upgrade)")
        if refusal is not None:
            self._stop(refusal)
        super().on_headers_complete()
        if self._leaving:
            self.cycle.keep_alive = False
        self._begun, self._in_body = False, True
        self._due = self.loop.time() + self.bounds.body_seconds

    def on_body(self, body: bytes) -> None:
        """Take a part of the body; what nobody waits for any more is thrown away."""
        self._grew = True
        self._body_bytes += len(body)
        if self._body_bytes > (most := self.bounds.of_body(self.url)):
            self._stop(TooLargeError(f"a body has at most {most} bytes"))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        super().on_message_complete()
        self._in_body, self._due = False, inf
        self._waits_since = self.loop.time()

    def on_response_complete(self) -> None:
        """Go on with the next request of the connection, with the refusal that ends it, or with waiting."""
        last = not self.pipeline
        super().on_response_complete()
        now = self._waits_since = self.loop.time()
        if self.transport.is_closing():
            self._unread_until = now + self.bounds.write_seconds
        elif last and self._farewell:
            self._part()
        elif last and self._in_body:
            self._due = now + self.bounds.linger_seconds
        elif self._held and len(self.pipeline) < self.bounds.pipelined:
            held, self._held = self._held, b""
            self._parse(held)
            if not self._held:
                self.flow.resume_reading()

    def pause_writing(self) -> None:
        """Begin to wait for a caller who does not read."""
        self._unread_until = self.loop.time() + self.bounds.write_seconds
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on writing."""
        if not self.transport.is_closing():
            self._unread_until = inf
        super().resume_writing()

    def _stop(self, refusal: RequestRefused) -> None:
        """End parsing from within the parser, with a reason; not by raising it: a traceback holds what was read."""
        self._refusal = refusal
        raise httptools.HttpParserError(refusal.code)

    def _refuse(self, refusal: CroupierError) -> None:
        """Answer the request that is being read with a refusal, after those before it, and read no more."""
        if self._deaf:
            return
        self._deaf = True
        if self._answered():
            self.transport.close()
            return
        self._count(refusal)
        self._held, self._farewell, self._due = b"", self._answer(refusal), inf
        cycle = self.cycle
        if self.pipeline and self.pipeline[0][0] is cycle and cycle.more_body:
            self.pipeline.popleft()  # never begun, and never complete
        elif self._in_body and not cycle.response_complete and cycle.more_body:
            cycle.disconnected = True  # whoever waits for the rest of its body
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()
            else:
                self._part()
        elif not self._owes():
            self._part()

    def _count(self, refusal: CroupierError) -> None:
        if (metrics := self.app_state.get("metrics")) is not None:
            metrics.refused(refusal)

    def _answer(self, refusal: CroupierError) -> bytes:
        answer = refuse(refusal)
        fields = [*self.server_state.default_headers, *answer.raw_headers, (b"connection", b"close")]
        lines = [b"%b: %b\r\n" % field for field in fields]
        return b"".join((STATUS_LINE[answer.status_code], *lines, b"\r\n", answer.body))

    def _part(self) -> None:
        """Send the refusal, and leave its reader a moment: a connection that is cut takes unread answers with it."""
        self._waits_since = self.loop.time()
        self._due = self._waits_since + self.bounds.linger_seconds
        if self.transport.is_closing():
            return
        self.transport.write(self._farewell)
        self.flow.held = False  # type: ignore[attr-defined]
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()


def framing(target: bytes, fields: Fields, version: str, bounds: Bounds) -> RequestRefused | None:
    """Why a request is too large, or could be read in two ways; None if neither is so. Pure."""
    hosts, lengths, codings, head_bytes = [], [], [], len(target)
    for name, value in fields:
        head_bytes += len(name) + len(value) + 4
        if name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
    if len(target) > bounds.target_bytes:
        return TargetTooLongError()
    if head_bytes > bounds.head_bytes or len(fields) > bounds.fields:
        return HeadersTooLargeError()
    if (ambiguity := _ambiguity(target, hosts, lengths, codings, version)) is not None:
        return MalformedRequestError(ambiguity)
    if lengths and int(lengths[0][:20]) > (most := bounds.of_body(target)):
        return TooLargeError(f"a body has at most {most} bytes")
    return None


def _ambiguity(
    target: bytes, hosts: Sequence[bytes], lengths: Sequence[bytes], codings: Sequence[bytes], version: str
) -> str | None:
    """What could be read in two ways, None if nothing can.

    RFC 9112, sections 3.2 (one Host, and the same as in the target), 6.1 and 6.3 (length and transfer coding).
    """
    if len(hosts) != 1 and (hosts or version != "1.0"):
        return "a request has one Host"
    if not target.startswith(b"/") and hosts and _host(target) not in {"", name_of(hosts[0])}:
        return "the target and Host name the same host"
    if len(lengths) + len(codings) > 1 or (codings and (version == "1.0" or codings[0].lower() != b"chunked")):
        return "a body has one Content-Length, or is chunked and nothing else"
    if lengths and not lengths[0].isdigit():
        return "Content-Length is a number"
    return None


def _host(target: bytes) -> str:
    """The host that a whole URL as a target names; empty if it is none."""
    return name_of(httptools.parse_url(target).host or b"")


def _has_body(fields: Fields) -> bool:
    return any(name in {b"content-length", b"transfer-encoding"} and value != b"0" for name, value in fields)
