"""Off-the-shelf pipeline: Feast's SDK, LightGBM's Booster and a bandit library behind FastAPI.

    player key --get_online_features_async, to_dict--> row --Booster.predict--> score --bandit--> one of 161 arms

No rules, no caps, no reservation, no log: what a team would have running in its first week. The folder with the
`feature_store.yaml` is named by FEAST_FOLDER.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import lightgbm
import numpy as np
from fastapi import FastAPI
from feast import FeatureStore
from numpy.typing import NDArray
from pydantic import BaseModel

ARMS: Final = 161
"""As many as the bench's catalogue has candidates, no contact among them."""
TREES: Final = 200
LEAVES: Final = 31
CONTEXT: Final = 42
"""Numbers that a contextual bandit looks at: as many as the learnt policy."""
_SEED: Final = 5
_LESSONS: Final = 4_000

Row = NDArray[np.float64]
Choose = Callable[[Row], int]


class PeerRequest(BaseModel):
    """Request about a player."""

    player: str


def epsilon_greedy() -> FastAPI:
    """MABWiser's cheapest policy, without context."""
    from mabwiser.mab import MAB, LearningPolicy  # noqa: PLC0415 - may be missing

    random = np.random.default_rng(_SEED)
    bandit = MAB(list(range(ARMS)), LearningPolicy.EpsilonGreedy(epsilon=0.1), seed=_SEED)
    bandit.fit(random.integers(0, ARMS, _LESSONS), random.integers(0, 2, _LESSONS))
    return pipeline(lambda _: int(bandit.predict()))


def lin_ts() -> FastAPI:
    """MABWiser's Thompson sampling over linear models of the context."""
    from mabwiser.mab import MAB, LearningPolicy  # noqa: PLC0415 - may be missing

    random = np.random.default_rng(_SEED)
    bandit = MAB(list(range(ARMS)), LearningPolicy.LinTS(alpha=1.0), seed=_SEED)
    contexts = random.random((_LESSONS, CONTEXT))
    bandit.fit(random.integers(0, ARMS, _LESSONS), random.integers(0, 2, _LESSONS), contexts)
    return pipeline(lambda row: int(bandit.predict([row[:CONTEXT]])))


def vowpal_wabbit() -> FastAPI:
    """Vowpal Wabbit's SquareCB over one line of features per arm."""
    from vowpalwabbit import Workspace  # noqa: PLC0415 - may be missing

    random = np.random.default_rng(_SEED)
    learner = Workspace("--cb_explore_adf --squarecb -q sa --quiet --random_seed 5")
    arms = ["|a none", *(f"|a offer={arm // 20} channel={arm // 4 % 5} slot={arm % 4}" for arm in range(ARMS - 1))]

    def lines(row: Row) -> list[str]:
        # Its own reader of numbers makes NaN of 6e-131.
        return [f"shared |s {' '.join(f'f{at}:{value:.6f}' for at, value in enumerate(row[:CONTEXT]))}", *arms]

    for _ in range(200):
        taught, arm = lines(random.random(CONTEXT)), int(random.integers(0, ARMS))
        taught[1 + arm] = f"0:{-int(random.integers(0, 2))}:{1 / ARMS} {arms[arm]}"
        learner.learn(taught)

    def choose(row: Row) -> int:
        pmf = np.array(learner.predict(lines(row)))
        return int(random.choice(ARMS, p=pmf / pmf.sum()))

    return pipeline(choose)


def pipeline(choose: Choose) -> FastAPI:
    """FastAPI application of the pipeline with a bandit."""
    store = FeatureStore(repo_path=os.environ["FEAST_FOLDER"])
    views = store.list_feature_views()
    references = [f"{view.name}:{field.name}" for view in views for field in view.features]
    names = [reference.partition(":")[2] for reference in references]
    model = _model(len(names))
    app = FastAPI()

    @app.post("/")
    async def answer(asked: PeerRequest) -> dict[str, Any]:
        response = await store.get_online_features_async(references, [{"player": asked.player}])
        values = response.to_dict()
        row = np.array([_number(values[name][0]) for name in names])
        score = float(model.predict(row.reshape(1, -1), num_threads=1)[0])
        return {"player": asked.player, "score": score, "arm": choose(_scaled(row))}

    return app


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _scaled(row: Row) -> Row:
    """Row scaled to [0, 1] for a bandit; the greatest values are moments in microseconds."""
    return np.log1p(np.abs(np.nan_to_num(row))) / 40.0


def _model(columns: int) -> lightgbm.Booster:
    """Model as large as the serving churn model, fitted to noise."""
    random = np.random.default_rng(_SEED)
    data = lightgbm.Dataset(random.normal(size=(_LESSONS, columns)), random.integers(0, 2, _LESSONS))
    settings = {"objective": "binary", "num_leaves": LEAVES, "verbose": -1, "num_threads": 1}
    return lightgbm.train(settings, data, TREES)
