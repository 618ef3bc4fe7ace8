"""Health of an experiment: sample ratio, propensities, maturity. Pure.

A comparison of variants that were not filled as planned, or whose draws do not follow the logged
propensities, says nothing; so these checks come before any verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipelines.experiments.comparisons import holm
from service.decisions.record import Choice, load_record, unpack_floats, unpack_places
from service.reports import ReportHealth, SampleRatio

ALARM: Final = 0.001
SPOKEN: Final = 0.01
"""Below this a sample ratio is spoken of; it is no alarm yet."""
LEAST_EXPECTED: Final = 5.0
"""Cells of a chi-square test are pooled until each expects as many."""
LEAST_PLAYERS: Final = 100
MOST_CROSSED: Final = 0.01
MOST_LAG_SECONDS: Final = 86_400.0
_CHUNK: Final = 2_048

Floats = NDArray[np.float64]


class VersionCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Draws of one policy version, or of several pooled, against their summed propensities."""

    variant: str
    decisions: int
    cells: int
    statistic: float
    degrees: int
    p_value: float


class PropensityRatio(msgspec.Struct, frozen=True, kw_only=True):
    """All versions together: the smallest p-value times their number (Bonferroni).

    `impossible` counts decisions whose action has a logged probability of 0: one is an alarm (p = 0).
    """

    p_value: float | None
    alarm: bool
    decisions: int
    impossible: int
    versions: list[VersionCheck]
    draws: list[Draws] = []


class Draws(msgspec.Struct, frozen=True, kw_only=True):
    """Draws of a variant: how probable they were, and how many of a uniform policy's they are worth.

    Attributes:
        least_propensity: Of the actions that were drawn.
        effective: Effective sample size for judging a uniform policy by these draws, (sum w)^2 / sum w^2.
    """

    variant: str
    decisions: int
    mean_propensity: float
    least_propensity: float
    effective: float


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Sample ratio of a day or of a level of a segment; `p_adjusted` is Holm's over all of these."""

    name: str
    p_value: float
    p_adjusted: float
    observed: dict[str, int]


class CellRatios(msgspec.Struct, frozen=True, kw_only=True):
    """Sample ratios by day and segment: the smallest adjusted p-value, and the cell that it is of."""

    p_value: float | None
    alarm: bool
    worst: str | None
    cells: list[Cell]


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """What units had before, by variants: smallest p-value over all covariates and pairs, after Bonferroni."""

    p_value: float | None
    alarm: bool
    worst: str | None


class Maturity(msgspec.Struct, frozen=True, kw_only=True):
    """Players whose window is over: all exposed, mature, and the share still open."""

    exposed: int
    mature: int
    immature_share: float
    by_variant: dict[str, int]


def sample_ratio(observed: Mapping[str, int], expected: Mapping[str, float] | None) -> SampleRatio:
    """Pearson's chi-square test of players per variant against expected numbers.

    Args:
        observed: Players by variant.
        expected: Expected players by variant, same total; None where the shares are not known.

    Returns:
        The check; a player in a variant of share 0 is an alarm by itself (p = 0). Variants that expect fewer than five
        are taken together, and no p-value is given where that leaves one cell.
    """
    counts = dict(sorted(observed.items()))
    if expected is None:
        return SampleRatio(p_value=None, alarm=False, observed=counts, expected=None)
    planned = dict(sorted((name, share) for name, share in expected.items() if share > 0))
    p_value: float | None = None
    if any(count and name not in planned for name, count in counts.items()):
        p_value = 0.0
    else:
        cells = [(counts.get(name, 0), share) for name, share in planned.items() if share >= LEAST_EXPECTED]
        small = [(counts.get(name, 0), share) for name, share in planned.items() if share < LEAST_EXPECTED]
        if small and (rest := sum(share for _, share in small)) >= LEAST_EXPECTED:
            cells.append((sum(count for count, _ in small), rest))
        elif small and cells:
            cells[0] = (cells[0][0] + sum(count for count, _ in small), cells[0][1] + rest)
        if len(cells) > 1:
            p_value = float(stats.chisquare(*map(list, zip(*cells, strict=True))).pvalue)
    alarm = p_value is not None and p_value < ALARM
    return SampleRatio(p_value=p_value, alarm=alarm, observed=counts, expected=planned)


