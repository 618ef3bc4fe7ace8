"""What any build left in the store and in the lake, every later one finds there: over a real store."""

from asyncio import run
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from conftest import Stored
from frozen.cases import Case, assert_gives, cases, every, shown, versions, written
from frozen.stores import data, put, taken
from support.fault_house import harm_settings

from features import image
from features.read_plan import ReadPlan
from features.store.connection import Store, connect
from features.store.deployment import House, order, real_now_us
from features.store.keys import PlayerKeys
from pipelines.worker.consumer import Consumer
from pipelines.worker.lake import SCHEMAS, Lake
from pipelines.worker.outbox import Outbox
from service.contacts.entries import Reservation
from service.contacts.ledger import Booking, Entry, RedisLedger
from service.contacts.snapshot import NO_DECISION, Linked, PlayerSnapshot
from service.players import facts, identity
from service.players.facts import Assertion

WRITTEN: Final = {"features": 2, "feature_values": 1, "lake": 3, "store": 2}
"""Versions that today's build writes of what consumer, lake and calls of the store make."""
PARTITIONS: Final = range(256)
AT: Final = 1_795_521_600_000_000
SECRET: Final = "00" * 32

Story = Callable[[RedisLedger], Awaitable[Any]]


def standing(client: redis.Redis) -> House:
    """A house whose clock stands still."""
    return House(
        format=1, partitions=256, sandbox=True, real_us=real_now_us(client), house_us=AT, rate=1e-9, secret=SECRET
    )


@pytest.fixture
def tell(server: Stored, store: redis.Redis) -> Callable[[Story], Any]:
    """Runs a story over the ledger of a house whose clock stands still."""

    def told(story: Story) -> Any:
        async def whole() -> Any:
            calls = Store(server.url, 2)
            try:
                return await story(RedisLedger(calls, standing(store)))
            finally:
                await calls.close()

        return run(whole())

    return told


def frozen_plan() -> ReadPlan:
    """The read plan of the build that wrote the players."""
    (case,) = cases("read_plans", 1)
    return ReadPlan.loads(case.raw)


# --- Players


def show_player(view: PlayerSnapshot, position: str) -> dict[str, Any]:
    """A player as the store holds them, and how far their partition's features are."""
    return {
        "facts": shown(facts.read(view.facts, "main")),
        "facts_version": view.facts_version,
        "ledger_version": view.ledger_version,
        "household_version": view.household_version,
        "held": shown(view.held),
        "features": show_features(view.features or {}),
        "linked": len(view.linked),
        "watermark_us": view.watermark_us,
        "seal": shown(view.seal),
        "position": position,
    }


def player(client: redis.Redis, keys: dict[str, Any], name: str) -> Story:
    """What the store answers of a player whose keys are put into it; of a linked id, whom it belongs to."""
    put(client, keys)
    held = PlayerKeys(name, frozen_plan().key(name))

    async def seen(ledger: RedisLedger) -> dict[str, Any]:
        try:
            return show_player(
                await ledger.view(held, NO_DECISION, frozen_plan()), await ledger.progress(held.partition)
            )
        except Linked as linked:
            return {"to": linked.to.split(" ")[:2], "home": await ledger.identities.owner(name)}

    return seen


@every("players")
def test_a_player_is_found_as_the_store_held_them(case: Case, store: redis.Redis, tell: Callable[[Story], Any]) -> None:
    assert_gives(tell(player(store, case.raw, case.more["player"])), case.gives)


@every("players")
def test_ids_that_were_told_before_are_known_by_their_digest(
    case: Case, store: redis.Redis, tell: Callable[[Story], Any]
) -> None:
    put(store, case.raw)

    async def known(ledger: RedisLedger) -> None:
        for key, content in case.raw.items():
            if key.startswith("seen:"):
                owner, _, name = key.removeprefix("seen:").partition(" ")
                held = data(content["string"])
                same = await ledger.known(PlayerKeys(owner), Entry("event", name, held[:8], b""))
                other = await ledger.known(PlayerKeys(owner), Entry("event", name, bytes(8), b""))
                assert same is not None
                assert other is not None
                assert (same.status, other.status) == ("duplicate", "conflict")
                assert same.stream_id == other.stream_id == held[8:].decode()

    tell(known)
    assert any(key.startswith("seen:") for key in case.raw)


@every("half_linked")
def test_a_link_that_was_left_half_way_is_finished(
    case: Case, store: redis.Redis, tell: Callable[[Story], Any]
) -> None:
    linked, owner = case.more["player"], case.more["owner"]
    assert tell(player(store, case.raw, linked)) == {"to": [owner, "pending"], "home": owner}
    assert_gives(tell(player(store, {}, linked)), {"to": [owner, "done"], "home": owner})
    held: Any = store.hgetall(f"facts:{owner}")
    assert identity.others(held) == [linked]
    assert_gives(shown(facts.read(identity.together(held), "main")), {"known": True, **case.gives})


