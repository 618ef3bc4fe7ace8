"""What is wrong with a body: every place at once, in words that say what was expected, with an example. Pure.

Words are made of pydantic's kinds of errors and of the shape that a body should have, its JSON schema; no text of
pydantic's own is told, and no pattern. What is said of a field by its name beats what is said of its shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final, NamedTuple, get_args

import orjson
from msgspec import UNSET
from pydantic import TypeAdapter, ValidationError

from features import words
from features.events import EVENT_TYPES, ID_PATTERN, TEXT_PATTERN, WORD_PATTERN, Event, type_of
from service.api.schemas import BodyFault

MOST: Final = 50
"""Faults of a body that are told."""
_SHOWN: Final = 12
"""Words of a closed list that stand in a sentence; the fault has no more room for them than its reader."""
_ALIKE: Final = 0.6

Shape = Mapping[str, Any]
"""A part of a JSON schema; empty where nothing is known."""


class Expected(NamedTuple):
    """What is expected of a value, and an example."""

    words: str
    example: Any = None


_ID: Final = Expected("an id of yours: 1 to 64 printable ASCII characters without blanks and braces", "player-123")
_TEXT: Final = Expected("a text of one line, at most 200 characters of any script, without control characters", "card")
_WORD: Final = Expected("a word or two on one line, at most 64 characters of any script", "big_win")
_MOMENT: Final = Expected("a moment of ISO 8601 with its zone", "2026-03-02T12:00:00Z")
_PLACE: Final = Expected("a country of ISO 3166-1, or its subdivision of ISO 3166-2", "MT")
_PATTERNS: Final[Mapping[str, Expected]] = {
    ID_PATTERN: _ID,
    TEXT_PATTERN: _TEXT,
    WORD_PATTERN: _WORD,
    r"^\d{3}-[a-z2-7]{24}$": Expected("the `decision_id` of a decision's answer, unchanged", f"017-{'a2b3' * 6}"),
    r"^p\d{3}:\d{1,20}-\d{1,20}$": Expected("the `position` of an event's answer, unchanged", "p017:1583107200000-0"),
    r"^[a-z]{2}(-[A-Z]{2})?$": Expected("a language, and a country if you like", "en-GB"),
    r"^[a-z0-9_-]{1,32}$": Expected("a brand of the house, in small letters", "main"),
    r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$": _PLACE,
    r"^[a-z0-9_.-]{1,64}$": Expected("a name in small letters, digits and _ . -", "sign_up_form"),
    r"^[a-z][a-z0-9_]{0,31}$": Expected("a register of excluded people", "gamstop"),
}
"""What the patterns of closed forms mean."""
AN_EVENT: Final[Mapping[str, str]] = {
    "type": "login",
    "event_id": "event-1",
    "player_id": "player-123",
    "occurred_at": "2026-03-02T12:00:00Z",
}
"""An event as an example."""
FIELDS: Final[Mapping[str, Expected]] = {
    "event_id": _ID._replace(words=f"{_ID.words}, unique per player, so that a retry counts once", example="event-1"),
    "outcome_id": _ID._replace(words=f"{_ID.words}, unique per player, so that a retry counts once", example="sent-1"),
    "request_id": _ID._replace(words=f"{_ID.words}, so that a retry gets the same answer", example="visit-1"),
    "player_id": _ID,
    "anonymous_id": _ID._replace(example="cookie-9f3"),
    "previous_id": _ID._replace(example="crm-77"),
    "household_id": _ID._replace(words=f"{_ID.words}, or null for none any more", example="household-1"),
    "occurred_at": _MOMENT._replace(words="the moment at which it happened, of ISO 8601 with its zone"),
    "until": _MOMENT._replace(example="2026-06-02T12:00:00Z"),
    "amount_minor": Expected("an amount as a whole number of minor units: 1550 for 15.50", 1_550),
    "currency": Expected("a currency of ISO 4217, three letters", "SEK"),
    "bet_id": _ID._replace(words=f"{_ID.words}, the same in every event about the bet", example="bet-77"),
    "deposit_id": _ID._replace(words="the event_id of the deposit", example="deposit-12"),
    "page": _TEXT._replace(example="/lobby"),
    "decision_point": _TEXT._replace(example="lobby"),
    "birth_date": Expected("a date of ISO 8601, year first", "1990-05-17"),
    "jurisdiction": _PLACE,
    "licence": _PLACE,
    "location": _PLACE,
    "time_zone": Expected("an IANA time zone", "Europe/Malta"),
    "method": _TEXT,
    "tags": Expected("a list of tags", ["complaint"]),
    "channels": Expected("a list of channels, or nothing for all of them", ["email"]),
    "offers": Expected("a list of offers' ids, or nothing for all of them", ["free_bet"]),
    "requests": Expected("a list of decision requests", [{"player_id": "player-123"}]),
    "events": Expected("a list of events", [AN_EVENT]),
    "context": Expected("an object of what you know of the moment", {"device": "mobile"}),
    "scopes": Expected("a list of scopes", ["decide", "events"]),
    "reason": Expected("a sentence that says why", "asked by letter"),
}
"""What is expected of a field by its name, in whatever body it stands."""
_SYNONYMS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("timestamp", "time", "ts", "date", "at", "created_at", "datetime", "event_time"), "occurred_at"),
    **dict.fromkeys(("user", "user_id", "userid", "customer", "customer_id", "account_id", "player"), "player_id"),
    **dict.fromkeys(("event", "event_type", "kind", "name", "event_name"), "type"),
    **dict.fromkeys(("id", "uuid", "message_id", "transaction_id"), "event_id"),
    **dict.fromkeys(("amount", "value", "stake", "amount_cents"), "amount_minor"),
    **dict.fromkeys(("dob", "birthday", "date_of_birth"), "birth_date"),
    **dict.fromkeys(("country", "residence"), "jurisdiction"),
    **dict.fromkeys(("timezone", "tz"), "time_zone"),
    **dict.fromkeys(("payment_method",), "method"),
    **dict.fromkeys(("consent", "opted_in", "opt_in"), "granted"),
    **dict.fromkeys(("decision",), "decision_id"),
}
"""Names that other systems have for our fields."""
_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("signup", "sign_up", "registration", "account_created", "player_created"), "registered"),
    **dict.fromkeys(("payment", "top_up", "deposit_made"), "deposit"),
    **dict.fromkeys(("wager", "stake", "bet_placed", "spin"), "bet"),
    **dict.fromkeys(("payout", "withdrawal", "cashout"), "withdrawal_paid"),
    **dict.fromkeys(("logout", "log_out"), "session_ended"),
    **dict.fromkeys(("opt_in", "opt_out", "consent", "unsubscribed", "unsubscribe"), "consent_changed"),
    **dict.fromkeys(("cool_off", "cooling_off", "break"), "time_out"),
    **dict.fromkeys(("self_exclusion", "excluded"), "self_excluded"),
}
"""Names that other systems have for our types of events."""
_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("bounced", "bounce", "rejected", "error"), "failed"),
    **dict.fromkeys(("open", "viewed", "seen"), "opened"),
    **dict.fromkeys(("click",), "clicked"),
    **dict.fromkeys(("spam", "spam_report"), "complained"),
    **dict.fromkeys(("success", "succeeded", "completed", "ok"), "approved"),
    **dict.fromkeys(("mail", "e_mail"), "email"),
    **dict.fromkeys(("text", "whatsapp"), "sms"),
    **dict.fromkeys(("phone", "telephone"), "call"),
    **dict.fromkeys(("sport", "sportsbook"), "sports"),
    **dict.fromkeys(("slots", "games"), "casino"),
}
"""Words that other systems have for ours."""
_TOLD_BY: Final[Mapping[str, list[str]]] = {
    name: [type_of(kind) for kind in get_args(Event) if name in kind.model_fields]
    for name in sorted({name for kind in get_args(Event) for name in kind.model_fields})
}
"""Which types of events have a field."""


_KINDS: Final[Mapping[str, Expected]] = {
    "string": Expected("a text in quotes", "text"),
    "int": Expected("a whole number, without quotes", 1),
    "float": Expected("a number, without quotes", 1.5),
    "finite": Expected("a number that is finite", 1.5),
    "bool": Expected("true or false, without quotes", example=True),
    "datetime": _MOMENT,
    "timezone": _MOMENT,
    "date": FIELDS["birth_date"],
    "list": Expected("a list in square brackets", []),
    "tuple": Expected("a list in square brackets", []),
    "dict": Expected("an object in braces", {}),
    "model": Expected("an object in braces", {}),
    "none": Expected("null", None),
}


# --- The body as a whole


def faults(error: ValidationError, adapter: TypeAdapter[Any] | None = None) -> list[BodyFault]:
    """Every fault of a body that is not valid, in the order of its fields."""
    found = error.errors(include_url=False)
    schema = {} if adapter is None else _schema(adapter)
    # A list whose entries are wrong is too short for pydantic, too.
    inner = {one["loc"][:-1] for one in found}
    told = [one for one in found if one["type"] != "too_short" or one["loc"] not in inner]
    return [_fault(one, schema) for one in told[:MOST]]


def said(one: Mapping[str, Any]) -> str:
    """What is wrong with a field, and what was expected, for a sentence that names the field itself."""
    name = next((str(part) for part in reversed(one["loc"]) if isinstance(part, str)), "")
    return _sentence(one, "", _expected(one, name, {}), None).strip()


@lru_cache(maxsize=64)
def _schema(adapter: TypeAdapter[Any]) -> Shape:
    """The shape of what an adapter takes; of a body whose page refers to others the names of its fields only."""
    try:
        return adapter.json_schema()
    except KeyError:
        held: Mapping[str, Any] = adapter.core_schema
        return {"properties": {name: {} for name in held.get("schema", {}).get("fields", ())}}


def _fault(one: Any, schema: Shape) -> BodyFault:  # noqa: ANN401 - pydantic's own mapping
    one = _at_its_field(one)
    path, shape, parent = _place(one["loc"], schema)
    kind, name = one["type"], str(path[-1]) if path else ""
    pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _of_type(one, f"{pointer}/type")
    if kind == "extra_forbidden":
        return _of_no_field(name, pointer, path, parent)
    expected = None if kind == "value_error" and not path else _expected(one, name, shape)
    if expected is not None and not path:
        expected = expected._replace(example=_example(shape) or None)
    near = _nearest_word(one)
    return BodyFault(
        pointer=pointer,
        detail=_sentence(one, _written(path), expected, near),
        expected=UNSET if expected is None else expected.words,
        example=UNSET if expected is None or expected.example is None else expected.example,
        did_you_mean=near or UNSET,
    )


def _at_its_field(one: Mapping[str, Any]) -> Mapping[str, Any]:
    """A fault of several fields together at the one that its sentence begins with."""
    if one["type"] != "value_error" or (one["loc"] and one["loc"][-1] not in EVENT_TYPES):
        return one
    name, divided, sentence = str(one["msg"]).removeprefix("Value error, ").partition(": ")
    return {**one, "loc": (*one["loc"], name), "msg": sentence} if divided and name in _TOLD_BY else one


def _example(shape: Shape) -> dict[str, Any]:
    """The least body of a shape that examples of its fields make up; empty where they do not."""
    if "discriminator" in shape:
        return dict(AN_EVENT)
    names = shape.get("required") or list(shape.get("properties", {}))[:1]
    known = {name: FIELDS[name].example for name in names if name in FIELDS}
    return known if len(known) == len(names) else {}


def _of_type(one: Mapping[str, Any], pointer: str) -> BodyFault:
    """A type of event that is missing, or that there is not."""
    known = list(EVENT_TYPES)
    expected = f"one of {', '.join(known)}"
    if one["type"] == "union_tag_not_found":
        return BodyFault(
            pointer=pointer,
            detail=f"type is missing: say what happened, {expected}",
            expected=expected,
            example="login",
        )
    tag = str(one["ctx"]["tag"])
    near = _TYPES.get(words.fold(tag)) or words.nearest(tag, known)
    sentence = f"type: {words.unknown(tag, 'type of event', known)}"
    if near:
        sentence = re.sub(r": did you mean [^?]+\?", f": did you mean {near}?", sentence)
    return BodyFault(pointer=pointer, detail=sentence, expected=expected, example="login", did_you_mean=near or UNSET)


def _of_no_field(name: str, pointer: str, path: Sequence[Any], parent: Shape) -> BodyFault:
    """A field that a body does not have: the nearest that it has, or the events that have it."""
    names = [one for one, shape in parent.get("properties", {}).items() if one != "type" or "const" not in shape]
    folded = words.fold(name)
    near = _SYNONYMS.get(folded)
    if near not in names:
        alike = get_close_matches(folded, names, 1, _ALIKE)
        near = alike[0] if alike else None
    events = [] if near or len(path) > 1 else _TOLD_BY.get(name, [])
    sentence = f"{_written(path)} is no field here"
    if near:
        sentence += f": did you mean {near}?"
    elif events and parent:
        sentence += f": it belongs to the event{'s' * (len(events) > 1)} {_listed(events)}"
    if names and not near:
        sentence += f"; fields here are {', '.join(names)}"
    return BodyFault(
        pointer=pointer,
        detail=sentence,
        expected=f"one of {', '.join(names)}" if names else UNSET,
        did_you_mean=near or UNSET,
        told_by=events or UNSET,
    )


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


# --- Where


def _place(loc: Sequence[int | str], schema: Shape) -> tuple[list[int | str], Shape, Shape]:
    """A place in the body without what pydantic puts into it, its shape, and that of what holds it."""
    path: list[int | str] = []
    shape, parent = _resolved(schema, schema), schema
    for part in loc:
        mapping = shape.get("discriminator", {}).get("mapping", {})
        if part in mapping or (not schema and not path and part in EVENT_TYPES):
            shape = _resolved({"$ref": mapping[part]} if part in mapping else {}, schema)
            parent = shape
            continue
        parent = _holding(shape, part, schema)
        path.append(part)
        below = parent.get("items", {}) if isinstance(part, int) else parent.get("properties", {}).get(part, {})
        shape = _resolved(below, schema)
    return path, shape, parent


def _holding(shape: Shape, part: int | str, schema: Shape) -> Shape:
    """Of a shape that may be several the one that has a part."""
    for one in (shape, *(_resolved(each, schema) for each in shape.get("anyOf", ()))):
        if ("items" in one) if isinstance(part, int) else ("properties" in one):
            return one
    return {}


def _resolved(shape: Shape, schema: Shape) -> Shape:
    """A shape that is not only a reference to another."""
    while "$ref" in shape:
        shape = schema.get("$defs", {}).get(shape["$ref"].rpartition("/")[2], {})
    return shape


def _written(path: Sequence[int | str]) -> str:
    """A place as people write it: `context.page`, `channels[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "the body"


# --- What was expected


def _expected(one: Mapping[str, Any], name: str, shape: Shape) -> Expected | None:
    """What is expected in a place, by its name, its pattern, its shape, or the kind of the error."""
    kind: str = one["type"]
    context = one.get("ctx", {})
    if kind == "literal_error":
        return _of(words.quoted(context["expected"]))
    if name in FIELDS and kind not in {"too_long", "too_short"}:
        return FIELDS[name]
    if found := _PATTERNS.get(context.get("pattern", "")):
        return found
    if shape and (found := _of_shape(shape)):
        return found
    return _KINDS.get(kind.partition("_")[0])


def _of(known: Sequence[str]) -> Expected:
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return Expected(f"one of {', '.join(known[:_SHOWN])}{more}", known[0] if known else None)


def _of_shape(shape: Shape) -> Expected | None:
    """What a shape expects."""
    options = [one for one in shape.get("anyOf", ()) if one.get("type") != "null"]
    if options:
        return _of_shape(options[0])
    if "enum" in shape:
        return _of([str(one) for one in shape["enum"]])
    if "const" in shape:
        return _of([str(shape["const"])])
    if found := _PATTERNS.get(shape.get("pattern", "")):
        return found
    kind = _FORMATS.get(shape.get("format", "")) or _KINDS.get(_SHAPES.get(shape.get("type", ""), ""))
    if kind is None or "minimum" not in shape:
        return kind
    least, most = shape["minimum"], shape.get("maximum")
    between = f" from {least} to {most}" if most is not None else f" of at least {least}"
    return Expected(f"a whole number{between}, without quotes", least)


_FORMATS: Final = {"date-time": _MOMENT, "date": FIELDS["birth_date"]}
_SHAPES: Final = {
    "string": "string",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "none",
}


# --- What is wrong


def _sentence(one: Mapping[str, Any], where: str, expected: Expected | None, near: str | None) -> str:
    wrong = _wrong(one)
    sentence = f"{where} {wrong}" if where and not wrong.startswith(":") else f"{where}{wrong}".removeprefix(": ")
    if near:
        sentence += f": did you mean {near}?"
    if expected is None or one["type"] == "value_error":
        return sentence
    shown = "" if expected.example in (None, [], {}) or " one of " in f" {expected.words}" else _shown(expected.example)
    return f"{sentence}{' Expected:' if near else '; expected:'} {expected.words}{shown}"


def _shown(example: Any) -> str:  # noqa: ANN401 - any JSON
    return f", such as {orjson.dumps(example).decode()}"


def _nearest_word(one: Mapping[str, Any]) -> str | None:
    if one["type"] != "literal_error" or not isinstance(one["input"], str):
        return None
    known, word = words.quoted(one["ctx"]["expected"]), words.fold(one["input"])
    if (meant := _WORDS.get(word)) in known:
        return meant
    return next(iter(get_close_matches(word, known, 1, _ALIKE)), None)


def _wrong(one: Mapping[str, Any]) -> str:
    """What is wrong with a value; what a validator of ours says stands after a colon."""
    kind: str = one["type"]
    if kind == "value_error":
        return f": {str(one['msg']).removeprefix('Value error, ')}"
    if told := _WRONG.get(kind):
        return told(one.get("ctx", {}), one.get("input"))
    if kind.endswith("_parsing"):
        return "cannot be read"
    if kind.endswith("_type"):
        return f"is {_named(one.get('input'))}"
    return "is not what belongs here"


def _named(value: object) -> str:
    """What a value of JSON is."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    kinds = {str: "a text", int: "a number", float: "a number", list: "a list", tuple: "a list", dict: "an object"}
    return kinds.get(type(value), "something else")


def _wrong_form(value: object) -> str:
    if isinstance(value, str) and "\0" in value:
        return "holds what is no text"
    return "is empty" if value == "" else "does not have the form that it must"


_Wrong = Callable[[Mapping[str, Any], Any], str]
_WRONG: Final[Mapping[str, _Wrong]] = {
    "missing": lambda _, __: "is missing",
    "literal_error": lambda _, value: (
        f": {value!r} is not known here" if isinstance(value, str) and len(value) <= 64 else f"is {_named(value)}"
    ),
    "string_pattern_mismatch": lambda _, value: _wrong_form(value),
    "string_too_long": lambda context, _: f"has more than {context['max_length']} characters",
    "string_too_short": lambda context, _: f"has fewer than {context['min_length']} characters",
    "string_unicode": lambda _, __: "holds what is no text",
    "int_from_float": lambda _, value: f": {value} is no whole number",
    "int_type": lambda _, value: f": {value} is no whole number" if isinstance(value, float) else f"is {_named(value)}",
    "int_parsing_size": lambda _, __: "is a number with too many digits",
    "greater_than_equal": lambda context, _: f"lies below {context['ge']}",
    "less_than_equal": lambda context, _: f"lies above {context['le']}",
    "greater_than": lambda context, _: f"must be more than {context['gt']}",
    "less_than": lambda context, _: f"must be less than {context['lt']}",
    "finite_number": lambda _, __: "is no finite number",
    "timezone_aware": lambda _, __: "names no time zone: add Z for UTC, or an offset such as +01:00",
    "datetime_from_date_parsing": lambda _, __: "is no moment that can be read",
    "datetime_parsing": lambda _, __: "is no moment that can be read",
    "datetime_object_invalid": lambda _, __: "is no moment that can be read",
    "date_parsing": lambda _, __: "is no date that can be read",
    "date_from_datetime_parsing": lambda _, __: "is no date that can be read",
    "date_from_datetime_inexact": lambda _, __: "is a moment, not a date",
    "too_long": lambda context, _: f"has too many entries: at most {context['max_length']} are taken",
    "too_short": lambda context, _: f"has fewer than {context['min_length']} entries: leave it out, or name some",
}


# --- What is no JSON

_UNREADABLE: Final[Sequence[tuple[str, str]]] = (
    ("EOF while parsing a string", "it ends within a text: a quote is not closed, or the body was cut"),
    ("EOF", "it ends too early: a bracket is not closed, or the body was cut"),
    ("trailing comma", "a comma stands before a closing bracket"),
    ("trailing characters", "something follows after the end of the object"),
    ("key must be a string", "names of fields stand in double quotes"),
    ("expected `:`", "a colon belongs between a field's name and its value"),
    ("expected `,`", "a comma or a closing bracket belongs here"),
    ("expected ident", "words without quotes are true, false and null only"),
    ("expected value", "a value belongs here"),
    ("control character", "a text holds a line end or a control character: write it as \\n or \\u0000"),
    ("recursion limit", "lists and objects stand in each other too deeply"),
    ("unicode", "this is no UTF-8"),
    ("hex escape", "what follows \\u is no character"),
    ("escape", "what follows a backslash is no character"),
    ("number", "this is no number of JSON"),
)
_AT: Final = re.compile(r" at line (\d+) column (\d+)$")


def unreadable(message: str, *, empty: bool = False) -> str:
    """Sentence about a body that is no JSON, by what its reader says of it, with line and column."""
    if empty:
        return "the body is empty: send a JSON object"
    why = next((words_ for part, words_ in _UNREADABLE if part in message), "this cannot be read")
    at = _AT.search(message)
    where = f"line {at[1]}, column {at[2]}: " if at else ""
    return f"the body is no JSON: {where}{why}"
