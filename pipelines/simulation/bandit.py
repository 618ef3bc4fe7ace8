"""Bandit simulation with a known truth: the value of learning, and the effect of delay and harm.

    seed --> truth over context x action --decisions--> policy --draw--> conversion, after a delay --> learner

No player lives here: every decision has a context of its own, and the truth is of the form that the oracle fits, so
that lifts are best cases. `croupier simulate` has players, rules and HTTP, and a truth of another form.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final, Literal, NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from scipy import stats

from features.schema import CHANNELS
from features.settings.mlflow_file import LearnerSettings
from models.catalogue.offers import NO_CONTACT, SLOTS, Catalogue
from models.policy.context import READINGS
from models.policy.learned import Cursor, LearnedPolicy
from models.policy.learner import ALONE, Learner, NamedAction
from models.policy.policy import Policy, Uniform, draw

Vector = NDArray[np.float64]
Delay = Literal["none", "fnc", "wait"]
"""How a conversion that comes late is learnt: it comes at once; a 0 at once and a 1 on arrival; all at window's end."""
DELAYS: Final[tuple[Delay, ...]] = ("none", "fnc", "wait")
WINDOW: Final = 4_000
MEAN_DELAY: Final = 800.0
"""Both in decisions."""
PENALTY_SHARE: Final = 0.1
PENALTY_MINOR: Final = 400.0
"""Where all contact harms: how many contacts annoy, and what each of those costs."""
_BASE: Final = -5.4
_SPARSE: Final = 0.25


class Truth(NamedTuple):
    """Truth about each action in a context: conversion probability, value and cost in minor units."""

    conversion: Vector
    value: Vector
    cost: Vector

    @property
    def net(self) -> Vector:
        """Expected reward of each candidate, minor units, shape (size,)."""
        return self.conversion * self.value - self.cost


class BanditWorld:
    """A seeded world over a catalogue.

    Args:
        seed: The same seed gives the same contexts, masks, conversions and delays, whatever is decided.
        catalogue: The candidates.
        harmful: No contact changes what players do, and all cost: leaving alone is best everywhere.
    """

    def __init__(self, seed: int, catalogue: Catalogue, *, harmful: bool = False) -> None:
        self._seed = seed
        self.catalogue = catalogue
        offers, channels, slots = catalogue.shape
        random = np.random.default_rng([seed, 0])
        size = len(READINGS)

        def effects(rows: int, spread: float) -> Vector:
            dense = random.normal(0, spread, (rows, size))
            return np.where(random.random((rows, size)) < _SPARSE, dense, 0.0)

        reach = 0.0 if harmful else 1.0
        self._shared = effects(1, 0.25)[0]
        self._offers, self._channels, self._slots = effects(offers, 0.45), effects(channels, 0.45), effects(slots, 0.35)
        bias = (
            random.normal(0, 0.4, (offers, 1, 1)) + random.normal(0, 0.5, (channels, 1)) + random.normal(0, 0.3, slots)
        )
        self._bias = (bias + random.normal(0, 0.2, catalogue.shape)) * reach
        self._reach = reach
        self._spend = effects(1, 0.2)[0]
        self.annoyed = PENALTY_SHARE if harmful else 0.0
        sent = [float(catalogue.channels[name].cost_minor) for name in CHANNELS]
        self._sent = np.append(0.0, np.broadcast_to(np.reshape(sent, (1, -1, 1)), catalogue.shape).ravel())
        taken = np.reshape([float(offer.cost_minor) for offer in catalogue.offers], (-1, 1, 1))
        self._taken = np.append(0.0, np.broadcast_to(taken, catalogue.shape).ravel())

    def truth(self, context: Vector) -> Truth:
        """Truth in a context."""
        parts = self._offers @ context, self._channels @ context, self._slots @ context
        contacts = self._reach * (parts[0][:, None, None] + parts[1][:, None] + parts[2]) + self._bias
        logit = _BASE + self._shared @ context + np.append(0.0, contacts.ravel())
        value = np.full(self.catalogue.size, 800.0 * np.exp(np.clip(self._spend @ context, -2.0, 2.0)))
        conversion = np.minimum(np.exp(logit), 0.9)
        penalty = np.full(self.catalogue.size, self.annoyed * PENALTY_MINOR)
        penalty[NO_CONTACT] = 0.0
        return Truth(conversion, value, conversion * self._taken + self._sent + penalty)

    def meet(self, number: int) -> tuple[Vector, NDArray[np.bool_], np.random.Generator]:
        """Context and eligible candidates of a decision, and the random generator for what follows."""
        random = np.random.default_rng([self._seed, 1, number])
        context = random.normal(size=len(READINGS))
        shape = self.catalogue.shape
        offers, channels = random.random(shape[0]) < 0.6, random.random(len(CHANNELS)) < 0.7
        open_ = offers[:, None, None] & channels[:, None] & np.ones(len(SLOTS), dtype=np.bool_)
        return context, np.append(True, open_.ravel()), random


class BanditRun(NamedTuple):
    """A run, one number per decision; expected money under the truth, minor units.

    Attributes:
        chosen: Reward of the action drawn.
        chance: Mean reward of the eligible actions.
        best: Reward of the best eligible action.
        alone: Whether the player was left alone.
    """

    chosen: Vector
    chance: Vector
    best: Vector
    alone: Vector

    def lift(self, part: slice = slice(None)) -> float:
        """Share reached of the difference between chance and the best."""
        chance = self.chance[part].sum()
        return float((self.chosen[part].sum() - chance) / (self.best[part].sum() - chance))


