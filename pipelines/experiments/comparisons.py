"""Compare variants by metrics: differences with intervals, adjusted p-values, margins of guardrails. Pure.

The headline is the absolute difference. Two intervals are given: one for the single look that was planned, and one that
holds at every look. p-values over several comparisons are adjusted by tea-tasting.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import pandas as pd
import tea_tasting as tt

from pipelines.experiments import chances, exact, power, sequences
from pipelines.experiments.differences import LEVEL, Gap, Interval, clear_of_zero, fixed, gap, relative
from pipelines.experiments.metrics import Metric, Role
from pipelines.experiments.summaries import Summary
from pipelines.experiments.units import Key, Summaries
from service.reports import Difference, RelativeDifference

CLEAR_OF_ZERO: Final = 10.0
"""Standard errors that a control mean must lie above 0 before a relative difference is given."""
WINSORISED: Final = 0.999
"""Quantile above which values of the second view count as the quantile."""

Pair = tuple[str, str]
Guarded = Literal["passed", "open", "worse", "beyond margin"]
"""Of a guardrail: harmless within its margin; not shown to be; worse than the control; worse beyond the margin."""


class MetricRow(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one comparison; means per unit, `absolute` after adjustment where `cuped` is true.

    Attributes:
        sequential: The difference with an interval and a p-value that hold at every look.
        winsorised: The same over values capped at the quantile 0.999; None where nothing is capped.
        p_adjusted: Holm's for primary metrics, Benjamini and Hochberg's for secondary ones, over all comparisons; None
            for guardrails, which are judged one by one, and for volumes.
        always_p_adjusted: Holm's adjustment of the p-values that hold at every look; of primary metrics.
        exact: Whether test and interval are exact ones, as the normal approximation fails.
        cuped: Whether covariates adjusted it; `explained` is the share of variance that they took away.
        better: Probability that the variant is better, if nothing was believed before.
        detectable: Smallest difference that is seen in four of five experiments of this size.
        guard: What became of a guardrail, `margin` being the harm that is borne.
        strata: Groups of units that were split by the same shares; effects are those within them.
        withheld: Why there is no relative difference, or no interval; None if there is.
    """

    metric: str
    role: Role
    unit: str
    variant: str
    control: str
    n: int
    n_control: int
    mean: float
    mean_control: float
    absolute: Difference
    relative: RelativeDifference | None
    p_adjusted: float | None
    cuped: bool
    title: str = ""
    direction: str = "higher"
    sequential: Difference | None = None
    always_p_adjusted: float | None = None
    winsorised: Difference | None = None
    exact: bool = False
    explained: float = 0.0
    better: float | None = None
    detectable: float | None = None
    guard: Guarded | None = None
    margin: float | None = None
    strata: int = 1
    withheld: str | None = None


def of_variant(found: Mapping[Key, Summary], variant: str) -> dict[Hashable, Summary]:
    """Summaries of a variant by stratum, whatever else they are by."""
    mine: dict[Hashable, Summary] = {}
    for (name, stratum, *_), part in found.items():
        if name == variant:
            mine[stratum] = mine[stratum].merged(part) if stratum in mine else part
    return mine


def compare_all(
    found: Summaries, metrics: Sequence[Metric], pairs: Sequence[Pair], capped: Summaries | None = None
) -> list[MetricRow]:
    """Compare all pairs of variants by all metrics.

    Args:
        found: Summaries by metric, keys beginning with variant and stratum.
        metrics: What is compared.
        pairs: Variant and control.
        capped: Summaries of capped values, of those metrics that have them.
    """
    rows = []
    for metric in metrics:
        for pair in pairs:
            if (row := compare(found[metric.name], metric, pair)) is None:
                continue
            second = compare((capped or {}).get(metric.name, {}), metric, pair)
            rows.append(msgspec.structs.replace(row, winsorised=second.absolute if second else None))
    return _adjusted(rows)


def compare(found: Mapping[Key, Summary], metric: Metric, pair: Pair) -> MetricRow | None:
    """Compare a pair of variants by a metric; None where no stratum has two units of each."""
    sides = [of_variant(found, name) for name in pair]
    gone = gap(*sides, ratio=metric.kind == "ratio", share=metric.is_share)
    return None if gone is None else _row(metric, pair, gone, exact_interval(metric, *sides))


def exact_interval(
    metric: Metric, variant: Mapping[Hashable, Summary], control: Mapping[Hashable, Summary]
) -> Interval | None:
    """Exact interval of a share where the normal approximation fails; None where it does not."""
    if not metric.is_share:
        return None
    strata = [
        exact.Counts(_had(variant[key]), variant[key].n, _had(control[key]), control[key].n)
        for key in variant
        if key in control
    ]
    return exact.interval(strata) if strata and exact.fails(strata) else None


def _had(summary: Summary) -> int:
    return round(float(summary.means[0]) * summary.n)


