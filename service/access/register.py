"""The register of API keys in the store: made, rotated, revoked and listed; a change never undoes another."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, Protocol, TypeVar

import msgspec
from msgspec import Struct

from features.prose import prose
from features.store.connection import hashed
from features.store.errors import StoreError
from features.store.keys import API_KEYS, API_KEYS_USED
from service.access.keys import ENVIRONMENT, KEY, Key, SentKey, new_id, new_secret, read, revoked, rotated
from service.errors import InsufficientScopeError, InvalidBodyError, KeyIdReused, UnknownKeyError

_CHANGED_FROM: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
"""Writes a key that is still as it was read: of a rotation and a revocation at once neither is lost."""
_ATTEMPTS: Final = 20
Result = TypeVar("Result")


class StoreCommands(Protocol):
    """The store, with a deadline."""

    async def command(self, *parts: Any) -> Any:  # noqa: ANN401 - replies have the shape of the command
        """Send one command."""


class Author(Struct, frozen=True):
    """Who changes keys: a name for the journal, and what they may grant; None is everything."""

    name: str
    scopes: Collection[str] | None = None

    def must_hold(self, scopes: Collection[str]) -> None:
        """Raise InsufficientScopeError unless they have all of some scopes themselves."""
        lacked = [] if self.scopes is None else [one for one in scopes if one not in self.scopes]
        if lacked:
            raise InsufficientScopeError(f"nobody grants what they lack: {', '.join(lacked)}", lacked)


class WantedKey(Struct, frozen=True, kw_only=True):
    """A key that is to be made.

    Attributes:
        scopes: What it allows.
        label: What it is for.
        expires_at: The unix second from which it is refused; None is never.
        rate: Requests a second over all serving processes; None is as many as there are.
        id: Its id; None is a random one.
    """

    scopes: tuple[str, ...]
    label: str = ""
    expires_at: int | None = None
    rate: int | None = None
    id: str | None = None


class NewKey(Struct, frozen=True):
    """A key with a new secret, which is shown this once."""

    id: str
    key: Key
    sent: SentKey


async def create_key(store: StoreCommands, wish: WantedKey, author: Author) -> NewKey:
    """Make a key.

    Raises:
        InsufficientScopeError: It allows what its author may not.
        KeyIdReused: There is one of this id.
    """
    author.must_hold(wish.scopes)
    if wish.id == ENVIRONMENT:
        raise KeyIdReused
    key_id = wish.id or new_id()
    sent, secret = new_secret(key_id, wish.expires_at)
    key = Key(
        label=_said(wish.label, "label"),
        scopes=wish.scopes,
        created_at=int(await now(store)),
        by=author.name,
        rate=wish.rate,
        secrets=(secret,),
    )
    if not await store.command("HSETNX", API_KEYS, key_id, msgspec.json.encode(key)):
        raise KeyIdReused
    return NewKey(key_id, key, sent)


async def rotate_key(store: StoreCommands, key_id: str, keep_seconds: int, author: Author) -> NewKey:
    """Give a key a new secret; see `rotated`.

    Raises:
        UnknownKeyError: There is none of this id.
        InsufficientScopeError: It allows what its author may not.
        KeyRevoked, RotationUnfinishedError: See `rotated`.
    """
    at = int(await now(store))

    def change(key: Key) -> tuple[Key, SentKey]:
        author.must_hold(key.scopes)
        sent, changed = rotated(key, key_id, at, keep_seconds, author.name)
        return changed, sent

    key, sent = await _changed(store, key_id, change)
    return NewKey(key_id, key, sent)


def _said(text: str, field: str) -> str:
    try:
        return prose(text)
    except ValueError as error:
        raise InvalidBodyError(f"{field}: {error}", f"/{field}") from error


async def revoke_key(store: StoreCommands, key_id: str, reason: str, author: Author) -> Key:
    """Revoke a key for ever; again changes nothing. Raises UnknownKeyError, InvalidBodyError (see `prose`)."""
    reason = _said(reason, "reason")
    at = int(await now(store))
    key, _ = await _changed(store, key_id, lambda key: (revoked(key, at, author.name, reason), None))
    return key


async def read_keys(store: StoreCommands) -> dict[str, Key]:
    """Every key by id, the oldest first, revoked ones too."""
    found = read(await read_hash(store, API_KEYS))
    return dict(sorted(found.items(), key=lambda one: (one[1].created_at, one[0])))


async def read_used(store: StoreCommands) -> dict[str, int]:
    """Unix seconds of the last use of keys, by id, to a minute or so."""
    return {name.decode(): int(at) for name, at in (await read_hash(store, API_KEYS_USED)).items()}


async def now(store: StoreCommands) -> float:
    """The store's clock, unix seconds: keys live by the real one, whatever a house's own says."""
    seconds, rest = await store.command("TIME")
    return int(seconds) + int(rest) / 1e6


async def _changed(
    store: StoreCommands, key_id: str, change: Callable[[Key], tuple[Key, Result]]
) -> tuple[Key, Result]:
    """Change a key as it stands; others may change it meanwhile. Raises UnknownKeyError, StoreError."""
    for _ in range(_ATTEMPTS):
        before = await store.command("HGET", API_KEYS, key_id)
        if before is None:
            raise UnknownKeyError
        after, result = change(KEY.decode(before))
        text = msgspec.json.encode(after)
        if text == before or await store.command("EVAL", _CHANGED_FROM, 1, API_KEYS, key_id, before, text):
            return after, result
    raise StoreError("others changed this key at every attempt")


async def read_hash(store: StoreCommands, key: str) -> dict[bytes, bytes]:
    """All fields of a hash; empty if there is none."""
    return hashed(await store.command("HGETALL", key))
