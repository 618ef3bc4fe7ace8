"""Pages for people: short, every link leads somewhere, every command is one, every block is run or says why not."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from support import exclusions_page, lake_page
from support.architecture import ROOT
from support.pages import ELSEWHERE, PAGES, RUN, SHOWN, Block, blocks, documents, unlike

from pipelines.cli.app import app
from service.decisions.reasons import OWN, TROUBLES, reasons
from service.rules.rulebook import load_rulebook, rulebook_path

ALL = [*PAGES, *sorted((ROOT / "docs").glob("*.md")), ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md"]
BLOCKS = [block for page in PAGES for block in blocks(page)]
UNRUN = [block for block in BLOCKS if block.elsewhere is not None]
MOST_UNRUN = 31
"""Blocks that no test runs; there may be fewer."""
DOORS = ("integrate", "scientist", "analyst", "compliance-officer", "operate")


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as links have them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_readme_is_short_and_leads_to_five_doors() -> None:
    text = (ROOT / "README.md").read_text("utf8")
    assert len(text.split()) <= 900
    assert all(f"(docs/{door}.md)" in text for door in DOORS)
    assert (ROOT / "docs" / "flow.svg").read_text("utf8").startswith("<svg")


@pytest.mark.parametrize("page", dict.fromkeys(ALL), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf8")):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {link} leads nowhere"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{page.name}: {link} names no heading"


def test_every_page_of_docs_is_listed() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index


def test_every_block_says_what_it_is_and_no_command_stands_outside_of_one() -> None:
    for block in BLOCKS:
        assert block.language in RUN | SHOWN, f"{block.name}: a fence without a language"
    for page in PAGES:
        prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf8"), flags=re.MULTILINE | re.DOTALL)
        assert not re.findall(r"^ {4}(?:croupier|make|curl|python|export) .*", prose, re.MULTILINE), page.name


def test_blocks_that_no_test_runs_are_few_and_say_why() -> None:
    assert len(UNRUN) <= MOST_UNRUN
    assert all(len((block.elsewhere or "").split()) >= 3 for block in UNRUN)
    assert not [block.name for block in BLOCKS if ELSEWHERE.strip() in block.text and block.elsewhere is None]


@pytest.mark.parametrize("block", UNRUN, ids=lambda block: block.name)
def test_commands_that_no_test_runs_are_commands_all_the_same(block: Block) -> None:
    """Their words and options are those of the command line."""
    for line in block.commands():
        for part in re.split(r"\s[&|;]+\s*|\s#.*$|\s&$", line):
            words = [word for word in shlex.split(part) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
            if words[:1] == ["croupier"]:
                understood(words[1:])


@pytest.mark.parametrize("page", dict.fromkeys(ALL), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_prose_are_commands_too(page: Path) -> None:
    for said in re.findall(r"`croupier ([a-z][^`|\[]*)`", page.read_text("utf8")):
        understood(said.partition(" > ")[0].split())


def understood(words: list[str]) -> None:
    """Raise if the command line has no such words."""
    command = typer.main.get_command(app)
    context = command.make_context("croupier", list(words), resilient_parsing=True)
    while (found := getattr(command, "resolve_command", None)) is not None:
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        if not rest or rest[0].isupper():  # a group as such, or a word that stands for several
            return
        name, command, rest = found(context, rest)
        assert command is not None, words
        options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        sent = {word.partition("=")[0] for word in rest if word.startswith("--")}
        context = command.make_context(name, rest, parent=context, resilient_parsing=True)
        if not hasattr(command, "resolve_command") and words[0] != "bench":  # whose options are those of scripts
            assert sent <= options, f"{words}: {sent - options}"


def test_every_reason_that_an_answer_can_give_is_on_the_page_of_exclusions() -> None:
    text = exclusions_page.PAGE.read_text("utf8")
    assert text == exclusions_page.page(), "run `make map`"
    for name in reasons(load_rulebook(rulebook_path())):
        trouble, _, about = name.partition("_")
        shown = f"`{about}`" if trouble in TROUBLES and name not in OWN else f"`{name}`"
        assert shown in text, name


def test_the_page_of_the_lake_is_that_of_its_columns() -> None:
    assert lake_page.PAGE.read_text("utf8") == lake_page.page(), "run `make map`"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"action": {"offer": "a", "more": 1}, "at": "2026-11-29T20:00:00Z", "list": [1, 2]}, 0),
        ({"action": {"offer": "b"}, "at": "2026-11-29T20:00:00Z", "list": [1]}, 1),
        ({"action": {"offer": "a"}, "at": None, "list": [1]}, 1),
        ({"action": "NO_CONTACT", "at": "2026-11-29T20:00:00Z", "list": []}, 2),
        ({"at": "2026-11-29T20:00:00Z", "list": [1]}, 1),
    ],
)
def test_an_answer_may_say_more_than_its_page_shows_and_nothing_else(given: dict[str, object], said: int) -> None:
    shown = {"action": {"offer": "a"}, "at": "2026-03-02T09:00:00Z", "list": [1]}
    assert len(list(unlike(shown, given))) == said


def test_documents_are_read_one_after_another_whatever_stands_between() -> None:
    assert documents('{"a": 1}\nready\n{"b": [2]} [3]') == [{"a": 1}, {"b": [2]}, [3]]
