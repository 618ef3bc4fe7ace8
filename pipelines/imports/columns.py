"""Models of a mapping file: which column means what, and which rows are which events. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from features.events import EVENT, Channel, Event, Jurisdiction, TimeZone
from features.words import FILE, Door, sentence
from pipelines.imports.cells import CLOCKS, EARLIEST, Arithmetic, reads_dates
from service.api.reading import parse
from service.players import facts
from service.players.facts import Assertion

HASH: Final = "hash"
"""The `id` of rows that carry none: a hash of all their columns."""
WHITESPACE: Final = "whitespace"
"""The delimiter of cells that any number of blanks and tabs separate."""
REJECTED_SHARE: Final = 0.5
"""The share of rejected records that an import bears where nothing else is said."""

MODELS: Final = {get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(Event)}
"""Event types and what they are made of."""
_OWN: Final = frozenset({"event_id", "player_id", "occurred_at", "type"})
_FIELDS: Final = frozenset(name for model in MODELS.values() for name in model.model_fields) - _OWN
_SAMPLE: Final = {"event_id": "x", "player_id": "x", "occurred_at": EARLIEST}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _exact(value: object) -> object:
    """Refuse values that YAML reads as booleans, numbers or dates: cells are compared as text."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"YAML reads this as {value!r}, not as text: put it in quotes")  # noqa: TRY004 - pydantic wants it
    return value


Cell = Annotated[str, BeforeValidator(_exact, json_schema_input_type=str | int | None)]
"""Text of a cell, compared exactly; nothing means an empty cell."""


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


Cells = dict[str, Annotated[tuple[Cell, ...], BeforeValidator(_listed, json_schema_input_type=Cell | tuple[Cell, ...])]]
"""Columns, and the values that each may have."""


class TimeColumn(_Part):
    """Column of the time, and its format."""

    column: str = Field(description="Its column.")
    format: str = Field(
        "iso", description="`iso` (ISO 8601), `seconds` or `milliseconds` since 1970, or a strptime format."
    )
    zone: TimeZone | None = Field(
        None, description="Places times that name no zone; of an hour that happens twice the first is meant."
    )

    @field_validator("format")
    @classmethod
    def _reads_dates(cls, form: str) -> str:
        if form not in CLOCKS and not reads_dates(form):
            raise ValueError(f"must be iso, seconds, milliseconds or a strptime format with a whole date, not {form!r}")
        return form

    @model_validator(mode="after")
    def _has_zone(self) -> TimeColumn:
        if self.format not in CLOCKS and "%z" not in self.format and self.zone is None:
            raise ValueError("the format names no zone: add `zone`, such as `zone: Europe/Malta`")
        return self


def _usual(value: object) -> object:
    return {True: "half_up", False: None}.get(value, value) if isinstance(value, bool) else value


class AmountColumn(_Part):
    """Column or expression of the amount, in the currency's major unit."""

    column: str | None = Field(None, description="Its column; either this or `compute`.")
    compute: str | None = Field(
        None,
        max_length=1_000,
        description="Arithmetic over columns and numbers with + - * / and brackets, exact: `Stake * Multiple`. "
        "A column whose name is no plain word stands in quotes: `-'Net amount' / 100`.",
    )
    decimals: int = Field(2, ge=0, le=8, description="Decimals of the currency: with 2, 1.25 is 125 minor units.")
    round: Annotated[
        Literal["half_up", "half_even", "down"] | None,
        BeforeValidator(_usual, json_schema_input_type=Literal["half_up", "half_even", "down"] | bool | None),
    ] = Field(
        None,
        description="Rounds what has more decimals, such as 158.82999999999998; `true` is `half_up`. "
        "Without it such rows are rejected.",
    )

    @model_validator(mode="after")
    def _stands_somewhere(self) -> AmountColumn:
        if (self.column is None) == (self.compute is None):
            raise ValueError("either `column` or `compute` says where the amount comes from")
        if self.compute is not None:
            Arithmetic(self.compute)
        return self

    def named(self) -> list[str]:
        """Columns that the amount uses."""
        return [self.column] if self.column is not None else Arithmetic(self.compute or "").columns

    @property
    def rounding(self) -> str | None:
        """Rounding mode, by its name in `decimal`."""
        return f"ROUND_{self.round.upper()}" if self.round else None


