"""Never two servers on the files of one home, and none that is taken for gone because it is silent."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from cluster import free_ports
from worlds import PATIENCE, PROCESSES, killed, until

from features.cluster import plain
from features.server import Server, keeping, server_binary, serving, socket_path, start_server
from features.store import StoreError, connect

THOROUGH = os.environ.get("CROUPIER_FAULTS") == "all"
COMPILER = shutil.which("cc")
NO_LOCKS = "#include <errno.h>\nint flock(int file, int how) { errno = ENOLCK; return -1; }\n"
BIG_BYTES = 1_000_000_000 if THOROUGH else 100_000_000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    running = start_server(home)
    yield running
    running.signal(signal.SIGCONT)
    running.stop()


def servers(home: Path) -> set[int]:
    """Processes of servers on a home's files; not those that a server starts to write them anew."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                here = (entry / "cwd").resolve() == (home / "store").resolve()
                runs = (entry / "exe").readlink().name == "valkey-server"
            except OSError:
                continue
            if here and runs:
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return {pid for pid, parent in found.items() if parent not in found}


def put(home: Path, name: str) -> None:
    with serving(home) as url, connect(url) as client:
        client.rpush("acknowledged", name)


def acknowledged(home: Path) -> list[str]:
    with serving(home) as url, connect(url) as client:
        found: Any = client.lrange("acknowledged", 0, -1)
        return [name.decode() for name in found]


def _starts(home: str, said: Connection, end: Connection) -> None:
    """Another process that uses the home's server until it is told to end."""
    with serving(Path(home)) as url, connect(url) as client:
        found: Any = client.info("server")
        said.send(found["process_id"])
        end.recv()


class Other:
    """Another process that uses a home's server, or begins to."""

    def __init__(self, home: Path) -> None:
        self._said, said = PROCESSES.Pipe(duplex=False)
        end, self._end = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(target=_starts, args=(str(home), said, end))
        self.process.start()

    def found(self) -> int:
        """Process of the server that it uses."""
        assert self._said.poll(PATIENCE)
        return int(self._said.recv())

    def end(self) -> None:
        self._end.send(None)
        self.process.join(PATIENCE)
        assert self.process.exitcode == 0


def test_however_many_begin_at_once_there_is_one_server_and_the_last_who_uses_it_ends_it(home: Path) -> None:
    others = [Other(home) for _ in range(8)]
    (pid,) = {other.found() for other in others}
    assert servers(home) == {pid}
    for other in others[:-1]:
        other.end()
        assert servers(home) == {pid}
    others[-1].end()
    assert servers(home) == set()


def test_a_server_outlives_who_started_it_and_is_taken_over(home: Path) -> None:
    other = Other(home)
    pid = other.found()
    put(home, "before")
    other.process.kill()
    other.process.join(PATIENCE)
    assert servers(home) == {pid}
    again = start_server(home)
    assert (again.pid, again.child) == (pid, None)
    assert acknowledged(home) == ["before"]
    again.stop()
    assert servers(home) == set()


def test_a_silent_server_is_waited_for_with_a_word_and_nothing_is_started_beside_it(home: Path, server: Server) -> None:
    put(home, "before")
    server.signal(signal.SIGSTOP)
    said: list[str] = []
    found: list[Server] = []
    waiting = threading.Thread(target=lambda: found.append(start_server(home, said.append)))
    waiting.start()
    until(lambda: bool(said))
    assert servers(home) == {server.pid}
    assert "is busy and does not answer; waiting" in said[0]
    server.signal(signal.SIGCONT)
    waiting.join()
    assert [one.pid for one in found] == [server.pid]
    assert acknowledged(home) == ["before"]
    found[0].stop()


COMMANDS = [
    "import events README.md",
    "train churn",
    "promote churn 1",
    "promote policy",
    "promote rules service/rulebook",
    "rollback churn",
    "rollback policy",
    "rollback rules",
    "report uplift",
    "retrain",
    "rules explain player-1",
    "rules diff service/rulebook service/rulebook --since 7d",
]
"""Everything at the command line that asks a home's own store."""


def test_under_a_silent_store_every_command_waits_and_none_starts_another(home: Path, server: Server) -> None:
    put(home, "before")
    held = {file.name: file.read_bytes() for file in (home / "store").rglob("*.aof")}
    server.signal(signal.SIGSTOP)
    running = [_begun(command, home) for command in (COMMANDS if THOROUGH else COMMANDS[-2:])]
    said = [process.stderr.readline() for process in running if process.stderr]
    if THOROUGH:
        threading.Event().wait(60)
    assert servers(home) == {server.pid}
    assert all("is busy and does not answer; waiting" in one for one in said), said
    assert {file.name: file.read_bytes() for file in (home / "store").rglob("*.aof")} == held
    server.signal(signal.SIGCONT)
    for process in running:
        _, error = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in error, error
    assert servers(home) == {server.pid}
    assert acknowledged(home) == ["before"]


