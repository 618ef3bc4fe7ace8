"""Connections to the store: blocking ones, and those of the serving process, with deadlines."""

from __future__ import annotations

import errno
import re
from collections.abc import Coroutine, Mapping, Sequence
from importlib import resources
from math import inf
from time import monotonic
from typing import Any, Final

import redis

from features.settings.environment import Environment
from features.settings.masks import masked
from features.store.cluster import Cluster, Lanes, is_away, is_cluster, plain
from features.store.deployment import PARTITIONS, House, _read_house
from features.store.errors import StoreAbsentError, StoreError
from features.store.keys import HOUSE, partition_of, tag
from features.store.lane import Lane, SilentError
from features.store.memory import read_info, used_share

_BEYOND: Final = "#!lua flags=allow-oom\nreturn redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))"
_NO_ADDRESS: Final = f"{Environment.store.name} cannot be read as an address, such as redis://host:6379"


def connect(url: str, timeout: float = 90.0) -> redis.Redis:
    """Blocking client for the worker and the command line, of one server or a cluster.

    Raises:
        StoreError: Nothing answers, or the address is none; it is told without its password.
    """
    try:
        client = Cluster(url, timeout) if is_cluster(url) else plain(url, timeout)
        client.ping()
    except redis.RedisError as error:
        raise StoreError(f"no store answers at {masked(url)}") from error
    except ValueError:
        raise StoreError(_NO_ADDRESS) from None
    return client


def load_library(client: redis.Redis, package: str, name: str) -> None:
    """Load a library of store functions that lies beside a package's Python; functions survive a restart."""
    client.function_load(resources.files(package).joinpath(name).read_text("utf8"), replace=True)


class Store:
    """The store as the serving process calls it, with a deadline on each call (see `Lane` and `Lanes`)."""

    def __init__(self, url: str, most: int) -> None:
        try:
            self._lanes = Lanes(url, most) if is_cluster(url) else Lane(url, most)
        except ValueError:
            raise StoreError(_NO_ADDRESS) from None

    async def together(self, seconds: float, *commands: Sequence[Any]) -> Any:  # noqa: ANN401 - replies have the shape of the command
        """Send one command, or several about one partition that are done together; their replies in order.

        Raises:
            StoreAbsentError: Nobody listens there; nothing was done.
            StoreError: The store is late, silent or cannot take it now; unless it says so, it may have done it.
        """
        try:
            found = await self._lanes.send(seconds, *commands)
            if len(commands) > 1 and (error := next((one for one in found if isinstance(one, Exception)), None)):
                raise error
        except (redis.RedisError, OSError) as error:
            if not is_away(error):
                raise
            raise _trouble(word_of(commands), error) from error
        return found

    def command(self, seconds: float, *parts: Any) -> Coroutine[Any, Any, Any]:  # noqa: ANN401 - parts of a command are of many types
        """Send one command; raises as `together` does."""
        return self.together(seconds, parts)

    def command_beyond(self, seconds: float, word: str, key: str, *parts: Any) -> Coroutine[Any, Any, Any]:  # noqa: ANN401 - parts of a command are of many types
        """Send one command about a key that a store whose memory is full takes, too; raises as `together` does."""
        return self.command(seconds, "EVAL", _BEYOND, 1, key, word, *parts)

    def call(
        self, seconds: float, function: str, keys: Sequence[str | bytes], arguments: Sequence[Any]
    ) -> Coroutine[Any, Any, Any]:
        """Call a store function; raises as `together` does."""
        return self.command(seconds, "FCALL", function, len(keys), *keys, *arguments)

    async def reach(self, seconds: float = 0.5) -> tuple[dict[str, bool], list[int]]:
        """Node -> whether it answers, and the partitions that cannot be reached."""
        nodes, keys = await self._lanes.silent(seconds, [tag(partition) for partition in range(PARTITIONS)])
        return nodes, [partition_of(key) for key in keys]

    async def used_share(self, seconds: float = 0.5) -> float | None:
        """Share of its memory bound that the fullest server uses, 0 where none has one; None if none answers."""
        told = await self._lanes.everywhere(seconds, "INFO", "memory")
        return max((used_share(read_info(one)) for one in told.values() if one is not None), default=None)

    async def house(self) -> House:
        """See `open_house`."""
        return _read_house(await self.command(5.0, "GET", HOUSE))

    async def close(self) -> None:
        """Close all connections."""
        await self._lanes.close()


def deadline(seconds: float) -> float:
    """The moment in some seconds, on the monotonic clock."""
    return monotonic() + seconds


class TimedStore:
    """The store with one deadline for all calls of a request together, `until` on the monotonic clock."""

    def __init__(self, store: Store, until: float = inf) -> None:
        self._store = store
        self.until = until

    @property
    def seconds(self) -> float:
        """Seconds until the deadline."""
        return self.until - monotonic()

    def command(self, *parts: Any) -> Coroutine[Any, Any, Any]:  # noqa: ANN401 - parts of a command are of many types
        """See `Store.command`."""
        return self._store.command(self.seconds, *parts)

    def together(self, *commands: Sequence[Any]) -> Coroutine[Any, Any, Any]:
        """See `Store.together`."""
        return self._store.together(self.seconds, *commands)

    def call(
        self, function: str, keys: Sequence[str | bytes], arguments: Sequence[Any] = ()
    ) -> Coroutine[Any, Any, Any]:
        """See `Store.call`."""
        return self._store.call(self.seconds, function, keys, arguments)

    async def hash(self, key: str | bytes) -> dict[bytes, bytes]:
        """All fields of a hash; empty if there is none."""
        return hashed(await self.command("HGETALL", key))

    async def reach(self) -> tuple[dict[str, bool], list[int]]:
        """See `Store.reach`."""
        return await self._store.reach()


def word_of(commands: Sequence[Sequence[Any]]) -> str:
    """The name of what is sent: a command's own, or that of a transaction."""
    return "MULTI" if len(commands) > 1 else str(commands[0][0])


def hashed(found: Mapping[bytes, bytes] | Sequence[bytes]) -> dict[bytes, bytes]:
    """A hash, whichever way the client gives it: as one, or as names and values in turn."""
    return dict(found) if isinstance(found, Mapping) else dict(zip(found[::2], found[1::2], strict=True))


def _trouble(word: str, error: Exception) -> StoreError:
    """What a call met, in a sentence that callers may read."""
    if isinstance(error, TimeoutError):
        return StoreError(f"the store did not answer {word} before the deadline")
    if isinstance(error, SilentError):
        return StoreError("the store has been silent for longer than this request can wait")
    if _nobody_listens(error):
        return StoreAbsentError("nobody listens at the store's address")
    answered = isinstance(error, redis.ResponseError | redis.exceptions.BusyLoadingError)
    return StoreError(
        f"the store cannot take {word} now: {replied(error)}" if answered else "the connection to the store broke"
    )


def replied(error: Exception) -> str:
    """What a store says of a command that it does not take, without the command's arguments."""
    return masked(str(error).partition(", with args beginning with")[0])


def _nobody_listens(error: Exception) -> bool:
    """Whether a connection was refused at every address, or there is no socket."""
    cause = error.__cause__ or error.__context__
    if not isinstance(error, redis.ConnectionError) or not isinstance(cause, OSError):
        return False
    # Of a name with several addresses, the event loop gives the errors in one text.
    codes = {cause.errno} if cause.errno else {int(code) for code in re.findall(r"\[Errno (\d+)\]", str(cause))}
    return bool(codes) and codes <= {errno.ECONNREFUSED, errno.ENOENT}
