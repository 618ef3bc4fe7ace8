"""Reviewed YAML files: read as a model, with errors that name file, line and field."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec
import yaml
from pydantic import BaseModel, ValidationError

from features.errors import CroupierError
from features.words import FILE, sentence, unknown

_SHOWN: Final = 20
Model = TypeVar("Model", bound=BaseModel)


class CatalogueError(CroupierError):
    """A catalogue or rule file is not valid; the text names the place."""

    code = "invalid_file"
    exit_code = 2


class _UniqueKeys(yaml.constructor.SafeConstructor):
    """YAML constructor that refuses a key that stands twice: one of the two would silently be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - as in PyYAML
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"{name} stands twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class _FastLoader(_UniqueKeys, yaml.CSafeLoader):
    """Loader by libyaml: a rulebook in a sixth of the time."""


class _ClearLoader(_UniqueKeys, yaml.SafeLoader):
    """Loader in Python, whose errors quote the text."""


def read_yaml(text: str) -> object:
    """Parse YAML with each key once; raises YAMLError naming line and column."""
    try:
        return yaml.load(text, _FastLoader)  # noqa: S506 - a safe loader
    except yaml.YAMLError:
        return yaml.load(text, _ClearLoader)  # noqa: S506 - a safe loader


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Read a YAML file as a model; raises CatalogueError with file, line, field and reason."""
    try:
        text = path.read_text("utf8")
        content = read_yaml(text)
        found = model.model_validate(content, context=FILE) if (place := find_infinite(content)) is None else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CatalogueError(f"{path.name}: {error}") from error
    except ValidationError as error:
        raise CatalogueError(_faults(path.name, text, error)) from error
    if found is None or (place := find_infinite(found)) is not None:
        root = yaml.compose(text, yaml.SafeLoader)
        raise CatalogueError(_said(path.name, root, place or (), "must be a finite number"))
    return found


def load_sections(path: Path, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The sections that a settings file has of a struct; raises CatalogueError as `load_yaml`."""
    try:
        text = path.read_text("utf8")
        content = {} if (read := read_yaml(text)) is None else read
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    faults = list(_strange(content, kind))
    if (place := find_infinite(content)) is not None:
        faults.append((place, "must be a finite number"))
    if not faults:
        known = [(one.name, one.type | msgspec.UnsetType, msgspec.UNSET) for one in msgspec.structs.fields(kind)]
        try:
            found = msgspec.structs.asdict(msgspec.convert(content, msgspec.defstruct(kind.__name__, known)))
            return {name: part for name, part in found.items() if part is not msgspec.UNSET}
        except msgspec.ValidationError as error:
            what, _, inside = str(error).partition(" - at `$")
            faults.append((tuple(inside.strip("`").split(".")[1:]), what))
    root = yaml.compose(text, yaml.SafeLoader)
    raise CatalogueError("; ".join(_said(str(path), root, *fault) for fault in faults[:_SHOWN]))


def _strange(content: object, kind: Any, *place: int | str) -> Iterator[tuple[tuple[int | str, ...], str]]:  # noqa: ANN401 - any annotation
    """Keys and words of a file that a struct does not know, each with the nearest that it does."""
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(kind) is Literal and isinstance(content, str) and content not in get_args(kind):
        yield place, unknown(content, "known word", get_args(kind))
    if isinstance(content, Mapping) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = {one.encode_name: one.type for one in msgspec.structs.fields(kind)}
        for name, value in content.items():
            if name in fields:
                yield from _strange(value, fields[name], *place, name)
            else:
                yield (*place, name), unknown(name, "known key", fields)


def find_infinite(content: object) -> tuple[int | str, ...] | None:
    """Place of the first number that is not finite, empty if none; pydantic reads the text `1e999` as infinite too."""
    return next(_find_infinite(content), None)


def _find_infinite(value: object, *place: int | str) -> Iterator[tuple[int | str, ...]]:
    inside: Iterable[tuple[Any, object]] = ()
    match value:
        case float() if not isfinite(value):
            yield place
        case BaseModel():
            inside = ((field.alias or name, getattr(value, name)) for name, field in type(value).model_fields.items())
        case Mapping():
            inside = value.items()
        case tuple() if isinstance(names := getattr(value, "_fields", None), tuple):
            inside = zip(names, value, strict=True)
        case tuple() | list():
            inside = enumerate(value)
    for step, one in inside:
        yield from _find_infinite(one, *place, step)


def _faults(name: str, text: str, error: ValidationError) -> str:
    """The first few faults as text; unknown keys first, for they explain missing ones."""
    faults = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    root = yaml.compose(text, yaml.SafeLoader)
    return "; ".join(_said(name, root, fault["loc"], sentence(fault)) for fault in faults[:_SHOWN])


def _said(name: str, root: yaml.Node | None, loc: Sequence[int | str], what: str) -> str:
    line, where = _place(root, loc)
    return f"{name}:{line}: {'.'.join(where) or 'file'}: {what}"


def _place(node: yaml.Node | None, loc: Sequence[int | str]) -> tuple[int, list[str]]:
    """Line and names of a field, without the type that a union chose, which is no key of the file."""
    line, where = 1, []
    for step in loc:
        found = _below(node, step)
        if found is None and isinstance(step, str) and step == loc[-1]:
            where.append(step)
        if found is not None:
            begin, node = found
            line = begin.start_mark.line + 1
            where.append(str(step))
    return line, where


def _below(node: yaml.Node | None, step: int | str) -> tuple[yaml.Node, yaml.Node] | None:
    """Where a part begins, at its key if it has one, and the part."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return (node.value[step],) * 2 if step < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((pair for pair in node.value if pair[0].value == str(step)), None)
    return None
