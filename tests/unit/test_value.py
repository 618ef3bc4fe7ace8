"""The worth of conversions and the cost of harm: estimates against a known truth."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.policy.value import PenaltyModel, ValueModel

SIZE = 6


def taught(rows: int, lag: int, seed: int = 1) -> tuple[ValueModel, float]:
    """A model whose values are settled `lag` conversions late, and are told at a third of their size before."""
    random, model = np.random.default_rng(seed), ValueModel(SIZE)
    waiting: list[tuple[NDArray[np.float64], str, float]] = []
    total = 0.0
    for _ in range(rows):
        x = np.append(1.0, random.normal(size=SIZE - 1))
        offer = str(random.choice(["a", "b"]))
        value = float(np.exp(7.0 + 0.4 * x[1] + 0.3 * (offer == "b") + random.normal(0, 0.8)))
        total += value
        model.learn(x, offer, value / 3)
        waiting.append((x, offer, value))
        if len(waiting) > lag:
            late, which, final = waiting.pop(0)
            model.settle(late, which, final / 3, final)
    return model, total / rows


def expected(model: ValueModel, seed: int = 2) -> float:
    """Mean value that the model expects of fresh conversions."""
    m, shifts, smear = model.fitted()
    random = np.random.default_rng(seed)
    xs = np.column_stack([np.ones(4_000), random.normal(size=(4_000, SIZE - 1))])
    k = np.where(random.random(4_000) < 0.5, shifts["a"], shifts["b"])
    return float(smear * np.exp(xs @ m + k).mean())


@pytest.mark.parametrize("lag", [0, 100, 400])
def test_values_that_come_late_do_not_bend_what_a_conversion_is_worth(lag: int) -> None:
    model, truth = taught(2_000, lag)
    # The mean of 2,000 values of this spread has a standard error of 2.5 %.
    assert expected(model) == pytest.approx(truth, rel=0.12)


def test_before_enough_are_final_the_provisional_ones_are_used() -> None:
    model, truth = taught(300, lag=1_000)
    assert expected(model) == pytest.approx(truth / 3, rel=0.3)


def test_an_offer_that_brings_more_has_the_greater_shift() -> None:
    model, _ = taught(3_000, 50)
    _, shifts, _ = model.fitted()
    assert shifts["b"] - shifts["a"] == pytest.approx(0.3, abs=0.1)


def test_what_was_taken_back_leaves_nothing_behind() -> None:
    model, _ = taught(200, 0)
    np.testing.assert_allclose(model._open.gram, 0, atol=1e-9)
    assert model._open.rows == pytest.approx(0, abs=1e-9)


def test_one_that_is_read_again_goes_on_as_if_nothing_had_been() -> None:
    model, _ = taught(120, 30)
    again = ValueModel.loads(model.dumps())
    assert again.dumps() == model.dumps()
    for one in (model, again):
        one.forget(0.9)
        one.learn(np.ones(SIZE), "c", 50.0)
    assert again.dumps() == model.dumps()


def test_a_mean_penalty_is_shrunk_to_the_channels_and_that_to_the_whole() -> None:
    model = PenaltyModel()
    for _ in range(1_000):
        model.enter("a", "sms")
    for _ in range(100):
        model.learn("a", "sms", 500.0)
    model.enter("b", "sms")
    model.enter("b", "email")
    means = model.means()
    assert 40 < means["a|sms"] < 50
    assert means["|sms"] < means["b|sms"] * 1.2
    assert means["b|email"] < means["b|sms"]


def test_leaving_alone_has_a_mean_of_its_own() -> None:
    model = PenaltyModel()
    for _ in range(200):
        model.enter("NO_CONTACT", None)
        model.enter("a", "sms")
    model.learn("NO_CONTACT", None, 1_000.0)
    assert model.means()["|"] == 0
    assert model.means()["NO_CONTACT"] == pytest.approx(1_000 / 250)


def test_old_penalties_fade() -> None:
    model = PenaltyModel()
    for _ in range(500):
        model.enter("a", "sms")
        model.learn("a", "sms", 100.0)
    before = model.means()["a|sms"]
    for _ in range(500):
        model.enter("a", "sms")
        model.forget(0.99)
    assert model.means()["a|sms"] < before / 3
