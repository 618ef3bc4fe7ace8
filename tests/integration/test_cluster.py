"""The service on a real cluster: decisions, events and learning with a node down and after a failover."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pyarrow.parquet as pq
import pytest
import redis
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from support.callers import asked_at_once, post
from support.cluster import Node, Servers, cluster
from support.deadlines import PATIENT
from support.fault_house import until
from support.keys import HEADERS
from support.players import adult_events, event, leased, tell

from features.definitions import apply, open_store
from features.read_plan import ReadPlan
from features.schema import CHANNELS, ENTITY
from features.store.bundles import publish
from features.store.cluster import Nodes
from features.store.connection import connect, load_library
from features.store.deployment import House, create_house, real_now_us
from features.store.errors import StoreError
from features.store.keys import HOUSE, STOPS, pointer_key, stops_key
from models.catalogue.experiment import variant
from pipelines.worker.lake import Lake, reach
from pipelines.worker.process import Worker, wait_until_in_lake
from service.api import routes
from service.api.app import lifespan
from service.settings import Settings

SHARES = {"holdout": 0.1, "business_rules": 0.45, "policy": 0.4, "uniform": 0.05}


class Stage(NamedTuple):
    """A furnished house on a cluster."""

    servers: Servers
    client: redis.Redis
    house: House
    lake: Path

    def node(self, player: str) -> Node:
        return self.servers.holder(f"facts:{self.house.player_key(player)}")

    def players(self, each: int) -> dict[str, list[str]]:
        """Some who may get marketing, by the node that holds them."""
        found: dict[str, list[str]] = {}
        for number in range(400):
            name = f"p{number}"
            if variant("policy_2026", name, SHARES) != "holdout":  # type: ignore[arg-type]
                some = found.setdefault(self.node(name).name, [])
                some += [name] if len(some) < each else []
            if len(found) == 3 and all(len(some) == each for some in found.values()):
                return found
        raise AssertionError("too few players")


@contextmanager
def staged(folder: Path, plan: ReadPlan, **more: Any) -> Iterator[Stage]:
    with cluster(folder, **more) as servers, closing(connect(servers.url)) as client:
        load_library(client, "service.contacts", "ledger.lua")
        load_library(client, "pipelines.worker", "consume.lua")
        publish(client, "plan", plan.dumps())
        yield Stage(servers, client, create_house(client), folder / "lake")


@contextmanager
def working(stage: Stage) -> Iterator[Worker]:
    worker = Worker(stage.servers.url, stage.lake)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
        assert thread.is_alive(), "the worker ended"
    finally:
        worker.stop()
        thread.join()


@asynccontextmanager
async def serving(stage: Stage) -> Any:
    app = routes.build(lifespan)
    app.state.settings = replace(Settings.here(stage.servers.url), lake=stage.lake)
    transport = httpx.ASGITransport(app)
    async with (
        lifespan(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60, headers=HEADERS) as caller,
    ):
        caller.app = app  # type: ignore[attr-defined]
        yield caller


async def asked(caller: Any, player: str, **more: Any) -> dict[str, Any]:
    return await post(caller, "/v1/decisions", {"player_id": player, **more})


async def deposits(caller: Any, player: str, **more: Any) -> int | None:
    """Deposits that a decision would see; None while it sees nothing."""
    found = await asked(caller, player, dry_run=True, explain=True, **more)
    values = (found.get("features") or {}).get("values") or {}
    return None if "features_unavailable" in found["degraded"] else values.get("deposit_count")


async def eventually(work: Any, wanted: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while (found := await work()) != wanted:
        assert time.monotonic() < deadline, f"still {found}"
        await asyncio.sleep(0.02)


def deposit(player: str) -> dict[str, Any]:
    return event(player, "deposit", status="approved", method="card", amount_minor=100)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not decide the outcome; the lake is flushed often."""
    for name, seconds in PATIENT.items():
        monkeypatch.setenv(name, seconds)
    monkeypatch.setattr("pipelines.worker.process.FLUSH_SECONDS", 0.3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with cluster(tmp_path_factory.mktemp("shards")) as servers:
        yield servers


@pytest.fixture
def client(shards: Servers) -> Iterator[redis.Redis]:
    with closing(connect(shards.url)) as made:
        made.flushall()
        yield made


# --- The client


def test_commands_over_many_slots_are_split_and_answered_in_order(client: redis.Redis) -> None:
    keys = [f"key-{number}" for number in range(100)]
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.set(key, key)
    assert pipe.execute() == [True] * 100
    assert client.mget(keys) == [key.encode() for key in keys]
    assert sorted(client.keys("key-*")) == sorted(key.encode() for key in keys)  # type: ignore[arg-type]
    assert client.exists(*keys) == 100
    assert client.delete(*keys, "none") == 100


def test_keys_are_listed_over_all_nodes(client: redis.Redis) -> None:
    names = {f"listed:{number}".encode() for number in range(50)}
    for name in names:
        client.set(name, "x")
    assert set(client.scan_iter("listed:*", count=10)) == names


def test_a_transaction_over_slots_runs_slot_by_slot_in_the_order_of_its_commands(client: redis.Redis) -> None:
    pipe: Any = client.pipeline(transaction=True)
    pipe.rpush("first", "a").set("second", "b").rpush("first", "c")
    assert pipe.execute() == [1, True, 2]
    wrong: Any = client.pipeline(transaction=True)
    wrong.set("third", "c").rpush("second", "wrong kind").set("fourth", "d")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        wrong.execute()
    assert client.mget("third", "fourth") == [b"c", None]


def test_one_command_of_a_kind_runs_at_a_time(client: redis.Redis) -> None:
    with client.lock("croupier:some", timeout=5), pytest.raises(redis.exceptions.LockError):
        client.lock("croupier:some", timeout=5).acquire(blocking=False) or client.lock("croupier:some").release()


def test_streams_of_many_slots_are_read_together_and_waiting_ends(client: redis.Redis) -> None:
    streams = {f"log:{{p{number:03d}}}": "0-0" for number in range(256)}
    begun = time.monotonic()
    assert client.xread(streams, 10, 50) == []  # type: ignore[arg-type]
    assert time.monotonic() - begun >= 0.05
    for key in list(streams)[::50]:
        client.xadd(key, {"n": key})
    read: Any = client.xread(streams, 10, 5_000)  # type: ignore[arg-type]
    assert {key: fields[b"n"].decode() for key, ((_, fields),) in read} == {key: key for key in list(streams)[::50]}


def test_a_slot_that_moved_is_found(client: redis.Redis, shards: Servers) -> None:
    client.set("moving", "1")
    to = next(node for node in shards.nodes if node is not shards.holder("moving"))
    slot = shards.nodes[0].ask("CLUSTER KEYSLOT", "moving")
    shards.holder("moving").ask("CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", to.ask("CLUSTER MYID"))
    until(lambda: shards.holder("moving") is to)
    pipe: Any = client.pipeline(transaction=False)
    pipe.get("moving").set("moving", "2").get("elsewhere")
    assert pipe.execute() == [b"1", True, None]
    assert client.get("moving") == b"2"


def test_an_address_may_name_a_user_many_hosts_and_options() -> None:
    nodes = Nodes("rediss+cluster://ann:secret@one:7001,two?ssl_cert_reqs=none")
    assert nodes.names == ["one:7001", "two:6379"]
    assert nodes.url("three:1") == "rediss://ann:secret@three:1?ssl_cert_reqs=none"


def test_an_address_where_no_cluster_answers_is_refused_in_one_sentence() -> None:
    with pytest.raises(StoreError, match="no store answers at redis"):
        connect("redis+cluster://127.0.0.1:1")


def test_what_feast_writes_into_a_cluster_is_read_by_the_plan(
    client: redis.Redis, shards: Servers, tmp_path: Path
) -> None:
    store = open_store(tmp_path, shards.url)
    plan = apply(store, tmp_path / "lake")
    planned = next(feature for feature in plan.features if feature.dtype == "Int64")
    view = store.get_feature_view(planned.view)
    for number in range(0, 256, 17):
        player = f"{{p{number:03d}}}{'0' * 30}"
        key = EntityKey(join_keys=[ENTITY], entity_values=[Value(string_val=player)])
        at = datetime.now(UTC)
        row = (key, {planned.name: Value(int64_val=number)}, at, at)
        store._get_provider().online_write_batch(store.config, view, [row], None)
        values = plan.decode(client.hmget(plan.key(player), list(plan.fields)))[0]  # type: ignore[arg-type]
        assert values[list(plan.features).index(planned)] == number


# --- The service


@pytest.mark.timed
async def test_a_node_that_is_killed_takes_only_its_own_players_along(tmp_path: Path, plan: ReadPlan) -> None:
    with staged(tmp_path, plan) as stage, working(stage):
        groups = stage.players(2)
        everyone = [player for some in groups.values() for player in some]
        # A node that holds what is read for the whole house, but not the lease without which no flush is begun.
        dead = stage.servers.holder(pointer_key("policy"))
        gone, there = groups.pop(dead.name), [player for some in groups.values() for player in some]
        async with serving(stage) as caller:
            await _live(caller, everyone)
            wait_until_in_lake(stage.lake, real_now_us(stage.client))
            kept = _decisions(stage.lake)
            assert set(kept.values()) == {1}
            dead.kill()
            await _left_alone(caller, gone)
            await _served(caller, there)
            await _reported(caller, dead, stage)
            await asyncio.to_thread(_not_flushed, stage)
            dead.start()
            await _served(caller, everyone)
            wait_until_in_lake(stage.lake, real_now_us(stage.client))
            assert set(_decisions(stage.lake).values()) == {1}
            assert kept.keys() < _decisions(stage.lake).keys()
            for player in everyone:
                await _never_too_many(caller, player)


async def _live(caller: Any, players: list[str]) -> None:
    """Each becomes known, is offered something, which is confirmed and delivered; repeats change nothing."""
    for player in players:
        position = await tell(caller, adult_events(player))
        assert await deposits(caller, player, after=position) == 2
        (found,) = await leased(caller, player, 1, due=True)
        name = found["decision_id"]
        outcome = {
            "outcome_id": player,
            "decision_id": name,
            "type": "delivered",
            "occurred_at": event(player, "x")["occurred_at"],
        }
        assert (await caller.post(f"/v1/decisions/{name}/confirm", json={})).status_code == 200
        assert [(await caller.post("/v1/outcomes", json=outcome)).json()["duplicate"] for _ in "ab"] == [False, True]
        assert (await caller.get(f"/v1/decisions/{name}")).json()["player_id"] == player
        held = (await caller.get(f"/v1/players/{player}")).json()["reservations"]
        assert [one["decision_id"] for one in held if one["state"] == "confirmed"] == [name]


async def _left_alone(caller: Any, players: list[str]) -> None:
    """Nothing is sent, recorded or taken for these, and at once: nobody listens, or the cluster says it is down."""
    begun = time.monotonic()
    for player in players * 10:
        answer = await caller.post("/v1/decisions", json={"player_id": player})
        found = answer.json()
        if answer.status_code == 200:
            assert (found["action"], found["recorded"], found["propensity"]) == ("NO_CONTACT", False, None)
        else:
            assert (answer.status_code, found["code"]) == (503, "store_unavailable")
        refused = await caller.post("/v1/events", json=deposit(player))
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert refused.headers["retry-after"]
    assert time.monotonic() - begun < 2


async def _served(caller: Any, players: list[str]) -> None:
    """Decisions are recorded, and features follow what is told now."""
    for player in players:
        await eventually(lambda player=player: _recorded(caller, player), True)
        before = await deposits(caller, player)
        assert (await caller.post("/v1/events", json=deposit(player))).status_code == 200
        await eventually(lambda player=player: deposits(caller, player), (before or 0) + 1)


async def _recorded(caller: Any, player: str) -> bool:
    return bool((await caller.post("/v1/decisions", json={"player_id": player})).json().get("recorded"))


async def _reported(caller: Any, dead: Node, stage: Stage) -> None:
    answer = await caller.get("/readyz")
    assert answer.status_code == 200
    store = answer.json()["store"]
    assert store["nodes"] == {node.name: node is not dead for node in stage.servers.nodes}
    assert store["partitions_away"] == [at for at in range(256) if stage.servers.holder(f"{{p{at:03d}}}") is dead]


def _not_flushed(stage: Stage) -> None:
    """A flush that was begun waits, and nothing of it is written."""
    until(lambda: reach(stage.lake).pending is not None)
    files, before = set(stage.lake.glob("*/*/*")), reach(stage.lake)
    with pytest.raises(redis.ConnectionError):
        Lake(stage.client, stage.lake).flush()
    assert (set(stage.lake.glob("*/*/*")), reach(stage.lake)) == (files, before)


async def test_a_stop_names_the_partitions_of_a_node_that_is_away_and_reaches_them_after_it(
    tmp_path: Path, plan: ReadPlan
) -> None:
    """Whichever node: that of the journal and the house's own key too."""
    with staged(tmp_path, plan) as stage, working(stage):
        async with serving(stage) as caller:
            for number, key in enumerate((STOPS, HOUSE, stops_key(17))):
                dead, sms = stage.servers.holder(key), {"channel": CHANNELS[number], "reason": "wrong link"}
                gone = [f"p{at:03d}" for at in range(256) if stage.servers.holder(stops_key(at)) is dead]
                dead.kill()
                answer = await caller.post("/v1/stops", json=sms)
                assert (answer.status_code, answer.json()["code"]) == (503, "stop_incomplete"), answer.text
                assert answer.json()["unreached"] == gone
                name = answer.json()["stop"]
                assert (await caller.post("/v1/stops", json=sms)).json()["stop"] == name, "twice is one stop"
                assert f"stop:{name}" in await _denied_beside(stage, caller, gone)
                lift = await caller.delete(f"/v1/stops/{name}", params={"reason": "mended"})
                assert lift.status_code == 503
                dead.start()
                await eventually(lambda: _unreached(caller), [])
                standing = [one["id"] for one in (await caller.get("/v1/stops")).json()["standing"]]
                assert standing == ([name] if key == STOPS else []), "without its journal nothing is lifted"
                again = await caller.delete(f"/v1/stops/{name}", params={"reason": "mended"})
                assert again.json()["already"] == (key != STOPS)
                # A worker that read the journal before a lift may stop too much until its next round.
                await eventually(lambda: _stopped(stage), 0)


async def _denied_beside(stage: Stage, caller: Any, gone: list[str]) -> list[str]:
    """What excludes something from a player on a node that is there."""
    names = (f"p{number}" for number in range(400))
    there = next(one for one in names if stage.house.player_key(one)[1:5] not in gone)
    await caller.post("/v1/events", json=adult_events(there)[0])
    page = await caller.get(f"/v1/players/{there}")
    return [one["rule"] for one in page.json()["denied"]]


async def _stopped(stage: Stage) -> int:
    return sum(bool(stage.client.exists(stops_key(at))) for at in range(256))


async def _unreached(caller: Any) -> list[str] | None:
    answer = await caller.get("/v1/stops")
    if answer.status_code != 200:
        return None
    told = answer.json()
    return [one for stop in (*told["standing"], *told["lifted"]) for one in stop["unreached"]]


def _decisions(lake: Path) -> Counter[str]:
    return Counter(
        one for file in lake.glob("decisions/*/*.parquet") for one in pq.read_table(file)["decision_id"].to_pylist()
    )


async def _never_too_many(caller: Any, player: str) -> None:
    """However often is asked, two contacts a day."""
    await asked_at_once(caller, [player] * 30)
    held = (await caller.get(f"/v1/players/{player}")).json()["reservations"]
    assert len([one for one in held if one["state"] in {"reserved", "confirmed"}]) == 2


async def _writes_refused(caller: Any, node: Node, mine: str, others: list[str]) -> None:
    """A primary without a replica that takes no writes for it says so to callers, and holds nobody else up."""
    node.ask("CONFIG SET", "min-replicas-to-write", 1)
    refused = await caller.post("/v1/events", json=deposit(mine))
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert (await caller.post("/v1/decisions", json={"player_id": mine})).status_code == 503
    await _served(caller, others)
    node.ask("CONFIG SET", "min-replicas-to-write", 0)
    await _served(caller, [mine])


@pytest.mark.timed
async def test_after_a_failover_everything_goes_on_without_a_restart(tmp_path: Path, plan: ReadPlan) -> None:
    options = ("--cluster-node-timeout", "1000")
    with staged(tmp_path, plan, replicas=True, options=options) as stage, working(stage):
        groups = stage.players(1)
        dead = stage.node(groups[stage.servers.nodes[0].name][0])
        (mine,), others = groups.pop(dead.name), [some[0] for some in groups.values()]
        async with serving(stage) as caller:
            await _live(caller, [mine, *others])
            dead.kill()
            begun = time.monotonic()
            await _served(caller, others)
            await _served(caller, [mine])
            assert time.monotonic() - begun < 15
            assert stage.node(mine) in stage.servers.nodes[3:]
            assert stage.client.get("nothing") is None
            assert (await caller.get("/readyz")).json()["store"]["partitions_away"] == []
            await _never_too_many(caller, mine)
            await _writes_refused(caller, stage.node(mine), mine, others)
        wait_until_in_lake(stage.lake, real_now_us(stage.client))
        assert set(_decisions(stage.lake).values()) == {1}
