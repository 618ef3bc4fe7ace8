"""MLflow's own SQLite database: migrate it to the installed MLflow, correct its paths. No MLflow at import.

A database that an older MLflow made is migrated on a copy of it, and only what is whole takes its place; another copy
stays beside it as it was. Runs of a house that was moved find their artifacts where the house is now.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from importlib import util
from pathlib import Path
from typing import Final

from features.errors import CroupierError

_WAIT_SECONDS: Final = 60.0
_SCHEME: Final = "file://"
_LOCATIONS: Final = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns that hold where artifacts lie."""
_REVISION: Final = re.compile(r'^(down_)?revision\s*(?::.*)?=\s*"(\w+)"', re.MULTILINE)


class RegistryError(CroupierError):
    """A model version or a registry that does not exist or is not whole."""

    code = "invalid_registry"
    exit_code = 2


def prepare(file: Path, artifacts: Path) -> None:
    """Migrate a database of an older MLflow and correct its artifact locations; do nothing if both are current.

    Safe to call from several processes at once, and after one that was killed in it. A file that is not there, or that
    MLflow has not filled yet, is left to MLflow.

    Args:
        file: The database.
        artifacts: Where artifacts lie now. Where they lie beside the file, what names the same place of another home
            is mended.

    Raises:
        RegistryError: A newer MLflow made the database, another process keeps changing it, or it cannot be migrated.
    """
    try:
        if not _is_current(file):
            with _alone(file):
                _migrate(file)
        if file.exists() and artifacts.parent == file.parent and _moved(file, artifacts):
            with _alone(file):
                _mend(file, artifacts)
    except (sqlite3.Error, OSError) as error:
        raise RegistryError(f"MLflow's database {file} cannot be opened: {error}") from error


@contextmanager
def making(file: Path) -> Iterator[None]:
    """Lock the creation of a database that does not exist: MLflow does not guard it against two processes."""
    if _revision(file) is not None:
        yield
        return
    with _alone(file):
        yield


def copy(file: Path, to: Path) -> None:
    """Copy a database that MLflow may be writing, whole and as of one moment.

    Raises:
        RegistryError: It cannot be read.
    """
    try:
        with closing(_open(file)) as database:
            _copy(database, to)
    except sqlite3.Error as error:
        raise RegistryError(f"MLflow's database {file} cannot be copied: {error}") from error


# --- Its schema


def _is_current(file: Path) -> bool:
    if (found := _revision(file)) is None:
        return True
    known = known_revisions()
    if found not in known:
        installed = importlib.metadata.version("mlflow")
        raise RegistryError(
            f"MLflow's database {file} was made by a newer MLflow than the {installed} that is installed here "
            f"(its schema is {found}): install that one"
        )
    return found not in known.values()


def known_revisions() -> Mapping[str, str | None]:
    """Schema revisions of the installed MLflow, each with its predecessor.

    Read from the text of its migrations: to import them takes seconds, in which a house would be starting.
    """
    files = (_migrations() / "versions").glob("*.py")
    told = (dict(_REVISION.findall(file.read_text("utf8"))) for file in files)
    return {one[""]: one.get("down_") for one in told if "" in one}


def _migrations() -> Path:
    """Folder of the installed MLflow's migrations."""
    spec = util.find_spec("mlflow")
    (home,) = (spec and spec.submodule_search_locations) or ("",)
    return Path(home, "store", "db_migrations")


def _revision(file: Path) -> str | None:
    """Schema revision of a database; None before MLflow has made it."""
    if not file.exists():
        return None
    with closing(_open(file)) as database:
        if not database.execute("select 1 from sqlite_master where name = 'alembic_version'").fetchone():
            return None
        found = database.execute("select version_num from alembic_version").fetchone()
    return None if found is None else str(found[0])


