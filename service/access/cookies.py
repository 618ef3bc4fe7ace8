"""The cookie of somebody who signed in with a browser: which key they gave, signed, for some hours. Pure.

It names the key and the secret that was given, so that it ends when either does. It is signed with a key of its own
that is made of the house's secret, so that every process of the house knows it and nobody else.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

import jwt
from jwt.types import Options

from features.store.deployment import House
from service.access.keys import Caller

NAME: Final = "croupier"
SECONDS: Final = 12 * 3_600
_ALGORITHM: Final = "HS256"
_CHECKED: Final[Options] = {"verify_exp": False, "verify_iat": False, "require": ["exp", "sub", "secret"]}


class SignedIn(NamedTuple):
    """A key by its id, and the name of the secret that was given."""

    key_id: str
    secret: str


def signing_key(house: House) -> bytes:
    """The key that cookies of a house are signed with: 32 bytes, which it uses for nothing else."""
    return hashlib.blake2b(b"sign-in", key=bytes.fromhex(house.secret), digest_size=32, person=b"croupier").digest()


def signed(caller: Caller, key: bytes, now: float) -> str:
    """The cookie of a caller, from a unix second on."""
    claims = {"sub": caller.id, "secret": caller.secret, "exp": int(now) + SECONDS}
    return jwt.encode(claims, key, _ALGORITHM)


def read_signed(cookie: str, key: bytes, now: float) -> SignedIn | None:
    """Who a cookie is of at a unix second; None if it is none of ours, or has run out."""
    try:
        claims = jwt.decode(cookie, key, [_ALGORITHM], options=_CHECKED)
    except jwt.InvalidTokenError:
        return None
    ends, key_id, secret = claims["exp"], claims["sub"], claims["secret"]
    if not (isinstance(ends, int) and isinstance(key_id, str) and isinstance(secret, str)) or now >= ends:
        return None
    return SignedIn(key_id, secret)
