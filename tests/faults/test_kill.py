"""Processes killed under load: every acknowledged write is there afterwards, exactly once."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from support.cluster import free_ports
from support.deadlines import PATIENT
from support.fault_house import PATIENCE, until
from support.keys import HEADERS
from support.players import adult_events

from features.store.connection import connect
from features.store.deployment import real_now_us
from features.store.server import socket_path
from pipelines.worker.process import wait_until_in_lake

PLAYERS = [f"k{number}" for number in range(8)]


@pytest.fixture
def address() -> str:
    (port,) = free_ports(1)
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def home(tmp_path: Path, address: str) -> Iterator[Path]:
    """A whole empty house, as `croupier up` runs it."""
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "pipelines", "up", "--players", "0", "--no-screen", "--port", port]
    # What is proved is what survives, not how fast a busy machine is.
    environment = {**os.environ, "CROUPIER_HOME": str(tmp_path), **PATIENT}
    process = subprocess.Popen(command, env=environment)
    try:
        until(lambda: httpx.get(f"{address}/readyz").status_code == 200)
        yield tmp_path
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def kill(word: str, home: Path) -> None:
    """Kill the process of a house whose command line holds a word."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _is_ours(entry, word, home):
            os.kill(int(entry.name), signal.SIGKILL)
            return
    raise AssertionError(f"no process {word}")


def _is_ours(entry: Path, word: str, home: Path) -> bool:
    """Whether a process runs a command for a house: its environment names the home, or it works inside it."""
    try:
        words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
        environment = (entry / "environ").read_bytes().decode(errors="replace")
        inside = str((entry / "cwd").readlink()).startswith(str(home))
    except OSError:
        return False
    named = f"CROUPIER_HOME={home}\0" in environment + "\0" and "-m" in words
    return any(one.endswith(word) for one in words) and (inside or named)


def running(home: Path) -> dict[str, Path]:
    """Processes that a house has started, by word."""
    entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    words = ("worker", "learn", "serve", "valkey-server")
    return {word: entry for word in words for entry in entries if _is_ours(entry, word, home)}


def test_a_house_that_is_killed_outright_leaves_no_process_behind(home: Path) -> None:
    until(lambda: len(running(home)) == 4)
    parent = (running(home)["worker"] / "stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(parent), signal.SIGKILL)
    until(lambda: not running(home))


class Load(threading.Thread):
    """A caller who retries under the same id until each event, decision and outcome is acknowledged."""

    def __init__(self, address: str, player: str) -> None:
        super().__init__()
        self.player = player
        self.stopping = threading.Event()
        self.events: list[str] = []
        self.decisions: list[str] = []
        self.outcomes: list[str] = []
        self._client = httpx.Client(base_url=address, timeout=10, headers=HEADERS)

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            self._turn(number)
        self._client.close()

    def _turn(self, number: int) -> None:
        now = datetime.now(UTC).isoformat()
        name = f"{self.player}-load-{number}"
        deposit = {"type": "deposit", "status": "approved", "method": "card", "amount_minor": 100}
        self._send("/v1/events", {"event_id": name, "player_id": self.player, "occurred_at": now, **deposit})
        self.events.append(name)
        asked = {"player_id": self.player, "request_id": name, "channels": ["in_app", "email", "push"]}
        decided = self._send("/v1/decisions", asked, lambda answer: bool(answer["recorded"]))
        self.decisions.append(decided["decision_id"])
        if decided["action"] != "NO_CONTACT":
            told = {"outcome_id": name, "decision_id": decided["decision_id"], "type": "failed", "occurred_at": now}
            self._send("/v1/outcomes", told)
            self.outcomes.append(name)

    def _send(
        self, path: str, body: dict[str, Any], done: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                answer = self._client.post(path, json=body)
            except httpx.HTTPError:
                continue
            if answer.status_code == 200 and done(answer.json()):
                found: dict[str, Any] = answer.json()
                return found
            assert answer.status_code in {200, 503}, answer.text
        raise AssertionError(f"{path} was not acknowledged in time")


def once(lake: Path, table: str, name: str, expected: list[str]) -> None:
    """Every expected id stands in a table of the lake exactly once, and nothing stands twice."""
    with duckdb.connect() as lake_reader:
        found = lake_reader.execute(f"select {name} from read_parquet('{lake}/{table}/*/*.parquet')").fetchall()
    times = Counter(row[0] for row in found)
    assert not [one for one in expected if times[one] != 1]
    assert max(times.values()) == 1


def test_what_was_acknowledged_survives_the_kill_of_worker_and_store_once(home: Path, address: str) -> None:
    with httpx.Client(base_url=address, timeout=10, headers=HEADERS) as caller:
        for player in PLAYERS:
            for event in adult_events(player):
                assert caller.post("/v1/events", json=event).status_code == 200
    loads = [Load(address, player) for player in PLAYERS]
    for load in loads:
        load.start()
    for word in ("worker", "valkey-server"):
        count = sum(len(load.decisions) for load in loads)
        until(lambda count=count: sum(len(load.decisions) for load in loads) > count + 150)  # type: ignore[misc]
        kill(word, home)
    count = sum(len(load.decisions) for load in loads)
    until(lambda: sum(len(load.decisions) for load in loads) > count + 150)
    for load in loads:
        load.stopping.set()
        load.join()
    client = connect(f"unix://{socket_path(home)}")
    wait_until_in_lake(home / "lake", real_now_us(client), PATIENCE)
    client.close()
    once(home / "lake", "events", "event_id", [one for load in loads for one in load.events])
    once(home / "lake", "decisions", "decision_id", [one for load in loads for one in load.decisions])
    once(home / "lake", "outcomes", "outcome_id", [one for load in loads for one in load.outcomes])
    assert sum(len(load.outcomes) for load in loads) > 0
    with httpx.Client(base_url=address, timeout=10, headers=HEADERS) as caller:
        for load in loads:
            body = {"player_id": load.player, "explain": True, "dry_run": True}
            features = caller.post("/v1/decisions", json=body).json()["features"]["values"]
            # Two deposits of the past made the player known.
            assert features["deposit_count"] == len(load.events) + 2
