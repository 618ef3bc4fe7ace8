"""Households: members share one ledger of contacts, beside the ledgers of their own.

A household stands in another slot than its members, so no call changes both. A contact is reserved in the household
first, then by the player; if a process dies in between, the household is only ever too strict, and whoever meets it
next puts it right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from features.store.connection import TimedStore
from features.store.deployment import House
from features.store.keys import PlayerKeys, household_key
from service.contacts.entries import Reservation
from service.contacts.limits import Held
from service.contacts.snapshot import NO_DECISION, read_snapshot


class Households:
    """The households' ledgers in a store, with the deadline of a request."""

    def __init__(self, store: TimedStore, house: House) -> None:
        self._store = store
        self._house = house

    async def reserve(
        self, household: str, version: str, name: str, held: Reservation | None, outdated: Sequence[str] = ()
    ) -> bool:
        """Reserve a contact in a household that stands as it was read, version "" for as it is; False if it moved.

        Args:
            household: The household.
            version: Version of its ledger as it was read.
            name: Name of the entry.
            held: The contact; None only removes what is outdated.
            outdated: Entries to remove in the same step.
        """
        arguments = [version, name, held.uncharged().dumps() if held else "", *outdated]
        return bool(await self._store.call("croupier_hold", [household_key(household)], arguments))

    async def release(self, household: str, names: Sequence[str]) -> None:
        """Release the capacity of entries of a household."""
        if names:
            await self._store.call("croupier_let_go", [household_key(household)], names)

    async def release_decision(self, player: str, decision_id: str) -> None:
        """Release what a player's household holds for a decision, whichever attempt reserved it.

        Raises:
            Linked: The player was merged into another.
        """
        view = await read_snapshot(self._store, PlayerKeys(player), NO_DECISION)
        if view.household:
            await self.release(view.household, view.held.in_household(decision_id))

    async def add(self, household: str, held: Held, lacking: Mapping[str, Reservation]) -> None:
        """Add a player's missing contacts to a household; `held` is what the household had when it was read."""
        over = [name for decision_id in lacking for name in held.in_household(decision_id) if name != decision_id]
        pairs = [part for name, one in lacking.items() for part in (name, one.uncharged().dumps())]
        if pairs:
            await self._store.call("croupier_join", [household_key(household)], [len(over), *over, *pairs])

    async def add_player(self, player: str, household: str | None = None, since_us: int | None = None) -> None:
        """Add a player's missing contacts to a household, by default the one that the player's facts name.

        Nothing is added to one that facts of the moment `since_us` will name, if they name a later one already.

        Raises:
            Linked: The player was merged into another.
        """
        view = await read_snapshot(self._store, PlayerKeys(player), NO_DECISION)
        if household and household != view.household:
            if since_us is not None and since_us < view.household_us:
                return
            view = view.beside(await self._store.hash(household_key(household)))
        if into := household or view.household:
            await self.add(into, view.held, view.held.lacking(self._house.now_us(view.real_us)))
