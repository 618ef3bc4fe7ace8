"""Addresses of players: mail, phone, push tokens, sealed under the player's own key. Pure.

A fact of an address holds the address' key (a pseudonym, under which the house finds who shares it), whether it was
verified, and the address itself with what the player is called, sealed. A push token is a fact of its own, for a player
has one on each device.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple, Self

from features.unshown import Unshown
from service.players import sealing
from service.players.facts import Assertion, StoredFact

AddressKind = Literal["mail", "phone", "push"]
KIND_OF: Final[Mapping[str, AddressKind]] = {"email": "mail", "sms": "phone", "call": "phone", "push": "push"}
"""Which address each channel needs; the house's own inbox needs none."""
ADDRESS: Final = "address"
"""What a sealed address is bound to."""
_GONE: Final = "-"
_TOKENS_MOST: Final = 20
"""Push tokens that are written to: the latest."""


class StoredAddress(NamedTuple):
    """An address as a fact holds it."""

    key: str
    verified: bool
    sealed: str
    told_us: int


class Recipient(Unshown, tuple[tuple[str, ...], str]):
    """Whom a message goes to: addresses, and what the player is called ("" for unknown)."""

    __slots__ = ()

    def __new__(cls, addresses: tuple[str, ...], name: str) -> Self:
        """Of addresses and a name."""
        return super().__new__(cls, (addresses, name))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where to."""
        return self[0]

    @property
    def name(self) -> str:
        """Whom."""
        return self[1]


def normal(kind: AddressKind, address: str) -> str:
    """An address as it is compared with others: mail in lower case, as providers take it."""
    return address.lower() if kind == "mail" else address


def field(brand: str, kind: AddressKind, key: str) -> str:
    """The name of an address' fact."""
    return f"{ADDRESS}:{brand}:{kind}" + (f":{key[-16:]}" if kind == "push" else "")


def asserted(brand: str, kind: AddressKind, key: str, at: int, sealed: bytes | None, *, verified: bool) -> Assertion:
    """Assert an address from a moment on, or that it is none any more (`sealed` is None)."""
    text = _GONE if sealed is None else f"{key} {int(verified)} {base64.b64encode(sealed).decode()}"
    return Assertion(field(brand, kind, key), at, int(sealed is None), text)


def held(facts: Mapping[bytes, bytes], brand: str, channel: str) -> list[StoredAddress]:
    """Addresses of a player for a channel that can be used, the latest first.

    What bounced for good is no address any more until a later one is told.
    """
    kind = KIND_OF.get(channel)
    if kind is None:
        return []
    bounced = facts.get(f"unusable:{brand}:{channel}".encode())
    since_us = -1 if bounced is None else StoredFact.loads(bounced).moment_us
    found = [one for one in _held(facts, field(brand, kind, "").encode()) if one.told_us > since_us]
    return sorted(found, key=lambda one: -one.told_us)[:_TOKENS_MOST]


def _held(facts: Mapping[bytes, bytes], prefix: bytes) -> Iterator[StoredAddress]:
    prefix = prefix.rstrip(b":")
    for name, value in facts.items():
        if name == prefix or name.startswith(prefix + b":"):
            told = StoredFact.loads(value)
            if told.text != _GONE:
                key, verified, sealed = told.text.split(" ", 2)
                yield StoredAddress(key, verified == "1", sealed, told.moment_us)


def keys(facts: Mapping[bytes, bytes]) -> set[str]:
    """Keys of all addresses that a player has, whatever the brand."""
    return {one.key for one in _held(facts, ADDRESS.encode())}


def recipient(facts: Mapping[bytes, bytes], brand: str, channel: str, key: bytes | None) -> Recipient | str:
    """Whom a message on a channel goes to, or why to nobody.

    Args:
        facts: The player's, as the store holds them.
        brand: Which.
        channel: On which.
        key: The player's own; None if it was destroyed.
    """
    if channel not in KIND_OF:
        return Recipient((), _name(facts, brand, key))
    told = held(facts, brand, channel)
    if not told:
        return f"no {KIND_OF[channel]} address of the player is known, or it bounced"
    opened = [one for one in (_opened(one, key) for one in told) if one is not None]
    if not opened:
        return "the player's addresses cannot be opened"
    return Recipient(tuple(one[ADDRESS] for one in opened), next((one["name"] for one in opened if one["name"]), ""))


def _opened(told: StoredAddress, key: bytes | None) -> dict[str, str] | None:
    found = sealing.unseal(key, base64.b64decode(told.sealed), ADDRESS)
    return None if found is None else {ADDRESS: str(found[ADDRESS]), "name": str(found.get("name") or "")}


def _name(facts: Mapping[bytes, bytes], brand: str, key: bytes | None) -> str:
    """What a player is called, as any of their addresses has it."""
    told = (_opened(one, key) for channel in KIND_OF for one in held(facts, brand, channel))
    return next((one["name"] for one in told if one is not None and one["name"]), "")
