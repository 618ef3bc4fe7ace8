"""Shares where the normal approximation fails: exact tests, and intervals for what is rare or certain. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy import stats

from pipelines.experiments.differences import CONFIDENCE, Interval
from pipelines.experiments.summaries import Floats

LEAST_EXPECTED: Final = 10.0
"""Units that had it, and that had it not, which each variant must expect before the normal approximation is used."""


class Counts(NamedTuple):
    """A stratum: how many of a variant, and of its control, had something."""

    had: int
    n: int
    had_control: int
    n_control: int


def fails(strata: Sequence[Counts]) -> bool:
    """Whether the normal approximation fails: too few expected, or a variant in which all are the same."""
    had, n, had_control, n_control = (sum(values) for values in zip(*strata, strict=True))
    rate = (had + had_control) / (n + n_control)
    expected = min(rate, 1 - rate) * min(n, n_control)
    return expected < LEAST_EXPECTED or had in {0, n} or had_control in {0, n_control}


def p_value(strata: Sequence[Counts]) -> float:
    """Two-sided p-value of Fisher's exact test, over all strata at once (their hypergeometric counts added)."""
    whole, observed, start = np.ones(1), 0, 0
    for one in strata:
        low, chances = _hypergeometric(one)
        whole, observed, start = np.convolve(whole, chances), observed + one.had, start + low
    at = whole[observed - start]
    return float(min(1.0, whole[whole <= at * (1 + 1e-7)].sum()))


def _hypergeometric(one: Counts) -> tuple[int, Floats]:
    """Chances of every count of the variant, margins given, from the least possible one on."""
    total, had = one.n + one.n_control, one.had + one.had_control
    low, high = max(0, had - one.n_control), min(one.n, had)
    return low, stats.hypergeom(total, had, one.n).pmf(np.arange(low, high + 1))


def _wilson(had: int, n: int) -> tuple[float, float]:
    """Wilson's interval of one share."""
    z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))
    rate, spread = had / n, z**2 / n
    middle = rate + spread / 2
    half = z * float(np.sqrt(rate * (1 - rate) / n + spread / (4 * n)))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)


def interval(strata: Sequence[Counts]) -> Interval:
    """Newcombe's hybrid interval of the difference of two shares (1998, method 10), averaged over strata by size."""
    sizes = np.array([one.n + one.n_control for one in strata], dtype=np.float64)
    shares = sizes / sizes.sum()
    estimate = below = above = 0.0
    for weight, one in zip(shares, strata, strict=True):
        rate, control = one.had / one.n, one.had_control / one.n_control
        (low, high), (low_control, high_control) = _wilson(one.had, one.n), _wilson(one.had_control, one.n_control)
        estimate += weight * (rate - control)
        below += weight**2 * ((rate - low) ** 2 + (high_control - control) ** 2)
        above += weight**2 * ((high - rate) ** 2 + (control - low_control) ** 2)
    return Interval(float(estimate - np.sqrt(below)), float(estimate + np.sqrt(above)), p_value(strata))
