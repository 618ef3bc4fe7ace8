"""Furnish a home: many players, a churn model of serving size, a learnt policy. Runs within the build it is for.

players --bulk--> log --worker--> features, lake
                                    `--some--> lessons of known truth --learner--> snapshot
                                    `--------> labels of known truth --LightGBM--> churn model
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, cast

import lightgbm
import numpy as np
import redis
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks import population
from features.aggregates import encode, forward
from features.moments import micros
from features.schema import CHURN_DEFAULT, MODEL_FEATURES, VECTOR
from features.settings.mlflow_file import LearnerSettings
from features.store.bundles import publish
from features.store.connection import connect
from features.store.deployment import House, real_now_us
from features.store.server import start_server
from models.catalogue.offers import NO_CONTACT, Catalogue, load_catalogue
from models.churn.scorer import ChurnBundle, library_build
from models.policy.context import context
from models.policy.learned import Cursor, PolicyVersion
from models.policy.learner import ALONE, Learner, NamedAction
from models.policy.policy import Uniform, draw
from pipelines.imports import bulk
from pipelines.learning import policy
from pipelines.machine.up import Options, prepare
from pipelines.simulation import bandit
from pipelines.worker.child import Child
from pipelines.worker.consumer import serving_plan
from pipelines.worker.process import wait_until_applied

CLOCK_US: Final = micros(datetime(2026, 11, 18, 10, tzinfo=UTC))
"""House time at creation: a Wednesday morning, so that the time of day at which the bench runs moves no answer."""
TREES: Final = 200
LEAVES: Final = 31
LESSONS: Final = 6_000
SAMPLED: Final = 4_000
"""Players whose features model and snapshot are learnt from."""
_SEED: Final = 5
_CHUNK: Final = 200
_DEPOSITED: Final = [reading.name for reading in VECTOR].index("last_deposit_days_ago")
_MODEL: Final = [at for at, reading in enumerate(VECTOR) if reading.name in MODEL_FEATURES]

Vectors = NDArray[np.float64]


def furnish(home: Path, players: int, catalogue: Catalogue, console: Console, rate: float = 1.0) -> None:
    """Make and fill a home with a serving model and policy, and stop everything again.

    Args:
        home: Directory that does not exist yet.
        players: How many.
        catalogue: What the snapshot is learnt over.
        console: Where progress is shown.
        rate: House seconds per real second.
    """
    home.mkdir(parents=True)
    server = start_server(home)
    try:
        client = connect(server.url)
        house = prepare(client, Options(home, clock_us=CLOCK_US, rate=rate, players=0), server.url)
        with _worker(home, server.url):
            people(client, house, players, console)  # and the worker's last flush fills the lake
        vectors = _vectors(client, house, min(players, SAMPLED))
        with console.status("churn model and snapshot"):
            publish(client, "churn", churn_model(vectors), "bench/1")
            snapshots = learnt(vectors, catalogue)
            for snapshot in snapshots:
                policy.let_follow(client, snapshot)
            # What the learner makes of the bench's own answers, all without an outcome, must wait.
            policy.rollback(server.url, "the bench measures one snapshot", snapshots[0].version)
        client.close()
    finally:
        server.stop()


@contextmanager
def _worker(home: Path, url: str) -> Iterator[None]:
    environment = {"CROUPIER_STORE": url, "CROUPIER_HOME": str(home)}
    worker = Child("worker", [sys.executable, "-m", "pipelines", "worker"], environment, home / "worker.log")
    worker.start()
    try:
        yield
    finally:
        worker.stop()


def people(client: redis.Redis, house: House, players: int, console: Console) -> None:
    """Send the histories of many players through the usual way, and wait until features include them."""
    items, now_us = bulk.Items(client, house), house.now_us(real_now_us(client))
    reached: dict[int, str] = {}
    for first in track(range(0, players, _CHUNK), "players", console=console, transient=True):
        some = population.events(first, min(first + _CHUNK, players), now_us)
        reached |= bulk.append(client, house, [items.event(event) for event in some]).reached
    with console.status("features"):
        wait_until_applied(client, reached)


def _vectors(client: redis.Redis, house: House, players: int) -> Vectors:
    """Feature vectors of the first players at the house's creation, shape (players, len(VECTOR))."""
    plan = serving_plan(client)
    assert plan is not None  # noqa: S101 - `prepare` has published it
    pipe = client.pipeline(transaction=False)
    for number in range(players):
        pipe.hmget(cast("str", plan.key(house.player_key(population.name(number)))), list(plan.fields))
    rows = cast("list[list[bytes | None]]", pipe.execute())
    return forward(np.array([encode(plan.decode(row).values) for row in rows]), house.now_us(real_now_us(client)))


