"""Materialise batch features at cut-offs in the lake, where training reads them through Feast.

    lake/features/day=2020-01-31/1580515199999999-<schema>-<lake>.parquet

A file is named after its moment, the schema's hash and the state of the lake that it was computed from: what is
there under the right name is kept, anything else for that moment is replaced.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import ibis
from ibis import Table
from rich.console import Console
from rich.progress import track

from features.batch import ACTIVITY, batch, read_activity, write_features
from features.events import moment
from features.forms import literal
from features.lake.files import table_files, unmoved
from features.schema import schema_hash

_FOLDERS: Final = ("events", "outcomes")
_NAME: Final = re.compile(r"(?P<as_of>\d+)-(?P<schema>[0-9a-f]{12})-[0-9a-f]{12}\.parquet")


class MaterialiseResult(NamedTuple):
    """Cut-offs whose features were computed, and those already there."""

    written: int
    kept: int


def materialise(lake: Path, cutoffs_us: Sequence[int], now_us: int) -> MaterialiseResult:
    """Compute the features of all players one microsecond before each cut-off.

    One thread reads activity in one order, so that the same events give the same bytes, and events after a
    cut-off change nothing about it.

    Args:
        lake: Directory of the lake.
        cutoffs_us: Cut-offs, unix microseconds; Feast joins `<=`, hence the microsecond.
        now_us: The house's clock, written beside the rows as the moment they were made.
    """
    state = lake_state(lake)
    names = {cutoff - 1: f"{cutoff - 1}-{schema_hash()}-{state}" for cutoff in sorted(set(cutoffs_us))}
    held = {file.stem for file in lake.glob("features/*/*.parquet")}
    missing = {as_of: name for as_of, name in names.items() if name not in held}
    if missing:
        with unmoved(lake):
            _write(lake, missing, now_us)
    _drop_replaced(lake, names)
    return MaterialiseResult(len(missing), len(names) - len(missing))


def lake_state(lake: Path) -> str:
    """Hash of the lake's activity files, twelve hex digits."""
    files = sorted(file for folder in _FOLDERS for file in table_files(lake, folder))
    seen = [(str(file.relative_to(lake)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(literal(seen).encode()).hexdigest()[:12]


def _write(lake: Path, names: dict[int, str], now_us: int) -> None:
    connection = ibis.duckdb.connect(threads=1)
    try:
        activity = _in_order(connection, lake, max(names))
        for as_of, name in track(names.items(), "Features", console=Console(stderr=True), total=len(names)):
            known = activity.filter(activity.occurred_at <= moment(as_of))
            write_features(batch(known, [as_of]), lake, name, moment(now_us))
    finally:
        connection.disconnect()


def _in_order(connection: ibis.BaseBackend, lake: Path, last_us: int) -> Table:
    """Activity up to a moment, ordered by time, so that later activity cannot change the blocks of the sums."""
    activity = read_activity(connection, lake)
    known = activity.filter(activity.occurred_at <= moment(last_us))
    others = [name for name in ACTIVITY.names if name != "occurred_at"]
    return connection.create_table("activity", known.order_by("occurred_at", *others), temp=True)


def _drop_replaced(lake: Path, names: dict[int, str]) -> None:
    """Delete features computed for the same moments from an older lake, and those of another schema."""
    for file in lake.glob("features/*/*.parquet"):
        found = _NAME.fullmatch(file.name)
        if found is None:
            continue
        replaced = names.get(int(found["as_of"]), file.stem) != file.stem
        if replaced or found["schema"] != schema_hash():
            file.unlink()
