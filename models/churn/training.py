"""Training of the churn model: ranking, calibration, and their evaluation. Pure.

    Rows (of `population`, with features) --fit--> TrainedModel --score--> evaluate

Months differ far more than their players do (a month's churn rate may be twice its neighbour's), so the model learns
what parts the players of one month, and months whose order it cannot predict from the others count less. Nothing in
the fit is drawn at random, so that neither a seed nor the players' order, which hangs on the house's secret, matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import lightgbm
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from features.moments import micros
from features.schema import MODEL_FEATURES, VECTOR
from models.churn.population import TrainingRefused, split
from models.churn.scorer import ChurnBundle, library_build

BINS: Final = 10

_RECENCY: Final = "last_deposit_days_ago"
_MONOTONE: Final = {
    **dict.fromkeys([name for name in MODEL_FEATURES if name.startswith("deposit_count_")], -1),
    "deposit_days_30d": -1,
    _RECENCY: 1,
}
"""More deposits never raise the score, more days since the last never lower it."""
_POSITION: Final = {reading.name: at for at, reading in enumerate(VECTOR)}
_SETTINGS: Final[dict[str, Any]] = {
    "num_iterations": 300,
    "objective": "binary",
    "learning_rate": 0.02,
    "num_leaves": 4,
    "reg_lambda": 10.0,
    "max_bin": 127,
    "boost_from_average": False,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
_FLOOR_DRAWS: Final = 200


@dataclass(frozen=True)
class Rows:
    """Rows of players at cut-offs; `of` makes them from a data frame.

    Attributes:
        matrix: The numbers of `schema.VECTOR` at the cut-off, shape (n, len(VECTOR)), NaN where missing.
        churned: Shape (n,), bool.
        cutoff_us: Shape (n,), unix microseconds.
    """

    matrix: NDArray[np.float64]
    churned: NDArray[np.bool_]
    cutoff_us: NDArray[np.int64]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Self:
        """Make rows from a frame with the columns `cutoff` (aware), `churned` and any of the schema's features."""
        missing = np.full(len(frame), np.nan)
        columns = [frame[one.name].to_numpy(np.float64) if one.name in frame else missing for one in VECTOR]
        cutoffs = np.array([micros(cutoff) for cutoff in frame["cutoff"]], np.int64)
        return cls(np.column_stack(columns), frame["churned"].to_numpy(np.bool_), cutoffs)

    def frame(self) -> pd.DataFrame:
        """Data frame with `cutoff` (aware), `churned` and the model's features as numbers at the cut-off."""
        seen = pd.DataFrame(self.columns(MODEL_FEATURES), columns=list(MODEL_FEATURES))
        cutoffs = pd.to_datetime(self.cutoff_us, unit="us", utc=True)
        return pd.concat([pd.DataFrame({"cutoff": cutoffs, "churned": self.churned}), seen], axis=1)

    def split(self, horizon_days: int) -> tuple[Self, Self]:
        """Split into training rows and the rows of the last two cut-offs, whose horizons do not overlap.

        Raises:
            TrainingRefused: There are too few cut-offs.
        """
        learn, test = split(np.unique(self.cutoff_us).tolist(), horizon_days)
        return self.at(learn), self.at(test)

    def __len__(self) -> int:
        return len(self.churned)

    def take(self, chosen: NDArray[np.bool_]) -> Self:
        """The rows where `chosen`, shape (n,), is true."""
        return type(self)(self.matrix[chosen], self.churned[chosen], self.cutoff_us[chosen])

    def at(self, cutoffs_us: Iterable[int]) -> Self:
        """The rows of given cut-offs."""
        return self.take(np.isin(self.cutoff_us, list(cutoffs_us)))

    def columns(self, features: Sequence[str]) -> NDArray[np.float64]:
        """Columns of the matrix by name, shape (n, len(features))."""
        return self.matrix[:, [_POSITION[name] for name in features]]


@dataclass(frozen=True)
class TrainedModel:
    """A trained model without a version yet.

    Attributes:
        booster: LightGBM's model; its raw score ranks the players of a month.
        features: Its columns.
        slope: Calibrated probability = sigmoid(slope * raw + intercept).
        intercept: See `slope`.
        horizon_days: H.
        weights: Cut-off -> how much its rows counted, 0 to 1.
    """

    booster: lightgbm.Booster
    features: tuple[str, ...]
    slope: float
    intercept: float
    horizon_days: int
    weights: dict[int, float]

    def score(self, rows: Rows) -> NDArray[np.float64]:
        """Calibrated P(no approved deposit in the next `horizon_days` days), shape (n,)."""
        raw = self.booster.predict(rows.columns(self.features), raw_score=True)
        return _sigmoid(self.slope * np.asarray(raw) + self.intercept)

    def bundle(self, version: str, metadata: dict[str, float]) -> ChurnBundle:
        """Bundle for serving, under a version."""
        return ChurnBundle(
            version=version,
            horizon_days=self.horizon_days,
            features=self.features,
            model=self.booster.model_to_string(),
            slope=self.slope,
            intercept=self.intercept,
            build=library_build(),
            metadata=metadata,
        )


