"""Read request bodies: words of closed lists, and facts that restrict contact in their strictest reading.

An event that restricts is never refused for a word that nobody knows: an exclusion of an unknown brand holds for every
brand, a withdrawal on an unknown channel for every channel; nor for a field that nobody knows, which is left out. Where
the unknown word alone would make it restrict, it is refused with the list. What cannot be is unknown: a birth date of
nobody who lives, a zone that is none. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from features import events, words, zones
from features.events import Event
from features.schema import CHANNELS
from features.words import Door
from service.api.validation import said
from service.decisions.outcomes import WITHDRAWING, Outcome
from service.errors import BeforeTradingError
from service.players import facts
from service.players.facts import EVERY_BRAND, Assertion

MONEY_OR_PLAY: Final = (
    events.Deposit,
    events.Chargeback,
    events.Bet,
    events.BetCancelled,
    events.BetSettled,
    events.Win,
    events.WithdrawalRequested,
    events.WithdrawalPaid,
    events.WithdrawalCancelled,
    events.SessionStarted,
    events.SessionEnded,
)
"""Events that a house can only have from the day on which it began to trade."""
_IDS: Final = ("event_id", "player_id", "anonymous_id", "previous_id", "household_id")
MANGLED: Final = re.compile(r"\d(?:[.,]\d+)?[eE]\+\d{1,3}|#(?:N/A|REF!|NAME\?|VALUE!|NUM!|NULL!|DIV/0!|#+)")
"""What a spreadsheet makes of a long number, and of what it could not compute."""
_BEGINS: Final = frozenset("0123456789#")
CHANGED: Final = "looks as if a spreadsheet had changed it, such as 1.23457E+12"
_EPOCH: Final = date(1970, 1, 1)
_LISTS: Final = {"brand": "brands", "register_name": "registers", "tags": "tags"}
_NAMES: Final = {"brand": TypeAdapter(events.Brand), "register_name": TypeAdapter(events.RegisterName)}
_STRICTEST: Final[Mapping[str, tuple[object, str]]] = {
    "brand": ("main", "it holds for every brand"),
    "channel": ("email", "it holds for every channel"),
    "scope": ("all", "it holds for the whole house"),
    "register_name": ("unknown", "a listing there denies everywhere"),
    "level": ("strong", "it counts as strong"),
    "source": ("unknown", "it counts as a source of its own"),
    "limit": ("deposit", "it counts for every limit"),
    "change": ("raised", "it counts as raised"),
    "product": (None, "it holds for every product"),
    "basis": (None, "it is left out"),
    "origin": (None, "it is left out"),
    "jurisdiction": (None, "it stays as it was"),
    "licence": (None, "it stays as it was"),
    "time_zone": (None, "it stays as it was"),
    "tags": (None, "it is left out"),
    "currency": (None, "the amount is left out"),
    "amount_minor": (None, "it is left out"),
    "by": (None, "it is left out"),
    "solved": (None, "it counts as not solved"),
    "checked": (False, "it counts as not checked"),
    "decision_id": (None, "it is left out"),
}
"""Fields beside what an event restricts: what stands in place of a value that nobody knows, and what comes of it."""

_STRANGE: Final = 20
"""Fields that nobody knows, beside which a body is still taken for what it says."""

Doubts = Mapping[str, str]
"""Fields whose word nobody knows, with the sentence that says how each was read."""


def parse(adapter: TypeAdapter[Any], content: bytes | str | dict[str, Any], door: Door) -> tuple[Any, Doubts]:
    """A body as a model; what restricts contact is taken with words that nobody knows, which are told as doubts.

    Args:
        adapter: Of the model.
        content: JSON, or the fields.
        door: The words that are known.

    Raises:
        ValidationError: It is not valid.
    """
    try:
        return _validate(adapter, content, door), {}
    except ValidationError as error:
        if (found := _strictest(adapter, content, door, error)) is None:
            raise
        return found


def legible(content: bytes) -> bytes:
    """JSON with a zero character, which no field takes, in place of what is no text.

    That is bytes that are no UTF-8, and halves of a pair of UTF-16, as are left of an emoji that was cut.
    """
    text = _NO_UTF8.sub(lambda _: _NO_TEXT, content.decode("utf-8", "surrogateescape"))
    return _ESCAPED.sub(lambda found: _NO_TEXT if found["half"] else found[0], text).encode()


_NO_TEXT: Final = r"\u0000"
_NO_UTF8: Final = re.compile("[\udc80-\udcff]+")
_ESCAPED: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)


def _validate(adapter: TypeAdapter[Any], content: bytes | str | dict[str, Any], door: Door) -> Any:  # noqa: ANN401 - the adapter's type
    if isinstance(content, dict):
        return adapter.validate_python(content, context=door)
    return adapter.validate_json(content, context=door)


def _strictest(
    adapter: TypeAdapter[Any], content: bytes | str | dict[str, Any], door: Door, error: ValidationError
) -> tuple[Any, Doubts] | None:
    """A body with the strictest word in place of each that nobody knows; None unless it restricts contact."""
    faults = error.errors(include_url=False)
    strange = [one for one in faults if one["type"] == "extra_forbidden"]
    faults = [one for one in faults if one not in strange]
    fields = [next((str(part) for part in one["loc"] if part in _STRICTEST), "") for one in faults]
    if not all(fields) or len(strange) > _STRANGE or any(one["type"] == "missing" for one in faults):
        return None
    try:
        said = content if isinstance(content, dict) else orjson.loads(content)
    except orjson.JSONDecodeError:  # pydantic takes NaN, which is no JSON
        return None
    dropped = {name: f"{name[:64]}: no field of that name is here; it is left out" for name in _names(strange)}
    changed = {name: value for name, value in said.items() if name not in dropped}
    changed |= {name: _instead(name, said[name], faults) for name in fields}
    if "currency" in fields:
        changed["amount_minor"] = None
    known = door._replace(**{_LISTS[name]: None for name in fields if name in _LISTS})
    try:
        found = _validate(adapter, changed if isinstance(content, dict) else orjson.dumps(changed), known)
    except ValidationError:
        return None
    if not (found.type in WITHDRAWING if isinstance(found, Outcome) else _restricts(found)):
        return None
    sentences = [f"{name}: {_doubt(one)}; {_STRICTEST[name][1]}" for name, one in zip(fields, faults, strict=True)]
    return found, dict(zip(fields, sentences, strict=True)) | dropped


def _names(faults: Iterable[Any]) -> list[str]:
    return [str(one["loc"][-1]) for one in faults]


def _doubt(one: Any) -> str:  # noqa: ANN401 - pydantic's own mapping
    """Why a word was not taken: the known words and the nearest, or what was expected in its place."""
    told = one["type"] == "value_error" or (one["type"] == "literal_error" and isinstance(one["input"], str))
    return words.sentence(one) if told else said(one)


def _restricts(found: object) -> bool:
    return isinstance(found, Event) and facts.restricts(found)


def _instead(name: str, said: object, faults: list[Any]) -> object:
    """What stands in place of a word: of a brand or register the word itself, if it can be one at all."""
    if name == "tags" and isinstance(said, list | tuple):
        wrong = {one["loc"][-1] for one in faults}
        return [tag for at, tag in enumerate(said) if at not in wrong]
    if name in _NAMES:
        try:
            return _NAMES[name].validate_python(said)
        except ValidationError:
            pass
    return _STRICTEST[name][0]


def beside(told: Event | Outcome, doubts: Doubts, door: Door) -> list[Assertion]:
    """What holds beside what an event or outcome asserts itself, because nobody knows a word of it."""
    brands = [*(door.brands.words if door.brands else ()), EVERY_BRAND] if "brand" in doubts else [told.brand or "main"]
    at = events.micros(told.occurred_at)
    match told:
        case events.SelfExcluded() if "brand" in doubts:
            return facts.assertions(told.model_copy(update={"scope": "all"}))
        case events.TimeOut() if "brand" in doubts:
            return [one for brand in brands for one in facts.assertions(told.model_copy(update={"brand": brand}))]
        case events.ConsentChanged() | Outcome(type="unsubscribed" | "complained") if {
            "brand",
            "channel",
        } & doubts.keys():
            channels = CHANNELS if "channel" in doubts else [told.channel or ""]
            return [one for brand in brands for channel in channels for one in facts.unsubscribed(brand, channel, at)]
        case _:
            return []


def check(event: Event, door: Door) -> None:
    """Raise BeforeTradingError for money or play of a day on which the house did not trade yet."""
    since = door.trading_since
    if since is None or not isinstance(event, MONEY_OR_PLAY):
        return
    if event.occurred_at < datetime.combine(since, time(), UTC):
        raise BeforeTradingError(
            f"{event.type} of {event.occurred_at.date()}: the house trades since {since} "
            "(`trading_since` in the rulebook's settings)"
        )


def mangled(event: Event) -> Iterator[str]:
    """Ids of an event that a spreadsheet seems to have changed; that one who reads it again would not find."""
    told = event.__dict__  # asking a model for what it lacks takes longer than all else here
    for name in _IDS:
        if (text := told.get(name)) is not None and text[0] in _BEGINS and MANGLED.fullmatch(text):
            yield f"{name} {CHANGED}"


def doubtful(event: Event, today: date) -> Iterator[str]:
    """What of an event cannot be, and is therefore not known; no sentence shows a birth date, for an import logs it."""
    born, zone = event.__dict__.get("birth_date"), event.__dict__.get("time_zone")
    if born is not None and not facts.plausible(born, today):
        yield "birth_date: nobody who lives was born then: it stays as it was, and unknown denies"
    if born == _EPOCH:
        yield "birth_date: it was taken, but is what many systems write for a date that they lack"
    if zone is not None and zones.known(zone) is None:
        yield f"time_zone: {events.no_zone(zone)} It stays as it was, and unknown denies"
