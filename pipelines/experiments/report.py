"""`croupier report`: compute the uplift report of a lake or a file, write it, publish it to a running house.

lake --duckdb--> players --uplift--+--> report --> uplift.{html,csv,json} --+--> store --> GET /reports
file --duckdb--> units   --tabled--+                                        +--> a run of MLflow
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec
import redis

from features.events import moment
from features.settings.mlflow_file import Mlflow, read_mlflow
from features.store.connection import connect
from features.store.deployment import open_house, real_now_us
from features.store.errors import StoreError
from features.store.keys import REPORTS, report_history_key, report_key
from features.store.server import heard
from models.catalogue.offers import Catalogue, load_catalogue
from models.experiments.allocation import of_catalogue
from models.experiments.definition import Experiment, Experiments, load_experiments
from pipelines.experiments import page
from pipelines.experiments.exposures import Costs, Exposures, exposures, opened, records
from pipelines.experiments.health import tallies
from pipelines.experiments.own_metrics import load as load_metrics
from pipelines.experiments.refusals import ReportRefused
from pipelines.experiments.result import Uplift
from pipelines.experiments.table import TableAsked
from pipelines.experiments.tabled import tabled
from pipelines.experiments.uplift import uplift
from pipelines.served import kept_by_hash, served_catalogue, served_experiments, served_rulebook
from pipelines.worker.lake import reach
from service.reports import Finding, Publication, Summary
from service.rules.rulebook import load_rulebook, rulebook_path
from service.settings import catalogue_path

NAME: Final = "uplift"
_KEPT: Final = 500
"""Publications of a report that stay for comparison over time."""


class ReportFiles(NamedTuple):
    """A report, its files, and whether it was published."""

    report: Uplift
    files: list[Path]
    published: bool


class LiveHouse(NamedTuple):
    """Data that only a running house has.

    Attributes:
        client: Its store.
        complete_us: House time up to which the lake is complete, unix microseconds.
        lag_seconds: How long ago that is, real seconds; None where no worker has written this lake.
    """

    client: redis.Redis
    complete_us: int
    lag_seconds: float | None


def costs(catalogue: Catalogue, settings: Mlflow) -> Costs:
    """Contact costs of a catalogue; an offer counts as taken within the reward window of mlflow.yaml."""
    return Costs.of(catalogue, settings.reward.window_days)


def run(
    home: Path,
    lake: Path | None = None,
    days: int | None = None,
    experiment: str | None = None,
    plan: Path | None = None,
    metrics: Path | None = None,
) -> ReportFiles:
    """Compute the uplift report, write it to `home/reports`, publish it if a store answers.

    Args:
        home: Directory of the house.
        lake: Somebody else's files: neither the house's clock nor its store is asked, and nothing is published.
        days: Window; None is mlflow.yaml's.
        experiment: Key; None takes the one that decided last.
        plan: File of experiments with the shares that were planned, where no house tells them.
        metrics: File of metrics of one's own.

    Raises:
        ReportRefused: There is nothing to report, or the plan is of something else.
        CatalogueError: The plan or the file of metrics is not valid.
    """
    house = running(home) if lake is None else None
    name = NAME if experiment is None else f"{NAME}_{re.sub('[^a-z0-9_]', '_', experiment)}"
    try:
        report = compute(lake or home / "lake", read_mlflow(home), house, days, experiment, plan, metrics)
        contents = contents_of(report)
        files = write(home / "reports", name, contents)
        if house is not None:
            publish(house.client, name, report, contents)
        return ReportFiles(report, files, house is not None)
    finally:
        if house is not None:
            house.client.close()


def of_table(asked: TableAsked, folder: Path, *, running: bool = False) -> ReportFiles:
    """Compute the report of somebody's file and write it to a folder; nothing of a house is asked.

    Raises:
        ReportRefused: The file cannot be read, or holds what cannot be compared.
    """
    report = tabled(asked, running=running)
    return ReportFiles(report, write(folder, NAME, contents_of(report)), published=False)


def contents_of(report: Uplift) -> dict[str, str]:
    """A report as the texts of its files."""
    return {"html": page.html(report), "csv": page.table_csv(report), "json": as_json(report)}


def compute(
    lake: Path,
    settings: Mlflow,
    house: LiveHouse | None = None,
    days: int | None = None,
    experiment: str | None = None,
    plan: Path | None = None,
    metrics: Path | None = None,
) -> Uplift:
    """The report of a lake; without a house its newest entry is the clock.

    Raises:
        ReportRefused: There is nothing to report.
    """
    if not lake.is_dir():
        raise ReportRefused(f"there is no lake at {lake}")
    catalogue = load_catalogue(catalogue_path()) if house is None else served_catalogue(house.client)
    harm = (load_rulebook(rulebook_path()) if house is None else served_rulebook(house.client)).harm
    serving, own = _running(catalogue, house), () if metrics is None else load_metrics(metrics)
    with opened(lake) as connection:
        window_days = days or settings.report.window_days
        found = exposures(connection, costs(catalogue, settings), window_days, experiment, own, harm)
        draws = tallies(records(connection, found.experiment))
    return uplift(
        found,
        found.latest_us if house is None else house.complete_us,
        shares(found, serving, house) if plan is None else planned_shares(found, plan),
        draws,
        None if house is None else house.lag_seconds,
        policies=_policies(found, serving, house, plan),
        running=house is not None and _runs(found.experiment, serving),
    )


def _runs(key: str, serving: Mapping[str, Experiments]) -> bool:
    return any(_running_as(one, key) is not None for one in serving.values())


def _policies(
    found: Exposures, serving: Mapping[str, Experiments], house: LiveHouse | None, plan: Path | None
) -> dict[str, str | None] | None:
    """Who chooses in each variant, by everything that split its players; None where nothing is known of it."""
    known = [load_experiments(plan)] if plan else [*_known(found, serving, house).values()]
    running = [one for each in known if (one := _running_as(each, found.experiment)) is not None]
    told = {variant.name: variant.policy for one in running for variant in one.variants}
    names = set(map(str, found.players["variant"].unique()))
    return {name: told[name] for name in sorted(names)} if names <= told.keys() else None


def _running(catalogue: Catalogue, house: LiveHouse | None) -> dict[str, Experiments]:
    """What splits players now, by the versions that decisions name: those of the first builds name the catalogue."""
    of_file = of_catalogue(catalogue.experiment)
    serving = of_file if house is None else served_experiments(house.client)
    return {catalogue.hash: of_file, of_file.hash: of_file, serving.hash: serving}


def shares(
    found: Exposures, running: Mapping[str, Experiments], house: LiveHouse | None
) -> dict[str, Mapping[str, float]]:
    """Variant shares by what split the players: what serves, and what the store kept."""
    known = _known(found, running, house)
    running_as = {version: _running_as(one, found.experiment) for version, one in known.items()}
    return _comparable({version: one for version, one in running_as.items() if one is not None})


def _known(found: Exposures, running: Mapping[str, Experiments], house: LiveHouse | None) -> dict[str, Experiments]:
    """Everything that split the players, as far as it serves or the store kept it."""
    theirs = set(map(str, found.players["split"].unique()))
    known = {version: one for version, one in running.items() if version in theirs}
    for version in sorted(theirs - set(known)):
        kept = kept_by_hash(house.client, version) if house else None
        if kept is not None:
            known[version] = _splitting(kept)
    return known


def planned_shares(found: Exposures, plan: Path) -> dict[str, Mapping[str, float]]:
    """Variant shares as a file plans them, whatever split the players; raises ReportRefused or CatalogueError."""
    planned = _running_as(load_experiments(plan), found.experiment)
    if planned is None:
        raise ReportRefused(f"{plan} plans no experiment {found.experiment}")
    whole = sum(one.share for one in planned.variants)
    each = {one.name: one.share / whole for one in planned.variants}
    return {str(version): each for version in found.players["split"].unique()}


def _running_as(experiments: Experiments, key: str) -> Experiment | None:
    return next((one for one in experiments.running if one.key == key), None)


def _comparable(known: Mapping[str, Experiment]) -> dict[str, Mapping[str, float]]:
    """Shares by version, as far as players who came under it were split by them.

    Where a ramp gave out buckets that nobody owned, those who come to the experiment then are mostly players of these
    buckets, whom no shares describe: of later phases there are none.
    """
    sizes = {version: {one.name: one.size for one in each.variants if one.size} for version, each in known.items()}
    whole = {sum(size.values()) for size in sizes.values()}
    first = min((each.phase for each in known.values()), default=1)
    return {
        version: {name: size / sum(sizes[version].values()) for name, size in sizes[version].items()}
        for version, each in known.items()
        if sizes[version] and (len(whole) == 1 or each.phase == first)
    }


def _splitting(kept: bytes) -> Experiments:
    """Experiments, or those that a kept catalogue names."""
    if "offers" in msgspec.json.decode(kept):
        return of_catalogue(Catalogue.model_validate_json(kept).experiment)
    return Experiments.model_validate_json(kept)


def running(home: Path) -> LiveHouse | None:
    """Open the house of a home, if its store answers; the caller closes its client."""
    try:
        client = connect(heard(home), timeout=10.0)
    except StoreError:
        return None
    try:
        house = open_house(client)
    except StoreError:
        client.close()
        return None
    real_us, flushed_us = real_now_us(client), reach(home / "lake").flushed * 1_000
    lag = (real_us - flushed_us) / 1e6 if flushed_us else None
    return LiveHouse(client, house.now_us(flushed_us or real_us), lag)


def as_json(report: Uplift) -> str:
    """The whole report as plain values for JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


