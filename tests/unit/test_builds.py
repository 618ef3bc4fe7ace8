"""Builds of other commits beside this one: their own files and their own furnisher."""

import subprocess
from pathlib import Path

import pytest

from benchmarks.builds import BuildError, of

WHO = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *WHO, *arguments], cwd=root, capture_output=True, text=True, check=True)  # noqa: S607 - wherever it is
    return done.stdout.strip()


@pytest.fixture
def commits(tmp_path: Path) -> list[str]:
    """A repository in `tmp_path`: before any furnisher, with the first one, with a second one."""
    (tmp_path / "Makefile").write_text("install:\n\ttouch installed\n", "utf8")
    (tmp_path / "benchmarks").mkdir()
    git(tmp_path, "init", "--quiet")
    made = []
    for text in (None, "first", "second"):
        if text is not None:
            (tmp_path / "benchmarks" / "house.py").write_text(text, "utf8")
        (tmp_path / "file").write_text(str(text), "utf8")
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "--quiet", "--message", "step")
        made.append(git(tmp_path, "rev-parse", "HEAD"))
    return made


def test_a_build_is_the_commits_files_installed_by_its_own_makefile(commits: list[str], tmp_path: Path) -> None:
    build = of(commits[1], tmp_path / "builds", tmp_path)
    assert (build.folder / "file").read_text("utf8") == "first"
    assert (build.folder / "installed").exists()
    assert build.python.is_relative_to(build.folder)


def test_a_build_furnishes_with_what_was_written_for_it(commits: list[str], tmp_path: Path) -> None:
    furnishers = [
        (of(commit, tmp_path / "builds", tmp_path).folder / "benchmarks" / "house.py").read_text("utf8")
        for commit in commits
    ]
    assert furnishers == ["first", "first", "second"]


def test_a_commit_that_is_not_there_is_one_sentence(commits: list[str], tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"^there is no commit {commits[0][::-1]} here$"):
        of(commits[0][::-1], tmp_path / "builds", tmp_path)


def test_a_clone_without_the_earlier_commits_says_how_to_get_them(commits: list[str], tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth", "1", tmp_path.as_uri(), str(shallow))
    with pytest.raises(
        BuildError, match=f"^there is no commit {commits[0]} here, .* `git fetch --unshallow` brings them$"
    ):
        of(commits[0], tmp_path / "builds", shallow)
