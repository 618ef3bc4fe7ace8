"""A house whose days of the lake became one file: its decisions are verified and found as before."""

import shutil
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from integration.test_audit import filled as filled  # noqa: PLC0414 - a fixture
from integration.test_audit import one_byte, partition_of, rows, verified
from support.fault_house import World

from features.lake.files import unmoved
from features.lake.records import beside, pack_records
from features.store.deployment import place
from features.store.keys import decision_key
from pipelines.audit.records import find_record
from pipelines.backup.checks import chain_faults
from pipelines.lake import compaction
from pipelines.worker.lake import reach
from service.decisions.record import load_record


def whole(lake: Path) -> None:
    """Make the lake's days one file each, and remove what became part of one."""
    for task in compaction.tasks(lake, date.max, reach(lake).flushed):
        assert compaction.compact(task) is not None


def test_a_verification_finds_the_same_before_and_after_a_day_became_one_file(filled: World, tmp_path: Path) -> None:
    lake = tmp_path / "whole"
    shutil.copytree(filled.lake, lake)
    before = verified(filled, lake)
    with unmoved(lake):
        whole(lake)
    assert len(list(lake.glob("decisions/*/*.parquet"))) == 3
    during = verified(filled, lake)
    compaction.remove(lake, 4e9)
    assert len(list(lake.glob("decisions/*/*.parquet"))) == 1
    after = verified(filled, lake)
    assert after.first_fault is during.first_fault is before.first_fault is None
    assert after.checked == during.checked == before.checked > 0
    assert after.reproduced == during.reproduced == before.reproduced
    assert chain_faults(lake, lambda _: None) == chain_faults(filled.lake, lambda _: None)


def test_killed_at_any_step_of_a_days_compaction_a_verification_finds_nothing_wrong(
    filled: World, tmp_path: Path
) -> None:
    steps: list[str] = []
    for at in range(1, 40):
        lake = tmp_path / f"killed-{at}"
        shutil.copytree(filled.lake, lake)
        steps.clear()

        def step(name: str, at: int = at) -> None:
            steps.append(name)
            if len(steps) == at:
                raise InterruptedError

        with suppress(InterruptedError):
            for task in compaction.tasks(lake, date.max, reach(lake).flushed):
                if task.table == "decisions":
                    compaction.compact(task, step)
            compaction.remove(lake, 4e9, step=step)
        found = verified(filled, lake)
        assert (found.first_fault, found.chain_ok) == (None, True), steps
        if len(steps) < at:
            return
    raise AssertionError(steps)


@pytest.mark.parametrize("what", ["one byte", "a row less", "the footer", "other records", "a file that hides it"])
def test_what_was_done_to_a_days_file_is_named(filled: World, tmp_path: Path, what: str) -> None:
    lake = tmp_path / "done to"
    shutil.copytree(filled.lake, lake)
    whole(lake)
    file, found, _ = rows(lake, partition_of(filled, "p1"))
    told, schema = pq.read_metadata(file).metadata, pq.read_schema(file)
    match what:
        case "one byte":
            one_byte(found[1])
        case "a row less":
            del found[1]
        case "the footer":
            told = {**told, b"croupier.flushes": b"bm90IGEgZm9vdGVy"}
        case "other records":
            beside(file).write_bytes(pack_records([(*place(row["position"]), row["record"]) for row in found[1:]]))
        case "a file that hides it":
            shutil.copy(
                min(filled.lake.glob("decisions/*/*.parquet")), file.with_name(f"0-{reach(lake).flushed}.parquet")
            )
    if what != "a file that hides it":
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            writer.write_table(pa.Table.from_pylist(found, schema=schema))
            writer.add_key_value_metadata(told)
    seen = verified(filled, lake)
    if what == "the footer":
        assert seen.first_fault is None, "the chain holds, and the file is read as one"
        assert seen.checked == verified(filled).checked
    else:
        assert seen.first_fault is not None
        assert not seen.chain_ok


def test_a_record_is_found_by_its_id_in_a_days_file(filled: World, tmp_path: Path) -> None:
    lake = tmp_path / "whole"
    shutil.copytree(filled.lake, lake)
    whole(lake)
    _, found, _ = rows(lake, "p")
    for row in found:
        kept: Any = filled.client.getdel(decision_key(row["decision_id"]))
        assert find_record(filled.client, lake, row["decision_id"]).record == load_record(row["record"])
        filled.client.set(decision_key(row["decision_id"]), kept)
