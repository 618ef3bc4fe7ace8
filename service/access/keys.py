"""API keys: what is kept of one, its life, and whether a caller sent it. Pure but for the chance of secrets.

A key is sent as `ck_ID_SECRET`. The secret is 32 random bytes, so what is kept of it is one plain SHA-256: salt and
slow hashes guard secrets that people choose, which can be guessed; 256 random bits cannot (NIST SP 800-63B,
"Look-Up Secret Verifiers": of 112 bits or more, an approved one-way function will do; the work factors of OWASP's
Password Storage Cheat Sheet are for passwords). The hash is over the whole key as it is sent, with its id.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import inf
from typing import Final, Literal

from msgspec import Struct, structs
from msgspec.json import Decoder

from service.access.scopes import SCOPES, Scope
from service.errors import KeyRevoked, RotationUnfinishedError

DEVELOPMENT_FILE: Final = "development.key"
"""File of a home that holds the key that `croupier up` made: the only one that lies anywhere as it is sent."""
ID_PATTERN: Final = "^[a-z0-9]{4,24}$"
KEEP_SECONDS: Final = 24 * 3_600
"""How long the secret before a rotation lives on, unless another time is given."""
LIVE_MOST: Final = 2
MASK: Final = "***"
ENVIRONMENT: Final = "environment"
"""Id of callers with a key of the environment; no key in the store may have it."""
ENVIRONMENT_SCOPES: Final[frozenset[Scope]] = frozenset(SCOPES) - {"admin"}
"""What a key of the environment allows."""
_SECRET_BYTES: Final = 32
_LETTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"
_ID_LENGTH: Final = 8
_SENT: Final = re.compile(r"ck_([a-z0-9]{4,24})_[A-Za-z0-9_-]{43,86}")

State = Literal["live", "expired", "revoked"]


class KeySecret(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A secret of a key as it is kept: its hash in hex, and the unix second from which it is refused."""

    sha256: str
    expires_at: int | None = None

    def __repr__(self) -> str:
        return f"KeySecret({MASK}, expires_at={self.expires_at})"


class Revocation(Struct, frozen=True, kw_only=True):
    """When a key was revoked (unix seconds), by whom, and why."""

    at: int
    by: str
    reason: str


