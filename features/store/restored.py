"""The mark of a restored house: from which backup, by whom, and who let it send again."""

from __future__ import annotations

from typing import cast

import msgspec
import redis

from features.store.keys import RESTORED


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """Who let a restored house send again, when (ISO 8601, UTC) and why."""

    at: str
    by: str
    reason: str


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """How a house came to be restored.

    Attributes:
        at: When it was restored, ISO 8601, UTC, by the clock of the machine.
        by: Who did it.
        backup: The backup's folder.
        taken_at: When that was taken, likewise.
        accepted: None while the house sends nothing.
        resumed: None while it sends no messages to players; since it was restored they may have been sent elsewhere.
    """

    at: str
    by: str
    backup: str
    taken_at: str
    accepted: Acceptance | None = None
    resumed: Acceptance | None = None


def restored(client: redis.Redis) -> Restored | None:
    """The mark of the house of this store, None if it was never restored."""
    return read_mark(cast("bytes | None", client.get(RESTORED)))


def read_mark(text: bytes | None) -> Restored | None:
    """A mark as the store holds it."""
    return None if text is None else msgspec.json.decode(text, type=Restored)


def mark(client: redis.Redis, told: Restored) -> None:
    """Mark the house as restored, or its mark as accepted."""
    client.set(RESTORED, msgspec.json.encode(told))


def may_send(client: redis.Redis) -> bool:
    """Whether the house may send: it was never restored, or somebody accepted that it was."""
    told = restored(client)
    return told is None or told.accepted is not None


def may_deliver(client: redis.Redis) -> bool:
    """Whether the house may send messages to players: it was never restored, or somebody let it send them again."""
    told = restored(client)
    return told is None or told.resumed is not None
