"""Differences of variants: published results to the printed digits, sequences, exact shares, rankings, returns."""

from collections.abc import Hashable

import numpy as np
import pytest
import tea_tasting as tt
from scipy import stats

from pipelines.experiments import chances, exact, power, ranking, sequences
from pipelines.experiments.comparisons import benjamini_hochberg, compare_all, guarded, holm
from pipelines.experiments.differences import Gap, fixed, gap, relative, relative_error
from pipelines.experiments.metrics import Metric
from pipelines.experiments.returns import returns, returns_on
from pipelines.experiments.segments import interaction
from pipelines.experiments.summaries import Summary, merged
from pipelines.experiments.units import Key
from service.reports import Difference


def of_sums(total: float, squares: float, n: int) -> Summary:
    return Summary(n, np.array([total / n]), np.array([[squares - total**2 / n]]))


def of_counts(had: int, n: int) -> Summary:
    return Summary(n, np.array([had / n]), np.array([[had * (1 - had / n)]]))


def between(variant: Summary, control: Summary, *, share: bool = False) -> Gap:
    found = gap({"all": variant}, {"all": control}, share=share)
    assert found is not None
    return found


def ratio(found: Gap) -> float:
    return found.variant.mean / found.control.mean - 1


def test_means_are_those_that_gbstats_prints() -> None:
    found = between(of_sums(2422.7, 134698.29, 3461), of_sums(1396.87, 52377.9767, 3407))
    interval, error = fixed(found), relative_error(found)
    assert interval is not None
    assert (round(found.estimate, 5), round(found.error, 5)) == (0.29, 0.12478)
    assert [round(value, 5) for value in interval] == [0.04538, 0.53462, 0.02016]
    half = stats.t.ppf(0.975, found.degrees) * error
    assert [round(value, 5) for value in (ratio(found), error)] == [0.70732, 0.37879]
    assert [round(ratio(found) + sign * half, 5) for sign in (-1, 1)] == [-0.03526, 1.44989]
    assert round(2 * stats.t.sf(ratio(found) / error, found.degrees), 5) == 0.06191


def test_shares_are_those_that_gbstats_prints() -> None:
    found = between(of_counts(16, 30), of_counts(14, 28), share=True)
    error = relative_error(found)
    half = stats.t.ppf(0.975, found.degrees) * error
    told = (ratio(found), ratio(found) - half, ratio(found) + half, error)
    assert [round(value, 5) for value in told] == [0.06667, -0.47767, 0.61101, 0.27170]
    assert round(2 * stats.t.sf(ratio(found) / error, found.degrees), 5) == 0.80707


def test_sequences_are_those_that_gbstats_prints() -> None:
    found = between(of_sums(2422.7, 134698.29, 3461), of_sums(1396.87, 52377.9767, 3000))
    always = sequences.around(ratio(found), relative_error(found), found.n, tightest=1_000)
    assert always is not None
    assert [round(value, 5) for value in (ratio(found), *always)] == [0.50336, -0.55844, 1.56516, 1.0]
    shares = between(of_counts(2422, 3461), of_counts(1396, 3000), share=True)
    sharp = sequences.around(ratio(shares), relative_error(shares), shares.n)
    assert sharp is not None
    assert [round(value, 5) for value in (ratio(shares), sharp.low, sharp.high)] == [0.50386, 0.40098, 0.60675]


def test_chances_to_be_better_are_those_that_gbstats_prints() -> None:
    flat = between(of_counts(51, 100), of_counts(49, 100), share=True)
    found = chances.posterior(ratio(flat), relative_error(flat))
    bounds = [found.mean + sign * stats.norm.ppf(0.975) * found.deviation for sign in (-1, 1)]
    told = (found.mean, *bounds, found.better, found.loss_control, found.loss)
    assert [round(value, 5) for value in told] == [0.04082, -0.24779, 0.32943, 0.60918, 0.0814, 0.04058]
    some = between(of_sums(105, 1111.5, 10), of_sums(100, 1002.25, 10))
    believed = chances.posterior(ratio(some), relative_error(some), (0.1, 0.1))
    bounds = [believed.mean + sign * stats.norm.ppf(0.975) * believed.deviation for sign in (-1, 1)]
    assert [round(value, 5) for value in (believed.mean, *bounds)] == [0.05063, -0.01893, 0.12019]
    assert round(believed.better, 5) == 0.92315


def test_power_and_the_smallest_effect_are_those_of_growthbook() -> None:
    each = 400_000 // 3
    assert round(power.relative_power(0.05, 10, 3909.99977, each), 5) == 0.52144
    assert round(power.relative_detectable(10, 3909.99977, each), 5) == 0.07027


