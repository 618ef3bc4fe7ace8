"""Events of players as callers describe them, and contacts that wait for their confirm."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson

from features.events import EVENT, Event
from features.schema import CHANNELS

JOINED = timedelta(days=20)


def adult_events(player_id: str, now: datetime | None = None, **changes: Any) -> list[dict[str, Any]]:
    """What makes a player of whom everything is known and nothing forbids contact."""
    at = (now or datetime.now(UTC)) - JOINED

    def numbered(number: int, **fields: Any) -> dict[str, Any]:
        moment = (at + timedelta(minutes=number)).isoformat()
        return {"event_id": f"{player_id}-{number}", "player_id": player_id, "occurred_at": moment, **fields}

    registered = {"jurisdiction": "MT", "time_zone": "Europe/Malta", "birth_date": "1980-05-17"} | changes
    return [
        numbered(0, type="registered", **registered),
        numbered(1, type="kyc_verified"),
        *(numbered(2 + n, type="consent_changed", channel=channel, granted=True) for n, channel in enumerate(CHANNELS)),
        numbered(8, type="deposit", status="approved", method="card", amount_minor=5_000),
        numbered(9, type="deposit", status="approved", method="card", amount_minor=5_000),
    ]


def where_it_is_nine() -> str:
    """A time zone in which it is between nine and ten in the morning, so that a contact is due now."""
    ahead = 9 - datetime.now(UTC).hour
    return f"Etc/GMT{-(ahead + (24 if ahead < -12 else 0)):+d}"


def event(player_id: str, type_: str, **more: Any) -> dict[str, Any]:
    """An event of a moment ago."""
    at = datetime.now(UTC) - timedelta(seconds=1)
    fields = {"event_id": f"{player_id}-{type_}-{at.timestamp()}", "player_id": player_id, "type": type_}
    return {**fields, "occurred_at": at.isoformat(), **more}


def typed(events: list[dict[str, Any]]) -> list[Event]:
    return [EVENT.validate_json(orjson.dumps(event)) for event in events]


async def tell(client: httpx.AsyncClient, events: list[dict[str, Any]]) -> str:
    """Send events one by one; the position of the last."""
    position = ""
    for event in events:
        answer = await client.post("/v1/events", json=event)
        assert answer.status_code == 200, answer.text
        position = answer.json()["position"]
    return position


async def leased(client: Any, player: str, count: int = 2, *, due: bool = False, **more: Any) -> list[dict[str, Any]]:
    """Contacts that were decided and wait for their confirm; `due` ones can be confirmed now."""
    found: list[dict[str, Any]] = []
    for _ in range(200):
        if len(found) == count:
            return found
        answer = (await client.post("/v1/decisions", json={"player_id": player, **more})).json()
        if answer["action"] == "NO_CONTACT":
            continue
        if due and datetime.fromisoformat(answer["action"]["send_at"]) > datetime.now(UTC) + timedelta(seconds=5):
            cancelled = {"outcome_id": answer["decision_id"], "decision_id": answer["decision_id"], "type": "cancelled"}
            await client.post("/v1/outcomes", json=cancelled | {"occurred_at": datetime.now(UTC).isoformat()})
            continue
        found.append(answer)
    raise AssertionError("too few contacts were drawn")
