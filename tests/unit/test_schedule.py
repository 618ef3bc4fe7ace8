"""Schedules: due times, and the file that sets them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from pipelines.worker.schedule import ScheduleError, due, read_schedules

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


def test_the_files_own_schedules_can_be_read() -> None:
    assert read_schedules() == {"retrain": "0 4 * * 1"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("schedules: {retrain: every monday}", r"schedules retrain at 'every monday', which is no cron line"),
        ("schedules: {retrain: '61 4 * * 1'}", r"schedules retrain at '61 4 \* \* 1', which is no cron line"),
        ("schedules: {repaint: '0 4 * * 1'}", r"schedules 'repaint'; what can be scheduled is retrain"),
        ("schedules: 3", "cannot be used"),
        ("a: [", "cannot be used"),
    ],
)
def test_what_cannot_be_scheduled_is_one_sentence_that_names_the_file(text: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.yaml"
    file.write_text(text)
    with pytest.raises(ScheduleError, match=rf"mlflow\.yaml {why}"):
        read_schedules(file)


def test_a_file_that_is_missing_is_named_and_one_without_schedules_is_fine(tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match=r"nowhere\.yaml cannot be used"):
        read_schedules(tmp_path / "nowhere.yaml")
    (tmp_path / "mlflow.yaml").write_text("experiment: croupier")
    assert read_schedules(tmp_path / "mlflow.yaml") == {}
