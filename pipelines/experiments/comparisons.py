"""Compare two variants of an experiment: differences per player with intervals. Pure.

Tests are tea-tasting's: Welch's t for money, a z-test for shares; money is adjusted by what the same player
did before (CUPED: Deng, Xu, Kohavi and Walker, WSDM 2013). The headline is the absolute difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import tea_tasting as tt
from numpy.typing import NDArray

from service.reports import Difference, RelativeDifference

CONFIDENCE: Final = 0.95
LEVEL: Final = 0.05
CLEAR_OF_ZERO: Final = 10.0
"""Standard errors that a control mean must lie above 0 before a relative difference is given."""

Role = Literal["primary", "secondary", "guardrail", "volume"]
Pair = tuple[str, str]


class Metric(NamedTuple):
    """A metric per player; `before` is its CUPED covariate: the same money before the first decision."""

    name: str
    title: str
    unit: Literal["minor", "share", "count"]
    before: str | None = None


NET_REVENUE: Final = Metric("net_revenue_minor", "net revenue", "minor", "before_net_revenue_minor")
CONVERSION: Final = Metric("conversion", "conversion", "share")
DEPOSITS: Final = Metric("deposits_minor", "deposits", "minor", "before_deposits_minor")
CONTACTS: Final = Metric("contacts", "contacts", "count")
UNSUBSCRIBED: Final = Metric("unsubscribed", "opt-out rate", "share")
HARM: Final = Metric("harm", "harm sign rate", "share")
METRICS: Final = {one.name: one for one in (NET_REVENUE, CONVERSION, DEPOSITS, UNSUBSCRIBED, HARM, CONTACTS)}
GUARDRAILS: Final = frozenset({"unsubscribed", "harm"})


class MetricRow(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one comparison; means per mature player, `absolute` after CUPED where `cuped` is true.

    `p_adjusted` is Holm's for the primary metric, Benjamini and Hochberg's for secondary ones, over all
    comparisons; None for guardrails, which are judged one by one, and for contacts.
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


def compare_all(players: pd.DataFrame, metrics: Sequence[Metric], pairs: Sequence[Pair]) -> list[MetricRow]:
    """Compare all pairs of variants by all metrics.

    Args:
        players: Mature players: `variant` and the metrics' columns.
        metrics: The primary one first.
        pairs: Variant and control.

    Raises:
        ValueError: A value is missing: it would be left out in silence.
    """
    needed = [one for metric in metrics for one in (metric.name, metric.before) if one]
    missing = [name for name in needed if players[name].isna().any()]
    if missing:
        raise ValueError(f"players without a value of {', '.join(missing)}: what did not happen is 0, not missing")
    results = {pair: compare(sides(players, pair), metrics, pair[1]) for pair in pairs}
    adjusted = _adjusted(results, metrics[0].name)
    return [
        _row(
            sides(players, pair),
            metric,
            pair,
            results[pair].get(metric.name),
            adjusted.get((pair, metric.name)),
            "primary" if metric is metrics[0] else _role(metric),
        )
        for metric in metrics
        for pair in pairs
    ]


def players_needed(players: pd.DataFrame, metric: Metric, relative_effect: float, power: float) -> float:
    """Players of two variants of one size together that show an effect, by tea-tasting's analysis of power.

    Args:
        players: Whose mean and spread it rests on.
        metric: What is to differ; adjusted by its covariate as in the report.
        relative_effect: Of the control's mean; not 0.
        power: Probability of seeing it at LEVEL, in (0, 1).
    """
    test = tt.Mean(metric.name, metric.before, alpha=LEVEL, power=power, rel_effect_size=abs(relative_effect))
    (found,) = test.solve_power(players, "n_obs")
    return float(found.n_obs)


def sides(players: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    """Players of a variant and of its control."""
    return players[players["variant"].isin(pair)]


def compare(players: pd.DataFrame, metrics: Sequence[Metric], control: str) -> Mapping[str, Any]:
    """tea-tasting's results by metric; metrics that do not vary within a variant have none."""
    varying = [one for one in metrics if _varies(players, one)]
    if not varying:
        return {}
    tests = {one.name: _test(one) for one in varying}
    return dict(tt.Experiment(tests).analyze(players, control))


