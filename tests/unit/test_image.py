"""Dockerfile and compose.yaml against what they start: no engine is needed to see that they name what is there."""

import tomllib
from pathlib import Path
from typing import Any, Final

import typer.main
import yaml

from pipelines.__main__ import app

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text("utf8").splitlines()
PYPROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
SERVICES: Final[dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf8"))["services"]


def copied() -> set[str]:
    """What the image takes from the checkout."""
    lines = [line.split()[1:-1] for line in DOCKERFILE if line.startswith("COPY ") and "--from" not in line]
    return {source for line in lines for source in line}


def test_the_image_takes_all_that_the_wheel_is_built_of_and_nothing_else() -> None:
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    built = {*wheel["packages"], *wheel["force-include"], PYPROJECT["project"]["readme"], "LICENSE"}
    assert copied() == built | {"pyproject.toml", "requirements.lock"}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf8").splitlines() if line.startswith("!")}
    assert let_in == copied()


def test_the_extra_of_the_image_is_one_of_ours() -> None:
    (extra,) = [line.partition("=")[2] for line in DOCKERFILE if line.startswith("ARG EXTRA=")]
    assert extra in PYPROJECT["project"]["optional-dependencies"]


def test_every_container_runs_a_command_that_is_there() -> None:
    run = {name: service["command"][0] for name, service in SERVICES.items() if name not in {"store", "api"}}
    assert set(run.values()) <= getattr(typer.main.get_command(app), "commands").keys()  # noqa: B009 - of groups
    (served,) = [line for line in DOCKERFILE if line.startswith("CMD [")]
    assert '"serve"' in served


def test_no_port_is_opened_beyond_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_store_keeps_every_write_and_evicts_nothing() -> None:
    words = SERVICES["store"]["command"]
    said = dict(zip(words[1::2], words[2::2], strict=True))
    assert said == {
        "--appendonly": "yes",
        "--appendfsync": "always",
        "--save": "",
        "--maxmemory-policy": "noeviction",
    }
