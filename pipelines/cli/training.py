"""Commands that train models."""

from __future__ import annotations

import signal
from datetime import datetime
from typing import Annotated, NoReturn

import typer

from pipelines.cli.terminal import CommandRefused, Commands, Json, console, fields, home, serving, show

train = typer.Typer(cls=Commands, no_args_is_help=True, help="Train a model.")


@train.command("churn")
def train_churn(
    horizon: Annotated[int | None, typer.Option(min=1, max=365, help="Days; by default mlflow.yaml's.")] = None,
    last_cutoff: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Leave out cut-offs after this day.")
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Promote it if it passes the gate.")] = False,
    as_json: Json = False,
) -> None:
    """Train, measure and register a churn model. Example: croupier train churn --horizon 30."""
    from pipelines.training import churn, promotion

    with serving() as url:
        result = churn.train(home(), url, horizon, last_cutoff.date() if last_cutoff else None)
        show(fields(result), as_json=as_json)
        if promote:
            promotion.promote(home(), url, result.model_version, "trained with --promote, and it passed the gate")


def retrain(as_json: Json = False) -> None:
    """Materialise, train, gate and promote the churn model, as one run of MLflow's. Example: croupier retrain."""
    from pipelines.training.retrain import retrain as again

    signal.signal(signal.SIGTERM, _stop)
    with serving() as url:
        result = again(home(), url, console())
    show(fields(result), as_json=as_json)
    if result.reason is not None:
        raise CommandRefused(result.reason)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt
