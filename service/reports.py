"""Published reports as the store keeps them: a list of summaries, and each report by its name."""

from __future__ import annotations

import msgspec


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A report in the list: `at` is house time, ISO; `verdict` is None while it is withheld."""

    title: str
    at: str
    ok: bool
    verdict: str | None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison of the primary metric as a report had it; the interval is that of one planned look."""

    metric: str
    variant: str
    control: str
    estimate: float
    low: float | None
    high: float | None


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """A report as it was at a moment, in short, so that it can be compared over time."""

    at: str
    experiment: str
    ok: bool
    players: int
    findings: list[Finding]


class Look(msgspec.Struct, frozen=True):
    """Who looked at a report, and when, ISO: looks that were not planned are why intervals for every look exist."""

    at: str
    by: str


class ReportHealth(msgspec.Struct, frozen=True):
    """Whether the experiment can be trusted, and every reason why not."""

    ok: bool
    reasons: list[str]


class SampleRatio(msgspec.Struct, frozen=True, kw_only=True):
    """Players per variant against the experiment's shares; `p_value` is null where it cannot be computed."""

    p_value: float | None
    alarm: bool
    observed: dict[str, int]
    expected: dict[str, float] | None


class Difference(msgspec.Struct, frozen=True):
    """A difference with 95 % interval and p-value; null where players do not vary."""

    estimate: float
    low: float | None
    high: float | None
    p_value: float | None


class RelativeDifference(msgspec.Struct, frozen=True):
    """A difference relative to the control's mean."""

    estimate: float
    low: float
    high: float


class ReportedMetric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one comparison; means per mature player."""

    metric: str
    unit: str
    variant: str
    control: str
    n: int
    n_control: int
    mean: float
    mean_control: float
    absolute: Difference
    relative: RelativeDifference | None


class PublishedReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a report holds at least, moments in ISO 8601, money in minor units; the verdict is null while withheld."""

    experiment: str
    window_days: int
    as_of: str
    health: ReportHealth
    srm: SampleRatio
    verdict: str | None
    metrics: list[ReportedMetric]
