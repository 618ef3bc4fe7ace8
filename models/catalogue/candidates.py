"""Sets of a catalogue's candidates: an integer for each set, a bit for each candidate. Pure.

Masks are joined and cut by single operations on numbers, whatever the size of the catalogue, and the bytes of a
number are those that a record keeps: place 0 (`NO_CONTACT`) is the highest bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import product
from operator import or_
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray

from features.schema import CHANNELS
from models.catalogue.limits import ContactGroup, Scope
from models.catalogue.offers import NO_CONTACT, SLOTS, Catalogue, Offer, Stage

Candidates = int
"""A set of candidates as the bits of a number (see `CandidateSpace`)."""
_BYTE: Final = 8
_WORD: Final = 64


class CandidateSpace:
    """Candidates of a catalogue, and sets of them.

    Attributes:
        everything: Every contact; `NO_CONTACT` is in no set that a rule can block.
        promotional: Contacts of marketing and bonus offers.
        scopes: Scopes of the catalogue's caps and gaps.
        by_jurisdiction, by_stage: Contacts of offers made for a jurisdiction, or for a lifecycle stage.
        requests: Cache of the contacts that recent kinds of request exclude; callers use a few kinds.
        slots: Contacts of each timing slot, in the order of SLOTS.
        alone: `NO_CONTACT`.
        actions: The contact at each place.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._bytes = -(-catalogue.size // _BYTE)
        self._highest = _BYTE * self._bytes - 1
        self._groups = {
            (at, channel): self._bits(self._place(at, channel, slot) for slot in range(len(SLOTS)))
            for at, channel in product(range(len(catalogue.offers)), range(len(CHANNELS)))
        }
        self.everything = self.where(lambda _offer, _channel: True)
        self.promotional = self.where(lambda offer, _: offer.promotional)
        self.scopes: frozenset[Scope] = frozenset(one.scope for one in (*catalogue.caps, *catalogue.gaps))
        self._held: dict[tuple[ContactGroup, int | None], Candidates] = {}
        self.by_jurisdiction = {
            place: self.where(lambda offer, _, place=place: place in offer.jurisdictions)  # type: ignore[misc]
            for one in catalogue.offers
            for place in one.jurisdictions
        }
        self.by_stage = {
            stage: self.where(lambda offer, _, stage=stage: stage in offer.stages)  # type: ignore[misc]
            for stage in get_args(Stage)
        }
        self.alone = self.bit(NO_CONTACT)
        self.actions = {place: catalogue.action(place) for place in range(1, catalogue.size)}
        self.requests: dict[tuple[object, ...], Candidates] = {}
        self.slots = tuple(
            self._bits(self._place(at, channel, slot) for at, channel in self._groups) for slot in range(len(SLOTS))
        )

    def _place(self, offer: int, channel: int, slot: int) -> int:
        return 1 + (offer * len(CHANNELS) + channel) * len(SLOTS) + slot

    def _bits(self, places: Iterable[int]) -> Candidates:
        return reduce(or_, (self.bit(place) for place in places), 0)

    def bit(self, place: int) -> Candidates:
        """The set of one place."""
        return 1 << (self._highest - place)

    def where(self, holds: Callable[[Offer, str], bool]) -> Candidates:
        """Contacts whose offer and channel fulfil a condition."""
        offers = self.catalogue.offers
        return reduce(
            or_, (bits for (at, channel), bits in self._groups.items() if holds(offers[at], CHANNELS[channel])), 0
        )

    def group(self, group: ContactGroup, below: int | None = None) -> Candidates:
        """Contacts of a limit's group; with `below`, of offers of a lower priority only."""
        bits = self._held.get((group, below))
        if bits is None:
            bits = self._held[group, below] = self.where(
                lambda offer, channel: (
                    group.holds(offer.purpose, offer.id, offer.category, channel)
                    and (below is None or offer.priority < below)
                )
            )
        return bits

    def find(self, offer: str, channel: str, timing_slot: str) -> Candidates:
        """The set of one action by its names; empty where the catalogue lacks its offer."""
        known = any(one.id == offer for one in self.catalogue.offers)
        return self.bit(self.catalogue.place(offer, channel, timing_slot)) if known else 0

    def dumps(self, chosen: Candidates) -> bytes:
        """Bytes of a set, as records keep it."""
        return chosen.to_bytes(self._bytes, "big")

    def loads(self, data: bytes) -> Candidates:
        """Read a set that `dumps` wrote."""
        return int.from_bytes(data, "big")

    def array(self, chosen: Candidates) -> NDArray[np.bool_]:
        """Booleans of a set over the places, shape (size,)."""
        held = np.frombuffer(self.dumps(chosen), dtype=np.uint8)
        return np.unpackbits(held, count=self.catalogue.size).astype(np.bool_)

    def by_candidate(self, blocked: Sequence[Candidates]) -> NDArray[np.uint64]:
        """Transpose several sets: for each place the bits of the sets that hold it; bit i is set i.

        Raises:
            ValueError: There are more than 64 sets.
        """
        if len(blocked) > _WORD:
            raise ValueError(f"{len(blocked)} sets do not fit {_WORD} bits")
        rows = np.frombuffer(b"".join(map(self.dumps, blocked)), dtype=np.uint8).reshape(len(blocked), -1)
        held = np.unpackbits(rows, axis=1, count=self.catalogue.size).astype(np.uint64)
        return np.asarray((held << np.arange(len(blocked), dtype=np.uint64)[:, None]).sum(axis=0), dtype=np.uint64)
