"""Flushes of the lake, one by one, whether a file holds one of them or those of a whole day.

A file of several flushes names them in its footer, each with its boundaries and the number of its rows, so that the
order of the log can be told from it alone. Its rows are those of its flushes, one after the other.
"""

from __future__ import annotations

import base64
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.lake.files import covered, span, table_files

_FLUSHES: Final = b"croupier.flushes"
_GROUPS: Final = 2
"""Row groups that are kept at hand of each table: flushes are small, and one may lie in two."""


class Part(NamedTuple):
    """The rows of a flush in a file: all of it, or those from `begins` to before `ends` of `total`."""

    flush: str
    file: Path
    begins: int = 0
    ends: int | None = None
    total: int | None = None

    @property
    def boundary(self) -> int:
        """The flush's last boundary, stream milliseconds: its place among flushes."""
        return int(self.flush.rpartition("-")[2])

    @property
    def to(self) -> int | None:
        """Where its records end in the file beside; of the last part of a file whatever else that holds is its own."""
        return None if self.ends == self.total else self.ends


def footer(flushes: Sequence[tuple[int, int, int]]) -> dict[bytes, bytes]:
    """What a file says of its flushes: first and last boundary and number of rows of each, in order."""
    table = np.array(flushes, np.int64).reshape(-1, 3)
    steps = np.diff(table[:, :2].ravel(), prepend=0)
    packed = zlib.compress(np.concatenate([steps, table[:, 2]]).astype("<i8").tobytes(), 9)
    return {_FLUSHES: base64.b64encode(packed)}


def parts(file: Path) -> Iterator[Part]:
    """Flushes of a file, in order; the file as one where it says nothing of them, or cannot be read.

    Raises:
        FileNotFoundError: It was removed: what it held lies in another file of its folder.
    """
    told = file.stat()
    known = _told(file, told.st_mtime_ns, told.st_size)
    if known is None:
        yield Part(file.stem, file)
        return
    total = int(known[:, 2].sum())
    begins = 0
    for first, last, rows in known.tolist():
        yield Part(f"{first}-{last}", file, begins, begins + rows, total)
        begins += rows


def part_of(file: Path, flush: str) -> Part | None:
    """The rows of a flush in a file, None if it has no such flush; raises FileNotFoundError as `parts` does."""
    told = file.stat()
    known = _told(file, told.st_mtime_ns, told.st_size)
    if known is None:
        return Part(file.stem, file) if file.stem == flush else None
    first, last = map(int, flush.split("-"))
    at = int(np.searchsorted(known[:, 1], last))
    if at == len(known) or known[at, 0] != first or known[at, 1] != last:
        return None
    begins = int(known[:at, 2].sum())
    return Part(flush, file, begins, begins + int(known[at, 2]), int(known[:, 2].sum()))


@lru_cache(maxsize=65_536)
def _told(file: Path, changed_ns: int, size: int) -> np.ndarray | None:  # noqa: ARG001 - another file, another footer
    """First, last and rows of each flush of a file, None if it is of one."""
    try:
        told = pq.read_metadata(file)
        if (packed := (told.metadata or {}).get(_FLUSHES)) is None:
            return None
        numbers = np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<i8")
        count = len(numbers) // 3
        table = np.column_stack([np.cumsum(numbers[: 2 * count]).reshape(-1, 2), numbers[2 * count :]])
    except FileNotFoundError:
        raise
    except (OSError, ValueError, zlib.error, pa.ArrowException):
        return None  # whoever reads it says so
    # A footer that does not fit its file hides nothing: the file is read as one.
    fits = bool((table[:, 2] >= 0).all()) and int(table[:, 2].sum()) == told.num_rows
    return table if fits else None


def by_flush(files: Iterable[Path]) -> dict[str, list[Part]]:
    """Parts of files by flush, in the order of flushes: one that went over midnight has two."""
    found = defaultdict[str, list[Part]](list)
    for file in files:
        for part in parts(file):
            found[part.flush].append(part)
    return dict(sorted(found.items(), key=lambda flush: flush[1][0].boundary))


