"""Who may ask what: every route with every scope, keys that end, rates, and people who sign in with a browser."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import orjson
import pytest
import redis
from conftest import Opened, app_of
from fastapi.routing import APIRoute
from support.keys import HEADERS, KEY, bearer, grant
from support.players import adult_events, tell

from features.store.keys import API_KEYS, API_KEYS_USED
from service.access.keyring import STALE_SECONDS, Keyring
from service.access.rates import WRONG_A_MINUTE
from service.access.scopes import SCOPES
from service.api.routing import Route

OPEN: Final = {"/", "/healthz", "/readyz", "/sign-in", "/sign-out", "/docs", "/redoc", "/openapi.json"}
"""Routes that ask for no key; beside them the scripts of the page at /docs."""
SIGNED: Final = {"/v1/callbacks/{connector}", "/v1/inbox/{token}", "/unsubscribe/{token}", "/c/{token}"}
"""Routes that ask for a provider's signature, or a token that only the house makes."""
FOREIGN: Final = "https://elsewhere.example"
HOUSE: Final = "http://localhost"
SECRET: Final = "0123456789abcdef" * 3


def key_of(name: str) -> str:
    return f"ck_{name}_{SECRET}"


def keyring(client: httpx.AsyncClient) -> Keyring:
    found: Keyring = app_of(client).state.deps.callers.keyring
    return found


async def granted(
    client: httpx.AsyncClient, store: redis.Redis, name: str, *scopes: str, **more: Any
) -> dict[str, str]:
    """Headers of a caller with some scopes, whom the process knows."""
    grant(store, key_of(name), *scopes, **more)
    await keyring(client).look()
    return bearer(key_of(name))


def event(player: str = "p1", kind: str = "login", **more: Any) -> dict[str, Any]:
    at = datetime.now(UTC).isoformat()
    return {"type": kind, "event_id": f"{kind}-{time.monotonic_ns()}", "player_id": player, "occurred_at": at, **more}


def requests_of(client: httpx.AsyncClient) -> dict[str, tuple[str, str, str]]:
    """Each operation that asks for a key: its scope, method, and a path that leads to it."""
    found = {}
    for route in app_of(client).routes:
        if isinstance(route, Route):
            (method,) = (route.methods or set()) - {"HEAD"}
            path = re.sub(r"{\w+(:path)?}", "some", route.path)
            found[f"{method} {route.path}"] = str(route.operation.scope), method, path
    return found


async def test_no_route_is_without_a_scope_but_those_that_are_open(opened: Opened) -> None:
    async with opened() as client:
        assert len(requests_of(client)) > 14
        for route in app_of(client).routes:
            path = getattr(route, "path", "")
            if isinstance(route, Route):
                assert route.operation.scope in SCOPES
            elif isinstance(route, APIRoute):
                assert path in OPEN | SIGNED or path.startswith("/docs/"), path
            else:
                assert path.startswith(("/docs", "/redoc", "/openapi.json", "/static-offline-docs")), path


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_key_opens_the_routes_of_its_scope_and_no_other(opened: Opened, store: redis.Redis, scope: str) -> None:
    async with opened() as client:
        headers = await granted(client, store, "only", scope)
        for name, (needed, method, path) in requests_of(client).items():
            answer = await client.request(method, path, headers=headers, content=b"{}")
            if scope == needed:
                assert answer.status_code not in {401, 403}, name
            else:
                assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope"), name
                challenge = f'Bearer realm="croupier", error="insufficient_scope", scope="{needed}"'
                assert answer.headers["www-authenticate"] == challenge


ODD: Final = (
    (None, False),
    ("", False),
    ("Basic dTpw", False),
    (KEY, False),
    ("Bearer", True),
    ("Bearer ", True),
    ("Bearer x", True),
    (f"Bearer {KEY}x", True),
    (f"Bearer {KEY} ", True),
    (f"Bearer {KEY},{KEY}", True),
    (f"Bearer {KEY.upper()}", True),
    ("Bearer ck_tests_", True),
    ("Bearer \xe9", True),
)


@pytest.mark.parametrize(("sent", "wrong"), ODD)
async def test_no_key_and_no_right_key_get_401_with_the_challenge_of_rfc_6750(
    opened: Opened, sent: str | None, *, wrong: bool
) -> None:
    async with opened() as client:
        del client.headers["authorization"]
        headers = [] if sent is None else [(b"authorization", sent.encode("latin-1"))]
        for _, method, path in requests_of(client).values():
            answer = await client.request(method, path, headers=headers, content=b"{}")
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorised")
            challenge = 'Bearer realm="croupier"' + (', error="invalid_token"' if wrong else "")
            assert answer.headers["www-authenticate"] == challenge


