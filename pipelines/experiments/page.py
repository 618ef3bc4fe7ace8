"""The uplift report for people: a self-contained page, a CSV, a table in the terminal. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
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
from pipelines.experiments.amounts import PLAIN, shown
from pipelines.experiments.comparisons import MetricRow
from pipelines.experiments.health import ALARM, LEAST_PLAYERS, MOST_CROSSED, SPOKEN
from pipelines.experiments.result import Uplift

_NOTHING: Final = "-"
_COLUMNS: Final = (
    *("metric", "role", "unit", "variant", "control", "n", "n_control", "mean", "mean_control"),
    *("difference", "low", "high", "p_value", "p_adjusted", "relative", "relative_low", "relative_high", "cuped"),
    *("always_low", "always_high", "always_p_value", "winsorised", "winsorised_low", "winsorised_high"),
    *("exact", "guard", "margin", "detectable", "strata"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class Check(NamedTuple):
    """A line of the health box."""

    name: str
    found: str
    alarm: str


def html(report: Uplift) -> str:
    """The report as one HTML page: styles and plots inside, no scripts, nothing fetched."""
    here = FileSystemLoader(Path(__file__).parent)
    environment = Environment(autoescape=True, loader=here, undefined=StrictUndefined, trim_blocks=True)
    currency = report.currency if report.source == "lake" else ""
    environment.filters |= {
        "day": _day,
        "minute": _minute,
        "words": words,
        "p": _p,
        "amount": lambda value, unit: _NOTHING if value is None else shown(value, unit, currency),
        "gap": lambda value, unit: _NOTHING if value is None else shown(value, unit, currency, signed=True),
    }
    told = [row for row in report.metrics if row.role in {"primary", "guardrail"}]
    rest = [row for row in report.metrics if row.role not in {"primary", "guardrail"}]
    first = next((row for row in report.metrics if row.metric == report.primary), None)
    unit = first.unit if first else "number"
    page = environment.get_template("report.html").render(
        report=report,
        primary=first.title if first else words(report.primary),
        unit=unit,
        noun="player" if report.source == "lake" else "unit",
        checks=checks(report),
        means=_shown_means(report),
        forest=_svg(plots.forest(told, currency)),
        tables=[
            (title, lines(rows, currency)) for title, rows in (("Their numbers", told), ("Other metrics", rest)) if rows
        ],
        growths=_drawn(plots.growth(one, unit, currency) for one in report.series),
        exposures=_svg(plots.exposures(report.cells.cells if report.cells else [])),
        since=_drawn(plots.since(one, currency) for one in report.since_exposure),
        segments=[(one, _svg(plots.segment(one, currency))) for one in report.segments],
        rankings=[(one, _svg(plots.qini(one, currency))) for one in report.rankings],
        returns=[(one, _svg(plots.waterfall(one, unit, currency))) for one in report.returns],
    )
    return page + "\n"


def _drawn(plots_of: Iterable[str]) -> list[Markup]:
    return [_svg(text) for text in plots_of if text]


def _svg(text: str) -> Markup:
    return Markup(text)  # noqa: S704 - drawn by us; names in it are escaped by the drawing library


def _shown_means(report: Uplift) -> list[tuple[str, str, str]]:
    """Name, title and unit of each metric that variants have a mean of."""
    units = {row.metric: (row.title or row.metric, row.unit) for row in report.metrics}
    names = dict.fromkeys(name for row in report.variants for name in row.means)
    return [(name, *units[name]) for name in names if name in units]


def checks(report: Uplift) -> list[Check]:
    """Lines of the health box, passed or not."""
    told = [_split_check(report), *_cell_checks(report)]
    if (draws := report.propensity_srm) is not None:
        found = f"{_p_of(draws.p_value)}: {draws.decisions:,} draws, {len(draws.versions)} variants tested"
        told.append(Check("Propensity ratio", found, f"p < {ALARM}"))
    if report.source == "lake":
        mature = report.maturity
        found = f"{mature.mature:,} of {mature.exposed:,} mature, {mature.immature_share:.1%} not yet"
        told.append(Check("Maturity", found, f"a compared variant under {LEAST_PLAYERS}"))
        reached = ", ".join(
            f"{words(row.variant)} {row.reached:,} of {row.mature:,}"
            for row in report.variants
            if row.reached is not None
        )
        told.append(Check("Treated at all", f"{reached} players with a confirmed contact", "nobody"))
    crossed = f"{report.crossed.players:,}, {report.crossed.share:.2%}"
    told.append(Check("In two variants", crossed, f"more than {MOST_CROSSED:.0%}"))
    twice = ", ".join(f"{count:,} {kind}" for kind, count in report.duplicates.items()) or "none"
    told.append(Check("Told twice", f"{twice}; each counts once", "none: they are taken out"))
    if report.source == "lake":
        lag = "no house was asked" if report.lag_seconds is None else f"{report.lag_seconds:,.0f} s behind the house"
        told.append(Check("Freshness of the lake", lag, "a day"))
    return told


def _split_check(report: Uplift) -> Check:
    ratio = report.srm
    groups = ", ".join(
        f"{words(name)} {count:,}" + ("" if ratio.expected is None else f" of {ratio.expected.get(name, 0.0):,.0f}")
        for name, count in ratio.observed.items()
    )
    return Check("Sample ratio", f"{_p_of(ratio.p_value)}: {groups} expected", f"p < {ALARM}, spoken of < {SPOKEN}")


def _cell_checks(report: Uplift) -> list[Check]:
    told = []
    if report.cells is not None and report.cells.cells:
        many = f"{_p_of(report.cells.p_value)} after Holm, of {len(report.cells.cells)}"
        found = f"{many}; the oddest is {report.cells.worst}"
        told.append(Check("Ratio by day and segment", found, f"p < {ALARM}"))
    if report.before is not None and report.before.worst is not None:
        found = f"{_p_of(report.before.p_value)} after Bonferroni; the oddest is {report.before.worst}"
        told.append(Check("Balance before", found, f"p < {ALARM}"))
    return told


def lines(rows: Sequence[MetricRow], currency: str = "") -> list[dict[str, Any]]:
    """Comparisons as formatted lines; `first` begins a metric."""
    told: list[dict[str, Any]] = []
    for _, group in groupby(rows, key=lambda row: row.metric):
        told += [_line(row, currency, first=place == 0) for place, row in enumerate(group)]
    return told


def _line(row: MetricRow, currency: str, *, first: bool) -> dict[str, Any]:
    one, relative = row.absolute, row.relative
    return {
        "first": first,
        "metric": f"{row.title or row.metric}"[:1].upper() + f"{row.title or row.metric}"[1:] + _in(row.unit, currency),
        "pair": f"{words(row.variant)} vs {words(row.control)}",
        "players": f"{row.n:,} / {row.n_control:,}",
        "mean": shown(row.mean, row.unit, currency, named=row.unit == "share"),
        "mean_control": shown(row.mean_control, row.unit, currency, named=row.unit == "share"),
        "difference": _points(one.estimate, row.unit, currency),
        "interval": _bounds(one.low, one.high, row.unit, currency),
        "always": _NOTHING
        if row.sequential is None
        else _bounds(row.sequential.low, row.sequential.high, row.unit, currency),
        "capped": _NOTHING
        if row.winsorised is None
        else _bounds(row.winsorised.low, row.winsorised.high, row.unit, currency),
        "p": _p(one.p_value) + (" exact" if row.exact else ""),
        "p_adjusted": _p(row.p_adjusted),
        "relative": _NOTHING if relative is None else f"{100 * relative.estimate:+.1f} %",
        "better": _NOTHING if row.better is None else f"{row.better:.0%}",
        "guard": _NOTHING if row.guard is None else row.guard,
        "note": row.withheld or "",
    }


def _in(unit: str, currency: str) -> str:
    if unit == "minor":
        return f", {currency or 'minor units'}"
    return "" if unit in PLAIN else f", {unit}"


def _points(value: float, unit: str, currency: str) -> str:
    return shown(value, unit, currency, signed=True, named=False) + (" pp" if unit == "share" else "")


def _bounds(low: float | None, high: float | None, unit: str, currency: str) -> str:
    if low is None or high is None:
        return _NOTHING
    return f"{shown(low, unit, currency, signed=True, named=False)} to {_points(high, unit, currency)}"


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
    return f"p = {value:.4f}" if value >= 0.0001 else "p < 0.0001"


def _day(moment: str | None) -> str:
    return _NOTHING if moment is None else f"{datetime.fromisoformat(moment):%Y-%m-%d}"


def _minute(moment: str | None) -> str:
    return _NOTHING if moment is None else f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M} UTC"


def harmless(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula; numbers stay numbers."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def table_csv(report: Uplift) -> str:
    """Comparisons as CSV, a line each, numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in report.metrics:
        one, ratio, always, capped = row.absolute, row.relative, row.sequential, row.winsorised
        relative = (None, None, None) if ratio is None else (ratio.estimate, ratio.low, ratio.high)
        begin = (row.metric, row.role, row.unit, row.variant, row.control, row.n, row.n_control)
        means = (row.mean, row.mean_control, one.estimate, one.low, one.high, one.p_value, row.p_adjusted)
        looks = (None, None, None) if always is None else (always.low, always.high, always.p_value)
        second = (None, None, None) if capped is None else (capped.estimate, capped.low, capped.high)
        end = (row.exact, row.guard, row.margin, row.detectable, row.strata)
        writer.writerow(map(harmless, [*begin, *means, *relative, row.cuped, *looks, *second, *end]))
    return out.getvalue()


def terminal(report: Uplift) -> Table:
    """Primary metric and guardrails for the terminal; the files hold the rest."""
    state = "healthy" if report.health.ok else "NOT HEALTHY, verdict withheld"
    days = "" if report.window_days is None else f", {report.window_days} days per player"
    table = Table(box=SIMPLE, pad_edge=False, title=f"Uplift of {escape(report.experiment)}{days}: {state}")
    table.add_column("variant vs control", overflow="fold", min_width=12)
    for name, width in (("difference", 10), ("95 % interval", 17), ("p", 7), ("adjusted", 8)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    told = [row for row in report.metrics if row.role in {"primary", "guardrail"} or report.source == "table"]
    for line in lines(told, report.currency if report.source == "lake" else ""):
        if line["first"]:
            table.add_row(f"[bold]{escape(line['metric'])}[/bold]")
        line["interval"] = line["interval"].removesuffix(" pp")
        table.add_row(*(escape(line[key]) for key in ("pair", "difference", "interval", "p", "p_adjusted")))
    return table
