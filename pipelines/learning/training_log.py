"""Train the policy from the lake: a function of the log alone. No store, no clock.

    lake --flush by flush--> entries in one order --attribution--> training events --learner--> version

The learning log is the lake: its flushes in order, and within a flush its entries by the store's time, partition and
place, so that all partitions together have one order that never changes. An interrupted training goes on from
its checkpoint and arrives at the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from features.aggregates import forward
from features.events import micros
from features.forms import Form, literal
from features.kept_schemas import TODAY, LakeSchemas, Schema, by_name, find
from features.lake.flushes import FlushReader, Part, TableFlushes
from features.schema import hash_of_definitions
from features.settings.mlflow_file import LearnerSettings, read_mlflow
from features.store.deployment import order
from models.policy.context import READINGS, SOURCES, context
from models.policy.learned import LEFT_ALONE, Cursor, PolicyVersion, SnapshotError
from models.policy.learner import FORMAT, Learner, LearnerError, NamedAction
from pipelines.learning.attribution import HARMFUL, Attribution, DrawnDecision, OpenRewards, RewardTerms, TrainingEvent
from pipelines.worker.lake import reach
from service.decisions.record import Record, load_record, unpack_floats

_LOG: Final = structlog.get_logger()
_COLUMNS: Final = {
    "decisions": ["record"],
    "outcomes": ["decision_id", "type", "occurred_at"],
    "events": ["player", "event_id", "type", "occurred_at", "amount_minor", "status", "target", "product", "detail"],
}
_START: Final = Cursor()


class LakeEntry(NamedTuple):
    """An entry of the learning log: its table, house time at which it became known, its columns."""

    table: str
    known_us: int
    columns: Mapping[str, Any]


class LearningLog:
    """The lake as a learning log, read in one fixed order.

    Args:
        lake: Directory of the lake.
        types: Types of events with a value or a penalty.
    """

    def __init__(self, lake: Path, types: frozenset[str]) -> None:
        self._lake = lake
        self._types = pa.array(sorted(types), pa.string())
        self._tables = {table: TableFlushes(lake, table) for table in _COLUMNS}
        self._readers = {table: FlushReader() for table in _COLUMNS}
        self._days: list[str] = []
        self._nothing: tuple[int, int] | None = None

    def flushes(self, after: str) -> list[str]:
        """Names of the complete flushes after a given one, in order."""
        whole, last = reach(self._lake).flushed, _last(after)
        if (whole, last) == self._nothing:
            return []
        try:
            found = self._names(last, whole)
        except FileNotFoundError:  # it became part of a day's file, or its day is deleted, since it was looked for
            found = self._names(last, whole)
        self._nothing = None if found else (whole, last)
        return sorted(found, key=_last)

    def _names(self, after: int, until: int) -> set[str]:
        return {name for table in self._tables.values() for name in table.names(after, until, self._since)}

    def reached(self, after: str) -> int:
        """Stream milliseconds up to which the lake has nothing but what came up to a flush, as far as was seen."""
        last = _last(after)
        return self._nothing[0] if self._nothing and self._nothing[1] == last else last

    def entries(self, flush: str) -> list[LakeEntry]:
        """Entries of a flush, in order."""
        try:
            found, days = self._entries(flush)
        except FileNotFoundError:  # it became part of a day's file since it was looked for
            found, days = self._entries(flush)
        # Days only grow, but for a clock that is set back: one day more is looked at.
        self._days = sorted({*self._days, *days})[-2:]
        return [entry for _, entry in sorted(found, key=lambda one: one[0])]

    def _entries(self, flush: str) -> tuple[list[tuple[tuple[int, int, int], LakeEntry]], set[str]]:
        parts = [(name, part) for name, table in self._tables.items() for part in table.parts(flush, self._since)]
        found = [entry for table, part in parts for entry in self._read(table, part)]
        return found, {part.file.parent.name for _, part in parts}

    @property
    def _since(self) -> str:
        """Folder of the day from which on files are read: days only grow."""
        return self._days[0] if len(self._days) == 2 else ""

    def _read(self, table: str, part: Part) -> Iterator[tuple[tuple[int, int, int], LakeEntry]]:
        rows = self._readers[table].read(part, [*_COLUMNS[table], "known_at", "position"])
        if table == "events":
            rows = rows.filter(pc.is_in(rows["type"], self._types))
        for row in rows.to_pylist():
            partition, _, stream_id = row.pop("position").partition(":")
            milliseconds, sequence = order(stream_id)
            yield (milliseconds, int(partition[1:]), sequence), LakeEntry(table, micros(row.pop("known_at")), row)


def _last(flush: str) -> int:
    return int(flush.partition("-")[2])


def is_learnt(record: Record) -> bool:
    """Whether the learner learns from a decision: one that was scored and drawn among several actions.

    What serves for evaluation is left out: a policy is not judged by what it learnt from.
    """
    choice = record.choice
    several = len(choice.pmf) > 8
    return several and choice.role == "drawn" and record.seen.churn_score is not None and record.use != "eval"


def drawn(record: Record, schema_of: Callable[[str], Schema] = find) -> DrawnDecision | None:
    """The decision of a record for training, by the names of its features; None if it is not learnt from.

    Raises:
        SchemaError: The names of its features are not kept.
    """
    sent, churn = record.action, record.seen.churn_score
    if churn is None or not is_learnt(record):
        return None
    stored = by_name(unpack_floats(record.seen.features), schema_of(record.versions.schema))
    vector = forward(stored, record.at_us)
    seen = context(vector, churn).astype("<f4").tobytes()
    name, player, at_us = record.decision_id, record.player, record.at_us
    if sent is None:
        return DrawnDecision(name, player, at_us, at_us, at_us, True, LEFT_ALONE, None, None, seen)
    moments = (at_us, sent.send_us, sent.valid_until_us)
    return DrawnDecision(name, player, *moments, record.activated, sent.offer, sent.channel, sent.timing_slot, seen)


class Checkpoint(msgspec.Struct, kw_only=True):
    """State of the training: the learner, open rewards, and the place in the log."""

    lineage: str
    cursor: Cursor
    at_us: int
    learner: bytes
    books: OpenRewards
    newest: bytes


class Training:
    """Trains a policy from the log, flush by flush, without a store or a clock.

    Attributes:
        lineage: Changes with anything that changes what would be learnt from the same log.
        cursor: The last entry learnt.
        newest: The latest policy version, None before the first batch.
        measured: Metrics of its batch.
        at_us: House time of the last entry.
        unread: Decisions that could not be read since the start.
    """

    def __init__(self, lake: Path, settings: LearnerSettings, terms: RewardTerms, window_days: float) -> None:
        self._lake, self._settings, self._terms = lake, settings, terms
        self._window_us = int(window_days * 86_400_000_000)
        self.lineage = lineage(settings, terms, self._window_us, READINGS, schema_of_readings(), FORMAT)
        self.measured: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        """Reset, and begin at the start of the lake."""
        self._log = LearningLog(self._lake, HARMFUL | self._terms.types)
        self._learner = Learner(self._settings)
        self._attribution = Attribution(self._terms, self._window_us)
        self._schemas = LakeSchemas(self._lake)
        self._troubles: set[str] = set()
        self.cursor, self.at_us, self.unread = _START, 0, 0
        self.newest: PolicyVersion | None = None

    @property
    def open(self) -> int:
        """Number of decisions whose reward is open."""
        return len(self._attribution.open_rewards.touches)

    def waiting(self) -> list[str]:
        """Names of the flushes that are not learnt yet."""
        return self._log.flushes(self.cursor.flush)

    def reached_us(self) -> int:
        """The store's clock when all that is learnt was in the log, unix microseconds; 0 before the first flush."""
        return self._log.reached(self.cursor.flush) * 1_000

    def learn(self, flush: str) -> None:
        """Learn all entries of a flush."""
        for count, entry in enumerate(self._log.entries(flush), 1):
            self.cursor, self.at_us = Cursor(flush, count), entry.known_us
            for event in training_events(self._attribution, entry, self._drawn):
                self._teach(event)
        self.cursor = Cursor(flush, self.cursor.entries if self.cursor.flush == flush else 0)

    def _drawn(self, columns: Mapping[str, Any]) -> DrawnDecision | None:
        try:
            return drawn(load_record(columns["record"]), self._schemas.find)
        except (msgspec.MsgspecError, ValueError) as error:
            self.unread += 1
            if str(error) not in self._troubles:  # what ails one record may ail a million
                self._troubles.add(str(error))
                trouble = f"a decision cannot be read and is left out, as are others like it: {error}"
                _LOG.error("learner", trouble=trouble, cursor=self.cursor)
            return None

    def _teach(self, event: TrainingEvent) -> None:
        teach(self._learner, event)
        if self._learner.closed:
            self.measured = self._learner.closed
            self.newest = self._learner.snapshot(self.lineage, self.at_us, self.cursor)
            self._learner.closed = {}

    def checkpoint(self) -> bytes:
        """Serialise the whole state between two flushes."""
        return msgspec.msgpack.encode(
            Checkpoint(
                lineage=self.lineage,
                cursor=self.cursor,
                at_us=self.at_us,
                learner=self._learner.dumps(),
                books=self._attribution.open_rewards,
                newest=self.newest.dumps() if self.newest else b"",
            )
        )

    def resume(self, data: bytes) -> bool:
        """Restore a checkpoint; False, with nothing changed, if it is of another lineage or unreadable."""
        try:
            held = msgspec.msgpack.decode(data, type=Checkpoint)
            learner = Learner.loads(held.learner, self._settings)
            newest = PolicyVersion.loads(held.newest) if held.newest else None
        except (msgspec.MsgspecError, LearnerError, SnapshotError):
            return False
        if held.lineage != self.lineage:
            return False
        self._learner, self.newest = learner, newest
        self._attribution = Attribution(self._terms, self._window_us, held.books)
        self.cursor, self.at_us = held.cursor, held.at_us
        return True