async def test_the_scheme_is_spelt_as_one_likes_and_two_keys_at_once_are_none(opened: Opened) -> None:
    async with opened() as client:
        del client.headers["authorization"]
        for scheme in ("bearer", "BEARER", "Bearer "):
            assert (await client.get("/v1/keys", headers={"authorization": f"{scheme} {KEY}"})).status_code == 200
        twice = [(b"authorization", f"Bearer {KEY}".encode())] * 2
        assert (await client.get("/v1/keys", headers=twice)).status_code == 401


# What of a house is open ------------------------------------------------------------------------------------------


async def test_readiness_is_open_and_its_detail_is_for_who_operates(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        operator = await granted(client, store, "operator", "operate")
        reader = await granted(client, store, "reader", "read")
        del client.headers["authorization"]
        for headers in ({}, reader, bearer("wrong")):
            assert (await client.get("/readyz", headers=headers)).json() == {"ready": True}
        assert {"store", "policy", "rulebook", "clock"} < (await client.get("/readyz", headers=operator)).json().keys()
        app_of(client).state.readiness.trouble = "the cellar is flooded"
        plain = await client.get("/readyz")
        assert (plain.status_code, plain.json()["code"]) == (503, "not_ready")
        assert "cellar" not in plain.text
        assert "cellar" in (await client.get("/readyz", headers=operator)).text
        assert (await client.get("/healthz")).json() == {"alive": True}


async def test_personal_fields_are_withheld_from_who_may_only_read_and_said_to_be(
    opened: Opened, store: redis.Redis
) -> None:
    async with opened() as client:
        await tell(client, [*adult_events("ada"), event("ada", "household_changed", household_id="home-1")])
        await tell(client, [event("ada", "alias", previous_id="old-ada")])
        made = (await client.post("/v1/decisions", json={"player_id": "ada", "context": {"page": "lobby"}})).json()
        reader = await granted(client, store, "reader", "read")
        both = await granted(client, store, "both", "read", "personal")
        for path in (f"/v1/decisions/{made['decision_id']}", "/v1/players/old-ada"):
            shown = (await client.get(path, headers=both)).json()
            kept = (await client.get(path, headers=reader)).json()
            assert "withheld" not in shown
            assert shown["player_id"] == "ada"
            assert kept.keys() - shown.keys() == {"withheld"}
            for hidden in ("1980-05-17", '"ada"', "lobby"):
                assert hidden not in str(kept).replace("'", '"')
        assert (kept["player_id"], kept["household"], kept["facts"], kept["inputs"]) == ("old-ada", None, [], {})
        assert kept["withheld"][:5] == ["player_id", "household", "facts", "inputs", "rules"]


async def test_who_may_only_read_is_not_told_where_a_player_lives(opened: Opened, store: redis.Redis) -> None:
    """Rules, offsets, exclusions and stops of a place are the same for players of two places, or are not told."""
    homes = {"ona": ("CA-ON", "America/Toronto"), "gia": ("IT", "Europe/Rome")}
    async with opened() as client:
        for place, _ in homes.values():
            done = await client.post("/v1/stops", json={"jurisdiction": place, "reason": "not now"})
            assert done.status_code == 200, done.text
        reader = await granted(client, store, "reader", "read")
        both = await granted(client, store, "both", "read", "personal")
        for player, (place, zone) in homes.items():
            await tell(client, adult_events(player))
            await tell(
                client, [event(player, "registered", birth_date="1980-05-17", jurisdiction=place, time_zone=zone)]
            )
            made = (await client.post("/v1/decisions", json={"player_id": player})).json()
            names = r"\b(CA[-_]ON\w*|ca@\d|IT\d\w*|it@\d|Toronto|Rome)"
            tells = re.compile(names + "|[+-]0[1-9]:00", re.IGNORECASE)
            for path in (f"/v1/decisions/{made['decision_id']}", f"/v1/players/{player}"):
                shown = (await client.get(path, headers=both)).json()
                kept = (await client.get(path, headers=reader)).json()
                assert tells.search(str(shown)), "a key for personal fields is told"
                assert not [str(kept)[max(0, one.start() - 80) :][:160] for one in tells.finditer(str(kept))]
                stop = next(one["id"] for one in shown["stops"] if one["scope"] == "jurisdiction")
                assert stop not in str(kept)
                assert {one["rule"] for one in shown.get("exclusions", shown.get("denied"))} > {
                    one["rule"] for one in kept.get("exclusions", kept.get("denied"))
                }


# Keys over HTTP ---------------------------------------------------------------------------------------------------


async def test_a_key_is_made_used_rotated_and_revoked(opened: Opened) -> None:
    async with opened() as client:
        wish = {"id": "crm1", "scopes": ["read", "decide"], "label": "CRM", "rate": 1_000}
        made = await client.post("/v1/keys", json=wish)
        assert made.headers["cache-control"] == "no-store"
        first = made.json()
        assert (first["scopes"], first["state"], first["by"]) == (["decide", "read"], "live", "key tests")
        again = await client.post("/v1/keys", json=wish)
        assert (again.status_code, again.json()["code"]) == (409, "key_id_reused")
        await keyring(client).look()
        assert (await client.get("/reports", headers=bearer(first["key"]))).status_code == 200
        second = (await client.post("/v1/keys/crm1/rotate", json={})).json()
        await keyring(client).look()
        for one in (first, second):
            assert (await client.get("/reports", headers=bearer(one["key"]))).status_code == 200
        third = await client.post("/v1/keys/crm1/rotate", json={})
        assert (third.status_code, third.json()["code"]) == (409, "rotation_unfinished")
        last = (await client.post("/v1/keys/crm1/rotate", json={"keep_seconds": 0})).json()
        await keyring(client).look()
        for one, status in ((first, 401), (second, 401), (last, 200)):
            assert (await client.get("/reports", headers=bearer(one["key"]))).status_code == status
        gone = (await client.delete("/v1/keys/crm1", params={"reason": "left"})).json()
        assert (gone["state"], gone["revoked"]["by"], gone["revoked"]["reason"]) == ("revoked", "key tests", "left")
        assert (await client.delete("/v1/keys/crm1", params={"reason": "again"})).json() == gone
        assert (await client.post("/v1/keys/crm1/rotate", json={})).json()["code"] == "key_revoked"
        listed = {one["id"]: one for one in (await client.get("/v1/keys")).json()["keys"]}
        assert listed["crm1"] == gone
        assert SECRET not in str(listed)


@pytest.mark.parametrize(
    "wish",
    [
        {"scopes": []},
        {"scopes": ["everything"]},
        {"scopes": ["read"], "rate": 0},
        {"scopes": ["read"], "expires_at": "2030-01-01T00:00:00"},
        {"scopes": ["read"], "id": "A"},
        {"scopes": ["read"], "key": "mine"},
    ],
)
async def test_an_odd_wish_for_a_key_is_refused(opened: Opened, wish: dict[str, Any]) -> None:
    async with opened() as client:
        answer = await client.post("/v1/keys", json=wish)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body")


async def test_a_key_is_revoked_for_a_reason_and_only_one_that_there_is(opened: Opened) -> None:
    async with opened() as client:
        assert (await client.delete("/v1/keys/tests")).json()["code"] == "invalid_body"
        for name in ("nobody", "UPPER", "x" * 99):
            answer = await client.delete(f"/v1/keys/{name}", params={"reason": "test"})
            assert (answer.status_code, answer.json()["code"]) == (404, "unknown_key")
        taken = await client.post("/v1/keys", json={"scopes": ["read"], "id": "environment"})
        assert taken.json()["code"] == "key_id_reused"


async def test_nobody_makes_or_rotates_a_key_that_allows_what_theirs_does_not(
    opened: Opened, store: redis.Redis
) -> None:
    async with opened() as client:
        headers = await granted(client, store, "boss", "admin", "read")
        assert (await client.post("/v1/keys", json={"scopes": ["read"]}, headers=headers)).status_code == 200
        for answer in (
            await client.post("/v1/keys", json={"scopes": ["read", "decide"]}, headers=headers),
            await client.post("/v1/keys/tests/rotate", json={}, headers=headers),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
        revoked = await client.delete("/v1/keys/tests", params={"reason": "test"}, headers=headers)
        assert revoked.status_code == 200, "to take away needs nothing else"


async def test_of_a_rotation_and_a_revocation_at_once_the_revocation_stands(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        for number in range(20):
            name = f"race{number}"
            grant(store, key_of(name), "read")
            await asyncio.gather(
                client.post(f"/v1/keys/{name}/rotate", json={}),
                client.delete(f"/v1/keys/{name}", params={"reason": "test"}),
                client.post(f"/v1/keys/{name}/rotate", json={"keep_seconds": 0}),
            )
            listed = {one["id"]: one for one in (await client.get("/v1/keys")).json()["keys"]}
            assert listed[name]["state"] == "revoked"


# Keys end ---------------------------------------------------------------------------------------------------------


async def test_a_revoked_key_is_refused_within_a_second(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        headers = await granted(client, store, "leaving", "read")
        assert (await client.get("/reports", headers=headers)).status_code == 200
        assert (await client.delete("/v1/keys/leaving", params={"reason": "test"})).status_code == 200
        acknowledged = time.monotonic()
        while (await client.get("/reports", headers=headers)).status_code == 200:
            asked = time.monotonic()
            assert asked - acknowledged < STALE_SECONDS, "a request that began a second later was answered"


async def test_a_body_that_is_sent_slowly_does_not_outlive_its_key(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        headers = await granted(client, store, "slowly", "events")

        async def slowly() -> AsyncIterator[bytes]:
            yield b" "
            assert (await client.delete("/v1/keys/slowly", params={"reason": "test"})).status_code == 200
            ends = time.monotonic() + STALE_SECONDS
            while time.monotonic() < ends:
                await asyncio.sleep(0.05)
                yield b" "
            yield orjson.dumps(event())

        sent = headers | {"content-type": "application/json"}
        answer = await client.post("/v1/events", content=slowly(), headers=sent)
        assert answer.status_code == 401


async def test_a_key_that_has_expired_is_refused_by_the_clock_of_the_store(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
        made = (await client.post("/v1/keys", json={"scopes": ["read"], "expires_at": soon})).json()
        await keyring(client).look()
        headers = bearer(made["key"])
        assert (await client.get("/reports", headers=headers)).status_code == 200
        ends = datetime.fromisoformat(made["expires_at"][0]).timestamp()
        while (await client.get("/reports", headers=headers)).status_code == 200:
            assert float(store.time()[0]) < ends + STALE_SECONDS  # type: ignore[index]
        while float(store.time()[0]) < ends:  # type: ignore[index]
            assert (await client.get("/reports", headers=headers)).status_code == 401, "a moment early, never late"
        listed = {one["id"]: one for one in (await client.get("/v1/keys")).json()["keys"]}
        assert (listed[made["id"]]["state"], listed[made["id"]]["expires_at"]) == ("expired", [])


async def test_a_process_whose_last_look_is_old_looks_before_it_answers(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        headers = await granted(client, store, "leaving", "read")
        ring = keyring(client)
        store.hdel(API_KEYS, "leaving")
        ring._seen = ring._seen._replace(begun=time.monotonic() - STALE_SECONDS)
        answers = await asyncio.gather(*(client.get("/reports", headers=headers) for _ in range(20)))
        assert {one.status_code for one in answers} == {401}


async def test_the_last_use_is_written_aside(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        headers = await granted(client, store, "used", "read")
        for _ in range(3):
            await client.get("/reports", headers=headers)
        while not store.hexists(API_KEYS_USED, "used"):  # noqa: ASYNC110 - the process writes it when it likes
            await asyncio.sleep(0.01)
        listed = {one["id"]: one for one in (await client.get("/v1/keys")).json()["keys"]}
        at = datetime.fromisoformat(listed["used"]["last_used_at"])
        assert abs((datetime.now(UTC) - at).total_seconds()) < 60


# Rates ------------------------------------------------------------------------------------------------------------


async def test_a_key_over_its_rate_gets_429_with_when_to_ask_again(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        headers = await granted(client, store, "slow", "decide", "events", "outcomes", "read", rate=1)
        keyring(client)  # a window of a second is open from the first request on
        statuses = []
        for _ in range(10):
            answer = await client.get("/reports", headers=headers)
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                assert answer.json()["code"] == "rate_limited"
                assert answer.headers["retry-after"] == "1"
        assert 429 in statuses
        assert (await client.get("/reports", headers=HEADERS)).status_code == 200, "others are not held up"


RESTRICTING: Final = [
    ("self_excluded", {}),
    ("time_out", {"until": "2099-01-01T00:00:00Z"}),
    ("account_closed", {}),
    ("consent_changed", {"channel": "email", "granted": False}),
]


@pytest.mark.parametrize(("kind", "fields"), RESTRICTING)
async def test_what_restricts_contact_is_never_held_up_by_a_rate(
    opened: Opened, store: redis.Redis, kind: str, fields: dict[str, Any]
) -> None:
    async with opened() as client:
        headers = await granted(client, store, "flood", "events", "outcomes", "decide", rate=1)
        rates = app_of(client).state.deps.callers.rates
        rates.wait("flood", 1, 1_000_000)
        assert (await client.post("/v1/events", json=event(), headers=headers)).status_code == 429
        for _ in range(20):
            told = await client.post("/v1/events", json=event("p1", kind, **fields), headers=headers)
            assert told.status_code == 200, told.text
        at = datetime.now(UTC).isoformat()
        mail = {"outcome_id": "o1", "player_id": "p1", "channel": "email", "occurred_at": at, "type": "unsubscribed"}
        assert (await client.post("/v1/outcomes", json=mail, headers=headers)).status_code == 200
        clicked = mail | {"decision_id": f"000-{'a' * 24}", "type": "clicked"}
        clicked = {name: clicked[name] for name in ("outcome_id", "decision_id", "type", "occurred_at")}
        assert (await client.post("/v1/outcomes", json=clicked, headers=headers)).status_code == 429


async def test_a_batch_counts_as_its_items(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        headers = await granted(client, store, "batch", "decide", rate=10)
        body = {"requests": [{"player_id": f"p{number}", "dry_run": True} for number in range(30)]}
        assert (await client.post("/v1/decisions/batch", json=body, headers=headers)).status_code == 200
        answer = await client.post("/v1/decisions", json={"player_id": "p", "dry_run": True}, headers=headers)
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 3


async def test_wrong_keys_are_told_to_wait_and_a_right_one_of_the_same_address_never_is(opened: Opened) -> None:
    async with opened() as client:
        statuses = [
            (await client.get("/reports", headers=bearer(f"wrong-{number}"))).status_code
            for number in range(WRONG_A_MINUTE + 5)
        ]
        assert statuses == [401] * WRONG_A_MINUTE + [429] * 5
        assert (await client.get("/reports", headers=bearer("wrong"))).headers["retry-after"]
        assert (await client.get("/reports")).status_code == 200


async def test_wrong_keys_are_logged_a_few_times_and_never_shown(
    opened: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened() as client:
        for number in range(100):
            await client.get("/reports", headers=bearer(f"MARKER-{number}"))
    said = "".join(capsys.readouterr())
    assert 1 <= said.count("wrong key") <= 40
    assert "MARKER" not in said


async def test_a_key_is_taken_by_whoever_has_it_from_the_moment_it_was_made(opened: Opened) -> None:
    async with opened() as client:
        for number in range(40):
            made = (await client.post("/v1/keys", json={"scopes": ["read"], "id": f"fresh{number}"})).json()["key"]
            assert (await client.get("/reports", headers=bearer(made))).status_code == 200
            turned = f"/v1/keys/fresh{number}/rotate"
            made = (await client.post(turned, json={"keep_seconds": 0})).json()["key"]
            assert (await client.get("/reports", headers=bearer(made))).status_code == 200


async def test_no_key_is_made_that_has_ended(opened: Opened) -> None:
    async with opened() as client:
        body = {"scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}
        refused = await client.post("/v1/keys", json=body)
        assert (refused.status_code, refused.json()["pointer"]) == (422, "/expires_at")


# Browsers ---------------------------------------------------------------------------------------------------------


async def signed_in(client: httpx.AsyncClient, key: str = KEY, **more: str) -> httpx.Response:
    return await client.post("/sign-in", data={"key": key, **more}, headers={"origin": HOUSE})


@pytest.fixture
def browser() -> dict[str, str]:
    return {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_a_browser_without_a_key_is_sent_to_the_page_where_people_sign_in(
    opened: Opened, browser: dict[str, str]
) -> None:
    async with opened() as client:
        del client.headers["authorization"]
        sent = await client.get("/reports/uplift?x=1&y=%2F", headers=browser)
        assert (sent.status_code, sent.headers["location"]) == (
            303,
            "/sign-in?next=/reports/uplift%3Fx%3D1%26y%3D%252F",
        )
        assert (await client.get("/v1/keys", headers=browser)).status_code == 401, "a program's answer stays one"
        page = await client.get(sent.headers["location"])
        assert 'value="/reports/uplift?x=1&amp;y=%2F"' in page.text
        assert "<script" not in page.text
        after = await signed_in(client, next="/reports")
        assert (after.status_code, after.headers["location"]) == (303, "/reports")
        assert (await client.get("/reports", headers=browser)).status_code == 200


async def test_the_cookie_is_closed_to_scripts_and_other_sites_and_holds_no_key(opened: Opened) -> None:
    async with opened() as client:
        cookie = (await signed_in(client)).headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"} <= set(cookie.split("; "))
        assert "Secure" not in cookie, "it came over plain HTTP from this machine"
        assert SECRET not in cookie


@pytest.mark.parametrize(("scheme", "host"), [("https", "127.0.0.1"), ("http", "192.0.2.7")])
async def test_the_cookie_is_secure_unless_it_comes_over_plain_http_from_this_machine(
    opened: Opened, scheme: str, host: str
) -> None:
    async with opened() as client:
        transport = httpx.ASGITransport(app_of(client), client=(host, 1))
        async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://localhost") as other:
            answer = await other.post("/sign-in", data={"key": KEY}, headers={"origin": f"{scheme}://localhost"})
            assert "Secure" in answer.headers["set-cookie"].split("; ")


@pytest.mark.parametrize("key", ["", "wrong", KEY + "x", "<script>alert(1)</script>"])
async def test_who_signs_in_with_no_key_of_the_house_gets_the_page_again(opened: Opened, key: str) -> None:
    async with opened() as client:
        answer = await signed_in(client, key)
        assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
        assert 'role="alert"' in answer.text
        assert "<script" not in answer.text


async def test_a_form_is_read_as_far_as_a_key_is_long(opened: Opened) -> None:
    """Whoever has no key yet cannot keep a process busy with reading what they send."""
    async with opened() as client:
        kind = {"origin": HOUSE, "content-type": "application/x-www-form-urlencoded"}
        answer = await client.post("/sign-in", content=b"%41=%41&" * 1_000, headers=kind)
        assert (answer.status_code, "set-cookie" in answer.headers) == (413, False)


@pytest.mark.parametrize("origin", [None, "null", FOREIGN, "http://localhost.example", "http://localhost:1"])
async def test_no_other_site_signs_anybody_in_or_out_or_writes_with_their_cookie(
    opened: Opened, origin: str | None
) -> None:
    async with opened() as client:
        headers = {} if origin is None else {"origin": origin}
        foreign = await client.post("/sign-in", data={"key": KEY}, headers=headers)
        assert (foreign.status_code, "set-cookie" in foreign.headers) == (403, False)
        await signed_in(client)
        del client.headers["authorization"]
        told = await client.post("/v1/events", json=event(), headers=headers)
        assert (told.status_code, told.json()["code"]) == (403, "cross_site")
        assert (await client.post("/sign-out", headers=headers)).status_code == 403
        assert (await client.get("/reports", headers=headers)).status_code == 200
        assert (await client.post("/v1/events", json=event(), headers={"origin": HOUSE})).status_code == 200
        with_key = await client.post("/v1/events", json=event(), headers=headers | HEADERS)
        assert with_key.status_code == (200 if origin is None else 403), "who names a page names one of this house"


@pytest.mark.parametrize(
    "path",
    [
        "//evil",
        "/\\evil",
        "https://evil",
        "javascript:alert(1)",
        "/\tevil",
        "/a\nb",
        "\\evil",
        "/\\/evil",
        "",
        "x",
        "/é",
    ],
)
async def test_who_has_signed_in_is_sent_to_a_path_of_this_house_alone(opened: Opened, path: str) -> None:
    async with opened() as client:
        assert (await signed_in(client, next=path)).headers["location"] == "/docs"


async def test_a_cookie_ends_with_its_key_its_secret_and_when_somebody_signs_out(
    opened: Opened, store: redis.Redis
) -> None:
    async with opened() as client:
        made = (await client.post("/v1/keys", json={"scopes": ["read"], "id": "person"})).json()
        await keyring(client).look()
        await signed_in(client, made["key"])
        del client.headers["authorization"]
        assert (await client.get("/reports")).status_code == 200
        assert (await client.get("/v1/keys")).status_code == 403
        await client.post("/v1/keys/person/rotate", json={"keep_seconds": 0}, headers=HEADERS)
        await keyring(client).look()
        assert (await client.get("/reports")).status_code == 401
        await signed_in(client)
        assert (await client.get("/reports")).status_code == 200
        kept = client.cookies["croupier"]
        out = await client.post("/sign-out", headers={"origin": HOUSE})
        assert (out.status_code, out.headers["location"]) == (303, "/sign-in")
        assert (await client.get("/reports")).status_code == 401
        store.hdel(API_KEYS, "tests")
        await keyring(client).look()
        old = await client.get("/reports", headers={"cookie": f"croupier={kept}"})
        assert old.status_code == 401
