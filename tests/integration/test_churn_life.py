"""The churn model from training to promotion on a real lake, Feast store, MLflow registry and Valkey."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import redis

from features.aggregates import DAY_MICROS, encode, forward
from features.events import micros
from features.schema import MODEL_FEATURES, STORED, VECTOR, Use
from features.settings.environment import SettingError
from features.settings.mlflow_file import SHIPPED
from features.store.deployment import House, create_house
from features.store.errors import StoreError
from features.store.keys import BUNDLES, LIVE, pointer_key
from features.store.server import Server
from models.churn.population import TrainingRefused
from models.churn.scorer import ChurnBundle, Scorer
from models.churn.training import Rows, evaluate, fit
from models.releases import release
from models.releases.registry import ChurnRegistry
from models.releases.registry_database import RegistryError
from models.releases.release import GateRefused, journal
from pipelines.training import churn
from pipelines.training.churn import population, train, training_rows
from pipelines.training.materialise import materialise
from pipelines.training.promotion import promote, rollback, settle
from pipelines.worker.lake import SCHEMAS

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning",  # mlflow 3.17 on SQLAlchemy 2.1
    "ignore:fetch_arrow_table:DeprecationWarning",  # ibis 12 on duckdb 2
)
NOW = micros(datetime(2020, 3, 15, tzinfo=UTC))
START = micros(datetime(2019, 7, 1, tzinfo=UTC))
NOWHERE = "unix:///nowhere.sock"
NAMES = [reading.name for reading in VECTOR]


def event(player: str, kind: str, at: int, **fields: Any) -> dict[str, Any]:
    detail = {"detail": json.dumps(fields.pop("detail"))} if "detail" in fields else {}
    placed = {"timing_slot": "evening", "night": False, "time_zone": "UTC", "brand": "main"}
    return {"player": player, "type": kind, "occurred_at": at, "known_at": at, **placed, **detail, **fields}


def deposit(player: str, at: int, amount: int = 2_000) -> dict[str, Any]:
    return event(player, "deposit", at, status="approved", target="account", amount_minor=amount)


def life(number: int) -> Iterator[dict[str, Any]]:
    """A player who comes at a pace of their own until they stop, and deposits on some of the visits."""
    random = np.random.default_rng([11, number])
    player = f"{{p{number % 256:03d}}}{number}"
    at, gap = START + random.uniform(0, 60) * DAY_MICROS, random.lognormal(1, 0.8)
    stops = at + random.exponential(150) * DAY_MICROS
    while at < min(stops, NOW):
        yield event(player, "login", int(at))
        if random.random() < 0.4:
            yield deposit(player, int(at) + 60_000_000)
        at += max(0.2, random.exponential(gap)) * DAY_MICROS


def write(lake: Path, name: str, rows: list[dict[str, Any]]) -> None:
    path = lake / "events" / "day=2020-03-15" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS["events"]), path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a lake and an empty registry, to be copied."""
    home = tmp_path_factory.mktemp("made")
    write(home / "lake", "all", [row for number in range(700) for row in life(number)])
    ChurnRegistry(home)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def house(store: redis.Redis) -> House:
    return create_house(store, clock_us=NOW)


def of(home: Path, horizon: int = 30) -> Rows:
    return training_rows(home, NOWHERE, population(home / "lake", NOW, horizon), NOW)


def serving(store: redis.Redis) -> str:
    digest: Any = store.get(pointer_key("churn"))
    bundle: Any = store.get(f"croupier:bundle:{digest.decode()}")
    return ChurnBundle.loads(bundle).version


# --- Rows


def test_what_happens_after_the_cut_offs_changes_no_byte_of_any_row(home: Path) -> None:
    players = population(home / "lake", NOW, 14)
    before = training_rows(home, NOWHERE, players, NOW)
    last = int(players["cutoff_us"].max())
    later = [deposit(player, last + at) for at in (0, 1, DAY_MICROS) for player in players["player"][:500]]
    write(home / "lake", "later", later)
    moved = pq.read_table(home / "lake/events/day=2020-03-15/all.parquet")
    stays = pc.less(moved["occurred_at"], pa.scalar(last, pa.timestamp("us", "UTC")))
    shifted = moved.filter(pc.invert(stays)).to_pylist()
    write(
        home / "lake",
        "all",
        moved.filter(stays).to_pylist()
        + [row | {"occurred_at": row["occurred_at"] + timedelta(hours=5)} for row in shifted],
    )
    after = training_rows(home, NOWHERE, players, NOW)
    assert after.matrix.tobytes() == before.matrix.tobytes()
    assert len(list(home.glob("lake/features/*/*"))) == players["cutoff_us"].nunique()


