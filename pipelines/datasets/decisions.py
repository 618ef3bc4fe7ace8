"""`croupier dataset`: one row for each logged decision, with what it saw, what became of it, and what that was worth.

    lake --attribution, as the learner's--> rewards --joined with records, streamed--> rows --> Parquet or pyarrow

The lake is read and nothing else: no store, no clock. Ids of callers and personal fields are in none of the columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress

from features.kept_schemas import LakeSchemas
from features.moments import DAY_US, when
from features.settings.environment import environment
from features.settings.mlflow_file import read_mlflow
from models.catalogue.offers import load_catalogue
from pipelines.datasets import rows
from pipelines.datasets.columns import SCHEMA
from pipelines.datasets.log import ROWS, DatasetRefused, LakeLog, Span
from pipelines.datasets.prices import Catalogues
from pipelines.datasets.rewards import rewards
from pipelines.learning.attribution import HARMFUL, Attribution, RewardTerms
from service.settings import catalogue_path

PER_FILE: Final = 500_000
"""Rows of a file, where a folder is asked for."""
_PER_GROUP: Final = 10_000
"""Rows that are written at once."""
NOT_MATURED: Final = ("window_open", "not_confirmed_yet")
WITHOUT: Final = ("not_confirmed", "unpriced")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """Which data set is wanted.

    Attributes:
        lake: Its folder.
        since: `7d` or `12h` before the lake's last decision, or a day or moment of ISO 8601; None is from the first on.
        until: Likewise, exclusive; None is to the last.
        window_days: Length of the reward window; None is mlflow.yaml's.
        catalogues: Files that name the candidates' places and say what contacts cost, each for the decisions made under
            it; the last one prices all other contacts too, by ids. None given is the one in force.
    """

    lake: Path
    since: str | None = None
    until: str | None = None
    window_days: float | None = None
    catalogues: Sequence[Path] = ()


class Written(msgspec.Struct, kw_only=True):
    """A data set that was written.

    Attributes:
        not_matured: Rows whose reward is not known yet, by `reward_missing`.
        without_reward: Rows that have none, likewise.
        learnt: Rows that the learner learns from.
        unreadable: Decisions whose record cannot be read, which have no row.
        unknown_features: Rows whose features have no names here.
        since, until: First and last moment asked for.
        lake_until: House time up to which the lake is whole.
    """

    rows: int = 0
    columns: int = len(SCHEMA)
    files: list[str] = msgspec.field(default_factory=list)
    not_matured: dict[str, int] = msgspec.field(default_factory=dict)
    without_reward: dict[str, int] = msgspec.field(default_factory=dict)
    learnt: int = 0
    unreadable: int = 0
    unknown_features: int = 0
    window_days: float
    since: str
    until: str
    lake_until: str


def dataset(
    lake: str | Path,
    since: str | None = None,
    until: str | None = None,
    *,
    window_days: float | None = None,
    catalogues: Sequence[str | Path] = (),
) -> pa.Table:
    """Decisions of a lake as one table in memory, in the columns of docs/dataset.md. See `Wish`.

    Raises:
        DatasetRefused: There is no lake, or the span is none.
        ReportRefused: A file of the lake cannot be read.
        CatalogueError: A catalogue's file is not valid.
    """
    files = tuple(map(Path, catalogues))
    wish = Wish(lake=Path(lake), since=since, until=until, window_days=window_days, catalogues=files)
    with made(wish, Console(quiet=True)) as (_, batches):
        return pa.Table.from_batches(batches, SCHEMA)


def write(wish: Wish, out: Path, console: Console) -> Written:
    """Write a data set: to a file that ends in `.parquet`, or to a folder that holds no such file yet.

    Args:
        wish: Which.
        out: Where to; a file is replaced when the new one is whole.
        console: Where to show how far it is.

    Raises:
        DatasetRefused: As `dataset`; or the place cannot be written.
    """
    single = out.suffix == ".parquet" and not out.is_dir()
    if not single and any(out.glob("*.parquet")):
        raise DatasetRefused(f"{out} holds a data set already: name another folder, or a file that ends in .parquet")
    try:
        (out.parent if single else out).mkdir(parents=True, exist_ok=True)
        with made(wish, console) as (result, batches), Files(out, single=single) as files:
            for batch in batches:
                files.add(batch)
    except OSError as error:
        raise DatasetRefused(f"{out} cannot be written: {error.strerror or error}") from error
    result.files = [str(file) for file in files.written]
    return result


class Files:
    """Parquet files of a data set, each there when it is whole: one, or a folder of several."""

    def __init__(self, out: Path, *, single: bool) -> None:
        self.written: list[Path] = []
        self._out, self._single = out, single
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and (self._rows or not self.written):
            self._close()
        elif self._writer is not None:
            self._writer.close()
            self._unfinished.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return self._out if self._single else self._out / f"part-{len(self.written):05d}.parquet"

    @property
    def _unfinished(self) -> Path:
        return self._file.with_name(f".{self._file.name}.tmp")

    def add(self, batch: pa.RecordBatch) -> None:
        """Write some rows."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if sum(one.num_rows for one in self._waiting) >= _PER_GROUP:
            self._write()
        if self._rows >= PER_FILE and not self._single:
            self._close()

    def _write(self) -> pq.ParquetWriter:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._unfinished, SCHEMA, compression="zstd")
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting, SCHEMA))
            self._waiting.clear()
        return self._writer

    def _close(self) -> None:
        self._write().close()
        self._unfinished.replace(self._file)
        self.written.append(self._file)
        self._writer, self._rows = None, 0


