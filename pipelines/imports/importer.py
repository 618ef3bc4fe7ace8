"""Import events from any CSV or JSON lines file by a mapping, or in our own format, each exactly once.

    file --Source--> rows --mapping--> records of events --Seen, judge--> those that are new --bulk--> the log

What is wrong with file or mapping is found before anything is appended. A record is a row with all the events that it
is made into: taken whole or not at all. What is wrong with one, or says otherwise than what was taken under its id,
goes to the rejects file with its reason, and the import goes on. An import that was killed is run again: what the log
took is in the lake by then, and not taken twice.
"""

from __future__ import annotations

import fcntl
import gc
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

import redis
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from features import words
from features.events import Event, micros, moment, of_our_time, timeliness
from features.store.connection import connect
from features.store.deployment import House, open_house, real_now_us
from features.store.errors import StoreError
from features.store.server import serving
from pipelines.imports import bulk
from pipelines.imports.cells import RowRefused, reasons
from pipelines.imports.columns import REJECTED_SHARE, EventMapping
from pipelines.imports.follower import ImportWorker, following
from pipelines.imports.known_events import FileEvent, KnownEvents, file_event, judge
from pipelines.imports.mapping import ImportRefused, MappedRows, OwnRows, RowEvent, RowReader, load
from pipelines.imports.rejects import Rejects, SentenceCounts, rejects_path
from pipelines.imports.rows import Row, Source
from pipelines.served import served_catalogue, served_rulebook
from service.api import reading
from service.contacts.ledger import Status
from service.events.accept import JOINING
from service.players.facts import Assertion, restricts
from service.players.sealing import Seals, seals_of

__all__ = ["ImportRefused", "ImportResult", "run"]

CHUNK_ROWS: Final = 20_000
FIRST_ROWS: Final = 1_000
"""Rows after which an import ends early if too many of them are rejected; they are the first chunk."""
AHEAD: Final = 4
"""Chunks that the log may be ahead of the features: more fill the store, fewer idle it."""
_SPILL: Final = "import-"


class ImportResult(NamedTuple):
    """Result of an import: records = accepted + duplicates + conflicts + rejected.

    Attributes:
        records: Rows that were read, each with all the events that it is made into.
        accepted: Those of which any event is new.
        duplicates: Those that the house has already.
        conflicts: Those with an event whose id was used for other content; they are in the rejects.
        rejected: Those that are no events; they are in the rejects too.
        events: New events.
        seconds: How long it took.
        rows: The older name of `records`.
        lines: Lines of the file that were read, its header and blank ones too.
        events_per_second: New events per second.
        rejects: The file of the rejected rows, None if there are none.
        reasons: Why rows were rejected and how often, the commonest first.
        warnings: Doubts about accepted records.
        refusal: Why the import counts as failed, None if it does not.
    """

    records: int
    accepted: int
    duplicates: int
    conflicts: int
    rejected: int
    events: int
    seconds: float
    rows: int
    lines: int
    events_per_second: float
    rejects: str | None
    reasons: dict[str, int]
    warnings: list[str]
    refusal: str | None


class OpenHouse(NamedTuple):
    """An open house with its home and store."""

    home: Path
    url: str
    client: redis.Redis
    house: House
    seals: Seals

    @property
    def lake(self) -> Path:
        """Folder of the lake."""
        return self.home / "lake"


@contextmanager
def opened(home: Path) -> Iterator[OpenHouse]:
    with serving(home) as url, closing(connect(url)) as client:
        house = open_house(client)
        yield OpenHouse(home, url, client, house, seals_of(house, home))


