"""Restore a backup into an empty home, check it there, and mark the house as restored.

hashes --> laid out in HOME/.restoring --> its store starts once: the noted ids, bundles, decisions --> marked
chain of the lake, MLflow and its champion              --> moved up
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple, cast

import msgspec
import redis

from features.prose import prose
from features.settings.mlflow_file import read_mlflow
from features.store import erasures
from features.store.connection import connect, load_library
from features.store.deployment import PARTITIONS, open_house
from features.store.erasures import FILE as ERASURES
from features.store.erasures import Erasure
from features.store.house_key import FILE as KEY
from features.store.house_key import HouseKey, HouseKeyError, find_key, keep_key, read_file
from features.store.keys import LAKE_LEASE, LEARNER_LEASE, LIVE, lease_key
from features.store.restored import Acceptance, Restored, mark, restored
from features.store.server import Say, start_server
from models.releases.registry_database import prepare
from pipelines.backup.checks import chain_faults, compare_store, database_of, load_champion, store_faults
from pipelines.backup.contents import APART, LAKE, STAGING, copy_file
from pipelines.backup.layout import clear, closed_to_others, lay_out
from pipelines.backup.manifest import HOME, SETTINGS, STORE, BackupError, Manifest, checked, read_manifest
from pipelines.backup.progress import Progress
from pipelines.worker.erasures import finish, settled
from service.players.sealing import Seals

_NONE_ERASED: Final = (
    f"no file `{ERASURES}` was given or found: whoever was erased after the backup was taken is held again, so erase "
    "them anew"
)
_PASSED_OVER: Final = "whoever it tells of is held again unless the other lines name them, so erase them anew"


class RestoreResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was restored, and what was seen of it.

    Attributes:
        home: The new home.
        backup: The backup.
        taken_at: When that was taken, ISO 8601.
        partitions: Partitions whose last id is the noted one.
        keys: Keys that never expire, as noted.
        chained: Decisions of the lake whose chain holds.
        champion: The churn model that serves according to MLflow; None if there is none.
        faults: What is wrong with the house, and was when the backup was taken.
        named: What is not in the backup, and where it is.
        settings: Variable of the environment -> the file of the new home that it should name.
        held_back: Whether the house sends nothing until somebody accepts it; no where its store is elsewhere.
        warnings: What may be wrong with it because of what was not given.
    """

    home: str
    backup: str
    taken_at: str
    partitions: int
    keys: int
    chained: int
    champion: str | None
    faults: list[str]
    named: dict[str, str]
    settings: dict[str, str]
    held_back: bool
    warnings: list[str] = []


class KeptApart(NamedTuple):
    """Files that no backup has, where the new home does not hold them already: the house key, and who was erased."""

    key: Path | None = None
    erasures: Path | None = None


def restore(
    target: Path, home: Path, by: str, now: datetime, say: Say, apart: KeptApart | None = None
) -> RestoreResult:
    """Restore a backup into a home that holds nothing; returns what was seen of it.

    Args:
        target: The backup.
        home: The new home.
        by: Who restores, for the mark.
        now: This moment, aware.
        say: Told how far it is.
        apart: What no backup has.

    Raises:
        BackupError: The backup is not whole, the home holds something, or what was laid out is not the house of the
            backup. The home holds nothing then.
        HouseKeyError: The key of that house is missing, another one, or can be read by others.
        StoreError: The store does not start.
    """
    _refuse(home)
    manifest = read_manifest(target)
    apart = apart or KeptApart()
    key = _key(manifest, home, apart)
    names = checked(target, manifest, say)
    say(f"  {len(names):,} files are as they were when the backup was taken")
    with closed_to_others(), _staging(home, say) as staging:
        try:
            _lay_out(target, manifest, names, staging, say)
            told = Restored(at=now.isoformat(), by=by, backup=str(target.resolve()), taken_at=manifest.taken_at)
            erased, warnings = _erased(home, apart)
            found = _checked(staging, manifest, told, say, _Since(key, erased))
            if key is not None and apart.key is not None:
                keep_key(staging, key)
            _move_up(staging, home)
        except OSError as error:
            raise BackupError(f"{home} cannot be written ({error.strerror}); nothing was restored") from error
        if (database := database_of(home)) is not None:
            prepare(database, Path(read_mlflow(home).tracking.artifacts))
    settings = {name: str(home.resolve() / file) for name, file in manifest.settings.items()}
    warnings = warnings if manifest.store is not None else []
    return msgspec.structs.replace(found, home=str(home), backup=str(target), settings=settings, warnings=warnings)


