"""Commands about who is told that a lease was revoked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.terminal import CommandRefused, Commands, Json, serving, show

if TYPE_CHECKING:
    from pipelines.worker.webhooks import Endpoint, Webhooks


webhooks = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Who is told that a lease was taken back; CROUPIER_WEBHOOKS names the file.",
)
EndpointId = Annotated[str, typer.Argument(help="Its id in the file.")]


@webhooks.command("check")
def webhooks_check(as_json: Json = False) -> None:
    """Read the file, resolve and check every endpoint, send nothing. Example: croupier webhooks check."""
    import asyncio

    from pipelines.worker.http_client import examine_all

    found = asyncio.run(examine_all(_webhooks()))
    if as_json:
        show({"endpoints": [one._asdict() for one in found]}, as_json=True)
    else:
        for one in found:
            print(f"{one.id:>18}  {one.trouble or 'may be called'}  ({one.host}: {', '.join(one.addresses)})")
    if refused := [one.id for one in found if one.trouble]:
        raise CommandRefused(f"not every endpoint can be called: {', '.join(refused)}")


@webhooks.command("test")
def webhooks_test(endpoint_id: EndpointId, as_json: Json = False) -> None:
    """Send an endpoint a signed example, once, and say what it answered. Example: croupier webhooks test crm."""
    import asyncio

    from pipelines.worker.http_client import send_example
    from pipelines.worker.webhooks import verdict

    told = _webhooks()
    answer = asyncio.run(send_example(_endpoint(told, endpoint_id), told))
    show({"endpoint": endpoint_id, "status": answer.status, "answer": answer.trouble}, as_json=as_json)
    if verdict(answer.status) != "delivered":
        raise CommandRefused(f"{endpoint_id} did not take the example: {answer.trouble}")


@webhooks.command("enable")
def webhooks_enable(endpoint_id: EndpointId) -> None:
    """Call an endpoint again that had answered 410 Gone. Example: croupier webhooks enable crm."""
    from features.store.connection import connect
    from pipelines.worker.outbox import enable

    _endpoint(_webhooks(), endpoint_id)
    with serving() as url:
        changed = enable(connect(url), endpoint_id)
    print(f"{endpoint_id} is called again" if changed else f"{endpoint_id} was not disabled")


def _webhooks() -> Webhooks:
    from pipelines.worker.webhooks import read_webhooks

    told = read_webhooks()
    if not told.endpoints:
        raise CommandRefused("nobody is subscribed: CROUPIER_WEBHOOKS names no file with endpoints")
    return told


def _endpoint(told: Webhooks, endpoint_id: str) -> Endpoint:
    found = next((one for one in told.endpoints if one.id == endpoint_id), None)
    if found is None:
        names = ", ".join(one.id for one in told.endpoints)
        raise CommandRefused(f"there is no endpoint {endpoint_id!r}; the file has {names}")
    return found
