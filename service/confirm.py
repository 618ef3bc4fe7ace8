"""Confirm: the caller's last question before sending, answered from facts as they stand now.

Facts are read, the rules are asked again about this one action, and the confirm is committed only if the
facts have not moved since; so none succeeds after a fact that forbids it was acknowledged.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from models.actions import PROMOTIONAL, Window
from service import caps, facts, log, mask
from service.decide import ATTEMPTS, Contended, DecisionRequest, Table, player_keys, read_behaviour, situate
from service.know import Refused
from service.layout import Candidates
from service.ledger import RedisLedger, View
from service.log import Record, Sent

SEND_WITHIN_SECONDS: Final = 60
_SEND_WITHIN_US: Final = SEND_WITHIN_SECONDS * 1_000_000
_STATES: Final = {
    "expired": ("expired", "the lease has run out"),
    "unknown": ("expired", "the lease has run out"),
    "released": ("released", "the contact was reported as failed or cancelled"),
    "revoked": ("revoked", "what became known of the player since took the lease back"),
}


class Confirmed(NamedTuple):
    """Leave to send: not before `send_us`, and within a minute of it; unix microseconds of house time."""

    confirmed_us: int
    send_us: int
    send_by_us: int


class Revoked(Exception):
    """The contact must not be sent; `code` is `revoked`, `expired` or `released`, `by` the rules that forbid it."""

    def __init__(self, code: str, reason: str, by: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.code = code
        self.by = by


async def confirm(decision_id: str, table: Table, ledger: RedisLedger) -> Confirmed:
    """Confirm a contact just before it is sent; the same answer again while it still may be sent.

    Raises:
        Refused: No such decision, or none that contacts.
        Revoked: It must not be sent, with the reason.
        Contended: The player's facts moved at every attempt.
        StoreError: The store did not answer; a retry is safe.
    """
    held = await ledger.record(decision_id)
    if held is None:
        raise Refused("unknown_decision", "no decision of this id is kept")
    record = log.loads(held)
    if (sent := record.action) is None:
        raise Refused("no_contact", "the decision was to leave the player alone")
    keys = player_keys(table, record.player)
    for _ in range(ATTEMPTS):
        view = await ledger.view(keys, decision_id)
        send_us = max(sent.send_us, table.house.now_us(view.real_us))
        if forbidden := forbidding(record, sent, table, view, send_us):
            raise Revoked("revoked", mask.reason(forbidden[0], table.reasons).reason, forbidden)
        status, at = await ledger.confirm(keys, decision_id, view, send_us, _exposure(record, sent))
        if status == "confirmed":
            begins = max(at, sent.send_us)
            return Confirmed(at, begins, min(begins + _SEND_WITHIN_US, max(begins, sent.valid_until_us)))
        if status != "moved":
            raise Revoked(*_STATES[status])
    raise Contended


def forbidding(record: Record, sent: Sent, table: Table, view: View, send_us: int) -> tuple[str, ...]:
    """Rules and caps that forbid a decided contact if it is sent at a moment."""
    if sent.purpose not in PROMOTIONAL:
        return ()
    now_us = table.house.now_us(view.real_us)
    place = table.layout.find(sent.offer, sent.channel, sent.timing_slot)
    if not place:
        return ("not_requested",)
    known = facts.read(view.facts, record.brand)
    request = DecisionRequest(player_id="-", brand=record.brand)
    others = [one for name, one in view.reservations.items() if name != record.decision_id]
    behaviour = read_behaviour(table.plan, view, now_us)
    situation = situate(request, table, known, behaviour, others, now_us, record.variant)
    # Whoever has leave may use all of it, so its end is asked about too.
    last_us = min(send_us + _SEND_WITHIN_US, max(send_us, sent.valid_until_us - 1))
    blocked = _overflows(record, sent, table, view, send_us, now_us)
    for at_us in (last_us, send_us):
        blocked |= mask.evaluate(situation.at(Window(at_us, sent.valid_until_us))).blocked
    return tuple(name for name, bits in blocked.items() if bits & place)


def _overflows(
    record: Record, sent: Sent, table: Table, view: View, send_us: int, now_us: int
) -> dict[str, Candidates]:
    """Caps without room for a contact that is sent later than it was reserved for, beside all others."""
    if send_us == sent.send_us:
        return {}
    mine = view.reservations.get(record.decision_id)
    if mine is None or mine.state != "reserved":
        return {}
    others = [one for name, one in view.reservations.items() if name != record.decision_id]
    return caps.evaluate(table.layout, others, [(send_us, table.layout.everything)], now_us)


def _exposure(record: Record, sent: Sent) -> bytes:
    return msgspec.msgpack.encode(
        {
            "player": record.player,
            "outcome_id": f"confirm/{record.decision_id}",
            "decision_id": record.decision_id,
            "type": "confirmed",
            "brand": record.brand,
            "channel": sent.channel,
            "offer": sent.offer,
        }
    )
