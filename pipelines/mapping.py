"""The mapping file of an import: which column means what, and which rows are which event. Pure.

    mapping.yaml --load--> EventMapping --MappedRows(header)--> row of text --event--> features.events.Event

Everything that can be wrong with a mapping is found when it is loaded or bound to a header; what is wrong
with one row is raised for that row alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, tzinfo
from decimal import Context, Decimal, Inexact
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import msgspec
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from features import zones
from features.events import EVENT, Channel, Event, Jurisdiction, TimeZone, moment
from service import facts
from service.facts import Assertion

SHIPPED: Final = Path(__file__).with_name("mappings")
"""Mappings of public data sets that come with Croupier; they are found by their bare name."""
HASH: Final = "hash"
"""The `id` of rows that carry none: a hash of all their columns."""
EARLIEST: Final = datetime(1990, 1, 1, tzinfo=UTC)
"""Moments before this are placeholders, or seconds taken for milliseconds."""

_MODELS: Final = {get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(Event)}
_OWN: Final = frozenset({"event_id", "player_id", "occurred_at", "type"})
_FIELDS: Final = frozenset(name for model in _MODELS.values() for name in model.model_fields) - _OWN
_SAMPLE: Final = {"event_id": "x", "player_id": "x", "occurred_at": EARLIEST}


class ImportRefused(Exception):
    """The file or its mapping cannot be taken; one sentence says why."""


class RowRefused(ValueError):
    """One row cannot be taken; the sentence goes to the rejects."""


class _Zoneless(RowRefused):
    """A time names no zone, and the mapping none for such."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _exact(value: object) -> object:
    """YAML reads some words as truth values, numbers or dates: what a cell is compared with must be text."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"YAML reads this as {value!r}, not as text: put it in quotes")  # noqa: TRY004 - pydantic wants it
    return value


Cell = Annotated[str, BeforeValidator(_exact)]
"""Text of a cell, compared exactly; nothing means an empty cell."""


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class TimeColumn(_Part):
    """Where the time stands: ISO 8601, `seconds` or `milliseconds` since 1970, or a strptime format.

    `zone` places times that name none; of an hour that happens twice the first is meant.
    """

    column: str
    format: str = "iso"
    zone: TimeZone | None = None

    @field_validator("format")
    @classmethod
    def _reads_dates(cls, form: str) -> str:
        if form not in _CLOCKS and not _round_trips(form):
            raise ValueError(f"must be iso, seconds, milliseconds or a strptime format with a whole date, not {form!r}")
        return form

    @model_validator(mode="after")
    def _has_zone(self) -> TimeColumn:
        if self.format not in _CLOCKS and "%z" not in self.format and self.zone is None:
            raise ValueError("the format names no zone: add `zone`, such as `zone: Europe/Malta`")
        return self


class AmountColumn(_Part):
    """Where the amount stands, and how many decimals its currency has (2: 1.25 is 125 minor units)."""

    column: str
    decimals: int = Field(default=2, ge=0, le=8)


class Rule(_Part):
    """Rows whose cells have these values are events of this type, with these fields."""

    when: dict[str, Annotated[tuple[Cell, ...], BeforeValidator(_listed)]]
    event: str
    fields: dict[str, Any] = {}

    @field_validator("event")
    @classmethod
    def _known(cls, event: str) -> str:
        if event not in _MODELS:
            raise ValueError(f"{event!r} is no event type: one of {', '.join(_MODELS)}")
        return event


class Assume(_Part):
    """Facts that a sandbox assumes of every player of the file, because the file lacks them."""

    jurisdiction: Jurisdiction | None = None
    time_zone: TimeZone | None = None
    birth_date: date | None = None
    kyc: bool = False
    account: Literal["open"] | None = None
    consent: tuple[Channel, ...] = ()

    def assertions(self) -> list[Assertion]:
        """What is assumed, at moment 0, where everything known beats it."""
        born = self.birth_date
        texts = {"account": self.account, "jurisdiction": self.jurisdiction, "time_zone": self.time_zone}
        return [
            *(Assertion(name, 0, 0, text) for name, text in texts.items() if text is not None),
            *([Assertion("kyc", 0, 0, "verified")] if self.kyc else []),
            *([Assertion("birth_date", 0, born.toordinal(), born.isoformat())] if born else []),
            *(facts.consent("main", channel, 0, granted=True) for channel in self.consent),
        ]


def _named(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


class EventMapping(_Part):
    """A mapping file.

    Attributes:
        source: What the file is and where it comes from; for people.
        delimiter: What separates the cells of a CSV file.
        player: Column of the caller's player id.
        time: Column of the moment, or more about it.
        amount: Column of the amount, or more about it.
        id: Column of the event id, unique per player; `hash` makes one of all columns of the row.
        columns: Other event fields -> the column they are taken from, as the text stands there.
        rules: The first rule that holds for a row decides what it is; a field fixed there beats a column.
        assume: For a sandbox house only.
    """

    source: str = ""
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    player: str
    time: Annotated[TimeColumn, BeforeValidator(_named)]
    amount: Annotated[AmountColumn, BeforeValidator(_named)] | None = None
    id: str = HASH
    columns: dict[str, str] = {}
    rules: tuple[Rule, ...] = Field(min_length=1)
    assume: Assume | None = None

    @field_validator("columns")
    @classmethod
    def _mappable(cls, columns: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(columns.keys() - (_FIELDS - {"amount_minor"})):
            raise ValueError(f"no event has a field {unknown[0]!r} to be mapped here")
        return columns

    @model_validator(mode="after")
    def _rules_make_events(self) -> EventMapping:
        taken = {*self.columns, *(["amount_minor"] if self.amount else [])}
        for number, rule in enumerate(self.rules):
            if trouble := _trouble(rule, taken):
                raise ValueError(f"rules.{number}: {trouble}")
        return self

    def named(self) -> list[str]:
        """Every column that the mapping names, in its order."""
        one_by_one = [self.player, self.time.column, *([self.amount.column] if self.amount else [])]
        ids = [] if self.id == HASH else [self.id]
        conditions = [column for rule in self.rules for column in rule.when]
        return list(dict.fromkeys([*one_by_one, *ids, *self.columns.values(), *conditions]))


def _trouble(rule: Rule, taken: set[str]) -> str:
    """What would keep every row of a rule from becoming an event, empty if nothing."""
    if own := sorted(rule.fields.keys() & _OWN):
        return f"{own[0]} cannot be fixed by a rule"
    try:
        EVENT.validate_python({**_SAMPLE, **rule.fields, "type": rule.event})
    except ValidationError as error:
        found = [one for one in error.errors() if one["type"] != "missing" or one["loc"][-1] not in taken]
        return "; ".join(f"{rule.event} {one['loc'][-1]}: {one['msg']}" for one in found)
    return ""


def load(file: Path) -> EventMapping:
    """Read a mapping file, or a shipped one by its name.

    Raises:
        ImportRefused: There is none, it is no YAML, or a field is wrong; the sentence names file and field.
    """
    found = file if file.exists() or file.parent != Path() else SHIPPED / f"{file.stem}.yaml"
    try:
        content = yaml.safe_load(found.read_text("utf-8-sig"))
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
    try:
        return EventMapping.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        sentence = first["msg"].removeprefix("Value error, ")
        raise ImportRefused(f"mapping file {file}: {f'{place}: ' if place else ''}{sentence}") from error


class _Plan(NamedTuple):
    """What a rule makes of a row: fixed fields, and (field, place in the row, how its text is read)."""

    fixed: Mapping[str, Any]
    taken: Sequence[tuple[str, int, Callable[[str], object]]]


class MappedRows:
    """A mapping bound to the columns of a file.

    Args:
        mapping: What to bind.
        header: Names of the columns, in the order of the cells of a row.
        hashed: Columns that make up the id where there is none, by place; in any file they are taken in the
            same order.

    Raises:
        ImportRefused: A column that the mapping names is missing, or stands there twice.
    """

    def __init__(self, mapping: EventMapping, header: Sequence[str], hashed: Sequence[int]) -> None:
        place = _places(mapping, header)
        self._player = place[mapping.player]
        self._time = place[mapping.time.column]
        self._id = None if mapping.id == HASH else place[mapping.id]
        self._hashed = hashed
        self._clock = clock(mapping.time)
        self._plans = [_plan(mapping, rule, place) for rule in mapping.rules]
        self._rules = [
            [(place[name], frozenset(values)) for name, values in rule.when.items()] for rule in mapping.rules
        ]
        self._deciding = sorted({at for rule in self._rules for at, _ in rule})
        self._found: dict[tuple[str, ...], _Plan] = {}

    def event(self, row: Sequence[str]) -> Event:
        """The event that a row is.

        Raises:
            ValueError: It is none; `RowRefused` and pydantic's ValidationError are its kinds.
        """
        plan = self._plan(row)
        fields = {
            **plan.fixed,
            "event_id": row_hash([row[at] for at in self._hashed]) if self._id is None else row[self._id],
            "player_id": row[self._player],
            "occurred_at": self._clock(row[self._time]),
        }
        for name, at, read in plan.taken:
            if text := row[at]:
                fields[name] = read(text)
        return EVENT.validate_python(fields)

    def refuse_zoneless(self, rows: Iterable[Sequence[str]]) -> None:
        """Raise ImportRefused if the time of every one of these rows lacks a zone: then all of the file's will."""
        trouble = None
        for row in rows:
            try:
                self._clock(row[self._time])
            except _Zoneless as error:
                trouble = error
                continue
            except RowRefused:
                continue
            return
        if trouble:
            raise ImportRefused(f"the times of the file cannot be placed: {trouble}")

    def _plan(self, row: Sequence[str]) -> _Plan:
        cells = tuple([row[at] for at in self._deciding])
        plan = self._found.get(cells)
        if plan is None:
            plan = self._found[cells] = self._choose(row)
            if len(self._found) > 10_000:
                self._found.clear()
        return plan

    def _choose(self, row: Sequence[str]) -> _Plan:
        for rule, plan in zip(self._rules, self._plans, strict=True):
            if all(row[at] in values for at, values in rule):
                return plan
        raise RowRefused("no rule of the mapping matches")


