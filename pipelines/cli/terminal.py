"""What commands share: the home and its store, options, results for people and for machines, refusals."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer._click import Context, HelpFormatter
from typer.core import TyperGroup

from features.errors import CroupierError
from features.settings.environment import environment, unknown

if TYPE_CHECKING:
    from msgspec import Struct
    from rich.console import Console

    from models.releases.release import Released


Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the journal; must be given.", show_default=False)]


class Commands(TyperGroup):
    """A group whose help holds all that its commands say of themselves, in plain text: rich costs half of a start."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002 - as typer calls it
        """List the commands, each with its whole help."""
        shown = [(name, command) for name, command in self.commands.items() if not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help or "") for name, command in shown])


class CommandRefused(CroupierError):
    """What a command was asked cannot be done."""

    code = "command_refused"
    exit_code = 2


def home() -> Path:
    """CROUPIER_HOME, by default `var/`."""
    return environment().home


def serving() -> AbstractContextManager[str]:
    """See `features.store.server.serving`; for the home."""
    from features.store import server

    return server.serving(home())


def relying() -> AbstractContextManager[str]:
    """See `features.store.server.relying`; for the home."""
    from features.store import server

    return server.relying(home())


def console() -> Console:
    """Where people are told how far it is; results go to standard output."""
    from rich.console import Console

    return Console(stderr=True)


def paper() -> Console:
    """Where tables are printed: standard output, wide where no window bounds it."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result for people or for machines."""
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:>18}  {value}")


def fields(result: Struct) -> dict[str, Any]:
    """A result's fields, as JSON has them."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(result)
    return found


def warn_of_unknown() -> None:
    """Warn of variables that look like ours and that nothing reads."""
    for one in unknown(environment()):
        warn(str(one))


def warn(sentence: str) -> None:
    """Warn the user of something that goes on all the same."""
    print(f"croupier: warning: {sentence}", file=sys.stderr)


def told(done: Released) -> dict[str, Any]:
    """A release as its command prints it, without what stays between journal and MLflow."""
    found = fields(done)
    del found["id"], found["run"]
    if not done.silent:
        del found["silent"]
    return found
