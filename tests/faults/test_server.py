"""The embedded server: one per home at most, and a silent one is never taken for a stopped one."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import pytest
from support.cluster import free_ports
from support.fault_house import PATIENCE, PROCESSES, killed, until
from support.players import adult_events
from typer.main import get_command

from features.store.cluster import plain
from features.store.connection import connect
from features.store.errors import StoreError
from features.store.server import Server, keeping, server_binary, serving, socket_path, start_server
from pipelines.__main__ import app
from pipelines.machine.up import Options, prepare

THOROUGH = os.environ.get("CROUPIER_FAULTS") == "all"
COMPILER = shutil.which("cc")
NO_LOCKS = "#include <errno.h>\nint flock(int file, int how) { errno = ENOLCK; return -1; }\n"
SILENT_SECONDS = 60
SLOWLY = 5 * PATIENCE
"""Seconds for many processes at once, some of which import all there is."""
SECRET = {"CRM_SECRET": "whsec_" + base64.b64encode(bytes(range(32))).decode()}
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


ASKING = {
    "backup": "FILE.backup",
    "catalogue diff": "service/catalogue.yaml",
    "catalogue lint": "",
    "catalogue show": "",
    "create": "",
    "decisions replay": f"000-{'a' * 24}",
    "decisions show": f"000-{'a' * 24}",
    "decisions why-not": f"000-{'a' * 24}",
    "connectors resume": "--reason test",
    "erase": "player-1 --reason test",
    "experiment list": "",
    "export": "player-1",
    "experiment plan": "policy_2026",
    "experiment ramp": "policy_2026 policy=0.5 --reason test",
    "experiment start": "--holdout 0.05 --reason test",
    "experiment stop": "policy_2026 --reason test",
    "import events": "FILE",
    "import history": "",
    "train churn": "",
    "make-exports": "",
    "promote catalogue": "service/catalogue.yaml --reason test",
    "promote churn": "1 --reason test",
    "promote policy": "--reason test",
    "promote templates": "service/templates --reason test",
    "promote rules": "service/rulebook --reason test",
    "keys create": "--scopes decide",
    "lake collect": "",
    "lake compact": "",
    "keys list": "",
    "keys revoke": "tests --reason test",
    "keys rotate": "tests",
    "releases": "",
    "rollback catalogue": "--reason test",
    "rollback churn": "--reason test",
    "rollback experiments": "--reason test",
    "rollback policy": "--reason test",
    "rollback rules": "--reason test",
    "rollback templates": "--reason test",
    "report uplift": "",
    "retrain": "",
    "rules explain": "player-1",
    "rules diff": "service/rulebook service/rulebook --since 7d",
    "settle": "",
    "stop lift": "00000000 --reason test",
    "stop list": "",
    "stop marketing": "--reason test",
    "templates lint": "service/templates",
    "templates page": "FILE",
    "templates preview": "free_spins_v1 --player player-1",
    "verify": "--since 7d",
    "webhooks enable": "crm",
}
"""Commands that ask a home's own store and end, with arguments."""
SERVING = {"up": "--players 0 --no-screen --port PORT", "serve": "--port PORT", "worker": "", "learn": ""}
"""Commands that ask it until they are ended."""
APART = {
    "dataset",
    "decide",
    "doctor",
    "settings",
    "import schema",
    "lake show",
    "rules lint",
    "rules list",
    "rules page",
    "restore",
    "screen",
    "simulate",
    "connectors check",
    "connectors test",
    "webhooks check",
    "webhooks test",
}
"""Commands that never wait for it: doctor says that it is silent, benches and restores make houses of their own."""


def test_of_every_command_it_is_known_here_whether_it_asks_the_store() -> None:
    def names(group: Any, before: str = "") -> Iterator[str]:
        for name, command in group.commands.items():
            yield from names(command, f"{before}{name} ") if hasattr(command, "commands") else [f"{before}{name}"]

    every = {name for name in names(get_command(app)) if not name.startswith("bench ")}
    assert every == ASKING.keys() | SERVING.keys() | APART


def files(home: Path) -> list[Path]:
    """The log of all changes of a home's server."""
    return [file for file in (home / "store" / "appendonlydir").iterdir() if file.suffix != ".manifest"]


def bytes_of(home: Path) -> dict[str, bytes]:
    """What a home's server has written of the log of its changes."""
    return {file.name: file.read_bytes() for file in files(home)}


def goes_on(before: dict[str, bytes], home: Path) -> int:
    """That nothing of the log is lost or changed, whatever was added; how many bytes were compared."""
    after = bytes_of(home)
    assert all(after[name].startswith(held) for name, held in before.items())
    return sum(map(len, before.values()))


@pytest.fixture
def furnished(home: Path, server: Server) -> Path:
    """What commands are pointed at, in a folder, and a house in the store."""
    with connect(server.url) as client:
        prepare(client, Options(home, players=0), server.url)
    folder = home.parent / "files"
    folder.mkdir()
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, adult_events("player-1"))), "utf8")
    webhooks = "endpoints: [{id: crm, url: 'http://127.0.0.1:1/', secret_env: CRM_SECRET}]"
    (folder / "webhooks.yaml").write_text(webhooks, "utf8")
    return folder


