"""Files that people edit: YAML read as a model, with errors that name file, line and field."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

_SHOWN: Final = 3
Model = TypeVar("Model", bound=BaseModel)


class CatalogueError(Exception):
    """A catalogue or rule file is not valid; the text names the place."""


class _Once(yaml.constructor.SafeConstructor):
    """Refuses a key that stands twice: of two lines one would silently not hold."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - as in PyYAML
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"{name} stands twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class _Fast(_Once, yaml.CSafeLoader):
    """Reads a rulebook in a sixth of the time."""


class _Clear(_Once, yaml.SafeLoader):
    """Shows the text beside its fault."""


def _read(text: str) -> object:
    try:
        return yaml.load(text, _Fast)  # noqa: S506 - a safe loader
    except yaml.YAMLError:
        return yaml.load(text, _Clear)  # noqa: S506 - a safe loader


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Read a YAML file as a model; raises CatalogueError with file, line, field and reason."""
    try:
        text = path.read_text("utf8")
        return model.model_validate(_read(text))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CatalogueError(f"{path.name}: {error}") from error
    except ValidationError as error:
        raise CatalogueError(_told(path.name, text, error)) from error


def _told(name: str, text: str, error: ValidationError) -> str:
    """The first few faults; a key that is not known comes first, for it explains the one that is missing."""
    faults = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    root = yaml.compose(text, yaml.SafeLoader)
    told = []
    for fault in faults[:_SHOWN]:
        line, where = _place(root, fault["loc"])
        told.append(f"{name}:{line}: {'.'.join(where) or 'file'}: {fault['msg'].removeprefix('Value error, ')}")
    return "; ".join(told)


def _place(node: yaml.Node | None, loc: Sequence[int | str]) -> tuple[int, list[str]]:
    """Line and names of a field; what is no key of the file (the type that was chosen of several) is left out."""
    line, where = 1, []
    for step in loc:
        found = _below(node, step)
        if found is None and isinstance(step, str) and step == loc[-1]:
            where.append(step)
        if found is not None:
            node, line = found, found.start_mark.line + 1
            where.append(str(step))
    return line, where


def _below(node: yaml.Node | None, step: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return node.value[step] if step < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == str(step)), None)
    return None
