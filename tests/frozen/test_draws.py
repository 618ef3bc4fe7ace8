"""Draws, probabilities, buckets and places: what was drawn once is drawn again, for ever."""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
import pytest
from support.first_build import HOUSE, differences, frozen_catalogue, frozen_names, frozen_rulebook

from models.catalogue.candidates import CandidateSpace
from models.catalogue.experiment import bucket, fnv1a32, variant
from models.experiments.allocation import of_catalogue
from models.experiments.assignment import Splits
from models.policy.learned import weigh
from models.policy.policy import BusinessRules, Policy, Priority, Uniform, draw, priorities, uniform_number
from service.contacts.limits import Held
from service.contacts.snapshot import PlayerSnapshot
from service.decisions.compose import compose
from service.decisions.decide import requested_id
from service.decisions.record import pack_places
from service.decisions.request import DecisionRequest
from service.decisions.serving import Serving
from service.rules.compiler import CompiledRulebook


def house_moments(real_us: int) -> int:
    return HOUSE.now_us(real_us)


def uniform_numbers(seed: str) -> str:
    return uniform_number(bytes.fromhex(seed)).hex()


@cache
def table() -> Serving:
    catalogue = frozen_catalogue()
    ranks = priorities(catalogue)
    drawn: dict[str, Policy] = {"learnt": Uniform(catalogue.size), "uniform": Uniform(catalogue.size)}
    drawn |= {"business_rules": BusinessRules(ranks, catalogue.exploration_floor), "priority": Priority(ranks)}
    space = CandidateSpace(catalogue)
    return Serving(
        house=HOUSE,
        plan=None,
        law=CompiledRulebook(frozen_rulebook(), space),
        policies=drawn,
        churn=None,
        splits=Splits(of_catalogue(catalogue.experiment), space),
    )


NOBODY: Final = PlayerSnapshot(
    real_us=HOUSE.real_us,
    facts={},
    features={},
    ledger_version="0",
    held=Held(),
    watermark_us=None,
    seal=bytes(32),
    record=None,
)


def decisions(asked: dict[str, Any]) -> dict[str, Any]:
    """The parts of a decision that hang on ids alone, whatever is known of the player."""
    request = DecisionRequest.model_validate(asked["body"])
    key = HOUSE.player_key(request.player_id)
    name = requested_id(HOUSE, key, key, asked["seed"])
    record = compose(request, table(), NOBODY, (key, request.player_id), name, asked["attempt"]).record
    (member,) = record.experiments
    return {
        "decision_id": record.decision_id,
        "u": record.choice.u.hex(),
        "request": record.request.hex(),
        "experiment": member.key,
        "variant": member.variant,
        "bucket": member.bucket,
        "policy_version": record.choice.policy_version,
        "catalogue": record.versions.catalogue,
        "rules": record.versions.rules,
    }


def draws(asked: dict[str, Any]) -> list[Any]:
    pmf = np.array([float.fromhex(one) for one in asked["pmf"]])
    drawn = draw(pmf, float.fromhex(asked["u"]))
    return [drawn.place, drawn.propensity.hex()]


def probabilities(asked: dict[str, Any]) -> list[str]:
    scores, eligible = np.array(asked["scores"], dtype=np.float64), np.array(asked["eligible"], dtype=np.bool_)
    match asked["policy"]:
        case "uniform":
            pmf = Uniform(len(scores)).pmf(scores, eligible)
        case "business_rules":
            pmf = BusinessRules(scores, asked["floor"]).pmf(scores, eligible)
        case "priority":
            pmf = Priority(scores).pmf(scores, eligible)
        case _:
            pmf = np.zeros(len(scores))
            pmf[eligible] = weigh(scores[eligible], asked["kappa"], asked["least_scale_minor"])
    return [one.hex() for one in pmf.tolist()]


def candidates(place: int) -> Any:
    """Size of the catalogue at 0, then the action of each place."""
    catalogue = frozen_catalogue()
    if place == 0:
        return [catalogue.size, *catalogue.shape]
    offer, channel, timing_slot = catalogue.action(place)
    assert catalogue.place(offer.id, channel, timing_slot) == place
    return [offer.id, channel, timing_slot]


def candidate_sets(chosen: list[int]) -> str:
    layout = CandidateSpace(frozen_catalogue())
    data = layout.dumps(sum(layout.bit(place) for place in chosen))
    held = np.isin(np.arange(layout.catalogue.size), chosen)
    assert pack_places(held) == data
    return data.hex()


def fnv_hashes(text: str) -> int:
    return fnv1a32(text)


def experiment_variants(asked: list[Any]) -> list[Any]:
    key, unit, shares = asked
    return [bucket(key, unit), variant(key, unit, shares)]


def policy_names(name: str) -> str:
    return table().policies["learnt" if name == "policy" else name].version


def policy_2026(player_id: str) -> list[Any]:
    """Place and variant of a player in the experiment of the frozen catalogue."""
    (member,) = table().splits.assign(player_id).memberships
    assert member.key == "policy_2026"
    return [member.bucket, member.variant]


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    one.__name__: one
    for one in (
        house_moments,
        uniform_numbers,
        decisions,
        draws,
        probabilities,
        candidates,
        candidate_sets,
        fnv_hashes,
        experiment_variants,
        policy_2026,
        policy_names,
    )
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_what_the_first_build_gave(name: str) -> None:
    assert differences("draws", name, FUNCTIONS[name]) == []


def test_every_file_has_its_function() -> None:
    assert frozen_names("draws") == FUNCTIONS.keys()
