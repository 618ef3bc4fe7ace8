"""Chances that a variant is better, and what is lost if it is not: posterior of a difference, normal. Pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats


class Posterior(NamedTuple):
    """A difference as it is believed after the data.

    Attributes:
        mean: Of the difference.
        deviation: Its standard deviation.
        better: Probability that it is above 0.
        loss: Expected loss of taking the variant, in units of the difference.
        loss_control: Expected loss of staying with the control.
    """

    mean: float
    deviation: float
    better: float
    loss: float
    loss_control: float


def posterior(estimate: float, error: float, prior: tuple[float, float] | None = None) -> Posterior:
    """Posterior of a difference.

    Args:
        estimate: The difference.
        error: Its standard error, above 0.
        prior: Mean and variance of what was believed before; None believes nothing.
    """
    precision = 1 / error**2
    before_mean, before = (0.0, 0.0) if prior is None else (prior[0], 1 / prior[1])
    deviation = float(1 / np.sqrt(precision + before))
    mean = (estimate * precision + before_mean * before) * deviation**2
    at = mean / deviation
    density = float(stats.norm.pdf(at))
    better = float(stats.norm.cdf(at))
    loss = deviation * density - mean * (1 - better)
    return Posterior(mean, deviation, better, loss, loss + mean)
