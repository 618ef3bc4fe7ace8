"""Segments: the effect in each, and whether it differs between them at all. Pure.

Whether an effect differs is one question of a segment, asked by Cochran's Q over its levels; that it is significant in
one level and not in another is no answer to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from scipy import stats

from pipelines.experiments.comparisons import Pair, benjamini_hochberg, compare
from pipelines.experiments.metrics import Metric
from pipelines.experiments.summaries import Summary
from pipelines.experiments.units import Key
from service.reports import Difference

LEAST_UNITS: Final = 100
"""Units of each variant below which the effect in a level is not given."""


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """The effect in one level of a segment; none where a variant has too few units there."""

    level: str
    n: int
    n_control: int
    mean: float | None
    mean_control: float | None
    absolute: Difference | None


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment of one comparison by one metric.

    Attributes:
        p_value: Of the effect being the same in all levels (Cochran's Q); None with fewer than two levels.
        p_adjusted: After Benjamini and Hochberg over all segments that were tried.
        treatment: Whether it is what was done to units, which is no effect and is not tested.
    """

    segment: str
    metric: str
    unit: str
    variant: str
    control: str
    levels: list[Level]
    p_value: float | None
    p_adjusted: float | None = None
    treatment: bool = False


def by_segment(
    segment: str, found: Mapping[Key, Summary], metric: Metric, pair: Pair, least: int = LEAST_UNITS
) -> Segment:
    """The effect in each level; keys are variant, stratum and level."""
    names = sorted({key[2] for key in found})
    levels, weights, effects = [], [], []
    for name in names:
        inside = {key: part for key, part in found.items() if key[2] == name}
        level, error = _level(name, inside, metric, pair, least)
        levels.append(level)
        if level.absolute is not None and error > 0:
            effects.append(level.absolute.estimate)
            weights.append(1 / error**2)
    return Segment(
        segment=segment,
        metric=metric.name,
        unit=metric.unit,
        variant=pair[0],
        control=pair[1],
        levels=levels,
        p_value=None if metric.role == "volume" else interaction(effects, weights),
        treatment=metric.role == "volume",
    )


def _level(name: str, found: Mapping[Key, Summary], metric: Metric, pair: Pair, least: int) -> tuple[Level, float]:
    counts = [sum(part.n for key, part in found.items() if key[0] == side) for side in pair]
    row = compare(found, metric, pair) if min(counts) >= least else None
    level = Level(
        level=name,
        n=counts[0],
        n_control=counts[1],
        mean=row.mean if row else None,
        mean_control=row.mean_control if row else None,
        absolute=row.absolute if row else None,
    )
    error = 0.0
    if row and row.absolute.low is not None and row.absolute.high is not None:
        error = (row.absolute.high - row.absolute.low) / (2 * float(stats.norm.ppf(0.975)))
    return level, error


def interaction(effects: Sequence[float], weights: Sequence[float]) -> float | None:
    """P-value of effects being one (Cochran's Q); weights are one over their variances."""
    if len(effects) < 2:
        return None
    mean = sum(weight * effect for weight, effect in zip(weights, effects, strict=True)) / sum(weights)
    spread = sum(weight * (effect - mean) ** 2 for weight, effect in zip(weights, effects, strict=True))
    return float(stats.chi2.sf(spread, len(effects) - 1))


def adjusted(segments: Sequence[Segment]) -> list[Segment]:
    """Segments with their p-values adjusted for how many were tried."""
    tested = [one for one in segments if one.p_value is not None]
    found = benjamini_hochberg([one.p_value or 0.0 for one in tested])
    by = {id(one): p for one, p in zip(tested, found, strict=True)}
    return [msgspec.structs.replace(one, p_adjusted=by.get(id(one))) for one in segments]
