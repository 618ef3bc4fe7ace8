"""Run a worker in a thread, for as long as a test needs it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.worker.process import Worker


@contextmanager
def running(worker: Worker) -> Iterator[Worker]:
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join()
