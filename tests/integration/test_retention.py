"""Days of the lake past their time are deleted: the chain goes on from where they were cut, whenever that is killed."""

import shutil
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from integration.test_audit import filled as filled  # noqa: PLC0414 - a fixture
from integration.test_audit import verified
from integration.test_compaction import AFTER, rows, whole, with_records
from integration.test_learner import newest, school
from support.fault_house import World
from support.learning_log import grow

from features.lake.anchor import read_anchor
from features.lake.files import TABLES, day_of, table_files, unmoved
from features.lake.records import beside
from features.settings.environment import SettingError
from features.settings.mlflow_file import KeepDays, read_mlflow
from features.store.keys import decision_key, log_key
from pipelines.audit.period import AuditRefused
from pipelines.audit.records import find_record
from pipelines.backup.checks import chain_faults
from pipelines.lake.compaction import compact, tasks
from pipelines.lake.retention import NotDeletedError, delete, expired
from pipelines.worker.lake import reach

KEEP = KeepDays(events=40, decisions=40, outcomes=40)
OLD = date(2020, 1, 1)
CUT = OLD + timedelta(days=41)


def aged(world: World, lake: Path) -> set[str]:
    """Copy a lake with its first flush as one of a day long ago, which the store forgets; its decisions."""
    shutil.copytree(world.lake, lake)
    gone: set[str] = set()
    for table in TABLES:
        if not (files := table_files(lake, table)):
            continue
        day = lake / table / f"day={OLD}"
        day.mkdir()
        if table == "decisions":
            gone = {row["decision_id"] for row in rows(lake, table)}
        for file in files[:1]:
            for one in (file, beside(file)):
                if one.exists():
                    one.rename(day / one.name)
    gone -= {row["decision_id"] for file in table_files(lake, "decisions")[1:] for row in _rows(file)}
    for name in gone:
        world.client.delete(decision_key(name))
    return gone


