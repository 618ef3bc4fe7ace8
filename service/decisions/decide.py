"""Make a decision: read the player, drop candidates by rules and limits, draw from the policy, reserve, log.

`compose` is the decision itself, pure: a snapshot of the player in, a record out. `decide` carries it to the
store and back, and runs it again when the player moved in between, so that what is committed was drawn from
exactly what stands.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, Literal, NamedTuple, cast

import msgspec
import numpy as np
import tzdata
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from features import schema
from features.events import Brand, Channel, Id, Product, Word
from features.forms import Form
from features.store.deployment import House, partition_of
from features.store.errors import Absent, StoreError
from features.words import SPELT, listed
from models.catalogue.candidates import Candidates, CandidateSpace
from models.catalogue.experiment import bucket, variant
from models.catalogue.offers import NO_CONTACT, PROMOTIONAL, SLOTS, Purpose, Window, send_window
from models.policy.context import context
from models.policy.policy import Policy, draw, uniform_number
from service.contacts import limits
from service.contacts.ledger import Booking, RedisLedger
from service.contacts.limits import Held, LimitQuery, Reservation
from service.contacts.snapshot import Keys, Linked, PlayerSnapshot
from service.decisions import eligibility
from service.decisions.behaviour import Behaviour, read_behaviour
from service.decisions.eligibility import RequestFilter, Situation
from service.decisions.record import (
    Choice,
    ChosenContact,
    DeferredContact,
    ObservedInputs,
    Record,
    Versions,
    dump_record,
    load_record,
    pack_floats,
)
from service.decisions.serving import Serving, player_keys
from service.players import facts, harm, sealing
from service.players.facts import Facts
from service.rules import inputs
from service.rules.compiler import Verdict
from service.rules.inputs import Contact

ATTEMPTS: Final = 3
OfferName = Annotated[Word, listed("offers")]
Position = Annotated[str, Field(pattern=r"^p\d{3}:\d{1,20}-\d{1,20}$")]


_FORM: Final = Form(
    "player_id brand request_id decision_point channels offers purpose context explain dry_run activate after",
    "deadline_ms",
    context=Form("product page device locale"),
)
"""What of a request is its content; how long the caller waits is none of it."""


class Context(BaseModel):
    """What the caller knows of the moment; only these keys are taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    product: Product | None = None
    page: Word | None = None
    device: Annotated[Literal["desktop", "mobile", "tablet"], SPELT] | None = None
    locale: Annotated[str, Field(pattern=r"^[a-z]{2}(-[A-Z]{2})?$")] | None = None


class DecisionRequest(BaseModel):
    """What now for this player?"""

    model_config = ConfigDict(extra="forbid", frozen=True)
    player_id: Id = Field(description="Your id of the player.")
    brand: Brand = Field(default="main", description="Brand the contact is for.")
    request_id: Id | None = Field(default=None, description="Yours, unique per player: a retry gets the same answer.")
    decision_point: Word | None = Field(default=None, description="Where in your flow you ask; logged.")
    channels: tuple[Channel, ...] | None = Field(default=None, min_length=1, description="Only these channels.")
    offers: tuple[OfferName, ...] | None = Field(default=None, min_length=1, max_length=200, description="Only these.")
    purpose: Annotated[Purpose, SPELT] | None = Field(
        default=None, description="One purpose; without it, marketing and bonus."
    )
    context: Context | None = None
    explain: bool = Field(default=False, description="Answer with every reason and number.")
    dry_run: bool = Field(default=False, description="Decide without reserving or logging.")
    activate: bool = Field(default=False, description="Confirm at once, for what is shown right now.")
    after: Position | None = Field(default=None, description="Wait until features include this event position.")
    deadline_ms: Annotated[int, Field(ge=1, le=30_000)] | None = Field(
        default=None, description="How long you can wait for the answer, ms; by default 250."
    )

    @property
    def purposes(self) -> frozenset[Purpose]:
        """Purposes asked for."""
        return frozenset[Purpose](("marketing", "bonus")) if self.purpose is None else frozenset((self.purpose,))

    @property
    def digest(self) -> bytes:
        """Sixteen bytes that stand for the body."""
        return hashlib.blake2b(_FORM.json(self), digest_size=16).digest()


