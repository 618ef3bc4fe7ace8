"""The command line: what its help holds, and what starting a tool does not cost."""

import subprocess
import sys

from support.architecture import ROOT
from typer.testing import CliRunner

from pipelines.cli.app import app

_IMPORT_ALL = """
import importlib, sys
sys.modules |= {"feast": None, "mlflow": None}  # which import FastAPI themselves
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        assert "feast" in str(error) or "mlflow" in str(error), (name, error)
print(*sorted({"fastapi", "starlette", "prometheus_client"} & sys.modules.keys()))
"""


def process(code: str, *words: str) -> str:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout.strip()


def test_no_tool_imports_a_web_framework() -> None:
    files = (ROOT / "pipelines").rglob("*.py")
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    assert len(names) > 60
    assert process(_IMPORT_ALL, *names) == ""


def test_feast_is_imported_without_checks_that_take_seconds_to_compile() -> None:
    names = process("import features.definitions, feast\nprint(*feast.FeatureView.__init__.__code__.co_names)").split()
    assert "source_views" in names
    assert not {"typeguard", "TypeCheckMemo"} & set(names)


def test_help_imports_neither_the_stores_client_nor_rich_nor_zones() -> None:
    code = "import sys\nfrom pipelines.cli.app import app\napp(['--help'], standalone_mode=False)\nprint(*sys.modules)"
    loaded = set(process(code).rpartition("\n")[2].split())
    assert "typer" in loaded
    assert not loaded & {"redis", "rich", "msgspec", "pydantic", "numpy", "tzdata"}


def test_help_holds_the_whole_of_what_a_command_says_of_itself() -> None:
    shown = CliRunner().invoke(app, ["bench", "--help"])
    assert shown.exit_code == 0
    assert "Example: croupier bench restricting --times 10000." in " ".join(shown.output.split())
    assert "settle" not in CliRunner().invoke(app, ["--help"]).output, "hidden"
