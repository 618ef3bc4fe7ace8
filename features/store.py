"""The store and the house in it: connection, clock, keys.

A *house* is what `CROUPIER_HOME` holds: it is created once in the store, with its partitions, its clock and
its secret, and never changes after. A player is known inside by a *player key*, `{p017}` + 30 hex digits: a
keyed hash of the caller's id, whose first byte is the partition. Everything of a player lies under that tag,
so it shares one hash slot; the id itself stands in no key, log or file.
"""

from __future__ import annotations

import errno
import hashlib
import re
import secrets
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final, cast

import msgspec
import redis

from features.cluster import Cluster, Lanes, is_away, is_cluster, plain
from features.lane import Lane, SilentError
from features.moments import moment

PARTITIONS: Final = 256
FORMAT: Final = 1
_HOUSE: Final = "croupier:house"


class StoreError(Exception):
    """The store cannot serve: it is unreachable, late, full, or holds another house than the one asked for."""


class Absent(StoreError):
    """Nobody listens where the store should be: what was asked reached nobody, so nothing of it was done."""


class House(msgspec.Struct, frozen=True, kw_only=True):
    """What is fixed when a house is created.

    Attributes:
        format: Version of keys and records.
        partitions: Streams and hash tags; another number is refused.
        sandbox: Whether the clock may differ from the store's and imports may assume facts.
        real_us: The store's clock when the house was created, unix microseconds.
        house_us: The house's clock at that moment.
        rate: House seconds per real second.
        secret: Key of the player keys, draws and digests, hex.
    """

    format: int
    partitions: int
    sandbox: bool
    real_us: int
    house_us: int
    rate: float
    secret: str

    def now_us(self, real_us: int) -> int:
        """House time at a reading of the store's clock, both unix microseconds."""
        return self.house_us + int((real_us - self.real_us) * self.rate)

    def player_key(self, player_id: str) -> str:
        """The player key of a caller's id; also the Feast entity value, in serving and in training."""
        digest = hashlib.blake2b(player_id.encode(), key=bytes.fromhex(self.secret), digest_size=16).hexdigest()
        return f"{{p{int(digest[:2], 16):03d}}}{digest[2:]}"

    def digest(self, *parts: str) -> bytes:
        """Sixteen bytes that only this house makes of these parts."""
        return hashlib.blake2b(
            "\x1f".join(parts).encode(), key=bytes.fromhex(self.secret), digest_size=16, person=b"croupier"
        ).digest()


def partition_of(player_key: str) -> int:
    """Partition number of a player key."""
    return int(player_key[2:5])


def tag(partition: int) -> str:
    """Hash tag of a partition, `{p017}`."""
    return f"{{p{partition:03d}}}"


def position(partition: int, stream_id: str) -> str:
    """Public name of a place in a partition's log, `p017:1583107200000-0`."""
    return f"p{partition:03d}:{stream_id}"


def order(stream_id: str) -> tuple[int, int]:
    """A stream id as it sorts."""
    milliseconds, _, sequence = stream_id.partition("-")
    return int(milliseconds), int(sequence)


def connect(url: str, timeout: float = 90.0) -> redis.Redis:
    """Blocking client for the worker and the command line, of one server or a cluster.

    Raises:
        StoreError: Nothing answers.
    """
    try:
        client = Cluster(url, timeout) if is_cluster(url) else plain(url, timeout)
        client.ping()
    except redis.RedisError as error:
        raise StoreError(f"no store answers at {url}") from error
    return client


def load_library(client: redis.Redis, package: str, name: str) -> None:
    """Load a library of store functions that lies beside a package's Python; functions survive a restart."""
    client.function_load(resources.files(package).joinpath(name).read_text("utf8"), replace=True)


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
    if client.set(_HOUSE, msgspec.json.encode(house), nx=True):
        return house
    found = open_house(client)
    if clock_us not in (None, found.house_us) or rate not in (None, found.rate):
        clock = f"{moment(found.house_us).isoformat()} and rate {found.rate:g}"
        raise StoreError(f"the house was created with its clock at {clock}")
    return found


def open_house(client: redis.Redis) -> House:
    """The house of this store; raises StoreError if there is none or its format is another."""
    return _read_house(cast("bytes | None", client.get(_HOUSE)))


def _read_house(found: bytes | None) -> House:
    if found is None:
        raise StoreError("the store holds no house yet: run `croupier up` once")
    house = msgspec.json.decode(found, type=House)
    if (house.format, house.partitions) != (FORMAT, PARTITIONS):
        held = f"format {house.format} and {house.partitions} partitions"
        raise StoreError(f"the house has {held}, not {FORMAT} and {PARTITIONS}")
    return house


