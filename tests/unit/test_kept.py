"""What the store keeps of a decision, and files of records beside the lake."""

import string
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from frozen.cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from features.lake.records import Place, beside, find_record, pack_records
from features.moments import moment
from service.decisions.kept import KeptDecision, dump_kept, load_stored
from service.decisions.record import Record, load_record

SETTINGS = settings(max_examples=60, deadline=None)
RECORDS = [load_record(case.raw) for version in (1, 2) for case in cases("records", version)]
PLACED = b"1583107200000-3 1583107200123456 "


def dumped(record: Record) -> bytes:
    return dump_kept(KeptDecision.of(record), record)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.decision_id)
def test_what_is_kept_is_read_as_it_was_written_and_says_where_the_record_is(record: Record) -> None:
    plain = msgspec.structs.replace(record, explain=False)
    kept, whole, place = load_stored(PLACED + dumped(plain))
    assert (kept, whole) == (KeptDecision.of(record), None)
    assert place == Place(int(record.decision_id[:3]), "1583107200000-3", 1_583_107_200_123_456)
    assert len(dumped(plain)) < 1_300


@pytest.mark.parametrize("version", [1, 2])
def test_a_record_that_is_kept_whole_is_read_with_a_place_and_as_earlier_builds_kept_it(version: int) -> None:
    for case in cases("records", version):
        record = load_record(case.raw)
        assert load_stored(case.raw) == (KeptDecision.of(record), record, None)
        assert load_stored(PLACED + case.raw)[:2] == (KeptDecision.of(record), record)


def test_a_request_to_explain_keeps_all() -> None:
    assert {bool(dumped(record)) for record in RECORDS if record.explain} == {False}


ID = st.tuples(st.integers(0, 2**41), st.integers(0, 2**20)).map("{0[0]}-{0[1]}".format)
FLUSH = st.dictionaries(st.tuples(st.integers(0, 255), ID), st.text(string.printable).map(str.encode), max_size=20)
NEW_YEAR_US = 1_577_836_800_000_000


@SETTINGS
@given(FLUSH, st.integers(0, 255), ID)
def test_every_record_of_a_flush_is_found_by_its_place_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, flush: dict[tuple[int, str], bytes], partition: int, stream_id: str
) -> None:
    lake = tmp_path_factory.mktemp("lake")
    folder = lake / "decisions" / f"day={moment(NEW_YEAR_US).date()}"
    folder.mkdir(parents=True)
    rows = [(*where, body) for where, body in flush.items()]
    (folder / f"_0-{2**42}.records").write_bytes(pack_records(rows))
    for at, name, body in rows:
        assert find_record(lake, Place(at, name, NEW_YEAR_US)) == body
        assert find_record(lake, Place(at, name, NEW_YEAR_US - 1)) is None, "another day"
    if (partition, stream_id) not in flush:
        assert find_record(lake, Place(partition, stream_id, NEW_YEAR_US)) is None


def test_a_record_on_the_boundary_of_two_flushes_is_found_in_the_one_that_has_it(tmp_path: Path) -> None:
    folder = tmp_path / "decisions" / "day=2020-01-01"
    folder.mkdir(parents=True)
    (folder / "_0-100.records").write_bytes(pack_records([(7, "99-0", b"before")]))
    (folder / "_100-200.records").write_bytes(pack_records([(7, "100-1", b"after")]))
    assert find_record(tmp_path, Place(7, "99-0", NEW_YEAR_US)) == b"before"
    assert find_record(tmp_path, Place(7, "100-1", NEW_YEAR_US)) == b"after"
    assert find_record(tmp_path, Place(8, "100-1", NEW_YEAR_US)) is None


@pytest.mark.parametrize("cut", [1, 15, 16, 17, 40])
def test_half_a_file_is_refused_and_not_read_as_something(tmp_path: Path, cut: int) -> None:
    folder = tmp_path / "decisions" / "day=2020-01-01"
    folder.mkdir(parents=True)
    whole = pack_records([(7, "99-0", b"a record" * 9)])
    (folder / "_0-100.records").write_bytes(whole[:-cut])
    with pytest.raises(ValueError, match=r"^_0-100\.records is no file of records, or not whole$"):
        find_record(tmp_path, Place(7, "99-0", NEW_YEAR_US))
    (folder / "_50-200.records").write_bytes(pack_records([(7, "99-0", b"whole")]))
    assert find_record(tmp_path, Place(7, "99-0", NEW_YEAR_US)) == b"whole", "another file has it"


def test_what_lies_beside_the_files_of_a_lake_disturbs_nobody_who_reads_its_folders(tmp_path: Path) -> None:
    folder = tmp_path / "decisions" / "day=2020-01-01"
    folder.mkdir(parents=True)
    table = pa.table({"decision_id": ["a"]})
    pq.write_table(table, folder / "0-100.parquet")
    beside(folder / "0-100.parquet").write_bytes(pack_records([(7, "99-0", b"record")]))
    (folder / "_0-100 copy.records").write_bytes(b"")
    assert pq.read_table(tmp_path / "decisions", partitioning=None) == table
    assert len(pd.read_parquet(tmp_path / "decisions")) == 1
    assert find_record(tmp_path, Place(7, "99-0", NEW_YEAR_US)) == b"record"