def run(
    world: BanditWorld,
    decisions: int,
    delay: Delay,
    settings: LearnerSettings,
    advance: Callable[[], object] = lambda: None,
) -> BanditRun:
    """Decide and learn; each new policy version serves at once.

    Args:
        world: The world.
        decisions: How many.
        delay: How late conversions are learnt.
        settings: How is learnt.
        advance: Called after every decision.
    """
    learner, policy = Learner(settings), cast("Policy", Uniform(world.catalogue.size))
    rows = np.empty((decisions, 4))
    due: list[tuple[float, int, Callable[[], None]]] = []
    order = count()
    for number in range(decisions):
        while due and due[0][0] <= number:
            heapq.heappop(due)[2]()
            policy = _newest(learner, world.catalogue, policy)
        context, eligible, random = world.meet(number)
        pmf = policy.pmf(policy.scores(context), eligible)
        place = draw(pmf, float(random.random())).place
        truth = world.truth(context)
        net = truth.net
        rows[number] = net[place], net[eligible].mean(), net[eligible].max(), place == NO_CONTACT
        late, lucky = float(random.exponential(MEAN_DELAY)), float(random.random())
        converted = lucky < truth.conversion[place] and late <= WINDOW
        late = 0.0 if delay == "none" else late
        act = _act(place, world.catalogue)
        value = float(truth.value[place]) if converted else 0.0
        for after, step in _training_steps(learner, context, act, value, late, delay):
            heapq.heappush(due, (number + after, next(order), step))
        if place != NO_CONTACT and random.random() < world.annoyed:
            learner.penalise(act, PENALTY_MINOR)
        advance()
    return BanditRun(*rows.T)


def _training_steps(
    learner: Learner, context: Vector, act: NamedAction, value: float, late: float, delay: Delay
) -> Iterator[tuple[float, Callable[[], None]]]:
    """Training steps of a decision, each with its delay in decisions; a value of 0 is no conversion."""
    begins = float(WINDOW) if delay == "wait" else 0.0
    yield begins, lambda: learner.zero(context, act)
    if value:
        yield max(begins, late), lambda: learner.one(context, act, value)
        yield max(begins, late), lambda: learner.settle(context, act, value, value)


def _newest(learner: Learner, catalogue: Catalogue, policy: Policy) -> Policy:
    if not learner.closed:
        return policy
    snapshot = learner.snapshot("arena", 0, Cursor())
    learner.closed = {}
    return LearnedPolicy(snapshot, catalogue)


def _act(place: int, catalogue: Catalogue) -> NamedAction:
    if place == NO_CONTACT:
        return ALONE
    offer, channel, slot = catalogue.action(place)
    return NamedAction(offer.id, channel, slot)


class LearningResult(msgspec.Struct, frozen=True, kw_only=True):
    """Results over seeds, as shares of the difference between chance and the best.

    Attributes:
        lift: By delay, the mean over seeds of all decisions.
        last_quarter: The same of the last quarter.
        share_of_no_delay: Of the lift without any delay, what each way to meet it keeps: mean, low, high of a 95 %
            interval over seeds, paired.
        alone_where_all_harms: Share of the last quarter that is left alone where every contact harms, by seed.
    """

    seeds: int
    decisions: int
    lift: dict[Delay, float]
    last_quarter: dict[Delay, float]
    share_of_no_delay: dict[Delay, tuple[float, float, float]]
    alone_where_all_harms: list[float]
    seconds: float


def measure(seeds: int, decisions: int, catalogue: Catalogue, console: Console) -> LearningResult:
    """Run every way to handle delay, and a world where all contact harms, in the same worlds; shows progress."""
    began, settings, last = time.monotonic(), LearnerSettings(), slice(3 * decisions // 4, None)
    found: dict[Delay, list[BanditRun]] = {delay: [] for delay in DELAYS}
    harmed: list[float] = []
    with Progress(console=console) as bar:
        task = bar.add_task("decisions", total=seeds * decisions * (len(DELAYS) + 1))

        def advance() -> None:
            bar.advance(task)

        for seed in range(1, seeds + 1):
            for delay in DELAYS:
                found[delay].append(run(BanditWorld(seed, catalogue), decisions, delay, settings, advance))
            one_run = run(BanditWorld(seed, catalogue, harmful=True), decisions, "fnc", settings, advance)
            harmed.append(float(one_run.alone[last].mean()))
    lifts = {delay: [one_run.lift() for one_run in runs] for delay, runs in found.items()}
    return LearningResult(
        seeds=seeds,
        decisions=decisions,
        lift={delay: float(np.mean(lift)) for delay, lift in lifts.items()},
        last_quarter={delay: float(np.mean([one.lift(last) for one in runs])) for delay, runs in found.items()},
        share_of_no_delay={
            delay: _interval([one / none for one, none in zip(lift, lifts["none"], strict=True)])
            for delay, lift in lifts.items()
        },
        alone_where_all_harms=harmed,
        seconds=time.monotonic() - began,
    )


def _interval(values: list[float]) -> tuple[float, float, float]:
    mean = float(np.mean(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else float("nan")
    return mean, mean - reach, mean + reach
