"""A player at the HTTP door, as the house sees them now: facts, features with ages, harm, recent decisions."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Path, Query

from features.events import ID_PATTERN, is_id
from features.moments import when
from features.schema import MAX_AGE_SECONDS, VECTOR
from models.catalogue.offers import NO_CONTACT
from service.api.routing import Answer, Deps, add_route, respond
from service.decisions.assess import Assessment
from service.decisions.behaviour import Behaviour
from service.decisions.explain import action_names
from service.decisions.explain_player import ExplainedPlayer, explained, read_player
from service.decisions.record import Record, load_record
from service.decisions.serving import Serving
from service.errors import InvalidIdError, UnknownBrandError, UnknownPlayerError
from service.players import facts, harm

PlayerId = Annotated[str, Path(pattern=ID_PATTERN, description="Your id of the player.")]


BrandName = Annotated[str, Query(max_length=32, description="Whose contacts are asked about.")]


class PlayerAnswer(Answer):
    """A player as the house sees them now."""

    player_id: str
    facts: list[dict[str, Any]]
    features: dict[str, Any]
    harm: dict[str, Any]
    stage: str
    experiment: dict[str, str] | None
    experiments: list[dict[str, Any]]
    brand: str
    catalogue: str
    allowed: list[dict[str, str]]
    denied: list[dict[str, Any]]
    put_off: list[dict[str, str]]
    decisions: list[dict[str, Any]]


async def get_player(player_id: PlayerId, deps: Deps, brand: BrandName = "main") -> Any:  # noqa: ANN401 - a response
    """What is known of a player: facts, features with their age, harm, decisions; what may be sent, and why not."""
    serving = deps.serving
    if not is_id(player_id):
        raise InvalidIdError
    try:
        brand = serving.brand(brand)
    except ValueError as error:
        raise UnknownBrandError(str(error)) from error
    player = await read_player(player_id, brand, serving, deps.ledger)
    records = [load_record(held) for held in await deps.ledger.recent(player.keys)]
    if not player.snapshot.facts and not player.snapshot.features and not records:
        raise UnknownPlayerError
    return respond(_shown(player, records, serving))


def _shown(player: ExplainedPlayer, records: list[Record], serving: Serving) -> dict[str, Any]:
    snapshot, assessed = player.snapshot, player.assessment
    may = explained(assessed, serving)
    scored = serving.churn is not None and not assessed.objected
    return {
        "player_id": player.own_id,
        "player": player.keys.player,
        "household": snapshot.household,
        "at": when(assessed.at_us),
        "brand": may["brand"],
        "sandbox": serving.house.sandbox,
        "facts": [_fact(one) for one in facts.registers(snapshot.facts)],
        "features": _features(assessed.behaviour),
        "churn": serving.churn.score(assessed.behaviour.vector) if serving.churn and scored else None,
        "harm": _harm(assessed, serving),
        "stage": assessed.stage,
        "rules": may["packs"],
        "rulebook": may["rulebook"],
        "catalogue": may["catalogue"],
        "inputs": may["inputs"],
        "experiment": next(({"key": one["key"], "variant": one["variant"]} for one in may["experiments"]), None),
        "experiments": may["experiments"],
        "allowed": may["allowed"],
        "denied": may["denied"],
        "put_off": may["put_off"],
        "reservations": [
            {"decision_id": name, "state": one.state, "offer": one.offer, "channel": one.channel}
            | {"send_at": when(one.send_us), "valid_until": when(one.valid_until_us)}
            for name, one in sorted(snapshot.held.own.items(), key=lambda held: -held[1].send_us)
        ],
        "decisions": [_decision(record, serving) for record in records],
    }


def _harm(assessed: Assessment, serving: Serving) -> dict[str, Any]:
    found = assessed.harm
    speaking = harm.explained(found, assessed.inputs.places, serving.book.harm)
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
    action = action_names(NO_CONTACT, catalogue)
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
