"""Train the churn model on the lake; `promotion` decides what serves.

lake --cut-offs, labels--> players --Feast--> rows --fit--> version
"""

from __future__ import annotations

import time
from datetime import UTC, date, datetime
from datetime import time as clock
from pathlib import Path
from typing import Final

import duckdb
import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.aggregates import encode, forward
from features.definitions import apply, open_store, training_frame
from features.events import micros, moment
from features.lake.files import table_files, unmoved
from features.schema import ENTITY, STORED
from features.store.connection import connect
from features.store.deployment import open_house, real_now_us
from models.churn.population import Act, TrainingRefused, labelled, monthly_cutoffs, restrictions, split
from models.churn.scorer import ChurnBundle
from models.churn.training import Evaluation, Rows, evaluate, fit
from models.releases.registry import ChurnRegistry, Run
from pipelines.training.materialise import materialise
from pipelines.training.promotion import settle

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


class CutoffError(msgspec.Struct, frozen=True):
    """Calibration error of a test cut-off: as scored, shifted to its churn rate, and the noise in both."""

    raw: float
    shifted: float
    floor: float


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a training; `ece` is the worst unshifted one of the test cut-offs."""

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


class TrainingPopulation(msgspec.Struct, frozen=True, kw_only=True):
    """Population and horizon of a training.

    Attributes:
        players: Columns `player`, `cutoff_us`, `churned`; see `population`.
        horizon_days: H.
        now_us: The house's clock.
    """

    players: pd.DataFrame
    horizon_days: int
    now_us: int

    @property
    def cutoffs_us(self) -> list[int]:
        """Cut-offs of the population, unix microseconds."""
        found: list[int] = self.players["cutoff_us"].unique().tolist()
        return found


def train(home: Path, url: str, horizon_days: int | None = None, last_cutoff: date | None = None) -> TrainingResult:
    """Train, evaluate and register a model on the house's lake; it serves only after `promote`.

    Args:
        home: Directory of the house.
        url: The store, for the house's clock.
        horizon_days: H; None is mlflow.yaml's.
        last_cutoff: Leave out cut-offs after this day; None takes all whose horizon has ended.

    Raises:
        TrainingRefused: There is too little to learn from.
    """
    registry = settle(home, connect(url))
    question = ask(home, url, horizon_days or registry.settings.churn.horizon_days, last_cutoff)
    materialise(home / "lake", question.cutoffs_us, question.now_us)
    return learn(home, url, registry, question)


def ask(home: Path, url: str, horizon_days: int, last_cutoff: date | None = None) -> TrainingPopulation:
    """Population that `learn` would train on; see `train`."""
    client = connect(url)
    now_us = open_house(client).now_us(real_now_us(client))
    limit_us = None if last_cutoff is None else micros(datetime.combine(last_cutoff, clock(), UTC))
    players = population(home / "lake", now_us, horizon_days, limit_us)
    return TrainingPopulation(players=players, horizon_days=horizon_days, now_us=now_us)


def learn(
    home: Path, url: str, registry: ChurnRegistry, question: TrainingPopulation, run: Run | None = None
) -> TrainingResult:
    """Fit, evaluate and register a model on materialised features, in a given MLflow run or one of its own."""
    began, horizon = time.monotonic(), question.horizon_days
    fit_on, test_on = split(question.cutoffs_us, horizon)
    rows = point_in_time(home, url, question.players)
    learnt, test = rows.at(fit_on), rows.at(test_on)
    trained = fit(learnt, horizon)
    evaluation = evaluate(test, trained.score(test))
    cutoffs = [moment(one).date().isoformat() for one in [*fit_on, *test_on]]
    parameters = {"horizon_days": horizon, "cutoffs": " ".join(cutoffs), "train_rows": len(learnt)}
    bundle = registry.log(trained, evaluation, test, parameters, run)
    return _training(bundle, evaluation, learnt, cutoffs, time.monotonic() - began)


def _training(
    bundle: ChurnBundle, evaluation: Evaluation, fitted: Rows, cutoffs: list[str], seconds: float
) -> TrainingResult:
    return TrainingResult(
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


# --- Rows


def churn_frame(home: Path, url: str, horizon_days: int = 30) -> pd.DataFrame:
    """The whole population of the churn model, with features and labels.

    Returns:
        A row per player and monthly cut-off. `player`: key; `cutoff`: first of a month, UTC; `churned`: no approved
        deposit in the `horizon_days` days from the cut-off; then the features that a model may see, by the schema's
        names and units, as they were one microsecond before the cut-off. NaN is missing.

    Raises:
        TrainingRefused: There is too little to learn from.
    """
    question = ask(home, url, horizon_days)
    frame = training_rows(home, url, question.players, question.now_us).frame()
    frame.insert(0, "player", question.players["player"].to_numpy())
    return frame


def population(lake: Path, now_us: int, horizon_days: int, limit_us: int | None = None) -> pd.DataFrame:
    """Population at each monthly cut-off of a lake up to `limit_us`, with labels.

    Raises:
        TrainingRefused: No player was active at any cut-off whose horizon has ended.
    """
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        with unmoved(lake):
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
    """Approved deposits onto accounts, and acts that restrict or free players."""
    if not (files := table_files(lake, "events")):
        return pd.DataFrame({ENTITY: [], "occurred_us": []}), []
    connection.read_parquet([str(file) for file in files], union_by_name=True).create_view("activity")
    return connection.execute(_DEPOSITS).df(), [Act(*row) for row in connection.execute(_ACTS).fetchall()]


def training_rows(home: Path, url: str, players: pd.DataFrame, now_us: int) -> Rows:
    """Training rows of the `population`; missing features are computed first."""
    materialise(home / "lake", players["cutoff_us"].unique().tolist(), now_us)
    return point_in_time(home, url, players)


def point_in_time(home: Path, url: str, players: pd.DataFrame) -> Rows:
    """Training rows of the `population` with features one microsecond before each cut-off, through Feast."""
    store = open_store(home, url)
    apply(store, home / "lake")
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
    """Stored values as numbers, shape (n, len(STORED)); columns that the frame lacks (rules' features) are NaN."""
    missing = [None] * len(frame)
    columns = [frame[one.name].tolist() if one.name in frame else missing for one in STORED]
    return np.array([encode(stored) for stored in zip(*columns, strict=True)])
