"""Homes of earlier builds, left open to others: closed by one walk, and nothing outside of them is touched."""

import stat
from pathlib import Path

from pipelines.machine.closing import close, still_open


def mode(place: Path) -> int:
    return stat.S_IMODE(place.stat().st_mode)


def test_a_home_is_closed_and_what_runs_still_runs(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    (home / "lake" / "day").mkdir(parents=True)
    modes = {"lake/day/rows": 0o644, "log": 0o666, "tool": 0o755, "closed": 0o600, "read": 0o444}
    for name, given in modes.items():
        (home / name).touch()
        (home / name).chmod(given)
    outside.touch(mode=0o644)
    outside.chmod(0o644)
    (home / "link").symlink_to(outside)
    for folder in (home, home / "lake", home / "lake" / "day"):
        folder.chmod(0o755)
    close(home)
    assert list(still_open(home)) == []
    assert {name: mode(home / name) for name in modes} == {
        "lake/day/rows": 0o600,
        "log": 0o600,
        "tool": 0o700,
        "closed": 0o600,
        "read": 0o400,
    }
    assert mode(home) == mode(home / "lake" / "day") == 0o700
    assert mode(outside) == 0o644, "what a link leads to is not the home's"


def test_a_home_that_is_closed_or_absent_stays_as_it_is(tmp_path: Path) -> None:
    close(tmp_path / "none")
    close(tmp_path)
    close(tmp_path)
    assert list(still_open(tmp_path)) == []
