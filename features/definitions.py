"""The home of Feast: definitions made from the schema, training frames, the compiled read plan."""

# ruff: noqa: E402 - what Feast imports is set up before it is imported

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import typeguard
import yaml

# Feast has typeguard compile checks of types into every function of its own, which takes two thirds of the time of its
# import, seconds. Typeguard means such checks for development and leaves them out under `python -O`.
_checking = typeguard.typechecked
vars(typeguard)["typechecked"] = lambda target: target

import feast.types
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import ParquetFormat
from feast.feature_view import DUMMY_ENTITY_NAME
from feast.infra.online_stores.helpers import _mmh3, _redis_key, compute_versioned_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

vars(typeguard)["typechecked"] = _checking
del _checking

from features.read_plan import DTYPES, PlanError, PlannedFeature, ReadPlan
from features.schema import ENTITY, STORED, VIEWS, Use, schema_hash
from features.store.cluster import Nodes, is_cluster

if TYPE_CHECKING:
    import pandas as pd

_TEMPLATE: Final = Path(__file__).with_name("feature_store.yaml")
_KEY_VERSION: Final = 3
SERVICES: Final = {"churn": (VIEWS[Use.MODEL],), "decision": tuple(VIEWS.values())}
"""Feature service -> its views: what the churn model is trained on, what a decision looks at."""


def open_store(home: Path, connection: str) -> FeatureStore:
    """Open the Feast store of a house; connects on first use.

    Args:
        home: Directory of the house; the registry lies in its `feast/`.
        connection: Address of the store, `unix:///run/store.sock`, `redis://host:port/0` or
            `redis+cluster://host:port,host:port`, or a connection string as Feast writes it: `host:port` and then
            keywords of the Redis client.
    """
    # ibis 12 calls a name that duckdb 2 renamed; Feast's import lets such warnings through to users.
    warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
    (home / "feast").mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load(_TEMPLATE.read_text(encoding="utf-8"))
    for section, name in (("registry", "path"), ("online_store", "connection_string")):
        config[section][name] = Template(config[section][name]).substitute(
            home=home.resolve(), connection=_connection_string(connection)
        )
    config["online_store"]["redis_type"] = "redis_cluster" if is_cluster(connection) else "redis"
    return FeatureStore(config=RepoConfig(**config, repo_path=home.resolve()))


def _connection_string(connection: str) -> str:
    """A store's address as Feast's connection string: `host:port,keyword=JSON value,...`."""
    if "://" not in connection:
        return connection
    url = urlsplit(connection)
    options: dict[str, object] = dict(parse_qsl(url.query))
    if not is_cluster(connection):
        options |= {"unix_socket_path": url.path} if url.scheme == "unix" else {"db": int(url.path.strip("/") or 0)}
    options |= {name: value for name in ("username", "password") if (value := getattr(url, name))}
    options |= {"ssl": True} if url.scheme.startswith("rediss") else {}
    hosts = Nodes(connection).names if url.netloc else ["localhost:6379"]
    return ",".join([*hosts, *(f"{name}={json.dumps(value)}" for name, value in options.items())])


def apply(store: FeatureStore, lake: Path) -> ReadPlan:
    """Register the schema's entity, views and services over the lake's `features/`, and compile the plan."""
    player = Entity(name=ENTITY, join_keys=[ENTITY], value_type=ValueType.STRING)
    views = {name: _view(name, player, lake) for name in VIEWS.values()}
    services = [FeatureService(name=name, features=[views[view] for view in held]) for name, held in SERVICES.items()]
    store.apply([player, *views.values(), *services])
    return compile_plan(store)


