"""A cluster as one store: each command goes to the node of its key, and a node that is down fails alone.

    redis+cluster://[user:password@]host:port[,host:port...][?option=value]        rediss+cluster:// with TLS

Each node has a plain client of redis-py; what is ours is only which node to ask. redis-py's own cluster clients learn
the whole topology anew and reconnect to every node at each failed call, and ask a server which keys a function is
called with: with one of three nodes down, a fifth of the calls to the other two were late (figures:
docs/decisions/0011-cluster.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, ReadOnlyError, TryAgainError
from redis.retry import Retry

from features.store.lane import Commands, Lane, reply_in

_SCHEMES: Final = ("redis+cluster", "rediss+cluster")
_AWAY: Final = (
    redis.ConnectionError,
    redis.TimeoutError,
    OSError,
    ClusterDownError,
    ReadOnlyError,
    redis.OutOfMemoryError,
    AskError,  # a slot is on its way from node to node, key by key: its players wait until it has arrived
    TryAgainError,
)
_REFUSES: Final = ("NOREPLICAS", "MISCONF")
"""Beginnings of the replies with which a server takes no writes for now: too few replicas, or a full disk."""
_FUNCTIONS: Final = frozenset({"FCALL", "FCALL_RO", "EVAL", "EVALSHA"})
_MANY_KEYS: Final = frozenset({"DEL", "EXISTS", "MGET", "TOUCH", "UNLINK"})
_EVERYWHERE: Final = frozenset({"FLUSHALL", "FUNCTION LOAD", "KEYS", "SCRIPT LOAD"})
_ANYWHERE: Final = frozenset({"PING", "TIME"})
_REDIRECTS: Final = 5
_HANG_SECONDS: Final = 2.0
"""A node that hangs holds up a worker twice in a round, which must end before its leases on the other nodes do."""
_POLL_SECONDS: Final = 0.02
_LOOK_AGAIN_SECONDS: Final = 0.1
_LEARN_SECONDS: Final = 1.0
_Command = tuple[tuple[Any, ...], dict[str, Any]]
"""A command as redis-py's pipelines hold it: its parts, and options for reading the reply."""


def is_cluster(url: str) -> bool:
    """Whether an address names a cluster."""
    return url.partition("://")[0].lower() in _SCHEMES


def plain(url: str, timeout: float) -> redis.Redis:
    """Blocking client of one server that tries once."""
    once = Retry(NoBackoff(), 0)
    # Without its own time, to connect to a socket whose queue is full would take until somebody is let in.
    return redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=once)


def is_away(error: object) -> bool:
    """Whether an error says that a server does not serve now, rather than that something is wrong with a command."""
    return isinstance(error, _AWAY) or (isinstance(error, redis.ResponseError) and str(error).startswith(_REFUSES))


def replies(pipe: Pipeline) -> list[Any]:
    """Replies of a pipeline; of a node that does not answer, its error stands in each place.

    Raises:
        redis.RedisError: A command is wrong, or the one server there is does not answer.
    """
    found = pipe.execute(raise_on_error=False)
    for reply in found:
        if isinstance(reply, Exception) and not is_away(reply):
            raise reply
    return found


def keys_of(parts: Sequence[Any]) -> Sequence[Any]:
    """Keys of a command of ours, none for one that any node may answer."""
    name = parts[0].upper()
    if name in _FUNCTIONS:
        return parts[3 : 3 + int(parts[2])]
    if name == "XREAD":
        return parts[-2:-1]  # of one stream
    return () if name in _ANYWHERE else parts[1:] if name in _MANY_KEYS else parts[1:2]


def slot_of(key: str | bytes) -> int:
    """Hash slot of a key."""
    return key_slot(key.encode() if isinstance(key, str) else key)