def _rows(file: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = pq.read_table(file, columns=["decision_id"], partitioning=None).to_pylist()
    return found


def test_a_verification_passes_before_and_after_and_a_lost_record_is_said_to_be_deleted(
    filled: World, tmp_path: Path
) -> None:
    lake = tmp_path / "aged"
    gone = aged(filled, lake)
    before = verified(filled, lake)
    assert before.first_fault is None
    assert delete(lake, KEEP, CUT) > 0
    after = verified(filled, lake)
    assert (after.first_fault, after.chain_ok) == (None, True)
    assert after.checked == before.checked - len(gone)
    assert chain_faults(lake, lambda _: None)[1] == []
    assert not list(lake.glob(f"*/day={OLD}"))
    assert delete(lake, KEEP, CUT) == 0
    for task in tasks(lake, date.max, reach(lake).flushed):
        compact(task)
    assert verified(filled, lake).first_fault is None
    filled.client.delete(log_key(int(min(gone)[:3])))  # it is trimmed
    with pytest.raises(AuditRefused, match=f"its days up to {OLD} were deleted"):
        find_record(filled.client, lake, min(gone))


def test_killed_at_any_step_a_verification_passes_and_the_next_round_ends_it(filled: World, tmp_path: Path) -> None:
    gone = aged(filled, tmp_path / "aged")
    assert gone
    for at in range(1, 20):
        lake, steps = tmp_path / f"killed-{at}", list[str]()
        shutil.copytree(tmp_path / "aged", lake)

        def step(name: str, at: int = at, steps: list[str] = steps) -> None:
            steps.append(name)
            if len(steps) == at:
                raise InterruptedError

        with suppress(InterruptedError):
            delete(lake, KEEP, CUT, step)
        assert verified(filled, lake).first_fault is None, steps
        delete(lake, KEEP, CUT)
        assert verified(filled, lake).first_fault is None, steps
        assert not list(lake.glob(f"*/day={OLD}"))
        if len(steps) < at:
            return
    raise AssertionError


def test_what_is_left_of_a_day_that_was_being_deleted_is_no_stray(filled: World, tmp_path: Path) -> None:
    lake = tmp_path / "aged"
    aged(filled, lake)
    shutil.copytree(lake / "decisions" / f"day={OLD}", tmp_path / "kept")
    delete(lake, KEEP, CUT)
    (day := lake / "decisions" / f"day={OLD}").mkdir()
    for file in (tmp_path / "kept").glob("_*"):
        shutil.copy(file, day)
    assert verified(filled, lake).first_fault is None


def test_a_row_less_after_the_cut_is_still_named(filled: World, tmp_path: Path) -> None:
    lake = tmp_path / "aged"
    aged(filled, lake)
    delete(lake, KEEP, CUT)
    shutil.rmtree(next(lake.glob("decisions/day=*")))
    assert verified(filled, lake).first_fault is not None


def test_days_go_oldest_first_what_is_kept_stays_and_the_learner_goes_on(tmp_path: Path) -> None:
    grow(tmp_path, 24, 10)
    with_records(tmp_path)
    pupil = school(tmp_path)
    for flush in pupil.waiting()[:20]:
        pupil.learn(flush)
    whole_lake = newest(tmp_path)
    days = sorted({day_of(file) for table in TABLES for file in table_files(tmp_path, table)})
    before = {table: rows(tmp_path, table) for table in TABLES}
    first_open = date.fromisoformat(days[2]) + timedelta(days=40)
    with unmoved(tmp_path):
        assert delete(tmp_path, KEEP, first_open) == 0, "somebody reads"
    assert delete(tmp_path, KEEP, first_open) == 6
    assert read_anchor(tmp_path).until == days[1]
    for table in TABLES:
        kept = [row for row in before[table] if row["known_at"].date().isoformat() >= days[2]]
        assert rows(tmp_path, table) == kept
    for flush in pupil.waiting():
        pupil.learn(flush)
    assert pupil.newest is not None
    assert pupil.newest.dumps() == whole_lake, "who had learnt what was deleted goes on"
    anew = newest(tmp_path)
    whole(tmp_path)
    assert newest(tmp_path) == anew, "who begins anew learns what is there"


def test_null_keeps_for_good_and_a_table_is_deleted_alone(tmp_path: Path) -> None:
    grow(tmp_path, 24, 10)
    assert not any(expired(tmp_path, KeepDays(), AFTER).values())
    assert delete(tmp_path, KeepDays(decisions=36), AFTER) > 0
    assert not table_files(tmp_path, "decisions")
    assert table_files(tmp_path, "events")
    assert table_files(tmp_path, "outcomes")


def test_where_later_days_came_before_the_chain_is_not_cut(tmp_path: Path) -> None:
    grow(tmp_path, 24, 10)
    days = sorted((tmp_path / "decisions").glob("day=*"))
    last = max(days[-1].glob("*.parquet"), key=lambda file: int(file.stem.partition("-")[2]))
    last.rename(days[0] / last.name)
    before = rows(tmp_path, "decisions")
    with pytest.raises(NotDeletedError, match="were logged after some of later days"):
        delete(tmp_path, KeepDays(decisions=40), date.fromisoformat(days[1].name[4:]) + timedelta(days=40))
    assert rows(tmp_path, "decisions") == before


@pytest.mark.parametrize(
    ("days", "fine"),
    [
        ("{events: 400, decisions: 36, outcomes: 36}", True),
        ("{decisions: 36}", True),
        ("{events: null, decisions: null, outcomes: null}", True),
        ("{events: 36}", False),
        ("{events: 36, decisions: 37}", False),
        ("{decisions: 35}", False),
        ("{decisions: many}", False),
    ],
)
def test_what_a_house_may_say(tmp_path: Path, days: str, fine: bool) -> None:  # noqa: FBT001
    (tmp_path / "mlflow.yaml").write_text(f"lake:\n  keep_days: {days}\n", "utf8")
    if fine:
        assert read_mlflow(tmp_path).lake.keep_days
    else:
        with pytest.raises(SettingError):
            read_mlflow(tmp_path)
