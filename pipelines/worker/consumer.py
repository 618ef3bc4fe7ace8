"""Turn the log into features: one leased consumer per partition, each entry once.

    log of a partition --read after the cursor--> rows per player --update--> stored values, with the id of the
    last entry in them, in one fenced call --> cursor and watermark move
                                                                  `--> signs of harm become facts

A crash between the calls repeats entries that the stored values already hold; their ids are not above the
player's last applied one, so they are skipped.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Final, NamedTuple, cast

import msgspec
import numpy as np
import redis

from features import image
from features.aggregates import DAY_MICROS, Activity, encode, forward, local_parts, update
from features.read_plan import ReadPlan
from features.schema import FAILED_LOGIN
from features.store.cluster import is_away, replies
from features.store.deployment import PARTITIONS, clock_arguments, open_house, order, real_now_us
from features.store.keys import (
    PlayerKeys,
    budget_key,
    bundle_key,
    expiry_key,
    lease_key,
    log_key,
    partition_of,
    partition_of_log,
    pointer_key,
)
from pipelines.worker.owners import owners_of
from service.contacts.entries import ChargingLease
from service.contacts.ledger import assert_command
from service.players import facts, harm, identity
from service.players.harm import HarmSettings
from service.rules import inputs

LEASE_SECONDS: Final = 5
BATCH: Final = 20_000
"""Entries read at once, over all leased partitions; applied well within a lease."""
_RECENT_DAYS: Final = 32
"""Days within which a sign of harm may still hold."""
_TELLING: Final = frozenset(
    {"deposit", "bet", "withdrawal_cancelled", "support_contact", "limit_set", "limit_reached", "chargeback"}
)
"""Activity that can be a sign of harm."""


Step = Callable[[str], None]
"""Called with the name of the next step of a loop; tests end a process there."""


def no_step(_: str) -> None:
    """Default step of a loop: do nothing."""


class OwnedPartition(NamedTuple):
    """A partition leased by this consumer: its fencing epoch, and the last entry applied."""

    epoch: bytes
    cursor: str


class _Change(NamedTuple):
    """Effect of new rows on a player: signs of harm, last log entry before and after, fields and values to write."""

    player: str
    signs: Sequence[facts.Assertion]
    before: bytes
    last: str
    pairs: Sequence[bytes]


class LogEntry(NamedTuple):
    """One entry of a partition's log. `known_us` is the house time at which the store appended it."""

    stream_id: str
    kind: str
    known_us: int
    time_zone: str | None
    body: bytes


def log_entry(stream_id: bytes, fields: Mapping[bytes, bytes]) -> LogEntry:
    """Decode a log entry of the store."""
    zone = fields[b"z"].decode() or None
    return LogEntry(stream_id.decode(), fields[b"k"].decode(), int(fields[b"t"]), zone, fields[b"b"])


def activity(columns: Mapping[str, Any], time_zone: str | None) -> Activity:
    """Row of activity for the aggregates, with timing slot and night flag in the player's zone."""
    slot, night = local_parts(columns["occurred_at"], time_zone)
    type_ = FAILED_LOGIN if columns["type"] == "login" and columns.get("status") else columns["type"]
    return Activity(
        type_,
        columns["occurred_at"],
        columns.get("amount_minor"),
        columns.get("status"),
        columns.get("target"),
        columns.get("product"),
        columns.get("channel"),
        slot,
        night,
        columns.get("counts_at"),
    )


def serving_plan(client: redis.Redis) -> ReadPlan | None:
    """The serving read plan, None before definitions were applied."""
    digest = cast("bytes | None", client.get(pointer_key("plan")))
    return ReadPlan.loads(cast("bytes", client.get(bundle_key(digest.decode())))) if digest else None