def test_training_reads_through_feast_what_batch_computed(home: Path) -> None:
    players = population(home / "lake", NOW, 30)
    rows = training_rows(home, NOWHERE, players, NOW)
    batched = pa.concat_tables(pq.read_table(file) for file in sorted(home.glob("lake/features/*/*.parquet")))
    values = {
        (row["player"], row["behaviour_as_of"] + 1): encode([row[one.name] for one in STORED])
        for row in batched.to_pylist()
    }
    keys = list(zip(players["player"], players["cutoff_us"], strict=True))
    expected = np.array([forward(values[key], key[1]) for key in keys])
    model = [NAMES.index(name) for name in MODEL_FEATURES]
    np.testing.assert_array_equal(rows.matrix[:, model], expected[:, model])
    np.testing.assert_array_equal(rows.churned, players["churned"])
    # No rule's marker reaches a training row.
    seen = {reading.use for at, reading in enumerate(VECTOR) if np.nan_to_num(rows.matrix[:, at]).any()}
    assert seen == {Use.MODEL}


def test_materialising_again_keeps_what_is_there_and_replaces_what_is_out_of_date(home: Path) -> None:
    lake, cutoffs = home / "lake", [NOW - days * DAY_MICROS for days in (90, 60, 30)]
    assert materialise(lake, cutoffs[:2], NOW) == (2, 0)
    files = {file: file.stat().st_mtime_ns for file in lake.glob("features/*/*")}
    assert materialise(lake, cutoffs, NOW) == (1, 2)
    assert {file: file.stat().st_mtime_ns for file in files} == files
    foreign = next(iter(files)).with_name("made-by-somebody.parquet")
    foreign.write_bytes(b"")
    other_schema = next(iter(files)).with_name(f"{cutoffs[0] - 1}-{'0' * 12}-{'0' * 12}.parquet")
    other_schema.write_bytes(b"")
    write(lake, "late", [deposit("{p000}0", cutoffs[0] - 5 * DAY_MICROS)])
    assert materialise(lake, cutoffs[:1], NOW) == (1, 0)
    assert foreign.exists()
    assert not other_schema.exists()
    foreign.unlink()
    rows = [row for file in lake.glob("features/*/*") for row in pq.read_table(file).to_pylist()]
    keys = [(row["player"], row["event_timestamp"]) for row in rows]
    assert len(keys) == len(set(keys))
    assert len({moment for _, moment in keys}) == 3


def test_excluded_closed_and_pausing_players_are_no_rows(home: Path) -> None:
    lake, cutoff = home / "lake", micros(datetime(2020, 2, 1, tzinfo=UTC))
    before, within = cutoff - 5 * DAY_MICROS, cutoff + 5 * DAY_MICROS
    until = (datetime(2020, 2, 3, tzinfo=UTC)).isoformat()
    over = (datetime(2020, 1, 31, tzinfo=UTC)).isoformat()
    lives: dict[str, list[tuple[str, int, dict[str, str]]]] = {
        "excluded": [("self_excluded", before, {"scope": "all"})],
        "returned": [("self_excluded", before - 9, {"scope": "all"}), ("exclusion_ended", before, {"scope": "all"})],
        "elsewhere": [("self_excluded", before - 9, {"scope": "brand"}), ("exclusion_ended", before, {"scope": "all"})],
        "closed": [("account_closed", before, {})],
        "reopened": [("account_closed", before - 9, {}), ("registered", before, {})],
        "pausing": [("time_out", before, {"until": until})],
        "rested": [("time_out", before, {"until": over})],
        "excluded_within": [("self_excluded", within, {"scope": "all"})],
        "closed_within": [("account_closed", within, {})],
        "unrestricted": [],
    }
    rows = [event(player, kind, at, detail=detail) for player, acts in lives.items() for kind, at, detail in acts]
    write(lake, "acts", [*rows, *(deposit(player, cutoff - 6 * DAY_MICROS) for player in lives)])
    players = population(lake, NOW, 30)
    asked = set(players.loc[players["cutoff_us"] == cutoff, "player"])
    assert asked & set(lives) == {"returned", "reopened", "rested", "unrestricted"}


