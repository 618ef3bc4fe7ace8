"""Bench of a decision beside its peers: CPU time of servers that take turns, in rounds, in one run.

    furnish a home --copy--> `croupier up` of this build, and of another commit
                   `-------> peers that read the same store
    every player is read once
    each round: every side answers the same requests, from first to last or the other way round
    result: medians over rounds, and of the ratios within rounds

Every decision is whole: players of four jurisdictions, 160 candidates, rules, caps, a learnt policy, a churn model, a
reservation and a record on disk. Only ratios carry over to another machine.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks import builds, result, rounds, sides
from benchmarks.callers import ask
from benchmarks.peers import servers
from benchmarks.result import KeptBytes
from benchmarks.sides import Cost, Side, Turn
from features.schema import STORED
from features.store.connection import connect
from features.store.deployment import open_house
from features.store.keys import DECISIONS
from features.store.server import socket_path

CATALOGUE: Final = Path(__file__).with_name("catalogue.yaml")
IDLE_SECONDS: Final = 3.0
_SEED: Final = 3
_CHUNK: Final = 200


class Plan(NamedTuple):
    """Options of the bench.

    Attributes:
        players: Players of the home.
        rounds: Counted rounds, after one that is not.
        requests: Requests of a turn.
        peers: Names of the peers.
        against: A commit to measure beside this build.
    """

    players: int
    rounds: int
    requests: int
    peers: tuple[str, ...]
    against: str | None


def measure(plan: Plan, console: Console) -> result.BenchResult:
    """Furnish a home, start all sides, and let them take turns; shows progress.

    Raises:
        BuildError: The commit cannot be built.
        TimeoutError: A side does not start.
    """
    load = os.getloadavg()[0]
    console.print(f"load average before: {load:.2f}", highlight=False)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="croupier-bench-")))
        started = stack.enter_context(_started(plan, folder, console))
        builds_own = started[: 1 + (plan.against is not None)]
        for side in builds_own:
            _read_once(side, plan.players, console)
        with console.status("idle"):
            at_rest = sides.idle(started, IDLE_SECONDS)
        turns = _rounds(plan, started, at_rest, console)
        kept = {side.name: _kept(folder / f"home{number}") for number, side in enumerate(builds_own)}
    return result.BenchResult(load, plan.players, plan.requests, at_rest, turns, kept)


@contextmanager
def _started(plan: Plan, folder: Path, console: Console) -> Iterator[list[Side]]:
    """Start all sides: this build, another commit, then the installed peers."""
    compared = [builds.here()]
    if plan.against is not None:
        compared.append(builds.of(plan.against, folder))
    # The oldest build furnishes, so that each opens what it can open in a real house too.
    compared[-1].furnish(folder / "home0", plan.players, CATALOGUE)
    for number in range(1, len(compared)):
        shutil.copytree(folder / "home0", folder / f"home{number}")
    with ExitStack() as stack:
        started = []
        for number, build in enumerate(compared):
            home, port = folder / f"home{number}", sides.free_port()
            with console.status(f"{build.name} starts"):
                served = stack.enter_context(sides.croupier(build, home, port, CATALOGUE))
            name = "commit" if number else "decision"
            asked = port, served.api, served.store, servers.decision, "/v1/decisions"
            started.append(Side(name, *asked, key=served.key))
        with console.status("peers start"):
            started.extend(_peers(plan, folder, started[0].store, stack))
        yield started


def _read_once(side: Side, players: int, console: Console) -> None:
    """Read every player once, without deciding anything.

    The oldest build furnished; what this build's worker would have kept beside the features is made by the first read.
    """
    dry = side._replace(body=lambda player: {**side.body(player), "dry_run": True})
    asked = [dry.request(player) for player in range(players)]
    for first in track(range(0, players, _CHUNK), f"{side.name} reads", console=console, transient=True):
        ask(side.port, asked[first : first + _CHUNK])


def _kept(home: Path) -> KeptBytes:
    """What the store of a home holds of its decisions, by the store's own account, over 10,000 of them."""
    client = connect(f"unix://{socket_path(home)}")
    try:
        pipe = client.pipeline(transaction=False)
        for name in islice(client.scan_iter(DECISIONS, count=1_000), 10_000):
            pipe.memory_usage(name)
        found = [size for size in pipe.execute() if size]
    finally:
        client.close()
    return KeptBytes(len(found), float(np.mean(found)), float(np.percentile(found, 99)))


def _peers(plan: Plan, folder: Path, store: int, stack: ExitStack) -> Iterator[Side]:
    home = folder / "home0"
    url = f"unix://{socket_path(home)}"
    client = connect(url)
    amid = servers.PeerContext(
        open_house(client), home, store, tuple(f"{feature.view}:{feature.name}" for feature in STORED)
    )
    client.close()
    servers.feast_folder(home, url, folder / "feast")
    for name in servers.installed(plan.peers):
        yield stack.enter_context(servers.serving(name, amid, folder / "feast"))


def _rounds(
    plan: Plan, started: Sequence[Side], at_rest: Mapping[str, Cost], console: Console
) -> dict[str, list[Turn]]:
    """Turns of every side per counted round; players repeat only after all had their turn."""
    turns: dict[str, list[Turn]] = {side.name: [] for side in started}
    players = np.random.default_rng(_SEED).permutation(plan.players)
    for number in track(range(plan.rounds + 1), "rounds", console=console, transient=True):
        asked = np.take(players, range(number * plan.requests, (number + 1) * plan.requests), mode="wrap").tolist()
        for side in rounds.order(started, number):
            turns[side.name].append(sides.turn(side, asked, at_rest[side.name]))
    return {name: taken[1:] for name, taken in turns.items()}
