"""Metrics of one's own: a reviewed file that makes each from events in the window, or by a question in SQL.

metrics.yaml --load--> declared metrics --read over a lake--> columns of the players, and how each is compared
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import duckdb
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from features.events import EVENT_TYPES
from features.files import load_yaml
from features.words import unknown
from pipelines.experiments.metrics import BACK_AFTER, METRICS, Direction, Kind, Metric
from pipelines.experiments.refusals import ReportRefused
from pipelines.experiments.units import quoted

_OF_EVENTS: Final = ("brand", "status", "method", "target", "product", "channel", "night", "timing_slot", "currency")
"""Columns of events that a metric may narrow by."""
_VIEWS: Final = """
    CREATE OR REPLACE TEMP VIEW during AS
    SELECT events.*, first_us, (us - first_us) / 86400000000 AS day
    FROM (SELECT *, epoch_us(occurred_at) AS us FROM events) AS events JOIN exposed USING (player)
"""
Word = str | bool | int


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EventsOf(_Strict):
    """Which events count, and what of each.

    Attributes:
        types: Their types.
        where: Values that columns of theirs must have.
        value: `count`, or `amount_minor` in the currency of the house.
    """

    types: tuple[str, ...] = Field(min_length=1)
    where: Mapping[str, Word] = {}
    value: Literal["count", "amount_minor"] = "count"

    @model_validator(mode="after")
    def _known(self) -> Self:
        for word in self.types:
            if word not in EVENT_TYPES:
                raise ValueError(unknown(word, "type of event", EVENT_TYPES))
        for column in self.where:
            if column not in _OF_EVENTS:
                raise ValueError(unknown(column, "column of events that a metric narrows by", _OF_EVENTS))
        return self

    @cached_property
    def condition(self) -> str:
        """Condition on rows of events, in SQL."""
        types = ", ".join(map(_literal, self.types))
        told = (f"{quoted(name)} = {_literal(value)}" for name, value in self.where.items())
        return " AND ".join([f"type IN ({types})", *told])

    @property
    def amount(self) -> str:
        """What a row counts, in SQL."""
        return "1" if self.value == "count" else "coalesce(amount_minor, 0)"


class OwnMetric(_Strict):
    """A metric as it is declared.

    Attributes:
        name: As files and machines call it.
        title: As people read it; by default the name.
        kind: `mean`, `proportion`, `retention` or `ratio`.
        unit: `minor` for money, `share`, `count`, or another word that numbers are shown with.
        events: What counts; or `sql`.
        over: What a ratio is over.
        sql: A question that answers `player` and `value` (of a ratio `over` too), one row for each player; who has none
            has 0. `during` holds the events of the experiment's players with `first_us`, and `day` since their first
            decision; `exposed` the players; `decisions` and `outcomes` are the lake's.
        days: Days since the first decision that count, at most the report's; by default as many.
        direction: Which way is better.
        role: `secondary` or `guardrail`.
        margin: How much worse a guardrail may be, in units of the metric.
        currency: Of money, where it must be said: the report refuses another than the house's.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")
    title: str = ""
    kind: Kind = "mean"
    unit: str = ""
    events: EventsOf | None = None
    over: EventsOf | None = None
    sql: str | None = None
    days: Annotated[int, Field(ge=1, le=365)] | None = None
    direction: Direction = "higher"
    role: Literal["secondary", "guardrail"] = "secondary"
    margin: Annotated[float, Field(gt=0)] | None = None
    currency: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.name in METRICS:
            raise ValueError(f"{self.name} is a metric of every report already")
        if (self.events is None) == (self.sql is None):
            raise ValueError(f"{self.name} is told by events or by sql, by one of the two")
        if (self.over is not None) != (self.kind == "ratio" and self.sql is None):
            raise ValueError(f"{self.name}: a ratio of events has `over`, and nothing else has")
        if (self.margin is None) == (self.role == "guardrail"):
            raise ValueError(f"{self.name}: a guardrail has a margin, and nothing else has")
        if self.sql is not None and self.days is not None:
            raise ValueError(f"{self.name}: `days` are of events; in sql say `WHERE day < {self.days}`")
        return self

    @property
    def is_adjusted(self) -> bool:
        """Whether differences are adjusted by the same before the first decision."""
        return self.events is not None and self.kind in {"mean", "proportion"}

    @property
    def metric(self) -> Metric:
        """How it is compared; its columns are those that `columns_over` gives."""
        return Metric(
            self.name,
            self.title,
            self.unit or self._usual_unit,
            before=f"before {self.name}" if self.is_adjusted else None,
            kind=self.kind,
            column=f"own {self.name}",
            denominator=f"over {self.name}" if self.kind == "ratio" else None,
            direction=self.direction,
            role=self.role,
            margin=self.margin,
        )

    @property
    def _usual_unit(self) -> str:
        if self.kind in {"proportion", "retention"}:
            return "share"
        if self.kind == "ratio" or self.events is None:
            return "number"
        return "count" if self.events.value == "count" else "minor"


