"""Columns of a file of somebody else's as values: SQL that reads each, made after looking at all of its cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import duckdb

from pipelines.experiments.numerals import MISSING, NO, YES, numerals
from pipelines.experiments.refusals import ReportRefused
from pipelines.experiments.units import quoted

_GAPS: Final = ", ".join(f"'{word}'" for word in MISSING)
_SHOWN: Final = 5


class Read(NamedTuple):
    """SQL that reads a column, the currency of its amounts, and what was assumed."""

    sql: str
    currency: str = ""
    doubt: str = ""


Part = Callable[[duckdb.DuckDBPyConnection, str], Read]


def is_missing(column: str) -> str:
    """Condition that a cell holds nothing, in SQL."""
    return f"({quoted(column)} IS NULL OR lower(trim({quoted(column)})) IN ({_GAPS}))"


def _words(connection: duckdb.DuckDBPyConnection, column: str) -> list[str]:
    asked = (
        f"SELECT lower(trim({quoted(column)})) AS word FROM source WHERE NOT {is_missing(column)} "  # noqa: S608 - quoted
        f"GROUP BY word ORDER BY count(*) DESC, word LIMIT {len(YES) + len(NO)}"
    )
    return [str(word) for (word,) in connection.execute(asked).fetchall()]


def answers(connection: duckdb.DuckDBPyConnection, column: str) -> Read:
    """Read yes and no in any usual spelling; raises ReportRefused for anything else."""
    words = _words(connection, column)
    if odd := [word for word in words if word not in YES | NO]:
        shown = ", ".join(map(repr, odd[:_SHOWN]))
        raise ReportRefused(
            f"{column} is told to be a share, so each unit has it or not (1 and 0, yes and no, true and false), but it "
            f"holds {shown}; a number per unit is a mean"
        )
    yes = ", ".join(f"'{word}'" for word in sorted(YES.intersection(words))) or "NULL"
    return Read(f"CASE WHEN lower(trim({quoted(column)})) IN ({yes}) THEN 1 ELSE 0 END")


def numbers(connection: duckdb.DuckDBPyConnection, column: str) -> Read:
    """Read numbers, with currencies and thousands if they have any; raises ReportRefused for what is none."""
    name = quoted(column)
    plain = f"TRY_CAST(trim({name}) AS DOUBLE)"
    (odd,) = connection.execute(
        f"SELECT count(*) FILTER ({plain} IS NULL), count(*) FILTER (isinf({plain})) FROM source "  # noqa: S608 - quoted
        f"WHERE NOT {is_missing(column)}"
    ).fetchall()
    if odd[1]:
        raise ReportRefused(f"{odd[1]:,} rows have an infinite {column}")
    if not odd[0]:
        return Read(plain)
    if set(words := _words(connection, column)) <= YES | NO and len(words) <= 4:
        return answers(connection, column)
    return _written(connection, column)


def _written(connection: duckdb.DuckDBPyConnection, column: str) -> Read:
    name = quoted(column)
    shapes = connection.execute(
        f"SELECT DISTINCT regexp_replace(trim({name}), '[0-9]', '0', 'g') FROM source WHERE NOT {is_missing(column)} "  # noqa: S608 - quoted
        "LIMIT 5000"
    ).fetchall()
    try:
        found = numerals(str(shape) for (shape,) in sorted(shapes))
    except ValueError as error:
        raise ReportRefused(f"{column} does not hold numbers of one writing: {error}") from error
    digits = f"regexp_replace({name}, '[^0-9{found.decimal}]', '', 'g')"
    point = f"replace({digits}, '{found.decimal}', '.')"
    sign = f"CASE WHEN regexp_matches({name}, '[(\u2212\u2013-]') THEN -1 ELSE 1 END"
    power = rf"regexp_full_match(trim({name}), '[+-]?[0-9.]+[eE][+-]?[0-9]+')"
    written = f"{sign} * TRY_CAST(rtrim({point}, '.') AS DOUBLE)"
    sql = f"CASE WHEN {power} THEN TRY_CAST(trim({name}) AS DOUBLE) ELSE {written} END"
    return Read(sql, found.currency, found.doubt)


def covariate(connection: duckdb.DuckDBPyConnection, column: str) -> Read:
    """Read a covariate: numbers, with the mean in the place of gaps."""
    read = numbers(connection, column)
    mean = f"(SELECT avg({read.sql}) FROM source WHERE NOT {is_missing(column)})"  # noqa: S608 - quoted
    return read._replace(sql=f"coalesce(CASE WHEN {is_missing(column)} THEN NULL ELSE {read.sql} END, {mean}, 0)")


def levels(connection: duckdb.DuckDBPyConnection, column: str, most: int) -> str:
    """SQL of a column's levels as text: values, or fifths of a column with many numbers, or the most frequent values.

    Raises:
        ReportRefused: The column holds nothing.
    """
    name = f"trim({quoted(column)})"
    found = connection.execute(
        f"SELECT {name}, count(*) FROM source WHERE NOT {is_missing(column)} "  # noqa: S608 - quoted
        f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {most + 1}"
    ).fetchall()
    if not found:
        raise ReportRefused(f"the segment {column} is empty: no row has a value of it")
    blank = f"CASE WHEN {is_missing(column)} THEN '(blank)'"
    if len(found) <= most:
        return f"{blank} ELSE {name} END"
    if (fifths := _fifths(connection, column)) is not None:
        return f"{blank} {fifths} END"
    kept = ", ".join("'" + str(value).replace("'", "''") + "'" for value, _ in found[: most - 1])
    return f"{blank} WHEN {name} IN ({kept}) THEN {name} ELSE '(others)' END"


def _fifths(connection: duckdb.DuckDBPyConnection, column: str) -> str | None:
    """Cases of a column of numbers by its fifths; None where it holds other things."""
    try:
        read = numbers(connection, column).sql
    except ReportRefused:
        return None
    (cuts,) = connection.execute(
        f"SELECT quantile_disc({read}, [0.2, 0.4, 0.6, 0.8]) FROM source WHERE NOT {is_missing(column)}"  # noqa: S608 - quoted
    ).fetchall()
    bounds = sorted(set(map(float, cuts[0]))) if cuts[0] else []
    cases = " ".join(f"WHEN {read} <= {one!r} THEN '{place}: up to {one:g}'" for place, one in enumerate(bounds, 1))
    return f"{cases} ELSE '{len(bounds) + 1}: above {bounds[-1]:g}'" if bounds else None


def moments(connection: duckdb.DuckDBPyConnection, column: str) -> str:
    """SQL of a column's moments in unix microseconds; a time without a zone is one of UTC.

    Raises:
        ReportRefused: A cell is no time.
    """
    sql = f"epoch_us(TRY_CAST(trim({quoted(column)}) AS TIMESTAMPTZ))"
    (odd,) = connection.execute(f"SELECT count(*) FROM source WHERE {sql} IS NULL").fetchall()  # noqa: S608 - quoted
    if odd[0]:
        raise ReportRefused(f"{odd[0]:,} rows have no time in {column} that can be read (2026-03-02, or with 09:30:00)")
    return sql
