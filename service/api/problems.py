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
    FaultError,
    InvalidBodyError,
    InvalidJsonError,
    RequestRefused,
    TooLargeError,
    UnauthorisedError,
    UnknownTypeError,
)

REFUSALS: Final = (RequestRefused, StoreError)
"""Errors that a caller is told of; any other is a fault of ours."""
MEDIA_TYPE: Final = "application/problem+json"

Refusals = tuple[type[CroupierError], ...]
"""Errors that a route may answer with."""

EVERYWHERE: Final[Refusals] = (UnauthorisedError, StoreError, FaultError)
"""Errors of every route that asks for a key."""
OF_A_BODY: Final[Refusals] = (InvalidJsonError, InvalidBodyError, TooLargeError)
"""Errors of every route with a body."""

TITLES: Final = {
    400: "Bad request",
    401: "Unauthorised",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Too large",
    422: "Not valid",
    500: "Fault",
    503: "Unavailable",
}


def problem(error: CroupierError) -> Problem:
    """The problem of an error."""
    return Problem(title=TITLES[error.status], status=error.status, code=error.code, **error.members())


def refuse(error: CroupierError) -> Response:
    """Answer with a problem."""
    return Response(orjson.dumps(to_builtins(problem(error))), error.status, error.headers(), MEDIA_TYPE)


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
