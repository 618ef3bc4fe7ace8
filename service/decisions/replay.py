"""The player and the request that a decision was made from, read back from its record. Pure."""

from __future__ import annotations

from typing import cast

from features.aggregates import forward
from features.kept_schemas import Schema, by_name
from models.catalogue.offers import Purpose
from service.decisions.assess import Behaviour, RecordedPlayer
from service.decisions.eligibility import Asked
from service.decisions.personal import Narrowed, Personal
from service.decisions.record import Record, unpack_floats

_TROUBLES = frozenset({"features_unavailable", "features_stale"})


def recorded_player(record: Record, personal: Personal, schema: Schema) -> RecordedPlayer:
    """The player as a decision saw them, whose features are of a schema (`versions.schema`).

    A feature that was not recorded is as of a new player.
    """
    return RecordedPlayer(personal.facts, _behaviour(record, schema), personal.contacts or ())


def _behaviour(record: Record, schema: Schema) -> Behaviour:
    seen, at_us = record.seen, record.at_us
    stored = by_name(unpack_floats(seen.features), schema)
    whole = stored if seen.whole is None else by_name(unpack_floats(seen.whole), schema)
    vector = forward(stored, at_us)
    strictest = vector if seen.whole is None else forward(whole, at_us)
    trouble = next(iter(_TROUBLES.intersection(seen.degraded)), None)
    return Behaviour(stored, vector, whole, strictest, seen.as_of_us, seen.age_seconds, trouble)


def recorded_request(record: Record, personal: Personal) -> Asked:
    """What a decision was asked for; the first builds kept nothing of what narrowed it."""
    asked = personal.asked or Narrowed(None, None, activate=False)
    return Asked(
        record.brand,
        frozenset(cast("tuple[Purpose, ...]", record.purposes)),
        None if asked.channels is None else frozenset(asked.channels),
        None if asked.offers is None else frozenset(asked.offers),
        asked.activate,
    )
