"""The third sentence: the log becomes lessons, lessons a snapshot that serving processes load. One process, one writer.

    lake --flush by flush--> entries in one order --attribution--> lessons --learner--> snapshot --> store, MLflow

The learning log is the lake: its flushes in order, and within a flush its entries by the store's time, partition and
place, so that all partitions together have one order that never changes. What was learnt is a function of that log
alone: a learner that was killed goes on from its checkpoint and arrives at the same bytes.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from features.aggregates import forward
from features.events import micros
from features.schema import schema_hash
from features.store import bundle_key, connect, order, pointer_key, publish
from models.context import context
from models.learner import Act, Learner, LearnerError, LearnerSettings
from models.snapshot import LEFT_ALONE, Cursor, Snapshot, SnapshotError
from pipelines.attribution import HARMFUL, Attribution, Books, Drawn, Lesson, Terms
from pipelines.lake import reach
from service import log
from service.log import Record

LEASE: Final = "lease:learner"
LEASE_SECONDS: Final = 15
POLL_SECONDS: Final = 0.5
CHECKPOINT_SECONDS: Final = 20.0
JOURNAL_SECONDS: Final = 300.0
_LOG: Final = structlog.get_logger()
_COLUMNS: Final = {
    "decisions": ["record"],
    "outcomes": ["decision_id", "type", "occurred_at"],
    "events": ["player", "event_id", "type", "occurred_at", "amount_minor", "status", "target", "product", "detail"],
}
_START: Final = Cursor()


class Logged(NamedTuple):
    """One entry of the learning log: its table of the lake, house time at which it became known, its columns."""

    table: str
    known_us: int
    columns: Mapping[str, Any]


class LearningLog:
    """The lake, read in the one order in which it is learnt from.

    Args:
        lake: Directory of the lake.
        types: Types of events that can teach anything.
    """

    def __init__(self, lake: Path, types: frozenset[str]) -> None:
        self._lake = lake
        self._types = pa.array(sorted(types), pa.string())
        self._since = ""

    def flushes(self, after: str) -> list[str]:
        """Names of the flushes that followed one and are whole, in order."""
        whole, last = reach(self._lake).flushed, _last(after)
        names = {file.stem for table in _COLUMNS for file in self._files(table, "*")}
        return sorted((name for name in names if last < _last(name) <= whole), key=_last)

    def entries(self, flush: str) -> list[Logged]:
        """What a flush holds, in order."""
        found: list[tuple[tuple[int, int, int], Logged]] = []
        for table in _COLUMNS:
            for file in self._files(table, flush):
                found += self._read(table, file)
                self._since = max(self._since, file.parent.name)
        return [entry for _, entry in sorted(found, key=lambda one: one[0])]

    def _files(self, table: str, name: str) -> Iterator[Path]:
        """Files of a table, from the last day on that was read: days only ever grow."""
        for day in sorted((self._lake / table).glob("day=*")):
            if day.name >= self._since:
                yield from day.glob(f"{name}.parquet")

    def _read(self, table: str, file: Path) -> Iterator[tuple[tuple[int, int, int], Logged]]:
        rows = pq.read_table(file, columns=[*_COLUMNS[table], "known_at", "position"], partitioning=None)
        if table == "events":
            rows = rows.filter(pc.is_in(rows["type"], self._types))
        for row in rows.to_pylist():
            partition, _, stream_id = row.pop("position").partition(":")
            milliseconds, sequence = order(stream_id)
            yield (milliseconds, int(partition[1:]), sequence), Logged(table, micros(row.pop("known_at")), row)


def _last(flush: str) -> int:
    return int(flush.partition("-")[2])


def drawn(record: Record) -> Drawn | None:
    """A logged decision as learning sees it; None if nothing was chosen by chance, or by another build's features."""
    choice, sent = record.choice, record.action
    if choice.role != "drawn" or len(choice.pmf) <= 8 or record.versions.schema != schema_hash():
        return None
    vector = forward(log.array(record.seen.features), record.at_us)
    seen = context(vector, record.seen.churn_score).astype("<f4").tobytes()
    name, player, at_us = record.decision_id, record.player, record.at_us
    if sent is None:
        return Drawn(name, player, at_us, at_us, at_us, True, LEFT_ALONE, None, None, seen)
    moments = (at_us, sent.send_us, sent.valid_until_us)
    return Drawn(name, player, *moments, record.activated, sent.offer, sent.channel, sent.timing_slot, seen)


class Checkpoint(msgspec.Struct, kw_only=True):
    """Everything a learner needs to go on: what it learnt, what is open, and how far it read."""

    lineage: str
    cursor: Cursor
    at_us: int
    learner: bytes
    books: Books
    newest: bytes


