"""The second sentence: a request reads facts and features, drops what rules and caps exclude, draws, reserves.

`compose` is the decision itself, pure: a view of the player in, a record out. `decide` carries it to the
store and back, and runs it again when the player moved in between, so that what is committed was drawn from
exactly what stands.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple, cast

import numpy as np
import tzdata
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from features import schema
from features.aggregates import empty, encode, forward
from features.events import Brand, Channel, Id, Word
from features.plan import PlanError, ReadPlan
from features.store import House, StoreError
from models.actions import NO_CONTACT, PROMOTIONAL, SLOTS, Purpose, Window, send_window
from models.context import context
from models.policy import Policy, draw, uniform_number
from models.scorer import Scorer
from service import caps, facts, harm, log, rules
from service.caps import Reservation
from service.experiment import bucket, variant
from service.facts import Facts
from service.ledger import Booking, Keys, RedisLedger, View
from service.log import Choice, Record, Seen, Sent, Versions

ATTEMPTS: Final = 3
_NOBODY: Final = encode(empty())
Position = Annotated[str, Field(pattern=r"^p\d{3}:\d{1,20}-\d{1,20}$")]


class Context(BaseModel):
    """What the caller knows of the moment; only these keys are taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    product: Literal["casino", "sports", "poker", "bingo", "lottery"] | None = None
    page: Word | None = None
    device: Literal["desktop", "mobile", "tablet"] | None = None
    locale: Annotated[str, Field(pattern=r"^[a-z]{2}(-[A-Z]{2})?$")] | None = None


class DecisionRequest(BaseModel):
    """What now for this player?"""

    model_config = ConfigDict(extra="forbid", frozen=True)
    player_id: Id = Field(description="Your id of the player.")
    brand: Brand = Field(default="main", description="Brand the contact is for.")
    request_id: Id | None = Field(default=None, description="Yours, unique per player: a retry gets the same answer.")
    decision_point: Word | None = Field(default=None, description="Where in your flow you ask; logged.")
    channels: tuple[Channel, ...] | None = Field(default=None, min_length=1, description="Only these channels.")
    offers: tuple[Word, ...] | None = Field(default=None, min_length=1, max_length=200, description="Only these.")
    purpose: Purpose | None = Field(default=None, description="One purpose; without it, marketing and bonus.")
    context: Context | None = None
    explain: bool = Field(default=False, description="Answer with every reason and number.")
    dry_run: bool = Field(default=False, description="Decide without reserving or logging.")
    activate: bool = Field(default=False, description="Confirm at once, for what is shown right now.")
    after: Position | None = Field(default=None, description="Wait until features include this event position.")

    @property
    def purposes(self) -> frozenset[Purpose]:
        """Purposes asked for."""
        return frozenset[Purpose](("marketing", "bonus")) if self.purpose is None else frozenset((self.purpose,))

    @property
    def digest(self) -> bytes:
        """Sixteen bytes that stand for the body."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Table:
    """All that a decision needs besides the player: one immutable set, swapped whole.

    Attributes:
        house: Clock, secret and partitions.
        plan: How features are read; None until definitions were applied.
        layout: The catalogue.
        book: The rule file.
        policies: Policy of each variant; `priority` serves purposes that no policy draws.
        churn: The churn model, None while none is promoted.
    """

    house: House
    plan: ReadPlan | None
    layout: rules.Layout
    book: rules.Rulebook
    policies: Mapping[str, Policy]
    churn: Scorer | None


class Behaviour(NamedTuple):
    """Features as they were read: stored values, the vector at now, their moments, and what is wrong with them."""

    stored: NDArray[np.float64]
    vector: NDArray[np.float64]
    as_of_us: int | None
    age_seconds: float | None
    trouble: str | None


class Decision(NamedTuple):
    """A composed decision, not yet committed."""

    record: Record
    seal: bytes
    reservation: Reservation | None


class Answered(NamedTuple):
    """A record that answers a request, and whether the store holds it."""

    record: Record
    recorded: bool


class Contended(Exception):
    """The player moved at every attempt; nothing was recorded."""


class Unread(StoreError):
    """The store could not be read: nothing was drawn, nothing recorded."""


class RequestReused(Exception):
    """The request id was used before with another body."""


def decision_id(house: House, keys: Keys, request: DecisionRequest) -> str:
    """Ours, starting with the partition; the same request id of a player always gives the same one."""
    if request.request_id is None or request.dry_run:
        return _named(keys.partition, os.urandom(15))
    return requested_id(house, keys, request.request_id)


def requested_id(house: House, keys: Keys, request_id: str) -> str:
    """The decision id of a caller's request id."""
    return _named(keys.partition, house.digest("request", keys.player, request_id))