# --- Features


def show_features(held: Mapping[bytes, bytes | None]) -> dict[str, Any]:
    """Stored values of a player by name, and when they were true."""
    read = frozen_plan()
    row = read.decode([held.get(name) for name in read.fields])
    return {
        **{one.name: shown(value) for one, value in zip(read.features, row.values, strict=True)},
        "as_of": row.as_of,
    }


@every("features", "feature_values")
def test_features_as_they_were_stored_have_the_same_values(case: Case) -> None:
    assert_gives(show_features({data(name): data(value) for name, value in case.raw.items()}), case.gives)


@written({"feature_values": WRITTEN["feature_values"]})
def test_todays_plan_writes_values_as_the_frozen_bytes(case: Case) -> None:
    read = frozen_plan()
    held = {data(name): data(value) for name, value in case.raw.items()}
    row = read.decode([held.get(name) for name in read.fields])
    pairs = read.encode(row.values, row.as_of["behaviour"] or 0)
    assert dict(zip(pairs[::2], pairs[1::2], strict=True)) == held


@written({"features": WRITTEN["features"]})
def test_todays_consumer_makes_the_same_features_of_the_frozen_log(
    case: Case, server: Stored, store: redis.Redis, plan: ReadPlan
) -> None:
    (log,), (house,) = cases("logs", 1), cases("houses", 1)
    put(store, log.raw | {"croupier:house": {"string": house.raw}})
    consumer = Consumer(connect(server.url), plan, harm_settings())
    consumer.renew()
    while consumer.step(1):
        pass
    consumer.release()
    held: Any = store.hgetall(plan.key(case.more["player"]))  # type: ignore[arg-type]
    assert set(held) == {image.FIELD, *map(data, case.raw)}
    # Sums that decay hang in their last digits on how many entries arrive together.
    assert_gives(show_features(held), case.gives, digits=9)
    assert held[b"_applied"] == data(case.raw["_applied"])


# --- What senders are owed


@every("outboxes")
def test_what_senders_are_owed_is_found(case: Case, store: redis.Redis) -> None:
    put(store, case.raw)
    seen = Outbox(store).look(PARTITIONS)
    assert_gives({"entries": [show_owed(entry) for entry in seen.entries], "gone": dict(seen.gone)}, case.gives)


def show_owed(entry: Any) -> dict[str, Any]:
    noted = shown(entry.noted)
    return {"partition": entry.partition, "id": entry.stream_id, "notice": shown(entry.notice), "noted": noted}


# --- The log, and the lake


