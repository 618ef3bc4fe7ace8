"""The analysis of a table of units, for lake and file alike: comparisons, segments, growth, returns, rankings.

units --sums of DuckDB--> summaries --+--> comparisons, capped view --> verdict
                                      +--> by segment, by day, returns
      --rows of one column------------+--> rankings
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Final

import duckdb
import msgspec

from features.moments import DAY_US, moment
from pipelines.experiments import ranking, sequences
from pipelines.experiments.comparisons import (
    WINSORISED,
    MetricRow,
    Pair,
    compare,
    compare_all,
    exact_interval,
    of_variant,
)
from pipelines.experiments.differences import fixed, gap
from pipelines.experiments.metrics import Metric
from pipelines.experiments.ranking import Ranked
from pipelines.experiments.returns import Returns, returns
from pipelines.experiments.segments import Segment, adjusted, by_segment
from pipelines.experiments.summaries import Summary
from pipelines.experiments.units import Key, cap, paired, summaries

Strata = dict[Hashable, Summary]
_DAILY_DAYS: Final = 21
_LEAST_POINT: Final = 10
_MONDAY: Final = 4
"""Days from 1970-01-01 to the first Monday."""
_MOST_RANKED: Final = 200_000
"""Units of which rankings are judged; of more, so many are taken by the hash of their ids."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Primary metric's difference over the units that came in before a day (UTC), with both intervals."""

    until: str
    n: int
    n_control: int
    estimate: float
    low: float
    high: float
    always_low: float | None = None
    always_high: float | None = None