def fit(rows: Rows, horizon_days: int, settings: Mapping[str, Any] | None = None) -> TrainedModel:
    """Train and calibrate on the rows of some cut-offs.

    Every cut-off is scored once by a model of all the others (leave one cut-off out). A cut-off whose churners the
    others do not rank well there, by the slope b of its own logistic fit (Platt 1999), gets the weight
    min(1, max(0, b) / median b)^2; with the weights everything is fitted again, and the logistic fit over the
    weighted left-out scores is the calibration.

    Args:
        rows: What to learn from.
        horizon_days: H, as the rows were labelled.
        settings: LightGBM's parameters in place of ours, by its names; `num_iterations` is the number of trees.

    Raises:
        TrainingRefused: Nobody churned, or everybody.
    """
    if rows.churned.all() or not rows.churned.any():
        raise TrainingRefused(
            f"{'all' if len(rows) and rows.churned.any() else 'none'} of the {len(rows)} players "
            "of the training cut-offs churned, so there is nothing to tell apart"
        )
    learner = _Learner(_varying(rows), {**_SETTINGS, **(settings or {})})
    cutoffs = np.unique(rows.cutoff_us)
    weights = _cutoff_weights(rows, _left_out(rows, learner, np.ones(len(rows))), cutoffs)
    weight = weights[np.searchsorted(cutoffs, rows.cutoff_us)]
    slope, intercept = platt(_left_out(rows, learner, weight), rows.churned, weight)
    return TrainedModel(
        _booster(rows, learner, weight),
        learner.features,
        slope,
        intercept,
        horizon_days,
        dict(zip(cutoffs.tolist(), weights.tolist(), strict=True)),
    )


def _varying(rows: Rows) -> tuple[str, ...]:
    """Features with more than one value; NaN counts as one."""
    columns = rows.columns(MODEL_FEATURES)
    same = ((columns == columns[:1]) | (np.isnan(columns) & np.isnan(columns[:1]))).all(axis=0)
    kept = tuple(name for name, constant in zip(MODEL_FEATURES, same, strict=True) if not constant)
    return kept or (_RECENCY,)


class _Learner(NamedTuple):
    """LightGBM's columns and parameters."""

    features: tuple[str, ...]
    settings: Mapping[str, Any]


