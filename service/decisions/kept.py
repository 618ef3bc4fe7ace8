"""What the store keeps of a decision: what confirms, outcomes and retries need, and where its record is. Pure.

record --kept--> stream id, moment, some fields       35 days in the store
record, if the request asked to explain --> the same with the whole record, so that a retry gives the same bytes
"""

from __future__ import annotations

from functools import reduce
from math import isnan
from operator import or_
from struct import Struct
from typing import Final, NamedTuple, Self

import msgspec

from features.events import HarmLevel
from features.kept_schemas import TODAY
from features.lake.records import Place
from features.schema import STORED
from models.catalogue.offers import NO_CONTACT
from models.experiments.assignment import Membership
from service.decisions.record import Choice, ChosenContact, Record, load_record


class KeptDecision(msgspec.Struct, frozen=True, array_like=True):
    """Fields of a record, named as there; `excluded_by` are the ids of what excluded candidates.

    `whole` is a bit set over these: which excluded every contact that was asked for, empty where some contact was left.
    `churn_is_default` says that no model could know the score, None of decisions of builds that did not tell.

    Fields are only ever added at the end, with a default: this is the form in which they lie in the store.
    """

    decision_id: str
    player: str
    brand: str
    at_us: int
    request: bytes
    experiments: tuple[Membership, ...]
    action: ChosenContact | None
    place: int
    propensity: float
    policy_version: str
    excluded_by: tuple[str, ...]
    churn_score: float | None
    churn_version: str | None
    harm_level: HarmLevel
    degraded: tuple[str, ...]
    assumed: tuple[str, ...]
    rules_version: str
    sandbox: bool
    whole: bytes = b""
    churn_is_default: bool | None = None

    @classmethod
    def of(cls, record: Record) -> Self:
        """What is kept of a record."""
        choice, seen = record.choice, record.seen
        return cls(
            record.decision_id,
            record.player,
            record.brand,
            record.at_us,
            record.request,
            record.experiments,
            record.action,
            choice.place,
            choice.propensity,
            choice.policy_version,
            tuple(choice.excluded),
            seen.churn_score,
            record.versions.churn,
            seen.harm_level,
            seen.degraded,
            seen.assumed,
            record.versions.rules,
            record.sandbox,
            _whole(choice),
            _is_default(record),
        )


def _whole(choice: Choice) -> bytes:
    """Which exclusions excluded every contact that was asked for; empty where some contact was left."""
    if choice.place != NO_CONTACT or len(choice.pmf) != _ONE:
        return b""
    sets = [int.from_bytes(bits, "big") for bits in choice.excluded.values()]
    every, unasked, covers = reduce(or_, sets, 0), int.from_bytes(choice.excluded.get("not_requested", b""), "big"), 0
    if unasked == every:
        return b""
    for place, bits in enumerate(sets):
        if bits == every or bits | unasked == every:
            covers |= 1 << place
    return covers.to_bytes(len(sets) // 8 + 1, "little")


def _is_default(record: Record) -> bool | None:
    """Whether no model could know the churn score: none served, or the player never deposited."""
    if record.seen.churn_score is None or record.versions.schema != TODAY.hash:
        return None
    return record.versions.churn is None or isnan(_DEPOSITED.unpack_from(record.seen.features, _DEPOSITED_AT)[0])


_ONE: Final = 8
"""Bytes of a probability."""
_DEPOSITED: Final = Struct("<d")
_DEPOSITED_AT: Final = _DEPOSITED.size * [one.name for one in STORED].index("first_deposit_at")
"""Where a record's features say when the player first deposited."""


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(KeptDecision)


class Stored(NamedTuple):
    """A decision as the store holds it.

    Attributes:
        kept: What is needed of it.
        record: The whole record, where the request asked to explain, or an earlier build kept it.
        place: Where the record is in the log; None of what an earlier build kept.
    """

    kept: KeptDecision
    record: Record | None
    place: Place | None


def dump_kept(kept: KeptDecision, record: Record) -> bytes:
    """What the store keeps of a record; nothing for one that it keeps whole."""
    return b"" if record.explain else _ENCODER.encode(kept)


def load_stored(held: bytes) -> Stored:
    """Read what the store holds: the place as text, then the kept fields or the whole record."""
    named, content = (held[:0], held) if not held[:1].isdigit() else _split(held)
    record = load_record(content) if _is_map(content) else None
    kept = _DECODER.decode(content) if record is None else KeptDecision.of(record)
    if not named:
        return Stored(kept, record, None)
    stream_id, _, known_us = named.decode().partition(" ")
    return Stored(kept, record, Place(int(kept.decision_id[:3]), stream_id, int(known_us)))


def _split(held: bytes) -> tuple[bytes, bytes]:
    """Place and content."""
    ends = held.index(b" ", held.index(b" ") + 1)
    return held[:ends], held[ends + 1 :]


def _is_map(content: bytes) -> bool:
    """Whether msgpack is of a record, not of the kept fields."""
    return content[0] >> 4 == 0x8 or content[0] in {0xDE, 0xDF}
