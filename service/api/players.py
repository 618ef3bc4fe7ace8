"""A player at the HTTP door, as the house sees them now: facts, features with ages, harm, recent decisions."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Path

from features.events import ID_PATTERN, is_id
from features.moments import when
from features.schema import MAX_AGE_SECONDS, VECTOR
from models.catalogue.experiment import variant
from models.catalogue.offers import NO_CONTACT
from service.api.routing import Answer, Dependencies, Deps, ProblemError, add_route, respond
from service.contacts.snapshot import NO_DECISION, PlayerSnapshot
from service.decisions.behaviour import Behaviour, read_behaviour
from service.decisions.decide import DecisionRequest, own_id, situate
from service.decisions.eligibility import Situation
from service.decisions.explain import named
from service.decisions.record import Record, load_record
from service.decisions.serving import Serving, player_keys
from service.players import facts, harm

PlayerId = Annotated[str, Path(pattern=ID_PATTERN, description="Your id of the player.")]


class PlayerAnswer(Answer):
    """A player as the house sees them now."""

    player_id: str
    facts: list[dict[str, Any]]
    features: dict[str, Any]
    harm: dict[str, Any]
    stage: str
    experiment: dict[str, str]
    decisions: list[dict[str, Any]]


async def get_player(player_id: PlayerId, deps: Deps) -> Any:  # noqa: ANN401 - a response
    """What is known of a player: facts with their dates, features with their age, harm, recent decisions."""
    serving = deps.serving
    if not is_id(player_id):
        raise ProblemError(422, "invalid_id", "ids are 1 to 64 printable ASCII characters without space or braces")
    asked = serving.house.player_key(player_id)

    async def seen(player: str) -> tuple[str, PlayerSnapshot, list[Record]]:
        keys = player_keys(serving, player)
        snapshot = await deps.ledger.view(keys, NO_DECISION)
        return player, snapshot, [load_record(one) for one in await deps.ledger.recent(keys)]

    player, snapshot, records = await deps.ledger.at_home(asked, seen)
    own = own_id(DecisionRequest(player_id=player_id), snapshot, linked=player != asked)
    if not snapshot.facts and not snapshot.features and not records:
        raise ProblemError(404, "unknown_player", "nothing is known of this player")
    return respond(_told(own, player, snapshot, records, deps))


def _told(
    player_id: str, player: str, snapshot: PlayerSnapshot, records: list[Record], deps: Dependencies
) -> dict[str, Any]:
    serving = deps.serving
    now_us = serving.house.now_us(snapshot.real_us)
    behaviour, known = read_behaviour(serving.plan, snapshot, now_us), facts.read(snapshot.facts, "main")
    experiment = serving.layout.catalogue.experiment
    group = variant(experiment.key, player_id, experiment.variants)
    request = DecisionRequest(player_id=player_id)
    situation = situate(request, serving, known, behaviour, snapshot.held.own.values(), now_us, group)
    objected = situation.inputs.objects is not False and known.known
    return {
        "player_id": player_id,
        "player": player,
        "household": snapshot.household,
        "at": when(now_us),
        "sandbox": serving.house.sandbox,
        "facts": [_fact(one) for one in facts.registers(snapshot.facts)],
        "features": _features(behaviour),
        "churn": None if serving.churn is None or objected else serving.churn.score(behaviour.vector),
        "harm": _harm(situation, serving),
        "stage": situation.stage,
        "rules": list(serving.law.packs(situation.inputs.places)),
        "inputs": situation.inputs.audit(serving.law.needs(situation.inputs.places)),
        "experiment": {"key": experiment.key, "variant": group},
        "reservations": [
            {"decision_id": name, "state": one.state, "offer": one.offer, "channel": one.channel}
            | {"send_at": when(one.send_us), "valid_until": when(one.valid_until_us)}
            for name, one in sorted(snapshot.held.own.items(), key=lambda held: -held[1].send_us)
        ],
        "decisions": [_decision(record, serving) for record in records],
    }


def _harm(situation: Situation, serving: Serving) -> dict[str, Any]:
    found = situation.harm
    speaking = harm.told(found, situation.inputs.places, serving.book.harm)
    return {"level": found.level, "sources": found.sources, "markers": found.markers, "speaking": speaking}


def _fact(one: facts.Assertion) -> dict[str, str | None]:
    """A fact with the moment since which it holds; None for those that bear no such moment, as a birth date."""
    kind = one.field.partition(":")[0]
    if one.moment_us == 0:
        return {"fact": one.field, "value": one.text, "since": "assumed"}
    if kind == "opened":
        return {"fact": one.field, "value": "account opened", "since": when(int(one.text))}
    if kind == "time_out":
        return {"fact": one.field, "value": f"until {when(one.moment_us)}", "since": None}
    return {"fact": one.field, "value": one.text, "since": None if kind == "birth_date" else when(one.moment_us)}


def _features(behaviour: Behaviour) -> dict[str, Any]:
    """Features brought forward to now; they are stale when the consumer lags more than `max_age_seconds`."""
    values = {
        reading.name: {"value": None if np.isnan(value) else value, "unit": reading.unit}
        for reading, value in zip(VECTOR, behaviour.vector.tolist(), strict=True)
    }
    return {
        "age_seconds": behaviour.age_seconds,
        "max_age_seconds": max(MAX_AGE_SECONDS.values()),
        "as_of": when(behaviour.as_of_us),
        "trouble": behaviour.trouble,
        "values": values,
    }


def _decision(record: Record, serving: Serving) -> dict[str, Any]:
    sent, catalogue = record.action, serving.layout.catalogue
    action = named(NO_CONTACT, catalogue)
    if sent is not None:
        action = {"offer": sent.offer, "channel": sent.channel, "timing_slot": sent.timing_slot}
    return {
        "decision_id": record.decision_id,
        "at": when(record.at_us),
        **action,
        "propensity": record.choice.propensity,
        "policy_version": record.choice.policy_version,
        "excluded_by": list(record.choice.excluded),
    }


def add(app: FastAPI) -> None:
    """Add the route to an application."""
    add_route(app, "/v1/players/{player_id:path}", get_player, "GET", PlayerAnswer, "Know")