def _places(mapping: EventMapping, header: Sequence[str]) -> dict[str, int]:
    for name in mapping.named():
        if (count := header.count(name)) != 1:
            held = ", ".join(header)
            held = f"{held[:200]}..." if len(held) > 200 else held
            problem = f"has {'no' if count == 0 else count} columns {name!r}"
            raise ImportRefused(f"the file {problem}, which the mapping names; its columns are: {held}")
    return {name: place for place, name in enumerate(header)}


def _plan(mapping: EventMapping, rule: Rule, place: Mapping[str, int]) -> _Plan:
    allowed = _MODELS[rule.event].model_fields.keys() - rule.fields.keys()
    taken = [
        (name, place[column], _reading(name, mapping)) for name, column in mapping.columns.items() if name in allowed
    ]
    if mapping.amount and "amount_minor" in allowed:
        taken.append(("amount_minor", place[mapping.amount.column], partial(minor, decimals=mapping.amount.decimals)))
    return _Plan({**rule.fields, "type": rule.event}, taken)


def _reading(name: str, mapping: EventMapping) -> Callable[[str], object]:
    """How the text of a cell becomes a field of an event."""
    match name:
        case "birth_date":
            return date.fromisoformat
        case "granted":
            return _truth
        case "tags":
            return _tags
        case "until":
            return clock(mapping.time)
        case _:
            return str


