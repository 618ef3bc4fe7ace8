"""Confidence sequences: intervals that hold at every look at once, however often and whenever one looks. Pure.

Asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2021, arXiv 2103.06476): equation 9,
tuned by equation 161 so that it is tightest at a number of units.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pipelines.experiments.differences import LEVEL, Gap, Interval

TIGHTEST: Final = 5_000
"""Units of both variants at which the sequence is tightest."""


def _rho_squared(level: float, tightest: float) -> float:
    logs = -2 * np.log(level)
    return float((logs + np.log(logs + 1)) / tightest)


def widening(n: float, level: float = LEVEL, tightest: float = TIGHTEST) -> float:
    """Half of a sequence's width at n units, in standard errors."""
    spread = n * _rho_squared(level, tightest)
    return float(np.sqrt(2 * (spread + 1) / spread * np.log(np.sqrt(spread + 1) / level)))


def p_value(standardised: float, n: float, level: float = LEVEL, tightest: float = TIGHTEST) -> float:
    """P-value that holds at every look: 1 over the evidence of the mixture that the sequence is made of."""
    spread = n * _rho_squared(level, tightest)
    evidence = standardised**2 * spread / (2 * (spread + 1)) - 0.5 * np.log(spread + 1)
    return float(min(1.0, np.exp(-evidence)))


def sequence(found: Gap) -> Interval | None:
    """Interval that holds at every look; None where nothing varies."""
    return around(found.estimate, found.error, found.n)


def around(estimate: float, error: float, n: float, tightest: float = TIGHTEST) -> Interval | None:
    """Interval of an estimate with a standard error over n units; None without any error."""
    if error <= 0:
        return None
    half = widening(n, tightest=tightest) * error
    return Interval(estimate - half, estimate + half, p_value(estimate / error, n, tightest=tightest))
