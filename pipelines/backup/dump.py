"""The dump of a store that runs: what it holds at one moment, as a replica would get it.

The server forks, and its child sends everything as of the fork, while the server goes on; nothing of the house's files
is read or written. Of the protocol (valkey.io/topics/replication) only the dump is asked for, not what follows it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import redis

from pipelines.backup.manifest import BackupError

_DELAY: Final = "repl-diskless-sync-delay"
"""Seconds for which a server waits for more replicas before it forks."""
_SECONDS: Final = 600.0
"""How long a server may be silent; while it writes its own files anew it says now and then that it lives."""
_CHUNK: Final = 1 << 20
_END: Final = b"$EOF:"


class Dump:
    """A dump that is under way.

    Args:
        path: Socket of the server.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_SECONDS)
        try:
            self._socket.connect(path)
            self._file = self._socket.makefile("rb")
            self._mark = self._begin()
        except BaseException:
            self._socket.close()
            raise

    def _begin(self) -> bytes:
        """Ask for the dump, and wait until it begins: then the moment it shows has passed."""
        for command in (b"REPLCONF capa eof", b"REPLCONF rdb-only 1", b"SYNC"):
            self._socket.sendall(command + b"\r\n")
            answer = self._line()
            if not answer.startswith((b"+OK", _END)):
                raise BackupError(f"the store gives no dump: {answer.decode('utf8', 'replace')}")
        return answer.removeprefix(_END)

    def _line(self) -> bytes:
        """The next line that is not empty: empty ones say that the server lives."""
        while (line := self._file.readline()) == b"\n":
            pass
        if not line.endswith(b"\n"):
            raise BackupError("the store closed the connection before it gave a dump; see valkey.log in its folder")
        return line.strip()

    def write(self, to: Path) -> int:
        """Write the dump to a file; returns its bytes.

        Raises:
            BackupError: The server ended it before it was whole.
        """
        kept = b""
        with to.open("xb") as file:
            while not kept.endswith(self._mark):
                file.write(kept[: -len(self._mark)])
                kept = kept[-len(self._mark) :]
                if not (more := self._file.read1(_CHUNK)):
                    raise BackupError("the store ended its dump before it was whole; see valkey.log in its folder")
                kept += more
            file.write(kept[: -len(self._mark)])
            return file.tell()

    def close(self) -> None:
        """Close the connection, which ends the server's child too."""
        self._file.close()
        self._socket.close()


@contextmanager
def at_once(client: redis.Redis) -> Iterator[None]:
    """Let the server fork as soon as a dump is asked for while the block runs."""
    before = cast("dict[str, str]", client.config_get(_DELAY))
    client.config_set(_DELAY, 0)
    try:
        yield
    finally:
        client.config_set(_DELAY, before[_DELAY])
