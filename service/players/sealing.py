"""Sealing of personal fields under the player's own key; erasing a player destroys the key. Pure."""

from __future__ import annotations

import os
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NAME: Final = "name"
"""What the sealed id of a player is bound to."""
_NONCE: Final = 12


def new_seal() -> bytes:
    """Generate a key for a player's personal fields."""
    return os.urandom(32)


def encrypt(key: bytes, plain: bytes, about: str) -> bytes:
    """Encrypt bytes, bound to `about` (an id)."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, about.encode())


def decrypt(key: bytes | None, sealed: bytes, about: str) -> bytes | None:
    """Decrypt bytes; None if the key was destroyed or does not fit."""
    if key is None:
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
