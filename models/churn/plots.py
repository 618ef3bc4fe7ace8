"""Plots of the churn model's evaluation. The one home of matplotlib in models."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from features.events import moment
from models.churn.training import Calibration, Evaluation


def reliability_diagram(evaluation: Evaluation) -> Figure:
    """Churned share over mean score in bins of equal count, a panel per test cut-off."""
    figure = Figure(figsize=(4.2 * len(evaluation.calibration), 4.4), layout="constrained")
    panels = figure.subplots(1, len(evaluation.calibration), squeeze=False, sharey=True)[0]
    for panel, one in zip(panels, evaluation.calibration, strict=True):
        _draw(panel, one)
    panels[0].set_ylabel("share that churned")
    figure.suptitle(f"AUC {evaluation.auc:.3f}, by recency alone {evaluation.auc_recency:.3f}", fontsize=11)
    return figure


def _draw(panel: Any, one: Calibration) -> None:  # noqa: ANN401 - an Axes, untyped by subplots
    scores, shares = [bin_.score for bin_ in one.bins], [bin_.churned for bin_ in one.bins]
    # Two standard errors of a share, were the scores true.
    errors = [2 * (bin_.score * (1 - bin_.score) / bin_.players) ** 0.5 for bin_ in one.bins]
    panel.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    panel.errorbar(scores, shares, errors, fmt="o", markersize=5, linewidth=1, capsize=2, color="#1f5fa8")
    players = sum(bin_.players for bin_ in one.bins)
    panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="mean churn score")
    panel.set_title(f"{moment(one.cutoff_us).date()}: {players:,} players in {len(one.bins)} equal bins", fontsize=10)
    panel.text(0.04, 0.9, f"calibration error {one.raw:.3f}\nafter a shift {one.shifted:.3f}", fontsize=9)
