"""The first sentence at the door: an event is checked, changes facts at once, is remembered and appended.

What an event does to features and lake follows in the worker; when `know` returns, facts hold and the event
is on disk.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from features import events
from features.events import Event, timeliness
from features.store import House, position
from service import facts, log
from service.ledger import Entry, Keys, RedisLedger


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


def entry(player: str, event: Event, sealed: bytes | None = None) -> Entry:
    """What is appended for an event: no personal field but under seal, and the facts that it makes true."""
    columns = {"player": player, **events.row(event)}
    if sealed is not None:
        columns["sealed"] = sealed
    digest = hashlib.blake2b(event.model_dump_json().encode(), digest_size=8).digest()
    return Entry("event", event.event_id, digest, msgspec.msgpack.encode(columns), facts.assertions(event))


async def know(event: Event, house: House, ledger: RedisLedger) -> Known:
    """Take an event: returns once its facts hold and it is durable.

    Raises:
        Refused: It lies in the future, is too old, or its id was used for another event.
        StoreError: The store did not answer; a retry is safe.
    """
    late = timeliness(event, await ledger.now_us())
    if late is not None:
        raise Refused(late, _REASONS[late], "/occurred_at")
    keys = Keys(house.player_key(event.player_id), b"")
    personal = events.personal(event)
    sealed = log.seal(await ledger.seal(keys, log.new_seal()), personal, event.event_id) if personal else None
    done = await ledger.append(keys, entry(keys.player, event, sealed))
    if done.status == "conflict":
        raise Refused("event_id_reused", "this event id was used before for another event", "/event_id")
    return Known(position(keys.partition, done.stream_id), done.status == "duplicate")