class Consumer:
    """Leases partitions and keeps their features current. `step` is called before every step with its name.

    Attributes:
        settings: What counts as a sign of harm.
        owned: Partitions leased now.
        applied: Entries turned into features since the start.
        away: Partitions whose node did not answer the last time that leases were renewed.
    """

    def __init__(self, client: redis.Redis, plan: ReadPlan, settings: HarmSettings, step: Step = no_step) -> None:
        self._client = client
        self._step = step
        self._house = open_house(client)
        self._plan = plan
        self.settings = settings
        self._owner = secrets.token_hex(8)
        self.owned: dict[int, OwnedPartition] = {}
        self._current_us: dict[int, int] = {}
        self.applied = 0
        self.away = 0

    def renew(self) -> None:
        """Lease every partition that is free or ours, and move the watermarks of ours."""
        self._step("renew")
        pipe = self._client.pipeline(transaction=False)
        for partition in range(PARTITIONS):
            arguments = [self._owner, str(LEASE_SECONDS * 1_000_000), str(self._current_us.get(partition, ""))]
            pipe.fcall("croupier_lease", 1, lease_key(partition), *arguments)
        held = replies(pipe)
        self.away = sum(map(is_away, held))
        for partition, reply in enumerate(held):
            if reply == 0 or is_away(reply):
                self._forget(partition)
            else:
                # As the store has it: after a failover a cursor may lie behind what was acknowledged.
                self.owned[partition] = OwnedPartition(reply[0], reply[1].decode())

    def _forget(self, partition: int) -> None:
        self.owned.pop(partition, None)
        self._current_us.pop(partition, None)

    def expire(self) -> None:
        """Return budget charged by leases that expired unconfirmed."""
        now_us = self._house.now_us(real_now_us(self._client))
        pipe = self._client.pipeline(transaction=False)
        for partition in self.owned:
            pipe.zrangebyscore(expiry_key(partition), 0, now_us - 1)
        for partition, found in zip(self.owned, replies(pipe), strict=True):
            for one in () if is_away(found) else found:
                lease = ChargingLease.loads(one)
                names = [expiry_key(partition), budget_key(partition), lease.ledger]
                pipe.fcall("croupier_expire", len(names), *names, *clock_arguments(self._house), lease.decision_id)
        replies(pipe)

    def release(self) -> None:
        """Release all partitions at once."""
        self._step("release")
        pipe = self._client.pipeline(transaction=False)
        for partition in self.owned:
            pipe.fcall("croupier_release", 1, lease_key(partition), self._owner)
        replies(pipe)
        self.owned.clear()
        self._current_us.clear()

    def step(self, block_ms: int) -> int:
        """Apply new entries, waiting up to `block_ms` for them; returns their number."""
        if not self.owned:
            return 0
        self._step("read")
        read_us = real_now_us(self._client)
        streams = {log_key(partition): held.cursor for partition, held in self.owned.items()}
        most = BATCH // len(self.owned) + 1
        answer = cast("list[Any]", self._client.xread(streams, most, block_ms))  # type: ignore[arg-type]
        unread = {partition_of_log(name) for name, entries in answer if is_away(entries)}
        batches = {
            partition_of_log(name): [log_entry(stream_id, fields) for stream_id, fields in entries]
            for name, entries in answer
            if not is_away(entries)
        }
        lost = self._apply(batches) | unread
        # Read to the end and applied: true for the moment before the read.
        current = {at: read_us for at in self.owned if at not in lost and len(batches.get(at, ())) < most}
        moved = {at: entries[-1].stream_id for at, entries in batches.items() if at not in lost}
        fresh = {at: held.cursor for at, held in self.owned.items() if at in current.keys() - self._current_us.keys()}
        self._current_us |= current
        self._advance(fresh | moved)
        for partition in unread:
            self._forget(partition)
        done = sum(len(entries) for entries in batches.values())
        self.applied += done
        return done

    def _apply(self, batches: Mapping[int, list[LogEntry]]) -> set[int]:
        """Update the players of some batches; returns the partitions found lost or away.

        Signs of harm are asserted before the features that show them are written: asserting twice changes nothing, and
        neither a crash nor a node that goes away in between may lose a sign.
        """
        self._step("fetch")
        rows = _rows(entry for entries in batches.values() for entry in entries)
        players = list(rows)
        pipe = self._client.pipeline(transaction=False)
        for player in players:
            pipe.hgetall(self._plan.key(player))  # type: ignore[arg-type]
            pipe.hgetall(PlayerKeys(player).facts)
        held, changes, lost = replies(pipe), list[_Change](), set[int]()
        for player, features, known in zip(players, held[::2], held[1::2], strict=True):
            if is_away(features) or is_away(known):
                lost.add(partition_of(player))
            elif (change := self._change(player, features, known, rows[player])) is not None:
                changes.append(change)
        lost |= self._tell({change.player: change.signs for change in changes if change.signs})
        return lost | self._put(change for change in changes if partition_of(change.player) not in lost)

    def _change(
        self, player: str, held: Mapping[bytes, bytes], known: Mapping[bytes, bytes], rows: list[tuple[str, Activity]]
    ) -> _Change | None:
        """Effect of new rows on a player; None if all were applied before, or tell of before the player was erased."""
        applied = order(held[image.APPLIED].decode()) if image.APPLIED in held else (0, 0)
        since_us = facts.erased_us(known) or 0
        rows = [row for row in rows if order(row[0]) > applied and (not since_us or row[1].occurred_us > since_us)]
        if not rows:
            return None
        stored = self._plan.decode([held.get(name) for name in self._plan.fields]).values
        values = update(stored, [row for _, row in rows])
        pairs = self._plan.encode(values, values[0])
        pairs += image.FIELD, image.dump(encode(values), pairs[-1], rows[-1][0].encode())
        return _Change(player, self._signs(stored, known, rows), held.get(image.APPLIED, b""), rows[-1][0], pairs)

    def _tell(self, signs: Mapping[str, Sequence[facts.Assertion]]) -> set[int]:
        """Assert signs of harm as facts, for linked ids at their players; returns the partitions that are away."""
        if not signs:
            return set()
        self._step("tell")
        pipe, lost = self._client.pipeline(transaction=False), set[int]()
        for player, told in signs.items():
            names, arguments = assert_command(self._house, PlayerKeys(player), told)
            pipe.fcall("croupier_assert", len(names), *names, *arguments)
        linked = []
        for player, reply in zip(signs, replies(pipe), strict=True):
            if is_away(reply):
                lost.add(partition_of(player))
            elif reply == -1:
                linked.append(player)
        return lost | self._tell_home({player: signs[player] for player in linked})

    def _tell_home(self, signs: Mapping[str, Sequence[facts.Assertion]]) -> set[int]:
        """Assert signs of linked ids at their players; returns the partitions of ids where that failed."""
        home, lost = owners_of(self._client, signs), set[int]()
        for player, told in signs.items():
            # Where the link was taken away again a moment ago, the id holds the signs itself.
            if home[player] != player and self._tell({home[player]: identity.under(player, told)}):
                lost.add(partition_of(player))
        return lost

    def _put(self, changes: Iterable[_Change]) -> set[int]:
        """Write features to the store; returns the partitions that are fenced or away."""
        self._step("apply")
        pipe, partitions = self._client.pipeline(transaction=False), []
        for change in changes:
            partition = partition_of(change.player)
            partitions.append(partition)
            names = [lease_key(partition), self._plan.key(change.player)]
            told = (self.owned[partition].epoch, change.before, change.last, *change.pairs)
            pipe.fcall("croupier_fold", 2, *names, *told)
        return {at for at, reply in zip(partitions, replies(pipe), strict=True) if reply == 0 or is_away(reply)}

    def _signs(
        self, stored: Sequence[Any], known: Mapping[bytes, bytes], rows: list[tuple[str, Activity]]
    ) -> list[facts.Assertion]:
        """Signs of harm in new activity, day by day, each at the moment of its day's last row."""
        days = _days([row for _, row in rows])
        if not any(row.type in _TELLING for day in days for row in day):
            return []
        states = [stored]
        for day in days:
            states.append(update(states[-1], day))
        moments = [state[0] for state in states[1:]]
        after = forward(np.stack([encode(state) for state in states[1:]]), np.array(moments))
        told = facts.read(identity.together(known), "main")
        found: list[facts.Assertion] = []
        for state, now, at_us in zip(states[:-1], after, moments, strict=True):
            person = inputs.age_and_places(told, at_us)
            if not harm.may_show_signs(now, told, at_us, person, self.settings):
                continue
            signs = harm.signs(forward(encode(state), at_us), now, told, at_us, person, self.settings)
            noted = {one.field[5:]: facts.FactValue(one.text, at_us) for one in signs if one.field.startswith("harm:")}
            told = replace(told, harm={**told.harm, **noted})
            found += signs
        return found

    def _advance(self, cursors: Mapping[int, str]) -> None:
        self._step("advance")
        pipe = self._client.pipeline(transaction=False)
        for partition, cursor in cursors.items():
            watermark = str(self._current_us.get(partition, ""))
            pipe.fcall("croupier_advance", 1, lease_key(partition), self.owned[partition].epoch, cursor, watermark)
        for (partition, cursor), reply in zip(cursors.items(), replies(pipe), strict=True):
            if reply == 0 or is_away(reply):
                self._forget(partition)
            else:
                self.owned[partition] = self.owned[partition]._replace(cursor=cursor)


def _days(rows: list[Activity]) -> list[list[Activity]]:
    """Group rows by day in order; all rows too old to show a sign form one day.

    So that signs do not hang on how many rows arrive together.
    """
    ordered = sorted(rows, key=lambda row: row.occurred_us)
    recent = ordered[-1].occurred_us // DAY_MICROS - _RECENT_DAYS
    grouped = groupby(ordered, key=lambda row: max(row.occurred_us // DAY_MICROS, recent))
    return [list(day) for _, day in grouped]


def _rows(entries: Iterable[LogEntry]) -> dict[str, list[tuple[str, Activity]]]:
    """Rows of activity per player, in log order; decisions and exposures are none."""
    rows: dict[str, list[tuple[str, Activity]]] = defaultdict(list)
    for entry in entries:
        if entry.kind in {"event", "outcome"}:
            columns = msgspec.msgpack.decode(entry.body)
            rows[columns["player"]].append((entry.stream_id, activity(columns, entry.time_zone)))
    return rows
