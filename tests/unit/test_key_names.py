"""Names of the store's keys are spelt in one file: nothing else writes what looks like one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("features", "models", "service", "pipelines", "benchmarks", "notebooks")
HOME: Final = "features/store/keys.py"
ALLOWED: Final = {
    HOME: "every key is named here",
    "service/contacts/limits.py": "a limit is named by kind and id, `budget:bonus_day`",
    "service/decisions/confirm.py": "the limits of kind `budget:`",
}
"""Files that may write what looks like a key, and why."""


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each string that a program uses: not its docstrings, of an f-string each fixed part."""
    unused = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in unused:
            match node.value:
                case str() as text:
                    yield node.lineno, text
                case bytes() as raw:
                    yield node.lineno, raw.decode("latin-1")


def families(home: ast.AST) -> frozenset[str]:
    """What keys begin with, up to their first colon."""
    return frozenset(text.partition(":")[0] for _, text in literals(home) if re.match(r"[a-z_]+:", text))


def key_literals(tree: ast.AST, families: frozenset[str]) -> list[tuple[int, str]]:
    """Line and text of each string that begins as a key does, or with a hash tag."""
    key = re.compile(rf"({'|'.join(sorted(families))}):(?! )|\{{p(\d|$)")
    return [(line, text) for line, text in literals(tree) if key.match(text)]


def parsed(path: str) -> ast.AST:
    return ast.parse((ROOT / path).read_text("utf8"))


FAMILIES: Final = families(parsed(HOME))
FILES: Final = sorted(str(file.relative_to(ROOT)) for top in PACKAGES for file in (ROOT / top).rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_no_other_file_spells_a_key(path: str) -> None:
    found = key_literals(parsed(path), FAMILIES)
    if path in ALLOWED:
        assert found, f"{path} spells no key any more: take it out of the list"
    else:
        assert found == []


@pytest.mark.parametrize(
    "spelt",
    ["f'lease:{one}'", "b'facts:' + key", "'croupier:live'", "'outbox:{p017}'", "f'{{p{number:03d}}}'", "['log:']"],
)
def test_a_key_is_seen_however_it_is_spelt(spelt: str) -> None:
    assert key_literals(ast.parse(f"found = {spelt}"), FAMILIES)


@pytest.mark.parametrize("other", ["'croupier: warning'", "'catalogue:x'", "f'{budget}:x'", "'of a log:x'"])
def test_other_texts_are_none(other: str) -> None:
    assert not key_literals(ast.parse(f"found = {other}"), FAMILIES)


def test_a_docstring_may_name_a_key() -> None:
    assert not key_literals(ast.parse('"""lease:learner"""'), FAMILIES)
