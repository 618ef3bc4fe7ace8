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

from service.decisions.record import Choice, load_record, unpack_floats, unpack_places
from service.reports import ReportHealth, SampleRatio

ALARM: Final = 0.001
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


class PropensityTally:
    """Summed draws of a policy version: n, counts O, expectations E = sum p, and G = sum p p'.

    Places are those of the candidates; arrays grow when a larger catalogue comes.
    """

    def __init__(self) -> None:
        self.decisions = self.impossible = 0
        self.observed: Floats = np.zeros(0)
        self.expected: Floats = np.zeros(0)
        self.products: Floats = np.zeros((0, 0))

    def add(self, pmfs: Floats, places: NDArray[np.int64]) -> None:
        """Add decisions: `pmfs` of shape (n, places), the drawn places of shape (n,)."""
        self._grow(max(pmfs.shape[1], int(places.max()) + 1))
        size, width = len(self.observed), pmfs.shape[1]
        drawn = np.where(places < width, pmfs[np.arange(len(places)), np.minimum(places, width - 1)], 0.0)
        self.decisions += len(places)
        self.impossible += int((drawn <= 0).sum())
        self.observed += np.bincount(places, minlength=size)
        self.expected[:width] += pmfs.sum(axis=0)
        self.products[:width, :width] += pmfs.T @ pmfs

    def merge(self, other: PropensityTally) -> None:
        """Add another tally; the test allows any mixture of policies and catalogues."""
        self._grow(len(other.observed))
        size = len(other.observed)
        self.decisions += other.decisions
        self.impossible += other.impossible
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


def health(
    ratio: SampleRatio,
    propensities: PropensityRatio,
    mature: Mapping[str, int],
    crossed_share: float,
    lag_seconds: float | None,
) -> ReportHealth:
    """Every reason why the experiment must not be trusted.

    Args:
        ratio: Split of the players.
        propensities: Draws against propensities.
        mature: Mature players of each variant that the verdict would speak of.
        crossed_share: Share of players seen in two variants.
        lag_seconds: How far the lake is behind the house; None if unknown.
    """
    found = {
        "the shares of the experiment are unknown: what split its players is not kept, or a ramp took in others": (
            ratio.expected is None
        ),
        f"the variants are not filled as planned (sample ratio p = {ratio.p_value or 0:.2g})": ratio.alarm,
        f"actions were not drawn with the logged propensities (p = {propensities.p_value or 0:.2g})": (
            propensities.alarm
        ),
        f"{crossed_share:.1%} of the players were seen in two variants": crossed_share > MOST_CROSSED,
        f"the lake is {(lag_seconds or 0) / 3600:.0f} hours behind the house": (lag_seconds or 0) > MOST_LAG_SECONDS,
        "there are no two variants to compare": len(mature) < 2,
    }
    few = {name: count for name, count in sorted(mature.items()) if count < LEAST_PLAYERS}
    thin = [f"{name} has {count} mature players, fewer than {LEAST_PLAYERS}" for name, count in few.items()]
    reasons = [reason for reason, holds in found.items() if holds] + thin
    return ReportHealth(not reasons, reasons)
