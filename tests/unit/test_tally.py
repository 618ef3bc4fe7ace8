"""Counts of several processes: added up, kept when one ends, bounded in number"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import tally
from service.api.tally import CountedMetric, Tally

CALLS = CountedMetric("calls", "Calls", ("who",))
SECONDS = CountedMetric("seconds", "Seconds", ("who",), (1.0, 2.0))


@pytest.fixture(params=["shared", "alone"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param == "shared" else None


@pytest.fixture
def counts(folder: Path | None) -> Iterator[Tally]:
    counts = Tally(folder)
    yield counts
    counts.close()


def test_a_series_is_what_was_added_to_it(counts: Tally) -> None:
    for who in ("a", "b", "a"):
        counts.add(CALLS, who)
    assert counts.sums() == {("calls", ("a",)): [2.0], ("calls", ("b",)): [1.0]}


def test_an_observation_at_a_bound_lies_below_it(counts: Tally) -> None:
    for seconds in (0.5, 1.0, 1.5, 2.0, 9.0):
        counts.observe(SECONDS, seconds, "a")
    counts.add(CALLS, "a")
    assert counts.sums() == {("seconds", ("a",)): [2.0, 2.0, 1.0, 14.0], ("calls", ("a",)): [1.0]}


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc"), st.booleans()), max_size=60))
def test_whoever_counts_and_whoever_ends_the_sums_are_those_of_one_process(
    tmp_path_factory: pytest.TempPathFactory, story: list[tuple[int, str, bool]]
) -> None:
    folder, alone = tmp_path_factory.mktemp("counts"), Tally()
    several = [Tally(folder) for _ in range(4)]
    for which, who, ends in story:
        if ends:
            several[which].close()
            several[which] = Tally(folder)
        for counts in (several[which], alone):
            counts.add(CALLS, who)
            counts.observe(SECONDS, 1.5, who)
    assert [counts.sums() for counts in several] == [alone.sums()] * 4
    assert len(list(folder.glob("*.numbers"))) == 4
    for counts in several:
        counts.close()


COUNTING = """
import sys
from pathlib import Path
from service.api.tally import CountedMetric, Tally
counts = Tally(Path(sys.argv[1]))
for _ in range(1_000):
    counts.add(CountedMetric("calls", "Calls", ("who",)), "a")
print("counted", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_counted_stays_and_the_next_one_takes_its_place(tmp_path: Path) -> None:
    for number in range(1, 4):
        command = [sys.executable, "-c", COUNTING, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "counted\n"
            process.send_signal(signal.SIGKILL)
        mine = Tally(tmp_path)
        assert mine.sums() == {("calls", ("a",)): [1_000.0 * number]}
        mine.close()
    assert len(list(tmp_path.glob("*.numbers"))) == 1


def test_a_name_that_a_death_cut_off_counts_nothing(tmp_path: Path) -> None:
    first = Tally(tmp_path)
    first.add(CALLS, "a")
    first.close()
    with (tmp_path / "0.series").open("ab") as names:
        names.write(b'["calls",["b')
    second = Tally(tmp_path)
    second.add(CALLS, "c")
    assert second.sums() == {("calls", ("a",)): [1.0], ("calls", ("c",)): [1.0]}
    second.close()


def test_series_beyond_the_most_are_counted_as_others(counts: Tally) -> None:
    few = CountedMetric("few", "Few", ("who",), most=3)
    for number in range(50):
        counts.add(few, str(number))
    assert {who: held for (_, (who,)), held in counts.sums().items()} == {
        "0": [1.0],
        "1": [1.0],
        "2": [1.0],
        "other": [47.0],
    }


def test_numbers_that_there_is_no_room_for_are_not_counted(counts: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    counts.add(CALLS, "a")
    monkeypatch.setattr(tally, "_REST", 1)
    for who in ("b", "c", "a"):
        counts.add(CALLS, who)
        counts.observe(SECONDS, 1.0, who)
    assert counts.sums() == {("calls", ("a",)): [2.0]}


def test_files_of_counts_are_closed_to_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        counts = Tally(tmp_path)
        counts.add(CALLS, "a")
        counts.close()
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o77 for file in tmp_path.iterdir()} == {0}
