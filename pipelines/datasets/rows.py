"""Rows of a data set: records with what became of them, as columns. Pure.

Whatever a row says of the decision's moment is what its record holds: nothing is computed again from what became known
later, and features of another build are those of the same names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.aggregates import forward
from features.kept_schemas import TODAY, LakeSchemas, SchemaError, by_name, lacking
from features.schema import PRODUCTS, VECTOR
from models.experiments.definition import GLOBAL_HOLDOUT
from pipelines.datasets.columns import CANDIDATE, FEATURES, RESPONSES, SCHEMA
from pipelines.datasets.prices import NAMELESS, Catalogues
from pipelines.datasets.rewards import RewardPart
from pipelines.learning.training_log import is_learnt
from service.decisions.record import Record, load_record, unpack_floats

_PARTS: Final = msgspec.msgpack.Decoder(list[RewardPart])
_BYTE: Final = 8


class Logged(NamedTuple):
    """A decision with what is known of it: a row of `log.LakeLog.records`, and its features today's way, if known."""

    record: Record
    known: Mapping[str, Any]
    features: NDArray[np.float64] | None


def read(rows: Sequence[Mapping[str, Any]], schemas: LakeSchemas, counts: Counter[str]) -> list[Logged]:
    """Read the records of rows; counts those that are `unreadable` and left out, and those of `unknown_features`."""
    found = []
    for row in rows:
        try:
            record = load_record(row["record"])
        except (msgspec.MsgspecError, TypeError):
            counts["unreadable"] += 1
            continue
        features = _features(record, schemas)
        counts["unknown_features"] += features is None
        found.append(Logged(record, row, features))
    return found


def _features(record: Record, schemas: LakeSchemas) -> NDArray[np.float64] | None:
    """Features of a record brought forward to its moment, as VECTOR names them; NaN where they were not recorded."""
    try:
        recorded = schemas.find(record.versions.schema)
        stored = by_name(unpack_floats(record.seen.features), recorded)
    except (SchemaError, ValueError):
        return None
    vector = forward(stored, record.at_us)
    if recorded is not TODAY and (gone := lacking(recorded)):
        vector[[one.name in gone for one in VECTOR]] = np.nan
    return vector


def batch(decisions: Sequence[Logged], catalogues: Catalogues, window_us: int) -> pa.RecordBatch:
    """Rows of decisions, one each, in the columns of SCHEMA."""
    if not decisions:
        return pa.RecordBatch.from_pylist([], schema=SCHEMA)
    plain = [_plain(one, catalogues, window_us) for one in decisions]
    named = [field for field in SCHEMA if field.name in plain[0]]
    columns = {field.name: pa.array([row[field.name] for row in plain], field.type) for field in named}
    columns["candidates"] = _candidates([one.record for one in decisions], catalogues)
    nothing = np.full(len(VECTOR), np.nan)
    matrix = np.array([nothing if one.features is None else one.features for one in decisions])
    matrix = matrix.reshape(len(decisions), len(VECTOR))
    columns |= {one.name: _feature(matrix[:, at], one.type) for at, one in enumerate(FEATURES)}
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _feature(values: NDArray[np.float64], kind: pa.DataType) -> pa.Array:
    """A feature's column; a product is told by its name."""
    numbers = pa.array(values, from_pandas=True)
    return pa.array(PRODUCTS, pa.string()).take(numbers.cast(pa.int32())) if kind == pa.string() else numbers


def _plain(one: Logged, catalogues: Catalogues, window_us: int) -> dict[str, Any]:
    """A row without candidates and features."""
    return (
        _decision(one.record, one.known["known_us"])
        | {"learnt": one.features is not None and is_learnt(one.record)}
        | _action(one.record)
        | _reward(one, catalogues, window_us)
        | _outcomes(one.known["outcomes"] or ())
    )


def _decision(record: Record, known_us: int) -> dict[str, Any]:
    seen, versions, choice = record.seen, record.versions, record.choice
    return {
        "decision_id": record.decision_id,
        "player": record.player,
        "brand": record.brand,
        "decision_point": record.decision_point,
        "purposes": record.purposes,
        "at": record.at_us,
        "known_at": known_us,
        "sandbox": record.sandbox,
        "experiments": [one._asdict() for one in record.experiments],
        "use": record.use,
        "global_holdout": GLOBAL_HOLDOUT in choice.excluded,
        "journey": None if record.journey is None else msgspec.structs.asdict(record.journey),
        "role": choice.role,
        "churn_score": seen.churn_score,
        "harm_level": seen.harm_level,
        "stage": seen.stage,
        "features_as_of": seen.as_of_us,
        "features_age_seconds": seen.age_seconds,
        "degraded": seen.degraded,
        "policy_version": choice.policy_version,
        "catalogue_version": versions.catalogue,
        "rules_version": versions.rules,
        "churn_version": versions.churn,
        "experiments_version": versions.experiments,
        "schema_version": versions.schema,
        "build": versions.build,
    }


