"""Backup of a house under load and its restore elsewhere: decisions, facts, chain and models; and what goes wrong."""

import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from frozen.test_house import TOLD, go_on, stored, unpack, working
from support.deadlines import PATIENT
from support.fault_house import PATIENCE, PROCESSES, Caller, Serving, World, linked, once, rows, speaking, until
from support.workers import running

from features.read_plan import ReadPlan
from features.store.connection import connect
from features.store.deployment import PARTITIONS, open_house, order
from features.store.house_key import FILE, HouseKeyError
from features.store.keys import LEARNER_LEASE, LIVE, bundle_key, lease_key, live_key, log_key, pointer_key
from features.store.restored import restored
from features.store.server import read_lock
from models.releases.registry import ChurnRegistry
from pipelines.backup import backup as taking
from pipelines.backup.backup import back_up
from pipelines.backup.checks import chain_faults
from pipelines.backup.manifest import MANIFEST, SUMS, BackupError, Manifest, digest_of, write_sums
from pipelines.backup.restore import KeptApart, accept, restore
from pipelines.doctor.findings import restored as found_restored
from pipelines.machine import up
from pipelines.worker.lake import SCHEMAS, Lake
from pipelines.worker.process import Worker

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
ROOT: Final = Path(__file__).parents[2]
NOW: Final = datetime(2026, 11, 29, tzinfo=UTC)


def silent(_: object) -> None:
    """Tells nobody."""


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside of every home."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture
def filled(world: World, caller: Caller) -> World:
    """A small house with some decisions, half of them in its lake."""
    caller.welcome("p1")
    world.apply()
    caller.unless_left_alone("p1", request_id="first")
    world.flush()
    caller.unless_left_alone("p1", request_id="second")
    return world


def brought_back(target: Path, home: Path) -> Any:
    """Restore as somebody."""
    return restore(target, home, "somebody", NOW, silent)


@contextmanager
def loaded(world: World, socket: Path, players: list[str]) -> Iterator[list[Caller]]:
    """Callers who tell, ask and answer without a pause while the block runs, and the lake that grows all the time."""
    ending = threading.Event()

    def flush() -> None:
        with closing(connect(world.server.url)) as client:
            while not ending.is_set():
                Lake(client, world.lake).flush()

    def work(caller: Caller, player: str) -> None:
        with caller:
            while not ending.is_set():
                caller.event(player, event_id=caller.fresh(f"busy-{player}"))
                answer = caller.ask(player).json()
                if answer.get("recorded"):
                    caller.outcome(answer["decision_id"], type="clicked", outcome_id=caller.fresh(f"told-{player}"))

    callers = [Caller(socket) for _ in players]
    with ThreadPoolExecutor(len(players) + 1) as threads:
        try:
            busy = [threads.submit(flush)]
            busy += [threads.submit(work, *one) for one in zip(callers, players, strict=True)]
            yield callers
        finally:
            ending.set()
        for one in busy:
            one.result()


def log(world: World) -> dict[str, dict[bytes, dict[bytes, bytes]]]:
    """Entries of the log of each partition."""
    client: Any = world.client
    return {f"p{at:03d}": dict(client.xrange(log_key(at))) for at in range(PARTITIONS)}


def until_noted(entries: Any, noted: dict[str, str]) -> list[Any]:
    """What stands at a place that a manifest covers, by place: lines of the lake, whose place is the first column."""
    return sorted(line for line in entries if order(line[0][5:]) <= order(noted.get(line[0][:4], "0-0")))


def lines(lake: Path, table: str) -> list[tuple[Any, ...]]:
    named = ", ".join(f'"{name}"' for name in SCHEMAS[table].names if name != "position")
    return rows(lake, table, f"position, {named}")