def cell_ratios(cells: Mapping[str, tuple[Mapping[str, int], Mapping[str, float] | None]]) -> CellRatios:
    """Sample ratios of days and of levels of segments, adjusted among themselves; cells without shares stay out.

    Args:
        cells: Players by variant, and expected players by variant, of each cell.
    """
    ratios = {name: sample_ratio(*cell) for name, cell in cells.items()}
    tested = {name: one for name, one in ratios.items() if one.p_value is not None}
    adjusted = holm([one.p_value or 0.0 for one in tested.values()])
    found = [
        Cell(name=name, p_value=one.p_value or 0.0, p_adjusted=p, observed=one.observed)
        for (name, one), p in zip(tested.items(), adjusted, strict=True)
    ]
    worst = min(found, key=lambda cell: cell.p_adjusted, default=None)
    return CellRatios(
        p_value=worst.p_adjusted if worst else None,
        alarm=worst is not None and worst.p_adjusted < ALARM,
        worst=worst.name if worst else None,
        cells=found,
    )


def balance(found: Mapping[str, float]) -> Balance:
    """Balance of what was before, from p-values by covariate and pair."""
    worst = min(found, key=lambda name: found[name], default=None)
    p_value = None if worst is None else min(1.0, found[worst] * len(found))
    return Balance(p_value=p_value, alarm=p_value is not None and p_value < ALARM, worst=worst)


class PropensityTally:
    """Summed draws of a policy version: n, counts O, expectations E = sum p, and G = sum p p'.

    Places are those of the candidates; arrays grow when a larger catalogue comes.
    """

    def __init__(self) -> None:
        self.decisions = self.impossible = 0
        self.observed: Floats = np.zeros(0)
        self.expected: Floats = np.zeros(0)
        self.products: Floats = np.zeros((0, 0))
        self.drawn = self.weight = self.weight_squares = 0.0
        self.least = 1.0

    def add(self, pmfs: Floats, places: NDArray[np.int64]) -> None:
        """Add decisions: `pmfs` of shape (n, places), the drawn places of shape (n,)."""
        self._grow(max(pmfs.shape[1], int(places.max()) + 1))
        size, width = len(self.observed), pmfs.shape[1]
        drawn = np.where(places < width, pmfs[np.arange(len(places)), np.minimum(places, width - 1)], 0.0)
        self.decisions += len(places)
        self.impossible += int((drawn <= 0).sum())
        sure = np.where(drawn > 0, drawn, 1.0)
        weights = np.where(drawn > 0, 1 / ((pmfs > 0).sum(axis=1).clip(min=1) * sure), 0.0)
        self.drawn += float(drawn.sum())
        self.weight += float(weights.sum())
        self.weight_squares += float((weights**2).sum())
        self.least = min(self.least, float(sure.min()))
        self.observed += np.bincount(places, minlength=size)
        self.expected[:width] += pmfs.sum(axis=0)
        self.products[:width, :width] += pmfs.T @ pmfs

    def merge(self, other: PropensityTally) -> None:
        """Add another tally; the test allows any mixture of policies and catalogues."""
        self._grow(len(other.observed))
        size = len(other.observed)
        self.decisions += other.decisions
        self.impossible += other.impossible
        self.drawn += other.drawn
        self.weight += other.weight
        self.weight_squares += other.weight_squares
        self.least = min(self.least, other.least)
        self.observed[:size] += other.observed
        self.expected[:size] += other.expected
        self.products[:size, :size] += other.products

    def _grow(self, size: int) -> None:
        more = max(0, size - len(self.observed))
        self.observed = np.pad(self.observed, (0, more))
        self.expected = np.pad(self.expected, (0, more))
        self.products = np.pad(self.products, (0, more))

    def cells(self) -> Floats:
        """Pooling matrix, shape (cells, places): places expecting at least 5 alone, all others together.

        It looks at expectations only, never at what was drawn.
        """
        large = np.flatnonzero(self.expected >= LEAST_EXPECTED)
        small = np.flatnonzero(self.expected < LEAST_EXPECTED)
        rows = np.zeros((len(large) + 1, len(self.expected)))
        rows[np.arange(len(large)), large] = 1.0
        rows[-1, small] = 1.0
        if len(large) and self.expected[small].sum() < LEAST_EXPECTED:
            rows[int(np.argmin(self.expected[large]))] += rows[-1]
            rows = rows[:-1]
        return rows

    def draws(self, variant: str) -> Draws:
        """How probable the draws were."""
        return Draws(
            variant=variant,
            decisions=self.decisions,
            mean_propensity=self.drawn / self.decisions if self.decisions else 0.0,
            least_propensity=self.least,
            effective=self.weight**2 / self.weight_squares if self.weight_squares else 0.0,
        )

    @property
    def testable(self) -> bool:
        """Whether at least two cells expect enough draws."""
        return self.decisions > 0 and len(self.cells()) > 1 and self.expected.sum() >= 2 * LEAST_EXPECTED