def show_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of the lake by their place, moments in ISO; what records hold is shown elsewhere."""
    found = table.drop_columns(["record"]) if "record" in table.column_names else table
    rows = [{name: _cell(value) for name, value in row.items()} for row in found.to_pylist()]
    return sorted(rows, key=lambda row: (row["position"][:4], order(row["position"][5:])))


def _cell(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else shown(value)


def flushed(client: redis.Redis, folder: Path) -> dict[str, pa.Table]:
    """The tables of a lake that everything in the log is flushed to."""
    Lake(client, folder).flush()
    found = {name: sorted((folder / name).glob("*/*.parquet")) for name in SCHEMAS}
    return {
        name: pa.concat_tables([pq.read_table(one, partitioning=None) for one in files])
        for name, files in found.items()
        if files
    }


@every("logs")
def test_a_log_that_was_left_becomes_the_frozen_rows_of_the_lake(
    case: Case, store: redis.Redis, tmp_path: Path
) -> None:
    put(store, case.raw)
    tables = flushed(store, tmp_path)
    assert_gives({name: show_rows(table) for name, table in tables.items()}, case.gives)


@every("lake")
def test_a_file_of_the_lake_has_the_frozen_columns_and_rows(case: Case) -> None:
    table = pq.read_table(pa.BufferReader(case.raw))
    assert [[one.name, str(one.type)] for one in table.schema] == case.more["columns"]
    assert_gives(show_rows(table), case.gives)


@written({"lake": WRITTEN["lake"]})
def test_todays_lake_is_written_in_the_frozen_columns(case: Case, store: redis.Redis, tmp_path: Path) -> None:
    for one in (*cases("logs", 2), *cases("logs", WRITTEN["lake"])):
        put(store, one.raw)
    frozen = pq.read_table(pa.BufferReader(case.raw))
    table = flushed(store, tmp_path)[case.name]
    assert table.schema.equals(frozen.schema)
    assert table.sort_by("position").equals(frozen.sort_by("position"))


# --- What calls of the store write


def reservation(at: int) -> Reservation:
    """A contact that a budget is charged for."""
    charges = (("bonus_day/2026-11-24", 350),)
    moments = (AT + at, AT + at + 9_000_000)
    return Reservation(
        *moments, "reserved", "bonus", "free_bet", "sms", "evening", category="bets", priority=60, charges=charges
    )


class Writing:
    """A player of a house whose clock stands still, of whom everything is told that the store can hold."""

    def __init__(self, ledger: RedisLedger) -> None:
        self.ledger = ledger
        self.player, self.linked, self.half = (f"{{p017}}{number * 30}" for number in ("1", "2", "3"))
        self.keys = PlayerKeys(self.player)
        self.household = f"{{p017}}{'4' * 30}"
        self._told = 0

    async def append(self, keys: PlayerKeys, kind: Any, told: list[Assertion], **more: Any) -> None:
        self._told += 1
        body = msgspec.msgpack.encode({"player": keys.player, "event_id": f"e-{self._told}"})
        assert await self.ledger.append(keys, Entry(kind, f"e-{self._told}", b"8 bytes.", body, told, **more))

    async def reserve(self, name: str, held: Reservation | None) -> None:
        view = await self.ledger.view(self.keys, name)
        budgets = {account: 1_000_000 for account, _ in (held.charges if held else ())}
        booking = Booking(
            name,
            b"record",
            b"kept",
            view.facts_version,
            view.ledger_version,
            bytes(32),
            held,
            (),
            budgets,
            ("bonus_day/2026-11-23",),
        )
        assert (await self.ledger.reserve(self.keys, booking))[0] == "reserved"

    async def confirm(self, name: str, send_us: int) -> None:
        view = await self.ledger.view(self.keys, name)
        body = msgspec.msgpack.encode({"player": self.player, "decision_id": name})
        assert (await self.ledger.confirm(self.keys, name, view, send_us, body))[0] == "confirmed"

    async def all(self) -> None:
        """Facts, contacts in every state, answers, a household, a link and half of one."""
        zone = Assertion("time_zone", AT, 0, "Europe/Malta")
        await self.append(self.keys, "event", [zone, facts.consent("main", "sms", AT, granted=True)])
        await self.append(PlayerKeys(self.linked), "event", [Assertion("jurisdiction", AT, 0, "GB")])
        names = [f"017-{letter * 24}" for letter in "abcd"]
        for at, name in enumerate(names):
            await self.reserve(name, reservation(at))
        await self.reserve(f"017-{'e' * 24}", None)
        await self.confirm(names[0], AT + 5)
        await self.append(self.keys, "outcome", [], release=names[1])
        note = (f"~clicked/{names[0]}", f"{AT} clicked bonus free_bet sms main bets")
        await self.append(self.keys, "outcome", facts.unsubscribed("main", "email", AT), note=note)
        await self.append(self.keys, "event", [Assertion("exclusion:main", AT, 1, "on")])
        plain = reservation(9)._replace(purpose="marketing", offer="match_preview", category=None, charges=())
        await self.reserve(f"017-{'f' * 24}", plain)
        for name, held in (("017-a#1", reservation(1)), ("017-b#1", reservation(2))):
            assert await self.ledger.households.reserve(self.household, "", name, held)
        await self.ledger.households.release(self.household, ["017-b#1"])
        view = await self.ledger.view(self.keys, NO_DECISION)
        await self.ledger.households.add(self.household, view.held, view.held.lacking(AT))
        assert await self.ledger.identities.merge(self.linked, self.player, "sealed-name") == self.player
        await self.ledger.identities.begin_merge(self.half, self.player, "sealed-name")


def write(client: redis.Redis) -> Callable[[RedisLedger], Awaitable[dict[str, Any]]]:
    """All that the store holds after everything was told, without what hangs on its clock."""

    async def story(ledger: RedisLedger) -> dict[str, Any]:
        await Writing(ledger).all()
        held: Any = client.keys("*")
        beside = (b"croupier:bundle", b"croupier:keys", b"croupier:serving")
        names = [name for name in held if not name.startswith(beside)]
        found = taken(client, names)
        for key, content in found.items():
            if key.startswith("seen:"):
                content["string"] = data(content["string"])[:8].decode()
            if key.startswith("decision:"):
                content["string"] = content["string"].rpartition(" ")[2]
        return found

    return story


@written({"store": WRITTEN["store"]})
def test_todays_calls_of_the_store_write_the_frozen_entries(
    case: Case, store: redis.Redis, tell: Callable[[Story], Any]
) -> None:
    assert tell(write(store)) == case.gives


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_written_today_is_frozen(kind: str) -> None:
    assert WRITTEN[kind] in versions(kind)
