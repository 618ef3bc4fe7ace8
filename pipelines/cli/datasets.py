"""The command that makes data sets for scientists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.terminal import Json, console, fields, home, show

_SPAN = "7d, 12h, a day such as 2026-11-01 or a moment, UTC"


def dataset(
    since: Annotated[str | None, typer.Option(help=f"First decisions: {_SPAN}; 7d are before the lake's last.")] = None,
    until: Annotated[str | None, typer.Option(help="Decisions before that, in the same words.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File that ends in .parquet, or a folder; by default CROUPIER_HOME/datasets/decisions.parquet."
        ),
    ] = None,
    window_days: Annotated[
        float | None, typer.Option(min=0.01, max=365, help="Reward window; by default mlflow.yaml's.")
    ] = None,
    catalogue: Annotated[
        list[Path] | None, typer.Option(help="File that names candidates and prices contacts; several may be given.")
    ] = None,
    lake: Annotated[Path | None, typer.Option(help="By default the house's.")] = None,
    as_json: Json = False,
) -> None:
    """Write a row for each logged decision, as docs/dataset.md says. Example: croupier dataset --since 30d."""
    from pipelines.datasets.decisions import Wish, write

    wish = Wish(
        lake=lake or home() / "lake", since=since, until=until, window_days=window_days, catalogues=catalogue or ()
    )
    written = write(wish, out or home() / "datasets" / "decisions.parquet", console())
    show(fields(written), as_json=as_json)