def test_a_house_under_load_is_restored_as_of_one_moment_with_nothing_lost_or_doubled(
    world: World, plan: ReadPlan, place: Path, tmp_path: Path
) -> None:
    with (
        running(Worker(world.server.url, world.lake)),
        Serving(world.server.url, tmp_path, CROUPIER_HOME=str(world.home), **PATIENT) as serving,
        Caller(serving.socket) as quiet,
    ):
        busy = [f"busy-{number}" for number in range(3)]
        for player in ("quiet", *busy):
            quiet.welcome(player)
        answer = quiet.unless_left_alone("quiet", request_id="once", explain=True)
        before = [quiet.unless_left_alone("quiet").json()["decision_id"] for _ in range(5)]
        told = {name: quiet.get(f"/v1/decisions/{name}").content for name in before}
        page = quiet.get("/v1/players/quiet").json()
        with loaded(world, serving.socket, busy) as callers:
            while len(callers[0].decisions) < 3:
                threading.Event().wait(0.01)
            manifest = back_up(world.home, place / "backup", silent)
            more = len(callers[0].decisions)
            while len(callers[0].decisions) < more + 5:  # what comes later is in no backup
                threading.Event().wait(0.01)
        first_log = log(world)
    assert manifest.store is not None
    assert manifest.lake_until_ms > 0
    assert manifest.store.entries > 0
    world.flush()
    noted = manifest.store.last_ids
    brought_back(place / "backup", place / "home")
    with World(place / "home", plan) as again:
        assert {name: list(entries)[-1] for name, entries in log(again).items() if entries}.items() <= {
            name: last.encode() for name, last in noted.items()
        }.items()
        for name, entries in log(again).items():
            assert all(first_log[name].get(at, held) == held for at, held in entries.items()), name
        with (
            Serving(again.server.url, again.home, CROUPIER_HOME=str(again.home), **PATIENT) as serving,
            Caller(serving.socket) as caller,
        ):
            assert caller.ask("quiet", request_id="once", explain=True).content == answer.content
            for name, content in told.items():
                assert caller.get(f"/v1/decisions/{name}").content == content
            assert caller.get("/v1/players/quiet").json()["facts"] == page["facts"]
        again.flush()
        for table, column in (("events", "event_id"), ("outcomes", "outcome_id"), ("decisions", "decision_id")):
            assert sorted(lines(again.lake, table)) == until_noted(lines(world.lake, table), noted), table
            once(again.lake, table, column, ())
        linked(again.lake)
        with running(Worker(again.server.url, again.lake)), Serving(again.server.url, again.home, **PATIENT) as serving:
            with Caller(serving.socket) as caller:
                caller.unless_left_alone("quiet")
            assert chain_faults(again.lake, silent)[1] == []
        again.restart()
        assert restored(again.client) is not None
        linked(again.lake)


def test_a_house_of_the_first_build_is_restored_with_its_players_and_models(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = unpack(place / "old")
    monkeypatch.setenv("CROUPIER_CATALOGUE", str(home / "catalogue.yaml"))
    monkeypatch.setenv("CROUPIER_HOME", str(home))
    for name, seconds in PATIENT.items():
        monkeypatch.setenv(name, seconds)
    with stored(home) as url, closing(connect(url)) as client:
        go_on(client)
        up.prepare(client, up.Options(home, players=0), url)
        with (
            working(url, home),
            Serving(url, place, CROUPIER_HOME=str(home)) as serving,
            speaking(serving.socket) as caller,
        ):
            records = {name: caller.get(f"/v1/decisions/{name}").content for name in TOLD["records"]}
            facts = {name: caller.get(f"/v1/players/{name}").json()["facts"] for name in ("ada", "bea", "eve")}
            back_up(home, place / "backup", silent)
    with pytest.raises(HouseKeyError, match="no backup holds the house key"):
        brought_back(place / "backup", place / "new")
    assert not (place / "new").exists()
    assert not [file for file in (place / "backup").rglob("*") if FILE in file.name]
    monkeypatch.delenv("CROUPIER_HOME")
    found = restore(place / "backup", place / "new", "somebody", NOW, silent, KeptApart(home / FILE))
    monkeypatch.setenv("CROUPIER_HOME", str(place / "new"))
    shutil.rmtree(home / "mlflow")
    assert found.champion == TOLD["releases"]["churn"][-1]["version"]
    assert found.chained > 0
    assert found.settings == {"CROUPIER_CATALOGUE": f"{place}/new/settings/CROUPIER_CATALOGUE/catalogue.yaml"}
    monkeypatch.setenv("CROUPIER_CATALOGUE", found.settings["CROUPIER_CATALOGUE"])
    registry = ChurnRegistry(place / "new")
    assert found.champion is not None
    assert registry.bundle(found.champion)
    assert (place / "new" / "mlflow" / "artifacts").is_dir()
    with (
        stored(place / "new") as url,
        Serving(url, place, CROUPIER_HOME=str(place / "new")) as serving,
        speaking(serving.socket) as caller,
    ):
        assert {name: caller.get(f"/v1/decisions/{name}").content for name in records} == records
        assert {name: caller.get(f"/v1/players/{name}").json()["facts"] for name in facts} == facts


# --- What a backup is


def test_nobody_else_can_read_a_backup_or_what_is_restored_of_it(filled: World, place: Path) -> None:
    back_up(filled.home, place / "backup", silent)
    brought_back(place / "backup", place / "home")
    for top in ("backup", "home"):
        for path in [place / top, *(place / top).rglob("*")]:
            if not path.is_socket():
                assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_tool_of_every_system_checks_its_hashes(filled: World, place: Path) -> None:
    back_up(filled.home, place / "backup", silent)
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=place / "backup", check=True, capture_output=True, text=True)  # noqa: S607
    checked = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    files = {str(file.relative_to(place / "backup")) for file in (place / "backup").rglob("*") if file.is_file()}
    assert checked == files - {SUMS, MANIFEST}


