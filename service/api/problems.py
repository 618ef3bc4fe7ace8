"""Problems (RFC 9457): what a caller is told of an error, and which errors each route may answer with."""

from __future__ import annotations

from typing import Final

import orjson
from fastapi import Response
from msgspec import to_builtins
from pydantic import TypeAdapter, ValidationError

from features.errors import CroupierError
from features.events import AnyEvent
from features.store.errors import StoreError
from features.words import sentence
from service.api.schemas import Problem
from service.errors import (
    CrossSiteError,
    FaultError,
    HeadersTooLargeError,
    InsufficientScopeError,
    InvalidBodyError,
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
OF_A_BODY: Final[Refusals] = (InvalidJsonError, InvalidBodyError, TooLargeError, UnsupportedMediaTypeError)
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
        error: Why.
    """

    def __init__(self, error: CroupierError) -> None:
        super().__init__(orjson.dumps(to_builtins(problem(error))), error.status, error.headers(), MEDIA_TYPE)
        self.error = error


def refuse(error: CroupierError) -> Response:
    """Answer with a problem."""
    return Refused(error)


def invalid(error: ValidationError) -> RequestRefused:
    """A body that is not valid, by its first wrong place."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return InvalidJsonError(first["msg"])
    # pydantic puts the event type into the path of a union; the body has no such level.
    path = [part for part in first["loc"] if part not in _EVENT_TYPES]
    pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
    if first["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        return UnknownTypeError(sentence(first), f"{pointer}/type")
    return InvalidBodyError(sentence(first), pointer)


def _event_types() -> frozenset[str]:
    schema = TypeAdapter(AnyEvent).json_schema()
    return frozenset(schema["discriminator"]["mapping"])


_EVENT_TYPES: Final = _event_types()
