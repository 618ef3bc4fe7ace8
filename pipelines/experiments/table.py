"""Anybody's experiment from one file: a row for each unit, with its variant and what it did. CSV or Parquet.

file --columns as text--> checked and read --> `units` of DuckDB --> the same statistics as for our own experiments
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Final

import duckdb
import msgspec

from features.words import fold, unknown
from pipelines.experiments import cells
from pipelines.experiments.metrics import Kind, Metric
from pipelines.experiments.numerals import MISSING
from pipelines.experiments.refusals import ReportRefused
from pipelines.experiments.units import quoted

KINDS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("mean", "average", "sum", "money", "revenue", "amount", "count", "number"), "mean"),
    **dict.fromkeys(
        ("proportion", "share", "rate", "conversion", "binary", "boolean", "bool", "binomial"), "proportion"
    ),
    **dict.fromkeys(("retention", "retained"), "retention"),
    **dict.fromkeys(("ratio", "quotient"), "ratio"),
}
"""Words for the kinds of a metric."""
_MOST_VARIANTS: Final = 20
_MOST_LEVELS: Final = 12
_DISAGREEING: Final = 0.1
"""A column that goes with the variant in more than all but this share of rows tells what units really got."""


class TableAsked(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a file; columns by their names in it.

    Attributes:
        file: CSV or Parquet, a row for each unit.
        variant: Column of the variant.
        control: The variant that others are compared with.
        metrics: `NAME:KIND[:COLUMN]`, the first is primary; a ratio's columns are `ABOVE/BELOW`.
        unit: Column of the unit's id; None takes each row for a unit.
        covariates: Columns known before the experiment.
        segments: Columns by whose values effects are shown.
        day: Column of the moment at which a unit came in.
        score: Column by which units were, or would be, ranked.
        cost: Column of what a unit cost.
        lower: Metrics of which less is better.
        guardrails: Metrics that must not become worse by more than a margin.
        shares: Planned shares of the variants; equal ones where none are told.
    """

    file: Path
    variant: str
    control: str
    metrics: tuple[str, ...]
    unit: str | None = None
    covariates: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    day: str | None = None
    score: str | None = None
    cost: str | None = None
    lower: tuple[str, ...] = ()
    guardrails: Mapping[str, float] = {}
    shares: Mapping[str, float] = {}


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was read; its units stand in the table `units` of the connection.

    Attributes:
        connection: With the table `units`: unit, variant, stratum, day_us, and a column for each value.
        control: Name of the control as the file spells it.
        metrics: What is compared, the primary one first.
        segments: Columns of segments, as the file calls them, and their columns in `units`.
        crossed: Units in two variants, which are left out.
        units: Units in the file.
        repeated: Rows that repeat a unit without telling anything else, which count once.
        notes: What was assumed.
        disagreeing: Sentences about columns that do not go with the variant in all rows, and the share of rows.
        currency: Symbol at the amounts of the primary money, "" where there is none.
    """

    connection: duckdb.DuckDBPyConnection
    control: str
    metrics: tuple[Metric, ...]
    segments: Mapping[str, str]
    crossed: int
    units: int
    repeated: int
    notes: tuple[str, ...]
    disagreeing: tuple[tuple[str, float], ...]
    currency: str


@contextmanager
def read(asked: TableAsked) -> Iterator[Table]:
    """Read a file.

    Raises:
        ReportRefused: It cannot be read, lacks a column, or holds what cannot be compared.
    """
    metrics = [_metric(said, asked) for said in asked.metrics]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        names = _open(connection, asked.file)
        _refuse_missing(asked, metrics, names)
        yield _Reading(connection, asked, metrics, names).table()


def _metric(said: str, asked: TableAsked) -> Metric:
    """A metric of the command line; raises ReportRefused."""
    name, _, rest = said.partition(":")
    word, _, column = rest.partition(":")
    if not name or not word:
        raise ReportRefused(
            f"a metric is told as NAME:KIND or NAME:KIND:COLUMN, such as visit:proportion, not {said!r}"
        )
    if (kind := KINDS.get(fold(word))) is None:
        raise ReportRefused(unknown(word, "kind of metric", ["mean", "proportion", "retention", "ratio"]))
    above, slash, below = column.partition("/")
    if kind == "ratio" and not (slash and above and below):
        raise ReportRefused(f"a ratio names two columns, such as {name}:ratio:orders/sessions")
    first = said == asked.metrics[0]
    guarded = name in asked.guardrails
    share = kind in {"proportion", "retention"}
    return Metric(
        name,
        kind=kind,
        unit="share" if share else "number",
        column=(above if kind == "ratio" else column) or name,
        denominator=below if kind == "ratio" else None,
        direction="lower" if guarded or name in asked.lower else "higher",
        role="guardrail" if guarded else "primary" if first else "secondary",
        margin=asked.guardrails.get(name),
    )


def _open(connection: duckdb.DuckDBPyConnection, file: Path) -> list[str]:
    """Open a file as the view `source`, all columns as text; returns their names."""
    if not file.is_file():
        raise ReportRefused(f"there is no file {file}")
    with file.open("rb") as opened:
        head = opened.read(4)
    try:
        if head == b"PAR1":
            found = connection.read_parquet(str(file))
        elif not head.strip():
            raise ReportRefused(f"{file} is empty")
        else:
            found = connection.read_csv(str(file), all_varchar=True, header=True, sample_size=100_000)
        found.create_view("source_typed")
        names = list(found.columns)
        texts = ", ".join(f"CAST({quoted(name)} AS VARCHAR) AS {quoted(name)}" for name in names)
        connection.execute(f"CREATE VIEW source AS SELECT {texts} FROM source_typed")  # noqa: S608 - names of the file, quoted
        connection.execute("SELECT count(*) FROM source")
    except duckdb.Error as error:
        first = str(error).splitlines()[0].split(": ", 1)[-1]
        raise ReportRefused(f"{file} cannot be read as CSV (UTF-8) or Parquet: {first}") from error
    return names


def _refuse_missing(asked: TableAsked, metrics: Sequence[Metric], names: list[str]) -> None:
    """Raise ReportRefused for columns that the file lacks, and for metrics that are told twice or not at all."""
    told = [one.name for one in metrics]
    if twice := next((name for name in told if told.count(name) > 1), None):
        raise ReportRefused(f"the metric {twice} is told twice")
    for name in (*asked.guardrails, *asked.lower):
        if name not in told:
            raise ReportRefused(unknown(name, "metric of this report", told))
    singles = [asked.variant, asked.unit, asked.day, asked.score, asked.cost]
    wanted = chain(
        (name for name in singles if name), asked.covariates, asked.segments, *(metric.columns for metric in metrics)
    )
    for name in wanted:
        if name not in names:
            raise ReportRefused(unknown(name, f"column of {asked.file.name}", names))
    if asked.variant in {column for metric in metrics for column in metric.columns}:
        raise ReportRefused(f"{asked.variant} is the variant, so it cannot be a metric too")


class _Reading:
    """One file on its way into `units`."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, asked: TableAsked, metrics: Sequence[Metric], names: list[str]
    ) -> None:
        self._connection, self._asked, self._names = connection, asked, names
        self._metrics = list(metrics)
        self._notes: list[str] = []
        self._parts: dict[str, str] = {}
        self._currencies: dict[str, str] = {}

    def table(self) -> Table:
        """Check and read everything."""
        asked = self._asked
        control = self._control()
        self._values()
        self._segments()
        self._moments()
        rows, units, crossed, repeated = self._collect()
        self._refuse_one_variant(control)
        primary = self._metrics[0]
        return Table(
            connection=self._connection,
            control=control,
            metrics=tuple(self._with_covariates()),
            segments={name: f"segment {name}" for name in asked.segments},
            crossed=crossed,
            units=units,
            repeated=repeated,
            notes=tuple(self._notes),
            disagreeing=tuple(self._disagreements(rows)),
            currency=self._currencies.get(primary.value, ""),
        )

    def _one(self, query: str, values: Sequence[object] = ()) -> tuple[object, ...]:
        return tuple(self._connection.execute(query, list(values)).fetchall()[0])

    def _control(self) -> str:
        """The control as the file spells it; raises ReportRefused for what is no experiment."""
        variant = quoted(self._asked.variant)
        rows = self._connection.execute(
            f"SELECT trim({variant}), count(*) FROM source GROUP BY 1 ORDER BY 2 DESC LIMIT 1000"  # noqa: S608 - quoted
        ).fetchall()
        blank = sum(count for name, count in rows if name is None or name.lower() in MISSING)
        if not rows:
            raise ReportRefused(f"{self._asked.file.name} holds no rows")
        if blank:
            raise ReportRefused(
                f"{blank:,} rows name no variant in {self._asked.variant}: take them out if they were not part of the "
                "experiment, and name their variant if they were"
            )
        found = [name for name, _ in rows]
        if len(found) > _MOST_VARIANTS:
            raise ReportRefused(f"{self._asked.variant} has {len(found)} values or more: that is no column of variants")
        if (control := {fold(name): name for name in found}.get(fold(self._asked.control))) is None:
            raise ReportRefused(unknown(self._asked.control, f"variant in {self._asked.variant}", sorted(found)))
        if len(found) == 1:
            raise ReportRefused(f"all rows are of one variant, {found[0]}: there is nothing to compare it with")
        for name in self._asked.shares:
            if name not in found:
                raise ReportRefused(unknown(name, f"variant in {self._asked.variant}", sorted(found)))
        return str(control)

    def _values(self) -> None:
        """Read the columns of metrics, covariates, score and cost."""
        asked = self._asked
        for metric in self._metrics:
            for column in metric.columns:
                part = cells.answers if metric.is_share else cells.numbers
                self._parts[column] = self._read(column, part, f"the metric {metric.name}", gaps=False)
        for column in asked.covariates:
            if column not in self._parts:
                self._parts[column] = self._read(column, cells.covariate, "the covariate", gaps=True)
        for name in (asked.score, asked.cost):
            if name and name not in self._parts:
                self._parts[name] = self._read(name, cells.numbers, "the column", gaps=False)

    def _read(self, column: str, part: cells.Part, what: str, *, gaps: bool) -> str:
        """SQL that reads a column; raises ReportRefused for gaps and for what is no value."""
        missing = int(str(self._one(f"SELECT count(*) FROM source WHERE {cells.is_missing(column)}")[0]))  # noqa: S608 - quoted
        if missing and not gaps:
            raise ReportRefused(
                f"{missing:,} rows have no value of {column} ({what}): what did not happen is 0, and what is not known "
                "yet must be left out of every variant alike; a mean over the rest would say something else"
            )
        if missing:
            self._notes.append(f"{missing:,} rows have no {column}: as a covariate it counts as its mean there.")
        read = part(self._connection, column)
        if read.doubt:
            self._notes.append(f"In {column}, {read.doubt}.")
        self._currencies[column] = read.currency
        return read.sql

    def _segments(self) -> None:
        for column in self._asked.segments:
            if column == self._asked.variant:
                raise ReportRefused(f"{column} is the variant, so it cannot be a segment")
            self._parts[f"segment {column}"] = cells.levels(self._connection, column, _MOST_LEVELS)

    def _moments(self) -> None:
        if self._asked.day:
            self._parts["day_us"] = cells.moments(self._connection, self._asked.day)

    def _with_covariates(self) -> list[Metric]:
        """Metrics with their covariates and units."""
        covariates = self._asked.covariates
        found = []
        for metric in self._metrics:
            own = tuple(name for name in covariates if name not in metric.columns)
            unit = self._currencies.get(metric.value, "") or metric.unit
            found.append(msgspec.structs.replace(metric, further=own, unit=unit))
        return found

    def _collect(self) -> tuple[int, int, int, int]:
        """Make `units`; numbers of rows, units, crossed units and rows that repeat one."""
        asked, connection = self._asked, self._connection
        unit = f"trim({quoted(asked.unit)})" if asked.unit else "CAST(row_number() OVER () AS VARCHAR)"
        values = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in self._parts.items())
        day = "" if "day_us" in self._parts else ", CAST(NULL AS BIGINT) AS day_us"
        connection.execute(
            f"CREATE TABLE read AS SELECT {unit} AS unit, trim({quoted(asked.variant)}) AS variant, "  # noqa: S608 - quoted
            f"'all' AS stratum, {values}{day} FROM source"
        )
        rows = self._count("SELECT count(*) FROM read")
        if not asked.unit:
            connection.execute("ALTER TABLE read RENAME TO units")
            return rows, rows, 0, 0
        self._refuse_ids()
        names = [quoted(name) for name in self._parts if name != "day_us"]
        differs = " OR ".join(f"min({name}) IS DISTINCT FROM max({name})" for name in names)
        connection.execute(
            "CREATE TABLE seen AS SELECT unit, count(*) AS many, count(DISTINCT variant) AS variants, "  # noqa: S608 - quoted
            f"{differs} AS differs FROM read GROUP BY unit"
        )
        units = self._count("SELECT count(*) FROM seen")
        crossed = self._count("SELECT count(*) FROM seen WHERE variants > 1")
        events = self._count("SELECT count(*) FROM seen WHERE variants = 1 AND differs")
        if events:
            raise ReportRefused(
                f"{events:,} of {units:,} units have several rows that differ: the file has a row for each event or "
                "day, and the report needs one for each unit. Sum up by unit first, with 0 for those who did nothing: "
                "as they are, busy units would count many times and every interval would be too narrow"
            )
        firsts = ", ".join(f"any_value({name}) AS {name}" for name in names)
        connection.execute(
            f"CREATE TABLE units AS SELECT unit, any_value(variant) AS variant, 'all' AS stratum, "  # noqa: S608 - quoted
            f"{firsts}, min(day_us) AS day_us FROM read JOIN seen USING (unit) WHERE variants = 1 "
            "GROUP BY unit ORDER BY unit"
        )
        connection.execute("DROP TABLE read")
        return rows, units, crossed, self._count("SELECT coalesce(sum(many - 1), 0) FROM seen WHERE variants = 1")

    def _count(self, query: str) -> int:
        return int(str(self._one(query)[0]))

    def _refuse_ids(self) -> None:
        """Refuse ids that are missing, or that a spreadsheet has made into rounded numbers."""
        blank = self._count("SELECT count(*) FROM read WHERE unit IS NULL OR unit = ''")
        if blank:
            raise ReportRefused(f"{blank:,} rows have no {self._asked.unit}: whose they are cannot be told")
        mangled = self._count(r"SELECT count(*) FROM read WHERE regexp_full_match(unit, '\d[.,]\d+[eE]\+\d+')")
        if mangled:
            raise ReportRefused(
                f"{mangled:,} values of {self._asked.unit} look like 1.23457E+12: a spreadsheet has rounded the ids, "
                "so that different units look alike; export the column as text"
            )

    def _refuse_one_variant(self, control: str) -> None:
        left = [str(row[0]) for row in self._connection.execute("SELECT DISTINCT variant FROM units").fetchall()]
        if len(left) < 2 or control not in left:
            raise ReportRefused("hardly any unit is in one variant only: there is nothing to compare")

    def _disagreements(self, rows: int) -> Iterator[tuple[str, float]]:
        """Columns that go with the variant in nearly all rows: the others did not get what they were assigned to."""
        asked = self._asked
        used = {asked.variant, asked.unit, asked.day, *asked.covariates, *asked.segments, *self._parts}
        for name in (one for one in self._names if one not in used):
            column, variant = quoted(name), f"trim({quoted(asked.variant)})"
            kinds = self._count(f"SELECT approx_count_distinct({column}) FROM source")  # noqa: S608 - quoted
            if not 2 <= kinds <= _MOST_VARIANTS:
                continue
            found = self._connection.execute(
                f"SELECT {variant}, {column}, count(*) FROM source WHERE {column} IS NOT NULL "  # noqa: S608 - quoted
                "GROUP BY ALL ORDER BY 3 DESC, 1, 2"
            ).fetchall()
            usual: dict[str, str] = {}
            for value, other, _ in found:
                usual.setdefault(value, other)
            odd = sum(count for value, other, count in found if usual[value] != other)
            if len(set(usual.values())) == len(usual) and 0 < odd < _DISAGREEING * rows:
                pairs = ", ".join(f"{value} with {other}" for value, other in sorted(usual.items()))
                share = odd / rows
                said = f"{asked.variant} and {name} disagree in {odd:,} of {rows:,} rows ({share:.1%}; else {pairs})"
                yield f"{said}: these did not get what they were assigned to, or were written down wrongly", share