def _named(partition: int, unique: bytes) -> str:
    return f"{partition:03d}-{base64.b32encode(unique[:15]).decode().lower()}"


async def decide(request: DecisionRequest, table: Table, ledger: RedisLedger) -> Answered:
    """Decide for a player and commit it, or answer what was committed under the same request id.

    Raises:
        Unread: The store could not be read, so nothing was decided.
        StoreError: The store did not answer the reserving call; a retry under the same id is safe.
        Contended: Others changed the player at each of the three attempts.
        RequestReused: The request id stands for another body.
    """
    player = table.house.player_key(request.player_id)
    keys = player_keys(table, player)
    name = decision_id(table.house, keys, request)
    for attempt in range(ATTEMPTS):
        view = await _read(ledger, keys, name)
        if view.record is not None:
            return _replay(view.record, request)
        decision = compose(request, table, view, player, name, attempt)
        if request.dry_run:
            return Answered(decision.record, recorded=False)
        status, held = await ledger.reserve(keys, _booking(decision, table, view))
        if status == "replay":
            return _replay(held, request)
        if status == "reserved":
            return Answered(decision.record, recorded=True)
    raise Contended


async def _read(ledger: RedisLedger, keys: Keys, name: str) -> View:
    try:
        return await ledger.view(keys, name)
    except StoreError as error:
        raise Unread(str(error)) from error


def player_keys(table: Table, player: str) -> Keys:
    """Keys of a player, with the one that Feast's format gives the features."""
    return Keys(player, table.plan.key(player) if table.plan else b"features:" + player.encode())


def _booking(decision: Decision, table: Table, view: View) -> Booking:
    record = decision.record
    return Booking(
        decision_id=record.decision_id,
        record=log.dumps(record),
        facts_version=record.seen.facts_version,
        ledger_version=record.seen.ledger_version,
        seal=decision.seal,
        reservation=decision.reservation,
        outdated=caps.outdated(table.layout.catalogue, view.reservations, record.at_us),
    )


def _replay(held: bytes, request: DecisionRequest) -> Answered:
    record = log.loads(held)
    if record.request != request.digest:
        raise RequestReused
    return Answered(record, recorded=True)


def compose(request: DecisionRequest, table: Table, view: View, player: str, name: str, attempt: int) -> Decision:
    """Compose one decision from a view of the player. Pure but for the nonce of the seal."""
    now_us = table.house.now_us(view.real_us)
    known = facts.read(view.facts, request.brand)
    behaviour = read_behaviour(table.plan, view, now_us)
    churn = table.churn.score(behaviour.vector) if table.churn else schema.CHURN_DEFAULT
    experiment = table.layout.catalogue.experiment
    group = variant(experiment.key, request.player_id, experiment.variants)
    situation = situate(request, table, known, behaviour, now_us, group)
    exclusions = rules.evaluate(situation)
    exclusions += caps.evaluate(table.layout, view.reservations.values(), situation.windows, now_us)
    domain = "dry_run" if request.dry_run else "draw"
    u = uniform_number(table.house.digest(domain, name, str(attempt)))
    choice = choose(*choose_policy(request, table, group), context(behaviour.vector, churn), exclusions, u)
    sent = _sent(table, choice.place, situation.windows)
    seal = view.seal or log.new_seal()
    record = Record(
        decision_id=name,
        player=player,
        brand=request.brand,
        at_us=now_us,
        attempt=attempt,
        request=request.digest,
        explain=request.explain,
        purposes=tuple(sorted(request.purposes)),
        decision_point=request.decision_point,
        experiment=experiment.key,
        variant=group,
        bucket=bucket(experiment.key, request.player_id),
        action=sent,
        activated=request.activate and sent is not None,
        choice=choice,
        seen=_seen(table, view, behaviour, churn, situation),
        versions=_versions(table),
        sandbox=table.house.sandbox,
        sealed=log.seal(seal, _personal(request, view), name),
    )
    return Decision(record, seal, _reservation(record))


def choose(
    role: str, policy: Policy, seen: NDArray[np.float64], exclusions: Sequence[rules.Exclusion], u: float
) -> Choice:
    """Score a context, turn the eligible set into probabilities, draw: propensity and draw come from one pmf."""
    scores = policy.scores(seen)
    eligible = np.ones(len(scores), dtype=np.bool_)
    excluded = {one.rule: np.append(False, one.blocked.ravel()) for one in exclusions}
    for blocked in excluded.values():
        eligible &= ~blocked
    pmf = policy.pmf(scores, eligible)
    drawn = draw(pmf, u)
    return Choice(
        role=role,
        policy_version=policy.version,
        place=drawn.place,
        propensity=drawn.propensity,
        u=u,
        mask=log.bits(eligible),
        excluded={rule: log.bits(blocked) for rule, blocked in excluded.items()},
        scores=log.numbers(scores[eligible]),
        pmf=log.numbers(pmf[eligible]),
    )


