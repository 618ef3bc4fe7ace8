"""Commands about connectors: read and check the file, send one example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.terminal import CommandRefused, Commands, Json, serving, show

if TYPE_CHECKING:
    from service.delivery.connectors_file import Connectors

connectors = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Over which providers the house sends; CROUPIER_CONNECTORS names the file."
)


@connectors.command("check")
def connectors_check(as_json: Json = False) -> None:
    """Read the file, look for every secret, resolve every address; send nothing. Example: croupier connectors check."""
    import asyncio

    from pipelines.worker.connector_checks import examine_all

    found = asyncio.run(examine_all(_connectors()))
    if as_json:
        show({"connectors": [one._asdict() for one in found]}, as_json=True)
    else:
        for one in found:
            print(f"{one.name:>18}  {one.kind:<9}  {one.trouble or 'may be called'}  {', '.join(one.channels)}")
    if refused := [one.name for one in found if one.trouble]:
        raise CommandRefused(f"not every connector can be used: {', '.join(refused)}")


@connectors.command("test")
def connectors_test(
    name: Annotated[str, typer.Argument(help="Its name in the file.")],
    to: Annotated[str, typer.Option("--to", help="Your own address: mail, number or push subscription.")],
    as_json: Json = False,
) -> None:
    """Send one example to yourself, and say what came of it. Example: croupier connectors test mail --to me@x.com."""
    import asyncio

    from features.store.connection import connect
    from features.store.deployment import open_house
    from features.store.restored import may_send
    from pipelines.worker.connector_checks import send_example

    told = _connectors()
    if name not in told.connectors:
        raise CommandRefused(f"there is no connector {name!r}; the file has {', '.join(told.connectors)}")
    with serving() as url:
        client = connect(url)
        house = open_house(client)
        if not may_send(client):
            raise CommandRefused("the house was restored, and sends nothing until somebody says that it may")
    result = asyncio.run(send_example(name, to, told, sandbox=house.sandbox))
    show({"connector": name, "result": type(result).__name__.lower(), **result._asdict()}, as_json=as_json)
    if type(result).__name__ != "Sent":
        raise CommandRefused(f"{name} did not take the example")


def _connectors() -> Connectors:
    from service.delivery.connectors_file import read_connectors

    told = read_connectors()
    if not told.connectors:
        raise CommandRefused("nobody sends: CROUPIER_CONNECTORS names no file with connectors")
    return told


@connectors.command("resume")
def connectors_resume(
    reason: Annotated[str, typer.Option("--reason", help="Why the former house sends nothing any more; kept.")],
    as_json: Json = False,
) -> None:
    """Let a restored house send to players again. Example: croupier connectors resume --reason "the old one is off"."""
    from datetime import UTC, datetime

    import msgspec

    from features.store.connection import connect
    from models.releases.release import user
    from pipelines.backup import restore as restoring

    if not reason.strip():
        raise CommandRefused("--reason says why, in a few words")
    with serving() as url:
        done = restoring.resume(connect(url), user(), reason.strip(), datetime.now(UTC))
    if as_json:
        show(msgspec.to_builtins(done), as_json=True)
    elif done.resumed is not None:
        print(f"the house sends to players from now on, by {done.resumed.by}: {done.resumed.reason}")
