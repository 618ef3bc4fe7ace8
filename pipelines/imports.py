"""Outside events into the house: any CSV or JSON lines file by a mapping, or our own events, each exactly once.

    file --Source--> rows --mapping--> events --Seen--> those that neither lake nor run has --bulk--> the log

What is wrong with file or mapping is found before anything is appended. What is wrong with a row goes to the
rejects file with its reason, and the import goes on. An import that was killed is run again: what the log
took is in the lake by then, and not taken twice.
"""

from __future__ import annotations

import csv
import fcntl
import gc
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, cast

import duckdb
import redis
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from features.events import EVENT, SKEW, Event, micros
from features.server import serving
from features.store import PARTITIONS, House, StoreError, connect, open_house, order, real_now_us, tag
from pipelines import bulk
from pipelines.mapping import EventMapping, ImportRefused, MappedRows, RowRefused, load, reasons
from pipelines.rows import Row, Source
from pipelines.worker import Worker, wait_until_applied, wait_until_in_lake
from service.facts import Assertion
from service.know import JOINING, TOLD_OF

__all__ = ["ImportRefused", "Imported", "run"]

CHUNK_ROWS: Final = 20_000
AHEAD: Final = 4
"""Chunks that the log may be ahead of the features: more would grow the store, fewer would idle it."""
PATIENCE_SECONDS: Final = 600.0
_SKEW_US: Final = int(SKEW.total_seconds() * 1_000_000)


class Imported(NamedTuple):
    """What became of a file: rows = accepted + duplicates + rejected."""

    rows: int
    accepted: int
    duplicates: int
    rejected: int
    seconds: float
    events_per_second: float
    rejects: str | None
    """The file of the rejected rows, None if there are none."""


class Rows(Protocol):
    """What makes events of the cells of rows."""

    def event(self, row: Sequence[str]) -> Event:
        """The event that a row is; raises ValueError if it is none."""
        ...


class OwnRows:
    """Our own event format, one JSON object a line, as `POST /v1/events` takes it."""

    def event(self, row: Sequence[str]) -> Event:
        """See `Rows`."""
        return EVENT.validate_json(row[0])


class Rejects:
    """The file of rejected rows; it takes the place of an earlier one when the import has ended."""

    def __init__(self, path: Path, source: Path, columns: Sequence[str]) -> None:
        if path.is_dir():
            raise ImportRefused(f"--rejects {path} is a directory")
        if path.exists() and path.samefile(source):
            raise ImportRefused(f"--rejects {path} is the file to import itself")
        self._path = path
        self._unfinished = path.with_name(f".{path.name}.tmp")
        try:
            self._file = self._unfinished.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        except OSError as error:
            sentence = f"the rejects file {path} cannot be written ({error.strerror}): name another with --rejects"
            raise ImportRefused(sentence) from error
        self._writer = csv.writer(self._file)
        self._writer.writerow(["row", "reason", *columns])
        self.count = 0

    def add(self, row: Row, reason: str) -> None:
        """Keep a row and why it was rejected."""
        self._writer.writerow([row.number, " ".join(reason.split()), *row.original])
        self.count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._file.close()
        if kind is None and (self.count or self._path.exists()):
            self._unfinished.replace(self._path)
        else:
            self._unfinished.unlink()


class Seen:
    """Which (key of the id told of, event id) pairs the lake had when the import began, and which this run took since.

    Each is kept as the 128 bits of a hash in DuckDB, which moves to disk what does not fit in memory.
    """

    def __init__(self, lake: Path, spill: Path) -> None:
        self._db = duckdb.connect(config={"memory_limit": "1GB", "temp_directory": str(spill)})
        self._db.execute("SET TimeZone = 'UTC'")
        self._db.execute("CREATE TABLE seen (id UHUGEINT)")
        if any(lake.glob("events/*/*.parquet")):
            rows = "read_parquet($1, hive_partitioning = false)"
            told_of = f"coalesce(json_extract_string(detail, '$.{TOLD_OF}'), player)"
            pairs = f"SELECT md5_number({told_of} || ' ' || event_id) FROM {rows}"  # noqa: S608 - no text from outside
            self._db.execute(f"INSERT INTO seen {pairs}", [f"{lake}/events/*/*.parquet"])

    def add(self, pairs: Iterable[tuple[str, str]]) -> list[int]:
        """Remember pairs; returns the places of those that are new, in order, the first of equal ones."""
        self._db.execute(
            "CREATE OR REPLACE TEMP TABLE fresh AS SELECT id, min(place) - 1 AS place FROM ("
            " SELECT md5_number(unnest($1::VARCHAR[])) AS id, generate_subscripts($1::VARCHAR[], 1) AS place"
            ") ANTI JOIN seen USING (id) GROUP BY id",
            [[f"{player} {event_id}" for player, event_id in pairs]],
        )
        self._db.execute("INSERT INTO seen SELECT id FROM fresh")
        return [place for (place,) in self._db.execute("SELECT place FROM fresh ORDER BY place").fetchall()]

    def close(self) -> None:
        """Forget all."""
        self._db.close()


