"""Units of an experiment as a table of DuckDB, and their summaries: the only place where statistics meet rows.

The table `units` has a row for each unit: `variant`, `stratum` (what split it; units of one stratum were split alike),
and a column for each value. Only sums leave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import msgspec
import numpy as np

from pipelines.experiments.metrics import Metric
from pipelines.experiments.summaries import Floats, Summary

Key = tuple[str, ...]
"""Values of the columns that rows are grouped by."""
Summaries = Mapping[str, Mapping[Key, Summary]]
"""Summaries by metric, then by key."""
PLAIN: tuple[str, ...] = ("variant", "stratum")


def quoted(name: str) -> str:
    """A column's name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def summaries(
    connection: duckdb.DuckDBPyConnection,
    metrics: Sequence[Metric],
    by: Sequence[str] = PLAIN,
    where: str = "true",
    table: str = "units",
) -> dict[str, dict[Key, Summary]]:
    """Summaries of all metrics in one pass over a table; keys are the columns `by`, as text.

    Args:
        connection: It has the table.
        metrics: Their columns must be numbers without gaps.
        by: Columns that make the keys.
        where: Condition on rows, SQL.
        table: Name of the table.
    """
    asked = ["count(*)"]
    for metric in metrics:
        names = list(map(quoted, metric.columns))
        asked += [f"avg({name})" for name in names]
        asked += [f"covar_pop({names[i]}, {names[j]})" for i in range(len(names)) for j in range(i + 1)]
    keys = ", ".join(f"CAST({quoted(name)} AS VARCHAR)" for name in by)
    rows = connection.execute(
        f"SELECT {keys}, {', '.join(asked)} FROM {quoted(table)} WHERE {where} GROUP BY ALL ORDER BY ALL"  # noqa: S608 - our own names
    ).fetchall()
    found: dict[str, dict[Key, Summary]] = {metric.name: {} for metric in metrics}
    for row in rows:
        key, n = tuple(map(str, row[: len(by)])), int(row[len(by)])
        _take(found, metrics, key, n, np.array(row[len(by) + 1 :], dtype=np.float64))
    return found


def _take(found: dict[str, dict[Key, Summary]], metrics: Sequence[Metric], key: Key, n: int, values: Floats) -> None:
    at = 0
    for metric in metrics:
        width = len(metric.columns)
        means = values[at : at + width]
        scatter = np.zeros((width, width))
        low = np.tril_indices(width)
        scatter[low] = values[at + width : at + width + len(low[0])]
        scatter = scatter + np.tril(scatter, -1).T
        found[metric.name][key] = Summary(n, means, scatter * n)
        at += width + len(low[0])


def counts(
    connection: duckdb.DuckDBPyConnection, by: Sequence[str] = ("variant",), where: str = "true", table: str = "units"
) -> dict[Key, int]:
    """Numbers of units by some columns, as text."""
    keys = ", ".join(f"CAST({quoted(name)} AS VARCHAR)" for name in by)
    asked = f"SELECT {keys}, count(*) FROM {quoted(table)} WHERE {where} GROUP BY ALL ORDER BY ALL"  # noqa: S608 - our own names
    return {tuple(map(str, row[:-1])): int(row[-1]) for row in connection.execute(asked).fetchall()}


def paired(
    connection: duckdb.DuckDBPyConnection, names: Sequence[str], pair: tuple[str, str], most: int
) -> dict[str, Floats]:
    """Columns of two variants as arrays, for what needs rows: rankings; `is_variant` is 1 for the first variant.

    Rows come by unit, so that the same table gives the same arrays; of more than `most` units the first are taken.
    """
    asked = ", ".join(f"CAST({quoted(name)} AS DOUBLE) AS {quoted(name)}" for name in names)
    rows = connection.execute(
        f"SELECT {asked}, CAST(variant = ? AS DOUBLE) AS is_variant FROM units WHERE variant IN (?, ?) "  # noqa: S608 - our own names
        f"ORDER BY hash(unit), unit LIMIT {most}",
        [pair[0], *pair],
    ).fetchnumpy()
    names = [*names, "is_variant"]
    return {name: np.asarray(rows[name], dtype=np.float64) for name in names}


def cap(connection: duckdb.DuckDBPyConnection, metrics: Sequence[Metric], share: float) -> dict[str, Metric]:
    """Give the table `units` a capped twin of each metric's column, and name the metrics over those.

    Values above the quantile `share` of all units count as that quantile, those below the quantile `1 - share` as that
    one; only metrics that are changed by it are given.
    """
    found: dict[str, Metric] = {}
    for metric in metrics:
        name, twin = quoted(metric.value), f"capped {metric.name}"
        low, high, least, most = connection.execute(
            f"SELECT quantile_disc({name}, {1 - share}), quantile_disc({name}, {share}), min({name}), max({name}) "  # noqa: S608 - our own names
            "FROM units"
        ).fetchall()[0]
        if low is None or (low == least and high == most):
            continue
        connection.execute(f"ALTER TABLE units ADD COLUMN {quoted(twin)} DOUBLE")
        connection.execute(f"UPDATE units SET {quoted(twin)} = least(greatest({name}, ?), ?)", [low, high])  # noqa: S608 - our own names
        found[metric.name] = msgspec.structs.replace(metric, column=twin)
    return found
