"""Mapping bound to the columns of a file: rows of text become events. Pure.

    mapping.yaml --load--> EventMapping --MappedRows(header)--> row of text --events--> features.events.Event

Everything that can be wrong with a mapping is found when it is loaded or bound to a header; what is wrong
with one row is raised for that row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import yaml
from pydantic import ValidationError

from features.errors import CroupierError
from features.events import EVENT, Event
from features.files import find_infinite, read_yaml
from features.words import FILE, Door, sentence
from pipelines.imports.cells import (
    Arithmetic,
    RowRefused,
    ZonelessError,
    clock,
    minor,
    row_hash,
    tags,
    truth,
    whole_minor,
)
from pipelines.imports.columns import HASH, MODELS, AmountColumn, EventMapping, Made, TimeColumn, trouble
from service.api.reading import Doubts, parse

__all__ = ["SHIPPED", "EventMapping", "ImportRefused", "MappedRows", "OwnRows", "RowReader", "load", "row_hash"]

SHIPPED: Final = Path(__file__).parents[1] / "mappings"
"""Mappings of public data sets that come with Croupier; they are found by their bare name."""


class ImportRefused(CroupierError):
    """The file or its mapping cannot be taken."""

    code = "import_refused"
    exit_code = 2


def load(file: Path) -> EventMapping:
    """Read a mapping file, or a shipped mapping by its name.

    Raises:
        ImportRefused: There is none, it is no YAML, or a field is wrong; the sentence names file and field.
    """
    found = file if file.exists() or file.parent != Path() else SHIPPED / f"{file.stem}.yaml"
    try:
        content = read_yaml(found.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise ImportRefused(f"there is no mapping file {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ImportRefused(f"the mapping file {file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ImportRefused(f"the mapping file {file} is no YAML: {' '.join(str(error).split())}") from error
    return _checked(file, content)


def _checked(file: Path, content: object) -> EventMapping:
    if not isinstance(content, dict):
        raise ImportRefused(f"the mapping file {file} holds no `player`, `time` and `rules`")
    if (number := find_infinite(content)) is not None:
        raise ImportRefused(f"mapping file {file}: {'.'.join(map(str, number))}: must be a finite number")
    try:
        return EventMapping.model_validate(content, context=FILE)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ImportRefused(f"mapping file {file}: {f'{place}: ' if place else ''}{sentence(first)}") from error


_TRUTHS: Final = {
    name
    for model in MODELS.values()
    for name, field in model.model_fields.items()
    if field.annotation in (bool, bool | None)
}


class RowEvent(NamedTuple):
    """An event of a row, and doubts about its fields."""

    event: Event
    doubts: Doubts


class RowReader(Protocol):
    """Protocol: makes events of the cells of rows."""

    @property
    def names(self) -> Sequence[int]:
        """Indexes of the cells that name a player or an event."""
        ...

    def readings(self, row: Sequence[str]) -> list[RowEvent]:
        """Events of a row, at least one; raises ValueError if it is none."""
        ...


class OwnRows:
    """Rows of our own event format, one JSON object a line, as `POST /v1/events` takes it."""

    names: Sequence[int] = ()

    def __init__(self, door: Door = FILE) -> None:
        self._door = door

    def readings(self, row: Sequence[str]) -> list[RowEvent]:
        """See `Rows`."""
        return [RowEvent(*parse(EVENT, row[0], self._door))]


Read = Callable[[Sequence[str]], object]
"""What a field of an event is read as from a row; an empty text means that it is not there."""


class _Plan(NamedTuple):
    """How to make an event of a row: fixed fields, suffix of its id, readers of time and other fields."""

    fixed: Mapping[str, Any]
    id_end: str
    at: Callable[[Sequence[str]], datetime]
    taken: Sequence[tuple[str, Read]]
    unless: Sequence[tuple[int, frozenset[str]]]


class MappedRows:
    """Rows of a file under a mapping.

    Args:
        mapping: What to bind.
        header: Names of the columns, in the order of the cells of a row.
        hashed: Columns that make up the id where there is none, by place; in any file they are taken in the
            same order.
        door: The words that are known.

    Attributes:
        names: Indexes of the cells that name the player and, if there is a column, the event.

    Raises:
        ImportRefused: A column that the mapping names is missing, or stands there twice, or a fixed word is not known.
    """

    def __init__(self, mapping: EventMapping, header: Sequence[str], hashed: Sequence[int], door: Door = FILE) -> None:
        for number, rule in enumerate(mapping.rules):
            if found := [text for made in rule.events if (text := trouble(made, mapping, door))]:
                raise ImportRefused(f"rules.{number} of the mapping: {found[0]}")
        self._door = door
        place = _places(mapping, header)
        self._player = place[mapping.player]
        self._time, self._clock = place[mapping.time.column], clock(mapping.time.format, mapping.time.zone)
        self._id = None if mapping.id.column == HASH else place[mapping.id.column]
        self._hashed = hashed
        self.names = [self._player, *([] if self._id is None else [self._id])]
        self._plans = [[_plan(mapping, made, place) for made in rule.events] for rule in mapping.rules]
        self._rules = [_conditions(rule.when, place) for rule in mapping.rules]
        self._deciding = sorted({at for rule in self._rules for at, _ in rule})
        self._found: dict[tuple[str, ...], Sequence[_Plan]] = {}

    def event(self, row: Sequence[str]) -> Event:
        """The first event of a row; see `events`."""
        return self.events(row)[0]

    def events(self, row: Sequence[str]) -> list[Event]:
        """Events of a row; see `readings`."""
        return [one.event for one in self.readings(row)]

    def readings(self, row: Sequence[str]) -> list[RowEvent]:
        """Events of a row, at least one, with doubts about their fields.

        Raises:
            ValueError: It is none, or one of them cannot be; `RowRefused` and pydantic's ValidationError are its kinds.
        """
        plans = [plan for plan in self._plan(row) if not any(row[at] in values for at, values in plan.unless)]
        if not plans:
            raise RowRefused("the rule of the mapping makes no event of this row")
        name = row_hash([row[at] for at in self._hashed]) if self._id is None else row[self._id]
        return [self._event(plan, name, row) for plan in plans]

    def _event(self, plan: _Plan, name: str, row: Sequence[str]) -> RowEvent:
        fields = {
            **plan.fixed,
            "event_id": name + plan.id_end if name else "",
            "player_id": row[self._player],
            "occurred_at": plan.at(row),
        }
        for field, read in plan.taken:
            if (value := read(row)) != "":
                fields[field] = value
        return RowEvent(*parse(EVENT, fields, self._door))

    def refuse_zoneless(self, rows: Iterable[Sequence[str]]) -> None:
        """Raise ImportRefused if the times of all these rows lack a zone: then those of the whole file do."""
        trouble = None
        for row in rows:
            try:
                self._clock(row[self._time])
            except ZonelessError as error:
                trouble = error
                continue
            except RowRefused:
                continue
            return
        if trouble:
            raise ImportRefused(f"the times of the file cannot be placed: {trouble}")

    def _plan(self, row: Sequence[str]) -> Sequence[_Plan]:
        cells = tuple([row[at] for at in self._deciding])
        plans = self._found.get(cells)
        if plans is None:
            plans = self._found[cells] = self._choose(row)
            if len(self._found) > 10_000:
                self._found.clear()
        return plans

    def _choose(self, row: Sequence[str]) -> Sequence[_Plan]:
        for rule, plans in zip(self._rules, self._plans, strict=True):
            if all(row[at] in values for at, values in rule):
                return plans
        raise RowRefused("no rule of the mapping matches")


def _places(mapping: EventMapping, header: Sequence[str]) -> dict[str, int]:
    for name in mapping.named():
        if (count := header.count(name)) != 1:
            columns = ", ".join(header)
            columns = f"{columns[:200]}..." if len(columns) > 200 else columns
            problem = f"has {'no' if count == 0 else count} columns {name!r}"
            raise ImportRefused(f"the file {problem}, which the mapping names; its columns are: {columns}")
    return {name: place for place, name in enumerate(header)}


def _conditions(cells: Mapping[str, Sequence[str]], place: Mapping[str, int]) -> list[tuple[int, frozenset[str]]]:
    return [(place[name], frozenset(values)) for name, values in cells.items()]


def _plan(mapping: EventMapping, made: Made, place: Mapping[str, int]) -> _Plan:
    allowed = MODELS[made.event].model_fields.keys() - made.fields.keys()
    time, amount = made.time or mapping.time, made.amount or mapping.amount
    taken = [
        (name, _cell(place[column], _reading(name, time)))
        for name, column in {**mapping.columns, **made.columns}.items()
        if name in allowed
    ]
    if amount and "amount_minor" in allowed:
        taken.append(("amount_minor", _amount(amount, place)))
    return _Plan(
        {**made.fields, "type": made.event},
        f":{made.kind or made.event}" if mapping.id.by_kind else "",
        _moment(place[time.column], clock(time.format, time.zone)),
        taken,
        _conditions(made.unless, place),
    )


def _moment(at: int, read: Callable[[str], datetime]) -> Callable[[Sequence[str]], datetime]:
    return lambda row: read(row[at])


def _cell(at: int, read: Callable[[str], object]) -> Read:
    return lambda row: read(row[at]) if row[at] else ""


def _amount(amount: AmountColumn, place: Mapping[str, int]) -> Read:
    """Reader of minor units from a row."""
    if amount.compute is None:
        (column,) = amount.named()
        return _cell(place[column], partial(minor, decimals=amount.decimals, rounding=amount.rounding))
    term, text = Arithmetic(amount.compute), amount.compute

    def computed(row: Sequence[str]) -> int:
        value = term.value(lambda name: row[place[name]])
        return whole_minor(value, amount.decimals, amount.rounding, text)

    return computed


def _reading(name: str, time: TimeColumn) -> Callable[[str], object]:
    """Reader of an event field from the text of a cell."""
    match name:
        case "birth_date":
            return date.fromisoformat
        case _ if name in _TRUTHS:
            return truth
        case "tags" | "asked":
            return tags
        case "score":
            return lambda text: int(text) if text.isdecimal() else text
        case "until" | "placed_at" | "deposited_at":
            return clock(time.format, time.zone)
        case _:
            return str
