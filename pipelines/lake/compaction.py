"""Make the flushes of each whole past day one file a table; their rows, in the order of the log, stay what they were.

    day=2020-03-02/1583107200000-1583107205000.parquet, ...
        --row group by row group--> day=2020-03-02/1583107200000-1583193600000.parquet

The day's file gets its name when it is whole, then the flushes' files are removed, as soon as nobody reads who may have
listed them; readers that meet both pass over these (`features.lake.files`). Whenever it is killed, the next round goes
on from what is there. The worker may write beside it: a day is taken when nothing can be added to it, and if that came
late after all, as from a clock that was set back, the next round takes it in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import CroupierError
from features.lake.files import TABLES, covered, day_of, finish, locked, prepare, span, unmoved
from features.lake.flushes import FlushReader, Part, by_flush, footer, parts
from features.lake.records import beside, every_record, write_records
from features.moments import HOUR_US, moment
from features.steps import Step, no_step
from features.store.deployment import order, place, position

_LATE_US: Final = HOUR_US
"""How long after midnight a day is taken: the clocks of a cluster's servers differ."""
_UNFINISHED_SECONDS: Final = 3_600.0
"""How old a file without a name is that was surely left by a process that was killed."""
_ROWS: Final = 8_192
_BYTES: Final = 32 << 20
"""Rows and bytes of a row group: what compaction and readers hold in memory at once."""


class NotCompactedError(CroupierError):
    """The files of a day are not what they must be: they are left as they are, for `croupier verify` to name."""

    code = "not_compacted"
    exit_code = 2


class Task(NamedTuple):
    """A whole day of a table whose files are to become one, or whose one file lacks its records."""

    table: str
    day: str
    files: tuple[Path, ...]


class CompactedDay(msgspec.Struct, kw_only=True):
    """What became of a day of a table: its files before, its rows, bytes before and after, records beside counted."""

    table: str
    day: str
    files: int
    rows: int
    bytes_before: int
    bytes_after: int


def today(flushed_house_us: int) -> date:
    """First day that may still grow, when all that is logged until a moment of the house's clock is in the lake."""
    return moment(flushed_house_us - _LATE_US).date()


def tasks(lake: Path, before: date, flushed: int) -> Iterator[Task]:
    """Days of tables that are to be compacted, the earliest first.

    Args:
        lake: The lake's folder.
        before: First day that may still grow, of the house's clock.
        flushed: How far the lake reaches, stream milliseconds: a day with a flush under way is left for later.
    """
    folders = [(day_of(day), table, day) for table in TABLES for day in (lake / table).glob("day=*")]
    for name, table, folder in sorted(folders):
        if not name or name >= before.isoformat():
            continue
        known = {file: told for file in folder.glob("*.parquet") if (told := span(file)) is not None}
        if any(last > flushed for _, last in known.values()):
            continue
        passed = covered(known)
        files = tuple(sorted((file for file in known if file not in passed), key=lambda file: known[file]))
        if len(files) > 1 or (files and table == "decisions" and _lacks_records(files[0])):
            yield Task(table, name, files)


def _lacks_records(file: Path) -> bool:
    return not beside(file).exists() and len(list(parts(file))) > 1


def compact(task: Task, step: Step = no_step) -> CompactedDay | None:
    """Make the files of a day one; None if another process does.

    Raises:
        NotCompactedError: They are not what they must be, and are left as they are.
        OSError: The folder cannot be written; it is left as it is.
    """
    folder = task.files[0].parent
    with locked(folder) as alone:
        if not alone:
            return None
        before = sum(map(_bytes, task.files))
        first, last = (span(task.files[0]) or (0, 0))[0], (span(task.files[-1]) or (0, 0))[1]
        file = folder / f"{first}-{last}.parquet"
        _make(task, file, step)
        sweep(folder, step)
    rows = pq.read_metadata(file).num_rows
    return CompactedDay(
        table=task.table, day=task.day, files=len(task.files), rows=rows, bytes_before=before, bytes_after=_bytes(file)
    )


