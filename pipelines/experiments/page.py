"""The uplift report for people: a self-contained page, a CSV, a table in the terminal. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from pipelines.experiments import plots
from pipelines.experiments.comparisons import METRICS, MetricRow
from pipelines.experiments.health import ALARM, LEAST_PLAYERS, MOST_CROSSED
from pipelines.experiments.uplift import Uplift

_NOTHING: Final = "-"
_ABOUT: Final = (
    "Means per mature player, money in minor units; differences of money are adjusted by the money before (CUPED), so "
    "they are not those of the plain means."
)
_COLUMNS: Final = (
    *("metric", "role", "unit", "variant", "control", "n", "n_control", "mean", "mean_control"),
    *("difference", "low", "high", "p_value", "p_adjusted", "relative", "relative_low", "relative_high", "cuped"),
)


class Check(NamedTuple):
    """A line of the health box."""

    name: str
    found: str
    alarm: str


def html(report: Uplift) -> str:
    """The report as one HTML page: styles and plots inside, no scripts, nothing fetched."""
    here = FileSystemLoader(Path(__file__).parent)
    environment = Environment(autoescape=True, loader=here, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"day": _day, "minute": _minute, "title": _title, "words": words, "mean": _mean_of}
    told = [row for row in report.metrics if row.role in {"primary", "guardrail"}]
    rest = [row for row in report.metrics if row.role not in {"primary", "guardrail"}]
    tables = [
        ("Their numbers", told, _ABOUT + " p adjusted after Holm."),
        (
            "Other metrics",
            rest,
            _ABOUT + " p adjusted after Benjamini and Hochberg; contacts are what was done, not a result.",
        ),
    ]
    drawn = [plots.growth(one, METRICS[report.primary].unit) for one in report.series]
    page = environment.get_template("report.html").render(
        report=report,
        checks=checks(report),
        shown=[name for name in METRICS if any(name in row.means for row in report.variants)],
        forest=_svg(plots.forest(told)),
        growths=[_svg(one) for one in drawn if one],
        tables=[{"title": title, "about": about, "rows": lines(rows)} for title, rows, about in tables if rows],
    )
    return page + "\n"


def _svg(text: str) -> Markup:
    return Markup(text)  # noqa: S704 - drawn by us; names in it are escaped by the drawing library


def checks(report: Uplift) -> list[Check]:
    """Lines of the health box, passed or not."""
    ratio, draws, mature = report.srm, report.propensity_srm, report.maturity
    groups = ", ".join(
        f"{words(name)} {count:,}" + ("" if ratio.expected is None else f" of {ratio.expected.get(name, 0.0):,.0f}")
        for name, count in ratio.observed.items()
    )
    lag = "no house was asked" if report.lag_seconds is None else f"{report.lag_seconds:,.0f} s behind the house"
    return [
        Check("Sample ratio", f"{_p_of(ratio.p_value)}: {groups} expected", f"p < {ALARM}"),
        Check(
            "Propensity ratio",
            f"{_p_of(draws.p_value)}: {draws.decisions:,} draws, {len(draws.versions)} variants tested",
            f"p < {ALARM}",
        ),
        Check(
            "Maturity",
            f"{mature.mature:,} of {mature.exposed:,} mature, {mature.immature_share:.1%} not yet",
            f"a compared variant under {LEAST_PLAYERS}",
        ),
        Check(
            "In two variants", f"{report.crossed.players:,} players, {report.crossed.share:.2%}", f"{MOST_CROSSED:.0%}"
        ),
        Check("Freshness of the lake", lag, "a day"),
    ]


def lines(rows: Sequence[MetricRow]) -> list[dict[str, Any]]:
    """Comparisons as formatted lines; `first` begins a metric."""
    told: list[dict[str, Any]] = []
    for _, group in groupby(rows, key=lambda row: row.metric):
        told += [_line(row, first=place == 0) for place, row in enumerate(group)]
    return told


def _line(row: MetricRow, *, first: bool) -> dict[str, Any]:
    one, relative = row.absolute, row.relative
    interval = _NOTHING
    if one.low is not None and one.high is not None:
        interval = (
            f"{number(one.low, row.unit, signed=True).removesuffix(' pp')} to {number(one.high, row.unit, signed=True)}"
        )
    return {
        "first": first,
        "metric": METRICS[row.metric].title.capitalize(),
        "pair": f"{words(row.variant)} vs {words(row.control)}",
        "players": f"{row.n:,} / {row.n_control:,}",
        "mean": number(row.mean, row.unit),
        "mean_control": number(row.mean_control, row.unit),
        "difference": number(one.estimate, row.unit, signed=True),
        "interval": interval,
        "p": _p(one.p_value),
        "p_adjusted": _p(row.p_adjusted),
        "relative": _NOTHING if relative is None else f"{100 * relative.estimate:+.1f} %",
    }


def number(value: float, unit: str, *, signed: bool = False) -> str:
    """Format a mean or a difference: shares in percent, differences of shares in points."""
    sign = "+" if signed else ""
    if unit == "share":
        return f"{100 * value:{sign},.2f}" + (" pp" if signed else " %")
    return f"{value:{sign},.1f}" if unit == "minor" else f"{value:{sign},.2f}"


def words(name: str) -> str:
    """Display name of a variant."""
    return name.replace("_", " ")


def _p(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _p_of(value: float | None) -> str:
    if value is None:
        return "p unknown"
    return f"p = {value:.3f}" if value >= 0.001 else "p < 0.001"


def _title(metric: str) -> str:
    return METRICS[metric].title


def _mean_of(value: float, metric: str) -> str:
    return number(value, METRICS[metric].unit)


def _day(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d}"


def _minute(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M} UTC"


def table_csv(report: Uplift) -> str:
    """Comparisons as CSV, a line each, numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in report.metrics:
        one, ratio = row.absolute, row.relative
        relative = (None, None, None) if ratio is None else (ratio.estimate, ratio.low, ratio.high)
        begin = (row.metric, row.role, row.unit, row.variant, row.control, row.n, row.n_control)
        means = (row.mean, row.mean_control, one.estimate, one.low, one.high, one.p_value, row.p_adjusted)
        writer.writerow([*begin, *means, *relative, row.cuped])
    return out.getvalue()


def terminal(report: Uplift) -> Table:
    """Primary metric and guardrails for the terminal; the files hold the rest."""
    state = "healthy" if report.health.ok else "NOT HEALTHY, verdict withheld"
    table = Table(
        box=SIMPLE,
        pad_edge=False,
        title=f"Uplift of {escape(report.experiment)}, {report.window_days} days per player: {state}",
    )
    table.add_column("variant vs control", no_wrap=True, min_width=25)
    for name, width in (("difference", 10), ("95 % interval", 17), ("p", 7), ("adjusted", 8)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    for line in lines([row for row in report.metrics if row.role in {"primary", "guardrail"}]):
        if line["first"]:
            table.add_row(f"[bold]{line['metric']}[/bold]")
        line["interval"] = line["interval"].removesuffix(" pp")
        table.add_row(*(escape(line[key]) for key in ("pair", "difference", "interval", "p", "p_adjusted")))
    return table
