"""Folder in which the processes of one `croupier serve` count together, for as long as that runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from features.settings.environment import count_in

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder in it is private
_PREFIX: Final = "croupier-metrics-"
_LOCK: Final = "serving"
_YOUNG_SECONDS: Final = 60.0


@contextmanager
def counting() -> Iterator[Path]:
    """Make an empty private folder, and remove it at the end; those that killed processes left are removed first.

    It lies in memory where that is to be had: who counts in a file of a disk waits, now and then, for the disk.
    """
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    place = Path(memory or tempfile.gettempdir())
    for left in place.glob(f"{_PREFIX}*"):
        if _is_left(left):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        held = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            count_in(folder)
            yield folder
        finally:
            os.close(held)


def _is_left(folder: Path) -> bool:
    """Whether a folder is ours and nobody is left who counts in it; one that was just made may not be locked yet."""
    try:
        seen = folder.lstat()
        if seen.st_uid != os.getuid() or time.time() - seen.st_mtime < _YOUNG_SECONDS:
            return False
        return all(_is_free(file) for file in folder.iterdir())
    except OSError:
        return False


def _is_free(file: Path) -> bool:
    """Whether the lock of a file is free; those whose parent was killed hold theirs."""
    held = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(held)
    return True
