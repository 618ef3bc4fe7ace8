"""Summaries of units that add: count, means and scatter of some columns; statistics never see rows. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)


class Summary(NamedTuple):
    """Units in short.

    Attributes:
        n: How many.
        means: Mean of each column, shape (k,).
        scatter: Sums of products of deviations from the means, shape (k, k).
    """

    n: int
    means: Floats
    scatter: Floats

    @classmethod
    def of(cls, values: Floats) -> Summary:
        """Summary of rows, shape (n, k)."""
        count, width = values.shape
        means = values.mean(axis=0) if count else np.zeros(width)
        centred = values - means
        return cls(count, means, centred.T @ centred)

    def merged(self, other: Summary) -> Summary:
        """Summary of both (Chan, Golub and LeVeque 1983)."""
        n = self.n + other.n
        if not self.n or not other.n:
            return self if self.n else other
        gap = other.means - self.means
        scatter = self.scatter + other.scatter + np.outer(gap, gap) * (self.n * other.n / n)
        return Summary(n, self.means + gap * (other.n / n), scatter)

    def take(self, places: Sequence[int]) -> Summary:
        """Summary of some columns only."""
        chosen = list(places)
        return Summary(self.n, self.means[chosen], self.scatter[np.ix_(chosen, chosen)])


def merged(parts: Iterable[Summary]) -> Summary:
    """Summary of all parts; raises ValueError where there is none."""
    whole: Summary | None = None
    for part in parts:
        whole = part if whole is None else whole.merged(part)
    if whole is None:
        raise ValueError("there is nothing to summarise")
    return whole


def grouped(parts: Mapping[Key, Summary], by: Mapping[Key, Hashable]) -> dict[Hashable, Summary]:
    """Summaries of groups of parts."""
    found: dict[Hashable, Summary] = {}
    for key, part in parts.items():
        group = by[key]
        found[group] = found[group].merged(part) if group in found else part
    return found
