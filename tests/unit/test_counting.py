"""The folder in which processes count: private, gone at the end, and those that killed processes left with it"""

import fcntl
import os
import time
from pathlib import Path

import pytest

from features.settings.environment import environment
from pipelines.machine import counting as made
from pipelines.machine.counting import counting
from service.api.tally import CountedMetric, Tally

LONG_AGO = time.time() - 3_600


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(made, "_MEMORY", tmp_path)
    monkeypatch.setenv("CROUPIER_METRICS", "")
    return tmp_path


def left(memory: Path, name: str) -> Path:
    """A folder as a killed process leaves it."""
    folder = memory / f"croupier-metrics-{name}"
    folder.mkdir(mode=0o700)
    counts = Tally(folder)
    counts.add(CountedMetric("calls", "Calls"))
    counts.close()
    (folder / "serving").touch()
    os.utime(folder, (LONG_AGO, LONG_AGO))
    return folder


def test_a_folder_is_private_empty_and_gone_at_the_end() -> None:
    with counting() as folder:
        assert environment().metrics == folder
        assert folder.stat().st_mode & 0o777 == 0o700
        assert [file.name for file in folder.iterdir()] == ["serving"]
        counts = Tally(folder)
        counts.add(CountedMetric("calls", "Calls"))
    assert not folder.exists()
    counts.add(CountedMetric("calls", "Calls"))
    counts.close()


def test_what_killed_processes_left_is_removed_and_what_counts_is_not(memory: Path) -> None:
    gone, fresh = left(memory, "gone"), left(memory, "fresh")
    os.utime(fresh)
    served, orphaned = left(memory, "served"), left(memory, "orphaned")
    with (served / "serving").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        counts = Tally(orphaned)
        os.utime(orphaned, (LONG_AGO, LONG_AGO))
        with counting():
            assert [folder.exists() for folder in (gone, fresh, served, orphaned)] == [False, True, True, True]
        counts.close()


def test_two_houses_count_apart() -> None:
    with counting() as one, counting() as other:
        assert one != other


def test_a_link_in_its_place_is_not_followed(memory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "kept").touch()
    (memory / "croupier-metrics-link").symlink_to(elsewhere)
    with counting():
        assert (elsewhere / "kept").exists()
