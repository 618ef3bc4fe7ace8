"""MLflow's database of an older MLflow, and of a home that was moved, opens with today's, and nothing in it is lost."""

import hashlib
import signal
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory

from models.releases import registry_database
from models.releases.registry import ChurnRegistry
from models.releases.registry_database import RegistryError, known_revisions, prepare

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
OLD = Path(__file__).parent / "registry" / "mlflow-3.4.tar.xz"
REVISION = "71994744cf8e"
"""Of the schema of MLflow 3.4."""
VERSION = "croupier-churn/1"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose registry MLflow 3.4 made, under /srv/croupier; it was moved since."""
    with tarfile.open(OLD) as packed:
        packed.extractall(tmp_path / "home", filter="data")
    return tmp_path / "home"


def database(home: Path) -> Path:
    return home / "mlflow" / "mlflow.db"


def ask(file: Path, question: str) -> list[Any]:
    with closing(sqlite3.connect(file)) as opened:
        return [row[0] for row in opened.execute(question)]


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def newest() -> str | None:
    """The newest schema of the MLflow that is installed, as alembic reads its migrations."""
    return ScriptDirectory(str(registry_database._migrations())).get_current_head()


def revision(file: Path) -> list[Any]:
    return ask(file, "select version_num from alembic_version")


ELSEWHERE = """
import os, signal, sys
from pathlib import Path
from models.releases import registry_database
if len(sys.argv) > 3:
    setattr(registry_database, sys.argv[3], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
registry_database.prepare(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def open_elsewhere(home: Path, *killed_at: str) -> subprocess.Popen[bytes]:
    """Another process that opens the registry's database; it may be killed where it would call a function."""
    places = [str(database(home)), str(home / "mlflow" / "artifacts")]
    return subprocess.Popen([sys.executable, "-c", ELSEWHERE, *places, *killed_at], cwd=ROOT)


def opens_whole(home: Path) -> None:
    """What MLflow 3.4 kept is there, and the copy beside it is as it was."""
    registry = ChurnRegistry(home)
    assert registry.champion() == VERSION
    assert [(one.action, one.version, one.by, one.evidence) for one in registry.records()] == [
        ("promote", VERSION, "operator", {"auc": 0.71})
    ]
    assert registry.bundle("1") == b"the bundle that 3.4 kept"
    kept = database(home).with_name(f"mlflow-{REVISION}.db")
    assert revision(kept) == [REVISION]
    assert ask(kept, "select count(*) from runs") == [2]
    assert revision(database(home)) == [newest()]
    assert {file.name for file in kept.parent.iterdir()} == {"mlflow.db", kept.name, "artifacts"}


def test_the_registry_of_an_older_mlflow_opens_after_a_copy_of_it_was_kept(home: Path) -> None:
    opens_whole(home)
    with ChurnRegistry(home).run("a run of today") as run:
        assert run.id
    opens_whole(home)


def test_two_processes_that_open_it_at_once_both_find_it_whole(home: Path) -> None:
    others = [open_elsewhere(home), open_elsewhere(home)]
    assert [one.wait() for one in others] == [0, 0]
    opens_whole(home)


@pytest.mark.parametrize("step", ["_copy", "_upgrade"])
def test_killed_before_it_copies_or_migrates_it_leaves_what_was_there(home: Path, step: str) -> None:
    before = digest(database(home))
    assert open_elsewhere(home, step).wait() == -signal.SIGKILL
    assert digest(database(home)) == before
    opens_whole(home)


def test_halves_of_copies_that_somebody_left_are_in_nobodys_way(home: Path) -> None:
    for name in (
        f".mlflow-{REVISION}.db.tmp",
        f"mlflow-{REVISION}.db",
        ".mlflow.db.migrating",
        "..mlflow.db.migrating.tmp",
    ):
        (home / "mlflow" / name).write_bytes(b"SQLite format 3\x00 and no more")
    opens_whole(home)


def test_what_another_process_changes_meanwhile_is_never_overwritten(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meddle(*_: object) -> None:
        with closing(sqlite3.connect(database(home))) as other, other:
            other.execute("update runs set name = 'changed'")

    monkeypatch.setattr(registry_database, "_upgrade", meddle)
    with pytest.raises(RegistryError, match=r"^another process changes MLflow's database .*: stop it, and run this"):
        ChurnRegistry(home)
    monkeypatch.undo()
    opens_whole(home)
    assert set(ask(database(home), "select name from runs")) == {"changed"}


def test_a_database_that_cannot_be_migrated_stays_as_it_was(home: Path) -> None:
    with closing(sqlite3.connect(database(home))) as other, other:
        other.execute("create table issues (no_column_of_theirs text)")
    before = digest(database(home))
    with pytest.raises(RegistryError, match=r"cannot be migrated, and is as it was: "):
        ChurnRegistry(home)
    assert digest(database(home)) == before


def test_the_database_of_a_newer_mlflow_is_refused_in_one_sentence(home: Path) -> None:
    with closing(sqlite3.connect(database(home))) as other, other:
        other.execute("update alembic_version set version_num = 'ffffffffffff'")
    before = digest(database(home))
    with pytest.raises(RegistryError, match=r"was made by a newer MLflow than the .* \(its schema is ffffffffffff\)"):
        ChurnRegistry(home)
    assert digest(database(home)) == before
    assert [file.name for file in (home / "mlflow").glob("*.db")] == ["mlflow.db"]


def test_what_is_no_database_is_refused_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "mlflow" / "mlflow.db"
    file.parent.mkdir()
    file.write_bytes(b"no database at all, but long enough to be taken for one" * 20)
    with pytest.raises(RegistryError, match=r"^MLflow's database .* cannot be opened: file is not a database$"):
        ChurnRegistry(tmp_path)


def test_the_revisions_that_are_read_from_the_migrations_are_mlflows_own() -> None:
    known = known_revisions()
    assert set(known) - set(known.values()) == {newest()}


# --- Where artifacts lie


def locations(home: Path) -> set[str]:
    """Where runs and the experiment say that artifacts lie, without the runs' own ids."""
    runs = ask(database(home), "select artifact_uri from runs")
    held = ask(database(home), "select artifact_location from experiments where name = 'croupier'")
    return {one.rsplit("/", 2)[0] for one in runs} | set(held)


def at(file: Path, location: str) -> None:
    """Let a database say that all artifacts lie at another place."""
    with closing(sqlite3.connect(file)) as other, other:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            other.execute(
                f"update {table} set {column} = replace({column}, '/srv/croupier/mlflow/artifacts', ?)", [location]
            )


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_home_that_was_moved_has_its_artifacts_where_it_is_and_however_often_it_moves(
    home: Path, tmp_path: Path, scheme: str
) -> None:
    at(database(home), f"{scheme}/srv/croupier/mlflow/artifacts")
    assert ChurnRegistry(home).bundle("1")
    assert locations(home) == {f"{scheme}{home}/mlflow/artifacts"}
    moved = home.rename(tmp_path / "moved again")
    assert ChurnRegistry(moved).bundle("1")
    assert locations(moved) == {f"{scheme}{moved}/mlflow/artifacts"}
    assert ask(database(moved), "select artifact_location from experiments where name = 'Default'") == [
        "/srv/croupier/mlruns/0"
    ]


def test_artifacts_that_lie_only_in_the_other_home_are_found_there(home: Path, tmp_path: Path) -> None:
    there = tmp_path / "mlflow" / "artifacts"
    there.parent.mkdir()
    (home / "mlflow" / "artifacts").rename(there)
    at(database(home), str(there))
    assert ChurnRegistry(home).bundle("1")
    assert locations(home) == {str(there)}


def test_a_place_that_is_no_home_of_ours_is_left_alone(home: Path) -> None:
    at(database(home), "s3://bucket/mlflow/artifacts")
    prepare(database(home), (home / "mlflow" / "artifacts").resolve())
    assert ask(database(home), "select artifact_location from experiments where name = 'croupier'") == [
        "s3://bucket/mlflow/artifacts"
    ]


def test_a_database_that_several_homes_share_moves_with_none(home: Path, tmp_path: Path) -> None:
    prepare(database(home), tmp_path / "another" / "mlflow" / "artifacts")
    assert locations(home) == {"/srv/croupier/mlflow/artifacts"}
