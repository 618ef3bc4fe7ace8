"""Bodies over HTTP: what is wrong with them, at once and in words; many events, gzipped ones, and long past ones."""

import asyncio
import gzip
import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import httpx
import pytest
import redis
from conftest import Opened, Stored
from support.callers import PLAYER
from support.keys import bearer, grant
from support.players import adult_events, event, leased, tell

from features.store.deployment import House
from features.store.keys import PlayerKeys, history_key
from pipelines.imports.history import take_in
from service.api.bounds import BOUNDS
from service.api.events import EVENTS_MOST
from service.events import history

NOW: Final = datetime.now(UTC)
BASE: Final = {"event_id": "e-1", "player_id": "p-1", "occurred_at": NOW.isoformat()}
DEPOSIT: Final = {**BASE, "type": "deposit", "status": "approved", "method": "card", "amount_minor": 1_000}
OUTCOME: Final = {"outcome_id": "o-1", "decision_id": f"000-{'a' * 24}", "type": "sent", "occurred_at": NOW.isoformat()}
PLAIN: Final = "ck_plain_" + "0123456789abcdef" * 3
"""A key of who may tell events, and no history."""


class Wrong(NamedTuple):
    """A body that somebody new to the API may send, and what the answer must say."""

    path: str
    body: Any
    status: int
    code: str
    words: dict[str, str]
    meant: Mapping[str, str] = MappingProxyType({})

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


