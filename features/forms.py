"""Text of a model that is hashed: the first build's fields always, later fields where they differ from their default.

A hash that stands in a store or a log must come out the same after every change of the code. So a form names the
fields that something had in the first build: they are always in, defaults included; a field that was added later
enters only where it differs from its default. Names are those in JSON: an attribute may be renamed behind an alias,
and no name of a class enters.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

import msgspec
from pydantic import BaseModel

_REQUIRED: Final = object()
"""Default of a field that has none: no value equals it."""


class _Field(NamedTuple):
    """A field of a class: attribute, its place for pydantic's `exclude`, name in JSON, default."""

    attribute: str
    place: str | int
    name: str
    default: Any


class _Known(NamedTuple):
    """Fields of a class for hashing: those of the first build in order, later ones, those with a form of their own."""

    first: list[_Field]
    later: list[_Field]
    parts: list[tuple[_Field, Form | Mapping[str, Form]]]


class Form:
    """Form of a hash input: the fields of the first build.

    Args:
        fields: Their names in JSON, in order, divided by spaces.
        never: A field that never enters the hash.
        parts: Field -> form of the models in it (one, a list or a mapping); for several types, the forms by the
            value of their field `type`.
    """

    def __init__(self, fields: str, never: str = "", /, **parts: Form | Mapping[str, Form]) -> None:
        self._fields, self._never, self._parts = fields.split(), never, parts
        self._classes: dict[type, _Known] = {}

    def json(self, model: BaseModel) -> bytes:
        """JSON of a model for hashing."""
        known = self._look(type(model))
        silent = self.silent(model) if known.later or known.parts else None
        return model.model_dump_json(by_alias=True, exclude=silent or None).encode()

    def hash(self, model: BaseModel) -> str:
        """Hash of a model's content, twelve hex digits."""
        return hashlib.sha256(self.json(model)).hexdigest()[:12]

    def content(self, held: object) -> dict[str, Any]:
        """Fields of a struct or dataclass for hashing: the first build's in order, then later ones that differ."""
        known = self._look(type(held))
        said = [one for one in known.later if getattr(held, one.attribute) != one.default]
        return {one.name: getattr(held, one.attribute) for one in (*known.first, *said)}

    def silent(self, content: object) -> dict[Any, Any]:
        """Fields that the hash of a model or named tuple omits, as pydantic's `exclude` takes them."""
        known = self._look(type(content))
        found: dict[Any, Any] = {
            one.place: True
            for one in known.later
            if one.name == self._never or getattr(content, one.attribute) == one.default
        }
        for one, form in known.parts:
            if inside := _inside(getattr(content, one.attribute), form):
                found[one.place] = inside
        return found

    def _look(self, kind: type) -> _Known:
        if (known := self._classes.get(kind)) is None:
            fields = {one.name: one for one in _declared(kind)}
            known = self._classes[kind] = _Known(
                [fields[name] for name in self._fields],
                [one for name, one in fields.items() if name not in self._fields],
                [(fields[name], form) for name, form in self._parts.items()],
            )
        return known


def _inside(value: object, form: Form | Mapping[str, Form]) -> dict[Any, Any]:
    """Fields to omit inside a field's value, as pydantic's `exclude` takes them."""
    pairs: Iterable[tuple[Any, Any]]
    match value:
        case BaseModel():
            one = form if isinstance(form, Form) else form.get(cast("Any", value).type)
            return one.silent(value) if one else {}
        case tuple() if hasattr(value, "_fields"):
            return cast("Form", form).silent(value)
        case Mapping():
            pairs = value.items()
        case tuple() | list():
            pairs = enumerate(value)
        case _:
            return {}
    return {place: inside for place, one in pairs if (inside := _inside(one, form))}


def _declared(kind: Any) -> Iterator[_Field]:  # noqa: ANN401 - classes of four libraries
    """Fields that a pydantic model, struct, dataclass or named tuple declares."""
    if issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            default = _REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
            yield _Field(name, name, field.serialization_alias or field.alias or name, default)
    elif issubclass(kind, msgspec.Struct):
        for one in msgspec.structs.fields(kind):
            default = one.default if one.default_factory is msgspec.NODEFAULT else one.default_factory()
            yield _Field(one.name, one.name, one.encode_name, _REQUIRED if default is msgspec.NODEFAULT else default)
    elif dataclasses.is_dataclass(kind):
        for each in dataclasses.fields(kind):
            default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
            yield _Field(each.name, each.name, each.name, _REQUIRED if default is dataclasses.MISSING else default)
    else:
        for place, name in enumerate(kind._fields):
            yield _Field(name, place, name, kind._field_defaults.get(name, _REQUIRED))


def literal(value: object) -> str:
    """A value as a Python literal; the first build took some hashes over this text."""
    match value:
        case str():
            text = value.replace("\\", "\\\\")
            return f'"{text}"' if "'" in text and '"' not in text else "'" + text.replace("'", "\\'") + "'"
        case tuple():
            return f"({', '.join(map(literal, value))}{',' * (len(value) == 1)})"
        case list():
            return f"[{', '.join(map(literal, value))}]"
        case Mapping():
            return "{" + ", ".join(f"{literal(name)}: {literal(held)}" for name, held in value.items()) + "}"
        case _:
            return str(value)
