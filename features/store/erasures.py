"""The journal of erasures: which players were erased, when, by whom and why; by pseudonym, in the store and beside it.

The store's journal says how far each one got, so that what broke off is ended. The file `erasures` in the home says it
again for a store that is brought back from an older backup: whoever was erased since is erased there anew.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, cast

import msgspec
import redis

from features.errors import CroupierError
from features.store.keys import ERASURES, ERASURES_OPEN

FILE: Final = "erasures"
"""File of the home: a line of JSON for each erasure, the first one first."""
_BEGINNING: Final = b'{"player":'


class ErasuresError(CroupierError, ValueError):
    """A file of erasures cannot be read as one."""

    code = "invalid_erasures"
    exit_code = 2


class Erasure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One erasure.

    Attributes:
        player: Key of the player.
        ids: Keys of all ids of the player, the player's own last.
        begun_us: When it was asked for, unix microseconds of house time.
        by: Who asked for it.
        reason: Why.
        erased_us: When the last key was destroyed, likewise; None while that is not done.
        rewritten: Whether the files of the store were written anew since.
    """

    player: str
    ids: tuple[str, ...]
    begun_us: int
    by: str
    reason: str
    erased_us: int | None = None
    rewritten: bool = False

    @property
    def name(self) -> str:
        """Its name in the journal."""
        return f"{self.player} {self.begun_us}"


def journal(client: redis.Redis) -> list[Erasure]:
    """All erasures of a house, the first one first."""
    return read_journal(cast("dict[bytes, bytes]", client.hgetall(ERASURES)).values())


def read_journal(held: Iterable[bytes]) -> list[Erasure]:
    """Erasures as the store holds them, the first one first."""
    found = [msgspec.json.decode(one, type=Erasure) for one in held]
    return sorted(found, key=lambda one: (one.begun_us, one.player))


def note_commands(told: Erasure) -> tuple[list[str | bytes], list[str | bytes]]:
    """The commands that write an erasure into the store's journal, as one that a worker has still to look at."""
    # First what it is found by: what breaks off between the two is found, and is none.
    return ["ZADD", ERASURES_OPEN, "0", told.name], ["HSET", ERASURES, told.name, msgspec.json.encode(told)]


def note(client: redis.Redis, told: Erasure) -> None:
    """Write an erasure into the store's journal."""
    for command in note_commands(told):
        client.execute_command(*command)  # type: ignore[no-untyped-call]


def close(client: redis.Redis, told: Erasure, again_at: int | None = None) -> None:
    """Write down how far an erasure got for which there is nothing to do; until a unix second, or for good."""
    note(client, told)
    if again_at is None:
        client.zrem(ERASURES_OPEN, told.name)
    else:
        client.zadd(ERASURES_OPEN, {told.name: again_at})


def waiting(client: redis.Redis, now: int) -> list[Erasure]:
    """Erasures that a worker has something to do for at a unix second, the first one first."""
    names = cast("list[bytes]", client.zrangebyscore(ERASURES_OPEN, "-inf", now))
    held = cast("list[bytes | None]", client.hmget(ERASURES, names)) if names else []
    return read_journal(one for one in held if one is not None)


def find_waiting(client: redis.Redis) -> None:
    """Note which erasures of the journal are not done, for processes of earlier builds did not."""
    names = {one.name: 0 for one in journal(client) if not one.rewritten}
    if names:
        client.zadd(ERASURES_OPEN, names, nx=True)


def keep(home: Path, told: Iterable[Erasure]) -> int:
    """Add erasures to the file of a home that it lacks; returns how many. Durable on return."""
    with os.fdopen(os.open(home / FILE, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # a worker and a command may be about it at once
        content = held.read()
        have = {one.name for one in _read(content, home / FILE).erasures}
        lacking = [one for one in told if one.name not in have]
        if lacking:
            # After a line that was torn off, as by a full disk, the next one would be unreadable too.
            whole = content.rfind(b"\n") + 1
            held.truncate(whole)
            held.seek(whole)
            held.write(b"".join(msgspec.json.encode(one) + b"\n" for one in lacking))
        held.flush()
        os.fsync(held.fileno())
    return len(lacking)


class Told(NamedTuple):
    """What a file of erasures says: they, the first one first, and whether its last line was torn off in writing."""

    erasures: list[Erasure]
    torn: bool = False


def read(file: Path) -> Told:
    """What a file of erasures says; a last line that was torn off is passed over.

    Raises:
        ErasuresError: It cannot be read, or holds what is no erasure.
    """
    try:
        return _read(file.read_bytes(), file)
    except OSError as error:
        raise ErasuresError(f"{file} is no file of erasures: {error}") from error


def _read(content: bytes, file: Path) -> Told:
    *lines, rest = content.split(b"\n")
    found = []
    for at, line in enumerate(lines, 1):
        # Earlier builds wrote on behind what was torn off. Inside of strings quotes are escaped: this begins an object.
        start = max(0, line.rfind(_BEGINNING))
        try:
            found += [msgspec.json.decode(line[start:], type=Erasure)] if line else []
        except ValueError as error:
            raise ErasuresError(f"{file} is no file of erasures: line {at}: {error}") from error
    return Told(found, torn=bool(rest))
