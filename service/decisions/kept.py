"""What the store keeps of a decision: what confirms, outcomes and retries need, and where its record is. Pure.

record --kept--> stream id, moment, some fields       35 days in the store
record, if the request asked to explain --> the same with the whole record, so that a retry gives the same bytes
"""

from __future__ import annotations

from typing import Final, NamedTuple, Self

import msgspec

from features.events import HarmLevel
from features.lake.records import Place
from models.experiments.assignment import Membership
from service.decisions.record import ChosenContact, Record, load_record


class KeptDecision(msgspec.Struct, frozen=True, array_like=True):
    """Fields of a record, named as there; `excluded_by` are the ids of what excluded candidates.

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
        )


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


def dump_kept(record: Record) -> bytes:
    """What the store keeps of a record; nothing for one that it keeps whole."""
    return b"" if record.explain else _ENCODER.encode(KeptDecision.of(record))


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