class Import:
    """An import under way.

    Args:
        door: The house.
        reader: What makes events of rows.
        assume: Facts assumed of every player.
        rejects: Where rejected rows go.
        words: Closed lists of the house.
        most: Greatest share of rejected records, in [0, 1].

    Attributes:
        records: Records read so far; `accepted`, `duplicates` and `conflicts` of them, the others are rejected.
        events: New events so far.
        doubts: Doubts about accepted records.
    """

    def __init__(
        self,
        door: OpenHouse,
        reader: RowReader,
        assume: Sequence[Assertion],
        rejects: Rejects,
        words: words.Door,
        most: float = REJECTED_SHARE,
    ) -> None:
        self._door = door
        self._known_words = words
        self._reader = reader
        self._assume = assume
        self._rejects = rejects
        self._most = most
        self._items = bulk.Items(door.client, door.house, door.seals)
        self._key = lru_cache(maxsize=100_000)(door.house.player_key)
        self._players: set[str] = set()
        self._ahead: deque[dict[int, str]] = deque()
        self._reached: dict[int, str] = {}
        self.doubts = SentenceCounts()
        self.records = self.accepted = self.duplicates = self.conflicts = self.events = 0

    @property
    def too_many(self) -> bool:
        """Whether the share of rejected records exceeds its limit."""
        return self._rejects.count > self._most * self.records

    def take(self, chunks: Iterable[Sequence[Row]], tell: Callable[[Import], None]) -> None:
        """Import chunks of rows until too many are rejected; returns when features and lake have the new events.

        What the log holds at the start, of a killed import too, goes to the lake first: there it is seen.
        """
        with following(self._door.client, self._door.url, self._door.lake) as follower, _seen(self._door.home) as seen:
            for chunk in chunks:
                self._take(chunk, seen)
                self._hold_back(follower)
                tell(self)
                if self.too_many and self.records >= FIRST_ROWS:
                    break
            follower.applied(self._reached)
            follower.stop()
            follower.in_lake(self._reached.values())

    def _take(self, chunk: Sequence[Row], seen: KnownEvents) -> None:
        rows, records = list[Row](), list[list[FileEvent]]()
        for row, record in self._readable(chunk):
            rows.append(row)
            records.append(record)
        verdicts = list(judge(records, self._known(records, seen)))
        if self._assume:
            self._take_assumed([record[0].player_id for record in records], seen)
        statuses = iter(self._take_new([one for verdict in verdicts for one in verdict.fresh], seen))
        for row, verdict in zip(rows, verdicts, strict=True):
            self._count(row, verdict.status == "conflict", [next(statuses) for _ in verdict.fresh])
        self.records += len(chunk)

    def _readable(self, chunk: Iterable[Row]) -> Iterator[tuple[Row, list[FileEvent]]]:
        """Rows with their events; rows that are no events go to the rejects."""
        door = self._door
        now_us = door.house.now_us(real_now_us(door.client))
        for row in chunk:
            try:
                yield row, [self._told(one, now_us, row.line) for one in self._readings(row)]
            except ValueError as error:
                self._rejects.add(row, reasons(error))

    def _readings(self, row: Row) -> list[RowEvent]:
        if row.problem:
            raise RowRefused(row.problem)
        found = self._reader.readings(row.cells)
        if row.doubt:
            self.doubts.add(row.doubt, row.line)
        if any(reading.MANGLED.fullmatch(row.cells[at]) for at in self._reader.names):
            self.doubts.add(f"an id {reading.CHANGED}", row.line)
        return found

    def _told(self, one: RowEvent, now_us: int, line: int) -> FileEvent:
        event = one.event
        if isinstance(event, JOINING):
            raise RowRefused(f"{event.type} concerns more than one player: send it to POST /v1/events")
        if (trouble := _untimely(event, now_us)) and not restricts(event):
            raise RowRefused(trouble)
        reading.check(event, self._known_words)
        own = () if self._reader.names else reading.mangled(event)  # of a mapping, cells are looked at
        for doubt in (*one.doubts.values(), *reading.doubtful(event, moment(now_us).date()), *own):
            self.doubts.add(doubt, line)
        beside = reading.beside(event, one.doubts, self._known_words)
        return file_event(self._items.event(event, now_us, beside), event, self._key(event.player_id))

    def _known(self, records: Sequence[Sequence[FileEvent]], seen: KnownEvents) -> dict[int, bool]:
        """Indexes of events whose id the lake, this run or the store knows, and whether with the same content.

        The store is not asked about a record's only event whose id no other has: it answers as that is appended.
        """
        events = list(chain(*records))
        known = seen.known(events)
        times = Counter(one.name for one in events)
        alone = [len(record) == 1 and times[one.name] == 1 for record in records for one in record]
        asked = [at for at, one in enumerate(events) if one.item.remember and at not in known and not alone[at]]
        there = bulk.remembered(self._door.client, [events[at].item for at in asked])
        # The store compares content itself, and appends nothing under an id that it remembers.
        done = self._append([events[asked[at]].item for at in there])
        return known | {asked[at]: status != "conflict" for at, status in zip(there, done.statuses, strict=True)}

    def _take_assumed(self, players: Iterable[str], seen: KnownEvents) -> None:
        """Append assumed facts of players new to this import."""
        new = [player for player in dict.fromkeys(players) if player not in self._players]
        self._players.update(new)
        items = [self._items.assumed(player, self._assume) for player in new]
        assumed = [
            FileEvent(one, player, f"{one.player} {one.entry.seen}") for one, player in zip(items, new, strict=True)
        ]
        known = seen.known(assumed)
        fresh = [one for at, one in enumerate(assumed) if at not in known]
        self._append([one.item for one in fresh])
        seen.add(fresh)

    def _take_new(self, fresh: Sequence[FileEvent], seen: KnownEvents) -> Sequence[Status]:
        """Append new events; their status, where the store learnt an id just now too."""
        done = self._append([one.item for one in fresh])
        seen.add([one for one, status in zip(fresh, done.statuses, strict=True) if status != "conflict"])
        self.events += done.accepted
        return done.statuses

    def _count(self, row: Row, conflict: bool, statuses: Sequence[Status]) -> None:  # noqa: FBT001 - private
        """Count a record by the status of its new events."""
        if conflict or "conflict" in statuses:
            self.conflicts += 1
            self._rejects.add(row, "this event id was used before for another event")
        elif "new" in statuses:
            self.accepted += 1
        else:
            self.duplicates += 1

    def _append(self, items: Sequence[bulk.Item]) -> bulk.Batch:
        done = bulk.append(self._door.client, self._door.house, items)
        self._reached |= done.reached
        return done

    def _hold_back(self, follower: ImportWorker) -> None:
        """Wait while the log is too far ahead of the features."""
        self._ahead.append(dict(self._reached))
        if len(self._ahead) > AHEAD:
            follower.applied(self._ahead.popleft())


