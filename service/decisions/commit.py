"""Commit a decision in one step with its contact, and room for it in the household of a player who has one."""

from __future__ import annotations

import secrets

from features.store.keys import PlayerKeys
from service.contacts.entries import Reservation, attempt_name
from service.contacts.ledger import Booking, RedisLedger
from service.contacts.snapshot import PlayerSnapshot
from service.decisions.compose import Decision, lost
from service.decisions.kept import dump_kept
from service.decisions.record import Record, dump_record


async def commit(
    ledger: RedisLedger, keys: PlayerKeys, snapshot: PlayerSnapshot, decision: Decision
) -> tuple[str, Record, bytes]:
    """Commit a decision with room in the household, if the player has one.

    Returns the status, the record, and what is kept where the request was answered before.

    What a budget over all players cannot bear is kept as drawn and lost, whatever changed since: nothing is sent.
    """
    household = snapshot.household if decision.promotional else None
    if household and (lacking := _lacking(snapshot, decision)):
        await ledger.households.add(household, snapshot.held, lacking)
        return "moved", decision.record, b""
    name = attempt_name(decision.record.decision_id, secrets.token_hex(4)) if household else ""
    if household and not await ledger.households.reserve(
        household, snapshot.household_version or "0", name, decision.reservation, decision.household_outdated
    ):
        return "moved", decision.record, b""
    status, held = await ledger.reserve(keys, _booking(decision))
    if household:
        earlier = snapshot.held.in_household(decision.record.decision_id) if status in {"reserved", "lost"} else []
        failed = [name] if decision.reservation and status != "reserved" else []
        await ledger.households.release(household, earlier + failed)
    if status == "lost":
        decision = lost(decision)
        status, held = await ledger.reserve(keys, _booking(decision)._replace(facts_version="", ledger_version=""))
    return status, decision.record, held


async def settle(ledger: RedisLedger, snapshot: PlayerSnapshot, decision_id: str) -> None:
    """Leave one entry in the household of a decision whose attempts left several, that which the player holds."""
    own, entries = snapshot.held.own.get(decision_id), snapshot.held.in_household(decision_id)
    if snapshot.household and len(entries) > (own is not None):
        version = snapshot.household_version or "0"
        await ledger.households.reserve(snapshot.household, version, decision_id, own, entries)


def _lacking(snapshot: PlayerSnapshot, decision: Decision) -> dict[str, Reservation]:
    """What the household should hold of the player's contacts and does not, though a limit could look at it."""
    lacking = snapshot.held.lacking(decision.record.at_us)
    return {name: one for name, one in lacking.items() if name not in decision.outdated}


def _booking(decision: Decision) -> Booking:
    record = decision.record
    return Booking(
        budgets=decision.budgets,
        over=decision.over,
        decision_id=record.decision_id,
        record=dump_record(record),
        kept=dump_kept(record),
        facts_version=record.seen.facts_version,
        ledger_version=record.seen.ledger_version,
        seal=decision.seal,
        reservation=decision.reservation,
        outdated=decision.outdated,
    )
