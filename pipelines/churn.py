"""The churn model's life: trained on the lake, promoted through a gate, rolled back with one command.

lake --cut-offs, labels--> players --Feast--> rows --fit--> version --gate--> store --> serving processes
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime
from datetime import time as clock
from pathlib import Path
from typing import Final, cast

import duckdb
import msgspec
import numpy as np
import pandas as pd
import redis
from numpy.typing import NDArray

from features.aggregates import encode, forward
from features.definitions import apply, open_store, training_frame
from features.events import micros, moment
from features.schema import ENTITY, STORED
from features.store import StoreError, connect, open_house, pointer_key, publish, real_now_us, serving_hashes
from models.churn import Evaluation, Rows, evaluate, fit
from models.population import Act, TrainingRefused, labelled, monthly_cutoffs, restrictions, split
from models.registry import ChurnRegistry, Gate, RegistryError, metrics
from models.scorer import BundleError, ChurnBundle, Scorer
from pipelines.materialise import materialise

LIVE_WAIT_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.1
_DEPOSITS: Final = """
    SELECT player, epoch_us(occurred_at) AS occurred_us FROM activity
    WHERE type = 'deposit' AND status = 'approved' AND target = 'account'
"""
_ACTS: Final = """
    SELECT player,
        CASE WHEN type = 'time_out' THEN 'time_out:' || brand
             WHEN type IN ('account_closed', 'registered') THEN 'account'
             WHEN json_extract_string(detail, '$.scope') = 'brand' THEN 'exclusion:' || brand ELSE 'exclusion:*' END,
        epoch_us(occurred_at),
        type IN ('self_excluded', 'account_closed', 'time_out'),
        epoch_us(json_extract_string(detail, '$.until')::TIMESTAMPTZ)
    FROM activity
    WHERE type IN ('self_excluded', 'exclusion_ended', 'account_closed', 'registered', 'time_out')
