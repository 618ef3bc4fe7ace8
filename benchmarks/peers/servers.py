"""Servers of the peers: processes, environments and requests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from benchmarks import population
from benchmarks.builds import ROOT
from benchmarks.sides import Side, await_answer, free_port, process
from features.store.deployment import House

_OWN: Final = ROOT / ".venv-bench" / "bin" / "python"


class Peer(NamedTuple):
    """A peer: its uvicorn application (None for `feast serve`), its imports, its share of requests."""

    application: str | None
    needs: tuple[str, ...] = ()
    share: float = 1.0


PEERS: Final = {
    "raw_echo": Peer("echo:raw"),
    "echo": Peer("echo:validated"),
    "feast_serve": Peer(None, ("feast", "gunicorn")),
    "off_the_shelf": Peer("shelf:epsilon_greedy", ("feast", "lightgbm", "mabwiser")),
    "lin_ts": Peer("shelf:lin_ts", ("feast", "lightgbm", "mabwiser"), 0.1),
    "vowpal_wabbit": Peer("shelf:vowpal_wabbit", ("feast", "lightgbm", "vowpalwabbit"), 0.25),
}
"""Every peer by its name in results."""


class PeerContext(NamedTuple):
    """What peers read: a house's home and store, and its registered features."""

    house: House
    home: Path
    store: int
    features: tuple[str, ...]


def python() -> Path:
    """Interpreter of the peers: that of `make install-bench`, else this one."""
    return _OWN if _OWN.exists() else Path(sys.executable)


def installed(names: tuple[str, ...]) -> list[str]:
    """Peers whose libraries are installed."""
    wanted = sorted({module for name in names for module in PEERS[name].needs})
    look = "import importlib.util, sys; print(*(m for m in sys.argv[1:] if importlib.util.find_spec(m)))"
    done = subprocess.run([python(), "-c", look, *wanted], capture_output=True, text=True, check=True)
    return [name for name in names if set(PEERS[name].needs) <= set(done.stdout.split())]


def feast_folder(home: Path, url: str, folder: Path) -> None:
    """Write the settings with which plain Feast reads the features of a home."""
    path = url.removeprefix("unix://")
    settings = {
        "project": "croupier",
        "provider": "local",
        "registry": {"path": str(home / "feast" / "registry.db")},
        "online_store": {"type": "redis", "connection_string": f'localhost:6379,unix_socket_path="{path}",db=0'},
        "offline_store": {"type": "duckdb"},
        "entity_key_serialization_version": 3,
    }
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(settings), "utf8")


@contextmanager
def serving(name: str, amid: PeerContext, folder: Path) -> Iterator[Side]:
    """Start a peer as a side of the rounds."""
    peer, port = PEERS[name], free_port()
    command = _feast(port, folder) if peer.application is None else _uvicorn(peer.application, port)
    environment = {"FEAST_FOLDER": str(folder), "FEAST_USAGE": "False", "OMP_NUM_THREADS": "1"}
    log = folder / f"{name}.log"
    with process(command, environment, log) as root:
        side = _side(name, port, root, amid)
        await_answer(port, side.request(0), root, log)
        yield side


def _side(name: str, port: int, root: int, amid: PeerContext) -> Side:
    def key(player: int) -> str:
        return amid.house.player_key(population.name(player))

    if name in {"raw_echo", "echo"}:
        return Side(name, port, root, amid.store, decision)
    if name == "feast_serve":
        asked = list(amid.features)
        body = lambda player: {"features": asked, "entities": {"player": [key(player)]}}  # noqa: E731 - closes over both
        return Side(name, port, root, amid.store, body, "/get-online-features")
    return Side(name, port, root, amid.store, lambda player: {"player": key(player)}, share=PEERS[name].share)


def decision(player: int) -> dict[str, object]:
    """Body of a decision request; echo peers get it too."""
    return {"player_id": population.name(player), "decision_point": "bench"}


def _uvicorn(application: str, port: int) -> list[str]:
    served = [str(python()), "-m", "uvicorn", f"benchmarks.peers.{application}", "--factory", "--port", str(port)]
    return [*served, "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"]


def _feast(port: int, folder: Path) -> list[str]:
    """Command of Feast's own server, one worker that is never recycled."""
    command = [str(python().with_name("feast")), "--chdir", str(folder), "serve", "--port", str(port)]
    return [*command, "--workers", "1", "--max-requests", "0", "--no-access-log"]
