"""The report of anybody's file: a table of units, judged like an experiment of our own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from features.moments import moment
from pipelines.experiments.analysis import Analysis, Asked, analyse
from pipelines.experiments.comparisons import CLEAR_OF_ZERO, Pair
from pipelines.experiments.differences import CONFIDENCE
from pipelines.experiments.health import (
    MOST_CROSSED,
    Finding,
    Maturity,
    balance,
    cell_ratios,
    few_units,
    judged,
    sample_ratio,
    split_findings,
)
from pipelines.experiments.refusals import ReportRefused
from pipelines.experiments.result import CrossedPlayers, Uplift, VariantRow
from pipelines.experiments.table import Table, TableAsked, read
from pipelines.experiments.units import counts
from pipelines.experiments.verdict import verdict
from service.reports import SampleRatio

_DAY_SQL: Final = "strftime(make_timestamp(day_us), '%Y-%m-%d')"


def tabled(asked: TableAsked, *, running: bool = False) -> Uplift:
    """Make the report of a file.

    Args:
        asked: The file and what its columns mean.
        running: Whether its experiment still runs.

    Raises:
        ReportRefused: It cannot be read, or holds what cannot be compared.
    """
    with read(asked) as table:
        observed = {key[0]: count for key, count in counts(table.connection).items()}
        names = sorted(name for name in observed if name != table.control)
        pairs: list[Pair] = [(name, table.control) for name in names]
        try:
            analysis = analyse(table.connection, _asked(asked, table, pairs))
        except ValueError as error:
            raise ReportRefused(str(error)) from error
        return _report(asked, table, analysis, observed, pairs, running=running)


def _asked(asked: TableAsked, table: Table, pairs: list[Pair]) -> Asked:
    primary = table.metrics[0]
    return Asked(
        metrics=table.metrics,
        pairs=tuple(pairs),
        heads=tuple(pairs),
        segments=table.segments,
        scores={asked.score: asked.score} if asked.score else {},
        costs=(primary.value, asked.cost) if asked.cost and primary.kind == "mean" else None,
    )


def _shares(asked: TableAsked, observed: Mapping[str, int]) -> dict[str, float]:
    """Planned shares; equal ones where none are told, the rest shared equally where some are not."""
    told = dict(asked.shares)
    rest = [name for name in observed if name not in told]
    left = max(0.0, 1.0 - sum(told.values())) if told else 1.0
    wanted = told | {name: left / len(rest) for name in rest}
    whole = sum(wanted.values())
    if whole <= 0 or any(share < 0 for share in wanted.values()):
        raise ReportRefused("planned shares are numbers above 0, such as --share control=0.5")
    return {name: share / whole for name, share in wanted.items()}


def _report(
    asked: TableAsked,
    table: Table,
    analysis: Analysis,
    observed: Mapping[str, int],
    pairs: list[Pair],
    *,
    running: bool,
) -> Uplift:
    shares, total = _shares(asked, observed), sum(observed.values())
    ratio = sample_ratio(observed, {name: total * share for name, share in shares.items()})
    cells = cell_ratios(dict(_cells(table, shares)))
    crossed = table.crossed / table.units
    before = balance(analysis.balance)
    findings = [
        *split_findings(ratio, cells, crossed, before),
        *few_units(observed),
        *(_disagreement(said, share) for said, share in table.disagreeing),
    ]
    health = judged(findings)
    days = table.connection.execute("SELECT min(day_us), max(day_us) FROM units").fetchall()[0]
    return Uplift(
        experiment=asked.file.stem,
        unit=asked.unit or "row of the file",
        source="table",
        window_days=None,
        first_decision_at=None if days[0] is None else moment(days[0]).isoformat(),
        last_decision_at=None if days[1] is None else moment(days[1]).isoformat(),
        as_of=None,
        config_hash=_config_hash(asked),
        primary=table.metrics[0].name,
        running=running,
        health=health,
        until_green=[one.remedy for one in sorted(findings, key=lambda one: not one.red)],
        srm=ratio,
        cells=cells,
        propensity_srm=None,
        before=before,
        maturity=Maturity(exposed=total, mature=total, immature_share=0.0, by_variant=dict(observed)),
        crossed=CrossedPlayers(table.crossed, crossed),
        duplicates={"rows": table.repeated} if table.repeated else {},
        lag_seconds=None,
        currency=table.currency,
        verdict=verdict(analysis.rows, pairs, running=running, within="per unit") if health.ok else None,
        heads=pairs,
        metrics=analysis.rows,
        variants=[_variant(name, observed, ratio, total, analysis) for name in sorted(observed)],
        series=analysis.series,
        segments=analysis.segments,
        rankings=analysis.rankings,
        returns=analysis.returns,
        notes=list(_notes(asked, table, analysis)),
    )


def _cells(table: Table, shares: Mapping[str, float]) -> Iterator[tuple[str, tuple[dict[str, int], dict[str, float]]]]:
    """Units and expected units of each level of a segment, and of each day where days are told."""
    by = dict(table.segments)
    if table.connection.execute("SELECT count(day_us) FROM units").fetchall()[0][0]:
        table.connection.execute(f"ALTER TABLE units ADD COLUMN day VARCHAR; UPDATE units SET day = {_DAY_SQL}")  # noqa: S608 - our own
        by["day"] = "day"
    for name, column in by.items():
        levels: dict[str, dict[str, int]] = {}
        for (variant, level), count in counts(table.connection, ("variant", column)).items():
            levels.setdefault(level, {})[variant] = count
        for level, found in sorted(levels.items()):
            total = sum(found.values())
            yield f"{name} {level}", (found, {variant: total * share for variant, share in shares.items()})


def _disagreement(said: str, share: float) -> Finding:
    return Finding(
        reason=said,
        red=share > MOST_CROSSED,
        remedy="mend the file, or leave out the units and say so; by intention to treat they count as assigned",
    )


def _variant(name: str, observed: Mapping[str, int], ratio: SampleRatio, total: int, analysis: Analysis) -> VariantRow:
    return VariantRow(
        variant=name,
        exposed=observed[name],
        share=observed[name] / total,
        planned_share=None if ratio.expected is None else ratio.expected.get(name, 0.0) / total,
        mature=observed[name],
        means=analysis.means[name],
    )


def _notes(asked: TableAsked, table: Table, analysis: Analysis) -> Iterator[str]:
    if not asked.shares:
        yield "No planned shares were told (--share NAME=SHARE), so equal ones are expected."
    if asked.unit is None:
        yield "No column of the unit was told (--unit), so each row is taken for a unit of its own."
    if table.crossed:
        yield f"{table.crossed:,} units stand in two variants and are left out."
    if table.repeated:
        yield f"{table.repeated:,} rows repeat a unit and tell nothing else; each unit counts once."
    yield from table.notes
    for segment in analysis.segments:
        for level in segment.levels:
            if level.absolute is None:
                few = f"{level.n:,} units of {segment.variant} and {level.n_control:,} of {segment.control}"
                yield f"{segment.segment} {level.level}: {few} are too few, so no effect is given."


def _config_hash(asked: TableAsked) -> str:
    """Hash of all choices made before looking at results, twelve hex digits; the place of the file is none."""
    picked = msgspec.to_builtins(asked, enc_hook=str) | {
        "file": asked.file.name,
        "confidence": CONFIDENCE,
        "clear_of_zero": CLEAR_OF_ZERO,
    }
    return hashlib.sha256(msgspec.json.encode(picked, order="deterministic")).hexdigest()[:12]
