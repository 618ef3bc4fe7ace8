"""Uplift of an experiment's variants: health first, then differences and a verdict. Pure but for tables in memory.

The unit is the player, in the variant of the first decision, whatever was sent (intention to treat). Players are
compared within groups that were split by the same shares, so that a change of shares never looks like an effect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import duckdb
import msgspec
import numpy as np
import pandas as pd

from features.events import moment
from pipelines.experiments.analysis import Analysis, Asked, analyse, ends_between
from pipelines.experiments.comparisons import CLEAR_OF_ZERO, Pair
from pipelines.experiments.differences import CONFIDENCE
from pipelines.experiments.exposures import BEFORE_DAYS, DAY_US, Exposures
from pipelines.experiments.health import (
    LEAST_PLAYERS,
    Finding,
    Maturity,
    PropensityTally,
    balance,
    cell_ratios,
    few_units,
    house_findings,
    judged,
    propensity_ratio,
    sample_ratio,
    split_findings,
    untreated,
)
from pipelines.experiments.metrics import METRICS, NET_REVENUE, Metric, columns_of
from pipelines.experiments.result import CrossedPlayers, Uplift, VariantRow
from pipelines.experiments.since import since_exposure
from pipelines.experiments.verdict import verdict
from service.reports import SampleRatio

Shares = Mapping[str, Mapping[str, float]]
_POLICIES: Final[Mapping[str, str]] = {
    "holdout": "none",
    "control": "none",
    "business_rules": "business_rules",
    "policy": "learnt",
    "uniform": "uniform",
}
"""What variants of these names do, where nothing else says it."""
_SCORE: Final = "churn_score"
_SEGMENTS: Final = {"harm level": "harm_level", "fifth of harm points": "harm_fifth", "stage": "stage"}
_OF_HARM: Final = ("harm level", "fifth of harm points")
_LEAST_SEEN: Final = 0.5
"""Share of players of whom a covariate must be known."""


def uplift(
    found: Exposures,
    as_of_us: int,
    shares: Shares,
    tallies: Mapping[str, PropensityTally],
    lag_seconds: float | None = None,
    *,
    policies: Mapping[str, str | None] | None = None,
    running: bool = False,
) -> Uplift:
    """Make the report of an experiment.

    Args:
        found: Its players.
        as_of_us: The house's clock, unix microseconds: who is mature by then enters.
        shares: Shares of the variants by what split the players, as far as they are known.
        tallies: Draws by variant (`health.tallies`).
        lag_seconds: How far the lake is behind the house; None if unknown.
        policies: Who chooses in each variant, None of those that only leave something out; None goes by their names.
        running: Whether it still runs.

    Raises:
        ValueError: A value of a mature player is missing.
    """
    once = found.players[found.players["variants"] == 1].assign(
        stratum=lambda players: players["split"].map(strata(players["split"], shares))
    )
    matured = once[once["first_us"] + found.window_days * DAY_US <= as_of_us]
    metrics = chosen(found)
    exposed = {str(name): int(count) for name, count in once["variant"].value_counts().items()}
    counts = {name: int((matured["variant"] == name).sum()) for name in sorted(exposed)}
    known = {name: _POLICIES.get(name) for name in counts} if policies is None else policies
    heads = headlines(counts, known)
    pairs = comparisons(counts, heads, known)
    analysis = _analysed(matured, metrics, pairs, heads)
    ratio = sample_ratio(exposed, planned(once, shares))
    cells, propensities = cell_ratios(_cells(once, shares)), propensity_ratio(tallies)
    crossed, before = len(found.players) - len(once), balance(analysis.balance)
    reached = {name: int((matured.loc[matured["variant"] == name, "contacts"] > 0).sum()) for name in counts}
    findings = [
        *split_findings(ratio, cells, crossed / len(found.players), before),
        *house_findings(propensities, lag_seconds),
        *few_units(
            {name: counts[name] for pair in heads for name in pair}, _due(once, found.window_days), "mature players"
        ),
        *untreated(reached, counts, _acting(heads, known, reached), told=found.tells_contacts),
    ]
    health = judged(findings)
    within = f"per player in {found.window_days} days"
    return Uplift(
        experiment=found.experiment,
        unit="player",
        window_days=found.window_days,
        first_decision_at=moment(int(found.players["first_us"].min())).isoformat(),
        last_decision_at=moment(int(found.players["first_us"].max())).isoformat(),
        as_of=moment(as_of_us).isoformat(),
        config_hash=_config_hash(found, metrics),
        primary=metrics[0].name,
        running=running,
        health=health,
        until_green=_remedies(findings),
        srm=ratio,
        cells=cells,
        propensity_srm=propensities,
        before=before,
        maturity=_maturity(once, counts),
        crossed=CrossedPlayers(crossed, crossed / len(found.players)),
        duplicates=dict(found.duplicates),
        lag_seconds=lag_seconds,
        currency=found.currency,
        verdict=verdict(analysis.rows, heads, running=running, within=within, currency=found.currency)
        if health.ok
        else None,
        heads=list(heads),
        metrics=analysis.rows,
        variants=[_variant(name, once, matured, ratio, analysis, reached) for name in counts],
        series=analysis.series,
        since_exposure=since_exposure(found, matured, heads),
        segments=analysis.segments,
        rankings=analysis.rankings,
        returns=analysis.returns,
        notes=_notes(found, counts, pairs),
    )


def chosen(found: Exposures) -> list[Metric]:
    """Metrics of an experiment, the primary one first: net revenue, or conversion where there are no bets."""
    metrics = [one for one in METRICS.values() if found.has_bets or one is not NET_REVENUE]
    scored = _SCORE in found.players and found.players[_SCORE].notna().mean() >= _LEAST_SEEN
    extra = (_SCORE,) if scored else ()
    return [
        msgspec.structs.replace(
            one,
            role="primary" if one is metrics[0] else one.role,
            further=(*one.further, *extra) if one.role == "secondary" else one.further,
        )
        for one in [*metrics, *found.metrics]
        if one is metrics[0] or set(one.columns) <= set(found.players)
    ]


def strata(splits: pd.Series, shares: Shares) -> dict[str, str]:
    """Stratum of everything that split players: what had the same shares is one, the unknown stand alone."""
    told = {}
    for split in sorted(map(str, splits.unique())):
        known = shares.get(split)
        told[split] = split if known is None else " ".join(f"{name}={share:g}" for name, share in sorted(known.items()))
    return told


def _analysed(
    matured: pd.DataFrame, metrics: Sequence[Metric], pairs: Sequence[Pair], heads: Sequence[Pair]
) -> Analysis:
    units = matured.rename(columns={"player": "unit", "first_us": "day_us"})
    for name in columns_of(metrics):
        if name == _SCORE:
            units[name] = units[name].fillna(units[name].mean())
        elif units[name].isna().any():
            raise ValueError(f"players without a value of {name}: what did not happen is 0, not missing")
    asked = Asked(
        metrics=tuple(metrics),
        pairs=tuple(pairs),
        heads=tuple(heads),
        segments={name: column for name, column in _SEGMENTS.items() if _varies(units, column)},
        pressed=_OF_HARM,
        scores={"churn score": _SCORE} if _SCORE in columns_of(metrics) else {},
        costs=("gross_minor", "cost_minor") if metrics[0].unit == "minor" else None,
    )
    units["gross_minor"] = units["net_revenue_minor"] + units["cost_minor"]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("frame", units)
        connection.execute("CREATE TABLE units AS FROM frame")
        return analyse(connection, asked)


def _varies(units: pd.DataFrame, column: str) -> bool:
    return column in units and len(units[column].dropna().unique()) > 1


def planned(players: pd.DataFrame, shares: Shares) -> dict[str, float] | None:
    """Expected players by variant, each by the shares of what split them; None if those are unknown."""
    expected: dict[str, float] = {}
    for version, count in players["split"].value_counts().items():
        if version not in shares:
            return None
        for variant, share in shares[str(version)].items():
            expected[variant] = expected.get(variant, 0.0) + share * int(count)
    return expected


def _cells(once: pd.DataFrame, shares: Shares) -> dict[str, tuple[dict[str, int], dict[str, float] | None]]:
    """Players and expected players by variant of each week or day, and of each level of a segment."""
    if once.empty:
        return {}
    ends = ends_between(int(once["first_us"].min()), int(once["first_us"].max()))
    until = np.array(ends)[
        np.searchsorted(ends, once["first_us"].to_numpy() // DAY_US, side="right").clip(max=len(ends) - 1)
    ]
    groups = [(f"the time until {moment(int(end) * DAY_US):%Y-%m-%d}", once[until == end]) for end in np.unique(until)]
    for name, column in _SEGMENTS.items():
        if _varies(once, column):
            groups += [(f"{name} {level}", part) for level, part in once.groupby(column, observed=True)]
    return {name: (_by_variant(part), planned(part, shares)) for name, part in groups}


def _by_variant(players: pd.DataFrame) -> dict[str, int]:
    return {str(name): int(count) for name, count in players["variant"].value_counts().items()}


def headlines(variants: Iterable[str], policies: Mapping[str, str | None] | None = None) -> list[Pair]:
    """Comparisons for the verdict: the learnt policy against fixed rules, and acting against no marketing.

    Where no variant names a policy, all are compared with the control: the one of that name, else the first.
    """
    there = sorted(variants)
    known = {name: _POLICIES.get(name) for name in there} if policies is None else policies
    by = {policy: [name for name in there if known.get(name) == policy] for policy in set(_POLICIES.values())}
    acting = by["learnt"] or by["business_rules"] or by["uniform"]
    wanted = [(one, base) for one in by["learnt"] for base in by["business_rules"]]
    wanted += [(one, base) for one in acting[:1] for base in by["none"]]
    if wanted or len(there) < 2:
        return wanted
    control = next((name for name in ("control", "all", "baseline") if name in there), there[0])
    return [(name, control) for name in there if name != control]


def comparisons(
    mature: Mapping[str, int], heads: Sequence[Pair], policies: Mapping[str, str | None] | None = None
) -> list[Pair]:
    """Pairs to compare: headlines first, then all others against no marketing, and the policy against chance."""
    known = {name: _POLICIES.get(name) for name in mature} if policies is None else policies
    bases = [name for name in sorted(mature) if known.get(name) == "none"]
    chance = [name for name in sorted(mature) if known.get(name) == "uniform"]
    learnt = [name for name in sorted(mature) if known.get(name) == "learnt"]
    others = [(name, base) for base in bases for name in sorted(mature) if name != base]
    others += [(one, base) for one in learnt for base in chance]
    enough = {name for name, count in mature.items() if count >= LEAST_PLAYERS}
    tellable = [pair for pair in heads if min(mature[name] for name in pair) > 1]
    return tellable + [pair for pair in others if pair not in heads and set(pair) <= enough]


def _acting(heads: Sequence[Pair], policies: Mapping[str, str | None], reached: Mapping[str, int]) -> Iterator[str]:
    """Variants of which contacts are expected: all with a policy but none, and of others those of a silent pair."""
    for name in dict.fromkeys(name for pair in heads for name in pair):
        silent = all(not reached[one] for pair in heads if name in pair for one in pair)
        if policies.get(name, "") not in {"none", None} or (policies.get(name) is None and silent):
            yield name


def _due(once: pd.DataFrame, window_days: int) -> dict[str, str]:
    """When each variant that waits will have enough mature players, as a remedy."""
    told = {}
    for name, mine in once.groupby("variant"):
        firsts = np.sort(mine["first_us"].to_numpy())
        if len(firsts) >= LEAST_PLAYERS:
            at = moment(int(firsts[LEAST_PLAYERS - 1]) + window_days * DAY_US)
            told[str(name)] = f"on {at:%Y-%m-%d}, when the {LEAST_PLAYERS}th player of {name} is mature"
        else:
            told[str(name)] = _when_met(str(name), firsts, window_days)
    return told


def _when_met(name: str, firsts: np.ndarray, window_days: int) -> str:
    missing = LEAST_PLAYERS - len(firsts)
    span_us = int(firsts[-1] - firsts[0]) if len(firsts) > 1 else 0
    if span_us < DAY_US:
        return f"{missing} more players of {name}, and {window_days} days after the last of them came"
    days = missing * span_us / (len(firsts) - 1) / DAY_US
    at = moment(int(firsts[-1] + days * DAY_US) + window_days * DAY_US)
    after = f"{window_days} days after the last of them"
    return f"{missing} more players of {name}; at the pace so far around {at:%Y-%m-%d}, {after}"


def _remedies(findings: Iterable[Finding]) -> list[str]:
    return [one.remedy for one in sorted(findings, key=lambda one: not one.red)]


def _maturity(once: pd.DataFrame, counts: Mapping[str, int]) -> Maturity:
    exposed, mature = len(once), sum(counts.values())
    share = 1.0 - mature / exposed if exposed else 0.0
    return Maturity(exposed=exposed, mature=mature, immature_share=share, by_variant=dict(counts))


def _variant(
    name: str,
    once: pd.DataFrame,
    matured: pd.DataFrame,
    ratio: SampleRatio,
    analysis: Analysis,
    reached: Mapping[str, int],
) -> VariantRow:
    exposed = int((once["variant"] == name).sum())
    return VariantRow(
        variant=name,
        exposed=exposed,
        share=exposed / len(once),
        planned_share=None if ratio.expected is None else ratio.expected.get(name, 0.0) / len(once),
        mature=int((matured["variant"] == name).sum()),
        means=analysis.means.get(name, {}),
        reached=reached[name],
    )


def _notes(found: Exposures, mature: Mapping[str, int], pairs: Sequence[Pair]) -> list[str]:
    told = {name for pair in pairs for name in pair}
    left = [f"{name} ({count:,})" for name, count in mature.items() if name not in told]
    twice = ", ".join(f"{count:,} {kind}" for kind, count in found.duplicates.items())
    notes = {
        "The lake holds no bet, so net revenue is left out and conversion is the primary metric.": not found.has_bets,
        f"{found.unpriced:,} contacts have no price in the catalogue and count as free.": bool(found.unpriced),
        f"Too few mature players to compare: {', '.join(left)}; {LEAST_PLAYERS} are needed.": bool(left),
        f"Under an id that was there already: {twice}; each counts once.": bool(found.duplicates),
        f"{found.moved:,} players changed their variant when shares were changed; they count in their first one.": bool(
            found.moved
        ),
        f"Other experiments in the lake: {', '.join(found.others)}.": bool(found.others),
    }
    return [note for note, holds in notes.items() if holds]


def _config_hash(found: Exposures, metrics: Sequence[Metric]) -> str:
    """Hash of all choices made before looking at results, twelve hex digits."""
    picked = {
        "experiment": found.experiment,
        "window_days": found.window_days,
        "before_days": BEFORE_DAYS,
        "confidence": CONFIDENCE,
        "clear_of_zero": CLEAR_OF_ZERO,
        "metrics": [[one.name, one.title, one.unit, one.before, *_later(one)] for one in metrics],
        "catalogues": sorted(found.players["split"].unique()),  # as the first build called what splits players
    }
    if found.own:
        picked["own"] = list(found.own)
    return hashlib.sha256(msgspec.json.encode(picked)).hexdigest()[:12]


def _later(metric: Metric) -> list[object]:
    """Choices that the first build had not, where they differ from their default."""
    chosen, usual = (msgspec.structs.asdict(one) for one in (metric, Metric("")))
    first = {"name", "title", "unit", "before"}
    return [[name, value] for name, value in chosen.items() if name not in first and value != usual[name]]
