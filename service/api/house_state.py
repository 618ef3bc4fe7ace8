"""State of the house as a scrape reads it from the store: lags, what waits, who serves, memory.

Read whichever process is asked, on whatever host: what follows the log notes in the store how far it got. One reading
serves for some seconds, so that scrapes are not felt, and a store that is away costs a scrape half a second at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from math import inf
from typing import Any, Final, NamedTuple, cast

import msgspec
import redis
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from features.moments import moment
from features.store.bundles import READY
from features.store.cluster import Cluster, is_cluster, plain, replies
from features.store.connection import hashed
from features.store.deployment import PARTITIONS, House, real_now_us
from features.store.keys import (
    BACKED_UP,
    CHURN_PROMOTIONS,
    EXPORTS_WAITING,
    LAKE_LEASE,
    LEARNER_LEASE,
    LIVE,
    POLICY_HISTORY,
    RULES_PROMOTIONS,
    SENDS_COUNTED,
    STOPS,
    lease_key,
    log_key,
    outbox_key,
    sends_key,
    undelivered_key,
)
from models.releases.journal import read_entry
from service.contacts.stops import read_journal

KEPT_SECONDS: Final = 5.0
"""How long a reading serves."""
AWAY_SECONDS: Final = 1.0
"""How long it serves that the store is away."""
CALL_SECONDS: Final = 0.4
ASK_SECONDS: Final = 0.6
"""What a scrape waits for a reading; one that is later serves the next scrape."""
_JOURNALS: Final = {"churn": CHURN_PROMOTIONS, "policy": POLICY_HISTORY, "rules": RULES_PROMOTIONS}
_LOG: Final = structlog.get_logger()


class StoreServer(NamedTuple):
    """What a server of the store says of itself: bytes that it uses and may use, and whether what it takes is kept."""

    used: int
    bound: int
    persists: bool


class HouseReading(NamedTuple):
    """A reading of the whole house; of partitions whose server did not answer, only how many.

    Attributes:
        now_us: The store's clock.
        marks: Watermark of each partition, unix microseconds of the store's clock; 0 for never.
        lake_us: How far the lake reaches, likewise.
        learner_us: How far the learner does.
        logged: Entries of the logs: what lake or features still miss.
        outbox: Entries that a webhook endpoint is still to be told of.
        undelivered: Entries that delivery was given up for.
        reports: What each living serving process reports.
        backed_up_us: When the newest backup was taken, by the store's clock; 0 for never.
        stopped: When each stop of marketing that stands was made, by the house's clock, ISO 8601.
        promoted: Kind -> when its newest release was, by the house's clock, ISO 8601.
        servers: The servers of the store.
        away: Partitions that did not answer.
        exports: Exports of players that are still to be made.
        sends: Messages that wait to be sent or settled.
        due_us: When the first of them was due, house time; 0 where none waits.
        sent: Messages that came into a state, by `state/connector`; `unproved` ones count as sent without any answer.
    """

    now_us: int
    marks: Sequence[int]
    lake_us: int
    learner_us: int
    logged: int
    outbox: int
    undelivered: int
    reports: Sequence[Mapping[str, str]]
    backed_up_us: int
    stopped: Sequence[str]
    promoted: Mapping[str, str]
    servers: Sequence[StoreServer]
    away: int
    exports: int = 0
    sends: int = 0
    due_us: int = 0
    sent: Mapping[str, int] = {}


class HouseState:
    """The house's state as scrapes are told it: read at most every few seconds, by one scrape for all.

    Args:
        url: The store.
        house: Whose clock the journals tell.
    """

    def __init__(self, url: str, house: House) -> None:
        self._url, self._house = url, house
        self._reading: asyncio.Future[list[Family]] | None = None
        self._known: list[Family] = _absent()
        self._until = -inf

    async def families(self) -> list[Family]:
        """What is known of the house; `croupier_store_up` alone, at 0, while the store does not answer in time."""
        if self._reading is None and time.monotonic() >= self._until:
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._read))
        if (reading := self._reading) is None:
            return self._known
        done, _ = await asyncio.wait([reading], timeout=ASK_SECONDS)
        if not done:
            return _absent()
        if reading is self._reading:  # the first of those that waited
            self._reading, self._known = None, reading.result()
        return self._known

    def _read(self) -> list[Family]:
        try:
            with closing(_client(self._url)) as client:
                told = gauges(read_house(client), self._house)
        except Exception as error:  # noqa: BLE001 - whatever cannot be read, what was counted is told
            _LOG.warning("metrics", trouble=f"the house could not be read: {type(error).__name__}: {error}")
            self._until = time.monotonic() + AWAY_SECONDS
            return _absent()
        self._until = time.monotonic() + KEPT_SECONDS
        return told


def _client(url: str) -> redis.Redis:
    return Cluster(url, CALL_SECONDS) if is_cluster(url) else plain(url, CALL_SECONDS)


def read_house(client: redis.Redis) -> HouseReading:
    """Read the house in two round trips; raises redis.RedisError."""
    each: list[tuple[str, ...]] = []
    for partition in range(PARTITIONS):
        each.append(("HGET", lease_key(partition), "watermark"))
        each += [("XLEN", name(partition)) for name in (log_key, outbox_key, undelivered_key)]
        each += [("ZCARD", sends_key(partition)), ("ZRANGE", sends_key(partition), "0", "0", "WITHSCORES")]
    whole = [
        ("HGET", LAKE_LEASE, "watermark"),
        ("HGET", LEARNER_LEASE, "watermark"),
        ("SMEMBERS", LIVE),
        ("GET", BACKED_UP),
        ("HGETALL", STOPS),
        ("LLEN", EXPORTS_WAITING),
        ("HGETALL", SENDS_COUNTED),
    ]
    whole += [("LINDEX", journal, "-1") for journal in _JOURNALS.values()]
    found = _replies(client, each + whole)
    marks, logged, outbox, undelivered, sends, first = (found[at : len(each) : 6] for at in range(6))
    lake, learner, live, backed_up, stops, exports, counted, *journals = found[len(each) :]
    reports = _replies(client, [("GET", name.decode()) for name in live or ()])
    return HouseReading(
        now_us=real_now_us(client),
        marks=[int(mark or 0) for mark, length in zip(marks, logged, strict=True) if length is not None],
        lake_us=int(lake or 0),
        learner_us=int(learner or 0),
        logged=sum(map(int, filter(None, logged))),
        outbox=sum(map(int, filter(None, outbox))),
        undelivered=sum(map(int, filter(None, undelivered))),
        reports=[msgspec.json.decode(report) for report in reports if report],
        backed_up_us=int(backed_up or 0),
        stopped=standing(hashed(stops or {})),
        promoted={kind: read_entry(kind, one).at for kind, one in zip(_JOURNALS, journals, strict=True) if one},
        servers=[
            _server(cast("dict[str, Any]", one.info()))
            for one in (client.servers() if isinstance(client, Cluster) else [client])
        ],
        away=sum(length is None for length in logged),
        exports=int(exports or 0),
        sends=sum(map(int, filter(None, sends))),
        due_us=min((int(_score(one)) for one in first if one), default=0),
        sent={name.decode(): int(count) for name, count in hashed(counted or {}).items()},
    )


def _score(first: Sequence[Any]) -> float:
    """Score of the first member of a sorted set, whichever way the client gives it."""
    return float(first[0][1] if isinstance(first[0], list | tuple) else first[1])


def _replies(client: redis.Redis, commands: Sequence[tuple[str, ...]]) -> list[Any]:
    """Replies in order, None of servers that do not answer."""
    pipe = client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)  # type: ignore[no-untyped-call]
    return [None if isinstance(one, Exception) else one for one in replies(pipe)]


def standing(journal: Mapping[bytes, bytes]) -> list[str]:
    """When each stop that nobody lifted was made, as the journal of stops has it. Pure."""
    return [stop.at for stop in read_journal(journal).values() if stop.stands]


def _server(info: Mapping[str, Any]) -> StoreServer:
    bound = int(info.get("maxmemory") or 0) or int(info.get("total_system_memory") or 0)
    sound = all(info.get(name, "ok") == "ok" for name in ("aof_last_write_status", "aof_last_bgrewrite_status"))
    return StoreServer(int(info["used_memory"]), bound, bool(info.get("aof_enabled")) and sound)


def gauges(reading: HouseReading, house: House) -> list[Family]:
    """A reading as Prometheus is told it. Pure."""
    return [*_lags(reading), *_waiting(reading), *_sends(reading, house), *_ages(reading, house), *_store(reading)]


def _lags(reading: HouseReading) -> list[Family]:
    now_us, lags = reading.now_us, [_lag(reading.now_us, mark) for mark in reading.marks if mark]
    return [
        _gauge("croupier_features_lag_max_seconds", "Age of behaviour in the partition furthest behind", *_most(lags)),
        _gauge("croupier_features_lag_sum_seconds", "Ages of behaviour in all partitions together", sum(lags)),
        _gauge("croupier_partitions_unread", "Partitions whose log no worker ever read", reading.marks.count(0)),
        _gauge("croupier_lake_lag_seconds", "Age of what the lake misses", *_behind(now_us, reading.lake_us)),
        _gauge("croupier_learner_lag_seconds", "Age of what is not learnt", *_behind(now_us, reading.learner_us)),
    ]


def _waiting(reading: HouseReading) -> list[Family]:
    return [
        _gauge("croupier_log_entries", "Entries of the log that lake or features miss", reading.logged),
        _gauge("croupier_outbox_entries", "Revocations that webhooks are still to be told of", reading.outbox),
        _gauge("croupier_undelivered_entries", "Revocations that webhooks were never told of", reading.undelivered),
        _gauge("croupier_exports_waiting", "Exports of players that are still to be made", reading.exports),
    ]


def _sends(reading: HouseReading, house: House) -> list[Family]:
    """What the house sends: waiting, late, and what became of it."""
    late = max(0.0, (house.now_us(reading.now_us) - reading.due_us) / 1_000_000 / house.rate) if reading.due_us else 0.0
    states = CounterMetricFamily(
        "croupier_sends", "Messages of the house that came into a state", labels=["state", "connector"]
    )
    for name, count in sorted(reading.sent.items()):
        state, divided, connector = name.partition("/")
        if divided:
            states.add_metric((state, connector), count)
    unproved = CounterMetricFamily("croupier_sends_unproved", "Messages without any answer that count as sent")
    unproved.add_metric((), reading.sent.get("unproved", 0))
    return [
        _gauge("croupier_sends_waiting", "Messages that wait to be sent, or for an answer", reading.sends),
        _gauge("croupier_sends_lag_seconds", "Since when the first of them should have been looked at", late),
        states,
        unproved,
    ]


def _ages(reading: HouseReading, house: House) -> list[Family]:
    """Ages of what serves and of stops, by the house's clock, and of the newest backup; who serves."""
    now, now_us = moment(house.now_us(reading.now_us)), reading.now_us
    ready = sum(READY in one for one in reading.reports)
    ages, stops = (
        {kind: _age(now, at) for kind, at in reading.promoted.items()},
        [_age(now, at) for at in reading.stopped],
    )
    return [
        _by("croupier_release_age_seconds", "House time since a kind's newest release", "release", ages),
        _gauge("croupier_stops", "Stops of marketing that stand", len(stops)),
        _gauge("croupier_stop_age_seconds", "House time since the oldest of them was made", *_most(stops)),
        _gauge("croupier_backup_age_seconds", "Time since the newest backup", *_behind(now_us, reading.backed_up_us)),
        _gauge("croupier_processes", "Serving processes that live", len(reading.reports)),
        _gauge("croupier_processes_ready", "Serving processes that are ready", ready),
    ]


