"""Commands that take in outside data."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipelines.cli.terminal import CommandRefused, Commands, Json, home, show

imports = typer.Typer(cls=Commands, no_args_is_help=True, help="Take in outside data.")


@imports.command("events")
def import_events(
    file: Annotated[Path, typer.Argument(help="CSV or JSON lines, gzipped or not.")],
    mapping: Annotated[Path | None, typer.Option(help="Which column means what; without it, our own events.")] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="Where rejected rows go; by default CROUPIER_HOME/rejects.")
    ] = None,
    max_rejected_share: Annotated[
        float | None, typer.Option(help="End where more is rejected; by default the mapping's, 0.5.", min=0, max=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Import events of any age. Example: croupier import events log.csv.gz --mapping payments_log."""
    from features import logs
    from pipelines.imports.importer import run

    logs.begin()
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(name, _leave)
    done = run(home(), file, mapping=mapping, rejects=rejects, max_rejected_share=max_rejected_share)
    show(done._asdict(), as_json=as_json)
    for warning in done.warnings:
        print(f"croupier: warning: {warning}", file=sys.stderr)
    if done.refusal:
        raise CommandRefused(done.refusal)


@imports.command("history")
def import_history(as_json: Json = False) -> None:
    """Take in long past events that were told over HTTP, as a worker does. Example: croupier import history."""
    from features import logs
    from pipelines.imports.history import take_in

    logs.begin()
    done = take_in(home())
    show(done._asdict(), as_json=as_json)
    for warning in done.warnings:
        print(f"croupier: warning: {warning}", file=sys.stderr)


def _leave(number: int, _: object) -> NoReturn:
    """End by a signal as by an exception: what is open is closed, temporary files go; a second one changes nothing."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


@imports.command("schema")
def import_schema() -> None:
    """Print the JSON schema of a mapping file. Example: croupier import schema > mapping.schema.json."""
    from pipelines.imports.columns import schema

    print(json.dumps(schema(), indent=2))