class Decision(NamedTuple):
    """A composed decision, not yet committed.

    `outdated` and `household_outdated` name entries that nothing can need; `budgets` and `over`: see `Booking`.
    """

    record: Record
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


class Decided(NamedTuple):
    """A record that answers a request, and whether the store holds it."""

    record: Record
    recorded: bool


class Contended(Exception):
    """The player moved at every attempt; nothing was recorded."""


class RequestReused(Exception):
    """The request id was used before with another body."""


def decision_id(house: House, player: str, asked: str, request: DecisionRequest) -> str:
    """Ours, starting with the partition; the same request id of a player always gives the same one."""
    if request.request_id is None or request.dry_run:
        return _named(player, os.urandom(15))
    return requested_id(house, player, asked, request.request_id)


def requested_id(house: House, player: str, asked: str, request_id: str) -> str:
    """The decision id of a caller's request id about a player or an id linked to them, by their keys."""
    return _named(player, house.digest("request", asked, request_id))


def _named(player: str, unique: bytes) -> str:
    return f"{partition_of(player):03d}-{base64.b32encode(unique[:15]).decode().lower()}"


async def decide(request: DecisionRequest, serving: Serving, ledger: RedisLedger) -> Decided:
    """Decide for a player and commit it, or answer what was committed under the same request id.

    Raises:
        Absent: Nobody listened where the store should be, before anything was reserved: nothing was done.
        StoreError: The store did not answer in time or cannot serve now; a retry under the same id is safe.
        Contended: Others changed the player at each of the three attempts.
        RequestReused: The request id stands for another body.
    """
    asked = serving.house.player_key(request.player_id)
    return await ledger.at_home(asked, lambda player: _decide(request, serving, ledger, player, asked))


async def _decide(request: DecisionRequest, serving: Serving, ledger: RedisLedger, player: str, asked: str) -> Decided:
    keys = player_keys(serving, player)
    name = decision_id(serving.house, player, asked, request)
    for attempt in range(ATTEMPTS):
        try:
            snapshot = await ledger.view(keys, name)
        except Linked as linked:
            if linked.record is not None:
                return _replay(linked.record, request)
            raise
        if snapshot.record is not None:
            await _settle(ledger, snapshot, name)
            return _replay(snapshot.record, request)
        own = own_id(request, snapshot, linked=player != asked)
        # Attempts at this very decision whose answer got lost take no room from it.
        free = replace(snapshot, held=snapshot.held.without(name)) if snapshot.held.in_household(name) else snapshot
        decision = compose(request, serving, free, (player, own), name, attempt)
        if request.dry_run:
            return Decided(decision.record, recorded=False)
        try:
            status, record, held = await _commit(ledger, keys, snapshot, decision)
        except Absent as error:  # part of it may have been done before
            raise StoreError(str(error)) from error
        if status == "replay":
            return _replay(held, request)
        if status == "reserved":
            return Decided(record, recorded=True)
    raise Contended


def own_id(request: DecisionRequest, snapshot: PlayerSnapshot, *, linked: bool) -> str:
    """The id by which a player is split into variants: of several linked ids always the same one."""
    if not linked:
        return request.player_id
    told = sealing.unseal(snapshot.seal, base64.b64decode(snapshot.facts[b"name"]), sealing.NAME)
    if told is None:
        raise StoreError("the player's name is sealed under another key")
    return str(told["player_id"])


