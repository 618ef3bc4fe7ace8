"""Metrics of an experiment: what is compared per unit, which way is better, and how much harm is borne. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

Kind = Literal["mean", "proportion", "retention", "ratio"]
"""Mean of a number, share of those with something, share of those who came back, a sum over another sum."""
Role = Literal["primary", "secondary", "guardrail", "volume"]
"""Volume is what was done to players, such as contacts: no result of it."""
Direction = Literal["higher", "lower"]


class Metric(msgspec.Struct, frozen=True):
    """A metric per unit.

    Attributes:
        name: As files and machines call it.
        title: As people read it.
        unit: `share`, `minor` (money in minor units), `count`, or another word that numbers are shown with.
        before: The same before the experiment, by which differences are adjusted (CUPED).
        kind: How it is compared.
        column: Column of its values; "" is the name.
        denominator: Column that a ratio is over.
        further: Other columns that were known before.
        direction: Which way is better.
        role: What the verdict makes of it.
        margin: How much worse a guardrail may be and still pass; absolute, in units of the metric.
    """

    name: str
    title: str = ""
    unit: str = "number"
    before: str | None = None
    kind: Kind = "mean"
    column: str = ""
    denominator: str | None = None
    further: tuple[str, ...] = ()
    direction: Direction = "higher"
    role: Role = "secondary"
    margin: float | None = None

    @property
    def is_share(self) -> bool:
        """Whether each unit has it or has it not."""
        return self.kind in {"proportion", "retention"}

    @property
    def value(self) -> str:
        """Column of its values."""
        return self.column or self.name

    @property
    def words(self) -> str:
        """Name as people read it."""
        return self.title or self.name.replace("_", " ")

    @property
    def covariates(self) -> tuple[str, ...]:
        """Columns known before, by which differences are adjusted."""
        return (self.before, *self.further) if self.before else self.further

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of its summaries: the value, what it is over, and covariates."""
        over = (self.denominator,) if self.denominator else ()
        return (self.value, *over, *self.covariates)


BACK_AFTER: Final = 0.75
"""Part of the window after which a player must have been back to count as retained."""


def _guardrail(name: str, title: str, margin: float) -> Metric:
    return Metric(name, title, "share", kind="proportion", direction="lower", role="guardrail", margin=margin)


NET_REVENUE: Final = Metric("net_revenue_minor", "net revenue", "minor", "before_net_revenue_minor")
CONVERSION: Final = Metric("conversion", "conversion", "share", kind="proportion")
DEPOSITS: Final = Metric("deposits_minor", "deposits", "minor", "before_deposits_minor")
CONTACTS: Final = Metric("contacts", "contacts", "count", role="volume")
UNSUBSCRIBED: Final = _guardrail("unsubscribed", "opt-out rate", 0.01)
HARM: Final = _guardrail("harm", "harm sign rate", 0.01)
COMPLAINED: Final = _guardrail("complained", "complaint rate", 0.005)
LIMITED: Final = _guardrail("limited", "rate of limits set or lowered", 0.01)
SELF_EXCLUDED: Final = _guardrail("self_excluded", "self-exclusion rate", 0.005)
NIGHT_PLAY: Final = _guardrail("night_play", "rate of play at night", 0.02)
RETAINED: Final = Metric("retained", "retention", "share", kind="retention")
METRICS: Final = {
    one.name: one
    for one in (
        *(NET_REVENUE, CONVERSION, DEPOSITS, RETAINED),
        *(UNSUBSCRIBED, COMPLAINED, LIMITED, SELF_EXCLUDED, NIGHT_PLAY, HARM, CONTACTS),
    )
}
"""Metrics of our own lake, the first as primary where there are bets."""


def columns_of(metrics: Sequence[Metric]) -> list[str]:
    """All columns that some metrics need, each once."""
    return list(dict.fromkeys(column for metric in metrics for column in metric.columns))
