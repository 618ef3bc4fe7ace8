"""The way of one decision through the code, of this build and of an earlier commit: folders, modules, functions."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import builds
from benchmarks.builds import Build

CATALOGUE: Final = Path(__file__).with_name("catalogue.yaml")
_TRACED: Final = Path(__file__).with_name("traced.py")
_PLAYERS: Final = 100
_SHOWN: Final = ("folders", "modules", "functions", "calls", "changes")


def trace(against: str | None, console: Console) -> dict[str, dict[str, Any]]:
    """The way by build: `folders`, `modules`, `functions`, `calls`, `changes` of module, and the modules `entered`.

    Raises:
        BuildError: The commit cannot be built, or its decision cannot be traced.
    """
    with tempfile.TemporaryDirectory(prefix="croupier-trace-") as name:
        compared = [builds.here()] + ([] if against is None else [builds.of(against, Path(name))])
        return {build.name: _way(build, Path(name) / f"home{at}", console) for at, build in enumerate(compared)}


def _way(build: Build, home: Path, console: Console) -> dict[str, Any]:
    with console.status(f"{build.name} makes a home"):
        build.furnish(home, _PLAYERS, CATALOGUE)
    own = {name: text for name, text in os.environ.items() if not name.startswith("CROUPIER_")}
    more = {"CROUPIER_HOME": str(home), "CROUPIER_CATALOGUE": str(CATALOGUE), "CROUPIER_READ_SECONDS": "20"}
    with _TRACED.open("rb") as program:  # read from standard input, so that the build's own folder is looked in first
        command = [str(build.python), "-", str(home)]
        done = subprocess.run(command, cwd=build.folder, env=own | more, stdin=program, stdout=-1, check=False)
    if done.returncode:
        raise builds.BuildError(f"a decision of {build.name} could not be traced")
    way: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return way


def show(ways: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """The ways beside each other, and the modules of this build in the order in which they were entered."""
    table = Table("a decision enters", *ways, title="The way of one decision")
    for name in _SHOWN:
        table.add_row(name, *(str(way[name]) for way in ways.values()))
    console.print(table)
    console.print("\n".join(next(iter(ways.values()))["entered"]), highlight=False)
