"""Catalogues of a data set: names of candidates' places, and what contacts cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.schema import CHANNELS
from models.catalogue.offers import SLOTS, Catalogue

NAMELESS: Final = -1


class Price(NamedTuple):
    """Cost of a contact, minor units: of sending it, and of the offer if money moves; and who says so."""

    sent_minor: int
    taken_minor: int
    priced_by: str


class Catalogues:
    """Catalogues by their hash.

    Args:
        known: The last one prices contacts of catalogues that are not among them, by the ids of offer and channel.

    Attributes:
        names: Every offer, channel and timing slot that is named.
    """

    def __init__(self, known: Sequence[Catalogue]) -> None:
        self._known = {one.hash: one for one in known}
        self._last = known[-1]
        self.names = [*CHANNELS, *SLOTS, *sorted({name for one in known for name in one.ids} - {*CHANNELS, *SLOTS})]
        self._places = {one.hash: self._named(one) for one in known}

    def _named(self, catalogue: Catalogue) -> NDArray[np.int32]:
        at = {name: place for place, name in enumerate(self.names)}
        actions = [catalogue.action(place) for place in range(1, catalogue.size)]
        rows = [(at[one.offer.id], at[one.channel], at[one.timing_slot]) for one in actions]
        return np.array([(NAMELESS,) * 3, *rows], dtype=np.int32)

    def named(self, version: str, places: NDArray[np.intp]) -> NDArray[np.int32]:
        """Offer, channel and slot of places, as indexes of `names`, shape (n, 3); NAMELESS where they are not known."""
        found = self._places.get(version)
        if found is None or (len(places) and places[-1] >= len(found)):
            return np.full((len(places), 3), NAMELESS, dtype=np.int32)
        return np.asarray(found[places])

    def price(self, version: str, offer: str, channel: str) -> Price | None:
        """Price of a contact of a catalogue; None where neither it nor the last one knows the offer."""
        catalogue = self._known.get(version, self._last)
        taken = next((one.cost_minor for one in catalogue.offers if one.id == offer), None)
        terms = next((terms for name, terms in catalogue.channels.items() if name == channel), None)
        return None if taken is None or terms is None else Price(terms.cost_minor, taken, catalogue.hash)
