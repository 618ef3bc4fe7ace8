"""Bounds of what a caller may make a serving process hold or wait for, before it is known who calls."""

from __future__ import annotations

from dataclasses import dataclass

from service.delivery.links import CALLBACKS


@dataclass(frozen=True)
class Bounds:
    """Bounds of one serving process and of each of its connections.

    Attributes:
        connections: Connections that are open at once; further ones get 503, unless an idle or slow one can make room.
        refused: Connections beside these that are open for as long as it takes to tell them so.
        target_bytes: Of a request's target: its path and query.
        head_bytes: Of a request's line and header fields together.
        fields: Header fields of a request, trailers included.
        body_bytes: Of a request's body, as it is sent.
        callback_bytes: Of a provider's callback, which may tell of a thousand messages.
        unpacked_bytes: Of a gzipped body, once it is unpacked.
        pipelined: Requests of a connection that wait for the answer to an earlier one before no more are read.
        head_seconds: From a request's first byte, or a connection's start, until its header fields are complete.
        body_seconds: From there until its body is complete.
        write_seconds: How long a caller may leave an answer unread.
        linger_seconds: How long a refused caller may go on sending before the connection is cut.
        leave_seconds: How long an idle connection may still bring a request when the process is to end.
        grace_seconds: How long a connection may be idle or slow before it must make room for others.
    """

    connections: int = 800
    refused: int = 50
    target_bytes: int = 8 * 1024
    head_bytes: int = 32 * 1024
    fields: int = 100
    body_bytes: int = 256 * 1024
    callback_bytes: int = 1024 * 1024
    unpacked_bytes: int = 1024 * 1024
    pipelined: int = 32
    head_seconds: float = 10.0
    body_seconds: float = 20.0
    write_seconds: float = 30.0
    linger_seconds: float = 2.0
    leave_seconds: float = 1.0
    grace_seconds: float = 0.5

    def of_body(self, target: bytes) -> int:
        """Most bytes of a body that is sent to a path."""
        return self.callback_bytes if target.startswith(CALLBACKS.encode()) else self.body_bytes


BOUNDS = Bounds()
"""What holds in every house."""
