"""Inputs of the first build's frozen values and their comparison: frozen data, never today's.

Each file of `frozen/functions/*/` holds lines `{"given": ..., "gives": ...}`, as the first build computed them; what a
line needs besides (house, catalogue, rulebook, list of features) is frozen beside. A line is never edited: what stands
in a house must be found, and be the same, after every change of the code. Floats are written in hex, bytes too.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import BaseModel

from features.store.deployment import House
from models.catalogue.offers import Catalogue, load_catalogue
from service.rules.rulebook import Rulebook, load_rulebook

FROZEN: Final = Path(__file__).parents[1] / "frozen" / "functions"
HOUSE: Final = msgspec.json.decode((FROZEN / "house.json").read_bytes(), type=House)
PLAYER: Final = HOUSE.player_key("player-1")


def lines(name: str) -> Iterator[dict[str, Any]]:
    """Lines of a file, by its path inside the folder."""
    return map(json.loads, (FROZEN / f"{name}.jsonl").read_text("utf8").splitlines())


def differences(folder: str, name: str, function: Callable[[Any], Any]) -> list[Any]:
    """Lines of a file that a function gives something else for now: (given, now, then)."""
    found = [(line["given"], function(line["given"]), line["gives"]) for line in lines(f"{folder}/{name}")]
    assert found, "no line is frozen"
    return [one for one in found if one[1] != one[2]]


def frozen_names(folder: str) -> set[str]:
    """Names of the frozen files of a folder."""
    return {file.stem for file in (FROZEN / folder).glob("*.jsonl")}


@cache
def frozen_catalogue() -> Catalogue:
    """The catalogue that the first build came with."""
    return load_catalogue(FROZEN / "catalogue.yaml")


@cache
def frozen_rulebook() -> Rulebook:
    """Packs of the first build that hold every type of rule."""
    return load_rulebook(FROZEN / "rulebook")


def replaced(model: BaseModel, changes: dict[str, Any]) -> dict[str, Any]:
    """Content of a model with some fields replaced; `offers.0.terms` names a field inside."""
    content = model.model_dump(mode="json", by_alias=True)
    for path, value in changes.items():
        *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        place: Any = content
        for step in way:
            place = place[step]
        place[last] = value
    return content


def changed(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A frozen object with some fields replaced."""
    return {**json.loads((FROZEN / f"{name}.json").read_bytes()), **changes}
