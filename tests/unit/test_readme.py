"""The maps of the code and of the tests name every file."""

import re
from pathlib import Path

import pytest
from support.architecture import MAPS, PAGE, modules, page

ROOT = Path(__file__).parents[2]
PACKAGES = ("features", "models", "service", "pipelines", "benchmarks", "clients", "notebooks", "tests")
README = (ROOT / "README.md").read_text("utf8")


@pytest.mark.parametrize("path", MAPS, ids=lambda path: path.name)
def test_a_map_is_what_the_code_says_of_itself(path: Path) -> None:
    now = path.read_text("utf8")
    assert now == page(now, MAPS[path]()), "the map is of another code: make map"


def test_no_folder_holds_many_files_flat() -> None:
    for top in ("pipelines", "service"):
        assert len(modules(ROOT / top)) <= 4


def test_every_file_that_a_page_names_is_there() -> None:
    there = {file.name for package in PACKAGES for file in (ROOT / package).rglob("*")}
    for text in (README, PAGE.read_text("utf8")):
        assert set(re.findall(r"`(\w+\.py)`", text)) <= there


def test_every_decision_record_fits_a_page() -> None:
    records = list((ROOT / "docs" / "decisions").glob("*.md"))
    assert records
    for record in records:
        text = record.read_text("utf8")
        assert len(text.splitlines()) <= 40
        for part in ("Context", "Decision", "Consequences", "Alternatives"):
            assert f"**{part}.**" in text
