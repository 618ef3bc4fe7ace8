"""All that is held of a player, asked for over HTTP: made by a worker, as the page says, and gone when it must be."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from support.architecture import ROOT
from support.deadlines import PATIENT
from support.event_fields import MINIMAL, OPTIONAL
from support.fault_house import Caller, Serving, World, until
from support.keyed_house import calling, under_key
from support.players import adult_events
from support.workers import running

from features.store import erasures
from features.store.keys import EXPORTS, EXPORTS_LEASE, EXPORTS_WAITING, export_key
from pipelines.privacy import exports
from pipelines.privacy.export import export
from pipelines.privacy.exports import ATTEMPTS, make_all
from pipelines.worker.lake import Lake
from pipelines.worker.process import Worker
from service.api.personal_schemas import ExportAnswer
from service.decisions.explain_player import ExperimentMembership
from service.privacy.exports import Export, change_command

MARK: Final = "zyzzyva"


@pytest.fixture
def home(world: World) -> World:
    return under_key(world)


@pytest.fixture
def caller(home: World, tmp_path: Path) -> Iterator[Caller]:
    with calling(home, tmp_path) as made:
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
    welcome(caller, "q")
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


def test_what_was_begun_by_a_worker_that_ended_is_made_by_the_next(home: World, caller: Caller) -> None:
    welcome(caller, "p")
    name = asked(caller, "p")["export_id"]
    home.client.fcall("croupier_lease", 1, EXPORTS_LEASE, "a worker that died", str(2_000_000), "")
    held: Any = home.client.hget(EXPORTS, name)
    begun = msgspec.structs.replace(msgspec.json.decode(held, type=Export), attempts=1)
    assert home.client.execute_command(*change_command(name, held, begun))  # type: ignore[no-untyped-call]
    with running(Worker(home.server.url, home.lake)), running(Worker(home.server.url, home.lake)):
        until(lambda: fetched(caller, name).status_code == 200)
    made = (home.home / "logs" / "exports.log").read_text()
    assert "fault" not in made
    assert home.client.llen(EXPORTS_WAITING) == 0


def test_what_never_ends_is_given_up_and_may_be_asked_for_again(home: World, caller: Caller) -> None:
    welcome(caller, "p")
    name = asked(caller, "p")["export_id"]
    held: Any = home.client.hget(EXPORTS, name)
    begun = msgspec.structs.replace(msgspec.json.decode(held, type=Export), attempts=ATTEMPTS)
    assert home.client.execute_command(*change_command(name, held, begun))  # type: ignore[no-untyped-call]
    assert make_all(home.client, home.home) == 1
    failed = fetched(caller, name)
    assert (failed.status_code, failed.json()["code"]) == (409, "export_failed")
    assert asked(caller, "p")["state"] == "waiting"
    assert make_all(home.client, home.home) == 1
    assert fetched(caller, name).status_code == 200


def test_what_is_too_large_names_the_command(home: World, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    welcome(caller, "p")
    for bound in ("MOST_BYTES", "_ROWS"):
        with monkeypatch.context() as smaller:
            smaller.setattr(exports, bound, 3)
            name = asked(caller, "p")["export_id"]
            assert make_all(home.client, home.home) == 1
            failed = fetched(caller, name).json()
        assert (failed["code"], "`croupier export`" in failed["detail"]) == ("export_failed", True)


def test_an_erasure_while_it_is_made_leaves_nothing(
    home: World, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    welcome(caller, "p")
    name = asked(caller, "p")["export_id"]

    def slow(*arguments: Any) -> dict[str, Any]:
        told = export(*arguments)
        erase(caller, "p")
        return told

    monkeypatch.setattr("pipelines.privacy.exports.export", slow)
    assert make_all(home.client, home.home) == 1
    assert fetched(caller, name).status_code == 404
    assert not home.client.exists(export_key(name))


def test_an_hour_later_it_is_gone(home: World, caller: Caller) -> None:
    welcome(caller, "p")
    name = asked(caller, "p")["export_id"]
    make_all(home.client, home.home)
    left: Any = home.client.ttl(export_key(name))
    assert 3_500 < left <= 3_600
    held: Any = home.client.hget(EXPORTS, name)
    ended = msgspec.structs.replace(msgspec.json.decode(held, type=Export), ends=1)
    home.client.hset(EXPORTS, name, msgspec.json.encode(ended).decode())
    assert fetched(caller, name).json()["code"] == "unknown_export"
    assert make_all(home.client, home.home) == 0
    assert home.client.hlen(EXPORTS) == 0, "swept"


def test_a_thousand_at_once_are_one(home: World, caller: Caller) -> None:
    welcome(caller, "p")
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: asked(caller, "p")["export_id"], range(200)))
    assert len(found) == 1
    assert home.client.llen(EXPORTS_WAITING) == 1


def test_neither_id_nor_content_lies_open_in_the_store(home: World, caller: Caller) -> None:
    welcome(caller, MARK)
    asked(caller, MARK)
    waiting = repr(home.client.hgetall(EXPORTS))
    make_all(home.client, home.home)
    made = [home.client.get(key) for key in home.client.scan_iter(f"{EXPORTS}:*") if key != EXPORTS_WAITING.encode()]
    assert len(made) == 1
    assert MARK not in waiting + repr(home.client.hgetall(EXPORTS)) + repr(made)


# --- Read by a person


def names_in(told: Any) -> Iterator[str]:
    """Names of fields that are ours, however deep: not of what callers and catalogues put in."""
    if isinstance(told, dict):
        for name, value in told.items():
            yield name
            if name not in {"inputs", "context", "parameters"} and not (name == "personal" and "context" not in value):
                yield from names_in(value)
    elif isinstance(told, list):
        for one in told:
            yield from names_in(one)


def test_whoever_reads_it_finds_every_field_named_and_decisions_of_all_ages(home: World, caller: Caller) -> None:
    welcome(caller, "p")
    linking = {"identify": {"anonymous_id": "device"}, "alias": {"previous_id": "device-2"}}
    for kind, fields in MINIMAL.items():
        whole = fields | OPTIONAL.get(kind, {}) | linking.get(kind, {})
        # This house has no rate of another currency, and its days lie before those of the examples.
        told = {name: value for name, value in whole.items() if name not in {"currency", "placed_at", "deposited_at"}}
        answer = caller.event("p", type=kind, **told)
        assert answer.status_code == 200, (kind, answer.text)
    home.apply()
    ids = [caller.ask("p", context={"page": "lobby"}).json()["decision_id"]]
    Lake(home.client, home.lake).flush()
    home.apply()
    ids.append(caller.ask("device").json()["decision_id"])
    told = export(home.client, home.lake, home.home, "device")
    assert msgspec.convert(told, ExportAnswer)
    assert sorted(one["decision_id"] for one in told["decisions"]) == sorted(ids)
    assert {one["personal"]["player_id"] for one in told["decisions"]} == {"p", "device"}
    assert len({frozenset(one) for one in told["decisions"]}) == 1, "the same fields, wherever they lie"
    assert len(told["linked_pseudonyms"]) == 2
    assert MINIMAL.keys() <= {one["type"] for one in told["events"]}
    (deposit,) = [one for one in told["events"] if one["type"] == "deposit" and one.get("target") == "wallet"]
    assert deposit["amount_minor"] == MINIMAL["deposit"]["amount_minor"]
    assert datetime.fromisoformat(deposit["occurred_at"]).tzinfo is not None
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs/privacy.md").read_text()))
    named |= set(ExperimentMembership.__struct_fields__)
    assert set(names_in(told)) - named == set()


# --- Several processes


def excluding(caller: Caller) -> list[str]:
    answer = caller.ask("p", dry_run=True, explain=True).json()
    return [*(one["rule"] for one in answer["exclusions"]), *answer["degraded"]]


def test_one_process_erases_what_another_decided_while_the_worker_ends_and_begins(
    home: World, caller: Caller, tmp_path: Path
) -> None:
    welcome(caller, "p")
    with running(Worker(home.server.url, home.lake)):
        until(lambda: not {"features_stale", "features_unavailable"} & set(excluding(caller)))
        name = asked(caller, "p")["export_id"]
        lease = caller.contact("p", channels=["push", "in_app"])
    other = tmp_path / "other"
    other.mkdir()
    environment = {"CROUPIER_HOME": str(home.home), **PATIENT}
    with Serving(home.server.url, other, **environment) as serving, Caller(serving.socket) as second:
        erase(second, "p")
        assert caller.confirm(lease).json()["code"] == "revoked"
        assert caller.get("/v1/players/p").status_code == second.get("/v1/players/p").status_code == 404
        for one in (caller, second):
            assert fetched(one, name).json()["code"] == "unknown_export"
        with running(Worker(home.server.url, home.lake)):
            until(lambda: all(one.rewritten for one in erasures.journal(home.client)))
            again = asked(second, "p")["export_id"]
            until(lambda: fetched(caller, again).status_code == 200)
        assert [one["by"] for one in fetched(caller, again).json()["erasures"]] == ["key environment"]
