"""Commands of a house: start it, each of its processes alone, and look at it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from features.settings.environment import Environment, answer_for, environment, use_store
from pipelines.cli.terminal import (
    CommandRefused,
    Json,
    console,
    home,
    paper,
    relying,
    serving,
    show,
    warn,
    warn_of_unknown,
)


def up(
    port: Annotated[
        int, typer.Option(envvar=Environment.port.name, help="Port of the API.", min=1, max=65_534)
    ] = Environment.port.default,
    clock: Annotated[
        str | None, typer.Option(help="House time at creation, UTC; a date means its noon. Makes a sandbox.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="House seconds per real second.", min=0.001, max=100_000)] = None,
    players: Annotated[int, typer.Option(help="Players of the seeded world; 0 for an empty house.", min=0)] = 500,
    workers: Annotated[int, typer.Option(help="API processes.", min=1, max=64)] = 1,
    screen: Annotated[bool, typer.Option(help="Start MLflow's own screen.")] = True,
) -> None:
    """Start all on one machine: store, worker, API, MLflow. Example: croupier up --port 8000."""
    from pipelines.machine.up import Options
    from pipelines.machine.up import up as start

    warn_of_unknown()
    options = Options(home(), port, _clock(clock), rate, players, workers, screen)
    _warned_of_environment_keys(warn)
    start(options, console())


def _clock(text: str | None) -> int | None:
    from features.moments import micros

    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandRefused(f"--clock takes a date or a moment such as 2020-03-02T10:00:00Z, not {text!r}") from error
    # A bare date is the middle of that day: its morning has happened, and nobody sleeps.
    hour = 12 if len(text) == len("2020-03-02") else at.hour
    return micros(at.replace(hour=hour, tzinfo=at.tzinfo or UTC))


def create() -> None:
    """Create or bring up to date what a store needs of a house, and end. Example: croupier create."""
    from features.store.connection import connect
    from pipelines.machine.closing import close
    from pipelines.machine.up import Options, settle_in

    home().mkdir(mode=0o700, parents=True, exist_ok=True)
    close(home())
    with serving() as url:
        settle_in(connect(url), Options(home(), players=0), url, console().print)


HEALTH_SECONDS: Final = 30
"""How long a serving process may take to start, or not answer who started it, before another takes its place."""


def serve(
    port: Annotated[int, typer.Option(envvar=Environment.port.name, min=1, max=65_535)] = Environment.port.default,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, max=64)] = 1,
) -> None:
    """Serve the API over a running store. Example: CROUPIER_STORE=redis://host:6379 croupier serve."""
    import uvicorn

    from features import logs
    from pipelines.machine.counting import counting
    from service.settings import Settings

    logs.begin()
    warn_of_unknown()
    answer_for(_hosts(host))
    Settings.here("").files()  # before anything starts, in one sentence
    with relying() as url, counting():
        _refuse_without_key(url)
        _must_have_a_key(url)
        use_store(url)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when it has ended
        uvicorn.run(
            "service.api.app:create",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            loop="uvloop",
            http="service.api.protocol:BoundedProtocol",
            ws="none",
            proxy_headers=bool(environment().proxies),
            forwarded_allow_ips=list(environment().proxies),
            server_header=False,
            access_log=False,
            log_level="warning",
            log_config=None,
            timeout_graceful_shutdown=5,
            timeout_worker_healthcheck=HEALTH_SECONDS,
        )


def _refuse_without_key(url: str) -> None:
    """Refuse a house whose key is not here, in one sentence; whether there is a house is for the process to say."""
    from features.store.connection import connect
    from features.store.deployment import open_house
    from features.store.errors import StoreError
    from service.players.sealing import seals_of

    with suppress(StoreError):
        seals_of(open_house(connect(url)), home())


def _hosts(host: str) -> set[str]:
    """Hosts that are answered beside loopback: those of CROUPIER_HOSTS, and what is listened on where that is one."""
    named = set(environment().hosts)
    everywhere = _is_every_address(host)
    if everywhere and not named:
        raise CommandRefused(
            f"--host {host or chr(34) * 2} listens on every address: say by which names callers reach it, "
            f"such as {Environment.hosts.name}=croupier.example.com"
        )
    return named if everywhere else named | {host.lower()}


