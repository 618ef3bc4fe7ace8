"""Paired rounds of the bench: order of turns, medians of ratios, intervals that cover."""

import numpy as np
import pytest

from benchmarks.rounds import LEAST_ROUNDS, order, ratio


def test_rounds_run_forwards_and_backwards_in_turn() -> None:
    assert [order("abc", number) for number in range(4)] == [list("abc"), list("cba")] * 2


def test_a_steady_drift_over_two_rounds_meets_every_side_alike() -> None:
    turns = [side for number in range(6) for side in order("abcd", number)]
    met = {side: sum(at for at, turn in enumerate(turns) if turn == side) for side in "abcd"}
    assert len(set(met.values())) == 1


def test_a_ratio_pairs_the_rounds_and_not_the_medians() -> None:
    over, under = [2.0, 40.0, 600.0], [1.0, 20.0, 300.0]
    assert ratio(over, under).estimate == 2.0


def test_sides_of_unequal_rounds_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize("rounds", range(1, LEAST_ROUNDS))
def test_too_few_rounds_have_no_interval(rounds: int) -> None:
    assert ratio([1.0] * rounds, [1.0] * rounds)[1:] == (None, None)


def test_six_rounds_have_the_least_and_the_greatest_ratio_as_interval() -> None:
    assert ratio([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0] * 6) == (3.5, 1.0, 6.0)


def test_twenty_rounds_leave_out_five_ratios_at_each_end() -> None:
    # The sign test's table: the interval of the median of 20 lies between the 6th and the 15th.
    assert ratio([float(number) for number in range(1, 21)], [1.0] * 20) == (10.5, 6.0, 15.0)


@pytest.mark.parametrize("rounds", [6, 9, 20])
def test_the_interval_covers_the_true_ratio_of_skewed_sides_in_95_of_100_runs(rounds: int) -> None:
    random, covered, runs = np.random.default_rng(1), 0, 2_000
    for _ in range(runs):
        pace = random.lognormal(0, 0.5, rounds)  # what both sides of a round share
        over, under = 2 * pace * random.lognormal(0, 0.3, rounds), pace * random.lognormal(0, 0.3, rounds)
        spread = ratio(over.tolist(), under.tolist())
        assert spread.low is not None
        assert spread.high is not None
        covered += spread.low <= 2 <= spread.high
    assert covered / runs >= 0.95 - 0.015
