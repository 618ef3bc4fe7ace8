"""Behaviour of a player at decision time: features brought forward to now, or why they cannot be used. Pure."""

from __future__ import annotations

from functools import reduce
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features import schema
from features.aggregates import empty, encode, forward, merge
from features.read_plan import PlanError, ReadPlan
from service.contacts.snapshot import PlayerSnapshot

_AHEAD_SECONDS: Final = 2.0
_NOBODY: Final = encode(empty())


class Behaviour(NamedTuple):
    """Features as they were read: stored values, the vector at now, their moments, and what is wrong with them.

    `whole` are the stored values with those of linked ids, and `strictest` is their vector: rules look at these, policy
    and churn model at the player's own, as they were trained.
    """

    stored: NDArray[np.float64]
    vector: NDArray[np.float64]
    whole: NDArray[np.float64]
    strictest: NDArray[np.float64]
    as_of_us: int | None
    age_seconds: float | None
    trouble: str | None


def read_behaviour(plan: ReadPlan | None, snapshot: PlayerSnapshot, now_us: int) -> Behaviour:
    """Features of a snapshot brought forward to now; trouble is named, and the vector is then that of nobody."""
    if plan is None or snapshot.watermark_us is None:
        return _unread(now_us, None)
    ahead = (snapshot.watermark_us - snapshot.real_us) / schema.MICROS
    # A watermark of the future was set before the store's clock was set back: nothing says how old features are.
    age = max(0.0, -ahead) if ahead <= _AHEAD_SECONDS else ahead
    try:
        row = plan.decode([snapshot.features.get(name) for name in plan.fields])
        others = [plan.decode([one.get(name) for name in plan.fields]).values for one in snapshot.linked]
    except PlanError:
        return _unread(now_us, age)
    stored = encode(row.values)
    stale = age > max(schema.MAX_AGE_SECONDS.values()) or ahead > _AHEAD_SECONDS
    trouble = "features_stale" if stale else None
    as_of = stored[0]
    vector = forward(stored, now_us)
    whole = encode(reduce(merge, others, row.values)) if others else stored
    strictest = forward(whole, now_us) if others else vector
    return Behaviour(stored, vector, whole, strictest, None if np.isnan(as_of) else int(as_of), age, trouble)


def _unread(now_us: int, age: float | None) -> Behaviour:
    nobody = forward(_NOBODY, now_us)
    return Behaviour(_NOBODY, nobody, _NOBODY, nobody, None, age, "features_unavailable")
