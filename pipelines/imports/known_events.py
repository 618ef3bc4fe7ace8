"""Known events of a house by id and content, of any age.

Two events of one id are the same where their content is: every column of the lake that is not sealed, moments in UTC.
The lake's rows are put into that text by DuckDB, an import's events by `content`; the laws compare the two.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import duckdb
import msgspec

from features import events
from features.events import Event, micros
from features.lake.files import table_files, unmoved
from pipelines.imports.bulk import Item
from service.events.accept import TOLD_AT, TOLD_OF

_COLUMNS: Final = (
    *("type", "occurred_at", "brand", "said_minor", "status", "method", "target", "product", "channel"),
    *("currency", "counts_at"),
)
_APART: Final = "\x1f"
_TOLD_OF: Final = f"coalesce(json_extract_string(detail, '$.{TOLD_OF}'), player)"
_DEFAULTS: Final = {
    f'"{name}":{msgspec.json.encode(field.default).decode()}'
    for model in get_args(Event)
    for name, field in model.model_fields.items()
    if name not in {*_COLUMNS, "event_id", "amount_minor"} and not field.is_required() and field.default is not None
}
"""Details without content, so that a field added later does not change the content of rows in the lake."""
# No content either: the key of the linked id, the key of a second id, and moments, which are compared apart.
_EMPTY: Final = "|".join(
    [f'"({TOLD_OF}|key|{TOLD_AT}|until|placed_at|deposited_at)":"[^"]*"', *sorted(map(re.escape, _DEFAULTS))]
)
_REST: Final = f"replace(regexp_replace(detail, ',?({_EMPTY})', '', 'g'), '{{,', '{{')"


def _moment(name: str) -> str:
    return f"epoch_us(try_cast(json_extract_string(detail, '$.{name}') AS TIMESTAMPTZ))"


_READ: Final = {
    "occurred_at": f"coalesce({_moment(TOLD_AT)}, epoch_us(occurred_at))",
    "said_minor": "coalesce(said_minor, amount_minor)",
    "counts_at": "epoch_us(counts_at)",
}
"""Columns that are read otherwise than they stand: an amount as it was told, moments as numbers."""
_TEXTS: Final = [
    *(f"coalesce({_READ.get(name, name)}::VARCHAR, '')" for name in _COLUMNS),
    f"coalesce(nullif({_REST}, '{{}}'), '')",
    f"coalesce({_moment('until')}::VARCHAR, '')",
]
_LATER: Final = (
    "SELECT NULL::TIMESTAMPTZ AS counts_at, NULL::VARCHAR AS currency, NULL::BIGINT AS said_minor WHERE false"
)
"""Columns that files of earlier builds lack."""
_OF: Final = "coalesce(json_extract_string(detail, '$.bet_id'), json_extract_string(detail, '$.deposit_id'))"
_UNIQUE: Final = (
    f"CASE WHEN type IN {tuple(events.ONCE)} AND {_OF} IS NOT NULL THEN type || ':' || {_OF} ELSE event_id END"
)
"""As `events.unique`."""
CONTENT: Final = f"concat_ws(chr({ord(_APART)}), {', '.join(_TEXTS)})"
"""The content of an event's row in the lake, as an expression of DuckDB."""


def content(event: Event) -> str:
    """Content of an event for comparison, as `CONTENT` gives it for a row of the lake."""
    row = events.row(event)
    said = row.get("said_minor", row.get("amount_minor"))
    until = event.__dict__.get("until")
    details = [
        f'"{name}":{msgspec.json.encode(value).decode()}'
        for name, value in row.get("detail", {}).items()
        if name not in _MOMENTS
    ]
    rest = ",".join(detail for detail in details if detail not in _DEFAULTS)
    texts = [said if name == "said_minor" else row.get(name) for name in _COLUMNS]
    texts += [f"{{{rest}}}" if rest else None, None if until is None else micros(until)]
    return _APART.join("" if text is None else str(text) for text in texts)


_MOMENTS: Final = frozenset({"until", "placed_at", "deposited_at"})


