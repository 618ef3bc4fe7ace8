"""Commands that measure against peers."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipelines.cli.terminal import CommandRefused, Commands, Json, console, fields, show

bench = typer.Typer(cls=Commands, no_args_is_help=True, help="Measure against peers, in turns.")
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Settings of a command whose options, `--help` among them, are read by the process that it starts."""


@bench.command("decide", context_settings=_PASSED_ON)
def bench_decide(context: typer.Context) -> None:
    """CPU of a whole decision beside its peers. Example: croupier bench decide --rounds 10."""
    _from_checkout("decide", context.args)


@bench.command("rules")
def bench_rules(rounds: Annotated[int, typer.Option(min=1)] = 15, as_json: Json = False) -> None:
    """A mask with all reasons beside CEL and zen-engine. Example: croupier bench rules --rounds 15."""
    from pipelines.bench.rules import rules as measure

    show(measure(rounds, console()), as_json=as_json)


@bench.command("ledger")
def bench_ledger(rounds: Annotated[int, typer.Option(min=1)] = 10, as_json: Json = False) -> None:
    """A reservation over eight caps beside a plain append. Example: croupier bench ledger --rounds 10."""
    from pipelines.bench.ledger import ledger

    show(ledger(rounds, console()), as_json=as_json)


@bench.command("events", context_settings=_PASSED_ON)
def bench_events(context: typer.Context) -> None:
    """CPU of an event from file and HTTP to features and lake. Example: croupier bench events --rounds 8."""
    _from_checkout("events", context.args)


@bench.command("growth", context_settings=_PASSED_ON)
def bench_growth(context: typer.Context) -> None:
    """CPU of a decision as a house grows. Example: croupier bench growth --plot growth.svg."""
    _from_checkout("growth", context.args)


@bench.command("load", context_settings=_PASSED_ON)
def bench_load(context: typer.Context) -> None:
    """Rates fixed ahead, from a tenth of capacity to four times. Example: croupier bench load --seconds 20."""
    _from_checkout("load", context.args)


@bench.command("classes", context_settings=_PASSED_ON)
def bench_classes(context: typer.Context) -> None:
    """Batches beside decisions, exclusions under overload. Example: croupier bench classes --seconds 20."""
    _from_checkout("classes", context.args)


@bench.command("restarts", context_settings=_PASSED_ON)
def bench_restarts(context: typer.Context) -> None:
    """Serving processes replaced, killed and frozen under load. Example: croupier bench restarts --rate 100."""
    _from_checkout("restarts", context.args)


@bench.command("sends", context_settings=_PASSED_ON)
def bench_sends(context: typer.Context) -> None:
    """From a decision to the provider's socket; CPU of a message. Example: croupier bench sends --rate 100."""
    _from_checkout("sends", context.args)


@bench.command("silence", context_settings=_PASSED_ON)
def bench_silence(context: typer.Context) -> None:
    """Exclusions while decisions and confirms are in flight. Example: croupier bench silence --times 10000."""
    _from_checkout("silence", context.args)


@bench.command("restricting", context_settings=_PASSED_ON)
def bench_restricting(context: typer.Context) -> None:
    """Facts that restrict, of linked ids, under load. Example: croupier bench restricting --times 10000."""
    _from_checkout("restricting", context.args)


@bench.command("soak", context_settings=_PASSED_ON)
def bench_soak(context: typer.Context) -> None:
    """All loops of a house for long under a steady load. Example: croupier bench soak --minutes 30."""
    _from_checkout("soak", context.args)


@bench.command("trace", context_settings=_PASSED_ON)
def bench_trace(context: typer.Context) -> None:
    """The way of one decision through folders and modules. Example: croupier bench trace --against HEAD~1."""
    _from_checkout("trace", context.args)


def _from_checkout(name: str, arguments: Sequence[str]) -> NoReturn:
    """Start a bench that lies beside the packages, and end as it ends."""
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "__main__.py").exists():
        raise CommandRefused(
            f"`croupier bench {name}` works from a checkout of Croupier, after `make install`, not from a wheel"
        )
    running = subprocess.Popen([sys.executable, "-m", "benchmarks", name, *arguments], cwd=root)  # noqa: S603 - ours
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the bench gets it too, and stops what it has started
    signal.signal(signal.SIGTERM, lambda *_: running.terminate())
    sys.exit(running.wait())


@bench.command("learning")
def bench_learning(
    seeds: Annotated[int, typer.Option(min=2)] = 5,
    decisions: Annotated[int, typer.Option(min=1_000, help="Of each run.")] = 16_000,
    as_json: Json = False,
) -> None:
    """Lift with delayed rewards, and where all contact harms. Example: croupier bench learning --seeds 5."""
    from models.catalogue.offers import load_catalogue
    from pipelines.simulation.bandit import measure
    from service.settings import catalogue_path

    found = measure(seeds, decisions, load_catalogue(catalogue_path()), console())
    show(fields(found), as_json=as_json)
