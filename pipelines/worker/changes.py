"""What new rows of activity change of players: values, and signs of harm. Reads and writes no store.

what the store holds of a player --image, else Feast's fields--> stored values --update--> those that change
`--at each day's end--> signs of harm
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec.structs import replace

from features import image
from features.aggregates import DAY_MICROS, Activity, encode, forward, update
from features.read_plan import ReadPlan
from features.store.deployment import order
from service.players import facts, harm, identity
from service.players.facts import Assertion
from service.players.harm import HarmSettings, Vector
from service.rules import inputs

_RECENT_DAYS: Final = 32
"""Days within which a sign of harm may still hold."""
_TELLING: Final = frozenset(
    {"deposit", "bet", "withdrawal_cancelled", "support_contact", "limit_set", "limit_reached", "chargeback"}
)
"""Activity that can be a sign of harm."""


class NewRow(NamedTuple):
    """A row of activity with its entry of the log."""

    stream_id: str
    activity: Activity


class Held(NamedTuple):
    """What the store holds of a player with new rows: fields of features, and facts.

    Attributes:
        features: All fields, or those of the image where it tells the values.
        known: The values that the image tells; None where there is none, or an outdated one.
    """

    player: str
    features: Mapping[bytes, bytes | None]
    facts: Mapping[bytes, bytes]
    rows: Sequence[NewRow]
    known: Sequence[Any] | None


class Change(NamedTuple):
    """Effect of new rows on a player: signs of harm, last entry of the log before and after, fields to write.

    Attributes:
        views: Of each view of Feast's its field and moment, beside which the values were read; where there are any,
            `pairs` are only the fields that change.
    """

    player: str
    signs: Sequence[Assertion]
    before: bytes
    last: str
    views: Sequence[bytes]
    pairs: Sequence[bytes]


class _Values(NamedTuple):
    """Values of a player before and after new rows; `encoded` are the latter as numbers."""

    held: Held
    rows: Sequence[NewRow]
    before: Sequence[Any]
    after: Sequence[Any]
    encoded: Vector


class _Day(NamedTuple):
    """Values before a day of new rows, their moment at its end, and the numbers then."""

    before: Sequence[Any]
    at_us: int
    encoded: Vector


def changes(held: Sequence[Held], plan: ReadPlan, settings: HarmSettings) -> Iterator[Change]:
    """Effect of new rows on some players; none where all were applied before, or tell of before an erasure."""
    changed = [found for one in held if (found := _values(one, plan)) is not None]
    for one, signs in zip(changed, _signs(changed, settings), strict=True):
        last = one.rows[-1].stream_id
        pairs = plan.encode(one.after, one.after[0], one.held.known)
        pairs += image.FIELD, image.dump(one.encoded, pairs[-1], last.encode())
        views = () if one.held.known is None else _views(one.held.features, plan)
        yield Change(one.held.player, signs, one.held.features.get(image.APPLIED) or b"", last, views, pairs)


def _values(one: Held, plan: ReadPlan) -> _Values | None:
    told = one.features.get(image.APPLIED)
    applied = (0, 0) if told is None else order(told.decode())
    since_us = facts.erased_us(one.facts) or 0
    rows = [row for row in one.rows if order(row.stream_id) > applied and row.activity.occurred_us > since_us]
    if not rows:
        return None
    before = one.known
    if before is None:
        before = plan.decode([one.features.get(name) for name in plan.fields]).values
    after = update(before, [row.activity for row in rows])
    return _Values(one, rows, before, after, encode(after))


def _views(features: Mapping[bytes, bytes | None], plan: ReadPlan) -> Sequence[bytes]:
    return [part for view in plan.views.values() for part in (view, features[view] or b"")]


def _signs(changed: Sequence[_Values], settings: HarmSettings) -> list[list[Assertion]]:
    """Signs of harm in new activity, by player, day by day, each at the moment of its day's last row."""
    days = [_days(one) for one in changed]
    ends = [day for found in days for day in found]
    if not ends:
        return [[] for _ in changed]
    moments = np.array([day.at_us for day in ends])
    vectors = iter(forward(np.stack([day.encoded for day in ends]), moments))
    shown = [[(day, now) for day in found if harm.may_show_signs(now := next(vectors), settings)] for found in days]
    return [_of_player(one.held, found, settings) for one, found in zip(changed, shown, strict=True)]


def _of_player(held: Held, days: Sequence[tuple[_Day, Vector]], settings: HarmSettings) -> list[Assertion]:
    found: list[Assertion] = []
    told = facts.read(identity.together(held.facts), "main") if days else _NOTHING
    for day, now in days:
        person = inputs.age_and_places(told, day.at_us)
        signs = harm.signs(forward(encode(day.before), day.at_us), now, told, day.at_us, person, settings)
        noted = {one.field[5:]: facts.FactValue(one.text, day.at_us) for one in signs if one.field.startswith("harm:")}
        told = replace(told, harm={**told.harm, **noted})
        found += signs
    return found


_NOTHING: Final = facts.Facts()


def _days(one: _Values) -> list[_Day]:
    """The days of new rows; none where no row can be a sign of harm.

    By days, so that signs do not hang on how many rows arrive together; all rows too old to show a sign form one day.
    """
    rows = [row.activity for row in one.rows]
    if not any(row.type in _TELLING for row in rows):
        return []
    ordered = sorted(rows, key=lambda row: row.occurred_us)
    recent = ordered[-1].occurred_us // DAY_MICROS - _RECENT_DAYS
    days = [list(day) for _, day in groupby(ordered, key=lambda row: max(row.occurred_us // DAY_MICROS, recent))]
    if len(days) == 1:
        return [_Day(one.before, one.after[0], one.encoded)]
    found, before = list[_Day](), one.before
    for day in days:
        after = update(before, day)
        found.append(_Day(before, after[0], encode(after)))
        before = after
    return found
