"""History over HTTP: events too old for their ids to be remembered, staged in the store until the import takes them in.

    told --staged, sealed under the player's key--> the import, which knows what the lake holds --> the log

Nothing of a staged event can be read once its player was erased: the import then passes it over.
"""

from __future__ import annotations

from typing import Final, NamedTuple, cast

import redis

from features.events import Event
from features.store.deployment import PARTITIONS, House, position
from features.store.keys import PlayerKeys, history_key
from service.contacts.ledger import RedisLedger
from service.errors import HistoryFullError
from service.events.accept import NOWHERE
from service.players import sealing
from service.players.sealing import Seals

STAGED_MOST: Final = 4_000
"""Events that wait in one partition; whoever tells more is asked to wait until the import took some."""
_ABOUT: Final = "history"
_STAGE: Final = """
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
return redis.call('XADD', KEYS[1], '*', 'p', ARGV[2], 's', ARGV[3])
"""


class StagedEvent(NamedTuple):
    """An event that waits: its partition, its place there, the player's key, and the event as JSON, sealed."""

    partition: int
    place: str
    player: str
    sealed: bytes

    def open(self, client: redis.Redis, seals: Seals) -> str | None:
        """The event as JSON; None if its player was erased since."""
        stored = cast("bytes | None", client.get(PlayerKeys(self.player).seal))
        key = None if stored is None else seals.open(self.player, stored)
        plain = sealing.decrypt(key, self.sealed, _ABOUT)
        return None if plain is None else plain.decode()


async def stage(event: Event, house: House, ledger: RedisLedger) -> str:
    """Stage an event for the import; returns the position to which every reader has come.

    Raises:
        HistoryFullError: Too many wait there already.
        StoreError: The store did not answer; a retry is safe.
    """
    keys = PlayerKeys(house.player_key(event.player_id))
    sealed = sealing.encrypt((await ledger.seal(keys)).key, _text(event), _ABOUT)
    taken = await ledger.store.command("EVAL", _STAGE, 1, history_key(keys.partition), STAGED_MOST, keys.player, sealed)
    if not taken:
        raise HistoryFullError
    return position(keys.partition, NOWHERE)


def _text(event: Event) -> bytes:
    """An event as it may be told again: fields that were not told are left out."""
    return event.model_dump_json(exclude_unset=True).encode()


def waits(client: redis.Redis) -> bool:
    """Whether any event waits."""
    pipe = client.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipe.exists(history_key(partition))
    return any(pipe.execute())


def staged(client: redis.Redis, most: int) -> list[StagedEvent]:
    """Events that wait, the first ones of each partition, at most so many of each."""
    pipe = client.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipe.xrange(history_key(partition), count=most)
    return [
        StagedEvent(partition, place.decode(), fields[b"p"].decode(), fields[b"s"])
        for partition, entries in enumerate(pipe.execute())
        for place, fields in entries
    ]


def forget(client: redis.Redis, taken: list[StagedEvent]) -> None:
    """Remove events that the import has taken in, or has refused."""
    pipe = client.pipeline(transaction=False)
    for one in taken:
        pipe.xdel(history_key(one.partition), one.place)
    pipe.execute()
    # A stream from which all entries were removed stays as an empty key.
    pipe = client.pipeline(transaction=False)
    for partition in {one.partition for one in taken}:
        pipe.eval(_EMPTY, 1, history_key(partition))
    pipe.execute()


_EMPTY: Final = "if redis.call('XLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[1]) end"
