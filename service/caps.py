"""Caps: at most N contacts in any window of a length, counted at the moment of sending. Pure.

The reservations of a player are read with a version; what is computed here from them is committed only if
that version still stands, so the check and the write are one step.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Literal, NamedTuple, cast

from models.actions import PROMOTIONAL, Cap, Catalogue
from service.layout import Candidates, Layout

State = Literal["reserved", "confirmed", "released", "revoked"]


class Reservation(NamedTuple):
    """Capacity held for a contact; moments in unix microseconds, `confirmed_us` 0 until it is confirmed."""

    send_us: int
    valid_until_us: int
    state: State
    purpose: str
    offer: str
    channel: str
    timing_slot: str
    confirmed_us: int = 0

    def dumps(self) -> str:
        """The entry as the store holds it."""
        return " ".join(str(part) for part in self)

    def counts(self, now_us: int) -> bool:
        """Whether it takes room: confirmed for good, reserved until its time to confirm has passed."""
        return self.state == "confirmed" or (self.state == "reserved" and now_us <= self.valid_until_us)


def load_reservation(text: str) -> Reservation:
    """Read an entry of the store."""
    send, valid, state, purpose, offer, channel, slot, confirmed = text.split(" ")
    return Reservation(int(send), int(valid), cast("State", state), purpose, offer, channel, slot, int(confirmed))


def fits(taken: Sequence[int], send_us: int, contacts: int, window_us: int) -> bool:
    """Whether one more contact at a moment leaves every half-open window of the length with at most `contacts`.

    Args:
        taken: Sorted moments of the contacts already counted.
        send_us: Moment of the new one.
        contacts: The cap.
        window_us: Length of the window; all in microseconds.
    """
    near = list(taken[bisect_right(taken, send_us - window_us) : bisect_left(taken, send_us + window_us)])
    near.insert(bisect_left(near, send_us), send_us)
    return all(near[last] - near[last - contacts] >= window_us for last in range(contacts, len(near)))


def evaluate(
    layout: Layout, held: Iterable[Reservation], moments: Iterable[tuple[int, Candidates]], now_us: int
) -> dict[str, Candidates]:
    """The caps that have no room, each with the candidates that it denies.

    Args:
        layout: The catalogue.
        held: Reservations of the player.
        moments: When contacts would be sent.
        now_us: House time.
    """
    counted = [one for one in held if one.counts(now_us)]
    found = {}
    for cap in layout.catalogue.caps:
        taken = sorted(one.send_us for one in counted if _counts_for(cap, one))
        if len(taken) < cap.contacts:
            continue
        full = [bits for at, bits in moments if not fits(taken, at, cap.contacts, cap.window_us)]
        if blocked := layout.scopes[cap.id] & reduce(or_, full, 0):
            found[f"cap:{cap.id}"] = blocked
    return found


def _counts_for(cap: Cap, reservation: Reservation) -> bool:
    if reservation.purpose not in PROMOTIONAL:
        return False
    return cap.channel in (None, reservation.channel) and cap.offer in (None, reservation.offer)


def outdated(
    catalogue: Catalogue, held: Mapping[str, Reservation], now_us: int, longest_us: int, *, ever: bool
) -> list[str]:
    """Decisions whose reservation lies in no window that can still matter, and which can no longer be confirmed.

    Args:
        catalogue: Whose caps look back.
        held: Reservations by decision.
        now_us: House time.
        longest_us: The longest window that rules look back over.
        ever: Whether a rule counts bonuses of the player for ever.
    """
    longest = max((cap.window_us for cap in catalogue.caps), default=0)
    reach = max(longest, longest_us)
    return [
        name
        for name, one in held.items()
        if max(one.send_us + reach, one.valid_until_us) < now_us
        and not (ever and one.purpose == "bonus" and one.state == "confirmed")
    ]
