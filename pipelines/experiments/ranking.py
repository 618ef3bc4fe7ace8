"""Rankings of units by who gains most: Qini and uplift curves, uplift at k, and a band of chance. Pure.

Curves are those of Radcliffe (2007) as scikit-uplift draws them; values need not be 0 and 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Curve(NamedTuple):
    """A curve over the number of units taken, the best scored first; both begin with 0."""

    taken: Floats
    gain: Floats

    @property
    def area(self) -> float:
        """Area below it."""
        return float(np.trapezoid(self.gain, self.taken))


class _Order(NamedTuple):
    """Values and treatment, the best scored first, and the place where each tie ends."""

    value: Floats
    treated: Floats
    ends: NDArray[np.int64]

    def sums(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Running units and values of treated and control at the end of each tie."""
        n = np.cumsum(self.treated)[self.ends]
        gained = np.cumsum(self.value * self.treated)[self.ends]
        gained_control = np.cumsum(self.value * (1 - self.treated))[self.ends]
        return n, (self.ends + 1.0) - n, gained, gained_control

    def dealt(self, chance: np.random.Generator) -> _Order:
        """The same scores, dealt anew among the units."""
        places = chance.permutation(len(self.value))
        return _Order(self.value[places], self.treated[places], self.ends)


def _ordered(value: Floats, score: Floats, treated: Floats) -> _Order:
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    return _Order(value[order], treated[order], ends)


def _over(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below != 0)


def qini(value: Floats, score: Floats, treated: Floats) -> Curve:
    """Gain of treating the best scored, less what as many of the control had."""
    return _qini(_ordered(value, score, treated))


def _qini(order: _Order) -> Curve:
    n, n_control, gained, gained_control = order.sums()
    return _begun(n + n_control, gained - gained_control * _over(n, n_control))


def uplift_curve(value: Floats, score: Floats, treated: Floats) -> Curve:
    """Difference of means among the best scored times their number."""
    n, n_control, gained, gained_control = _ordered(value, score, treated).sums()
    return _begun(n + n_control, (_over(gained, n) - _over(gained_control, n_control)) * (n + n_control))


def _begun(taken: Floats, gain: Floats) -> Curve:
    return Curve(np.append(0.0, taken), np.append(0.0, gain))


def _beyond_chance(curve: Curve, best: Curve) -> float:
    """Area over the straight line to the end, as a share of the best one's."""
    line = 0.5 * float(best.taken[-1] * best.gain[-1])
    return (curve.area - line) / (best.area - line)


def qini_coefficient(value: Floats, score: Floats, treated: Floats) -> float:
    """Qini coefficient of values of 0 and 1: 1 is the best order there can be, 0 that of chance."""
    best = qini(value, value * treated - value * (1 - treated), treated)
    return _beyond_chance(qini(value, score, treated), best)


def uplift_coefficient(value: Floats, score: Floats, treated: Floats) -> float:
    """Coefficient of the uplift curve of values of 0 and 1."""
    responders, others = ((value == 1) & (treated == 0)).sum(), ((value == 0) & (treated == 1)).sum()
    ideal = 2.0 * (value == treated) + (value if responders > others else treated)
    return _beyond_chance(uplift_curve(value, score, treated), uplift_curve(value, ideal, treated))


def per_unit(curve: Curve) -> float:
    """Area between a curve and the straight line to its end, per unit squared: gain per unit beyond chance."""
    n = float(curve.taken[-1])
    return (curve.area - 0.5 * n * float(curve.gain[-1])) / n**2


class Ranked(NamedTuple):
    """What a ranking is worth.

    Attributes:
        qini: Gain per unit beyond chance.
        low: Lower bound of what chance alone gives, 2.5 %.
        high: Upper bound, 97.5 %.
        p_value: How often chance gives as much, by permutation.
        shares: Shares of units taken, at which the curve is given.
        gains: Gain per unit of all at those shares.
        band_low: Lower bound of chance at those shares.
        band_high: Upper bound.
        at_share: The share of the best scored that `uplift` is of.
        uplift: Difference of means among them.
        uplift_rest: Difference of means among all others.
    """

    qini: float
    low: float
    high: float
    p_value: float
    shares: tuple[float, ...]
    gains: tuple[float, ...]
    band_low: tuple[float, ...]
    band_high: tuple[float, ...]
    at_share: float
    uplift: float
    uplift_rest: float


def ranked(
    value: Floats, score: Floats, treated: Floats, *, at_share: float = 0.2, permutations: int = 200, seed: int = 1
) -> Ranked:
    """Judge a ranking against random ones: the scores are dealt anew among the units, the seed fixes how."""
    chance, shares = np.random.default_rng(seed), np.linspace(0.0, 1.0, 21)
    order = _ordered(value, score, treated)
    curve = _qini(order)
    own = per_unit(curve)
    drawn = [_qini(order.dealt(chance)) for _ in range(permutations)]
    areas = np.array([per_unit(one) for one in drawn])
    heights = np.array([_heights(one, shares) for one in drawn])
    low, high = np.quantile(areas, [0.025, 0.975])
    band = np.quantile(heights, [0.025, 0.975], axis=0)
    best = score >= np.quantile(score, 1 - at_share)
    return Ranked(
        qini=own,
        low=float(low),
        high=float(high),
        p_value=float((1 + (np.abs(areas - areas.mean()) >= abs(own - areas.mean())).sum()) / (1 + permutations)),
        shares=tuple(map(float, shares)),
        gains=tuple(map(float, _heights(curve, shares))),
        band_low=tuple(map(float, band[0])),
        band_high=tuple(map(float, band[1])),
        at_share=float(best.mean()),
        uplift=_difference(value[best], treated[best]),
        uplift_rest=_difference(value[~best], treated[~best]),
    )


def _heights(curve: Curve, shares: Floats) -> Floats:
    n = float(curve.taken[-1])
    found: Floats = np.interp(shares * n, curve.taken, curve.gain) / n
    return found


def _difference(value: Floats, treated: Floats) -> float:
    if not 0 < treated.sum() < len(treated):
        return 0.0
    return float(value[treated == 1].mean() - value[treated == 0].mean())
