"""Accept an event: validate it, change facts, deduplicate and append it to the log, atomically.

What an event does to features and lake follows in the worker; when `accept` returns, facts hold and the event
is on disk.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import msgspec

from features import digests, events
from features.events import Event, micros, moment, timeliness
from features.store.deployment import House, position
from service.contacts.ledger import Appended, Entry, RedisLedger
from service.contacts.snapshot import Keys
from service.players import facts, identity, sealing
from service.players.facts import Assertion

TOLD_OF: Final = "told_of"
"""Detail of an event's row: the key of the linked id that it was told of."""
TOLD_AT: Final = "told_at"
"""Detail of an event's row: the moment that a clock far ahead told of it, while it holds from the house's now."""
JOINING: Final = (events.Identify, events.Alias, events.HouseholdChanged)
"""Events that join what is held of two, one by one: they enter over HTTP only."""


class Refused(Exception):
    """What was sent cannot be taken; `code` says why for machines, the text for people."""

    def __init__(self, code: str, reason: str, pointer: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.pointer = pointer


class Accepted(NamedTuple):
    """An accepted event: its place in the log, and whether it had been sent before."""

    position: str
    duplicate: bool


_REFUSALS: Final = {
    "ahead": ("event_in_future", "occurred_at lies in the future of the house's clock"),
    "old": (
        "event_too_old",
        "occurred_at is more than 35 days ago; older events enter by `croupier import events`",
    ),
}
NOWHERE: Final = "0-0"
"""Place of what was not appended, for it changes nothing: every reader is beyond it."""


class Ahead(NamedTuple):
    """A clock that was far ahead: what it told holds from the house's now, and later than what is held already."""

    now_us: int
    held: Mapping[bytes, bytes]

    def facts(self, told: Sequence[Assertion]) -> list[Assertion]:
        """What was told, as it holds."""
        return facts.from_now(told, identity.together(self.held), self.now_us)


def entry(
    player: str,
    event: Event,
    sealed: bytes | None = None,
    other: str = "",
    asked: str = "",
    ahead: Ahead | None = None,
    beside: Sequence[Assertion] = (),
) -> Entry:
    """What is appended for an event: no personal field but under seal, and the facts that it makes true.

    `other` is the key of the id or household that it names, if it names one; `asked` that of the linked id that it is
    told of, whose event ids and facts are kept apart from the player's own; `beside` what holds beside its own facts.
    """
    form = digests.form_of(event)
    digest, earlier = digests.digest(event, form), partial(digests.earlier, event, form)
    apart = {name: key for name, key in (("key", other), (TOLD_OF, asked)) if key}
    if ahead is not None:
        apart[TOLD_AT] = event.occurred_at.isoformat()
        event = event.model_copy(update={"occurred_at": moment(ahead.now_us)})
    columns: dict[str, Any] = {"player": player, **events.row(event)}
    if apart:
        columns["detail"] = {**columns.get("detail", {}), **apart}
    if sealed is not None:
        columns["sealed"] = sealed
    told = [*facts.assertions(event), *beside]
    if isinstance(event, events.HouseholdChanged):
        told = [*told, Assertion("household", micros(event.occurred_at), 0, other)]
    if ahead is not None:
        told = ahead.facts(told)
    taken = Entry("event", event.event_id, digest, msgspec.msgpack.encode(columns), told, earlier=earlier)
    return taken.of(asked) if asked else taken


class Arrival(NamedTuple):
    """An event at the door: told of the id with the key `asked`, at house time `now_us`, and whether it is late."""

    event: Event
    asked: str
    now_us: int
    late: Literal["ahead", "old"] | None
    beside: Sequence[Assertion]


async def accept(event: Event, house: House, ledger: RedisLedger, beside: Sequence[Assertion] = ()) -> Accepted:
    """Take an event: returns once its facts hold and it is durable.

    One that restricts contact is taken whatever its moment: from now on where its clock was far ahead, and where it is
    too old for its id to be remembered it is new if it changes anything. `beside` are facts that hold beside its own.

    Raises:
        Refused: It lies in the future, is too old, or its id was used for another event.
        StoreError: The store did not answer; a retry is safe.
    """
    now_us = await ledger.now_us()
    late = timeliness(micros(event.occurred_at), now_us)
    if late is not None and not facts.restricts(event):
        raise Refused(*_REFUSALS[late], "/occurred_at")
    arrival = Arrival(event, house.player_key(event.player_id), now_us, late, beside)
    done = await ledger.at_home(arrival.asked, lambda player: _accept(arrival, house, ledger, player))
    if isinstance(event, events.HouseholdChanged):
        await ledger.bring(arrival.asked)
    return done


async def _accept(arrival: Arrival, house: House, ledger: RedisLedger, player: str) -> Accepted:
    event, keys = arrival.event, Keys(player)
    linked = arrival.asked if player != arrival.asked else ""
    held: Mapping[bytes, bytes] = {}
    if arrival.late or isinstance(event, JOINING):
        known, held = await ledger.known_or_facts(keys, entry(player, event, asked=linked))
        if known is not None:
            return answered(keys, known, "event")
    personal = events.personal(event)
    seal = await ledger.seal(keys, sealing.new_seal()) if personal else b""
    other = await _linked(event, house, ledger, keys, seal)
    sealed = sealing.seal(seal, personal, event.event_id) if personal else None
    ahead = Ahead(arrival.now_us, held) if arrival.late == "ahead" else None
    taken = entry(player, event, sealed, other, linked, ahead, arrival.beside)
    if arrival.late == "old" and not _changes(event, taken, other, held):
        return Accepted(position(keys.partition, NOWHERE), duplicate=True)
    if isinstance(event, events.HouseholdChanged) and other:
        # Before the facts say so; what came about meanwhile follows.
        await ledger.bring(player, other, taken.facts[-1].moment_us)
    return answered(keys, await ledger.append(keys, taken), "event")


def _changes(event: Event, taken: Entry, other: str, held: Mapping[bytes, bytes]) -> bool:
    """Whether an event changes what is held of its player."""
    if isinstance(event, events.Identify | events.Alias):
        return bool(other) and f"{identity.LINK}{other}".encode() not in held
    return facts.changes(taken.facts, held)


def answered(keys: Keys, done: Appended, what: Literal["event", "outcome"]) -> Accepted:
    """What became of something that was appended; raises Refused where its id was used for another."""
    if done.status == "conflict":
        raise Refused(f"{what}_id_reused", f"this {what} id was used before for another {what}", f"/{what}_id")
    return Accepted(position(keys.partition, done.stream_id), done.status == "duplicate")


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
    if linked == keys.player:
        return ""
    home = await ledger.at_home(linked, ledger.home)
    if home == linked:
        name = base64.b64encode(sealing.seal(seal, {"player_id": event.player_id}, sealing.NAME)).decode()
        home = await ledger.link(linked, keys.player, name)
    if home != keys.player:
        await ledger.home(keys.player)  # where the player was linked further meanwhile, the event goes on there
        raise Refused("already_linked", "this id was linked to another player before, and a link is for good")
    return linked
