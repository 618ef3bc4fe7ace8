"""Commands of the kill switch: stop marketing, list what is stopped, lift a stop."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.terminal import Commands, Json, Reason, fields, paper, serving, show

if TYPE_CHECKING:
    import redis

    from service.contacts.kill_switch import StopReach, StopWritten

stop = typer.Typer(cls=Commands, no_args_is_help=True, help="Stop what the house sends, at once and everywhere.")


@stop.command("marketing")
def stop_marketing(
    jurisdiction: Annotated[str | None, typer.Option(help="Only there: a country or region, as MT or US-NJ.")] = None,
    offer: Annotated[str | None, typer.Option(help="Only this offer of the catalogue.")] = None,
    channel: Annotated[str | None, typer.Option(help="Only on this channel.")] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Stop marketing and bonuses at once; exit code 1 if a part of the store did not take it, which is then named.

    Example: croupier stop marketing --channel sms --reason "wrong link in the text"
    """
    from features.store.connection import connect
    from models.releases.release import user
    from service.contacts.kill_switch import stop as write
    from service.contacts.stops import wished

    with serving() as url:
        client = connect(url)
        offers = None if offer is None else _offers(client)
        wish = wished(user(), reason, offers, jurisdiction=jurisdiction, offer=offer, channel=channel)
        _tell(write(client, wish), as_json=as_json)


@stop.command("lift")
def stop_lift(
    stop_id: Annotated[str, typer.Argument(metavar="ID", help="As `stop list` names it.")],
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Lift a stop by its id. Example: croupier stop lift 3f9a2c1b --reason "link mended"."""
    from features.store.connection import connect
    from models.releases.release import user
    from service.contacts.kill_switch import lift

    with serving() as url:
        _tell(lift(connect(url), stop_id, user(), reason), as_json=as_json)


@stop.command("list")
def stop_list(
    lifted: Annotated[bool, typer.Option("--all", help="Those that were lifted too.")] = False,
    as_json: Json = False,
) -> None:
    """List what is stopped, since when, by whom and why. Example: croupier stop list."""
    from features.store.connection import connect
    from service.contacts.kill_switch import listed

    with serving() as url:
        found = [one for one in listed(connect(url)) if lifted or one.stop.stands]
    if as_json:
        show({"stops": [_fields(one) for one in found]}, as_json=True)
    elif found:
        _print(found)
    else:
        print("nothing is stopped")


def _offers(client: redis.Redis) -> Sequence[str] | None:
    """Ids of the catalogue that serves; None where it cannot be read now, which must not hold up a stop."""
    import redis

    from features.errors import CroupierError
    from pipelines.served import served_catalogue

    try:
        return served_catalogue(client).ids
    except (CroupierError, redis.RedisError):
        print("croupier: warning: the catalogue cannot be read: the offer is taken as you wrote it", file=sys.stderr)
        return None


def _tell(done: StopWritten, *, as_json: bool) -> None:
    """Print what became of a stop or a lift; ends with exit code 1 if it does not hold everywhere."""
    from msgspec import UnsetType

    from service.contacts.kill_switch import names_of

    told = fields(done.stop) | {"already": done.already, "unreached": names_of(done.unreached)}
    if as_json:
        show(told, as_json=True)
    elif done.acknowledged:
        one, lifted = done.stop, done.stop.lifted
        who, state = (one, "stands") if isinstance(lifted, UnsetType) else (lifted, "is lifted")
        before = f", since {who.at[:19]} by {who.by}: {who.reason}" if done.already else ""
        print(f"stop {one.id} of {one.what} {state} in every partition{before}")
    if not done.acknowledged:
        print(f"croupier: {done.trouble}: {', '.join(told['unreached'])}", file=sys.stderr)
        sys.exit(1)


def _fields(one: StopReach) -> dict[str, Any]:
    from service.contacts.kill_switch import names_of

    return fields(one.stop) | {"unreached": names_of(one.unreached)}


def _print(found: Sequence[StopReach]) -> None:
    from msgspec import UNSET
    from rich.table import Table

    from service.contacts.kill_switch import names_of

    table = Table(box=None, pad_edge=False)
    for title in ("id", "what", "since", "who", "why", "state"):
        table.add_column(title, overflow="fold")
    for one in found:
        told = one.stop
        lifted = told.lifted
        state = "stands" if lifted is UNSET else f"lifted {lifted.at[:19]} by {lifted.by}: {lifted.reason}"
        if one.unreached:
            state += f"; not in {', '.join(names_of(one.unreached))}"
        table.add_row(told.id, told.what, told.at[:19], told.by, told.reason, state)
    paper().print(table, markup=False, highlight=False)
