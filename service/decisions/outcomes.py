"""Outcomes: what became of a contact, taken once each; two of them withdraw consent in the same call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator

from features import digests
from features.events import SKEW, AnyMoment, Brand, Channel, Id, micros, timeliness
from features.forms import Form
from features.moments import MICROSECOND, when
from features.schema import CHANNELS
from features.store.deployment import House, position
from features.store.keys import PlayerKeys
from features.unshown import Unshown
from models.catalogue.limits import Response
from models.catalogue.offers import Catalogue
from service.contacts.entries import ContactResponse, State, response_name
from service.contacts.ledger import Entry, RedisLedger
from service.decisions.kept import KeptDecision, load_stored
from service.decisions.record import ChosenContact
from service.errors import (
    ImplausibleError,
    NoContactError,
    OutcomeIdReused,
    OutcomeInFutureError,
    OutcomeTooOldError,
    UnknownDecisionError,
)
from service.events.accept import NOWHERE, TOLD_AT, Accepted, ClockAhead, answered
from service.players.facts import Assertion, changes, unsubscribed

RELEASING: Final = frozenset({"failed", "cancelled"})
"""Outcomes of contacts that did not happen: their room is free again."""
WITHDRAWING: Final = frozenset({"unsubscribed", "complained"})
"""Outcomes that withdraw consent."""
OPENED_BY_MACHINE: Final = "opened_by_machine"
"""Type in log and lake of a contact that a machine opened: no feature, no limit and no reward looks at it."""


class Outcome(Unshown, BaseModel):
    """An observed fact about a contact that was decided here.

    One that withdraws consent may name player and channel in place of a decision, which is kept for 35 days only; where
    both are named, what is said of the player holds, and the decision is charged if it is kept and theirs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    outcome_id: Id = Field(description="Yours, unique per player: a retry changes nothing.")
    decision_id: str | None = Field(
        default=None, pattern=r"^\d{3}-[a-z2-7]{24}$", description="As the decision answered it."
    )
    type: Response
    occurred_at: AnyMoment
    player_id: Id | None = Field(default=None, description="With `channel`, for `unsubscribed` and `complained` only.")
    channel: Channel | None = None
    brand: Brand | None = Field(default=None, description="With `player_id`: the decision's if left out, else `main`.")
    hard: bool = Field(
        default=False, description="Of `failed`: the address itself is no good; nothing is sent there until it changes."
    )
    machine: bool = Field(
        default=False, description="Of `opened`: a machine opened it for the player, which says nothing of the player."
    )

    @model_validator(mode="after")
    def _names_a_contact(self) -> Outcome:
        named = self.player_id is not None, self.channel is not None
        if any(named) and self.type not in WITHDRAWING:
            raise ValueError(f"player_id and channel are for {' and '.join(sorted(WITHDRAWING))}; name the decision_id")
        if any(named) != all(named):
            raise ValueError("name both player_id and channel")
        if self.brand is not None and not any(named):
            raise ValueError("brand goes with player_id and channel; the decision has its own")
        if self.hard and self.type != "failed":
            raise ValueError("hard is for failed")
        if self.machine and self.type != "opened":
            raise ValueError("machine is for opened")
        if self.decision_id is None and not any(named):
            more = " or player_id and channel" if self.type in WITHDRAWING else ""
            raise ValueError(f"name the decision_id{more}")
        return self


_FORM: Final = Form("outcome_id decision_id type occurred_at")


class Contact(NamedTuple):
    """What an outcome is about: the contact of a decision, or a player, a brand and a channel."""

    player: str
    brand: str
    channel: str
    decision: KeptDecision | None = None
    sent: ChosenContact | None = None

    @classmethod
    def of(cls, decision: KeptDecision) -> Contact:
        """The contact of a decision.

        Raises:
            NoContactError: The decision was to leave the player alone.
        """
        if (sent := decision.action) is None:
            raise NoContactError(pointer="/decision_id")
        return cls(decision.player, decision.brand, sent.channel, decision, sent)


