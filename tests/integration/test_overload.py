"""More is asked than can be done: what is answered is whole, what is not is told at once, and nothing is in the way of
what restricts contact."""

import asyncio
from typing import Any

import pytest
from conftest import Opened, app_of
from support.callers import asked
from support.players import adult_events, event, tell

from service.api.admission import Admission
from service.errors import OverloadedError

pytestmark = pytest.mark.usefixtures("worker")

ASKED = 300


def slow(places: int) -> Admission:
    """An admission of a process that has been slow: an answer every 200 ms."""
    made = Admission(places=places)
    made._pace = 0.2
    return made


async def test_what_is_too_much_is_shed_with_503_and_the_rest_is_recorded(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, adult_events("p1"))
        app_of(client).state.deps.admission = slow(places=4)
        body = {"player_id": "p1", "deadline_ms": 30_000}
        answers = await asyncio.gather(*(client.post("/v1/decisions", json=body) for _ in range(ASKED)))
        shed = [one for one in answers if one.status_code == 503]
        assert 0 < len(shed) < ASKED
        for one in shed:
            assert (one.json()["code"], one.headers["retry-after"].isdigit()) == ("overloaded", True)
        assert all(one.json()["recorded"] for one in answers if one.status_code == 200)
        assert {one.status_code for one in answers} == {200, 503}
        scraped = (await client.get("/metrics")).text
        assert f'code="overloaded"}} {float(len(shed))}' in scraped


async def test_exclusions_confirms_and_what_is_told_get_in_while_decisions_are_shed(opened: Opened) -> None:
    async with opened() as client:
        names = [f"p{number}" for number in range(5)]
        await tell(client, [one for name in names for one in adult_events(name)])
        found = [await asked(client, name, channels=["in_app", "email"]) for name in names]
        app_of(client).state.deps.admission = slow(places=2)
        flood = [client.post("/v1/decisions", json={"player_id": "p9", "deadline_ms": 5_000}) for _ in range(ASKED)]
        out = [client.post("/v1/events", json=event("p9", "self_excluded", scope="all"))]
        told = [client.post("/v1/events", json=event(name, "login")) for name in names]
        leases = [one["decision_id"] for one in found if one["action"] != "NO_CONTACT"]
        confirms = [client.post(f"/v1/decisions/{one}/confirm") for one in leases]
        answers = await asyncio.gather(*flood, *out, *told, *confirms)
        first, rest = answers[:ASKED], answers[ASKED:]
        assert any(one.status_code == 503 for one in first)
        assert not [one.text for one in rest if one.status_code == 503]


async def test_a_batch_is_paced_and_singles_go_before_its_items(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, adult_events("p1"))
        order: list[str] = []

        async def ask(name: str, path: str, body: dict[str, Any]) -> Any:
            answer = await client.post(path, json=body)
            order.append(name)
            return answer.json()

        many = ask("batch", "/v1/decisions/batch", {"requests": [{"player_id": "p1", "dry_run": True}] * 200})
        singles = [
            ask("single", "/v1/decisions", {"player_id": "p1", "deadline_ms": 30_000, "dry_run": True})
            for _ in range(20)
        ]
        batch, *_ = await asyncio.gather(many, *singles)
        assert order[-1] == "batch"
        assert len(batch["answers"]) == 200
        assert all("decision_id" in one for one in batch["answers"])


def test_who_is_shed_is_told_when_to_ask_again() -> None:
    assert OverloadedError(0.2).headers() == {"retry-after": "1"}
    assert OverloadedError(3.4).headers() == {"retry-after": "4"}