def _truth(text: str) -> bool:
    found = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower())
    if found is None:
        raise RowRefused(f"{_short(text)} is neither true nor false")
    return found


def _tags(text: str) -> list[str]:
    return [tag.strip() for tag in text.split(";") if tag.strip()]


def row_hash(cells: Sequence[str]) -> str:
    """Id of a row by its content: 32 hex digits, the same wherever the row stands."""
    return blake2b(msgspec.json.encode(cells), digest_size=16).hexdigest()


_NUMBER: Final = re.compile(r"[+-]?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})([eE][+-]?\d{1,2})?", re.ASCII)
_EXACT: Final = Context(prec=200, traps=[Inexact])


def number(text: str) -> Decimal:
    """A plain decimal number, exact; separators of thousands, NaN and infinity are none."""
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped) is None:
        raise RowRefused(f"{_short(text)} is no plain number")
    return Decimal(stripped)


@lru_cache(maxsize=50_000)
def minor(text: str, decimals: int) -> int:
    """Minor units of an amount, exact: what has more decimals than its currency is refused, never rounded."""
    scaled = number(text).scaleb(decimals, _EXACT)
    whole = scaled.to_integral_value()
    if whole != scaled:
        raise RowRefused(f"{_short(text)} has more than {decimals} decimals")
    return int(whole)


