"""The read plan: layout of a player's features in the store, decoded and encoded without Feast.

Feast keeps a player in one Redis hash: a field per feature, a 32-bit hash of its name, that holds a `Value`
protobuf message, and a field per view with the event time. `features.definitions` compiles the plan from the
registry; processes that serve load it, ask for all fields in one round trip and decode the bytes here.

Wire format: https://protobuf.dev/programming-guides/encoding and the messages `feast.types.Value` and
`google.protobuf.Timestamp`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec

from features.errors import CroupierError

_SIGN: Final = 1 << 63
_WORD: Final = 1 << 64
_NEVER: Final = -_SIGN
"""Feast's null among the moments of UnixTimestamp."""
_UNKNOWN: Final = object()
"""In place of a value that may be any."""

_DOUBLE: Final = struct.Struct("<Bd")
_FLOAT: Final = struct.Struct("<Bf")
_LENGTH: Final = struct.Struct("<I")

Reader = Callable[[bytes], Any]
Writer = Callable[[Any], bytes]


class PlanError(CroupierError, ValueError):
    """The plan does not fit what the registry defines or what the store holds."""

    code = "invalid_plan"


class StoredRow(NamedTuple):
    """Stored values of a player as read: values in the plan's order, None for missing or null.

    `as_of` maps each view to the event time of its values in unix microseconds, None where nothing was written.
    """

    values: list[Any]
    as_of: dict[str, int | None]


@dataclass(frozen=True, slots=True)
class PlannedFeature:
    """One stored value: its Feast type and the hash field that holds it."""

    name: str
    view: str
    dtype: str
    field: bytes


@dataclass(frozen=True)
class ReadPlan:
    """Keys, hash fields and types of all stored values of a player, in Feast's Redis format.

    Attributes:
        project: Feast project, the last part of every key.
        schema_hash: The schema that the plan was compiled for.
        prefix: Bytes of a key before the length of the player's id.
        suffix: Bytes of a key after the player's id.
        features: The entries of `features.schema.STORED` in their order, then whatever else the registry defines.
        views: View -> the hash field of its event time.
    """

    project: str
    schema_hash: str
    prefix: bytes
    suffix: bytes
    features: tuple[PlannedFeature, ...]
    views: dict[str, bytes]

    @cached_property
    def fields(self) -> tuple[bytes, ...]:
        """Hash fields to read: one per feature, then the event time of each view."""
        return (*(feature.field for feature in self.features), *self.views.values())

    @cached_property
    def _readers(self) -> tuple[Reader, ...]:
        return tuple(_WIRES[feature.dtype][0] for feature in self.features)

    @cached_property
    def _writers(self) -> tuple[Writer, ...]:
        return tuple(_WIRES[feature.dtype][1] for feature in self.features)

    def key(self, entity: str) -> bytes:
        """Hash key of a player: entity key of serialization version 3, then the project."""
        value = entity.encode()
        return self.prefix + _LENGTH.pack(len(value)) + value + self.suffix

    def decode(self, values: Sequence[bytes | None]) -> StoredRow:
        """Decode the reply of HMGET.

        Args:
            values: One entry per entry of `fields`.

        Raises:
            PlanError: What the store holds is of another type than the plan says.
        """
        if len(values) != len(self.fields):
            msg = f"{len(values)} values for {len(self.fields)} fields"
            raise PlanError(msg)
        try:
            row = [read(value) if value else None for read, value in zip(self._readers, values, strict=False)]
            moments = [None if value is None else _read_moment(value) for value in values[len(row) :]]
        except _MALFORMED as error:
            raise PlanError(self._blame(values)) from error
        return StoredRow(row, dict(zip(self.views, moments, strict=True)))

    def encode(self, values: Sequence[Any], as_of_us: int, held: Sequence[Any] | None = None) -> list[bytes]:
        """Encode values as field, value, field, value ... for one HSET that writes every view of a player.

        Args:
            values: One per feature of the plan, None becomes Feast's null.
            as_of_us: Event time of all views, unix microseconds.
            held: Values that the store holds already: those that are still the same are left out.

        Raises:
            PlanError: A value does not fit its type.
        """
        moment = _write_moment(as_of_us)
        before = [_UNKNOWN] * len(values) if held is None else held
        pairs: list[bytes] = []
        for feature, write, value, known in zip(self.features, self._writers, values, before, strict=True):
            if value is known or value == known:
                continue
            pairs.append(feature.field)
            try:
                pairs.append(b"" if value is None else write(value))
            except _UNFIT as error:
                msg = f"{feature.view}:{feature.name} holds {feature.dtype}, not {value!r}"
                raise PlanError(msg) from error
        for field in self.views.values():
            pairs += field, moment
        return pairs

    def dumps(self) -> bytes:
        """The plan as JSON; equal plans give equal bytes."""
        return msgspec.json.encode(self)

    @classmethod
    def loads(cls, text: bytes) -> ReadPlan:
        """Read a plan that `dumps` wrote.

        Raises:
            PlanError: The text is no plan, or one with types that this build cannot read.
        """
        try:
            plan = msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            msg = f"this is no read plan: {error}"
            raise PlanError(msg) from error
        if unknown := {feature.dtype for feature in plan.features} - set(DTYPES):
            msg = f"the plan holds types that this build cannot read: {sorted(unknown)}"
            raise PlanError(msg)
        return plan

    def _blame(self, values: Sequence[bytes | None]) -> str:
        for feature, value in zip(self.features, values, strict=False):
            if value and not _reads(feature, value):
                return f"{feature.view}:{feature.name} holds no {feature.dtype}: {value!r}"
        return f"an event time of {', '.join(self.views)} is no Timestamp: {list(values[len(self.features) :])!r}"


