"""The first sentence at the door: an event is checked, changes facts at once, is remembered and appended.

What an event does to features and lake follows in the worker; when `know` returns, facts hold and the event
is on disk.
"""

from __future__ import annotations

import base64
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from features import digests, events
from features.events import Event, micros, timeliness
from features.store import House, position
from service import facts, log
from service.facts import Assertion
from service.ledger import Appended, Entry, RedisLedger
from service.view import Keys

TOLD_OF: Final = "told_of"
"""Detail of an event's row: the key of the linked id that it was told of."""
JOINING: Final = (events.Identify, events.Alias, events.HouseholdChanged)
"""Events that join what is held of two, one by one: they enter over HTTP only."""


class Refused(Exception):
    """What was sent cannot be taken; `code` says why for machines, the text for people."""

    def __init__(self, code: str, reason: str, pointer: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.pointer = pointer


class Known(NamedTuple):
    """An accepted event: its place in the log, and whether it had been sent before."""

    position: str
    duplicate: bool


_REASONS = {
    "event_in_future": "occurred_at lies in the future of the house's clock",
    "event_too_old": "occurred_at is more than 35 days ago; older events enter by `croupier import events`",
}


def entry(player: str, event: Event, sealed: bytes | None = None, other: str = "", asked: str = "") -> Entry:
    """What is appended for an event: no personal field but under seal, and the facts that it makes true.

    `other` is the key of the id or household that it names, if it names one; `asked` that of the linked id that it is
    told of, whose event ids and facts are kept apart from the player's own.
    """
    columns: dict[str, Any] = {"player": player, **events.row(event)}
    apart = {name: key for name, key in (("key", other), (TOLD_OF, asked)) if key}
    if apart:
        columns["detail"] = {**columns.get("detail", {}), **apart}
    if sealed is not None:
        columns["sealed"] = sealed
    told = facts.assertions(event)
    if isinstance(event, events.HouseholdChanged):
        told = [*told, Assertion("household", micros(event.occurred_at), 0, other)]
    form = digests.form_of(event)
    taken = Entry(
        "event",
        event.event_id,
        digests.digest(event, form),
        msgspec.msgpack.encode(columns),
        told,
        earlier=partial(digests.earlier, event, form),
    )
    return taken.of(asked) if asked else taken


async def know(event: Event, house: House, ledger: RedisLedger) -> Known:
    """Take an event: returns once its facts hold and it is durable.

    Raises:
        Refused: It lies in the future, is too old, or its id was used for another event.
        StoreError: The store did not answer; a retry is safe.
    """
    late = timeliness(event, await ledger.now_us())
    if late is not None:
        raise Refused(late, _REASONS[late], "/occurred_at")
    asked = house.player_key(event.player_id)
    done = await ledger.at_home(asked, lambda player: _know(event, house, ledger, player, asked))
    if isinstance(event, events.HouseholdChanged):
        await ledger.bring(asked)
    return done


async def _know(event: Event, house: House, ledger: RedisLedger, player: str, asked: str) -> Known:
    keys = Keys(player)
    linked = asked if player != asked else ""
    if isinstance(event, JOINING) and (known := await ledger.known(keys, entry(player, event, asked=linked))):
        return _answered(keys, known)
    personal = events.personal(event)
    seal = await ledger.seal(keys, log.new_seal()) if personal else b""
    other = await _linked(event, house, ledger, keys, seal)
    sealed = log.seal(seal, personal, event.event_id) if personal else None
    if isinstance(event, events.HouseholdChanged) and other:
        # Before the facts say so; what came about meanwhile follows.
        await ledger.bring(player, other, micros(event.occurred_at))
    told = entry(player, event, sealed, other, linked)
    return _answered(keys, await ledger.append(keys, told))


def _answered(keys: Keys, done: Appended) -> Known:
    if done.status == "conflict":
        raise Refused("event_id_reused", "this event id was used before for another event", "/event_id")
    return Known(position(keys.partition, done.stream_id), done.status == "duplicate")


async def _linked(event: Event, house: House, ledger: RedisLedger, keys: Keys, seal: bytes) -> str:
    """Key of the other one whom an event names, empty for most; an id is linked before the event is taken."""
    match event:
        case events.HouseholdChanged():
            return house.player_key(f"household {event.household_id}") if event.household_id is not None else ""
        case events.Identify():
            linked = house.player_key(event.anonymous_id)
        case events.Alias():
            linked = house.player_key(event.previous_id)
        case _:
            return ""
    await ledger.home(keys.player)
    if linked == keys.player:
        return ""
    home = await ledger.at_home(linked, ledger.home)
    if home == keys.player:
        return linked
    if home != linked:
        raise Refused("already_linked", "this id was linked to another player before, and a link is for good")
    name = base64.b64encode(log.seal(seal, {"player_id": event.player_id}, log.NAME)).decode()
    if await ledger.link(linked, keys.player, name) != keys.player:
        raise Refused("already_linked", "this id was linked to another player before, and a link is for good")
    return linked
