"""Arithmetic of behaviour features: update them from activity, bring them forward to now. Pure.

`update` folds activity rows into the stored values of a player in any order of arrival; `forward` turns
stored values into the vector that models and rules read at a moment. The batch twin of `update` is
`features.batch`; both follow s(t) = s(t0) * 2^-((t - t0) / half_life), which forgets nothing by merging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from math import inf, sqrt
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features import zones
from features.schema import (
    DAY,
    DAYS_WINDOW,
    DERIVED,
    MICROS,
    NIGHT_ENDS,
    PRODUCTS,
    STORED,
    TIMING_SLOTS,
    VECTOR,
    WEEKS_BACK,
    Dtype,
    Kind,
)

DAY_MICROS: Final = DAY * MICROS
_WINDOW_BITS: Final = (1 << DAYS_WINDOW) - 1
_POSITION: Final = {feature.name: index for index, feature in enumerate(STORED)}
_DECAYED: Final = [index for index, feature in enumerate(STORED) if feature.kind is Kind.DECAYED]
_HALF_LIVES: Final = np.array([STORED[index].half_life * MICROS for index in _DECAYED], dtype=np.float64)
_AS_OF: Final = [index for index, feature in enumerate(STORED) if feature.kind is Kind.AS_OF]
_DAYS: Final = np.array([index for index, feature in enumerate(STORED) if feature.kind is Kind.DAYS])


def _same(day: NDArray[np.int64]) -> NDArray[np.int64]:
    return day


def _week(day: NDArray[np.int64]) -> NDArray[np.int64]:
    return (day + 3) // 7  # 1970-01-01 was a Thursday


def _month(day: NDArray[np.int64]) -> NDArray[np.int64]:
    return day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


_NUMBERS: Final[Mapping[Kind, Callable[[NDArray[np.int64]], NDArray[np.int64]]]] = {
    Kind.DAYS: _same,
    Kind.WEEK: _week,
    Kind.MONTH: _month,
}
"""Kind -> the running number of the UTC day, week or month that a day lies in; days are counted from 1970-01-01."""
_CALENDAR: Final = (Kind.WEEK, Kind.MONTH)


class _CalendarSum(NamedTuple):
    """The buckets of one calendar sum, side by side in STORED; the current week or month first."""

    number: Callable[[int], int]
    value: str | None
    first: int
    size: int

    def age(self, moment_us: int, as_of: int) -> int:
        """Calendar weeks or months from a moment to as_of; 0 in the same one."""
        return self.number(as_of // DAY_MICROS) - self.number(moment_us // DAY_MICROS)


def _blocks() -> dict[int, _CalendarSum]:
    """The calendar sums by the position of their current bucket."""
    numbers = {kind: _of_one_day(_NUMBERS[kind]) for kind in _CALENDAR}
    sums = groupby(enumerate(STORED), lambda one: (one[1].kind, one[1].value, one[1].when))
    found = [(kind, value, [index for index, _ in held]) for (kind, value, _), held in sums if kind in _CALENDAR]
    return {held[0]: _CalendarSum(numbers[kind], value, held[0], len(held)) for kind, value, held in found}


def _of_one_day(number: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> Callable[[int], int]:
    """The same number for one day as a plain integer, cached."""
    return lru_cache(maxsize=10_000)(lambda day: int(number(np.array(day))))


_BLOCKS: Final = _blocks()


class Activity(NamedTuple):
    """One row of activity, without personal fields: what a player did, or a contact that reached them.

    `timing_slot` and `night` are in the player's local time and None where no zone is known;
    `amount_minor` is in minor units of the house currency. `counts_us` is the moment to which a row belongs that undoes
    something, None where it is its own: a row counts from `occurred_us` on, as if it had happened at `counts_us`.
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
    counts_us: int | None = None

    @property
    def counted_us(self) -> int:
        """The moment to which the row belongs."""
        return self.occurred_us if self.counts_us is None else self.counts_us