def training_events(
    attribution: Attribution, entry: LakeEntry, drawn_of: Callable[[Mapping[str, Any]], DrawnDecision | None]
) -> Iterator[TrainingEvent]:
    """What an entry of the learning log says to an attribution, as training events.

    Args:
        attribution: Has had all entries before it.
        entry: The next one.
        drawn_of: The decision of a row of decisions, None for one that has no reward.
    """
    yield from attribution.pass_time(entry.known_us)
    columns = entry.columns
    if entry.table == "decisions":
        if (found := drawn_of(columns)) is not None:
            yield from attribution.decided(found, entry.known_us)
    elif entry.table == "outcomes" and not columns["decision_id"]:
        return  # an outcome of a player names no contact to learn from
    elif entry.table == "outcomes":
        at_us = micros(columns["occurred_at"])
        yield from attribution.outcome(columns["decision_id"], columns["type"], at_us, entry.known_us)
    else:
        detail = msgspec.json.decode(columns["detail"]) if columns["detail"] else {}
        yield from attribution.event(columns["player"], {**columns, **detail}, micros(columns["occurred_at"]))


def teach(learner: Learner, event: TrainingEvent) -> None:
    """Pass a training event to a learner."""
    one = event.drawn
    act = NamedAction(one.offer, one.channel, one.timing_slot)
    seen = np.frombuffer(one.context, dtype="<f4").astype(np.float64)
    match event.kind:
        case "zero":
            learner.zero(seen, act)
        case "one":
            learner.one(seen, act, event.amount_minor)
        case "value":
            # Values are learnt as logarithms: where all money went back, the least amount there is stands for nothing.
            learner.settle(seen, act, max(event.amount_minor, 1.0), event.provisional_minor)
        case "penalty":
            learner.penalise(act, event.amount_minor)
        case "more" | "nothing":
            pass


