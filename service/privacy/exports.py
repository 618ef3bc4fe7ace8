"""Exports that are asked for over HTTP: staged in the store, made by a worker, kept for an hour.

    asked --waiting--> a worker makes it --ready, or failed--> an hour later, or with the player's erasure: gone

What is personal in them, the id that was asked about and all that was made, is sealed under the player's own key: an
erasure, which destroys that key, destroys them wherever a copy of them lies. A player has one export at a time, whose
id is made of the player: asked twice, by whichever process, it is one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from features.store.deployment import House
from features.store.errors import StoreError
from features.store.keys import EXPORTS, EXPORTS_WAITING, PlayerKeys, export_key
from features.unshown import Unshown
from service.access.register import now
from service.contacts.ledger import RedisLedger
from service.errors import ExportFailed, UnknownExportError, UnknownPlayerError
from service.players import sealing
from service.privacy.held import held_keys

KEPT_SECONDS: Final = 3_600
"""How long what was made is kept, and why it could not be."""
_FORGET_SECONDS: Final = 2 * KEPT_SECONDS
_ATTEMPTS: Final = 20
_CHANGED: Final = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('LREM', KEYS[2], 0, ARGV[1])
redis.call('DEL', KEYS[3])
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
if ARGV[4] == 'waiting' then redis.call('RPUSH', KEYS[2], ARGV[1]) end
if ARGV[5] ~= '' then redis.call('SET', KEYS[3], ARGV[5], 'EX', ARGV[6]) end
if redis.call('LLEN', KEYS[2]) == 0 then redis.call('EXPIRE', KEYS[1], ARGV[7])
else redis.call('PERSIST', KEYS[1]) end
return 1
"""
"""Puts an export, what was made of it and its place among those that wait from one state into another, if it is still
as it was read. The hash of all goes by itself once nothing waits and every one of them has ended."""


class Export(Unshown, msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An export as the store holds it.

    Attributes:
        player: Key of the player.
        asked: The id that was asked about, sealed under the player's key and bound to the export.
        asked_us: When it was asked for, unix microseconds of house time.
        state: How far it is.
        attempts: How often a worker began to make it.
        ends: The unix second, of the store's clock, after which it is gone; 0 while it waits.
        reason: Why it failed.
    """

    player: str
    asked: bytes
    asked_us: int
    state: Literal["waiting", "ready", "failed"] = "waiting"
    attempts: int = 0
    ends: int = 0
    reason: str = ""


def export_id(house: House, player: str) -> str:
    """Id of a player's export: nobody can tell the player by it."""
    return house.digest("export", player).hex()


def change_command(name: str, before: bytes, after: Export | None, content: bytes = b"") -> list[Any]:
    """The command that changes an export, if it is still as it was read; None for `after` forgets it."""
    text = b"" if after is None else msgspec.json.encode(after)
    state = "" if after is None else after.state
    keys = (EXPORTS, EXPORTS_WAITING, export_key(name))
    return ["EVAL", _CHANGED, len(keys), *keys, name, before, text, state, content, KEPT_SECONDS, _FORGET_SECONDS]


def asked_about(export: Export, name: str, key: bytes | None) -> str | None:
    """The id that was asked about; None if the player was erased since."""
    plain = sealing.decrypt(key, export.asked, _about(name, export))
    return None if plain is None else plain.decode()


def seal_made(key: bytes, name: str, export: Export, made: bytes) -> bytes:
    """What was made of an export, as JSON, as it is kept."""
    return sealing.encrypt(key, zlib.compress(made, 1), _about(name, export, "made"))


def open_made(key: bytes | None, name: str, export: Export, sealed: bytes) -> bytes | None:
    """What `seal_made` sealed; None if the player was erased since."""
    plain = sealing.decrypt(key, sealed, _about(name, export, "made"))
    return None if plain is None else zlib.decompress(plain)


def _about(name: str, export: Export, what: str = "asked") -> str:
    return f"export {what} {name} {export.asked_us}"


class Exports:
    """Exports of a house, as those who ask for them see them; the ledger has the deadline of the request."""

    def __init__(self, house: House, ledger: RedisLedger) -> None:
        self._house, self._ledger, self._store = house, ledger, ledger.store

    async def ask(self, player_id: str, features_key: Callable[[str], bytes]) -> tuple[str, Export]:
        """Ask for all that is held of a player, by any of their ids; what is asked for or made already is it.

        Raises:
            UnknownPlayerError: Nothing is held of this id.
            StoreError: The store did not answer in time; a retry is safe.
        """
        player = await self._ledger.identities.owner(self._house.player_key(player_id))
        if not await self._store.command("EXISTS", *held_keys(PlayerKeys(player, features_key(player)))):
            raise UnknownPlayerError
        name, seal = export_id(self._house, player), await self._ledger.seal(PlayerKeys(player))
        for _ in range(_ATTEMPTS):
            before = await self._store.command("HGET", EXPORTS, name) or b""
            if before and await self._stands(name, found := _read(before), seal.key):
                return name, found
            fresh = Export(player=player, asked=b"", asked_us=await self._ledger.now_us())
            asked = sealing.encrypt(seal.key, player_id.encode(), _about(name, fresh))
            fresh = msgspec.structs.replace(fresh, asked=asked)
            if await self._store.command(*change_command(name, before, fresh)):
                return name, fresh
        raise StoreError("others ask for this export at every attempt")

    async def find(self, name: str) -> Export:
        """An export that waits, or can be fetched.

        Raises:
            UnknownExportError: There is none of this id, or none any more.
            ExportFailed: It could not be made.
        """
        before = await self._store.command("HGET", EXPORTS, name)
        if before is None:
            raise UnknownExportError
        export = _read(before)
        if await self._stands(name, export, await self.key(export)):
            return export
        if export.state == "failed" and export.ends > await now(self._store):
            raise ExportFailed(export.reason)
        raise UnknownExportError

    async def forget(self, player: str) -> None:
        """Destroy what is staged or made of a player."""
        name = export_id(self._house, player)
        for _ in range(_ATTEMPTS):
            before = await self._store.command("HGET", EXPORTS, name)
            if before is None or await self._store.command(*change_command(name, before, None)):
                return
        raise StoreError("an export of this player is being changed all the time: try again")

    async def key(self, export: Export) -> bytes | None:
        """The key of an export's player; None if there is none."""
        stored = await self._store.command("GET", PlayerKeys(export.player).seal)
        return None if stored is None else self._ledger.seals.open(export.player, stored)

    async def _stands(self, name: str, export: Export, key: bytes | None) -> bool:
        """Whether an export waits or can be fetched."""
        if asked_about(export, name, key) is None:
            return False
        return export.state == "waiting" or (export.state == "ready" and export.ends > await now(self._store))


def _read(held: bytes) -> Export:
    return msgspec.json.decode(held, type=Export)
