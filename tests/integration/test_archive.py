"""Where the whole record of a decision is found, as it moves from the log to the lake."""

from dataclasses import replace
from pathlib import Path

import redis
from conftest import Opened, Stored, app_of
from support.callers import player_of
from support.fault_house import until
from support.players import adult_events, tell
from support.workers import running

from features.store.deployment import real_now_us
from features.store.keys import decision_key, log_key
from pipelines.worker.process import Worker, wait_until_in_lake
from service.decisions.kept import load_stored


def cut(lake: Path) -> None:
    """Damage every file of records of a lake."""
    for file in lake.rglob("_*.records"):
        file.write_bytes(file.read_bytes()[:-1])


async def test_a_decision_is_found_in_the_log_then_in_the_lake_and_else_its_place_is_named(
    opened: Opened, server: Stored, store: redis.Redis, lake: Path, tmp_path: Path
) -> None:
    """The store keeps what confirms, outcomes and retries need; the whole record moves from the log to the lake."""
    name = player_of("policy")
    async with opened() as client:
        with running(Worker(server.url, lake)):
            position = await tell(client, adult_events(name))
            asked_for = {"player_id": name, "request_id": "r", "after": position}
            first = await client.post("/v1/decisions", json=asked_for)
            decided = first.json()["decision_id"]
            kept, whole, place = load_stored(store.get(decision_key(decided)))  # type: ignore[arg-type]
            assert (kept.decision_id, whole) == (decided, None)
            assert place is not None
            logged = await client.get(f"/v1/decisions/{decided}")
            wait_until_in_lake(lake, real_now_us(store))
        until(lambda: not store.xrange(log_key(place.partition), place.stream_id, place.stream_id))
        archived = await client.get(f"/v1/decisions/{decided}")
        assert (logged.status_code, archived.content) == (200, logged.content)
        again = await client.post("/v1/decisions", json=asked_for)
        assert again.content == first.content, "a retry needs no more than what is kept"
        cut(lake)
        damaged = await client.get(f"/v1/decisions/{decided}")
        assert (damaged.status_code, damaged.json()["code"]) == (503, "lake_unreadable")
        deps = app_of(client).state.deps
        app_of(client).state.deps = replace(deps, lake=tmp_path / "nowhere")
        gone = await client.get(f"/v1/decisions/{decided}")
        assert (gone.status_code, gone.json()["code"]) == (404, "archived")
        assert f"p{place.partition:03d}:{place.stream_id}" in gone.json()["detail"]
        explained = (await client.post("/v1/decisions", json={"player_id": name, "explain": True})).json()
        store.delete(log_key(place.partition))
        assert (await client.get(f"/v1/decisions/{explained['decision_id']}")).status_code == 200, "kept whole"
