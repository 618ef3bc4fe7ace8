"""Take a backup of a house that runs, without stopping anything.

    no flush --> dump begins --> flushes go on    lake up to that reach, MLflow's database, its files, the rest
        reach, checkpoint                         --> the dump is read back --> hashes, manifest --> named

The lake stands still for the moment in which the dump begins: then every entry is in the lake's files or in the log of
the dump, and in no more than one of them once a restored worker goes on from that reach.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

import msgspec
import redis

from features.lake.files import unmoved
from features.moments import micros, moment
from features.settings.environment import Environment, environment
from features.settings.mlflow_file import read_mlflow
from features.store.connection import connect
from features.store.deployment import open_house, real_now_us
from features.store.keys import BACKED_UP
from features.store.server import Say, is_own, serving, start_server
from models.releases import registry_database
from pipelines.backup.checks import database_of, read_store, store_faults
from pipelines.backup.contents import CHECKPOINT, LAKE, copy_file, files_of, lake_files, other_files
from pipelines.backup.dump import Dump, at_once
from pipelines.backup.layout import clear, closed_to_others, lay_out
from pipelines.backup.manifest import (
    HOME,
    MANIFEST,
    SETTINGS,
    STORE,
    BackupError,
    Manifest,
    StoreReading,
    digest_of,
    write_sums,
)
from pipelines.backup.progress import Progress
from pipelines.worker.lake import POSITION, Reach, reach, standing_still

_READING: Final = "reading"
"""Folder of a draft in which the dump is read back."""
_KIB: Final = 1 << 10
_MIB: Final = 1 << 20


class Draft:
    """A backup in the making.

    Attributes:
        folder: Where it is made.
        sums: Hash of each file by name.
        bytes: Of all files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sums: dict[str, str] = {}
        self.bytes = 0

    def copy(self, source: Path, name: str) -> None:
        """Copy a file; what was deleted meanwhile is left out."""
        with suppress(FileNotFoundError):
            copy_file(source, self.folder / name)
            self.note(name)

    def put(self, content: bytes, name: str) -> None:
        """Write a file."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)
        self.note(name)

    def note(self, name: str) -> None:
        """Note a file that was written."""
        if "\n" in name or "\\" in name:
            raise BackupError(f"the name of {name!r} cannot stand in a list of hashes: rename that file")
        self.sums[name] = digest_of(self.folder / name)
        self.bytes += (self.folder / name).stat().st_size


def back_up(home: Path, target: Path, say: Say) -> Manifest:
    """Take a backup of a house under a new name; returns its manifest.

    Args:
        home: Directory of the house; it may run or not.
        target: Folder that does not exist yet, outside of the home.
        say: Told how far it is.

    Raises:
        BackupError: The target cannot be one, there is no house, or memory or disk do not suffice; nothing stands under
            the target's name then.
        StoreError: The store does not answer, or holds no house.
    """
    _refuse(home, target)
    with closed_to_others(), _draft(target, say) as draft, serving(home, say) as url, closing(connect(url)) as client:
        try:
            manifest = _fill(draft, home, url, client, say)
        except OSError as error:
            raise BackupError(f"{target} cannot be written ({error.strerror}); nothing of it is kept") from error
        (draft.folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        os.sync()
        draft.folder.rename(target)
        os.sync()
        with suppress(redis.RedisError):  # the backup stands; only its age is not told
            client.set(BACKED_UP, micros(datetime.fromisoformat(manifest.taken_at)))
    return manifest


def _refuse(home: Path, target: Path) -> None:
    if not home.is_dir() or (environment().store is None and not (home / "store").is_dir()):
        raise BackupError(f"there is no house in {home}")
    if os.path.lexists(target):
        raise BackupError(f"{target} is there already: name a folder that is not")
    if target.resolve().is_relative_to(home.resolve()):
        raise BackupError(f"{target} lies in the house's own home: name a folder elsewhere, best on another disk")


@contextmanager
def _draft(target: Path, say: Say) -> Iterator[Draft]:
    """A folder beside the target that is gone afterwards, unless it was given the target's name."""
    folder = target.resolve().with_name(f".{target.name}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise BackupError(f"{target.parent} cannot be written: {error.strerror}") from error
    try:
        if not _is_alone(lock):
            raise BackupError(f"another process takes a backup to {target}")
        clear(folder, folder / _READING, say)
        try:
            yield Draft(folder)
        finally:
            if folder.exists():
                clear(folder, folder / _READING, say)
                folder.rmdir()
    finally:
        os.close(lock)


def _is_alone(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- What is copied


def _fill(draft: Draft, home: Path, url: str, client: redis.Redis, say: Say) -> Manifest:
    house, own = open_house(client), is_own(home)
    with unmoved(home / LAKE):
        if own:
            _refuse_if_short_of_memory(client)
            taken_us, reached = _dump(draft, home, url, client, say)
        else:
            _copy_checkpoint(draft, home)  # before the lake's reach is read, which it must not be ahead of
            taken_us, reached = real_now_us(client), reach(home / LAKE)
            kept = "is named in the manifest, not copied: its own backup is yours to take"
            say(f"  store: {_without_password(url)} {kept}")
        _copy_lake(draft, home / LAKE, reached, say)
    _copy_database(draft, home, say)
    _copy_rest(draft, home, say)
    found, faults = _read_back(draft, say) if own else (None, [])
    return Manifest(
        build=version("croupier"),
        taken_at=moment(taken_us).isoformat(),
        house_at=moment(house.now_us(taken_us)).isoformat(),
        home=str(home.resolve()),
        sandbox=house.sandbox,
        store=found,
        named=_named(home, None if own else url),
        settings=_copy_settings(draft),
        lake_until_ms=reached.flushed,
        files=len(draft.sums),
        bytes=draft.bytes,
        faults=faults,
        sums=write_sums(draft.folder, draft.sums),
        key=house.key,
    )


def _dump(draft: Draft, home: Path, url: str, client: redis.Redis, say: Say) -> tuple[int, Reach]:
    """Dump the store; returns when, by its clock in unix microseconds, and the lake's reach at that moment."""
    with ExitStack() as stack:
        with at_once(client), standing_still(home / LAKE) as reached:
            dump = stack.enter_context(closing(Dump(urlsplit(url).path)))
            taken_us = real_now_us(client)
            _copy_checkpoint(draft, home)  # while it has learnt nothing that the lake lacks
            if reach(home / LAKE).flushed != reached.flushed:
                raise BackupError("a worker of another build wrote the lake meanwhile: end it, then try again")
        size = dump.write(draft.folder / STORE)
    draft.note(STORE)
    say(f"  store: {size / _MIB:,.1f} MiB, as of {moment(taken_us).isoformat(timespec='seconds')}")
    return taken_us, reached


def _copy_checkpoint(draft: Draft, home: Path) -> None:
    if (home / CHECKPOINT).exists():
        draft.copy(home / CHECKPOINT, f"{HOME}/{CHECKPOINT}")


def _copy_lake(draft: Draft, lake: Path, reached: Reach, say: Say) -> None:
    if not lake.is_dir():
        return
    files = lake_files(lake, reached.flushed)
    progress = Progress("lake", len(files), say)
    for file in files:
        draft.copy(file, f"{HOME}/{LAKE}/{file.relative_to(lake)}")
        progress.step()
    whole = Reach(flushed=reached.flushed, heads=reached.heads)  # a flush under way is done again from the log
    draft.put(msgspec.json.encode(whole), f"{HOME}/{LAKE}/{POSITION}")
    say(f"  lake: {len(files):,} files, until {moment(reached.flushed * 1_000).isoformat(timespec='seconds')}")


def _copy_database(draft: Draft, home: Path, say: Say) -> None:
    """Copy MLflow's database before the artifacts that it names."""
    if (file := database_of(home)) is None:
        return
    name = f"{HOME}/{file.relative_to(home.resolve())}"
    (draft.folder / name).parent.mkdir(parents=True, exist_ok=True)
    registry_database.copy(file, draft.folder / name)
    draft.note(name)
    say(f"  MLflow: {(draft.folder / name).stat().st_size / _MIB:,.1f} MiB")


def _copy_rest(draft: Draft, home: Path, say: Say) -> None:
    database = database_of(home)
    files = other_files(home.resolve(), () if database is None else (database,))
    key = environment().house_key_file
    files = [file for file in files if key is None or not file.samefile(key)]
    progress = Progress("home", len(files), say)
    for file in files:
        draft.copy(file, f"{HOME}/{file.relative_to(home.resolve())}")
        progress.step()
    say(f"  home: {len(files):,} further files")


def _copy_settings(draft: Draft) -> dict[str, str]:
    """Copy files of the house's owner that variables name; returns variable -> name in the backup."""
    told = environment()
    places = {
        Environment.webhooks.name: told.webhooks,
        Environment.catalogue.name: told.catalogue,
        Environment.rules.name: told.rules,
    }
    found = {}
    for variable, place in places.items():
        if place is not None and place.exists():
            name = found[variable] = f"{SETTINGS}/{variable}/{place.name}"
            for file in files_of(place):
                draft.copy(file, name if file == place else f"{name}/{file.relative_to(place)}")
    return found


def _named(home: Path, url: str | None) -> dict[str, str]:
    """What is not copied -> where it is, without passwords."""
    uri = read_mlflow(home).tracking.uri
    found = {} if url is None else {"store": _without_password(url)}
    return found if database_of(home) is not None else found | {"mlflow": _without_password(uri)}


def _without_password(url: str) -> str:
    """An address without user, password and what stands behind a question mark, however odd they are."""
    scheme, mark, rest = url.partition("?")[0].partition("://")
    return scheme + mark + (rest if scheme == "unix" else rest.rpartition("@")[2])


# --- The dump, read back


def _refuse_if_short_of_memory(client: redis.Redis) -> None:
    """Refuse to read a dump back where the memory it takes may end what runs."""
    needed = int(cast("dict[str, Any]", client.info("memory"))["used_memory"])
    left = _available_bytes()
    if left is not None and left < needed:
        told = f"needs {needed / _MIB:,.0f} MiB of memory, and {left / _MIB:,.0f} are free"
        raise BackupError(f"to read the store's dump back {told}: take the backup when more is")


def _available_bytes() -> int | None:
    """Memory that this machine could give; None where it does not say."""
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next((int(line.split()[1]) * _KIB for line in lines if line.startswith("MemAvailable:")), None)
    return None


def _read_back(draft: Draft, say: Say) -> tuple[StoreReading, list[str]]:
    """Read the dump back in a server of its own; returns what it holds, and what is wrong with it."""
    home = draft.folder / _READING
    lay_out(draft.folder / STORE, home, os.link)
    server = start_server(home, say)
    try:
        with closing(connect(server.url)) as client:
            found, faults = read_store(client), store_faults(client)
    finally:
        server.stop(say)
    clear(home, home, say)
    home.rmdir()
    say(f"  store: read back, {found.keys:,} keys, {found.entries:,} entries in its logs")
    return found, faults