def test_only_approved_deposits_onto_accounts_count(home: Path) -> None:
    lake, cutoff = home / "lake", micros(datetime(2020, 2, 1, tzinfo=UTC))
    before, after = cutoff - DAY_MICROS, cutoff + DAY_MICROS
    declined, wallet = {"status": "declined"}, {"target": "wallet"}
    rows = [deposit("declined", before) | declined, deposit("wallet", before) | wallet]
    rows += [deposit("quiet", before), deposit("quiet", after) | declined, deposit("quiet", after) | wallet]
    write(lake, "more", rows)
    players = population(lake, NOW, 30)
    asked = players.loc[players["cutoff_us"] == cutoff].set_index("player")["churned"]
    assert asked["quiet"]
    assert not {"declined", "wallet"} & set(asked.index)


# --- Too little


@pytest.mark.usefixtures("house")
def test_an_empty_lake_is_refused_with_one_sentence(tmp_path: Path, server: Server) -> None:
    with pytest.raises(TrainingRefused, match=r"^the lake holds 0 deposits .*nothing to learn from yet$"):
        train(tmp_path, server.url)


@pytest.mark.usefixtures("house")
def test_too_few_months_are_refused_with_one_sentence(home: Path, server: Server) -> None:
    with pytest.raises(TrainingRefused, match=r"^the lake has 2 monthly cut-offs"):
        train(home, server.url, last_cutoff=date(2019, 10, 15))


# --- A life


@pytest.mark.usefixtures("house")
def test_a_models_life(home: Path, server: Server, store: redis.Redis) -> None:
    registry = ChurnRegistry(home)
    weak = log_variant(registry, home, few=150)
    with pytest.raises(GateRefused, match="no churn model before the first one"):
        rollback(home, server.url, "a test")
    done = promote(home, server.url, "1", "a test", by="ann")
    assert (done.version, done.replaced, done.serving, serving(store)) == (weak, None, 0, weak)
    with pytest.raises(GateRefused, match="no churn model before croupier-churn/1"):
        rollback(home, server.url, "a test")

    refused(
        home,
        server,
        log_variant(registry, home, slope=-1.0),
        r"AUC 0\.\d{4} on \d+ test rows .* since the last deposit",
    )
    refused(home, server, log_variant(registry, home, intercept=3.0), r"calibration error 0\.\d{4} on")
    assert (serving(store), registry.champion(), registry.previous()) == (weak, weak, None)

    better = train(home, server.url)
    assert (better.model_version, better.horizon_days) == ("croupier-churn/4", 30)
    assert better.cutoffs == [
        f"{month}-01" for month in ("2019-09", "2019-10", "2019-11", "2019-12", "2020-01", "2020-02")
    ]
    assert better.auc > better.auc_recency + 0.01
    assert list(better.ece_by_cutoff) == better.cutoffs[-2:]
    assert serving(store) == weak  # nothing serves before it is promoted
    for _ in range(2):  # again: nothing changes
        done = promote(home, server.url, better.model_version, "a test", by="bob")
        assert done.version == "croupier-churn/4"
        assert done.evidence["auc"] == pytest.approx(better.auc, abs=1e-9)
        assert (serving(store), registry.champion(), registry.previous()) == (
            "croupier-churn/4",
            "croupier-churn/4",
            weak,
        )

    worse = log_variant(registry, home, few=100)
    refused(home, server, worse, r"AUC .* above the champion's 0\.\d{4} on the same rows")
    assert (serving(store), registry.champion()) == ("croupier-churn/4", "croupier-churn/4")

    done = rollback(home, server.url, "a test", by="eve")
    assert (done.version, done.replaced, serving(store)) == (weak, "croupier-churn/4", weak)
    settle(home, store)
    assert (registry.champion(), registry.previous()) == (weak, None)
    records = registry.records()
    assert [(one.action, one.by, one.replaced, one.version) for one in records] == [
        ("rollback", "eve", "croupier-churn/4", weak),
        ("promote", "bob", weak, "croupier-churn/4"),
        ("promote", "ann", None, weak),
    ]
    assert records == journal(store, "churn")[::-1]
    assert records[1].evidence["auc"] > records[1].evidence["auc_champion"]
    assert records[0].at.startswith("2020-03-15")


def log_variant(registry: ChurnRegistry, home: Path, few: int | None = None, **changes: float) -> str:
    """Register a model of the first `few` training rows, or one whose parts were exchanged."""
    rows = of(home)
    cutoffs = np.unique(rows.cutoff_us).tolist()
    learnt, test = rows.at(cutoffs[:-2]), rows.at(cutoffs[-2:])
    model = replace(fit(learnt.take(np.arange(len(learnt)) < (few or len(learnt))), 30), **changes)  # type: ignore[arg-type]
    return registry.log(model, evaluate(test, model.score(test)), test, {}).version


def refused(home: Path, server: Server, version: str, why: str) -> None:
    with pytest.raises(GateRefused, match=f"^{version} is not promoted: its {why}"):
        promote(home, server.url, version, "a test")


