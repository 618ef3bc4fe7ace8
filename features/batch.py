"""Behaviour features in batch: `aggregates.update`, written once in ibis for DuckDB or Spark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ibis import Table
from ibis.expr import types as ir

from features.aggregates import DAY_MICROS
from features.lake.files import table_files
from features.schema import DAYS_WINDOW, ENTITY, FAILED_LOGIN, MICROS, STORED, Feature, Kind

ACTIVITY: Final = ibis.schema(
    {
        ENTITY: "string",
        "type": "string",
        "occurred_at": "timestamp('UTC', 6)",
        "amount_minor": "int64",
        "status": "string",
        "target": "string",
        "product": "string",
        "channel": "string",
        "timing_slot": "string",
        "night": "boolean",
        "counts_at": "timestamp('UTC', 6)",
    }
)
"""Columns of an activity table: those of `aggregates.Activity`, with the player and an aware time."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HALF_LIVES: Final = tuple(sorted({feature.half_life for feature in STORED if feature.half_life}))
_FILTERS: Final = {
    key: f"hit_{index}"
    for index, key in enumerate(dict.fromkeys(tuple(f.when.items()) for f in STORED if f.kind is not Kind.AS_OF))
}


def batch(activity: Table, as_of_us: Sequence[int]) -> Table:
    """Stored values of every player at each cut-off.

    Args:
        activity: Rows with the columns of ACTIVITY, in any order, each once.
        as_of_us: Cut-offs, unix microseconds; a row counts if it occurred at the cut-off or before.

    Returns:
        One row per player and cut-off with something before it: `player`, `event_timestamp` (the cut-off), then
        every entry of STORED with its type. Decayed values are direct sums of
        v x 2^-((as_of - t) / half_life): a running form would overflow.
    """
    rows = _marked(activity)
    cuts = _cuts(as_of_us)
    known = rows.inner_join(cuts, rows.occurred <= cuts.as_of)
    weighted = known.mutate(
        **{_weight(half_life): _decay(known.as_of - known.moment, half_life) for half_life in _HALF_LIVES},
        **{f"age_{kind}": known[f"cut_{kind}"] - known[f"row_{kind}"] for kind in _NUMBERS},
    )
    by_player = weighted.group_by(ENTITY, "event_timestamp", "as_of")
    values = by_player.aggregate(**{f.name: _aggregate(f, weighted) for f in STORED if f.kind is not Kind.AS_OF})
    typed = {f.name: (values.as_of if f.kind is Kind.AS_OF else values[f.name]).cast(f.dtype.lower()) for f in STORED}
    return values.select(ENTITY, "event_timestamp", **typed)