def churn_model(vectors: Vectors) -> bytes:
    """Churn model of 200 trees with 31 leaves over all model features; long-ago depositors mostly churn."""
    random = np.random.default_rng(_SEED)
    churned = vectors[:, _DEPOSITED] + random.normal(0, 8, len(vectors)) > np.nanmedian(vectors[:, _DEPOSITED])
    data = lightgbm.Dataset(vectors[:, _MODEL], churned.astype(int), feature_name=list(MODEL_FEATURES))
    settings = {"objective": "binary", "num_leaves": LEAVES, "min_data_in_leaf": 5, "learning_rate": 0.02}
    quiet = {"verbose": -1, "num_threads": 1, "deterministic": True, "force_row_wise": True}
    text = lightgbm.train(settings | quiet, data, TREES).model_to_string()
    return ChurnBundle(
        version="bench/1",
        horizon_days=30,
        features=MODEL_FEATURES,
        model=text[: text.index("\npandas_categorical")] + "\n",
        slope=1.0,
        intercept=0.0,
        build=library_build(),
        metadata={},
    ).dumps()


def learnt(vectors: Vectors, catalogue: Catalogue) -> list[PolicyVersion]:
    """Policy version learnt from random decisions about these players, in a seeded world of known truth.

    Returns:
        The snapshot after `LESSONS`, and a later one.
    """
    contexts = np.array([context(vector, CHURN_DEFAULT) for vector in vectors])
    spread = contexts.std(axis=0)
    standard = (contexts - contexts.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    world, learner, chance = bandit.BanditWorld(_SEED, catalogue), Learner(LearnerSettings()), Uniform(catalogue.size)
    snapshots = []
    for number in range(LESSONS + 2 * learner.settings.batch):
        if number == LESSONS:
            snapshots.append(learner.snapshot("bench", CLOCK_US, Cursor()))
        _, eligible, random = world.meet(number)
        place = draw(chance.pmf(chance.scores(standard[0]), eligible), float(random.random())).place
        truth, seen = world.truth(standard[number % len(standard)]), contexts[number % len(standard)]
        act = _act(place, catalogue)
        learner.zero(seen, act)
        if random.random() < truth.conversion[place]:
            value = float(truth.value[place])
            learner.one(seen, act, value)
            learner.settle(seen, act, value, value)
    return [*snapshots, learner.snapshot("bench", CLOCK_US, Cursor())]


def _act(place: int, catalogue: Catalogue) -> NamedAction:
    if place == NO_CONTACT:
        return ALONE
    offer, channel, slot = catalogue.action(place)
    return NamedAction(offer.id, channel, slot)


def main(
    home: Annotated[Path, typer.Argument(help="Directory that does not exist yet.")],
    players: Annotated[int, typer.Option(min=1)],
    catalogue: Annotated[Path, typer.Option(exists=True)],
    rate: Annotated[float, typer.Option(help="House seconds per real second.")] = 1.0,
) -> None:
    """Furnish a home with this build. Example: python -m benchmarks.house /tmp/home --players 500 --catalogue FILE."""
    furnish(home, players, load_catalogue(catalogue), Console(stderr=True), rate)


if __name__ == "__main__":
    typer.run(main)
