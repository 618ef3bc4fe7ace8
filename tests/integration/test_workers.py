"""Serving processes of one command: what becomes of them when one is killed, or who started them."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from conftest import Stored
from support.application import serving
from support.deliveries import until
from support.keys import HEADERS

pytestmark = pytest.mark.usefixtures("house")


def workers(parent: int) -> list[int]:
    """Serving processes that a process started."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text("utf8").split()
    return [int(one) for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text("utf8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_serving_processes_end_when_who_started_them_is_killed(server: Stored) -> None:
    with serving(None, 2, CROUPIER_STORE=server.url) as (_, parent):
        until(lambda: len(workers(parent)) == 2)
        started = workers(parent)
        os.kill(parent, signal.SIGKILL)
        until(lambda: not any(map(lives, started)))


def test_one_that_is_killed_is_replaced_and_the_others_answer_meanwhile(server: Stored) -> None:
    with serving(None, 2, CROUPIER_STORE=server.url) as (address, parent):
        until(lambda: len(workers(parent)) == 2)
        killed = workers(parent)[0]
        os.kill(killed, signal.SIGKILL)
        answered = []
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            try:
                answered.append(httpx.get(f"{address}/healthz", headers=HEADERS, timeout=5).status_code)
            except httpx.TransportError:  # it had been taken by the one that was killed
                answered.append(0)
        until(lambda: len(workers(parent)) == 2 and killed not in workers(parent))
    assert answered.count(200) > 0.9 * len(answered)
