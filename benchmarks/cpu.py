"""CPU time of running processes from Linux's `schedstat`, in nanoseconds (`stat` counts ticks of 10 ms)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_PROC = Path("/proc")

Reading = Mapping[tuple[int, int], int]
"""(process, thread) -> nanoseconds on a CPU since the thread began."""


def read(processes: Iterable[int]) -> Reading:
    """CPU time of each thread of some processes; ended ones are left out."""
    reading: dict[tuple[int, int], int] = {}
    for process in processes:
        for thread in _threads(process):
            spent = _schedstat(process, thread)
            if spent is not None:
                reading[process, thread] = spent
    return reading


def microseconds(before: Reading, after: Reading) -> float:
    """CPU time between two readings; a thread that ended in between counts up to the first."""
    return sum(spent - before.get(thread, 0) for thread, spent in after.items()) / 1_000


def main_threads(reading: Reading) -> Reading:
    """CPU time of the main threads only."""
    return {(process, thread): spent for (process, thread), spent in reading.items() if process == thread}


def tree(root: int) -> list[int]:
    """A process with all its descendants."""
    children = defaultdict[int, list[int]](list)
    for process, parent in _parents():
        children[parent].append(process)
    family = [root]
    for process in family:
        family.extend(children[process])
    return family


def command(process: int) -> list[str]:
    """The command line of a process, empty if it has ended."""
    try:
        return (_PROC / str(process) / "cmdline").read_text("utf8", "replace").split("\0")
    except OSError:
        return []


def has_ended(process: int) -> bool:
    """Whether a process has ended, whether or not its parent asked how."""
    try:
        return (_PROC / str(process) / "stat").read_text("utf8", "replace").rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _parents() -> Iterator[tuple[int, int]]:
    """Parent of every process."""
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                # The name in brackets may hold spaces and brackets of its own.
                yield (
                    int(folder.name),
                    int((folder / "stat").read_text("utf8", "replace").rpartition(")")[2].split()[1]),
                )
            except OSError:
                continue


def _threads(process: int) -> list[int]:
    try:
        return [int(folder.name) for folder in (_PROC / str(process) / "task").iterdir()]
    except OSError:
        return []


def _schedstat(process: int, thread: int) -> int | None:
    try:
        return int((_PROC / str(process) / "task" / str(thread) / "schedstat").read_text("ascii").split()[0])
    except OSError:
        return None