def _row(metric: Metric, pair: Pair, found: Gap, sharp: Interval | None) -> MetricRow:
    interval = sharp or fixed(found)
    absolute = _difference(_raw(found) if sharp else found.estimate, interval)
    ratio = relative(found) if interval and clear_of_zero(found, CLEAR_OF_ZERO) and sharp is None else None
    always = sequences.sequence(found)
    believed = chances.posterior(found.estimate, found.error) if found.error > 0 else None
    return MetricRow(
        metric=metric.name,
        title=metric.words,
        role=metric.role,
        unit=metric.unit,
        direction=metric.direction,
        variant=pair[0],
        control=pair[1],
        n=found.variant.n,
        n_control=found.control.n,
        mean=found.variant.mean,
        mean_control=found.control.mean,
        absolute=absolute,
        relative=RelativeDifference(*ratio) if ratio else None,
        p_adjusted=None,
        sequential=None if always is None or sharp else _difference(found.estimate, always),
        exact=sharp is not None,
        cuped=found.explained > 0 and sharp is None,
        explained=0.0 if sharp else max(found.explained, 0.0),
        better=None if believed is None else believed.better if metric.direction == "higher" else 1 - believed.better,
        detectable=power.detectable(found.error) if found.error > 0 else None,
        guard=guarded(metric, absolute),
        margin=metric.margin,
        strata=found.strata,
        withheld=_withheld(found, interval, ratio is None),
    )


def _raw(found: Gap) -> float:
    return found.variant.mean - found.control.mean


def _difference(estimate: float, interval: Interval | None) -> Difference:
    return Difference(estimate, None, None, None) if interval is None else Difference(estimate, *interval)


def _withheld(found: Gap, interval: Interval | None, no_ratio: bool) -> str | None:  # noqa: FBT001 - what was found
    if interval is None:
        return "no interval: in neither variant do two units differ"
    if not no_ratio:
        return None
    if found.control.adjusted <= 0:
        return "no relative difference: the control's mean is not above 0, and a share of it would tell the wrong way"
    return f"no relative difference: the control's mean is not {CLEAR_OF_ZERO:.0f} standard errors above 0"


def guarded(metric: Metric, found: Difference) -> Guarded | None:
    """What became of a guardrail: harmless where the whole interval lies within its margin (non-inferiority)."""
    if metric.margin is None or found.low is None or found.high is None:
        return None if metric.margin is None else "open"
    low, high = (found.low, found.high) if metric.direction == "lower" else (-found.high, -found.low)
    if low > metric.margin:
        return "beyond margin"
    if low > 0 and high > metric.margin:
        return "worse"
    return "passed" if high <= metric.margin else "open"


def _adjusted(rows: Sequence[MetricRow]) -> list[MetricRow]:
    """Rows with adjusted p-values: Holm over primary metrics, Benjamini and Hochberg over secondary ones."""
    found: dict[int, float] = {}
    for role in ("primary", "secondary"):
        places = [place for place, row in enumerate(rows) if row.role == role and row.absolute.p_value is not None]
        p_values = [rows[place].absolute.p_value or 0.0 for place in places]
        adjust = holm if role == "primary" else benjamini_hochberg
        found.update(zip(places, adjust(p_values), strict=True))
    always = {place: row.sequential for place, row in enumerate(rows) if row.role == "primary"}
    lasting = {place: one.p_value for place, one in always.items() if one and one.p_value is not None}
    at_every_look = dict(zip(lasting, holm(list(lasting.values())), strict=True))
    return [
        msgspec.structs.replace(row, p_adjusted=found.get(place), always_p_adjusted=at_every_look.get(place))
        for place, row in enumerate(rows)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the chance of any false finding (Holm 1979)."""
    return _by_library(
        p_values, lambda results: tt.adjust_fwer(results, arbitrary_dependence=True, method="bonferroni")
    )


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the share of false ones among findings (Benjamini and Hochberg 1995)."""
    return _by_library(p_values, lambda results: tt.adjust_fdr(results, arbitrary_dependence=False))


def _by_library(p_values: Sequence[float], adjust: Any) -> list[float]:  # noqa: ANN401 - tea-tasting is untyped
    if not p_values:
        return []
    results = tt.experiment.ExperimentResult({str(place): {"pvalue": p} for place, p in enumerate(p_values)})
    adjusted = adjust(results)
    (only,) = adjusted.values()
    return [float(only[str(place)]["pvalue_adj"]) for place in range(len(p_values))]


def players_needed(players: pd.DataFrame, metric: Metric, relative_effect: float, power: float) -> float:
    """Players of two variants of one size together that show an effect, by tea-tasting's analysis of power.

    Args:
        players: Whose mean and spread it rests on.
        metric: What is to differ; adjusted by its covariate as in the report.
        relative_effect: Of the control's mean; not 0.
        power: Probability of seeing it at LEVEL, in (0, 1).
    """
    before = metric.covariates[0] if metric.covariates else None
    test = tt.Mean(metric.value, before, alpha=LEVEL, power=power, rel_effect_size=abs(relative_effect))
    (found,) = test.solve_power(players, "n_obs")
    return float(found.n_obs)


def differs(row: MetricRow) -> bool:
    """Whether the capped view says something else: the other sign, or significance lost or won."""
    one, other = row.absolute, row.winsorised
    if other is None or one.p_value is None or other.p_value is None:
        return False
    if (one.p_value < LEVEL) != (other.p_value < LEVEL):
        return True
    return bool(np.sign(one.estimate) != np.sign(other.estimate)) and one.p_value < LEVEL