def accept(client: redis.Redis, by: str, reason: str, now: datetime) -> Restored:
    """Let a restored house tell webhooks again; returns its mark.

    Raises:
        BackupError: The house was never restored, that was accepted before, or the reason holds what cannot be seen.
    """
    return _let(client, "accepted", by, reason, now)


def resume(client: redis.Redis, by: str, reason: str, now: datetime) -> Restored:
    """Let a restored house send messages to players again; returns its mark.

    Raises:
        BackupError: The house was never restored, that was resumed before, or the reason holds what cannot be seen.
    """
    return _let(client, "resumed", by, reason, now)


def _let(client: redis.Redis, what: str, by: str, reason: str, now: datetime) -> Restored:
    try:
        said = prose(reason)
    except ValueError as error:
        raise BackupError(f"--reason: {error}") from error
    told = restored(client)
    if told is None:
        raise BackupError("this house was not restored from a backup: nothing is held back")
    if (before := getattr(told, what)) is not None:
        raise BackupError(f"{before.by} {what} that on {before.at}: {before.reason}")
    done = msgspec.structs.replace(told, **{what: Acceptance(at=now.isoformat(), by=by, reason=said)})
    mark(client, done)
    return done


def _key(manifest: Manifest, home: Path, apart: KeptApart) -> HouseKey | None:
    """The house key of a backup; none of an earlier house."""
    if not manifest.key:
        return None
    found = find_key(home) if apart.key is None else read_file(apart.key)
    if found is None:
        where = f"give it by --house-key FILE, or put it into the new home as {KEY}"
        raise HouseKeyError(
            f"no backup holds the house key, {manifest.key}, without which no player can be read: {where}"
        )
    if found.fingerprint != manifest.key:
        raise HouseKeyError(f"the backup's house has the key {manifest.key}, and the one given is {found.fingerprint}")
    return found


def _refuse(home: Path) -> None:
    if home.exists() and not {entry.name for entry in home.iterdir()} <= {STAGING, *APART}:
        raise BackupError(f"{home} holds something already: name a home that is not there or empty")


