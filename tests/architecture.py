"""The map of docs/architecture.md, made from the code: each folder and file with the first line of its docstring."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
TOPS = ("features", "models", "service", "pipelines", "benchmarks")
BEGIN = "## Folders and files\n"


def sentence(file: Path) -> str:
    """First line of a file's docstring."""
    said = ast.get_docstring(ast.parse(file.read_text("utf8"))) or ""
    return said.split("\n")[0].rstrip(".").replace("|", "\\|")


def modules(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.py") if file.name != "__init__.py")


def drawn() -> Iterator[str]:
    """The map, line by line."""
    for top in (ROOT / name for name in TOPS):
        folders = [top, *sorted(file.parent for file in top.glob("*/__init__.py"))]
        yield f"\n### {top.name}: {sentence(top / '__init__.py')}\n"
        for folder in folders:
            if folder != top:
                yield f"\n**{folder.relative_to(ROOT)}/** {sentence(folder / '__init__.py')}\n"
            lines = [f"| `{file.name}` | {sentence(file)} |\n" for file in modules(folder)]
            yield from ["\n| file | |\n|---|---|\n", *lines] if lines else []


def page(now: str) -> str:
    """The page with its map as the code has it."""
    before, _, rest = now.partition(BEGIN)
    said = rest.lstrip("\n").split("\n\n", 1)[0]
    return f"{before}{BEGIN}{said}\n{''.join(drawn())}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf8")), "utf8")
    print(f"{PAGE} is as the code has it", file=sys.stderr)
