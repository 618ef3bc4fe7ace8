"""Planning an experiment: players by the power of the test, days by how many players the house meets."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.experiment_lakes import CATALOGUE, Lake, experiment

from models.experiments.definition import Experiment
from pipelines.experiments.comparisons import players_needed
from pipelines.experiments.differences import LEVEL
from pipelines.experiments.exposures import Costs
from pipelines.experiments.metrics import CONVERSION, NET_REVENUE
from pipelines.experiments.plan import Plan, Reach, plan
from pipelines.experiments.refusals import ReportRefused

HALVES = {"name": "a", "share": 0.5, "policy": "none"}, {"name": "b", "share": 0.5, "policy": "learnt"}
COSTS = Costs.of(CATALOGUE, 40)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return experiment(2_500, 1).write(tmp_path_factory.mktemp("lake"))


def planned(lake: Path, effect: float = 0.1, **shares: float) -> Plan:
    variants = [{**one, "share": shares.get(str(one["name"]), one["share"])} for one in HALVES]
    wanted = Experiment.model_validate({"key": "k", "variants": variants})
    return plan(lake, wanted, COSTS, window_days=28, relative_effect=effect)


def test_players_are_those_of_the_textbook_and_show_the_effect_as_often_as_promised() -> None:
    """Two equal groups: n = 4 (z + z)^2 sd^2 / effect^2; margin of four standard errors over 2,000 trials."""
    chance = np.random.default_rng(5)
    rate, effect, power = 0.2, 0.25, 0.8
    seen = pd.DataFrame({"conversion": (chance.random(50_000) < rate).astype(int)})
    needed = players_needed(seen, CONVERSION, effect, power)
    z = stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(power)
    p = seen["conversion"].mean()
    assert needed == pytest.approx(4 * z**2 * p * (1 - p) / (effect * p) ** 2, rel=0.01)
    half = round(needed / 2)
    a, b = (chance.binomial(half, share, 2_000) / half for share in (rate, rate * (1 + effect)))
    error = np.sqrt(a * (1 - a) / half + b * (1 - b) / half)
    found = float(np.mean((b - a) / error > stats.norm.ppf(1 - LEVEL / 2)))
    assert abs(found - power) < 4 * math.sqrt(power * (1 - power) / 2_000) + 0.02


def test_smaller_effects_and_lopsided_shares_take_more_players(lake: Path) -> None:
    even, small, lopsided = planned(lake), planned(lake, 0.05), planned(lake, a=0.1, b=0.9)
    assert small.pairs[0].players == pytest.approx(4 * even.pairs[0].players, rel=0.01)
    assert lopsided.pairs[0].players == pytest.approx(even.pairs[0].players / (4 * 0.1 * 0.9), rel=0.01)
    assert (even.pairs[0].variant, even.pairs[0].control) == ("b", "a")
    assert even.players_met > 2_000


def test_shares_that_sum_to_less_than_one_take_longer_than_those_of_all_players(lake: Path) -> None:
    whole, part = planned(lake, 0.5), planned(lake, 0.5, a=0.25, b=0.25)
    assert part.pairs[0].players == whole.pairs[0].players
    assert whole.pairs[0].days is not None
    assert part.pairs[0].days is not None
    assert part.pairs[0].days > whole.pairs[0].days > whole.window_days


def test_days_follow_the_players_that_were_met_and_then_the_last_rate() -> None:
    reach = Reach([(1, 100), (2, 180), (3, 240), (4, 300)])
    assert reach.until(150) == (2, False)
    assert reach.until(300) == (4, False)
    assert reach.until(420) == (6, True)
    assert reach.until(10**9) == (None, True)
    assert Reach([(1, 10)]).until(25) == (3, True)
    assert Reach([(1, 10), (8, 10)]).until(11) == (None, True)


def test_what_the_lake_cannot_tell_is_said(tmp_path: Path) -> None:
    wanted = Experiment.model_validate({"key": "k", "variants": HALVES})
    with pytest.raises(ReportRefused, match="no decision of an experiment yet"):
        plan(Lake().write(tmp_path / "empty"), wanted, COSTS, window_days=28)
    few = experiment(30, 1, days=2).write(tmp_path / "few")
    with pytest.raises(ReportRefused, match=r"^the window of 365 days has passed for 0 players"):
        plan(few, wanted, COSTS, window_days=365)
    said = plan(few, wanted, COSTS, window_days=7, metric=NET_REVENUE, relative_effect=0.001)
    assert any("their days follow its last rate" in sentence for sentence in said.warnings)
