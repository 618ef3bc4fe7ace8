"""`croupier doctor` on healthy houses and on really broken ones: findings, grades and remedies."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import tzdata
from support.clock import COMPILER, Clock
from support.cluster import cluster
from support.deadlines import PATIENT
from support.fault_house import PATIENCE, Serving, World, killed, until
from support.workers import running

from features.read_plan import ReadPlan
from features.store.bundles import KINDS, publish
from features.store.cluster import plain
from features.store.connection import connect, load_library
from features.store.deployment import FORMAT, create_house, real_now_us
from features.store.keys import pointer_key
from features.store.restored import Restored, mark
from features.store.server import server_binary, socket_path, start_server
from pipelines.__main__ import app
from pipelines.backup.restore import accept
from pipelines.doctor.doctor import _MEND
from pipelines.experiments.releases import hold_out
from pipelines.worker.process import Worker

ROOT = Path(__file__).parents[2]
DAY = 86_400
NO_LOCKS = "#include <errno.h>\nint flock(int file, int how) { errno = ENOLCK; return -1; }\n"


class Answer(NamedTuple):
    """What `croupier doctor` answered."""

    code: int
    lines: list[str]
    complaint: str

    def line(self, check: str, grade: str) -> str:
        """The one line of a check with a grade; its advice follows `to do:`."""
        (found,) = [line for line in self.lines if line.split()[:2] == [grade, check]]
        return found

    @property
    def faults(self) -> list[str]:
        return [line for line in self.lines if line.startswith("fault")]


def doctor(home: Path, **environment: str) -> Answer:
    """Ask in this process, which takes a moment; with a word for the environment in one of its own."""
    if environment:
        return alone(home, **environment)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        for name in [name for name in os.environ if name.startswith("CROUPIER_")]:
            patch.delenv(name)
        patch.setenv("CROUPIER_HOME", str(home))
        try:
            app(["doctor"], standalone_mode=False)
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    sys.stdout.write(said.getvalue())
    return Answer(code, said.getvalue().splitlines(), "")


def alone(home: Path, **environment: str) -> Answer:
    done = called(home, **environment)
    sys.stdout.write(done.stdout + done.stderr)
    return Answer(done.returncode, done.stdout.splitlines(), done.stderr)


def called(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CROUPIER_")}
    return subprocess.run(
        [sys.executable, "-m", "pipelines", "doctor", *words],
        env=kept | {"CROUPIER_HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=PATIENCE,
    )


def entries(home: Path) -> set[str]:
    return {str(file.relative_to(home)) for file in home.rglob("*") if not file.is_relative_to(home / "lake")}


@pytest.fixture
def served(world: World, tmp_path: Path) -> Iterator[World]:
    """A house with a worker and a serving process."""
    with running(Worker(world.server.url, world.lake)):
        world.flush()
        with Serving(world.server.url, tmp_path, **PATIENT):
            yield world


# --- A house that is well


def test_a_house_that_is_well_has_no_fault_and_nothing_of_it_is_changed(served: World) -> None:
    before = entries(served.home)
    found = alone(served.home)
    assert (found.code, found.faults, found.complaint) == (0, [], "")
    assert entries(served.home) == before
    checks = [line.split()[1] for line in found.lines]
    for check in ("store", "lock", "disk", "clock", "zones", "packages", "files", "worker", "api", "serving"):
        assert checks.count(check) == 1, check
        assert found.line(check, "ok")
    assert "learn" in found.line("learner", "warning")


def test_every_kind_that_serves_is_read_as_serving_processes_read_it(served: World) -> None:
    hold_out(served.server.url, 0.05, "a test")
    assert "experiments" in doctor(served.home).line("serving", "ok")
    assert _MEND.keys() == set(KINDS)


def test_the_same_stands_in_one_object_for_machines(served: World) -> None:
    done = called(served.home, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["healthy"], told["home"]) == (0, True, str(served.home))
    assert {"check", "grade", "seen", "do"} == set(told["checks"][0])
    assert {one["check"]: one["grade"] for one in told["checks"]}["store"] == "ok"


def test_of_a_restored_house_it_says_that_nothing_is_sent_and_who_let_it_send(world: World) -> None:
    assert not [line for line in doctor(world.home).lines if " restored " in line]
    told = Restored(at="2026-11-29T00:00:00+00:00", by="ann", backup="/backups/monday", taken_at="2026-11-28")
    mark(world.client, told)
    line = doctor(world.home).line("restored", "warning")
    assert (
        "restored on 2026-11-29T00:00:00+00:00 by ann from /backups/monday, taken 2026-11-28; it sends nothing" in line
    )
    assert line.endswith("to do: once the former house is down for good: `croupier restore --accept --reason TEXT`")
    accept(world.client, "bob", "a drill", datetime(2026, 11, 30, tzinfo=UTC))
    assert doctor(world.home).line("restored", "ok").endswith("bob let it send on 2026-11-30T00:00:00+00:00: a drill")


# --- Homes


def test_where_there_is_no_house_it_says_how_one_is_made_and_makes_none(tmp_path: Path) -> None:
    found = alone(tmp_path / "none")
    assert (found.code, found.lines) == (2, [])
    assert f"there is no house in {tmp_path}/none: `CROUPIER_HOME={tmp_path}/none croupier up` makes" in found.complaint
    assert entries(tmp_path) == set()


def test_a_store_that_holds_no_house_yet_is_told_to_come_up(tmp_path: Path) -> None:
    running = start_server(tmp_path)
    found = doctor(tmp_path)
    running.stop()
    assert found.code == 1
    assert found.line("house", "fault").endswith("to do: run `croupier up` once: it makes the house")


def test_a_house_of_a_newer_format_is_left_to_the_build_that_wrote_it(world: World) -> None:
    told: Any = world.client.get("croupier:house")
    world.client.set("croupier:house", json.dumps(json.loads(told) | {"format": FORMAT + 1}))
    found = doctor(world.home)
    assert found.code == 1
    line = found.line("house", "fault")
    assert f"the house has format {FORMAT + 1}, of a later build; this one reads up to {FORMAT}" in line
    assert line.endswith("to do: run the build that wrote it")


def test_a_store_that_others_can_read_is_to_be_closed(world: World) -> None:
    world.home.chmod(0o755)
    (world.home / "store").chmod(0o755)
    found = doctor(world.home)
    assert found.code == 1
    assert f"{world.home}/store and " in found.line("files", "fault")
    assert f"to do: `chmod -R go= {world.home}/store`" in found.line("files", "fault")
    subprocess.run(["chmod", "-R", "go=", world.home / "store"], check=True)  # noqa: S607 - as it says
    assert "others" not in "".join(doctor(world.home).faults)


def test_logs_that_others_can_read_are_to_be_closed(world: World) -> None:
    (world.home / "logs").mkdir(mode=0o755)
    (world.home / "logs" / "api.log").touch(0o644)
    assert "closed to others" in doctor(world.home).line("files", "ok")
    world.home.chmod(0o755)
    assert doctor(world.home).line("files", "warning").endswith(f"to do: `chmod o= {world.home}`")


def test_what_a_killed_import_left_is_to_be_removed(world: World) -> None:
    left = world.home / "import-abc"
    left.mkdir()
    assert "left behind" not in "".join(doctor(world.home).lines), "it may be under way"
    os.utime(left, (time.time() - 2 * DAY,) * 2)
    assert f"to do: remove what an import or a report left when it was killed: `rm -r {left}`" in doctor(
        world.home
    ).line("files", "warning")


def test_a_disk_with_no_room_for_another_log_of_the_store_is_told(world: World) -> None:
    """A file of the store that is longer than the disk has room left; it is nothing but a hole."""
    with (world.home / "store" / "long").open("wb") as file:
        file.truncate(shutil.disk_usage(world.home).free + (1 << 30))
    line = doctor(world.home).line("disk", "warning")
    assert f"{world.home} has " in line
    assert f"to do: free space under {world.home} or move it to a larger disk" in line


def test_a_copied_home_names_the_one_it_comes_from(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(world.home / "store", copy / "store", ignore=shutil.ignore_patterns("*.sock"))
    found = doctor(copy)
    line = found.line("lock", "warning")
    assert f"noted for {socket_path(world.home)}: this home was copied or moved from there" in line
    assert f"whose server runs as process {world.server.pid}" in line
    assert "two of them contact the same players" in line
    assert f"nobody listens at {socket_path(copy)}" in found.line("store", "fault")


@pytest.mark.skipif(COMPILER is None, reason="a file system without locks is compiled, and there is no compiler")
def test_a_file_system_without_locks_is_told(world: World, tmp_path: Path) -> None:
    source, library = tmp_path / "nolocks.c", tmp_path / "nolocks.so"
    source.write_text(NO_LOCKS)
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", library, source], check=True)
    line = doctor(world.home, LD_PRELOAD=str(library)).line("lock", "fault")
    assert "lies on a file system without locks" in line
    assert "let CROUPIER_HOME name a local folder, or CROUPIER_STORE a server" in line


# --- Stores


def test_a_stopped_store_is_silent_within_seconds_and_can_be_let_go_on(world: World) -> None:
    world.server.signal(signal.SIGSTOP)
    begun = time.monotonic()
    found = alone(world.home)
    assert time.monotonic() - begun < PATIENCE / 8
    assert found.code == 1
    line = found.line("store", "fault")
    assert f"(process {world.server.pid}) was stopped and does not answer" in line
    assert line.endswith(f"to do: let it go on: `kill -CONT {world.server.pid}`")
    assert f"process {world.server.pid}" in found.line("lock", "ok")
    assert "mend the store first" in found.line("house", "warning")


def test_a_killed_store_leaves_a_lock_that_is_free_and_is_to_be_started(world: World) -> None:
    killed(world.server)
    found = doctor(world.home)
    assert found.code == 1
    assert found.line("store", "fault").endswith("to do: start the house: `croupier up`")
    assert f"free; process {world.server.pid}, which is noted, ended without a word" in found.line("lock", "ok")
    assert not socket_path(world.home).exists() or (world.home / "store" / "server.lock").stat().st_size
    world.restart()


def test_a_replica_takes_no_writes(world: World) -> None:
    world.client.replicaof("127.0.0.1", "1")
    line = doctor(world.home).line("store", "fault")
    world.client.replicaof("NO", "ONE")
    assert "is a replica and takes no writes" in line
    assert "promote this one: `REPLICAOF NO ONE`" in line


def test_a_store_without_the_replicas_it_asks_for_takes_no_writes(world: World) -> None:
    world.client.config_set("min-replicas-to-write", "1")
    line = doctor(world.home).line("store", "fault")
    assert "has 0 of the 1 replicas without which it takes no writes" in line
    assert "to do: bring the replicas back, or lower min-replicas-to-write" in line


def test_a_full_store_that_drops_keys_has_two_faults(world: World) -> None:
    world.client.config_set("maxmemory", "1mb")
    line = doctor(world.home).line("memory", "fault")
    assert "to do: raise maxmemory" in line
    world.client.config_set("maxmemory", "0")
    world.client.config_set("maxmemory-policy", "allkeys-lru")
    line = doctor(world.home).line("memory", "fault")
    assert "drops keys when it is full (allkeys-lru)" in line
    assert "`CONFIG SET maxmemory-policy noeviction`" in line


def test_a_log_that_is_synced_later_or_not_kept_is_told(world: World) -> None:
    world.client.config_set("appendfsync", "everysec")
    line = doctor(world.home).line("durability", "fault")
    assert "syncs its log every second (appendfsync everysec); to do: `CONFIG SET appendfsync always`" in line
    world.client.config_set("appendfsync", "always")
    world.client.config_set("appendonly", "no")
    line = doctor(world.home).line("durability", "fault")
    assert "keeps no log (appendonly no); to do: `CONFIG SET appendonly yes` at once" in line


def test_a_log_that_could_not_be_written_anew_is_told(world: World) -> None:
    folder = world.home / "store" / "appendonlydir"
    folder.rename(folder.with_name("kept"))
    folder.touch()
    with pytest.raises(redis.ResponseError):
        world.client.bgrewriteaof()  # type: ignore[no-untyped-call]
    line = doctor(world.home).line("durability", "warning")
    folder.unlink()
    folder.with_name("kept").rename(folder)
    assert "could not write its log anew" in line
    assert "then `BGREWRITEAOF`" in line


def test_a_log_that_ended_in_the_middle_of_a_write_is_told(world: World) -> None:
    killed(world.server)
    (log,) = (world.home / "store" / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$1\r\n")
    world.restart()
    line = doctor(world.home).line("durability", "warning")
    assert "ended in the middle of a write when it was read last" in line
    assert "nothing if the machine had crashed" in line
    world.restart()
    assert doctor(world.home).line("durability", "ok")


@contextmanager
def by_hand(home: Path, **options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server on a home's socket and files that holds no lock, as an earlier build started it."""
    fixed = {"port": "0", "unixsocket": str(socket_path(home)), "dir": str(home / "store"), "appendonly": "yes"}
    words = [word for name, value in (fixed | options).items() for word in (f"--{name.replace('_', '-')}", value)]
    process = subprocess.Popen(
        [str(server_binary()), *words],
        stdout=subprocess.DEVNULL,
        restore_signals=False,  # as this process, it gets an error where a file may not grow, and lives
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_server_without_a_lock_whose_log_cannot_be_written_has_both_told(world: World) -> None:
    killed(world.server)
    with by_hand(world.home, appendfsync="everysec") as process, plain(world.server.url, PATIENCE) as client:
        until(lambda: bool(client.ping()))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        client.set("more", "than fits")
        until(lambda: client.info("persistence")["aof_last_write_status"] == "err")
        found = doctor(world.home)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    faults = "".join(found.faults)
    assert "the last write of" in faults
    assert "to its log failed; to do: free the disk of the store" in faults
    assert "free, while a server answers" in found.line("lock", "warning")
    assert "end that server and start `croupier up`" in found.line("lock", "warning")
    world.restart()


def test_a_store_that_loads_its_file_is_to_be_waited_for(world: World) -> None:
    pipe = world.client.pipeline(transaction=False)
    for number in range(20_000):
        pipe.set(f"key-{number}", "x" * 100)
    pipe.execute()
    world.client.bgrewriteaof()  # type: ignore[no-untyped-call]
    until(lambda: not world.client.info("persistence")["aof_rewrite_in_progress"])  # type: ignore[index]
    killed(world.server)
    slow = {"key_load_delay": "3000", "loading_process_events_interval_bytes": "1024"}
    with by_hand(world.home, **slow), plain(world.server.url, PATIENCE) as client:
        until(lambda: bool(client.info("persistence")["loading"]))
        line = doctor(world.home).line("store", "fault")
    assert "is loading its file, " in line
    assert "s more: nothing is lost" in line
    world.restart()


def test_functions_of_another_build_and_none_are_told(world: World) -> None:
    code = (ROOT / "pipelines" / "worker" / "consume.lua").read_text("utf8")
    world.client.function_load(f"{code}\n-- of another build\n", replace=True)
    line = doctor(world.home).line("functions", "warning")
    assert "has croupier_consume of another build; to do: run `croupier up` of this build once" in line
    world.client.function_flush()
    assert "lacks croupier_consume, croupier_ledger" in doctor(world.home).line("functions", "fault")


def test_an_address_is_told_without_its_password(tmp_path: Path) -> None:
    found = doctor(tmp_path, CROUPIER_STORE="redis://somebody:hidden@127.0.0.1:1")
    assert found.code == 1
    line = found.line("store", "fault")
    assert "nobody listens at 127.0.0.1:1; to do: start that server, or mend CROUPIER_STORE" in line
    assert "hidden" not in "".join(found.lines) + found.complaint
    found = doctor(tmp_path, CROUPIER_STORE="redis://:hid/den@127.0.0.1:1")
    assert "the store at CROUPIER_STORE refuses: the address cannot be read; to do: mend" in found.line(
        "store", "fault"
    )
    assert not any(part in "".join(found.lines) + found.complaint for part in ("hid", "den@"))


def test_of_a_cluster_each_server_is_told_and_those_that_answer_are_looked_at(tmp_path: Path, plan: ReadPlan) -> None:
    (tmp_path / "nodes").mkdir()
    with cluster(tmp_path / "nodes") as servers:
        from_url = servers.url
        with connect(from_url) as client:
            load_library(client, "service.contacts", "ledger.lua")
            load_library(client, "pipelines.worker", "consume.lua")
            publish(client, "plan", plan.dumps())
            create_house(client)
        found = doctor(tmp_path / "none", CROUPIER_STORE=from_url)
        assert sum(line.split()[:2] == ["ok", "store"] for line in found.lines) == 3
        assert found.line("house", "ok")
        assert found.line("serving", "ok")
        assert not (tmp_path / "none").exists()
        lost = next(node for node in servers.nodes if node is not servers.holder("croupier:house"))
        lost.kill()
        found = doctor(tmp_path / "none", CROUPIER_STORE=from_url)
        assert f"nobody listens at {lost.name}" in found.line("store", "fault")
        assert found.line("house", "ok")


# --- Clocks and zones


@pytest.fixture
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.mark.skipif(COMPILER is None, reason="the lie about the time is compiled, and there is no compiler")
def test_a_clock_that_differs_was_set_back_or_shows_what_was_before_the_house(
    tmp_path: Path, plan: ReadPlan, clock: Clock
) -> None:
    with World(tmp_path, plan, clock.environment) as world:

        def shown(seconds: int) -> str:
            clock.set(seconds)
            until(lambda: abs(real_now_us(world.client) / 1e6 - time.time() - seconds) < 60)
            return "\n".join(line for line in doctor(tmp_path).faults if " clock " in line)

        assert shown(0) == ""
        found = shown(3_600)
        assert ",600 s ahead of this machine's; to do: set the clocks right" in found or "3,599 s ahead" in found
        world.client.xadd("log:{p000}", {"k": "none"})
        assert "the store's clock was set back: the log's last entry is 3," in shown(0)
        found = shown(-DAY)
        assert "s behind this machine's" in found
        assert "before the house was created" in found
        clock.set(0)


def test_zones_that_are_not_those_installed_are_told(world: World, tmp_path: Path) -> None:
    package = tmp_path / "other" / "tzdata"
    shutil.copytree(Path(tzdata.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    data = package / "zoneinfo" / "tzdata.zi"
    first, _, rest = data.read_text("utf8").partition("\n")
    data.write_text(f"{first.rpartition(' ')[0]} 2001a\n{rest}", "utf8")
    found = doctor(world.home, PYTHONPATH=str(package.parent))
    assert found.code == 1
    line = found.line("zones", "fault")
    assert f"tzdata says {tzdata.IANA_VERSION} and holds zones of 2001a" in line
    assert line.endswith("to do: `make install`, or pip with requirements.lock")


# --- What runs and serves


def test_a_house_without_worker_and_api_is_told_what_to_start(world: World) -> None:
    found = doctor(world.home)
    assert found.code == 1
    assert "no worker holds 256 of 256 partitions; to do: start `croupier worker`" in found.line("worker", "fault")
    assert "no process serves; to do: start `croupier serve`" in found.line("api", "fault")


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("rules", "`croupier rollback rules`"),
        ("churn", "`croupier rollback churn`"),
        ("policy", "`croupier rollback policy`"),
        ("plan", "run `croupier up` of this build once"),
    ],
)
def test_what_serves_and_cannot_be_read_or_found_is_to_be_taken_back(world: World, kind: str, advice: str) -> None:
    digest = publish(world.client, kind, b"{}")
    line = doctor(world.home).line("serving", "fault")
    assert f"{kind} {digest[:12]}: cannot be read: " in line
    assert f"to do: {advice}" in line
    world.client.set(pointer_key(kind), "0" * 64)
    assert f"{kind} 000000000000: missing; to do: {advice}" in doctor(world.home).line("serving", "fault")


def test_variables_that_nothing_reads_and_files_that_cannot_be_are_told(world: World, tmp_path: Path) -> None:
    found = doctor(world.home, CROUPIER_RULEZ="x", CROUPIER_CATALOGUE=str(tmp_path / "none.yaml"))
    assert "nothing reads CROUPIER_RULEZ; to do: CROUPIER_RULES may be meant" in found.line("settings", "warning")
    line = found.line("settings", "fault")
    assert "none.yaml" in line
    assert line.endswith("to do: mend that file or variable, then look again")
