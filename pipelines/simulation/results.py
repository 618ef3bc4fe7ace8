"""Results of a simulation: estimates beside the truth, intervals, plots."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table
from scipy import stats

from models.experiments.definition import GLOBAL_HOLDOUT
from pipelines.simulation.players import WINDOW_DAYS
from pipelines.simulation.simulate import DAY_US, SimulatedDecision, SimulationRun

VARIANTS: Final = ("policy", "business_rules", "uniform", "holdout", GLOBAL_HOLDOUT)
_COLOURS: Final = {"policy": "#1f5fa8", "business_rules": "#d08a1d", "uniform": "#8a8f98", "holdout": "#3d8b5c"}
_BINS: Final = 12
TRUTH_DAYS: Final = 14

Numbers = NDArray[np.float64]


class VariantResult(msgspec.Struct, frozen=True, kw_only=True):
    """A variant of the experiment; money in minor units per decision.

    Attributes:
        players: Players decided about.
        decisions: Answered and recorded.
        contacted: Share of decisions that drew a contact.
        net: True net value over leaving alone.
        converted: Share of decisions followed by play within the window.
        worth: Worth of the player's own play within the window, before costs.
        brought: True expected deposits per player that contacts brought in the player's first 14 days: what the uplift
            report over that window is to find as the variant's difference from the holdout.
    """

    players: int
    decisions: int
    contacted: float
    net: float
    converted: float
    worth: float
    brought: float


class PolicyComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The policy's decisions beside alternatives on the same eligible actions.

    All are true net values over leaving alone, minor units per decision; `lift` is the share of what lies between
    chance and perfect knowledge that was reached.
    """

    decisions: int
    policy: float
    business_rules: float
    uniform: float
    best: float
    lift: float


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a simulation.

    Attributes:
        days: House days that it took.
        quarters: The policy's decisions split by time.
        lag_hours_p99: House hours by which what was due was late, 99th percentile.
        waited_hours: House hours by which the crowd put off what was due, as house or machine did not keep up.
        lost: What the house did not serve, take or let be sent, each as a share of how often it was asked.
    """

    seed: int
    decisions: int
    days: float
    groups: dict[str, VariantResult]
    compared: PolicyComparison
    quarters: list[PolicyComparison]
    exclusions: dict[str, float]
    counts: dict[str, int]
    lag_hours_p99: float
    waited_hours: float = 0.0
    lost: dict[str, float] = {}


def measure(run: SimulationRun) -> SimulationResult:
    """Compute the figures of a simulation."""
    own = [step for step in run.steps if not np.isnan(step.uniform)]
    parts = [own[at * len(own) // 4 : (at + 1) * len(own) // 4] for at in range(4)]
    excluded = Counter(rule for step in run.steps for rule in step.excluded)
    return SimulationResult(
        seed=run.options.seed,
        decisions=len(run.steps),
        days=run.days,
        groups={name: _group(run, name) for name in VARIANTS},
        compared=_compared(own),
        quarters=[_compared(part) for part in parts],
        exclusions={rule: found / max(1, len(run.steps)) for rule, found in sorted(excluded.items())},
        counts=dict(sorted(run.counts.items())),
        lag_hours_p99=float(np.percentile(run.lags, 99)) if run.lags else 0.0,
        waited_hours=run.waited_us / DAY_US * 24,
        lost=_lost(run.counts),
    )


def _lost(counts: Mapping[str, int]) -> dict[str, float]:
    """What was asked of the house in vain, as shares."""
    sent = counts.get("contacts", 0) + sum(count for name, count in counts.items() if name.startswith("not sent"))
    whole = {"not served": counts.get("asked", 0)}
    whole |= {f"not taken: {word}": counts.get(f"told: {word}", 0) for word in ("event", "outcome")}
    whole |= {name: sent for name in sorted(counts) if name.startswith("not sent")}
    return {name: counts[name] / of for name, of in whole.items() if counts.get(name)}


def _group(run: SimulationRun, variant: str) -> VariantResult:
    steps = [step for step in run.steps if step.variant == variant]
    worth = np.array([_worth(run, step) for step in steps])
    return VariantResult(
        players=len({step.player for step in steps}),
        decisions=len(steps),
        contacted=_mean(np.array([step.place != 0 for step in steps], dtype=np.float64)),
        net=_mean(np.array([step.net for step in steps])),
        converted=_mean((worth > 0).astype(np.float64)),
        worth=_mean(worth),
        brought=_brought(steps),
    )


def _brought(steps: list[SimulatedDecision]) -> float:
    first: dict[int, float] = {}
    found: dict[int, float] = {}
    for step in steps:
        first.setdefault(step.player, step.day)
        if step.day <= first[step.player] + TRUTH_DAYS:
            found[step.player] = found.get(step.player, 0.0) + step.deposits
    return _mean(np.array(list(found.values())))


def _worth(run: SimulationRun, step: SimulatedDecision) -> float:
    """Value of the player's play in the window after a decision."""
    begins = run.began_us + step.day * DAY_US
    plays = run.members[step.player].plays
    return sum(worth for at, worth in plays if begins < at <= begins + WINDOW_DAYS * DAY_US)


