"""The player and the request that a decision was made from, read back from its record. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from features.aggregates import forward
from models.catalogue.offers import Purpose
from service.decisions.assess import RecordedPlayer
from service.decisions.behaviour import Behaviour
from service.decisions.eligibility import Asked
from service.decisions.record import Record, unpack_floats
from service.rules.inputs import CountedContact

_TROUBLES = frozenset({"features_unavailable", "features_stale"})


def recorded_player(record: Record, personal: Mapping[str, Any]) -> RecordedPlayer:
    """The player as a decision saw them.

    Args:
        record: Made with the features of this build (`versions.schema`).
        personal: Its personal fields, unsealed.
    """
    known = {name.encode(): value.encode() for name, value in personal["facts"].items()}
    contacts = tuple(CountedContact(*one) for one in personal.get("contacts", ()))
    return RecordedPlayer(known, _behaviour(record), contacts)


def _behaviour(record: Record) -> Behaviour:
    seen, at_us = record.seen, record.at_us
    stored = unpack_floats(seen.features)
    whole = stored if seen.whole is None else unpack_floats(seen.whole)
    vector = forward(stored, at_us)
    strictest = vector if seen.whole is None else forward(whole, at_us)
    trouble = next(iter(_TROUBLES.intersection(seen.degraded)), None)
    return Behaviour(stored, vector, whole, strictest, seen.as_of_us, seen.age_seconds, trouble)


def recorded_request(record: Record, personal: Mapping[str, Any]) -> Asked:
    """What a decision was asked for."""
    asked: Mapping[str, Any] = personal.get("asked", {})
    channels, offers = asked.get("channels"), asked.get("offers")
    return Asked(
        record.brand,
        frozenset(cast("tuple[Purpose, ...]", record.purposes)),
        None if channels is None else frozenset(channels),
        None if offers is None else frozenset(offers),
        bool(asked.get("activate")),
    )
