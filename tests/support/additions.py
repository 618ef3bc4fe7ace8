"""The law that a later page of the API only adds to an earlier one.

Of what callers send, a later page takes all that an earlier one took. Of what they are answered, it keeps every field
and every promise about it. Words of lists may come, none may go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from service.api.contract import operations

Page = Mapping[str, Any]
Schema = Mapping[str, Any]
Side = TypeVar("Side")
_LEAST: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MOST: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SAME: Final = ("pattern", "format", "uniqueItems", "multipleOf")
_LINE: Final = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
WIDENED: Final = frozenset({(r"^[A-Za-z0-9 ._:/-]{1,64}$", rf"^{_LINE}{{1,{most}}}$") for most in (64, 200)})
"""Patterns that were replaced, each with one that takes all that it took: a test tries it."""
_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def removals(earlier: Page, later: Page) -> list[str]:
    """What of an earlier page a later one takes away or narrows, in sentences; empty if it only adds."""
    after = dict(operations(later))
    found = [f"{name} is gone" for name, _ in operations(earlier) if name not in after]
    for name, operation in operations(earlier):
        if name in after:
            found += [f"{name}: {what}" for what in _of_operation(earlier, later, operation, after[name])]
    return found


def _of_operation(earlier: Page, later: Page, before: Schema, after: Schema) -> Iterator[str]:
    asked, answered = _Requests(later, earlier), _Answers(earlier, later)
    yield from _of_parameters(asked, before, after)
    yield from _of_body(asked, before.get("requestBody"), after.get("requestBody"))
    for status, response in before["responses"].items():
        if status not in after["responses"]:
            yield f"{status} is gone"
            continue
        media = after["responses"][status].get("content", {})
        for kind, content in response.get("content", {}).items():
            if kind not in media:
                yield f"{status}: {kind} is gone"
            else:
                yield from answered.uncovered(content.get("schema", {}), media[kind].get("schema", {}), status)


def _of_parameters(asked: _Requests, before: Schema, after: Schema) -> Iterator[str]:
    def named(operation: Schema) -> dict[str, Schema]:
        return {f"{one['name']} in the {one['in']}": one for one in operation.get("parameters", ())}

    then, now = named(before), named(after)
    for name, parameter in now.items():
        if parameter.get("required") and not then.get(name, {}).get("required"):
            yield f"{name} is newly required"
    for name, parameter in then.items():
        if name not in now:
            yield f"{name} is gone"
        else:
            yield from asked.uncovered(now[name]["schema"], parameter["schema"], name)


def _of_body(asked: _Requests, before: Schema | None, after: Schema | None) -> Iterator[str]:
    if before is None:
        if after is not None and after.get("required"):
            yield "a body is newly required"
    elif after is None:
        yield "the body is gone"
    else:
        for kind, content in before["content"].items():
            yield from asked.uncovered(after["content"].get(kind, {}).get("schema", False), content["schema"], "body")


@dataclass(frozen=True)
class _Cover:
    """Whether everything of a narrow schema is of a wide one; each has its page."""

    wide_page: Page
    narrow_page: Page

    def uncovered(self, wide: Any, narrow: Any, where: str) -> Iterator[str]:
        """What of a narrow schema is not of a wide one."""
        wides = _branches(self.wide_page, wide)
        for branch in _branches(self.narrow_page, narrow):
            tried = [list(self._unlike(one, branch, where)) for one in wides]
            if all(tried):
                yield from min(tried, key=_remoteness, default=[f"{where}: nothing is taken any more"])

    def _unlike(self, wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
        kinds = _type(wide), _type(narrow)
        if kinds[0] is not None and kinds[0] != kinds[1] and kinds != ("number", "integer"):
            then, now = (kind or "anything" for kind in self.in_time(*kinds))
            yield f"{where}: {then} became {now}"
            return
        yield from self._words(wide, narrow, where)
        yield from _bounds(wide, narrow, where)
        if "items" in wide:
            yield from self.uncovered(wide["items"], narrow.get("items", {}), f"{where}/*")
        yield from self._fields(wide, narrow, where)

    def _words(self, wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
        if "enum" not in wide:
            return
        if "enum" not in narrow:
            yield f"{where}: its list of words {self.listing}"
            return
        then, now = self.in_time(wide["enum"], narrow["enum"])
        yield from (f"{where}: the word {word!r} is gone" for word in then if word not in now)

    def _fields(self, wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
        wides, narrows = wide.get("properties", {}), narrow.get("properties", {})
        for name in wide.get("required", ()):
            if name not in narrow.get("required", ()):
                yield f"{where}/{name}: {self.requiring}"
        then, now = self.in_time(wides, narrows)
        yield from (f"{where}/{name} is gone" for name in then if name not in now)
        for name in wides.keys() & narrows.keys():
            yield from self.uncovered(wides[name], narrows[name], f"{where}/{name}")
        rest = wide.get("additionalProperties", True)
        if rest is False and narrow.get("additionalProperties", True) is not False:
            yield f"{where}: other fields are refused now"
        if isinstance(rest, dict):
            for name, field in narrows.items():
                if name not in wides:
                    yield from self.uncovered(rest, field, f"{where}/{name}")
            if isinstance(other := narrow.get("additionalProperties"), dict):
                yield from self.uncovered(rest, other, f"{where}/*")

    listing = requiring = ""

    def in_time(self, wide: Side, narrow: Side) -> tuple[Side, Side]:
        """The earlier one of two sides, then the later one."""
        raise NotImplementedError


class _Answers(_Cover):
    """Answers: the later ones are among the earlier ones."""

    listing, requiring = "is gone", "may be left out now"

    def in_time(self, wide: Side, narrow: Side) -> tuple[Side, Side]:
        return wide, narrow


class _Requests(_Cover):
    """Requests: the earlier ones are among the later ones."""

    listing, requiring = "is new", "newly required"

    def in_time(self, wide: Side, narrow: Side) -> tuple[Side, Side]:
        return narrow, wide


def _remoteness(reasons: list[str]) -> tuple[bool, int]:
    """Of several schemas, the one that another was meant to be: of the same type, with the fewest differences."""
    return any(" became " in reason for reason in reasons[:1]), len(reasons)


def _branches(page: Page, schema: Any) -> list[dict[str, Any]]:
    """A schema as alternatives without references, unions and lists of types; none for `false`, which nothing fits."""
    if isinstance(schema, bool):
        return [{}] if schema else []
    if "$ref" in schema:
        return _branches(page, page["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return [branch for one in schema[union] for branch in _branches(page, one)]
    if "allOf" in schema:
        return [_merged(page, schema["allOf"])]
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": one} for one in schema["type"]]
    return [{**schema, "enum": [schema["const"]]} if "const" in schema else dict(schema)]


def _merged(page: Page, parts: list[Schema]) -> dict[str, Any]:
    """Parts that hold together as one schema; what a later part says of a field is added to it."""
    whole: dict[str, Any] = {"properties": {}, "required": []}
    for part in parts:
        (branch,) = _branches(page, part)
        fields = {
            name: whole["properties"].get(name, {}) | field for name, field in branch.get("properties", {}).items()
        }
        required = [*whole["required"], *branch.get("required", ())]
        whole |= branch | {"properties": whole["properties"] | fields, "required": required}
    return whole


def _type(schema: Schema) -> str | None:
    """The type of a schema, None for any."""
    if "type" in schema:
        return str(schema["type"])
    if "enum" in schema:
        return _TYPES[type(schema["enum"][0])]
    return "object" if "properties" in schema else None


def _bounds(wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
    for word in _LEAST:
        if word in wide and (word not in narrow or narrow[word] < wide[word]):
            yield f"{where}: {word} is {wide[word]}, not {narrow.get(word)}"
    for word in _MOST:
        if word in wide and (word not in narrow or narrow[word] > wide[word]):
            yield f"{where}: {word} is {wide[word]}, not {narrow.get(word)}"
    for word in _SAME:
        held = narrow.get(word)
        if word in wide and held != wide[word] and "enum" not in narrow and (held, wide[word]) not in WIDENED:
            yield f"{where}: {word} is {wide[word]}, not {narrow.get(word)}"
