"""Files of the lake's tables: which there are, in the order of the log, and how they are written and listed safely.

    lake/events/day=2020-03-02/1583107200000-1583107215000.parquet      of one flush
    lake/events/day=2020-03-01/1583020800000-1583107200000.parquet      of a day's flushes: what they had became one

A file whose range lies within another's of its folder holds nothing that this lacks, and is passed over until it is
removed: at once, or when nobody reads any more who may have listed it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from features.steps import Step

TABLES: Final = ("events", "outcomes", "decisions")
_NAMED: Final = re.compile(r"_?(\d+)-(\d+)")
_DAY: Final = re.compile(r"day=\d{4}-\d\d-\d\d")


def span(file: Path) -> tuple[int, int] | None:
    """First and last boundary of a file of the lake, stream milliseconds; None if it is not named so."""
    named = _NAMED.fullmatch(file.stem)
    if named is None or _DAY.fullmatch(file.parent.name) is None or int(named[1]) > int(named[2]):
        return None
    return int(named[1]), int(named[2])


def day_of(file: Path) -> str:
    """Day of a file or folder of the lake, `2020-03-02`; "" for one of no day."""
    name = file.name if _DAY.fullmatch(file.name) else file.parent.name
    return name[4:] if _DAY.fullmatch(name) else ""


def table_files(lake: Path, table: str) -> list[Path]:
    """Parquet files of a table in order, those that are to be passed over left out; somebody else's among them."""
    found = list((lake / table).rglob("*.parquet"))
    passed = covered(found)
    return sorted((file for file in found if file not in passed), key=_place)


def covered(files: Iterable[Path]) -> Mapping[Path, Path]:
    """Files that are to be passed over -> the file of the same folder that holds all they hold."""
    folders: dict[Path, list[tuple[int, int, Path]]] = defaultdict(list)
    for file in files:
        if (known := span(file)) is not None:
            folders[file.parent].append((known[0], -known[1], file))
    found: dict[Path, Path] = {}
    for spans in folders.values():
        spans.sort()
        widest = spans[0]
        for one in spans[1:]:
            if one[1] >= widest[1]:
                found[one[2]] = widest[2]
            else:
                widest = one
    return found


def _place(file: Path) -> tuple[str, int, str]:
    known = span(file)
    return str(file.parent), -1 if known is None else known[1], file.name


def put(file: Path, write: Callable[[Path], object], step: Step) -> None:
    """Write a file atomically and durably."""
    finish(file, prepare(file, write, step), step)


def prepare(file: Path, write: Callable[[Path], object], step: Step) -> Path:
    """Write what a file is to hold, durably and under a name that nobody reads; returns that."""
    unfinished = file.with_name(f".{file.stem}.tmp")
    step(f"write {file.suffix[1:]}")
    try:
        write(unfinished)
        _sync(unfinished)
    except OSError:
        unfinished.unlink(missing_ok=True)  # half a file only takes room
        raise
    return unfinished


def finish(file: Path, unfinished: Path, step: Step) -> None:
    """Give a file that was prepared its name."""
    step(f"name {file.suffix[1:]}")
    unfinished.replace(file)
    _sync(file.parent)


def _sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Lock a folder, if it is free; yields whether it was. The lock ends with the process."""
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(held)


@contextmanager
def unmoved(lake: Path) -> Iterator[None]:
    """While the block runs, no file is removed that it may have listed: for readers that take long."""
    with ExitStack() as stack:
        for table in TABLES:
            with suppress(OSError):  # what is not there, or on a file system without locks, is read all the same
                held = os.open(lake / table, os.O_RDONLY)
                stack.callback(os.close, held)
                fcntl.flock(held, fcntl.LOCK_SH)
        yield