async def _commit(
    ledger: RedisLedger, keys: Keys, snapshot: PlayerSnapshot, decision: Decision
) -> tuple[str, Record, bytes]:
    """Commit a decision with room in the household, if the player has one; status, record, and what a replay found.

    What a budget over all players cannot bear is kept as drawn and lost, whatever changed since: nothing is sent.
    """
    household = snapshot.household if decision.promotional else None
    if household and (lacking := _lacking(snapshot, decision)):
        await ledger.join(household, snapshot.held, lacking)
        return "moved", decision.record, b""
    name = f"{decision.record.decision_id}{limits.ATTEMPT}{secrets.token_hex(4)}" if household else ""
    if household and not await ledger.hold(
        household, snapshot.household_version or "0", name, decision.reservation, decision.household_outdated
    ):
        return "moved", decision.record, b""
    status, held = await ledger.reserve(keys, _booking(decision))
    if household:
        earlier = snapshot.held.in_household(decision.record.decision_id) if status in {"reserved", "lost"} else []
        failed = [name] if decision.reservation and status != "reserved" else []
        await ledger.let_go(household, earlier + failed)
    if status == "lost":
        decision = lost(decision)
        status, held = await ledger.reserve(keys, _booking(decision)._replace(facts_version="", ledger_version=""))
    return status, decision.record, held


async def _settle(ledger: RedisLedger, snapshot: PlayerSnapshot, decision_id: str) -> None:
    """Of several attempts whose answers got lost, let the household keep what the player holds."""
    own, entries = snapshot.held.own.get(decision_id), snapshot.held.in_household(decision_id)
    if snapshot.household and len(entries) > (own is not None):
        await ledger.hold(snapshot.household, snapshot.household_version or "0", decision_id, own, entries)


def _lacking(snapshot: PlayerSnapshot, decision: Decision) -> dict[str, Reservation]:
    """What the household should hold of the player's contacts and does not, though a limit could look at it."""
    lacking = snapshot.held.lacking(decision.record.at_us)
    return {name: one for name, one in lacking.items() if name not in decision.outdated}


def lost(decision: Decision) -> Decision:
    """The same draw without its contact: a budget over all players cannot bear it."""
    choice = msgspec.structs.replace(decision.record.choice, role="lost")
    record = msgspec.structs.replace(decision.record, action=None, activated=False, choice=choice)
    return decision._replace(record=record, reservation=None)


def _booking(decision: Decision) -> Booking:
    record = decision.record
    return Booking(
        budgets=decision.budgets,
        over=decision.over,
        decision_id=record.decision_id,
        record=dump_record(record),
        facts_version=record.seen.facts_version,
        ledger_version=record.seen.ledger_version,
        seal=decision.seal,
        reservation=decision.reservation,
        outdated=decision.outdated,
    )


def _replay(held: bytes, request: DecisionRequest) -> Decided:
    record = load_record(held)
    if record.request != request.digest:
        raise RequestReused
    return Decided(record, recorded=True)


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
    known = facts.read(snapshot.facts, request.brand)
    behaviour = read_behaviour(serving.plan, snapshot, now_us)
    experiment = serving.layout.catalogue.experiment
    group = variant(experiment.key, own, experiment.variants)
    situation = situate(request, serving, known, behaviour, snapshot.held.own.values(), now_us, group)
    verdict = eligibility.evaluate(situation)
    asking = LimitQuery(request.brand, known.time_zone, now_us)
    excluded = verdict.blocked | limits.evaluate(serving.layout, snapshot.held, verdict.moments, asking)
    domain = "dry_run" if request.dry_run else "draw"
    u = uniform_number(serving.house.digest(domain, name, str(attempt)))
    churn = _churn(serving, behaviour, situation)
    seen = context(behaviour.vector, schema.CHURN_DEFAULT if churn is None else churn)
    choice = choose(*choose_policy(request, serving, group, situation), seen, excluded, u, serving.layout)
    choice = msgspec.structs.replace(choice, deferrals=_deferred(verdict, serving.layout))
    sent = _chosen_contact(serving, choice.place, situation.windows, verdict)
    seal = snapshot.seal or sealing.new_seal()
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
        experiment=experiment.key,
        variant=group,
        bucket=bucket(experiment.key, own),
        action=sent,
        activated=request.activate and sent is not None,
        choice=choice,
        seen=_observed(serving, snapshot, behaviour, churn, situation),
        versions=_versions(serving, situation),
        sandbox=serving.house.sandbox,
        sealed=sealing.seal(seal, _personal(request, snapshot, situation), name),
    )
    return _with_limits(serving, snapshot, record, seal, ever=serving.law.ever(situation.inputs.places))


