"""Close a home to everybody but its user: files of earlier builds were left open."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_OTHERS: Final = 0o077


def close(home: Path) -> None:
    """Take from all others what they may do to a home and whatever is in it; what is another user's stays as it is."""
    for place, mode in still_open(home):
        with suppress(FileNotFoundError, PermissionError):  # gone meanwhile, or for the doctor to tell
            place.chmod(mode & ~_OTHERS)


def still_open(home: Path) -> Iterator[tuple[Path, int]]:
    """What of a home others may read, write, run or enter, with its mode; links are not followed."""
    for folder, folders, files in os.walk(home):
        for name in ("", *folders, *files):
            place = Path(folder, name)
            with suppress(FileNotFoundError):
                found = place.lstat().st_mode
                if found & _OTHERS and not stat.S_ISLNK(found):
                    yield place, stat.S_IMODE(found)