"""


class GateRefused(Exception):
    """A model version did not show what its promotion demands; the text is one sentence with the numbers."""


class CutoffError(msgspec.Struct, frozen=True):
    """Expected calibration error of one test cut-off: as scored, shifted to its churn rate, and the noise in both."""

    raw: float
    shifted: float
    floor: float


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """What a training brought; `ece` is the worst raw one of the test cut-offs."""

    model_version: str
    horizon_days: int
    auc: float
    auc_recency: float
    ece: float
    ece_by_cutoff: dict[str, CutoffError]
    train_rows: int
    test_rows: int
    train_churn_rate: float
    test_churn_rate: float
    cutoffs: list[str]
    seconds: float


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """What serves now, what served before, how many serving processes report it, and what the gate saw."""

    model_version: str
    replaced: str | None
    serving: int
    evidence: dict[str, float]


def train(home: Path, url: str, horizon_days: int | None = None, last_cutoff: date | None = None) -> Training:
    """Train, measure and register a model on the house's lake; nothing of it serves before `promote`.

    Args:
        home: Directory of the house.
        url: The store, for the house's clock.
        horizon_days: H; None is mlflow.yaml's.
        last_cutoff: Leave out cut-offs after this day; None takes all whose horizon has ended.

    Raises:
        TrainingRefused: There is too little to learn from.
    """
    began, now_us = time.monotonic(), _now_us(connect(url))
    registry = ChurnRegistry(home)
    horizon = registry.settings.churn.horizon_days if horizon_days is None else horizon_days
    limit_us = now_us if last_cutoff is None else micros(datetime.combine(last_cutoff, clock(), UTC))
    players = population(home / "lake", now_us, horizon, limit_us)
    fit_on, test_on = split(players["cutoff_us"].unique().tolist(), horizon)
    rows = training_rows(home, url, players, now_us)
    trained = fit(rows.at(fit_on), horizon)
    test = rows.at(test_on)
    evaluation = evaluate(test, trained.score(test))
    cutoffs = [moment(one).date().isoformat() for one in [*fit_on, *test_on]]
    parameters = {"horizon_days": horizon, "cutoffs": " ".join(cutoffs), "train_rows": len(rows.at(fit_on))}
    bundle = registry.log(trained, evaluation, test, parameters)
    return _training(bundle, evaluation, rows.at(fit_on), cutoffs, time.monotonic() - began)


def _training(
    bundle: ChurnBundle, evaluation: Evaluation, fitted: Rows, cutoffs: list[str], seconds: float
) -> Training:
    return Training(
        model_version=bundle.version,
        horizon_days=bundle.horizon_days,
        auc=evaluation.auc,
        auc_recency=evaluation.auc_recency,
        ece=evaluation.ece,
        ece_by_cutoff={
            moment(one.cutoff_us).date().isoformat(): CutoffError(one.raw, one.shifted, one.floor)
            for one in evaluation.calibration
        },
        train_rows=len(fitted),
        test_rows=evaluation.rows,
        train_churn_rate=float(fitted.churned.mean()),
        test_churn_rate=evaluation.churn_rate,
        cutoffs=cutoffs,
        seconds=seconds,
    )


def _now_us(client: redis.Redis) -> int:
    return open_house(client).now_us(real_now_us(client))


# --- Rows


def population(lake: Path, now_us: int, horizon_days: int, limit_us: int | None = None) -> pd.DataFrame:
    """Who is asked about at each monthly cut-off of a lake up to `limit_us`, and what became of them.

    Raises:
        TrainingRefused: No player was active at any cut-off whose horizon has ended.
    """
    with duckdb.connect() as connection:
        deposits, acts = _read(connection, lake)
    first_us = int(deposits["occurred_us"].min()) if len(deposits) else now_us
    cutoffs = [one for one in monthly_cutoffs(first_us, now_us, horizon_days) if limit_us is None or one <= limit_us]
    restricted = restrictions(acts)
    found = [labelled(deposits, restricted, one, horizon_days) for one in cutoffs]
    if not any(map(len, found)):
        raise TrainingRefused(
            f"the lake holds {len(deposits)} deposits and no month with 60 days of them before it and {horizon_days} "
            "days after it, so there is nothing to learn from yet"
        )
    return pd.concat(found, ignore_index=True)


def _read(connection: duckdb.DuckDBPyConnection, lake: Path) -> tuple[pd.DataFrame, list[Act]]:
    """Approved deposits onto accounts, and what restricted or freed players."""
    if not any(lake.glob("events/*/*.parquet")):
        return pd.DataFrame({ENTITY: [], "occurred_us": []}), []
    connection.execute("SET TimeZone = 'UTC'")
    files = connection.read_parquet(f"{lake}/events/*/*.parquet", union_by_name=True)
    files.create_view("activity")
    return connection.execute(_DEPOSITS).df(), [Act(*row) for row in connection.execute(_ACTS).fetchall()]


def training_rows(home: Path, url: str, players: pd.DataFrame, now_us: int) -> Rows:
    """The players of `population` with their features one microsecond before each cut-off, through Feast."""
    lake = home / "lake"
    materialise(lake, players["cutoff_us"].unique().tolist(), now_us)
    store = open_store(home, url)
    apply(store, lake)
    asked = players.assign(event_timestamp=pd.to_datetime(players["cutoff_us"] - 1, unit="us", utc=True))
    frame = training_frame(store, asked, "churn")
    cutoff_us = frame["cutoff_us"].to_numpy(np.int64)
    stale = frame["behaviour_as_of"].to_numpy(np.float64) != cutoff_us - 1
    if stale.any():
        raise RuntimeError(f"{stale.sum()} training rows hold features of another moment than their cut-off")
    return Rows(
        matrix=forward(_encoded(frame), cutoff_us.astype(np.float64)),
        churned=frame["churned"].to_numpy(np.bool_),
        cutoff_us=cutoff_us,
    )


def _encoded(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Stored values as numbers, shape (n, len(STORED)); what the frame lacks is for rules, and missing."""
    missing = [None] * len(frame)
    columns = [frame[one.name].tolist() if one.name in frame else missing for one in STORED]
    return np.array([encode(stored) for stored in zip(*columns, strict=True)])


# --- What serves


