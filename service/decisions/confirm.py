"""Confirm: the last question before sending, of a caller or of the house itself, answered from facts as they stand now.

Facts are read, the rules are asked again about this one action, and the confirm is committed only if the
facts have not moved since; so none succeeds after a fact that forbids it was acknowledged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace
from structlog.contextvars import bind_contextvars

from features.moments import when
from features.store.keys import PlayerKeys, partition_of
from models.catalogue.offers import PROMOTIONAL, Window
from models.experiments.assignment import Assignment
from service.contacts.entries import Reservation
from service.contacts.ledger import Claim, RedisLedger
from service.contacts.snapshot import PlayerSnapshot
from service.decisions import reasons
from service.decisions.assess import assess
from service.decisions.decide import ATTEMPTS, player_keys
from service.decisions.eligibility import Asked
from service.decisions.kept import KeptDecision, load_stored
from service.decisions.record import ChosenContact
from service.decisions.serving import Serving
from service.errors import (
    Contended,
    Expired,
    NoContactError,
    Released,
    Revoked,
    SendingError,
    TooEarlyError,
    UnknownDecisionError,
)

SEND_WITHIN_SECONDS: Final = 60
_SEND_WITHIN_US: Final = SEND_WITHIN_SECONDS * 1_000_000
_STATES: Final = {"expired": Expired, "unknown": Expired, "released": Released, "revoked": Revoked}
_CLAIMED: Final = frozenset({"fenced", "taken"})
"""What an attempt meets where another worker or the caller was first."""

_Commit = Callable[[PlayerKeys, PlayerSnapshot, int, bytes], Awaitable[tuple[str, int]]]
"""Commits a confirm to count at a moment, with the body of its exposure; returns status and house time."""


class Confirmed(NamedTuple):
    """Leave to send: not before `send_us`, and within a minute of it; unix microseconds of house time."""

    confirmed_us: int
    send_us: int
    send_by_us: int


async def confirm(decision_id: str, serving: Serving, ledger: RedisLedger) -> Confirmed:
    """Confirm a contact just before it is sent; the same answer again while it still may be sent.

    Raises:
        UnknownDecisionError: No such decision.
        NoContactError: It contacts nobody.
        Revoked: It must not be sent, with the reason.
        SendingError: The house sends it, and began to.
        Contended: The player's facts moved at every attempt.
        StoreError: The store did not answer; a retry is safe.
    """
    bind_contextvars(decision_id=decision_id)
    held = await ledger.decision(decision_id)
    if held is None:
        raise UnknownDecisionError
    kept = load_stored(held).kept

    async def commit(keys: PlayerKeys, view: PlayerSnapshot, send_us: int, body: bytes) -> tuple[str, int]:
        if keys.partition != partition_of(kept.player) and await ledger.is_sending(decision_id):
            return "sending", send_us  # the id was linked since, and what is known of sending stands where it was
        return await ledger.confirm(keys, decision_id, view, send_us, body)

    done = await _with_owner(kept, serving, ledger, commit)
    if done is None:
        raise SendingError
    return done


async def attempt(kept: KeptDecision, serving: Serving, ledger: RedisLedger, claim: Claim) -> Confirmed | None:
    """Confirm a contact that the house itself sends, and note the attempt in the same call of the store.

    None if another worker or the caller was first. Raises as `confirm` does.
    """

    def commit(keys: PlayerKeys, view: PlayerSnapshot, send_us: int, body: bytes) -> Awaitable[tuple[str, int]]:
        return ledger.attempt(keys, kept.decision_id, view, send_us, body, claim)

    return await _with_owner(kept, serving, ledger, commit)


async def _with_owner(kept: KeptDecision, serving: Serving, ledger: RedisLedger, commit: _Commit) -> Confirmed | None:
    if (sent := kept.action) is None:
        raise NoContactError
    return await ledger.identities.with_owner(kept.player, partial(_confirm, kept, sent, serving, ledger, commit))


async def _confirm(
    kept: KeptDecision, sent: ChosenContact, serving: Serving, ledger: RedisLedger, commit: _Commit, player: str
) -> Confirmed | None:
    keys = player_keys(serving, player)
    for attempt in range(ATTEMPTS):
        snapshot = await ledger.view(keys, kept.decision_id, serving.plan)
        now_us = serving.house.now_us(snapshot.real_us)
        send_us = max(sent.send_us, now_us)
        mine = snapshot.held.own.get(kept.decision_id)
        try:
            _refuse(kept, sent, serving, snapshot, send_us)
            await _refuse_shared(kept, sent, ledger, snapshot, player)
        except Revoked:
            await _restore(ledger, snapshot, kept.decision_id, mine, again=attempt > 0)
            raise
        if mine is None or not await _held(ledger, snapshot, kept.decision_id, mine, (now_us, send_us)):
            continue
        status, at = await commit(keys, snapshot, send_us, _exposure(kept, sent, player))
        if status == "confirmed":
            begins = max(at, sent.send_us)
            return Confirmed(at, begins, min(begins + _SEND_WITHIN_US, max(begins, sent.valid_until_us)))
        if status == "sending" or status in _CLAIMED:
            return None
        if status != "moved":
            if mine.state == "reserved" and snapshot.household:
                names = [kept.decision_id, *snapshot.held.in_household(kept.decision_id)]
                await ledger.households.release(snapshot.household, names)
            raise _STATES[status]
    raise Contended


def _refuse(kept: KeptDecision, sent: ChosenContact, serving: Serving, snapshot: PlayerSnapshot, send_us: int) -> None:
    """Raise Revoked if the contact may not be sent, or not yet."""
    mine = snapshot.held.own.get(kept.decision_id)
    if mine is None or mine.state in _STATES:
        raise _STATES["unknown" if mine is None else mine.state]
    if forbidden := forbidding(kept, sent, serving, snapshot, send_us):
        raise Revoked(reasons.reason(forbidden[0], serving.reasons).reason, forbidden)
    if mine.state == "reserved" and serving.house.now_us(snapshot.real_us) < sent.send_us - _SEND_WITHIN_US:
        raise TooEarlyError(f"ask again within {SEND_WITHIN_SECONDS} s of send_at: {when(sent.send_us)}")


async def _refuse_shared(
    kept: KeptDecision, sent: ChosenContact, ledger: RedisLedger, snapshot: PlayerSnapshot, player: str
) -> None:
    """Raise Revoked if a promotion would go to an address of somebody who is excluded."""
    if sent.purpose not in PROMOTIONAL:
        return
    if await ledger.addresses.silenced(snapshot.facts, kept.brand, sent.channel, player):
        raise Revoked(reasons.OWN["shared_address"].reason, ("shared_address",))


async def _held(
    ledger: RedisLedger, snapshot: PlayerSnapshot, decision_id: str, mine: Reservation, moments: tuple[int, int]
) -> bool:
    """Count the contact for good in the player's household first, which is then only ever too strict.

    `moments` are now and that of sending.
    """
    now_us, send_us = moments
    if not snapshot.household or mine.state != "reserved" or mine.purpose not in PROMOTIONAL:
        return True
    sure = mine._replace(state="confirmed", send_us=send_us)
    over = [*snapshot.held.in_household(decision_id), *snapshot.held.freed(now_us)]
    version = snapshot.household_version or "0"
    return await ledger.households.reserve(snapshot.household, version, decision_id, sure, over)


async def _restore(
    ledger: RedisLedger, snapshot: PlayerSnapshot, decision_id: str, mine: Reservation | None, *, again: bool
) -> None:
    """Give a household back what is held for a contact that cannot be sent, or what an attempt counted too much."""
    if not snapshot.household or mine is None or mine.state == "confirmed":
        return
    if mine.state != "reserved":
        await ledger.households.release(snapshot.household, snapshot.held.in_household(decision_id))
    elif again:
        await ledger.households.reserve(snapshot.household, snapshot.household_version or "0", decision_id, mine)


def forbidding(
    kept: KeptDecision, sent: ChosenContact, serving: Serving, snapshot: PlayerSnapshot, send_us: int
) -> tuple[str, ...]:
    """Rules and caps that forbid a decided contact if it is sent at a moment."""
    now_us = serving.house.now_us(snapshot.real_us)
    place = serving.layout.find(sent.offer, sent.channel, sent.timing_slot)
    # An offer that became promotional since is judged as what it is now.
    if sent.purpose not in PROMOTIONAL and not place & serving.layout.promotional:
        return ()
    if not place:
        return ("offer_gone",)
    others = replace(snapshot, held=snapshot.held.without(kept.decision_id))
    asked = Asked(kept.brand, settled=Window(send_us, sent.valid_until_us))
    # What experiments kept back was not drawn, and whoever was in no holdout then may still be written to.
    assigned = Assignment(kept.experiments)
    assessed = assess(others, asked, assigned, now_us, serving)
    # Its part of a budget was taken when it was reserved.
    full = {name: bits for name, bits in (assessed.limits or {}).items() if not name.startswith("budget:")}
    # Leave lasts for the whole window, so its end is asked about too.
    last_us = min(send_us + _SEND_WITHIN_US, max(send_us, sent.valid_until_us - 1))
    at_the_end = assessed.excluded_at(Window(last_us, sent.valid_until_us))
    denied = (name for by in (full, at_the_end, assessed.verdict.blocked) for name, bits in by.items() if bits & place)
    return tuple(dict.fromkeys(denied))


def _exposure(kept: KeptDecision, sent: ChosenContact, player: str) -> bytes:
    return msgspec.msgpack.encode(
        {
            "player": player,
            "outcome_id": f"confirm/{kept.decision_id}",
            "decision_id": kept.decision_id,
            "type": "confirmed",
            "brand": kept.brand,
            "channel": sent.channel,
            "offer": sent.offer,
        }
    )