def local_parts(occurred_us: int, time_zone: str | None) -> tuple[str | None, bool | None]:
    """Timing slot and night flag of a moment in the player's zone; (None, None) where the zone is unknown."""
    if time_zone is None or zones.known(time_zone) is None:
        return None, None
    return _parts_of_minute(*_hour_minute(occurred_us, time_zone))


def _hour_minute(occurred_us: int, time_zone: str) -> tuple[int, int]:
    local = datetime.fromtimestamp(occurred_us // MICROS, zones.zone(time_zone))
    return local.hour, local.minute


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
    """Stored values that one kind of row changes: positions with half-life and power, and the rest."""

    counts: tuple[tuple[int, int], ...]
    sums: tuple[tuple[int, int, int], ...]
    blocks: tuple[_CalendarSum, ...]
    others: tuple[int, ...]


@lru_cache(maxsize=10_000)
def _route(
    type_: str,
    status: str | None,
    target: str | None,
    product: str | None,
    channel: str | None,
    slot: str | None,
    night: bool | None,  # noqa: FBT001 - a cache by position
) -> _Route:
    """Which stored values a row with these columns changes."""
    row = Activity(type_, 0, None, status, target, product, channel, slot, night)
    hit = [
        index
        for index, feature in enumerate(STORED)
        if feature.kind is not Kind.AS_OF
        and all(getattr(row, column) in allowed for column, allowed in feature.when.items())
    ]
    decayed = [(index, STORED[index]) for index in hit if STORED[index].kind is Kind.DECAYED]
    return _Route(
        tuple((index, one.half_life * MICROS) for index, one in decayed if one.value is None),
        tuple((index, one.half_life * MICROS, one.power) for index, one in decayed if one.value is not None),
        tuple(_BLOCKS[index] for index in hit if index in _BLOCKS),
        tuple(index for index in hit if STORED[index].kind is not Kind.DECAYED and STORED[index].kind not in _CALENDAR),
    )


def empty() -> list[Any]:
    """Stored values of an unknown player: one None per entry of STORED."""
    return [None] * len(STORED)


def update(stored: Sequence[Any], rows: Iterable[Activity]) -> list[Any]:
    """Fold rows of activity into stored values.

    Args:
        stored: One value per entry of STORED, None where nothing happened yet.
        rows: Activity in any order; each must be new (duplicates are dropped before).

    Returns:
        The new stored values, true for the latest `occurred_us` ever seen. Counts, firsts, lasts and calendar sums
        do not depend on the order of arrival; decayed sums agree within 1e-9.
    """
    rows = list(rows)
    values = list(stored)
    if not rows:
        return values
    before = values[_AS_OF[0]]
    as_of = max(row.occurred_us for row in rows)
    as_of = as_of if before is None else max(as_of, before)
    _shift(values, before, as_of)
    for index, value in zip(_DECAYED, _decay(values, before, as_of).tolist(), strict=True):
        values[index] = value
    for row in rows:
        route = _route(row.type, row.status, row.target, row.product, row.channel, row.timing_slot, row.night)
        ago, amount = row.counted_us - as_of, row.amount_minor
        for index, half_life in route.counts:
            values[index] += 2.0 ** (ago / half_life)
        if amount:
            for index, half_life, power in route.sums:
                values[index] += amount**power * 2.0 ** (ago / half_life)
        for block in route.blocks:
            _add(values, block, row, as_of)
        if route.others:
            _fold(values, route.others, row, as_of)
    for index in _AS_OF:
        values[index] = as_of
    return values


def _decay(values: list[Any], before: int | None, as_of: int) -> NDArray[np.float64]:
    sums = np.array([values[index] or 0.0 for index in _DECAYED], dtype=np.float64)
    return sums if before is None else sums * np.exp2((before - as_of) / _HALF_LIVES)


def _shift(values: list[Any], before: int | None, as_of: int) -> None:
    """Shift windows of days and buckets of weeks and months to a later moment."""
    if before is None or before // DAY_MICROS == as_of // DAY_MICROS:
        return
    gap = min(as_of // DAY_MICROS - before // DAY_MICROS, DAYS_WINDOW)
    for index in _DAYS.tolist():
        if values[index] is not None:
            values[index] = (values[index] << gap) & _WINDOW_BITS
    for block in _BLOCKS.values():
        held = values[block.first : block.first + block.size]
        if held[0] is not None:
            fresh = [0] * min(block.age(before, as_of), block.size)
            values[block.first : block.first + block.size] = [*fresh, *held][: block.size]


def _add(values: list[Any], block: _CalendarSum, row: Activity, as_of: int) -> None:
    """Add one row to the bucket of its week or month; one older than the last bucket only sets missing buckets to 0."""
    if values[block.first] is None:
        values[block.first : block.first + block.size] = [0] * block.size
    age = block.age(row.counted_us, as_of)
    if age < block.size:
        values[block.first + age] += 1 if block.value is None else row.amount_minor or 0


def _fold(values: list[Any], positions: tuple[int, ...], row: Activity, as_of: int) -> None:
    """Fold one row into counts, firsts, lasts, days and latest texts."""
    moment = row.counted_us
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
    if last is None or row.counted_us > last:
        return row.product
    return (max(text or "", row.product or "") or None) if row.counted_us == last else text


def merge(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    """Merge the stored values of two ids of one person, as if all rows had been one player's; exact within 1e-9."""
    moments = [values[_AS_OF[0]] for values in (one, other)]
    if None in moments:
        return list(other if moments[0] is None else one)
    as_of = max(moments)
    parts = [_brought_to(values, before, as_of) for values, before in zip((one, other), moments, strict=True)]
    found = [_JOINED[feature.kind](*pair) for feature, *pair in zip(STORED, *parts, strict=True)]
    for places in _FIRSTS:
        earliest = sorted(part[at] for part in parts for at in places if part[at] is not None)
        for place, at in zip(places, [*earliest, *([None] * len(places))], strict=False):
            found[place] = at
    for place, beside in _LATESTS:
        found[place] = max((part[beside] or 0, part[place] or "") for part in parts)[1] or None
    return found


def _brought_to(stored: Sequence[Any], before: int, as_of: int) -> list[Any]:
    """Stored values brought to a later moment."""
    values = list(stored)
    _shift(values, before, as_of)
    for index, value in zip(_DECAYED, _decay(values, before, as_of).tolist(), strict=True):
        values[index] = value
    for index in _AS_OF:
        values[index] = as_of
    return values


def _sum(one: Any, other: Any) -> Any:  # noqa: ANN401 - stored values are of any type
    return other if one is None else one if other is None else one + other


def _most(one: Any, other: Any) -> Any:  # noqa: ANN401 - stored values are of any type
    return other if one is None else one if other is None else max(one, other)


def _either(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one | other


_JOINED: Final[Mapping[Kind, Callable[[Any, Any], Any]]] = {
    **dict.fromkeys((Kind.DECAYED, Kind.COUNT, *_CALENDAR), _sum),
    **dict.fromkeys((Kind.LAST, Kind.AS_OF, Kind.FIRST, Kind.LATEST), _most),  # the last two are set right after
    Kind.DAYS: _either,
}
_NAMED_FIRSTS: Final = [(str(one.when), at) for at, one in enumerate(STORED) if one.kind is Kind.FIRST]
_FIRSTS: Final = [[at for _, at in held] for _, held in groupby(_NAMED_FIRSTS, key=lambda named: named[0])]
_LATESTS: Final = [(at, _POSITION[str(one.beside)]) for at, one in enumerate(STORED) if one.kind is Kind.LATEST]
_TEXTS: Final = [index for index, feature in enumerate(STORED) if feature.dtype is Dtype.STRING]


def encode(stored: Sequence[Any]) -> NDArray[np.float64]:
    """Encode stored values as numbers, shape (len(STORED),): NaN for None, a product by its index in PRODUCTS."""
    values = list(stored)
    for index in _TEXTS:
        values[index] = PRODUCTS.index(values[index]) if values[index] in PRODUCTS else None
    return np.array(values, dtype=np.float64)


_KINDS: Final = np.array([feature.kind for feature in STORED])
_SOURCE: Final = np.flatnonzero(_KINDS != Kind.AS_OF)
_BUCKETS: Final = np.flatnonzero(np.isin(_KINDS, _CALENDAR))
_NTH: Final = np.array([STORED[index].nth for index in _BUCKETS])
_ZEROED: Final = np.isin(_KINDS, [Kind.DECAYED, Kind.COUNT, Kind.DAYS, *_CALENDAR])
_MOMENTS: Final = np.isin(_KINDS, [Kind.FIRST, Kind.LAST])
_FADING: Final = np.array([feature.half_life * MICROS or np.inf for feature in STORED])
"""Half-life of each stored value, microseconds; infinite for all but decayed sums."""
_CLOCKS: Final = np.array(_AS_OF)
_CLOCK_VIEWS: Final = [STORED[at].view for at in _AS_OF]
_CLOCK_OF: Final = np.array([_CLOCK_VIEWS.index(feature.view) for feature in STORED])
"""Index into _CLOCKS of the as_of that each stored value belongs to."""
_FADES: Final = sorted(set(zip(_CLOCK_OF.tolist(), _FADING.tolist(), strict=True)))
"""Every clock with every half-life that is kept by it."""
_FADE_CLOCKS, _FADE_SPANS = _CLOCKS[[clock for clock, _ in _FADES]], np.array([span for _, span in _FADES])
_FADE_OF: Final = np.array([_FADES.index(one) for one in zip(_CLOCK_OF.tolist(), _FADING.tolist(), strict=True)])
_GAPS: Final = [(kind, view) for kind in _NUMBERS for view in _CLOCK_VIEWS]
_GAP_OF_DAYS: Final = np.array([_GAPS.index((STORED[at].kind, STORED[at].view)) for at in _DAYS])
_GAP_OF_BUCKETS: Final = np.array([_GAPS.index((STORED[at].kind, STORED[at].view)) for at in _BUCKETS])


def forward(stored: NDArray[np.float64], now_us: int | NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring stored values forward to *now*; serving and training share it.

    Args:
        stored: Encoded stored values, shape (..., len(STORED)).
        now_us: Unix microseconds, one number or shape (...,); a moment before `as_of` counts as `as_of`.

    Returns:
        Shape (..., len(VECTOR)), in the order and units of VECTOR. Sums and counts of a player without
        history are 0, days since something that never happened NaN.
    """
    if stored.ndim == 1 and isinstance(now_us, int):
        return _row_forward(stored, now_us)
    now = np.asarray(now_us, dtype=np.float64)[..., np.newaxis]
    as_of = stored[..., _CLOCKS]
    values = stored * np.exp2(-np.maximum(now - as_of[..., _CLOCK_OF], 0.0) / _FADING)
    values[np.isnan(values) & _ZEROED] = 0.0
    gaps = _gaps(as_of, now)
    values[..., _DAYS] = _days_left(values[..., _DAYS], gaps[..., _GAP_OF_DAYS])
    values[..., _BUCKETS] = _moved_on(values, gaps[..., _GAP_OF_BUCKETS])
    values = np.where(_MOMENTS, np.maximum(now - values, 0.0) / DAY_MICROS, values)
    return np.concatenate([values[..., _SOURCE], _derive(values)], axis=-1)


def _gaps(as_of: NDArray[np.float64], now: NDArray[np.float64]) -> NDArray[np.int64]:
    """UTC days, weeks and months from as_of to now, shape (..., len(_GAPS))."""
    # Where as_of is missing nothing is stored that could move; with now in its place there is no gap.
    later = np.fmax(now, as_of)
    day = np.concatenate([later, np.fmin(as_of, later)], axis=-1).astype(np.int64) // DAY_MICROS
    numbers = [number(day) for number in _NUMBERS.values()]
    return np.concatenate([one[..., : len(_CLOCKS)] - one[..., len(_CLOCKS) :] for one in numbers], axis=-1)


def _days_left(bits: NDArray[np.float64], gap: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the days of a window that still lie in the window that ends now."""
    shift = np.minimum(gap, DAYS_WINDOW)
    return np.asarray(np.bitwise_count((bits.astype(np.int64) << shift) & _WINDOW_BITS), dtype=np.int64)


def _moved_on(values: NDArray[np.float64], gap: NDArray[np.int64]) -> NDArray[np.float64]:
    """Buckets of weeks and months counted from now; 0 where a bucket is new."""
    held = gap <= _NTH
    return np.take_along_axis(values, _BUCKETS - gap * held, axis=-1) * held


_DIFFERENCES: Final = {
    "net_loss_7d": ("bet_sum_7d", "win_sum_7d"),
    "net_loss_30d": ("bet_sum_30d", "win_sum_30d"),
    **{f"net_loss_week_{nth}": (f"bet_week_{nth}", f"win_week_{nth}") for nth in range(WEEKS_BACK)},
    "net_deposit_month_0": ("deposit_month_0", "withdrawal_month_0"),
}
_FINAL: Final = {
    "net_loss_final_7d": ("net_loss_7d", "returned_sum_7d"),
    "net_loss_final_30d": ("net_loss_30d", "returned_sum_30d"),
    **{f"net_loss_final_week_{nth}": (f"net_loss_week_{nth}", f"returned_week_{nth}") for nth in range(WEEKS_BACK)},
    "net_deposit_final_month_0": ("net_deposit_month_0", "chargeback_month_0"),
}
"""Differences less what came back: of bets beside wins, or of deposits."""
_SHARES: Final = {
    "deposit_trend": ("deposit_count_7d", "deposit_count_30d"),
    "play_trend": ("bet_count_7d", "bet_count_30d"),
    "night_share": ("night_bet_sum_30d", "bet_sum_30d"),
}
_OF_STAKES: Final = ("bet_count_30d", "bet_sum_30d", "bet_square_30d")
_STAKES: Final = [_POSITION[name] for name in _OF_STAKES]
_ONES, _OTHERS = np.array([[_POSITION[one], _POSITION[other]] for one, other in _DIFFERENCES.values()]).T
_PARTS: Final = np.array([_POSITION[part] for part, _ in _SHARES.values()])
_WHOLES: Final = np.array([*(_POSITION[whole] for _, whole in _SHARES.values()), _POSITION["bet_sum_30d"]])
_LESS: Final = [list(_DIFFERENCES).index(difference) for difference, _ in _FINAL.values()]
_BACK: Final = np.array([_POSITION[back] for _, back in _FINAL.values()])
_FORMULAS: Final = {
    **_DIFFERENCES,
    **{name: (*_DIFFERENCES[less], back) for name, (less, back) in _FINAL.items()},
    **_SHARES,
    "stake_variability": _OF_STAKES,
}
_COMPUTED: Final = list(_FORMULAS)
_DERIVED: Final = np.array([_COMPUTED.index(reading.name) for reading in DERIVED])


def _derive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the DERIVED readings, in their order, from values already at now."""
    differences = values[..., _ONES] - values[..., _OTHERS]
    parts = np.concatenate([values[..., _PARTS], _spread(values)[..., np.newaxis]], axis=-1)
    shares = _share(parts, values[..., _WHOLES])
    final = differences[..., _LESS] - values[..., _BACK]
    return np.concatenate([differences, final, shares], axis=-1)[..., _DERIVED]


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of stakes times their number; divided by their sum it is the coefficient of variation."""
    count, total, squares = (values[..., at] for at in _STAKES)
    # Of equal stakes, or where squares were not kept from the start, rounding and gaps can end below 0.
    return np.sqrt(np.maximum(count * squares - total * total, 0.0))


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return part / np.where(whole > 0, whole, np.inf)


_MOMENTS_AT: Final = np.flatnonzero(_MOMENTS).tolist()
_DAYS_AT: Final = _DAYS.tolist()
_READ: Final = itemgetter(*_SOURCE.tolist())
_PAIRS: Final = list(zip(_ONES.tolist(), _OTHERS.tolist(), strict=True))
_LESS_BACK: Final = list(zip(_LESS, _BACK.tolist(), strict=True))
_QUOTIENTS: Final = [(_POSITION[part], _POSITION[whole]) for part, whole in _SHARES.values()]
_COMPUTE: Final = itemgetter(*_DERIVED.tolist())


def _row_forward(stored: NDArray[np.float64], now_us: int) -> NDArray[np.float64]:
    """`forward` of one player at one moment, bit for bit: numpy's calls cost more than what they compute of one row."""
    now = float(now_us)
    ages = now - stored.take(_FADE_CLOCKS)
    np.maximum(ages, 0.0, out=ages)
    np.negative(ages, out=ages)
    ages /= _FADE_SPANS
    faded = np.exp2(ages).take(_FADE_OF)  # in place it may round otherwise
    faded *= stored
    faded[np.isnan(faded) & _ZEROED] = 0.0
    values = faded.tolist()
    shifts, buckets = _row_gaps(*_days_of(stored[_CLOCKS].tolist(), now))
    for at, shift in zip(_DAYS_AT, shifts, strict=True):
        values[at] = float(((int(values[at]) << shift) & _WINDOW_BITS).bit_count())
    for at, moved in [(at, values[source] * held) for at, source, held in buckets]:
        values[at] = moved
    for at in _MOMENTS_AT:
        values[at] = max(now - values[at], 0.0) / DAY_MICROS  # NaN, which is first, stays
    return np.array(_READ(values) + _row_derived(values))


def _days_of(as_of: Iterable[float], now: float) -> list[int]:
    """The UTC day of now and of as_of, by turns, for each clock; the same day where as_of is missing."""
    days: list[int] = []
    for told in as_of:
        later = max(now, told)  # now where it is missing
        days += int(later) // DAY_MICROS, int(min(later, told)) // DAY_MICROS
    return days


@lru_cache(maxsize=10_000)
def _row_gaps(*days: int) -> tuple[list[int], list[tuple[int, int, float]]]:
    """Shift of each window of days; place, source and 1 or 0 of each bucket that moved, by the days of `_days_of`."""
    numbers = [number(np.array(days)) for number in _NUMBERS.values()]
    gaps = np.concatenate([one[::2] - one[1::2] for one in numbers])
    gap = gaps[_GAP_OF_BUCKETS]
    held = gap <= _NTH
    moved = gap != 0
    parts = [part[moved].tolist() for part in (_BUCKETS, _BUCKETS - gap * held, held.astype(float))]
    return np.minimum(gaps[_GAP_OF_DAYS], DAYS_WINDOW).tolist(), list(zip(*parts, strict=True))


def _row_derived(values: Sequence[float]) -> tuple[float, ...]:
    """The DERIVED readings of one player, in their order, from values already at now; see `_derive`."""
    count, total, squares = (values[at] for at in _STAKES)
    shares = [(values[part], values[whole]) for part, whole in _QUOTIENTS]
    shares.append((sqrt(max(count * squares - total * total, 0.0)), total))
    computed = [values[one] - values[other] for one, other in _PAIRS]
    computed += [computed[less] - values[back] for less, back in _LESS_BACK]
    return _COMPUTE([*computed, *(part / (whole if whole > 0 else inf) for part, whole in shares)])  # type: ignore[no-any-return]


def _sources(index: int) -> frozenset[str]:
    """Stored features that the reading of one rests on: itself, its clock, later weeks or months, what it is beside."""
    feature, clock = STORED[index], STORED[_AS_OF[_CLOCK_OF[index]]]
    sums = STORED[index - feature.nth : index] if feature.kind in _CALENDAR else ()
    return frozenset(one for one in (feature.name, clock.name, feature.beside, *(one.name for one in sums)) if one)


_OF_STORED: Final = {STORED[index].name: _sources(int(index)) for index in _SOURCE}
SOURCES: Final[Mapping[str, frozenset[str]]] = {
    **dict(zip((reading.name for reading in VECTOR), _OF_STORED.values(), strict=False)),
    **{name: frozenset().union(*(_OF_STORED[part] for part in parts)) for name, parts in _FORMULAS.items()},
}
"""Reading -> the stored features that its value rests on."""
