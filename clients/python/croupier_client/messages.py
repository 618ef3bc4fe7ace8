"""What goes to the house and comes back, without a connection. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from croupier_client.answers import Problem
from croupier_client.errors import Refused, UnreadableAnswer, refusal

PATIENCE_SECONDS: Final = 6.0
"""How long one attempt is waited for: a house answers within five seconds, whatever happens."""
_Answer = TypeVar("_Answer")

Repeats = Literal["always", "unsent", "never"]
"""When a request may be sent again: whenever it makes sense, only if it never arrived, or not at all."""


class Request(NamedTuple):
    """A request for the house, the same at each attempt."""

    method: str
    path: str
    body: bytes | None = None
    query: Mapping[str, str] = {}
    repeats: Repeats = "always"
    patience: float = PATIENCE_SECONDS


class Reply(NamedTuple):
    """What came back; names of the header fields are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Failure(NamedTuple):
    """Why nothing came back, and whether the request may have arrived all the same."""

    sentence: str
    arrived: bool


def post(path: str, body: Mapping[str, Any], **more: Any) -> Request:  # noqa: ANN401 - fields of a request
    """A request with a body."""
    return Request("POST", path, msgspec.json.encode(body), **more)


def read(kind: type[_Answer], body: bytes) -> _Answer:
    """An answer as a value of its type.

    Raises:
        UnreadableAnswer: It is none.
    """
    trouble = "it is no JSON"
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        trouble = str(error)
    except msgspec.DecodeError:
        pass
    raise UnreadableAnswer(f"this is no answer of a house: {trouble}")


def refused(reply: Reply, retry_after: float | None) -> Refused:
    """The error of a reply that is none of the 2xx; one without a problem is told by its status."""
    try:
        problem = msgspec.json.decode(reply.body, type=Problem)
    except msgspec.MsgspecError:
        sentence = "the answer is not the house's own: something between answered, or the address is another's"
        problem = Problem(status=reply.status, code="", detail=sentence)
    return refusal(problem, retry_after)
