"""The arithmetic of behaviour features: from the stream, and brought forward to now. Pure.

`update` folds activity rows into the stored values of a player in any order of arrival; `forward` turns
stored values into the vector that models and rules read at a moment. The batch twin of `update` is
`features.batch`; both follow s(t) = s(t0) * 2^-((t - t0) / half_life), which forgets nothing by merging.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from features.schema import (
    DAY,
    DAYS_WINDOW,
    MICROS,
    NIGHT_ENDS,
    PRODUCTS,
    STORED,
    TIMING_SLOTS,
    Dtype,
    Kind,
)

DAY_MICROS: Final = DAY * MICROS
_WINDOW_BITS: Final = (1 << DAYS_WINDOW) - 1
_POSITION: Final = {feature.name: index for index, feature in enumerate(STORED)}
_DECAYED: Final = [index for index, feature in enumerate(STORED) if feature.kind is Kind.DECAYED]
_HALF_LIVES: Final = np.array([STORED[index].half_life * MICROS for index in _DECAYED], dtype=np.float64)
_AS_OF: Final = [index for index, feature in enumerate(STORED) if feature.kind is Kind.AS_OF]


class Activity(NamedTuple):
    """What a player did or what reached them, without personal fields: the row that aggregates filter.

    `timing_slot` and `night` are in the player's local time and None where no zone is known;
    `amount_minor` is in minor units of the house currency.
    """

    type: str
    occurred_us: int
    amount_minor: int | None = None
    status: str | None = None
    target: str | None = None
    product: str | None = None
    channel: str | None = None
    timing_slot: str | None = None
    night: bool | None = None


def local_parts(occurred_us: int, time_zone: str | None) -> tuple[str | None, bool | None]:
    """Timing slot and night flag of a moment in a player's zone, (None, None) without a zone."""
    if time_zone is None:
        return None, None
    return _parts_of_minute(*_hour_minute(occurred_us, time_zone))


