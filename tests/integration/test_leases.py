"""Leases: an event that forbids contact revokes the open leases in the same call."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis
from conftest import Opened
from support.callers import asked, states, variant_of
from support.players import adult_events, event, leased, tell
from support.workers import last_flush

from pipelines.worker.process import Worker
from service.players import facts
from service.players.facts import Assertion


async def confirm(client: Any, decision: dict[str, Any]) -> Any:
    return await client.post(f"/v1/decisions/{decision['decision_id']}/confirm", json={})


def soon() -> str:
    return (datetime.now(UTC) + timedelta(days=1)).isoformat()


FORBIDDING: dict[str, dict[str, Any]] = {
    "self_excluded": {},
    "time_out": {"until": soon()},
    "closure_requested": {},
    "account_closed": {},
    "objection_changed": {"objects": True},
    "register_checked": {"register_name": "rofus", "listed": True},
    "harm_scored": {"source": "mindway", "level": "strong"},
    "harm_reviewed": {"level": "strong"},
    "support_contact": {"tags": ["harm"]},
}


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("type_", FORBIDDING)
async def test_what_forbids_contact_takes_every_open_lease_back_at_once(opened: Opened, type_: str) -> None:
    """Two leases wait, one contact was confirmed: when the event is acknowledged both are gone, the third stands."""
    async with opened() as client:
        position = await tell(client, adult_events("p1"))
        (sent,) = await leased(client, "p1", 1, due=True, after=position, channels=["email", "in_app"])
        waiting = await leased(client, "p1", 1, channels=["email", "in_app"])
        assert (await confirm(client, sent)).status_code == 200
        await tell(client, [event("p1", type_, **FORBIDDING[type_])])
        held = await states(client, "p1")
        assert held[sent["decision_id"]] == "confirmed"
        assert {held[one["decision_id"]] for one in waiting} == {"revoked"}
        for one in waiting:
            refused = await confirm(client, one)
            assert refused.status_code == 409
            assert refused.json()["code"] == "revoked"


@pytest.mark.usefixtures("worker")
async def test_a_break_for_ever_is_taken_and_answered(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, [*adult_events("p1"), event("p1", "time_out", until="9999-12-31T23:59:59.999999Z")])
        assert (await asked(client, "p1"))["action"] == "NO_CONTACT"
        told = (await client.get("/v1/players/p1")).json()
        assert "2200-01-01" in str([one for one in told["facts"] if one["fact"].startswith("time_out")])


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("type_", "more"),
    [
        ("login", {}),
        ("support_contact", {"tags": ["resolved"]}),
        ("harm_scored", {"source": "mindway", "level": "moderate"}),
        ("register_checked", {"register_name": "rofus", "listed": False}),
        ("objection_changed", {"objects": False}),
        ("limit_set", {"limit": "deposit", "change": "raised"}),
        ("consent_changed", {"channel": "sms", "granted": True}),
    ],
)
async def test_what_forbids_nothing_leaves_leases_alone(opened: Opened, type_: str, more: dict[str, Any]) -> None:
    async with opened() as client:
        position = await tell(client, adult_events("p1"))
        waiting = await leased(client, "p1", 1, after=position)
        await tell(client, [event("p1", type_, **more)])
        assert (await states(client, "p1"))[waiting[0]["decision_id"]] == "reserved"


@pytest.mark.usefixtures("worker")
async def test_consent_withdrawn_takes_back_what_its_channel_holds_and_gives_the_room_to_others(opened: Opened) -> None:
    async with opened() as client:
        position = await tell(client, adult_events("p1"))
        (mail,) = await leased(client, "p1", 1, after=position, channels=["email"])
        (shown,) = await leased(client, "p1", 1, channels=["in_app"])
        full = (await client.post("/v1/decisions", json={"player_id": "p1", "explain": True})).json()
        assert "cap:player_day" in {one["rule"] for one in full["exclusions"]}
        await tell(client, [event("p1", "consent_changed", channel="email", granted=False)])
        held = await states(client, "p1")
        assert held[mail["decision_id"]] == "revoked"
        assert held[shown["decision_id"]] == "reserved"
        await leased(client, "p1", 1, channels=["in_app"])
        await tell(client, [event("p1", "consent_changed", channel="email", granted=True)])
        again = await confirm(client, mail)
        assert again.status_code == 409
        assert again.json()["code"] == "revoked"
        assert "took the lease back" in again.json()["detail"]


@pytest.mark.usefixtures("worker")
async def test_a_service_message_is_never_taken_back(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, adult_events("p1"))
        (notice,) = await leased(client, "p1", 1, purpose="service")
        await tell(client, [event("p1", "self_excluded")])
        assert (await states(client, "p1"))[notice["decision_id"]] == "reserved"
        assert (await confirm(client, notice)).json().get("code", "too_early") == "too_early"


@pytest.mark.usefixtures("worker")
async def test_what_is_told_late_and_no_longer_holds_takes_nothing_back(opened: Opened) -> None:
    """An exclusion of last month that ended since: it was told after its end, and changes no fact."""
    async with opened() as client:
        now = datetime.now(UTC)
        ended = event("p1", "exclusion_ended") | {"occurred_at": (now - timedelta(days=25)).isoformat()}
        position = await tell(client, [*adult_events("p1"), ended])
        (waiting,) = await leased(client, "p1", 1, due=True, after=position)
        late = event("p1", "self_excluded") | {"occurred_at": (now - timedelta(days=30)).isoformat()}
        await tell(client, [late])
        assert (await states(client, "p1"))[waiting["decision_id"]] == "reserved"
        assert (await confirm(client, waiting)).status_code == 200


@pytest.mark.usefixtures("worker")
async def test_strong_signs_in_play_take_leases_back_too(opened: Opened) -> None:
    async with opened() as client:
        position = await tell(client, adult_events("p1"))
        (waiting,) = await leased(client, "p1", 1, due=True, after=position)
        signs = [
            *(event("p1", "limit_set", limit="deposit", change="raised") for _ in range(2)),
            *(event("p1", "deposit", status="declined", method="card", amount_minor=1) for _ in range(4)),
            *(event("p1", "withdrawal_cancelled", amount_minor=1) for _ in range(3)),
            *(event("p1", "support_contact") for _ in range(4)),
            *(event("p1", "bet", amount_minor=90_000, product=product) for product in ("casino", "sports", "bingo")),
            event("p1", "bet", amount_minor=900_000, product="poker"),
        ]
        position = await tell(client, [one | {"event_id": f"s{n}"} for n, one in enumerate(signs)])
        found = (await client.post("/v1/decisions", json={"player_id": "p1", "after": position})).json()
        if found["harm_level"] == "strong":
            assert (await states(client, "p1"))[waiting["decision_id"]] == "revoked"
        assert found["harm_level"] == "strong", found


async def test_the_lake_tells_of_each_lease_that_was_taken_back_once(
    opened: Opened, worker: Worker, store: redis.Redis, lake: Path
) -> None:
    async with opened() as client:
        position = await tell(client, adult_events("p1"))
        waiting = [one["decision_id"] for one in await leased(client, "p1", 2, after=position)]
        excluded = event("p1", "self_excluded")
        await tell(client, [excluded, excluded, event("p1", "account_closed")])
    last_flush(worker, store, lake)
    rows = [row for row in pq.read_table(lake / "outcomes").to_pylist() if row["type"] == "revoked"]
    taken = Counter(row["decision_id"] for row in rows)
    assert taken == dict.fromkeys(waiting, 1)
    assert {row["channel"] for row in rows} <= {"email", "sms", "push", "in_app", "call"}


@pytest.mark.usefixtures("worker")
async def test_while_an_exclusion_is_acknowledged_no_confirm_succeeds_after_it(opened: Opened) -> None:
    """Confirms of many players race with their exclusions: each was confirmed before the acknowledgement or never."""
    async with opened() as client:
        names = [name for name in (f"race-{number}" for number in range(30)) if variant_of(name) != "holdout"]
        position = ""
        for name in names:
            position = await tell(client, adult_events(name))
        assert position
        for name in names:
            (waiting,) = await leased(client, name, 1, due=True, channels=["email", "in_app"])
            racing = asyncio.gather(*(confirm(client, waiting) for _ in range(4)))
            await tell(client, [event(name, "self_excluded")])
            after = await asyncio.gather(*(confirm(client, waiting) for _ in range(4)))
            await racing
            assert {one.status_code for one in after} == {409}
            assert (await states(client, name))[waiting["decision_id"]] in {"confirmed", "revoked"}


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ([], ""),
        ([("consent:main:sms", "withdrawn")], "sms"),
        ([("consent:main:sms:casino", "withdrawn basis=express")], "sms"),
        ([("consent:main:sms", "withdrawn"), ("consent:main:email", "withdrawn")], "*"),
        ([("consent:main:sms", "granted")], ""),
        ([("exclusion:*", "on")], "*"),
        ([("exclusion:main", "ended")], ""),
        ([("consent:main:sms", "withdrawn"), ("account", "closed")], "*"),
        ([("harm:own:moderate", "moderate")], ""),
        ([("harm:own:strong", "strong")], "*"),
    ],
)
def test_facts_say_which_channel_they_forbid(told: list[tuple[str, str]], wanted: str) -> None:
    assert facts.forbids([Assertion(field, 1, 0, text) for field, text in told]) == wanted
