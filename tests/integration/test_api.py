"""The HTTP API: wrong bodies, batches, API keys, deadlines, and a store that is away."""

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from conftest import Opened, app_of
from support.keys import HEADERS
from support.players import adult_events

from features.read_plan import ReadPlan
from features.settings.environment import SettingError
from features.store.bundles import publish
from features.store.connection import Store, connect, load_library
from features.store.deployment import create_house
from features.store.server import Server, start_server
from pipelines.worker.process import Worker
from service.api import routes
from service.api.app import lifespan
from service.settings import Settings

NOW = datetime.now(UTC)
LOGIN = {"type": "login", "event_id": "e1", "player_id": "p1", "occurred_at": NOW.isoformat()}


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "pointer"),
    [
        ("/v1/decisions", b"{", 400, "invalid_json", None),
        ("/v1/decisions", b"", 400, "invalid_json", None),
        ("/v1/decisions", b"{}", 422, "invalid_body", "/player_id"),
        ("/v1/decisions", b'{"player_id": "a b"}', 422, "invalid_body", "/player_id"),
        ("/v1/decisions", b'{"player_id": "p", "override": true}', 422, "invalid_body", "/override"),
        ("/v1/decisions", b'{"player_id": "p", "context": {"mood": "up"}}', 422, "invalid_body", "/context/mood"),
        ("/v1/decisions", b'{"player_id": "p", "channels": ["fax"]}', 422, "invalid_body", "/channels/0"),
        ("/v1/decisions", b'{"player_id": "p", "after": "p999:1-0"}', 422, "foreign_position", "/after"),
        ("/v1/events", orjson.dumps(LOGIN | {"type": "cry"}), 422, "unknown_type", "/type"),
        (
            "/v1/events",
            orjson.dumps(LOGIN | {"occurred_at": "2026-01-01T00:00:00"}),
            422,
            "invalid_body",
            "/occurred_at",
        ),
        ("/v1/events", orjson.dumps(LOGIN | {"colour": "red"}), 422, "invalid_body", "/colour"),
        (
            "/v1/events",
            orjson.dumps(LOGIN | {"occurred_at": (NOW + timedelta(hours=1)).isoformat()}),
            422,
            "event_in_future",
            "/occurred_at",
        ),
        ("/v1/outcomes", b'{"outcome_id": "o", "decision_id": "x"}', 422, "invalid_body", "/decision_id"),
        (
            "/v1/outcomes",
            orjson.dumps(
                {"outcome_id": "o", "decision_id": "000-" + "a" * 24, "type": "sent", "occurred_at": NOW.isoformat()}
            ),
            404,
            "unknown_decision",
            "/decision_id",
        ),
        ("/v1/decisions/000-aaaaaaaaaaaaaaaaaaaaaaaa/confirm", b"", 404, "unknown_decision", None),
        ("/v1/decisions/nonsense/confirm", b"", 404, "unknown_decision", None),
        ("/v1/elsewhere", b"", 404, "no_such_route", None),
        ("/v1/events", b" " * (256 * 1024 + 1), 413, "too_large", None),
    ],
    ids=lambda value: "body" if isinstance(value, bytes) else None,  # bodies hold the moment of the run
)
async def test_a_wrong_request_gets_a_problem_with_code_and_pointer(
    opened: Opened, path: str, body: bytes, status: int, code: str, pointer: str | None
) -> None:
    async with opened() as client:
        answer = await client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem.get("pointer")) == (status, code, pointer)
        assert problem["status"] == status
        assert problem["detail"]


async def test_an_event_sent_twice_counts_once_and_its_id_serves_no_other_event(opened: Opened) -> None:
    async with opened() as client:
        first = (await client.post("/v1/events", json=LOGIN)).json()
        again = (await client.post("/v1/events", json=LOGIN)).json()
        assert (first["duplicate"], again["duplicate"]) == (False, True)
        assert first["position"] == again["position"]
        other = await client.post("/v1/events", json=LOGIN | {"location": "MT"})
        assert (other.status_code, other.json()["code"]) == (409, "event_id_reused")


async def test_what_restricts_contact_is_taken_at_any_age(opened: Opened) -> None:
    old = {"type": "self_excluded", "event_id": "x", "player_id": "p1", "occurred_at": "2020-01-01T00:00:00Z"}
    async with opened() as client:
        assert (await client.post("/v1/events", json=old)).status_code == 200


async def test_one_bad_item_of_a_batch_never_spoils_the_rest(opened: Opened) -> None:
    async with opened() as client:
        body = {"requests": [{"player_id": "p1"}, {"player": "p2"}, {"player_id": "p3"}]}
        first, second, third = (await client.post("/v1/decisions/batch", json=body)).json()["answers"]
        assert (first["player_id"], third["player_id"]) == ("p1", "p3")
        assert (second["status"], second["code"], second["pointer"]) == (422, "invalid_body", "/player_id")


