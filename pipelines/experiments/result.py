"""The uplift report as data: what the page, the files and `--json` hold. Pure."""

from __future__ import annotations

import msgspec

from pipelines.experiments.analysis import Ranking, Series
from pipelines.experiments.comparisons import MetricRow, Pair
from pipelines.experiments.health import Balance, CellRatios, Maturity, PropensityRatio
from pipelines.experiments.returns import Returns
from pipelines.experiments.segments import Segment
from service.reports import ReportHealth, SampleRatio


class VariantRow(msgspec.Struct, frozen=True, kw_only=True):
    """A variant: exposed and mature units, planned and observed share, means of the mature, how many were reached."""

    variant: str
    exposed: int
    share: float
    planned_share: float | None
    mature: int
    means: dict[str, float]
    reached: int | None = None


class CrossedPlayers(msgspec.Struct, frozen=True):
    """Units seen in more than one variant of the same shares, who are left out."""

    players: int
    share: float


class DaySince(msgspec.Struct, frozen=True, kw_only=True):
    """Difference in money on one day since the first decision, with its interval."""

    day: int
    estimate: float
    low: float
    high: float


class SinceExposure(msgspec.Struct, frozen=True):
    """The effect by days since the first decision: what is new wears off, or grows."""

    variant: str
    control: str
    metric: str
    days: list[DaySince]


class Uplift(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report; moments in ISO 8601, UTC, money in minor units per player (in a file, as the file has it).

    Attributes:
        source: `lake`, or `table` for a file of somebody's.
        running: Whether the experiment still runs, so that the verdict rests on what holds at every look.
        until_green: What would mend each reason of the health, in their order.
        cells: Sample ratios by day and segment.
        before: Balance of what units had before.
        duplicates: Rows that repeat another, by kind; each counts once.
        currency: Of money; "" where it is not known.
        methods: Sentences on choices of this report alone.
    """

    experiment: str
    unit: str
    source: str = "lake"
    window_days: int | None
    first_decision_at: str | None
    last_decision_at: str | None
    as_of: str | None
    config_hash: str
    primary: str
    running: bool = False
    health: ReportHealth
    until_green: list[str] = []
    srm: SampleRatio
    cells: CellRatios | None = None
    propensity_srm: PropensityRatio | None
    before: Balance | None = None
    maturity: Maturity
    crossed: CrossedPlayers
    duplicates: dict[str, int] = {}
    lag_seconds: float | None
    currency: str = ""
    verdict: str | None
    heads: list[Pair] = []
    metrics: list[MetricRow]
    variants: list[VariantRow]
    series: list[Series]
    since_exposure: list[SinceExposure] = []
    segments: list[Segment] = []
    rankings: list[Ranking] = []
    returns: list[Returns] = []
    notes: list[str]