class Key(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An API key as it is kept, without what its caller sends.

    Attributes:
        label: What it is for, in its maker's words.
        scopes: Words of what it allows; those that this build does not know allow nothing.
        created_at: Unix seconds.
        by: Who made it: `key ID`, or the user at the command line.
        rate: Requests a second over all serving processes together; None is as many as there are.
        secrets: At most two live ones, the newest first; none once it is revoked.
        rotated_at: Unix seconds of the last rotation.
        rotated_by: Who rotated it.
        revoked: How it ended.
    """

    label: str = ""
    scopes: tuple[str, ...] = ()
    created_at: int = 0
    by: str = ""
    rate: int | None = None
    secrets: tuple[KeySecret, ...] = ()
    rotated_at: int | None = None
    rotated_by: str | None = None
    revoked: Revocation | None = None

    def live(self, now: float) -> tuple[KeySecret, ...]:
        """The secrets that are taken at a unix second."""
        return tuple(one for one in self.secrets if one.expires_at is None or now < one.expires_at)

    def state(self, now: float) -> State:
        """What has become of it."""
        if self.revoked is not None:
            return "revoked"
        return "live" if self.live(now) else "expired"


KEY: Final = Decoder(Key)


def read(kept: Mapping[bytes, bytes]) -> dict[str, Key]:
    """Keys from their JSON by id; those that this build cannot read are left out, as they open nothing."""
    found = {}
    for name, text in kept.items():
        with suppress(ValueError):
            found[name.decode()] = KEY.decode(text)
    return found


class SentKey(Struct, frozen=True):
    """A key as its caller sends it, shown once: it knows what it is, and never shows it by itself."""

    text: str

    def __repr__(self) -> str:
        return f"SentKey({MASK})"


class Caller(Struct, frozen=True):
    """Who asks: the id of a key, what it allows, its requests a second, and which of its secrets was sent.

    Attributes:
        id: The key's, or `environment`.
        scopes: What it allows.
        rate: Requests a second over all serving processes; None is as many as there are.
        secret: Beginning of the hash of the secret that was sent, which names it to a cookie.
    """

    id: str
    scopes: frozenset[str]
    rate: int | None
    secret: str = ""

    @property
    def name(self) -> str:
        """Who it was, for journals: the key; on the command line it is the user of the system."""
        return f"key {self.id}"


NOBODY: Final = Caller("", frozenset(), None)


def digest_of(sent: str) -> bytes:
    """The hash of a key as it is sent."""
    return hashlib.sha256(sent.encode("utf8", "surrogateescape")).digest()


def new_id() -> str:
    """A random id."""
    return "".join(secrets.choice(_LETTERS) for _ in range(_ID_LENGTH))


def id_of(sent: str) -> str | None:
    """The id in a key as it is sent; None if it has not the form of one."""
    found = _SENT.fullmatch(sent)
    return None if found is None else found[1]


def id_is_valid(key_id: str) -> bool:
    """Whether a key can have this id."""
    return re.fullmatch(ID_PATTERN[1:-1], key_id) is not None


def known_scopes(words: Iterable[str]) -> tuple[list[Scope], list[str]]:
    """Scopes among words in their usual order, and the words that are none."""
    said = list(words)
    return [one for one in SCOPES if one in said], sorted({word for word in said if word not in SCOPES})


def new_secret(key_id: str, expires_at: int | None = None) -> tuple[SentKey, KeySecret]:
    """A new secret of a key: what its caller sends, and what is kept."""
    sent = f"ck_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return SentKey(sent), KeySecret(sha256=digest_of(sent).hex(), expires_at=expires_at)


def rotated(key: Key, key_id: str, now: int, keep_seconds: int, by: str) -> tuple[SentKey, Key]:
    """A key with a new secret; those before it live on for some time at most, and it ends when it would have.

    Raises:
        KeyRevoked: It cannot come to life again.
        RotationUnfinishedError: Two of its secrets are live, and the earlier ones are to live on.
    """
    if key.revoked is not None:
        raise KeyRevoked
    live = key.live(now) if keep_seconds else ()
    if len(live) >= LIVE_MOST:
        raise RotationUnfinishedError
    ends = [one.expires_at for one in key.secrets[:1]]
    sent, secret = new_secret(key_id, ends[0] if ends else None)
    kept = tuple(structs.replace(one, expires_at=_sooner(one.expires_at, now + keep_seconds)) for one in live)
    return sent, structs.replace(key, secrets=(secret, *kept), rotated_at=now, rotated_by=by)


def _sooner(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)


def revoked(key: Key, now: int, by: str, reason: str) -> Key:
    """A key that is refused for ever, whose hashes are gone; who revoked it first stands."""
    if key.revoked is not None:
        return key
    return structs.replace(key, secrets=(), revoked=Revocation(at=now, by=by, reason=reason))


class LiveSecret(Struct, frozen=True):
    """A secret as a serving process looks it up: its hash, its end in unix seconds, and who calls with it."""

    hashed: bytes
    ends: float
    caller: Caller

    def __repr__(self) -> str:
        return f"LiveSecret({MASK}, {self.caller.id})"


class Ring(Struct, frozen=True):
    """Keys that are not revoked, by id, as a serving process looks them up.

    The hash of what was sent is compared in constant time with each of at most two.
    """

    keys: dict[str, tuple[LiveSecret, ...]]

    def caller(self, key_id: str, digest: bytes, now: float) -> Caller | None:
        """Who sent a key with this hash at a unix second; None if it is none that is live."""
        for one in self.keys.get(key_id, ()):
            if hmac.compare_digest(one.hashed, digest) and now < one.ends:
                return one.caller
        return None

    def named(self, key_id: str, secret: str, now: float) -> Caller | None:
        """Who signed in with a key's secret of this name; None once that is not live."""
        for one in self.keys.get(key_id, ()):
            if hmac.compare_digest(one.caller.secret, secret) and now < one.ends:
                return one.caller
        return None

    def live(self, now: float) -> bool:
        """Whether any key is."""
        return any(now < one.ends for secrets_ in self.keys.values() for one in secrets_)


def name_of(digest: bytes) -> str:
    """The name of a secret: the beginning of its hash, from which it cannot be found."""
    return digest[:8].hex()


def ring(kept: Mapping[bytes, bytes]) -> tuple[Ring, list[str]]:
    """Keys from their JSON by id, and the ids of those that this build cannot read, which open nothing."""
    keys, odd = {}, []
    for name, text in kept.items():
        try:
            key_id, key = name.decode(), KEY.decode(text)
            found = [(bytes.fromhex(one.sha256), one.expires_at) for one in key.secrets]
        except ValueError:
            odd.append(name.decode("utf8", "replace"))
            continue
        if key.revoked is None:
            scopes = frozenset[str](known_scopes(key.scopes)[0])
            keys[key_id] = tuple(
                LiveSecret(hashed, inf if ends is None else ends, Caller(key_id, scopes, key.rate, name_of(hashed)))
                for hashed, ends in found
            )
    return Ring(keys), odd


def environment_callers(words: Iterable[str]) -> dict[bytes, Caller]:
    """Callers with keys of the environment by the hash of the key: all but `admin`, at any rate."""
    digests = [digest_of(word) for word in words]
    return {one: Caller(ENVIRONMENT, frozenset(ENVIRONMENT_SCOPES), None, name_of(one)) for one in digests}