def _make(task: Task, file: Path, step: Step) -> None:
    """Write a day's file, and the records beside it; both are whole before the first gets its name."""
    made: dict[Path, Path] = {}
    try:
        if len(task.files) > 1:
            made[file] = prepare(file, lambda unfinished: _write(task, unfinished), step)
        if task.table == "decisions":
            table = made.get(file, file)
            made[beside(file)] = prepare(beside(file), lambda unfinished: _write_records(table, unfinished), step)
    except (OSError, NotCompactedError):
        for unfinished in (*made.values(), file.with_name(f".{file.stem}.tmp")):
            unfinished.unlink(missing_ok=True)  # half a day only takes room
        raise
    for name, unfinished in made.items():
        finish(name, unfinished, step)


def _bytes(file: Path) -> int:
    records = beside(file)
    return file.stat().st_size + (records.stat().st_size if records.exists() else 0)


def _write(task: Task, unfinished: Path) -> None:
    reader, flushes = FlushReader(), list[tuple[int, int, int]]()
    schema, waiting, size = _schema(task), list[pa.Table](), [0, 0]
    with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        for part in (part for flush in by_flush(task.files).values() for part in flush):
            rows = _in_order(task, part, reader.read(part))
            first, _, last = part.flush.partition("-")
            flushes.append((int(first), int(last), len(rows)))
            waiting.append(rows)
            size = [size[0] + len(rows), size[1] + rows.nbytes]
            if size[0] >= _ROWS or size[1] >= _BYTES:
                _write_group(writer, schema, waiting)
                size = [0, 0]
        _write_group(writer, schema, waiting)
        writer.add_key_value_metadata(footer(flushes))


def _schema(task: Task) -> pa.Schema:
    """Columns of all files of a day by name: those of earlier builds lack later ones."""
    found: list[pa.Schema] = []
    for file in task.files:
        try:
            schema = pq.read_schema(file).remove_metadata()
        except pa.ArrowException as error:
            raise _trouble(task, file, str(error)) from error
        if schema not in found:
            found.append(schema)
    try:
        return pa.unify_schemas(found)
    except pa.ArrowException as error:
        raise NotCompactedError(f"{task.table} of {task.day}: columns of its files differ in type: {error}") from error


def _write_group(writer: pq.ParquetWriter, schema: pa.Schema, waiting: list[pa.Table]) -> None:
    if waiting:
        rows = pa.concat_tables(waiting, promote_options="default")
        absent = [name for name in schema.names if name not in rows.column_names]
        for name in absent:
            rows = rows.append_column(name, pa.nulls(len(rows), schema.field(name).type))
        writer.write_table(rows.select(schema.names).cast(schema), row_group_size=max(1, len(rows)))
        waiting.clear()


def _in_order(task: Task, part: Part, rows: pa.Table) -> pa.Table:
    """Rows of a flush by the store's time, partition and place."""
    if "position" not in rows.column_names or rows["position"].null_count:
        raise _trouble(task, part.file, "rows have no place in the log")
    places = rows["position"].to_pylist()
    if task.table == "decisions":
        _compare(task, part, dict(zip(places, rows["record"].to_pylist(), strict=True)))
    keys = [_key(named) for named in places]
    ordered = sorted(range(len(keys)), key=keys.__getitem__)
    return rows if ordered == list(range(len(keys))) else rows.take(ordered)


def _key(named: str) -> tuple[int, int, int]:
    partition, stream_id = place(named)
    milliseconds, sequence = order(stream_id)
    return milliseconds, partition, sequence


def _compare(task: Task, part: Part, records: dict[str, bytes]) -> None:
    """Refuse rows whose records the file beside has otherwise: it is written anew, and that is not to be hidden."""
    file = beside(part.file)
    if not file.exists():
        return  # of an earlier build, or of a compaction that was killed
    try:
        found = [(position(at, stream_id), body) for at, stream_id, body in every_record(file, part.begins, part.to)]
    except (OSError, ValueError) as error:
        raise _trouble(task, file, str(error)) from error
    if len(found) != len(records) or dict(found) != records:
        raise _trouble(task, file, "it has other records than its table")


def _trouble(task: Task, file: Path, what: str) -> NotCompactedError:
    return NotCompactedError(f"{task.table} of {task.day} stay in their files: {file.name}: {what}")


def _write_records(file: Path, unfinished: Path) -> None:
    """Write what serving processes read of a day's decisions, from its table."""
    with unfinished.open("wb") as opened:
        write_records(opened, _records(file))


