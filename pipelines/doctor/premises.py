"""Checks of a home on disk: owners, permissions, leftovers, free space. Reads only."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Final

from features.store import erasures as journal
from pipelines.doctor import findings
from pipelines.doctor.findings import Finding

_MOST_FILES: Final = 20_000
_OLD_SECONDS: Final = 86_400.0
"""A temporary file of that age belongs to nothing that still runs."""
_LOG_TAIL: Final = 200_000
_OTHERS, _GROUP = 0, 3
"""By how many bits a mode is shifted to say what they may."""


def files(home: Path) -> Iterator[Finding]:
    """Check owners, permissions and leftovers."""
    there = _stats(islice(chain([home], home.glob("*"), home.glob("*/*"), home.glob("store/*/*")), _MOST_FILES))
    owner = there[home].st_uid
    if owner != os.geteuid():
        seen = f"{home} belongs to user {owner}, you are {os.geteuid()}"
        yield Finding("files", "warning", seen, "run croupier as the user whose house it is")
    if foreign := [file for file, told in there.items() if told.st_uid != owner]:
        yield Finding("files", "warning", f"{_some(foreign)} of another user", f"`chown -R {owner} {home}`")
    for place in {home, home / "store"} & there.keys():
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            yield Finding("files", "fault", f"{place} may not be read and written", f"`chmod u+rwx {place}`")
    yield from _open_to_others(home, there)
    old = time.time() - _OLD_SECONDS
    left = _stats(chain(home.glob("import-*"), home.glob("*/.*.tmp")))
    if stray := [file for file, told in left.items() if told.st_mtime < old]:
        do = f"remove what an import or a report left when it was killed: `rm -r {stray[0]}`"
        yield Finding("files", "warning", f"{_some(stray)} left behind", do)


def erasures(home: Path) -> list[Finding]:
    """Check that the file of who was erased can be read: a restore rests upon it."""
    file = home / journal.FILE
    if not file.exists():
        return []
    try:
        told = journal.read(file)
    except journal.ErasuresError as error:
        do = "mend or cut out that line, or give the file back to its owner; workers try again every few seconds"
        return [Finding("erasures", "fault", str(error), do)]
    if told.torn:
        do = "see that the disk is not full and a worker runs: it writes anew what is missing, then the line goes"
        return [Finding("erasures", "warning", f"the last line of {file} was torn off while it was written", do)]
    return [Finding("erasures", "ok", f"{file} tells of {len(told.erasures)}")]


def _stats(files: Iterable[Path]) -> dict[Path, os.stat_result]:
    """Stat some files; those deleted meanwhile are left out."""
    found = {}
    for file in files:
        with suppress(FileNotFoundError):
            found[file] = file.lstat()
    return found


def _open_to_others(home: Path, there: Mapping[Path, os.stat_result]) -> Iterator[Finding]:
    """Files readable by others than the owner; files of the store, with the house's secret, not even by the group."""
    store = home / "store"
    open_to = {who: [file for file in there if file != home and _reads(file, there, who)] for who in (_OTHERS, _GROUP)}
    if secret := [file for file in there if file.is_relative_to(store) and file in open_to[_OTHERS] + open_to[_GROUP]]:
        do = f"`chmod -R go= {store}`: the house's secret and the players' keys are in there"
        yield Finding("files", "fault", f"{_some(secret)} can be read by others", do)
    if shown := [file for file in open_to[_OTHERS] if not file.is_relative_to(store)]:
        yield Finding("files", "warning", f"{_some(shown)} can be read by others", f"`chmod o= {home}`")


def _reads(file: Path, there: Mapping[Path, os.stat_result], who: int) -> bool:
    """Whether the group or others may read a file of the home and reach its folder."""
    upon = [there[place].st_mode >> who & 1 for place in file.parents if place in there]
    return bool(there[file].st_mode >> who & 4) and all(upon)


def _some(files: Sequence[Path]) -> str:
    return f"{files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}"


def disk(home: Path, embedded: bool) -> list[Finding]:  # noqa: FBT001 - what was seen
    """Check free space for the home, and for the lake where it lies on another disk."""
    store = sum(told.st_size for told in _stats((home / "store").rglob("*")).values()) if embedded else 0
    found = _room(home, store)
    lake = home / "lake"
    return found + (_room(lake, 0) if lake.exists() and lake.stat().st_dev != home.stat().st_dev else [])


def _room(place: Path, store: int) -> list[Finding]:
    told = os.statvfs(place)
    return findings.disk(str(place), shutil.disk_usage(place).free, told.f_favail if told.f_files else None, store)


def cut(home: Path) -> list[Finding]:
    """Check whether the store's log ended in the middle of a write at the server's last start."""
    file = home / "store" / "valkey.log"
    if not file.exists():
        return []
    with file.open("rb") as said:
        said.seek(max(0, file.stat().st_size - _LOG_TAIL))
        since = said.read().rpartition(b"oO0OoO0Oo")[2]
    if b"short read while loading" not in since.lower():
        return []
    seen = "the store's log ended in the middle of a write when it was read last; that write was dropped"
    do = "nothing if the machine had crashed: it was not acknowledged; else see whether the disk fails (`dmesg`)"
    return [Finding("durability", "warning", seen, do)]
