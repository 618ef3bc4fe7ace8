"""What of a home is copied, and how.

store/          never: a dump of the running store takes its place
lake/           files of whole flushes up to the reach that was noted with the dump; other tables whole
learner/        the checkpoint, read with the dump, so that it has learnt nothing that the lake lacks
mlflow/         the database by SQLite's own backup, then artifacts, which it names
feast/          never: made again from the schema, with the paths of the new home
logs/           never: what processes said here
house.key, erasures  never: kept apart, for a backup that had them would undo what they are for
development.key never: a secret; `croupier up` makes another
mlflow.yaml, reports/, simulations/ and whatever else lies there: as it is
locks, leftovers, unfinished files: never
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from features.store.erasures import FILE as ERASURES
from features.store.house_key import FILE as KEY
from pipelines.worker.lake import POSITION, SCHEMAS
from service.access.keys import DEVELOPMENT_FILE

LAKE: Final = "lake"
CHECKPOINT: Final = Path("learner", "checkpoint.msgpack")
STAGING: Final = ".restoring"
"""Folder of a home in which a restore is laid out and checked."""
_PASSING: Final = frozenset({".lock", ".tmp", ".migrating"})
_SPILLED: Final = "import-"
"""Names of folders that imports fill while they run begin so."""
APART: Final = frozenset({KEY, ERASURES})
"""Files of a home that are kept apart from every backup; a home may hold them before it is restored."""
_NEVER: Final = frozenset({"store", "feast", "logs", LAKE, STAGING, DEVELOPMENT_FILE, *APART})
_DATABASE_ENDS: Final = ("", "-wal", "-shm", "-journal")


def lake_files(lake: Path, until_ms: int) -> list[Path]:
    """Files of a lake that belong to a reach, without the file that tells it.

    Args:
        lake: The lake's folder.
        until_ms: How far it reaches, stream milliseconds: later files are written again from the log.
    """
    return [file for file in files_of(lake) if file.name != POSITION and _within(file.relative_to(lake), until_ms)]


def _within(file: Path, until_ms: int) -> bool:
    """Whether a file of the lake is complete and no later than a reach."""
    last = file.stem.rpartition("-")[2]
    return file.parts[0] not in SCHEMAS or not last.isdecimal() or int(last) <= until_ms


def other_files(home: Path, databases: tuple[Path, ...]) -> list[Path]:
    """Files of a home that are copied as they are.

    Args:
        home: The home.
        databases: Databases of it that are copied in another way.
    """
    apart = {Path(f"{file}{end}") for file in databases for end in _DATABASE_ENDS} | {home / CHECKPOINT}
    tops = [
        top for top in sorted(home.iterdir()) if not (top.name in _NEVER or top.name.startswith((_SPILLED, f".{KEY}")))
    ]
    found = (file for top in tops for file in files_of(top))
    return [file for file in found if file not in apart and not _is_passing(file)]


def files_of(place: Path) -> Iterator[Path]:
    """Complete files of a place: itself, or those below a folder; of links within that, those to files."""
    if place.is_file():
        yield place
    for folder, _, names in os.walk(place):
        yield from (file for name in sorted(names) if (file := Path(folder, name)).is_file() and not _is_passing(file))


def _is_passing(path: Path) -> bool:
    """Whether a file is there only while something runs, or was left unfinished when that was killed."""
    return path.suffix in _PASSING


def copy_file(source: Path, to: Path) -> None:
    """Copy a file with the moment of its last change, by which features in batch know the lake they were made of."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)
    told = source.stat()
    os.utime(to, ns=(told.st_atime_ns, told.st_mtime_ns))