def clock(time: TimeColumn) -> Callable[[str], datetime]:
    """How the text of a time is read; the moments it gives are aware."""
    zone = zones.zone(time.zone) if time.zone else None
    read = _CLOCKS.get(time.format) or partial(_formatted, form=time.format)

    def aware(text: str) -> datetime:
        try:
            at = _placed(read(text.strip()), zone)
        except (OverflowError, ValueError) as error:
            if isinstance(error, RowRefused):
                raise
            raise RowRefused(f"{_short(text)} is no time: {error}") from error
        if at < EARLIEST:
            raise RowRefused(f"{_short(text)} lies before {EARLIEST.year}: a placeholder, or another unit")
        return at

    return aware


def _placed(at: datetime, zone: tzinfo | None) -> datetime:
    if at.tzinfo is not None:
        return at
    if zone is None:
        raise _Zoneless(f"{at.isoformat()} names no zone, and the mapping has no `zone` in its `time`")
    utc = at.replace(tzinfo=zone).astimezone(UTC)
    if utc.astimezone(zone).replace(tzinfo=None) != at:
        raise RowRefused(f"{at.isoformat()} does not exist in {zone}: the clocks went forward")
    return utc


def _since_1970(text: str, unit_us: int) -> datetime:
    return moment(int(number(text) * unit_us))


def _formatted(text: str, form: str) -> datetime:
    return datetime.strptime(text, form)  # noqa: DTZ007 - placed in the mapping's zone


_CLOCKS: Final[Mapping[str, Callable[[str], datetime]]] = {
    "iso": datetime.fromisoformat,
    "seconds": partial(_since_1970, unit_us=1_000_000),
    "milliseconds": partial(_since_1970, unit_us=1_000),
}


def _round_trips(form: str) -> bool:
    sample = datetime(2021, 11, 23, tzinfo=UTC)
    try:
        return _formatted(sample.strftime(form), form).date() == sample.date()
    except ValueError:
        return False


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def reasons(error: ValueError) -> str:
    """Why a row is no event, in one line."""
    if isinstance(error, ValidationError):
        return "; ".join(_reasons(error))
    if isinstance(error, UnicodeError):
        return "the row is not UTF-8 text"
    return str(error)


def _reasons(error: ValidationError) -> Iterator[str]:
    for one in error.errors(include_url=False, include_context=False):
        name = str(one["loc"][-1]) if one["loc"] else "event"
        if one["type"] == "string_pattern_mismatch" and name in {"player_id", "event_id"}:
            yield f"{name} {_short(str(one['input']))} must be 1 to 64 printable ASCII characters, no space or brace"
        else:
            yield f"{name}: {one['msg']}"
