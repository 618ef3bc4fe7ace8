"""Metrics: what is counted as the process serves, and how Prometheus is told. The one room of its client.

Labels are words of closed lists: codes, stages, ids of rules and variants; never a player, a decision or what a caller
wrote. A decision adds to some twenty numbers, a fifth of a microsecond each (`service.api.tally`).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Final

import redis
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from features.errors import CroupierError
from features.store.errors import StoreAbsentError, StoreError
from features.store.lane import SilentError
from service.api.tally import CountedMetric, Series, Tally
from service.decisions.decide import Decided, Stages
from service.decisions.record import Record

MEDIA_TYPE: Final = CONTENT_TYPE_LATEST

_REQUEST_BOUNDS: Final = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 2.5, 5.0)
_STAGE_BOUNDS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.25, 1.0)
_AGE_BOUNDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0)
_ITEM_BOUNDS: Final = (1.0, 5.0, 20.0, 50.0, 100.0, 250.0, 500.0)

_TELLING: Final = (
    "features_unavailable",
    "features_stale",
    "unknown_player",
    "rulebook_unreadable",
    "global_holdout",
)
"""Exclusions that alone leave nothing, the first that stands tells why."""
_WHY: Final = (
    *_TELLING,
    "drawn",
    "holdout",
    "limits",
    "lost",
    "not_offered",
    "objected",
    "rules",
    "stop",
    "store_unavailable",
)
"""Why a decision left a player alone: all words that there are."""
_SECONDS: Final = CountedMetric("croupier_request_seconds", "Time to answer", ("route",), _REQUEST_BOUNDS)
_REQUESTS: Final = CountedMetric("croupier_requests", "Requests answered", ("route", "method", "status"))
_REFUSALS: Final = CountedMetric(
    "croupier_refusals", "Requests and items of batches refused", ("code",), words=("fault", "unauthorised")
)
_DISCONNECTS: Final = CountedMetric("croupier_disconnects", "Callers that went before they were answered", ("route",))
_TROUBLES: Final = CountedMetric(
    "croupier_store_troubles",
    "Calls to the store that failed a request",
    ("kind",),
    words=("absent", "breaker", "deadline", "refused", "other"),
)
_DECISIONS: Final = CountedMetric("croupier_decisions", "Decisions answered", ("variant", "action", "recorded"))
_EXCLUSIONS: Final = CountedMetric(
    "croupier_exclusions", "Decisions in which a rule or limit excluded something", ("rule",), most=512
)
_NO_CONTACT: Final = CountedMetric("croupier_no_contact", "Decisions to leave a player alone", ("why",), words=_WHY)
_UNRECORDED: Final = CountedMetric("croupier_unrecorded", "Decisions answered that the store does not hold", ("why",))
_DEGRADED: Final = CountedMetric("croupier_degraded", "Decisions made without something", ("part",))
_REPEATS: Final = CountedMetric(
    "croupier_repeats",
    "Attempts that a change meanwhile undid, and retries replayed",
    ("kind",),
    words=("moved", "replayed"),
)
_STAGES: Final = CountedMetric("croupier_stage_seconds", "Time of a decision's stages", ("stage",), _STAGE_BOUNDS)
_AGE: Final = CountedMetric("croupier_feature_age_seconds", "Age of behaviour as a decision saw it", (), _AGE_BOUNDS)
_ITEMS: Final = CountedMetric("croupier_batch_items", "Items of a batch", ("route",), _ITEM_BOUNDS)
COUNTED: Final = (
    _SECONDS,
    _REQUESTS,
    _REFUSALS,
    _DISCONNECTS,
    _TROUBLES,
    _DECISIONS,
    _EXCLUSIONS,
    _NO_CONTACT,
    _UNRECORDED,
    _DEGRADED,
    _REPEATS,
    _STAGES,
    _AGE,
    _ITEMS,
)
"""All that is counted here; what is read from the store stands in `service.api.house_state`."""

_LOG: Final = structlog.get_logger()
_STOP: Final = "stop"
_STOPS: Final = "stop:"
"""Beginning of the exclusions of a kill switch, which end in its id."""
_LIMITS: Final = frozenset({"cap", "gap", "pause", "budget"})
"""Before the colon, in names of limits; no id of a rule has one."""
_NOT_OFFERED: Final = frozenset({"not_requested", "offer_elsewhere", "offer_gone", "lifecycle_stage", "left_out"})
_ONE: Final = 8
"""Bytes of a distribution over one action."""


class Metrics:
    """What a process counts, told with what all count.

    Args:
        folder: Where the processes of one `croupier serve` keep their numbers; None for a process of its own.
    """

    def __init__(self, folder: Path | None = None) -> None:
        try:
            self._tally = Tally(folder)
        except OSError as error:  # nobody is refused for want of counts
            _LOG.warning("metrics", trouble=f"this process counts alone: {error}")
            self._tally = Tally()

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._tally.observe(_SECONDS, seconds, route)
        self._tally.add(_REQUESTS, route, method, str(status))

    def refused(self, error: CroupierError) -> None:
        """Count a refusal, and what the store had to do with it."""
        self._tally.add(_REFUSALS, error.code)
        if isinstance(error, StoreError):
            self._tally.add(_TROUBLES, trouble(error))

    def disconnected(self, route: str) -> None:
        """Count a caller who did not wait."""
        self._tally.add(_DISCONNECTS, route)

    def batch(self, route: str, items: int) -> None:
        """Count a batch."""
        self._tally.observe(_ITEMS, items, route)

    def unserved(self, error: StoreError) -> None:
        """Count a decision to leave a player alone because the store is not there."""
        self._tally.add(_DECISIONS, "none", "no_contact", "false")
        self._tally.add(_EXCLUSIONS, error.code)
        self._tally.add(_NO_CONTACT, error.code)
        self._tally.add(_UNRECORDED, error.code)
        self._tally.add(_TROUBLES, trouble(error))

    def decided(self, done: Decided) -> None:
        """Count a decision that was made or replayed."""
        kept, tally = done.kept, self._tally
        variant = kept.experiments[0].variant if kept.experiments else ""
        tally.add(
            _DECISIONS,
            variant,
            "no_contact" if kept.action is None else "contact",
            "true" if done.recorded else "false",
        )
        for rule in kept.excluded_by:
            tally.add(_EXCLUSIONS, _STOP if rule.startswith(_STOPS) else rule)
        for part in kept.degraded:
            tally.add(_DEGRADED, part)
        if not done.recorded:
            tally.add(_UNRECORDED, "dry_run")
        if done.replayed:
            tally.add(_REPEATS, "replayed")
        elif done.record is not None:
            if kept.action is None:
                tally.add(_NO_CONTACT, why_no_contact(done.record))
            if (age := done.record.seen.age_seconds) is not None:
                tally.observe(_AGE, age)

    def passed(self, stages: Stages) -> None:
        """Count the stages that a decision passed, whatever ended it."""
        before = stages.begun
        for stage, at in stages.passed:
            self._tally.observe(_STAGES, at - before, stage)
            before = at
        for _ in range(stages.moved):
            self._tally.add(_REPEATS, "moved")

    def told(self, more: Iterable[Family] = ()) -> bytes:
        """All that every process counted, and what was read of the house, in Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Told([*_families(self._tally.sums()), *more]))
        return generate_latest(registry)

    def close(self) -> None:
        """Leave what was counted to the process that starts next."""
        self._tally.close()