class Series(msgspec.Struct, frozen=True):
    """Growth of a comparison of the primary metric over time."""

    variant: str
    control: str
    points: list[Point]


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """What a score is worth for choosing whom to treat, in one comparison."""

    score: str
    metric: str
    unit: str
    variant: str
    control: str
    n: int
    judged: Ranked


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the table `units`.

    Attributes:
        metrics: What is compared, the primary ones first.
        pairs: Variant and control of every comparison.
        heads: Those that the verdict speaks of.
        segments: Names of segments and their columns.
        pressed: Those of them by which what was done to units is shown too: who was contacted more.
        scores: Names of scores and their columns.
        costs: Column of the gross value and column of the cost, where there are any.
    """

    metrics: tuple[Metric, ...]
    pairs: tuple[Pair, ...]
    heads: tuple[Pair, ...]
    segments: Mapping[str, str] = {}
    pressed: tuple[str, ...] = ()
    scores: Mapping[str, str] = {}
    costs: tuple[str, str] | None = None


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """All that is computed of units; see `Asked`."""

    rows: list[MetricRow]
    means: dict[str, dict[str, float]]
    segments: list[Segment]
    series: list[Series]
    rankings: list[Ranking]
    returns: list[Returns]
    balance: dict[str, float]


def analyse(connection: duckdb.DuckDBPyConnection, asked: Asked) -> Analysis:
    """Analyse the table `units` of a connection: unit, variant, stratum, day_us and values."""
    found = summaries(connection, asked.metrics)
    means = [one for one in asked.metrics if one.kind == "mean" and one.role != "volume"]
    capped = cap(connection, means, WINSORISED)
    second = summaries(connection, list(capped.values())) if capped else {}
    return Analysis(
        rows=compare_all(found, asked.metrics, asked.pairs, second),
        means=_means(found, asked.metrics),
        segments=_segments(connection, asked),
        series=_series(connection, asked),
        rankings=_rankings(connection, asked),
        returns=_returns(connection, asked),
        balance=_balance(connection, asked),
    )


def _means(found: Mapping[str, Mapping[Key, Summary]], metrics: Sequence[Metric]) -> dict[str, dict[str, float]]:
    """Plain means by variant and metric."""
    told: dict[str, dict[str, float]] = {}
    for metric in metrics:
        for variant in sorted({key[0] for key in found[metric.name]}):
            parts = list(of_variant(found[metric.name], variant).values())
            n = sum(part.n for part in parts)
            above = sum(part.n * float(part.means[0]) for part in parts)
            below = sum(part.n * float(part.means[1]) for part in parts) if metric.denominator else n
            told.setdefault(variant, {})[metric.name] = above / below if below else 0.0
    return told


def _segments(connection: duckdb.DuckDBPyConnection, asked: Asked) -> list[Segment]:
    """Effects by segment, and what was done in each, which is no effect and so is not tested with them."""
    effects, done = list[Segment](), list[Segment]()
    for name, column in asked.segments.items():
        roles = {"primary", "volume"} if name in asked.pressed else {"primary"}
        wanted = [one for one in asked.metrics if one.role in roles]
        found = summaries(connection, wanted, ("variant", "stratum", column))
        for metric in wanted:
            into = effects if metric.role == "primary" else done
            into += [by_segment(name, found[metric.name], metric, pair) for pair in asked.heads]
    return adjusted(effects) + done


def _series(connection: duckdb.DuckDBPyConnection, asked: Asked) -> list[Series]:
    """Differences after each week in which units came in, or each day if they span at most three weeks."""
    (span,) = connection.execute("SELECT min(day_us), max(day_us) FROM units").fetchall()
    if span[0] is None:
        return []
    primary = asked.metrics[0]
    ends = ends_between(int(span[0]), int(span[1]))
    first, step = ends[0], ends[1] - ends[0] if len(ends) > 1 else 1
    after = f"floor((day_us - {first * DAY_US}) / {step * DAY_US}.0)::BIGINT + 1"
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW dated AS SELECT *, {first} + {step} * greatest({after}, 0) AS ends "  # noqa: S608 - numbers
        "FROM units"
    )
    found = summaries(connection, [primary], ("variant", "stratum", "ends"), table="dated")[primary.name]
    return [Series(*pair, _points(found, primary, pair)) for pair in asked.heads]


def ends_between(first_us: int, last_us: int) -> list[int]:
    """Ends of weeks (Mondays, 00:00 UTC) or days from the first moment to after the last, as days since 1970."""
    first, last = first_us // DAY_US, last_us // DAY_US
    if last - first < _DAILY_DAYS:
        return list(range(first + 1, last + 2))
    begin = first - (first - _MONDAY) % 7
    return list(range(begin + 7, last + 8, 7))


def _points(found: Mapping[Key, Summary], metric: Metric, pair: Pair) -> list[Point]:
    sides: tuple[Strata, Strata] = ({}, {})
    points = []
    for end in sorted({int(key[2]) for key in found}):
        for side, name in zip(sides, pair, strict=True):
            for key, part in found.items():
                if key[0] == name and int(key[2]) == end:
                    side[key[1]] = side[key[1]].merged(part) if key[1] in side else part
        if (point := _point(sides, metric, end)) is not None:
            points.append(point)
    return points


def _point(sides: tuple[Strata, Strata], metric: Metric, end: int) -> Point | None:
    counts = [sum(part.n for part in side.values()) for side in sides]
    one = gap(*sides, ratio=metric.kind == "ratio", share=metric.is_share)
    if min(counts) < _LEAST_POINT or one is None:
        return None
    sharp = exact_interval(metric, *sides)
    if (interval := sharp or fixed(one)) is None:
        return None
    always = sequences.sequence(one)
    return Point(
        until=moment(end * DAY_US).date().isoformat(),
        n=counts[0],
        n_control=counts[1],
        estimate=one.variant.mean - one.control.mean if sharp else one.estimate,
        low=interval.low,
        high=interval.high,
        always_low=always.low if always else None,
        always_high=always.high if always else None,
    )


def _rankings(connection: duckdb.DuckDBPyConnection, asked: Asked) -> list[Ranking]:
    primary = asked.metrics[0]
    if primary.kind == "ratio":
        return []
    told = []
    for name, column in asked.scores.items():
        for pair in asked.heads:
            rows = paired(connection, [primary.value, column], pair, _MOST_RANKED)
            value, score, treated = rows[primary.value], rows[column], rows["is_variant"]
            if min(treated.sum(), len(treated) - treated.sum()) < _LEAST_POINT or score.min() == score.max():
                continue
            judged = ranking.ranked(value, score, treated)
            told.append(
                Ranking(
                    score=name,
                    metric=primary.name,
                    unit=primary.unit,
                    variant=pair[0],
                    control=pair[1],
                    n=len(value),
                    judged=judged,
                )
            )
    return told


def _returns(connection: duckdb.DuckDBPyConnection, asked: Asked) -> list[Returns]:
    if asked.costs is None:
        return []
    gross, cost = asked.costs
    both = Metric(name="returns", kind="ratio", column=gross, denominator=cost)
    found = summaries(connection, [both])[both.name]
    told = [returns(pair, *(of_variant(found, name) for name in pair)) for pair in asked.heads]
    return [one for one in told if one is not None]


def _balance(connection: duckdb.DuckDBPyConnection, asked: Asked) -> dict[str, float]:
    """P-values of no difference in what was before, by covariate and pair."""
    before = dict.fromkeys(column for metric in asked.metrics for column in metric.covariates)
    if not before:
        return {}
    metrics = [Metric(name=column) for column in before]
    found = summaries(connection, metrics)
    told = {}
    for metric in metrics:
        for pair in asked.heads:
            row = compare(found[metric.name], metric, pair)
            if row is not None and row.absolute.p_value is not None:
                told[f"{metric.words} of {pair[0]} and {pair[1]}"] = row.absolute.p_value
    return told
