"""The decision record: all that explains and replays one decision, in its final format. Pure.

A record names the player by player key only; what is personal (the caller's id, facts, free context) is
sealed under the player's own key, so that destroying the key erases it and leaves the log whole.
"""

from __future__ import annotations

import platform
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from features.events import HarmLevel
from models.experiments.assignment import REASONS, Assignment, Membership
from models.experiments.definition import Use
from service.contacts.stops import StopInForce

VERSION: Final = 2


class ChosenContact(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen contact, whole, so that an answer never depends on a later catalogue; unix microseconds."""

    offer: str
    name: str
    template: str
    parameters: dict[str, Any]
    purpose: str
    channel: str
    timing_slot: str
    send_us: int
    valid_until_us: int


class DeferredContact(msgspec.Struct, frozen=True, kw_only=True):
    """Contacts of a timing slot that a rule put off; unix microseconds, `candidates` a bit set over the places."""

    rule: str
    timing_slot: str
    allowed_from_us: int
    candidates: bytes


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """How the action came about: mask, scores, pmf and draw reproduce it bit for bit.

    Sets and arrays are over the places of the catalogue's candidates (`models.catalogue.offers`); `scores` and `pmf`
    are little-endian float64 of the eligible places, in order.

    Attributes:
        role: `drawn` from a policy, `lost` if it was drawn but a budget could not bear it, `holdout`, `objected`,
            `priority` for purposes that are asked for, or `fallback` where the policy asked for did not answer.
        u: The uniform number of the draw.
        excluded: Rule or cap id -> bit set of the candidates that it blocked.
        mask: Bit set of the eligible candidates.
        deferrals: What hours put off, and to when.
    """

    role: str
    policy_version: str
    place: int
    propensity: float
    u: float
    mask: bytes
    excluded: dict[str, bytes]
    scores: bytes
    pmf: bytes
    deferrals: tuple[DeferredContact, ...] = ()


class ObservedInputs(msgspec.Struct, frozen=True, kw_only=True):
    """What was known of the player: `features` are little-endian float64 of `features.schema.STORED`.

    `churn_score` is None where none may be made; `harm_sources` are the levels that each source spoke for; `whole` are
    the features with those of linked ids, which rules looked at, None where there were none.
    """

    features: bytes
    as_of_us: int | None
    age_seconds: float | None
    churn_score: float | None
    harm_level: HarmLevel
    markers: dict[str, float]
    stage: str
    degraded: tuple[str, ...]
    assumed: tuple[str, ...]
    facts_version: str
    ledger_version: str
    harm_sources: dict[str, str] = {}
    whole: bytes | None = None


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """Content hashes of all that took part; scores reproduce bit for bit on the same `build` only.

    `packs` are the packs of rules that bound the player, with version and the day they were last checked;
    `experiments` is None in records that say it of each experiment alone.
    """

    catalogue: str
    rules: str
    schema: str
    churn: str | None
    time_zones: str
    build: str
    packs: tuple[str, ...] = ()
    experiments: str | None = None


class JourneyPlace(msgspec.Struct, frozen=True, kw_only=True):
    """The step of a journey that asked: the journey, one player's run through it, the node, and which visit it is."""

    id: str
    instance: str
    node: str
    visit: int


class ShadowPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that is to be asked after the answer, and its snapshot; what it says is an entry of its own."""

    policy: str
    snapshot: str


class _Logged(msgspec.Struct, frozen=True, kw_only=True):
    """What the records of every version hold."""

    v: int = VERSION
    decision_id: str
    player: str
    brand: str
    at_us: int
    attempt: int
    request: bytes
    explain: bool
    purposes: tuple[str, ...]
    decision_point: str | None
    action: ChosenContact | None
    activated: bool
    choice: Choice
    seen: ObservedInputs
    versions: Versions
    sandbox: bool
    sealed: bytes
    chain: bytes | None = None


class Record(_Logged, frozen=True, kw_only=True):
    """One decision, as it is logged. Moments are unix microseconds of house time.

    Attributes:
        v: Version of the format that it was logged in.
        request: Digest of the request's body.
        sealed: Personal fields, see `service.decisions.personal`.
        chain: Room for the hash of the record before it in its partition.
        experiments: Every experiment that the player was in.
        use: What the variants make of the player's decisions, whatever the role; nothing is learnt from `eval`.
        journey: What asked, if a journey did.
        shadows: Policies to be asked what they would have done.
        stops: What the house had stopped in the player's partition; absent where nothing was.
    """

    experiments: tuple[Membership, ...]
    use: Use
    journey: JourneyPlace | None = None
    shadows: tuple[ShadowPolicy, ...] = ()
    stops: tuple[StopInForce, ...] | UnsetType = UNSET


class FirstRecord(_Logged, frozen=True, kw_only=True):
    """A record of version 1, which had room for one experiment; empty texts are none."""

    experiment: str
    variant: str
    bucket: float

    def read(self) -> Record:
        """The record as later versions have it; its experiment had no phases and no releases."""
        member = Membership(self.experiment, "", 1, self.variant, self.bucket)
        held_out = self.choice.role == "holdout"
        return Record(
            **{name: getattr(self, name) for name in _Logged.__struct_fields__},
            experiments=(member,) if self.experiment else (),
            use="control" if held_out else "explore" if self.variant == "uniform" else "train",
        )


class _Versioned(msgspec.Struct):
    v: int = 1


_ENCODER: Final = msgspec.msgpack.Encoder()
_VERSIONED: Final = msgspec.msgpack.Decoder(_Versioned)
_DECODER: Final = msgspec.msgpack.Decoder(Record)
_FIRST: Final = msgspec.msgpack.Decoder(FirstRecord)


def assignment(record: Record) -> Assignment:
    """What experiments made of the player, as it was recorded; sets are over the catalogue of the record."""
    excluded = record.choice.excluded
    return Assignment(
        record.experiments,
        use=record.use,
        withheld={reason: int.from_bytes(excluded[reason], "big") for reason in REASONS if reason in excluded},
    )


def dump_record(record: Record) -> bytes:
    """The record's bytes in the version that is written today, the same for the same record."""
    return _ENCODER.encode(record if record.v == VERSION else msgspec.structs.replace(record, v=VERSION))


def load_record(data: bytes) -> Record:
    """Read a record of any version; raises msgspec.MsgspecError for what is none."""
    if _VERSIONED.decode(data).v == 1:
        return _FIRST.decode(data).read()
    return _DECODER.decode(data)


_SIMD: Final = np.show_config(mode="dicts")["SIMD Extensions"]
BUILD: Final = f"numpy-{np.__version__} {platform.machine()} {[*_SIMD['baseline'], *_SIMD.get('found', ())][-1]}"
"""What makes numbers here: one wheel of numpy rounds exponentials and sums otherwise on processors of another level."""
_FLOATS: Final = np.dtype("<f8")


def pack_places(chosen: NDArray[np.bool_]) -> bytes:
    """Booleans over places as a bit set."""
    return np.packbits(chosen).tobytes()


def unpack_places(data: bytes, size: int) -> NDArray[np.bool_]:
    """A bit set as booleans over `size` places."""
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=size).astype(np.bool_)


def pack_floats(values: NDArray[np.float64]) -> bytes:
    """Floats as little-endian bytes."""
    return values.astype(_FLOATS, copy=False).tobytes()


def unpack_floats(data: bytes) -> NDArray[np.float64]:
    """Floats of little-endian bytes."""
    return np.frombuffer(data, dtype="<f8").astype(np.float64)
