"""The command line. Bad input ends with one sentence and exit code 2; `--json` prints the result for machines."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import redis
import structlog
import typer
from rich.console import Console
from typer._click.exceptions import ClickException

from features.events import micros
from features.store import StoreError, store_url
from models.actions import CatalogueError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Deals the next best action to each player, under the rules of the house.",
)
bench = typer.Typer(no_args_is_help=True, help="Measure against peers, in turns.")
app.add_typer(bench, name="bench")
CONSOLE = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Refusal(Exception):
    """One sentence for the user; exit code 2."""


def home() -> Path:
    """CROUPIER_HOME, by default `var/`."""
    return Path(os.environ.get("CROUPIER_HOME", "var"))


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result for people or for machines."""
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:>18}  {value}")


def _clock(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refusal(f"--clock takes a date or a moment such as 2020-03-02T10:00:00Z, not {text!r}") from error
    return micros(at if at.tzinfo else at.replace(tzinfo=UTC))


@app.command()
def up(
    port: Annotated[int, typer.Option(envvar="PORT", help="Port of the API.", min=1, max=65_534)] = 8000,
    clock: Annotated[str | None, typer.Option(help="House time at creation; makes the house a sandbox.")] = None,
    rate: Annotated[float | None, typer.Option(help="House seconds per real second.", min=0.001, max=100_000)] = None,
    players: Annotated[int, typer.Option(help="Players of the seeded world; 0 for an empty house.", min=0)] = 400,
    workers: Annotated[int, typer.Option(help="API processes.", min=1, max=64)] = 1,
    screen: Annotated[bool, typer.Option(help="Start MLflow's own screen.")] = True,
) -> None:
    """Start all on one machine: store, worker, API, MLflow. Example: croupier up --port 8000."""
    from pipelines.up import Wish
    from pipelines.up import up as start

    start(Wish(home(), port, _clock(clock), rate, players, workers, screen), CONSOLE)


@app.command()
def serve(
    port: Annotated[int, typer.Option(envvar="PORT", min=1, max=65_535)] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, max=64)] = 1,
) -> None:
    """Serve the API over a running store. Example: CROUPIER_STORE=redis://host:6379 croupier serve."""
    import uvicorn

    if host not in LOOPBACK and not os.environ.get("CROUPIER_KEYS"):
        raise Refusal("without CROUPIER_KEYS the service listens on loopback only")
    os.environ.setdefault("CROUPIER_STORE", store_url(home()))
    uvicorn.run(
        "service.app:create",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )


@app.command()
def worker() -> None:
    """Turn the log into features and lake. Example: croupier worker."""
    from pipelines.worker import Worker

    running = Worker(store_url(home()), home() / "lake")
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: running.stop())
    running.run()


@bench.command("decide")
def bench_decide(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each side.")] = 10,
    requests: Annotated[int, typer.Option(min=100, help="Requests of a turn.")] = 1_000,
    port: Annotated[int, typer.Option(min=1, max=65_534)] = 18_900,
    as_json: Json = False,
) -> None:
    """CPU of a whole decision beside a FastAPI and pydantic echo. Example: croupier bench decide --rounds 10."""
    from pipelines.bench import decide

    show(decide(rounds, requests, port, CONSOLE), as_json=as_json)


def main() -> NoReturn:
    """Run a command; whatever the user can mend ends in one sentence and exit code 2."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        app(standalone_mode=False)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except ClickException as usage:
        usage.show()
        sys.exit(2)
    except (Refusal, StoreError, CatalogueError) as refusal:
        _fail(str(refusal), 2)
    except redis.RedisError as error:
        _fail(f"the store failed: {error}", 1)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(0)


def _fail(sentence: str, code: int) -> NoReturn:
    print(f"croupier: {sentence}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
