"""Worker that follows an import, so that features and lake are current when it returns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import redis

from features.store.deployment import PARTITIONS, order, real_now_us
from features.store.errors import StoreError
from features.store.keys import lease_key, log_key
from pipelines.worker.process import Worker, wait_until_applied, wait_until_in_lake

PATIENCE_SECONDS: Final = 600.0


class ImportWorker:
    """Worker that follows the log: a running one, else our own in a thread."""

    def __init__(self, client: redis.Redis, url: str, lake: Path) -> None:
        self._client = client
        self._lake = lake
        self._failure: BaseException | None = None
        self._own = None if _is_served(client) else Worker(url, lake)
        self._thread = threading.Thread(target=self._work, daemon=True)
        if self._own:
            self._thread.start()

    def _work(self) -> None:
        try:
            cast("Worker", self._own).run()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._failure = error

    def applied(self, reached: Mapping[int, str]) -> None:
        """Wait until features include these places of the log."""
        self._wait(lambda seconds: wait_until_applied(self._client, reached, seconds))

    def in_lake(self, places: Iterable[str]) -> None:
        """Wait until the lake holds these places of the log."""
        last = max((order(place)[0] for place in places), default=-1)
        self._wait(lambda seconds: wait_until_in_lake(self._lake, (last + 1) * 1_000, seconds))

    def stop(self) -> None:
        """Stop our own worker, if any; it flushes as it ends."""
        if self._own:
            self._own.stop()
            self._thread.join()

    def _wait(self, until: Callable[[float], None]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            if self._failure:
                raise StoreError(f"the worker failed: {self._failure}") from self._failure
            try:
                return until(1.0)
            except StoreError:
                if time.monotonic() > deadline:
                    raise


@contextmanager
def following(client: redis.Redis, url: str, lake: Path) -> Iterator[ImportWorker]:
    """Run a follower during the body; begins when the lake holds everything logged so far."""
    follower = ImportWorker(client, url, lake)
    try:
        follower.in_lake(_logged(client))
        yield follower
    finally:
        follower.stop()


def _is_served(client: redis.Redis) -> bool:
    """Whether a live worker holds partitions; a dead one holds its leases for seconds but renews none."""
    until = _held_until(client)
    while until > real_now_us(client):
        time.sleep(0.05)
        if (later := _held_until(client)) > until:
            return True
        until = later
    return False


def _held_until(client: redis.Redis) -> int:
    pipe = client.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipe.hget(lease_key(partition), "until")
    return max(int(until or 0) for until in pipe.execute())


def _logged(client: redis.Redis) -> list[str]:
    """Last entry of each partition's log that has one."""
    pipe = client.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipe.xrevrange(log_key(partition), count=1)
    return [entries[0][0].decode() for entries in pipe.execute() if entries]
