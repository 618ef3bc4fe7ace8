"""One call to a provider: what came of it, and what that says of a message. Pure.

answered 2xx --> Sent      429, 503 with Retry-After, not sent --> Later
other 4xx    --> Refused   5xx, 408, no answer                 --> Unknown: the provider may have taken it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple, Protocol

from service.delivery.message import Later, Refused, Unknown

ASKED_SECONDS: Final = 86_400.0
"""The longest wait that a provider may ask for."""
AGAIN_SECONDS: Final = 5.0
"""Wait where nothing was sent, and none was asked for."""
_OURS: Final = frozenset({401, 403, 404, 405, 407})
"""Refusals of how we call, not of what: another connector may do."""


class HttpAnswer(NamedTuple):
    """An answer: its status, its headers by lower-case name, the beginning of its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def taken(self) -> bool:
        """Whether the provider took what was sent."""
        return self.status // 100 == 2


class NotSent(NamedTuple):
    """No byte of the request left: nobody was reached."""

    reason: str


class NoAnswer(NamedTuple):
    """The request left, and no answer came."""

    reason: str


CallResult = HttpAnswer | NotSent | NoAnswer


class HttpCaller(Protocol):
    """What calls a provider once. It raises nothing."""

    async def call(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> CallResult:
        """Call once, follow no redirect."""
        ...


class Clock(NamedTuple):
    """The moment as connectors need it: now, aware, UTC; and seconds from now to a moment of house time."""

    utc: Callable[[], datetime]
    left_seconds: Callable[[int], float]


def untaken(called: CallResult, now: datetime) -> Later | Refused | Unknown:
    """What a call says of a message that the provider did not take, or may not have.

    Args:
        called: What came of it.
        now: Aware, for a Retry-After that is a date.
    """
    if isinstance(called, NotSent):
        return Later(AGAIN_SECONDS, f"nobody was reached: {called.reason}")
    if isinstance(called, NoAnswer):
        return Unknown(called.reason)
    status, asked = called.status, called.headers.get("retry-after")
    reason = f"answered {status}"
    if status == 429 or (status == 503 and asked is not None):
        return Later(max(retry_after_seconds(asked, now), 1.0), reason)
    if status >= 500 or status == 408 or status < 200:
        return Unknown(reason)
    return Refused(reason, permanent=status not in _OURS and status // 100 == 4)


def retry_after_seconds(retry_after: str | None, now: datetime) -> float:
    """Seconds of a Retry-After header, 0 if absent or invalid (RFC 9110, section 10.2.3: a number or a date)."""
    if retry_after is None:
        return 0.0
    try:
        seconds = float(int(retry_after)) if retry_after.strip().isdigit() else _until(retry_after, now)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), ASKED_SECONDS)


def _until(date: str, now: datetime) -> float:
    return (parsedate_to_datetime(date) - now).total_seconds()