async def test_health_readiness_metrics_and_the_page_of_the_api_answer(opened: Opened) -> None:
    async with opened() as client:
        await client.post("/v1/decisions", json={"player_id": "p1"})
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        assert "croupier_decisions_total" in (await client.get("/metrics")).text


async def test_an_answer_says_whether_the_position_it_was_to_wait_for_was_reached(
    opened: Opened, worker: Worker
) -> None:
    async with opened() as client:
        position = (await client.post("/v1/events", json=LOGIN)).json()["position"]
        asked = {"player_id": "p1", "after": position}
        assert (await client.post("/v1/decisions", json=asked)).json()["after_reached"] is True
        worker.stop()
        later = f"{position.partition(':')[0]}:{2**50}-0"
        answer = await client.post("/v1/decisions", json=asked | {"after": later, "deadline_ms": 1_000})
        assert (answer.status_code, answer.json()["after_reached"], answer.json()["recorded"]) == (200, False, True)
        assert "after_reached" not in (await client.post("/v1/decisions", json={"player_id": "p1"})).json()


async def test_the_same_request_with_another_deadline_is_the_same_request(opened: Opened) -> None:
    async with opened() as client:
        asked = {"player_id": "p1", "request_id": "r1"}
        answers = [
            await client.post("/v1/decisions", json=asked | deadline)
            for deadline in ({}, {"deadline_ms": 5_000}, {"deadline_ms": 30_000})
        ]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1


async def test_an_item_of_a_batch_may_name_a_deadline_and_the_others_share_that_of_the_batch(opened: Opened) -> None:
    async with opened() as client:
        app_of(client).state.deps.read_seconds = 1e-9  # no single decision could be answered
        items = [{"player_id": "p1"}, {"player_id": "p2", "deadline_ms": 0}, {"player_id": "p3"}]
        answers = (await client.post("/v1/decisions/batch", json={"requests": items})).json()["answers"]
        assert [one.get("recorded", one.get("code")) for one in answers] == [True, "invalid_body", True]
        alone = await client.post("/v1/decisions", json={"player_id": "p1"})
        assert (alone.status_code, alone.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("name", ["CROUPIER_READ_SECONDS", "CROUPIER_WRITE_SECONDS"])
@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf", "3601"])
def test_a_deadline_that_is_none_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingError, match=f"{name} must be a number of seconds"):
        Settings.here("unix:///nowhere")


async def test_a_store_that_hangs_puts_off_and_one_that_is_gone_means_no_contact_and_nothing_recorded(
    tmp_path: Path, plan: ReadPlan
) -> None:
    server = start_server(tmp_path)
    client = connect(server.url)
    load_library(client, "service.contacts", "ledger.lua")
    create_house(client)
    publish(client, "plan", plan.dumps())
    client.close()
    app = routes.build(lifespan)
    app.state.settings = Settings.here(server.url)
    transport = httpx.ASGITransport(app)
    async with (
        lifespan(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=HEADERS) as caller,
    ):
        assert (await caller.get("/readyz")).status_code == 200
        server.signal(signal.SIGSTOP)
        try:
            await _put_off(caller, "/v1/decisions", {"player_id": "p1"})
        finally:
            server.signal(signal.SIGCONT)
        await asyncio.to_thread(server.stop)
        answer = await caller.post("/v1/decisions", json={"player_id": "p1"})
        if answer.status_code == 503:  # it met the connection that was about to end
            assert "broke" in answer.json()["detail"]
            answer = await caller.post("/v1/decisions", json={"player_id": "p1"})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["action"], found["recorded"], found["propensity"]) == ("NO_CONTACT", False, None)
        assert found["exclusions"][0]["rule"] == "store_unavailable"
        await _put_off(caller, "/v1/decisions", {"player_id": "p1", "request_id": "r1"})
        await _put_off(caller, "/v1/events", adult_events("p1")[0])
        assert (await caller.get("/readyz")).status_code == 503
        again = start_server(tmp_path)
        await _until_ready(caller)
        again.stop()


async def _put_off(caller: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    answer = await caller.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert answer.headers["retry-after"]


async def _until_ready(caller: httpx.AsyncClient) -> None:
    while (await caller.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - what is waited for is another task's
        await asyncio.sleep(0.01)


async def test_a_store_of_nobody_is_refused_in_one_sentence(tmp_path: Path) -> None:
    server: Server = start_server(tmp_path)
    store = Store(server.url, 1)
    try:
        with pytest.raises(Exception, match="no house yet"):
            await store.house()
    finally:
        await store.close()
    server.stop()