def entry(
    outcome: Outcome,
    about: Contact,
    player: str,
    catalogue: Catalogue,
    ahead: ClockAhead | None = None,
    beside: Sequence[Assertion] = (),
) -> Entry:
    """What is appended for an outcome, the capacity it gives back, the consent it withdraws, what limits note of it.

    `beside` are withdrawals that hold beside its own.
    """
    at = micros(outcome.occurred_at) if ahead is None else ahead.now_us
    named = about.decision.decision_id if about.decision else ""
    columns = {
        "player": player,
        "outcome_id": outcome.outcome_id,
        "decision_id": named,
        "type": OPENED_BY_MACHINE if outcome.machine else outcome.type,
        "occurred_at": at,
        "brand": about.brand,
        "channel": about.channel,
        "offer": about.sent.offer if about.sent else None,
        **({} if ahead is None else {TOLD_AT: micros(outcome.occurred_at)}),
    }
    withdrawn = [*_withdrawals(outcome, about, at), *beside]
    return Entry(
        "outcome",
        f"outcome/{outcome.outcome_id}",
        digests.digest(outcome, _FORM),
        msgspec.msgpack.encode(columns),
        withdrawn if ahead is None else ahead.facts(withdrawn),
        named if outcome.type in RELEASING else "",
        _note(outcome, about, at, catalogue),
        partial(digests.earlier, outcome, _FORM),
    )


def _note(outcome: Outcome, about: Contact, at: int, catalogue: Catalogue) -> tuple[str, str]:
    """An answer to a contact as the ledger keeps it, if a limit looks at its type; one per contact and type."""
    if (
        outcome.machine
        or about.decision is None
        or about.sent is None
        or all(pause.type != outcome.type for pause in catalogue.pauses)
    ):
        return "", ""
    sent = about.sent
    category = next((offer.category for offer in catalogue.offers if offer.id == sent.offer), None)
    noted = ContactResponse(at, outcome.type, sent.purpose, sent.offer, sent.channel, about.brand, category)
    return response_name(outcome.type, about.decision.decision_id), noted.dumps()


def _withdrawals(outcome: Outcome, about: Contact, at: int) -> list[Assertion]:
    """Unsubscribing ends one channel, a complaint ends them all and is remembered, a hard bounce ends an address."""
    if outcome.hard:
        return [Assertion(f"unusable:{about.brand}:{about.channel}", at, 0, "bounced")]
    ended = {"unsubscribed": (about.channel,), "complained": CHANNELS}.get(outcome.type, ())
    complained = [Assertion("complained", at, 0, "")] if outcome.type == "complained" else []
    return [*complained, *(told for one in ended for told in unsubscribed(about.brand, one, at))]


async def take(
    outcome: Outcome,
    house: House,
    catalogue: Catalogue,
    ledger: RedisLedger,
    beside: Sequence[Assertion] = (),
    doubts: list[str] | None = None,
    named: Contact | None = None,
) -> Accepted:
    """Take an outcome: returns once it is durable and what it changes holds.

    One that withdraws consent is taken whatever its moment: from now on where its clock was far ahead, and where it is
    too old for its id to be remembered it is new if it changes anything. Whatever else is implausible of it, it is
    taken too, but not counted against the decision: that is added to `doubts`. `beside` are withdrawals beside its own;
    `named` is whom one that withdraws is about where its decision is not kept any more.

    Raises:
        RequestRefused: No such decision, none that contacts, a wrong time, what cannot have happened, or an id used for
            another outcome.
        StoreError: The store did not answer; a retry is safe.
    """
    now_us = await ledger.now_us()
    late = timeliness(micros(outcome.occurred_at), now_us)
    if late is not None and outcome.type not in WITHDRAWING:
        raise OutcomeInFutureError if late == "ahead" else OutcomeTooOldError
    about = await _contact(outcome, house, ledger, named)

    async def told(player: str) -> Accepted:
        keys, linked = PlayerKeys(player), about.player if player != about.player else ""
        strange = await _implausible(outcome, about, keys, ledger, house)
        of = about._replace(decision=None, sent=None) if strange else about
        plain = entry(outcome, of, player, catalogue, beside=beside)
        asked = plain.under(linked) if linked else plain
        known, held = await ledger.known_or_facts(keys, asked) if late or strange else (None, {})
        if known is not None:
            return answered(keys, known, OutcomeIdReused)
        if strange and outcome.type not in WITHDRAWING:
            raise strange
        if strange and doubts is not None:
            doubts.append(f"decision_id: {strange}; the withdrawal holds, and is not counted against the decision")
        taken = entry(outcome, of, player, catalogue, ClockAhead(now_us, held), beside) if late == "ahead" else plain
        taken = taken.under(linked) if linked else taken
        if late == "old" and not changes(taken.facts, held):
            return Accepted(position(keys.partition, NOWHERE), duplicate=True)
        return answered(keys, await ledger.append(keys, taken), OutcomeIdReused)

    done = await ledger.identities.with_owner(about.player, told)
    if outcome.type in RELEASING and about.decision is not None:
        await ledger.release_in_household(about.player, about.decision.decision_id)
    return done


