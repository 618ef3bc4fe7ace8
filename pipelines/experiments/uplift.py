"""Uplift of an experiment's variants: health first, then differences and a verdict. Pure.

The unit is the player, in the variant of the first decision, whatever was sent (intention to treat).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import pandas as pd

from features.events import moment
from pipelines.experiments.comparisons import (
    CLEAR_OF_ZERO,
    CONFIDENCE,
    LEVEL,
    METRICS,
    NET_REVENUE,
    Metric,
    MetricRow,
    Pair,
    compare_all,
    difference,
    sides,
)
from pipelines.experiments.exposures import BEFORE_DAYS, DAY_US, Exposures
from pipelines.experiments.health import (
    LEAST_PLAYERS,
    Maturity,
    PropensityRatio,
    PropensityTally,
    health,
    propensity_ratio,
    sample_ratio,
)
from service.reports import ReportHealth, SampleRatio

_DAILY_DAYS: Final = 21
_LEAST_POINT: Final = 10
_MONDAY: Final = 4
"""Days from 1970-01-01 to the first Monday."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Primary metric's difference over the mature players with a first decision before a day (UTC)."""

    until: str
    n: int
    n_control: int
    estimate: float
    low: float
    high: float


class Series(msgspec.Struct, frozen=True):
    """Growth of a comparison of the primary metric over time."""

    variant: str
    control: str
    points: list[Point]


class VariantRow(msgspec.Struct, frozen=True, kw_only=True):
    """A variant: exposed and mature players, planned and observed share, means of the mature."""

    variant: str
    exposed: int
    share: float
    planned_share: float | None
    mature: int
    means: dict[str, float]


class CrossedPlayers(msgspec.Struct, frozen=True):
    """Players seen in more than one variant, who are left out."""

    players: int
    share: float


