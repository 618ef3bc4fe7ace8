"""Segments and rankings of an experiment: for whom does it work, cell by cell.

Open it as a notebook or run it with Python, as `analyst.py`; it reads the lake of CROUPIER_HOME only.
"""


# %% [markdown]
# # For whom does it work?
# Two questions that are easily answered wrongly. *Does the effect differ between groups?* That one group shows an
# effect and another does not is no answer: the difference itself is tested. *Does a score find those who gain?* A curve
# always rises somewhere: it is held against what chance alone draws.

# %%
# The report has the segments that are looked at anyway: harm level and stage of life at the first decision.
import os

import numpy as np
import pandas as pd

from features.settings.environment import environment
from features.settings.mlflow_file import read_mlflow
from models.catalogue.offers import load_catalogue
from pipelines.experiments import plots, ranking
from pipelines.experiments.exposures import DAY_US, exposures, opened
from pipelines.experiments.metrics import METRICS
from pipelines.experiments.report import compute, costs
from pipelines.experiments.segments import adjusted, by_segment
from pipelines.experiments.summaries import Summary
from pipelines.experiments.units import Key
from service.settings import catalogue_path

try:
    from IPython.display import display
except ModuleNotFoundError:
    display = print

home = environment().home
window_days = int(os.environ.get("WINDOW_DAYS", "28"))
settings = read_mlflow(home)
report = compute(home / "lake", settings, days=window_days)
for one in report.segments:
    display(f"{one.segment}, {one.variant} against {one.control}: p = {one.p_adjusted}")

# %%
# A segment of your own: fifths of the money before. Formed by what was known before the first decision, else the
# groups are no longer split by chance.
with opened(home / "lake") as connection:
    found = exposures(connection, costs(load_catalogue(catalogue_path()), settings), window_days)
players = found.players
mature = players[(players["variants"] == 1) & (players["first_us"] + window_days * DAY_US <= found.latest_us)]
before = mature["before_net_revenue_minor"]
fifths = pd.qcut(before.rank(method="first"), 5, labels=[f"fifth {number}" for number in range(1, 6)])
metric = METRICS[report.primary]
summaries: dict[Key, Summary] = {
    (str(variant), str(split), str(fifth)): Summary.of(mine[list(metric.columns)].to_numpy(np.float64))
    for (variant, split, fifth), mine in mature.groupby(["variant", "split", fifths], observed=True)
}
segments = adjusted([by_segment("money before", summaries, metric, pair) for pair in report.heads])
for one in segments:
    display(f"{one.segment}, {one.variant} against {one.control}: p = {one.p_adjusted}")
    levels = [
        (level.level, level.n, level.n_control, level.absolute and level.absolute.estimate) for level in one.levels
    ]
    display(pd.DataFrame(levels, columns=["level", "n", "n_control", "difference"]))

# %%
# Qini: would those with the most money before have been the ones to treat?
rankings = []
for variant, control in report.heads:
    both = mature[mature["variant"].isin([variant, control])]
    judged = ranking.ranked(
        both[metric.value].to_numpy(np.float64),
        both["before_net_revenue_minor"].to_numpy(np.float64),
        np.asarray(both["variant"] == variant, dtype=np.float64),
    )
    rankings.append(judged)
    display(f"{variant} against {control}: Qini {judged.qini:+.4g}, chance {judged.low:+.4g} to {judged.high:+.4g}")
    display(f"  effect among the best fifth {judged.uplift:+.4g}, among the rest {judged.uplift_rest:+.4g}")

# %%
# The drawing of each segment, kept beside the reports.
(home / "reports").mkdir(exist_ok=True)
for place, one in enumerate(segments):
    drawing = home / "reports" / f"segment-{place}.svg"
    drawing.write_text(plots.segment(one, report.currency), encoding="utf-8")
    display(f"drawn to {drawing}")
