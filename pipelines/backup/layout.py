"""Homes in the making: a dump laid out as the files of a store, and what an earlier attempt left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from features.store.server import Say, read_lock, start_server

_BASE: Final = "appendonly.aof.1.base.rdb"
_CLOSED: Final = 0o077


def lay_out(dump: Path, home: Path, put: Callable[[Path, Path], object]) -> None:
    """Lay out a dump as the log of a home's store.

    A server that keeps a log reads nothing else, so the dump is made the base of one, as the server itself begins a log
    when it writes it anew.

    Args:
        dump: The dump.
        home: The home, which has no store yet.
        put: Copies or links a file.
    """
    folder = home / "store" / "appendonlydir"
    folder.mkdir(parents=True)
    put(dump, folder / _BASE)
    (folder / "appendonly.aof.manifest").write_text(f"file {_BASE} seq 1 type b\n", "ascii")


def clear(folder: Path, home: Path, say: Say) -> None:
    """Remove what is in a folder, after ending the server that an attempt that was killed left on a home in it."""
    if (home / "store").is_dir():
        found = read_lock(home)
        if found.taken and found.alive:
            start_server(home, say).stop(say)
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


@contextmanager
def closed_to_others() -> Iterator[None]:
    """Let nobody else read what this process, or one that it starts, makes while the block runs."""
    before = os.umask(_CLOSED)
    try:
        yield
    finally:
        os.umask(before)
