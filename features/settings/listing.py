"""Every setting as people see it: value, default, who said so, what it is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
from msgspec import Meta

from features.settings.environment import VARIABLES, Environment, environment
from features.settings.masks import MASK, masked
from features.settings.mlflow_file import SHIPPED, Mlflow, Oracle, read_mlflow, shipped


class Row(NamedTuple):
    """A setting as people see it: its value, what it would be by itself, who said so, what it is for."""

    name: str
    value: str | float | None
    default: str | float | None
    source: str
    meaning: str


class Declared(NamedTuple):
    """A key of mlflow.yaml: its path, the type of its value as people read it, what it is for."""

    path: tuple[str, ...]
    kind: str
    meaning: str

    def of(self, settings: Mlflow) -> Any:  # noqa: ANN401 - of the key's type
        """Its value."""
        return reduce(getattr, self.path, settings)

    def source(self, own: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
        """The file that has its section, a home's own first; a key that is left out there has its default."""
        name = f"CROUPIER_HOME/{SHIPPED.name}" if self.path[0] in own else f"shipped {SHIPPED.name}"
        part: Any = {**ours, **own}
        for step in self.path:
            if step not in part:
                return "default"
            part = part[step]
        return name


def listed(home: Path) -> list[Row]:
    """Every setting of a home; secrets and passwords are masked. Raises SettingError."""
    given = environment()
    return [*_of_environment(given), *_of_file(home, given)]


def _of_environment(given: Environment) -> Iterator[Row]:
    for one in VARIABLES:
        value = one.__get__(given, Environment)
        shown = (MASK if value else None) if one.secret else _shown(value)
        source = "environment" if one.name in given.variables else "default"
        yield Row(one.name, shown, _shown(one.default), source, one.meaning)


def _of_file(home: Path, given: Environment) -> Iterator[Row]:
    found, default = read_mlflow(home), shipped()
    own, ours = _written(home / SHIPPED.name), _written(SHIPPED)
    for one in declared():
        moved = given.mlflow and one.path == ("tracking", "uri")
        source = "environment" if moved else one.source(own, ours)
        yield Row(".".join(one.path), _shown(one.of(found)), _shown(one.of(default)), source, one.meaning)


def _written(file: Path) -> Any:  # noqa: ANN401 - a mapping, as was checked before
    """What stands in a file, without defaults."""
    from features.files import read_yaml  # noqa: PLC0415 - see `_sections`

    return read_yaml(file.read_text("utf8")) or {} if file.exists() else {}


def declared() -> list[Declared]:
    """Every key that mlflow.yaml may have."""
    return list(_declared(Mlflow))


def _declared(kind: type[msgspec.Struct], *above: str) -> Iterator[Declared]:
    for one in msgspec.structs.fields(kind):
        path = (*above, one.encode_name)
        if isinstance(one.type, type) and issubclass(one.type, msgspec.Struct):
            yield from _declared(one.type, *path)
        else:
            base, meta = get_args(one.type)
            yield Declared(path, _kind(base, meta), meta.description)


def _kind(base: Any, meta: Meta) -> str:  # noqa: ANN401 - any annotation
    words = {
        int: "whole number",
        int | None: "whole number",
        float: "number",
        str: "text",
        str | None: "text",
        Oracle: " or ".join(get_args(Oracle)),
    }
    bounds = [f"above {meta.gt}"] if meta.gt is not None else []
    bounds += [f"at most {meta.le}"] if meta.le is not None else []
    return ", ".join([words[base], *bounds])


def _shown(value: object) -> str | float | None:
    if value is None or value is False or value == ():
        return None
    return value if isinstance(value, int | float) else masked(str(value))
