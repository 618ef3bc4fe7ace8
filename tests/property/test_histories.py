"""Histories of events of every type in three currencies: stream, lake, batch and plain arithmetic say the same."""

import os
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any, Final

import ibis
import msgspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.event_fields import MINIMAL, OPTIONAL
from support.folding import folded

from features.aggregates import Activity, encode, forward
from features.batch import batch, read_activity
from features.events import EVENT, Event, micros
from features.exchange import Exchange
from features.schema import STORED, VECTOR, Kind
from features.words import Door
from pipelines.imports.known_events import CONTENT, content
from pipelines.worker.consumer import LogEntry, activity
from pipelines.worker.lake import SCHEMAS, table_row
from service.events.accept import entry

HISTORIES: Final = int(os.environ.get("CROUPIER_EXAMPLES", "60"))
RATES: Final[dict[str, Any]] = {
    "SEK": 0.0885,
    "GBP": {date(2020, 1, 1): 1.15, date(2026, 10, 28): 1.17, date(2026, 11, 9): 1.1249},
}
DOOR: Final = Door(exchange=Exchange("EUR", RATES, "book"))
NOW: Final = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
CUTS: Final = [micros(NOW - timedelta(days=days)) for days in (9, 3, 0)]
READ: Final = {one.name: at for at, one in enumerate(VECTOR)}
KINDS: Final = sorted(MINIMAL.keys() - {"identify", "alias", "household_changed"})
PAID: Final = {kind for kind, fields in OPTIONAL.items() if "currency" in fields}


def history(draw: random.Random, player: str) -> list[Event]:
    """Events of a player in the order in which they arrive: many bets, most of them settled or cancelled by name."""
    told = [body(draw, player, number) for number in range(draw.randint(5, 40))]
    undone = [later for number, one in enumerate(told) if (later := undoing(draw, one, f"u{number}"))]
    told += undone
    draw.shuffle(told)
    return [EVENT.validate_json(orjson.dumps(one), context=DOOR) for one in told]


def body(draw: random.Random, player: str, number: int) -> dict[str, Any]:
    kind = draw.choice(["bet", "bet", "bet", "deposit", "win", "login", *KINDS])
    at = NOW - timedelta(days=draw.choice([0, 1, 7, 30]), seconds=draw.randint(0, 6 * 86_400))
    said = {**MINIMAL[kind], **draw.choice([{}, OPTIONAL.get(kind, {})])}
    said = {name: value for name, value in said.items() if name not in {"currency", "placed_at", "deposited_at"}}
    if "amount_minor" in said:
        said["amount_minor"] = draw.randint(0, 100_000)
    if kind in PAID:
        said["currency"] = draw.choice([None, "EUR", "SEK", "gbp"])
    named = {name: f"{name}-{number}" for name in ("bet_id", "deposit_id") if name in said or kind == "bet" == name[:3]}
    if kind == "deposit":
        said["target"] = "account"
    told = {"event_id": f"e{number}", "player_id": player, "type": kind, "occurred_at": at.isoformat()}
    return {**said, **named, **told}


def undoing(draw: random.Random, one: dict[str, Any], name: str) -> dict[str, Any] | None:
    """What becomes of a bet or a deposit after it, None for nothing."""
    at = datetime.fromisoformat(one["occurred_at"]) + timedelta(seconds=draw.randint(0, 9 * 86_400))
    told: dict[str, Any] = {
        name: one[name] for name in ("player_id", "amount_minor", "currency", "product") if name in one
    }
    told |= {"event_id": name, "occurred_at": min(at, NOW).isoformat()}
    there = draw.random() < 0.8  # some callers do not say when it was
    match one["type"], draw.choice(["settled", "undone", "nothing"]):
        case "bet", "settled":
            return told | {"type": "bet_settled", "bet_id": one["event_id"], "amount_minor": draw.randint(0, 90_000)}
        case "bet", "undone":
            since = {"placed_at": one["occurred_at"]} if there else {}
            return told | {"type": "bet_cancelled", "bet_id": one["event_id"]} | since
        case "deposit", "undone":
            since = {"deposited_at": one["occurred_at"]} if there else {}
            return told | {"type": "chargeback", "deposit_id": one["event_id"]} | since
    return None


def log(player: str, events: list[Event]) -> list[LogEntry]:
    """The events as the log has them."""
    bodies = [entry(player, one).body for one in events]
    return [LogEntry(f"{n}-0", "event", micros(NOW), "Europe/Malta", one) for n, one in enumerate(bodies, 1)]


@pytest.fixture(scope="module")
def told() -> dict[str, list[Event]]:
    draw = random.Random(20261129)
    return {name: history(draw, name) for name in (f"p{number}" for number in range(HISTORIES))}


