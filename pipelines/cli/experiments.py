"""Commands about experiments: the uplift report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.terminal import Commands, Json, fields, home, show

report = typer.Typer(cls=Commands, no_args_is_help=True, help="Report what an experiment brought.")


@report.command("uplift")
def report_uplift(
    window_days: Annotated[
        int | None, typer.Option(min=1, max=365, help="Days from a player's first decision; by default mlflow.yaml's.")
    ] = None,
    lake: Annotated[Path | None, typer.Option(help="Somebody else's files of the lake's columns.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Its key; by default the one that decided last.")] = None,
    as_json: Json = False,
) -> None:
    """What the variants brought: health, differences, verdict. Example: croupier report uplift --window-days 14."""
    from rich.console import Console

    from pipelines.experiments import page
    from pipelines.experiments.report import run

    found = run(home(), lake, window_days, experiment)
    if as_json:
        files = {"files": [str(file) for file in found.files], "published": found.published}
        show(fields(found.report) | files, as_json=True)
        return
    shown = Console()
    shown.print(page.terminal(found.report))
    said = found.report.verdict or "verdict withheld: " + "; ".join(found.report.health.reasons)
    shown.print(said, markup=False, highlight=False)
    shown.print("written: " + ", ".join(str(file) for file in found.files), markup=False, highlight=False)
    if found.published:
        shown.print("published at /reports/uplift of the API", markup=False, highlight=False)