def test_what_is_no_house_or_no_place_for_a_backup_is_refused(filled: World, place: Path) -> None:
    (place / "there").mkdir()
    for home, target, why in (
        (place / "none", place / "backup", "there is no house in"),
        (filled.home, place / "there", "is there already"),
        (filled.home, filled.home / "backup", "lies in the house's own home"),
    ):
        with pytest.raises(BackupError, match=why):
            back_up(home, target, silent)
    assert list(place.iterdir()) == [place / "there"]


def test_a_store_elsewhere_is_named_and_not_copied(filled: World, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "home").mkdir()
    shutil.copytree(filled.lake, place / "home" / "lake")
    monkeypatch.setenv("CROUPIER_STORE", filled.server.url)
    manifest = back_up(place / "home", place / "backup", silent)
    assert (manifest.store, manifest.named["store"]) == (None, filled.server.url)
    assert not list((place / "backup").glob("*.rdb"))
    found = brought_back(place / "backup", place / "again")
    assert (found.held_back, found.chained) == (False, 1)
    assert rows(place / "again" / "lake", "decisions", "position") == rows(filled.lake, "decisions", "position")
    assert restored(filled.client) is None


def test_no_password_of_an_address_is_written() -> None:
    assert taking._without_password("redis://me:secret@host:1/0") == "redis://host:1/0"
    cluster = "redis+cluster://me:sec/ret@one:1,two:2?password=secret"
    assert taking._without_password(cluster) == "redis+cluster://one:1,two:2"


# --- What goes wrong while it is taken


def test_a_backup_that_is_interrupted_anywhere_leaves_nothing_and_the_house_runs_on(filled: World, place: Path) -> None:
    said = 0
    while True:
        left = said

        def interrupts(_: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        try:
            back_up(filled.home, place / "backup", interrupts)
        except KeyboardInterrupt:
            assert list(place.iterdir()) == []
            said += 1
        else:
            break
    assert said > 3
    assert filled.client.ping()


def _dies(home: str, target: str) -> None:
    """Take a backup and be killed while its dump is read back."""
    vars(taking)["read_store"] = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    back_up(Path(home), Path(target), silent)


def test_what_a_killed_backup_left_is_removed_by_the_next_with_the_server_that_it_had(
    filled: World, place: Path
) -> None:
    process = PROCESSES.Process(target=_dies, args=(str(filled.home), str(place / "backup")))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in place.iterdir()] == [".backup.partial"]
    left = read_lock(place / ".backup.partial" / "reading")
    assert left.alive
    back_up(filled.home, place / "backup", silent)
    assert [path.name for path in place.iterdir()] == ["backup"]
    until(lambda: not Path(f"/proc/{left.pid}/exe").exists())


def test_a_disk_that_fills_leaves_no_backup(filled: World, place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "backup", str(place / "backup")],
        env={**os.environ, "CROUPIER_HOME": str(filled.home)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000)),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written (File too large); nothing of it is kept" in done.stderr
    assert list(place.iterdir()) == []


def test_too_little_memory_to_read_it_back_is_told_before_anything_is_copied(
    filled: World, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "_available_bytes", lambda: 1_000)
    with pytest.raises(BackupError, match=r"needs \d+ MiB of memory, and 0 are free"):
        back_up(filled.home, place / "backup", silent)
    assert list(place.iterdir()) == []


# --- What is refused as it is restored