@pytest.mark.usefixtures("house")
def test_a_version_is_whole_and_names_what_it_lacks(home: Path, server: Server) -> None:
    version = train(home, server.url, horizon_days=14).model_version
    registry = ChurnRegistry(home)
    bundle = ChurnBundle.loads(registry.bundle(version))
    assert (bundle.version, bundle.horizon_days) == (version, 14)
    assert set(bundle.features) <= set(MODEL_FEATURES)
    rows = registry.test_rows("1")
    scores = Scorer(bundle).score_many(rows.matrix)
    assert evaluate(rows, scores).auc == pytest.approx(bundle.metadata["auc"], abs=1e-9)
    with pytest.raises(RegistryError, match="there is no version 9 of croupier-churn"):
        promote(home, server.url, "9", "a test")
    with pytest.raises(RegistryError, match="there is no version none of croupier-churn"):
        promote(home, server.url, "none", "a test")
    run = registry._client.get_model_version("croupier-churn", "1").run_id
    assert run
    artifacts = {one.path for one in registry._client.list_artifacts(run)}
    assert artifacts == {"model", "bundle.msgpack", "features.json", "test_rows.parquet", "calibration.svg"}
    folder = Path(registry._client.download_artifacts(run, "", None))
    assert "<svg" in (folder / "calibration.svg").read_text(encoding="utf-8")
    assert "player" not in pq.read_schema(folder / "test_rows.parquet").names


@pytest.mark.usefixtures("house")
def test_a_champion_is_measured_as_it_serves_and_one_that_nobody_can_load_bars_nobody(
    home: Path, server: Server, store: redis.Redis
) -> None:
    registry = ChurnRegistry(home)
    first, second = log_variant(registry, home), log_variant(registry, home, few=150)
    promote(home, server.url, first, "a test")
    kept = artifact(registry, first)
    kept.write_bytes(b"junk")
    with pytest.raises(GateRefused, match="above the champion's"):
        promote(home, server.url, second, "a test")
    store.hdel(BUNDLES, first)
    assert "auc_champion" not in promote(home, server.url, second, "a test").evidence
    assert serving(store) == second
    with pytest.raises(GateRefused, match="cannot be served: not a churn"):
        promote(home, server.url, first, "a test")
    kept.unlink()
    with pytest.raises(RegistryError, match=r"has no bundle.msgpack"):
        promote(home, server.url, first, "a test")


def artifact(registry: ChurnRegistry, version: str) -> Path:
    run = registry._client.get_run(str(registry._version(version).run_id))
    return Path(str(run.info.artifact_uri).removeprefix("file://")) / "bundle.msgpack"


def test_settings_that_are_not_valid_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.yaml").write_text(SHIPPED.read_text("utf8").replace("auc_above_recency", "auc_over_recency"))
    with pytest.raises(SettingError, match=r"mlflow.yaml:\d+: gates.churn.auc_over_recency: .*auc_above_recency"):
        ChurnRegistry(tmp_path)


async def test_promotion_waits_until_every_serving_process_reports_the_model(
    home: Path, server: Server, opened: Any
) -> None:
    async with opened() as client:
        version = (await asyncio.to_thread(train, home, server.url)).model_version
        done = await asyncio.to_thread(promote, home, server.url, version, "a test")
        assert done.serving == 1
        assert client.app.state.deps.serving.churn.bundle.version == version


@pytest.mark.usefixtures("house")
def test_a_serving_process_that_does_not_load_the_model_keeps_the_old_one_everywhere(
    home: Path, server: Server, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = train(home, server.url).model_version
    monkeypatch.setattr(release, "LIVE_WAIT_SECONDS", 0.2)
    store.set(f"{LIVE}:stuck", msgspec.json.encode({"churn": "another"}))
    store.sadd(LIVE, f"{LIVE}:stuck")
    with pytest.raises(StoreError, match=r"^1 serving processes did not load the churn release"):
        promote(home, server.url, version, "a test")
    assert store.get(pointer_key("churn")) is None
    assert ChurnRegistry(home).champion() is None
    store.delete(f"{LIVE}:stuck")
    promote(home, server.url, version, "a test")
    assert serving(store) == version


def test_frames_of_another_moment_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    players = population(home / "lake", NOW, 30)
    monkeypatch.setattr(churn, "materialise", lambda lake, cutoffs, now: materialise(lake, cutoffs[:-1], now))
    with pytest.raises(RuntimeError, match="training rows hold features of another moment"):
        training_rows(home, NOWHERE, players, NOW)
