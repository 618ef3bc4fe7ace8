"""Schedules: due times, and the file that sets them."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from features.settings.mlflow_file import Schedules
from pipelines.worker.schedule import COMMANDS, ScheduleError, due, read_schedules

LINES = ("0 4 * * 1", "*/5 * * * *", "30 2 29 2 *", "0 0 1 * *", "0 12 * * 1-5", "15 */6 * * *", "*/20 * * * * *")
MOMENTS = st.datetimes(datetime(1999, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis
SPANS = st.timedeltas(timedelta(0), timedelta(days=800))


@given(st.sampled_from(LINES), MOMENTS, SPANS)
def test_what_is_due_lies_after_the_last_look_and_not_after_now_and_is_the_latest(
    line: str, since: datetime, span: timedelta
) -> None:
    now = since + span
    found = due(line, since, now)
    following = next(CronSim(line, since))
    if found is None:
        assert following > now
    else:
        assert since < found <= now
        assert next(CronSim(line, found)) > now


@given(st.sampled_from(LINES), MOMENTS, SPANS)
def test_after_a_run_nothing_is_due_until_the_next_moment(line: str, since: datetime, span: timedelta) -> None:
    found = due(line, since, since + span)
    if found is not None:
        assert due(line, found, since + span) is None
        following = next(CronSim(line, found))
        assert due(line, found, following - timedelta(microseconds=1)) is None
        assert due(line, found, following) == following


@given(st.sampled_from(LINES), MOMENTS, SPANS, st.floats(0, 1))
def test_looking_more_often_finds_the_same_last_moment(
    line: str, since: datetime, span: timedelta, part: float
) -> None:
    between = since + part * span
    first = due(line, since, between)
    second = due(line, first or since, since + span)
    assert (second or first) == due(line, since, since + span)


def test_the_shipped_file_schedules_the_retraining(tmp_path: Path) -> None:
    assert read_schedules(tmp_path) == {"retrain": "0 4 * * 1"}


@pytest.mark.parametrize("line", ["every monday", "61 4 * * 1"])
def test_what_is_no_cron_line_is_refused_in_one_sentence(line: str, tmp_path: Path) -> None:
    (tmp_path / "mlflow.yaml").write_text(f"schedules: {{retrain: '{line}'}}")
    with pytest.raises(
        ScheduleError, match=rf"^mlflow\.yaml schedules retrain at '{re.escape(line)}', which is no cron"
    ):
        read_schedules(tmp_path)


def test_a_home_that_schedules_nothing_runs_nothing_by_itself(tmp_path: Path) -> None:
    (tmp_path / "mlflow.yaml").write_text("schedules: {}")
    assert read_schedules(tmp_path) == {}


def test_what_can_be_scheduled_is_what_there_are_commands_for() -> None:
    assert {one.name for one in msgspec.structs.fields(Schedules)} == COMMANDS.keys()
