"""A call as a conversation: what is sent, when it is sent again, how long is waited. Pure.

calls --Request--> conversation --Send, Wait--> client --HTTP--> the house
      <-- Reply --              <-- Reply or Failure --
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple, TypeVar

from croupier_client.errors import CroupierError, NoAnswer
from croupier_client.messages import Failure, Reply, Request, refused

AGAIN: Final = frozenset({429, 502, 503, 504})
"""Statuses that ask to try again; 409 does where it says after how long."""
FIRST_SECONDS: Final = 0.1
"""Pause before the second attempt where the house names none; it doubles with each."""
LONGEST_SECONDS: Final = 5.0
_T = TypeVar("_T")


class Pause(NamedTuple):
    """Seconds that a call waits for the house to get on with what it was asked for."""

    seconds: float


class Send(NamedTuple):
    """A request to be sent, how long its reply is waited for, and how long that may take if others go first."""

    request: Request
    seconds: float
    left: float


class Wait(NamedTuple):
    """Seconds to be waited."""

    seconds: float


class Means(NamedTuple):
    """What a conversation cannot have by itself.

    Attributes:
        clock: Seconds that only grow.
        now: This moment, aware; for dates of houses that do not tell their own.
        chance: A random number below 1.
    """

    clock: Callable[[], float]
    now: Callable[[], datetime]
    chance: Callable[[], float]


Call = Generator[Request | Pause, Reply | None, _T]
"""What a call asks for, one after the other; it ends with what it is answered."""
Conversation = Generator[Send | Wait, Reply | Failure | None, _T]


def reply(request: Request) -> Call[Reply]:
    """The reply to a request, as a step of a call."""
    got = yield request
    assert got is not None  # noqa: S101 - a request has a reply
    return got


def sent(request: Request) -> Call[bytes]:
    """The body of that reply."""
    return (yield from reply(request)).body


def converse(call: Call[_T], seconds: float, means: Means) -> Conversation[_T]:
    """Carry a call out within some seconds, attempts and pauses included.

    Raises:
        CroupierError: What the house refused, or that it did not answer.
    """
    until = means.clock() + seconds
    try:
        wanted = next(call)
        while True:
            try:
                got = yield from _answered(wanted, until, means)
            except CroupierError as error:
                wanted = call.throw(error)
            else:
                wanted = call.send(got)
    except StopIteration as done:
        result: _T = done.value
        return result


def _answered(wanted: Request | Pause, until: float, means: Means) -> Conversation[Reply | None]:
    if isinstance(wanted, Request):
        return (yield from _attempts(wanted, until, means))
    if means.clock() + wanted.seconds >= until:
        raise NoAnswer("the house has not finished in time", True)
    yield Wait(wanted.seconds)
    return None


def _attempts(request: Request, until: float, means: Means) -> Conversation[Reply]:
    """The reply to a request, which is sent until there is one, it makes no sense any more, or the time is over."""
    attempt = 0
    while True:
        left = max(0.0, until - means.clock())
        got = yield Send(request, min(left, request.patience), left)
        assert got is not None  # noqa: S101 - what is sent is answered
        if isinstance(got, Reply) and 200 <= got.status < 300:
            return got
        asked = None if isinstance(got, Failure) else retry_after(got, means.now)
        wait = pause(request, got, asked, attempt, means.chance())
        if wait is None or means.clock() + wait >= until:
            break
        yield Wait(wait)
        attempt += 1
    if isinstance(got, Failure):
        raise NoAnswer(*got)
    raise refused(got, asked)


def pause(request: Request, got: Reply | Failure, asked: float | None, attempt: int, chance: float) -> float | None:
    """Seconds until a request is sent again; None where it is not.

    At least as long as the house asks, and longer by chance, so that callers do not come back all at once.
    """
    if not _may_repeat(request, got, asked):
        return None
    own = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(attempt, 10)) * (1 + chance) / 2
    return own if asked is None else max(own, asked * (1 + chance / 10))


def _may_repeat(request: Request, got: Reply | Failure, asked: float | None) -> bool:
    if request.repeats == "never":
        return False
    if isinstance(got, Failure):
        return request.repeats == "always" or not got.arrived
    if request.repeats == "unsent":
        return got.status == 429
    return got.status in AGAIN or (got.status == 409 and asked is not None)


def retry_after(reply: Reply, now: Callable[[], datetime]) -> float | None:
    """Seconds to wait as `Retry-After` says (RFC 9110, section 10.2.3), a number of them or a date; None without."""
    said = reply.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", said, re.ASCII):
        return float(said)
    if (at := _date(said)) is None:
        return None
    # The date is of the clock that wrote it.
    since = _date(reply.headers.get("date", "")) or now()
    return max(0.0, (at - since).total_seconds())


def _date(text: str) -> datetime | None:
    """A date of HTTP in any of its forms, all of which are of Greenwich; None for what is none."""
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