def _view(name: str, player: Entity, lake: Path) -> FeatureView:
    fields = [
        Field(name=feature.name, dtype=getattr(feast.types, feature.dtype), description=feature.unit)
        for feature in STORED
        if feature.view == name
    ]
    source = FileSource(
        name=name,
        path=f"{lake.resolve()}/features/*/*.parquet",
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    key = Field(name=ENTITY, dtype=feast.types.String)
    return FeatureView(name=name, entities=[player], ttl=timedelta(0), schema=[key, *fields], source=source)


def training_frame(store: FeatureStore, players_and_times: pd.DataFrame, service: str) -> pd.DataFrame:
    """Features as they were known at given moments, joined point-in-time correct.

    Args:
        store: The house's Feast store.
        players_and_times: Columns `player` and `event_timestamp` (aware); others are kept. Feast joins what was
            true at the moment itself too: ask one microsecond before a cut-off.
        service: `churn` or `decision`.

    Returns:
        The given rows in their order, and one column per feature by name; null where nothing was known.
    """
    chosen = store.get_feature_service(service)
    names = [field.name for projection in chosen.feature_view_projections for field in projection.features]
    asked = players_and_times.assign(_row=range(len(players_and_times)))
    frame: pd.DataFrame = store.get_historical_features(entity_df=asked, features=chosen).to_df()
    return frame.sort_values("_row", ignore_index=True)[[*players_and_times.columns, *names]]


def compile_plan(store: FeatureStore) -> ReadPlan:
    """Compile the read plan of the registry's definitions.

    Raises:
        PlanError: The registry holds something that a plan cannot express, or not what the schema names.
    """
    _refuse_settings(store.config)
    _refuse_entities(store.registry.list_entities(store.project))
    views = store.registry.list_all_feature_views(store.project)
    for view in views:
        _refuse_view(view)
    versioned = {
        view.name: compute_versioned_name(view, store.config.registry.enable_online_feature_view_versioning)
        for view in views
    }
    features = [_planned(view.name, versioned[view.name], field) for view in views for field in view.features]
    _refuse_collisions(features)
    prefix, suffix = _key_parts(store.project)
    return ReadPlan(
        project=store.project,
        schema_hash=schema_hash(),
        prefix=prefix,
        suffix=suffix,
        features=tuple(_in_schema_order(features)),
        views={name: f"_ts:{field}".encode() for name, field in versioned.items()},
    )


def _planned(view: str, versioned: str, field: Field) -> PlannedFeature:
    return PlannedFeature(field.name, view, str(field.dtype), _mmh3(f"{versioned}:{field.name}"))


def _in_schema_order(features: Sequence[PlannedFeature]) -> list[PlannedFeature]:
    """Features in the schema's order, others after them; Feast keeps the order of its registry."""
    held = {(feature.view, feature.name, feature.dtype): feature for feature in features}
    wanted = [(feature.view, feature.name, str(feature.dtype)) for feature in STORED]
    if missing := [key for key in wanted if key not in held]:
        _refuse(f"the registry lacks {missing}: apply the definitions")
    return [*(held.pop(key) for key in wanted), *held.values()]


def _key_parts(project: str) -> tuple[bytes, bytes]:
    """Bytes of a player's key before the length of the id, and after the id."""
    key: bytes = _redis_key(project, EntityKey(join_keys=[ENTITY], entity_values=[Value(string_val="")]), _KEY_VERSION)
    suffix = project.encode()
    return key.removesuffix(bytes(4) + suffix), suffix


def _refuse(reason: str) -> None:
    raise PlanError(reason)


def _refuse_settings(config: RepoConfig) -> None:
    if config.online_store.type != "redis":
        _refuse(f"the online store is {config.online_store.type}: the plan reads the format of redis")
    if config.entity_key_serialization_version != _KEY_VERSION:
        _refuse(f"entity keys are of version {config.entity_key_serialization_version}, not {_KEY_VERSION}")


def _refuse_entities(entities: Iterable[Entity]) -> None:
    keys = {entity.join_key: entity.value_type for entity in entities if entity.name != DUMMY_ENTITY_NAME}
    if list(keys) != [ENTITY]:
        _refuse(f"entities with the keys {sorted(keys)}: the plan reads one entity, {ENTITY!r}")
    if keys[ENTITY] is not ValueType.STRING:
        _refuse(f"the key {ENTITY!r} is of type {keys[ENTITY]}, not a string")


def _refuse_view(view: Any) -> None:  # noqa: ANN401 - Feast's views share no type
    if type(view) is not FeatureView:
        _refuse(f"{view.name} is of {type(view).__name__}: the plan reads what is stored, in a FeatureView")
    columns = [(column.name, column.dtype) for column in view.entity_columns]
    if columns != [(ENTITY, feast.types.String)]:
        _refuse(f"{view.name} is keyed by {columns}, not by the string {ENTITY!r}")
    if not view.online:
        _refuse(f"{view.name} is not kept online")
    for field in view.features:
        if str(field.dtype) not in DTYPES:
            _refuse(f"{view.name}:{field.name} is of type {field.dtype}: a plan holds {', '.join(DTYPES)}")


def _refuse_collisions(features: Iterable[PlannedFeature]) -> None:
    features = list(features)
    uses = Counter(feature.field for feature in features)
    if twice := [f"{feature.view}:{feature.name}" for feature in features if uses[feature.field] > 1]:
        _refuse(f"one hash field for {', '.join(sorted(twice))}: rename one of them")
