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


def seal(key: bytes, content: dict[str, Any], about: str) -> bytes:
    """Encrypt personal fields, bound to `about` (the record's id)."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, msgspec.json.encode(content), about.encode())


def unseal(key: bytes | None, sealed: bytes, about: str) -> dict[str, Any] | None:
    """Decrypt personal fields; None if the key was destroyed or does not fit."""
    if key is None:
        return None
    try:
        plain = AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], about.encode())
    except InvalidTag:
        return None
    return dict(msgspec.json.decode(plain))
