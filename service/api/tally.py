"""Counts that the processes of one `croupier serve` share: each adds to numbers of its own, whoever is asked adds up.

Every process has a file of numbers, mapped into its memory, and beside it one that says what each number counts. A
process that starts takes over the file of one that ended and counts on where that stopped, so that nothing is forgotten
and files never become more than there are processes. Whoever ended is known by the lock that went with it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

NUMBERS: Final = 16_384
"""Of one process."""
_REST: Final = NUMBERS - 64
"""From here on counts what there is no room for: nobody reads it."""
MOST: Final = 256
"""Series of a metric that names no other number; what is beyond them counts as `other`."""
_OTHER: Final = "other"
_BYTES: Final = NUMBERS * 8


class CountedMetric(NamedTuple):
    """What is counted.

    Attributes:
        name: As Prometheus knows it; that of a counter without its `_total`.
        text: For people.
        labels: By which its series differ: words of lists that no caller can add to.
        bounds: Upper bounds of a histogram's buckets, in order; a counter has none.
        most: Series that a process counts apart.
        words: Of a counter with one label, words whose series are told at 0 before anything was counted: a rate sees
            no first step of a series that begins with it.
    """

    name: str
    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    most: int = MOST
    words: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Numbers of a series: one, or a histogram's buckets, the one without an upper bound, and the sum."""
        return len(self.bounds) + 2 if self.bounds else 1


Series = tuple[str, tuple[str, ...]]
"""A metric's name and the values of its labels."""


class Tally:
    """Numbers that one thread of this process adds to.

    Args:
        folder: Where the processes keep their numbers; None keeps them to this process.

    Raises:
        OSError: There is no room in the folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._first: dict[Series, int] = {}
        self._of: defaultdict[str, int] = defaultdict(int)
        self._widths: dict[str, int] = {}
        self._free = 0
        self._numbers = memoryview(bytearray(_BYTES if folder is None else 0)).cast("d")
        if folder is not None:
            self._share(folder)

    def _share(self, folder: Path) -> None:
        file, self._file = _adopted(folder)
        # Writing to a page that the disk has no room for would end the process.
        os.posix_fallocate(self._file, 0, _BYTES)
        self._numbers = memoryview(mmap.mmap(self._file, _BYTES)).cast("d")
        for series, width in _counted(file):
            self._place(series, width)
        self._names = open(_names(file), "ab", buffering=0, opener=_private)  # noqa: SIM115 - closed by `close`
        self._names.truncate(_whole(file))

    def add(self, metric: CountedMetric, *values: str) -> None:
        """Count once."""
        first = self._first.get((metric.name, values))
        if first is None:
            first = self._begun(metric, values)
        self._numbers[first] += 1.0

    def observe(self, metric: CountedMetric, seen: float, *values: str) -> None:
        """Count an observation of a histogram."""
        first = self._first.get((metric.name, values))
        if first is None:
            first = self._begun(metric, values)
        numbers, bounds = self._numbers, metric.bounds
        numbers[first + bisect_left(bounds, seen)] += 1.0
        numbers[first + len(bounds) + 1] += seen

    def _begun(self, metric: CountedMetric, values: tuple[str, ...]) -> int:
        """The first number of a series that was not counted yet."""
        if self._of[metric.name] >= metric.most:
            values = (_OTHER,) * len(values)
            if (metric.name, values) in self._first:
                return self._first[metric.name, values]
        if self._free + metric.width > _REST or not self._named(metric, values):
            return _REST
        return self._place((metric.name, values), metric.width)

    def _named(self, metric: CountedMetric, values: tuple[str, ...]) -> bool:
        """Name a series before it is counted, since a number without a name is nobody's; whether there was room."""
        if self._folder is None:
            return True
        try:
            self._names.write(msgspec.json.encode((metric.name, values, metric.width)) + b"\n")
        except OSError:
            return False
        return True

    def _place(self, series: Series, width: int) -> int:
        self._widths[series[0]] = width
        self._first[series], self._free = self._free, self._free + width
        self._of[series[0]] += 1
        return self._first[series]

    def sums(self) -> dict[Series, list[float]]:
        """The numbers of every series, added up over all processes that ever counted."""
        found: dict[Series, list[float]] = {}
        for counted, numbers in self._everyone():
            at = 0
            for series, width in counted:
                mine = numbers[at : at + width]
                found[series] = [a + b for a, b in zip(found.get(series, [0.0] * width), mine, strict=True)]
                at += width
        return found

    def _everyone(self) -> Iterator[tuple[list[tuple[Series, int]], memoryview[float] | array[float]]]:
        if self._folder is None:
            first = self._first.copy()  # another thread may begin a series meanwhile
            yield [(series, self._widths[series[0]]) for series in first], self._numbers
            return
        for file in sorted(self._folder.glob("*.numbers")):
            counted = list(_counted(file))  # first: what is begun meanwhile has no name here
            yield counted, array("d", file.read_bytes())

    def close(self) -> None:
        """Leave the numbers to whoever starts next."""
        if self._folder is not None:
            self._names.close()
            fcntl.flock(self._file, fcntl.LOCK_UN)  # the map holds the file open
            os.close(self._file)


def _adopted(folder: Path) -> tuple[Path, int]:
    """The first file that no living process counts in, and it opened and locked."""
    for number in count():
        file = folder / f"{number}.numbers"
        held = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
        else:
            return file, held
    raise AssertionError


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _names(file: Path) -> Path:
    return file.with_suffix(".series")


def _whole(file: Path) -> int:
    """Bytes of the names up to the last whole line: a death may have cut one off, which counts nothing."""
    return _names(file).read_bytes().rfind(b"\n") + 1


def _counted(file: Path) -> Iterator[tuple[Series, int]]:
    """Series in the order of their numbers, and how many numbers each has."""
    try:
        lines = _names(file).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return
    for line in lines:
        name, values, width = msgspec.json.decode(line)
        yield (name, tuple(values)), width
