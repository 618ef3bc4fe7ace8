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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec
import redis

from features import image
from features.aggregates import Activity, local_parts
from features.read_plan import ReadPlan
from features.schema import FAILED_LOGIN
from features.steps import Step, no_step
from features.store.cluster import is_away, replies
from features.store.deployment import PARTITIONS, clock_arguments, open_house, real_now_us
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
from pipelines.worker.changes import Change, Held, NewRow, changes
from pipelines.worker.owners import owners_of
from service.contacts.entries import ChargingLease
from service.contacts.ledger import assert_command
from service.players import facts, identity
from service.players.harm import HarmSettings

LEASE_SECONDS: Final = 5
BATCH: Final = 20_000
"""Entries read at once, over all leased partitions; applied well within a lease."""


class OwnedPartition(NamedTuple):
    """A partition leased by this consumer: its fencing epoch, and the last entry applied."""

    epoch: bytes
    cursor: str


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
        held, lost = self._held(_rows(entry for entries in batches.values() for entry in entries))
        changed = list(changes(held, self._plan, self.settings))
        lost |= self._tell({change.player: change.signs for change in changed if change.signs})
        return lost | self._put(change for change in changed if partition_of(change.player) not in lost)

    def _held(self, rows: Mapping[str, list[NewRow]]) -> tuple[list[Held], set[int]]:
        """What the store holds of players with new rows, and the partitions that are away."""
        wanted = image.fields_of_values(self._plan)
        pipe = self._client.pipeline(transaction=False)
        for player in rows:
            pipe.hmget(self._plan.key(player), wanted)  # type: ignore[arg-type]
            pipe.hgetall(PlayerKeys(player).facts)
        found, held, lost = replies(pipe), list[Held](), set[int]()
        for player, told, known in zip(rows, found[::2], found[1::2], strict=True):
            if is_away(told) or is_away(known):
                lost.add(partition_of(player))
            else:
                features = dict(zip(wanted, told, strict=True))
                held.append(Held(player, features, known, rows[player], image.values(features, self._plan)))
        return self._whole(held, lost), lost

    def _whole(self, held: Sequence[Held], lost: set[int]) -> list[Held]:
        """The same with all fields of features where the image does not tell them."""
        places = [at for at, one in enumerate(held) if one.known is None and image.holds_any(one.features)]
        pipe = self._client.pipeline(transaction=False)
        for at in places:
            pipe.hgetall(self._plan.key(held[at].player))  # type: ignore[arg-type]
        found = dict(zip(places, replies(pipe), strict=True))
        lost |= {partition_of(held[at].player) for at, told in found.items() if is_away(told)}
        whole = [one._replace(features=found[at]) if at in found else one for at, one in enumerate(held)]
        return [one for one in whole if partition_of(one.player) not in lost]

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

    def _put(self, changed: Iterable[Change]) -> set[int]:
        """Write features to the store; returns the partitions that are fenced or away."""
        self._step("apply")
        pipe, partitions = self._client.pipeline(transaction=False), []
        for change in changed:
            partition = partition_of(change.player)
            partitions.append(partition)
            names = [lease_key(partition), self._plan.key(change.player)]
            seen = (self.owned[partition].epoch, change.before)
            if change.views:
                told = (*seen, len(change.views) // 2, *change.views, change.last, *change.pairs)
                pipe.fcall("croupier_amend", 2, *names, *told)
            else:
                pipe.fcall("croupier_fold", 2, *names, *seen, change.last, *change.pairs)
        return {at for at, reply in zip(partitions, replies(pipe), strict=True) if reply == 0 or is_away(reply)}

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


def _rows(entries: Iterable[LogEntry]) -> dict[str, list[NewRow]]:
    """Rows of activity per player, in log order; decisions and exposures are none."""
    rows: dict[str, list[NewRow]] = defaultdict(list)
    for entry in entries:
        if entry.kind in {"event", "outcome"}:
            columns = msgspec.msgpack.decode(entry.body)
            rows[columns["player"]].append(NewRow(entry.stream_id, activity(columns, entry.time_zone)))
    return rows
