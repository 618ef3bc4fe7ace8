"""Returns: what a variant brought beyond its control, what it cost, and what came back for each unit of cost. Pure.

The field has two names for it: gross return on cost (ROAS), and return on investment, which takes the cost off first.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Final

import msgspec
import numpy as np
from scipy import stats

from pipelines.experiments.differences import CONFIDENCE, gap
from pipelines.experiments.summaries import Summary

_CLEAR: Final = 3.0
"""Standard errors that the cost must lie above 0 before a return on it has an interval."""


class Returns(msgspec.Struct, frozen=True, kw_only=True):
    """Returns of a variant against its control, over all its units; money in the unit of the metric.

    Attributes:
        gross: What it brought beyond the control, before its cost.
        cost: What it cost beyond the control.
        net: The one less the other, with a 95 % interval.
        roas: Gross over cost.
        roi: Net over cost, with an interval after Fieller; None where the cost is not clear of 0.
    """

    variant: str
    control: str
    units: int
    gross: float
    cost: float
    net: float
    net_low: float
    net_high: float
    roas: float | None
    roi: float | None
    roi_low: float | None
    roi_high: float | None


def returns_on(incremental: float, cost: float) -> tuple[float, float]:
    """Gross return on cost and return on investment."""
    return incremental / cost, (incremental - cost) / cost


def returns(
    pair: tuple[str, str], variant: Mapping[Hashable, Summary], control: Mapping[Hashable, Summary]
) -> Returns | None:
    """Returns of a variant; columns of the summaries are the gross value and the cost."""
    z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))
    value, cost, net = (
        gap(_over(variant, weights), _over(control, weights)) for weights in ([1.0, 0.0], [0.0, 1.0], [1.0, -1.0])
    )
    if value is None or cost is None or net is None:
        return None
    units = value.variant.n
    bounds = _fieller(value.estimate, value.error, cost.estimate, cost.error, net.error, z)
    on = returns_on(value.estimate, cost.estimate) if bounds else (None, None)
    return Returns(
        variant=pair[0],
        control=pair[1],
        units=units,
        gross=units * value.estimate,
        cost=units * cost.estimate,
        net=units * net.estimate,
        net_low=units * (net.estimate - z * net.error),
        net_high=units * (net.estimate + z * net.error),
        roas=on[0],
        roi=on[1],
        roi_low=bounds[0] - 1 if bounds else None,
        roi_high=bounds[1] - 1 if bounds else None,
    )


def _over(found: Mapping[Hashable, Summary], weights: list[float]) -> dict[Hashable, Summary]:
    """Summaries of a weighted sum of the columns."""
    line = np.array(weights)
    return {
        key: Summary(one.n, np.array([line @ one.means]), np.array([[line @ one.scatter @ line]]))
        for key, one in found.items()
    }


def _fieller(
    value: float, value_error: float, cost: float, cost_error: float, net_error: float, z: float
) -> tuple[float, float] | None:
    """Interval of value over cost (Fieller 1954); None where the cost is not clear of 0."""
    if cost <= 0 or cost < _CLEAR * cost_error:
        return None
    together = (value_error**2 + cost_error**2 - net_error**2) / 2  # covariance, from the variance of the difference
    a = cost**2 - z**2 * cost_error**2
    b = value * cost - z**2 * together
    c = value**2 - z**2 * value_error**2
    root = float(np.sqrt(max(b**2 - a * c, 0.0)))
    return (b - root) / a, (b + root) / a