class FileEvent(NamedTuple):
    """An event of a file: log item, caller's id, key of player and event id, content."""

    item: Item
    player_id: str
    name: str
    content: str = ""
    sealed: str = ""


def file_event(item: Item, event: Event, asked: str) -> FileEvent:
    """Make a file event of a log item and its event; `asked` is the key of the id that the file names."""
    sealed = events.personal(event)
    text = msgspec.json.encode(sealed).decode() if sealed else ""
    return FileEvent(item, event.player_id, f"{asked} {events.unique(event)}", content(event), text)


class KnownEvents:
    """Ids and contents in the lake when the import began, and those that this run added.

    Each is kept as the 128 bits of a hash in DuckDB, which moves to disk what does not fit in memory. Sealed content
    is known of this run's events only, and hashed with a salt of this run.
    """

    def __init__(self, lake: Path, spill: Path) -> None:
        self._salt = secrets.token_hex(16)
        self._db = duckdb.connect(config={"memory_limit": "1GB", "temp_directory": str(spill)})
        self._db.execute("SET TimeZone = 'UTC'")
        self._db.execute("CREATE TABLE seen (id UHUGEINT, content UHUGEINT, sealed UHUGEINT)")
        with unmoved(lake):
            self._read(table_files(lake, "events"))

    def _read(self, files: Sequence[Path]) -> None:
        if files:
            rows = (
                f"({_LATER} UNION ALL BY NAME FROM read_parquet($1, hive_partitioning = false, union_by_name = true))"
            )
            known = f"SELECT md5_number({_TOLD_OF} || ' ' || {_UNIQUE}), md5_number({CONTENT}), NULL FROM {rows}"  # noqa: S608 - no text from outside
            self._db.execute(f"INSERT INTO seen {known}", [[str(file) for file in files]])

    def known(self, some: Sequence[FileEvent]) -> dict[int, bool]:
        """Indexes of events whose id is known, and whether with the same content."""
        self._ask(some)
        same = "seen.content = asked.content AND coalesce(seen.sealed = asked.sealed, true)"
        found = self._db.execute(f"SELECT place, bool_or({same}) FROM asked JOIN seen USING (id) GROUP BY place")  # noqa: S608
        return dict(found.fetchall())

    def add(self, some: Sequence[FileEvent]) -> None:
        """Remember appended events."""
        self._ask(some)
        self._db.execute("INSERT INTO seen SELECT id, content, sealed FROM asked")

    def _ask(self, some: Sequence[FileEvent]) -> None:
        columns = [[one.name for one in some], [one.content for one in some]]
        sealed = [f"{self._salt}{one.sealed}" for one in some]
        self._db.execute(
            "CREATE OR REPLACE TEMP TABLE asked AS SELECT md5_number(unnest($1::VARCHAR[])) AS id,"
            " md5_number(unnest($2::VARCHAR[])) AS content, md5_number(unnest($3::VARCHAR[])) AS sealed,"
            " generate_subscripts($1::VARCHAR[], 1) - 1 AS place",
            [*columns, sealed],
        )

    def close(self) -> None:
        """Close the database and forget everything."""
        self._db.close()


class RecordVerdict(NamedTuple):
    """Verdict on a record, and its new events."""

    status: Literal["new", "duplicate", "conflict"]
    fresh: Sequence[FileEvent] = ()


def judge(records: Sequence[Sequence[FileEvent]], known: Mapping[int, bool]) -> Iterator[RecordVerdict]:
    """Judge records in order: new if any event of theirs is, in conflict if any is.

    Args:
        records: The events of each.
        known: Index of an event, counted through all records -> whether its id is known with the same content.
    """
    place, taken = 0, dict[str, FileEvent]()
    for record in records:
        fresh, agrees = dict[str, FileEvent](), True
        for one in record:
            before = fresh.get(one.name) or taken.get(one.name)
            if place in known:
                agrees &= known[place]
            elif before is None:
                fresh[one.name] = one
            else:
                agrees &= (before.content, before.sealed) == (one.content, one.sealed)
            place += 1
        if agrees:
            taken |= fresh
            yield RecordVerdict("new" if fresh else "duplicate", tuple(fresh.values()))
        else:
            yield RecordVerdict("conflict")