def _hour_minute(occurred_us: int, time_zone: str) -> tuple[int, int]:
    local = datetime.fromtimestamp(occurred_us // MICROS, _zone(time_zone))
    return local.hour, local.minute


@lru_cache(maxsize=1_000)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


@lru_cache(maxsize=1_440)
def _parts_of_minute(hour: int, minute: int) -> tuple[str, bool]:
    clock = hour * 60 + minute
    night = clock < NIGHT_ENDS.hour * 60
    for name, (start, end) in TIMING_SLOTS.items():
        first, last = start.hour * 60 + start.minute, end.hour * 60 + end.minute
        if (first <= clock < last) if first < last else (clock >= first or clock < last):
            return name, night
    raise ValueError(f"no timing slot covers {hour:02d}:{minute:02d}")


class _Route(NamedTuple):
    """Stored values that one kind of row moves: positions in the decayed vector, and the rest."""

    counts: tuple[tuple[int, int], ...]
    sums: tuple[tuple[int, int], ...]
    others: tuple[int, ...]


@lru_cache(maxsize=10_000)
def _route(
    type_: str,
    status: str | None,
    target: str | None,
    channel: str | None,
    slot: str | None,
    night: bool | None,  # noqa: FBT001 - a cache by position
) -> _Route:
    """Which stored values a row with these filter columns moves."""
    row = Activity(type_, 0, None, status, target, None, channel, slot, night)
    hit = [
        index
        for index, feature in enumerate(STORED)
        if feature.kind is not Kind.AS_OF
        and all(getattr(row, column) in allowed for column, allowed in feature.when.items())
    ]
    decayed = [index for index in hit if STORED[index].kind is Kind.DECAYED]
    return _Route(
        tuple((index, STORED[index].half_life * MICROS) for index in decayed if STORED[index].value is None),
        tuple((index, STORED[index].half_life * MICROS) for index in decayed if STORED[index].value is not None),
        tuple(index for index in hit if STORED[index].kind is not Kind.DECAYED),
    )


def empty() -> list[Any]:
    """Stored values of a player of whom nothing is known: one None per entry of STORED."""
    return [None] * len(STORED)


def update(stored: Sequence[Any], rows: Iterable[Activity]) -> list[Any]:
    """Fold rows into stored values.

    Args:
        stored: One value per entry of STORED, None where nothing happened yet.
        rows: Activity in any order; each must be new (duplicates are dropped before).

    Returns:
        The new stored values, true for the latest `occurred_us` ever seen. Counts, firsts and lasts do not
        depend on the order of arrival; decayed sums agree within 1e-9.
    """
    rows = list(rows)
    values = list(stored)
    if not rows:
        return values
    before = values[_AS_OF[0]]
    as_of = max(row.occurred_us for row in rows)
    as_of = as_of if before is None else max(as_of, before)
    _shift_days(values, before, as_of)
    for index, value in zip(_DECAYED, _decay(values, before, as_of).tolist(), strict=True):
        values[index] = value
    for row in rows:
        route = _route(row.type, row.status, row.target, row.channel, row.timing_slot, row.night)
        ago, amount = row.occurred_us - as_of, row.amount_minor
        for index, half_life in route.counts:
            values[index] += 2.0 ** (ago / half_life)
        if amount:
            for index, half_life in route.sums:
                values[index] += amount * 2.0 ** (ago / half_life)
        if route.others:
            _fold(values, route.others, row, as_of)
    for index in _AS_OF:
        values[index] = as_of
    return values


def _decay(values: list[Any], before: int | None, as_of: int) -> NDArray[np.float64]:
    sums = np.array([values[index] or 0.0 for index in _DECAYED], dtype=np.float64)
    return sums if before is None else sums * np.exp2((before - as_of) / _HALF_LIVES)


def _shift_days(values: list[Any], before: int | None, as_of: int) -> None:
    if before is None:
        return
    gap = min(as_of // DAY_MICROS - before // DAY_MICROS, DAYS_WINDOW)
    for index, feature in enumerate(STORED):
        if feature.kind is Kind.DAYS and values[index] is not None:
            values[index] = (values[index] << gap) & _WINDOW_BITS


def _fold(values: list[Any], positions: tuple[int, ...], row: Activity, as_of: int) -> None:
    """Fold one row into the values that are not decayed sums."""
    moment = row.occurred_us
    earliest: int | None = moment
    for index in positions:
        feature, value = STORED[index], values[index]
        if feature.kind is Kind.COUNT:
            values[index] = (value or 0) + 1
        elif feature.kind is Kind.LAST:
            values[index] = moment if value is None else max(value, moment)
        elif feature.kind is Kind.FIRST and earliest is not None:
            # The FIRSTs of one filter stand in order of nth: what is displaced moves one place down.
            if value is None or earliest < value:
                values[index], earliest = earliest, value
        elif feature.kind is Kind.DAYS:
            age = as_of // DAY_MICROS - moment // DAY_MICROS
            values[index] = (value or 0) | (1 << age if age < DAYS_WINDOW else 0)
        elif feature.kind is Kind.LATEST:
            values[index] = _latest(value, row, values[_POSITION[str(feature.beside)]])


def _latest(text: str | None, row: Activity, last: int | None) -> str | None:
    if last is None or row.occurred_us > last:
        return row.product
    return (max(text or "", row.product or "") or None) if row.occurred_us == last else text


_TEXTS: Final = [index for index, feature in enumerate(STORED) if feature.dtype is Dtype.STRING]


def encode(stored: Sequence[Any]) -> NDArray[np.float64]:
    """Stored values as numbers, shape (len(STORED),): NaN for None, a product by its place in PRODUCTS."""
    values = list(stored)
    for index in _TEXTS:
        values[index] = PRODUCTS.index(values[index]) if values[index] in PRODUCTS else None
    return np.array(values, dtype=np.float64)


_KINDS: Final = np.array([feature.kind for feature in STORED])
_SOURCE: Final = np.flatnonzero(_KINDS != Kind.AS_OF)
_DAYS: Final = np.flatnonzero(_KINDS == Kind.DAYS)
_ZEROED: Final = np.isin(_KINDS, [Kind.DECAYED, Kind.COUNT, Kind.DAYS])
_MOMENTS: Final = np.isin(_KINDS, [Kind.FIRST, Kind.LAST])
_FADING: Final = np.array([feature.half_life * MICROS or np.inf for feature in STORED])
"""Half-life of each stored value in microseconds; what is no decayed sum never fades."""
_AS_OF_OF: Final = np.array([next(at for at in _AS_OF if STORED[at].view == feature.view) for feature in STORED])


def forward(stored: NDArray[np.float64], now_us: int | NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring stored values forward to *now*: the one function behind serving and training.

    Args:
        stored: Encoded stored values, shape (..., len(STORED)).
        now_us: Unix microseconds, one number or shape (...,); a moment before `as_of` counts as `as_of`.

    Returns:
        Shape (..., len(VECTOR)), in the order and units of VECTOR. Sums and counts of a player without
        history are 0, days since something that never happened NaN.
    """
    now = np.asarray(now_us, dtype=np.float64)[..., np.newaxis]
    as_of = stored[..., _AS_OF_OF]
    values = stored * np.exp2(-np.maximum(now - as_of, 0.0) / _FADING)
    values[np.isnan(values) & _ZEROED] = 0.0
    values[..., _DAYS] = _days_left(values[..., _DAYS], as_of[..., _DAYS], now)
    values = np.where(_MOMENTS, np.maximum(now - values, 0.0) / DAY_MICROS, values)
    return np.concatenate([values[..., _SOURCE], _derive(values)], axis=-1)


def _days_left(bits: NDArray[np.float64], as_of: NDArray[np.float64], now: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many days of a window's bits still lie in the window that ends now."""
    gap = np.clip(now // DAY_MICROS - as_of // DAY_MICROS, 0, DAYS_WINDOW)
    shift = np.nan_to_num(gap, nan=0.0).astype(np.int64)
    return np.asarray(np.bitwise_count((bits.astype(np.int64) << shift) & _WINDOW_BITS), dtype=np.int64)


def _derive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The DERIVED readings, in their order, from values already at now."""

    def at(name: str) -> NDArray[np.float64]:
        return values[..., _POSITION[name]]

    return np.stack(
        [
            at("bet_sum_7d") - at("win_sum_7d"),
            at("bet_sum_30d") - at("win_sum_30d"),
            _share(at("deposit_count_7d"), at("deposit_count_30d")),
            _share(at("bet_count_7d"), at("bet_count_30d")),
            _share(at("night_bet_sum_30d"), at("bet_sum_30d")),
        ],
        axis=-1,
    )


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0)