@contextmanager
def made(wish: Wish, console: Console) -> Iterator[tuple[Written, Iterator[pa.RecordBatch]]]:
    """Rows of a data set in batches, read once; what is said of it is whole when they are."""
    reward = read_mlflow(environment().home).reward
    window_days = reward.window_days if wish.window_days is None else wish.window_days
    catalogues = Catalogues([load_catalogue(file) for file in wish.catalogues or [catalogue_path()]])
    with LakeLog.opened(wish.lake) as log, Progress(console=console) as progress:
        span = log.span(wish.since, wish.until)
        total, window_us = log.choose(span), round(window_days * DAY_US)
        since, until, latest = (when(at_us) for at_us in span)
        result = Written(window_days=window_days, since=since, until=until, lake_until=latest)
        _reward(log, span, window_us, progress)
        logged = progress.track(log.records(span), total=-(-total // ROWS), description="rows")
        yield result, _batches(logged, LakeSchemas(wish.lake), catalogues, window_us, result)


def _reward(log: LakeLog, span: Span, window_us: int, progress: Progress) -> None:
    """Keep the rewards of a span's decisions in the log."""
    terms = RewardTerms.read()
    entries = log.entries(span, HARMFUL | terms.types, window_us)
    followed = progress.track(entries, total=None, description="rewards")
    log.keep(rewards(followed, Attribution(terms, window_us), span.latest_us))


def _batches(
    logged: Iterable[list[dict[str, Any]]],
    schemas: LakeSchemas,
    catalogues: Catalogues,
    window_us: int,
    result: Written,
) -> Iterator[pa.RecordBatch]:
    counts: Counter[str] = Counter()
    for some in logged:
        batch = rows.batch(rows.read(some, schemas, counts), catalogues, window_us)
        counts += Counter(one for one in batch["reward_missing"].to_pylist() if one)
        result.rows += batch.num_rows
        result.learnt += sum(batch["learnt"].to_pylist())
        result.not_matured = {name: counts[name] for name in NOT_MATURED}
        result.without_reward = {name: counts[name] for name in WITHOUT}
        result.unreadable, result.unknown_features = counts["unreadable"], counts["unknown_features"]
        yield batch
