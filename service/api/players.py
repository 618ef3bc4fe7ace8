"""A player at the HTTP door, as the house sees them now: facts, features with ages, harm, recent decisions."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isnan
from typing import Annotated, Any, Final

import numpy as np
from fastapi import FastAPI, Path, Query, Response
from msgspec import structs

from features import image
from features.events import ID_PATTERN, is_id
from features.moments import when
from features.schema import MAX_AGE_SECONDS, VECTOR
from models.catalogue.offers import NO_CONTACT
from service.api.routing import Deps, Operation, add_route, respond
from service.api.schemas import (
    ExperimentPlace,
    Fact,
    FeatureValue,
    PlayerAnswer,
    PlayerDecision,
    PlayerFeatures,
    PlayerHarm,
    ReservedContact,
)
from service.contacts.entries import Reservation
from service.decisions.assess import Assessment, Behaviour
from service.decisions.explain import action_names
from service.decisions.explain_player import ExplainedPlayer, Explanation, explained, read_player
from service.decisions.kept import KeptDecision, load_stored
from service.decisions.reasons import tells_place
from service.decisions.serving import Serving
from service.errors import InvalidIdError, UnknownBrandError, UnknownPlayerError
from service.players import facts

_DEPOSITED: Final = [one.name for one in VECTOR].index("first_deposit_days_ago")

PlayerId = Annotated[str, Path(pattern=ID_PATTERN, description="Your id of the player.")]


BrandName = Annotated[str, Query(max_length=32, description="Whose contacts are asked about.")]


async def get_player(player_id: PlayerId, deps: Deps, brand: BrandName = "main") -> Response:
    """What is known of a player, and what may be sent to them.

    Facts, features with their age, signs of harm, recent decisions; what may be sent from when, what not and why. Any
    of a player's linked ids will do. Facts, what rules read, the household, the first id, and what tells where the
    player lives (their packs of rules, reasons of a place, local time) are told to a key that allows `personal`; else
    `withheld` names what is left out or shortened, and moments are in UTC.
    """
    serving = deps.serving
    if not is_id(player_id):
        raise InvalidIdError
    try:
        brand = serving.brand(brand)
    except ValueError as error:
        raise UnknownBrandError(str(error)) from error
    player = await read_player(player_id, brand, serving, deps.ledger)
    recent = [load_stored(held).kept for held in await deps.ledger.recent(player.keys)]
    behaved = image.holds_any(player.snapshot.features or {})
    if facts.nothing_told(player.snapshot.facts) and not behaved and not recent:
        raise UnknownPlayerError
    answer = _shown(player, recent, serving)
    return respond(answer if "personal" in deps.caller.scopes else _impersonal(answer, player_id, serving))


def _impersonal(answer: PlayerAnswer, asked: str, serving: Serving) -> PlayerAnswer:
    """The answer without what records seal and what tells where the player lives, under the id that was asked about."""
    stops = [stop for stop in answer.stops if stop.scope != "jurisdiction"]
    named, markers = {stop.rule for stop in stops}, serving.book.harm.markers

    def shown(rule: str) -> bool:
        return rule in named if rule.startswith("stop:") else not tells_place(rule, serving.reasons)

    without: dict[str, Any] = {"household": None, "facts": [], "inputs": {}, "rules": []}
    shortened: dict[str, Any] = {
        "denied": [one for one in answer.denied if shown(one.rule)],
        "put_off": [one for one in answer.put_off if shown(one.rule)],
        "stops": stops,
        "decisions": [structs.replace(one, excluded_by=[*filter(shown, one.excluded_by)]) for one in answer.decisions],
        "harm": structs.replace(
            answer.harm, speaking=[one for one in answer.harm.speaking if not markers[one.marker].places]
        ),
    }
    withheld = ["player_id", *without, *shortened]
    allowed = [structs.replace(one, send_at=_in_utc(one.send_at)) for one in answer.allowed]
    return structs.replace(answer, player_id=asked, withheld=withheld, allowed=allowed, **without, **shortened)


def _in_utc(local: str) -> str:
    return datetime.fromisoformat(local).astimezone(UTC).isoformat(timespec="minutes")


def _shown(player: ExplainedPlayer, recent: list[KeptDecision], serving: Serving) -> PlayerAnswer:
    snapshot, assessed = player.snapshot, player.assessment
    may = explained(assessed, serving)
    scored = serving.churn is not None and not assessed.objected
    return PlayerAnswer(
        player_id=player.own_id,
        player=player.keys.player,
        household=snapshot.household,
        at=when(assessed.at_us),
        brand=may.brand,
        sandbox=serving.house.sandbox,
        facts=[_fact(asserted) for asserted in facts.registers(snapshot.facts)],
        features=_features(assessed.behaviour),
        churn=serving.churn.score(assessed.behaviour.vector) if serving.churn and scored else None,
        harm=_harm(assessed, may),
        stage=assessed.stage,
        rules=may.packs,
        rulebook=may.rulebook,
        catalogue=may.catalogue,
        inputs=may.inputs,
        churn_is_default=bool(isnan(assessed.behaviour.vector[_DEPOSITED])) if serving.churn and scored else None,
        experiment=next((ExperimentPlace(key=one.key, variant=one.variant) for one in may.experiments), None),
        experiments=may.experiments,
        allowed=may.allowed,
        denied=may.denied,
        put_off=may.put_off,
        reservations=[
            _reserved(decision_id, reservation)
            for decision_id, reservation in sorted(snapshot.held.own.items(), key=lambda held: -held[1].send_us)
        ],
        decisions=[_decision(kept, serving) for kept in recent],
        stops=may.stops,
    )


def _reserved(decision_id: str, reservation: Reservation) -> ReservedContact:
    return ReservedContact(
        decision_id=decision_id,
        state=reservation.state,
        offer=reservation.offer,
        channel=reservation.channel,
        send_at=when(reservation.send_us),
        valid_until=when(reservation.valid_until_us),
    )


def _harm(assessed: Assessment, may: Explanation) -> PlayerHarm:
    judged = assessed.harm
    return PlayerHarm(level=judged.level, sources=judged.sources, markers=judged.markers, speaking=may.harm_markers)


def _fact(asserted: facts.Assertion) -> Fact:
    """A fact with the moment since which it holds; None for those that bear no such moment, as a birth date."""
    name, kind, at_us = asserted.field, asserted.field.partition(":")[0], asserted.moment_us
    if at_us == 0:
        return Fact(fact=name, value=asserted.text, since="assumed")
    if kind == "opened":
        return Fact(fact=name, value="account opened", since=when(int(asserted.text)))
    if kind == "time_out":
        return Fact(fact=name, value=f"until {when(at_us)}", since=None)
    return Fact(fact=name, value=asserted.text, since=None if kind == "birth_date" else when(at_us))


def _features(behaviour: Behaviour) -> PlayerFeatures:
    """Features brought forward to now; they are stale when the consumer lags more than `max_age_seconds`."""
    return PlayerFeatures(
        age_seconds=behaviour.age_seconds,
        max_age_seconds=max(MAX_AGE_SECONDS.values()),
        as_of=when(behaviour.as_of_us),
        trouble=behaviour.trouble,
        values={
            reading.name: FeatureValue(value=None if np.isnan(value) else value, unit=reading.unit)
            for reading, value in zip(VECTOR, behaviour.vector.tolist(), strict=True)
        },
    )


def _decision(kept: KeptDecision, serving: Serving) -> PlayerDecision:
    sent = kept.action
    action = action_names(NO_CONTACT, serving.layout.catalogue)
    if sent is not None:
        action = {"offer": sent.offer, "channel": sent.channel, "timing_slot": sent.timing_slot}
    return PlayerDecision(
        decision_id=kept.decision_id,
        at=when(kept.at_us),
        **action,
        propensity=kept.propensity,
        policy_version=kept.policy_version,
        excluded_by=list(kept.excluded_by),
    )


def add(app: FastAPI) -> None:
    """Add the route to an application."""
    refusals = InvalidIdError, UnknownBrandError, UnknownPlayerError
    add_route(app, Operation("/v1/players/{player_id:path}", get_player, "Know", "read", PlayerAnswer, refusals))