def why_no_contact(record: Record) -> str:
    """Why a decision left the player alone, in one word of a closed list. Pure."""
    choice = record.choice
    if choice.role == "lost":
        return "lost"
    if len(choice.pmf) > _ONE:
        return "drawn"
    if told := next((rule for rule in _TELLING if rule in choice.excluded), ""):
        return told
    if choice.role in {"holdout", "objected"}:
        return choice.role
    if any(rule.startswith(_STOPS) for rule in choice.excluded):
        return _STOP
    if any(":" in rule and rule.partition(":")[0] in _LIMITS for rule in choice.excluded):
        return "limits"
    return "not_offered" if choice.excluded.keys() <= _NOT_OFFERED else "rules"


def trouble(error: BaseException | None) -> str:
    """What kind of trouble with the store an error comes from, in one word of a closed list."""
    while error is not None:
        if isinstance(error, StoreAbsentError):
            return "absent"
        if isinstance(error, SilentError):
            return "breaker"
        if isinstance(error, TimeoutError):
            return "deadline"
        if isinstance(error, redis.ResponseError):
            return "refused"
        error = error.__cause__
    return "other"


class _Told(Collector):
    """What is told, for the client's writer."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def _families(sums: dict[Series, list[float]]) -> list[Family]:
    """Every metric with its series; one that never counted is told all the same."""
    return [
        _family(one, {values: held for (name, values), held in sums.items() if name == one.name}) for one in COUNTED
    ]


def _family(metric: CountedMetric, series: dict[tuple[str, ...], list[float]]) -> Family:
    if not metric.bounds:
        counter = CounterMetricFamily(metric.name, metric.text, labels=metric.labels)
        series = {(word,): [0.0] for word in metric.words} | series
        for values, (number,) in sorted(series.items()):
            counter.add_metric(values, number)
        return counter
    histogram = HistogramMetricFamily(metric.name, metric.text, labels=metric.labels)
    for values, numbers in sorted(series.items()):
        upto = list(accumulate(numbers[:-1]))
        histogram.add_metric(values, list(zip([*map(str, metric.bounds), "+Inf"], upto, strict=True)), numbers[-1])
    return histogram