def test_adjusted_p_values_are_those_that_tea_tasting_prints() -> None:
    told = [0.118, 0.0211, 0.0213, 0.00218]
    assert [float(f"{p:.3g}") for p in benjamini_hochberg(told)] == [0.118, 0.0284, 0.0284, 0.00872]
    assert [float(f"{p:.3g}") for p in holm(told)] == [0.118, 0.0633, 0.0633, 0.00872]


def test_a_tiny_qini_curve_is_that_of_scikit_uplift() -> None:
    value, treated = (np.array(list(text), dtype=float) for text in ("1010100100", "1011010010"))
    score = np.array([0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    curve = ranking.qini(value, score, treated)
    assert curve.gain == pytest.approx([0, 1, 1, 2, 2, 0.5, 0, 0.6667, 0, -0.5, 0], abs=1e-4)
    assert round(ranking.qini_coefficient(value, score, treated), 5) == 0.41667
    assert round(ranking.uplift_coefficient(value, score, treated), 5) == 0.34881


def test_peeking_finds_what_is_not_there_and_a_sequence_does_not() -> None:
    """Under no effect 28 daily looks reject 27.7 % by fixed intervals, 1.5 % by the sequence (10,000 runs each)."""
    chance, runs, looks = np.random.default_rng(2), 10_000, np.arange(1, 29)
    walk = chance.normal(size=(runs, 28)).cumsum(axis=1) / np.sqrt(looks)
    bounds = np.array([sequences.widening(12_000 * look / 28) for look in looks])
    ever_fixed = (np.abs(walk) > stats.norm.ppf(0.975)).any(axis=1).mean()
    ever = (np.abs(walk) > bounds).any(axis=1).mean()
    # Three standard errors of 10,000 runs are 1.4 points at 28 %, 0.4 at 1.5 %.
    assert ever_fixed == pytest.approx(0.277, abs=0.014)
    assert ever == pytest.approx(0.0153, abs=0.006)
    assert bounds[-1] / stats.norm.ppf(0.975) == pytest.approx(1.57, abs=0.02)
    assert sequences.p_value(bounds[-1], 12_000) == pytest.approx(0.05)


def test_one_stratum_gives_what_tea_tasting_gives_and_a_covariate_what_it_adjusts() -> None:
    users = tt.make_users_data(rng=7, covariates=True, n_users=2_000, return_type="pandas")
    parts = {name: mine[["orders", "orders_covariate"]].to_numpy(float) for name, mine in users.groupby("variant")}
    metrics = {"plain": tt.Mean("orders"), "adjusted": tt.Mean("orders", "orders_covariate")}
    theirs = tt.Experiment(metrics).analyze(users)
    # Slopes are ours within variants, theirs over both: the estimates differ by less than a tenth of an error.
    for name, width, within in (("plain", 1, 1e-9), ("adjusted", 2, 1e-2)):
        found = between(*(Summary.of(parts[variant][:, :width]) for variant in (1, 0)))
        interval, share = fixed(found), relative(found)
        assert interval is not None
        assert share is not None
        assert found.estimate == pytest.approx(theirs[name].effect_size, rel=within)
        assert interval.p_value == pytest.approx(theirs[name].pvalue, rel=within)
        assert interval.low == pytest.approx(theirs[name].effect_size_ci_lower, rel=within)
        assert share.high == pytest.approx(theirs[name].rel_effect_size_ci_upper, rel=max(within, 1e-4))
    assert found.explained > 0.2


def test_summaries_of_parts_are_the_summary_of_the_whole_however_they_are_parted() -> None:
    chance = np.random.default_rng(3)
    rows = chance.normal(1e9, 3.0, (500, 3))
    whole = Summary.of(rows)
    parts = merged(Summary.of(part) for part in np.split(rows, sorted(chance.integers(0, 500, 6))))
    assert parts.n == whole.n
    assert parts.means == pytest.approx(whole.means, rel=1e-14)
    assert parts.scatter == pytest.approx(whole.scatter, rel=1e-6)


def test_shares_that_change_in_the_middle_invent_no_effect() -> None:
    """The money of all rises while the policy's share does: pooled it looks like an effect, in strata it is none."""
    chance, covered = np.random.default_rng(4), 0
    for _ in range(200):
        parts = {}
        for phase, (share, mean) in {"first": (0.1, 500.0), "second": (0.6, 1_500.0)}.items():
            money, treated = chance.normal(mean, 2_000, 1_000), chance.random(1_000) < share
            parts[phase] = money[treated, None], money[~treated, None]
        treated_parts: dict[Hashable, Summary] = {phase: Summary.of(part[0]) for phase, part in parts.items()}
        found = gap(treated_parts, {phase: Summary.of(part[1]) for phase, part in parts.items()})
        interval = fixed(found) if found else None
        assert interval is not None
        covered += interval.low <= 0 <= interval.high
    # Of 200 at 95 % three standard errors below are 90.4 %.
    assert covered >= 181


def test_all_against_none_is_tested_exactly_and_fishers_test_is_that_of_scipy() -> None:
    everybody = [exact.Counts(400, 400, 0, 400)]
    assert exact.fails(everybody)
    found = exact.interval(everybody)
    assert found.p_value < 1e-100
    assert 0.98 < found.low < 1
    few = exact.Counts(3, 20, 10, 22)
    assert exact.p_value([few]) == pytest.approx(stats.fisher_exact([[3, 17], [10, 12]]).pvalue)
    assert exact.p_value([exact.Counts(0, 50, 0, 60), few]) == pytest.approx(exact.p_value([few]))
    nobody = exact.interval([exact.Counts(0, 400, 0, 400)])
    assert nobody.p_value == 1.0
    assert nobody.low == pytest.approx(-nobody.high)
    assert not exact.fails([exact.Counts(40, 400, 50, 400)])


def test_a_violation_of_twice_the_margin_is_found_in_four_of_five_at_the_planned_size() -> None:
    """Planned so that harmlessness is shown with 80 % where there is no harm: the error is the margin over 2.8."""
    chance, margin, rate = np.random.default_rng(5), 0.01, 0.03
    n = round(2 * rate * (1 - rate) * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 / margin**2)
    metric = Metric("unsubscribed", unit="share", kind="proportion", direction="lower", role="guardrail", margin=margin)
    found = {"harmless": 0, "harmful": 0}
    for name, true, wanted in (
        ("harmless", rate, {"passed"}),
        ("harmful", rate + 2 * margin, {"worse", "beyond margin"}),
    ):
        for had, had_control in zip(chance.binomial(n, true, 400), chance.binomial(n, rate, 400), strict=True):
            sides: dict[Key, Summary] = {
                ("a", "all"): of_counts(int(had), n),
                ("b", "all"): of_counts(int(had_control), n),
            }
            (row,) = compare_all({metric.name: sides}, [metric], [("a", "b")])
            found[name] += row.guard in wanted
    # 80 % less three standard errors of 400 runs.
    assert found["harmless"] >= 0.74 * 400
    assert found["harmful"] >= 0.8 * 400
    assert guarded(metric, Difference(0.02, 0.011, 0.03, 0.0)) == "beyond margin"
    assert guarded(metric, Difference(0.0, None, None, None)) == "open"


def test_returns_are_those_of_the_field_by_both_of_their_names() -> None:
    roas, roi = returns_on(229_500, 80_000)
    assert (round(roas, 2), round(roi, 2)) == (2.87, 1.87)
    chance, covered = np.random.default_rng(6), 0
    for _ in range(200):
        cost = chance.gamma(4, 2.5, 2_000)
        sides = [np.c_[chance.normal(100 + lift, 60, 2_000), paid] for lift, paid in ((20, cost), (0, 0 * cost))]
        found = returns(("a", "b"), {"all": Summary.of(sides[0])}, {"all": Summary.of(sides[1])})
        assert found is not None
        assert found.roi is not None
        assert found.roi_low is not None
        assert found.roi_high is not None
        assert found.net == pytest.approx(found.gross - found.cost)
        covered += found.roi_low <= 1.0 <= found.roi_high
    assert covered >= 181
    unpaid = [Summary.of(side * np.array([1.0, 0.0])) for side in sides]
    free = returns(("a", "b"), {"all": unpaid[0]}, {"all": unpaid[1]})
    assert free is not None
    assert free.roi is None


def test_an_effect_that_is_one_differs_in_one_of_twenty_and_a_planted_interaction_is_found() -> None:
    chance = np.random.default_rng(7)
    even = [interaction(list(chance.normal(0.5, 1, 4)), [1.0] * 4) for _ in range(2_000)]
    below = np.mean([p is not None and p < 0.05 for p in even])
    assert abs(below - 0.05) < 0.015
    planted = interaction([0.0, 5.0], [1.0, 1.0])
    assert planted is not None
    assert planted < 0.001
    assert interaction([1.0], [1.0]) is None


def test_a_ranking_of_chance_stays_in_its_band_and_one_that_knows_leaves_it() -> None:
    chance = np.random.default_rng(8)
    score, treated = chance.random(3_000), (chance.random(3_000) < 0.5).astype(float)
    value = chance.normal(0, 1, 3_000) + 2 * treated * score
    knows = ranking.ranked(value, score, treated)
    assert knows.p_value < 0.05
    assert knows.uplift > knows.uplift_rest
    blind = [ranking.ranked(value, chance.random(3_000), treated, permutations=40).p_value for _ in range(30)]
    assert np.mean([p < 0.05 for p in blind]) <= 0.2
    assert ranking.ranked(value, score, treated) == knows