def tallies(records: Iterable[tuple[str, bytes]]) -> dict[str, PropensityTally]:
    """Tallies by variant, from variants and records of drawn decisions.

    A learning policy is many versions of few draws each, in which nothing could be seen; all draws of a variant have
    one sum of pmfs, however often the policy changed.
    """
    found: dict[str, PropensityTally] = {}
    waiting: dict[str, list[tuple[Floats, int]]] = {}
    for variant, data in records:
        choice = load_record(data).choice
        rows = waiting.setdefault(variant, [])
        rows.append((_whole(choice), choice.place))
        if len(rows) >= _CHUNK:
            _add(found, variant, waiting.pop(variant))
    for variant, rows in waiting.items():
        _add(found, variant, rows)
    return dict(sorted(found.items()))


def _whole(choice: Choice) -> Floats:
    """Logged pmf over all places: 0 where masked."""
    pmf = np.zeros(8 * len(choice.mask))
    pmf[unpack_places(choice.mask, len(pmf))] = unpack_floats(choice.pmf)
    return pmf


def _add(found: dict[str, PropensityTally], variant: str, rows: list[tuple[Floats, int]]) -> None:
    pmfs = np.zeros((len(rows), max(len(pmf) for pmf, _ in rows)))
    for row, (pmf, _) in zip(pmfs, rows, strict=True):
        row[: len(pmf)] = pmf
    found.setdefault(variant, PropensityTally()).add(pmfs, np.array([place for _, place in rows], dtype=np.int64))


def propensity_ratio(found: Mapping[str, PropensityTally]) -> PropensityRatio:
    """Test counts against summed propensities per variant; small versions are pooled.

    Args:
        found: Draws by variant.

    Returns:
        The check; no p-value where there are too few draws to tell.
    """
    checks = [check for variant, tally in found.items() if (check := _check(variant, tally)) is not None]
    rest = PropensityTally()
    for variant in sorted(found.keys() - {check.variant for check in checks}):
        rest.merge(found[variant])
    if (pooled := _check("pooled", rest)) is not None:
        checks.append(pooled)
    impossible = sum(tally.impossible for tally in found.values())
    p_value = min(1.0, len(checks) * min(check.p_value for check in checks)) if checks else None
    p_value = 0.0 if impossible else p_value
    return PropensityRatio(
        p_value=p_value,
        alarm=p_value is not None and p_value < ALARM,
        decisions=sum(tally.decisions for tally in found.values()),
        impossible=impossible,
        versions=checks,
        draws=[tally.draws(variant) for variant, tally in found.items()],
    )