def _compared(steps: list[SimulatedDecision]) -> PolicyComparison:
    columns = [[step.net, step.business_rules, step.uniform, step.best] for step in steps]
    policy, rules, uniform, best = np.mean(columns, axis=0).tolist() if columns else [0.0] * 4
    room = best - uniform
    return PolicyComparison(
        decisions=len(steps),
        policy=policy,
        business_rules=rules,
        uniform=uniform,
        best=best,
        lift=(policy - uniform) / room if room > 0 else 0.0,
    )


def _mean(values: Numbers) -> float:
    return float(values.mean()) if len(values) else 0.0


class Interval(msgspec.Struct, frozen=True):
    """A mean over seeds with its 95 % interval by Student's t."""

    mean: float
    low: float
    high: float


def paired(values: list[float]) -> Interval:
    """Mean and interval of differences taken within each seed."""
    mean, spread = float(np.mean(values)), float(stats.sem(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return Interval(mean, mean - reach, mean + reach)


class _Seed(msgspec.Struct):
    """Figures of one simulation for pooling."""

    seed: int
    decisions: int
    compared: PolicyComparison
    quarters: list[PolicyComparison]


class PooledResult(msgspec.Struct, frozen=True, kw_only=True):
    """Several seeds pooled: differences within each, minor units per decision except for the lift."""

    seeds: list[int]
    decisions: int
    policy_less_business_rules: Interval
    policy_less_uniform: Interval
    policy_less_leaving_alone: Interval
    lift: Interval
    lift_of_last_quarter_less_first: Interval


def pool(folder: Path) -> PooledResult | None:
    """Pool the simulations of a folder; None for fewer than two."""
    files = sorted(folder.glob("seed-*/simulation.json"))
    found = [msgspec.json.decode(file.read_bytes(), type=_Seed) for file in files]
    if len(found) < 2:
        return None
    rows = [one.compared for one in found]
    pooled = PooledResult(
        seeds=[one.seed for one in found],
        decisions=sum(one.decisions for one in found),
        policy_less_business_rules=paired([row.policy - row.business_rules for row in rows]),
        policy_less_uniform=paired([row.policy - row.uniform for row in rows]),
        policy_less_leaving_alone=paired([row.policy for row in rows]),
        lift=paired([row.lift for row in rows]),
        lift_of_last_quarter_less_first=paired([one.quarters[3].lift - one.quarters[0].lift for one in found]),
    )
    (folder / "pooled.json").write_bytes(msgspec.json.format(msgspec.json.encode(pooled)))
    return pooled


# --- Shown


def table(found: SimulationResult) -> Table:
    """Table of the experiment's variants."""
    shown = Table("variant", "players", "decisions", "contacted", "net value", "play in window", "worth in window")
    for name, group in found.groups.items():
        shown.add_row(
            name,
            f"{group.players:,}",
            f"{group.decisions:,}",
            f"{group.contacted:.0%}",
            f"{group.net:+,.0f}",
            f"{group.converted:.0%}",
            f"{group.worth:,.0f}",
        )
    one = found.compared
    shown.caption = (
        f"net value: true, over leaving alone, minor units per decision. Of the same eligible actions the policy had "
        f"{one.policy:+,.0f}, business rules {one.business_rules:+,.0f}, chance {one.uniform:+,.0f}, perfect knowledge "
        f"{one.best:+,.0f}; lift {one.lift:.0%}, by quarters {', '.join(f'{part.lift:.0%}' for part in found.quarters)}"
    )
    return shown


def course(found: SimulationResult) -> str:
    """How a simulation went, in a sentence: whether the crowd had to wait, and what the house did not do."""
    lost = ", ".join(f"{name} {share:.1%} ({found.counts[name]:,})" for name, share in found.lost.items())
    waited = "kept up with the clock" if not found.waited_hours else f"waited {found.waited_hours:,.1f} house hours"
    return f"{found.decisions:,} decisions in {found.days:.1f} days; the crowd {waited}; {lost or 'all was served'}"


def together(pooled: PooledResult) -> Table:
    """Table of pooled seeds."""
    shown = Table(
        "over seeds", "mean", "95 % interval", title=f"{len(pooled.seeds)} seeds, {pooled.decisions:,} decisions"
    )
    for name in ("policy_less_business_rules", "policy_less_uniform", "policy_less_leaving_alone"):
        one: Interval = getattr(pooled, name)
        shown.add_row(name.replace("_", " "), f"{one.mean:+,.0f}", f"{one.low:+,.0f} to {one.high:+,.0f}")
    for name in ("lift", "lift_of_last_quarter_less_first"):
        one = getattr(pooled, name)
        shown.add_row(name.replace("_", " "), f"{one.mean:.1%}", f"{one.low:.1%} to {one.high:.1%}")
    return shown


def write(run: SimulationRun, found: SimulationResult, folder: Path) -> None:
    """Write figures (`simulation.json`), decisions (`decisions.csv`) and plots (SVG) to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "simulation.json").write_text(json.dumps(msgspec.to_builtins(found), indent=2), "utf8")
    with (folder / "decisions.csv").open("w", encoding="utf8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(SimulatedDecision._fields)
        rows.writerows([*step[:-1], " ".join(step.excluded)] for step in run.steps)
    for name, figure in plots(run, found).items():
        FigureCanvasSVG(figure).print_svg(folder / f"{name}.svg")  # type: ignore[no-untyped-call]


def plots(run: SimulationRun, found: SimulationResult) -> dict[str, Figure]:
    """Plots of a simulation: net value, contacts and conversions over time, exclusions by rule."""
    return {
        "net_value": _over_time(run, "true net value over leaving alone\nminor units per decision", _net),
        "no_contact": _over_time(run, "share of decisions that leave the player alone", _alone),
        "conversions": _over_time(run, "share of decisions followed by play within the reward window", _converted),
        "policy": _policy(run),
        "exclusions": _exclusions(found),
    }


def _net(run: SimulationRun, step: SimulatedDecision) -> float:
    del run
    return step.net


def _alone(run: SimulationRun, step: SimulatedDecision) -> float:
    del run
    return float(step.place == 0)


def _converted(run: SimulationRun, step: SimulatedDecision) -> float:
    # A window that is not over would show too little.
    return float(_worth(run, step) > 0) if step.day < run.days - WINDOW_DAYS else np.nan


def _figure(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    panel = figure.subplots()
    panel.set_title(title, fontsize=10, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    return figure, panel


def _over_time(run: SimulationRun, title: str, value: Any) -> Figure:  # noqa: ANN401 - a function of run and step
    figure, panel = _figure(title)
    for variant in VARIANTS:
        steps = [step for step in run.steps if step.variant == variant]
        _band(panel, steps, [value(run, step) for step in steps], run.days, variant)
    panel.set_xlabel("day of the simulation")
    panel.legend(frameon=False, fontsize=9)
    return figure


def _band(panel: Any, steps: list[SimulatedDecision], values: list[float], days: float, name: str) -> None:  # noqa: ANN401 - an Axes
    """Draw means of equal spans of time with two standard errors."""
    edges = np.linspace(0, days, _BINS + 1)
    at = np.digitize([step.day for step in steps], edges) - 1
    numbers = np.array(values, dtype=np.float64)
    shown = [(n, numbers[(at == n) & ~np.isnan(numbers)]) for n in range(_BINS)]
    shown = [(n, part) for n, part in shown if len(part) > 1]
    middles = [(edges[n] + edges[n + 1]) / 2 for n, _ in shown]
    means = np.array([part.mean() for _, part in shown])
    errors = np.array([2 * part.std(ddof=1) / len(part) ** 0.5 for _, part in shown])
    colour = _COLOURS.get(name, "#444444")
    panel.plot(middles, means, color=colour, linewidth=1.8, label=name.replace("_", " "))
    panel.fill_between(middles, means - errors, means + errors, color=colour, alpha=0.15, linewidth=0)


def _policy(run: SimulationRun) -> Figure:
    """Plot of the policy's decisions beside alternatives on the same eligible actions."""
    figure, panel = _figure("of the same eligible actions: true net value, minor units per decision")
    own = [step for step in run.steps if not np.isnan(step.uniform)]
    for name, values in (
        ("perfect knowledge", [step.best for step in own]),
        ("policy", [step.net for step in own]),
        ("business_rules", [step.business_rules for step in own]),
        ("uniform", [step.uniform for step in own]),
    ):
        _band(panel, own, values, run.days, name)
    panel.axhline(0, color="0.7", linewidth=0.8)
    panel.set_xlabel("day of the simulation")
    panel.legend(frameon=False, fontsize=9)
    return figure


def _exclusions(found: SimulationResult) -> Figure:
    figure, panel = _figure("share of decisions in which a rule or cap excluded something")
    rules = sorted(found.exclusions, key=lambda rule: found.exclusions[rule])
    panel.barh(rules, [found.exclusions[rule] for rule in rules], color="#1f5fa8")
    panel.set_xlim(0, 1)
    panel.tick_params(labelsize=8)
    return figure
