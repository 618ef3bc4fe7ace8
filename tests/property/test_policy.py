"""The contract of every policy, and the laws of the draw."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from features.schema import VECTOR
from models.catalogue.offers import NO_CONTACT, load_catalogue
from models.policy.policy import BusinessRules, Policy, Priority, Uniform, draw, priorities, uniform_number

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
CATALOGUE = load_catalogue(Path(__file__).parents[2] / "service" / "catalogue.yaml")
CONTEXT = np.zeros(len(VECTOR))
LAST = 1 - 2**-53
"""The greatest number that `uniform_number` makes."""

Ranks = NDArray[np.float64]
Make = Callable[[Ranks, float], Policy]
POLICIES: dict[str, Make] = {
    "uniform": lambda ranks, floor: Uniform(len(ranks)),  # noqa: ARG005 - one signature for all
    "business_rules": BusinessRules,
    "priority": lambda ranks, floor: Priority(ranks),  # noqa: ARG005
}
# Ties are frequent, and some offers rank as low as no contact.
RANKS = st.lists(st.integers(0, 6) | st.integers(0, 10**6), max_size=60).map(lambda found: np.array([0.0, *found]))
FLOOR = st.floats(1e-6, 1.0)
EVERY = pytest.mark.parametrize("name", POLICIES)


@st.composite
def eligible_sets(draw_from: st.DrawFn, size: int) -> NDArray[np.bool_]:
    mask = np.array(draw_from(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=np.bool_)
    mask[NO_CONTACT] = True
    return mask


def cases() -> st.SearchStrategy[tuple[Ranks, float, NDArray[np.bool_]]]:
    return RANKS.flatmap(lambda ranks: st.tuples(st.just(ranks), FLOOR, eligible_sets(len(ranks))))


def law(name: str, check: Callable[[Policy, Ranks, NDArray[np.bool_]], None]) -> None:
    """Check a law for a policy over generated priorities and eligible sets."""

    @SETTINGS
    @given(cases())
    def over(case: tuple[Ranks, float, NDArray[np.bool_]]) -> None:
        ranks, floor, mask = case
        policy = POLICIES[name](ranks, floor)
        check(policy, policy.scores(CONTEXT), mask)

    over()


@EVERY
def test_probabilities_sum_to_one_and_are_zero_off_the_eligible_set(name: str) -> None:
    def check(policy: Policy, scores: Ranks, mask: NDArray[np.bool_]) -> None:
        pmf = policy.pmf(scores, mask)
        assert pmf.shape == scores.shape == mask.shape
        assert pmf.dtype == np.float64
        assert abs(pmf.sum() - 1) <= 1e-12
        assert (pmf >= 0).all()
        assert (pmf[~mask] == 0).all()

    law(name, check)


@EVERY
def test_the_same_scores_and_mask_give_the_same_bits_and_are_left_alone(name: str) -> None:
    def check(policy: Policy, scores: Ranks, mask: NDArray[np.bool_]) -> None:
        before = scores.copy(), mask.copy()
        pmf = policy.pmf(scores, mask)
        assert pmf.tobytes() == policy.pmf(scores.copy(), mask.copy()).tobytes()
        assert policy.scores(CONTEXT).tobytes() == scores.tobytes()
        np.testing.assert_array_equal(scores, before[0])
        np.testing.assert_array_equal(mask, before[1])

    law(name, check)


@EVERY
def test_scores_off_the_eligible_set_play_no_part(name: str) -> None:
    def check(policy: Policy, scores: Ranks, mask: NDArray[np.bool_]) -> None:
        for other in (0.0, -5.0, 1e9):
            assert policy.pmf(np.where(mask, scores, other), mask).tobytes() == policy.pmf(scores, mask).tobytes()

    law(name, check)


@EVERY
def test_no_contact_alone_has_probability_one(name: str) -> None:
    def check(policy: Policy, scores: Ranks, mask: NDArray[np.bool_]) -> None:
        alone = np.zeros_like(mask)
        alone[NO_CONTACT] = True
        pmf = policy.pmf(scores, alone)
        assert pmf[NO_CONTACT] == 1.0
        assert draw(pmf, LAST) == (NO_CONTACT, LAST, 1.0)

    law(name, check)


@EVERY
def test_a_version_names_kind_and_parameters(name: str) -> None:
    def check(policy: Policy, scores: Ranks, mask: NDArray[np.bool_]) -> None:
        del scores, mask
        assert policy.version.startswith(name)
        assert policy.version == policy.version

    law(name, check)


@EVERY
@pytest.mark.parametrize("u", [0.0, 1e-300, 0.5, 1 - 2**-30, LAST])
def test_whatever_the_draw_its_place_can_be_drawn_and_its_propensity_is_its_probability(name: str, u: float) -> None:
    def check(policy: Policy, scores: Ranks, mask: NDArray[np.bool_]) -> None:
        pmf = policy.pmf(scores, mask)
        place, used, propensity = draw(pmf, u)
        assert mask[place]
        assert propensity == pmf[place] > 0
        assert used == u

    law(name, check)


@SETTINGS
@given(cases())
def test_uniform_gives_every_eligible_action_the_same(case: tuple[Ranks, float, NDArray[np.bool_]]) -> None:
    ranks, _, mask = case
    pmf = Uniform(len(ranks)).pmf(np.zeros(len(ranks)), mask)
    assert (pmf[mask] == 1 / mask.sum()).all()


@SETTINGS
@given(cases())
def test_business_rules_keep_the_floor_and_favour_the_best(case: tuple[Ranks, float, NDArray[np.bool_]]) -> None:
    ranks, floor, mask = case
    pmf = BusinessRules(ranks, floor).pmf(ranks, mask)
    n, top = mask.sum(), mask & (ranks == ranks[mask].max())
    assert (pmf[mask] >= floor / n).all()
    np.testing.assert_allclose(pmf[mask & ~top], floor / n, rtol=1e-12)
    np.testing.assert_allclose(pmf[top], floor / n + (1 - floor) / top.sum(), rtol=1e-12)


def test_business_rules_of_another_floor_or_order_have_another_version() -> None:
    one, other = np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, 1.0])
    assert len({BusinessRules(ranks, floor).version for ranks in (one, other) for floor in (0.1, 0.2)}) == 4
    assert BusinessRules(one, 0.1).version == BusinessRules(one.copy(), 0.1).version


@SETTINGS
@given(cases())
def test_priority_takes_the_first_of_the_highest_and_no_contact_only_alone(
    case: tuple[Ranks, float, NDArray[np.bool_]],
) -> None:
    ranks, _, mask = case
    policy = Priority(ranks)
    pmf = policy.pmf(policy.scores(CONTEXT), mask)
    contacts = [place for place in np.flatnonzero(mask) if place != NO_CONTACT]
    chosen = max(contacts, key=lambda place: (ranks[place], -place)) if contacts else NO_CONTACT
    assert pmf[chosen] == 1.0


def test_a_message_of_the_lowest_priority_still_goes_before_no_contact() -> None:
    policy = Priority(np.zeros(3))
    assert policy.pmf(policy.scores(CONTEXT), np.array([True, False, True])).tolist() == [0.0, 0.0, 1.0]


def test_priorities_are_those_of_the_catalogue_place_by_place() -> None:
    found = priorities(CATALOGUE)
    assert found.shape == (CATALOGUE.size,)
    assert found[NO_CONTACT] == 0
    for place in range(1, CATALOGUE.size):
        assert found[place] == CATALOGUE.action(place).offer.priority


@st.composite
def pmfs(draw_from: st.DrawFn) -> NDArray[np.float64]:
    weights = draw_from(st.lists(st.just(0.0) | st.floats(1e-9, 1.0), min_size=1, max_size=40).filter(any))
    return np.asarray(np.array(weights) / np.sum(weights), dtype=np.float64)


@SETTINGS
@given(pmfs(), st.floats(0, LAST) | st.sampled_from([0.0, LAST]))
def test_a_draw_lands_where_the_cumulated_probability_first_exceeds_u(pmf: NDArray[np.float64], u: float) -> None:
    place, _, propensity = draw(pmf, u)
    assert propensity == pmf[place] > 0
    before = float(pmf[:place].sum())
    assert before <= u + 1e-12
    assert u <= before + pmf[place] + 1e-12


def test_a_total_a_hair_below_one_falls_to_the_last_place_that_can_be_drawn() -> None:
    pmf = np.array([0.0, *[0.1] * 10, 0.0])
    pmf[10] -= 1e-13
    assert pmf.cumsum()[-1] < LAST
    assert draw(pmf, LAST).place == 10


def test_the_ends_of_the_unit_interval_land_on_the_ends_of_what_can_be_drawn() -> None:
    pmf = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    assert [draw(pmf, u).place for u in (0.0, 0.25 - 2**-54, 0.25, LAST)] == [1, 1, 3, 3]


def random_pmf(seed: int, size: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.ones(size))
    weights[generator.random(size) < 0.3] = 0.0
    return np.asarray(weights / weights.sum(), dtype=np.float64)


@pytest.mark.parametrize("seed", range(5))
def test_evenly_spaced_numbers_are_drawn_in_proportion_to_within_one(seed: int) -> None:
    """Of N evenly spaced numbers an interval of length p holds p N, give or take one."""
    pmf, count = random_pmf(seed, 30), 20_000
    drawn = np.bincount([draw(pmf, (n + 0.5) / count).place for n in range(count)], minlength=len(pmf))
    assert np.abs(drawn - pmf * count).max() <= 1


@pytest.mark.parametrize("seed", range(3))
def test_seeds_are_drawn_in_proportion(seed: int) -> None:
    """Chi-square at 0.1 % over the seeds of 20,000 consecutive names."""
    pmf, count = random_pmf(seed, 30), 20_000
    seeds = (hashlib.blake2b(f"{seed}-{n}".encode(), digest_size=16).digest() for n in range(count))
    drawn = np.bincount([draw(pmf, uniform_number(one)).place for one in seeds], minlength=len(pmf))
    can = pmf > 0
    assert drawn[~can].sum() == 0
    assert stats.chisquare(drawn[can], pmf[can] * count).pvalue > 0.001


def test_numbers_of_seeds_lie_in_the_half_open_unit_interval_and_keep_their_order() -> None:
    assert uniform_number(bytes(16)) == 0.0
    assert uniform_number(b"\xff" * 16) == LAST < 1
    assert uniform_number(b"\x80" + bytes(15)) == 0.5


@SETTINGS
@given(st.binary(min_size=8, max_size=16), st.binary(max_size=8))
def test_a_number_is_the_first_fifty_three_bits_of_its_seed(seed: bytes, more: bytes) -> None:
    u = uniform_number(seed)
    assert u == (int.from_bytes(seed[:8], "big") >> 11) / 2**53
    assert uniform_number(seed[:8] + more) == u
