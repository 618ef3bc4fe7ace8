"""Worlds in which the truth is known, by the thousand: how often do reports err, and how often do intervals hold it?

`python tests/support/uplift_worlds.py` prints a line for each claim; a test does it in small, and asserts the bounds.
Values are those of casino players: most lose a little, few a lot, some win.
"""

import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import product
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.experiments.comparisons import compare
from pipelines.experiments.differences import gap
from pipelines.experiments.health import cell_ratios, sample_ratio
from pipelines.experiments.metrics import CONVERSION, NET_REVENUE, RETAINED, UNSUBSCRIBED, Metric
from pipelines.experiments.power import detectable
from pipelines.experiments.sequences import sequence
from pipelines.experiments.summaries import Summary

Floats = NDArray[np.float64]
Strata = dict[Hashable, Summary]
PAIR: Final = ("policy", "holdout")
LOOKS: Final = 28
SEGMENTS: Final = (4, 4, 6)
"""Levels of each segment."""
LEARNT_ACTIONS: Final = 3


class Claim(NamedTuple):
    """A share of runs, and the bounds that it must lie within."""

    name: str
    share: float
    runs: int
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether it lies within them."""
        return self.low <= self.share <= self.high

    def __str__(self) -> str:
        """As it is printed."""
        bounds = f"at most {self.high:.3f}" if self.low == 0 else f"{self.low:.3f} to {self.high:.3f}"
        return f"{'holds' if self.holds else 'FAILS'}  {self.name}: {self.share:.4f} of {self.runs:,} runs ({bounds})"


def revenue(chance: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Net revenue of players and what it was before, minor units: correlated, with a long tail, some below zero."""
    worth = np.exp(chance.normal(6.5, 1.0, n))
    before, now = (worth * chance.normal(1.0, 1.2, n) for _ in range(2))
    return before, now


def sides(values: Floats, treated: NDArray[np.bool_], strata: NDArray[np.int64]) -> tuple[Strata, Strata]:
    """Summaries of variant and control by stratum, of columns (n, k)."""
    both: tuple[Strata, Strata] = ({}, {})
    for stratum in np.unique(strata):
        for side, mine in zip(both, (treated, ~treated), strict=True):
            side[int(stratum)] = Summary.of(values[mine & (strata == stratum)])
    return both


def of(values: Floats, treated: NDArray[np.bool_], metric: Metric, strata: NDArray[np.int64] | None = None) -> Any:
    """The row of a report."""
    places = np.zeros(len(treated), dtype=np.int64) if strata is None else strata
    by = sides(values, treated, places)
    found: dict[Any, Summary] = {
        (name, stratum): part for name, side in zip(PAIR, by, strict=True) for stratum, part in side.items()
    }
    row = compare(found, metric, PAIR)
    assert row is not None
    return row


def shares(chance: np.random.Generator, n: int, p: float) -> Floats:
    return (chance.random(n) < p).astype(float)[:, None]


# --- Nothing differs


def nothing_differs(runs: int, n: int = 5_600, seed: int = 1) -> Iterator[Claim]:
    """One population split anew each run: how often is something found, at the end or at any look?"""
    chance = np.random.default_rng([seed, n])
    before, now = revenue(chance, n)
    values, days = np.column_stack([now, before]), np.arange(n) * LOOKS // n
    fixed = ever = 0
    for _ in range(runs):
        treated = chance.random(n) < 0.5
        row = of(values, treated, NET_REVENUE)
        fixed += not row.absolute.low <= 0 <= row.absolute.high
        ever += _ever(values, treated, days)
    spread = 1.4 / 100 * max(1.0, (1_000 / runs) ** 0.5)
    yield Claim("A/A, the fixed interval leaves out 0", fixed / runs, runs, 0.05 - spread, 0.05 + spread)
    yield Claim(f"A/A, the sequence leaves out 0 at one of {LOOKS} looks", ever / runs, runs, 0, 0.05)


