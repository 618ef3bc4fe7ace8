"""The learned policy: probabilities, scores, and catalogues or bundles that do not fit."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.settings.mlflow_file import LearnerSettings
from models.catalogue.offers import NO_CONTACT, Catalogue, load_catalogue
from models.policy.context import READINGS
from models.policy.learned import Cursor, LearnedPolicy, PolicyVersion, SnapshotError, weigh
from models.policy.learner import ALONE, Learner, NamedAction
from models.policy.policy import draw

CATALOGUE = load_catalogue(Path(__file__).parents[2] / "service" / "catalogue.yaml")
SETTINGS = LearnerSettings(batch=50, warm_up=60)
KAPPA, SCALE = 100.0, 5.0
SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def act(place: int, catalogue: Catalogue = CATALOGUE) -> NamedAction:
    if place == NO_CONTACT:
        return ALONE
    offer, channel, slot = catalogue.action(place)
    return NamedAction(offer.id, channel, slot)


def taught(rows: int = 300, seed: int = 1) -> PolicyVersion:
    learner, random = Learner(SETTINGS), np.random.default_rng(seed)
    for _ in range(rows):
        context, one = (
            random.normal(size=len(READINGS)),
            act(int(random.integers(CATALOGUE.size)) if random.random() < 0.8 else NO_CONTACT),
        )
        learner.zero(context, one)
        if random.random() < 0.2:
            value = float(random.lognormal(5, 1))
            learner.one(context, one, value)
            learner.settle(context, one, value * 2, value)
        if random.random() < 0.1:
            learner.penalise(one, 500.0)
    return learner.snapshot("test", 1_000, Cursor("0-1", 7))


SNAPSHOT = taught()
POLICY = LearnedPolicy(SNAPSHOT, CATALOGUE)
CONTEXTS = np.random.default_rng(2).normal(size=(40, len(READINGS)))


@given(SCORES)
def test_probabilities_sum_to_one_and_none_is_below_the_floor(scores: list[float]) -> None:
    p = weigh(np.array(scores), KAPPA, SCALE)
    assert abs(p.sum() - 1.0) <= 1e-12
    assert (p >= 1 / (len(scores) * (1 + KAPPA)) * (1 - 1e-12)).all()


@given(SCORES)
def test_the_best_is_the_likeliest_and_less_is_never_likelier(scores: list[float]) -> None:
    values = np.array(scores)
    p = weigh(values, KAPPA, SCALE)
    assert p[np.argmax(values)] >= p.max() - 1e-12
    rest = np.delete(np.arange(len(values)), np.argmax(values))
    ordered = rest[np.argsort(values[rest], kind="stable")]
    assert (np.diff(p[ordered]) >= -1e-15).all()


@given(SCORES, st.floats(0.1, 50.0))
def test_another_currency_changes_no_probability_once_the_best_is_above_the_least_scale(
    scores: list[float], factor: float
) -> None:
    values = np.append(np.array(scores), 1e4 * SCALE)
    np.testing.assert_allclose(weigh(values, KAPPA, SCALE), weigh(values * factor, KAPPA, SCALE * factor), rtol=1e-9)


def test_where_all_contacts_cost_more_than_they_bring_nearly_all_is_left_alone() -> None:
    p = weigh(np.append(0.0, np.full(59, -SCALE)), KAPPA, SCALE)
    assert p[0] > 0.99


def test_the_snapshot_of_these_tests_has_every_part() -> None:
    assert SNAPSHOT.smear > 1
    assert 0 < SNAPSHOT.bounds[0] < SNAPSHOT.bounds[1] < 1e6
    assert min(SNAPSHOT.penalties["|"], SNAPSHOT.penalties["NO_CONTACT"]) > 0


def test_leaving_alone_scores_nought_exactly() -> None:
    for context in CONTEXTS:
        assert POLICY.scores(context)[NO_CONTACT] == 0.0


def test_scores_are_the_sum_of_their_parts() -> None:
    levers = np.append(0.0, np.repeat([offer.lever for offer in CATALOGUE.offers], 20))
    for context in CONTEXTS:
        found = POLICY.score(context)
        above = levers * (found.worth - found.worth[0])
        net = above - found.cost - (found.penalty - found.penalty[0])
        np.testing.assert_allclose(found.net[1:], net[1:], rtol=1e-12)
        assert ((found.conversion > 0) & (found.conversion <= 1)).all()


def test_the_kernel_agrees_with_the_oracles_own_coefficients() -> None:
    for context in CONTEXTS[:5]:
        x = POLICY.standardised(context)
        found = POLICY.score(context).conversion
        for place in range(0, CATALOGUE.size, 7):
            levels = dict(zip(("offer", "channel", "timing_slot"), act(place), strict=True))
            named = [f"{factor}={level}" for factor, level in levels.items() if level is not None]
            blocks = [SNAPSHOT.blocks[name] for name in ("", *named) if name in SNAPSHOT.blocks]
            logit = sum(float(np.frombuffer(block) @ x) for block in blocks)
            pairs = [f"{a}|{b}" for a in named for b in named if f"{a}|{b}" in SNAPSHOT.pairs]
            logit += sum(SNAPSHOT.pairs[pair] for pair in pairs)
            assert found[place] == pytest.approx(min(np.exp(logit), 1.0), rel=1e-9)


def test_draws_follow_the_probabilities() -> None:
    random = np.random.default_rng(3)
    eligible = random.random(CATALOGUE.size) < 0.1
    eligible[NO_CONTACT] = True
    pmf = POLICY.pmf(POLICY.scores(CONTEXTS[0]), eligible)
    drawn = np.bincount([draw(pmf, float(u)).place for u in random.random(20_000)], minlength=CATALOGUE.size)
    assert drawn[~eligible].sum() == 0
    expected = 20_000 * pmf
    large = expected >= 5
    # Chi-square of the cells that are large enough; its mean is their number, its spread the root of twice that.
    found = ((drawn - expected)[large] ** 2 / expected[large]).sum()
    assert found < large.sum() + 5 * (2 * large.sum()) ** 0.5


def test_a_snapshot_is_read_as_it_was_written_and_its_name_is_its_content() -> None:
    again = PolicyVersion.loads(SNAPSHOT.dumps())
    assert again == SNAPSHOT
    assert again.version == SNAPSHOT.version
    assert taught(301).version != SNAPSHOT.version


def test_the_same_lessons_give_the_same_bytes() -> None:
    assert taught().dumps() == SNAPSHOT.dumps()


def test_an_offer_that_is_new_has_no_block_and_one_that_is_gone_is_ignored() -> None:
    offers = [*CATALOGUE.offers[1:], CATALOGUE.offers[0].model_copy(update={"id": "brand_new"})]
    other = CATALOGUE.model_copy(update={"offers": tuple(offers), "caps": ()})
    policy = LearnedPolicy(SNAPSHOT, Catalogue.model_validate(other.model_dump()))
    before, after = POLICY.score(CONTEXTS[0]), policy.score(CONTEXTS[0])
    np.testing.assert_array_equal(before.net[21:], after.net[1 : CATALOGUE.size - 20])
    assert np.isfinite(after.net).all()


@pytest.mark.parametrize(
    "damage",
    [
        {"features": (*READINGS[:-1], "harm_level")},
        {"mean": SNAPSHOT.mean[:-8]},
        {"sd": bytes(len(SNAPSHOT.sd))},
        {"value": np.full(len(READINGS) + 1, np.nan).tobytes()},
        {"smear": float("inf")},
        {"kappa": 0.0},
        {"pairs": {"offer=a|channel=b": float("nan")}},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_a_snapshot_that_cannot_be_served_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(SnapshotError):
        PolicyVersion.loads(msgspec.structs.replace(SNAPSHOT, **damage).dumps())


@given(st.binary(max_size=200))
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(SnapshotError):
        PolicyVersion.loads(data)


def test_no_marker_of_harm_is_part_of_the_context() -> None:
    assert not {name for name in READINGS if "harm" in name or "loss" in name or "night_share" in name}


def test_what_leans_towards_an_action_sums_to_what_its_blocks_say() -> None:
    for place in (0, 1, 57):
        leaning = POLICY.contributions(CONTEXTS[1], place, CATALOGUE)
        x = POLICY.standardised(CONTEXTS[1])
        named = zip(("offer", "channel", "timing_slot"), act(place), strict=True)
        blocks = [SNAPSHOT.blocks[f"{factor}={level}"] for factor, level in named if level is not None]
        assert sum(leaning.values()) == pytest.approx(sum(float(np.frombuffer(one) @ x) for one in blocks))
