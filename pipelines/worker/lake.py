"""Write the log to the lake: Parquet files, each entry once, then the log is trimmed.

A flush covers everything between two stream ids, over all partitions: the later boundary is closed in the
store first, so that nothing can be appended behind it. The boundaries name the files, and `_position.json`
says how far the lake reaches; a flush that died is done again with the same boundaries and the same names.
Boundaries only ever grow: where the store's clock was set back, the next lies behind the last entry.

    lake/events/day=2020-03-02/1583107200000-1583107215000.parquet      (day: when it became known, house time)
    lake/_schemas/9b2c9c7118b3.json       (names of the features in records, there before the first record with them)

Beside each file of decisions lies one of their records (`features.lake.records`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import redis
import structlog

from features.aggregates import local_parts
from features.events import moment
from features.kept_schemas import FOLDER, SchemaError, find
from features.lake.files import locked, put
from features.lake.records import beside, pack_records
from features.steps import Step, no_step
from features.store.bundles import kept
from features.store.cluster import is_away, replies
from features.store.deployment import PARTITIONS, order, place, position, real_now_us
from features.store.keys import lease_key, log_key
from models.experiments.definition import GLOBAL_HOLDOUT
from pipelines.worker.consumer import LogEntry, log_entry
from service.decisions.record import Record, load_record, unpack_floats
from service.events.accept import TOLD_AT

_LOG: Final = structlog.get_logger()
_MOMENT: Final = pa.timestamp("us", tz="UTC")
_KNOWN: Final = [("known_at", _MOMENT), ("position", pa.string())]
_MEMBERSHIP: Final = pa.struct(
    [
        *((name, pa.string()) for name in ("key", "version")),
        ("phase", pa.int32()),
        ("variant", pa.string()),
        ("bucket", pa.float64()),
    ]
)
_JOURNEY: Final = pa.struct([*((name, pa.string()) for name in ("id", "instance", "node")), ("visit", pa.int32())])
_PLACED: Final = [("time_zone", pa.string()), ("timing_slot", pa.string()), ("night", pa.bool_())]
SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    "events": pa.schema(
        [
            ("player", pa.string()),
            ("event_id", pa.string()),
            ("type", pa.string()),
            ("occurred_at", _MOMENT),
            ("brand", pa.string()),
            ("amount_minor", pa.int64()),
            ("status", pa.string()),
            ("method", pa.string()),
            ("target", pa.string()),
            ("product", pa.string()),
            ("channel", pa.string()),
            ("detail", pa.string()),
            ("sealed", pa.binary()),
            *_PLACED,
            *_KNOWN,
            ("counts_at", _MOMENT),
            ("currency", pa.string()),
            ("said_minor", pa.int64()),
            ("rate", pa.float64()),
            ("rate_source", pa.string()),
        ]
    ),
    "outcomes": pa.schema(
        [
            ("player", pa.string()),
            ("outcome_id", pa.string()),
            ("decision_id", pa.string()),
            ("type", pa.string()),
            ("occurred_at", _MOMENT),
            ("brand", pa.string()),
            ("channel", pa.string()),
            ("offer", pa.string()),
            *_PLACED,
            *_KNOWN,
        ]
    ),
    "decisions": pa.schema(
        [
            ("player", pa.string()),
            ("decision_id", pa.string()),
            ("at", _MOMENT),
            ("brand", pa.string()),
            ("decision_point", pa.string()),
            ("experiment", pa.string()),
            ("variant", pa.string()),
            ("role", pa.string()),
            ("policy_version", pa.string()),
            ("offer", pa.string()),
            ("channel", pa.string()),
            ("timing_slot", pa.string()),
            ("purpose", pa.string()),
            ("send_at", _MOMENT),
            ("valid_until", _MOMENT),
            ("activated", pa.bool_()),
            ("propensity", pa.float64()),
            ("u", pa.float64()),
            ("place", pa.int32()),
            ("eligible", pa.int32()),
            ("churn_score", pa.float64()),
            ("churn_version", pa.string()),
            ("harm_level", pa.string()),
            ("stage", pa.string()),
            ("catalogue_version", pa.string()),
            ("rules_version", pa.string()),
            ("record", pa.binary()),
            ("chain", pa.binary()),
            *_KNOWN,
            ("experiments", pa.list_(_MEMBERSHIP)),
            ("global_holdout", pa.bool_()),
            ("use", pa.string()),
            ("journey", _JOURNEY),
            ("experiments_version", pa.string()),
        ]
    ),
}
"""Columns of the lake; money in minor units, moments in UTC, `player` is the player key.

