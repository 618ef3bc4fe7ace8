"""The compiled read plan against Feast over a real Valkey: each reads what the other writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, permutations
from pathlib import Path
from typing import Any

import feast.types
import mmh3
import pandas as pd
import pytest
import redis
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, OnDemandFeatureView, ValueType
from feast.data_format import ParquetFormat
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.online_stores.sqlite import SqliteOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given, settings
from hypothesis import strategies as st

from features.aggregates import Activity, empty, update
from features.definitions import apply, compile_plan, open_store
from features.read_plan import DTYPES, PlanError, ReadPlan, StoredRow
from features.schema import STORED, Dtype, Kind
from features.store.server import Server

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MEMBER = {
    "Bytes": "bytes_val",
    "String": "string_val",
    "Int32": "int32_val",
    "Int64": "int64_val",
    "Float64": "double_val",
    "Float32": "float_val",
    "Bool": "bool_val",
    "UnixTimestamp": "unix_timestamp_val",
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "Bytes": st.binary(max_size=300),
    "String": st.text(max_size=300),
    "Int32": st.integers(-(2**31), 2**31 - 1),
    "Int64": st.integers(-(2**63), 2**63 - 1),
    "Float64": st.floats(),
    "Float32": st.floats(width=32),
    "Bool": st.booleans(),
    "UnixTimestamp": st.integers(-(2**31), 2**33),
}
ROWS = st.tuples(*(st.none() | VALUES[dtype] for dtype in DTYPES))
MOMENTS = st.integers(1, 2**52)
PLAYERS = (f"{{p{number:03d}}}é{number}" for number in count())
SETTINGS = settings(max_examples=80, deadline=None, derandomize=True)


def source(name: str) -> FileSource:
    return FileSource(
        name=name, path=f"/nowhere/{name}.parquet", file_format=ParquetFormat(), timestamp_field="event_timestamp"
    )


def view(name: str, store: FeatureStore, fields: Sequence[Field], **options: Any) -> FeatureView:
    key = Field(name="player", dtype=feast.types.String)
    return FeatureView(
        name=name,
        entities=[store.get_entity("player")],
        schema=[key, *fields],
        source=source(name),
        ttl=timedelta(0),
        **options,
    )


def every(store: FeatureStore, extra: Sequence[Field] = ()) -> FeatureView:
    """A view with one feature of every type that a plan holds, named like its type."""
    fields = [Field(name=dtype, dtype=getattr(feast.types, dtype)) for dtype in DTYPES]
    return view("every", store, [*fields, *extra])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, server: Server) -> FeatureStore:
    home = tmp_path_factory.mktemp("feast")
    store = open_store(home, server.url)
    apply(store, home / "lake")
    store.apply([every(store)])
    return store


@pytest.fixture(scope="module")
def plan(store: FeatureStore) -> ReadPlan:
    return compile_plan(store)


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    return redis.Redis.from_url(server.url)


@pytest.fixture
def fresh(tmp_path: Path) -> FeatureStore:
    """A store with our definitions applied, for a test to spoil."""
    store = open_store(tmp_path, "unix:///nowhere.sock")
    apply(store, tmp_path / "lake")
    return store


def write_by_feast(store: FeatureStore, name: str, player: str, values: dict[str, Value], moment_us: int) -> None:
    key = EntityKey(join_keys=["player"], entity_values=[Value(string_val=player)])
    written = (key, values, EPOCH + timedelta(microseconds=moment_us), None)
    provider = store._get_provider()
    provider.online_write_batch(store.config, store.get_feature_view(name), [written], None)


def message(dtype: str, value: object) -> Value:
    options: Any = {} if value is None else {MEMBER[dtype]: value}
    return Value(**options)


def read_by_feast(store: FeatureStore, references: list[str], player: str) -> tuple[dict[str, Any], list[int]]:
    """Feast's values by name, moments as seconds like the plan's, and its event times in microseconds."""
    response = store.get_online_features(features=references, entity_rows=[{"player": player}])
    values = {name: column[0] for name, column in response.to_dict().items()}
    seconds = {
        name: (value - EPOCH) // timedelta(seconds=1) if isinstance(value, datetime) else value
        for name, value in values.items()
    }
    times = [result.event_timestamps[0].ToMicroseconds() for result in response.proto.results]
    return seconds, times


def read_by_plan(plan: ReadPlan, client: Any, player: str) -> StoredRow:
    return plan.decode(client.hmget(plan.key(player), list(plan.fields)))


def by_name(plan: ReadPlan, row: StoredRow, of: str) -> dict[str, Any]:
    pairs = zip(plan.features, row.values, strict=True)
    return {feature.name: value for feature, value in pairs if feature.view == of}


def same(ours: object, theirs: object) -> bool:
    """Equal in value and type, NaN equal to NaN and 0.0 unequal to -0.0."""
    return repr(ours) == repr(theirs)


EVERY = [f"every:{dtype}" for dtype in DTYPES]


def test_the_plan_reads_what_feast_wrote(store: FeatureStore, plan: ReadPlan, client: Any) -> None:
    @SETTINGS
    @given(ROWS, MOMENTS)
    def law(values: tuple[Any, ...], moment_us: int) -> None:
        player = next(PLAYERS)
        messages = {dtype: message(dtype, value) for dtype, value in zip(DTYPES, values, strict=True)}
        write_by_feast(store, "every", player, messages, moment_us)
        row = read_by_plan(plan, client, player)
        theirs, times = read_by_feast(store, EVERY, player)
        ours = by_name(plan, row, "every")
        assert all(same(ours[dtype], theirs[dtype]) for dtype in DTYPES)
        assert set(times[1:]) == {row.as_of["every"]} == {moment_us}

    law()


def test_feast_reads_what_the_plan_wrote(store: FeatureStore, plan: ReadPlan, client: Any) -> None:
    @SETTINGS
    @given(ROWS, MOMENTS)
    def law(values: tuple[Any, ...], moment_us: int) -> None:
        player = next(PLAYERS)
        whole = [None] * len(STORED) + list(values)
        pairs = plan.encode(whole, moment_us)
        client.execute_command("HSET", plan.key(player), *pairs)
        theirs, times = read_by_feast(store, EVERY, player)
        assert all(same(value, theirs[dtype]) for dtype, value in zip(DTYPES, values, strict=True))
        assert set(times[1:]) == {moment_us}
        assert same(plan.decode(pairs[1::2]), StoredRow(whole, dict.fromkeys(plan.views, moment_us)))

    law()


def test_the_plan_writes_the_bytes_that_feast_writes(store: FeatureStore, plan: ReadPlan, client: Any) -> None:
    @SETTINGS
    @given(ROWS, MOMENTS)
    def law(values: tuple[Any, ...], moment_us: int) -> None:
        player = next(PLAYERS)
        messages = {dtype: message(dtype, value) for dtype, value in zip(DTYPES, values, strict=True)}
        write_by_feast(store, "every", player, messages, moment_us)
        pairs = plan.encode([None] * len(STORED) + list(values), moment_us)
        ours = dict(zip(pairs[::2], pairs[1::2], strict=True))
        theirs = client.hgetall(plan.key(player))
        assert theirs == {field: ours[field] for field in theirs}
        assert len(theirs) == len(DTYPES) + 1

    law()


def test_the_stored_features_pass_through_feast_by_name(store: FeatureStore, plan: ReadPlan, client: Any) -> None:
    player = next(PLAYERS)
    sample = {Dtype.FLOAT64: 0.1, Dtype.INT64: 1_583_107_200_123_456, Dtype.STRING: "sports"}
    values = [None if index % 5 == 4 else sample[feature.dtype] for index, feature in enumerate(STORED)]
    moment = pd.Timestamp("2020-03-02T00:00:00.123456Z")
    for name in ("behaviour", "harm"):
        columns = {feature.name: [value] for feature, value in zip(STORED, values, strict=True) if feature.view == name}
        frame = pd.DataFrame(
            {"player": [player], "event_timestamp": [moment], "created_timestamp": [moment], **columns}
        )
        store.write_to_online_store(name, frame)
    ours, as_of = read_by_plan(plan, client, player)
    theirs, _ = read_by_feast(store, [f"{feature.view}:{feature.name}" for feature in STORED], player)
    assert ours[: len(STORED)] == values == [theirs[feature.name] for feature in STORED]
    assert as_of == {"behaviour": 1_583_107_200_123_456, "harm": 1_583_107_200_123_456, "every": None}


def test_what_a_house_did_not_store_yet_reads_as_missing(plan: ReadPlan, client: Any) -> None:
    """A feature that the schema gained has no field in the hash of a player from before."""
    added = {feature.name for feature in STORED if feature.kind in (Kind.WEEK, Kind.MONTH)}
    before = replace(plan, features=tuple(one for one in plan.features if one.name not in added))
    player, values = next(PLAYERS), update(empty(), [Activity("bet", 1_700_000_000_000_000, 500, product="casino")])
    held = dict(zip((feature.name for feature in STORED), values, strict=True))
    written = before.encode([held.get(feature.name) for feature in before.features], values[0])
    client.hset(plan.key(player), items=written)
    read, _ = plan.decode(client.hmget(plan.key(player), plan.fields))
    found = dict(zip(held, read, strict=False))
    assert held["bet_week_0"] == 500
    assert found == held | dict.fromkeys(added)


def test_a_player_never_seen_is_missing_everywhere(store: FeatureStore, plan: ReadPlan, client: Any) -> None:
    player = next(PLAYERS)
    row = read_by_plan(plan, client, player)
    theirs, _ = read_by_feast(store, EVERY, player)
    assert row == StoredRow([None] * len(plan.features), dict.fromkeys(plan.views))
    assert by_name(plan, row, "every") == {dtype: theirs[dtype] for dtype in DTYPES}


@SETTINGS
@given(st.integers(-(2**55), 2**55))
def test_event_times_before_1970_and_on_the_second_survive(moment_us: int) -> None:
    plan = ReadPlan("p", "", b"", b"", (), {"view": b"_ts:view"})
    assert plan.decode(plan.encode([], moment_us)[1::2]).as_of == {"view": moment_us}


def single(dtype: str) -> ReadPlan:
    feature = [{"name": "one", "view": "every", "dtype": dtype, "field": "AAAAAA=="}]
    blank = {"project": "p", "schema_hash": "", "prefix": "", "suffix": "", "features": feature, "views": {}}
    return ReadPlan.loads(pd.Series(blank).to_json().encode())


@pytest.mark.parametrize(("wrote", "reads"), list(permutations(DTYPES, 2)))
def test_a_changed_type_is_refused_not_misread(wrote: str, reads: str) -> None:
    @SETTINGS
    @given(VALUES[wrote])
    def law(value: object) -> None:
        with pytest.raises(PlanError, match=f"every:one holds no {reads}"):
            single(reads).decode([message(wrote, value).SerializeToString()])

    law()


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_that_are_cut_or_grow_are_refused(dtype: str) -> None:
    @SETTINGS
    @given(VALUES[dtype], st.data())
    def law(value: object, data: st.DataObject) -> None:
        wire = message(dtype, value).SerializeToString()
        cut = data.draw(st.integers(1, len(wire) - 1))
        for spoilt in (wire[:cut], wire + b"\x00"):
            with pytest.raises(PlanError):
                single(dtype).decode([spoilt])

    law()


@pytest.mark.parametrize("dtype", DTYPES)
def test_whatever_bytes_the_plan_accepts_protobuf_reads_alike(dtype: str) -> None:
    blank = {"Bytes": b"", "String": ""}.get(dtype, 0)
    tag = message(dtype, blank).SerializeToString()[:1]

    @settings(SETTINGS, max_examples=300)
    @given(st.binary(max_size=12))
    def law(rest: bytes) -> None:
        try:
            (value,), _ = single(dtype).decode([tag + rest])
        except PlanError:
            return
        theirs = getattr(Value.FromString(tag + rest), MEMBER[dtype])
        assert same(value, theirs)

    law()


def test_an_event_time_that_is_none_is_refused(plan: ReadPlan) -> None:
    sound = plan.encode([7] + [None] * (len(plan.features) - 1), 1)[1::2][: len(plan.features)]
    with pytest.raises(PlanError, match="event time"):
        plan.decode([*sound, b"\x1a\x00", None, None])


def test_an_answer_of_another_width_is_refused(plan: ReadPlan) -> None:
    with pytest.raises(PlanError, match="1 values for"):
        plan.decode([None])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("Int64", 2**63),
        ("Int64", 1.0),
        ("Int32", 2**31),
        ("Int64", "1"),
        ("Float64", "1"),
        ("Float32", 1e300),
        ("String", b"x"),
        ("String", "\ud800"),
        ("Bytes", "x"),
        ("Bytes", 3),
    ],
)
def test_a_value_of_another_type_is_not_written(dtype: str, value: object) -> None:
    with pytest.raises(PlanError, match="every:one"):
        single(dtype).encode([value], 0)


def test_the_null_moment_of_feast_reads_as_none() -> None:
    null = Value(unix_timestamp_val=-(2**63)).SerializeToString()
    assert single("UnixTimestamp").decode([null]) == StoredRow([None], {})


def test_keys_are_those_of_feast(store: FeatureStore, plan: ReadPlan) -> None:
    @SETTINGS
    @given(st.text(max_size=80))
    def law(player: str) -> None:
        key = EntityKey(join_keys=["player"], entity_values=[Value(string_val=player)])
        assert RedisOnlineStore()._generate_redis_keys_for_entities(store.config, [key]) == [plan.key(player)]

    law()


def test_a_plan_survives_being_written(plan: ReadPlan) -> None:
    assert ReadPlan.loads(plan.dumps()) == plan
    assert ReadPlan.loads(plan.dumps()).dumps() == plan.dumps()
    assert ReadPlan.loads(plan.dumps()).fields == plan.fields


def test_two_compilations_give_the_same_bytes(store: FeatureStore, plan: ReadPlan) -> None:
    assert compile_plan(store).dumps() == plan.dumps()


@pytest.mark.parametrize("text", [b"", b"{}", b'{"project": 1}'])
def test_what_is_no_plan_is_refused(text: bytes) -> None:
    with pytest.raises(PlanError, match="no read plan"):
        ReadPlan.loads(text)


def test_a_plan_with_unknown_types_is_refused() -> None:
    with pytest.raises(PlanError, match="Complex128"):
        single("Complex128")


def test_the_plan_keeps_the_order_of_the_schema(plan: ReadPlan) -> None:
    assert [feature.name for feature in plan.features[: len(STORED)]] == [feature.name for feature in STORED]
    assert list(plan.views) == ["behaviour", "harm", "every"]


def test_several_entities_are_refused(fresh: FeatureStore) -> None:
    fresh.apply([Entity(name="brand", join_keys=["brand"], value_type=ValueType.STRING)])
    with pytest.raises(PlanError, match="brand"):
        compile_plan(fresh)


def test_a_key_that_is_no_string_is_refused(fresh: FeatureStore) -> None:
    fresh.apply([Entity(name="player", join_keys=["player"], value_type=ValueType.INT64)])
    with pytest.raises(PlanError, match="INT64"):
        compile_plan(fresh)


def test_a_view_without_the_player_is_refused(fresh: FeatureStore) -> None:
    field = Field(name="odds", dtype=feast.types.Float64)
    fresh.apply([FeatureView(name="market", entities=[], schema=[field], source=source("market"))])
    with pytest.raises(PlanError, match="market is keyed by"):
        compile_plan(fresh)


@pytest.mark.parametrize("dtype", [feast.types.Array(feast.types.Float64), feast.types.Map, feast.types.Decimal])
def test_types_that_are_no_scalars_are_refused(fresh: FeatureStore, dtype: Any) -> None:
    fresh.apply([view("wide", fresh, [Field(name="embedding", dtype=dtype)])])
    with pytest.raises(PlanError, match="wide:embedding"):
        compile_plan(fresh)


@pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")
def test_views_computed_on_demand_are_refused(fresh: FeatureStore) -> None:
    def double(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"twice": inputs["bet_sum_7d"]}

    computed = OnDemandFeatureView(
        name="computed",
        sources=[fresh.get_feature_view("behaviour")],
        schema=[Field(name="twice", dtype=feast.types.Float64)],
        mode="python",
        udf=double,
        udf_string="double",
    )
    fresh.apply([computed])
    with pytest.raises(PlanError, match="OnDemandFeatureView"):
        compile_plan(fresh)


def test_views_that_are_not_online_are_refused(fresh: FeatureStore) -> None:
    fresh.apply([view("cold", fresh, [Field(name="age", dtype=feast.types.Int64)], online=False)])
    with pytest.raises(PlanError, match="cold"):
        compile_plan(fresh)


def colliding() -> tuple[str, str]:
    """Two names of one view that share a 32-bit hash."""
    seen: dict[int, str] = {}
    for number in count():
        hashed = mmh3.hash(f"clash:f{number}", signed=False)
        if hashed in seen:
            return seen[hashed], f"f{number}"
        seen[hashed] = f"f{number}"
    raise AssertionError


def test_names_that_share_a_hash_field_are_refused(fresh: FeatureStore) -> None:
    fresh.apply([view("clash", fresh, [Field(name=name, dtype=feast.types.Int64) for name in colliding()])])
    with pytest.raises(PlanError, match="one hash field for clash:"):
        compile_plan(fresh)


def test_a_registry_that_lacks_a_feature_of_the_schema_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path, "unix:///nowhere.sock")
    store.apply([Entity(name="player", join_keys=["player"], value_type=ValueType.STRING)])
    with pytest.raises(PlanError, match="bet_sum_7d"):
        compile_plan(store)


def test_stores_of_another_format_are_refused(fresh: FeatureStore) -> None:
    fresh.config._online_store = SqliteOnlineStoreConfig()
    with pytest.raises(PlanError, match="sqlite"):
        compile_plan(fresh)


def test_keys_of_another_version_are_refused(fresh: FeatureStore) -> None:
    fresh.config.entity_key_serialization_version = 2
    with pytest.raises(PlanError, match="version 2"):
        compile_plan(fresh)


def test_a_versioned_view_is_read_under_its_versioned_name(tmp_path: Path, server: Server, client: Any) -> None:
    store = open_store(tmp_path, server.url)
    store.config.registry.enable_online_feature_view_versioning = True
    apply(store, tmp_path / "lake")
    store.apply([every(store)])
    store.apply([every(store, extra=[Field(name="added", dtype=feast.types.Int64)])])
    plan, player = compile_plan(store), next(PLAYERS)
    assert plan.views["every"] == b"_ts:every_v1"
    write_by_feast(store, "every", player, {"added": Value(int64_val=7)}, 5)
    row = read_by_plan(plan, client, player)
    assert by_name(plan, row, "every")["added"] == 7
    assert row.as_of["every"] == 5


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("unix:///run/a.sock", {"unix_socket_path": "/run/a.sock"}),
        ("redis://localhost", {"host": "localhost", "port": "6379", "db": 0}),
        ("rediss://u:12@store:7000/3", {"username": "u", "password": "12", "ssl": True, "db": 3, "port": "7000"}),
        ("redis+cluster://u:12@a:7000,b", {"host": "a", "port": "7000", "username": "u", "password": "12"}),
        ("rediss+cluster://a", {"host": "a", "port": "6379", "ssl": True}),
        ("a:1,b:2,ssl=true", {"host": "a", "port": "1", "ssl": True}),
    ],
)
def test_addresses_reach_feasts_client(tmp_path: Path, address: str, expected: dict[str, object]) -> None:
    store = open_store(tmp_path, address)
    nodes, options = RedisOnlineStore._parse_connection_string(store.config.online_store.connection_string)
    assert expected.items() <= {**nodes[0], **options}.items()
    assert (store.config.online_store.redis_type == "redis_cluster") is ("cluster" in address)


def test_the_registry_lies_in_the_house(tmp_path: Path) -> None:
    apply(open_store(tmp_path, "unix:///nowhere.sock"), tmp_path / "lake")
    assert (tmp_path / "feast" / "registry.db").is_file()