def flipped(file: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture
def taken(filled: World, place: Path) -> Path:
    """A backup of the small house."""
    back_up(filled.home, place / "backup", silent)
    return place / "backup"


def test_one_flipped_byte_in_any_file_is_named_and_nothing_is_restored(taken: Path, place: Path) -> None:
    for file in [file for file in taken.rglob("*") if file.is_file() and file.name != MANIFEST]:
        held = file.read_bytes()
        flipped(file)
        with pytest.raises(BackupError, match=re.escape(str(file.relative_to(taken)))):
            brought_back(taken, place / "home")
        file.unlink()
        with pytest.raises(BackupError, match=re.escape(str(file.relative_to(taken)))):
            brought_back(taken, place / "home")
        file.write_bytes(held)
        assert not (place / "home").exists()
    assert brought_back(taken, place / "home").partitions > 0


def test_what_is_no_backup_or_of_another_format_is_refused(taken: Path, place: Path) -> None:
    with pytest.raises(BackupError, match="is no backup"):
        brought_back(place, place / "home")
    told = json.loads((taken / MANIFEST).read_text())
    (taken / MANIFEST).write_text(json.dumps(told | {"format": 2}))
    with pytest.raises(BackupError, match="has format 2, this build reads 1"):
        brought_back(taken, place / "home")
    (taken / MANIFEST).write_text("{")
    with pytest.raises(BackupError, match="cannot be read"):
        brought_back(taken, place / "home")


def test_a_home_that_holds_anything_is_refused_and_so_is_a_second_restore(taken: Path, place: Path) -> None:
    (place / "home").mkdir()
    brought_back(taken, place / "home")
    with pytest.raises(BackupError, match="holds something already"):
        brought_back(taken, place / "home")
    (place / "other").mkdir()
    (place / "other" / "a file").touch()
    with pytest.raises(BackupError, match="holds something already"):
        brought_back(taken, place / "other")
    assert [path.name for path in (place / "other").iterdir()] == ["a file"]


def rewritten(taken: Path, **changed: Any) -> None:
    """Write the hashes of a backup anew, as somebody would who changed it by hand, and its manifest."""
    manifest = msgspec.json.decode((taken / MANIFEST).read_bytes(), type=Manifest)
    files = [file for file in taken.rglob("*") if file.is_file() and file.name not in {MANIFEST, SUMS}]
    sums = write_sums(taken, {str(file.relative_to(taken)): digest_of(file) for file in files})
    (taken / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, sums=sums, **changed)))


def test_a_store_that_is_not_the_noted_one_is_refused(taken: Path, place: Path) -> None:
    noted = msgspec.json.decode((taken / MANIFEST).read_bytes(), type=Manifest).store
    assert noted is not None
    name = next(iter(noted.last_ids))
    for other, why in (
        (msgspec.structs.replace(noted, last_ids={**noted.last_ids, name: "9999999999999-0"}), f"as in {name}"),
        (msgspec.structs.replace(noted, lasting=noted.lasting + 1), "lasting keys"),
        (msgspec.structs.replace(noted, entries=noted.entries + 1), "entries"),
    ):
        rewritten(taken, store=other)
        with pytest.raises(BackupError, match=why):
            brought_back(taken, place / "home")
        assert not (place / "home").exists()


def test_a_chain_that_was_broken_is_told_and_the_house_is_restored(taken: Path, place: Path) -> None:
    lake, told = taken / "home" / "lake", "the chain of the lake ends elsewhere than its position says"
    assert brought_back(taken, place / "whole").faults == []
    position = json.loads((lake / "_position.json").read_text())
    (lake / "_position.json").write_text(json.dumps(position | {"heads": dict.fromkeys(position["heads"], "00" * 32)}))
    rewritten(taken)
    found = brought_back(taken, place / "home")
    assert (found.chained, found.faults) == (1, [told])
    (file,) = (lake / "decisions").rglob("*.parquet")
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.column_names.index("chain"), "chain", pa.array([b"other"])), file)
    rewritten(taken)
    found = brought_back(taken, place / "other")
    assert (found.chained, len(found.faults)) == (0, 1)
    assert "the chain of the lake breaks at p" in found.faults[0]
    file.write_bytes(b"no table")
    rewritten(taken)
    assert "of the lake cannot be read" in brought_back(taken, place / "third").faults[0]
    done = croupier("restore", str(taken), CROUPIER_HOME=str(place / "by command"))
    assert (done.returncode, "wrong with the house" in done.stdout) == (1, True)
    assert (place / "by command" / "store").is_dir()


