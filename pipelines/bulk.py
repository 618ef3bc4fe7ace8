"""Many events at once through the door that single ones use: the same facts, the same log, fewer round trips."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Final, NamedTuple, cast

import msgspec
import redis

from features.events import REMEMBERED, Event, micros, personal
from features.store import House, partition_of, real_now_us
from service import log
from service.facts import Assertion
from service.know import entry
from service.ledger import Entry, Keys, appended, ingest_command

PER_CALL: Final = 100
"""Entries of one player in one call."""


class Item(NamedTuple):
    """An entry for a player's log; `remember` keeps its id for 35 days, as over HTTP."""

    player: str
    entry: Entry
    remember: bool


class Batch(NamedTuple):
    """What became of some items: how many were new or known, and the last place in each partition's log."""

    accepted: int
    duplicates: int
    reached: dict[int, str]


class Items:
    """Makes items of events; remembers the keys under which personal fields are sealed."""

    def __init__(self, client: redis.Redis, house: House) -> None:
        self._client = client
        self._house = house
        self._seals: dict[str, bytes] = {}
        self._remembered_us = house.now_us(real_now_us(client)) - REMEMBERED // timedelta(microseconds=1)

    def event(self, event: Event) -> Item:
        """An event of any age; the caller vouches that one older than 35 days is new."""
        player = self._house.player_key(event.player_id)
        fields = personal(event)
        sealed = log.seal(self._seal(player), fields, event.event_id) if fields else None
        return Item(player, entry(player, event, sealed), micros(event.occurred_at) >= self._remembered_us)

    def assumed(self, player_id: str, facts: Sequence[Assertion]) -> Item:
        """Facts that a sandbox assumes of a player: at moment 0, where everything known beats them."""
        player = self._house.player_key(player_id)
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
        if player not in self._seals:
            key = Keys(player, b"").seal
            self._seals[player] = cast("bytes", self._client.fcall("croupier_seal", 1, key, log.new_seal()))
        return self._seals[player]


def append(client: redis.Redis, house: House, items: Iterable[Item]) -> Batch:
    """Append items in one pipeline; all entries of a player keep their order."""
    calls = list(_calls(items))
    pipe = client.pipeline(transaction=False)
    for item, entries in calls:
        names, arguments = ingest_command(house, Keys(item.player, b""), entries, remember=item.remember)
        pipe.fcall("croupier_ingest", len(names), *names, *arguments)
    new, known, reached = 0, 0, {}
    for (item, _), reply in zip(calls, pipe.execute(), strict=True):
        for done in appended(reply):
            if done.status == "new":
                new += 1
                reached[partition_of(item.player)] = done.stream_id
            else:
                known += 1
    return Batch(new, known, reached)


def _calls(items: Iterable[Item]) -> Iterator[tuple[Item, list[Entry]]]:
    grouped: dict[tuple[str, bool], list[Item]] = defaultdict(list)
    for item in items:
        grouped[item.player, item.remember].append(item)
    for group in grouped.values():
        for start in range(0, len(group), PER_CALL):
            part = group[start : start + PER_CALL]
            yield part[0], [one.entry for one in part]
