"""Schemas of builds that never were: features added, gone, moved or defined otherwise; and records under them"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.kept_schemas import FOLDER, Schema, by_name
from features.schema import DAY, STORED, Dtype, Feature, Kind, Use
from service.decisions.record import Record, dump_record, load_record, pack_floats, unpack_floats

POINTS = Feature("points_30d", Dtype.FLOAT64, "points", Use.MODEL, Kind.DECAYED, {"type": ("bet",)}, "points", 30 * DAY)
"""A feature that there is not today."""


_TODAY = Schema.of(STORED)


def without(*names: str) -> Schema:
    """Today's before some features were there."""
    return Schema.of([one for one in STORED if one.name not in names])


def otherwise(*names: str) -> Schema:
    """Today's with features of the same names that count by another unit."""
    return Schema.of([replace(one, unit="another") if one.name in names else one for one in STORED])


ALIKE = {
    "one more in the middle": Schema.of([*STORED[:40], POINTS, *STORED[40:]]),
    "one more at the end": Schema.of([*STORED, POINTS]),
    "another order": Schema.of(STORED[::-1]),
}
"""Schemas that have all of today's features."""
FEWER = {
    "one less in the middle": without("night_bet_sum_30d"),
    "one less at the end": without("bonus_count"),
    "one defined otherwise": otherwise("support_count_30d"),
    "one more, some less": Schema.of([POINTS, *(one for one in STORED[::-1] if not one.name.startswith("limit_"))]),
}
"""Schemas that lack features which no policy and no churn model may see."""


def under(record: Record, schema: Schema) -> Record:
    """A record as a build with another schema would have written it: features that are not today's are a million."""

    def moved(values: bytes) -> bytes:
        found = by_name(unpack_floats(values), _TODAY, schema)
        strange = [not _TODAY.has(name, schema) if name in _TODAY.definitions else True for name in schema.definitions]
        return pack_floats(np.where(strange, 1e6, found))

    seen = record.seen
    seen = msgspec.structs.replace(
        seen, features=moved(seen.features), whole=None if seen.whole is None else moved(seen.whole)
    )
    versions = msgspec.structs.replace(record.versions, schema=schema.hash)
    return msgspec.structs.replace(record, seen=seen, versions=versions)


def rewritten(lake: Path, schema: Schema, files: Iterable[Path] | None = None) -> int:
    """Write the decisions of a lake again, as a build with another schema would have; returns how many."""
    count = 0
    for file in lake.glob("decisions/*/*.parquet") if files is None else files:
        table = pq.read_table(file, partitioning=None)
        records = [dump_record(under(load_record(one), schema)) for one in table["record"].to_pylist()]
        place = table.schema.get_field_index("record")
        pq.write_table(table.set_column(place, table.schema.field(place), pa.array(records, pa.binary())), file)
        count += len(records)
    return count


def keep_schema(lake: Path, schema: Schema) -> None:
    """Keep a schema beside a lake's files, as the worker does."""
    file = lake / FOLDER / f"{schema.hash}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(schema.dumps())
