"""Entries of a ledger: contacts, responses, leases that charge budgets; how each is written in the store, and read.

A text is words with single spaces between. The store's functions read the same texts (`ledger.lua`), builds before and
after this one write them: words may be added at the end only where every reader takes what lacks them.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, cast

from models.catalogue.limits import ContactGroup

State = Literal["reserved", "confirmed", "released", "revoked", "expired"]
RESPONSE: Final = "~"
"""Entries of a ledger that begin so are responses to contacts, not contacts."""
_ATTEMPT: Final = "#"
_NONE: Final = "-"


class Reservation(NamedTuple):
    """Capacity held for a contact; moments in unix microseconds, `confirmed_us` 0 until it is confirmed.

    `charges` are amounts in minor units by budget and day, as `bonus_day/2026-11-22`.
    """

    send_us: int
    valid_until_us: int
    state: State
    purpose: str
    offer: str
    channel: str
    timing_slot: str
    confirmed_us: int = 0
    brand: str = "main"
    category: str | None = None
    priority: int = 0
    charges: tuple[tuple[str, int], ...] = ()

    @classmethod
    def loads(cls, text: str) -> Reservation:
        """Read an entry; those from before brands and budgets are of brand `main` and charge nothing."""
        send, valid, state, purpose, offer, channel, slot, confirmed, *rest = text.split(" ")
        brand, category, priority, charges = rest or ("main", _NONE, "0", _NONE)
        pairs = (one.rsplit("=", 1) for one in charges.split(",")) if charges != _NONE else ()
        return cls(
            int(send),
            int(valid),
            cast("State", state),
            purpose,
            offer,
            channel,
            slot,
            int(confirmed),
            brand,
            None if category == _NONE else category,
            int(priority),
            tuple((budget, int(amount)) for budget, amount in pairs),
        )

    def dumps(self) -> str:
        """The entry as the store holds it."""
        charges = ",".join(f"{budget}={amount}" for budget, amount in self.charges) or _NONE
        return " ".join(map(str, (*self[:9], self.category or _NONE, self.priority, charges)))

    def counts(self, now_us: int) -> bool:
        """Whether it takes room: confirmed for good, reserved until its time to confirm has passed."""
        return self.state == "confirmed" or (self.state == "reserved" and now_us <= self.valid_until_us)

    def within(self, group: ContactGroup) -> bool:
        """Whether a limit's group holds it."""
        return group.holds(self.purpose, self.offer, self.category, self.channel)

    def uncharged(self) -> Reservation:
        """The same without its charges, as a household holds it: budgets are charged where the player is."""
        return self._replace(charges=())


def attempt_name(decision_id: str, attempt: str) -> str:
    """Name in a household of what one attempt at a decision reserves."""
    return f"{decision_id}{_ATTEMPT}{attempt}"


def decision_of(name: str) -> str:
    """The decision that an entry is held for; in a household each attempt at it holds one of its own."""
    return name.partition(_ATTEMPT)[0]


class ContactResponse(NamedTuple):
    """What became of a contact: at a moment in unix microseconds, a response of a type."""

    at_us: int
    type: str
    purpose: str
    offer: str
    channel: str
    brand: str
    category: str | None

    @classmethod
    def loads(cls, text: str) -> ContactResponse:
        """Read an entry."""
        at, type_, purpose, offer, channel, brand, category = text.split(" ")
        return cls(int(at), type_, purpose, offer, channel, brand, None if category == _NONE else category)

    def dumps(self) -> str:
        """The entry as the store holds it."""
        return " ".join(map(str, (*self[:6], self.category or _NONE)))

    def within(self, group: ContactGroup) -> bool:
        """Whether a limit's group holds the contact that it answers."""
        return group.holds(self.purpose, self.offer, self.category, self.channel)


def response_name(type_: str, decision_id: str) -> str:
    """Name in a ledger of a response of a type to a decision's contact."""
    return f"{RESPONSE}{type_}/{decision_id}"


class ChargingLease(NamedTuple):
    """A lease that charges budgets, among those that run out: the key of its ledger, and its decision."""

    ledger: str
    decision_id: str

    @classmethod
    def loads(cls, member: bytes) -> ChargingLease:
        """Read a member of the sorted set."""
        ledger, decision_id = member.decode().split(" ")
        return cls(ledger, decision_id)