def _with_limits(serving: Serving, snapshot: PlayerSnapshot, record: Record, seal: bytes, *, ever: bool) -> Decision:
    """A decision with what its contact takes, and what can be forgotten."""
    catalogue, now_us, longest_us = serving.layout.catalogue, record.at_us, serving.law.longest_us
    held = reservation(record)
    if held is not None:
        offer, channel, _ = catalogue.action(record.choice.place)
        charges = limits.charges(catalogue, offer, channel, held.send_us)
        held = held._replace(category=offer.category, priority=offer.priority, charges=charges)
    wholes = {one.id: one.cost_minor for one in catalogue.budgets}
    household = Held(snapshot.held.household or {})
    return Decision(
        record,
        seal,
        held,
        limits.outdated(catalogue, snapshot.held, now_us, longest_us, ever=ever),
        snapshot.held.freed(now_us) + limits.outdated(catalogue, household, now_us, longest_us, ever=ever),
        {name: wholes[name.partition("/")[0]] for name, _ in (held.charges if held else ())},
        limits.over(snapshot.held, now_us),
    )


def _churn(serving: Serving, behaviour: Behaviour, situation: Situation) -> float | None:
    """The churn score; none of a player who objected to profiling (GDPR Art. 21(3))."""
    if situation.inputs.objects is not False and situation.known:
        return None
    return serving.churn.score(behaviour.vector) if serving.churn else schema.CHURN_DEFAULT