def _migrate(file: Path) -> None:
    """Migrate a database, unless another process did meanwhile or MLflow is just making it."""
    url = hashlib.md5(f"sqlite:///{file}".encode(), usedforsecurity=False).hexdigest()
    with _locked(Path(tempfile.gettempdir(), f"db_init_lock-{url}")):  # MLflow holds it while it makes a database
        if _is_current(file):
            return
        kept, draft = file.with_name(f"{file.stem}-{_revision(file)}.db"), file.with_name(f".{file.name}.migrating")
        with closing(_open(file)) as database:
            seen = _changes(database)
            _copy(database, kept)
            _copy(database, draft)
            _upgrade(draft, f"MLflow's database {file} cannot be migrated, and is as it was")
            if _changes(database) != seen:
                raise RegistryError(f"another process changes MLflow's database {file}: stop it, and run this again")
            with closing(_open(draft)) as migrated:
                migrated.backup(database)  # one transaction: whoever is killed in it leaves what was there
        draft.unlink()


def _upgrade(draft: Path, trouble: str) -> None:
    """Run MLflow's migrations over a database; raises RegistryError with the trouble and what went wrong."""
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    import models.releases.registry  # noqa: F401, PLC0415 - the home of MLflow sets it up; to import it takes seconds

    told = Config()
    told.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    told.set_main_option("sqlalchemy.url", f"sqlite:///{draft}".replace("%", "%%"))
    try:
        command.upgrade(told, "heads")
    except Exception as error:  # whatever a migration raises
        raise RegistryError(f"{trouble}: {' '.join(str(error).split())}") from error


def _changes(database: sqlite3.Connection) -> object:
    """Number that changes with every change by another connection."""
    return database.execute("pragma data_version").fetchone()


def _copy(database: sqlite3.Connection, to: Path) -> None:
    """Copy a database to a file atomically."""
    unfinished = to.with_name(f".{to.name}.tmp")
    unfinished.unlink(missing_ok=True)
    with closing(_open(unfinished)) as copy:
        database.backup(copy)
    unfinished.replace(to)


# --- Where it says that artifacts lie


def _moved(file: Path, artifacts: Path) -> list[str]:
    """Artifact locations of experiments that name the same folder in another home."""
    with closing(_open(file)) as database:
        if not _has(database, "experiments", "artifact_location"):
            return []
        found = database.execute("select distinct artifact_location from experiments").fetchall()
    return [str(location) for (location,) in found if _is_elsewhere(Path(_path(location)), artifacts)]


def _path(location: str | None) -> str:
    return (location or "").removeprefix(_SCHEME)


def _is_elsewhere(held: Path, artifacts: Path) -> bool:
    """Whether artifacts recorded at a path have moved here; no while only the recorded path exists."""
    alike = held.is_absolute() and held.parts[-2:] == artifacts.parts[-2:]
    return alike and held != artifacts and (artifacts.exists() or not held.exists())


def _mend(file: Path, artifacts: Path) -> None:
    """Rewrite locations of another home to this one, in one transaction."""
    moved = _moved(file, artifacts)
    with closing(_open(file)) as database:
        database.execute("begin immediate")
        for old in moved:
            new = f"{_SCHEME if old.startswith(_SCHEME) else ''}{artifacts}"
            for table, column in _LOCATIONS:
                if _has(database, table, column):
                    database.execute(
                        f"update {table} set {column} = ? || substr({column}, ?) "  # noqa: S608 - names of ours
                        f"where {column} = ? or substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
        database.execute("commit")


def _has(database: sqlite3.Connection, table: str, column: str) -> bool:
    return bool(database.execute("select 1 from pragma_table_info(?) where name = ?", (table, column)).fetchone())


# --- The file


def _open(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file, timeout=_WAIT_SECONDS, isolation_level=None)


def _alone(file: Path) -> AbstractContextManager[None]:
    """Lock the database's folder against our other processes."""
    return _locked(file.parent, os.O_RDONLY)


@contextmanager
def _locked(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[None]:
    """Hold a lock on a file or folder; released when the process ends."""
    held = os.open(path, flags, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
