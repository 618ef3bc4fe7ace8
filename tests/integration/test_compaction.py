"""Whole days of the lake as one file: the same rows in the same order, whoever reads, whenever it is killed."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from integration.test_learner import newest, school
from support.experiment_lakes import experiment
from support.fault_house import World, until
from support.learning_log import BEGAN, DAY, grow
from support.workers import running
from typer.testing import CliRunner

from features.lake.files import TABLES, covered, table_files, unmoved
from features.lake.flushes import FlushReader, by_flush
from features.lake.records import Place, beside, find_record, pack_records
from features.moments import micros
from features.settings.mlflow_file import read_mlflow
from features.store.deployment import House, order, place, real_now_us
from features.store.server import Server
from pipelines.cli.app import app
from pipelines.experiments.exposures import opened
from pipelines.experiments.report import compute, contents_of
from pipelines.lake import compaction
from pipelines.lake.compaction import NotCompactedError, compact, inventory, remove, tasks
from pipelines.learning.training_log import LearningLog
from pipelines.worker.lake import POSITION, Reach, reach
from pipelines.worker.process import Worker

AFTER = date(2027, 1, 1)
LATER = 4e9
"""A moment at which whatever is unfinished was left by what is dead, unix seconds."""
FLUSHES, DECISIONS = 24, 10


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A lake of several days, of which some flushes go over midnight, with the records beside."""
    folder = tmp_path / "lake"
    grow(folder, FLUSHES, DECISIONS)
    with_records(folder)
    return folder


def with_records(lake: Path) -> None:
    for file in lake.glob("decisions/*/*.parquet"):
        rows = pq.read_table(file, columns=["position", "record"], partitioning=None).to_pylist()
        beside(file).write_bytes(pack_records([(*place(row["position"]), row["record"]) for row in rows]))


def compacted(lake: Path) -> int:
    """Compact all days while somebody reads, so that what became part of a day's file is still there."""
    with unmoved(lake):
        return sum(compact(task) is not None for task in tasks(lake, AFTER, reach(lake).flushed))


def whole(lake: Path) -> None:
    """Compact all days."""
    for task in tasks(lake, AFTER, reach(lake).flushed):
        assert compact(task) is not None
    remove(lake, LATER)


def rows(lake: Path, table: str) -> list[dict[str, Any]]:
    """Rows of a table in the order of the log: flush by flush, and within one by time, partition and place."""
    reader, found = FlushReader(), list[dict[str, Any]]()
    for parts in by_flush(table_files(lake, table)).values():
        flush = [row for part in parts for row in reader.read(part).to_pylist()]
        found += sorted(flush, key=lambda row: _key(row["position"]))
    return found


def _key(position: str) -> tuple[int, int, int]:
    partition, stream_id = place(position)
    milliseconds, sequence = order(stream_id)
    return milliseconds, partition, sequence


def physical(lake: Path, table: str) -> list[dict[str, Any]]:
    """Rows of a table as they lie in its files."""
    found = [pq.read_table(file, partitioning=None) for file in table_files(lake, table)]
    return [row for one in found for row in one.to_pylist()]


def places(lake: Path) -> Iterator[tuple[Place, bytes]]:
    for row in rows(lake, "decisions"):
        partition, stream_id = place(row["position"])
        yield Place(partition, stream_id, micros(row["known_at"])), row["record"]


