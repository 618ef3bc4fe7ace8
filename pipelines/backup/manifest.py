"""The manifest of a backup: what it holds, as of when, and the hash of each file.

TARGET/manifest.json    what was copied and what is only named; holds the hash of SHA256SUMS
TARGET/SHA256SUMS       hash of every other file, as `sha256sum -c` reads it
TARGET/store.rdb        the store
TARGET/home/            files of the home
TARGET/settings/        files outside of it that variables of the environment name
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from features.errors import CroupierError
from features.store.server import Say
from pipelines.backup.progress import Progress

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
STORE: Final = "store.rdb"
HOME: Final = "home"
SETTINGS: Final = "settings"
_NAMED: Final = 5
"""How many files a refusal names."""


class BackupError(CroupierError):
    """A backup that cannot be taken or restored; the text says why."""

    code = "invalid_backup"
    exit_code = 2


class StoreReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a store holds, for comparison.

    Attributes:
        last_ids: Name of a partition, `p017` -> last id of its log.
        entries: Entries of all logs.
        lasting: Keys that never expire.
        keys: All keys.
    """

    last_ids: dict[str, str]
    entries: int
    lasting: int
    keys: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds.

    Attributes:
        format: Version of the backup's layout.
        build: Croupier that took it.
        taken_at: When the store was copied, ISO 8601, UTC, by the store's clock.
        house_at: The house's clock at that moment.
        home: The home it was taken of.
        sandbox: Whether that is a sandbox.
        store: What the store held; None where the store is elsewhere, and only named.
        named: What is not copied, and where it is: `store`, `mlflow` or a variable -> address or path.
        settings: Variable of the environment -> its file in the backup.
        lake_until_ms: How far the lake reaches, stream milliseconds.
        files, bytes: Of all files.
        faults: What was seen to be wrong with the store.
        sums: SHA-256 of SHA256SUMS.
        key: Fingerprint of the house key, which is in no backup; empty of a house that had none.
    """

    format: int = FORMAT
    build: str
    taken_at: str
    house_at: str
    home: str
    sandbox: bool
    store: StoreReading | None
    named: dict[str, str]
    settings: dict[str, str]
    lake_until_ms: int
    files: int
    bytes: int
    faults: list[str]
    sums: str
    key: str = ""


def digest_of(file: Path) -> str:
    """SHA-256 of a file, hex."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_sums(folder: Path, sums: Mapping[str, str]) -> str:
    """Write the hashes of a backup's files by name; returns the hash of what was written."""
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    (folder / SUMS).write_text(text, "utf8")
    return digest_of(folder / SUMS)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup.

    Raises:
        BackupError: There is none, or this build cannot read it.
    """
    try:
        told = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BackupError(f"{folder} is no backup: it has no {MANIFEST} that can be read ({error.strerror})") from error
    try:
        found = msgspec.json.decode(told, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BackupError(f"{folder / MANIFEST} cannot be read: {error}") from error
    if found.format != FORMAT:
        raise BackupError(f"{folder} has format {found.format}, this build reads {FORMAT}")
    return found


def checked(folder: Path, manifest: Manifest, say: Say) -> list[str]:
    """Names of a backup's files, each of which has the hash that was noted.

    Raises:
        BackupError: A file is missing or was changed; the text names it.
    """
    try:
        if digest_of(folder / SUMS) != manifest.sums:
            raise BackupError(f"{folder / SUMS} was changed since the backup was taken; nothing was restored")
        sums = dict(_sums((folder / SUMS).read_text("utf8")))
    except OSError as error:
        raise BackupError(f"{folder / SUMS} cannot be read ({error.strerror}); nothing was restored") from error
    progress = Progress("checking", len(sums), say)
    faulty = []
    for name, digest in sums.items():
        progress.step()
        if trouble := _trouble(folder / name, digest):
            faulty.append(f"{name} {trouble}")
    if faulty:
        more = f" and {len(faulty) - _NAMED} more" if len(faulty) > _NAMED else ""
        raise BackupError(f"of {folder} {', '.join(faulty[:_NAMED])}{more}; nothing was restored")
    return list(sums)


def _trouble(file: Path, digest: str) -> str:
    try:
        return "" if digest_of(file) == digest else "was changed"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _sums(text: str) -> Iterator[tuple[str, str]]:
    """Name and hash of each line."""
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BackupError(f"the backup names a file outside of it: {name}; nothing was restored")
        yield name, digest