class OwnMetrics(_Strict):
    """A file of metrics."""

    metrics: tuple[OwnMetric, ...] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        names = [one.name for one in self.metrics]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} stands twice")
        return self


def load(file: Path) -> tuple[OwnMetric, ...]:
    """Metrics of a file; raises CatalogueError naming file, line and field."""
    return load_yaml(file, OwnMetrics).metrics


def columns_over(
    connection: duckdb.DuckDBPyConnection,
    players: pd.DataFrame,
    own: Sequence[OwnMetric],
    window_days: int,
    before_days: int,
    currency: str,
) -> pd.DataFrame:
    """Players with the columns of some metrics: numbers without gaps.

    Args:
        connection: It has the views of a lake and the table `exposed`.
        players: With the column `player`.
        own: The metrics.
        window_days: Days since the first decision that the report looks at.
        before_days: Days before it that differences are adjusted by.
        currency: Of the house.

    Raises:
        ReportRefused: One looks beyond the window or at another currency, or its question is none.
    """
    connection.execute(_VIEWS)
    found = players
    for one in own:
        if one.currency not in {None, currency}:
            raise ReportRefused(f"{one.name} is in {one.currency}, and the report in {currency or 'no currency'}")
        if (days := one.days or window_days) > window_days:
            raise ReportRefused(
                f"{one.name} needs {days} days, the report has {window_days}: take --window-days {days}"
            )
        read = _asked(connection, one) if one.sql else _counted(connection, one, days, before_days)
        found = found.merge(read, on="player", how="left")
        found[list(one.metric.columns)] = found[list(one.metric.columns)].fillna(0.0).astype("float64")
    return found


def _counted(connection: duckdb.DuckDBPyConnection, one: OwnMetric, days: int, before_days: int) -> pd.DataFrame:
    """Values of a metric over events, of players who have any."""
    assert one.events is not None  # noqa: S101 - who has no sql has events
    within = f"day >= {days * BACK_AFTER if one.kind == 'retention' else 0} AND day < {days}"
    columns = {one.metric.value: _total(one.events, within, one.metric)}
    if one.is_adjusted:
        columns[f"before {one.name}"] = _total(one.events, f"day < 0 AND day >= -{before_days}", one.metric)
    if one.over is not None:
        columns[f"over {one.name}"] = _total(one.over, within, one.metric)
    asked = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in columns.items())
    return connection.execute(f"SELECT player, {asked} FROM during GROUP BY player").df()  # noqa: S608 - words of closed lists


def _total(of: EventsOf, within: str, metric: Metric) -> str:
    rows = f"FILTER ({of.condition} AND {within})"
    return f"(count(*) {rows} > 0)::DOUBLE" if metric.is_share else f"coalesce(sum({of.amount}) {rows}, 0)::DOUBLE"


def _asked(connection: duckdb.DuckDBPyConnection, one: OwnMetric) -> pd.DataFrame:
    """Answer to a metric's question; raises ReportRefused for one that is none."""
    wanted = ["player", "value", *(["over"] if one.kind == "ratio" else [])]
    try:
        relation = connection.sql(str(one.sql))
        if relation is None or sorted(relation.columns) != sorted(wanted):
            given = "no rows" if relation is None else ", ".join(relation.columns)
            raise ReportRefused(f"{one.name}: its question must answer {', '.join(wanted)}, and answers {given}")
        numbers = ", ".join(f"CAST({quoted(name)} AS DOUBLE) AS {quoted(name)}" for name in wanted[1:])
        read: pd.DataFrame = relation.project(f"player, {numbers}").df()
    except duckdb.Error as error:
        raise ReportRefused(f"{one.name}: {str(error).splitlines()[0]}") from error
    _check(one, read)
    named: pd.DataFrame = read.rename(columns={"value": one.metric.value, "over": f"over {one.name}"})
    return named


def _check(one: OwnMetric, read: pd.DataFrame) -> None:
    if twice := int(read["player"].duplicated().sum()):
        raise ReportRefused(f"{one.name}: {twice:,} players have more than one row: GROUP BY player")
    if one.metric.is_share and not read["value"].dropna().isin([0.0, 1.0]).all():
        raise ReportRefused(f"{one.name} is a share, so each player has it or not: its question must answer 1 or 0")
    if read.drop(columns="player").abs().max().eq(float("inf")).any():
        raise ReportRefused(f"{one.name}: its question answers infinite numbers")


def _literal(value: Any) -> str:  # noqa: ANN401 - a word, a number or a truth
    return str(value).lower() if isinstance(value, bool | int) else "'" + value.replace("'", "''") + "'"