def _begun(command: str, home: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "pipelines", *command.split()]
    environment = {**os.environ, "CROUPIER_HOME": str(home)}
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_what_a_crash_or_a_reboot_left_is_no_lock(home: Path) -> None:
    put(home, "before")
    (home / "store" / "server.lock").write_text(f"{os.getpid()} 1\n")
    socket_path(home).touch()
    assert acknowledged(home) == ["before"]
    running = start_server(home)
    killed(running)
    assert acknowledged(home) == ["before"]


def test_a_copied_home_has_a_server_of_its_own(home: Path, server: Server, tmp_path: Path) -> None:
    put(home, "before")
    copy = tmp_path / "copy"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("*.sock"))
    put(copy, "in the copy")
    assert acknowledged(copy) == ["before", "in the copy"]
    assert acknowledged(home) == ["before"]
    assert server.pid not in servers(copy)


def test_one_home_under_two_names_has_one_server(home: Path, server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.symlink_to(home)
    found = start_server(other)
    assert found.pid == server.pid
    found.stop()
    assert server.lives()


def test_a_house_is_up_once(home: Path) -> None:
    environment = {**os.environ, "CROUPIER_HOME": str(home)}
    (port,) = free_ports(1)
    with keeping(home):
        command = [sys.executable, "-m", "pipelines", "up", "--players", "0", "--port", str(port)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is up already" in done.stderr
    assert servers(home) == set()


@pytest.mark.skipif(COMPILER is None, reason="a file system without locks is compiled, and there is no compiler")
def test_a_file_system_without_locks_is_refused(home: Path, tmp_path: Path) -> None:
    source, library = tmp_path / "nolocks.c", tmp_path / "nolocks.so"
    source.write_text(NO_LOCKS)
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", library, source], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "CROUPIER_HOME": str(home)}
    for command in ("rules explain player-1", "up --players 0"):
        words = [sys.executable, "-m", "pipelines", *command.split()]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "lies on a file system without locks (No locks available)" in done.stderr
        assert "Traceback" not in done.stderr
        assert servers(home) == set()


def test_a_server_that_loads_a_large_file_is_waited_for(home: Path) -> None:
    with serving(home) as url, connect(url) as client:
        for number in range(BIG_BYTES // 1_000_000):
            client.set(f"big-{number}", bytes(1_000_000))
    said: list[str] = []
    others = [Other(home) for _ in range(2)]
    running = start_server(home, said.append)
    assert servers(home) == {running.pid}
    with connect(running.url) as client:
        assert client.dbsize() == BIG_BYTES // 1_000_000
    for other in others:
        assert other.found() == running.pid
        other.end()
    running.stop()
    assert servers(home) == set()


def test_a_server_that_cannot_start_says_where_to_look(home: Path) -> None:
    put(home, "before")
    (manifest,) = (home / "store").rglob("*.manifest")
    manifest.write_text("nonsense\n")
    with pytest.raises(StoreError, match=r"did not start; its log is valkey\.log"):
        start_server(home)
    assert servers(home) == set()


def connect_soon(home: Path) -> Any:
    """A connection to a server that is just starting."""
    until(lambda: bool(plain(f"unix://{socket_path(home)}", 1.0).ping()))
    return connect(f"unix://{socket_path(home)}")


@pytest.fixture
def unlocked(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server as an earlier build started it: on the home's socket, without a lock."""
    with serving(home):
        pass
    options = {"port": "0", "unixsocket": str(socket_path(home)), "dir": str(home / "store"), "appendonly": "yes"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([str(server_binary()), *words], stdout=subprocess.DEVNULL)
    with connect_soon(home):
        yield process
    process.send_signal(signal.SIGCONT)
    process.terminate()
    process.wait()


def test_a_server_without_a_lock_is_used_and_neither_ended_nor_doubled(
    home: Path, unlocked: subprocess.Popen[bytes]
) -> None:
    put(home, "before")
    found = start_server(home)
    assert (found.pid, found.foreign, found.lives()) == (unlocked.pid, True, True)
    unlocked.send_signal(signal.SIGSTOP)
    said: list[str] = []
    waiting = threading.Thread(target=lambda: start_server(home, said.append).stop())
    waiting.start()
    until(lambda: bool(said))
    assert servers(home) == {unlocked.pid}
    unlocked.send_signal(signal.SIGCONT)
    waiting.join()
    found.stop()
    assert servers(home) == {unlocked.pid}
    unlocked.terminate()
    unlocked.wait()
    assert not found.lives()


def test_the_end_of_a_command_is_not_held_up_by_the_server_that_it_started(home: Path) -> None:
    code = (
        "from pathlib import Path; import os; from features.server import start_server; "
        f"print(start_server(Path({str(home)!r})).pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert servers(home) == {int(done.stdout)}
    start_server(home).stop()
    assert servers(home) == set()


def test_who_gives_up_waiting_ends_what_was_started_for_it(home: Path) -> None:
    giving_up = threading.Event()
    giving_up.set()
    with pytest.raises(StoreError, match="no longer waited for"):
        start_server(home, giving_up=giving_up)
    assert servers(home) == set()
