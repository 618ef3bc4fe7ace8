"""Problems (RFC 9457): what a caller is told of an error, and which errors each route may answer with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import orjson
from fastapi import Response
from msgspec import to_builtins
from pydantic import TypeAdapter, ValidationError

from features.errors import CroupierError
from features.store.errors import StoreError
from service.api.schemas import Problem
from service.api.validation import faults, unreadable
from service.errors import (
    CrossSiteError,
    FaultError,
    HeadersTooLargeError,
    InsufficientScopeError,
    InvalidBodyError,
    InvalidGzipError,
    InvalidJsonError,
    MalformedRequestError,
    MisdirectedError,
    NoSuchMethodError,
    NoSuchRouteError,
    RateLimitedError,
    RequestRefused,
    TargetTooLongError,
    TooLargeError,
    TooManyConnectionsError,
    TooSlowError,
    UnauthorisedError,
    UnknownTypeError,
    UnsupportedMediaTypeError,
)

REFUSALS: Final = (RequestRefused, StoreError)
"""Errors that a caller is told of; any other is a fault of ours."""
MEDIA_TYPE: Final = "application/problem+json"

Refusals = tuple[type[CroupierError], ...]
"""Errors that a route may answer with."""

AT_THE_DOOR: Final[Refusals] = (MisdirectedError, CrossSiteError)
"""Errors of every route, before it is reached."""
EVERYWHERE: Final[Refusals] = (
    *AT_THE_DOOR,
    *(UnauthorisedError, InsufficientScopeError, RateLimitedError),
    *(StoreError, FaultError),
)
"""Errors of every route that asks for a key."""
OF_A_BODY: Final[Refusals] = (
    *(InvalidJsonError, InvalidGzipError, InvalidBodyError),
    *(TooLargeError, UnsupportedMediaTypeError),
)
"""Errors of every route with a body."""
OF_NO_ROUTE: Final[Refusals] = (
    *(NoSuchRouteError, NoSuchMethodError, MalformedRequestError, TargetTooLongError, HeadersTooLargeError),
    *(TooSlowError, TooManyConnectionsError),
)
"""Errors of what reaches no route."""

TITLES: Final = {
    400: "Bad request",
    401: "Unauthorised",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    413: "Too large",
    414: "Target too long",
    415: "Unsupported media type",
    421: "Misdirected",
    422: "Not valid",
    429: "Too many requests",
    431: "Headers too large",
    500: "Fault",
    503: "Unavailable",
}


def problem(error: CroupierError) -> Problem:
    """The problem of an error."""
    return Problem(title=TITLES[error.status], status=error.status, code=error.code, **error.members())


class Refused(Response):
    """The answer of an error: its problem.

    Attributes:
        error: Why; without its traceback, whose frames name this answer and hold what was read.
    """

    def __init__(self, error: CroupierError) -> None:
        super().__init__(orjson.dumps(to_builtins(problem(error))), error.status, error.headers(), MEDIA_TYPE)
        self.error = error.with_traceback(None)


def refuse(error: CroupierError) -> Response:
    """Answer with a problem."""
    return Refused(error)


def invalid(error: ValidationError, adapter: TypeAdapter[Any] | None = None) -> RequestRefused:
    """A body that is not valid, with every wrong place of what an adapter takes."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return InvalidJsonError(unreadable(str(first["msg"]), empty=not first["input"]))
    found = faults(error, adapter)
    detail = found[0].detail
    if len(found) > 1:
        detail = f"{detail} ({len(found) - 1} more in `errors`)"
    kind = UnknownTypeError if first["type"] in _OF_TYPES else InvalidBodyError
    return kind(detail, found[0].pointer, found)


async def in_words(
    items: Iterable[_Item | ValidationError], adapter: TypeAdapter[Any], refused: Callable[[CroupierError], None]
) -> list[_Item | Problem]:
    """Items of a batch, with a problem in place of each that is not valid.

    Words cost more than all else of an item: between two of them others have their turn.
    """
    told: list[_Item | Problem] = []
    for item in items:
        if isinstance(item, ValidationError):
            refused(error := invalid(item, adapter))
            told.append(problem(error))
            await asyncio.sleep(0)
        else:
            told.append(item)
    return told


_Item = TypeVar("_Item")
_OF_TYPES: Final = frozenset({"union_tag_invalid", "union_tag_not_found"})