def _untimely(event: Event, now_us: int) -> str:
    """Why the moment of an event is out of range, empty if it is not."""
    if timeliness(micros(event.occurred_at), now_us) == "ahead":
        return f"occurred_at {event.occurred_at.isoformat()} lies in the future of the house's clock"
    return "" if of_our_time(event) else "occurred_at: moments lie between 1970 and 2200"


def _reader(mapping: EventMapping | None, source: Source, first: Sequence[Row], known: words.Door) -> RowReader:
    if mapping is None:
        return OwnRows(known)
    reader = MappedRows(mapping, source.header, source.hashed, known)
    reader.refuse_zoneless(row.cells for row in first[:100] if not row.problem)
    return reader


def _assumed(mapping: EventMapping | None, house: House) -> Sequence[Assertion]:
    if mapping is None or mapping.assume is None:
        return []
    if not house.sandbox:
        raise ImportRefused("the mapping assumes facts of players (`assume`), which only a sandbox house may do")
    return mapping.assume.assertions()


@contextmanager
def alone(home: Path, *, brief: bool = False) -> Iterator[None]:
    """Allow one import at a time: two of the same file would not see each other's events.

    One of what waits in the store is `brief`, begins by itself every few seconds, and is waited for.
    """
    if not home.is_dir():
        raise StoreError(f"{home} holds no house yet: run `croupier up` once")
    with (home / "import.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            if brief or lock.read() != _BRIEF:
                raise ImportRefused("another import into this house is running") from error
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(_BRIEF if brief else "")
        lock.flush()
        yield


_BRIEF: Final = "brief"
"""What the lock says of an import that ends soon."""


@contextmanager
def _seen(home: Path) -> Iterator[KnownEvents]:
    for left in home.glob(f"{_SPILL}*"):  # of an import that was killed: this is the only one
        shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=_SPILL, dir=home) as spill,
        closing(KnownEvents(home / "lake", Path(spill))) as seen,
    ):
        yield seen