def state(lake: Path) -> dict[str, str]:
    """Complete files of a lake with the hashes of what they hold."""
    files = [file for file in lake.rglob("*") if file.is_file() and file.suffix != ".tmp"]
    return {str(file.relative_to(lake)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def killed(lake: Path, at: int) -> int:
    """Compact and remove, killed before the nth step; how many steps there were."""
    steps: list[str] = []

    def step(name: str) -> None:
        steps.append(name)
        if len(steps) == at:
            raise Killed

    for task in tasks(lake, AFTER, reach(lake).flushed):
        compact(task, step)
    remove(lake, LATER, step=step)
    return len(steps)


@pytest.mark.parametrize("table", TABLES)
def test_a_day_is_one_file_of_the_same_rows_in_the_order_of_the_log(lake: Path, table: str) -> None:
    before = rows(lake, table)
    days = {file.parent for file in table_files(lake, table)}
    assert len(table_files(lake, table)) > len(days) > 3
    whole(lake)
    assert rows(lake, table) == before
    assert physical(lake, table) == before, "the rows lie as they are read"
    assert {file.parent for file in table_files(lake, table)} == days
    assert len(list((lake / table).rglob("*.parquet"))) == len(days)
    made = [pq.read_metadata(file) for file in table_files(lake, table)]
    assert {one.row_group(0).column(0).compression for one in made if b"croupier.flushes" in one.metadata} == {"ZSTD"}


def test_twice_is_once_and_two_lakes_become_the_same_bytes(lake: Path, tmp_path: Path) -> None:
    shutil.copytree(lake, tmp_path / "other")
    whole(lake)
    after = state(lake)
    assert compacted(lake) == 0
    assert remove(lake, LATER) == 0
    assert state(lake) == after
    whole(tmp_path / "other")
    assert state(tmp_path / "other") == after


def test_killed_at_any_step_every_row_is_read_once_and_the_next_round_ends_it(lake: Path, tmp_path: Path) -> None:
    for folder in sorted(lake.glob("*/day=*"))[3:]:  # three days of decisions, and of the others those
        if folder.name > sorted(lake.glob("decisions/day=*"))[1].name:
            shutil.rmtree(folder)
    before = {table: rows(lake, table) for table in TABLES}
    shutil.copytree(lake, tmp_path / "counted")
    count = killed(tmp_path / "counted", 0)
    assert count > 20
    expected = state(tmp_path / "counted")
    for at in range(1, count + 1):
        folder = tmp_path / f"killed-{at}"
        shutil.copytree(lake, folder)
        with pytest.raises(Killed):
            killed(folder, at)
        assert {table: rows(folder, table) for table in TABLES} == before, at
        assert all(find_record(folder, one) == record for one, record in places(folder)), at
        whole(folder)
        assert state(folder) == expected, at
        assert not list(folder.rglob("*.tmp")), at


def test_a_record_is_found_by_its_place_before_during_and_after(lake: Path) -> None:
    held = list(places(lake))
    for act in ("nothing", "compacted", "removed"):
        if act != "nothing":
            compacted(lake) if act == "compacted" else remove(lake, LATER)
        assert [find_record(lake, one) for one, _ in held] == [record for _, record in held]
    files = list(lake.glob("decisions/*/*.records"))
    assert len(files) == len(list(lake.glob("decisions/day=*")))


@pytest.mark.parametrize("learnt", [0, 1, FLUSHES // 2, FLUSHES - 1])
def test_a_learner_learns_the_same_bytes_whatever_becomes_one_file_under_it(
    lake: Path, learnt: int, tmp_path: Path
) -> None:
    expected = newest(lake)
    pupil = school(lake)
    waiting = pupil.waiting()
    for flush in waiting[:learnt]:
        pupil.learn(flush)
    kept = pupil.checkpoint()
    shutil.copytree(lake, tmp_path / "other")
    compacted(lake)
    pupil.learn(waiting[learnt])  # both are there
    whole(lake)
    for flush in pupil.waiting():
        pupil.learn(flush)
    assert pupil.newest is not None
    assert pupil.newest.dumps() == expected
    again = school(lake)
    assert again.resume(kept)
    assert again.waiting() == waiting[learnt:]
    for flush in again.waiting():
        again.learn(flush)
    assert again.newest is not None
    assert again.newest.dumps() == expected == newest(lake)
    assert again.checkpoint() == pupil.checkpoint()


def test_a_learner_that_looked_for_a_file_which_is_gone_looks_again(lake: Path) -> None:
    expected = newest(lake)
    pupil = school(lake)
    for flush in pupil.waiting():
        whole(lake)
        pupil.learn(flush)
    assert pupil.newest is not None
    assert pupil.newest.dumps() == expected


def test_entries_of_a_flush_are_the_same_from_its_own_files_and_from_a_days(lake: Path) -> None:
    log = LearningLog(lake, frozenset({"bet"}))
    before = {flush: log.entries(flush) for flush in log.flushes("0-0")}
    whole(lake)
    after = LearningLog(lake, frozenset({"bet"}))
    assert after.flushes("0-0") == list(before)
    assert {flush: after.entries(flush) for flush in before} == before


def test_a_query_over_the_lake_gives_the_same_before_during_and_after(lake: Path) -> None:
    asked = 'SELECT (SELECT sum(hash(decision_id, "at", record, "position")) FROM decisions),'
    asked += " (SELECT sum(hash(event_id, amount_minor)) FROM events), (SELECT count(*) FROM outcomes)"

    def answer() -> Any:
        with opened(lake) as connection:
            return connection.execute(asked).fetchone()

    before = answer()
    compacted(lake)
    assert answer() == before
    remove(lake, LATER)
    assert answer() == before
    plain = duckdb.execute(f"SELECT count(*) FROM '{lake}/decisions/*/*.parquet'").fetchone()
    assert plain == (FLUSHES * DECISIONS,)


def test_what_became_part_of_a_day_stays_while_somebody_reads(lake: Path) -> None:
    compacted(lake)
    passed = covered(lake.rglob("*.parquet"))
    assert passed
    with unmoved(lake):
        assert remove(lake, LATER) == 0
    assert all(file.exists() for file in passed)
    assert remove(lake, 0) == len(passed)
    assert not covered(lake.rglob("*.parquet"))


def test_an_unfinished_file_is_removed_when_it_is_old(lake: Path) -> None:
    left = max(lake.glob("events/day=*")) / ".1-2.tmp"
    left.write_bytes(b"half a file")
    written = left.stat().st_mtime
    assert remove(lake, written + 3_000) == 0
    assert remove(lake, written + 3_600) == 1
    assert not left.exists()


def test_a_day_that_may_still_grow_is_left_alone(lake: Path) -> None:
    days = sorted({file.parent.name[4:] for file in table_files(lake, "decisions")})
    second = date.fromisoformat(days[1])
    assert {task.day for task in tasks(lake, second, reach(lake).flushed)} == {days[0]}
    under_way = by_flush(table_files(lake, "decisions"))
    last = [parts[0].boundary for parts in under_way.values() if parts[0].file.parent.name == f"day={days[0]}"][-1]
    assert not list(tasks(lake, second, last - 1)), "a flush of that day is not whole"


@pytest.mark.parametrize("flushed_house_us", [19 * DAY, 19 * DAY + DAY // 24 - 1])
def test_a_day_is_taken_an_hour_after_midnight(flushed_house_us: int) -> None:
    assert compaction.today(flushed_house_us) == date(1970, 1, 19)
    assert compaction.today(19 * DAY + DAY // 24) == date(1970, 1, 20)


def test_what_came_late_to_a_past_day_is_taken_in_by_the_next_round(lake: Path) -> None:
    before = {table: rows(lake, table) for table in TABLES}
    day = sorted(lake.glob("decisions/day=*"))[2]
    late = max(day.glob("*.parquet"), key=lambda file: int(file.stem.rpartition("-")[2]))
    aside = [(file, file.read_bytes()) for file in (late, beside(late))]
    for file, _ in aside:
        file.unlink()
    whole(lake)
    for file, content in aside:
        file.write_bytes(content)
    assert {table: rows(lake, table) for table in TABLES} == before
    whole(lake)
    assert {table: rows(lake, table) for table in TABLES} == before
    assert len(list(day.glob("*.parquet"))) == 1


def test_files_of_earlier_builds_lack_later_columns_and_their_rows_have_none(lake: Path) -> None:
    before = rows(lake, "events")
    later = ["counts_at", "currency", "said_minor", "rate", "rate_source"]
    for file in table_files(lake, "events")[::2]:
        pq.write_table(pq.read_table(file, partitioning=None).drop_columns(later), file)
    whole(lake)
    assert [dict.fromkeys(later) | row for row in rows(lake, "events")] == before


@pytest.mark.parametrize("what", ["other records", "a record less", "no records", "no table"])
def test_a_day_whose_files_are_not_what_they_must_be_is_left_as_it_is(lake: Path, what: str) -> None:
    file = table_files(lake, "decisions")[1]
    held = pq.read_table(file, partitioning=None).to_pylist()
    records = [(*place(row["position"]), row["record"]) for row in held]
    match what:
        case "other records":
            beside(file).write_bytes(pack_records([(*records[0][:2], b"another"), *records[1:]]))
        case "a record less":
            beside(file).write_bytes(pack_records(records[1:]))
        case "no records":
            beside(file).write_bytes(b"nothing")
        case "no table":
            file.write_bytes(b"nothing")
    day = file.parent.name[4:]
    before = state(file.parent)
    refused: list[str] = []
    for task in tasks(lake, AFTER, reach(lake).flushed):
        if (task.table, task.day) == ("decisions", day):
            with pytest.raises(NotCompactedError) as told:
                compact(task)
            refused.append(str(told.value))
    assert len(refused) == 1
    assert file.name in refused[0] or beside(file).name in refused[0]
    assert state(file.parent) == before


def test_two_at_once_do_not_disturb_each_other(lake: Path) -> None:
    task = next(iter(tasks(lake, AFTER, reach(lake).flushed)))
    seen: list[object] = []
    compact(task, lambda _: seen.append(compact(task)))
    assert seen
    assert set(seen) == {None}


def test_a_file_that_only_looks_like_a_days_removes_nothing(lake: Path) -> None:
    day = min(lake.glob("decisions/day=*"))
    files = sorted(day.glob("*.parquet"))
    held = {file: file.read_bytes() for file in files}
    wide = day / f"0-{reach(lake).flushed}.parquet"
    shutil.copy(files[0], wide)
    with_records(lake)
    remove(lake, LATER)
    assert {file: file.read_bytes() for file in files} == held


def test_the_lake_says_what_it_has(lake: Path) -> None:
    before = {one.table: one for one in inventory(lake)}
    compacted(lake)
    during = {one.table: one for one in inventory(lake)}
    remove(lake, LATER)
    after = {one.table: one for one in inventory(lake)}
    for table in TABLES:
        assert before[table].rows == during[table].rows == after[table].rows == len(rows(lake, table))
        assert during[table].files > before[table].files > after[table].files == after[table].days
        assert before[table].whole_days == 0 < after[table].whole_days
        assert after[table].bytes < before[table].bytes


def test_a_flush_larger_than_a_row_group_and_groups_smaller_than_a_flush_read_the_same(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {table: rows(lake, table) for table in TABLES}
    monkeypatch.setattr(compaction, "_ROWS", 7)
    whole(lake)
    groups: Sequence[int] = [pq.read_metadata(file).num_row_groups for file in table_files(lake, "decisions")]
    assert max(groups) > 3
    assert {table: rows(lake, table) for table in TABLES} == before
    assert msgspec.json.decode((lake / "_position.json").read_bytes())["flushed"] == reach(lake).flushed


def split(lake: Path, flushes: int) -> None:
    """Make the one file of each table those of so many flushes, each row with a place."""
    for file in list(lake.rglob("0-1.parquet")):
        table = pq.read_table(file, partitioning=None)
        places = [f"p000:{number + 1}-0" for number in range(len(table))]
        table = table.set_column(table.schema.get_field_index("position"), "position", pa.array(places))
        file.unlink()
        size = -(-len(table) // flushes)
        for begins in range(0, len(table), size):
            pq.write_table(table.slice(begins, size), file.with_name(f"{begins}-{begins + size}.parquet"))
    (lake / POSITION).write_bytes(msgspec.json.encode(Reach(flushed=1_000_000)))


def test_a_report_over_the_lake_gives_the_same_bytes_before_during_and_after(tmp_path: Path) -> None:
    lake = experiment(800, 1, {"policy": 300.0}).write(tmp_path / "lake")
    split(lake, 30)

    def report() -> dict[str, str]:
        return contents_of(compute(lake, read_mlflow(tmp_path)))

    before = report()
    compacted(lake)
    assert report() == before
    whole(lake)
    assert len(list(lake.rglob("*.parquet"))) == 3
    assert report() == before


def test_the_worker_makes_past_days_one_file_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.learning_log.BEGAN", real_now_us(world.client) - 7 * DAY)
    monkeypatch.setattr("pipelines.worker.lake_keeping._LOOK_SECONDS", 0.2)
    monkeypatch.setattr("pipelines.worker.process.FLUSH_SECONDS", 0.1)
    grow(world.lake, FLUSHES, DECISIONS)
    with_records(world.lake)
    before = {table: rows(world.lake, table) for table in TABLES}
    days = {(table, file.parent) for table in TABLES for file in table_files(world.lake, table)}
    with running(Worker(world.server.url, world.lake)):
        until(lambda: len(list(world.lake.rglob("*.parquet"))) == len(days), 120.0)
    assert {table: rows(world.lake, table) for table in TABLES} == before


def test_by_hand_it_says_what_became_of_each_day(
    lake: Path, house: House, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert house
    monkeypatch.setenv("CROUPIER_HOME", str(lake.parent))
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    far = Reach(flushed=(BEGAN + 60 * DAY) // 1_000)
    (lake / POSITION).write_bytes(msgspec.json.encode(far))
    monkeypatch.setattr("features.store.deployment.House.now_us", lambda _, real_us: real_us)
    before = {table: rows(lake, table) for table in TABLES}
    told = json.loads(CliRunner().invoke(app, ["lake", "compact", "--json"]).stdout)
    assert (told["left"], told["removed"]) == ([], 0)
    assert {one["table"] for one in told["days"]} == set(TABLES)
    assert all(one["bytes_after"] < one["bytes_before"] and one["files"] > 1 < one["rows"] for one in told["days"])
    assert {table: rows(lake, table) for table in TABLES} == before
    again = CliRunner().invoke(app, ["lake", "compact"])
    assert "0 days became one file each; 0 files that were left over are removed" in again.stdout
    shown = json.loads(CliRunner().invoke(app, ["lake", "show", "--json"]).stdout)["tables"]
    assert {one["table"]: one["rows"] for one in shown} == {table: len(before[table]) for table in TABLES}
    assert "decisions" in CliRunner().invoke(app, ["lake", "show"]).stdout