def _deferred(verdict: Verdict, layout: CandidateSpace) -> tuple[DeferredContact, ...]:
    return tuple(
        DeferredContact(
            rule=one.rule,
            timing_slot=one.timing_slot,
            allowed_from_us=one.allowed_from_us,
            candidates=layout.dumps(one.candidates),
        )
        for one in verdict.deferrals
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
    chosen = layout.bit(NO_CONTACT) | layout.everything & ~reduce(or_, excluded.values(), 0)
    eligible = layout.array(chosen)
    pmf = policy.pmf(scores, eligible)
    drawn = draw(pmf, u)
    return Choice(
        role=role,
        policy_version=policy.version,
        place=drawn.place,
        propensity=drawn.propensity,
        u=u,
        mask=layout.dumps(chosen),
        excluded={rule: layout.dumps(blocked) for rule, blocked in excluded.items()},
        scores=pack_floats(scores[eligible]),
        pmf=pack_floats(pmf[eligible]),
    )


def _observed(
    serving: Serving, snapshot: PlayerSnapshot, behaviour: Behaviour, churn: float | None, situation: Situation
) -> ObservedInputs:
    degraded = () if behaviour.trouble is None else (behaviour.trouble,)
    return ObservedInputs(
        features=pack_floats(behaviour.stored),
        whole=None if behaviour.whole is behaviour.stored else pack_floats(behaviour.whole),
        as_of_us=behaviour.as_of_us,
        age_seconds=behaviour.age_seconds,
        churn_score=churn,
        harm_level=situation.harm.level,
        markers=situation.harm.markers,
        stage=situation.stage,
        degraded=degraded if serving.churn else (*degraded, "churn_model_missing"),
        assumed=situation.assumed,
        facts_version=snapshot.facts_version,
        ledger_version=snapshot.ledger_version,
        harm_sources=situation.harm.sources,
    )


def _versions(serving: Serving, situation: Situation) -> Versions:
    return Versions(
        catalogue=serving.layout.catalogue.hash,
        rules=serving.book.hash,
        schema=schema.schema_hash(),
        churn=serving.churn.bundle.version if serving.churn else None,
        time_zones=tzdata.IANA_VERSION,
        build=f"numpy-{np.__version__} {platform.machine()}",
        packs=serving.law.packs(situation.inputs.places),
    )


def situate(
    request: DecisionRequest,
    serving: Serving,
    known: Facts,
    behaviour: Behaviour,
    held: Iterable[Reservation],
    now_us: int,
    group: str,
) -> Situation:
    """What rules look at, for a request at a moment."""
    book = serving.book
    assessed = harm.assess(behaviour.strictest, known, now_us, inputs.person(known, now_us), book.harm)
    contacts = tuple(
        Contact(one.send_us, one.offer, one.channel)
        for one in held
        if one.counts(now_us) and one.purpose in PROMOTIONAL
    )
    vector = None if behaviour.trouble else behaviour.strictest
    return Situation(
        law=serving.law,
        inputs=inputs.read(known, vector, assessed, contacts, now_us, book.ages_us, book.settings),
        known=known.known,
        windows=windows_of(known, now_us),
        harm=assessed,
        stage=harm.stage(behaviour.strictest, known, now_us, book.settings.stages),
        features=behaviour.trouble,
        variant=group,
        asked=RequestFilter(
            request.purposes,
            None if request.channels is None else frozenset(request.channels),
            None if request.offers is None else frozenset(request.offers),
            request.activate,
        ),
        assumed=known.assumed,
        lawful=serving.lawful,
    )


def windows_of(known: Facts, now_us: int) -> tuple[Window, ...]:
    """Sending window of each timing slot; in UTC where the zone is unknown (rules then deny what is promotional)."""
    return tuple(send_window(slot, now_us, known.time_zone or "UTC") for slot in SLOTS)


def choose_policy(request: DecisionRequest, serving: Serving, chosen: str, situation: Situation) -> tuple[str, Policy]:
    """Role and policy of a decision: promotional actions are drawn, others are chosen by priority.

    Who objected to profiling is not scored; where a law forbids what a policy chooses by, business rules serve.
    """
    if not request.purposes <= PROMOTIONAL:
        return "priority", serving.policies["priority"]
    if situation.known and situation.inputs.objects is not False:
        return "objected", serving.policies["priority"]
    policy = serving.policies["policy" if chosen == "holdout" else chosen]
    if serving.law.bars(serving.seen_by(policy), situation.inputs):
        policy = serving.policies["business_rules"]
    return ("holdout" if chosen == "holdout" else "drawn"), policy


def _chosen_contact(serving: Serving, place: int, windows: Sequence[Window], verdict: Verdict) -> ChosenContact | None:
    if place == NO_CONTACT:
        return None
    offer, channel, slot = serving.layout.catalogue.action(place)
    return ChosenContact(
        offer=offer.id,
        name=offer.name,
        template=offer.template,
        parameters=offer.parameters,
        purpose=offer.purpose,
        channel=channel,
        timing_slot=slot,
        send_us=verdict.sent_us(serving.layout.bit(place)),
        valid_until_us=windows[SLOTS.index(slot)].ends_us,
    )


def reservation(record: Record) -> Reservation | None:
    """What a decided contact takes, as its record tells; None for no contact."""
    if (sent := record.action) is None:
        return None
    state, at = ("confirmed", record.at_us) if record.activated else ("reserved", 0)
    return Reservation(
        sent.send_us,
        sent.valid_until_us,
        cast("limits.State", state),
        sent.purpose,
        sent.offer,
        sent.channel,
        sent.timing_slot,
        at,
        record.brand,
    )


def _personal(request: DecisionRequest, snapshot: PlayerSnapshot, situation: Situation) -> dict[str, Any]:
    return {
        "player_id": request.player_id,
        "request_id": request.request_id,
        "context": request.context.model_dump(exclude_none=True) if request.context else {},
        "facts": {name.decode(): value.decode() for name, value in snapshot.facts.items()},
        "inputs": situation.inputs.audit(situation.law.needs(situation.inputs.places)),
        "contacts": [list(one) for one in situation.inputs.contacts],
        "asked": {"channels": request.channels, "offers": request.offers, "activate": request.activate},
    }
