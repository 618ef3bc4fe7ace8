"""Many items in one request: each with an answer of its own, and sent again where it could not be done. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import count
from typing import Any, Final, TypeVar

import msgspec

from croupier_client.answers import Problem
from croupier_client.conversation import Call, Pause, sent
from croupier_client.errors import (
    CroupierError,
    NoAnswer,
    Refused,
    Unavailable,
    UnreadableAnswer,
    mark,
    refusal,
)
from croupier_client.messages import post, read

BATCH_MOST: Final = 500
"""Items of one batch."""
BATCH_BYTES: Final = 240 * 1024
"""Bytes of the items of one batch; a house takes bodies of 256 KiB."""
BATCH_SECONDS: Final = 32.0
"""How long one attempt of a batch is waited for, for which the house has half a minute; and of what may be large."""
AGAIN_SECONDS: Final = 1.0
"""Pause before items of a batch that the house could not do are sent again, and between looks at an export."""
_T = TypeVar("_T")


def batched(path: str, word: str, bodies: Sequence[dict[str, Any]], kind: type[_T]) -> Call[list[_T | CroupierError]]:
    """Answers of many items, in batches that the house takes; if the first fails as a whole, its error."""
    found: list[_T | CroupierError] = []
    for items in _portions(bodies):
        try:
            found += yield from _batch(path, word, items, kind)
        except CroupierError as error:
            if not found:
                raise
            found += [copy(error) for _ in items]
    for answer, body in zip(found, bodies, strict=True):
        if isinstance(answer, CroupierError):
            mark(answer, body)
    return found


def _portions(bodies: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """Items in order, as many at once as a house takes by number and by size."""
    first = size = 0
    for place, body in enumerate(bodies):
        more = len(msgspec.json.encode(body)) + 1
        if place > first and (place - first == BATCH_MOST or size + more > BATCH_BYTES):
            yield bodies[first:place]
            first, size = place, 0
        size += more
    if first < len(bodies):
        yield bodies[first:]


def _batch(path: str, word: str, bodies: Sequence[dict[str, Any]], kind: type[_T]) -> Call[list[_T | CroupierError]]:
    """Answers of one batch; items that the house could not do now are sent again while there is time."""
    answers: dict[int, _T | CroupierError] = {}
    waiting = dict(enumerate(bodies))
    for attempt in count():
        try:
            if attempt:
                yield Pause(AGAIN_SECONDS)
            told = yield from sent(post(path, {word: [*waiting.values()]}, patience=BATCH_SECONDS))
        except (NoAnswer, Unavailable):
            if not answers:
                raise
            break  # what was answered stays
        got = read(_Batch, told).answers
        if len(got) != len(waiting):
            raise UnreadableAnswer(f"{len(waiting)} items were sent, and {len(got)} answered")
        answers |= {place: _item(kind, item) for place, item in zip(waiting, got, strict=True)}
        waiting = {place: body for place, body in waiting.items() if isinstance(answers[place], Unavailable)}
        if not waiting:
            break
    return [answers[place] for place in range(len(bodies))]


class _Batch(msgspec.Struct):
    answers: list[msgspec.Raw]


class _Coded(msgspec.Struct):
    code: str | None = None


def _item(kind: type[_T], item: msgspec.Raw) -> _T | Refused:
    told = bytes(item)
    return read(kind, told) if read(_Coded, told).code is None else refusal(read(Problem, told))
