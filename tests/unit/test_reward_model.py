"""Reward models: river's laws for estimators, coefficients, and state as bytes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from river import checks

from models.policy.reward_model import (
    FACTORS,
    REWARD_MODELS,
    SHARED,
    FactoredKalman,
    RewardModel,
    block_names,
    pair_names,
    sigmoid,
)

Factory = Callable[[], Any]
BOTH = [pytest.param(make, id=name) for name, make in REWARD_MODELS.items()]
RIVERS = [
    pytest.param(make, check, id=f"{name}-{number}-{check.__name__}")
    for name, make in REWARD_MODELS.items()
    for number, check in enumerate(checks.yield_checks(make()))
]
OFFERS, CHANNELS, SLOTS = ("a", "b", "c"), ("email", "sms"), ("morning", "night")


def rows(count: int, seed: int) -> list[tuple[NDArray[np.float64], tuple[str | None, ...], bool]]:
    """Contexts, actions and conversions of a world where offer `a` works by email for those with x_1 > 0."""
    random = np.random.default_rng(seed)
    found: list[tuple[NDArray[np.float64], tuple[str | None, ...], bool]] = []
    for _ in range(count):
        x = np.append(1.0, random.normal(size=4))
        alone = random.random() < 0.2
        levels: tuple[str | None, ...] = (
            ("none", None, None) if alone else tuple(str(random.choice(names)) for names in (OFFERS, CHANNELS, SLOTS))
        )
        logit = -2.0 + (2.0 if levels[:2] == ("a", "email") and x[1] > 0 else 0.0)
        found.append((x, levels, bool(random.random() < sigmoid(logit))))
    return found


def taught(make: Factory, count: int = 4_000, seed: int = 1) -> RewardModel:
    oracle: RewardModel = make()
    for x, levels, converted in rows(count, seed):
        oracle.learn(x, levels, converted)
    return oracle


@pytest.mark.parametrize(("make", "check"), RIVERS)
def test_it_passes_rivers_laws_for_estimators(make: Factory, check: Callable[[Any], None]) -> None:
    check(make())


@pytest.mark.parametrize("make", BOTH)
def test_it_learns_what_works_for_whom(make: Factory) -> None:
    oracle = taught(make)
    fit, other = np.array([1.0, 1.5, 0, 0, 0]), np.array([1.0, -1.5, 0, 0, 0])
    best = oracle.logit(fit, ("a", "email", "morning"))
    assert best > oracle.logit(fit, ("b", "email", "morning")) + 0.7
    assert best > oracle.logit(fit, ("a", "sms", "morning")) + 0.7
    assert best > oracle.logit(other, ("a", "email", "morning")) + 0.7


@pytest.mark.parametrize("make", BOTH)
def test_the_coefficients_say_what_the_oracle_says(make: Factory) -> None:
    oracle = taught(make, 500)
    learnt = oracle.coefficients()
    for x, levels, _ in rows(50, 2):
        blocks = sum(float(learnt.blocks[name] @ x) for name in (SHARED, *block_names(levels)))
        pairs = sum(learnt.pairs[name] for name in pair_names(levels))
        assert blocks + pairs == pytest.approx(oracle.logit(x, levels), abs=1e-9)


@pytest.mark.parametrize("make", BOTH)
def test_one_that_is_written_and_read_again_goes_on_as_if_nothing_had_been(make: Factory) -> None:
    oracle, again = taught(make, 300), make()
    again.loads(oracle.dumps())
    assert again.dumps() == oracle.dumps()
    for x, levels, converted in rows(300, 3):
        oracle.learn(x, levels, converted)
        again.learn(x, levels, converted)
    oracle.forget(0.9)
    again.forget(0.9)
    assert again.dumps() == oracle.dumps()


@pytest.mark.parametrize("make", BOTH)
def test_an_unknown_action_is_scored_by_what_all_share(make: Factory) -> None:
    oracle = taught(make, 300)
    x = np.array([1.0, 0.3, -0.2, 0.1, 0.0])
    shared = float(oracle.coefficients().blocks[SHARED] @ x)
    assert oracle.logit(x, ("new", None, None)) == pytest.approx(shared, abs=1e-9)


@pytest.mark.parametrize("make", BOTH)
def test_leaving_alone_has_a_block_of_its_own_and_moves_no_channel(make: Factory) -> None:
    oracle: RewardModel = make()
    for x, _, converted in rows(50, 4):
        oracle.learn(x, ("none", None, None), converted)
    assert set(oracle.coefficients().blocks) == {SHARED, "offer=none"}
    assert not oracle.coefficients().pairs


def test_a_mapping_and_a_vector_teach_the_same() -> None:
    by_name, by_vector = FactoredKalman(), FactoredKalman()
    for x, levels, converted in rows(200, 5):
        named = {f"x{at}": value for at, value in enumerate(x[1:])}
        held = {factor: level for factor, level in zip(FACTORS, levels, strict=True) if level is not None}
        by_name.learn_one({**named, **held}, converted)
        by_vector.learn(x, levels, converted)
    assert by_name.dumps() == by_vector.dumps()


def test_one_conversion_among_rare_ones_does_not_make_the_next_certain() -> None:
    """A linearised step would jump by the whole spread; the mode of the posterior does not."""
    oracle = FactoredKalman(shared_variance=1.0, base_rate=0.002)
    x = np.append(1.0, np.full(40, 1.0))
    oracle.learn(x, ("a", "email", "morning"), converted=True)
    assert sigmoid(oracle.logit(x, ("a", "email", "morning"))) < 0.95


def test_forgetting_never_makes_it_surer_and_never_less_sure_than_it_began() -> None:
    oracle = taught(FactoredKalman, 2_000)
    assert isinstance(oracle, FactoredKalman)
    before = {name: np.diag(block.covariance).copy() for name, block in oracle._blocks.items()}
    oracle.forget(0.9)
    for name, block in oracle._blocks.items():
        after, prior = np.diag(block.covariance), oracle._prior(name, 5)
        assert (after >= before[name] - 1e-15).all()
        assert (after <= prior + 1e-12).all()
        assert np.linalg.eigvalsh(block.covariance).min() > 0
