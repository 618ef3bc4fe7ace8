"""Split of players by GrowthBook's hash, version 2, and the variants that a catalogue lays over it. Pure.

The hash and its test vectors are GrowthBook's public ones (`sdk-js/test/cases.json`); ids are ASCII, where
all of its implementations agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Final

from models.catalogue.offers import Variant

_OFFSET: Final = 0x811C9DC5
_PRIME: Final = 0x01000193
BUCKETS: Final = 10_000
"""Places of a split."""


def fnv1a32(text: str, start: int = _OFFSET) -> int:
    """32-bit FNV-1a of the UTF-8 bytes; `start` is the value after those that stand before them."""
    value = start
    for byte in text.encode():
        value = ((value ^ byte) * _PRIME) & 0xFFFFFFFF
    return value


def place(salted: int, unit: str) -> int:
    """Place of a unit, 0 to 9,999: fnv1a32(str(fnv1a32(seed + unit))) mod 10000; `salted` is fnv1a32(seed)."""
    return fnv1a32(str(fnv1a32(unit, salted))) % BUCKETS


def bucket(seed: str, unit: str) -> float:
    """Place of a unit in [0, 1), in steps of 1/10000."""
    return place(fnv1a32(seed), unit) / BUCKETS


def variant(key: str, unit: str, shares: Mapping[Variant, float]) -> Variant:
    """Variant of a unit under the shares of a catalogue."""
    return variant_at(bucket(key, unit), shares)


def variant_at(where: float, shares: Mapping[Variant, float]) -> Variant:
    """Variant at a place in [0, 1): shares laid end to end, half-open, in the order of the mapping."""
    ends = accumulate(shares.values())
    # Rounding may leave the last end a hair below 1.
    return next((name for name, end in zip(shares, ends, strict=True) if where < end), list(shares)[-1])