class IdColumn(_Part):
    """Column of the event id."""

    column: str = Field(HASH, description="Its column; `hash` makes ids of all columns of the row.")
    by_kind: bool = Field(
        default=False,
        description="Adds the kind of the event, `r1:bet` and `r1:win`, where several events share the column's id.",
    )


def _named(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


Time = Annotated[TimeColumn, BeforeValidator(_named, json_schema_input_type=str | TimeColumn)]
Amount = Annotated[AmountColumn, BeforeValidator(_named, json_schema_input_type=str | AmountColumn)]
IdPlace = Annotated[IdColumn, BeforeValidator(_named, json_schema_input_type=str | IdColumn)]


class Made(_Part):
    """An event made of a row; settings that it omits are the mapping's."""

    event: str = Field(description="Its type.")
    fields: dict[str, Any] = Field({}, description="Event fields that are the same in every such row.")
    kind: str | None = Field(None, description="What ids by kind end in; the event's type where nothing is said.")
    time: Time | None = Field(None, description="Its own time.")
    amount: Amount | None = Field(None, description="Its own amount.")
    columns: dict[str, str] = Field({}, description="Its own columns.")
    unless: Cells = Field({}, description="Rows with one of these values make no such event.")

    @field_validator("event")
    @classmethod
    def _known(cls, event: str) -> str:
        if event not in MODELS:
            raise ValueError(f"{event!r} is no event type: one of {', '.join(MODELS)}")
        return event

    @field_validator("columns")
    @classmethod
    def _mappable(cls, columns: dict[str, str]) -> dict[str, str]:
        return _mappable(columns)

    def named(self) -> Iterator[str]:
        """Columns that it names beside the mapping's."""
        yield from [self.time.column] if self.time else []
        yield from self.amount.named() if self.amount else []
        yield from self.columns.values()
        yield from self.unless


class Rule(_Part):
    """Events made of the rows whose cells have these values; a single event may stand beside `when`."""

    when: Cells = Field(description="Columns, and the value or values that each must have; `{}` holds for every row.")
    events: tuple[Made, ...] = Field(
        min_length=1, description="The events that a row is made into: all of them are taken, or none."
    )

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, content: object) -> object:
        if not isinstance(content, dict) or "events" in content:
            return content
        made = {name: value for name, value in content.items() if name in Made.model_fields}
        return {name: value for name, value in content.items() if name not in made} | {"events": [made]}


class Assume(_Part):
    """Facts that a sandbox assumes of every player of the file, as the file lacks them."""

    jurisdiction: Jurisdiction | None = Field(None, description="Where they live.")
    time_zone: TimeZone | None = Field(None, description="Their time zone.")
    birth_date: date | None = Field(None, description="Their birth date.")
    kyc: bool = Field(default=False, description="Whether they are verified.")
    account: Literal["open"] | None = Field(None, description="Whether their account is open.")
    consent: tuple[Channel, ...] = Field((), description="Channels on which they consent.")

    def assertions(self) -> list[Assertion]:
        """Assumed facts, at moment 0, where every known fact prevails."""
        born = self.birth_date
        texts = {"account": self.account, "jurisdiction": self.jurisdiction, "time_zone": self.time_zone}
        return [
            *(Assertion(name, 0, 0, text) for name, text in texts.items() if text is not None),
            *([Assertion("kyc", 0, 0, "verified")] if self.kyc else []),
            *([Assertion("birth_date", 0, born.toordinal(), born.isoformat())] if born else []),
            *(facts.consent("main", channel, 0, granted=True) for channel in self.consent),
        ]