class Nodes:
    """Who holds which slot, as a node last told; `names` are `host:port`, those that failed last at the end."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._user, at, hosts = self._url.netloc.rpartition("@")
        self._user += at
        self.names = [host if ":" in host.rpartition("]")[2] else f"{host}:6379" for host in hosts.split(",")]
        self._holders: list[str | None] = []

    @property
    def known(self) -> bool:
        """Whether any node has told."""
        return bool(self._holders)

    def url(self, name: str) -> str:
        """Address of one node."""
        return self._url._replace(scheme=self._url.scheme.partition("+")[0], netloc=self._user + name).geturl()

    def find(self, key: str) -> str | None:
        """The node that holds a key, None if nobody does."""
        return self._holders[slot_of(key)] if self._holders else None

    def holder(self, slot: int) -> str:
        """The node to ask; raises redis.ConnectionError if nobody holds the slot."""
        name = self._holders[slot] if self._holders else None
        if name is None:
            raise redis.ConnectionError(f"no node of the cluster holds slot {slot}")
        return name

    def learn(self, told: Sequence[Sequence[Any]], asked: str) -> None:
        """Take in what a node answered to CLUSTER SLOTS; an empty host means the host that was asked."""
        holders: list[str | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, primary, *_ in told:
            holders[first : last + 1] = [_name(primary[0], primary[1], asked)] * (last + 1 - first)
        if told:
            held = {_name(primary[0], primary[1], asked) for _, _, primary, *_ in told}
            self._holders = holders
            self.names = [name for name in self.names if name in held] + sorted(held.difference(self.names))

    def moved(self, error: MovedError, asked: str) -> None:
        """A slot has another holder than the one asked."""
        self._holders[error.slot_id] = _name(error.host, error.port, asked)

    def failed(self, name: str) -> None:
        """Ask this one last from now on."""
        if name in self.names:
            self.names = [other for other in self.names if other != name] + [name]


def _name(host: str | bytes | None, port: int, asked: str) -> str:
    text = host.decode() if isinstance(host, bytes) else host
    return f"{text or asked.rpartition(':')[0]}:{port}"


class Cluster(redis.Redis):
    """A cluster as one blocking client.

    Commands without a key go to any node, pipelines are split by node, transactions by slot, in the order of their
    first commands. `fcall`, `pipeline` and all else are redis-py's own and end in `execute_command`.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._nodes = Nodes(url)
        self._timeout = min(timeout, _HANG_SECONDS)
        self._clients: dict[str, redis.Redis] = {}
        self._threads = ThreadPoolExecutor(thread_name_prefix="store")
        super().__init__(connection_pool=self._client(self._nodes.names[0]).connection_pool)
        self._learn()

    def close(self) -> None:
        """Close all connections."""
        self._threads.shutdown()
        for client in self._clients.values():
            client.close()

    def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - replies have the shape of the command
        """Send one command to where it belongs."""
        name, keys = args[0].upper(), keys_of(args)
        if name in _EVERYWHERE:
            return _merged([self._client(node).execute_command(*args, **options) for node in self._nodes.names])  # type: ignore[no-untyped-call]
        if not keys:
            return self._anywhere(args, options)
        if name in _MANY_KEYS and len({slot_of(key) for key in keys}) > 1:
            return _merged([self.execute_command(args[0], key, **options) for key in keys])
        return self._held(slot_of(keys[0]), lambda client: client.execute_command(*args, **options))  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:  # noqa: FBT001, FBT002 - redis-py's own signature
        """A pipeline over any keys."""
        return _Split(self, transaction=transaction, shard_hint=shard_hint)

    def scan_iter(
        self,
        match: Any = None,  # noqa: ANN401 - redis-py's own signature
        count: int | None = None,
        _type: str | None = None,
        **options: Any,  # noqa: ANN401 - redis-py's own signature
    ) -> Iterator[Any]:
        """Names of keys, node by node."""
        for node in self._nodes.names:
            yield from self._client(node).scan_iter(match, count, _type, **options)

    def servers(self) -> list[redis.Redis]:
        """A client of each node."""
        return [self._client(node) for node in self._nodes.names]

    def xread(self, streams: Mapping[Any, Any], count: int | None = None, block: int | None = None) -> list[list[Any]]:
        """What came after given ids; a node that does not answer has its error in place of the entries.

        A cluster refuses one XREAD over several slots, and one that waits would hold up the others, so each stream
        is asked for without waiting, in one round trip per node, again and again.
        """
        deadline = time.monotonic() + (block or 0) / 1_000
        while True:
            pipe = self.pipeline(transaction=False)
            for key, after in streams.items():
                pipe.execute_command("XREAD", "COUNT", count or 1_000, "STREAMS", key, after)  # type: ignore[no-untyped-call]
            found = [[key, reply] for key, reply in zip(streams, replies(pipe), strict=True) if reply]
            if found or time.monotonic() >= deadline:
                return [[key, reply if isinstance(reply, Exception) else reply[0][1]] for key, reply in found]
            time.sleep(_POLL_SECONDS)

    def run(self, commands: Sequence[_Command], *, transaction: bool) -> list[Any]:
        """Replies of some commands, each in its place, errors among them; a transaction ends at its first error."""
        found: list[Any] = [None] * len(commands)
        groups: dict[Any, list[int]] = {}
        for place, (args, _) in enumerate(commands):
            slot = slot_of(keys_of(args)[0])
            groups.setdefault(slot if transaction else self._nodes.holder(slot), []).append(place)
        parts = [[commands[place] for place in places] for places in groups.values()]
        if transaction:
            done = [self._held(slot, _whole(part)) for slot, part in zip(groups, parts, strict=True)]
        else:
            done = list(self._threads.map(self._batch, groups, parts))
        for places, some in zip(groups.values(), done, strict=True):
            for place, reply in zip(places, some, strict=True):
                found[place] = reply
        self._again(commands, found)
        return found

    def _again(self, commands: Sequence[_Command], found: list[Any]) -> None:
        """Send what met a slot that had moved once more; one that fails takes the later ones of its slot along."""
        failed: dict[int, Exception] = {}
        for place, (args, options) in enumerate(commands):
            if not isinstance(found[place], MovedError):
                continue
            slot = slot_of(keys_of(args)[0])
            try:
                found[place] = failed[slot] if slot in failed else self.execute_command(*args, **options)
            except redis.RedisError as error:
                found[place] = error
                if is_away(error):
                    failed[slot] = error

    def _batch(self, name: str, commands: Sequence[_Command]) -> list[Any]:
        pipe = _filled(self._client(name).pipeline(transaction=False), commands)
        try:
            return pipe.execute(raise_on_error=False)
        except _AWAY as error:
            self._learn(name)
            return [error] * len(commands)

    def _client(self, name: str) -> redis.Redis:
        if name not in self._clients:
            self._clients[name] = plain(self._nodes.url(name), self._timeout)
        return self._clients[name]

    def _held(self, slot: int, send: Callable[[redis.Redis], Any]) -> Any:  # noqa: ANN401 - replies have the shape of the command
        for _ in range(_REDIRECTS):
            name = self._nodes.holder(slot)
            try:
                return send(self._client(name))
            except MovedError as error:
                self._learn()
                self._nodes.moved(error, name)
            except _AWAY:
                self._learn(name)
                raise
        raise redis.ConnectionError(f"slot {slot} goes from node to node")

    def _anywhere(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:  # noqa: ANN401 - replies have the shape of the command
        trouble: Exception = redis.ConnectionError("the cluster has no nodes")
        for name in self._nodes.names:
            try:
                return self._client(name).execute_command(*args, **options)  # type: ignore[no-untyped-call]
            except _AWAY as error:
                self._nodes.failed(name)
                trouble = error
        raise trouble

    def _learn(self, failed: str = "") -> None:
        """Ask who holds what; when nobody answers, what was known stays."""
        self._nodes.failed(failed)
        for name in self._nodes.names:
            with suppress(*_AWAY):
                return self._nodes.learn(self._client(name).execute_command("CLUSTER", "SLOTS"), name)  # type: ignore[no-untyped-call]
        return None


class _Split(Pipeline):
    """Collects commands as any pipeline of redis-py does, and lets the cluster run them where they belong."""

    def __init__(self, cluster: Cluster, *, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, transaction, shard_hint)
        self._cluster, self._whole = cluster, transaction

    def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - redis-py's own signature
        """Replies in order."""
        commands, self.command_stack = self.command_stack, []
        found = self._cluster.run(commands, transaction=self._whole)
        if raise_on_error and (error := next((one for one in found if isinstance(one, Exception)), None)):
            raise error
        return found


def _filled(pipe: Pipeline, commands: Iterable[_Command]) -> Pipeline:
    for args, options in commands:
        pipe.execute_command(*args, **options)  # type: ignore[no-untyped-call]
    return pipe


def _whole(commands: Iterable[_Command]) -> Callable[[redis.Redis], list[Any]]:
    return lambda client: _filled(client.pipeline(transaction=True), commands).execute()


def _merged(found: Sequence[Any]) -> Any:  # noqa: ANN401 - replies have the shape of the command
    """One reply of many: lists are joined, counts added, of what is all the same one is enough."""
    if isinstance(found[0], list):
        return [one for some in found for one in some]
    return found[0] if isinstance(found[0], bool | bytes | str) else sum(found)


class Lanes:
    """A cluster: a lane to each node, so that one that is down or hangs holds up nobody else's calls."""

    def __init__(self, url: str, most: int) -> None:
        self._nodes = Nodes(url)
        self._most = most
        self._lanes: dict[str, Lane] = {}
        self._looking: asyncio.Task[None] | None = None

    async def send(self, seconds: float, *commands: Sequence[Any]) -> Any:  # noqa: ANN401 - replies have the shape of the command
        """See `Lane.send`; a call that finds its node away fails at once, and who holds what is asked meanwhile."""
        until = time.monotonic() + seconds
        if not self._nodes.known:
            await self._learn(min(seconds, _LEARN_SECONDS))
        keys = next((keys for parts in commands if (keys := keys_of(parts))), None)
        return await (self._held(until, commands, slot_of(keys[0])) if keys else self._anywhere(until, commands))

    async def silent(self, seconds: float, keys: Sequence[str]) -> tuple[dict[str, bool], list[str]]:
        """See `Lane.silent`."""
        there = {name: reply is not None for name, reply in (await self.everywhere(seconds, "PING")).items()}
        return there, [key for key in keys if not there.get(self._nodes.find(key) or "")]

    async def everywhere(self, seconds: float, *parts: Any) -> dict[str, Any]:  # noqa: ANN401 - parts of a command are of many types
        """See `Lane.everywhere`."""
        names = list(self._nodes.names)
        told = await asyncio.gather(*(reply_in(self._lane(name), seconds, *parts) for name in names))
        return dict(zip(names, told, strict=True))

    async def close(self) -> None:
        """Close all connections."""
        if self._looking:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        for lane in self._lanes.values():
            await lane.close()

    async def _held(self, until: float, commands: Commands, slot: int) -> Any:  # noqa: ANN401 - replies have the shape of the command
        for _ in range(_REDIRECTS):
            name = self._nodes.holder(slot)
            try:
                return await self._lane(name).send(until - time.monotonic(), *commands)
            except MovedError as error:
                self._nodes.moved(error, name)
                self._look_again()
            except _AWAY:
                self._look_again()
                raise
        raise redis.ConnectionError(f"slot {slot} goes from node to node")

    async def _anywhere(self, until: float, commands: Commands) -> Any:  # noqa: ANN401 - replies have the shape of the command
        trouble: Exception = redis.ConnectionError("the cluster has no nodes")
        names = list(self._nodes.names)
        for place, name in enumerate(names):
            # One that hangs must leave time for the others.
            seconds = (until - time.monotonic()) / (len(names) - place)
            try:
                return await self._lane(name).send(seconds, *commands)
            except _AWAY as error:
                self._nodes.failed(name)
                trouble = error
        raise trouble

    def _lane(self, name: str) -> Lane:
        if name not in self._lanes:
            self._lanes[name] = Lane(self._nodes.url(name), self._most)
        return self._lanes[name]

    def _look_again(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        await self._learn(_LEARN_SECONDS)
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def _learn(self, seconds: float) -> None:
        """Ask every node who holds what and believe the first; when nobody answers, what was known stays."""
        asked = [asyncio.create_task(self._told(name, seconds)) for name in self._nodes.names]
        for answer in asyncio.as_completed(asked):
            if await answer:
                break
        for task in asked:
            task.cancel()

    async def _told(self, name: str, seconds: float) -> bool:
        try:
            self._nodes.learn(await self._lane(name).send(seconds, ("CLUSTER", "SLOTS")), name)
        except _AWAY:
            return False
        return True
