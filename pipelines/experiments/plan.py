"""Plan an experiment: players and days that it takes to see an effect, by the house's own rates.

lake --players decided about, their metric in the window--> mean and spread --power analysis--> players of each pair
     --players decided about in the last 1, 2, ... days--> days until as many were met, and the window after them
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import Final

import msgspec

from models.experiments.definition import Experiment, Variant
from pipelines.experiments.comparisons import players_needed
from pipelines.experiments.differences import LEVEL
from pipelines.experiments.exposures import DAY_US, Costs, Exposures, exposures, met_within, opened
from pipelines.experiments.metrics import METRICS, Metric
from pipelines.experiments.refusals import ReportRefused

_LONGEST_DAYS: Final = 3_650


class PlannedPair(msgspec.Struct, frozen=True, kw_only=True):
    """What one comparison takes.

    Attributes:
        variant: One variant.
        control: The variant it is compared with.
        players: Players of both together.
        days: Days until as many were met and their window passed; None for longer than ten years.
        extrapolated: Whether more players are needed than the lake has met, so that days follow the last rate.
    """

    variant: str
    control: str
    players: int
    days: int | None
    extrapolated: bool


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What an experiment takes.

    Attributes:
        experiment: Its key.
        metric: What is to differ.
        relative_effect: The difference to be seen, relative to the control's mean.
        power: Probability of seeing it if it is there.
        level: Probability of seeing one that is not, two-sided, before any correction for several comparisons.
        window_days: Days of each player that count.
        mean: Of the metric per player, over all players met; minor units for money.
        deviation: Its standard deviation.
        players_met: Players that these rest on: those whose window has passed.
        met_a_day: New players met a day, at the end of the lake.
        pairs: What each comparison takes, the longest first.
        warnings: What to know before relying on it.
    """

    experiment: str
    metric: str
    relative_effect: float
    power: float
    level: float
    window_days: int
    mean: float
    deviation: float
    players_met: int
    met_a_day: float
    pairs: tuple[PlannedPair, ...]
    warnings: tuple[str, ...]


class Reach:
    """How many players are met within some days, by the lake; beyond it by the rate of its last days."""

    def __init__(self, curve: Sequence[tuple[int, int]]) -> None:
        self._curve = curve
        self.days, self.players = curve[-1]
        half_days, half = next((point for point in reversed(curve) if 2 * point[0] <= self.days), (0, 0))
        self.a_day = (self.players - half) / (self.days - half_days)

    def until(self, players: float) -> tuple[int | None, bool]:
        """Days until some players were met, None for longer than ten years; and whether that is extrapolated."""
        if players <= self.players:
            return next(days for days, met in self._curve if met >= players), False
        if not self.a_day:
            return None, True
        days = self.days + ceil((players - self.players) / self.a_day)
        return (days if days <= _LONGEST_DAYS else None), True


def plan(
    lake: Path,
    experiment: Experiment,
    costs: Costs,
    *,
    window_days: int,
    metric: Metric = METRICS["conversion"],
    relative_effect: float = 0.1,
    power: float = 0.8,
) -> Plan:
    """Plan an experiment by a lake.

    Args:
        lake: Decisions and events of the house.
        experiment: With its shares.
        costs: Prices of contacts, which net revenue bears.
        window_days: Days from a player's first decision that count.
        metric: What is to differ.
        relative_effect: The difference to be seen, relative to the control's mean; not 0.
        power: Probability of seeing it, in (0, 1).

    Raises:
        ReportRefused: The lake tells too little, or the experiment has nothing to compare.
    """
    with opened(lake) as connection:
        found = exposures(connection, costs, window_days)
        reach = Reach(met_within(connection))
    whole = found.players[found.players["first_us"] + window_days * DAY_US <= found.latest_us]
    if len(whole) < 2 or whole[metric.name].std() == 0:
        raise ReportRefused(
            f"the window of {window_days} days has passed for {len(whole):,} players, and their {metric.words} "
            "does not differ: there is nothing to plan by; shorten the window or wait"
        )
    compared = _compared(experiment)
    if not compared:
        raise ReportRefused(f"{experiment.key} has no two variants to compare")
    equal = players_needed(whole, metric, relative_effect, power)
    pairs = [_pair(one, control, equal, experiment, reach, window_days) for one, control in compared]
    return Plan(
        experiment=experiment.key,
        metric=metric.name,
        relative_effect=relative_effect,
        power=power,
        level=LEVEL,
        window_days=window_days,
        mean=float(whole[metric.name].mean()),
        deviation=float(whole[metric.name].std()),
        players_met=len(whole),
        met_a_day=float(reach.a_day),
        pairs=tuple(sorted(pairs, key=lambda pair: -(pair.days or _LONGEST_DAYS + 1))),
        warnings=tuple(_warnings(found, pairs)),
    )


def _compared(experiment: Experiment) -> list[tuple[Variant, Variant]]:
    """Pairs of a variant and its control: all against who gets no marketing, the learnt policy against fixed rules."""
    order = ("none", "business_rules", "uniform", "learnt")
    ranked = sorted(experiment.variants, key=lambda one: (order.index(one.policy or "none"), one.name))
    control = ranked[0]
    pairs = [(one, control) for one in ranked[1:]]
    others = [(one, base) for base, one in combinations(ranked[1:], 2)]
    pairs += [pair for pair in others if (pair[0].policy, pair[1].policy) == ("learnt", "business_rules")]
    return [(one, base) for one, base in pairs if one.size and base.size]


def _pair(
    variant: Variant, control: Variant, equal: float, experiment: Experiment, reach: Reach, window_days: int
) -> PlannedPair:
    """One comparison; unequal shares need (1 + r)^2 / 4r times the players of equal ones, r being their ratio."""
    ratio = variant.share / control.share
    players = equal * (1 + ratio) ** 2 / (4 * ratio)
    low, high = experiment.range
    days, extrapolated = reach.until(players / ((variant.share + control.share) * (high - low)))
    return PlannedPair(
        variant=variant.name,
        control=control.name,
        players=ceil(players),
        days=None if days is None else days + window_days,
        extrapolated=extrapolated,
    )


def _warnings(found: Exposures, pairs: Sequence[PlannedPair]) -> list[str]:
    said = {
        "the lake holds no bets, so net revenue is only what contacts cost": not found.has_bets,
        "some comparisons need more players than the lake has met: their days follow its last rate": any(
            pair.extrapolated for pair in pairs
        ),
        f"{len(pairs)} comparisons share the level: each needs more players once it is corrected": len(pairs) > 1,
    }
    return [sentence for sentence, holds in said.items() if holds]
