"""The outbox: entries to deliver, progress of each endpoint, dead letters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec
import redis

from features.store.deployment import real_now_us
from features.store.keys import WEBHOOKS_GONE, outbox_key, outbox_state_key, undelivered_key
from features.store.restored import may_send
from pipelines.worker.webhooks import Endpoint, Notice, notice

KEPT: Final = 10_000
"""About how many undelivered entries of a partition are kept."""
_DONE: Final = "done"


class Progress(NamedTuple):
    """Progress of an entry at one endpoint: failed attempts, and when the next is due, store microseconds."""

    attempts: int = 0
    due_us: int = 0


@dataclass(eq=False)
class OutboxEntry:
    """One entry of an outbox.

    Attributes:
        fields: As the store holds them.
        noted: Endpoint -> recorded progress, None where delivery has ended.
        owed: Endpoints that it is still to be delivered to.
    """

    partition: int
    stream_id: str
    fields: Mapping[bytes, bytes]
    noted: dict[str, Progress | None]
    owed: set[str] = field(default_factory=set)

    @cached_property
    def notice(self) -> Notice:
        """The notice of the entry."""
        return notice(self.fields)

    def fault(self) -> str | None:
        """Why the entry cannot be read, None if it can."""
        try:
            _ = self.notice
        except (KeyError, ValueError, TypeError, msgspec.MsgspecError) as error:
            return f"{type(error).__name__}: {error}"
        return None


class Undelivered(NamedTuple):
    """An endpoint that delivery of an entry was given up for, and why."""

    endpoint: str
    attempts: int
    error: str


class OutboxReading(NamedTuple):
    """A reading of the outboxes: new entries, the store's clock, disabled endpoints."""

    entries: list[OutboxEntry]
    now_us: int
    gone: Mapping[str, str]


class Outbox:
    """Outboxes of our partitions in the store."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._read: dict[int, str] = {}
        self._free = False

    def is_held_back(self) -> bool:
        """Whether nothing may be sent: the house was restored, and nobody accepted that yet.

        A running house is never marked, so that the answer no holds for good.
        """
        self._free = self._free or may_send(self._client)
        return not self._free

    def look(self, owned: Collection[int]) -> OutboxReading:
        """Read new entries; of a newly owned partition, all."""
        for partition in self._read.keys() - set(owned):
            del self._read[partition]
        fresh = [partition for partition in owned if partition not in self._read]
        pipe: Any = self._client.pipeline(transaction=False)
        for partition in owned:
            pipe.xrange(outbox_key(partition), f"({self._read.get(partition, '0-0')}", "+")
        for partition in fresh:
            pipe.hgetall(outbox_state_key(partition))
        answers = pipe.execute()
        states = dict(zip(fresh, map(_progress, answers[len(owned) :]), strict=True))
        found = []
        for partition, entries in zip(owned, answers[: len(owned)], strict=True):
            noted = states.get(partition, {})
            found += [_entry(partition, stream_id, fields, noted) for stream_id, fields in entries]
            self._read[partition] = entries[-1][0].decode() if entries else self._read.get(partition, "0-0")
        self._sweep(states)
        held: Any = self._client.hgetall(WEBHOOKS_GONE)
        gone = {name.decode(): url.decode() for name, url in held.items()}
        return OutboxReading(found, real_now_us(self._client), gone)

    def _sweep(self, states: Mapping[int, Mapping[str, Mapping[str, Progress | None]]]) -> None:
        """Delete progress of deleted entries, which a former owner of the partition may have recorded late."""
        for partition, noted in states.items():
            for stream_id, endpoints in noted.items():
                self._client.hdel(outbox_state_key(partition), *(f"{stream_id} {name}" for name in endpoints))

    def note(self, entry: OutboxEntry, changed: Mapping[str, Progress | None], given_up: Iterable[Undelivered]) -> None:
        """Record progress of an entry, and delete it when no endpoint is left; atomic, within one slot."""
        entry.noted |= changed
        pipe: Any = self._client.pipeline(transaction=True)
        for one in given_up:
            told: dict[Any, Any] = {
                **entry.fields,
                "endpoint": one.endpoint,
                "attempts": one.attempts,
                "error": one.error,
            }
            pipe.xadd(undelivered_key(entry.partition), told, maxlen=KEPT, approximate=True)
        if entry.owed:
            known = {f"{entry.stream_id} {name}": _text(progress) for name, progress in changed.items()}
            pipe.hset(outbox_state_key(entry.partition), mapping=known)
        else:
            pipe.xdel(outbox_key(entry.partition), entry.stream_id)
            if entry.noted:
                pipe.hdel(outbox_state_key(entry.partition), *(f"{entry.stream_id} {name}" for name in entry.noted))
        pipe.execute()

    def trim(self, owned: Collection[int]) -> None:
        """Empty the outboxes: nobody subscribed."""
        pipe: Any = self._client.pipeline(transaction=False)
        for partition in owned:
            pipe.xtrim(outbox_key(partition), maxlen=0, approximate=False)
            pipe.delete(outbox_state_key(partition))
        pipe.execute()

    def disable(self, endpoint: Endpoint) -> None:
        """Record that an endpoint answered 410 and is called no more."""
        self._client.hset(WEBHOOKS_GONE, endpoint.id, str(endpoint.url))


def enable(client: redis.Redis, endpoint: str) -> bool:
    """Enable an endpoint that had answered 410; returns whether it was disabled."""
    return bool(client.hdel(WEBHOOKS_GONE, endpoint))


def _progress(held: Mapping[bytes, bytes]) -> dict[str, dict[str, Progress | None]]:
    found: dict[str, dict[str, Progress | None]] = {}
    for name, text in held.items():
        stream_id, _, endpoint = name.decode().partition(" ")
        attempts, _, due = text.decode().partition(" ")
        found.setdefault(stream_id, {})[endpoint] = None if attempts == _DONE else Progress(int(attempts), int(due))
    return found


def _text(progress: Progress | None) -> str:
    return _DONE if progress is None else f"{progress.attempts} {progress.due_us}"


def _entry(
    partition: int, stream_id: bytes, fields: Mapping[bytes, bytes], noted: dict[str, dict[str, Progress | None]]
) -> OutboxEntry:
    return OutboxEntry(partition, stream_id.decode(), fields, noted.pop(stream_id.decode(), {}))