class Running:
    """A command over a home, and what it says."""

    def __init__(self, name: str, arguments: str, home: Path, folder: Path) -> None:
        arguments = arguments.replace("FILE", str(folder / "events.jsonl")).replace("PORT", str(free_ports(1)[0]))
        self.name, self._file = name, folder / f"{name}.txt"
        words = [sys.executable, "-m", "pipelines", *name.split(), *arguments.split()]
        more = {"CROUPIER_HOME": str(home), "CROUPIER_WEBHOOKS": str(folder / "webhooks.yaml"), "COLUMNS": "1000"}
        with self._file.open("w") as file:
            self.process = subprocess.Popen(
                words, env={**os.environ, **more, **SECRET}, stdout=subprocess.DEVNULL, stderr=file
            )

    @property
    def said(self) -> str:
        return self._file.read_text("utf8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def waits(self) -> bool:
        """Whether it says that it waits for a silent store."""
        assert self.process.poll() is None, self.said
        return "is busy and does not answer; waiting" in self.said

    def ends(self) -> None:
        """Wait until it has ended, by itself or as it is asked to, with nothing that a person could not read."""
        if self.name in SERVING:
            assert self.process.poll() is None, self.said
            self.process.send_signal(signal.SIGINT)
        self.process.wait(SLOWLY)
        assert "Traceback" not in self.said, self.said


def test_under_a_silent_store_every_command_waits_and_none_starts_another(
    home: Path, server: Server, furnished: Path
) -> None:
    put(home, "before")
    held = bytes_of(home)
    server.signal(signal.SIGSTOP)
    begun = time.monotonic()
    every = ASKING | SERVING
    with ExitStack() as stack:
        asked = every if THOROUGH else {name: every[name] for name in ("rules explain", "worker")}
        running = [stack.enter_context(Running(*one, home, furnished)) for one in asked.items()]
        for command in running:
            until(command.waits, SLOWLY)
            assert servers(home) == {server.pid}
        while THOROUGH and time.monotonic() - begun < SILENT_SECONDS:
            assert servers(home) == {server.pid}
            threading.Event().wait(0.1)
        assert bytes_of(home) == held
        silent = time.monotonic() - begun
        server.signal(signal.SIGCONT)
        for command in running:
            command.ends()
    assert servers(home) == {server.pid}
    assert acknowledged(home) == ["before"]
    compared = goes_on(held, home)
    sys.stdout.write(f"{len(running)} commands, {silent:.0f} s of silence, 1 server, {compared} bytes compared\n")


def test_of_two_houses_that_begin_at_once_one_is_up(home: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
        (folder / "webhooks.yaml").write_text("endpoints: []", "utf8")
    with ExitStack() as stack:
        both = [stack.enter_context(Running("up", SERVING["up"], home, folder)) for folder in folders]
        until(lambda: any("ready after" in house.said for house in both), SLOWLY)
        (other,) = [house for house in both if "ready after" not in house.said]
        assert other.process.wait(SLOWLY) == 2
        assert "is up already" in other.said
        assert len(servers(home)) == 1
        (house,) = [house for house in both if house is not other]
        house.ends()
    assert servers(home) == set()


def test_what_a_crash_or_a_reboot_left_is_no_lock(home: Path) -> None:
    put(home, "before")
    held = bytes_of(home)
    (home / "store" / "server.lock").write_text(f"{os.getpid()} 1 {socket_path(home)}\n")
    socket_path(home).touch()
    assert acknowledged(home) == ["before"]
    running = start_server(home)
    with connect(running.url) as client:
        client.rpush("acknowledged", "just before")
        held = bytes_of(home)
        killed(running)
    assert acknowledged(home) == ["before", "just before"]
    assert goes_on(held, home) > 0


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
            client.set(f"big-{number}", os.urandom(1_000_000))  # what can be packed, the server packs
    size = sum(file.stat().st_size for file in files(home))
    assert size > BIG_BYTES
    said: list[str] = []
    begun = time.monotonic()
    others = [Other(home) for _ in range(2)]
    running = start_server(home, said.append)
    waited = time.monotonic() - begun
    assert servers(home) == {running.pid}
    with connect(running.url) as client:
        assert client.dbsize() == BIG_BYTES // 1_000_000
    for other in others:
        assert other.found() == running.pid
        other.end()
    running.stop()
    assert servers(home) == set()
    sys.stdout.write(f"a file of {size / 1e9:.2f} GB, waited {waited:.1f} s by three, who said: {said}\n")


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


@contextmanager
def crowded(path: Path) -> Iterator[None]:
    """As many connections to a silent server as it lets wait."""
    with ExitStack() as stack:
        while True:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            try:
                waiting.connect(str(path))
            except BlockingIOError:
                break
        yield


def test_a_silent_server_with_a_full_queue_of_connections_is_busy(
    home: Path, unlocked: subprocess.Popen[bytes]
) -> None:
    put(home, "before")
    unlocked.send_signal(signal.SIGSTOP)
    said: list[str] = []
    with crowded(socket_path(home)):
        waiting = threading.Thread(target=lambda: start_server(home, said.append).stop())
        waiting.start()
        until(lambda: bool(said))
        assert servers(home) == {unlocked.pid}
        assert "is busy and does not answer; waiting" in said[0]
    unlocked.send_signal(signal.SIGCONT)
    waiting.join()
    assert servers(home) == {unlocked.pid}
    assert acknowledged(home) == ["before"]


def test_the_end_of_a_command_is_not_held_up_by_the_server_that_it_started(home: Path) -> None:
    code = (
        "from pathlib import Path; import os; from features.store.server import start_server; "
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