def _booster(rows: Rows, learner: _Learner, weight: NDArray[np.float64]) -> lightgbm.Booster:
    """Boosted trees that start from each row's monthly churn rate, so that they separate players within a month."""
    settings = {
        "min_child_samples": min(100, max(10, len(rows) // 30)),
        "monotone_constraints": [_MONOTONE.get(name, 0) for name in learner.features],
        **learner.settings,
    }
    data = lightgbm.Dataset(
        rows.columns(learner.features),
        rows.churned,
        weight=weight,
        init_score=_month_logit(rows),
        feature_name=list(learner.features),
        params={"verbose": -1},
    )
    return lightgbm.train(settings, data, settings.pop("num_iterations"))


def _month_logit(rows: Rows) -> NDArray[np.float64]:
    """Log odds of churn in each row's cut-off, shape (n,)."""
    _, month, size = np.unique(rows.cutoff_us, return_inverse=True, return_counts=True)
    rate = (np.bincount(month, rows.churned) + 0.5) / (size + 1)
    odds: NDArray[np.float64] = _logit(rate)[month]
    return odds


def _left_out(rows: Rows, learner: _Learner, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Out-of-fold raw scores: a fold per cut-off, or fifths of the rows of a single cut-off."""
    several = len(np.unique(rows.cutoff_us)) > 1
    fold = rows.cutoff_us if several else np.arange(len(rows)) % 5
    scores = np.zeros(len(rows))
    for one in np.unique(fold):
        out = fold == one
        model = _booster(rows.take(~out), learner, weight[~out])
        scores[out] = model.predict(rows.take(out).columns(learner.features), raw_score=True)
    return scores


def _cutoff_weights(rows: Rows, scores: NDArray[np.float64], cutoffs: NDArray[np.int64]) -> NDArray[np.float64]:
    of = [rows.cutoff_us == one for one in cutoffs]
    slopes = np.array([platt(scores[here], rows.churned[here], np.ones(here.sum()))[0] for here in of])
    usual = float(np.median(slopes))
    if usual <= 0:
        return np.ones(len(cutoffs))
    weights: NDArray[np.float64] = np.minimum(1.0, np.maximum(slopes, 0.0) / usual) ** 2
    return weights


def platt(raw: NDArray[np.float64], churned: NDArray[np.bool_], weight: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and intercept of Platt's logistic fit of labels to raw scores.

    J. Platt, Probabilistic outputs for support vector machines (1999), section 2: the targets are drawn in to
    (N+ + 1) / (N+ + 2) and 1 / (N- + 2), so that few rows cannot drive the slope to infinity.
    """
    yes, no = float(weight[churned].sum()), float(weight[~churned].sum())
    target = np.where(churned, (yes + 1) / (yes + 2), 1 / (no + 2))
    # A row with target t is a churner of weight t and a stayer of weight 1 - t.
    model = LogisticRegression(C=1e6, max_iter=1_000).fit(
        np.concatenate([raw, raw])[:, np.newaxis],
        np.repeat([1, 0], len(raw)),
        sample_weight=np.concatenate([weight * target, weight * (1 - target)]),
    )
    return float(model.coef_[0, 0]), float(model.intercept_[0])


# --- What it is worth


class Bin(NamedTuple):
    """A bin of players with similar scores: mean score, churned share, count."""

    score: float
    churned: float
    players: int


@dataclass(frozen=True)
class Calibration:
    """Calibration of the scores of one cut-off.

    Attributes:
        cutoff_us: The cut-off.
        raw: Expected calibration error: mean distance of score and share over ten bins of equal count.
        shifted: The same after the scores' log odds were moved together to the cut-off's own churn rate, which no
            model can know in advance.
        floor: What a model without fault would show on as many rows, by drawing: the noise in `raw` and `shifted`.
        bins: The reliability diagram of the scores as they are.
    """

    cutoff_us: int
    raw: float
    shifted: float
    floor: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of scores on test rows."""

    auc: float
    auc_recency: float
    rows: int
    churn_rate: float
    calibration: tuple[Calibration, ...]

    @property
    def ece(self) -> float:
        """Worst expected calibration error of the cut-offs, unshifted."""
        return max(one.raw for one in self.calibration)

    @property
    def ece_above_noise(self) -> float:
        """Worst calibration error less what a perfectly calibrated model would show on as few rows."""
        return max(one.raw - one.floor for one in self.calibration)


def evaluate(rows: Rows, scores: NDArray[np.float64]) -> Evaluation:
    """Evaluate calibrated scores, shape (n,); the baseline ranks by days since the last deposit.

    Raises:
        TrainingRefused: Nobody churned, or everybody: nothing can be told of a ranking.
    """
    if len(rows) == 0 or rows.churned.all() or not rows.churned.any():
        raise TrainingRefused(f"the {len(rows)} players of the test cut-offs all did the same: nothing can be judged")
    of = [(one, rows.cutoff_us == one) for one in np.unique(rows.cutoff_us).tolist()]
    return Evaluation(
        auc=auc(rows, scores),
        auc_recency=auc(rows, rows.columns([_RECENCY])[:, 0]),
        rows=len(rows),
        churn_rate=float(rows.churned.mean()),
        calibration=tuple(_calibration(one, rows.churned[here], scores[here]) for one, here in of),
    )


def auc(rows: Rows, scores: NDArray[np.float64]) -> float:
    """Area under the ROC curve of scores, shape (n,), all cut-offs pooled."""
    return float(roc_auc_score(rows.churned, scores))


def _calibration(cutoff_us: int, churned: NDArray[np.bool_], scores: NDArray[np.float64]) -> Calibration:
    moved = shifted(scores, (float(churned.sum()) + 0.5) / (len(churned) + 1))
    draws = np.random.default_rng(cutoff_us).random((_FLOOR_DRAWS, len(moved))) < moved
    bins = reliability(churned, scores)
    return Calibration(
        cutoff_us,
        ece(bins),
        ece(reliability(churned, moved)),
        float(np.mean([ece(reliability(draw, moved)) for draw in draws])),
        bins,
    )


def reliability(churned: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[Bin, ...]:
    """Ten bins of equal count by score; fewer where there are fewer rows."""
    parts = np.array_split(np.argsort(scores, kind="stable"), min(BINS, len(scores)))
    return tuple(Bin(float(scores[part].mean()), float(churned[part].mean()), len(part)) for part in parts)


def ece(bins: Sequence[Bin]) -> float:
    """Expected calibration error (Naeini, Cooper, Hauskrecht 2015, AAAI, equation 5), bins of equal count."""
    return sum(one.players * abs(one.score - one.churned) for one in bins) / sum(one.players for one in bins)


def shifted(scores: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """Shift the log odds of scores by one constant so that their mean is `rate`, in (0, 1)."""
    odds = _logit(np.clip(scores, 1e-12, 1 - 1e-12))
    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(odds + middle).mean() < rate else (low, middle)
    return _sigmoid(odds + low)


def _sigmoid(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-odds))


def _logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(probability) - np.log1p(-probability)
