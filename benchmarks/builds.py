"""Builds to measure: this one, and earlier commits in a folder and an environment of their own."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
_FURNISHER: Final = "benchmarks/house.py"


class BuildError(Exception):
    """A commit that cannot be built here; the text is one sentence."""


class Build(NamedTuple):
    """A checkout and its environment."""

    name: str
    folder: Path
    python: Path

    @property
    def croupier(self) -> str:
        """The build's `croupier` command."""
        return str(self.python.with_name("croupier"))

    def furnish(self, home: Path, players: int, catalogue: Path, rate: float = 1.0) -> None:
        """Make and fill a home with this build, whose clock runs so fast; its output goes to standard error."""
        where = [str(home), "--players", str(players), "--catalogue", str(catalogue)]
        where += [] if rate == 1 else ["--rate", str(rate)]  # earlier builds know no other
        command = [str(self.python), "-m", "benchmarks.house", *where]
        if subprocess.run(command, cwd=self.folder, stdout=sys.stderr, check=False).returncode:
            raise BuildError(f"{self.name} could not furnish a home")


def here() -> Build:
    """The build that contains this file."""
    return Build("this build", ROOT, Path(sys.executable))


def of(commit: str, folder: Path, root: Path = ROOT) -> Build:
    """Build a commit: its files, its locked environment, and a matching furnisher.

    A commit without a furnisher gets the first one that was written after it: it was written for what stood then.

    Args:
        commit: Any name of git's.
        folder: Where its files and environment go, in a folder of its own.
        root: The repository.

    Raises:
        BuildError: There is no such commit, or it does not install.
    """
    trouble = f"there is no commit {commit} here"
    if _git(root, "rev-parse", "--is-shallow-repository") == "true":
        trouble += ", for this clone lacks the earlier ones: `git fetch --unshallow` brings them"
    name = _git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", trouble=trouble)
    place = folder / name[:12]
    _unpack(root, name, place)
    if not (place / _FURNISHER).exists():
        _unpack(root, _first_furnisher(root, name), place, "benchmarks")
    command = ["make", "--silent", "install", f"PYTHON={sys.executable}"]
    if subprocess.run(command, cwd=place, stdout=sys.stderr, check=False).returncode:
        raise BuildError(f"`make install` of {name[:12]} failed")
    return Build(name[:12], place, place / ".venv" / "bin" / "python")


def _first_furnisher(root: Path, commit: str) -> str:
    later = _git(root, "rev-list", "--reverse", "--ancestry-path", f"{commit}..HEAD", "--", _FURNISHER).split()
    if not later:
        raise BuildError(f"no commit after {commit[:12]} knows how to furnish a home for it: commit {_FURNISHER} first")
    return later[0]


def _unpack(root: Path, commit: str, place: Path, *paths: str) -> None:
    packed = subprocess.run(["git", "archive", commit, *paths], cwd=root, capture_output=True, check=True).stdout  # noqa: S607 - git, wherever it is
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(place, filter="data")


def _git(root: Path, *arguments: str, trouble: str = "this is no checkout of git's") -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)  # noqa: S607 - git, wherever it is
    if done.returncode:
        raise BuildError(trouble)
    return done.stdout.strip()
