"""The wheel of the client: what lies in it, and that it stands alone in an environment without the house."""

import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "clients" / "python"
TRY: Final = """
import importlib.util, json
import croupier_client
house = [name for name in ("features", "models", "service", "pipelines", "pydantic") if importlib.util.find_spec(name)]
try:
    croupier_client.Croupier("http://127.0.0.1:1", "key", deadline_seconds=0.05).decide("p1")
except croupier_client.NoAnswer as error:
    print(json.dumps([croupier_client.__file__, house, type(error).__name__]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as the build back end makes it, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=FOLDER, check=True, capture_output=True)
    (made,) = folder.glob("croupier_client-*.whl")
    return made


def needs(name: str) -> set[str]:
    """A distribution with all that it needs, and nothing that only an extra of it does."""
    found = {name}
    for one in map(Requirement, distribution(name).requires or ()):
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            found |= needs(one.name)
    return found


def test_the_wheel_holds_the_package_and_its_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info" not in name}
        metadata = next(name for name in opened.namelist() if name.endswith("METADATA"))
        told = opened.read(metadata).decode()
    assert names == {f"croupier_client/{file.name}" for file in (FOLDER / "croupier_client").glob("*.*")}
    assert "croupier_client/py.typed" in names
    assert "Requires-Dist: httpx" in told


def test_it_is_installed_and_used_where_there_is_no_house(wheel: Path, tmp_path: Path) -> None:
    """In a new environment with what it says it needs and nothing else; those are linked to, as there is no network."""
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as opened:
        told = next(opened.read(name).decode() for name in opened.namelist() if name.endswith("METADATA"))
    needed = set().union(*(needs(name) for name in re.findall(r"^Requires-Dist: ([a-z]+)", told, re.MULTILINE)))
    for name in needed:
        for file in distribution(name).files or ():
            top = site / file.parts[0]
            if not top.exists() and ".." not in file.parts:
                top.symlink_to(distribution(name).locate_file(file.parts[0]))  # type: ignore[arg-type]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(home)]
    subprocess.run([*pip, "install", "--no-index", str(wheel)], check=True, capture_output=True)
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(home / "bin" / "python"), "-c", TRY], cwd=tmp_path, env=alone, check=True, capture_output=True, text=True
    )
    where, house, ended = json.loads(done.stdout)
    assert Path(where).is_relative_to(home.resolve())
    assert (house, ended) == ([], "NoAnswer")