def _check(variant: str, tally: PropensityTally) -> VersionCheck | None:
    """(O - E)' V^+ (O - E) ~ chi-square, V = sum(diag p - p p'): each draw is from its own pmf.

    Given the past, the draws are independent with these means and variances, whatever the policy learnt. Only the
    directions count in which V expects enough; None where there is none.
    """
    if not tally.testable:
        return None
    cells = tally.cells()
    expected = cells @ tally.expected
    gap = cells @ tally.observed - expected
    spread = np.diag(expected) - cells @ tally.products @ cells.T
    values, vectors = np.linalg.eigh(spread)
    # A cell that is nearly always, or hardly ever, drawn expects many or few and varies by less than a draw: its gap is
    # no normal number, and one rare draw would look impossible.
    free = values >= LEAST_EXPECTED
    if not free.any():
        return None
    along = vectors[:, free].T @ gap
    statistic, degrees = float((along**2 / values[free]).sum()), int(free.sum())
    p_value = float(stats.chi2.sf(statistic, degrees))
    return VersionCheck(
        variant=variant,
        decisions=tally.decisions,
        cells=len(cells),
        statistic=statistic,
        degrees=degrees,
        p_value=p_value,
    )


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong: whether a verdict must wait for it, and what would mend it, and when."""

    reason: str
    red: bool
    remedy: str


_UNTOLD: Final = "whether anybody was reached is not known: the files hold no outcomes"
_ANEW: Final = "waiting does not mend it: find the cause, then run the experiment again under another key"


def split_findings(
    ratio: SampleRatio, cells: CellRatios | None, crossed_share: float, before: Balance | None = None
) -> list[Finding]:
    """What is wrong with how units were split.

    Args:
        ratio: Split of all units.
        cells: Split by day and segment.
        crossed_share: Share of units seen in two variants.
        before: What units had before.
    """
    p = 1.0 if ratio.p_value is None else ratio.p_value
    found = {
        "the shares of the experiment are unknown: what split its players is not kept, or a ramp took in others": (
            ratio.expected is None,
            True,
            "tell the planned shares: --plan FILE",
        ),
        f"the variants are not filled as planned (sample ratio p = {p:.2g})": (ratio.alarm, True, _ANEW),
        f"the variants are filled a little otherwise than planned (sample ratio p = {p:.2g}, below {SPOKEN})": (
            ALARM <= p < SPOKEN,
            False,
            "look for units that are lost on the way of one variant: redirects, crashes, filters after the split",
        ),
        f"{crossed_share:.2%} of the units were seen in two variants and are left out": (
            0 < crossed_share <= MOST_CROSSED,
            False,
            "find out how a unit can change its variant",
        ),
        f"{crossed_share:.1%} of the players were seen in two variants": (crossed_share > MOST_CROSSED, True, _ANEW),
    }
    if cells is not None and cells.alarm:
        found[f"in {cells.worst} the variants are not filled as planned (p = {cells.p_value:.2g} after Holm)"] = (
            True,
            True,
            _ANEW,
        )
    if before is not None and before.alarm:
        found[f"variants differed before they began: {before.worst} (p = {before.p_value:.2g})"] = (True, True, _ANEW)
    return [Finding(reason=reason, red=red, remedy=remedy) for reason, (holds, red, remedy) in found.items() if holds]


def few_units(mature: Mapping[str, int], due: Mapping[str, str] | None = None, what: str = "units") -> list[Finding]:
    """Variants with too few units for a verdict; `due` says when a variant will have enough."""
    if len(mature) < 2:
        return [Finding(reason="there are no two variants to compare", red=True, remedy="name the control: --control")]
    return [
        Finding(
            reason=f"{name} has {count} {what}, fewer than {LEAST_PLAYERS}",
            red=True,
            remedy=(due or {}).get(name, f"{LEAST_PLAYERS - count} more {what} of {name}"),
        )
        for name, count in sorted(mature.items())
        if count < LEAST_PLAYERS
    ]


def house_findings(propensities: PropensityRatio, lag_seconds: float | None) -> list[Finding]:
    """What is wrong with the log: draws that do not follow their propensities, a lake that is behind."""
    found = []
    if propensities.alarm:
        reason = f"actions were not drawn with the logged propensities (p = {propensities.p_value or 0:.2g})"
        remedy = "`croupier verify` finds decisions that do not come out again; results after the cause is mended count"
        found.append(Finding(reason=reason, red=True, remedy=remedy))
    if (lag_seconds or 0) > MOST_LAG_SECONDS:
        reason = f"the lake is {(lag_seconds or 0) / 3600:.0f} hours behind the house"
        found.append(Finding(reason=reason, red=True, remedy="as soon as a worker has written the lake"))
    return found


def untreated(
    contacted: Mapping[str, int], mature: Mapping[str, int], acting: Iterable[str], *, told: bool = True
) -> list[Finding]:
    """Variants that were to act and reached nobody: whatever differs, they did not do it.

    Args:
        contacted: Units of each variant with a confirmed contact.
        mature: Units of each variant.
        acting: Variants of which contacts are expected.
        told: Whether anything says of contacts whether they were confirmed.
    """
    if not told:
        return [Finding(reason=_UNTOLD, red=False, remedy="put outcomes of type confirmed beside the decisions")]
    return [
        Finding(
            reason=f"nobody in {name} was reached: no contact of its {mature[name]:,} mature players was confirmed",
            red=True,
            remedy=f"as soon as contacts of {name} are confirmed: see whether callers confirm before they send",
        )
        for name in acting
        if mature.get(name, 0) and not contacted.get(name, 0)
    ]


def judged(findings: Iterable[Finding]) -> ReportHealth:
    """Health by all findings: what is red first, then what is only spoken of."""
    listed = sorted(findings, key=lambda one: not one.red)
    return ReportHealth(not any(one.red for one in listed), [one.reason for one in listed])