async def _contact(outcome: Outcome, house: House, ledger: RedisLedger, named: Contact | None) -> Contact:
    """What an outcome is about: its decision where that is kept, else whom it names."""
    held = None if outcome.decision_id is None else await ledger.decision(outcome.decision_id)
    decision = None if held is None else load_stored(held).kept
    if outcome.player_id is None or outcome.channel is None:
        if decision is None and named is not None and outcome.type in WITHDRAWING:
            return named
        if decision is None:
            raise UnknownDecisionError(_UNKNOWN if outcome.type in WITHDRAWING else "", "/decision_id")
        return Contact.of(decision)
    player = house.player_key(outcome.player_id)
    theirs = decision if decision is not None and await _is_of(decision, player, ledger) else None
    brand = outcome.brand or (theirs.brand if theirs else "main")
    if theirs is not None and theirs.action is not None:
        decided = Contact.of(theirs)
        if (decided.brand, decided.channel) == (brand, outcome.channel):
            return decided._replace(player=player)
    return Contact(player, brand, outcome.channel)


async def _implausible(
    outcome: Outcome, about: Contact, keys: PlayerKeys, ledger: RedisLedger, house: House
) -> ImplausibleError | None:
    """Why an outcome of a decided contact cannot have happened as it is told; None if it can."""
    decision = about.decision
    if decision is None or about.sent is None:
        return None
    at_us, skew_us = micros(outcome.occurred_at), int(SKEW // MICROSECOND * max(1.0, house.rate))
    if at_us < decision.at_us - skew_us:
        sentence = f"the decision was made later, at {when(decision.at_us)}: is your clock behind?"
        return ImplausibleError(sentence, "/occurred_at")
    if outcome.type in RELEASING:
        return None
    held = await ledger.reservation(keys, decision.decision_id)
    if held is None:  # no limit looks at it any more
        return None
    if held.state != "confirmed":
        state = "expired" if held.state == "reserved" and await ledger.now_us() > held.valid_until_us else held.state
        return ImplausibleError(f"{_UNSENT[state]}; {_CONFIRM}", "/decision_id")
    if at_us < held.confirmed_us - skew_us:
        sentence = f"the contact was confirmed later, at {when(held.confirmed_us)}, and is not sent before: {_CONFIRM}"
        return ImplausibleError(sentence, "/occurred_at")
    return None


_UNSENT: Final[Mapping[State, str]] = {
    "reserved": "this contact was not confirmed, so it had no leave to be sent",
    "expired": "this contact was not confirmed before its lease ended, so it had no leave to be sent",
    "revoked": "the lease of this contact was taken back before it was confirmed, so it had no leave to be sent",
    "released": "this contact was told as failed or cancelled before, so its room was given to others",
}
_CONFIRM: Final = (
    "ask POST /v1/decisions/{decision_id}/confirm just before sending, and send only on its 200. If it was sent all "
    "the same, no cap counts it: ask for a new decision before the next one"
)


async def _is_of(decision: KeptDecision, player: str, ledger: RedisLedger) -> bool:
    """Whether a decision is about a player: about the same id, or about another id of the same person."""
    if decision.player == player:
        return True
    return await ledger.identities.owner(decision.player) == await ledger.identities.owner(player)


_UNKNOWN: Final = f"{UnknownDecisionError.sentence}: name player_id and channel, and it is taken"