class School:
    """Learns the log flush by flush, without a store: what is learnt is a function of the log.

    Attributes:
        lineage: Changes with anything that changes what would be learnt from the same log.
        cursor: The last entry learnt.
        newest: The last snapshot that was cut, None before the first batch.
        measured: What was measured of the batch behind it.
        at_us: House time of the last entry.
    """

    def __init__(self, lake: Path, settings: LearnerSettings, terms: Terms, window_days: float) -> None:
        window_us = int(window_days * 86_400_000_000)
        self.lineage = _lineage(settings, terms, window_us)
        self._log = LearningLog(lake, HARMFUL | {one.type for one in terms.worth})
        self._settings = settings
        self._learner = Learner(settings)
        self._attribution = Attribution(terms, window_us)
        self._resumed: Callable[[Books], Attribution] = lambda books: Attribution(terms, window_us, books)
        self.cursor, self.at_us = _START, 0
        self.newest: Snapshot | None = None
        self.measured: dict[str, float] = {}

    @property
    def open(self) -> int:
        """Decisions whose window is open."""
        return len(self._attribution.books.touches)

    def waiting(self) -> list[str]:
        """Flushes that are not learnt yet."""
        return self._log.flushes(self.cursor.flush)

    def learn(self, flush: str) -> None:
        """Learn all entries of a flush."""
        for count, entry in enumerate(self._log.entries(flush), 1):
            self.cursor, self.at_us = Cursor(flush, count), entry.known_us
            for lesson in self._lessons(entry):
                self._teach(lesson)
        self.cursor = Cursor(flush, self.cursor.entries if self.cursor.flush == flush else 0)

    def _lessons(self, entry: Logged) -> Iterator[Lesson]:
        yield from self._attribution.pass_time(entry.known_us)
        columns = entry.columns
        if entry.table == "decisions":
            if (found := drawn(log.loads(columns["record"]))) is not None:
                yield from self._attribution.decided(found, entry.known_us)
        elif entry.table == "outcomes":
            at_us = micros(columns["occurred_at"])
            yield from self._attribution.outcome(columns["decision_id"], columns["type"], at_us, entry.known_us)
        else:
            detail = msgspec.json.decode(columns["detail"]) if columns["detail"] else {}
            yield from self._attribution.event(columns["player"], {**columns, **detail}, micros(columns["occurred_at"]))

    def _teach(self, lesson: Lesson) -> None:
        teach(self._learner, lesson)
        if self._learner.closed:
            self.measured = self._learner.closed
            self.newest = self._learner.snapshot(self.lineage, self.at_us, self.cursor)
            self._learner.closed = {}

    def checkpoint(self) -> bytes:
        """The whole state between two flushes."""
        return msgspec.msgpack.encode(
            Checkpoint(
                lineage=self.lineage,
                cursor=self.cursor,
                at_us=self.at_us,
                learner=self._learner.dumps(),
                books=self._attribution.books,
                newest=self.newest.dumps() if self.newest else b"",
            )
        )

    def resume(self, data: bytes) -> bool:
        """Go on from a checkpoint; False, and nothing changed, if it is of another lineage or cannot be read."""
        try:
            held = msgspec.msgpack.decode(data, type=Checkpoint)
            learner = Learner.loads(held.learner, self._settings)
            newest = Snapshot.loads(held.newest) if held.newest else None
        except (msgspec.MsgspecError, LearnerError, SnapshotError):
            return False
        if held.lineage != self.lineage:
            return False
        self._learner, self._attribution, self.newest = learner, self._resumed(held.books), newest
        self.cursor, self.at_us = held.cursor, held.at_us
        return True


def teach(learner: Learner, lesson: Lesson) -> None:
    """Give a lesson to a learner."""
    one = lesson.drawn
    act = Act(one.offer, one.channel, one.timing_slot)
    seen = np.frombuffer(one.context, dtype="<f4").astype(np.float64)
    match lesson.kind:
        case "zero":
            learner.zero(seen, act)
        case "one":
            learner.one(seen, act, lesson.amount_minor)
        case "value":
            learner.settle(seen, act, lesson.amount_minor, lesson.provisional_minor)
        case "penalty":
            learner.penalise(act, lesson.amount_minor)
        case "nothing":
            pass


def _lineage(settings: LearnerSettings, terms: Terms, window_us: int) -> str:
    told = [msgspec.json.encode(settings), terms.model_dump_json().encode(), str(window_us).encode()]
    return hashlib.sha256(b"\n".join(told)).hexdigest()[:12]


Step = Callable[[str], None]


