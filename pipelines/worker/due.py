"""Messages that fall due in a worker's partitions: what the store says, and who hears of a new one at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

import redis

from features.store.cluster import is_away, replies
from features.store.connection import connect
from features.store.deployment import real_now_us
from features.store.keys import SENDS, sends_key
from features.store.restored import may_deliver

MOST: Final = 200
"""Messages of a partition that are looked at together."""
_LISTEN_SECONDS: Final = 0.5


class DueMessage(NamedTuple):
    """A message by its decision, and when to look at it, house time."""

    look_us: int
    decision_id: str
    partition: int


class DueReading(NamedTuple):
    """What falls due soon, and the store's clock."""

    found: list[DueMessage]
    real_us: int


class DueMessages:
    """The sends of partitions in the store; its calls block."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._free = False

    def is_held_back(self) -> bool:
        """Whether nothing may be sent: the house was restored, and nobody let it send yet. A no holds for good."""
        self._free = self._free or may_deliver(self._client)
        return not self._free

    def look(self, partitions: Collection[int], until: Callable[[int], int]) -> DueReading:
        """What of some partitions falls due until a moment of house time, given the store's clock."""
        real_us = real_now_us(self._client)
        before_us, pipe = until(real_us), self._client.pipeline(transaction=False)
        for partition in partitions:
            pipe.zrange(sends_key(partition), "-inf", before_us, byscore=True, offset=0, num=MOST, withscores=True)
        found: list[DueMessage] = []
        for partition, held in zip(partitions, replies(pipe), strict=True):
            if not is_away(held):
                found += [DueMessage(int(look), name.decode(), partition) for name, look in held]
        return DueReading(found, real_us)


class Listener(threading.Thread):
    """Hears in which partition a message waits now; whoever misses that finds it at the next look."""

    def __init__(self, url: str, heard: Callable[[int], object]) -> None:
        super().__init__(daemon=True)
        self._url, self._heard = url, heard
        self._stopping = threading.Event()

    def run(self) -> None:
        """Listen until stopped; a connection that breaks is made anew."""
        while not self._stopping.is_set():
            try:
                self._listen()
            except redis.RedisError:
                self._stopping.wait(_LISTEN_SECONDS)

    def _listen(self) -> None:
        client: Any = connect(self._url)
        with client.pubsub(ignore_subscribe_messages=True) as told:
            told.subscribe(SENDS)
            while not self._stopping.is_set():
                if (message := told.get_message(timeout=_LISTEN_SECONDS)) is not None:
                    self._heard(int(message["data"]))
        client.close()

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()
        self.join()