def _action(record: Record) -> dict[str, Any]:
    sent, choice = record.action, record.choice
    return {
        "place": choice.place,
        "offer": sent and sent.offer,
        "channel": sent and sent.channel,
        "timing_slot": sent and sent.timing_slot,
        "purpose": sent and sent.purpose,
        "send_at": sent and sent.send_us,
        "valid_until": sent and sent.valid_until_us,
        "activated": record.activated,
        "propensity": choice.propensity,
        "u": choice.u,
    }


def _reward(one: Logged, catalogues: Catalogues, window_us: int) -> dict[str, Any]:
    known, sent, begun_us = one.known, one.record.action, one.known["begun_us"]
    worth, penalty = known["worth_minor"], known["penalty_minor"]
    version = one.record.versions.catalogue
    price = None if sent is None else catalogues.price(version, sent.offer, sent.channel)
    over = bool(known["over"])
    priced = over and (sent is None or price is not None)
    cost = 0 if price is None else price.sent_minor + (price.taken_minor if over and worth > 0 else 0)
    return {
        "reward_minor": worth - cost - penalty if priced else None,
        "reward_missing": None if priced else "unpriced" if over else _waiting(known),
        "worth_minor": worth if over else None,
        "cost_minor": cost if priced else None,
        "penalty_minor": penalty if over else None,
        "converted": worth > 0 if over else None,
        "reward_begins_at": begun_us,
        "reward_ends_at": None if begun_us is None else begun_us + window_us,
        "priced_by": price.priced_by if price is not None and priced else None,
        "reward_events": [_part(part) for part in _PARTS.decode(known["parts"])] if known["parts"] else [],
    }


def _waiting(known: Mapping[str, Any]) -> str:
    """Why a decision whose window is not over has no reward."""
    if known["over"] is None:
        return "not_confirmed"
    return "not_confirmed_yet" if known["begun_us"] is None else "window_open"


def _part(part: RewardPart) -> dict[str, Any]:
    named = part._asdict()
    return {"occurred_at": named.pop("occurred_us"), "known_at": named.pop("known_us"), **named}


def _outcomes(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = {f"{type_}_at": _first(outcomes, type_) for type_ in RESPONSES}
    observed = [
        {"type": one["type"], "occurred_at": one["occurred_us"], "known_at": one["known_us"]} for one in outcomes
    ]
    return first | {"outcomes": observed}


def _first(outcomes: Sequence[Mapping[str, Any]], type_: str) -> int | None:
    return min((one["occurred_us"] for one in outcomes if one["type"] == type_), default=None)


def _candidates(records: Sequence[Record], catalogues: Catalogues) -> pa.Array:
    """What was eligible, a list for each record; null where a record's mask and pmf do not fit."""
    lists = [_eligible(record, catalogues) for record in records]
    ends = np.cumsum([0, *(0 if one is None else len(one[0]) for one in lists)], dtype=np.int32)
    held = [one for one in lists if one is not None]
    places, named, pmf, scores = (
        np.concatenate([one[at] for one in held]) if held else np.zeros((0, 3)[: 1 + (at == 1)]) for at in range(4)
    )
    names = pa.array(catalogues.names, pa.string())
    words = [names.take(pa.array(column, mask=column == NAMELESS)) for column in named.astype(np.int32).T]
    columns = [pa.array(places.astype(np.int32)), *words, pa.array(pmf), pa.array(scores, from_pandas=True)]
    values = pa.StructArray.from_arrays(columns, fields=list(CANDIDATE))
    return pa.ListArray.from_arrays(pa.array(ends), values, mask=pa.array([one is None for one in lists]))


def _eligible(record: Record, catalogues: Catalogues) -> tuple[NDArray[Any], ...] | None:
    """Places, names as indexes, pmf and scores of a record; None where they do not fit each other."""
    choice = record.choice
    pmf, scores = unpack_floats(choice.pmf), unpack_floats(choice.scores)
    bits = np.frombuffer(choice.mask, dtype=np.uint8)
    places = np.flatnonzero(np.unpackbits(bits))
    if len(places) != len(pmf):
        return None
    scored = scores if len(scores) == len(pmf) else np.full(len(pmf), np.nan)
    return places, catalogues.named(record.versions.catalogue, places), pmf, scored
