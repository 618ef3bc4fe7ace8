"""Make a decision: read the player, drop candidates by rules and limits, draw from the policy, reserve, log.

`compose` is the decision itself, pure: a view of the player in, a record out. `decide` carries it to the
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
from service.decisions import eligibility, log
from service.decisions.behaviour import Behaviour, read_behaviour
from service.decisions.eligibility import RequestFilter, Situation
from service.decisions.log import Choice, ChosenContact, DeferredContact, ObservedInputs, Record, Versions
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


async def decide(request: DecisionRequest, table: Serving, ledger: RedisLedger) -> Decided:
    """Decide for a player and commit it, or answer what was committed under the same request id.

    Raises:
        Absent: Nobody listened where the store should be, before anything was reserved: nothing was done.
        StoreError: The store did not answer in time or cannot serve now; a retry under the same id is safe.
        Contended: Others changed the player at each of the three attempts.
        RequestReused: The request id stands for another body.
    """
    asked = table.house.player_key(request.player_id)
    return await ledger.at_home(asked, lambda player: _decide(request, table, ledger, player, asked))


async def _decide(request: DecisionRequest, table: Serving, ledger: RedisLedger, player: str, asked: str) -> Decided:
    keys = player_keys(table, player)
    name = decision_id(table.house, player, asked, request)
    for attempt in range(ATTEMPTS):
        try:
            view = await ledger.view(keys, name)
        except Linked as linked:
            if linked.record is not None:
                return _replay(linked.record, request)
            raise
        if view.record is not None:
            await _settle(ledger, view, name)
            return _replay(view.record, request)
        own = own_id(request, view, linked=player != asked)
        # Attempts at this very decision whose answer got lost take no room from it.
        free = replace(view, held=view.held.without(name)) if view.held.in_household(name) else view
        decision = compose(request, table, free, (player, own), name, attempt)
        if request.dry_run:
            return Decided(decision.record, recorded=False)
        try:
            status, record, held = await _commit(ledger, keys, view, decision)
        except Absent as error:  # part of it may have been done before
            raise StoreError(str(error)) from error
        if status == "replay":
            return _replay(held, request)
        if status == "reserved":
            return Decided(record, recorded=True)
    raise Contended


def own_id(request: DecisionRequest, view: PlayerSnapshot, *, linked: bool) -> str:
    """The id by which a player is split into variants: of several linked ids always the same one."""
    if not linked:
        return request.player_id
    told = sealing.unseal(view.seal, base64.b64decode(view.facts[b"name"]), sealing.NAME)
    if told is None:
        raise StoreError("the player's name is sealed under another key")
    return str(told["player_id"])


async def _commit(
    ledger: RedisLedger, keys: Keys, view: PlayerSnapshot, decision: Decision
) -> tuple[str, Record, bytes]:
    """Commit a decision with room in the household, if the player has one; status, record, and what a replay found.

    What a budget over all players cannot bear is kept as drawn and lost, whatever changed since: nothing is sent.
    """
    household = view.household if decision.promotional else None
    if household and (lacking := _lacking(view, decision)):
        await ledger.join(household, view.held, lacking)
        return "moved", decision.record, b""
    name = f"{decision.record.decision_id}{limits.ATTEMPT}{secrets.token_hex(4)}" if household else ""
    if household and not await ledger.hold(
        household, view.household_version or "0", name, decision.reservation, decision.household_outdated
    ):
        return "moved", decision.record, b""
    status, held = await ledger.reserve(keys, _booking(decision))
    if household:
        earlier = view.held.in_household(decision.record.decision_id) if status in {"reserved", "lost"} else []
        failed = [name] if decision.reservation and status != "reserved" else []
        await ledger.let_go(household, earlier + failed)
    if status == "lost":
        decision = lost(decision)
        status, held = await ledger.reserve(keys, _booking(decision)._replace(facts_version="", ledger_version=""))
    return status, decision.record, held


async def _settle(ledger: RedisLedger, view: PlayerSnapshot, decision_id: str) -> None:
    """Of several attempts whose answers got lost, let the household keep what the player holds."""
    own, entries = view.held.own.get(decision_id), view.held.in_household(decision_id)
    if view.household and len(entries) > (own is not None):
        await ledger.hold(view.household, view.household_version or "0", decision_id, own, entries)


def _lacking(view: PlayerSnapshot, decision: Decision) -> dict[str, Reservation]:
    """What the household should hold of the player's contacts and does not, though a limit could look at it."""
    lacking = view.held.lacking(decision.record.at_us)
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
        record=log.dumps(record),
        facts_version=record.seen.facts_version,
        ledger_version=record.seen.ledger_version,
        seal=decision.seal,
        reservation=decision.reservation,
        outdated=decision.outdated,
    )


