"""Erase a player: destroy the keys of all their ids, keep what restricts contact, and write down that it was done.

    player --links--> ids --journal--> each id in one call of the store, the player's own last --> journal

Whatever breaks off on the way stands in the journal, by pseudonym, and is ended by a worker, or by asking again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from features.prose import prose
from features.store.deployment import House, clock_arguments
from features.store.erasures import Erasure, note_commands
from features.store.errors import StoreError
from features.store.keys import PlayerKeys
from service.contacts import limits
from service.contacts.ledger import RedisLedger
from service.contacts.snapshot import NO_DECISION, Linked, read_snapshot
from service.decisions.serving import Serving
from service.errors import InvalidBodyError, ReasonNamesPlayerError, UnknownPlayerError
from service.players import facts, identity
from service.privacy.exports import Exports
from service.privacy.held import held_keys

ID_LENGTH: Final = 64
"""Characters of an id at most."""
ROUNDS: Final = 20
"""Times that ids are looked for which were linked to the player meanwhile."""


class Done(NamedTuple):
    """What the erasure of one id or of all ids of a player did."""

    erased_us: int = 0
    revoked: int = 0
    taken: int = 0
    staying: int = 0
    already: bool = False
    """Whether the player was erased before and nothing was told of them since: nothing was done."""

    def and_of(self, other: Done) -> Done:
        """This and another together."""
        return Done(max(self[0], other[0]), self[1] + other[1], self[2] + other[2], self[3] + other[3])


class Eraser:
    """Erases players of a house.

    Args:
        house: The house.
        ledger: Its ledger, with the deadline of the request.
        features_key: Key of the features of a player; empty before definitions were applied.
        serving: What serves, to know which contacts no limit looks at any more; None keeps them all.
    """

    def __init__(
        self,
        house: House,
        ledger: RedisLedger,
        features_key: Callable[[str], bytes],
        serving: Serving | None = None,
    ) -> None:
        self._house, self._ledger, self._features_key, self._serving = house, ledger, features_key, serving

    async def erase(self, player_id: str, by: str, reason: str) -> tuple[Erasure, Done]:
        """Erase a player by any of their ids.

        Args:
            player_id: As callers name them.
            by: Who asks.
            reason: Why, without naming the player.

        Raises:
            InvalidBodyError: The reason says nothing, or holds what cannot be seen.
            ReasonNamesPlayerError: The reason names the player by any of their ids: it would be kept.
            UnknownPlayerError: Nothing is held of this id.
            StoreError: The store did not answer in time; a worker ends what was begun, and a retry is safe.
        """
        try:
            reason = prose(reason)
        except ValueError as error:
            raise InvalidBodyError(f"reason: {error}", "/reason") from error
        if not reason:
            raise InvalidBodyError("say why, in words that name nobody: they are kept", "/reason")
        if names(reason, player_id):
            raise ReasonNamesPlayerError
        player = await self._ledger.identities.owner(self._house.player_key(player_id))
        ids = await self._ids(player)
        if not {self._house.player_key(word) for word in spellings(reason)}.isdisjoint(ids):
            raise ReasonNamesPlayerError
        if (before := await self._before(ids)) is not None:
            return before
        begun = Erasure(player=player, ids=ids, begun_us=await self._ledger.now_us(), by=by, reason=reason)
        await self._note(begun)
        return await self.finish(begun)

    async def finish(self, begun: Erasure) -> tuple[Erasure, Done]:
        """Do what an erasure asks for, from the beginning; a second time changes nothing more."""
        done, player, ids = Done(), begun.player, begun.ids
        erased = set[str]()
        for _ in range(ROUNDS):
            for one in ids:
                done = done.and_of(await self._erase(one, begun.name))
            erased |= set(ids)
            player = await self._ledger.identities.owner(player)
            ids = await self._ids(player)
            if erased.issuperset(ids):
                for one in sorted(erased):
                    await Exports(self._house, self._ledger).forget(one)
                ended = msgspec.structs.replace(begun, ids=tuple(sorted(erased)), erased_us=done.erased_us)
                await self._note(ended)
                return ended, done
        raise StoreError("ids are being linked to this player all the time: try again")

    async def _before(self, ids: tuple[str, ...]) -> tuple[Erasure, Done] | None:
        """The erasure that left a player as they are; None if there is something to erase.

        Raises:
            UnknownPlayerError: Nothing is held of the player.
        """
        keys = PlayerKeys(ids[-1], self._features_key(ids[-1]))
        if not await self._ledger.store.command("EXISTS", *held_keys(keys)):
            raise UnknownPlayerError
        held = [await self._ledger.store.hash(PlayerKeys(one).facts) for one in ids]
        if not all(map(facts.quiet, held)):
            return None
        for one in ids:  # an export may have been asked for since
            await Exports(self._house, self._ledger).forget(one)
        at_us = max(facts.erased_us(known) or 0 for known in held)
        staying = sum(
            not name.startswith(identity.LINK.encode()) for one in held for name in one.keys() - facts.NO_REGISTER
        )
        told = Erasure(player=ids[-1], ids=ids, begun_us=at_us, by="", reason="", erased_us=at_us)
        return told, Done(at_us, staying=staying, already=True)

    async def _ids(self, player: str) -> tuple[str, ...]:
        """All ids of a player, the player's own last: as long as that stands, the others can be found."""
        known = await self._ledger.store.hash(PlayerKeys(player).facts)
        return (*identity.others(known), player)

    async def _erase(self, player: str, name: str) -> Done:
        keys = PlayerKeys(player, self._features_key(player))
        names: list[str | bytes] = [
            keys.facts,
            keys.features,
            keys.ledger,
            keys.log,
            keys.seal,
            keys.recent,
            keys.budget,
        ]
        fresh = self._ledger.seals.new(player).stored
        arguments = [*clock_arguments(self._house), player, fresh, f"erased/{name}", *await self._outdated(keys)]
        at, revoked, taken, staying, _ = await self._ledger.store.call("croupier_erase", names, arguments)
        return Done(int(at), revoked, taken, staying)

    async def _outdated(self, keys: PlayerKeys) -> list[str]:
        """Entries of a player's ledger that no limit needs; of a linked id the player has them."""
        if self._serving is None:
            return []
        try:
            seen = await read_snapshot(self._ledger.store, keys, NO_DECISION)
        except Linked:
            return []
        now_us, longest_us = self._house.now_us(seen.real_us), self._serving.law.longest_us
        return limits.outdated(self._serving.layout.catalogue, seen.held, now_us, longest_us, ever=True)

    async def _note(self, told: Erasure) -> None:
        for command in note_commands(told):
            await self._ledger.store.command(*command)


def names(reason: str, player_id: str) -> bool:
    """Whether a reason names a player, in whatever case."""
    return re.search(rf"(?<!\w){re.escape(player_id)}(?!\w)", reason, re.IGNORECASE) is not None


def spellings(reason: str) -> set[str]:
    """Whatever in a reason might be an id: its words, with and without the punctuation in and around them."""
    found = set[str]()
    for word in reason.split():
        ends = [match.end() for match in re.finditer(r"\w+|[^\w]", word)]
        for first in (0, *ends):
            found.update(word[first:last] for last in ends if 0 < last - first <= ID_LENGTH)
    return found | {word.casefold() for word in found} | {word.upper() for word in found}
