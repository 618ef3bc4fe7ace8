"""Identities: find the player who owns an id, and merge ids that turn out to be one person.

A merge takes two steps, for the id and the player stand in different slots. The first marks the id as merged, pending;
the second gives all that is known of it to the player and marks it done. Any caller that finds a pending mark completes
the merge first, so a process may die between the steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import isfinite
from typing import Any, Final, NamedTuple, TypeVar

from features.store.connection import TimedStore, hashed
from features.store.deployment import House, clock_arguments
from features.store.errors import StoreError
from features.store.keys import PlayerKeys
from service.contacts.entries import RESPONSE, Reservation
from service.contacts.households import Households
from service.contacts.snapshot import Linked
from service.players import identity
from service.players.harm import SKEW_US

WALKS: Final = 4
"""Paths of links that a process follows at once: as many as connections are kept for what restricts contact."""
ROUNDS: Final = 100
"""Times that a path of links is read at most, while others change it."""
Result = TypeVar("Result")


class MarkedId(NamedTuple):
    """An id with its mark ("" if it was never merged), and its facts and ledger as the store holds them."""

    mark: str
    facts: Mapping[bytes, bytes]
    ledger: Mapping[bytes, bytes]


class Identities:
    """The marks of merged ids in a store, with the deadline of a request.

    Args:
        store: Where they are.
        house: Whose they are.
        turns: To follow links, shared by all requests of a process.
    """

    def __init__(self, store: TimedStore, house: House, turns: asyncio.Semaphore) -> None:
        self._store = store
        self._house = house
        self._turns = turns

    # --- Find

    async def with_owner(self, asked: str, work: Callable[[str], Awaitable[Result]]) -> Result:
        """Do something for the player who owns an id: the id itself, or the player whom it was merged into."""
        try:
            return await work(asked)
        except Linked as linked:
            return await self.for_owner(asked, linked, work)

    async def for_owner(self, asked: str, linked: Linked, work: Callable[[str], Awaitable[Result]]) -> Result:
        """Do something for the player whom an id was merged into, as was found when it was tried for the id itself."""
        mark = identity.Mark.loads(linked.to)
        player = mark.to if mark.state == "done" else await self.follow_links(asked)
        while True:
            try:
                return await work(player)
            except Linked:
                player = await self.follow_links(asked)

    async def owner(self, asked: str) -> str:
        """The player who owns an id."""
        return await self.with_owner(asked, self.check_owner)

    async def check_owner(self, player: str) -> str:
        """The player itself; raises Linked if it was merged into another."""
        if (mark := await self.mark_of(player)) is not None:
            raise Linked(mark)
        return player

    async def mark_of(self, player: str) -> str | None:
        """The mark of a merged id, None if it was never merged."""
        mark = await self._store.command("HGET", PlayerKeys(player).facts, "to")
        return None if mark is None else mark.decode()

    async def follow_links(self, linked: str) -> str:
        """Follow the marks from an id to the player who owns it; pending merges on the path are completed first.

        A few paths at a time: of a thousand callers that meet the same one a few walk it, and the others find it short.
        """
        seconds = max(0.0, self._store.seconds) if isfinite(self._store.until) else None
        try:
            async with asyncio.timeout(seconds), self._turns:
                return await self._followed(linked)
        except TimeoutError as error:
            raise StoreError("the links of this id were not followed before the deadline") from error

    async def _followed(self, linked: str) -> str:
        for _ in range(ROUNDS):
            path: Mapping[str, str] = await self._path(linked)
            owner = identity.chain_end(path) or linked
            if owner in path:
                path, owner = await self._break_cycle(path)
            if await self._complete_path(path, owner):
                return owner
        raise StoreError("the links of this id are being changed by others")

    async def _path(self, linked: str) -> dict[str, str]:
        """Each id from one on with its mark, in order, up to its player or until they form a cycle."""
        path: dict[str, str] = {}
        while linked not in path and (mark := await self.mark_of(linked)) is not None:
            path[linked] = mark
            linked = identity.Mark.loads(mark).to
        return path

    async def _break_cycle(self, path: Mapping[str, str]) -> tuple[Mapping[str, str], str]:
        """Break a cycle of marks: the path to the id that lost its mark, and that id, who is the owner from now on.

        The choice is deterministic (see `identity.mark_to_remove`), so all callers agree.

        Raises:
            StoreError: All merges of the cycle were completed since its first mark was read.
        """
        try:
            crossed = identity.mark_to_remove(path) or ""
        except ValueError as error:
            raise StoreError("the links of this id are being changed by others") from error
        await self._store.call("croupier_thaw", [PlayerKeys(crossed).facts], [path[crossed]])
        names = list(path)
        return {name: path[name] for name in names[: names.index(crossed)]}, crossed

    async def _complete_path(self, path: Mapping[str, str], owner: str) -> bool:
        """Complete the merges of a path and let its ids name the owner; False if any was linked elsewhere meanwhile."""
        marks = {name: identity.Mark.loads(mark) for name, mark in path.items()}
        pending = [name for name, mark in marks.items() if mark.state == "pending"]
        try:
            if pending and not await self.complete_merges({name: path[name] for name in pending}, owner):
                return False
        except Linked:
            return False
        far = [name for name, mark in marks.items() if mark.state == "done" and mark.to != owner]
        await asyncio.gather(*(self._mark_done(name, path[name], owner) for name in far))
        return True

    # --- Merge

    async def merge(self, linked: str, player: str, sealed_name: str) -> str:
        """Merge an id into a player, for good; the player who owns it then, who may be another by now.

        Ids that were merged into this one name the owner at once, so that no path grows long.
        """
        begun = await self.begin_merge(linked, player, sealed_name)
        if (owner := await self.follow_links(linked)) == linked:
            raise StoreError("two ids were linked to each other at the same moment")
        await asyncio.gather(*(self._shorten(name, owner) for name in identity.others(begun.facts)))
        return owner

    async def begin_merge(self, linked: str, player: str, sealed_name: str) -> MarkedId:
        """Mark an id as merged into a player, pending, unless it bears a mark already."""
        return await self._marked(linked, player, sealed_name)

    async def complete_merges(self, pending: Mapping[str, str], owner: str) -> bool:
        """Give a player all that is known of ids with pending marks, in one call, then mark these done.

        Returns:
            False if any was linked elsewhere meanwhile; nothing was changed then.

        Raises:
            Linked: The player was merged into another, after all was given.
        """
        found = await asyncio.gather(*(self._marked(name) for name in pending))
        if [one.mark for one in found] != list(pending.values()):
            return False
        keys = PlayerKeys(owner)
        names, arguments = [keys.facts, keys.ledger, keys.log, keys.budget], self._adoption(pending, found, owner)
        if await self._store.call("croupier_adopt", names, arguments) != 1:
            return False
        await asyncio.gather(*(self._mark_done(name, mark, owner) for name, mark in pending.items()))
        await Households(self._store, self._house).add_player(owner)
        return True

    def _adoption(self, pending: Mapping[str, str], found: Sequence[MarkedId], owner: str) -> list[Any]:
        """Arguments of `croupier_adopt`: the owner, the ids, their facts and their ledgers."""
        names = {mark.to: mark.name for mark in map(identity.Mark.loads, pending.values())}
        facts = dict(zip(pending, (one.facts for one in found), strict=True))
        ids = sorted({one for name, known in facts.items() for one in identity.adopted_ids(name, known, owner)})
        told = [one for name, known in facts.items() for one in identity.adopted_facts(name, known, owner)]
        contacts = {
            key.decode(): _adopted(key, text) for one in found for key, text in one.ledger.items() if key != b"v"
        }
        arguments = [*clock_arguments(self._house), owner, names.get(owner, ""), SKEW_US, len(ids), *ids, len(told)]
        return arguments + [part for one in told for part in one] + [part for pair in contacts.items() for part in pair]

    async def _marked(self, linked: str, *mark: str) -> MarkedId:
        """Read an id with its mark; given a mark, set it first if the id bears none."""
        keys = PlayerKeys(linked)
        to, known, ledger = await self._store.call("croupier_freeze", [keys.facts, keys.ledger], mark)
        return MarkedId(to.decode(), hashed(known), hashed(ledger))

    async def _shorten(self, linked: str, owner: str) -> None:
        """Let an id whose merge is done name its owner, if it names another."""
        text = await self.mark_of(linked)
        if text is None:
            return
        mark = identity.Mark.loads(text)
        if mark.state == "done" and mark.to != owner:
            await self._mark_done(linked, text, owner)

    async def _mark_done(self, linked: str, mark: str, owner: str) -> None:
        """Mark a merge as done, with its owner by now; another mark than the given one stays."""
        await self._store.call("croupier_settle", [PlayerKeys(linked).facts], [mark, owner])


def _adopted(name: bytes, text: bytes) -> str:
    """An entry of a merged id as its player holds it: what an open contact charged is given back where it was."""
    if name.startswith(RESPONSE.encode()):
        return text.decode()
    held = Reservation.loads(text.decode())
    return (held.uncharged() if held.state == "reserved" else held).dumps()