def promote(home: Path, url: str, version: str, by: str | None = None) -> Promotion:
    """Let a version serve if it passes mlflow.yaml's gate, and return when every serving process reports it.

    Args:
        home: Directory of the house.
        url: The store.
        version: `croupier-churn/7` or `7`.
        by: Who promotes, for the record; None is the user of this process.

    Raises:
        GateRefused: The version does not pass.
        RegistryError: There is no such version, or it is not whole.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    registry, client = ChurnRegistry(home), connect(url)
    version, champion = registry.canonical(version), registry.champion()
    bundle = registry.bundle(version)
    evidence = _evidence(registry, version, bundle, champion)
    _judge(version, evidence, registry.settings.gates.churn)
    serving = serve(client, bundle)
    if version != champion:
        registry.record(version, "promote", by or _user(), moment(_now_us(client)), evidence)
    return Promotion(model_version=version, replaced=champion, serving=serving, evidence=evidence)


def rollback(home: Path, url: str, by: str | None = None) -> Promotion:
    """Let the champion before this one serve again, and return when every serving process reports it.

    Raises:
        GateRefused: There is none.
        RegistryError: It is not whole.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    registry, client = ChurnRegistry(home), connect(url)
    champion, previous = registry.champion(), registry.previous()
    if previous is None:
        raise GateRefused(f"there is no churn model before {champion or 'the first one'} to go back to")
    serving = serve(client, registry.bundle(previous))
    registry.record(previous, "rollback", by or _user(), moment(_now_us(client)), {})
    return Promotion(model_version=previous, replaced=champion, serving=serving, evidence={})


def _evidence(registry: ChurnRegistry, version: str, bundle: bytes, champion: str | None) -> dict[str, float]:
    """What a version and the champion show on the version's test rows, scored as they are served."""
    rows = registry.test_rows(version)
    found = metrics(evaluate(rows, _scores(version, bundle, rows)))
    if champion is None or champion == version:
        return found
    try:
        served = evaluate(rows, _scores(champion, registry.bundle(champion), rows))
    except (GateRefused, RegistryError):
        return found  # what cannot be loaded any more cannot serve, and is no measure
    return found | {"auc_champion": served.auc, "ece_champion": served.ece}


def _scores(version: str, bundle: bytes, rows: Rows) -> NDArray[np.float64]:
    try:
        scorer = Scorer(ChurnBundle.loads(bundle))
    except BundleError as error:
        raise GateRefused(f"{version} cannot be served: {error}") from error
    try:
        return scorer.score_many(rows.matrix)
    finally:
        scorer.close()


def _judge(version: str, evidence: Mapping[str, float], gate: Gate) -> None:
    auc, rows = evidence["auc"], f"{evidence['test_rows']:,.0f} test rows"
    if auc < evidence["auc_recency"] + gate.auc_above_recency:
        raise GateRefused(
            f"{version} is not promoted: its AUC {auc:.4f} on {rows} is not {gate.auc_above_recency:g} above the "
            f"{evidence['auc_recency']:.4f} of ranking by days since the last deposit"
        )
    if auc < evidence.get("auc_champion", 0.0) + gate.auc_above_champion:
        raise GateRefused(
            f"{version} is not promoted: its AUC {auc:.4f} on {rows} is not {gate.auc_above_champion:g} or more above "
            f"the champion's {evidence['auc_champion']:.4f} on the same rows"
        )
    if evidence["ece_above_noise"] > gate.ece_above_noise:
        raise GateRefused(
            f"{version} is not promoted: its calibration error {evidence['ece']:.4f} on {rows} is "
            f"{evidence['ece_above_noise']:.4f} above what so few show by chance, more than {gate.ece_above_noise:g}"
        )


def serve(client: redis.Redis, bundle: bytes) -> int:
    """Publish a churn bundle and wait until every live serving process reports it; returns their number.

    Raises:
        StoreError: One did not in time; the pointer is back where it was.
    """
    pointer = pointer_key("churn")
    before = cast("bytes | None", client.get(pointer))
    digest = publish(client, "churn", bundle)
    deadline = time.monotonic() + LIVE_WAIT_SECONDS
    while others := [one for one in serving_hashes(client, "churn") if one != digest]:
        if time.monotonic() > deadline:
            _ = client.delete(pointer) if before is None else client.set(pointer, before)
            raise StoreError(
                f"{len(others)} serving processes did not load the model in {LIVE_WAIT_SECONDS:g} seconds; "
                "what served before goes on serving, and their log says why"
            )
        time.sleep(_POLL_SECONDS)
    return len(serving_hashes(client, "churn"))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return "unknown"
