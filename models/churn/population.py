"""Population of the churn model: cut-offs, censoring, labels, train and test split. Pure.

A cut-off T is the first of a month, 00:00 UTC. The population is everyone with an approved deposit in
[T - 30 d, T); *churned* means no approved deposit in [T, T + H).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from features.aggregates import DAY_MICROS
from features.errors import CroupierError
from features.events import micros, moment

ACTIVE_DAYS: Final = 30
"""Days before a cut-off in which a player must have deposited to be asked about."""
HISTORY_DAYS: Final = 60
"""Days of history a cut-off needs before it: twice the longest window that does not decay."""
SETTLING_DAYS: Final = 1
"""Days after a horizon's end before its labels count: the last events may still be on their way."""
TEST_CUTOFFS: Final = 2
FOREVER: Final = 2**62


class TrainingRefused(CroupierError):
    """There is too little to learn from."""

    code = "training_refused"
    exit_code = 2


class Act(NamedTuple):
    """An event that restricts a player or lifts a restriction.

    Attributes:
        player: Player key.
        register: What it restricts, such as `exclusion:*`; a lift ends restrictions of the same register only.
        occurred_us: When, unix microseconds.
        restricts: False for a lift.
        until_us: When it ends by itself (time-outs), None if it holds until lifted.
    """

    player: str
    register: str
    occurred_us: int
    restricts: bool
    until_us: int | None = None


class Restriction(NamedTuple):
    """A period [start_us, end_us) in which a player cannot play."""

    player: str
    start_us: int
    end_us: int


def restrictions(acts: Iterable[Act]) -> list[Restriction]:
    """Periods in which players could not play: up to the first later lift, the restriction's own end, or forever."""
    acts = list(acts)
    lifts: dict[tuple[str, str], list[int]] = defaultdict(list)
    for act in sorted(act for act in acts if not act.restricts):
        lifts[act.player, act.register].append(act.occurred_us)
    return [
        Restriction(act.player, act.occurred_us, _end(act, lifts.get((act.player, act.register), ())))
        for act in acts
        if act.restricts
    ]


def _end(act: Act, lifts: Sequence[int]) -> int:
    if act.until_us is not None:
        return act.until_us
    # Of a restriction and a lift at one moment the restriction holds, as in the facts.
    later = bisect_right(lifts, act.occurred_us)
    return lifts[later] if later < len(lifts) else FOREVER


def labelled(
    deposits: pd.DataFrame, restricted: Sequence[Restriction], cutoff_us: int, horizon_days: int
) -> pd.DataFrame:
    """Players of a cut-off with their churn labels.

    Args:
        deposits: Approved deposits onto accounts: columns `player` and `occurred_us` (unix microseconds).
        restricted: When players could not play. A player restricted at some moment of the horizon is censored:
            their silence says nothing, so they are no row at all.
        cutoff_us: T.
        horizon_days: H, at least 1.

    Returns:
        `player`, `cutoff_us` and `churned` (bool), sorted by player.
    """
    end_us = cutoff_us + horizon_days * DAY_MICROS
    silenced = {one.player for one in restricted if one.start_us < end_us and one.end_us > cutoff_us}
    active = _depositors(deposits, cutoff_us - ACTIVE_DAYS * DAY_MICROS, cutoff_us) - silenced
    players, stayed = sorted(active), _depositors(deposits, cutoff_us, end_us)
    churned = np.array([player not in stayed for player in players], dtype=bool)
    return pd.DataFrame({"player": pd.Series(players, dtype=object), "cutoff_us": cutoff_us, "churned": churned})


def _depositors(deposits: pd.DataFrame, start_us: int, end_us: int) -> set[str]:
    moments = deposits["occurred_us"]
    return set(deposits.loc[(moments >= start_us) & (moments < end_us), "player"])


def monthly_cutoffs(first_us: int, now_us: int, horizon_days: int) -> list[int]:
    """First of each month, 00:00 UTC, that has history before it and a settled horizon after it.

    Args:
        first_us: When history begins, unix microseconds.
        now_us: The house's clock.
        horizon_days: H.
    """
    earliest = first_us + HISTORY_DAYS * DAY_MICROS
    latest = now_us - (horizon_days + SETTLING_DAYS) * DAY_MICROS
    begin, end = moment(earliest), moment(max(latest, earliest))
    months = range(begin.year * 12 + begin.month - 1, end.year * 12 + end.month)
    firsts = [micros(datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)) for month in months]
    return [first for first in firsts if earliest <= first <= latest]


def split(cutoffs_us: Sequence[int], horizon_days: int) -> tuple[list[int], list[int]]:
    """Split cut-offs: the last two test, those whose horizon ended by the first of them train.

    Raises:
        TrainingRefused: There are too few.
    """
    ordered = sorted(cutoffs_us)
    test = ordered[-TEST_CUTOFFS:]
    train = [one for one in ordered[:-TEST_CUTOFFS] if one + horizon_days * DAY_MICROS <= test[0]]
    if not train:
        raise TrainingRefused(
            f"the lake has {len(ordered)} monthly cut-offs with {HISTORY_DAYS} days of deposits before them and "
            f"{horizon_days} days after, and training needs {TEST_CUTOFFS} to test on and one well before to learn from"
        )
    return train, test
