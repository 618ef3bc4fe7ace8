"""The house key: 32 bytes that lie outside the store, and without which no player's key in it can be opened.

It is in `house.key` of the home, in a file that CROUPIER_HOUSE_KEY_FILE names, or in CROUPIER_HOUSE_KEY. The house
names its fingerprint, so that a process with another key, or with none, refuses to start.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from features.errors import CroupierError
from features.settings.environment import Environment, SettingError, environment
from features.store.deployment import House

FILE: Final = "house.key"
"""Its file in the home: hex digits, readable by its owner alone."""
SIZE: Final = 32
_OTHERS: Final = 0o007


class HouseKeyError(CroupierError):
    """The house key is missing, is another house's, or can be read by others."""

    code = "house_key"
    exit_code = 2


class HouseKey:
    """A house key; what is shown of it is its fingerprint."""

    __slots__ = ("content", "fingerprint")

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.fingerprint = hashlib.blake2b(content, digest_size=8, person=b"croupier house").hexdigest()

    def __repr__(self) -> str:
        """Without the key itself."""
        return f"HouseKey(fingerprint={self.fingerprint})"


def find_key(home: Path) -> HouseKey | None:
    """The house key as environment and home have it, None if neither does.

    Raises:
        SettingError: The environment names two, or one that is none.
        HouseKeyError: Its file cannot be read, holds something else, or can be read by others.
    """
    told = environment()
    given, file = told.house_key, told.house_key_file
    if given is not None and file is not None:
        raise SettingError(
            f"{Environment.house_key.name} and {Environment.house_key_file.name} both name a key: one may"
        )
    if given is not None:
        try:
            return HouseKey(read_key(given.encode()))
        except ValueError as error:
            raise SettingError(f"{Environment.house_key.name} {error}") from error
    if file is not None:
        return read_file(file)
    return read_file(home / FILE) if os.path.lexists(home / FILE) else None


def read_file(file: Path) -> HouseKey:
    """The house key of a file; raises HouseKeyError if it has none, or if others can read it."""
    try:
        with file.open("rb") as opened:
            mode, content = os.fstat(opened.fileno()).st_mode, opened.read(1_000)
    except OSError as error:
        raise HouseKeyError(f"the house key {file} cannot be read: {error.strerror}") from error
    if mode & _OTHERS:
        raise HouseKeyError(f"everybody on this machine can read the house key {file}: chmod 600 it")
    try:
        return HouseKey(read_key(content))
    except ValueError as error:
        raise HouseKeyError(f"{file} holds no house key: it {error}") from error


def read_key(content: bytes) -> bytes:
    """A key's bytes from hex digits, base64, or as they are; raises ValueError that does not show it."""
    text = content.strip()
    with suppress(ValueError, binascii.Error):
        if len(found := bytes.fromhex(text.decode("ascii"))) == SIZE:
            return found
    with suppress(ValueError, binascii.Error):
        if len(found := base64.b64decode(text, validate=True)) == SIZE:
            return found
    if len(content) == SIZE:
        return content
    raise ValueError(f"must be {SIZE} bytes in hex or base64")


def make_key(home: Path) -> HouseKey:
    """Make a house key in the home, or read the one that another process made there meanwhile; durable on return."""
    keep_key(home, HouseKey(os.urandom(SIZE)))
    return read_file(home / FILE)


def keep_key(home: Path, key: HouseKey) -> None:
    """Write a house key into the home, unless there is one; durable on return."""
    # Whole from the first moment: a process that dies while it writes leaves no half of a key behind.
    unfinished = home / f".{FILE}.{os.getpid()}"
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(key.content.hex().encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())
    try:
        with suppress(FileExistsError):
            os.link(unfinished, home / FILE)
    finally:
        unfinished.unlink()
    folder = os.open(home, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def checked(house: House, found: HouseKey | None) -> HouseKey | None:
    """The house key, if it is the one that the house names; None of a house that names none while none is there.

    Raises:
        HouseKeyError: It is another, or is missing.
    """
    if not house.key or (found is not None and found.fingerprint == house.key):
        return found
    if found is None:
        where = f"{FILE} in the home, {Environment.house_key_file.name} or {Environment.house_key.name}"
        raise HouseKeyError(
            f"the house key {house.key} is not here, and without it no player's key opens: give it as {where}"
        )
    raise HouseKeyError(
        f"the house was sealed under the key {house.key}, and the one that is here is {found.fingerprint}"
    )
