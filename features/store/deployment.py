"""The house in a store: what is fixed when it is created, its clock and its player keys.

A *house* is what `CROUPIER_HOME` holds: it is created once in the store, with its partitions, its clock and
its secret, and never changes after. A player is known inside by a *player key*, `{p017}` + 30 hex digits: a
keyed hash of the caller's id, whose first byte is the partition. Everything of a player lies under that tag,
so it shares one hash slot; the id itself stands in no key, log or file.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final, cast

import msgspec
import redis

from features.moments import moment
from features.store.errors import StoreError
from features.store.keys import HOUSE, tag
from features.unshown import Unshown

PARTITIONS: Final = 256
FORMAT: Final = 3
"""Of the houses that this build writes; it reads every earlier one. 2: records name every experiment. 3: players' keys
are sealed under a house key, and players can be erased."""


class House(Unshown, msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is fixed when a house is created.

    Attributes:
        format: Version of keys and records; raised by the first process that writes a later one.
        partitions: Streams and hash tags; another number is refused.
        sandbox: Whether the clock may differ from the store's and imports may assume facts.
        real_us: The store's clock when the house was created, unix microseconds.
        house_us: The house's clock at that moment.
        rate: House seconds per real second.
        secret: Key of the player keys, draws and digests, hex.
        key: Fingerprint of the house key (see `house_key`); empty until the house has one.
    """

    format: int
    partitions: int
    sandbox: bool
    real_us: int
    house_us: int
    rate: float
    secret: str
    key: str = ""

    def now_us(self, real_us: int) -> int:
        """House time at a reading of the store's clock, both unix microseconds."""
        return self.house_us + int((real_us - self.real_us) * self.rate)

    def player_key(self, player_id: str) -> str:
        """The player key of a caller's id; also the Feast entity value, in serving and in training."""
        digest = hashlib.blake2b(player_id.encode(), key=bytes.fromhex(self.secret), digest_size=16).hexdigest()
        return tag(int(digest[:2], 16)) + digest[2:]

    def digest(self, *parts: str) -> bytes:
        """Sixteen bytes that only this house makes of these parts."""
        return hashlib.blake2b(
            "\x1f".join(parts).encode(), key=bytes.fromhex(self.secret), digest_size=16, person=b"croupier"
        ).digest()


def clock_arguments(house: House) -> list[str]:
    """The house's clock as store functions take it."""
    return [str(house.real_us), str(house.house_us), repr(house.rate)]


def position(partition: int, stream_id: str) -> str:
    """Public name of a place in a partition's log, `p017:1583107200000-0`."""
    return f"p{partition:03d}:{stream_id}"


def place(position: str) -> tuple[int, str]:
    """Partition and stream id of a place's public name."""
    partition, _, stream_id = position.partition(":")
    return int(partition[1:]), stream_id


def order(stream_id: str) -> tuple[int, int]:
    """A stream id as it sorts."""
    milliseconds, _, sequence = stream_id.partition("-")
    return int(milliseconds), int(sequence)


def real_now_us(client: redis.Redis) -> int:
    """The store's clock, unix microseconds."""
    seconds, rest = cast("tuple[int, int]", client.time())
    return seconds * 1_000_000 + rest


def create_house(
    client: redis.Redis, *, clock_us: int | None = None, rate: float | None = None, sandbox: bool = False
) -> House:
    """Create the house of this store, or open the one that is there.

    Args:
        client: The store.
        clock_us: House time at creation; None follows the store's clock.
        rate: House seconds per real second; None is 1. Either one given makes the house a sandbox.
        sandbox: Makes it one all the same.

    Raises:
        StoreError: The house exists with another clock, or in another format.
    """
    sandbox = sandbox or clock_us is not None or rate is not None
    real_us = real_now_us(client)
    house = House(
        format=FORMAT,
        partitions=PARTITIONS,
        sandbox=sandbox,
        real_us=real_us,
        house_us=real_us if clock_us is None else clock_us,
        rate=1.0 if rate is None else rate,
        secret=secrets.token_hex(32),
    )
    if client.set(HOUSE, msgspec.json.encode(house), nx=True):
        return house
    found = open_house(client)
    if clock_us not in (None, found.house_us) or rate not in (None, found.rate):
        clock = f"{moment(found.house_us).isoformat()} and rate {found.rate:g}"
        raise StoreError(f"the house was created with its clock at {clock}")
    return found


def open_house(client: redis.Redis) -> House:
    """The house of this store; raises StoreError if there is none or its format is another."""
    return _read_house(cast("bytes | None", client.get(HOUSE)))


def _read_house(found: bytes | None) -> House:
    if found is None:
        raise StoreError("the store holds no house yet: run `croupier up` once")
    house = msgspec.json.decode(found, type=House)
    if house.format > FORMAT:
        raise StoreError(f"the house has format {house.format}, of a later build; this one reads up to {FORMAT}")
    if house.partitions != PARTITIONS:
        raise StoreError(f"the house has {house.partitions} partitions, not {PARTITIONS}")
    return house


def raised(house: House) -> House:
    """The house in the format that this build writes: builds that cannot read what it writes refuse it from then on."""
    return msgspec.structs.replace(house, format=FORMAT)