class FlushReader:
    """Reads rows of flushes; those of a file of many are read a row group at a time, and kept for the next."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, ...] | None, dict[tuple[Path, int], pa.Table]] = defaultdict(dict)

    def read(self, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of a part, of all columns or of those named.

        Raises:
            OSError: The file cannot be read, or was removed meanwhile.
            pyarrow.ArrowException: It is not what it must be.
        """
        named = None if columns is None else list(columns)
        if part.ends is None:
            with pq.ParquetFile(part.file) as opened:
                return opened.read(named)
        bounds = group_bounds(part.file, part.file.stat().st_mtime_ns)
        found = [
            self._group(part.file, group, named).slice(max(0, part.begins - begins), _within(part, begins, ends))
            for group, (begins, ends) in enumerate(pairwise(bounds))
            if begins < part.ends and part.begins < ends
        ]
        return pa.concat_tables(found) if found else self._group(part.file, 0, named).slice(0, 0)

    def _group(self, file: Path, group: int, columns: list[str] | None) -> pa.Table:
        held = self._groups[None if columns is None else tuple(columns)]
        if (found := held.get((file, group))) is None:
            while len(held) >= _GROUPS:
                del held[next(iter(held))]
            with pq.ParquetFile(file) as opened:
                found = held[file, group] = opened.read_row_group(group, columns=columns)
        return found


def _within(part: Part, begins: int, ends: int) -> int:
    return min(cast("int", part.ends), ends) - max(part.begins, begins)


@lru_cache(maxsize=64)
def group_bounds(file: Path, changed_ns: int) -> list[int]:  # noqa: ARG001 - another file, other bounds
    """Where the row groups of a file begin, and where the last ends."""
    told = pq.read_metadata(file)
    return list(accumulate((told.row_group(group).num_rows for group in range(told.num_row_groups)), initial=0))


class TableFlushes:
    """Flushes of a table of a lake that grows, and whose files become one after a day.

    Args:
        lake: The lake's folder.
        table: Name of the table.
    """

    def __init__(self, lake: Path, table: str) -> None:
        self._lake, self._table = lake, table
        self._spans: dict[Path, tuple[int, Mapping[Path, tuple[int, int]]]] = {}

    def names(self, after: int, until: int, since: str) -> set[str]:
        """Names of flushes that end after one boundary and not after another, of the days from a folder's name on."""
        found: set[str] = set()
        for file in table_files(self._lake, self._table):
            known = span(file)
            if known is not None and known[1] > after and file.parent.name >= since:
                found |= {part.flush for part in parts(file) if after < part.boundary <= until}
        return found

    def parts(self, flush: str, since: str) -> list[Part]:
        """Where a flush's rows are, of the days from a folder's name on: in a file of its own, or in a day's."""
        found: list[Part] = []
        for day in sorted((self._lake / self._table).glob("day=*")):
            if day.name < since:
                continue
            alone = day / f"{flush}.parquet"
            holding = [alone] if alone.exists() else self._holding(day, flush)
            found += [part for file in holding if (part := part_of(file, flush)) is not None]
        return found

    def _holding(self, day: Path, flush: str) -> list[Path]:
        first, last = map(int, flush.split("-"))
        changed_ns = day.stat().st_mtime_ns
        if (known := self._spans.get(day)) is None or known[0] != changed_ns:
            self._spans = {one: told for one, told in self._spans.items() if one.parent == day.parent}
            listed = {file: told for file in day.glob("*.parquet") if (told := span(file)) is not None}
            known = self._spans[day] = (changed_ns, listed)
        wide = [file for file, (begins, ends) in known[1].items() if begins <= first and last <= ends]
        passed = covered(wide)
        return [file for file in wide if file not in passed]
