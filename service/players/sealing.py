"""Sealing of personal fields under the player's own key, which the store keeps sealed under the house key.

    house key --opens--> the player's key (its *seal* in the store) --opens--> personal fields

A seal is stored as one byte, its version, and the player's key sealed under the house key, bound to the player; earlier
builds stored the key as it is. Erasing a player destroys the key.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from features.settings.environment import environment
from features.store.deployment import House
from features.store.errors import StoreError
from features.store.house_key import HouseKey, checked, find_key

NAME: Final = "name"
"""What the sealed id of a player is bound to."""
PLAIN: Final = 32
"""Length of a seal that is a player's key as it is, bytes."""
_VERSION: Final = b"\x01"
"""Of the seals that this build writes."""
_NONCE: Final = 12


def new_seal() -> bytes:
    """Generate a key for a player's personal fields."""
    return os.urandom(PLAIN)


class SealError(StoreError):
    """A player's key in the store does not open under the house key of this process."""


class PlayerSeal(NamedTuple):
    """A seal as the store holds it, and the player's key that it opens to."""

    stored: bytes
    key: bytes

    def __repr__(self) -> str:
        """Without the key."""
        return "PlayerSeal()"


class Seals:
    """Opens and makes the seals of players.

    Args:
        key: The house key; None while there is none.
        wraps: Whether seals are made under it; not while the house names none, for other processes may lack it.
    """

    __slots__ = ("_house", "wraps")

    def __init__(self, key: HouseKey | None = None, *, wraps: bool = True) -> None:
        self._house = None if key is None else AESGCM(key.content)
        self.wraps = wraps and key is not None

    def open(self, player: str, stored: bytes) -> bytes:
        """A player's key from its seal; raises SealError if it does not open."""
        if len(stored) == PLAIN:
            return stored
        if self._house is None:
            raise SealError("players' keys are sealed under a house key that this process was started without")
        version, nonce, sealed = stored[:1], stored[1 : 1 + _NONCE], stored[1 + _NONCE :]
        if version != _VERSION:
            raise SealError("the seal of a player is of a later build, or damaged")
        try:
            return self._house.decrypt(nonce, sealed, player.encode())
        except (InvalidTag, ValueError) as error:
            raise SealError("the seal of a player does not open under the house key") from error

    def wrap(self, player: str, key: bytes) -> bytes:
        """The seal of a player's key."""
        if self._house is None or not self.wraps:
            return key
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._house.encrypt(nonce, key, player.encode())

    def new(self, player: str) -> PlayerSeal:
        """A seal with a new key for a player's personal fields."""
        key = new_seal()
        return PlayerSeal(self.wrap(player, key), key)

    def of(self, player: str, stored: bytes | None) -> PlayerSeal:
        """A player's seal, a new one if there is none."""
        return self.new(player) if stored is None else PlayerSeal(stored, self.open(player, stored))


def seals_of(house: House, home: Path | None = None) -> Seals:
    """The seals of a house, under the key that environment or home have; by default the environment's home.

    Raises:
        HouseKeyError: That is not the one that the house names, is missing, or can be read by others.
        SettingError: The environment names one that is none.
    """
    return Seals(checked(house, find_key(home or environment().home)), wraps=bool(house.key))


# --- Personal fields under a player's key


def encrypt(key: bytes, plain: bytes, about: str) -> bytes:
    """Encrypt bytes, bound to `about` (an id)."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, about.encode())


def decrypt(key: bytes | None, sealed: bytes, about: str) -> bytes | None:
    """Decrypt bytes; None if the key was destroyed or does not fit."""
    if not key:
        return None
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], about.encode())
    except InvalidTag:
        return None


def seal(key: bytes, content: dict[str, Any], about: str) -> bytes:
    """Encrypt personal fields, bound to `about` (an id)."""
    return encrypt(key, msgspec.json.encode(content), about)


def unseal(key: bytes | None, sealed: bytes, about: str) -> dict[str, Any] | None:
    """Decrypt personal fields; None if the key was destroyed or does not fit."""
    plain = decrypt(key, sealed, about)
    return None if plain is None else dict(msgspec.json.decode(plain))