def _is_every_address(host: str) -> bool:
    """Whether a host, in whatever spelling, stands for every address of the machine, as `0`, `0x0` and `::0` do."""
    import socket
    from ipaddress import ip_address

    with suppress(OSError, ValueError):
        found = socket.getaddrinfo(host or None, None, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE)
        return any(ip_address(str(address[0]).partition("%")[0]).is_unspecified for *_, address in found)
    return False


def _warned_of_environment_keys(say: Callable[[str], None]) -> bool:
    """Warn of keys of the environment, if it has any; raises SettingError for odd ones."""
    found = bool(environment().keys)
    if found:
        say(f"the next release no longer reads {Environment.keys.name}: make keys by `croupier keys create`")
    return found


def _must_have_a_key(url: str) -> None:
    """Refuse to serve a house that nobody has a key of; warn of keys of the environment."""
    import structlog

    from pipelines.machine.development_key import has_live_key, read_key

    read_key(home())  # refuses one that others can read
    tell = structlog.get_logger().warning
    if not _warned_of_environment_keys(lambda said: tell("keys", trouble=said)) and not has_live_key(url):
        raise CommandRefused("this house has no live key: make one by `croupier keys create --scopes decide,events`")


def doctor(as_json: Json = False) -> None:
    """Look at a house and say what to do; exit code 1 if there is a fault. Example: croupier doctor."""
    from pipelines.doctor.doctor import examine

    found = examine(home())
    healthy = all(one.grade != "fault" for one in found)
    if as_json:
        show({"home": str(home()), "healthy": healthy, "checks": [one._asdict() for one in found]}, as_json=True)
    else:
        for one in found:
            print(f"{one.grade:<7}  {one.check:<10}  {one.seen}{f'; to do: {one.do}' if one.do else ''}")
    if not healthy:
        sys.exit(1)


def settings(as_json: Json = False) -> None:
    """Show every setting, its default, who said so and what it is for. Example: croupier settings."""
    from rich.table import Table

    from features.settings.listing import Row, listed

    rows = listed(home())
    if as_json:
        show({"settings": [one._asdict() for one in rows]}, as_json=True)
        return
    table = Table(box=None, pad_edge=False)
    for name in Row._fields:
        table.add_column(name, overflow="fold")
    for one in rows:
        table.add_row(*("" if text is None else str(text) for text in one))
    paper().print(table, markup=False)


def screen(port: Annotated[int, typer.Option(min=1, max=65_535)] = 8001) -> None:
    """Show MLflow's own screen over the house's runs and models. Example: croupier screen --port 8001."""
    import uvicorn

    from features import logs
    from models.releases.screen import screen as build

    logs.begin()
    uvicorn.run(build(home()), host="127.0.0.1", port=port, access_log=False, log_level="warning", log_config=None)


def worker() -> None:
    """Turn the log into features and lake, send what falls due, run what is scheduled. Example: croupier worker."""
    from features import logs
    from features.store.connection import connect
    from features.store.deployment import open_house
    from pipelines.worker.process import Worker
    from pipelines.worker.rendering import delivery_of
    from pipelines.worker.schedule import Scheduler, read_schedules
    from pipelines.worker.webhooks import read_webhooks
    from service.delivery.connectors_file import read_connectors

    logs.begin()
    warn_of_unknown()
    schedules, told, connectors = read_schedules(home()), read_webhooks(), read_connectors()
    with relying() as url:
        _refuse_without_key(url)
        client = connect(url)
        house = open_house(client)
        delivery = delivery_of(client, house, connectors)
        scheduler = Scheduler(client, house, schedules, home(), url)
        running = Worker(url, home() / "lake", scheduler, told, delivery=delivery)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: running.stop())
        running.run()


def learn() -> None:
    """Learn a policy from the lake as it grows, and publish it. Example: croupier learn."""
    from features import logs
    from pipelines.learning.learner import LearnerProcess, MlflowReporter
    from pipelines.learning.training_log import open_training

    logs.begin()
    warn_of_unknown()
    with relying() as url:
        running = LearnerProcess(url, home(), open_training(home()), MlflowReporter(home()), lambda _: None)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: running.stop())
        running.run()