@contextmanager
def _bar(source: Source, *, shown: bool) -> Iterator[Callable[[Import], None]]:
    """Progress bar on stderr over the bytes of the file."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    ]
    console = Console(stderr=True)
    shown = shown and console.is_terminal
    with Progress(*columns, console=console, disable=not shown, transient=True) as progress:
        task = progress.add_task("importing", total=source.size)
        yield lambda done: progress.update(
            task, completed=source.read_bytes(), description=f"{done.records:,} records, {done.events:,} new events"
        )


def run(
    home: Path,
    file: Path,
    *,
    mapping: Path | None = None,
    rejects: Path | None = None,
    max_rejected_share: float | None = None,
    progress: bool = True,
) -> ImportResult:
    """Import a file of events into a house; returns when features and lake have all of them.

    Args:
        home: Where the house's state lies.
        file: CSV or JSON lines, gzipped or not.
        mapping: Mapping file, or the name of a shipped one; None for JSON lines in our own event format.
        rejects: Where rejected rows go; by default into the house's folder `rejects`.
        max_rejected_share: The import ends where a greater share of the records is rejected; by default the mapping's.
        progress: Whether a bar is drawn on stderr.

    Raises:
        ImportRefused: File or mapping cannot be taken; nothing was appended.
        StoreError: The house is not there, or its store or worker failed; run the import again.
    """
    begun = time.monotonic()
    chosen = load(mapping) if mapping else None
    most = (
        (chosen.max_rejected_share if chosen else REJECTED_SHARE) if max_rejected_share is None else max_rejected_share
    )
    with _rarely_collecting(), Source(file, chosen) as source, alone(home), opened(home) as door:
        kept = rejects or rejects_path(home, file)
        first = source.chunk(min(FIRST_ROWS, CHUNK_ROWS))
        known = known_words(door.client)
        reader, assume = _reader(chosen, source, first, known), _assumed(chosen, door.house)
        with Rejects(home, kept, file, source.original) as rejected, _bar(source, shown=progress) as tell:
            done = Import(door, reader, assume, rejected, known, most)
            done.take(chain([first], source.chunks(CHUNK_ROWS)), tell)
            return _counted(done, rejected, kept, source, time.monotonic() - begun)


def known_words(client: redis.Redis) -> words.Door:
    """The closed lists of words, and the rates, that hold where events enter the house."""
    book = served_rulebook(client)
    return book.door._replace(exchange=book.exchange(served_catalogue(client).currency))


@contextmanager
def _rarely_collecting() -> Iterator[None]:
    """Collect garbage rarely: searching thousands of rows for cycles costs a quarter of an import."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _counted(done: Import, rejects: Rejects, kept: Path, source: Source, seconds: float) -> ImportResult:
    lines = source.lines
    left = bool(source.chunk(1))
    cut = [] if left or not source.cut_short else ["the last line has no end: was the file cut?"]
    return ImportResult(
        records=done.records,
        accepted=done.accepted,
        duplicates=done.duplicates,
        conflicts=done.conflicts,
        rejected=rejects.count - done.conflicts,
        events=done.events,
        seconds=round(seconds, 3),
        rows=done.records,
        lines=lines if left else source.lines,
        events_per_second=round(done.events / seconds, 1),
        rejects=str(kept) if rejects.count else None,
        reasons=rejects.reasons.counts(),
        warnings=[*done.doubts.sentences(), *cut],
        refusal=_refusal(done, rejects, kept, lines if left else 0),
    )


def _refusal(done: Import, rejects: Rejects, kept: Path, ended: int) -> str | None:
    """Why an import failed, the commonest reason first, and what it accepted; None if it did not fail.

    `ended` is the last line that was read where the import ended early.
    """
    if not rejects.count or not (done.too_many or rejects.count == done.records):
        return None
    share = f"{rejects.count:,} of {done.records:,} records were rejected"
    taken = f"{done.accepted:,} were taken and stay" if done.accepted else "nothing was taken"
    early = f", and the file was read no further than line {ended:,}" if ended else ""
    return f"{rejects.reasons.sentences()[0]}: {share}, {taken}{early}; with their reasons they stand in {kept}"