def _records(file: Path) -> Iterator[tuple[int, str, bytes]]:
    with pq.ParquetFile(file) as opened:
        for group in range(opened.num_row_groups):
            for row in opened.read_row_group(group, columns=["position", "record"]).to_pylist():
                yield (*place(row["position"]), row["record"])


# --- What became part of a day's file is removed


def sweep(folder: Path, step: Step = no_step) -> int:
    """Remove files of a day that became part of another, unless somebody may read them still; returns how many."""
    passed = covered(folder.glob("*.parquet"))
    if not passed:
        return 0
    with locked(folder.parent) as unread:
        took_in = {whole: _rows_by_flush(whole) for whole in set(passed.values()) if unread and _is_whole(whole)}
        spare = [file for file in sorted(passed) if _is_spare(file, took_in.get(passed[file], frozenset()))]
        for file in spare:
            # Records without a table would be a file that no flush left; a table without records is lawful.
            step("remove records")
            beside(file).unlink(missing_ok=True)
            step("remove table")
            file.unlink(missing_ok=True)
    return len(spare)


def leftovers(lake: Path, now_seconds: float) -> list[Path]:
    """Files of a lake that became part of a day's and are still there, and those that killed processes left unfinished.

    Args:
        lake: The lake's folder.
        now_seconds: This machine's clock, unix seconds, as its file system tells when a file was written.
    """
    passed = covered(file for table in TABLES for file in (lake / table).glob("day=*/*.parquet"))
    unfinished = (file for table in TABLES for file in (lake / table).glob("day=*/.*.tmp"))
    return sorted(passed) + [file for file in sorted(unfinished) if _is_old(file, now_seconds)]


def _is_old(file: Path, now_seconds: float) -> bool:
    with suppress(FileNotFoundError):
        return file.stat().st_mtime <= now_seconds - _UNFINISHED_SECONDS
    return False


def remove(lake: Path, now_seconds: float, step: Step = no_step) -> int:
    """Remove leftovers; returns how many. Those that somebody reads stay until the next round."""
    found = leftovers(lake, now_seconds)
    unfinished = [file for file in found if file.suffix == ".tmp"]
    for file in unfinished:
        file.unlink(missing_ok=True)
    return len(unfinished) + sum(sweep(folder, step) for folder in sorted({file.parent for file in found}))


def _is_whole(file: Path) -> bool:
    """Whether a day's file has the records beside it that it needs."""
    return file.parent.parent.name != "decisions" or beside(file).exists()


def _is_spare(file: Path, took_in: AbstractSet[tuple[str, int]]) -> bool:
    """Whether all flushes of a file are in the one that took them in, row for row."""
    try:
        return bool(took_in) and _rows_by_flush(file) <= took_in
    except (OSError, pa.ArrowException):
        return False


def _rows_by_flush(file: Path) -> AbstractSet[tuple[str, int]]:
    """Names of the flushes of a file with the numbers of their rows."""
    return {
        (part.flush, pq.read_metadata(file).num_rows if part.ends is None else part.ends - part.begins)
        for part in parts(file)
    }


class TableInFiles(msgspec.Struct, kw_only=True):
    """What a lake has of a table.

    Attributes:
        days: Days with files.
        files: Its files, those included that are still there for readers.
        rows: Its rows, each once.
        bytes: Of all its files.
        whole_days: Days that are one file.
    """

    table: str
    days: int
    files: int
    rows: int
    bytes: int
    whole_days: int


def inventory(lake: Path) -> list[TableInFiles]:
    """What a lake has of each table."""
    with unmoved(lake):
        return [_of_table(lake, table) for table in TABLES]


def _of_table(lake: Path, table: str) -> TableInFiles:
    files = sorted((lake / table).glob("day=*/*.parquet"))
    passed = covered(files)
    counted = [file for file in files if file not in passed]
    days = Counter(file.parent for file in counted)
    several = {file.parent for file in counted if len(list(parts(file))) > 1}
    return TableInFiles(
        table=table,
        days=len(days),
        files=len(files),
        rows=sum(pq.read_metadata(file).num_rows for file in counted),
        bytes=sum(map(_bytes, files)),
        whole_days=sum(days[day] == 1 for day in several),
    )
