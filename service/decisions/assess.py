"""Assess a player: what is known of them at a moment, what may be sent, why not, and from when. Pure.

Whoever asks that starts here: decisions, confirms, the player page, the commands that explain and compare rules.
An assessment decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from math import isnan
from operator import or_
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from features import image, schema
from features.aggregates import empty, encode, forward, merge
from features.moments import MINUTE_US
from features.read_plan import PlanError, ReadPlan
from models.catalogue.candidates import Candidates, CandidateSpace
from models.catalogue.offers import PROMOTIONAL, SLOTS, Stage, Window, slots_at
from models.experiments.assignment import Assignment
from service.contacts import limits
from service.contacts.limits import Held, LimitQuery
from service.contacts.snapshot import PlayerSnapshot
from service.contacts.stops import StopInForce
from service.decisions import eligibility
from service.decisions.eligibility import Asked, Standing
from service.decisions.serving import Serving
from service.players import facts, harm
from service.players.facts import Facts
from service.players.harm import Harm
from service.rules import inputs
from service.rules.compiler import Verdict
from service.rules.inputs import CountedContact, Inputs

_AHEAD_SECONDS: Final = 2.0
_NOBODY: Final = encode(empty())


class Behaviour(NamedTuple):
    """Features as they were read: stored values, the vector at now, their moments, and what is wrong with them.

    `whole` are the stored values with those of linked ids, and `strictest` is their vector: rules look at these, policy
    and churn model at the player's own, as they were trained.
    """

    stored: NDArray[np.float64]
    vector: NDArray[np.float64]
    whole: NDArray[np.float64]
    strictest: NDArray[np.float64]
    as_of_us: int | None
    age_seconds: float | None
    trouble: str | None


class RecordedPlayer(NamedTuple):
    """A player as a decision's record holds them; without what limits would need.

    Attributes:
        facts: Raw facts, as the store held them.
        behaviour: Features as they were read.
        contacts: Contacts that counted.
        stops: What the house had stopped.
    """

    facts: Mapping[bytes, bytes]
    behaviour: Behaviour
    contacts: tuple[CountedContact, ...]
    stops: tuple[StopInForce, ...] = ()


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a player at a moment, with what may be sent.

    Attributes:
        at_us: The moment, unix microseconds of house time.
        assignment: What experiments make of the player.
        facts: As the brand sees them.
        behaviour: Features brought forward to the moment, or what is wrong with them.
        harm: Harm level, with its sources.
        standing: What eligibility looks at.
        inputs: What rules look at.
        stage: Lifecycle stage.
        space: The catalogue.
        verdict: What the house, the law and the request deny, and when what is left would be sent.
        limits: Limits without room, each with the candidates that it denies; None where contacts are not known, as of
            a player read from a record.
        objected: Whether a known player objected to profiling, or may have (GDPR Art. 21(3)).
        excluded: Everything that forbids a contact, by rule, trouble or limit, each with the candidates that it denies.
    """

    at_us: int
    assignment: Assignment
    facts: Facts
    behaviour: Behaviour
    harm: Harm
    standing: Standing
    inputs: Inputs
    stage: Stage
    space: CandidateSpace
    verdict: Verdict
    limits: dict[str, Candidates] | None
    objected: bool
    excluded: dict[str, Candidates]

    @property
    def eligible(self) -> Candidates:
        """Candidates that nothing denies; leaving the player alone is not among them."""
        return self.space.everything & ~reduce(or_, self.excluded.values(), 0)

    def excluded_at(self, window: Window) -> dict[str, Candidates]:
        """What the house, the law and the request deny of a contact whose window of sending is settled."""
        return eligibility.evaluate(self.standing.settled(window)).blocked


