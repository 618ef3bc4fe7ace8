"""Three snapshots of one learner, each later than the one before."""

from __future__ import annotations

import numpy as np

from features.settings.mlflow_file import LearnerSettings
from models.policy.context import READINGS
from models.policy.learned import Cursor, PolicyVersion
from models.policy.learner import ALONE, Learner


def snapshots(count: int) -> list[PolicyVersion]:
    """The first snapshots of a learner."""
    learner, random = Learner(LearnerSettings(batch=10, warm_up=10)), np.random.default_rng(1)
    found: list[PolicyVersion] = []
    while len(found) < count:
        learner.zero(random.normal(size=len(READINGS)), ALONE)
        if learner.closed:
            found.append(learner.snapshot("one", 0, Cursor()))
    return found


ONE, TWO, THREE = snapshots(3)
