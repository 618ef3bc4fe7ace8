"""Experiment split: a player's variant by GrowthBook's hash, version 2. Pure.

The hash and its test vectors are GrowthBook's public ones (`sdk-js/test/cases.json`); ids are ASCII, where
all of its implementations agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from models.catalogue.offers import Experiment, Variant

_OFFSET: Final = 0x811C9DC5
_PRIME: Final = 0x01000193
_BUCKETS: Final = 10_000


def fnv1a32(text: str) -> int:
    """32-bit FNV-1a of the UTF-8 bytes."""
    value = _OFFSET
    for byte in text.encode():
        value = ((value ^ byte) * _PRIME) & 0xFFFFFFFF
    return value


def bucket(seed: str, unit: str) -> float:
    """Place of a unit in [0, 1), steps of 1/10000: fnv1a32(str(fnv1a32(seed + unit))) mod 10000."""
    return (fnv1a32(str(fnv1a32(seed + unit))) % _BUCKETS) / _BUCKETS


def variant(key: str, unit: str, shares: Mapping[Variant, float]) -> Variant:
    """Variant of a unit: shares laid end to end over [0, 1), half-open, in the order of the mapping."""
    return _at(bucket(key, unit), shares)


def _at(place: float, shares: Mapping[Variant, float]) -> Variant:
    ends = accumulate(shares.values())
    # Rounding may leave the last end a hair below 1.
    return next((name for name, end in zip(shares, ends, strict=True) if place < end), list(shares)[-1])


class Assignment(NamedTuple):
    """Where a player stands in an experiment: its key, the player's variant, their bucket in [0, 1)."""

    experiment: str
    variant: str
    bucket: float


def assign(experiment: Experiment, unit: str) -> Assignment:
    """Assign a unit, by its own id."""
    place = bucket(experiment.key, unit)
    return Assignment(experiment.key, _at(place, experiment.variants), place)
