"""The effect by days since the first decision: whether what is new wears off. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pipelines.experiments.comparisons import Pair
from pipelines.experiments.differences import CONFIDENCE
from pipelines.experiments.exposures import Exposures
from pipelines.experiments.result import DaySince, SinceExposure
from pipelines.experiments.summaries import Floats


def since_exposure(found: Exposures, matured: pd.DataFrame, heads: Sequence[Pair]) -> list[SinceExposure]:
    """Differences in money by day since the first decision, of mature players; without adjustment by what was before.

    Args:
        found: Its `daily` sums by player and day; a player's place is the index of `players`.
        matured: Mature players with their stratum, under their index in `players`.
        heads: Comparisons.
    """
    if found.daily is None or found.daily.empty or matured.empty:
        return []
    groups, names = pd.factorize(matured["variant"] + "\n" + matured["stratum"])
    of_place = np.full(len(found.players), -1)
    of_place[matured.index.to_numpy()] = groups
    group = of_place[found.daily["place"].to_numpy()]
    there, day = group >= 0, found.daily["day"].to_numpy()
    value = found.daily["value"].to_numpy()[there]
    sums, squares = np.zeros((2, len(names), found.window_days))
    np.add.at(sums, (group[there], day[there]), value)
    np.add.at(squares, (group[there], day[there]), value**2)
    sizes = np.bincount(groups)[:, None]
    mean = sums / sizes
    money = _Money(list(map(str, names)), sizes[:, 0], mean, (squares / sizes - mean**2) / np.maximum(sizes - 1, 1))
    metric = "net revenue" if found.has_bets else "deposits"
    told = [SinceExposure(*pair, metric, money.days(pair)) for pair in heads]
    return [one for one in told if one.days]


class _Money(NamedTuple):
    """Money by variant and stratum (rows) and day (columns): mean per player, and its variance."""

    names: list[str]
    sizes: NDArray[np.int64]
    mean: Floats
    variance: Floats

    def days(self, pair: Pair) -> list[DaySince]:
        """Difference of each day, averaged over the strata that hold both variants."""
        strata = {name.partition("\n")[2] for name in self.names}
        rows = [
            [self.names.index(f"{side}\n{one}") for side in pair] for one in sorted(strata) if self._holds(pair, one)
        ]
        if not rows:
            return []
        variant, control = np.array(rows).T
        weights = (self.sizes[variant] + self.sizes[control]).astype(np.float64)
        weights /= weights.sum()
        estimate = weights @ (self.mean[variant] - self.mean[control])
        error = np.sqrt(weights**2 @ (self.variance[variant] + self.variance[control]))
        half = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) * error
        return [
            DaySince(day=day, estimate=float(middle), low=float(middle - wide), high=float(middle + wide))
            for day, (middle, wide) in enumerate(zip(estimate, half, strict=True))
        ]

    def _holds(self, pair: Pair, stratum: str) -> bool:
        return all(f"{side}\n{stratum}" in self.names for side in pair)
