"""Paired rounds: the order of turns, and the ratio of two sides with its interval. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

Side = TypeVar("Side")
CONFIDENCE: Final = 0.95
LEAST_ROUNDS: Final = 6
"""Fewer rounds give no interval of 95 %: all of five lie on one side of the median once in 16 times."""


class Ratio(NamedTuple):
    """Median of paired ratios with an interval of at least 95 %; `low` and `high` are None below six pairs."""

    estimate: float
    low: float | None
    high: float | None


def order(sides: Sequence[Side], number: int) -> list[Side]:
    """Order of the sides in a round: forwards in even rounds, backwards in odd ones.

    What drifts steadily over two rounds (heat, other programs) then meets every side alike.
    """
    return list(sides) if number % 2 == 0 else list(reversed(sides))


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """Median of `over[i] / under[i]`, both of the same rounds.

    The interval is that of the sign test (Conover 1999, Practical Nonparametric Statistics, 3.2): between the k-th
    smallest and the k-th largest ratio, k the greatest with P(Binomial(n, 1/2) < k) <= 2.5 %. It asks nothing of how
    ratios are distributed, so a side that is now fast and now slow widens it and does not mislead it.
    """
    ratios = sorted(dear / cheap for dear, cheap in zip(over, under, strict=True))
    estimate = statistics.median(ratios)
    if len(ratios) < LEAST_ROUNDS:
        return Ratio(estimate, None, None)
    k = _rank(len(ratios))
    return Ratio(estimate, ratios[k - 1], ratios[-k])


def _rank(rounds: int) -> int:
    """The greatest k with P(Binomial(rounds, 1/2) < k) <= 2.5 %."""
    below, k = 1, 0
    while below / 2**rounds <= (1 - CONFIDENCE) / 2:
        k += 1
        below += math.comb(rounds, k)
    return k
