"""The lake as a data set needs it: entries in the learner's order, and records of a span with what became of them.

DuckDB sorts on disk beyond a bound of memory, in which what is known of each decision must find room; the records
themselves, which are most of a lake, are only passed through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple, Self, cast

import duckdb
import msgspec
import pyarrow as pa

from features.errors import CroupierError
from features.moments import DAY_US, moment
from pipelines.audit.period import moment_us
from pipelines.datasets.rewards import DecisionReward
from pipelines.experiments.exposures import opened
from pipelines.learning.training_log import LakeEntry
from pipelines.worker.lake import POSITION, reach

MEMORY_MB: Final = 1_024
"""What DuckDB may hold in memory; a span that needs more is refused."""
ROWS: Final = 2_000
"""Decisions that are made rows of at once."""
_KEPT: Final = 20_000
_PLACED: Final = """
    CREATE VIEW {table}_placed AS
    SELECT * REPLACE (coalesce(known_at, {moment}) AS known_at),
        coalesce(try_cast(split_part(split_part(position, ':', 2), '-', 1) AS BIGINT),
            epoch_ms(coalesce(known_at, {moment}))) AS ms,
        coalesce(try_cast(substr(split_part(position, ':', 1), 2) AS INT), 0) AS partition,
        coalesce(try_cast(split_part(position, '-', 2) AS BIGINT), 0) AS sequence
    FROM {table}
    WHERE {whole} IS NULL OR ms < {whole}
"""
_EDGES: Final = """
    SELECT epoch_us(min("at")), epoch_us(max("at")), epoch_us(max(known_at)) FROM (
        SELECT "at", known_at FROM decisions_placed
        UNION ALL SELECT NULL, known_at FROM events_placed UNION ALL SELECT NULL, known_at FROM outcomes_placed)
"""
_CHOSEN: Final = """
    CREATE TABLE kept.chosen AS
    SELECT decision_id, max(coalesce(valid_until, "at")) AS begins_by FROM decisions_placed
    WHERE "at" >= $since AND "at" < $until GROUP BY decision_id
"""
_ENTRIES_OF: Final = """
    CREATE TABLE kept.entries AS
    SELECT epoch_us(known_at) AS known_us, player, position, ms, partition, sequence, 0 AS kind, decision_id,
        epoch_us("at") AS at_us, epoch_us(send_at) AS send_us, epoch_us(valid_until) AS valid_until_us, activated,
        offer, channel, timing_slot, NULL AS type, NULL AS occurred_us, NULL AS event_id, NULL AS amount_minor,
        NULL AS status, NULL AS target, NULL AS product, NULL AS detail
    FROM decisions_placed WHERE "at" >= $since AND "at" < $until
    UNION ALL BY NAME
    SELECT epoch_us(known_at) AS known_us, player, position, ms, partition, sequence, 1 AS kind, decision_id, type,
        epoch_us(occurred_at) AS occurred_us
    FROM outcomes_placed WHERE decision_id IN (SELECT decision_id FROM kept.chosen)
    UNION ALL BY NAME
    SELECT epoch_us(known_at) AS known_us, player, position, ms, partition, sequence, 2 AS kind, event_id, type,
        epoch_us(occurred_at) AS occurred_us, amount_minor, status, target, product, detail
    FROM events_placed WHERE type IN (SELECT unnest($types)) AND known_at >= $since AND known_at <= $horizon
"""
_IN_ORDER: Final = "FROM kept.entries ORDER BY ms, partition, sequence, kind"
_REWARDED: Final = pa.schema(
    [
        *(("decision_id", pa.string()), ("begun_us", pa.int64()), ("over", pa.bool_())),
        *(("worth_minor", pa.float64()), ("penalty_minor", pa.float64()), ("parts", pa.binary())),
    ]
)
_OBSERVED: Final = """
    CREATE TABLE kept.observed AS
    SELECT decision_id, list({'type': type, 'occurred_us': occurred_us, 'known_us': known_us}
        ORDER BY ms, partition, sequence) AS outcomes
    FROM kept.entries WHERE kind = 1 GROUP BY decision_id
"""
_KNOWN: Final = """
    CREATE TABLE kept.known AS
    SELECT decision_id, begun_us, over, worth_minor, penalty_minor, parts, outcomes
    FROM kept.chosen LEFT JOIN kept.rewarded USING (decision_id) LEFT JOIN kept.observed USING (decision_id)
"""
_RECORDS: Final = """
    SELECT record, epoch_us(logged.known_at) AS known_us, known.* EXCLUDE (decision_id)
    FROM (SELECT decision_id, record, known_at FROM decisions_placed
        WHERE "at" >= $since AND "at" < $until) AS logged JOIN kept.known AS known USING (decision_id)