@pytest.fixture(scope="module")
def lake(told: dict[str, list[Event]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("lake")
    rows = [table_row(one)[1] for player, events in told.items() for one in log(player, events)]
    (folder / "events" / "day=2026-11-20").mkdir(parents=True)
    table = pa.Table.from_pylist(rows, SCHEMAS["events"])
    pq.write_table(table, folder / "events" / "day=2026-11-20" / "a.parquet")
    return folder


def streamed(player: str, events: list[Event], cut: int) -> list[Activity]:
    rows = [activity(msgspec.msgpack.decode(one.body), one.time_zone) for one in log(player, events)]
    return [row for row in rows if row.occurred_us <= cut]


def test_batch_and_stream_agree_on_every_type_and_currency(told: dict[str, list[Event]], lake: Path) -> None:
    connection, draw = ibis.duckdb.connect(), random.Random(1)
    found = connection.to_pyarrow(batch(read_activity(connection, lake), CUTS)).to_pylist()
    batched = {(row["player"], row["behaviour_as_of"]): [row[one.name] for one in STORED] for row in found}
    kinds = {one.type for events in told.values() for one in events}
    assert kinds == set(KINDS)
    decayed = np.array([one.name in {f.name for f in STORED if f.kind is Kind.DECAYED} for one in VECTOR])
    exact = np.array([one.name in {f.name for f in STORED} for one in VECTOR]) & ~decayed
    for player, events in told.items():
        for cut in CUTS:
            rows = streamed(player, events, cut)
            assert ((player, cut) in batched) == bool(rows)
            if rows:
                ours, theirs = (forward(encode(one), cut) for one in (batched[player, cut], folded(rows, draw)))
                np.testing.assert_array_equal(ours[exact], theirs[exact])
                np.testing.assert_allclose(ours[decayed], theirs[decayed], rtol=1e-9, atol=1e-6)
    connection.disconnect()


def house_minor(event: Any) -> int:
    """An amount in the currency of the house, by arithmetic of its own."""
    if event.amount_minor is None or event.currency is None:
        return int(event.amount_minor or 0)
    days = RATES[event.currency]
    if isinstance(days, dict):
        days = [rate for day, rate in sorted(days.items()) if day <= event.occurred_at.date()][-1]
    return int((Decimal(event.amount_minor) * Decimal(str(days))).quantize(Decimal(1), ROUND_HALF_EVEN))


def money(events: list[Event]) -> Iterator[tuple[str, datetime, int]]:
    """What each event brings to the net loss or to the net deposits, and the moment to which it belongs."""
    for one in events:
        match one.type:
            case "bet":
                yield "loss", one.occurred_at, house_minor(one)
            case "win" | "bet_settled":
                yield "loss", one.occurred_at, -house_minor(one)
            case "bet_cancelled":
                yield "loss", one.placed_at or one.occurred_at, -house_minor(one)
            case "deposit" if (one.status, one.target) == ("approved", "account"):
                yield "deposits", one.occurred_at, house_minor(one)
            case "withdrawal_paid":
                yield "deposits", one.occurred_at, -house_minor(one)
            case "chargeback":
                yield "deposits", one.deposited_at or one.occurred_at, -house_minor(one)
            case _:
                pass


def test_money_by_week_and_month_is_what_arithmetic_says(told: dict[str, list[Event]]) -> None:
    draw, monday = random.Random(2), datetime(2026, 11, 16, tzinfo=UTC)
    for player, events in told.items():
        vector = forward(encode(folded(streamed(player, events, CUTS[-1]), draw)), CUTS[-1])
        for week in range(4):
            begins = monday - timedelta(weeks=week)
            within = [
                minor
                for what, at, minor in money(events)
                if what == "loss" and begins <= at < begins + timedelta(weeks=1)
            ]
            assert vector[READ[f"net_loss_final_week_{week}"]] == sum(within)
        month = [minor for what, at, minor in money(events) if what == "deposits" and (at.year, at.month) == (2026, 11)]
        assert vector[READ["net_deposit_final_month_0"]] == sum(month)


def test_what_was_told_and_what_it_is_worth_stand_side_by_side_in_the_lake(
    told: dict[str, list[Event]], lake: Path
) -> None:
    rows = pq.read_table(next(lake.glob("events/*/*.parquet"))).to_pylist()
    events = {(player, one.event_id): one for player, events in told.items() for one in events}
    for row in rows:
        one: Any = events[row["player"], row["event_id"]]
        if getattr(one, "currency", None) is None:
            assert row["currency"] is row["said_minor"] is row["rate"] is None
        elif one.amount_minor is not None:
            assert (row["currency"], row["said_minor"], row["rate_source"]) == (one.currency, one.amount_minor, "book")
            assert row["amount_minor"] == house_minor(one)


def test_an_import_knows_each_event_of_the_lake_again(told: dict[str, list[Event]], lake: Path) -> None:
    connection = ibis.duckdb.connect().con
    connection.execute("SET TimeZone = 'UTC'")
    found = connection.execute(
        f"SELECT player, event_id, {CONTENT} FROM read_parquet('{lake}/events/*/*.parquet')"
    ).fetchall()
    there = {(player, name): text for player, name, text in found}
    assert there == {(player, one.event_id): content(one) for player, events in told.items() for one in events}


def test_a_bet_that_was_cancelled_leaves_no_money_in_whichever_order_both_arrive() -> None:
    said = {"player_id": "p", "amount_minor": 12_345, "product": "casino", "currency": "SEK", "bet_id": "b"}
    placed, cancelled = NOW - timedelta(days=8), NOW - timedelta(hours=1)
    bet = said | {"type": "bet", "event_id": "1", "occurred_at": placed.isoformat()}
    back = said | {"type": "bet_cancelled", "event_id": "2", "occurred_at": cancelled.isoformat()}
    back["placed_at"] = placed.isoformat()
    events = [EVENT.validate_json(orjson.dumps(one), context=DOOR) for one in (bet, back)]
    for order in (events, events[::-1]):
        vector = forward(encode(folded(streamed("p", order, CUTS[-1]), random.Random(3))), CUTS[-1])
        assert abs(vector[READ["net_loss_final_7d"]]) < 1e-6
        assert vector[READ["net_loss_final_week_1"]] == vector[READ["net_loss_final_week_0"]] == 0
        assert vector[READ["bet_count_30d"]] > 0, "the bet was placed all the same"
