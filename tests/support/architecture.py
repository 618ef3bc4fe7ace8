"""Write the maps of docs/architecture.md and tests/README.md from the first lines of docstrings."""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
TESTS = ROOT / "tests" / "README.md"
TOPS = ("features", "models", "service", "pipelines", "benchmarks", "clients/python/croupier_client")
BEGIN = "## Folders and files\n"


def sentence(file: Path) -> str:
    """First line of a file's docstring."""
    said = ast.get_docstring(ast.parse(file.read_text("utf8"))) or ""
    return said.split("\n")[0].rstrip(".").replace("|", "\\|")


def modules(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.py") if file.name != "__init__.py")


def table(files: list[Path]) -> list[str]:
    lines = [f"| `{file.name}` | {sentence(file)} |\n" for file in files]
    return ["\n| file | |\n|---|---|\n", *lines] if lines else []


def of_code() -> Iterator[str]:
    """The map of the code, line by line."""
    for top in (ROOT / name for name in TOPS):
        folders = [top, *sorted(file.parent for file in top.glob("*/__init__.py"))]
        yield f"\n### {top.relative_to(ROOT)}: {sentence(top / '__init__.py')}\n"
        for folder in folders:
            if folder != top:
                yield f"\n**{folder.relative_to(ROOT)}/** {sentence(folder / '__init__.py')}\n"
            yield from table(modules(folder))


def of_tests() -> Iterator[str]:
    """The map of the tests, line by line."""
    for folder in sorted({file.parent for file in (ROOT / "tests").glob("*/*.py")}):
        yield f"\n**tests/{folder.name}/**\n"
        yield from table(modules(folder))


def page(now: str, drawn: Iterable[str]) -> str:
    """A page with its map as the code has it."""
    before, _, rest = now.partition(BEGIN)
    said = rest.lstrip("\n").split("\n\n", 1)[0]
    return f"{before}{BEGIN}{said}\n{''.join(drawn)}"


MAPS = {PAGE: of_code, TESTS: of_tests}

if __name__ == "__main__":
    for path, drawn in MAPS.items():
        path.write_text(page(path.read_text("utf8"), drawn()), "utf8")
        print(f"{path} is as the code has it", file=sys.stderr)