def write(folder: Path, name: str, contents: Mapping[str, str]) -> list[Path]:
    """Write a report's files, each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind, text in contents.items():
        unfinished = folder / f".{name}.{kind}.tmp"
        unfinished.write_text(text, encoding="utf-8")
        files.append(unfinished.replace(folder / f"{name}.{kind}"))
    return files


def publish(client: redis.Redis, name: str, report: Uplift, contents: Mapping[str, str]) -> None:
    """Publish a report to the serving processes: files and list entry at once."""
    at = moment(open_house(client).now_us(real_now_us(client))).isoformat()
    health = msgspec.json.encode(report.health)
    summary = Summary(title=f"Uplift of {report.experiment}", at=at, ok=report.health.ok, verdict=report.verdict)
    held: dict[Any, Any] = {**contents, "at": at, "health": health}
    pipe = client.pipeline(transaction=True)
    pipe.hset(report_key(name), mapping=held)
    pipe.hset(REPORTS, name, cast("str", msgspec.json.encode(summary)))
    pipe.execute()
    client.rpush(report_history_key(name), msgspec.json.encode(_publication(report, at)))
    client.ltrim(report_history_key(name), -_KEPT, -1)


def _publication(report: Uplift, at: str) -> Publication:
    primary = [row for row in report.metrics if row.metric == report.primary]
    return Publication(
        at=at,
        experiment=report.experiment,
        ok=report.health.ok,
        players=report.maturity.mature,
        findings=[
            Finding(
                metric=row.title or row.metric,
                variant=row.variant,
                control=row.control,
                estimate=row.absolute.estimate,
                low=row.absolute.low,
                high=row.absolute.high,
            )
            for row in primary
            if (row.variant, row.control) in report.heads
        ],
    )