@contextmanager
def _staging(home: Path, say: Say) -> Iterator[Path]:
    """A folder of the home that is gone afterwards, and the home with it if nothing else is in it and it was made."""
    made = not home.exists()
    home.mkdir(parents=True, exist_ok=True)
    lock = os.open(home, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupError(f"another process restores into {home}") from error
        _refuse(home)
        staging = home / STAGING
        staging.mkdir(exist_ok=True)
        clear(staging, staging, say)
        try:
            yield staging
        finally:
            clear(staging, staging, say)
            staging.rmdir()
            if made and not any(home.iterdir()):
                home.rmdir()
    finally:
        os.close(lock)


def _lay_out(target: Path, manifest: Manifest, names: list[str], staging: Path, say: Say) -> None:
    """Lay out a backup as a home."""
    progress = Progress("laying out", len(names), say)
    for name in names:
        top, _, rest = name.partition("/")
        if top in {HOME, SETTINGS}:
            copy_file(target / name, staging / (rest if top == HOME else name))
        progress.step()
    if manifest.store is not None:
        lay_out(target / STORE, staging, shutil.copyfile)
    if (database := database_of(staging)) is not None:
        # Where there are none yet, new ones must not go where the former home's lie.
        artifacts = Path(read_mlflow(staging).tracking.artifacts)
        if artifacts.parent == database.parent:
            artifacts.mkdir(exist_ok=True)


class _Since(NamedTuple):
    """What came about since the backup: the house key as it is here, and who was erased."""

    key: HouseKey | None
    erased: list[Erasure]


def _erased(home: Path, apart: KeptApart) -> tuple[list[Erasure], list[str]]:
    """Who was erased according to the file given, or that of the new home; and what to say of that file."""
    file = apart.erasures or home / ERASURES
    if apart.erasures is None and not file.exists():
        return [], [_NONE_ERASED]
    told = erasures.read(file)
    if told.torn:
        return told.erasures, [f"the last line of {file} was torn off while it was written: {_PASSED_OVER}"]
    return told.erasures, []


def _erase_again(client: redis.Redis, url: str, home: Path, since: _Since, say: Say) -> int:
    """Erase in a restored store who was erased after the backup was taken; returns how many that were."""
    done = {one.name for one in erasures.journal(client) if one.erased_us is not None}
    lacking = [one for one in since.erased if one.name not in done]
    if lacking:
        house = open_house(client)
        load_library(client, "service.contacts", "ledger.lua")
        finish(client, url, house, Seals(since.key, wraps=bool(house.key)), lacking)
        settled(client, home, [one for one in erasures.journal(client) if not one.rewritten], say)
        say(f"  erased again: {len({one.player for one in lacking})} players who were erased since the backup")
    return len(lacking)


def _checked(staging: Path, manifest: Manifest, told: Restored, say: Say, since: _Since) -> RestoreResult:
    """Check what was laid out, and mark its store."""
    faults = []
    if manifest.store is not None:
        server = start_server(staging, say)
        try:
            with closing(connect(server.url)) as client:
                compare_store(client, manifest.store)
                faults += store_faults(client)
                _free(client)
                _erase_again(client, server.url, staging, since, say)
                mark(client, told)
        finally:
            server.stop(say)
        for lock in (staging / "store").glob("*.lock"):
            lock.unlink()  # else it would name this place as the house's former one
        say(f"  store: {len(manifest.store.last_ids)} partitions end where the backup noted")
    chained, broken = chain_faults(staging / LAKE, say)
    say(f"  lake: the chain of {chained:,} decisions was followed")
    champion, unloaded = (None, []) if database_of(staging) is None else load_champion(staging)
    say(f"  MLflow: {champion or 'no champion'}")
    return RestoreResult(
        home="",
        backup="",
        taken_at=manifest.taken_at,
        partitions=0 if manifest.store is None else len(manifest.store.last_ids),
        keys=0 if manifest.store is None else manifest.store.lasting,
        chained=chained,
        champion=champion,
        faults=[*faults, *broken, *unloaded],
        named=manifest.named,
        settings={},
        held_back=manifest.store is not None,
    )


def _free(client: redis.Redis) -> None:
    """Free what processes of the former house held, none of which is here."""
    for lease in (*map(lease_key, range(PARTITIONS)), LEARNER_LEASE, LAKE_LEASE):
        if client.exists(lease):
            client.hset(lease, "until", "0")
    client.delete(LIVE, *cast("set[bytes]", client.smembers(LIVE)))


def _move_up(staging: Path, home: Path) -> None:
    """Give the house its place: the store last, without which a home holds no house."""
    os.sync()
    if (home / ERASURES).exists():
        erasures.keep(home, erasures.read(staging / ERASURES).erasures if (staging / ERASURES).exists() else [])
        (staging / ERASURES).unlink(missing_ok=True)
    for entry in sorted(staging.iterdir(), key=lambda entry: (entry.name == "store", entry.name)):
        entry.rename(home / entry.name)
    os.sync()
