"""The verdict in words that a manager understands, and what a withheld one waits for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.experiments.amounts import shown as amount
from pipelines.experiments.comparisons import MetricRow, Pair, differs
from pipelines.experiments.differences import LEVEL
from service.reports import Difference

ONE_LOOK = "This holds for one look that was planned before, here the end of the experiment."
EVERY_LOOK = (
    "The experiment still runs, so this rests on the interval that holds at every look; it is wider than the one for a "
    "single look at the planned end."
)


def verdict(
    rows: Sequence[MetricRow], heads: Sequence[Pair], *, running: bool, within: str = "", currency: str = ""
) -> str:
    """Verdict: a line for each headline on the primary metrics, then guardrails, then what it rests on.

    Args:
        rows: Comparisons.
        heads: Pairs of which the verdict speaks.
        running: Whether the experiment still runs, so that only what holds at every look counts.
        within: Words after the size of an effect, such as "per player in 28 days".
        currency: Of money in minor units.
    """
    told = [
        _sentence(row, currency, running=running, within=within)
        for pair in heads
        for row in rows
        if row.role == "primary" and (row.variant, row.control) == pair
    ]
    guards = _guards([row for row in rows if row.role == "guardrail" and (row.variant, row.control) in heads], currency)
    lines = [*told, *guards, *_doubts(rows, heads), EVERY_LOOK if running else ONE_LOOK]
    return "\n".join(lines)


def seen(row: MetricRow, *, running: bool) -> Difference | None:
    """The difference by which the verdict goes: at every look while it runs, else at the planned end."""
    return row.sequential if running and not row.exact else row.absolute


def shown(row: MetricRow, *, running: bool) -> bool:
    """Whether a primary metric's difference is shown, after adjustment for all primary comparisons."""
    one = seen(row, running=running)
    if one is None or one.p_value is None:
        return False
    return (_after(row, running=running) or one.p_value) < LEVEL


def _after(row: MetricRow, *, running: bool) -> float | None:
    """The adjusted p-value by which the verdict goes."""
    return row.always_p_adjusted if running and not row.exact else row.p_adjusted


def _sentence(row: MetricRow, currency: str, *, running: bool, within: str) -> str:
    one = seen(row, running=running)
    what, against = row.title or row.metric, f"{words(row.variant)} against {words(row.control)}"
    if one is None or one.low is None or one.high is None or one.p_value is None:
        return f"What it brought: nothing can be said of {what}, {against}: it does not vary."
    bounds = [amount(bound, row.unit, currency, signed=True, named=False) for bound in (one.low, one.high)]
    adjusted = _after(row, running=running)
    after = "" if adjusted is None else f", p {_p(adjusted)} after Holm"
    interval = f"95 % interval {bounds[0]} to {bounds[1]}{after}"
    size = f"{amount(one.estimate, row.unit, currency, signed=True)} {within} ({interval})"
    if not shown(row, running=running):
        return f"What it brought: no difference in {what} is shown, {against}: {size}.{_least(row, currency)}"
    good = (one.estimate > 0) == (row.direction == "higher")
    way = "higher" if one.estimate > 0 else "lower"
    return f"What it brought: {what} is {way}, {against}, which is {'good' if good else 'bad'}: {size}."


def _least(row: MetricRow, currency: str) -> str:
    if row.detectable is None:
        return ""
    least = amount(row.detectable, row.unit, currency, signed=True)[1:]
    return f" One of {least} would be seen in four of five experiments of this size."


def _guards(rows: Sequence[MetricRow], currency: str) -> list[str]:
    if not rows:
        return ["No guardrail was told, so nothing is said of harm."]
    passed = sum(row.guard == "passed" for row in rows)
    told = [said for row in rows if (said := _guard(row, currency))]
    if not any(row.guard in {"worse", "beyond margin"} for row in rows):
        told.append("No guardrail is significantly worse.")
    return [*told, f"{passed} of {len(rows)} guardrail comparisons are shown to be within their margin of harm."]


def _guard(row: MetricRow, currency: str) -> str:
    size = amount(row.absolute.estimate, row.unit, currency, signed=True)
    margin = "" if row.margin is None else amount(row.margin, row.unit, currency, signed=True)[1:]
    title, than = row.title or row.metric, f"under {words(row.variant)} than under {words(row.control)}"
    if row.guard in {"worse", "beyond margin"}:
        beyond = f", beyond the margin of {margin}: stop and look" if row.guard == "beyond margin" else ""
        return f"Guardrail: {title} is significantly worse {than} ({size}{beyond})."
    if row.guard == "open":
        harmless = f"It is not shown yet that {title} is worse by less than {margin} {than}"
        return f"{harmless} ({size}); more units will tell."
    return ""


def _doubts(rows: Sequence[MetricRow], heads: Sequence[Pair]) -> list[str]:
    odd = sorted({row.title or row.metric for row in rows if (row.variant, row.control) in heads and differs(row)})
    if not odd:
        return []
    return [
        f"Of {', '.join(odd)} the capped view says something else: a few large values decide, so do not rest on it."
    ]


def words(variant: str) -> str:
    """A variant in a sentence."""
    plain = variant.replace("_", " ")
    return f"the {plain}" if plain.replace(" ", "").isalpha() and plain.islower() else variant


def _p(value: float) -> str:
    return f"= {value:.2g}" if value >= 0.001 else "under 0.001"
