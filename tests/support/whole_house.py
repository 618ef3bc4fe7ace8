"""A whole house as `croupier up` starts it, in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.application import ready
from support.cluster import free_ports
from support.deadlines import PATIENT


@contextmanager
def whole_house(home: Path, *options: str) -> Iterator[str]:
    """Address of a house without players, once it is ready."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "pipelines", "up", "--players", "0", "--no-screen", "--port", str(port)]
    process = subprocess.Popen([*command, *options], env={**os.environ, "CROUPIER_HOME": str(home), **PATIENT})
    deadline = time.monotonic() + 300
    try:
        while not ready(address):
            assert process.poll() is None, "the house ended"
            assert time.monotonic() < deadline, "the house did not become ready"
            threading.Event().wait(0.1)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
