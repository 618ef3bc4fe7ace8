"""The development key: what `croupier up` makes for a house without keys, so that its curl lines can be copied."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from features.errors import CroupierError
from features.settings.environment import environment
from features.store.connection import Store, TimedStore, deadline
from features.store.keys import API_KEYS
from service.access.keys import DEVELOPMENT_FILE, digest_of, id_of, read, ring
from service.access.register import Author, WantedKey, create_key, now, read_hash, revoke_key
from service.access.scopes import SCOPES

_SECONDS: Final = 10.0
_AUTHOR: Final = "croupier up"


class KeyFileRefused(CroupierError):
    """A key file that others can read, or that holds no key."""

    code = "key_file_refused"
    exit_code = 2


def read_key(home: Path) -> str | None:
    """The development key of a home, None if it has none; raises KeyFileRefused."""
    path = home / DEVELOPMENT_FILE
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileRefused(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(file) as text:
        mode = os.fstat(file).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise KeyFileRefused(
                f"{path} can be read by others, so it is no secret any more: revoke its key, then delete the file"
            )
        found = text.read(1_000).strip()
    if id_of(found) is None:
        raise KeyFileRefused(f"{path} holds no key: delete it; `croupier up` makes one for a house that has none")
    return found


def own_key(home: Path) -> str | None:
    """The key that commands send to the API of their own house; None if they know none. Raises KeyFileRefused."""
    given = environment()
    return given.key or next(iter(given.keys), None) or read_key(home)


def settle_key(home: Path, url: str) -> str | None:
    """The development key of a house: that of its file, or a new one where nobody has a live key.

    Returns:
        None where others have keys, in the store or the environment, and the file has none that is live.

    Raises:
        KeyFileRefused: Its file can be read by others, or holds none.
        StoreError: The store does not answer.
    """
    held = read_key(home)
    return asyncio.run(_settled(home, url, held))


async def _settled(home: Path, url: str, held: str | None) -> str | None:
    store = Store(url, 1)
    try:
        timed = TimedStore(store, deadline(_SECONDS))
        kept, at = await read_hash(timed, API_KEYS), await now(timed)
        if held is not None and ring(kept)[0].caller(id_of(held) or "", digest_of(held), at):
            return held
        # A live one of ours without its file is one that nobody knows: the file was lost.
        if environment().keys or any(key.state(at) == "live" and key.by != _AUTHOR for key in read(kept).values()):
            return None
        made = await create_key(timed, WantedKey(scopes=SCOPES, label="development"), Author(_AUTHOR))
        _write(home / DEVELOPMENT_FILE, made.sent.text)
        for name in [name for name, key in read(kept).items() if key.state(at) == "live"]:
            await revoke_key(timed, name, "its file was lost", Author(_AUTHOR))
        return made.sent.text
    finally:
        await store.close()


def _write(path: Path, text: str) -> None:
    """Write a file that nobody else ever could read, whole or not at all."""
    unfinished = path.with_suffix(".tmp")
    with suppress(FileNotFoundError):
        unfinished.unlink()
    file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w") as out:
        out.write(f"{text}\n")
        out.flush()
        os.fsync(file)
    unfinished.replace(path)


def has_live_key(url: str) -> bool:
    """Whether a store has a live key; raises StoreError."""
    return asyncio.run(_has_live(url))


async def _has_live(url: str) -> bool:
    store = Store(url, 1)
    try:
        timed = TimedStore(store, deadline(_SECONDS))
        return ring(await read_hash(timed, API_KEYS))[0].live(await now(timed))
    finally:
        await store.close()
