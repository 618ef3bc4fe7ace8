"""The churn model: population, labels, cut-offs, training and calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.aggregates import DAY_MICROS
from features.events import micros, moment
from features.schema import MODEL_FEATURES, VECTOR
from models.churn.population import (
    FOREVER,
    Act,
    Restriction,
    TrainingRefused,
    labelled,
    monthly_cutoffs,
    restrictions,
    split,
)
from models.churn.scorer import Scorer
from models.churn.training import BINS, Rows, TrainedModel, ece, evaluate, fit, platt, reliability, shifted

DAY = DAY_MICROS
T = micros(datetime(2020, 1, 1, tzinfo=UTC))
H = 14
END = T + H * DAY
NAMES = [reading.name for reading in VECTOR]


def day(text: str) -> int:
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def rows_at(moments: dict[str, Sequence[int]]) -> pd.DataFrame:
    pairs = [(player, one) for player, all_ in moments.items() for one in all_]
    return pd.DataFrame(pairs, columns=["player", "occurred_us"])


def churned(moments: dict[str, Sequence[int]], restricted: Sequence[Restriction] = ()) -> dict[str, bool]:
    frame = labelled(rows_at(moments), restricted, T, H)
    assert set(frame["cutoff_us"]) <= {T}
    return dict(zip(frame["player"], frame["churned"].tolist(), strict=True))


def test_the_population_is_who_deposited_in_the_thirty_days_before_the_cut_off() -> None:
    assert churned({"first": [T - 30 * DAY], "early": [T - 30 * DAY - 1], "last": [T - 1], "after": [T]}) == {
        "first": True,
        "last": True,
    }


def test_churned_is_no_deposit_from_the_cut_off_to_just_before_the_horizons_end() -> None:
    known = {"at": [T], "last": [END - 1], "late": [END], "never": [], "both": [T, END]}
    assert churned({player: [T - DAY, *later] for player, later in known.items()}) == {
        "at": False,
        "last": False,
        "late": True,
        "never": True,
        "both": False,
    }


@pytest.mark.parametrize(
    ("start", "end", "asked"),
    [
        (T - 9 * DAY, T, True),  # over at the cut-off
        (T - 9 * DAY, T + 1, False),
        (T - 9 * DAY, FOREVER, False),
        (T, T + 1, False),
        (END - 1, FOREVER, False),
        (END, FOREVER, True),  # begins after the horizon
    ],
)
def test_players_who_could_not_play_are_censored_and_never_churned(start: int, end: int, *, asked: bool) -> None:
    restricted = [Restriction("them", start, end)]
    for later in ([], [T + DAY]):
        known = churned({"them": [T - DAY, *later], "others": [T - DAY]}, restricted)
        assert known == {"others": True} | ({"them": not later} if asked else {})


def test_a_restriction_lasts_until_its_own_end_or_the_first_later_lift_of_the_same_register() -> None:
    on = [Act("p", "exclusion:*", at, restricts=True) for at in (10, 50, 90)]
    lifts = [
        Act("p", "exclusion:*", 90, restricts=False),
        Act("p", "exclusion:*", 50, restricts=False),
        Act("q", "exclusion:*", 20, restricts=False),
        Act("p", "account", 20, restricts=False),
    ]
    assert restrictions([*on, *lifts, Act("p", "time_out:main", 15, restricts=True, until_us=30)]) == [
        Restriction("p", 10, 50),
        Restriction("p", 50, 90),  # of both at one moment the restriction holds
        Restriction("p", 90, FOREVER),
        Restriction("p", 15, 30),
    ]
    assert restrictions(lifts) == []


def test_cut_offs_are_firsts_of_months_with_history_before_and_a_settled_horizon_after() -> None:
    first, settled = day("2019-03-02"), day("2020-01-01") + 31 * DAY
    of: Callable[[int, int], list[str]] = lambda begin, now: [  # noqa: E731
        str(moment(one).date()) for one in monthly_cutoffs(begin, now, 30)
    ]
    assert of(first, settled)[::7] == ["2019-05-01", "2019-12-01"]
    assert of(first, settled)[-1] == "2020-01-01"
    assert of(first, settled - 1)[-1] == "2019-12-01"
    assert of(first + 1, settled)[0] == "2019-06-01"
    assert of(settled, settled) == of(first, first) == []


@given(st.integers(0, 10**16), st.integers(0, 4_000 * DAY), st.sampled_from([7, 14, 30, 60]))
def test_every_cut_off_is_a_first_at_midnight_and_no_month_between_is_missed(first: int, span: int, days: int) -> None:
    found = monthly_cutoffs(first, first + span, days)
    assert all(str(moment(one))[7:] == "-01 00:00:00+00:00" for one in found)
    assert all(first + 60 * DAY <= one <= first + span - (days + 1) * DAY for one in found)
    assert all(28 * DAY <= later - one <= 31 * DAY for one, later in pairwise(found))
    assert found or span <= (60 + days + 1 + 31) * DAY


def test_the_last_two_cut_offs_test_and_all_whose_horizon_ended_by_then_train() -> None:
    months = [day(f"2019-{month:02d}-01") for month in range(8, 13)] + [T]
    assert split(months[::-1], 30) == (months[:4], months[4:])  # November's thirty days end on 1 December
    assert split(months, 31) == (months[:3], months[4:])
    with pytest.raises(TrainingRefused, match="2 monthly cut-offs"):
        split(months[:2], 30)
    with pytest.raises(TrainingRefused):
        split(months[:3], 45)


# --- The model


@cache
def people(seed: int = 1, months: int = 4, players: int = 400) -> Rows:
    """Players whose deposits and silence tell of churn, in months of very different churn."""
    random = np.random.default_rng(seed)
    count = months * players
    matrix = np.zeros((count, len(VECTOR)))
    cutoff_us = np.repeat([day(f"2019-{1 + month:02d}-01") for month in range(months)], players)
    pace, silence = random.lognormal(0, 1, count), random.exponential(6, count)
    for name in NAMES:
        if name.startswith("deposit_count_"):
            matrix[:, NAMES.index(name)] = pace * random.lognormal(0, 0.3, count)
    matrix[:, NAMES.index("deposit_days_30d")] = np.minimum(30, np.ceil(4 * pace))
    matrix[:, NAMES.index("last_deposit_days_ago")] = silence
    login = np.where(random.random(count) < 0.3, np.nan, silence * random.random(count))
    matrix[:, NAMES.index("last_login_days_ago")] = login
    odds = (
        -2
        + 0.2 * silence
        - np.log(pace)
        + np.nan_to_num(0.3 * login)
        + random.normal(0, 1, months)[cutoff_us.argsort() // players]
    )
    return Rows(matrix, random.random(count) < 1 / (1 + np.exp(-odds)), cutoff_us)


@cache
def trained() -> TrainedModel:
    return fit(people(), 30)


def test_only_what_varies_and_what_a_model_may_see_is_a_feature() -> None:
    assert set(trained().features) == {
        *(name for name in MODEL_FEATURES if name.startswith("deposit_count_")),
        "deposit_days_30d",
        "last_deposit_days_ago",
        "last_login_days_ago",
    }


def test_the_scorer_answers_as_training_scored() -> None:
    unseen = people(seed=2)
    scorer = Scorer(trained().bundle("churn/1", {"auc": 0.8}))
    np.testing.assert_allclose(scorer.score_many(unseen.matrix), trained().score(unseen), rtol=1e-14)


def test_it_ranks_better_than_recency_and_its_scores_are_true_on_unseen_players() -> None:
    unseen = people(seed=2)
    found = evaluate(unseen, trained().score(unseen))
    assert found.auc > found.auc_recency + 0.03
    assert max(one.shifted - one.floor for one in found.calibration) < 0.04
    assert found.ece == max(one.raw for one in found.calibration)
    assert found.ece_above_noise == max(one.raw - one.floor for one in found.calibration)
    assert [one.cutoff_us for one in found.calibration] == sorted(set(unseen.cutoff_us.tolist()))


def test_more_deposits_never_raise_the_score_and_more_silence_never_lowers_it() -> None:
    unseen, random = people(seed=3), np.random.default_rng(4)
    before = trained().score(unseen)
    signs = {name: 1 if name == "last_deposit_days_ago" else -1 for name in trained().features if "login" not in name}
    for name, sign in signs.items():
        matrix = unseen.matrix.copy()
        matrix[:, NAMES.index(name)] += random.exponential(5, len(unseen))
        after = trained().score(Rows(matrix, unseen.churned, unseen.cutoff_us))
        assert (sign * (after - before) >= 0).all()
        assert (after != before).any()


def test_the_order_of_the_players_does_not_matter() -> None:
    order = np.random.default_rng(5).permutation(len(people()))
    again = fit(Rows(people().matrix[order], people().churned[order], people().cutoff_us[order]), 30)
    np.testing.assert_allclose(again.score(people(seed=2)), trained().score(people(seed=2)), rtol=1e-6)


def test_training_twice_gives_the_same_bytes() -> None:
    assert fit(people(), 30).bundle("churn/1", {}).dumps() == trained().bundle("churn/1", {}).dumps()


def test_a_month_whose_order_the_others_cannot_predict_counts_less() -> None:
    rows = people()
    odd = int(rows.cutoff_us.max())
    backwards = np.where(rows.cutoff_us == odd, ~rows.churned, rows.churned)
    weights = fit(Rows(rows.matrix, backwards, rows.cutoff_us), 30).weights
    assert weights.pop(odd) == 0
    assert min(weights.values()) > 0.3
    assert max(weights.values()) == 1


def test_one_month_alone_can_be_learnt_from() -> None:
    unseen = people(seed=2)
    model = fit(people(months=1, players=600), 30)
    assert set(model.weights.values()) == {1.0}
    assert evaluate(unseen, model.score(unseen)).auc > 0.75


def test_where_nothing_can_be_ranked_every_cut_off_counts_the_same() -> None:
    random = np.random.default_rng(6)
    rows = people()
    noise = Rows(rows.matrix, random.random(len(rows)) < 0.3, rows.cutoff_us)
    assert all(0 <= weight <= 1 for weight in fit(noise, 30).weights.values())
    same = Rows(np.zeros_like(rows.matrix), rows.churned, rows.cutoff_us)
    assert fit(same, 30).features == ("last_deposit_days_ago",)


@pytest.mark.parametrize("all_churned", [True, False])
def test_one_class_is_refused_with_one_sentence(*, all_churned: bool) -> None:
    rows = people()
    alike = Rows(rows.matrix, np.full(len(rows), all_churned), rows.cutoff_us)
    with pytest.raises(TrainingRefused, match=f"^{'all' if all_churned else 'none'} of the 1600 players"):
        fit(alike, 30)
    for few in (alike, alike.at([])):
        with pytest.raises(TrainingRefused, match="did the same"):
            evaluate(few, np.full(len(few), 0.5))


# --- Calibration


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.4, -1.5), (2.0, 0.7)])
def test_the_logistic_fit_finds_the_law_that_made_the_labels(slope: float, intercept: float) -> None:
    random = np.random.default_rng(7)
    raw = random.normal(0, 1.5, 40_000)
    labels = random.random(len(raw)) < 1 / (1 + np.exp(-(slope * raw + intercept)))
    weight = random.choice([0.2, 1.0], len(raw))
    np.testing.assert_allclose(platt(raw, labels, weight), (slope, intercept), atol=0.08)


def test_what_has_no_weight_moves_nothing_and_two_rows_keep_the_slope_finite() -> None:
    random = np.random.default_rng(8)
    raw, labels = random.normal(size=500), random.random(500) < 0.4
    foreign = np.concatenate([raw, random.normal(5, 1, 300)])
    weight = np.concatenate([np.ones(500), np.zeros(300)])
    with_them = platt(foreign, np.concatenate([labels, np.ones(300, bool)]), weight)
    np.testing.assert_allclose(with_them, platt(raw, labels, np.ones(500)), atol=1e-3)
    slope, _ = platt(np.array([-1.0, 1.0]), np.array([False, True]), np.ones(2))
    assert 0 < slope < 2


SCORES = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=60).map(np.array)


@settings(max_examples=100)
@given(SCORES, st.floats(0.01, 0.99))
def test_a_shift_keeps_the_order_and_brings_the_mean_to_the_rate(scores: NDArray[np.float64], rate: float) -> None:
    moved = shifted(scores, rate)
    assert moved.mean() == pytest.approx(rate, abs=1e-9)
    assert (np.diff(moved[np.argsort(scores)]) >= 0).all()


@settings(max_examples=100)
@given(SCORES, st.randoms(use_true_random=False))
def test_the_calibration_error_is_a_mean_distance_over_equal_bins(scores: NDArray[np.float64], draw: object) -> None:
    labels = np.array([draw.random() < 0.4 for _ in scores])  # type: ignore[attr-defined]
    bins = reliability(labels, scores)
    assert len(bins) == min(BINS, len(scores))
    assert sum(one.players for one in bins) == len(scores)
    assert max(one.players for one in bins) - min(one.players for one in bins) <= 1
    assert 0 <= ece(bins) <= 1
    assert ece(bins) >= abs(labels.mean() - scores.mean()) - 1e-9
    assert ece(reliability(labels, labels.astype(float))) == 0