MOMENT: Final = 'of ISO 8601 with its zone, such as "2026-03-02T12:00:00Z"'
TWENTY: Final = (
    Wrong("/v1/events", b"", 400, "invalid_json", {"": "the body is empty: send a JSON object"}),
    Wrong(
        "/v1/events",
        b'{\n  "type": "login",\n  "event_id": "e-1",\n}',
        400,
        "invalid_json",
        {"": "line 4, column 1: a comma stands before a closing bracket"},
    ),
    Wrong(
        "/v1/decisions", b"{'player_id': 'p-1'}", 400, "invalid_json", {"": "names of fields stand in double quotes"}
    ),
    Wrong("/v1/events", [DEPOSIT], 422, "invalid_body", {"": "the body is a list; expected: an object in braces"}),
    Wrong("/v1/events", BASE, 422, "unknown_type", {"/type": "type is missing: say what happened, one of registered"}),
    Wrong(
        "/v1/events",
        {**BASE, "type": "signup"},
        422,
        "unknown_type",
        {"/type": "'signup' is no type of event: did you mean registered?"},
        {"/type": "registered"},
    ),
    Wrong(
        "/v1/events",
        {"id": "1", "user_id": "p-1", "timestamp": NOW.isoformat(), "type": "bet", "amount": 15.5, "product": "slots"},
        422,
        "invalid_body",
        {
            "/event_id": "event_id is missing; expected: an id of yours",
            "/player_id": "player_id is missing",
            "/occurred_at": "occurred_at is missing",
            "/amount_minor": "amount_minor is missing; expected: an amount as a whole number of minor units",
            "/product": "product: 'slots' is not known here: did you mean casino?",
            "/id": "id is no field here: did you mean event_id?",
        },
        {"/id": "event_id", "/user_id": "player_id", "/timestamp": "occurred_at", "/amount": "amount_minor"},
    ),
    Wrong(
        "/v1/events",
        {**DEPOSIT, "amount_minor": 15.5, "status": "success", "method": ""},
        422,
        "invalid_body",
        {
            "/amount_minor": "15.5 is no whole number; expected: an amount as a whole number of minor units: 1550 for",
            "/status": "'success' is not known here: did you mean approved?",
            "/method": "method is empty",
        },
    ),
    Wrong(
        "/v1/events",
        {**DEPOSIT, "occurred_at": "2026-03-02 12:00"},
        422,
        "invalid_body",
        {"/occurred_at": "names no time zone: add Z for UTC, or an offset such as +01:00"},
    ),
    Wrong(
        "/v1/events",
        {**DEPOSIT, "occurred_at": 1_772_452_800, "birth_date": "1990-05-17"},
        422,
        "invalid_body",
        {
            "/occurred_at": f"occurred_at is a number; expected: the moment at which it happened, {MOMENT}",
            "/birth_date": "birth_date is no field here: it belongs to the events registered and kyc_verified",
        },
    ),
    Wrong(
        "/v1/events",
        {**BASE, "type": "registered", "jurisdiction": "Malta", "birth_date": "17.05.1990", "reopened": "no"},
        422,
        "invalid_body",
        {
            "/jurisdiction": "'Malta' is no country in ISO 3166: did you mean MT?",
            "/birth_date": 'is no date that can be read; expected: a date of ISO 8601, year first, such as "1990-05-',
            "/reopened": "reopened is a text; expected: true or false, without quotes",
        },
    ),
    Wrong(
        "/v1/events",
        {**DEPOSIT, "occurred_at": (NOW + timedelta(hours=1)).isoformat()},
        422,
        "event_in_future",
        {"/occurred_at": "lies in the future of the house's clock"},
    ),
    Wrong(
        "/v1/events",
        {**DEPOSIT, "occurred_at": "2024-03-02T12:00:00Z"},
        422,
        "event_too_old",
        {"/occurred_at": "send it with a key that allows `history` beside `events`"},
    ),
    Wrong("/v1/events/batch", [DEPOSIT], 422, "invalid_body", {"": 'an object in braces, such as {"events":[{"'}),
    Wrong(
        "/v1/events/batch", {"event": []}, 422, "invalid_body", {"/events": "events is missing", "/event": "events?"}
    ),
    Wrong(
        "/v1/decisions",
        {"player": "p-1", "channel": "email", "contxt": {}},
        422,
        "invalid_body",
        {
            "/player_id": "player_id is missing",
            "/channel": "did you mean channels?",
            "/contxt": "did you mean context?",
        },
    ),
    Wrong(
        "/v1/decisions",
        {"player_id": "player 1", "channels": ["fax", "mail"], "context": {"mood": "up"}, "deadline_ms": 0},
        422,
        "invalid_body",
        {
            "/player_id": "1 to 64 printable ASCII characters without blanks and braces",
            "/channels/0": "channels[0]: 'fax' is not known here; expected: one of email, sms, push, in_app, call",
            "/channels/1": "channels[1]: 'mail' is not known here: did you mean email?",
            "/context/mood": "context.mood is no field here; fields here are product, page, device, locale",
            "/deadline_ms": "deadline_ms lies below 1; expected: a whole number from 1 to 30000",
        },
    ),
    Wrong(
        "/v1/decisions",
        {"player_id": "p-1", "offers": "free_bet", "explain": "perhaps", "after": "the last one"},
        422,
        "invalid_body",
        {
            "/offers": "offers is a text; expected: a list of offers' ids, or nothing for all of them, such as [\"f",
            "/explain": "expected: true or false",
            "/after": "expected: the `position` of an event's answer, unchanged",
        },
    ),
    Wrong(
        "/v1/outcomes",
        {**OUTCOME, "decision_id": "visit-1", "type": "bounced"},
        422,
        "invalid_body",
        {
            "/decision_id": "expected: the `decision_id` of a decision's answer, unchanged",
            "/type": "'bounced' is not known here: did you mean failed?",
        },
    ),
    Wrong(
        "/v1/outcomes",
        {"outcome_id": "o-1", "type": "clicked", "occurred_at": NOW.isoformat(), "player_id": "p-1", "channel": "sms"},
        422,
        "invalid_body",
        {"": "player_id and channel are for complained and unsubscribed; name the decision_id"},
    ),
    Wrong("/v1/outcomes", OUTCOME, 404, "unknown_decision", {"/decision_id": "no decision of this id is kept"}),
)