class EventMapping(_Part):
    """A mapping file."""

    source: str = Field("", description="What the file is and where it comes from; for people.")
    encoding: str | None = Field(
        None, description="Such as `latin-1`; UTF-8, and UTF-16 with its mark at the beginning, need no word."
    )
    delimiter: str = Field(
        ",", description="The character between the cells of a CSV file, or `whitespace`: any number of blanks."
    )
    quote: str | None = Field(
        '"', min_length=1, max_length=1, description="The character around cells; null: cells have none."
    )
    player: str = Field(description="Column of the caller's player id.")
    time: Time = Field(description="Column of the moment, or more about it.")
    amount: Amount | None = Field(None, description="Column of the amount, or more about it.")
    id: IdPlace = Field(
        IdColumn(),
        description="Column of the event id, unique per player, or more about it; `hash` where nothing is said.",
    )
    columns: dict[str, str] = Field(
        {}, description="Other event fields and the column that each is taken from, as the text stands there."
    )
    rules: tuple[Rule, ...] = Field(
        min_length=1,
        description="The first rule that holds for a row decides what it is; a field fixed there beats a column.",
    )
    max_rejected_share: float = Field(
        REJECTED_SHARE, ge=0, le=1, description="An import ends where a greater share of its records is rejected."
    )
    assume: Assume | None = Field(None, description="Facts assumed of every player; for a sandbox house only.")

    @field_validator("encoding")
    @classmethod
    def _spoken(cls, encoding: str | None) -> str | None:
        try:
            "".encode(encoding or "utf-8")
        except LookupError as error:
            raise ValueError(f"{encoding!r} is no encoding of text that Python knows") from error
        return encoding

    @field_validator("delimiter")
    @classmethod
    def _between(cls, delimiter: str) -> str:
        if delimiter != WHITESPACE and (len(delimiter) != 1 or delimiter in "\r\n"):
            raise ValueError(f"must be one character or `{WHITESPACE}`, not {delimiter!r}")
        return delimiter

    @field_validator("columns")
    @classmethod
    def _mappable(cls, columns: dict[str, str]) -> dict[str, str]:
        return _mappable(columns)

    @model_validator(mode="after")
    def _rules_make_events(self) -> EventMapping:
        for number, rule in enumerate(self.rules):
            for made in rule.events:
                if found := trouble(made, self, FILE):
                    raise ValueError(f"rules.{number}: {found}")
            kinds = [made.kind or made.event for made in rule.events]
            if len(kinds) > 1 and not self.id.by_kind:
                raise ValueError(f"rules.{number} makes several events of a row: add `by_kind: true` to `id`")
            if len(set(kinds)) < len(kinds):
                raise ValueError(f"rules.{number} makes two events of one kind: give each a `kind` of its own")
        return self

    def named(self) -> list[str]:
        """All columns that the mapping names, in order."""
        one_by_one = [self.player, self.time.column, *(self.amount.named() if self.amount else [])]
        ids = [] if self.id.column == HASH else [self.id.column]
        conditions = [column for rule in self.rules for column in rule.when]
        made = [column for rule in self.rules for one in rule.events for column in one.named()]
        return list(dict.fromkeys([*one_by_one, *ids, *self.columns.values(), *conditions, *made]))


def _mappable(columns: dict[str, str]) -> dict[str, str]:
    if unknown := sorted(columns.keys() - (_FIELDS - {"amount_minor"})):
        raise ValueError(f"no event has a field {unknown[0]!r} to be mapped here")
    return columns


def trouble(made: Made, mapping: EventMapping, door: Door) -> str:
    """Why no row could become this event under the door's closed lists; empty if rows can."""
    if own := sorted(made.fields.keys() & _OWN):
        return f"{own[0]} cannot be fixed by a rule"
    taken = {*mapping.columns, *made.columns, *(["amount_minor"] if made.amount or mapping.amount else [])}
    try:
        parse(EVENT, {**_SAMPLE, **made.fields, "type": made.event}, door)
    except ValidationError as error:
        found = [one for one in error.errors() if one["type"] != "missing" or one["loc"][-1] not in taken]
        return "; ".join(f"{made.event} {one['loc'][-1]}: {sentence(one)}" for one in found)
    return ""


def schema() -> dict[str, Any]:
    """JSON schema of a mapping file."""
    found = EventMapping.model_json_schema()
    rule, made = found["$defs"]["Rule"], found["$defs"]["Made"]
    rule["properties"] |= made["properties"]
    rule["required"] = ["when"]
    rule["oneOf"] = [{"required": ["event"]}, {"required": ["events"]}]
    return found