def _replay(held: bytes, request: DecisionRequest) -> Decided:
    record = log.loads(held)
    if record.request != request.digest:
        raise RequestReused
    return Decided(record, recorded=True)


def compose(
    request: DecisionRequest, table: Serving, view: PlayerSnapshot, player: tuple[str, str], name: str, attempt: int
) -> Decision:
    """Compose one decision from a view of the player (key and own id). Pure but for the nonce of the seal."""
    key, own = player
    now_us = table.house.now_us(view.real_us)
    known = facts.read(view.facts, request.brand)
    behaviour = read_behaviour(table.plan, view, now_us)
    experiment = table.layout.catalogue.experiment
    group = variant(experiment.key, own, experiment.variants)
    situation = situate(request, table, known, behaviour, view.held.own.values(), now_us, group)
    verdict = eligibility.evaluate(situation)
    asking = LimitQuery(request.brand, known.time_zone, now_us)
    excluded = verdict.blocked | limits.evaluate(table.layout, view.held, verdict.moments, asking)
    domain = "dry_run" if request.dry_run else "draw"
    u = uniform_number(table.house.digest(domain, name, str(attempt)))
    churn = _churn(table, behaviour, situation)
    seen = context(behaviour.vector, schema.CHURN_DEFAULT if churn is None else churn)
    choice = choose(*choose_policy(request, table, group, situation), seen, excluded, u, table.layout)
    choice = msgspec.structs.replace(choice, deferrals=_put_off(verdict, table.layout))
    sent = _sent(table, choice.place, situation.windows, verdict)
    seal = view.seal or sealing.new_seal()
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
        seen=_seen(table, view, behaviour, churn, situation),
        versions=_versions(table, situation),
        sandbox=table.house.sandbox,
        sealed=sealing.seal(seal, _personal(request, view, situation), name),
    )
    return _with_limits(table, view, record, seal, ever=table.law.ever(situation.inputs.places))


def _with_limits(table: Serving, view: PlayerSnapshot, record: Record, seal: bytes, *, ever: bool) -> Decision:
    """A decision with what its contact takes, and what can be forgotten."""
    catalogue, now_us, longest_us = table.layout.catalogue, record.at_us, table.law.longest_us
    held = reservation(record)
    if held is not None:
        offer, channel, _ = catalogue.action(record.choice.place)
        charges = limits.charges(catalogue, offer, channel, held.send_us)
        held = held._replace(category=offer.category, priority=offer.priority, charges=charges)
    wholes = {one.id: one.cost_minor for one in catalogue.budgets}
    household = Held(view.held.household or {})
    return Decision(
        record,
        seal,
        held,
        limits.outdated(catalogue, view.held, now_us, longest_us, ever=ever),
        view.held.freed(now_us) + limits.outdated(catalogue, household, now_us, longest_us, ever=ever),
        {name: wholes[name.partition("/")[0]] for name, _ in (held.charges if held else ())},
        limits.over(view.held, now_us),
    )


def _churn(table: Serving, behaviour: Behaviour, situation: Situation) -> float | None:
    """The churn score; none of a player who objected to profiling (GDPR Art. 21(3))."""
    if situation.inputs.objects is not False and situation.known:
        return None
    return table.churn.score(behaviour.vector) if table.churn else schema.CHURN_DEFAULT


def _put_off(verdict: Verdict, layout: CandidateSpace) -> tuple[DeferredContact, ...]:
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
        scores=log.numbers(scores[eligible]),
        pmf=log.numbers(pmf[eligible]),
    )


