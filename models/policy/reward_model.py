"""Reward models of the policy: online classifiers over context and factored action. The one home of river.

Both learn one row at a time whether a contact converts, with a coefficient vector per level of offer, channel and
timing slot, one that all share, and a table per pair of levels:

    logit(x, a) = shared.x + offer[o].x + channel[c].x + slot[s].x + pair[o, c] + pair[c, s] + pair[o, s]

A row is a context vector x with x_0 = 1 and the levels of an action. As river's classifiers they take a mapping in
which the keys of `FACTORS` name levels and all others are numbers; a factor that is absent has no block, as with the
action of leaving the player alone, whose only factor is its offer.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from river import base, linear_model, optim

FACTORS: Final = ("offer", "channel", "timing_slot")
PAIRS: Final = (("offer", "channel"), ("channel", "timing_slot"), ("offer", "timing_slot"))
SHARED: Final = ""
"""Name of the block that every action has."""
_NEWTON_STEPS: Final = 60
_CLOSE: Final = 1e-12
_CURVATURE_LEAST: Final = 1e-4

Vector = NDArray[np.float64]
Levels = Sequence[str | None]
"""Level of each of FACTORS, None where the action has none."""


class Coefficients(NamedTuple):
    """What a reward model has learnt: block -> vector over the context, pair of levels -> number.

    Blocks are named `offer=free_bet`, the shared one by `SHARED`; pairs `offer=free_bet|channel=sms`.
    """

    blocks: dict[str, Vector]
    pairs: dict[str, float]


class RewardModel(Protocol):
    """Protocol of a reward model; every implementation passes the same laws, and river's for estimators."""

    def logit(self, x: Vector, levels: Levels) -> float:
        """Log odds that the action converts in this context; `x` has x_0 = 1."""
        ...

    def learn(self, x: Vector, levels: Levels, converted: bool) -> None:  # noqa: FBT001 - the label
        """Learn one row; `x` has x_0 = 1 and always the same length."""
        ...

    def forget(self, keep: float) -> None:
        """Scale the weight of everything learnt by `keep`, in (0, 1], to follow a changing world."""
        ...

    def coefficients(self) -> Coefficients:
        """Coefficients learnt so far."""
        ...

    def dumps(self) -> bytes:
        """The learnt state; equal states give equal bytes. Names of a river mapping are not part of it."""
        ...

    def loads(self, data: bytes) -> None:
        """Load a state that `dumps` of the same class wrote."""
        ...


def block_names(levels: Levels) -> list[str]:
    """Names of an action's coefficient blocks."""
    return [f"{factor}={level}" for factor, level in zip(FACTORS, levels, strict=True) if level is not None]


def pair_names(levels: Levels) -> list[str]:
    """Names of an action's pairs of levels."""
    held = dict(zip(FACTORS, levels, strict=True))
    return [f"{a}={held[a]}|{b}={held[b]}" for a, b in PAIRS if held[a] is not None and held[b] is not None]


def sigmoid(logit: float) -> float:
    """1 / (1 + e^-logit), without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1 + odds)


class _CoefficientBlock(msgspec.Struct):
    """Mean and covariance of a block's coefficients."""

    mean: Vector
    covariance: Vector


class _Factored(base.Classifier):
    """The river interface of both reward models: a mapping becomes a vector and levels."""

    def __init__(self) -> None:
        self._names: dict[Any, int] = {}

    @property
    def _multiclass(self) -> bool:
        return False

    def predict_proba_one(self, x: Mapping[Any, Any], **_: object) -> dict[Any, float]:
        """Probabilities of the classes False (no conversion) and True."""
        probability = sigmoid(self.logit(*self._row(x)))
        return {False: 1 - probability, True: probability}

    def learn_one(self, x: Mapping[Any, Any], y: Any, **_: object) -> None:  # noqa: ANN401 - river's labels
        """Learn one row; a new name gets a coefficient."""
        for name in x:
            if name not in FACTORS:
                self._names.setdefault(name, 1 + len(self._names))
        self.learn(*self._row(x), bool(y))

    def _row(self, x: Mapping[Any, Any]) -> tuple[Vector, Levels]:
        vector = np.zeros(1 + len(self._names))
        vector[0] = 1.0
        for name, value in x.items():
            if name in self._names:
                vector[self._names[name]] = value
        return vector, [x.get(factor) for factor in FACTORS]

    @abstractmethod
    def logit(self, x: Vector, levels: Levels) -> float:
        """See `RewardModel`."""

    @abstractmethod
    def learn(self, x: Vector, levels: Levels, converted: bool) -> None:  # noqa: FBT001 - the label
        """See `RewardModel`."""


