"""Outcomes: what became of a contact, taken once each; two of them withdraw consent in the same call."""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from features import digests
from features.events import REMEMBERED, SKEW, Id, Moment, micros
from features.forms import Form
from features.schema import CHANNELS
from features.store import position
from models.actions import Catalogue
from models.limits import Response
from service import log
from service.caps import Answered
from service.facts import Assertion, unsubscribed
from service.know import Known, Refused
from service.ledger import Entry, RedisLedger
from service.log import Record, Sent
from service.view import ANSWER, Keys

RELEASING: Final = frozenset({"failed", "cancelled"})
"""Outcomes of contacts that did not happen: their room is free again."""
WITHDRAWING: Final = frozenset({"unsubscribed", "complained"})
"""Outcomes that withdraw consent."""


class Outcome(BaseModel):
    """An observed fact about a contact that was decided here."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    outcome_id: Id = Field(description="Yours, unique per player: a retry changes nothing.")
    decision_id: str = Field(pattern=r"^\d{3}-[a-z2-7]{24}$", description="As the decision answered it.")
    type: Response
    occurred_at: Moment


_FORM: Final = Form("outcome_id decision_id type occurred_at")


def entry(outcome: Outcome, record: Record, sent: Sent, player: str, catalogue: Catalogue) -> Entry:
    """What is appended for an outcome, the capacity it gives back, the consent it withdraws, what limits note of it."""
    at = micros(outcome.occurred_at)
    columns = {
        "player": player,
        "outcome_id": outcome.outcome_id,
        "decision_id": outcome.decision_id,
        "type": outcome.type,
        "occurred_at": at,
        "brand": record.brand,
        "channel": sent.channel,
        "offer": sent.offer,
    }
    return Entry(
        "outcome",
        f"outcome/{outcome.outcome_id}",
        digests.digest(outcome, _FORM),
        msgspec.msgpack.encode(columns),
        _withdrawals(outcome, record.brand, sent.channel, at),
        outcome.decision_id if outcome.type in RELEASING else "",
        _note(outcome, record, sent, catalogue),
        partial(digests.earlier, outcome, _FORM),
    )


def _note(outcome: Outcome, record: Record, sent: Sent, catalogue: Catalogue) -> tuple[str, str]:
    """An answer to a contact as the ledger keeps it, if a limit looks at its type; one per contact and type."""
    if all(pause.type != outcome.type for pause in catalogue.pauses):
        return "", ""
    category = next((offer.category for offer in catalogue.offers if offer.id == sent.offer), None)
    at = micros(outcome.occurred_at)
    noted = Answered(at, outcome.type, sent.purpose, sent.offer, sent.channel, record.brand, category)
    return f"{ANSWER}{outcome.type}/{outcome.decision_id}", noted.dumps()


def _withdrawals(outcome: Outcome, brand: str, channel: str, at: int) -> list[Assertion]:
    """Unsubscribing ends one channel, a complaint ends them all and is remembered."""
    ended = {"unsubscribed": (channel,), "complained": CHANNELS}.get(outcome.type, ())
    complained = [Assertion("complained", at, 0, "")] if outcome.type == "complained" else []
    return [*complained, *(told for one in ended for told in unsubscribed(brand, one, at))]


async def take(outcome: Outcome, catalogue: Catalogue, ledger: RedisLedger) -> Known:
    """Take an outcome: returns once it is durable and what it changes holds.

    Raises:
        Refused: No such decision, none that contacts, a wrong time, or an id used for another outcome.
        StoreError: The store did not answer; a retry is safe.
    """
    _check_time(outcome, await ledger.now_us())
    held = await ledger.record(outcome.decision_id)
    if held is None:
        raise Refused("unknown_decision", "no decision of this id is kept", "/decision_id")
    record = log.loads(held)
    if (sent := record.action) is None:
        raise Refused("no_contact", "the decision was to leave the player alone", "/decision_id")

    async def told(player: str) -> Known:
        taken = entry(outcome, record, sent, player, catalogue)
        return await _take(taken if player == record.player else taken.of(record.player), ledger, player)

    done = await ledger.at_home(record.player, told)
    if outcome.type in RELEASING:
        await ledger.free(record.player, outcome.decision_id)
    return done


async def _take(told: Entry, ledger: RedisLedger, player: str) -> Known:
    keys = Keys(player)
    done = await ledger.append(keys, told)
    if done.status == "conflict":
        raise Refused("outcome_id_reused", "this outcome id was used before for another outcome", "/outcome_id")
    return Known(position(keys.partition, done.stream_id), done.status == "duplicate")


def _check_time(outcome: Outcome, now_us: int) -> None:
    at = micros(outcome.occurred_at)
    if at > now_us + SKEW.total_seconds() * 1e6:
        raise Refused("outcome_in_future", "occurred_at lies in the future of the house's clock", "/occurred_at")
    if at < now_us - REMEMBERED.total_seconds() * 1e6:
        raise Refused("outcome_too_old", "occurred_at is more than 35 days ago", "/occurred_at")