def pointer_key(kind: str) -> str:
    """Key that names the bundle of a kind (`plan`, `churn`) that serves."""
    return f"croupier:serving:{kind}"


def bundle_key(digest: str) -> str:
    """Key of a bundle by the hash of its content."""
    return f"croupier:bundle:{digest}"


LIVE: Final = "croupier:live"
"""Set of the keys in which serving processes report what they serve, each alive for a few seconds."""

READY: Final = "ready"
"""What such a report holds beside the hashes once its process was seen to serve."""
LEARNER_LEASE: Final = "lease:learner"
"""Lease of the one process that learns."""

BUNDLES: Final = "croupier:bundles"
"""Hash of version name -> digest: explanations of old decisions find the bundle that a record names."""


def keep(client: redis.Redis, bundle: bytes, version: str | None) -> str:
    """Keep a bundle by its content hash, and by its version's name if it has one; returns the hash."""
    digest = hashlib.sha256(bundle).hexdigest()
    client.set(bundle_key(digest), bundle)
    if version is not None:
        client.hset(BUNDLES, version, digest)
    return digest


def publish(client: redis.Redis, kind: str, bundle: bytes, version: str | None = None) -> str:
    """Keep a bundle and let it serve; returns its hash."""
    digest = keep(client, bundle, version)
    client.set(pointer_key(kind), digest)
    return digest


def published(client: redis.Redis, version: str) -> bytes | None:
    """The bundle of a version that was published in this store, None if there is none."""
    digest = cast("bytes | None", client.hget(BUNDLES, version))
    return None if digest is None else cast("bytes | None", client.get(bundle_key(digest.decode())))


def serving_hashes(client: redis.Redis, kind: str) -> list[str | None]:
    """What each live serving process reports for a kind."""
    keys = cast("set[bytes]", client.smembers(LIVE))
    reports = {key: cast("bytes | None", client.get(key)) for key in keys}
    if gone := [key for key, report in reports.items() if report is None]:
        client.srem(LIVE, *gone)
    return [msgspec.json.decode(report).get(kind) for report in reports.values() if report]


class Store:
    """The store as the serving process calls it, with a deadline on each call (see `Lane` and `Lanes`)."""

    def __init__(self, url: str, connections: int) -> None:
        self._lanes = Lanes(url, connections) if is_cluster(url) else Lane(url, connections)

    async def command(self, seconds: float, *parts: Any) -> Any:  # noqa: ANN401 - replies have the shape of the command
        """Send one command.

        Raises:
            Absent: Nobody listens there; nothing was done.
            StoreError: The store is late, silent or cannot take it now; unless it says so, it may have done it.
        """
        try:
            return await self._lanes.send(seconds, *parts)
        except (redis.RedisError, OSError) as error:
            if not is_away(error):
                raise
            raise _trouble(str(parts[0]), error) from error

    async def call(self, seconds: float, function: str, keys: Sequence[str | bytes], arguments: Sequence[Any]) -> Any:  # noqa: ANN401 - replies have the shape of the function called
        """Call a store function; raises as `command` does."""
        return await self.command(seconds, "FCALL", function, len(keys), *keys, *arguments)

    async def reach(self, seconds: float = 0.5) -> tuple[dict[str, bool], list[int]]:
        """Node -> whether it answers, and the partitions that cannot be reached."""
        nodes, keys = await self._lanes.silent(seconds, [tag(partition) for partition in range(PARTITIONS)])
        return nodes, [partition_of(key) for key in keys]

    async def house(self) -> House:
        """See `open_house`."""
        return _read_house(await self.command(5.0, "GET", _HOUSE))

    async def close(self) -> None:
        """Close all connections."""
        await self._lanes.close()


def _trouble(word: str, error: Exception) -> StoreError:
    """What a call met, in a sentence that callers may read."""
    if isinstance(error, TimeoutError):
        return StoreError(f"the store did not answer {word} before the deadline")
    if isinstance(error, SilentError):
        return StoreError("the store has been silent for longer than this request can wait")
    if _nobody_listens(error):
        return Absent("nobody listens at the store's address")
    answered = isinstance(error, redis.ResponseError | redis.exceptions.BusyLoadingError)
    return StoreError(f"the store cannot take {word} now: {error}" if answered else "the connection to the store broke")


def _nobody_listens(error: Exception) -> bool:
    """Whether a connection was refused at every address, or there is no socket."""
    cause = error.__cause__ or error.__context__
    if not isinstance(error, redis.ConnectionError) or not isinstance(cause, OSError):
        return False
    # Of a name with several addresses, the event loop gives the errors in one text.
    codes = {cause.errno} if cause.errno else {int(code) for code in re.findall(r"\[Errno (\d+)\]", str(cause))}
    return bool(codes) and codes <= {errno.ECONNREFUSED, errno.ENOENT}