`counts_at` is the moment to which an event belongs that undoes an earlier one, null for its own. An amount in another
currency stands as it was told in `currency` and `said_minor`, and as it was exchanged at `rate`, of the rulebook
`rate_source`, in `amount_minor`; files of earlier builds lack these five columns.
`experiment` and `variant` are the first of `experiments`; files of the first builds lack that and all columns after it.
An outcome that names no decision has "" for it. A file with outcomes that a clock far ahead told has `told_at` too: the
moment it told, while `occurred_at` is when they began to hold."""


class Reach(msgspec.Struct, kw_only=True):
    """Reach of the lake: flushed stream milliseconds, a flush under way, the head of each hash chain."""

    flushed: int = 0
    pending: int | None = None
    heads: dict[str, str] = msgspec.field(default_factory=dict)


_SCHEMA: Final = "schema"
"""Of a row of decisions, but no column: hash of the schema of its features."""
POSITION: Final = "_position.json"
"""The file of a lake that says how far it reaches."""


def reach(folder: Path) -> Reach:
    """Reach of a lake; the beginning where nothing was flushed."""
    file = folder / POSITION
    return msgspec.json.decode(file.read_bytes(), type=Reach) if file.exists() else Reach()


class Lake:
    """Writes the log of all partitions to Parquet files. `step` is called before every step with its name."""

    def __init__(self, client: redis.Redis, folder: Path, step: Step = no_step) -> None:
        self._client = client
        self._step = step
        self._folder = folder
        self._file = folder / POSITION
        folder.mkdir(parents=True, exist_ok=True)
        self.reach = reach(folder)

    def flush(self) -> int:
        """Write everything logged until now; returns the number of entries.

        A lease can run out under a flush that takes long, so the folder is locked too: a second writer does nothing.

        Raises:
            redis.RedisError: Some partition does not answer: nothing is written, and the next call takes up the same
                flush.
            OSError: The folder cannot be written; the log is kept, and the same flush can be done again.
        """
        with locked(self._folder) as alone:
            if not alone:
                return 0
            self.reach = reach(self._folder)
            return self._flush()

    def _flush(self) -> int:
        if self.reach.pending is None:
            self._step("begin")
            self.reach.pending = self._boundary()
            self._save()
        first, last = self.reach.flushed, self.reach.pending
        self._step("close")
        self._close(f"{last}-0")
        self._step("gather")
        tables, heads, count = self._tables(f"({first}-0", f"{last}-0")
        self._keep_schemas({row[_SCHEMA] for rows in tables.values() for row in rows if _SCHEMA in row})
        for (table, day), rows in tables.items():
            self._write(table, day, f"{first}-{last}", rows)
            if table == "decisions":
                self._write_records(day, f"{first}-{last}", rows)
        self.reach = Reach(flushed=last, heads=heads)
        self._save()
        self._step("trim")
        self._trim()
        return count

    def _boundary(self) -> int:
        """Stream milliseconds that all entries until now lie before: the clock's, unless it was set back."""
        pipe = self._client.pipeline(transaction=False)
        for partition in range(PARTITIONS):
            pipe.xinfo_stream(log_key(partition))
        told = [one for one in pipe.execute(raise_on_error=False) if isinstance(one, dict)]
        last = max((order(one["last-generated-id"].decode())[0] for one in told), default=0)
        return max(real_now_us(self._client) // 1_000, last + 1, self.reach.flushed + 1)

    def _close(self, boundary: str) -> None:
        pipe = self._client.pipeline(transaction=False)
        for partition in range(PARTITIONS):
            pipe.fcall("croupier_close", 1, log_key(partition), boundary)
        pipe.execute()

    def _entries(self, first: str, last: str) -> Iterator[tuple[int, LogEntry]]:
        pipe = self._client.pipeline(transaction=False)
        for partition in range(PARTITIONS):
            pipe.xrange(log_key(partition), first, last)
        for partition, entries in enumerate(pipe.execute()):
            for stream_id, fields in entries:
                yield partition, log_entry(stream_id, fields)

    def _tables(self, first: str, last: str) -> tuple[dict[tuple[str, str], list[dict[str, Any]]], dict[str, str], int]:
        tables: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        heads, count = dict(self.reach.heads), 0
        for partition, entry in self._entries(first, last):
            count += 1
            table, row = table_row(entry)
            row |= {"known_at": entry.known_us, "position": position(partition, entry.stream_id)}
            if table == "decisions":
                row["chain"] = _link(heads, str(partition), entry.body)
            tables[table, moment(entry.known_us).date().isoformat()].append(row)
        return tables, heads, count

    def _keep_schemas(self, hashes: set[str]) -> None:
        """Keep the schemas of the decisions' features, so that whoever has the lake can read them."""
        for hash_ in sorted(hashes):
            self._keep_schema(self._folder / FOLDER / f"{hash_}.json", hash_)

    def _keep_schema(self, file: Path, hash_: str) -> None:
        if file.exists():
            return
        try:
            content = find(hash_, partial(kept, self._client)).dumps()
        except SchemaError as error:
            _LOG.error("lake", trouble=f"{error}; its decisions are written all the same")
            return
        file.parent.mkdir(exist_ok=True)
        self._put(file, lambda unfinished: unfinished.write_bytes(content))

    def _write(self, table: str, day: str, name: str, rows: list[dict[str, Any]]) -> None:
        folder = self._folder / table / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        schema = SCHEMAS[table]
        if any(TOLD_AT in row for row in rows):
            schema = schema.append(pa.field(TOLD_AT, _MOMENT))
        content = pa.Table.from_pylist(rows, schema=schema)
        self._put(folder / f"{name}.parquet", lambda file: pq.write_table(content, file, compression="zstd"))

    def _write_records(self, day: str, name: str, rows: list[dict[str, Any]]) -> None:
        """Write what serving processes read of a flush: they have no Parquet."""
        records = [(*place(row["position"]), row["record"]) for row in rows]
        file = beside(self._folder / "decisions" / f"day={day}" / f"{name}.parquet")
        self._put(file, lambda unfinished: unfinished.write_bytes(pack_records(records)))

    def _save(self) -> None:
        self._put(self._file, lambda file: file.write_bytes(msgspec.json.encode(self.reach)))

    def _put(self, file: Path, write: Callable[[Path], object]) -> None:
        """Write a file atomically and durably."""
        put(file, write, self._step)

    def _trim(self) -> None:
        """Trim log entries that both lake and features have."""
        pipe = self._client.pipeline(transaction=False)
        for partition in range(PARTITIONS):
            pipe.hget(lease_key(partition), "cursor")
        for partition, cursor in enumerate(replies(pipe)):
            if not is_away(cursor):
                kept = min(order((cursor or b"0-0").decode()), (self.reach.flushed, 0))
                pipe.xtrim(log_key(partition), minid=f"{kept[0]}-{kept[1] + 1}", approximate=False)
        replies(pipe)  # what is away now is trimmed by the next flush


@contextmanager
def standing_still(folder: Path) -> Iterator[Reach]:
    """Reach of a lake that no worker writes while the block runs; waits for the flush under way."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield reach(folder)
    finally:
        os.close(held)


def link(before: bytes, record: bytes) -> bytes:
    """The link of a record after another link; b"" before the first."""
    return hashlib.sha256(before + record).digest()


def _link(heads: dict[str, str], partition: str, body: bytes) -> bytes:
    """Hash over the head of the partition's chain and the record: the record's link and the new head."""
    found = link(bytes.fromhex(heads.get(partition, "")), body)
    heads[partition] = found.hex()
    return found


def table_row(entry: LogEntry) -> tuple[str, dict[str, Any]]:
    """Table and columns of an entry."""
    if entry.kind == "decision":
        record = load_record(entry.body)
        return "decisions", decision_row(record, entry.body) | {_SCHEMA: record.versions.schema}
    columns = cast("dict[str, Any]", msgspec.msgpack.decode(entry.body))
    columns.setdefault("occurred_at", entry.known_us)
    if "detail" in columns:
        columns["detail"] = msgspec.json.encode(columns["detail"]).decode()
    slot, night = local_parts(columns["occurred_at"], entry.time_zone)
    columns |= {"time_zone": entry.time_zone, "timing_slot": slot, "night": night}
    return ("events" if entry.kind in {"event", "facts"} else "outcomes"), columns


def decision_row(record: Record, body: bytes) -> dict[str, Any]:
    """Columns of a decision; moments are unix microseconds."""
    sent, choice, first = record.action, record.choice, next(iter(record.experiments), None)
    contact = (
        {}
        if sent is None
        else {
            "offer": sent.offer,
            "channel": sent.channel,
            "timing_slot": sent.timing_slot,
            "purpose": sent.purpose,
            "send_at": sent.send_us,
            "valid_until": sent.valid_until_us,
        }
    )
    return contact | {
        "player": record.player,
        "decision_id": record.decision_id,
        "at": record.at_us,
        "brand": record.brand,
        "decision_point": record.decision_point,
        "experiment": first and first.key,
        "variant": first and first.variant,
        "role": choice.role,
        "policy_version": choice.policy_version,
        "activated": record.activated,
        "propensity": choice.propensity,
        "u": choice.u,
        "place": choice.place,
        "eligible": len(unpack_floats(choice.pmf)),
        "churn_score": record.seen.churn_score,
        "churn_version": record.versions.churn,
        "harm_level": record.seen.harm_level,
        "stage": record.seen.stage,
        "catalogue_version": record.versions.catalogue,
        "rules_version": record.versions.rules,
        "record": body,
        "experiments": [one._asdict() for one in record.experiments],
        "global_holdout": GLOBAL_HOLDOUT in choice.excluded,
        "use": record.use,
        "journey": None if record.journey is None else msgspec.structs.asdict(record.journey),
        "experiments_version": record.versions.experiments,
    }
