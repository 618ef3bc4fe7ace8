# ruff: noqa: D100 - a notebook is no package, tells in cells what it is about, and prints
# %% [markdown]
# # A churn model of your own
#
# You get training rows in which nothing was known too early, fit what you like with LightGBM, compare it with the
# cheapest baseline there is, and send it through the gate that every model passes before it serves.
#
# The house is the one that `CROUPIER_HOME` names (`var/` by default). If it is running, this talks to it; if not, its
# store is started for as long as you need it.

# %%
from contextlib import ExitStack

from features.schema import MODEL_FEATURES
from features.settings.environment import environment
from features.store.server import serving
from models.churn.plots import reliability_diagram
from models.churn.training import Rows, evaluate, fit
from models.releases.registry import ChurnRegistry
from models.releases.release import GateRefused
from pipelines.datasets.decisions import dataset
from pipelines.training.churn import churn_frame
from pipelines.training.promotion import promote

HORIZON_DAYS = 30
HOME = environment().home
open_until_the_end = ExitStack()

# %% [markdown]
# ## Rows
#
# One row per player and month. `player` is a key, not a name. `cutoff` is the moment of the question, the first of a
# month, UTC; everybody who deposited in the 30 days before it is asked about. `churned` is the answer: no approved
# deposit in the 30 days after it. The rest are the features, exactly as they stood one microsecond before the cut-off,
# read through Feast: counts and sums that fade (`..._7d` has half of its weight after 7 days), days since firsts and
# lasts, activity of the last 30 days. Amounts are minor units of the house's currency, NaN is "never".

# %%
url = open_until_the_end.enter_context(serving(HOME))
frame = churn_frame(HOME, url, HORIZON_DAYS)
print(frame.groupby("cutoff")["churned"].agg(["size", "mean"]))

# %% [markdown]
# The months differ far more than players do, so test on whole months: the last two, and only months whose 30 days are
# over before the test begins are learnt from. Shuffled rows would tell you what you want to hear.

# %%
learn, test = Rows.of(frame).split(HORIZON_DAYS)
print(f"{len(learn):,} rows to learn from, {len(test):,} to test on")

# %% [markdown]
# ## A model
#
# `fit` does leave-one-month-out calibration around any LightGBM parameters; give it yours. Here: deeper trees, fewer of
# them. The frame is a plain DataFrame, so a column you set to NaN in `learn` is a feature you leave out.

# %%
mine = fit(learn, HORIZON_DAYS, {"num_leaves": 8, "num_iterations": 150, "learning_rate": 0.04, "reg_lambda": 20.0})
measured = evaluate(test, mine.score(test))

# %% [markdown]
# The bar is the ranking by days since the last deposit, which costs nothing. The calibration error counts as much as
# the AUC: offers are priced with the score, so 20 % has to mean 20 %. Its floor is what a faultless model would show on
# as few rows.

# %%
print(f"AUC {measured.auc:.3f}, by recency alone {measured.auc_recency:.3f}")
for month in measured.calibration:
    print(
        f"calibration error {month.raw:.3f}, floor {month.floor:.3f}, on {sum(b.players for b in month.bins)} players"
    )

# %% [markdown]
# ## Look at it
#
# Points on the diagonal are scores that mean what they say; bars are two standard errors. Importances are total gain:
# what the trees used, not what causes churn.

# %%
figure = reliability_diagram(measured)
gains = sorted(zip(mine.booster.feature_importance("gain"), mine.features, strict=True), reverse=True)
for gain, feature in gains[:8]:
    print(f"{gain:10.1f}  {feature}")
print(f"{len(mine.features)} of {len(MODEL_FEATURES)} features vary here")

# %% [markdown]
# ## Let it serve, if it may
#
# Registering keeps the model, its test rows, this plot and what you write down as a version in MLflow. Promotion scores
# it as it would serve, on its own test rows, beside recency and beside the champion: it is `croupier promote churn`,
# and there is no way around it. If it is worse, nothing changes and the sentence says by how much.

# %%
version = ChurnRegistry(HOME).log(mine, measured, test, {"author": "scientist", "num_leaves": 8}).version
try:
    promotion = promote(HOME, url, version, "fewer leaves, and it passed the gate")
    print(f"{version} serves in place of {promotion.replaced or 'nothing'}; `croupier rollback churn` undoes that")
except GateRefused as refusal:
    print(refusal)

# %% [markdown]
# ## What became of decisions
#
# One row for each logged decision of the lake: features as the decision saw them, candidates with their probabilities,
# the action, its propensity, what became of it and the reward, which is null while its window is open. The columns
# stand in docs/dataset.md; `croupier dataset` writes the same as Parquet, whatever the size of the lake.

# %%
decisions = dataset(HOME / "lake")
rewards = decisions.to_pandas().groupby(["role", "offer"], dropna=False)["reward_minor"]
print(rewards.agg(["size", "count", "mean"]))

# %%
open_until_the_end.close()