def assess(
    player: PlayerSnapshot | RecordedPlayer, asked: Asked, assignment: Assignment, at_us: int, serving: Serving
) -> Assessment:
    """Assess a player at a moment of house time (unix microseconds), by what serves."""
    book, space, known = serving.book, serving.layout, facts.read(player.facts, asked.brand)
    windows = _windows(known, asked, at_us)
    behaviour, contacts, held = _read(player, serving, at_us)
    vector = behaviour.strictest
    person = inputs.age_and_places(known, at_us)
    harmed = harm.assess(vector, known, at_us, person, book.harm)
    stage = harm.stage(vector, known, at_us, book.settings.stages)
    trusted = None if behaviour.trouble else vector
    found = inputs.read(known, person, trusted, harmed, contacts, at_us, book)
    standing = Standing(
        law=serving.law,
        inputs=found,
        known=known.known,
        windows=windows,
        stage=stage,
        features=behaviour.trouble,
        withheld=assignment.withheld,
        asked=asked,
        lawful=serving.lawful,
        stops=player.stops,
    )
    verdict = eligibility.evaluate(standing)
    full = None
    if held is not None:
        moments = verdict.moments if asked.settled is None else [(asked.settled.send_us, space.everything)]
        full = limits.evaluate(space, held, moments, LimitQuery(asked.brand, known.time_zone, at_us))
    return Assessment(
        at_us=at_us,
        assignment=assignment,
        facts=known,
        behaviour=behaviour,
        harm=harmed,
        standing=standing,
        inputs=found,
        stage=stage,
        space=space,
        verdict=verdict,
        limits=full,
        objected=known.known and found.objects is not False,
        excluded=verdict.blocked | (full or {}),
    )


def _read(
    player: PlayerSnapshot | RecordedPlayer, serving: Serving, at_us: int
) -> tuple[Behaviour, tuple[CountedContact, ...], Held | None]:
    """Behaviour, contacts that rules count, and what limits look at."""
    if isinstance(player, RecordedPlayer):
        return player.behaviour, player.contacts, None
    contacts = tuple(
        [
            CountedContact(one.send_us, one.offer, one.channel)
            for one in player.held.own.values()
            if one.counts(at_us) and one.purpose in PROMOTIONAL
        ]
    )
    return _behaviour(serving.plan, player, at_us), contacts, player.held


def _windows(known: Facts, asked: Asked, at_us: int) -> tuple[Window, ...]:
    """Sending window of each timing slot; in UTC where the zone is unknown (rules then deny what is promotional)."""
    if asked.settled is not None:
        return (asked.settled,) * len(SLOTS)
    slots = slots_at(at_us // MINUTE_US, known.time_zone or "UTC")
    return tuple([Window(max(opens_us, at_us), ends_us) for opens_us, ends_us in slots])


def _behaviour(plan: ReadPlan | None, snapshot: PlayerSnapshot, now_us: int) -> Behaviour:
    """Features of a snapshot brought forward to now; trouble is named, and the vector is then that of nobody."""
    if plan is None or snapshot.features is None or snapshot.watermark_us is None:
        return _unread(now_us, None)
    ahead = (snapshot.watermark_us - snapshot.real_us) / schema.MICROS
    # A watermark of the future was set before the store's clock was set back: nothing says how old features are.
    age = max(0.0, -ahead) if ahead <= _AHEAD_SECONDS else ahead
    try:
        stored, whole = _stored(plan, snapshot.features, snapshot.linked)
    except PlanError:
        return _unread(now_us, age)
    stale = age > max(schema.MAX_AGE_SECONDS.values()) or ahead > _AHEAD_SECONDS
    trouble = "features_stale" if stale else None
    as_of = stored[0]
    vector = forward(stored, now_us)
    strictest = vector if whole is stored else forward(whole, now_us)
    return Behaviour(stored, vector, whole, strictest, None if isnan(as_of) else int(as_of), age, trouble)


def _stored(
    plan: ReadPlan, features: Mapping[bytes, bytes | None], linked: Sequence[Mapping[bytes, bytes]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Stored values of a player, and with those of linked ids; raises PlanError."""
    if not linked and (found := image.load(features, plan)) is not None:
        return found, found
    own, *others = [plan.decode([one.get(name) for name in plan.fields]).values for one in (features, *linked)]
    stored = encode(own)
    return stored, encode(reduce(merge, others, own)) if others else stored


def _unread(now_us: int, age: float | None) -> Behaviour:
    nobody = forward(_NOBODY, now_us)
    return Behaviour(_NOBODY, nobody, _NOBODY, nobody, None, age, "features_unavailable")