def difference(players: pd.DataFrame, metric: Metric, control: str) -> tuple[float, float, float] | None:
    """Difference of two variants with its interval; None where players do not vary."""
    result = compare(players, [metric], control).get(metric.name)
    if result is None:
        return None
    return float(result.effect_size), float(result.effect_size_ci_lower), float(result.effect_size_ci_upper)


def _varies(players: pd.DataFrame, metric: Metric) -> bool:
    values = players.groupby("variant")[metric.name]
    return bool((values.max() > values.min()).any())


def _test(metric: Metric) -> Any:  # noqa: ANN401 - tea-tasting's metric, untyped
    if metric.name in GUARDRAILS:
        return tt.Proportion(metric.name, method="norm")
    if metric.unit == "share":
        # Unpooled and uncorrected, so that interval and p-value say the same.
        return tt.Proportion(metric.name, method="norm", correction=False, equal_var=False)
    return tt.Mean(metric.name, metric.before, confidence_level=CONFIDENCE)


def _role(metric: Metric) -> Role:
    if metric.name in GUARDRAILS:
        return "guardrail"
    return "volume" if metric is CONTACTS else "secondary"


def _adjusted(results: Mapping[Pair, Mapping[str, Any]], primary: str) -> dict[tuple[Pair, str], float]:
    """Adjusted p-values: Holm for the primary metric, Benjamini-Hochberg for the secondary ones."""
    secondary = {name for name, metric in METRICS.items() if name != primary and _role(metric) == "secondary"}
    kept = {pair: tt.experiment.ExperimentResult(found) for pair, found in results.items()}
    first = {pair: found for pair, found in kept.items() if primary in found}
    rest = {pair: found for pair, found in kept.items() if secondary & found.keys()}
    done: list[Mapping[Any, Any]] = []
    if first:
        done.append(tt.adjust_fwer(first, primary, arbitrary_dependence=True, method="bonferroni"))
    if rest:
        done.append(tt.adjust_fdr(rest, secondary & set.union(*(set(found) for found in rest.values()))))
    return {
        (pair, name): float(result["pvalue_adj"])
        for group in done
        for pair, found in group.items()
        for name, result in found.items()
    }


def _row(
    players: pd.DataFrame,
    metric: Metric,
    pair: Pair,
    result: Any | None,  # noqa: ANN401 - tea-tasting's named tuples
    p_adjusted: float | None,
    role: Role,
) -> MetricRow:
    treated, control = (players.loc[players["variant"] == name, metric.name].to_numpy(np.float64) for name in pair)
    difference = float(treated.mean() - control.mean())
    return MetricRow(
        metric=metric.name,
        role=role,
        unit=metric.unit,
        variant=pair[0],
        control=pair[1],
        n=len(treated),
        n_control=len(control),
        mean=float(treated.mean()),
        mean_control=float(control.mean()),
        absolute=_absolute(result) if result else Difference(difference, None, None, None),
        relative=_relative(result, control) if result else None,
        p_adjusted=p_adjusted,
        cuped=result is not None
        and metric.before is not None
        and bool(players[metric.before].max() > players[metric.before].min()),
    )


def _absolute(result: Any) -> Difference:  # noqa: ANN401 - tea-tasting's named tuples
    bounds = result.effect_size, result.effect_size_ci_lower, result.effect_size_ci_upper, result.pvalue
    return Difference(*map(float, bounds))


def _relative(result: Any, control: NDArray[np.float64]) -> RelativeDifference | None:  # noqa: ANN401 - see above
    """Relative difference; None where the control's mean is not clear of 0, as the ratio then means nothing."""
    error = float(control.std(ddof=1)) / len(control) ** 0.5
    if control.mean() <= 0 or control.mean() < CLEAR_OF_ZERO * error:
        return None
    bounds = result.rel_effect_size, result.rel_effect_size_ci_lower, result.rel_effect_size_ci_upper
    return RelativeDifference(*map(float, bounds)) if np.isfinite(bounds).all() else None
