"""Start the application in a process of its own, as it is run."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import httpx
from support.cluster import free_ports
from support.deadlines import PATIENT


@contextmanager
def application(workers: int = 1, **environment: str) -> Iterator[str]:
    """Serving processes of which one is ready, by their address."""
    with serving(None, workers, **environment) as (address, _):
        yield address


@contextmanager
def serving(log: IO[bytes] | None, workers: int = 1, **environment: str) -> Iterator[tuple[str, int]]:
    """Serving processes of which one is ready, by their address and number, with what they say in a file."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "pipelines", "serve", "--port", str(port), "--workers", str(workers)]
    process = subprocess.Popen(command, env={**os.environ, **PATIENT, **environment}, stdout=log, stderr=log)
    try:
        while not ready(address):
            assert process.poll() is None, "the application ended"
            threading.Event().wait(0.05)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz").status_code == 200
    except httpx.HTTPError:
        return False
