"""Make a decision: read the player, drop candidates by rules and limits, draw from the policy, reserve, log.

`compose` is the decision itself, pure: a snapshot of the player in, a record out. `decide` carries it to the
store and back, and runs it again when the player moved in between, so that what is committed was drawn from
exactly what stands.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Collection
from functools import partial
from typing import Final, NamedTuple

from msgspec.structs import replace
from structlog.contextvars import bind_contextvars

from features.store.deployment import House
from features.store.errors import StoreAbsentError, StoreError
from features.store.keys import PlayerKeys, partition_of
from service.contacts.entries import Reservation, attempt_name
from service.contacts.ledger import Booking, RedisLedger
from service.contacts.snapshot import Linked, PlayerSnapshot
from service.decisions.compose import Decision, compose, lost
from service.decisions.kept import KeptDecision, dump_kept, load_stored
from service.decisions.record import Record, dump_record
from service.decisions.request import DecisionRequest
from service.decisions.serving import Serving
from service.errors import Contended, RequestIdReused
from service.players import sealing
from service.players.facts import erased_us
from service.players.sealing import Seals

ATTEMPTS: Final = 3


class Decided(NamedTuple):
    """What answers a request.

    Attributes:
        kept: What the store keeps of the decision, of which every answer is made.
        record: The whole record, where it was made just now or was asked to be explained.
        recorded: Whether the store holds it.
        replayed: Whether an earlier request made it.
        delivers: Whether the house sends its contact, of one that was made just now.
    """

    kept: KeptDecision
    record: Record | None
    recorded: bool
    replayed: bool = False
    delivers: bool = False


class Stages:
    """The stages that a decision passed, by the clock of whoever measures it.

    Attributes:
        begun: When it began.
        passed: Each stage in the order in which they ended, and when: `read`, `compose`, `reserve`.
        moved: Attempts that a change of the player undid.
        decision_id: Of the decision, once it has one.
    """

    __slots__ = ("_clock", "begun", "decision_id", "moved", "passed")

    def __init__(self, clock: Callable[[], float] = float) -> None:
        self._clock = clock
        self.begun = clock()
        self.passed: list[tuple[str, float]] = []
        self.moved = 0
        self.decision_id = ""

    def over(self, stage: str) -> None:
        """Note that a stage has ended."""
        self.passed.append((stage, self._clock()))

    def end(self, done: Decided | None) -> None:
        """Note what came of it, None where it failed."""


def decision_id(house: House, player: str, asked: str, request: DecisionRequest) -> str:
    """Name a decision: its partition first; the same request id of a player always gives the same id."""
    if request.request_id is None or request.dry_run:
        return _named(player, os.urandom(15))
    return requested_id(house, player, asked, request.request_id)


def requested_id(house: House, player: str, asked: str, request_id: str) -> str:
    """The decision id of a caller's request id about a player or an id linked to them, by their keys."""
    return _named(player, house.digest("request", asked, request_id))


def _named(player: str, unique: bytes) -> str:
    return f"{partition_of(player):03d}-{base64.b32encode(unique[:15]).decode().lower()}"


async def decide(
    request: DecisionRequest,
    serving: Serving,
    ledger: RedisLedger,
    stages: Stages | None = None,
    delivers: Collection[str] = (),
) -> Decided:
    """Decide for a player and commit it, or answer what was committed under the same request id.

    `stages` is told of every stage that ends; a contact on one of the channels in `delivers` is sent by the house.

    Raises:
        StoreAbsentError: Nobody listened where the store should be, before anything was reserved: nothing was done.
        StoreError: The store did not answer in time or cannot serve now; a retry under the same id is safe.
        Contended: Others changed the player at each of the three attempts.
        RequestIdReused: The request id stands for another body.
    """
    asked, stages = serving.house.player_key(request.player_id), stages or Stages()
    try:
        return await _decide(request, serving, ledger, stages, delivers, asked, asked)
    except Linked as linked:
        again = partial(_decide, request, serving, ledger, stages, delivers, asked)
        return await ledger.identities.for_owner(asked, linked, again)


async def _decide(
    request: DecisionRequest,
    serving: Serving,
    ledger: RedisLedger,
    stages: Stages,
    delivers: Collection[str],
    asked: str,
    player: str,
) -> Decided:
    keys = player_keys(serving, player)
    name = decision_id(serving.house, player, asked, request)
    bind_contextvars(decision_id=name)
    stages.decision_id = name
    for attempt in range(ATTEMPTS):
        try:
            snapshot = await ledger.view(keys, name, serving.plan)
        except Linked as linked:
            if linked.record is not None:
                return _replay(linked.record, request)
            raise
        stages.over("read")
        if snapshot.record is not None:
            await _settle(ledger, snapshot, name)
            return _replay(snapshot.record, request)
        own = own_id(request.player_id, snapshot, (player, asked), serving.seals)
        # Attempts at this very decision whose answer got lost take no room from it.
        again = snapshot.household and snapshot.held.in_household(name)
        free = replace(snapshot, held=snapshot.held.without(name)) if again else snapshot
        decision = compose(request, serving, free, (player, own), name, attempt)
        stages.over("compose")
        if request.dry_run:
            return Decided(decision.kept, decision.record, recorded=False)
        try:
            status, decision, held = await _commit(ledger, keys, snapshot, decision, delivers)
        except StoreAbsentError as error:  # part of it may have been done before
            raise StoreError(str(error)) from error
        stages.over("reserve")
        if status == "replay":
            return _replay(held, request)
        if status == "reserved":
            return Decided(decision.kept, decision.record, recorded=True, delivers=_is_sent_on(delivers, decision))
        stages.moved += 1
    raise Contended