class FactoredKalman(_Factored):
    """Logistic regression over factored blocks by a decoupled extended Kalman filter; there is no learning rate.

    The exact joint Kalman step of a logistic observation, projected on the diagonal of blocks (Puskorius & Feldkamp
    1994, decoupled EKF). For touched blocks B with mean w_B and covariance P_B, q_B = P_B x and Q = sum x.q_B:

        z* = z + Q (y - sigmoid(z*)),  the mode of the posterior along the row;  m = sigmoid(z*)
        w_B += (y - m) q_B;  P_B -= h / (1 + h Q) q_B q_B^T  with h = max(m (1 - m), 1e-4)

    A step linearised at z instead of z* overshoots far where conversions are rare.

    Args:
        variance: Of a block's coefficients before anything was learnt; the bias has twice that.
        shared_variance: The same of the shared block.
        pair_variance: Of a pair's number.
        base_rate: Probability of converting that an unknown context starts from.
    """

    def __init__(
        self,
        variance: float = 0.02,
        shared_variance: float = 0.3,
        pair_variance: float = 0.05,
        base_rate: float = 0.05,
    ) -> None:
        super().__init__()
        self.variance = variance
        self.shared_variance = shared_variance
        self.pair_variance = pair_variance
        self.base_rate = base_rate
        self._blocks: dict[str, _CoefficientBlock] = {}
        self._pairs: dict[str, tuple[float, float]] = {}

    def logit(self, x: Vector, levels: Levels) -> float:
        """See `RewardModel`."""
        z = math.log(self.base_rate / (1 - self.base_rate))
        for name in (SHARED, *block_names(levels)):
            if (block := self._blocks.get(name)) is not None:
                size = min(len(block.mean), len(x))
                z += float(block.mean[:size] @ x[:size])
        return z + sum(self._pairs[name][0] for name in pair_names(levels) if name in self._pairs)

    def learn(self, x: Vector, levels: Levels, converted: bool) -> None:  # noqa: FBT001 - the label
        """See `RewardModel`."""
        blocks = [self._block(name, len(x)) for name in (SHARED, *block_names(levels))]
        pairs = [(name, *self._pairs.get(name, (0.0, self.pair_variance))) for name in pair_names(levels)]
        gains = [block.covariance @ x for block in blocks]
        spread = sum(float(x @ gain) for gain in gains) + sum(variance for _, _, variance in pairs)
        m = sigmoid(_mode(self.logit(x, levels), spread, float(converted)))
        step, h = converted - m, max(m * (1 - m), _CURVATURE_LEAST)
        k = 1 / (1 + h * spread)
        for block, gain in zip(blocks, gains, strict=True):
            block.mean += step * gain
            block.covariance -= np.outer(k * h * gain, gain)
        for name, mean, variance in pairs:
            self._pairs[name] = (mean + step * variance, variance - k * h * variance**2)

    def forget(self, keep: float) -> None:
        """See `RewardModel`: P <- D (P / keep) D, D_ii = min(1, sqrt(P0_ii keep / P_ii)), never above the prior."""
        for name, block in self._blocks.items():
            prior = self._prior(name, len(block.mean))
            held = np.diag(block.covariance)
            shrink = np.minimum(1.0, np.sqrt(prior * keep / np.maximum(held, 1e-300)))
            block.covariance = (block.covariance / keep) * np.outer(shrink, shrink)
        for name, (mean, variance) in self._pairs.items():
            self._pairs[name] = (mean, min(variance / keep, self.pair_variance))

    def coefficients(self) -> Coefficients:
        """See `RewardModel`; the base log odds are part of the shared bias."""
        blocks = {name: block.mean.copy() for name, block in self._blocks.items()}
        if SHARED in blocks:
            blocks[SHARED][0] += math.log(self.base_rate / (1 - self.base_rate))
        return Coefficients(blocks, {name: mean for name, (mean, _) in self._pairs.items()})

    def dumps(self) -> bytes:
        """See `RewardModel`."""
        blocks = {name: (one.mean.tobytes(), one.covariance.tobytes()) for name, one in self._blocks.items()}
        return msgspec.msgpack.encode((blocks, self._pairs), order="deterministic")

    def loads(self, data: bytes) -> None:
        """See `RewardModel`."""
        held = msgspec.msgpack.decode(data, type=tuple[dict[str, tuple[bytes, bytes]], dict[str, tuple[float, float]]])
        self._blocks = {name: _block_of(*parts) for name, parts in held[0].items()}
        self._pairs = held[1]

    def _block(self, name: str, size: int) -> _CoefficientBlock:
        """Block of a name at this size, created or extended as the context has grown."""
        block = self._blocks.get(name)
        if block is None:
            block = self._blocks[name] = _CoefficientBlock(np.zeros(size), np.diag(self._prior(name, size)))
        elif len(block.mean) < size:
            before = len(block.mean)
            grown = np.diag(self._prior(name, size))
            grown[:before, :before] = block.covariance
            block.mean, block.covariance = np.append(block.mean, np.zeros(size - before)), grown
        return block

    def _prior(self, name: str, size: int) -> Vector:
        variances = np.full(size, self.shared_variance if name == SHARED else self.variance)
        variances[0] *= 2
        return variances


