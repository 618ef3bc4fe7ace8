"""Bets, chargebacks and money in other currencies over HTTP and by import: once, late, in any order."""

import asyncio
import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copytree
from typing import Any, Final

import duckdb
import pytest
import yaml
from conftest import Opened
from support.callers import asked, facts_of, post
from support.event_fields import MINIMAL, OPTIONAL
from support.players import event, tell

from pipelines.imports import importer
from pipelines.imports.history import take_in
from service.settings import Settings

SERVICE = Path(__file__).parents[2] / "service"
MONEY: Final = {"amount_minor": 2_000, "product": "sports"}
LATER: Final = ["bet_cancelled", "bet_settled", "chargeback", "limit_reached", "kyc_requested", "satisfaction_rated"]


@pytest.fixture
def rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of two currencies, one of them by day."""
    today = datetime.now(UTC).date()
    folder = Path(copytree(SERVICE / "rulebook", tmp_path / "rulebook"))
    said = yaml.safe_load((folder / "settings.yaml").read_text("utf8"))
    said["exchange"] = {"SEK": 0.1, "GBP": {today - timedelta(days=20): 1.5, today - timedelta(days=3): 2.0}}
    (folder / "settings.yaml").write_text(yaml.safe_dump(said), "utf8")
    monkeypatch.setenv("CROUPIER_RULES", str(folder))


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat()


async def values(client: Any, player: str, position: str) -> dict[str, float]:
    """Features of a player once they include a position."""
    await asked(client, player, after=position, dry_run=True)
    told = (await client.get(f"/v1/players/{player}")).json()
    return {name: one["value"] for name, one in told["features"]["values"].items()}


@pytest.mark.usefixtures("rates", "worker")
@pytest.mark.parametrize("kind", [*LATER, "login", "support_contact", "bet"])
async def test_each_type_is_taken_once_and_late_ones_as_well(opened: Opened, kind: str) -> None:
    whole = {**MINIMAL[kind], **OPTIONAL.get(kind, {})}
    told = event("p", kind, **whole) | {"occurred_at": ago(days=2)}
    told |= {name: ago(days=5) for name in ("placed_at", "deposited_at") if name in told}
    async with opened() as client:
        first, again = [await post(client, "/v1/events", told) for _ in range(2)]
        assert (first["duplicate"], again["duplicate"]) == (False, True)
        assert first["position"] == again["position"]
        other = await client.post("/v1/events", json=told | {"brand": "main", "occurred_at": ago(days=1)})
        assert (other.status_code, other.json()["code"]) == (409, "event_id_reused")
        late = {**told, "event_id": "late", "occurred_at": ago(days=34), "placed_at": None, "deposited_at": None}
        late = {name: value for name, value in late.items() if value is not None}
        late |= {name: "another" for name in ("bet_id", "deposit_id") if name in late}
        if kind != "chargeback":  # this one's day has no rate
            late["currency"] = "SEK" if "currency" in late else None
        late = {name: value for name, value in late.items() if value is not None}
        assert (await post(client, "/v1/events", late))["duplicate"] is False
        old = await post(client, "/v1/events", late | {"event_id": "old", "occurred_at": ago(days=36)})
        # The import takes in what is too old, but for what restricts contact, which is never.
        assert old.get("staged", False) is (kind != "support_contact")


@pytest.mark.usefixtures("rates", "worker")
async def test_every_type_is_taken_in_bulk_and_gzipped_and_once(opened: Opened) -> None:
    kinds = [*LATER, "login", "support_contact", "bet"]
    told = [event("p", kind, event_id=kind, **{**MINIMAL[kind], **OPTIONAL.get(kind, {})}) for kind in kinds]
    told = [{**one, "occurred_at": ago(hours=1)} for one in told]
    told = [{name: value for name, value in one.items() if name not in {"placed_at", "deposited_at"}} for one in told]
    told = [{**one, "bet_id": one["type"]} if "bet_id" in one else one for one in told]
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    async with opened() as client:
        for again in (False, True):
            body = gzip.compress(json.dumps({"events": told[:: -1 if again else 1]}).encode())
            answer = await client.post("/v1/events/batch", content=body, headers=headers)
            assert [one.get("duplicate") for one in answer.json()["answers"]] == [again] * len(kinds), answer.text


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("order", [1, -1])
async def test_a_bet_is_cancelled_once_in_whichever_order(opened: Opened, order: int) -> None:
    placed = ago(days=1)
    bet = event("p", "bet", bet_id="b", **MONEY) | {"occurred_at": placed}
    back = event("p", "bet_cancelled", bet_id="b", placed_at=placed, **MONEY)
    async with opened() as client:
        await tell(client, [bet, back][::order])
        again = await client.post("/v1/events", json=back | {"event_id": "by-another-name"})
        assert (again.status_code, again.json()["code"]) == (409, "event_id_reused")
        position = await tell(client, [event("p", "session_started")])
        found = await values(client, "p", position)
        weeks = found["net_loss_final_week_0"], found["net_loss_final_week_1"]
        assert weeks == (0, 0)
        assert abs(found["net_loss_final_30d"]) < 1e-6
        assert found["bet_count_30d"] > 0.9


@pytest.mark.usefixtures("worker")
async def test_a_settled_bet_pays_as_a_win_does_and_a_cancelled_one_may_have_its_event_id(opened: Opened) -> None:
    async with opened() as client:
        paid = {"p": event("p", "bet_settled", bet_id="b", **MONEY), "q": event("q", "win", **MONEY)}
        one, other = [await values(client, player, await tell(client, [told])) for player, told in paid.items()]
        assert one["net_loss_final_7d"] == pytest.approx(other["net_loss_final_7d"], rel=1e-4)
        assert one["net_loss_final_7d"] < -1_900
        await tell(client, [event("r", "bet", bet_id="x", **MONEY) | {"event_id": "x"}])
        await tell(client, [event("r", "bet_cancelled", bet_id="x", **MONEY) | {"event_id": "x"}])
        # Nor does an event take the place of what happens once to a bet, whatever its id.
        named = {"event_id": "bet_settled:y"}
        await tell(client, [event("r", "login") | named, event("r", "bet_settled", bet_id="y", **MONEY)])


@pytest.mark.usefixtures("worker")
async def test_a_chargeback_and_limits_that_are_reached_are_signs_of_harm(opened: Opened) -> None:
    async with opened() as client:
        told = [event("p", "chargeback", amount_minor=500, deposit_id="d") | {"occurred_at": ago(hours=1)}]
        told += [event("p", "limit_reached", limit="loss") | {"event_id": f"l{n}"} for n in range(3)]
        position = await tell(client, told)
        await values(client, "p", position)
        told_of = (await client.get("/v1/players/p")).json()["harm"]
        assert {one["marker"] for one in told_of["speaking"]} == {"chargebacks", "limits_reached"}
        failed = event("q", "login", result="failed", location="GB")
        position = await tell(client, [failed])
        found = await values(client, "q", position)
        assert (found["login_count_30d"], found["active_days_30d"]) == (0, 0)
        assert found["login_failed_7d"] > 0.9
        assert "location" not in await facts_of(client, "q")
        await tell(client, [event("q", "support_contact", tags=["complaint"], solved=True, by="person")])
        assert (await facts_of(client, "q"))["complaint"] == "resolved"


@pytest.mark.usefixtures("rates", "worker")
async def test_money_of_other_currencies_is_exchanged_once_by_its_day(
    opened: Opened, where: Settings, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROUPIER_STORE", where.store)
    pounds = {"status": "approved", "method": "Überweisung?", "amount_minor": 1_001, "currency": "GBP"}
    told = [
        event("p", "deposit", **pounds) | {"event_id": "new", "occurred_at": ago(days=1)},
        event("p", "deposit", **pounds) | {"event_id": "older", "occurred_at": ago(days=10)},
        event("p", "deposit", **(pounds | {"currency": "sek"})) | {"event_id": "crowns"},
        event("p", "deposit", **(pounds | {"currency": "EUR"})) | {"event_id": "euros"},
    ]
    async with opened() as client:
        await tell(client, told)
        for currency, at, why in (("USD", ago(days=1), "EUR, GBP, SEK"), ("GBP", ago(days=30), "from")):
            answer = await client.post("/v1/events", json=told[0] | {"currency": currency, "occurred_at": at})
            assert (answer.status_code, answer.json()["pointer"]) == (422, "/currency")
            assert why in answer.json()["detail"]
        raised = event("p", "limit_set", limit="loss", change="raised", amount_minor=5, currency="USD")
        assert "the amount is left out" in (await post(client, "/v1/events", raised))["warnings"][0]
        historic = told[2] | {"event_id": "historic", "occurred_at": ago(days=400)}
        assert (await post(client, "/v1/events", historic))["staged"]
        taken = await asyncio.to_thread(take_in, lake.parent)
        assert (taken.accepted, taken.rejected) == (1, 0)
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in told), "utf8")
    done = importer.run(lake.parent, file, progress=False)
    assert (done.accepted, done.duplicates) == (0, 4)
    rows = duckdb.execute(
        f"SELECT event_id, amount_minor, said_minor, currency, rate FROM read_parquet('{lake}/events/*/*.parquet') "
        "WHERE type = 'deposit' ORDER BY event_id"
    ).fetchall()
    assert rows == [
        ("crowns", 100, 1_001, "SEK", 0.1),
        ("euros", 1_001, None, None, None),
        ("historic", 100, 1_001, "SEK", 0.1),
        ("new", 2_002, 1_001, "GBP", 2.0),
        ("older", 1_502, 1_001, "GBP", 1.5),
    ]