def player_keys(serving: Serving, player: str) -> PlayerKeys:
    """Keys of a player, with the one that Feast's format gives the features."""
    return PlayerKeys(player, serving.plan.key(player) if serving.plan else b"")


def own_id(player_id: str, snapshot: PlayerSnapshot, keys: tuple[str, str], seals: Seals) -> str:
    """The id by which a player is split into variants: of several linked ids always the same one.

    Of a player who was erased it is the player key, for the name by which others were linked is gone with the seal.
    `keys` are the player's, and that of the id which was asked about.
    """
    player, asked = keys
    if erased_us(snapshot.facts) is not None:
        return player
    if player == asked:
        return player_id
    key = None if snapshot.seal is None else seals.open(player, snapshot.seal)
    told = sealing.unseal(key, base64.b64decode(snapshot.facts[b"name"]), sealing.NAME)
    if told is None:
        raise StoreError("the player's name is sealed under another key")
    return str(told["player_id"])


def _replay(held: bytes, request: DecisionRequest) -> Decided:
    kept, record, _ = load_stored(held)
    if kept.request != request.digest:
        raise RequestIdReused
    return Decided(kept, record, recorded=True, replayed=True)


# --- Commit


async def _commit(
    ledger: RedisLedger, keys: PlayerKeys, snapshot: PlayerSnapshot, decision: Decision, delivers: Collection[str]
) -> tuple[str, Decision, bytes]:
    """Commit a decision with room in the household, if the player has one.

    Returns the status, the decision, and what is kept where the request was answered before.

    What a budget over all players cannot bear is kept as drawn and lost, whatever changed since: nothing is sent.
    """
    household = snapshot.household
    if household and not decision.promotional:
        household = None
    if household and (lacking := _lacking(snapshot, decision)):
        await ledger.households.add(household, snapshot.held, lacking)
        return "moved", decision, b""
    name = attempt_name(decision.record.decision_id, secrets.token_hex(4)) if household else ""
    if household and not await ledger.households.reserve(
        household, snapshot.household_version or "0", name, decision.reservation, decision.household_outdated
    ):
        return "moved", decision, b""
    status, held = await ledger.reserve(keys, _booking(decision, delivers))
    if household:
        earlier = snapshot.held.in_household(decision.record.decision_id) if status in {"reserved", "lost"} else []
        failed = [name] if decision.reservation and status != "reserved" else []
        await ledger.households.release(household, earlier + failed)
    if status == "lost":
        decision = lost(decision)
        status, held = await ledger.reserve(keys, _booking(decision)._replace(facts_version="", ledger_version=""))
    return status, decision, held


async def _settle(ledger: RedisLedger, snapshot: PlayerSnapshot, decision_id: str) -> None:
    """Leave one entry in the household of a decision whose attempts left several, that which the player holds."""
    own, entries = snapshot.held.own.get(decision_id), snapshot.held.in_household(decision_id)
    if snapshot.household and len(entries) > (own is not None):
        version = snapshot.household_version or "0"
        await ledger.households.reserve(snapshot.household, version, decision_id, own, entries)


def _lacking(snapshot: PlayerSnapshot, decision: Decision) -> dict[str, Reservation]:
    """What the household should hold of the player's contacts and does not, though a limit could look at it."""
    lacking = snapshot.held.lacking(decision.record.at_us)
    return {name: one for name, one in lacking.items() if name not in decision.outdated}


def _is_sent_on(delivers: Collection[str], decision: Decision) -> bool:
    """Whether the house sends the contact of a decision on one of these channels."""
    sent = decision.record.action
    return sent is not None and sent.channel in delivers


def _booking(decision: Decision, delivers: Collection[str] = ()) -> Booking:
    record = decision.record
    return Booking(
        budgets=decision.budgets,
        over=decision.over,
        decision_id=record.decision_id,
        record=dump_record(record),
        kept=dump_kept(decision.kept, record),
        facts_version=record.seen.facts_version,
        ledger_version=record.seen.ledger_version,
        seal=decision.seal,
        reservation=decision.reservation,
        outdated=decision.outdated,
        delivers=_is_sent_on(delivers, decision),
    )
