"""Links of messages: unsubscribing and clicks, as tokens that only this house makes, and reads years later. Pure.

A token is encrypted and authenticated under a key made of the house's secret, the same token for the same content
(RFC 5297). It shows nobody the player, names no row that could be gone, and has no end: who wants no more mails must
be heard whenever they say so.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from features.store.deployment import House

UNSUBSCRIBE: Final = "/unsubscribe/"
CLICK: Final = "/c/"
CALLBACKS: Final = "/v1/callbacks/"
"""Where providers call back, each under the name of its connector."""
_LONGEST: Final = 4_096
"""Characters that a token has at most."""


class ContactToken(msgspec.Struct, frozen=True, array_like=True, tag="u"):
    """Whose message on which channel: the player's key. It withdraws consent, and finds a receipt's player."""

    player: str
    brand: str
    channel: str
    decision_id: str = ""


class ClickToken(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """Where a link of a message leads."""

    decision_id: str
    url: str


class InboxToken(msgspec.Struct, frozen=True, array_like=True, tag="i"):
    """Whose inbox a browser may read, of which placement ("" for all), until a unix second."""

    player: str
    placement: str
    until: int


_READ: Final = msgspec.msgpack.Decoder(ContactToken | ClickToken | InboxToken)


class Links(NamedTuple):
    """Makes and reads the tokens of a house."""

    key: bytes

    @classmethod
    def of(cls, house: House) -> Links:
        """Those of a house, under a key that it uses for nothing else."""
        secret = bytes.fromhex(house.secret)
        return cls(hashlib.blake2b(b"links", key=secret, digest_size=64, person=b"croupier").digest())

    def made(self, told: ContactToken | ClickToken | InboxToken) -> str:
        """The token of what a link says."""
        sealed = AESSIV(self.key).encrypt(msgspec.msgpack.encode(told), None)
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def contact(self, token: str) -> ContactToken | None:
        """Whose message a token is of; None for none of ours."""
        told = self._read(token)
        return told if isinstance(told, ContactToken) else None

    def click(self, token: str) -> ClickToken | None:
        """Where a token leads; None for none of ours."""
        told = self._read(token)
        return told if isinstance(told, ClickToken) else None

    def inbox(self, token: str) -> InboxToken | None:
        """Whose inbox a token opens; None for none of ours."""
        told = self._read(token)
        return told if isinstance(told, InboxToken) else None

    def _read(self, token: str) -> ContactToken | ClickToken | InboxToken | None:
        if len(token) > _LONGEST:
            return None
        try:
            sealed = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
            told: ContactToken | ClickToken = _READ.decode(AESSIV(self.key).decrypt(sealed, None))
        except (binascii.Error, ValueError, InvalidTag, msgspec.MsgspecError):
            return None
        return told

    def __repr__(self) -> str:
        """Without the key."""
        return "Links()"


NO_LINKS: Final = Links(bytes(64))
"""Of no house."""