def _mode(before: float, spread: float, y: float) -> float:
    """Log odds z at the mode of the posterior: z = before + spread (y - sigmoid(z)), by Newton within its bracket."""
    low, high = before - spread * (1.0 - y), before + spread * y
    z = before
    for _ in range(_NEWTON_STEPS):
        m = sigmoid(z)
        miss = z - before - spread * (y - m)
        if abs(miss) < _CLOSE:
            break
        low, high = (low, z) if miss > 0 else (z, high)
        z -= miss / (1.0 + spread * m * (1.0 - m))
        if not low < z < high:
            z = (low + high) / 2
    return z


def _block_of(mean: bytes, covariance: bytes) -> _CoefficientBlock:
    held = np.frombuffer(mean).copy()
    return _CoefficientBlock(held, np.frombuffer(covariance).reshape(len(held), len(held)).copy())


class FactoredLogistic(_Factored):
    """Reference model: river's logistic regression by gradient descent over the same blocks and pairs.

    Args:
        rate: Learning rate; 0.01 was best where both were measured, three times that loses much.
        base_rate: See `FactoredKalman`.
    """

    def __init__(self, rate: float = 0.01, base_rate: float = 0.05) -> None:
        super().__init__()
        self.rate = rate
        self.base_rate = base_rate
        self._model = self._fresh()

    def _fresh(self) -> linear_model.LogisticRegression:
        start = math.log(self.base_rate / (1 - self.base_rate))
        return linear_model.LogisticRegression(optim.SGD(self.rate), intercept_lr=0.0, intercept_init=start)

    def logit(self, x: Vector, levels: Levels) -> float:
        """See `RewardModel`."""
        probability = self._model.predict_proba_one(_crossed(x, levels))[True]  # type: ignore[no-untyped-call]
        bounded = min(max(probability, 1e-12), 1 - 1e-12)
        return math.log(bounded / (1 - bounded))

    def learn(self, x: Vector, levels: Levels, converted: bool) -> None:  # noqa: FBT001 - the label
        """See `RewardModel`."""
        self._model.learn_one(_crossed(x, levels), converted)

    def forget(self, keep: float) -> None:
        """Do nothing: a constant learning rate forgets by itself."""

    def coefficients(self) -> Coefficients:
        """See `RewardModel`."""
        weights = [(*name.rsplit("#", 1), weight) for name, weight in self._model.weights.items()]
        size = 1 + max((int(place) for _, place, _ in weights if place), default=0)
        blocks = {block: np.zeros(size) for block, place, _ in weights if place}
        for block, place, weight in weights:
            if place:
                blocks[block][int(place)] = weight
        if SHARED in blocks:
            blocks[SHARED][0] += self._model.intercept
        return Coefficients(blocks, {pair: weight for pair, place, weight in weights if not place})

    def dumps(self) -> bytes:
        """See `RewardModel`."""
        return msgspec.msgpack.encode(dict(self._model.weights), order="deterministic")

    def loads(self, data: bytes) -> None:
        """See `RewardModel`."""
        self._model = self._fresh()
        self._model._weights.update(msgspec.msgpack.decode(data, type=dict[str, float]))  # noqa: SLF001 - river has no other door


def _crossed(x: Vector, levels: Levels) -> dict[str, float]:
    """Context x blocks and pairs as one row by name, `offer=free_bet#3` for the block's third coefficient."""
    places = np.flatnonzero(x).tolist()
    values = x[places].tolist()
    row = {f"{block}#{at}": v for block in (SHARED, *block_names(levels)) for at, v in zip(places, values, strict=True)}
    return row | {f"{pair}#": 1.0 for pair in pair_names(levels)}


REWARD_MODELS: Final[Mapping[str, type[FactoredKalman | FactoredLogistic]]] = {
    "kalman": FactoredKalman,
    "logistic": FactoredLogistic,
}
