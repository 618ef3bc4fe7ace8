"""An analyst's first look at an experiment, cell by cell.

Open it as a notebook (VS Code and PyCharm do as it is, Jupyter with jupytext), or run it with Python. It reads the
lake only; CROUPIER_HOME says where that is, `var/` by default.
"""


# %% [markdown]
# # Uplift of an experiment, by hand
# The report `croupier report uplift` does all of this at once. Here each step stands alone, to be looked at, changed
# and asked again: another window, another metric. `analyst_segments.py` beside it goes on with groups of players.

# %%
# Where the lake is, and how many days of each player count. 28 days hold four weekends; shorter windows mature sooner.
import os

import numpy as np
import pandas as pd

from features.settings.environment import environment
from features.settings.mlflow_file import read_mlflow
from models.catalogue.offers import load_catalogue
from pipelines.experiments import page, plots
from pipelines.experiments.comparisons import compare_all
from pipelines.experiments.exposures import DAY_US, exposures, opened
from pipelines.experiments.metrics import METRICS
from pipelines.experiments.report import compute, costs
from pipelines.experiments.summaries import Summary
from pipelines.experiments.units import Key
from service.settings import catalogue_path

try:
    from IPython.display import display
except ModuleNotFoundError:
    display = print

home = environment().home
lake = home / "lake"
window_days = int(os.environ.get("WINDOW_DAYS", "28"))
catalogue, settings = load_catalogue(catalogue_path()), read_mlflow(home)

# %%
# One row per player: the variant of the first decision, and what the player did in the window that begins there.
# `before_...` is the same money in the 28 days before; it makes the intervals narrower.
with opened(lake) as connection:
    found = exposures(connection, costs(catalogue, settings), window_days)
players = found.players
display(players.head())

# %%
# Variants at a glance. Means differ by chance alone, so nothing is decided here; the medians tell how skewed money is.
money = ["net_revenue_minor", "deposits_minor", "cost_minor"]
display(players.groupby("variant")[["conversion", "contacts", *money]].mean().round(2))
display(players.groupby("variant")[money].median())

# %%
# Health first. If a check fails, the rest says nothing about the variants, and the report withholds its verdict.
report = compute(lake, settings, days=window_days)
health = pd.DataFrame(page.checks(report))
display(health)
display("healthy" if report.health.ok else f"not healthy: {'; '.join(report.health.reasons)}")

# %%
# The report's own table: every metric of every comparison, differences per player with 95 % intervals: for the one
# look that was planned, and those that hold at every look.
table = pd.DataFrame(page.lines(report.metrics, report.currency))
display(table[["metric", "pair", "players", "difference", "interval", "always", "p", "p_adjusted", "guard"]])

# %%
# The same as a drawing, kept beside the reports. Each metric has its own axis; a filled dot leaves out 0.
forest = plots.forest([row for row in report.metrics if row.role in {"primary", "guardrail"}], report.currency)
drawing = home / "reports" / "forest.svg"
drawing.parent.mkdir(exist_ok=True)
drawing.write_text(forest, encoding="utf-8")
display(f"drawn to {drawing}")

# %%
# A question of your own: the same comparison among players who bet in the 28 days before. The split was by chance in
# every such group, as long as the group is formed by what was known *before* the first decision. It is one look of
# many: note how many groups you tried.
mature = players[(players["variants"] == 1) & (players["first_us"] + window_days * DAY_US <= found.latest_us)]
group = mature[mature["before_net_revenue_minor"] != 0]
asked = [METRICS[report.primary], METRICS["deposits_minor"]]
summaries: dict[str, dict[Key, Summary]] = {
    metric.name: {
        (str(variant), str(split)): Summary.of(mine[list(metric.columns)].to_numpy(np.float64))
        for (variant, split), mine in group.groupby(["variant", "split"])
    }
    for metric in asked
}
segment = pd.DataFrame(page.lines(compare_all(summaries, asked, report.heads), report.currency))
display(segment)
