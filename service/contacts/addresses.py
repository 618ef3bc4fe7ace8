"""Shared addresses: who else told an address, and whether one of them must not be written to.

An address stands in another slot than its players, so no call changes both. A player is added to its set before their
facts name it: the set holds who has the address, and some who had it. Who must not be written to is read where facts
are, at the moment it is asked: nothing has to be spread first.
"""

from __future__ import annotations

from collections.abc import Mapping

from features.store.connection import TimedStore, hashed
from features.store.keys import PlayerKeys, address_key
from service.contacts.identities import Identities
from service.players import addresses, identity
from service.players.facts import silences

SHARED_MOST = 50
"""Players of one address who are looked at; an address of more is nobody's own."""


class SharedAddresses:
    """The sets of who told each address, with the deadline of a request."""

    def __init__(self, store: TimedStore, identities: Identities) -> None:
        self._store, self._identities = store, identities

    async def share(self, address: str, player: str) -> None:
        """Note that a player is about to have an address."""
        await self._store.command("SADD", address_key(address), player)

    async def sharing(self, address: str) -> int:
        """How many players told an address."""
        return int(await self._store.command("SCARD", address_key(address)))

    async def silenced(self, facts: Mapping[bytes, bytes], brand: str, channel: str, player: str) -> bool:
        """Whether an address that a message on a channel would go to is also that of somebody who is excluded.

        Args:
            facts: The player's, linked ids merged.
            brand: Which.
            channel: On which.
            player: Whose facts.
        """
        for told in addresses.held(facts, brand, channel):
            named = await self._store.command("SMEMBERS", address_key(told.key))
            others = {name.decode() for name in named} - {player}
            if len(others) >= SHARED_MOST:
                return True
            for other in sorted(others):
                if await self._silences(other, told.key, brand, player):
                    return True
        return False

    async def _silences(self, other: str, address: str, brand: str, player: str) -> bool:
        """Whether another player has the address still, and is excluded."""
        if (owner := await self._identities.owner(other)) == player:
            return False
        raw = identity.together(hashed(await self._store.command("HGETALL", PlayerKeys(owner).facts)))
        return silences(raw, brand) and address in addresses.keys(raw)