_FIRST: Final = "9b2c9c7118b3"
"""Schema of the first build, whose hash stands in its lineages."""


def schema_of_readings(today: Schema = TODAY) -> str:
    """What stands in a lineage for the definitions of the features that the context is made of.

    The hash of the first build's schema while they stand as there, whatever else is stored now; else that of the
    definitions alone.
    """
    if all(find(_FIRST).has(name, today) for name in SOURCES):
        return _FIRST
    return hash_of_definitions(today.definitions[name] for name in SOURCES)


_SETTINGS: Final = Form("oracle batch warm_up keep kappa least_scale_minor")
_TERMS: Final = Form("version worth penalties_minor", worth=Form("type product status target share"))


def lineage(
    settings: LearnerSettings, terms: RewardTerms, window_us: int, readings: Sequence[str], schema: str, format_: int
) -> str:
    """Hash of everything that determines what is learnt from a log, twelve hex digits.

    Args:
        settings: Settings of the learner.
        terms: Value of events, and penalties.
        window_us: Length of the reward window, microseconds.
        readings: Names of the context.
        schema: See `schema_of_readings`.
        format_: See `models.policy.learner.FORMAT`.
    """
    learnt = msgspec.json.encode(_SETTINGS.content(settings)).decode()
    told = [learnt, _TERMS.json(terms).decode(), window_us, tuple(readings), schema, format_]
    return hashlib.sha256(literal(told).encode()).hexdigest()[:12]


def open_training(home: Path) -> Training:
    """A school of a home, as mlflow.yaml and reward.yaml say.

    Raises:
        SettingError: mlflow.yaml is not valid.
        CatalogueError: reward.yaml is not valid.
    """
    settings = read_mlflow(home)
    return Training(home / "lake", settings.learner, RewardTerms.read(), settings.reward.window_days)
