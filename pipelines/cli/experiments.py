"""Commands about experiments: plan, start, ramp, stop, list, and the uplift report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.terminal import CommandRefused, Commands, Json, Reason, fields, home, serving, show, told

if TYPE_CHECKING:
    from models.releases.release import Released
    from pipelines.experiments.metrics import Metric
    from pipelines.experiments.report import ReportFiles

report = typer.Typer(cls=Commands, no_args_is_help=True, help="Report what an experiment brought.")


@report.command("uplift")
def report_uplift(  # noqa: PLR0913, PLR0917 - typer makes an option of each, and none is told by its place
    window_days: Annotated[
        int | None, typer.Option(min=1, max=365, help="Days from a player's first decision; by default mlflow.yaml's.")
    ] = None,
    lake: Annotated[Path | None, typer.Option(help="Somebody else's files of the lake's columns.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Its key; by default the one that decided last.")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="File of experiments with the planned shares, for files of somebody else's.")
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File of metrics of your own, over the lake.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="Any CSV or Parquet file with a row for each unit.")] = None,
    unit: Annotated[
        str | None, typer.Option(help="--table: column of the unit's id; without, each row is one.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="--table: column of the variant.")] = None,
    control: Annotated[str | None, typer.Option(help="--table: the variant that others are compared with.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="--table: NAME:KIND[:COLUMN], KIND proportion, mean, retention or ratio (ABOVE/BELOW)."),
    ] = None,
    covariate: Annotated[list[str] | None, typer.Option(help="--table: column known before the experiment.")] = None,
    segment: Annotated[
        list[str] | None, typer.Option(help="--table: column by whose values effects are shown.")
    ] = None,
    day: Annotated[str | None, typer.Option(help="--table: column of the time at which a unit came in.")] = None,
    score: Annotated[str | None, typer.Option(help="--table: column by which units would be ranked.")] = None,
    cost: Annotated[str | None, typer.Option(help="--table: column of what a unit cost, for returns.")] = None,
    lower: Annotated[list[str] | None, typer.Option(help="--table: metric of which less is better.")] = None,
    guardrail: Annotated[
        list[str] | None, typer.Option(help="--table: METRIC=MARGIN, how much worse it may be, such as unsub=0.01.")
    ] = None,
    share: Annotated[list[str] | None, typer.Option(help="--table: VARIANT=SHARE as planned; equal if none.")] = None,
    running: Annotated[bool, typer.Option("--running", help="--table: the experiment still runs.")] = False,
    out: Annotated[Path | None, typer.Option(help="--table: directory of the report's files.")] = None,
    as_json: Json = False,
) -> None:
    """What the variants brought: health, differences, verdict. Example: croupier report uplift --window-days 14.

    Of any file: croupier report uplift --table FILE --variant group --control A --metric bought:proportion.
    """
    if table is None:
        from pipelines.experiments.report import run

        _refuse_without_table(unit, variant, control, metric, covariate, segment, day, score, cost, out)
        house = home().is_dir()
        found = run(home(), lake, window_days, experiment, plan, metrics)
        _tell(found, _recorded(found) if house else None, as_json=as_json)
        return
    from pipelines.experiments.report import of_table
    from pipelines.experiments.table import TableAsked

    if variant is None or control is None or not metric:
        raise CommandRefused("a table needs --variant COLUMN, --control NAME and --metric NAME:KIND[:COLUMN]")
    if lake or plan or experiment or window_days or metrics:
        raise CommandRefused(
            "--table stands alone: --lake, --plan, --experiment, --window-days and --metrics are of a lake"
        )
    asked = TableAsked(
        file=table,
        variant=variant,
        control=control,
        metrics=tuple(metric),
        unit=unit,
        covariates=tuple(covariate or ()),
        segments=tuple(segment or ()),
        day=day,
        score=score,
        cost=cost,
        lower=tuple(lower or ()),
        guardrails=_numbers(guardrail, "--guardrail METRIC=MARGIN, such as unsubscribed=0.01"),
        shares=_numbers(share, "--share VARIANT=SHARE, such as control=0.5"),
    )
    done = of_table(asked, out or Path(), running=running)
    _tell(done, _recorded(done) if home().is_dir() else None, as_json=as_json)


def _recorded(found: ReportFiles) -> str | None:
    """The run of MLflow that the report is; None where MLflow is not installed."""
    try:
        from pipelines.experiments.recorded import record
    except ImportError:
        return None
    return record(home(), found.report, found.files)


def _refuse_without_table(*told: object) -> None:
    if any(told):
        raise CommandRefused("--unit, --variant, --control, --metric and the like are of a file: name it with --table")


def _numbers(said: list[str] | None, form: str) -> dict[str, float]:
    found = {}
    for one in said or ():
        name, _, number = one.rpartition("=")
        try:
            found[name] = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
        except ValueError as error:
            raise CommandRefused(f"told as {form}, not {one!r}") from error
        if not name or not 0 <= found[name] < math.inf:
            raise CommandRefused(f"told as {form}, not {one!r}")
    return found


def _tell(found: ReportFiles, run: str | None, *, as_json: bool) -> None:
    """Print a report for people or machines."""
    from rich.console import Console

    from pipelines.experiments import page

    if as_json:
        files = {"files": [str(file) for file in found.files], "published": found.published, "run": run}
        show(fields(found.report) | files, as_json=True)
        return
    shown = Console()
    shown.print(page.terminal(found.report))
    health = found.report.health
    said = found.report.verdict or "verdict withheld: " + "; ".join(health.reasons)
    shown.print(said, markup=False, highlight=False)
    for reason, remedy in zip(health.reasons, found.report.until_green, strict=False):
        shown.print(f"{'look at' if health.ok else 'mend'}: {reason}: {remedy}", markup=False, highlight=False)
    for note in found.report.notes:
        shown.print(f"note: {note}", markup=False, highlight=False)
    shown.print("written: " + ", ".join(str(file) for file in found.files), markup=False, highlight=False)
    if run is not None:
        shown.print(f"recorded as run {run} of MLflow", markup=False, highlight=False)
    if found.published:
        shown.print("published at /reports/uplift of the API", markup=False, highlight=False)


experiment = typer.Typer(cls=Commands, no_args_is_help=True, help="Plan, start, ramp, stop and list experiments.")
Key = Annotated[str, typer.Argument(help="Key of a running experiment, or global_holdout.")]


@experiment.command("plan")
def experiment_plan(
    what: Annotated[str, typer.Argument(help="File with one experiment, or the key of a running one.")],
    effect: Annotated[float, typer.Option(min=0.001, help="Difference to be seen, relative to the control.")] = 0.1,
    metric: Annotated[str, typer.Option(help="What is to differ; a wrong name is answered with all.")] = "conversion",
    power: Annotated[float, typer.Option(min=0.5, max=0.99, help="Probability of seeing it.")] = 0.8,
    window_days: Annotated[int | None, typer.Option(min=1, max=365, help="By default mlflow.yaml's.")] = None,
    as_json: Json = False,
) -> None:
    """Tell how many players and days an experiment takes. Example: croupier experiment plan FILE --effect 0.05."""
    from features.settings.mlflow_file import read_mlflow
    from pipelines.experiments.plan import plan
    from pipelines.experiments.releases import planned
    from pipelines.experiments.report import costs

    with serving() as url:
        wanted, catalogue = planned(url, what)
    settings = read_mlflow(home())
    days = window_days or settings.report.window_days
    sizes = plan(
        home() / "lake",
        wanted,
        costs(catalogue, settings),
        window_days=days,
        metric=_metric(metric),
        relative_effect=effect,
        power=power,
    )
    if as_json:
        show(fields(sizes), as_json=True)
        return
    lines = [
        f"{sizes.experiment}: {sizes.metric} {sizes.mean:.4g} per player within {sizes.window_days} days (standard",
        f"deviation {sizes.deviation:.4g}, {sizes.players_met:,} players); {sizes.met_a_day:,.1f} new players a day.",
        f"To see {sizes.relative_effect:.1%} with {sizes.power:.0%} probability at level {sizes.level:g}:",
    ]
    print("\n".join(lines))
    for pair in sizes.pairs:
        days_said = "more than ten years" if pair.days is None else f"{pair.days:,} days"
        far = ", by the last rate of new players" if pair.extrapolated else ""
        print(f"  {pair.variant} against {pair.control}: {pair.players:,} players of both, {days_said}{far}")
    for warning in sizes.warnings:
        print(f"note: {warning}")


def _metric(name: str) -> Metric:
    from features.words import unknown
    from pipelines.experiments.metrics import METRICS

    if name not in METRICS:
        raise CommandRefused(unknown(name, "metric", sorted(METRICS)))
    return METRICS[name]


@experiment.command("start")
def experiment_start(
    file: Annotated[Path | None, typer.Argument(exists=True, dir_okay=False, help="Experiments to start.")] = None,
    holdout: Annotated[
        float | None, typer.Option(min=0.0001, max=0.5, help="Share of all players whom no marketing reaches.")
    ] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Start experiments, or the global holdout. Example: croupier experiment start FILE --reason "summer offers"."""
    from pipelines.experiments import releases

    if (file is None) == (holdout is None):
        raise CommandRefused("name a file of experiments, or --holdout with a share such as 0.05")
    with serving() as url:
        if file is not None:
            show(of_experiments(releases.start(url, file, reason)), as_json=as_json)
        elif holdout is not None:
            show(of_experiments(releases.hold_out(url, holdout, reason)), as_json=as_json)