class Follower:
    """The worker that follows the log with features and lake: one that runs already, else ours in a thread."""

    def __init__(self, client: redis.Redis, url: str, lake: Path) -> None:
        self._client = client
        self._lake = lake
        self._failure: BaseException | None = None
        self._own = None if _is_served(client) else Worker(url, lake)
        self._thread = threading.Thread(target=self._work, daemon=True)
        if self._own:
            self._thread.start()

    def _work(self) -> None:
        try:
            cast("Worker", self._own).run()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._failure = error

    def applied(self, reached: Mapping[int, str]) -> None:
        """Wait until features include these places of the log."""
        self._wait(lambda seconds: wait_until_applied(self._client, reached, seconds))

    def in_lake(self, places: Iterable[str]) -> None:
        """Wait until the lake holds these places of the log."""
        last = max((order(place)[0] for place in places), default=-1)
        self._wait(lambda seconds: wait_until_in_lake(self._lake, (last + 1) * 1_000, seconds))

    def stop(self) -> None:
        """End our own worker, if there is one; it flushes as it ends."""
        if self._own:
            self._own.stop()
            self._thread.join()

    def _wait(self, until: Callable[[float], None]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            if self._failure:
                raise StoreError(f"the worker failed: {self._failure}") from self._failure
            try:
                return until(1.0)
            except StoreError:
                if time.monotonic() > deadline:
                    raise


def _is_served(client: redis.Redis) -> bool:
    """Whether a worker holds partitions: one that died holds its leases a few seconds more, but renews none."""
    held = _held_until(client)
    while held > real_now_us(client):
        time.sleep(0.2)
        if (later := _held_until(client)) > held:
            return True
        held = later
    return False


def _held_until(client: redis.Redis) -> int:
    pipe = client.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipe.hget(f"lease:{tag(partition)}", "until")
    return max(int(until or 0) for until in pipe.execute())


def _logged(client: redis.Redis) -> list[str]:
    """The last entry of each partition's log, where there is one."""
    pipe = client.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipe.xrevrange(f"log:{tag(partition)}", count=1)
    return [entries[0][0].decode() for entries in pipe.execute() if entries]


class Door(NamedTuple):
    """An open house, and where it is."""

    home: Path
    url: str
    client: redis.Redis
    house: House

    @property
    def lake(self) -> Path:
        """Folder of the lake."""
        return self.home / "lake"


@contextmanager
def _open(home: Path) -> Iterator[Door]:
    with serving(home) as url, closing(connect(url)) as client:
        yield Door(home, url, client, open_house(client))


class Import:
    """One import under way.

    Attributes:
        rows: Rows read so far; `accepted` and `duplicates` of them, the others are in the rejects.
    """

    def __init__(self, door: Door, reader: Rows, assume: Sequence[Assertion], rejects: Rejects) -> None:
        self._door = door
        self._reader = reader
        self._assume = assume
        self._rejects = rejects
        self._items = bulk.Items(door.client, door.house)
        self._key = lru_cache(maxsize=100_000)(door.house.player_key)
        self._players: set[str] = set()
        self._ahead: deque[dict[int, str]] = deque()
        self._reached: dict[int, str] = {}
        self.rows = self.accepted = self.duplicates = 0

    def take(self, chunks: Iterable[Sequence[Row]], tell: Callable[[Import], None]) -> None:
        """Take chunks of rows; returns when features and lake have what is new of them.

        What the log holds at the start, of a killed import too, goes to the lake first: there it is seen.
        """
        with _following(self._door) as follower:
            follower.in_lake(_logged(self._door.client))
            with _seen(self._door.home) as seen:
                for chunk in chunks:
                    self._take(chunk, seen)
                    self._hold_back(follower)
                    tell(self)
            follower.applied(self._reached)
            follower.stop()
            follower.in_lake(self._reached.values())

    def _take(self, chunk: Sequence[Row], seen: Seen) -> None:
        events = list(self._events(chunk))
        if self._assume:
            self._take_assumed([event for _, event in events], seen)
        pairs = [(self._key(event.player_id), event.event_id) for _, event in events]
        new = seen.add(pairs)
        done = self._append([self._items.event(events[place][1]) for place in new])
        for place, status in zip(new, done.statuses, strict=True):
            if status == "conflict":
                self._rejects.add(events[place][0], "this event id was used before for another event")
        self.rows += len(chunk)
        self.accepted += done.accepted
        self.duplicates += len(events) - done.accepted - done.statuses.count("conflict")

    def _events(self, chunk: Iterable[Row]) -> Iterator[tuple[Row, Event]]:
        """The events among some rows, with them; the other rows go to the rejects."""
        door = self._door
        latest_us = door.house.now_us(real_now_us(door.client)) + _SKEW_US
        for row in chunk:
            try:
                yield row, self._event(row, latest_us)
            except ValueError as error:
                self._rejects.add(row, reasons(error))

    def _event(self, row: Row, latest_us: int) -> Event:
        if row.problem:
            raise RowRefused(row.problem)
        event = self._reader.event(row.cells)
        if isinstance(event, JOINING):
            raise RowRefused(f"{event.type} joins what is held of two ids: send it to POST /v1/events")
        if micros(event.occurred_at) > latest_us:
            raise RowRefused(f"occurred_at {event.occurred_at.isoformat()} lies in the future of the house's clock")
        return event

    def _take_assumed(self, events: Iterable[Event], seen: Seen) -> None:
        """Append what is assumed of players that the file has not named before."""
        new = [player for player in dict.fromkeys(event.player_id for event in events) if player not in self._players]
        self._players.update(new)
        items = [self._items.assumed(player, self._assume) for player in new]
        self._append([items[place] for place in seen.add([(item.player, item.entry.seen) for item in items])])

    def _append(self, items: Sequence[bulk.Item]) -> bulk.Batch:
        done = bulk.append(self._door.client, self._door.house, items)
        self._reached |= done.reached
        return done

    def _hold_back(self, follower: Follower) -> None:
        """Wait where the log is too far ahead of the features."""
        self._ahead.append(dict(self._reached))
        if len(self._ahead) > AHEAD:
            follower.applied(self._ahead.popleft())


def _reader(mapping: EventMapping | None, source: Source, first: Sequence[Row]) -> Rows:
    if mapping is None:
        return OwnRows()
    reader = MappedRows(mapping, source.header, source.hashed)
    reader.refuse_zoneless(row.cells for row in first[:100] if not row.problem)
    return reader


def _assumed(mapping: EventMapping | None, house: House) -> Sequence[Assertion]:
    if mapping is None or mapping.assume is None:
        return []
    if not house.sandbox:
        raise ImportRefused("the mapping assumes facts of players (`assume`), which only a sandbox house may do")
    return mapping.assume.assertions()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One import at a time: two of the same file would not see what the other takes."""
    if not home.is_dir():
        raise StoreError(f"{home} holds no house yet: run `croupier up` once")
    with (home / "import.lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ImportRefused("another import into this house is running") from error
        yield


@contextmanager
def _following(door: Door) -> Iterator[Follower]:
    follower = Follower(door.client, door.url, door.lake)
    try:
        yield follower
    finally:
        follower.stop()


@contextmanager
def _seen(home: Path) -> Iterator[Seen]:
    with (
        tempfile.TemporaryDirectory(prefix="import-", dir=home) as spill,
        closing(Seen(home / "lake", Path(spill))) as seen,
    ):
        yield seen


@contextmanager
def _bar(source: Source, *, shown: bool) -> Iterator[Callable[[Import], None]]:
    """A bar on stderr, over the bytes of the file."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as progress:
        task = progress.add_task("importing", total=source.size)
        yield lambda done: progress.update(
            task, completed=source.read_bytes(), description=f"{done.rows:,} rows, {done.accepted:,} new"
        )


def run(
    home: Path, file: Path, *, mapping: Path | None = None, rejects: Path | None = None, progress: bool = True
) -> Imported:
    """Import a file of events into a house; returns when features and lake have all of it.

    Args:
        home: Where the house's state lies.
        file: CSV or JSON lines, gzipped or not.
        mapping: Mapping file, or the name of a shipped one; None for JSON lines in our own event format.
        rejects: Where rejected rows go; by default beside the file, `FILE.rejects.csv`.
        progress: Whether a bar is drawn on stderr.

    Raises:
        ImportRefused: File or mapping cannot be taken; nothing was appended.
        StoreError: The house is not there, or its store or worker failed; run the import again.
    """
    begun = time.monotonic()
    chosen = load(mapping) if mapping else None
    kept = rejects or file.with_name(f"{file.name}.rejects.csv")
    with _rarely_collecting(), Source(file, chosen) as source, _alone(home), _open(home) as door:
        chunks = source.chunks(CHUNK_ROWS)
        first = next(chunks, [])
        reader, assume = _reader(chosen, source, first), _assumed(chosen, door.house)
        with Rejects(kept, file, source.original) as rejected, _bar(source, shown=progress) as tell:
            done = Import(door, reader, assume, rejected)
            done.take(chain([first], chunks), tell)
    return _counted(done, rejected, kept, time.monotonic() - begun)


@contextmanager
def _rarely_collecting() -> Iterator[None]:
    """Rows by the thousand are no garbage: looking for cycles among them costs a quarter of an import."""
    held = gc.get_threshold()
    gc.set_threshold(200_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*held)


def _counted(done: Import, rejects: Rejects, kept: Path, seconds: float) -> Imported:
    return Imported(
        rows=done.rows,
        accepted=done.accepted,
        duplicates=done.duplicates,
        rejected=rejects.count,
        seconds=round(seconds, 3),
        events_per_second=round(done.accepted / seconds, 1),
        rejects=str(kept) if rejects.count else None,
    )