def _reads(feature: PlannedFeature, value: bytes) -> bool:
    try:
        _WIRES[feature.dtype][0](value)
    except _MALFORMED:
        return False
    return True


_MALFORMED: Final = (ValueError, IndexError, struct.error)
_UNFIT: Final = (ValueError, TypeError, AttributeError, OverflowError, struct.error)


def _fixed(layout: struct.Struct, tag: int) -> tuple[Reader, Writer]:
    """Reader and writer of a fixed-width number."""
    unpack, pack = layout.unpack, layout.pack

    def read(data: bytes) -> float:
        found, number = unpack(data)
        if found != tag:
            raise ValueError(found)
        return number  # type: ignore[no-any-return]

    def write(value: float) -> bytes:
        return pack(tag, value)

    return read, write


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode the unsigned varint at a position; the number and the position after it."""
    number = shift = 0
    while (byte := data[at]) > 0x7F:
        number |= (byte & 0x7F) << shift
        shift += 7
        at += 1
    return number | byte << shift, at + 1


def _varint_bytes(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _signed(number: int) -> int:
    return number - _WORD if number & _SIGN else number


def _integer(tag: int, bits: int) -> tuple[Reader, Writer]:
    """Reader and writer of a signed (two's complement) varint."""
    head, limit = bytes([tag]), 1 << (bits - 1)

    def read(data: bytes) -> int:
        number, end = _varint(data, 1)
        if number & _SIGN:
            number -= _WORD
        if data[0] != tag or end != len(data) or not -limit <= number < limit:
            raise ValueError(data)
        return number

    def write(value: int) -> bytes:
        if not -limit <= value < limit:
            raise OverflowError(value)
        return head + _varint_bytes(value % _WORD)

    return read, write


def _text(tag: int, decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> tuple[Reader, Writer]:
    """Reader and writer of length-prefixed bytes."""
    head = bytes([tag])

    def read(data: bytes) -> str | bytes:
        length, start = _varint(data, 1)
        if data[0] != tag or start + length != len(data):
            raise ValueError(data)
        return decode(data[start:])  # type: ignore[no-any-return]

    def write(value: str | bytes) -> bytes:
        body = encode(value)
        return head + _varint_bytes(len(body)) + body

    return read, write


_BOOLS: Final = {b"\x38\x00": False, b"\x38\x01": True}


def _read_bool(data: bytes) -> bool:
    if data not in _BOOLS:
        raise ValueError(data)
    return _BOOLS[data]


def _write_bool(value: bool) -> bytes:  # noqa: FBT001 - the value itself
    return b"\x38\x01" if value else b"\x38\x00"


_read_unix, _write_unix = _integer(0x40, 64)


def _read_second(data: bytes) -> int | None:
    second: int = _read_unix(data)
    return None if second == _NEVER else second


def _read_moment(data: bytes) -> int:
    """Unix microseconds of a Timestamp message."""
    seconds = nanos = at = 0
    while at < len(data):
        tag = data[at]
        number, at = _varint(data, at + 1)
        if tag == 0x08:
            seconds = _signed(number)
        elif tag == 0x10:
            nanos = number
        else:
            raise ValueError(data)
    return seconds * 1_000_000 + nanos // 1_000


def _write_moment(moment_us: int) -> bytes:
    """Timestamp message of unix microseconds; protobuf omits zeros."""
    seconds, micros = divmod(moment_us, 1_000_000)
    head = b"\x08" + _varint_bytes(seconds % _WORD) if seconds else b""
    return head + b"\x10" + _varint_bytes(micros * 1_000) if micros else head


# Field number of feast.types.Value << 3 | wire type: the first byte of every value.
_WIRES: Final[Mapping[str, tuple[Reader, Writer]]] = {
    "Bytes": _text(0x0A, bytes, lambda value: value),
    "String": _text(0x12, bytes.decode, str.encode),
    "Int32": _integer(0x18, 32),
    "Int64": _integer(0x20, 64),
    "Float64": _fixed(_DOUBLE, 0x29),
    "Float32": _fixed(_FLOAT, 0x35),
    "Bool": (_read_bool, _write_bool),
    "UnixTimestamp": (_read_second, _write_unix),
}
DTYPES: Final = tuple(_WIRES)
"""Feast types that a plan can hold; UnixTimestamp reads as whole unix seconds."""