class LearnerProcess:
    """Runs a school over a house's lake, keeps its checkpoint, and publishes what it learns.

    Args:
        url: The store.
        home: Directory of the house.
        school: What learns.
        tell: Called with a snapshot and its measurements after it was published; must not fail.
        step: Called before every step with its name.
    """

    def __init__(self, url: str, home: Path, school: School, tell: Callable[[School], None], step: Step) -> None:
        self._client = connect(url)
        self._file = home / "learner" / "checkpoint.msgpack"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._school = school
        self._tell = tell
        self._step = step
        self._owner = secrets.token_hex(8)
        self._stopping = threading.Event()
        self._kept = 0.0
        if self._file.exists() and not school.resume(self._file.read_bytes()):
            _LOG.warning("learner", trouble="the checkpoint is of another lineage; learning begins again from the lake")

    def run(self) -> None:
        """Learn until `stop`."""
        while not self._stopping.is_set():
            if self._leads():
                self.work()
            self._stopping.wait(POLL_SECONDS)
        self._keep()
        self._client.fcall("croupier_release", 1, LEASE, self._owner)

    def stop(self) -> None:
        """Ask `run` to end after the flush under way."""
        self._stopping.set()

    def _leads(self) -> bool:
        """Whether this process is the one learner, or can become it."""
        held: object = self._client.fcall("croupier_lease", 1, LEASE, self._owner, str(LEASE_SECONDS * 1_000_000))
        return held != 0

    def work(self) -> None:
        """Learn what is new, then publish the newest snapshot."""
        for flush in self._school.waiting():
            self._step("learn")
            self._school.learn(flush)
            if time.monotonic() - self._kept >= CHECKPOINT_SECONDS:
                self._keep()
            if self._stopping.is_set():
                return
        self._step("publish")
        self._publish()

    def _keep(self) -> None:
        self._step("write")
        unfinished = self._file.with_suffix(".tmp")
        unfinished.write_bytes(self._school.checkpoint())
        self._step("rename")
        unfinished.replace(self._file)
        self._kept = time.monotonic()

    def _publish(self) -> None:
        newest = self._school.newest
        if newest is None or not self._follows(newest):
            return
        publish(self._client, "policy", newest.dumps(), newest.version)
        self._step("tell")
        self._tell(self._school)
        _LOG.info("published", version=newest.version, cursor=newest.cursor.flush, **self._school.measured)

    def _follows(self, newest: Snapshot) -> bool:
        """Whether a snapshot comes after the one that serves."""
        digest = cast("bytes | None", self._client.get(pointer_key("policy")))
        data = cast("bytes | None", self._client.get(bundle_key(digest.decode()))) if digest else None
        try:
            serving = Snapshot.loads(data) if data else None
        except SnapshotError:
            return True
        return serving is None or serving.lineage != newest.lineage or serving.number < newest.number


class _Reward(msgspec.Struct, frozen=True):
    window_days: float


class _Settings(msgspec.Struct, frozen=True):
    """What learning needs of mlflow.yaml."""

    reward: _Reward
    learner: LearnerSettings


def open_school(lake: Path) -> School:
    """A school as mlflow.yaml and reward.yaml say.

    Raises:
        RegistryError: mlflow.yaml cannot be used.
        CatalogueError: reward.yaml cannot be used.
    """
    from models.registry import SETTINGS, RegistryError  # noqa: PLC0415 - MLflow takes seconds to import

    try:
        found = msgspec.yaml.decode(SETTINGS.read_bytes(), type=_Settings)
    except (OSError, msgspec.MsgspecError) as error:
        raise RegistryError(f"{SETTINGS} cannot be used: {error}") from error
    return School(lake, found.learner, Terms.read(), found.reward.window_days)


class Teller:
    """Tells MLflow of what was published; what MLflow does not take is not told, and learning goes on."""

    def __init__(self, home: Path, school: School) -> None:
        from models.registry import LearnerJournal  # noqa: PLC0415 - MLflow takes seconds to import

        self._checkpoint = home / "learner" / "checkpoint.msgpack"
        self._kept = time.monotonic()
        self._journal = LearnerJournal(home, school.lineage)

    def __call__(self, school: School) -> None:
        """Note the newest snapshot, and keep a checkpoint every few minutes."""
        if school.newest is None:
            return
        try:
            self._journal.note(school.newest.number, school.measured | {"open": float(school.open)})
            if time.monotonic() - self._kept > JOURNAL_SECONDS and self._checkpoint.exists():
                self._journal.keep(self._checkpoint)
                self._kept = time.monotonic()
        except Exception as error:  # noqa: BLE001 - whatever a remote server does, the policy must go on learning
            _LOG.warning("learner", trouble=f"MLflow was not told: {error}")