@pytest.mark.parametrize("spoilt", [b"x", None])
def test_a_house_with_a_damaged_or_missing_bundle_is_backed_up_and_that_is_told(
    filled: World, place: Path, spoilt: bytes | None
) -> None:
    digest: Any = filled.client.get(pointer_key("plan"))
    key = bundle_key(digest.decode())
    filled.client.delete(key) if spoilt is None else filled.client.set(key, spoilt)
    told = f"the bundle plan ({digest.decode()[:12]}) is {'missing' if spoilt is None else 'damaged'}"
    assert back_up(filled.home, place / "backup", silent).faults == [told]
    assert brought_back(place / "backup", place / "home").faults == [told]


def test_a_decision_that_cannot_be_read_is_told_by_its_place(filled: World, place: Path) -> None:
    filled.client.xadd(log_key(17), {"k": "decision", "b": b"no record"})
    back_up(filled.home, place / "backup", silent)
    (told,) = brought_back(place / "backup", place / "home").faults
    assert "the decision at p017:" in told


# --- What a restored house is


def test_a_restored_house_knows_it_and_sends_nothing_until_somebody_accepts_it_with_a_reason(
    filled: World, plan: ReadPlan, place: Path
) -> None:
    back_up(filled.home, place / "backup", silent)
    brought_back(place / "backup", place / "home")
    assert restored(filled.client) is None
    with pytest.raises(BackupError, match="was not restored"):
        accept(filled.client, "ann", "a try", NOW)
    with World(place / "home", plan) as again:
        assert open_house(again.client) == open_house(filled.client)
        told = restored(again.client)
        assert told is not None
        assert (told.by, told.backup, told.accepted) == ("somebody", str(place / "backup"), None)
        (finding,) = found_restored(told)
        assert (finding.grade, finding.do) == (
            "warning",
            "once the former house is down for good: `croupier restore --accept --reason TEXT`",
        )
        assert "by somebody" in finding.seen
        accept(again.client, "ann", "the disk is gone", NOW)
        (finding,) = found_restored(restored(again.client))
        assert finding.grade == "ok"
        assert finding.seen.endswith("ann let it send on 2026-11-29T00:00:00+00:00: the disk is gone")
        with pytest.raises(BackupError, match=r"ann accepted that on .*: the disk is gone"):
            accept(again.client, "bob", "the same", NOW)


def test_nobody_waits_in_a_restored_house_for_processes_of_the_former_one(
    filled: World, plan: ReadPlan, place: Path
) -> None:
    far = str(4_000_000_000_000_000)
    for lease in (lease_key(17), LEARNER_LEASE):
        filled.client.hset(lease, mapping={"owner": "former", "until": far, "epoch": 7})
    filled.client.set(live_key("former"), "{}")
    filled.client.sadd(LIVE, live_key("former"))
    back_up(filled.home, place / "backup", silent)
    brought_back(place / "backup", place / "home")
    with World(place / "home", plan) as again:
        assert not again.client.exists(LIVE, live_key("former"))
        for lease in (lease_key(17), LEARNER_LEASE):
            given: Any = again.client.fcall("croupier_lease", 1, lease, "new", "15000000")
            assert given[0] == b"8"


# --- The command line


def croupier(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CROUPIER_")}
    command = [sys.executable, "-m", "pipelines", *words]
    more = kept | {"COLUMNS": "300"} | environment
    return subprocess.run(command, env=more, capture_output=True, text=True, check=False, cwd=ROOT, timeout=PATIENCE)


def test_machines_get_one_object_of_each_command(filled: World, place: Path) -> None:
    home, new = str(filled.home), str(place / "home")
    taken = json.loads(croupier("backup", str(place / "backup"), "--json", CROUPIER_HOME=home).stdout)
    assert (taken["backup"], taken["home"]) == (str(place / "backup"), home)
    again = json.loads(croupier("restore", str(place / "backup"), "--json", CROUPIER_HOME=new).stdout)
    assert (again["home"], again["held_back"], again["chained"]) == (new, True, 1)
    words = ("restore", "--accept", "--reason", "a drill", "--json")
    assert json.loads(croupier(*words, CROUPIER_HOME=new).stdout)["accepted"]["reason"] == "a drill"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["restore"], "name the backup to restore"),
        (["restore", "x", "--reason", "why"], "--reason goes with --accept"),
        (["restore", "--accept"], "demands --reason TEXT"),
        (["restore", "x", "--accept", "--reason", "why"], "--accept takes no backup"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words: list[str], why: str, place: Path) -> None:
    done = croupier(*words, CROUPIER_HOME=str(place / "home"))
    assert (done.returncode, list(place.iterdir())) == (2, [])
    assert why in done.stderr
