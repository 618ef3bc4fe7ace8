"""Plots of the uplift report as SVG texts: no scripts, no network, the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from datetime import date
from html import escape
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from pipelines.experiments.comparisons import METRICS, MetricRow
from pipelines.experiments.uplift import Series

_WIDTH: Final = 4.7
"""Inches: narrow enough that its text can be read on a phone."""
_INK: Final = "#1f2933"
_BLUE: Final = "#1f5fa8"
_GREY: Final = "#7b8794"
_UNITS: Final = {"minor": "minor units per player", "share": "percentage points", "count": "per player"}
_STYLE: Final[dict[Any, Any]] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _GREY,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def forest(rows: Sequence[MetricRow]) -> str:
    """Forest plot of differences with intervals, a panel per metric; "" if there are none."""
    names = list(dict.fromkeys(row.metric for row in rows if row.absolute.low is not None))
    if not names:
        return ""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": "forest"}):
        groups = [[row for row in rows if row.metric == name and row.absolute.low is not None] for name in names]
        heights = [len(group) + 2.0 for group in groups]
        figure = Figure(figsize=(_WIDTH, 0.36 * sum(heights) + 0.4), layout="constrained")
        panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, group in zip(panels, groups, strict=True):
            _forest_panel(panel, group)
        return _svg(figure, "Differences between variants with 95 % intervals")


def _forest_panel(panel: Axes, rows: Sequence[MetricRow]) -> None:
    scale = 100.0 if rows[0].unit == "share" else 1.0
    for place, row in enumerate(rows):
        one = row.absolute
        low, high = scale * (one.low or 0.0), scale * (one.high or 0.0)
        colour = _BLUE if low > 0 or high < 0 else _GREY
        panel.plot([low, high], [place, place], color=colour, linewidth=2.4, solid_capstyle="butt")
        panel.plot([scale * one.estimate], [place], "o", color=colour, markersize=6)
    panel.axvline(0.0, color=_INK, linewidth=0.8)
    panel.set_yticks(range(len(rows)), [f"{_words(row.variant)}\nvs {_words(row.control)}" for row in rows])
    panel.tick_params(axis="y", length=0, labelsize=8.5)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_title(METRICS[rows[0].metric].title, loc="left", fontsize=10.5, fontweight="bold", pad=8)
    panel.set_xlabel(_UNITS[rows[0].unit], fontsize=9)


def growth(series: Series, unit: str) -> str:
    """Plot of a difference and its interval by number of players; "" with fewer than two points."""
    if len(series.points) < 2:
        return ""
    scale = 100.0 if unit == "share" else 1.0
    with mpl.rc_context(_STYLE | {"svg.hashsalt": f"growth {series.variant} {series.control}"}):
        figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
        panel = figure.subplots()
        days = [float(date2num(date.fromisoformat(point.until))) for point in series.points]  # type: ignore[no-untyped-call]
        panel.fill_between(
            days,
            [scale * point.low for point in series.points],
            [scale * point.high for point in series.points],
            color=_BLUE,
            alpha=0.18,
            linewidth=0,
        )
        panel.plot(days, [scale * point.estimate for point in series.points], color=_BLUE, linewidth=2, marker="o")
        panel.axhline(0.0, color=_INK, linewidth=0.8)
        locator = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
        panel.xaxis.set_major_locator(locator)
        panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        panel.set_ylabel(_UNITS[unit], fontsize=9)
        panel.set_title(f"{_words(series.variant)} vs {_words(series.control)}", loc="left", fontsize=10.5)
        return _svg(figure, f"Cumulative difference, {_words(series.variant)} against {_words(series.control)}")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _svg(figure: Figure, label: str) -> str:
    out = io.StringIO()
    nothing: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    FigureCanvasSVG(figure).print_svg(out, metadata=nothing)  # type: ignore[no-untyped-call]
    text = out.getvalue()
    # Several drawings share a page: ids of groups would repeat, and a page has one prolog.
    text = re.sub(r' id="[a-z_A-Z.]+_\d+"', "", text[text.index("<svg") :])
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