@experiment.command("ramp")
def experiment_ramp(
    key: Key,
    shares: Annotated[list[str], typer.Argument(help="NAME=SHARE of each variant that changes.", metavar="SHARES...")],
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Change shares; only who must moves. Example: croupier experiment ramp KEY learnt=0.5 rules=0.4 --reason WHY."""
    from models.experiments.definition import GLOBAL_HOLDOUT
    from pipelines.experiments import releases

    wanted = dict(_share(said) for said in shares)
    if len(wanted) < len(shares):
        raise CommandRefused("a variant is named twice")
    with serving() as url:
        if key != GLOBAL_HOLDOUT:
            show(of_experiments(releases.ramp(url, key, wanted, reason)), as_json=as_json)
        elif list(wanted) == ["holdout"]:
            show(of_experiments(releases.hold_out(url, wanted["holdout"], reason)), as_json=as_json)
        else:
            raise CommandRefused(f"of {GLOBAL_HOLDOUT} only the share of holdout can change: holdout=0.08")


def _share(said: str) -> tuple[str, float]:
    name, _, share = said.partition("=")
    try:
        return name, float(share)
    except ValueError as error:
        raise CommandRefused(f"shares are told as NAME=SHARE, such as learnt=0.5, not {said!r}") from error


@experiment.command("stop")
def experiment_stop(key: Key, reason: Reason = "", as_json: Json = False) -> None:
    """End an experiment for good. Example: croupier experiment stop KEY --reason "the report is signed"."""
    from pipelines.experiments import releases

    with serving() as url:
        show(of_experiments(releases.stop(url, key, reason)), as_json=as_json)


@experiment.command("list")
def experiment_list(as_json: Json = False) -> None:
    """List what runs, with shares and phases, and every change. Example: croupier experiment list."""
    from pipelines.experiments.releases import listed

    with serving() as url:
        runs = listed(url)
    if as_json:
        show(runs, as_json=True)
        return
    by = "by release" if runs["source"] == "release" else "by the catalogue"
    print(f"Experiments {runs['version']}, {by}; global holdout {runs['global_holdout']:.2%} of all players.")
    for one in runs["experiments"]:
        begins, ends = one["range"]
        print(f"{one['key']}, phase {one['phase']}, layer {one['layer']}, players {begins:g} to {ends:g}:")
        for variant in one["variants"]:
            left_out = [name for names in variant.get("leave_out", {}).values() for name in names]
            leaves = f", without {', '.join(left_out)}" if left_out else ""
            print(f"  {variant['share']:7.2%}  {variant['name']}: {variant.get('policy', 'as it is')}{leaves}")
    for change in runs["changes"]:
        print(f"{change['at'][:19]}  {change['action']} {change['version']} by {change['by']}: {change['reason']}")


def of_experiments(done: Released) -> dict[str, Any]:
    """A release of experiments for people."""
    return told(done) | {"experiments": sorted(done.evidence["phases"]), **done.evidence}
