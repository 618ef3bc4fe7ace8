"""The personal part of a record: who was asked about, what they asked for, and what of them rules looked at.

It is sealed as values; texts for people are made of them when it is read. Pure but for the seal's nonce.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from features.unshown import Unshown
from service.decisions.record import Record
from service.players import sealing
from service.rules.inputs import CountedContact, InputRead, InputValue, in_words


class Narrowed(NamedTuple):
    """What the request narrowed the answer to; None stands for all."""

    channels: tuple[str, ...] | None
    offers: tuple[str, ...] | None
    activate: bool


class SealedPart(msgspec.Struct, frozen=True, kw_only=True):
    """What is sealed: facts as the store held them, parts of each `InputValue` by name, contacts that rules counted."""

    player_id: str
    request_id: str | None
    context: Mapping[str, str]
    facts: Mapping[bytes, bytes]
    inputs: Mapping[str, tuple[Any, int | None, str | None]]
    contacts: tuple[CountedContact, ...]
    asked: Narrowed


class Personal(Unshown, msgspec.Struct, frozen=True, kw_only=True):
    """The personal part as it is read; None where the first builds sealed nothing of the kind."""

    player_id: str
    request_id: str | None
    context: Mapping[str, str]
    facts: Mapping[bytes, bytes]
    inputs: Mapping[str, InputRead] | None
    contacts: tuple[CountedContact, ...] | None
    asked: Narrowed | None


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(SealedPart)


def seal_part(key: bytes, part: SealedPart, decision_id: str) -> bytes:
    """Seal the personal part of a decision under the player's key."""
    return sealing.encrypt(key, _ENCODER.encode(part), decision_id)


def personal(key: bytes | None, record: Record) -> Personal | None:
    """The personal part of a record of any version; None if the key was destroyed or does not fit."""
    plain = sealing.decrypt(key, record.sealed, record.decision_id)
    if plain is None:
        return None
    if plain.startswith(b"{"):
        return _first(msgspec.json.decode(plain))
    part = _DECODER.decode(plain)
    return Personal(
        player_id=part.player_id,
        request_id=part.request_id,
        context=part.context,
        facts=part.facts,
        inputs={name: in_words(name, InputValue(*value), record.at_us) for name, value in part.inputs.items()},
        contacts=part.contacts,
        asked=part.asked,
    )


def _first(said: Mapping[str, Any]) -> Personal:
    """The personal part of a record of version 1: texts, in JSON."""
    inputs, contacts, asked = said.get("inputs"), said.get("contacts"), said.get("asked")
    return Personal(
        player_id=said["player_id"],
        request_id=said["request_id"],
        context=said["context"],
        facts={name.encode(): text.encode() for name, text in said["facts"].items()},
        inputs=None if inputs is None else {name: InputRead(**one) for name, one in inputs.items()},
        contacts=None if contacts is None else tuple(CountedContact(*one) for one in contacts),
        asked=None if asked is None else Narrowed(asked["channels"], asked["offers"], bool(asked.get("activate"))),
    )
