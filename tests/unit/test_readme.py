"""The map for newcomers names what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf8")
PACKAGES = ("features", "models", "service", "pipelines", "benchmarks", "notebooks")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_of_a_package_stands_in_the_readme(package: str) -> None:
    files = {file.name for file in (ROOT / package).iterdir() if file.is_file() and file.name != "__init__.py"}
    assert files <= set(re.findall(r"`([\w.]+)`", README))


def test_every_file_that_the_readme_names_is_there() -> None:
    there = {file.name for package in PACKAGES for file in (ROOT / package).iterdir()}
    named = set(re.findall(r"^\| ((?:`[\w./]+`(?:, )?)+) \|", README, re.MULTILINE))
    assert {name.strip("`/") for row in named for name in row.split(", ")} <= there


def test_every_decision_record_fits_a_page() -> None:
    records = list((ROOT / "docs" / "decisions").glob("*.md"))
    assert records
    for record in records:
        text = record.read_text("utf8")
        assert len(text.splitlines()) <= 40
        for part in ("Context", "Decision", "Consequences", "Alternatives"):
            assert f"**{part}.**" in text
