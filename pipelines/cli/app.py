"""The command line: its commands, and how they end. `--json` prints a result for machines."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer
from typer._click.exceptions import ClickException

from features import faults
from features.errors import CroupierError
from features.settings.masks import masked
from pipelines.cli import (
    backups,
    bench,
    campaigns,
    catalogue,
    connectors,
    datasets,
    decisions,
    experiments,
    house,
    imports,
    keys,
    lake,
    privacy,
    releases,
    rules,
    simulation,
    stops,
    templates,
    training,
    webhooks,
)
from pipelines.cli.terminal import Commands
from pipelines.extras import missing_package
from pipelines.worker.child import end_with_parent

app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Deals the next best action to each player, under the rules of the house.",
)


@app.callback()
def prepare(context: typer.Context) -> None:
    """Prepare this process for a command."""
    from features import zones

    if context.invoked_subcommand != "doctor":  # which tells what is wrong with them
        zones.pin()


for command in (
    *(house.up, house.create, house.serve, house.doctor, house.settings, house.worker, house.learn),
    *(backups.backup, backups.restore, decisions.verify, privacy.erase, privacy.export),
    *(training.retrain, simulation.simulate, datasets.dataset, releases.releases, campaigns.decide),
):
    app.command()(command)
for command in (house.screen, releases.settle, privacy.make_exports):
    app.command(hidden=True)(command)
app.add_typer(imports.imports, name="import")
app.add_typer(training.train, name="train")
app.add_typer(releases.promote, name="promote")
app.add_typer(releases.rollback, name="rollback")
app.add_typer(experiments.report, name="report")
app.add_typer(experiments.experiment, name="experiment")
app.add_typer(rules.rules, name="rules")
app.add_typer(catalogue.catalogue, name="catalogue")
app.add_typer(templates.templates, name="templates")
app.add_typer(connectors.connectors, name="connectors")
app.add_typer(decisions.decisions, name="decisions")
app.add_typer(stops.stop, name="stop")
app.add_typer(webhooks.webhooks, name="webhooks")
app.add_typer(keys.keys, name="keys")
app.add_typer(lake.lake, name="lake")
app.add_typer(bench.bench, name="bench")


def main() -> NoReturn:
    """Run a command; what the user can mend ends in one sentence and the exit code of its class."""
    os.umask(0o077)  # whatever is written is for its own user
    end_with_parent()
    sys.excepthook = faults.show
    try:
        code = typer.main.get_command(app)(standalone_mode=False)  # called itself, typer shows values of faults
    except ClickException as usage:
        usage.show()
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except CroupierError as error:
        if error.exit_code == CroupierError.exit_code:
            raise
        _fail(str(error), error.exit_code)
    except ImportError as error:
        if (missing := missing_package(error, sys.argv[1:])) is None:
            raise
        _fail(missing, 2)
    except Exception as error:
        import redis

        from features.store.connection import replied

        if isinstance(error, redis.RedisError):
            _fail(f"the store failed: {replied(error)}", 1)
        raise
    sys.exit(code or 0)  # typer returns the code of what a key or `typer.Exit` ended, and None of what came to its end


def _fail(sentence: str, code: int) -> NoReturn:
    print(f"croupier: {masked(sentence)}", file=sys.stderr)
    sys.exit(code)