def _seen(table: Table, view: View, behaviour: Behaviour, churn: float, situation: rules.Situation) -> Seen:
    degraded = () if behaviour.trouble is None else (behaviour.trouble,)
    return Seen(
        features=log.numbers(behaviour.stored),
        as_of_us=behaviour.as_of_us,
        age_seconds=behaviour.age_seconds,
        churn_score=churn,
        harm_level=situation.harm.level,
        markers=situation.harm.markers,
        stage=situation.stage,
        degraded=degraded if table.churn else (*degraded, "churn_model_missing"),
        assumed=situation.facts.assumed,
        facts_version=situation.facts.version,
        ledger_version=view.ledger_version,
    )


def _versions(table: Table) -> Versions:
    return Versions(
        catalogue=table.layout.catalogue.hash,
        rules=table.book.hash,
        schema=schema.schema_hash(),
        churn=table.churn.bundle.version if table.churn else None,
        time_zones=tzdata.IANA_VERSION,
        build=f"numpy-{np.__version__} {platform.machine()}",
    )


def situate(
    request: DecisionRequest, table: Table, known: Facts, behaviour: Behaviour, now_us: int, group: str
) -> rules.Situation:
    """What rules look at, for a request at a moment."""
    return rules.Situation(
        layout=table.layout,
        book=table.book,
        facts=known,
        now_us=now_us,
        windows=windows_of(known, now_us),
        harm=harm.assess(behaviour.vector, known, now_us, table.book.markers, table.book.levels),
        stage=harm.stage(behaviour.vector, known, now_us, table.book.stages),
        features=behaviour.trouble,
        variant=group,
        purposes=request.purposes,
        channels=None if request.channels is None else frozenset(request.channels),
        offers=None if request.offers is None else frozenset(request.offers),
        at_once=request.activate,
    )


def windows_of(known: Facts, now_us: int) -> tuple[Window, ...]:
    """Sending window of each timing slot; in UTC where the zone is unknown (rules then deny what is promotional)."""
    return tuple(send_window(slot, now_us, known.time_zone or "UTC") for slot in SLOTS)


def read_behaviour(plan: ReadPlan | None, view: View, now_us: int) -> Behaviour:
    """Features of a view brought forward to now; trouble is named, and the vector is then that of nobody."""
    if plan is None or view.watermark_us is None:
        return Behaviour(_NOBODY, forward(_NOBODY, now_us), None, None, "features_unavailable")
    age = max(0.0, (view.real_us - view.watermark_us) / schema.MICROS)
    try:
        row = plan.decode([view.features.get(name) for name in plan.fields])
    except PlanError:
        return Behaviour(_NOBODY, forward(_NOBODY, now_us), None, age, "features_unavailable")
    stored = encode(row.values)
    trouble = "features_stale" if age > max(schema.MAX_AGE_SECONDS.values()) else None
    as_of = stored[0]
    return Behaviour(stored, forward(stored, now_us), None if np.isnan(as_of) else int(as_of), age, trouble)


def choose_policy(request: DecisionRequest, table: Table, chosen: str) -> tuple[str, Policy]:
    """Role and policy of a decision: promotional actions are drawn, others are chosen by priority."""
    if not request.purposes <= PROMOTIONAL:
        return "priority", table.policies["priority"]
    if chosen == "holdout":
        return "holdout", table.policies["policy"]
    return "drawn", table.policies[chosen]


def _sent(table: Table, place: int, windows: Sequence[Window]) -> Sent | None:
    if place == NO_CONTACT:
        return None
    offer, channel, slot = table.layout.catalogue.action(place)
    window = windows[SLOTS.index(slot)]
    return Sent(
        offer=offer.id,
        name=offer.name,
        template=offer.template,
        parameters=offer.parameters,
        purpose=offer.purpose,
        channel=channel,
        timing_slot=slot,
        send_us=window.send_us,
        valid_until_us=window.ends_us,
    )


def _reservation(record: Record) -> Reservation | None:
    if (sent := record.action) is None:
        return None
    state, at = ("confirmed", record.at_us) if record.activated else ("reserved", 0)
    return Reservation(
        sent.send_us,
        sent.valid_until_us,
        cast("caps.State", state),
        sent.purpose,
        sent.offer,
        sent.channel,
        sent.timing_slot,
        at,
    )


def _personal(request: DecisionRequest, view: View) -> dict[str, Any]:
    return {
        "player_id": request.player_id,
        "request_id": request.request_id,
        "context": request.context.model_dump(exclude_none=True) if request.context else {},
        "facts": {name.decode(): value.decode() for name, value in view.facts.items()},
    }
