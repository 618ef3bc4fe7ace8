"""Bulk append of events, like single ones of the API, in fewer round trips."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Final, NamedTuple, cast

import msgspec
import redis

from features.events import Event, micros, personal, timeliness
from features.store.deployment import House, real_now_us
from features.store.keys import PlayerKeys, partition_of
from features.store.memory import demand_room
from pipelines.worker.owners import owners_of
from service.contacts.ledger import (
    INGEST,
    RESTRICT,
    Appended,
    Entry,
    Status,
    appended,
    assert_command,
    ingest_command,
)
from service.events.accept import TOLD_OF, ClockAhead, entry
from service.players import sealing
from service.players.facts import Assertion, forbids
from service.players.identity import Mark
from service.players.sealing import Seals

PER_CALL: Final = 100
"""Entries of one player in one call, at most."""


class Item(NamedTuple):
    """A log entry of a player; `remember` keeps its id for 35 days, as over HTTP."""

    player: str
    entry: Entry
    remember: bool


class Batch(NamedTuple):
    """Result of a bulk append: status of each item, and the last place in each partition's log.

    `statuses` has one of `new`, `duplicate` and `conflict` (the id was used for other content) per item, in order.
    """

    statuses: list[Status]
    reached: dict[int, str]

    @property
    def accepted(self) -> int:
        """Number of new items."""
        return self.statuses.count("new")


class Items:
    """Makes log items of events; caches the keys that seal personal fields."""

    def __init__(self, client: redis.Redis, house: House, seals: Seals | None = None) -> None:
        self._client = client
        self._house = house
        self._seals = seals or Seals()
        self._keys: dict[str, bytes] = {}
        self._key = lru_cache(maxsize=100_000)(house.player_key)
        self._now_us = house.now_us(real_now_us(client))

    def event(self, event: Event, now_us: int | None = None, beside: Sequence[Assertion] = ()) -> Item:
        """Make an item of an event of any age; one older than 35 days must be new.

        `beside` are facts that hold beside its own.
        """
        player = self._key(event.player_id)
        fields = personal(event)
        sealed = sealing.seal(self._seal(player), fields, event.event_id) if fields else None
        now_us = self._now_us if now_us is None else now_us
        late = timeliness(micros(event.occurred_at), now_us)
        ahead = ClockAhead(now_us, self._facts(player)) if late == "ahead" else None
        return Item(player, entry(player, event, sealed, ahead=ahead, beside=beside), late != "old")

    def _facts(self, player: str) -> dict[bytes, bytes]:
        """Stored facts of a player."""
        home = owners_of(self._client, [player])[player]
        return cast("dict[bytes, bytes]", self._client.hgetall(PlayerKeys(home).facts))

    def assumed(self, player_id: str, facts: Sequence[Assertion]) -> Item:
        """Make an item of facts that a sandbox assumes of a player, at moment 0, where every known fact prevails."""
        player = self._key(player_id)
        detail = {fact.field: fact.text for fact in facts}
        digest = hashlib.blake2b(msgspec.json.encode(detail), digest_size=8).digest()
        name = f"assumed-{digest.hex()}"
        columns = {
            "player": player,
            "event_id": name,
            "type": "facts_assumed",
            "occurred_at": 0,
            "brand": "main",
            "detail": detail,
        }
        return Item(player, Entry("facts", name, digest, msgspec.msgpack.encode(columns), facts), True)

    def _seal(self, player: str) -> bytes:
        if player not in self._keys:
            fresh = self._seals.new(player).stored
            stored = cast("bytes", self._client.fcall("croupier_seal", 1, PlayerKeys(player).seal, fresh))
            self._keys[player] = self._seals.open(player, stored)
        return self._keys[player]


def remembered(client: redis.Redis, items: Sequence[Item]) -> list[int]:
    """Indexes of items whose ids the store remembers: appending them only returns their status."""
    pipe = client.pipeline(transaction=False)
    for item in items:
        keys = PlayerKeys(item.player)
        pipe.exists(keys.seen(item.entry.seen))
        pipe.hget(keys.facts, "to")
    replies = pipe.execute()
    there = [place for place, exists in enumerate(replies[::2]) if exists]
    linked = [place for place, to in enumerate(replies[1::2]) if to is not None and not replies[2 * place]]
    if not linked:
        return there
    moved = _moved(client, [items[place] for place in linked])
    return sorted([*there, *(linked[at] for at in remembered(client, moved))])


def append(client: redis.Redis, house: House, items: Sequence[Item]) -> Batch:
    """Append items in one pipeline, those of linked ids to their players; a player's entries keep their order.

    Raises:
        StoreError: The store is nearly full, and not all of them restrict contact.
    """
    if not all(forbids(item.entry.facts) for item in items):
        demand_room(client)
    done, linked = _append(client, house, items)
    if not linked:
        return done
    again = append(client, house, _moved(client, [items[place] for place in linked]))
    statuses = list(done.statuses)
    for place, status in zip(linked, again.statuses, strict=True):
        statuses[place] = status
    taken = [
        items[place]
        for place, to in linked.items()
        if Mark.loads(to).state == "pending" and statuses[place] != "conflict"
    ]
    _hold_here(client, house, [item for item in taken if item.entry.facts])
    return Batch(statuses, done.reached | again.reached)


def _moved(client: redis.Redis, items: Sequence[Item]) -> list[Item]:
    """Items with those of linked ids moved to their players."""
    home = owners_of(client, [item.player for item in items])
    return [item if home[item.player] == item.player else _of(item, home[item.player]) for item in items]


def _hold_here(client: redis.Redis, house: House, items: Sequence[Item]) -> None:
    """Assert the facts of linked ids at the ids too, whose pending link may still be aborted."""
    pipe = client.pipeline(transaction=False)
    for item in items:
        names, arguments = assert_command(house, PlayerKeys(item.player), item.entry.facts)
        pipe.fcall("croupier_assert", len(names), *names, *arguments)
    pipe.execute()


def _of(item: Item, player: str) -> Item:
    """Item of a linked id moved to its player, with the facts kept apart."""
    columns = msgspec.msgpack.decode(item.entry.body)
    columns |= {"player": player, "detail": {TOLD_OF: item.player} | columns.get("detail", {})}
    entry = item.entry.under(item.player)._replace(body=msgspec.msgpack.encode(columns))
    return item._replace(player=player, entry=entry)


def _append(client: redis.Redis, house: House, items: Sequence[Item]) -> tuple[Batch, dict[int, str]]:
    """Append items; those of linked ids are not appended but returned with their marks."""
    calls = list(_calls(items))
    pipe = client.pipeline(transaction=False)
    for places in calls:
        some = [items[place] for place in places]
        keys = PlayerKeys(some[0].player)
        names, arguments = ingest_command(house, keys, [one.entry for one in some], remember=some[0].remember)
        function = RESTRICT if any(forbids(one.entry.facts) for one in some) else INGEST
        pipe.fcall(function, len(names), *names, *arguments)
    statuses: list[Status] = ["new"] * len(items)
    reached: dict[int, str] = {}
    linked: dict[int, str] = {}
    for places, reply in zip(calls, pipe.execute(), strict=True):
        for place, answer in zip(places, appended(reply), strict=True):
            done = _compared(client, items[place], answer)
            statuses[place] = done.status
            if done.status == "new":
                reached[partition_of(items[place].player)] = done.stream_id
            elif done.status == "linked":
                linked[place] = done.stream_id
    return Batch(statuses, reached), linked


def _compared(client: redis.Redis, item: Item, done: Appended) -> Appended:
    """Status of an item; the digest of an earlier build under its id may mean the same content."""
    if done.status != "conflict":
        return done
    held = cast("bytes | None", client.get(PlayerKeys(item.player).seen(item.entry.seen)))
    return done if held is None else item.entry.again(held)


def _calls(items: Sequence[Item]) -> Iterator[list[int]]:
    """Indexes of the items for each call: of one player, in order, all remembered or none."""
    grouped: dict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        grouped[item.player].append(place)
    for places in grouped.values():
        for _, alike in groupby(places, key=lambda place: items[place].remember):
            run = list(alike)
            yield from (run[start : start + PER_CALL] for start in range(0, len(run), PER_CALL))
