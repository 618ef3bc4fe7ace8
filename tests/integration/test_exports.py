"""All that is held of a player, asked for over HTTP: made by a worker, as the page says, and gone when it must be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from support.deadlines import PATIENT
from support.fault_house import Caller, Serving, World, until
from support.players import adult_events
from support.workers import running

from features.store.deployment import create_house
from features.store.keys import EXPORTS, EXPORTS_WAITING, export_key
from pipelines.machine import up
from pipelines.privacy.export import export
from pipelines.privacy.exports import make_all
from pipelines.worker.process import Worker
from service.api.schemas import ExportAnswer

MARK: Final = "zyzzyva"


def silent(_: object) -> None:
    """Tells nobody."""


@pytest.fixture
def home(world: World) -> World:
    """A house under its key."""
    up.prepare(world.client, up.Options(world.home, players=0), world.server.url, silent)
    world.house = create_house(world.client)
    return world


@pytest.fixture
def caller(home: World, tmp_path: Path) -> Iterator[Caller]:
    environment = {"CROUPIER_HOME": str(home.home), **PATIENT}
    with Serving(home.server.url, tmp_path, **environment) as serving, Caller(serving.socket) as made:
        yield made


def welcome(caller: Caller, player: str) -> None:
    for event in adult_events(player):
        assert caller.event(player, **{**event, "event_id": caller.fresh("welcome")}).status_code == 200


def asked(caller: Caller, player: str) -> dict[str, Any]:
    answer = caller._client.post("/v1/exports", json={"player_id": player})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def fetched(caller: Caller, export_id: str) -> Any:
    return caller.get(f"/v1/exports/{export_id}")


def erase(caller: Caller, player: str) -> None:
    answer = caller._client.post("/v1/erasures", json={"player_id": player, "reason": "asked by letter"})
    assert answer.status_code == 200, answer.text


def test_a_worker_makes_what_the_command_writes(home: World, caller: Caller) -> None:
    welcome(caller, MARK)
    name = asked(caller, MARK)["export_id"]
    waiting = fetched(caller, name)
    assert (waiting.status_code, waiting.json()["state"]) == (202, "waiting")
    with running(Worker(home.server.url, home.lake)):
        until(lambda: fetched(caller, name).status_code == 200)
    told = fetched(caller, name).json()
    assert msgspec.convert(told, ExportAnswer).asked_for == MARK
    by_hand = export(home.client, home.lake, home.home, MARK)
    assert told | {"made_at": ""} == by_hand | {"made_at": ""}
    assert len(told["events"]) == len(list(adult_events(MARK)))


def test_a_player_has_one_export_at_a_time_by_whichever_id(home: World, caller: Caller) -> None:
    welcome(caller, "p")
    caller.event("p", type="identify", anonymous_id="device")
    first = asked(caller, "p")
    assert asked(caller, "p") == first == asked(caller, "device")
    assert home.client.llen(EXPORTS_WAITING) == 1
    assert make_all(home.client, home.home) == 1
    assert asked(caller, "p") == first | {"state": "ready"}
    assert asked(caller, "q")["export_id"] != first["export_id"]


def test_an_erasure_destroys_what_waits_and_what_was_made(home: World, caller: Caller) -> None:
    welcome(caller, "p")
    caller.event("p", type="identify", anonymous_id="device")
    name = asked(caller, "p")["export_id"]
    erase(caller, "device")
    assert fetched(caller, name).json()["code"] == "unknown_export"
    assert make_all(home.client, home.home) == 0
    assert asked(caller, "p")["export_id"] == name
    assert make_all(home.client, home.home) == 1
    assert fetched(caller, name).status_code == 200
    erase(caller, "p")
    assert fetched(caller, name).status_code == 404
    assert not home.client.exists(export_key(name))
    assert home.client.hlen(EXPORTS) == 0