def splits_are_sound(runs: int, n: int = 5_600, seed: int = 5) -> Iterator[Claim]:
    """How often a sound split is called unsound, as a whole and by its days and segments: rare, so in many runs."""
    chance = np.random.default_rng(seed)
    held = {"day": (np.arange(n) * LOOKS // n, LOOKS)}
    held |= {f"segment {place}": (chance.integers(0, count, n), count) for place, count in enumerate(SEGMENTS)}
    overall = cells = 0
    for _ in range(runs):
        treated = chance.random(n) < 0.5
        overall += sample_ratio(*_split(treated)).alarm
        family = {
            f"{name} {level}": _split(treated[levels == level])
            for name, (levels, count) in held.items()
            for level in range(count)
        }
        cells += cell_ratios(family).alarm
    rare = 0.003 if runs >= 5_000 else 0.02
    yield Claim("A/A, the sample ratio alarms", overall / runs, runs, 0, rare)
    yield Claim("A/A, one of its days and segments alarms", cells / runs, runs, 0, rare)


def _split(treated: NDArray[np.bool_]) -> tuple[Mapping[str, int], Mapping[str, float]]:
    count = len(treated)
    observed = {PAIR[0]: int(treated.sum()), PAIR[1]: int(count - treated.sum())}
    return observed, dict.fromkeys(PAIR, count / 2)


def _ever(values: Floats, treated: NDArray[np.bool_], days: NDArray[np.int64]) -> bool:
    """Whether at one of the looks the interval that holds at every look leaves out 0."""
    parts: tuple[Strata, Strata] = ({}, {})
    for day in range(LOOKS):
        for side, mine in zip(parts, (treated, ~treated), strict=True):
            part = Summary.of(values[mine & (days == day)])
            side[0] = side[0].merged(part) if 0 in side else part
        found = gap(*parts)
        always = None if found is None else sequence(found)
        if always is not None and not always.low <= 0 <= always.high:
            return True
    return False


# --- Something differs


def intervals_hold(runs: int, n: int = 4_000, seed: int = 2) -> Iterator[Claim]:
    """How often the fixed interval holds a planted difference, of money and of shares, the split changing or not."""
    worlds: dict[str, tuple[Metric, float, Callable[[np.random.Generator, NDArray[np.bool_], Floats], Floats]]] = {
        "conversion": (CONVERSION, 0.02, lambda chance, some, late: _drawn(chance, 0.12 + 0.06 * late + 0.02 * some)),
        "net revenue": (NET_REVENUE, 80.0, _money),
        "retention": (RETAINED, -0.03, lambda chance, some, late: _drawn(chance, 0.45 - 0.1 * late - 0.03 * some)),
    }
    spread = 0.02 * max(1.0, (2_000 / runs) ** 0.5)
    for place, (ramped, name) in enumerate(product((False, True), worlds)):
        metric, truth, drawn = worlds[name]
        chance, held = np.random.default_rng([seed, place]), 0
        for _ in range(runs):
            late = np.repeat([0, 1], n // 2)
            share = np.where(late == 1, 0.8, 0.2) if ramped else np.full(n, 0.5)
            treated = chance.random(n) < share
            values = drawn(chance, treated, late.astype(float) if ramped else np.zeros(n))
            row = of(values, treated, metric, late if ramped else None)
            held += row.absolute.low <= truth <= row.absolute.high
        how = "shares 20 % then 80 % while the world changes" if ramped else "shares of a half"
        yield Claim(f"{name}, {how}, the interval holds the truth", held / runs, runs, 0.95 - spread, 0.95 + spread)


def _drawn(chance: np.random.Generator, p: NDArray[Any]) -> Floats:
    return (chance.random(len(p)) < p).astype(float)[:, None]


def _money(chance: np.random.Generator, treated: NDArray[np.bool_], late: Floats) -> Floats:
    before, now = revenue(chance, len(treated))
    return np.column_stack([now + 80.0 * treated + 300.0 * late, before])


def harm_is_found(runs: int, seed: int = 3) -> Iterator[Claim]:
    """How often a guardrail that is worse by twice its margin is seen to be, with units planned for the margin."""
    chance, base = np.random.default_rng(seed), 0.02
    assert UNSUBSCRIBED.margin is not None
    wanted = UNSUBSCRIBED.margin
    n = int(2 * (detectable(1.0) ** 2) * (2 * base * (1 - base)) / wanted**2)
    found = passed = 0
    for _ in range(runs):
        treated = chance.random(n) < 0.5
        row = of(_drawn(chance, base + 2 * wanted * treated.astype(float)), treated, UNSUBSCRIBED)
        found += row.guard in {"worse", "beyond margin"}
        passed += row.guard == "passed"
    yield Claim(f"opt-outs worse by twice the margin are found among {n:,}", found / runs, runs, 0.8, 1.0)
    yield Claim("and pass", passed / runs, runs, 0, 0.025)


# --- A policy that learns


def learning(runs: int, n: int = 3_000, seed: int = 4) -> Iterator[Claim]:
    """A variant whose policy learns: its difference from the holdout holds, its actions compared as if split do not.

    The truth is what the policy's own draws were worth: the mean of their actions' effects over its players.
    """
    effects, shares_of = np.array([0.0, 30.0, 90.0]), np.full(LEARNT_ACTIONS, 1 / LEARNT_ACTIONS)
    held = flagged = 0
    for run in range(runs):
        chance = np.random.default_rng([seed, run])
        before, now = revenue(chance, n)
        treated, actions = chance.random(n) < 0.5, np.zeros(n, dtype=np.int64)
        sums, counts = np.zeros(LEARNT_ACTIONS), np.zeros(LEARNT_ACTIONS)
        for at in np.flatnonzero(treated):
            means = sums / np.maximum(counts, 1)
            best = int(np.argmax(means)) if counts.min() > 20 else int(np.argmin(counts))
            actions[at] = best if chance.random() > 0.3 else int(chance.integers(LEARNT_ACTIONS))
            sums[actions[at]] += now[at] + effects[actions[at]]
            counts[actions[at]] += 1
        values = np.column_stack([now + np.where(treated, effects[actions], 0.0), before])
        row = of(values, treated, NET_REVENUE)
        held += row.absolute.low <= float(effects[actions[treated]].mean()) <= row.absolute.high
        planned = {str(place): float(share * counts.sum()) for place, share in enumerate(shares_of)}
        flagged += sample_ratio({str(place): int(count) for place, count in enumerate(counts)}, planned).alarm
    low = 0.935 if runs >= 500 else 0.88
    yield Claim("a learning policy, the interval holds what it brought", held / runs, runs, low, 1.0)
    yield Claim("its actions compared as if split are flagged", flagged / runs, runs, 0.99, 1.0)


def claims(scale: float = 1.0) -> Iterator[Claim]:
    """All claims, with a share of the runs."""
    yield from nothing_differs(max(20, round(1_000 * scale)))
    yield from splits_are_sound(max(50, round(10_000 * scale)))
    yield from intervals_hold(max(40, round(2_000 * scale)))
    yield from harm_is_found(max(40, round(2_000 * scale)))
    yield from learning(max(20, round(500 * scale)))


def main() -> int:
    """Print every claim as it is known; 1 if one fails."""
    failed = 0
    for claim in claims():
        sys.stdout.write(f"{claim}\n")
        sys.stdout.flush()
        failed += not claim.holds
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