def _age(now: datetime, at: str) -> float:
    return max(0.0, (now - datetime.fromisoformat(at)).total_seconds())


def _store(reading: HouseReading) -> list[Family]:
    used, bound = (sum(found) for found in zip(*((one.used, one.bound) for one in reading.servers), strict=True))
    shares = [one.used / one.bound for one in reading.servers if one.bound]
    persists = all(one.persists for one in reading.servers)
    return [
        _up(1),
        _gauge("croupier_partitions_away", "Partitions of the store that do not answer", reading.away),
        _gauge("croupier_store_memory_used_bytes", "Memory that the store uses", used),
        _gauge("croupier_store_memory_bound_bytes", "Memory that the store may use", bound),
        _gauge("croupier_store_memory_share", "Share of its memory that the fullest server uses", *_most(shares)),
        _gauge("croupier_store_persists", "Whether every server writes to disk what it takes", persists),
    ]


def _absent() -> list[Family]:
    return [_up(0)]


def _up(value: float) -> Family:
    return _gauge("croupier_store_up", "Whether the store answers a scrape in time", value)


def _lag(now_us: int, mark_us: int) -> float:
    return max(0, now_us - mark_us) / 1_000_000


def _behind(now_us: int, mark_us: int) -> list[float]:
    """How far a mark is behind; nothing where nobody ever set one."""
    return [_lag(now_us, mark_us)] if mark_us else []


def _most(values: Sequence[float]) -> list[float]:
    return [max(values)] if values else []


def _gauge(name: str, text: str, *value: float) -> Family:
    """A gauge of one value, or of none where that is not known."""
    family = GaugeMetricFamily(name, text)
    for one in value:
        family.add_metric((), float(one))
    return family


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> Family:
    family = GaugeMetricFamily(name, text, labels=[label])
    for word, value in values.items():
        family.add_metric((word,), value)
    return family
