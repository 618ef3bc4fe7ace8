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
from features.store.keys import PlayerKeys
from service.contacts.ledger import Appended, Entry, RedisLedger
from service.errors import AlreadyLinkedError, EventIdReused, EventInFutureError, EventTooOldError, RequestRefused
from service.players import addresses, facts, identity, sealing
from service.players.facts import Assertion

TOLD_OF: Final = "told_of"
"""Column of an event's detail: the key of the linked id that the event names."""
TOLD_AT: Final = "told_at"
"""Column of an event's detail: the moment by a clock far ahead, while the event holds from the house's now."""
JOINING: Final = (events.Identify, events.Alias, events.HouseholdChanged, events.AddressChanged)
"""Events that join two ids, or a player and a household or an address: accepted one by one, over HTTP only."""


class Accepted(NamedTuple):
    """An accepted event: its place in the log, and whether it is a duplicate."""

    position: str
    duplicate: bool


NOWHERE: Final = "0-0"
"""Log place of an event that changes nothing and is not appended: every reader is past it."""


class ClockAhead(NamedTuple):
    """Facts of an event whose clock was far ahead: they hold from the house's now, after everything known."""

    now_us: int
    held: Mapping[bytes, bytes]

    def facts(self, told: Sequence[Assertion]) -> list[Assertion]:
        """The assertions of such an event, moved to the house's now."""
        return facts.from_now(told, identity.together(self.held), self.now_us)


def entry(
    player: str,
    event: Event,
    sealed: bytes | None = None,
    other: str = "",
    asked: str = "",
    ahead: ClockAhead | None = None,
    beside: Sequence[Assertion] = (),
) -> Entry:
    """Log entry of an event: personal fields sealed, with the facts that it asserts.

    `other` is the key of the second id, household or address that the event names, `asked` the key of the linked id
    that it is about, whose event ids and facts are kept apart from the player's own; `beside` are facts beside the
    event's own.
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
    taken = Entry("event", events.unique(event), digest, msgspec.msgpack.encode(columns), told, earlier=earlier)
    return taken.under(asked) if asked else taken


class Arrival(NamedTuple):
    """A received event: `asked` is the key of the id that it names, `now_us` house time, `late` out of time."""

    event: Event
    asked: str
    now_us: int
    late: Literal["ahead", "old"] | None
    beside: Sequence[Assertion]


async def accept(event: Event, house: House, ledger: RedisLedger, beside: Sequence[Assertion] = ()) -> Accepted:
    """Accept an event: returns once its facts hold and it is durable.

    An event that restricts contact is accepted whatever its moment: it holds from now on if its clock was far ahead,
    and it counts as new if it is too old for its id to be remembered but changes facts. `beside` are facts beside its
    own.

    Raises:
        RequestRefused: It lies in the future, is too old, or its id was used for another event.
        StoreError: The store did not answer; a retry is safe.
    """
    now_us = await ledger.now_us()
    late = timeliness(micros(event.occurred_at), now_us)
    if late is not None and not facts.restricts(event):
        raise EventInFutureError if late == "ahead" else EventTooOldError
    arrival = Arrival(event, house.player_key(event.player_id), now_us, late, beside)
    done = await ledger.identities.with_owner(arrival.asked, lambda player: _accept(arrival, house, ledger, player))
    if isinstance(event, events.HouseholdChanged):
        await ledger.join_household(arrival.asked)
    return done


async def _accept(arrival: Arrival, house: House, ledger: RedisLedger, player: str) -> Accepted:
    event, keys = arrival.event, PlayerKeys(player)
    linked = arrival.asked if player != arrival.asked else ""
    held: Mapping[bytes, bytes] = {}
    if arrival.late or isinstance(event, JOINING):
        known, held = await ledger.known_or_facts(keys, entry(player, event, asked=linked))
        if known is not None:
            return answered(keys, known, EventIdReused)
    personal = events.personal(event)
    seal = (await ledger.seal(keys)).key if personal else b""
    other = await _linked(event, house, ledger, keys, seal)
    sealed = sealing.seal(seal, personal, event.event_id) if personal else None
    beside = [*arrival.beside, *_address(event, other, seal)]
    ahead = ClockAhead(arrival.now_us, held) if arrival.late == "ahead" else None
    taken = entry(player, event, sealed, other, linked, ahead, beside)
    if arrival.late == "old" and not _changes(event, taken, other, held):
        return Accepted(position(keys.partition, NOWHERE), duplicate=True)
    if isinstance(event, events.HouseholdChanged) and other:
        # Reserve in the household before the facts name it; contacts made meanwhile follow in `accept`.
        await ledger.join_household(player, other, taken.facts[-1].moment_us)
    return answered(keys, await ledger.append(keys, taken), EventIdReused)


def _address(event: Event, key: str, seal: bytes) -> list[Assertion]:
    """What an event asserts of an address, sealed, and of the player's language; empty for other events."""
    if not isinstance(event, events.AddressChanged):
        return []
    told = {addresses.ADDRESS: event.address, "name": event.name}
    sealed = None if event.removed else sealing.seal(seal, told, addresses.ADDRESS)
    at = micros(event.occurred_at)
    spoken = [] if event.locale is None else [Assertion(f"locale:{event.brand}", at, 0, event.locale)]
    return [addresses.asserted(event.brand, event.kind, key, at, sealed, verified=event.verified), *spoken]


def _changes(event: Event, taken: Entry, other: str, held: Mapping[bytes, bytes]) -> bool:
    """Whether an event changes the known facts of its player."""
    if isinstance(event, events.Identify | events.Alias):
        return bool(other) and f"{identity.LINK}{other}".encode() not in held
    return facts.changes(taken.facts, held)


def answered(keys: PlayerKeys, done: Appended, reused: type[RequestRefused]) -> Accepted:
    """Answer for an appended event or outcome; raises `reused` where its id was used for another."""
    if done.status == "conflict":
        raise reused
    return Accepted(position(keys.partition, done.stream_id), done.status == "duplicate")


async def _linked(event: Event, house: House, ledger: RedisLedger, keys: PlayerKeys, seal: bytes) -> str:
    """Key of the household, address or second id that an event names, empty if none; an id is linked first."""
    match event:
        case events.HouseholdChanged():
            return house.player_key(f"household {event.household_id}") if event.household_id is not None else ""
        case events.AddressChanged():
            address = house.player_key(f"address {event.kind} {addresses.normal(event.kind, event.address)}")
            if not event.removed:
                await ledger.addresses.share(address, keys.player)
            return address
        case events.Identify():
            linked = house.player_key(event.anonymous_id)
        case events.Alias():
            linked = house.player_key(event.previous_id)
        case _:
            return ""
    if linked == keys.player:
        return ""
    owner = await ledger.identities.owner(linked)
    if owner == linked:
        name = base64.b64encode(sealing.seal(seal, {"player_id": event.player_id}, sealing.NAME)).decode()
        owner = await ledger.identities.merge(linked, keys.player, name)
    if owner != keys.player:
        # If the player was linked to another meanwhile, accept the event there.
        await ledger.identities.check_owner(keys.player)
        raise AlreadyLinkedError
    return linked