def faults(problem: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The faults of a problem by their place; of one that is about a single place, the problem itself."""
    return {one["pointer"]: one for one in problem.get("errors", [{"pointer": problem.get("pointer", ""), **problem}])}


def told_of(wrong: Wrong, problem: dict[str, Any]) -> str:
    """A body and its answer, for who reads them."""
    said = [f"  {one['pointer'] or '(body)'}: {one['detail']}" for one in problem.get("errors", [])]
    answer = f"  {problem['status']} {problem['code']}: {problem['detail']}"
    return "\n".join([f"POST {wrong.path} {wrong.content.decode()}", answer, *said])


async def test_twenty_wrong_bodies_say_what_to_do(opened: Opened, store: redis.Redis) -> None:
    """With `-rP` they are printed, each with what somebody new is told."""
    grant(store, PLAIN, "events", "decide", "outcomes")
    async with opened() as client:
        for wrong in TWENTY:
            headers = {"content-type": "application/json", **bearer(PLAIN)}
            answer = await client.post(wrong.path, content=wrong.content, headers=headers)
            problem = answer.json()
            sys.stdout.write(f"{told_of(wrong, problem)}\n")
            assert (answer.status_code, problem["code"]) == (wrong.status, wrong.code), problem
            found = faults(problem)
            for pointer, words in wrong.words.items():
                assert words in found[pointer]["detail"], (words, found[pointer])
            for pointer, word in wrong.meant.items():
                assert found[pointer]["did_you_mean"] == word
            for told in ("Input should", "String should", "Field required", "Extra inputs", "pydantic", "^["):
                assert told not in answer.text


async def test_every_fault_of_a_body_has_a_place_and_the_first_is_told_as_before(opened: Opened) -> None:
    async with opened() as client:
        body = {"player_id": "a b", "channels": ["fax"], "mood": 1}
        problem = (await client.post("/v1/decisions", json=body)).json()
        assert [one["pointer"] for one in problem["errors"]] == ["/player_id", "/channels/0", "/mood"]
        assert problem["pointer"] == "/player_id"
        assert problem["detail"].startswith(problem["errors"][0]["detail"])
        many = {"player_id": "p", **{f"field-{number}": 1 for number in range(1_000)}}
        assert len((await client.post("/v1/decisions", json=many)).json()["errors"]) == 50


# --- Many at once


async def test_each_event_of_a_batch_is_answered_as_if_it_came_alone(opened: Opened) -> None:
    events = [
        event("p1", "login"),
        7,
        None,
        [],
        {"type": "cry"},
        event("p2", "self_excluded", scope="alll"),
        event("p1", "login", event_id="old") | {"occurred_at": "2099-01-01T00:00:00Z"},
        event("p1", "login"),
    ]
    events[-1] = events[0]
    async with opened() as client:
        answer = await client.post("/v1/events/batch", json={"events": events})
        assert answer.status_code == 200
        first, *wrong, unknown, excluded, ahead, again = answer.json()["answers"]
        assert (first["duplicate"], again["duplicate"]) == (False, True)
        assert first["position"] == again["position"]
        assert {one["code"] for one in wrong} == {"invalid_body"}
        assert (unknown["code"], ahead["code"]) == ("unknown_type", "event_in_future")
        assert "'alll'" in excluded["warnings"][0]
        decided = (await client.post("/v1/decisions", json={"player_id": "p2"})).json()
        assert "self_excluded" in [one["rule"] for one in decided["exclusions"]]
        sent_again = (await client.post("/v1/events/batch", json={"events": events})).json()["answers"]
        assert [one.get("duplicate") for one in sent_again] == [True, *[None] * 4, True, None, True]
        assert (await client.post("/v1/events/batch", json={"events": []})).json() == {"answers": []}
        many = await client.post("/v1/events/batch", json={"events": [0] * (EVENTS_MOST + 1)})
        assert faults(many.json())["/events"]["detail"].startswith("events has too many entries: at most 500 are taken")


async def test_a_non_object_spoils_only_itself_in_a_batch_of_decisions_too(opened: Opened) -> None:
    async with opened() as client:
        body = {"requests": [{"player_id": "p1"}, None, 5, ["x"], "p2", {"player_id": "p3"}]}
        answers = (await client.post("/v1/decisions/batch", json=body)).json()["answers"]
        assert [one.get("player_id") for one in answers] == ["p1", None, None, None, None, "p3"]
        assert (
            answers[1]["detail"]
            == 'the body is null; expected: an object in braces, such as {"player_id":"player-123"}'
        )
        assert {one["missing"][0]["event"] for one in (answers[0], answers[5])} == {"registered"}


@pytest.mark.parametrize("broken", [rb"\ud83d", b"\xdcberweisung"], ids=["half a pair of UTF-16", "Latin-1"])
async def test_what_is_no_text_spoils_only_itself_and_keeps_no_exclusion_out(opened: Opened, broken: bytes) -> None:
    deposit = event("p1", "deposit", status="approved", method="BROKEN", amount_minor=1)
    tagged = event("p1", "support_contact", tags=["BROKEN", "harm"])
    told = {"events": [deposit, event("p1", "self_excluded"), tagged, event("p1", "login")]}
    async with opened() as client:

        async def sent(path: str, body: object) -> httpx.Response:
            content = json.dumps(body).encode().replace(b"BROKEN", broken)
            return await client.post(path, content=content, headers={"content-type": "application/json"})

        refused, excluded, harmed, login = (await sent("/v1/events/batch", told)).json()["answers"]
        assert refused["errors"][0]["detail"].startswith("method holds what is no text; expected: a text of one line")
        assert (excluded["duplicate"], login["duplicate"]) == (False, False)
        assert harmed["warnings"][0].startswith("tags: ")
        assert (await sent("/v1/events", deposit)).json()["code"] == "invalid_json"
        decided = (await client.post("/v1/decisions", json={"player_id": "p1"})).json()
        assert {"self_excluded", "harm"} <= {one["rule"] for one in decided["exclusions"]}
        asked = {"requests": [{"player_id": "p1", "context": {"page": "BROKEN"}}, {"player_id": "p2"}]}
        answers = (await sent("/v1/decisions/batch", asked)).json()["answers"]
        assert answers[0]["code"] == "invalid_body"
        assert answers[1]["player_id"] == "p2"
        bare = await client.post(
            "/v1/events/batch", content=b'{"events": [\xff]}', headers={"content-type": "application/json"}
        )
        assert bare.json()["code"] == "invalid_json"


@pytest.mark.parametrize(("path", "name"), [("/v1/events/batch", "events"), ("/v1/decisions/batch", "requests")])
async def test_others_have_their_turn_while_a_batch_is_told_what_is_wrong(opened: Opened, path: str, name: str) -> None:
    turns, done = 0, False

    async def others() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    async with opened() as client:
        waiting = asyncio.create_task(others())
        answers = (await client.post(path, json={name: [{"type": "consent_chang"}] * 300})).json()["answers"]
        done = True
        await waiting
    assert all("detail" in one for one in answers)
    assert turns >= 300


async def test_no_rate_keeps_out_what_restricts_though_it_comes_among_others(
    opened: Opened, store: redis.Redis
) -> None:
    key = "ck_slow_" + "0123456789abcdef" * 3
    grant(store, key, "events", rate=5)
    async with opened() as client:
        many = [event("p1", "login", event_id=f"e{number}") for number in range(20)]
        headers = bearer(key)
        assert (await client.post("/v1/events/batch", json={"events": many}, headers=headers)).status_code == 200
        limited = await client.post("/v1/events/batch", json={"events": many}, headers=headers)
        assert (limited.status_code, limited.json()["code"]) == (429, "rate_limited")
        mixed = {"events": [*many[:2], event("p1", "self_excluded")]}
        answers = (await client.post("/v1/events/batch", json=mixed, headers=headers)).json()["answers"]
        assert [one.get("code") for one in answers] == ["rate_limited", "rate_limited", None]


# --- Gzip


async def packed(client: httpx.AsyncClient, path: str, content: bytes, encoding: str = "gzip") -> httpx.Response:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    return await client.post(path, content=content, headers=headers)


async def test_any_body_may_be_gzipped_within_a_bound(opened: Opened) -> None:
    told = event("p1", "login")
    async with opened() as client:
        plain = await client.post("/v1/events", json=told)
        zipped = gzip.compress(json.dumps(told).encode())
        for body in (zipped, gzip.compress(b"") + zipped + gzip.compress(b" ")):
            again = await packed(client, "/v1/events", body, "GZIP")
            assert again.json() == plain.json() | {"duplicate": True}
        asked = gzip.compress(b'{"player_id": "p1"}')
        assert (await packed(client, "/v1/decisions", asked)).json()["action"] == "NO_CONTACT"
        many = {"events": [event(f"p{number}", "login") for number in range(EVENTS_MOST)]}
        body = gzip.compress(json.dumps(many).encode())
        assert len(body) < 20_000
        answers = (await packed(client, "/v1/events/batch", body)).json()["answers"]
        assert [one["duplicate"] for one in answers] == [False] * EVENTS_MOST
        for wrong in (b"{}", zipped[:-9], b"", zipped + b"x"):
            refused = await packed(client, "/v1/events", wrong)
            assert (refused.status_code, refused.json()["code"]) == (400, "invalid_gzip"), wrong


async def test_a_bomb_is_refused_before_it_is_unpacked(opened: Opened) -> None:
    bomb = gzip.compress(bytes(200 << 20), 9)
    assert len(bomb) < BOUNDS.body_bytes
    async with opened() as client:
        begun = time.process_time()
        refused = await packed(client, "/v1/events", bomb)
        assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
        assert time.process_time() - begun < 0.2, "200 MB take as long to be unpacked"


# --- Implausible outcomes


async def outcome(client: httpx.AsyncClient, decision: dict[str, Any], type_: str, **more: Any) -> httpx.Response:
    body = {"outcome_id": f"{type_}-1", "decision_id": decision["decision_id"], "type": type_}
    return await client.post("/v1/outcomes", json={**body, "occurred_at": datetime.now(UTC).isoformat(), **more})


@pytest.mark.usefixtures("worker")
async def test_what_cannot_have_become_of_a_contact_is_refused_and_says_what_to_do(opened: Opened) -> None:
    async with opened() as client:
        position = await tell(client, adult_events(PLAYER))
        first, second = await leased(client, PLAYER, 2, due=True, after=position, channels=["email", "in_app"])
        for type_ in ("sent", "delivered", "opened", "clicked"):
            refused = await outcome(client, first, type_)
            assert (refused.status_code, refused.json()["code"]) == (422, "implausible_outcome")
            assert "ask POST /v1/decisions/{decision_id}/confirm just before sending" in refused.json()["detail"]
        early = await outcome(client, first, "cancelled", occurred_at=(NOW - timedelta(days=1)).isoformat())
        assert (early.json()["code"], early.json()["pointer"]) == ("implausible_outcome", "/occurred_at")
        confirmed = await client.post(f"/v1/decisions/{first['decision_id']}/confirm")
        assert confirmed.status_code == 200, confirmed.text
        before = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
        assert (await outcome(client, first, "clicked", occurred_at=before)).json()["code"] == "implausible_outcome"
        sent = {"occurred_at": datetime.now(UTC).isoformat()}
        assert (await outcome(client, first, "sent", **sent)).status_code == 200
        assert (await outcome(client, first, "failed")).status_code == 200
        # It is known again whatever became of the contact since; what is new of it is not plausible any more.
        assert (await outcome(client, first, "sent", **sent)).json()["duplicate"]
        late = await outcome(client, first, "delivered")
        assert (late.status_code, late.json()["code"]) == (422, "implausible_outcome")
        assert "failed or cancelled" in late.json()["detail"]
        assert (await outcome(client, second, "cancelled")).status_code == 200


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("type_", ["unsubscribed", "complained"])
async def test_a_withdrawal_holds_whatever_else_is_implausible_and_is_not_counted_against_the_decision(
    opened: Opened, store: redis.Redis, house: House, type_: str
) -> None:
    async with opened() as client:
        await tell(client, adult_events(PLAYER))
        (first,) = await leased(client, PLAYER, 1, channels=["email"])
        at = {"occurred_at": (datetime.now(UTC) - timedelta(minutes=9)).isoformat()}
        answer = await outcome(client, first, type_, **at)
        assert answer.status_code == 200
        assert "the withdrawal holds, and is not counted against the decision" in answer.json()["warnings"][0]
        assert (await outcome(client, first, type_, **at)).json()["duplicate"]
        decided = (await client.post("/v1/decisions", json={"player_id": PLAYER, "channels": ["email"]})).json()
        assert "consent" in [one["rule"] for one in decided["exclusions"]]
        keys = PlayerKeys(house.player_key(PLAYER))
        entries: Any = store.xrange(keys.log)
        logged = [fields[b"b"] for _, fields in entries if fields[b"k"] == b"outcome"]
        assert len(logged) == 1
        assert first["decision_id"].encode() not in logged[0]


# --- What is missing


async def lacking(client: httpx.AsyncClient, **more: Any) -> list[dict[str, Any]]:
    answer = (await client.post("/v1/decisions", json={"player_id": PLAYER, **more})).json()
    assert answer["action"] == "NO_CONTACT"
    missing: list[dict[str, Any]] = answer["missing"]
    return missing


def events_of(missing: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    return [(one["event"], one["fields"]) for one in missing]


@pytest.mark.usefixtures("worker")
async def test_what_must_be_told_is_told_until_the_player_may_be_contacted(opened: Opened) -> None:
    """Nothing but the answers leads from a player whom nobody knows to a first contact."""
    values: dict[str, Any] = {"jurisdiction": "MT", "time_zone": "Europe/Malta", "birth_date": "1980-05-17"}
    values |= {"channel": "in_app", "granted": True}
    told: list[str] = []
    async with opened() as client:
        for number in range(8):
            answer = (await client.post("/v1/decisions", json={"player_id": PLAYER, "channels": ["in_app"]})).json()
            if answer["action"] != "NO_CONTACT" or not answer["missing"]:
                break
            for one in answer["missing"]:
                fields = {name: values[name] for name in one["fields"]} | one.get("values", {})
                await tell(client, [event(PLAYER, one["event"], event_id=f"{one['event']}-{number}", **fields)])
                told.append(one["event"])
        assert answer["action"] != "NO_CONTACT" or answer["missing"] == []
        assert told == ["registered", "kyc_verified", "consent_changed"]
        found = await client.get(f"/v1/players/{PLAYER}")
        assert {one["channel"] for one in found.json()["allowed"]} == {"in_app"}


@pytest.mark.usefixtures("worker")
async def test_only_what_would_help_is_missing(opened: Opened) -> None:
    async with opened() as client:
        registered, verified, *rest = adult_events(PLAYER)
        await tell(client, [registered, *rest])
        assert events_of(await lacking(client)) == [("kyc_verified", ["birth_date"])]
        retried = [await lacking(client, request_id="r1") for _ in range(2)]
        assert retried[0] == retried[1] != []
        await tell(client, [verified])
        withdrawn = event(PLAYER, "consent_changed", channel="sms", granted=False)
        await tell(client, [withdrawn])
        (asked,) = await lacking(client, channels=["sms"])
        assert (asked["event"], asked["fields"][:2]) == ("consent_changed", ["channel", "granted"])
        assert "no standing consent for the channel" in asked["why"]
        assert await lacking(client, offers=["free_bet"], channels=["call"], purpose="regulatory") == []
        await tell(client, [event(PLAYER, "self_excluded")])
        assert await lacking(client, channels=["sms"]) == [], "nothing that is told would help"
        answer = (await client.post("/v1/decisions/batch", json={"requests": [{"player_id": PLAYER}]})).json()
        assert answer["answers"][0]["missing"] == []


async def test_a_register_that_must_be_asked_is_named(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, adult_events(PLAYER, jurisdiction="GB", time_zone="Europe/London"))
        missing = await lacking(client)
        assert [one.get("values") for one in missing] == [{"register_name": "gamstop"}]
        assert missing[0]["fields"] == ["register_name", "listed"]
        listed = event(PLAYER, "register_checked", register_name="gamstop", listed=True)
        await tell(client, [listed])
        assert await lacking(client) == []


# --- Deferrals, churn, ids


@pytest.mark.usefixtures("worker")
async def test_nothing_is_put_off_on_a_channel_without_consent(opened: Opened) -> None:
    async with opened() as client:
        agreed = [one for one in adult_events(PLAYER) if one.get("channel") not in {"call", "sms"}]
        await tell(client, agreed)
        answer = (
            await client.post("/v1/decisions", json={"player_id": PLAYER, "explain": True, "dry_run": True})
        ).json()
        promised = {channel for one in answer["deferrals"] for channel in one["channels"]}
        assert promised <= {"email", "push", "in_app"}
        assert not {one["rule"] for one in answer["deferrals"]} & {"quiet_sms", "quiet_call"}
        shown = (await client.get(f"/v1/players/{PLAYER}")).json()
        assert not {one["rule"] for one in shown["put_off"]} & {"quiet_sms", "quiet_call"}


async def test_ids_that_a_spreadsheet_changed_are_warned_of(opened: Opened) -> None:
    async with opened() as client:
        answer = await client.post("/v1/events", json=event("1.23457E+12", "login", event_id="e1"))
        (warning,) = answer.json()["warnings"]
        assert warning == "player_id looks as if a spreadsheet had changed it, such as 1.23457E+12"


# --- Waiting


async def test_after_says_that_it_was_not_reached_within_the_deadline(opened: Opened) -> None:
    async with opened() as client:
        position = await tell(client, adult_events(PLAYER))  # no worker runs
        begun = time.monotonic()
        body = {"player_id": PLAYER, "after": position, "deadline_ms": 400}
        answer = await client.post("/v1/decisions", json=body)
        took = time.monotonic() - begun
        assert answer.status_code in {200, 503}
        assert answer.json()["after_reached"] is False
        assert 0.3 < took < 0.5


# --- History


async def test_history_is_staged_for_who_may_tell_it(opened: Opened, store: redis.Redis, house: House) -> None:
    old = event(PLAYER, "login", event_id="old-1") | {"occurred_at": "2024-03-02T12:00:00Z"}
    grant(store, PLAIN, "events")
    async with opened() as client:
        refused = await client.post("/v1/events", json=old, headers=bearer(PLAIN))
        assert (refused.status_code, refused.json()["code"]) == (422, "event_too_old")
        taken = (await client.post("/v1/events", json=old)).json()
        assert taken["staged"] is True
        batch = {"events": [old, event(PLAYER, "login")]}
        staged, new = (await client.post("/v1/events/batch", json=batch)).json()["answers"]
        assert (staged["staged"], new.get("staged")) == (True, None)
    keys = PlayerKeys(house.player_key(PLAYER))
    entries: Any = store.xrange(history_key(keys.partition))
    assert len(entries) == 2
    assert b"login" not in b"".join(entries[0][1].values()), "it is sealed"
    assert history.waits(store)


@pytest.mark.usefixtures("worker")
async def test_history_is_taken_in_once_and_what_became_of_an_erased_player_is_not(
    opened: Opened, server: Stored, store: redis.Redis, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    at = {"occurred_at": "2024-03-02T12:00:00Z"}
    deposit = {"status": "approved", "method": "card", "amount_minor": 100}
    told = [event(f"p{n}", "deposit", event_id=f"d{n % 2}", **deposit) | at for n in range(40)]
    async with opened() as client:
        for _ in range(2):
            answers = (await client.post("/v1/events/batch", json={"events": [*told, *told[:5]]})).json()["answers"]
            assert [one["staged"] for one in answers] == [True] * 45
        other = told[0] | {"amount_minor": 200}
        assert (await client.post("/v1/events", json=other)).json()["staged"]
        await tell(client, [event("gone", "login")])
        await client.post("/v1/events", json=event("gone", "login", event_id="old") | at)
        await client.post("/v1/erasures", json={"player_id": "gone", "reason": "asked by letter"})
        done = await asyncio.to_thread(take_in, lake.parent)
        assert (done.records, done.accepted, done.duplicates) == (91, 40, 50)
        assert (done.conflicts, done.rejected, done.erased) == (1, 0, 1)
        assert done.rejects is not None
        header, refused = await asyncio.to_thread(lambda: Path(str(done.rejects)).read_text("utf8").splitlines())
        assert header == "row,line,reason,event_id"
        assert refused.endswith(",d0"), "nothing of the player"
        assert not history.waits(store)
        assert not list(store.scan_iter("history:*"))
        again = (await client.post("/v1/events/batch", json={"events": told})).json()["answers"]
        assert all(one["staged"] for one in again)
        assert (await asyncio.to_thread(take_in, lake.parent)).duplicates == 40
        assert (await asyncio.to_thread(take_in, lake.parent)).records == 0
        player = (await client.get("/v1/players/p1")).json()
        assert player["features"]["values"]["deposit_count"]["value"] == 1


async def test_who_tells_more_history_than_waits_is_asked_to_wait(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "STAGED_MOST", 2)
    old = [event(PLAYER, "login", event_id=f"e{n}") | {"occurred_at": "2024-03-02T12:00:00Z"} for n in range(3)]
    async with opened() as client:
        *staged, full = (await client.post("/v1/events/batch", json={"events": old})).json()["answers"]
        assert [one["staged"] for one in staged] == [True, True]
        assert (full["status"], full["code"]) == (503, "history_full")
        alone = await client.post("/v1/events", json=old[2])
        assert (alone.status_code, alone.headers["retry-after"]) == (503, "1")