"""
_TABLES: Final = ("decisions", "outcomes", "events")


class DatasetRefused(CroupierError):
    """What was asked for cannot be made a data set; the text says why."""

    code = "dataset_refused"
    exit_code = 2


class Span(NamedTuple):
    """Decisions from a moment until before another, and the house time up to which the lake is whole."""

    since_us: int
    until_us: int
    latest_us: int

    @property
    def bounds(self) -> dict[str, Any]:
        """As parameters of queries."""
        return {"since": moment(self.since_us), "until": moment(self.until_us)}


class LakeLog:
    """The log of a lake, opened."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def opened(cls, lake: Path) -> Iterator[Self]:
        """Open a lake; half a flush is left out.

        Raises:
            DatasetRefused: There is no lake, or what is in it cannot be read.
            ReportRefused: A file of it cannot be opened.
        """
        if not lake.is_dir():
            raise DatasetRefused(f"there is no lake at {lake}")
        whole = f"{reach(lake).flushed}" if (lake / POSITION).exists() else "NULL"
        try:
            with TemporaryDirectory(prefix="croupier-dataset-") as folder, opened(lake) as connection:
                connection.execute(f"SET temp_directory = '{folder}'; SET memory_limit = '{MEMORY_MB}MB'")
                connection.execute(f"ATTACH '{folder}/kept.duckdb' AS kept")
                connection.execute("SET threads = 1")  # so that the same lake gives the same bytes
                for table in _TABLES:
                    occurred = '"at"' if table == "decisions" else "occurred_at"
                    connection.execute(_PLACED.format(table=table, moment=occurred, whole=whole))
                yield cls(connection)
        except duckdb.Error as error:
            raise DatasetRefused(f"{lake} cannot be made a data set: {str(error).splitlines()[0]}") from error

    def span(self, since: str | None, until: str | None) -> Span:
        """The span that people mean: `7d` or `12h` before the lake's last decision, or a day or moment of ISO 8601.

        Raises:
            AuditRefused: It is none.
            DatasetRefused: It ends before it begins.
        """
        first, last, latest = self._edges()
        since_us = first if since is None else moment_us(since, moment(last))
        until_us = last + 1 if until is None else moment_us(until, moment(last), "--until")
        if last and since_us >= until_us:
            begins, ends = (moment(at).isoformat(timespec="seconds") for at in (first, last))
            asked = f"between {since or 'the first'} and {until or 'the last'}"
            raise DatasetRefused(f"no decision lies {asked}: they are of {begins} to {ends}")
        return Span(since_us, until_us, latest)

    def _edges(self) -> tuple[int, int, int]:
        found = cast("tuple[int | None, ...]", self._connection.execute(_EDGES).fetchone())
        first, last, latest = (one or 0 for one in found)
        return first, last, latest

    def choose(self, span: Span) -> int:
        """Choose the decisions of a span; returns their number. Before anything else of it is asked."""
        self._connection.execute(_CHOSEN, span.bounds)
        return self._number("SELECT count(*) FROM kept.chosen")

    def entries(self, span: Span, types: Iterable[str], window_us: int) -> Iterator[LakeEntry]:
        """Entries that may say something of a span's rewards, in the learner's order.

        Args:
            span: As it was chosen.
            types: Types of events with a value or a penalty.
            window_us: Length of the reward window.
        """
        begins_by = self._number("SELECT coalesce(max(epoch_us(begins_by)), 0) FROM kept.chosen")
        # A day more: outcomes may have occurred a little later than they became known.
        bounds = span.bounds | {"types": sorted(types), "horizon": moment(begins_by + window_us + DAY_US)}
        # Sorted out of a table on disk: a sort of what is still being read would not leave memory.
        self._connection.execute(_ENTRIES_OF, bounds)
        for row in self._rows(_IN_ORDER, {}):
            if row["occurred_us"] is not None:
                row["occurred_at"] = moment(row["occurred_us"])
            yield LakeEntry(_TABLES[row["kind"]], row["known_us"], row)

    def keep(self, rewards: Iterable[DecisionReward]) -> None:
        """Keep the rewards of the chosen decisions, and join them with their outcomes."""
        other = self._connection.cursor()
        other.register("none_rewarded", _REWARDED.empty_table())
        other.execute("CREATE TABLE kept.rewarded AS FROM none_rewarded")
        left = iter(rewards)
        while some := [_row(one) for one in islice(left, _KEPT)]:
            other.register("some_rewarded", pa.Table.from_pylist(some, _REWARDED))
            other.execute("INSERT INTO kept.rewarded FROM some_rewarded")
        other.execute(_OBSERVED)
        other.execute(_KNOWN)

    def records(self, span: Span) -> Iterator[list[dict[str, Any]]]:
        """Records of the chosen decisions with what is known of them, a bounded number at a time, in the lake's order.

        Each is a row of `record`, `known_us`, the fields of a `DecisionReward`, all None where it has none (`parts` as
        msgpack), and `outcomes`, with moments in unix microseconds.
        """
        # The records stream past what is known of them; the other way round they would be held.
        self._connection.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
        rows = self._rows(_RECORDS, span.bounds)
        while some := list(islice(rows, ROWS)):
            yield some

    def _number(self, question: str) -> int:
        (found,) = cast("tuple[int]", self._connection.execute(question).fetchone())
        return int(found)

    def _rows(self, question: str, bounds: dict[str, Any]) -> Iterator[dict[str, Any]]:
        asked = self._connection.execute(question, bounds)
        names = [one[0] for one in asked.description or ()]
        while rows := asked.fetchmany(ROWS):
            yield from (dict(zip(names, row, strict=True)) for row in rows)


def _row(reward: DecisionReward) -> dict[str, Any]:
    return msgspec.structs.asdict(reward) | {"parts": msgspec.msgpack.encode(reward.parts)}
