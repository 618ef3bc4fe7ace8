"""Splitting any text into rows: every line is in one row, blank or the header; hashes agree on both sides."""

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import duckdb
import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import events
from features.events import Event
from pipelines.imports.bulk import Item
from pipelines.imports.cells import Arithmetic, RowRefused, minor
from pipelines.imports.columns import EventMapping
from pipelines.imports.known_events import CONTENT, FileEvent, content, judge
from pipelines.imports.rows import Row, Source
from pipelines.worker.lake import SCHEMAS
from service.contacts.ledger import Entry

PLAIN: dict[str, Any] = {"player": "a", "time": "b", "rules": [{"when": {}, "event": "login"}]}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def rows(folder: Path, text: str, **said: Any) -> tuple[list[Row], int]:
    file = folder / "rows"
    file.write_bytes(text.encode())
    with Source(file, EventMapping.model_validate(PLAIN | said)) as source:
        return [row for chunk in source.chunks(3) for row in chunk], source.lines


def physical(text: str) -> list[str]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


@settings(max_examples=400)
@given(st.text(alphabet='xy",; \r\n', max_size=80), st.sampled_from([",", ";", "whitespace"]))
def test_every_line_is_in_one_row_or_blank_whatever_the_quotes(folder: Path, text: str, delimiter: str) -> None:
    between = " " if delimiter == "whitespace" else delimiter
    whole = f"a{between}b\n{text}"
    found, count = rows(folder, whole, delimiter=delimiter)
    lines = physical(whole)
    assert count == len(lines)
    held = [number for row in found for number in range(row.line, row.line + row.lines)]
    assert held == sorted(set(held))
    free = set(range(2, len(lines) + 1)) - set(held)
    assert not any(lines[number - 1].strip(" " if delimiter == "whitespace" else "") for number in free)
    assert [row.number for row in found] == list(range(1, len(found) + 1))


@given(st.lists(st.tuples(st.text(alphabet='xy",;\n ', max_size=8), st.text(alphabet="xyz", min_size=1)), max_size=12))
def test_what_is_written_as_csv_is_read_as_it_was(folder: Path, cells: list[tuple[str, str]]) -> None:
    quoted = [f'"{one.replace(chr(34), chr(34) * 2)}",{other}' for one, other in cells]
    found, _ = rows(folder, "\n".join(["a,b", *quoted]))
    assert [tuple(row.cells) for row in found] == cells
    assert not any(row.problem for row in found)


def test_an_open_quote_costs_its_line_wherever_it_stands(folder: Path) -> None:
    for at in range(30):
        lines = [f"p{number},t" for number in range(30)]
        lines[at] = f'p{at},"t'
        found, _ = rows(folder, "\n".join(["a,b", *lines]))
        assert [row.number - 1 for row in found if row.problem] == [at]
        assert len(found) == 30


def test_two_open_quotes_that_meet_by_chance_are_told(folder: Path) -> None:
    """The lines between them are a cell by every rule of CSV: nobody can know, so it is said."""
    (row,) = rows(folder, 'a,b\np1,"t\np2,t\np3,t\np4,t"\n')[0]
    assert (row.line, row.lines, row.problem) == (2, 4, "")
    assert "is a quote missing" in row.doubt
    (row,) = rows(folder, 'a,b\np1,"a note\nof two\nor three lines"\n')[0]
    assert not row.doubt


MOMENTS = st.datetimes(datetime(1990, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the zone follows
ZONES = st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours)))
IDS = st.from_regex(r"[!-z|~]{1,12}", fullmatch=True)


WHEN = st.builds(lambda at, zone: at.astimezone(zone), MOMENTS, ZONES)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "birth_date": st.none() | st.dates(),
    "until": WHEN,
    "tags": st.lists(st.sampled_from(["harm", "a b", "x/y:z", "-"]), max_size=4).map(tuple),
    **dict.fromkeys(("jurisdiction", "licence", "location"), st.sampled_from([None, "MT", "GB", "CA-ON"])),
    "time_zone": st.sampled_from([None, "UTC", "Europe/Malta"]),
    "method": st.sampled_from(["card", "Überweisung"]),
    "about": st.sampled_from(["payments", "Где?"]),
    "origin": st.just("a.site"),
    "source": st.just("scorer_1"),
    "register_name": st.just("gamstop"),
    **dict.fromkeys(("placed_at", "deposited_at"), st.sampled_from([None, datetime(1990, 1, 1, tzinfo=UTC)])),
    "asked": st.lists(st.sampled_from(["identity", "funds"]), min_size=1, max_size=2).map(tuple),
    "score": st.integers(1, 5),
    "currency": st.sampled_from([None, "SEK"]),
    **dict.fromkeys(("bet_id", "deposit_id"), IDS),
    "address": st.sampled_from(["a@b.example", "Anna.B@player.example"]),
    "name": st.sampled_from([None, "Anna", "Søren Ø'Brien", "انا"]),
    "locale": st.sampled_from([None, "en", "pt-BR"]),
}
"""Values of fields whose type says too little of them."""


