"""Power of a comparison: the chance to see a difference, and the smallest that is seen. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import stats

from pipelines.experiments.differences import LEVEL

POWER: Final = 0.8


def power(effect: float, error: float, level: float = LEVEL) -> float:
    """Probability that a difference is seen at a level, two-sided, by the normal approximation."""
    bound, at = float(stats.norm.ppf(1 - level / 2)), effect / error
    return float(stats.norm.sf(bound - at) + stats.norm.cdf(-bound - at))


def detectable(error: float, power: float = POWER, level: float = LEVEL) -> float:
    """Smallest difference that is seen with a probability."""
    return float(stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power)) * error


def relative_error(effect: float, mean: float, variance: float, n: int) -> float:
    """Standard error of a relative difference of two variants of n units each, the effect being true."""
    return float(np.sqrt(variance / n * (1 + (1 + effect) ** 2))) / mean


def relative_power(effect: float, mean: float, variance: float, n: int) -> float:
    """Probability that a relative difference is seen with n units of each variant."""
    return power(effect, relative_error(effect, mean, variance, n))


def relative_detectable(mean: float, variance: float, n: int, power: float = POWER) -> float:
    """Smallest relative difference above 0 that is seen with n units of each variant.

    With q = (z + z)^2 variance / (n mean^2), the effect e solves e^2 = q (1 + (1 + e)^2).
    """
    spread = detectable(1.0, power) ** 2 * variance / (n * mean**2)
    if spread >= 1:
        return float("inf")
    return float((spread + np.sqrt(spread**2 + 2 * spread * (1 - spread))) / (1 - spread))