def _seen(
    table: Serving, view: PlayerSnapshot, behaviour: Behaviour, churn: float | None, situation: Situation
) -> ObservedInputs:
    degraded = () if behaviour.trouble is None else (behaviour.trouble,)
    return ObservedInputs(
        features=log.numbers(behaviour.stored),
        whole=None if behaviour.whole is behaviour.stored else log.numbers(behaviour.whole),
        as_of_us=behaviour.as_of_us,
        age_seconds=behaviour.age_seconds,
        churn_score=churn,
        harm_level=situation.harm.level,
        markers=situation.harm.markers,
        stage=situation.stage,
        degraded=degraded if table.churn else (*degraded, "churn_model_missing"),
        assumed=situation.assumed,
        facts_version=view.facts_version,
        ledger_version=view.ledger_version,
        harm_sources=situation.harm.sources,
    )


def _versions(table: Serving, situation: Situation) -> Versions:
    return Versions(
        catalogue=table.layout.catalogue.hash,
        rules=table.book.hash,
        schema=schema.schema_hash(),
        churn=table.churn.bundle.version if table.churn else None,
        time_zones=tzdata.IANA_VERSION,
        build=f"numpy-{np.__version__} {platform.machine()}",
        packs=table.law.packs(situation.inputs.places),
    )


def situate(
    request: DecisionRequest,
    table: Serving,
    known: Facts,
    behaviour: Behaviour,
    held: Iterable[Reservation],
    now_us: int,
    group: str,
) -> Situation:
    """What rules look at, for a request at a moment."""
    book = table.book
    assessed = harm.assess(behaviour.strictest, known, now_us, inputs.person(known, now_us), book.harm)
    contacts = tuple(
        Contact(one.send_us, one.offer, one.channel)
        for one in held
        if one.counts(now_us) and one.purpose in PROMOTIONAL
    )
    vector = None if behaviour.trouble else behaviour.strictest
    return Situation(
        law=table.law,
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
        lawful=table.lawful,
    )


def windows_of(known: Facts, now_us: int) -> tuple[Window, ...]:
    """Sending window of each timing slot; in UTC where the zone is unknown (rules then deny what is promotional)."""
    return tuple(send_window(slot, now_us, known.time_zone or "UTC") for slot in SLOTS)


def choose_policy(request: DecisionRequest, table: Serving, chosen: str, situation: Situation) -> tuple[str, Policy]:
    """Role and policy of a decision: promotional actions are drawn, others are chosen by priority.

    Who objected to profiling is not scored; where a law forbids what a policy chooses by, business rules serve.
    """
    if not request.purposes <= PROMOTIONAL:
        return "priority", table.policies["priority"]
    if situation.known and situation.inputs.objects is not False:
        return "objected", table.policies["priority"]
    policy = table.policies["policy" if chosen == "holdout" else chosen]
    if table.law.bars(table.seen_by(policy), situation.inputs):
        policy = table.policies["business_rules"]
    return ("holdout" if chosen == "holdout" else "drawn"), policy


def _sent(table: Serving, place: int, windows: Sequence[Window], verdict: Verdict) -> ChosenContact | None:
    if place == NO_CONTACT:
        return None
    offer, channel, slot = table.layout.catalogue.action(place)
    return ChosenContact(
        offer=offer.id,
        name=offer.name,
        template=offer.template,
        parameters=offer.parameters,
        purpose=offer.purpose,
        channel=channel,
        timing_slot=slot,
        send_us=verdict.sent_us(table.layout.bit(place)),
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


def _personal(request: DecisionRequest, view: PlayerSnapshot, situation: Situation) -> dict[str, Any]:
    return {
        "player_id": request.player_id,
        "request_id": request.request_id,
        "context": request.context.model_dump(exclude_none=True) if request.context else {},
        "facts": {name.decode(): value.decode() for name, value in view.facts.items()},
        "inputs": situation.inputs.audit(situation.law.needs(situation.inputs.places)),
        "contacts": [list(one) for one in situation.inputs.contacts],
        "asked": {"channels": request.channels, "offers": request.offers, "activate": request.activate},
    }
