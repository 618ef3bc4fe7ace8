"""Compose a decision from a player's snapshot: assess, draw, and write the record. Pure but for the seal's nonce."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple, cast

import msgspec
import numpy as np
import tzdata
from msgspec import UNSET
from numpy.typing import NDArray

from features import schema
from models.catalogue.candidates import Candidates, CandidateSpace
from models.catalogue.offers import NO_CONTACT, PROMOTIONAL, SLOTS
from models.policy.context import context
from models.policy.policy import Policy, draw, uniform_number
from service.contacts import limits
from service.contacts.entries import Reservation, State
from service.contacts.limits import Held
from service.contacts.snapshot import PlayerSnapshot
from service.contacts.stops import StopInForce
from service.decisions.assess import Assessment, assess
from service.decisions.kept import KeptDecision
from service.decisions.personal import Narrowed, SealedPart, seal_part
from service.decisions.record import (
    BUILD,
    Choice,
    ChosenContact,
    DeferredContact,
    ObservedInputs,
    Record,
    Versions,
    pack_floats,
)
from service.decisions.request import DecisionRequest
from service.decisions.serving import Serving
from service.rules.sending_hours import Deferral, promised


class Decision(NamedTuple):
    """A composed decision, not yet committed.

    `kept` is what the store keeps of the record; `outdated` and `household_outdated` name entries that nothing can
    need; `budgets` and `over`: see `Booking`.
    """

    record: Record
    kept: KeptDecision
    seal: bytes
    reservation: Reservation | None
    outdated: Sequence[str]
    household_outdated: Sequence[str]
    budgets: Mapping[str, int]
    over: Sequence[str]

    @property
    def promotional(self) -> bool:
        """Whether it is one that limits count."""
        return PROMOTIONAL.issuperset(self.record.purposes)


def lost(decision: Decision) -> Decision:
    """The same draw without its contact: a budget over all players cannot bear it."""
    drawn = decision.record.choice
    choice = msgspec.structs.replace(drawn, role="lost" if drawn.role == "drawn" else drawn.role)
    record = msgspec.structs.replace(decision.record, action=None, activated=False, choice=choice)
    return decision._replace(record=record, kept=KeptDecision.of(record), reservation=None)


def compose(
    request: DecisionRequest,
    serving: Serving,
    snapshot: PlayerSnapshot,
    player: tuple[str, str],
    name: str,
    attempt: int,
) -> Decision:
    """Compose one decision from a snapshot of the player (key and own id). Pure but for the nonce of the seal."""
    key, own = player
    now_us = serving.house.now_us(snapshot.real_us)
    assignment = serving.splits.assign(own)
    assessed = assess(snapshot, request.asked, assignment, now_us, serving)
    domain = "dry_run" if request.dry_run else "draw"
    u = uniform_number(serving.house.digest(domain, name, str(attempt)))
    churn = _churn(serving, assessed)
    seen = context(assessed.behaviour.vector, schema.CHURN_DEFAULT if churn is None else churn)
    choice = choose(*choose_policy(request, serving, assessed), seen, assessed.excluded, u, serving.layout)
    put_off = promised(assessed.verdict.deferrals, assessed.excluded)
    choice = msgspec.structs.replace(choice, deferrals=deferred(put_off, serving.layout))
    contact = chosen_contact(choice.place, assessed)
    seal = serving.seals.of(key, snapshot.seal)
    record = Record(
        decision_id=name,
        player=key,
        brand=request.brand,
        at_us=now_us,
        attempt=attempt,
        request=request.digest,
        explain=request.explain,
        purposes=tuple(sorted(request.purposes)),
        decision_point=request.decision_point,
        experiments=assignment.memberships,
        use=assignment.use,
        action=contact,
        activated=request.activate and contact is not None,
        choice=choice,
        seen=_observed(serving, snapshot, churn, assessed),
        versions=_versions(serving, assessed),
        sandbox=serving.house.sandbox,
        sealed=seal_part(seal.key, _sealed_part(request, snapshot, assessed), name),
        stops=tuple([StopInForce(id=one.id, scope=one.scope, value=one.value) for one in snapshot.stops]) or UNSET,
    )
    return _with_limits(serving, snapshot, record, seal.stored, ever=assessed.verdict.rules.ever)


def _with_limits(serving: Serving, snapshot: PlayerSnapshot, record: Record, seal: bytes, *, ever: bool) -> Decision:
    """Add to a decision what its contact charges, and which entries of the ledgers nothing can need any more."""
    catalogue, now_us, longest_us = serving.layout.catalogue, record.at_us, serving.law.longest_us
    held = reservation(record)
    if held is not None:
        offer, channel, _ = serving.layout.actions[record.choice.place]
        charges = limits.charges(catalogue, offer, channel, held.send_us)
        held = held._replace(category=offer.category, priority=offer.priority, charges=charges)
    budgets: dict[str, int] = {}
    if held is not None and held.charges:
        wholes = {one.id: one.cost_minor for one in catalogue.budgets}
        budgets = {name: wholes[name.partition("/")[0]] for name, _ in held.charges}
    household_outdated: list[str] = []
    if snapshot.held.household:
        household = Held(snapshot.held.household)
        household_outdated = snapshot.held.freed(now_us)
        household_outdated += limits.outdated(catalogue, household, now_us, longest_us, ever=ever)
    return Decision(
        record,
        KeptDecision.of(record),
        seal,
        held,
        limits.outdated(catalogue, snapshot.held, now_us, longest_us, ever=ever),
        household_outdated,
        budgets,
        limits.over(snapshot.held, now_us),
    )


def _churn(serving: Serving, assessed: Assessment) -> float | None:
    """The churn score; none of a player who objected to profiling (GDPR Art. 21(3))."""
    if assessed.objected:
        return None
    return serving.churn.score(assessed.behaviour.vector) if serving.churn else schema.CHURN_DEFAULT


def deferred(put_off: Sequence[Deferral], layout: CandidateSpace) -> tuple[DeferredContact, ...]:
    """What hours put off, as a record holds it."""
    return tuple(
        [
            DeferredContact(
                rule=one.rule,
                timing_slot=one.timing_slot,
                allowed_from_us=one.allowed_from_us,
                candidates=layout.dumps(one.candidates),
            )
            for one in put_off
        ]
    )


def choose(
    role: str,
    policy: Policy,
    seen: NDArray[np.float64],
    excluded: Mapping[str, Candidates],
    u: float,
    layout: CandidateSpace,
) -> Choice:
    """Score a context, turn the eligible set into probabilities, draw: propensity and draw come from one pmf."""
    scores = policy.scores(seen)
    chosen = layout.alone | layout.everything & ~reduce(or_, excluded.values(), 0)
    mask, eligible = layout.dumps(chosen), layout.array(chosen)
    pmf, places = policy.pmf(scores, eligible), eligible.nonzero()[0]
    drawn = draw(pmf, u)
    return Choice(
        role=role,
        policy_version=policy.version,
        place=drawn.place,
        propensity=drawn.propensity,
        u=u,
        mask=mask,
        excluded={name: layout.dumps(bits) for name, bits in excluded.items()},
        scores=pack_floats(scores.take(places)),
        pmf=pack_floats(pmf.take(places)),
    )


def _observed(serving: Serving, snapshot: PlayerSnapshot, churn: float | None, assessed: Assessment) -> ObservedInputs:
    behaviour = assessed.behaviour
    degraded = () if behaviour.trouble is None else (behaviour.trouble,)
    return ObservedInputs(
        features=pack_floats(behaviour.stored),
        whole=None if behaviour.whole is behaviour.stored else pack_floats(behaviour.whole),
        as_of_us=behaviour.as_of_us,
        age_seconds=behaviour.age_seconds,
        churn_score=churn,
        harm_level=assessed.harm.level,
        markers=assessed.harm.markers,
        stage=assessed.stage,
        degraded=degraded if serving.churn else (*degraded, "churn_model_missing"),
        assumed=assessed.facts.assumed,
        facts_version=snapshot.facts_version,
        ledger_version=snapshot.ledger_version,
        harm_sources=assessed.harm.sources,
    )


def _versions(serving: Serving, assessed: Assessment) -> Versions:
    return Versions(
        catalogue=serving.layout.catalogue.hash,
        rules=serving.book.hash,
        schema=schema.schema_hash(),
        churn=serving.churn.bundle.version if serving.churn else None,
        time_zones=tzdata.IANA_VERSION,
        build=BUILD,
        packs=assessed.verdict.rules.packs,
        experiments=serving.splits.experiments.hash,
    )


def choose_policy(request: DecisionRequest, serving: Serving, assessed: Assessment) -> tuple[str, Policy]:
    """Role and policy of a decision: promotional actions are drawn, others are chosen by priority.

    Who objected to profiling is not scored; where a law forbids what a policy chooses by, business rules serve.
    """
    if not request.purposes <= PROMOTIONAL:
        return "priority", serving.policies["priority"]
    if assessed.objected:
        return "objected", serving.policies["priority"]
    assignment = assessed.assignment
    role, name = ("holdout", "learnt") if assignment.held_out else ("drawn", assignment.policy)
    if serving.law.bars(serving.seen[name], assessed.inputs):
        name = "business_rules"
    return role, serving.policies[name]


def chosen_contact(place: int, assessed: Assessment) -> ChosenContact | None:
    """The contact at a place, as an assessment would send it; None for no contact."""
    if place == NO_CONTACT:
        return None
    offer, channel, slot = assessed.space.actions[place]
    return ChosenContact(
        offer=offer.id,
        name=offer.name,
        template=offer.template,
        parameters=offer.parameters,
        purpose=offer.purpose,
        channel=channel,
        timing_slot=slot,
        send_us=assessed.verdict.sent_us(assessed.space.bit(place)),
        valid_until_us=assessed.standing.windows[SLOTS.index(slot)].ends_us,
    )


def reservation(record: Record) -> Reservation | None:
    """Make the reservation of a recorded contact, without its category, priority and charges; None for no contact."""
    if (sent := record.action) is None:
        return None
    state, at = ("confirmed", record.at_us) if record.activated else ("reserved", 0)
    return Reservation(
        sent.send_us,
        sent.valid_until_us,
        cast("State", state),
        sent.purpose,
        sent.offer,
        sent.channel,
        sent.timing_slot,
        at,
        record.brand,
    )


def _sealed_part(request: DecisionRequest, snapshot: PlayerSnapshot, assessed: Assessment) -> SealedPart:
    return SealedPart(
        player_id=request.player_id,
        request_id=request.request_id,
        context=request.context.model_dump(exclude_none=True) if request.context else {},
        facts=snapshot.facts,
        inputs=assessed.inputs.values(assessed.verdict.rules.needs),
        contacts=assessed.inputs.contacts,
        asked=Narrowed(request.channels, request.offers, request.activate),
    )
