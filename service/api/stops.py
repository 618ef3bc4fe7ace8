"""Stops at the HTTP door: stop what the house sends, list what is stopped, lift it by its id."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar

import redis
from fastapi import FastAPI, Path, Query, Response
from pydantic import BaseModel, ConfigDict

from features.store.connection import connect
from features.store.errors import StoreError
from service.api.problems import OF_A_BODY
from service.api.routing import RESTRICTING_SECONDS, Dependencies, Deps, Operation, add_route, respond
from service.api.schemas import ListedStop, StopAnswer, StopsAnswer
from service.contacts import kill_switch
from service.contacts.kill_switch import StopReach, StopWritten
from service.contacts.stops import JournalledStop, wished
from service.errors import StopIncompleteError, StopRefused, UnknownStopError

LIFTED_MOST: Final = 100
"""Lifted stops that the list holds; `croupier stop list --all` has every one."""
_Result = TypeVar("_Result")

StopId = Annotated[str, Path(pattern="^[0-9a-f]{1,32}$", description="As the stop was answered.")]
Reason = Annotated[str, Query(max_length=4_000, description="Why, for the journal; must be given.")]


class StopRequest(BaseModel):
    """What to stop: all marketing and bonuses, or those of one jurisdiction, offer or channel."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["marketing"] = "marketing"
    jurisdiction: str | None = None
    offer: str | None = None
    channel: str | None = None
    reason: str


async def get_stops(deps: Deps) -> Response:
    """What is stopped, by whom and why, and the stops that were lifted last."""
    found = [_listed(one) for one in reversed(await _done(deps, kill_switch.listed))]
    lifted = [one for one in found if not one.stands]
    return respond(StopsAnswer(standing=[one for one in found if one.stands], lifted=lifted[:LIFTED_MOST]))


async def post_stop(body: StopRequest, deps: Deps) -> Response:
    """Stop marketing and bonuses, all or those of one jurisdiction, offer or channel.

    When this is answered with 200 no decision contains and no confirm allows what is stopped, leases from before
    included. 503 `stop_incomplete` names the partitions that did not acknowledge; the others hold it, and the worker
    brings it to these as soon as they answer. What is stopped already is answered again.
    """
    wish = wished(
        deps.caller.name,
        body.reason,
        deps.serving.layout.catalogue.ids,
        jurisdiction=body.jurisdiction,
        offer=body.offer,
        channel=body.channel,
    )
    return _answer(await _done(deps, lambda client: kill_switch.stop(client, wish)))


async def delete_stop(stop_id: StopId, deps: Deps, reason: Reason = "") -> Response:
    """Lift a stop. A second time changes nothing and says who lifted it first."""
    return _answer(await _done(deps, lambda client: kill_switch.lift(client, stop_id, deps.caller.name, reason)))


async def _done(deps: Dependencies, work: Callable[[redis.Redis], _Result]) -> _Result:
    """Do something with all partitions over a connection of its own, whatever this process is busy with."""

    def done() -> _Result:
        try:
            client = connect(deps.store_url, RESTRICTING_SECONDS)
        except StoreError as error:
            raise StoreError("no store answers") from error  # its address is for no caller
        try:
            return work(client)
        finally:
            client.close()

    return await asyncio.to_thread(done)


def _answer(done: StopWritten) -> Response:
    if done.acknowledged:
        return respond(StopAnswer(**_fields(done.stop), already=done.already))
    raise StopIncompleteError(done.trouble, done.stop.id, kill_switch.names_of(done.unreached))


def _listed(one: StopReach) -> ListedStop:
    return ListedStop(**_fields(one.stop), unreached=kill_switch.names_of(one.unreached))


def _fields(stop: JournalledStop) -> dict[str, Any]:
    return {name: getattr(stop, name) for name in JournalledStop.__struct_fields__}


def add(app: FastAPI) -> None:
    """Add the routes to an application."""
    path, tag, incomplete = "/v1/stops", "Stop", (StopRefused, StopIncompleteError)
    for operation in (
        Operation(path, get_stops, tag, "operate", StopsAnswer, ()),
        Operation(path, post_stop, tag, "operate", StopAnswer, OF_A_BODY + incomplete, "POST", spares=lambda _: True),
        Operation(
            f"{path}/{{stop_id}}", delete_stop, tag, "operate", StopAnswer, (*incomplete, UnknownStopError), "DELETE"
        ),
    ):
        add_route(app, operation)
