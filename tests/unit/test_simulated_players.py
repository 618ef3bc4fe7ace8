"""Simulated players: the same for the same seed, and a truth counted like the reward."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from features.events import EVENT, moment
from models.catalogue.offers import NO_CONTACT, load_catalogue
from pipelines.learning.attribution import RewardTerms
from pipelines.simulation import players

ROOT = Path(__file__).parents[2]
CATALOGUE = load_catalogue(ROOT / "service" / "catalogue.yaml")
PEOPLE = players.people(200, 1, CATALOGUE)


def test_the_truth_is_counted_as_the_reward_counts() -> None:
    terms = RewardTerms.read()
    for product, margin in players.MARGIN.items():
        assert terms.value_minor({"type": "bet", "product": product, "amount_minor": 100}) == pytest.approx(
            100 * margin
        )
    assert terms.penalties_minor["unsubscribed"] == players.UNSUBSCRIBED_MINOR
    assert terms.penalties_minor["limit_set"] == players.LIMIT_MINOR
    settings = msgspec.yaml.decode((ROOT / "mlflow.yaml").read_bytes())
    assert settings["reward"]["window_days"] == players.WINDOW_DAYS


def test_the_same_seed_gives_the_same_players() -> None:
    again = players.people(200, 1, CATALOGUE)
    for one, other in zip(PEOPLE, again, strict=True):
        assert one._replace(taste=0, reach=0, hours=0) == other._replace(taste=0, reach=0, hours=0)  # type: ignore[arg-type]
        np.testing.assert_array_equal(one.taste, other.taste)


def test_leaving_alone_has_no_net_value_and_no_effect() -> None:
    for person in PEOPLE[:20]:
        assert players.net_value(person, CATALOGUE, 0, 1.0)[NO_CONTACT] == 0.0
        assert players.effect(person, CATALOGUE, 0)[NO_CONTACT] == 0.0


def test_contacts_wear_off() -> None:
    for person in PEOPLE[:20]:
        assert (players.effect(person, CATALOGUE, 3)[1:] <= players.effect(person, CATALOGUE, 0)[1:]).all()


def test_net_value_is_worth_less_costs_by_the_truth_of_many_draws() -> None:
    """One action of one player, played out 40,000 times: play brought, play by themselves, costs, annoyance."""
    person, random = PEOPLE[0], np.random.default_rng(3)
    place = 1 + int(np.argmax(players.net_value(person, CATALOGUE, 0, 1.0)[1:]))
    action, brought = CATALOGUE.action(place), players.effect(person, CATALOGUE, 0)[place]
    count = 40_000
    moved = random.random(count) < brought
    alone = random.random(count) < 1 - np.exp(-players.WINDOW_DAYS * person.play_rate(1.0))
    worth = np.array([players.worth(players.play(person, random, moment(0))) for _ in range(400)]).mean()
    cost = (moved | alone) * action.offer.cost_minor + CATALOGUE.channels[action.channel].cost_minor  # type: ignore[index]
    annoyed = person.annoyed * players.UNSUBSCRIBED_MINOR + person.harmed * players.LIMIT_MINOR * (
        action.offer.purpose == "bonus"
    )
    found = (moved * worth - cost).mean() - annoyed
    assert players.net_value(person, CATALOGUE, 0, 1.0)[place] == pytest.approx(found, rel=0.1, abs=5)


def test_everything_players_do_is_an_event_that_the_house_takes() -> None:
    random, at = np.random.default_rng(1), moment(1_790_000_000_000_000)
    for person in PEOPLE[:20]:
        for number, fields in enumerate([*players.arrival(person, random, at), *players.past(person, random, at)]):
            body = {"event_id": f"e{number}", "player_id": person.id, **fields}
            EVENT.validate_json(msgspec.json.encode(body | {"occurred_at": fields["occurred_at"].isoformat()}))
            assert fields["occurred_at"] < at
