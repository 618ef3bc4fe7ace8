"""Run a worker in a thread, for as long as a test needs it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from features.store.deployment import real_now_us
from pipelines.worker.process import Worker, wait_until_in_lake


@contextmanager
def running(worker: Worker) -> Iterator[Worker]:
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join()


def last_flush(worker: Worker, client: redis.Redis, lake: Path) -> None:
    """End a worker, so that the lake has everything now and not in seconds."""
    now_us = real_now_us(client)
    worker.stop()
    wait_until_in_lake(lake, now_us)
