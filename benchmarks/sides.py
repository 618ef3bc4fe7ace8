"""Sides of a bench: servers to start, their requests, and the cost of their turns."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from benchmarks import cpu
from benchmarks.builds import ROOT, Build
from benchmarks.callers import CallerAnswer, ask, request

SCOPES: Final = "decide,events,outcomes,read"
READ_SECONDS: Final = 0.25
"""Deadline of a decision in every build: the first one's own default gives up on a busy machine."""
TAIL_SECONDS: Final = 0.3
"""What a worker does after a turn belongs to the turn: it looks five times a second."""
_READY_SECONDS: Final = 300.0
_QUIET: Final = 0.15
"""Share of one CPU below which a house counts as settled."""


class Side(NamedTuple):
    """A server that takes turns.

    Attributes:
        name: As results name it.
        port: Where it listens.
        root: Its process; descendants count with it.
        store: The store that it asks.
        body: Number of a player -> what it is asked.
        path: Where it is asked.
        share: Share of a turn's requests, below 1 for a slow server.
        key: What its callers send; None where it asks for none.
    """

    name: str
    port: int
    root: int
    store: int
    body: Callable[[int], Mapping[str, object]]
    path: str = "/"
    share: float = 1.0
    key: str | None = None

    def request(self, player: int) -> bytes:
        """Bytes of a request about a player."""
        return request(self.path, json.dumps(self.body(player)).encode(), self.key)


class Served(NamedTuple):
    """A house that serves.

    Attributes:
        address: Of its API.
        api: The API's process.
        store: The store's process.
        worker: The worker's process.
        key: One of the house; None of a build that asks for none.
    """

    address: str
    api: int
    store: int
    worker: int
    key: str | None

    @property
    def headers(self) -> dict[str, str]:
        """What its callers send."""
        return {} if self.key is None else {"authorization": f"Bearer {self.key}"}


class Meter(NamedTuple):
    """Reading of the CPU time of a side and its store, by thread, with its moment."""

    side: cpu.Reading
    store: cpu.Reading
    at: float

    @classmethod
    def of(cls, side: Side) -> Meter:
        """Read a side now."""
        return cls(cpu.read(cpu.tree(side.root)), cpu.read([side.store]), time.monotonic())


class Cost(NamedTuple):
    """CPU time in microseconds over `seconds`; the store's main thread apart from its others."""

    server: float
    store: float
    store_others: float
    seconds: float

    @classmethod
    def between(cls, before: Meter, after: Meter) -> Cost:
        """Cost between two readings of a side."""
        main = cpu.microseconds(cpu.main_threads(before.store), cpu.main_threads(after.store))
        store = cpu.microseconds(before.store, after.store)
        return cls(cpu.microseconds(before.side, after.side), main, store - main, after.at - before.at)

    def less(self, idle: Cost, requests: int) -> Cost:
        """Cost per request, less what is spent idle in the same time."""
        idle_share = self.seconds / idle.seconds
        parts = zip(self, idle, strict=True)
        return Cost(*((spent - waste * idle_share) / requests for spent, waste in parts))._replace(seconds=self.seconds)


class Turn(NamedTuple):
    """A turn of a side: cost per request, requests per second, answers."""

    cost: Cost
    per_second: float
    answers: Sequence[CallerAnswer]


def idle(sides: Sequence[Side], seconds: float) -> dict[str, Cost]:
    """Cost of every side while nobody asks."""
    before = {side.name: Meter.of(side) for side in sides}
    time.sleep(seconds)
    return {side.name: Cost.between(before[side.name], Meter.of(side)) for side in sides}


def turn(side: Side, players: Sequence[int], at_rest: Cost) -> Turn:
    """Ask a side about players, and wait until the work that follows the answers is done."""
    asked = [side.request(player) for player in players[: max(1, round(len(players) * side.share))]]
    before = Meter.of(side)
    answers = ask(side.port, asked)
    served = time.monotonic() - before.at
    time.sleep(TAIL_SECONDS)
    cost = Cost.between(before, Meter.of(side))
    return Turn(cost.less(at_rest, len(asked)), len(asked) / served, answers)


# --- Servers


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def croupier(
    build: Build,
    home: Path,
    port: int,
    catalogue: Path,
    workers: int = 1,
    read_seconds: float = READ_SECONDS,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Served]:
    """Start a house with `croupier up` and wait until it is idle; `settings` are more of its environment."""
    environment = {
        **settings,
        "CROUPIER_HOME": str(home),
        "CROUPIER_CATALOGUE": str(catalogue),
        "CROUPIER_READ_SECONDS": str(read_seconds),
    }
    command = [build.croupier, "up", "--players", "0", "--port", str(port), "--workers", str(workers), "--no-screen"]
    with process(command, environment, home / "up.log", build.folder) as root:
        await_answer(port, request("/readyz"), root, home / "up.log")
        key = _key(build, environment)
        settle(root)
        yield Served(
            f"http://127.0.0.1:{port}",
            _child(root, "serve"),
            _child(root, "valkey-server"),
            _child(root, "worker"),
            key,
        )


def _key(build: Build, environment: Mapping[str, str]) -> str | None:
    """A key with a scope and a rate, as callers have; None of a build before there were any."""
    words = ["keys", "create", "--scopes", SCOPES, "--rate", "1000000"]
    own = {**os.environ, **environment}
    done = subprocess.run(
        [build.croupier, *words], env=own, cwd=build.folder, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


@contextmanager
def process(command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path = ROOT) -> Iterator[int]:
    """Run a process during the body, its output in a file; yields its process id."""
    own = {**{name: text for name, text in os.environ.items() if not name.startswith("CROUPIER_")}, **environment}
    with log.open("ab") as out:
        running = subprocess.Popen(command, env=own, cwd=folder, stdout=out, stderr=out)
    try:
        yield running.pid
    finally:
        running.terminate()
        running.wait()


def await_answer(port: int, asked: bytes, root: int, log: Path) -> None:
    """Wait until a server answers with 200.

    Raises:
        TimeoutError: It does not, or its process has ended; with the last line of its output.
    """
    deadline = time.monotonic() + _READY_SECONDS
    while ask(port, [asked], callers=1)[0].status != 200:
        if time.monotonic() > deadline or cpu.has_ended(root):
            # The lines that `up` prints to be copied hold a key.
            lines = [line for line in log.read_text("utf8", "replace").strip().splitlines() if "Bearer" not in line]
            raise TimeoutError(
                f"{log.stem} does not answer on port {port}: {lines[-1] if lines else 'it said nothing'}"
            )
        time.sleep(0.1)


def settle(root: int, seconds: float = 1.0) -> None:
    """Wait until a process and its descendants are nearly idle for two spans of some seconds.

    Raises:
        TimeoutError: They go on working.
    """
    deadline, calm = time.monotonic() + _READY_SECONDS, 0
    while calm < 2:
        if time.monotonic() > deadline:
            raise TimeoutError("what was started does not come to rest")
        before = cpu.read(cpu.tree(root))
        time.sleep(seconds)
        spent = cpu.microseconds(before, cpu.read(cpu.tree(root)))
        calm = calm + 1 if spent < _QUIET * seconds * 1e6 else 0


def _child(root: int, word: str) -> int:
    """The first descendant whose command contains a word; raises TimeoutError if there is none."""
    for process_id in cpu.tree(root)[1:]:
        if any(part.rpartition("/")[2] == word for part in " ".join(cpu.command(process_id)).split()):
            return process_id
    raise TimeoutError(f"no process of {word} was started")
