"""The house key: made where there is none, named by the house, and put over every player's key in the store."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, cast

import msgspec
import redis

from features.store import append_only
from features.store.deployment import House, open_house
from features.store.house_key import FILE, HouseKey, HouseKeyError, checked, find_key, make_key
from features.store.keys import HOUSE, SEALED, SEALS
from features.store.server import Say
from service.players.sealing import PLAIN, Seals

_PAGE: Final = 1_000
_TOLD: Final = 100_000
"""Seals after which people are told how far it is."""


def seal_up(client: redis.Redis, house: House, home: Path, say: Say) -> House:
    """Give a house its key if it names none, and put it over every seal that an earlier build left as it was.

    What was begun and broken off goes on the next time. The library of the ledger must be loaded.

    Raises:
        HouseKeyError: The key is not the one that the house names, is missing, or can be read by others.
    """
    key = checked(house, find_key(home))
    if not house.key:
        house, key = _named(client, house, key or _made(home, say))
    if key is not None and client.get(SEALED) != house.key.encode():
        wrap(client, Seals(key), say)
        client.set(SEALED, house.key)
    return house


def _made(home: Path, say: Say) -> HouseKey:
    made = make_key(home)
    say(f"  the house key is in {home / FILE}: keep a copy apart from every backup, which is of no use without it")
    return made


def _named(client: redis.Redis, house: House, key: HouseKey) -> tuple[House, HouseKey]:
    """The house with its key's name, unless others named one meanwhile."""
    held = cast("bytes", client.get(HOUSE))
    named = msgspec.structs.replace(house, key=key.fingerprint)
    if msgspec.json.decode(held, type=House) == house:
        client.fcall("croupier_exchange", 1, HOUSE, held, msgspec.json.encode(named))
    found = open_house(client)
    if checked(found, key) is None or not found.key:
        raise HouseKeyError("others changed the house while it was given its key: try again")
    return found, key


def wrap(client: redis.Redis, seals: Seals, say: Say) -> int:
    """Put the house key over every seal that is a player's key as it is; returns how many.

    Afterwards the append-only file is written anew, for it has them as they were.
    """
    done = 0
    names = cast("Iterator[bytes]", client.scan_iter(SEALS, count=_PAGE))
    while page := list(islice(names, _PAGE)):
        before = done
        done += _wrapped(client, seals, [name.decode() for name in page])
        if done // _TOLD > before // _TOLD:
            say(f"  players' keys: {done:,} put under the house key")
    if done:
        say(f"  players' keys: {done:,} are under the house key now")
        append_only.rewrite(client, say)
    return done


def _wrapped(client: redis.Redis, seals: Seals, names: list[str]) -> int:
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.get(name)
    plain = {name: held for name, held in zip(names, pipe.execute(), strict=True) if held and len(held) == PLAIN}
    for name, held in plain.items():
        pipe.fcall("croupier_exchange", 1, name, held, seals.wrap(name.removeprefix(SEALS[:-1]), held))
    pipe.execute()
    return len(plain)