def _marked(activity: Table) -> Table:
    """Activity with numbered moment, day, week and month, a flag per filter, and the rank for firsts.

    `moment` is the one to which a row belongs, `occurred` the one from which on it counts.
    """
    occurred = activity.occurred_at.delta(ibis.literal(_EPOCH), unit="microsecond")
    moment = activity.counts_at.delta(ibis.literal(_EPOCH), unit="microsecond").coalesce(occurred)
    numbers = {f"row_{kind}": number(moment // DAY_MICROS) for kind, number in _NUMBERS.items()}
    flags = {name: _holds(activity, dict(key)) for key, name in _FILTERS.items()}
    values = sorted({feature.value for feature in STORED if feature.value})
    rows = activity.select(ENTITY, *values, occurred=occurred, moment=moment, **numbers, **flags)
    ranked = dict.fromkeys(_hit(feature) for feature in STORED if feature.kind is Kind.FIRST)
    window = {hit: ibis.window(group_by=[ENTITY, hit], order_by="moment") for hit in ranked}
    return rows.mutate(**{f"rank_{hit}": ibis.row_number().over(over) for hit, over in window.items()})


def _cuts(as_of_us: Iterable[int]) -> Table:
    moments = pa.array(sorted(set(as_of_us)), pa.int64())
    cuts = ibis.memtable(pa.table({"as_of": moments, "event_timestamp": moments.cast(pa.timestamp("us", "UTC"))}))
    return cuts.mutate(**{f"cut_{kind}": number(cuts.as_of // DAY_MICROS) for kind, number in _NUMBERS.items()})


def _same(day: ir.IntegerValue) -> ir.IntegerValue:
    return day


def _week(day: ir.IntegerValue) -> ir.IntegerValue:
    return (day + 3) // 7  # 1970-01-01 was a Thursday


def _month(day: ir.IntegerValue) -> ir.IntegerValue:
    # A date has no zone: the year of an aware moment would be that of the session's zone.
    date = ibis.date(1970, 1, 1) + day.as_interval("D")
    return date.year() * 12 + date.month()


_NUMBERS: Final = {Kind.DAYS: _same, Kind.WEEK: _week, Kind.MONTH: _month}
"""Kind -> the running number of the UTC day, week or month of a row or a cut-off."""


def _holds(activity: Table, when: Mapping[str, tuple[object, ...]]) -> ir.BooleanValue:
    """Whether a row passes a filter; None among the allowed values stands for null."""
    return ibis.and_(*(_allowed(activity[column], values) for column, values in when.items()))


def _allowed(column: ir.Column, values: tuple[object, ...]) -> ir.BooleanValue:
    known = column.isin([value for value in values if value is not None]).fill_null(False)
    return known | column.isnull() if None in values else known


def _hit(feature: Feature) -> str:
    return _FILTERS[tuple(feature.when.items())]


def _weight(half_life: int) -> str:
    return f"weight_{half_life}"


def _decay(age_us: ir.IntegerValue, half_life: int) -> ir.FloatingValue:
    """2^-(age / half-life)."""
    return (age_us * (-math.log(2) / (half_life * MICROS))).exp()


def _aggregate(feature: Feature, rows: Table) -> ir.Scalar:
    """One stored value as an aggregate over the rows that are known at a cut-off."""
    hit = rows[_hit(feature)]
    if feature.kind is Kind.DECAYED:
        weight = rows[_weight(feature.half_life)]
        return (weight * _worth(feature, rows) if feature.value else weight).sum(where=hit).fill_null(0.0)
    if feature.kind in (Kind.WEEK, Kind.MONTH):
        amount = rows[feature.value].fill_null(0) if feature.value else ibis.literal(1, "int64")
        return (rows[f"age_{feature.kind}"] == feature.nth).ifelse(amount, 0).sum(where=hit)
    if feature.kind is Kind.COUNT:
        return hit.sum().nullif(0)
    if feature.kind is Kind.FIRST:
        return rows.moment.min(where=hit & (rows[f"rank_{_hit(feature)}"] == feature.nth - 1))
    if feature.kind is Kind.LAST:
        return rows.moment.max(where=hit)
    if feature.kind is Kind.DAYS:
        return (rows.age_days < DAYS_WINDOW).ifelse(ibis.literal(1, "int64") << rows.age_days, 0).bit_or(where=hit)
    return _latest(rows[feature.value], rows.moment, hit)


def _worth(feature: Feature, rows: Table) -> ir.NumericColumn:
    amount = rows[feature.value]
    # The square of an amount in minor units need not fit into 64 bits.
    return amount if feature.power == 1 else amount.cast("float64") ** feature.power


def _latest(text: ir.StringColumn, moment: ir.IntegerColumn, hit: ir.BooleanColumn) -> ir.StringScalar:
    """Text of the latest row, null if it has none; of two at the same moment the greater text."""
    return ibis.struct({"moment": moment, "text": text.fill_null("")}).max(where=hit)["text"].nullif("")


def read_activity(connection: ibis.BaseBackend, lake: Path) -> Table:
    """Read all activity of a lake: events and outcomes with the columns of ACTIVITY, absent ones null.

    Raises:
        ValueError: A file holds times without a zone.
    """
    found = {lake / kind: table_files(lake, kind) for kind in ("events", "outcomes")}
    if not any(found.values()):
        return ibis.memtable([], schema=ACTIVITY)
    return ibis.union(
        *(
            _projected(connection.read_parquet([str(file) for file in files], union_by_name=True), folder)
            for folder, files in found.items()
            if files
        )
    )


def _projected(rows: Table, folder: Path) -> Table:
    if not rows.schema()["occurred_at"].timezone:
        msg = f"occurred_at has no time zone in {folder}"
        raise ValueError(msg)
    columns = {
        name: rows[name].cast(dtype) if name in rows.columns else ibis.null(dtype) for name, dtype in ACTIVITY.items()
    }
    known = rows.select(**columns)
    refused = (known.type == "login") & known.status.notnull()
    return known.mutate(type=refused.ifelse(FAILED_LOGIN, known.type))


def write_features(table: Table, lake: Path, name: str, created_at: datetime) -> list[Path]:
    """Write features to `lake/features/day=YYYY-MM-DD/name.parquet`, a file per UTC day of the cut-off.

    Args:
        table: The table of `batch`; it is computed once.
        lake: Directory of the lake.
        name: Name of the files; those of the same name and day are replaced, each in one step.
        created_at: Aware moment of the computation; of two rows for one cut-off Feast takes the later made.

    Returns:
        The files written, by day.
    """
    rows = table.to_pyarrow()
    created = pa.array([created_at] * len(rows), pa.timestamp("us", "UTC"))
    rows = rows.append_column("created_timestamp", created)
    days = pc.strftime(rows["event_timestamp"], "%Y-%m-%d")
    return [
        _write(rows.filter(pc.equal(days, day)), lake / "features" / f"day={day}" / f"{name}.parquet")
        for day in sorted(days.unique().to_pylist())
    ]


def _write(rows: pa.Table, path: Path) -> Path:
    """Write a file under another name and rename it, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    pq.write_table(rows, unfinished)
    return unfinished.replace(path)
