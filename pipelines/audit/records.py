"""Find the record of a decision: in the store, in the log until that is trimmed, in a lake if there is one."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis

from features.lake import records
from features.lake.anchor import read_anchor
from features.lake.files import table_files, unmoved
from features.store.deployment import PARTITIONS, position
from features.store.keys import PlayerKeys, decision_key, log_key
from pipelines.audit.period import AuditRefused
from service.decisions.kept import load_stored
from service.decisions.personal import personal
from service.decisions.record import Record, load_record
from service.players.facts import ERASED, erased_us
from service.players.sealing import SealError, Seals

_NAME: Final = re.compile(r"\d{3}-[a-z2-7]{24}")
_PAGE: Final = 1_000


class FoundRecord(NamedTuple):
    """The record of a decision, and where it was found: `store`, or `log` or `lake` with its position there."""

    record: Record
    where: str


def find_record(client: redis.Redis, lake: Path, decision_id: str) -> FoundRecord:
    """Find the record of a decision.

    Args:
        client: The store.
        lake: The lake's folder; one that does not exist is empty.
        decision_id: As the decision answered it.

    Raises:
        AuditRefused: It is nowhere.
    """
    if _NAME.fullmatch(decision_id) is None or int(decision_id[:3]) >= PARTITIONS:
        raise AuditRefused(f"{decision_id!r} is no id of a decision: 017- and 24 letters or digits")
    held = cast("bytes | None", client.get(decision_key(decision_id)))
    place = None
    if held is not None:
        _, record, place = load_stored(held)
        if record is not None:
            return FoundRecord(record, "store")
    found = None if place is None else _at(client, lake, place)
    if found is None or found.record.decision_id != decision_id:
        found = _anywhere(client, lake, decision_id)
    if found is None:
        until = read_anchor(lake).until
        gone = f"; its days up to {until} were deleted, as lake.keep_days of mlflow.yaml says" if until else ""
        raise AuditRefused(f"there is no decision {decision_id} in the store, in its log, or in the lake {lake}{gone}")
    return found


def key_of(client: redis.Redis, record: Record, seals: Seals) -> bytes | None:
    """The key of a record's personal fields; None once the player was erased."""
    keys = PlayerKeys(record.player)
    stored, erased = cast("bytes | None", client.get(keys.seal)), cast("bytes | None", client.hget(keys.facts, ERASED))
    return opening_key(record, stored, erased, seals)


def opening_key(record: Record, stored: bytes | None, erased: bytes | None, seals: Seals) -> bytes | None:
    """The key of a record's personal fields, from the player's seal and what the facts say of an erasure.

    None where there is none, or where it was destroyed: the player was erased after the record was made. Of a seal that
    does not open it is empty, and opens nothing.
    """
    if stored is None:
        return None
    try:
        key = seals.open(record.player, stored)
    except SealError:
        return b""
    erased_at = None if erased is None else erased_us({ERASED.encode(): erased})
    if erased_at is not None and record.at_us <= erased_at and personal(key, record) is None:
        return None
    return key


def _at(client: redis.Redis, lake: Path, place: records.Place) -> FoundRecord | None:
    """A record at its place."""
    named = position(place.partition, place.stream_id)
    entries = cast("list[Any]", client.xrange(log_key(place.partition), place.stream_id, place.stream_id))
    if entries:
        return FoundRecord(load_record(entries[0][1][b"b"]), f"log {named}")
    with suppress(OSError, ValueError):  # it is looked for in the table too
        if (held := records.find_record(lake, place)) is not None:
            return FoundRecord(load_record(held), f"lake {named}")
    return None


def _anywhere(client: redis.Redis, lake: Path, decision_id: str) -> FoundRecord | None:
    """A record whose place the store no longer knows, or knows in vain."""
    partition, after = int(decision_id[:3]), "-"
    while entries := cast("list[Any]", client.xrange(log_key(partition), after, count=_PAGE)):
        for stream_id, fields in entries:
            if fields.get(b"k") == b"decision" and (record := load_record(fields[b"b"])).decision_id == decision_id:
                return FoundRecord(record, f"log {position(partition, stream_id.decode())}")
        after = f"({entries[-1][0].decode()}"
    return _in_table(lake, decision_id)


def _in_table(lake: Path, decision_id: str) -> FoundRecord | None:
    with unmoved(lake):
        for file in reversed(table_files(lake, "decisions")):
            if (row := _row_in(file, decision_id)) is not None:
                return FoundRecord(load_record(row["record"]), f"lake {row['position']}")
    return None


def _row_in(file: Path, decision_id: str) -> dict[str, Any] | None:
    """Record and position of a decision, if a file has it."""
    with pq.ParquetFile(file) as opened:
        for group in range(opened.num_row_groups):
            at = pc.index(opened.read_row_group(group, ["decision_id"])["decision_id"], decision_id).as_py()
            if at >= 0:
                found = opened.read_row_group(group, ["record", "position"]).slice(at, 1).to_pylist()
                return cast("dict[str, Any]", found[0])
    return None
