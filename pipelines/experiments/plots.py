"""Plots of the uplift report as SVG texts: no scripts, no network, the same bytes for the same numbers.

Colours are the page's own variables, so that a plot follows light, dark and print; a shape says what a colour says.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from datetime import date
from html import escape
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from pipelines.experiments.amounts import label, scale
from pipelines.experiments.analysis import Ranking, Series
from pipelines.experiments.comparisons import MetricRow
from pipelines.experiments.health import ALARM, SPOKEN, Cell
from pipelines.experiments.result import SinceExposure
from pipelines.experiments.returns import Returns
from pipelines.experiments.segments import Segment

_WIDTH: Final = 4.7
"""Inches: narrow enough that its text can be read on a phone."""
_INK: Final = "#1f2933"
_BLUE: Final = "#1f5fa8"
_GREY: Final = "#7b8794"
_COLOURS: Final = {_INK: "var(--ink)", _BLUE: "var(--blue)", _GREY: "var(--soft)"}
_STYLE: Final[dict[Any, Any]] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _GREY,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
_MARKERS: Final = "osD^vP*X"
_DASHES: Final = ("-", "--", ":", "-.")


def forest(rows: Sequence[MetricRow], currency: str = "") -> str:
    """Forest plot of differences with both intervals, a panel per metric; "" if there are none."""
    told = [row for row in rows if row.absolute.low is not None]
    names = list(dict.fromkeys(row.metric for row in told))
    if not names:
        return ""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": "forest"}):
        groups = [[row for row in told if row.metric == name] for name in names]
        heights = [len(group) + 2.0 for group in groups]
        figure = Figure(figsize=(_WIDTH, 0.36 * sum(heights) + 0.4), layout="constrained")
        panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, group in zip(panels, groups, strict=True):
            _forest_panel(panel, group, currency)
        return _svg(figure, "Differences between variants with 95 % intervals")


def _forest_panel(panel: Axes, rows: Sequence[MetricRow], currency: str) -> None:
    by = scale(rows[0].unit, currency)
    for place, row in enumerate(rows):
        one, always = row.absolute, row.sequential
        if always is not None and always.low is not None and always.high is not None:
            panel.plot([by * always.low, by * always.high], [place, place], color=_GREY, linewidth=0.9)
        _interval(panel, by * one.estimate, by * (one.low or 0.0), by * (one.high or 0.0), place)
    if rows[0].margin is not None:
        sign = 1 if rows[0].direction == "lower" else -1
        panel.axvline(sign * by * rows[0].margin, color=_GREY, linewidth=1.2, linestyle=":")
    _rows_of(panel, [f"{_words(row.variant)}\nvs {_words(row.control)}" for row in rows])
    panel.set_title(_short(rows[0].title or rows[0].metric), loc="left", fontsize=10.5, fontweight="bold", pad=8)
    panel.set_xlabel(label(rows[0].unit, currency), fontsize=9)


def _interval(panel: Axes, estimate: float, low: float, high: float, place: float) -> None:
    """An interval: filled and blue where it leaves out 0, hollow and grey where it does not."""
    clear = low > 0 or high < 0
    colour = _BLUE if clear else _GREY
    panel.plot([low, high], [place, place], color=colour, linewidth=2.4, solid_capstyle="butt")
    face = colour if clear else "none"
    panel.plot([estimate], [place], "o", color=colour, markersize=6.5, markerfacecolor=face, markeredgewidth=1.6)


def _rows_of(panel: Axes, names: Sequence[str]) -> None:
    panel.axvline(0.0, color=_INK, linewidth=0.8)
    panel.set_yticks(range(len(names)), [_short(name, 60) for name in names])
    panel.tick_params(axis="y", length=0, labelsize=8.5)
    panel.set_ylim(len(names) - 0.4, -0.6)


def growth(series: Series, unit: str, currency: str = "") -> str:
    """Plot of a difference over time with both intervals; "" with fewer than two points."""
    if len(series.points) < 2:
        return ""
    by, points = scale(unit, currency), series.points
    with mpl.rc_context(_STYLE | {"svg.hashsalt": f"growth {series.variant} {series.control}"}):
        figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
        panel = figure.subplots()
        days = [_day(point.until) for point in points]
        low, high = ([by * getattr(point, name) for point in points] for name in ("low", "high"))
        panel.fill_between(days, low, high, color=_BLUE, alpha=0.18, linewidth=0, label="one planned look")
        for name in ("always_low", "always_high"):
            told = [np.nan if getattr(point, name) is None else by * getattr(point, name) for point in points]
            panel.plot(
                days,
                told,
                color=_INK,
                linewidth=1,
                linestyle="--",
                label="every look" if name == "always_low" else None,
            )
        panel.plot(days, [by * point.estimate for point in points], color=_BLUE, linewidth=2, marker="o", markersize=4)
        panel.axhline(0.0, color=_INK, linewidth=0.8)
        # The first, widest points of the sequence would flatten all others.
        reach = max(abs(bound) for bound in [*low, *high])
        panel.set_ylim(-1.6 * reach, 1.6 * reach)
        _dated(panel)
        panel.legend(loc="upper right", ncols=2)
        panel.set_ylabel(label(unit, currency), fontsize=9)
        panel.set_title(f"{_short(series.variant)} vs {_short(series.control)}", loc="left", fontsize=10.5)
        return _svg(figure, f"Cumulative difference, {_words(series.variant)} against {_words(series.control)}")


def _day(text: str) -> float:
    return float(date2num(date.fromisoformat(text)))  # type: ignore[no-untyped-call]


def _dated(panel: Axes) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
    panel.xaxis.set_major_locator(locator)
    panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def exposures(cells: Sequence[Cell]) -> str:
    """Units of each variant by the time they came in, and the sample ratio's p-value below; "" with fewer than two."""
    dated = [(cell, re.search(r"\d{4}-\d\d-\d\d", cell.name)) for cell in cells]
    told = [(_day(found[0]), cell) for cell, found in dated if found]
    if len(told) < 2:
        return ""
    days, names = [day for day, _ in told], sorted({name for _, cell in told for name in cell.observed})
    with mpl.rc_context(_STYLE | {"svg.hashsalt": "exposures"}):
        figure = Figure(figsize=(_WIDTH, 4.0), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        for place, name in enumerate(names):
            style = {"marker": _MARKERS[place % 8], "linestyle": _DASHES[place % 4], "markersize": 4, "linewidth": 1.4}
            counts = [cell.observed.get(name, 0) for _, cell in told]
            above.plot(days, counts, color=_BLUE if place % 2 else _INK, label=_short(name), **style)
        above.legend(loc="best")
        above.set_ylabel("units", fontsize=9)
        below.plot(days, [max(cell.p_value, 1e-6) for _, cell in told], color=_INK, marker=".", linewidth=1)
        below.axhline(SPOKEN, color=_GREY, linewidth=1, linestyle=":")
        below.axhline(ALARM, color=_GREY, linewidth=1, linestyle="--")
        below.set_yscale("log")
        below.set_ylabel("p of the ratio", fontsize=9)
        _dated(below)
        return _svg(figure, "Units of each variant over time, and the p-value of their ratio")


def since(one: SinceExposure, currency: str = "") -> str:
    """Difference of each day since the first decision with its interval; "" without days."""
    if len(one.days) < 2:
        return ""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": f"since {one.variant} {one.control}"}):
        figure = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
        panel = figure.subplots()
        unit, by = "minor", scale("minor", currency)
        days = [day.day + 1 for day in one.days]
        low, high, middle = ([by * getattr(day, name) for day in one.days] for name in ("low", "high", "estimate"))
        panel.fill_between(days, low, high, color=_BLUE, alpha=0.18, linewidth=0)
        panel.plot(days, middle, color=_BLUE, linewidth=1.6, marker=".")
        panel.axhline(0.0, color=_INK, linewidth=0.8)
        panel.set_xlabel("day since the first decision", fontsize=9)
        panel.set_ylabel(label(unit, currency), fontsize=9)
        panel.set_title(f"{_short(one.variant)} vs {_short(one.control)}", loc="left", fontsize=10.5)
        return _svg(figure, f"Difference by day since the first decision, {_words(one.variant)}")


def qini(one: Ranking, currency: str = "") -> str:
    """Qini curve with the band of chance."""
    judged, by = one.judged, scale(one.unit, currency)
    with mpl.rc_context(_STYLE | {"svg.hashsalt": f"qini {one.score} {one.variant}"}):
        figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
        panel = figure.subplots()
        shares = [100 * share for share in judged.shares]
        low, high, gains = (
            [by * value for value in values] for values in (judged.band_low, judged.band_high, judged.gains)
        )
        panel.fill_between(shares, low, high, color=_GREY, alpha=0.25, linewidth=0, label="chance, 95 %")
        panel.plot([0, 100], [0, gains[-1]], color=_INK, linewidth=0.9, linestyle="--", label="any order")
        panel.plot(shares, gains, color=_BLUE, linewidth=2, marker=".", label=_short(one.score))
        panel.legend(loc="best")
        panel.set_xlabel("share of units taken, highest score first (%)", fontsize=9)
        panel.set_ylabel(f"gain, {label(one.unit, currency)}", fontsize=9)
        panel.set_title(f"{_short(one.variant)} vs {_short(one.control)}", loc="left", fontsize=10.5)
        return _svg(figure, f"Qini curve of {_words(one.score)}")


def waterfall(one: Returns, unit: str, currency: str = "") -> str:
    """What a variant brought, what it cost, and what is left, with its interval."""
    by = scale(unit, currency)
    gross, cost, net, low, high = (by * value for value in (one.gross, one.cost, one.net, one.net_low, one.net_high))
    with mpl.rc_context(_STYLE | {"svg.hashsalt": f"waterfall {one.variant} {one.control}"}):
        figure = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
        panel = figure.subplots()
        panel.bar([0], [gross], color="none", edgecolor=_BLUE, hatch="//", width=0.6)
        panel.bar([1], [-cost], bottom=[gross], color="none", edgecolor=_GREY, hatch="..", width=0.6)
        panel.bar([2], [net], color=_BLUE, width=0.6)
        panel.errorbar([2], [net], yerr=[[net - low], [high - net]], color=_INK, capsize=5, linewidth=1.4)
        panel.axhline(0.0, color=_INK, linewidth=0.8)
        panel.set_xticks([0, 1, 2], ["brought", "cost", "net"])
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        panel.set_ylabel(label(unit, currency, "variant").partition(" per")[0], fontsize=9)
        panel.set_title(f"{_short(one.variant)} vs {_short(one.control)}", loc="left", fontsize=10.5)
        return _svg(figure, f"Returns of {_words(one.variant)} against {_words(one.control)}")


def segment(one: Segment, currency: str = "") -> str:
    """The effect in each level of a segment; "" where none has enough units."""
    levels = [level for level in one.levels if level.absolute is not None and level.absolute.low is not None]
    if not levels:
        return ""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": f"segment {one.segment} {one.variant} {one.metric}"}):
        figure = Figure(figsize=(_WIDTH, 0.34 * len(levels) + 1.1), layout="constrained")
        panel, by = figure.subplots(), scale(one.unit, currency)
        for place, level in enumerate(levels):
            if (found := level.absolute) is not None:
                _interval(panel, by * found.estimate, by * (found.low or 0), by * (found.high or 0), place)
        _rows_of(panel, [level.level for level in levels])
        panel.set_xlabel(label(one.unit, currency), fontsize=9)
        panel.set_title(f"{_short(one.variant)} vs {_short(one.control)}", loc="left", fontsize=10.5)
        return _svg(figure, f"Effect by {_words(one.segment)}")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(name: str, most: int = 34) -> str:
    name = _words(name)
    return name if len(name) <= most else f"{name[: most - 1]}\u2026"


def _svg(figure: Figure, label: str) -> str:
    out = io.StringIO()
    nothing: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    FigureCanvasSVG(figure).print_svg(out, metadata=nothing)  # type: ignore[no-untyped-call]
    text = out.getvalue()
    # Several drawings share a page: ids of groups would repeat, and a page has one prolog.
    text = re.sub(r' id="[a-z_A-Z.]+_\d+"', "", text[text.index("<svg") :])
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
