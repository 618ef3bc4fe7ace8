"""Duplicates: the same event, outcome or request in any spelling, also as the first build stored it."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import redis
from conftest import Opened
from support.players import adult_events, leased, tell

from features.events import EVENT
from features.store.deployment import House
from features.store.keys import PlayerKeys
from pipelines.imports import bulk

PLAYER, DEVICE = "resent-1", "resent-device"
AT = (datetime.now(UTC) - timedelta(hours=1)).replace(microsecond=0)
EAST, WEST = timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(hours=3))
PLACE = "1583107200000-0"
LOGIN = {"event_id": "e1", "player_id": PLAYER, "occurred_at": AT.isoformat(), "type": "login"}
TEXT = '{{"event_id":"e1","player_id":"resent-1","occurred_at":"{at}","brand":"main","type":"login","location":null}}'
"""What the first build took the digest of, for that event."""


def spellings(event: dict[str, Any]) -> list[str]:
    """Bodies that mean the same event."""
    at = datetime.fromisoformat(event["occurred_at"])
    spelt = [one.isoformat() for one in (at, at.astimezone(EAST), at.astimezone(WEST))]
    spelt += [at.strftime("%Y-%m-%dT%H:%M:%SZ"), at.strftime("%Y-%m-%dT%H:%M:%S.000+00:00")]
    bodies = [json.dumps(event | {"occurred_at": one}) for one in spelt]
    return [*bodies, json.dumps(dict(reversed(event.items()))), json.dumps(event | {"brand": "main"}, indent=2)]


def remember(store: redis.Redis, player: str, name: str, text: str) -> None:
    """Remember a content under an id as the first build did."""
    store.set(PlayerKeys(player).seen(name), hashlib.blake2b(text.encode(), digest_size=8).digest() + PLACE.encode())


async def post(client: Any, body: str, route: str = "/v1/events") -> tuple[int, dict[str, Any]]:
    answer = await client.post(route, content=body, headers={"content-type": "application/json"})
    return answer.status_code, answer.json()


async def known(client: Any, bodies: list[str], route: str = "/v1/events") -> set[str]:
    """Positions that bodies are answered with, each of which was told before."""
    answers = [await post(client, body, route) for body in bodies]
    assert {status for status, _ in answers} == {200}, answers
    assert all(answer["duplicate"] for _, answer in answers)
    return {answer["position"] for _, answer in answers}


@pytest.mark.usefixtures("store")
async def test_an_event_is_known_again_in_every_spelling_and_another_under_its_id_is_refused(opened: Opened) -> None:
    async with opened() as client:
        _, first = await post(client, json.dumps(LOGIN))
        assert not first["duplicate"]
        assert await known(client, spellings(LOGIN)) == {first["position"]}
        later = (AT + timedelta(microseconds=1)).isoformat()
        for change in ({"location": "GB"}, {"occurred_at": later}, {"type": "session_ended"}):
            status, refused = await post(client, json.dumps(LOGIN | change))
            assert (status, refused["code"]) == (409, "event_id_reused")


@pytest.mark.parametrize("zone", [UTC, EAST, WEST], ids=["utc", "east", "west"])
async def test_an_event_that_the_first_build_remembered_is_known_again_in_every_spelling(
    opened: Opened, store: redis.Redis, house: House, zone: timezone
) -> None:
    text = TEXT.format(at=AT.astimezone(zone).isoformat().replace("+00:00", "Z"))
    remember(store, house.player_key(PLAYER), "e1", text)
    position = f"{house.player_key(PLAYER)[1:5]}:{PLACE}"
    async with opened() as client:
        assert await known(client, spellings(LOGIN)) == {position}
        for change in ({"location": "GB"}, {"occurred_at": (AT + timedelta(seconds=1)).isoformat()}):
            status, refused = await post(client, json.dumps(LOGIN | change))
            assert (status, refused["code"]) == (409, "event_id_reused")


async def test_a_break_that_the_first_build_remembered_is_known_though_clocks_changed_before_it_ends(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    """It began by winter time and ends by summer time; both are retold in UTC."""
    winter, summer = timezone(timedelta(hours=1)), timezone(timedelta(hours=2))
    until = AT + timedelta(days=90)
    told = (AT.astimezone(winter).isoformat(), until.astimezone(summer).isoformat())
    head = f'{{"event_id":"e1","player_id":"{PLAYER}","occurred_at":"{told[0]}","brand":"main",'
    remember(store, house.player_key(PLAYER), "e1", f'{head}"type":"time_out","until":"{told[1]}"}}')
    event = LOGIN | {"type": "time_out", "until": until.isoformat()}
    async with opened() as client:
        bodies = [event, event | {"occurred_at": told[0], "until": told[1]}]
        await known(client, [json.dumps(body) for body in bodies])
        status, _ = await post(client, json.dumps(event | {"until": (until + timedelta(days=1)).isoformat()}))
        assert status == 409


async def test_a_household_that_the_first_build_remembered_is_joined_once(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    at = AT.astimezone(EAST).isoformat()
    text = f'{{"event_id":"e1","player_id":"{PLAYER}","occurred_at":"{at}","brand":"main","type":"household_changed"'
    remember(store, house.player_key(PLAYER), "e1", f'{text},"household_id":"home-1"}}')
    event = LOGIN | {"type": "household_changed", "household_id": "home-1"}
    async with opened() as client:
        await known(client, spellings(event))
        status, _ = await post(client, json.dumps(event | {"household_id": "home-2"}))
        assert status == 409


async def test_an_event_that_the_first_build_remembered_of_a_linked_id_is_known_again(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    at = AT.astimezone(WEST).isoformat()
    linked = house.player_key(DEVICE)
    remember(store, house.player_key(PLAYER), f"{linked} e1", TEXT.replace(PLAYER, DEVICE).format(at=at))
    async with opened() as client:
        alias = LOGIN | {"event_id": "e0", "type": "alias", "previous_id": DEVICE}
        await tell(client, [alias])
        await known(client, spellings(LOGIN | {"player_id": DEVICE}))


@pytest.mark.usefixtures("worker")
async def test_an_outcome_is_known_again_in_every_spelling_and_as_the_first_build_remembered_it(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with opened() as client:
        position = await tell(client, adult_events(PLAYER))
        (contact,) = await leased(client, PLAYER, 1, due=True, after=position, channels=["email", "in_app"])
        confirmed = await client.post(f"/v1/decisions/{contact['decision_id']}/confirm")
        assert confirmed.status_code == 200, confirmed.text
        name, at = contact["decision_id"], datetime.now(UTC).replace(microsecond=0)
        outcome = {"outcome_id": "o1", "decision_id": name, "type": "opened", "occurred_at": at.isoformat()}
        bodies = [
            json.dumps(outcome | {"occurred_at": one})
            for one in (outcome["occurred_at"], at.astimezone(EAST).isoformat(), at.timestamp())
        ]
        assert not (await post(client, bodies[0], "/v1/outcomes"))[1]["duplicate"]
        await known(client, bodies, "/v1/outcomes")
        text = f'{{"outcome_id":"o1","decision_id":"{name}","type":"opened","occurred_at":"'
        for zone in (UTC, EAST, WEST):
            spelt = at.astimezone(zone).isoformat().replace("+00:00", "Z")
            remember(store, house.player_key(PLAYER), "outcome/o1", f'{text}{spelt}"}}')
            await known(client, bodies, "/v1/outcomes")
            status, _ = await post(client, json.dumps(outcome | {"type": "clicked"}), "/v1/outcomes")
            assert status == 409


async def test_a_request_is_known_again_in_every_spelling_and_another_under_its_id_is_refused(opened: Opened) -> None:
    body = {"player_id": PLAYER, "request_id": "r1", "channels": ["email"]}
    async with opened() as client:
        first = (await post(client, json.dumps(body), "/v1/decisions"))[1]
        for again in (
            body,
            dict(reversed(body.items())),
            body | {"brand": "main", "offers": None, "explain": False},
            body | {"deadline_ms": 20_000},
        ):
            status, answer = await post(client, json.dumps(again), "/v1/decisions")
            assert (status, answer["decision_id"]) == (200, first["decision_id"])
        assert (await post(client, json.dumps(body | {"channels": ["sms"]}), "/v1/decisions"))[0] == 409


def test_an_import_knows_what_the_first_build_remembered(store: redis.Redis, house: House) -> None:
    remember(store, house.player_key(PLAYER), "e1", TEXT.format(at=AT.astimezone(EAST).isoformat()))
    items = bulk.Items(store, house)
    events = [EVENT.validate_json(body) for body in (*spellings(LOGIN), json.dumps(LOGIN | {"location": "GB"}))]
    done = bulk.append(store, house, [items.event(event) for event in events])
    assert done.statuses == ["duplicate"] * (len(events) - 1) + ["conflict"]
