"""Differences of two variants from their summaries: by strata, with covariates, of means, shares and ratios. Pure.

In each stratum both variants were filled with the same shares all the time, so that a difference within it is one of
variants alone; strata are averaged by their size. Money before serves as covariate (CUPED: Deng, Xu, Kohavi and Walker,
WSDM 2013); ratios are linearised (delta method: Deng, Knoblich and Lu, KDD 2018).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from pipelines.experiments.summaries import Floats, Summary

LEVEL = 0.05
CONFIDENCE = 0.95


class Side(NamedTuple):
    """A variant's mean, the mean after adjustment, and the latter's variance with its terms and their degrees."""

    n: int
    mean: float
    adjusted: float
    variance: float
    terms: tuple[tuple[float, int], ...]


class Gap(NamedTuple):
    """Difference of two variants.

    Attributes:
        variant: The one side.
        control: The other.
        error: Standard error of the difference; 0 where nothing varies.
        degrees: Degrees of freedom after Welch and Satterthwaite.
        strata: How many strata held both.
        explained: Share of the variance that covariates took away.
    """

    variant: Side
    control: Side
    error: float
    degrees: float
    strata: int
    explained: float

    @property
    def estimate(self) -> float:
        """Adjusted difference, variant less control."""
        return self.variant.adjusted - self.control.adjusted

    @property
    def n(self) -> int:
        """Units of both."""
        return self.variant.n + self.control.n


class Interval(NamedTuple):
    """Bounds, and the p-value of no difference."""

    low: float
    high: float
    p_value: float


class _Line(NamedTuple):
    """A metric of one variant in one stratum as a sum over columns: mean, and weights whose variance is its own."""

    summary: Summary
    mean: float
    weights: Floats


def gap(
    variant: Mapping[Hashable, Summary],
    control: Mapping[Hashable, Summary],
    *,
    ratio: bool = False,
    share: bool = False,
) -> Gap | None:
    """Difference of two variants.

    Args:
        variant: Summaries by stratum; columns are the value, for a ratio what it is over, then covariates.
        control: The same of the control.
        ratio: Whether the second column is what the first is over.
        share: Whether values are 0 and 1; their variance is then that of a share, p (1 - p).

    Returns:
        The difference over all strata with at least two units of each; None where there is none.
    """
    least = 2
    both = [key for key in variant if key in control and min(variant[key].n, control[key].n) >= least]
    if not both:
        return None
    width = 2 if ratio else 1
    pairs = [(_line(variant[key], ratio=ratio), _line(control[key], ratio=ratio)) for key in both]
    theta = _slopes([line for pair in pairs for line in pair], width)
    sizes = np.array([one.summary.n + other.summary.n for one, other in pairs], dtype=np.float64)
    shares = sizes / sizes.sum()
    centres = [_centre(one.summary, other.summary, width) for one, other in pairs]
    sides = [_side([pair[place] for pair in pairs], centres, theta, shares, width, share=share) for place in (0, 1)]
    plain = sum(
        weight**2 * _variance(line, np.zeros_like(theta), width, share=share)
        for weight, pair in zip(shares, pairs, strict=True)
        for line in pair
    )
    return _gap(sides[0], sides[1], len(both), plain)


def _gap(variant: Side, control: Side, strata: int, plain: float) -> Gap:
    terms = variant.terms + control.terms
    whole = sum(term for term, _ in terms)
    below = sum(term**2 / degrees for term, degrees in terms)
    return Gap(
        variant=variant,
        control=control,
        error=float(np.sqrt(whole)),
        degrees=float(whole**2 / below) if below > 0 else float(sum(degrees for _, degrees in terms)),
        strata=strata,
        explained=float(1 - whole / plain) if plain > 0 else 0.0,
    )


def _line(summary: Summary, *, ratio: bool) -> _Line:
    weights = np.zeros(len(summary.means))
    if not ratio:
        weights[0] = 1.0
        return _Line(summary, float(summary.means[0]), weights)
    if summary.means[1] == 0:
        raise ValueError("a ratio is over nothing in one of the variants")
    mean = float(summary.means[0] / summary.means[1])
    weights[:2] = np.array([1.0, -mean]) / summary.means[1]
    return _Line(summary, mean, weights)


def _slopes(lines: list[_Line], width: int) -> Floats:
    """Slopes of the metric over the covariates, within variants and strata."""
    scatter = sum((line.summary.scatter for line in lines), np.zeros_like(lines[0].summary.scatter))
    across = sum((line.summary.scatter @ line.weights for line in lines), np.zeros(len(lines[0].weights)))
    if len(scatter) == width:
        return np.zeros(0)
    return np.asarray(np.linalg.lstsq(scatter[width:, width:], across[width:], rcond=1e-10)[0], dtype=np.float64)


def _centre(one: Summary, other: Summary, width: int) -> Floats:
    centre: Floats = (one.n * one.means[width:] + other.n * other.means[width:]) / (one.n + other.n)
    return centre


def _variance(line: _Line, theta: Floats, width: int, *, share: bool) -> float:
    """Variance of the adjusted mean of a variant in a stratum."""
    weights = line.weights.copy()
    weights[width:] -= theta
    n = line.summary.n
    return max(float(weights @ line.summary.scatter @ weights), 0.0) / (n if share else n - 1) / n


def _side(lines: list[_Line], centres: list[Floats], theta: Floats, shares: Floats, width: int, *, share: bool) -> Side:
    adjusted = [
        line.mean - float(theta @ (line.summary.means[width:] - centre))
        for line, centre in zip(lines, centres, strict=True)
    ]
    terms = tuple(
        (float(weight**2) * _variance(line, theta, width, share=share), line.summary.n - 1)
        for weight, line in zip(shares, lines, strict=True)
    )
    return Side(
        n=sum(line.summary.n for line in lines),
        mean=float(shares @ np.array([line.mean for line in lines])),
        adjusted=float(shares @ np.array(adjusted)),
        variance=sum(term for term, _ in terms),
        terms=terms,
    )


def fixed(found: Gap, confidence: float = CONFIDENCE) -> Interval | None:
    """Interval for one look that was planned (Welch's t); None where nothing varies."""
    if found.error <= 0:
        return None
    half = float(stats.t.ppf(0.5 + confidence / 2, found.degrees)) * found.error
    p_value = 2 * float(stats.t.sf(abs(found.estimate) / found.error, found.degrees))
    return Interval(found.estimate - half, found.estimate + half, p_value)


class Share(NamedTuple):
    """A relative difference with its bounds."""

    estimate: float
    low: float
    high: float


def clear_of_zero(found: Gap, errors: float) -> bool:
    """Whether the control's mean lies so many standard errors above 0 that a ratio over it means something."""
    return found.control.adjusted > 0 and found.control.adjusted >= errors * float(np.sqrt(found.control.variance))


def relative(found: Gap) -> Share | None:
    """Difference relative to the control's mean, by the logarithm of the ratio; None where a mean is not above 0."""
    variant, control = found.variant, found.control
    if min(variant.adjusted, control.adjusted) <= 0:
        return None
    ratio = variant.adjusted / control.adjusted
    error = float(np.sqrt(variant.variance / variant.adjusted**2 + control.variance / control.adjusted**2))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, found.degrees)) * error
    return Share(ratio - 1, ratio * float(np.exp(-half)) - 1, ratio * float(np.exp(half)) - 1)


def relative_error(found: Gap) -> float:
    """Standard error of the relative difference by the plain delta method; may be wide where a control is near 0."""
    control = found.control.adjusted
    ratio = found.variant.adjusted / control
    return float(np.sqrt(found.variant.variance + ratio**2 * found.control.variance) / abs(control))