class Uplift(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report; moments in ISO 8601, UTC, money in minor units per player."""

    experiment: str
    unit: str
    window_days: int
    first_decision_at: str
    last_decision_at: str
    as_of: str
    config_hash: str
    primary: str
    health: ReportHealth
    srm: SampleRatio
    propensity_srm: PropensityRatio
    maturity: Maturity
    crossed: CrossedPlayers
    lag_seconds: float | None
    verdict: str | None
    metrics: list[MetricRow]
    variants: list[VariantRow]
    series: list[Series]
    notes: list[str]


def uplift(
    found: Exposures,
    as_of_us: int,
    shares: Mapping[str, Mapping[str, float]],
    tallies: Mapping[str, PropensityTally],
    lag_seconds: float | None = None,
) -> Uplift:
    """Make the report of an experiment.

    Args:
        found: Its players.
        as_of_us: The house's clock, unix microseconds: who is mature by then enters.
        shares: Shares of the variants by what split the players, as far as they are known.
        tallies: Draws by policy version (`health.tallies`).
        lag_seconds: How far the lake is behind the house; None if unknown.

    Raises:
        ValueError: A value of a mature player is missing.
    """
    once = found.players[found.players["variants"] == 1]
    matured = once[once["first_us"] + found.window_days * DAY_US <= as_of_us]
    metrics = [one for one in METRICS.values() if found.has_bets or one is not NET_REVENUE]
    primary = metrics[0]
    exposed = {str(name): int(count) for name, count in once["variant"].value_counts().items()}
    ratio = sample_ratio(exposed, planned(once, shares))
    propensities = propensity_ratio(tallies)
    counts = {name: int((matured["variant"] == name).sum()) for name in sorted(exposed)}
    heads = headlines(counts)
    crossed = len(found.players) - len(once)
    judged = health(
        ratio,
        propensities,
        {name: counts[name] for pair in heads for name in pair},
        crossed / len(found.players),
        lag_seconds,
    )
    pairs = comparisons(counts, heads)
    rows = compare_all(matured, metrics, pairs)
    return Uplift(
        experiment=found.experiment,
        unit="player",
        window_days=found.window_days,
        first_decision_at=moment(int(found.players["first_us"].min())).isoformat(),
        last_decision_at=moment(int(found.players["first_us"].max())).isoformat(),
        as_of=moment(as_of_us).isoformat(),
        config_hash=_config_hash(found, metrics),
        primary=primary.name,
        health=judged,
        srm=ratio,
        propensity_srm=propensities,
        maturity=_maturity(once, counts),
        crossed=CrossedPlayers(crossed, crossed / len(found.players)),
        lag_seconds=lag_seconds,
        verdict=verdict(rows, heads, found.window_days) if judged.ok else None,
        metrics=rows,
        variants=[_variant(name, once, matured, ratio, metrics) for name in counts],
        series=[Series(*pair, _points(matured, primary, pair)) for pair in heads],
        notes=_notes(found, counts, pairs),
    )


def planned(players: pd.DataFrame, shares: Mapping[str, Mapping[str, float]]) -> dict[str, float] | None:
    """Expected players by variant, each by the shares of what split them; None if those are unknown."""
    expected: dict[str, float] = {}
    for version, count in players["split"].value_counts().items():
        if version not in shares:
            return None
        for variant, share in shares[str(version)].items():
            expected[variant] = expected.get(variant, 0.0) + share * int(count)
    return expected


def headlines(variants: Iterable[str]) -> list[Pair]:
    """Comparisons for the verdict: the policy against business rules, and contact against the holdout."""
    there = set(variants)
    acting = next((one for one in ("policy", "business_rules", "uniform") if one in there), None)
    wanted = [("policy", "business_rules"), (acting, "holdout")]
    return [(a, b) for a, b in wanted if a is not None and a in there and b in there]


def comparisons(mature: Mapping[str, int], heads: Sequence[Pair]) -> list[Pair]:
    """Pairs to compare: headlines first, then all others against the holdout, and the policy against chance."""
    others = [(name, "holdout") for name in sorted(mature) if name != "holdout"] + [("policy", "uniform")]
    enough = {name for name, count in mature.items() if count >= LEAST_PLAYERS}
    tellable = [pair for pair in heads if min(mature[name] for name in pair) > 1]
    return tellable + [pair for pair in others if pair not in heads and set(pair) <= enough]


_ONE_LOOK: Final = (
    "This holds for one look at a time that was planned; whoever looks again and again finds differences that are none."
)


def verdict(rows: Sequence[MetricRow], heads: Sequence[Pair], window_days: int) -> str:
    """Verdict in words: a line per headline on the primary metric, then the guardrails."""
    primary = {(row.variant, row.control): row for row in rows if row.role == "primary"}
    told = [_sentence(primary[pair], window_days) for pair in heads if pair in primary]
    worse = [row for row in rows if row.role == "guardrail" and (row.variant, row.control) in heads and _worse(row)]
    guards = [
        f"Guardrail: {METRICS[row.metric].title} is significantly worse under {_words(row.variant)} than under "
        f"{_words(row.control)} ({amount(row.absolute.estimate, row.unit)})."
        for row in worse
    ]
    unseen = sorted(
        {METRICS[row.metric].title for row in rows if row.role == "guardrail" and row.absolute.p_value is None}
    )
    guards = guards or ["No guardrail is significantly worse."]
    guards += [f"Not seen in any player, so not tested: {', '.join(unseen)}."] if unseen else []
    return "\n".join([*told, *guards, _ONE_LOOK])


def _sentence(row: MetricRow, window_days: int) -> str:
    about = "Value of acting" if row.control == "holdout" else "Value of the policy"
    one, title = row.absolute, METRICS[row.metric].title
    if one.low is None or one.high is None or row.p_adjusted is None:
        return f"{about}: {title} does not vary, so nothing can be said."
    numbers = f"95 % interval {_plain(one.low, row.unit)} to {_plain(one.high, row.unit)}"
    numbers += f", p = {row.p_adjusted:.2g} after Holm" if row.p_adjusted >= 0.001 else ", p under 0.001 after Holm"
    against = f"{_words(row.variant)} against {_words(row.control)}"
    size = f"{amount(one.estimate, row.unit)} per player in {window_days} days ({numbers})"
    if row.p_adjusted >= LEVEL:
        return f"{about}: no difference in {title} is shown after adjustment, {against}: {size}."
    return f"{about}: {title} is {'higher' if one.estimate > 0 else 'lower'}, {against}: {size}."


def _worse(row: MetricRow) -> bool:
    return row.absolute.estimate > 0 and row.absolute.p_value is not None and row.absolute.p_value < LEVEL


def _words(variant: str) -> str:
    return f"the {variant.replace('_', ' ')}"


def amount(value: float, unit: str) -> str:
    """Format a difference with sign and unit."""
    return f"{_plain(value, unit)} {'percentage points' if unit == 'share' else 'minor units'}"


def _plain(value: float, unit: str) -> str:
    return f"{100 * value:+,.2f}" if unit == "share" else f"{value:+,.1f}"


def _maturity(once: pd.DataFrame, counts: Mapping[str, int]) -> Maturity:
    exposed, mature = len(once), sum(counts.values())
    share = 1.0 - mature / exposed if exposed else 0.0
    return Maturity(exposed=exposed, mature=mature, immature_share=share, by_variant=dict(counts))


def _variant(
    name: str, once: pd.DataFrame, matured: pd.DataFrame, ratio: SampleRatio, metrics: Sequence[Metric]
) -> VariantRow:
    mine = matured[matured["variant"] == name]
    exposed = int((once["variant"] == name).sum())
    return VariantRow(
        variant=name,
        exposed=exposed,
        share=exposed / len(once),
        planned_share=None if ratio.expected is None else ratio.expected.get(name, 0.0) / len(once),
        mature=len(mine),
        means={one.name: float(mine[one.name].mean()) for one in metrics} if len(mine) else {},
    )


def _points(matured: pd.DataFrame, primary: Metric, pair: Pair) -> list[Point]:
    """The difference after each week of first decisions, or each day if they span at most three weeks."""
    players = sides(matured, pair)
    ends = [] if players.empty else _ends(int(players["first_us"].min()), int(players["first_us"].max()))
    return [point for end in ends if (point := _point(players, primary, pair, end)) is not None]


def _point(players: pd.DataFrame, primary: Metric, pair: Pair, end: int) -> Point | None:
    so_far = players[players["first_us"] < end * DAY_US]
    counts = [int((so_far["variant"] == name).sum()) for name in pair]
    if min(counts) < _LEAST_POINT or (one := difference(so_far, primary, pair[1])) is None:
        return None
    day, (n, n_control) = moment(end * DAY_US).date().isoformat(), counts
    return Point(until=day, n=n, n_control=n_control, estimate=one[0], low=one[1], high=one[2])


def _ends(first_us: int, last_us: int) -> list[int]:
    """Ends of weeks (Mondays, 00:00 UTC) or days from the first moment to after the last, as days since 1970."""
    first, last = first_us // DAY_US, last_us // DAY_US
    if last - first < _DAILY_DAYS:
        return list(range(first + 1, last + 2))
    begin = first - (first - _MONDAY) % 7
    return list(range(begin + 7, last + 8, 7))


def _notes(found: Exposures, mature: Mapping[str, int], pairs: Sequence[Pair]) -> list[str]:
    told = {name for pair in pairs for name in pair}
    left = [f"{name} ({count:,})" for name, count in mature.items() if name not in told]
    notes = {
        "The lake holds no bet, so net revenue is left out and conversion is the primary metric.": not found.has_bets,
        f"{found.unpriced:,} contacts have no price in the catalogue and count as free.": bool(found.unpriced),
        f"Too few mature players to compare: {', '.join(left)}; {LEAST_PLAYERS} are needed.": bool(left),
        f"Other experiments in the lake: {', '.join(found.others)}.": bool(found.others),
    }
    return [note for note, holds in notes.items() if holds]


def _config_hash(found: Exposures, metrics: Sequence[Metric]) -> str:
    """Hash of all choices made before looking at results, twelve hex digits."""
    chosen = {
        "experiment": found.experiment,
        "window_days": found.window_days,
        "before_days": BEFORE_DAYS,
        "confidence": CONFIDENCE,
        "clear_of_zero": CLEAR_OF_ZERO,
        "metrics": [[one.name, one.title, one.unit, one.before] for one in metrics],
        "catalogues": sorted(found.players["split"].unique()),  # as the first build called what splits players
    }
    return hashlib.sha256(msgspec.json.encode(chosen)).hexdigest()[:12]
