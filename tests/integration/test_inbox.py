"""What stays in the house: the player's inbox and its stream, the agents' tasks, and what the catcher caught."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from conftest import Stored
from support.application import application
from support.deliveries import promoted, tell, until, until_state, why
from support.keys import HEADERS, bearer, grant
from support.players import adult_events, event, where_it_is_nine
from support.workers import running

from features.files import load_yaml
from features.store.deployment import House, create_house
from features.store.keys import inbox_key, tasks_key
from pipelines.worker.process import Worker
from pipelines.worker.rendering import delivery_of
from service.delivery.connectors_file import Connectors

FILE = Path(str(resources.files("service.delivery").joinpath("house.yaml")))
SECONDS = 60


@pytest.fixture
def client(server: Stored, store: redis.Redis, house: House, lake: Path) -> Iterator[httpx.Client]:
    """A caller of a house that delivers as `croupier up` does where no file says otherwise."""
    told = load_yaml(FILE, Connectors)
    with (
        running(Worker(server.url, lake, delivery=delivery_of(store, house, told))),
        application(CROUPIER_STORE=server.url, CROUPIER_CONNECTORS=str(FILE)) as address,
        httpx.Client(base_url=address, headers=HEADERS, timeout=SECONDS) as made,
    ):
        yield made


def sent(client: httpx.Client, channel: str, purpose: str = "service") -> str:
    """A decision whose contact the house sends."""
    asked = {"player_id": "p1", "purpose": purpose, "channels": [channel], "deliver": True}
    answer = client.post("/v1/decisions", json=asked).json()
    assert answer["delivers"], answer
    return str(answer["decision_id"])


def inbox(client: httpx.Client, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/inbox", json={"player_id": "p1", **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


class Stream:
    """What a player's browser hears of an inbox, as it comes."""

    def __init__(self, address: str) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.headers: dict[str, str] = {}
        self._address, self._ended = address, threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def _listen(self) -> None:
        with httpx.stream("GET", self._address, timeout=SECONDS) as answer:
            self.headers = dict(answer.headers)
            kind = ""
            for line in answer.iter_lines():
                if self._ended.is_set():
                    return
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    self.heard.append((kind, json.loads(line.removeprefix("data: "))))

    @contextmanager
    def listening(self) -> Iterator["Stream"]:
        self._thread.start()
        yield self
        self._ended.set()
        self._thread.join(SECONDS)


def test_a_promotion_is_streamed_to_the_players_browser_and_recalled_by_an_exclusion(
    client: httpx.Client, store: redis.Redis, house: House
) -> None:
    position = tell(client, adult_events("p1", time_zone=where_it_is_nine()))
    first = inbox(client)
    assert first["messages"] == []
    with Stream(f"{client.base_url}/v1/inbox/{first['token']}").listening() as stream:
        promotion = until(lambda: promoted(client, "p1", "in_app", position))
        kind, message = until(lambda: stream.heard and stream.heard[0])
        assert (kind, message["decision_id"]) == ("message", promotion)
        assert (stream.headers["content-type"], stream.headers["cache-control"]) == (
            "text/event-stream; charset=utf-8",
            "no-store",
        )
        (kept,) = inbox(client)["messages"]
        assert kept == message
        assert inbox(client, placement="site")["messages"] == []
        notice = sent(client, "in_app")
        until(lambda: len(stream.heard) == 2)
        tell(client, [event("p1", "self_excluded")])
        assert [one["decision_id"] for one in inbox(client)["messages"]] == [notice]
        assert until(lambda: stream.heard[2:]) == [("recalled", {"decision_id": promotion})]
    for value in store.hgetall(inbox_key(house.player_key("p1"))).values():  # type: ignore[union-attr]
        assert message["title"].encode() not in value


@pytest.mark.parametrize("token", ["x", "x" * 5_000, "AAAA", "%00"])
def test_a_token_that_is_none_of_the_house_opens_no_inbox(client: httpx.Client, token: str) -> None:
    assert httpx.get(f"{client.base_url}/v1/inbox/{token}").status_code in {404, 414}


def test_a_task_is_listed_with_whom_to_call_until_it_is_done(
    client: httpx.Client, store: redis.Redis, house: House
) -> None:
    tell(client, adult_events("p1", time_zone=where_it_is_nine()))
    tell(client, [event("p1", "address_changed", kind="phone", address="+35699123456", name="Anna")])
    decision = sent(client, "call")
    (task,) = until(lambda: client.get("/v1/tasks").json()["tasks"])
    assert (task["task_id"], task["to"], task["channel"]) == (decision, ["+35699123456"], "call")
    grant(store, "ck_reader_" + "1" * 48, "decide")
    assert client.get("/v1/tasks", headers=bearer("ck_reader_" + "1" * 48)).status_code == 403
    for _ in range(2):
        assert client.post(f"/v1/tasks/{decision}", json={"done": True}).status_code == 200
        assert client.get("/v1/tasks").json()["tasks"] == []
    assert not store.exists(tasks_key(house.player_key("p1")))
    assert client.post(f"/v1/tasks/{decision}", json={"done": False}).status_code == 422
    assert client.post("/v1/tasks/017-" + "a" * 24, json={"done": True}).status_code == 404


def test_what_was_caught_is_shown_whole_and_runs_nothing(client: httpx.Client) -> None:
    tell(client, adult_events("p1", time_zone=where_it_is_nine()))
    name = "<script>alert(1)</script>"
    tell(client, [event("p1", "address_changed", kind="mail", address="p1@players.example", name=name)])
    decision = sent(client, "email")
    page = until(lambda: (found := client.get("/inbox-of-the-house")).text.count(decision) and found)
    assert "p1@players.example" in page.text
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert httpx.get(f"{client.base_url}/inbox-of-the-house").status_code == 401


def test_a_sandbox_house_calls_no_provider_whatever_its_file_says(
    server: Stored, store: redis.Redis, lake: Path, tmp_path: Path
) -> None:
    house = create_house(store, sandbox=True)
    with socket.create_server(("127.0.0.1", 0)) as provider:
        there = {"kind": "smtp", "host": "127.0.0.1", "port": provider.getsockname()[1], "tls": "none"}
        told = {
            "public_url": "https://crm.example",
            "allow_private": ["127.0.0.0/8"],
            "connectors": {"mail": there},
            "routes": [{"channel": "email", "connector": "mail", "sender": "House <house@casino.example>"}],
        }
        file = tmp_path / "connectors.yaml"
        file.write_text(json.dumps(told), "utf8")
        delivery = delivery_of(store, house, Connectors.model_validate(told))
        with (
            running(Worker(server.url, lake, delivery=delivery)),
            application(CROUPIER_STORE=server.url, CROUPIER_CONNECTORS=str(file)) as address,
            httpx.Client(base_url=address, headers=HEADERS, timeout=SECONDS) as client,
        ):
            tell(client, adult_events("p1", time_zone=where_it_is_nine()))
            tell(client, [event("p1", "address_changed", kind="mail", address="p1@players.example")])
            decision = sent(client, "email")
            until_state(store, decision, "failed")
        assert "sandbox" in why(store, decision)
        provider.setblocking(False)
        with pytest.raises(BlockingIOError):
            provider.accept()