def _values(name: str, field: Any) -> st.SearchStrategy[Any]:
    if name == "amount_minor":
        return st.integers(0, 10**12) | (st.none() if not field.is_required() else st.nothing())
    if name == "kind" and "mail" in get_args(field.annotation):
        return st.just("mail")
    return VALUES[name] if name in VALUES else st.from_type(field.annotation)


def _events() -> st.SearchStrategy[Event]:
    def one(model: Any) -> st.SearchStrategy[Any]:
        own = {"event_id": IDS, "player_id": IDS, "brand": st.sampled_from(["main", "b_2"])}
        own["occurred_at"] = WHEN
        fields = {name: _values(name, field) for name, field in model.model_fields.items() if name not in own}
        return st.fixed_dictionaries(own | fields).map(model.model_validate)

    models = [
        model
        for model in events.Event.__args__
        if model not in {events.Identify, events.Alias, events.HouseholdChanged}
    ]
    return st.one_of([one(model) for model in models])


def in_lake(event: Event, told_of: str = "") -> str:
    """The content of the event's row, computed by DuckDB over the lake's columns."""
    row = events.row(event)
    if told_of:
        row["detail"] = {"told_of": told_of, **row.get("detail", {}), "key": "k9"}
    return content_in_lake(row)


def content_in_lake(row: dict[str, Any]) -> str:
    if "detail" in row:
        row["detail"] = msgspec.json.encode(row["detail"]).decode()
    kept = pa.Table.from_pylist([row], schema=SCHEMAS["events"])  # noqa: F841 - the query reads it
    (found,) = duckdb.connect().execute(f"SELECT {CONTENT} FROM kept").fetchall()
    return str(found[0])


@settings(max_examples=300, deadline=None)
@given(_events(), st.sampled_from(["", "abc0"]))
def test_lake_and_file_have_one_content_of_an_event(event: Event, told_of: str) -> None:
    assert in_lake(event, told_of) == content(event)


def test_a_field_that_came_later_leaves_the_content_of_what_the_lake_has() -> None:
    """A row of before it lacks the field; the same event told now has its default."""
    now: dict[str, Any] = {"event_id": "e", "player_id": "p", "occurred_at": datetime(2020, 1, 1, tzinfo=UTC)}
    closed = events.Registered(**now, type="registered", jurisdiction="MT")
    row = events.row(closed)
    assert row["detail"].pop("reopened") is False
    assert content_in_lake(row) == content(closed)
    assert content(closed) != content(closed.model_copy(update={"reopened": True}))


@settings(max_examples=200, deadline=None)
@given(_events(), ZONES)
def test_content_does_not_hang_on_how_moments_are_written(event: Event, zone: timezone) -> None:
    moved = {"occurred_at": event.occurred_at.astimezone(zone)}
    if isinstance(event, events.TimeOut):
        moved["until"] = event.until.astimezone(zone)
    assert content(event.model_copy(update=moved)) == content(event)
    later = event.model_copy(update={"occurred_at": event.occurred_at + timedelta(microseconds=1)})
    assert content(later) != content(event)


def _told(name: str, content_: str) -> FileEvent:
    return FileEvent(Item("p", Entry("event", name, b"", b""), remember=False), "p", name, content_)


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), min_size=1, max_size=3), max_size=12)
)
def test_a_record_is_taken_whole_or_not_at_all(told: list[list[tuple[str, str]]]) -> None:
    held: dict[str, str] = {}
    records = [[_told(*one) for one in record] for record in told]
    for record, verdict in zip(told, judge(records, {}), strict=True):
        merged = dict(held)
        agrees = all(merged.setdefault(name, value) == value for name, value in record)
        fresh = merged.keys() - held.keys() if agrees else set()
        assert {one.name for one in verdict.fresh} == fresh
        assert verdict.status == ("conflict" if not agrees else "new" if fresh else "duplicate")
        held = merged if agrees else held


CENTS = st.integers(0, 10**9).map(lambda cents: Decimal(cents) / 100)


@given(CENTS, CENTS, st.integers(1, 1_000))
def test_arithmetic_is_exact(a: Decimal, b: Decimal, whole: int) -> None:
    cells = {"A": str(a), "b c": str(b), "n": str(whole)}
    assert Arithmetic("A * n + 'b c'").value(cells.__getitem__) == a * whole + b
    assert Arithmetic("-(A - 'b c') / 4").value(cells.__getitem__) == (b - a) / 4
    assert Arithmetic("(A + 0.1) - 0.1").value(cells.__getitem__) == a


@given(st.floats(0, 10**9, allow_subnormal=False).filter(lambda one: one == 0 or one > 1e-3))
def test_noise_of_binary_fractions_is_rounded_where_that_is_asked(amount: float) -> None:
    assert abs(minor(repr(amount), 2, "ROUND_HALF_UP") - Decimal(repr(amount)) * 100) <= Decimal("0.5")


@given(st.text(max_size=30))
def test_any_text_is_arithmetic_or_refused(text: str) -> None:
    try:
        found = Arithmetic(text)
    except ValueError:
        return
    try:
        assert isinstance(found.value(lambda _: "2"), Decimal)
    except RowRefused:
        return
