"""Schema of behaviour features: what is stored, how it is computed, what a model may see.

`STORED` drives Feast's views, the update from the stream, the computation in batch and the read plan;
`VECTOR` is what `forward` makes of it at a moment *now*, in serving and in training alike.

    activity row --aggregates--> stored value at `as_of` --forward--> value at now

A stored value never changes its meaning: a changed definition is a new name, so that a model trained on
the old one cannot be fed the new one. A changed schema is kept as a file in features/schemas (`make map`),
by which `features.kept_schemas` reads records that hold the values of an earlier one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import time
from enum import StrEnum
from functools import cache
from typing import Any, Final, Literal, get_args

from features.forms import Form, literal

HOUR: Final = 3_600
DAY: Final = 24 * HOUR
MICROS: Final = 1_000_000

ChannelName = Literal["email", "sms", "push", "in_app", "call"]
CHANNELS: Final[tuple[ChannelName, ...]] = get_args(ChannelName)
ProductName = Literal["casino", "sports", "poker", "bingo", "lottery"]
PRODUCTS: Final[tuple[ProductName, ...]] = get_args(ProductName)
"""Records hold a product as its place in this list: a new one comes last, and none goes."""

# Half-open windows of the player's local time; together they cover the day, the last one crosses midnight.
TIMING_SLOTS: Final[Mapping[str, tuple[time, time]]] = {
    "morning": (time(8), time(12)),
    "afternoon": (time(12), time(17)),
    "evening": (time(17), time(21)),
    "night": (time(21), time(8)),
}
NIGHT_ENDS: Final = time(6)
"""Night play is play from midnight to this hour, local time (marker M12: 00:00-06:00)."""


class Dtype(StrEnum):
    """Value types of the online store, by Feast's names."""

    FLOAT64 = "Float64"
    INT64 = "Int64"
    STRING = "String"


class Kind(StrEnum):
    """How rows of activity become one stored value; every kind allows any order of arrival."""

    DECAYED = "decayed"
    """Sum of value^power x 2^-((as_of - occurred_at) / half_life)."""
    COUNT = "count"
    """Number of rows."""
    FIRST = "first"
    """occurred_at of the nth earliest row, unix microseconds."""
    LAST = "last"
    """occurred_at of the latest row, unix microseconds."""
    DAYS = "days"
    """Bit i is set if a row fell on the UTC day that lies i days before the day of as_of."""
    WEEK = "week"
    """Sum (or count) over one UTC calendar week, Monday to Sunday; `nth` = how many weeks before the week of as_of."""
    MONTH = "month"
    """Sum (or count) over one UTC calendar month; `nth` = how many months before the month of as_of."""
    LATEST = "latest"
    """Text of the latest row, null if it has none; of two at the same moment the greater text."""
    AS_OF = "as_of"
    """The moment the stored values are true for, unix microseconds."""


class Use(StrEnum):
    """Who may read a feature: a model, or rules only (harm markers)."""

    MODEL = "model"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class Feature:
    """One stored value per player.

    Attributes:
        name: Unique over all views.
        dtype: What the online store holds.
        unit: What the number counts.
        use: `model` features form the churn model's vector, `mask` features are for rules only.
        kind: How rows become the value.
        when: Column of the activity row -> the values that count; all must hold.
        value: Column that is summed (`decayed`, `week`, `month`) or kept (`latest`); none counts rows.
        half_life: Seconds, for `decayed`.
        nth: Which of the earliest rows, for `first`, counted from 1. For `week` and `month` how many of them before
            that of as_of, from 0; those of one sum stand side by side in STORED, in this order.
        beside: For `latest`, the `last` feature of the same rows; it must stand later in STORED.
        power: Power of the summed values, for `decayed`; 2 sums squares.
    """

    name: str
    dtype: Dtype
    unit: str
    use: Use
    kind: Kind
    when: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    value: str | None = None
    half_life: int = 0
    nth: int = 1
    beside: str | None = None
    power: int = 1

    @property
    def view(self) -> str:
        """Feast view of the feature: one per use, so that no model can join a harm marker."""
        return VIEWS[self.use]


VIEWS: Final = {Use.MODEL: "behaviour", Use.MASK: "harm"}
MAX_AGE_SECONDS: Final = {"behaviour": 60, "harm": 60}
"""Real seconds that the consumer of a partition may lag before its features count as stale."""

CHURN_DEFAULT: Final = 0.3
"""Churn score of everyone while no model serves; the decision says so in `degraded`."""

ENTITY: Final = "player"
DAYS_WINDOW: Final = 30
WEEKS_BACK: Final = 4
"""Calendar weeks that are kept, the current one among them."""

_APPROVED = {"type": ("deposit",), "status": ("approved",), "target": ("account",)}
_DECLINED = {"type": ("deposit",), "status": ("declined",)}
_TOPUP = {"type": ("deposit",), "status": ("approved",), "target": ("wallet",)}
_BET = {"type": ("bet",)}
_WIN = {"type": ("win",)}
_PAID = {"type": ("withdrawal_paid",)}
_CANCELLED = {"type": ("withdrawal_cancelled",)}
_BONUS = {"type": ("bonus_granted",)}
_SESSION = {"type": ("session_started",)}
_LOGIN = {"type": ("login",)}
_SUPPORT = {"type": ("support_contact",)}
_RAISED = {"type": ("limit_set",), "status": ("raised",)}
_ACTIVE = {"type": ("login", "session_started", "bet", "deposit"), "status": (None, "approved")}
_RETURNED = {"type": ("bet_cancelled", "bet_settled")}
_CHARGED_BACK = {"type": ("chargeback",)}
_REACHED = {"type": ("limit_reached",)}
_RATED = {"type": ("satisfaction_rated",)}
FAILED_LOGIN: Final = "login_failed"
"""Type of activity that a login is whose result is not `ok`: it shows no player at play."""
_REFUSED_LOGIN = {"type": (FAILED_LOGIN,)}
_SPANS = {"1h": HOUR, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}


When = Mapping[str, tuple[object, ...]]


def _decayed(stem: str, when: When, spans: str, value: str | None = None, use: Use = Use.MODEL) -> list[Feature]:
    unit = "minor units" if value else "events"
    return [
        Feature(f"{stem}_{span}", Dtype.FLOAT64, unit, use, Kind.DECAYED, when, value, _SPANS[span])
        for span in spans.split()
    ]


def _moment(name: str, kind: Kind, when: When, use: Use = Use.MODEL, nth: int = 1) -> Feature:
    return Feature(name, Dtype.INT64, "unix microseconds", use, kind, when, nth=nth)


def _calendar(stem: str, when: When, kind: Kind, back: int) -> list[Feature]:
    """Amounts of `back` calendar weeks or months, the current one first, as regulators count them."""
    return [
        Feature(f"{stem}_{kind}_{nth}", Dtype.INT64, "minor units", Use.MASK, kind, when, "amount_minor", nth=nth)
        for nth in range(back)
    ]


STORED: Final[tuple[Feature, ...]] = (
    _moment("behaviour_as_of", Kind.AS_OF, {}),
    *_decayed("deposit_count", _APPROVED, "1h 1d 7d 30d"),
    *_decayed("deposit_sum", _APPROVED, "1d 7d 30d", "amount_minor"),
    *_decayed("topup_count", _TOPUP, "7d 30d"),
    *_decayed("topup_sum", _TOPUP, "30d", "amount_minor"),
    *_decayed("bet_count", _BET, "1h 1d 7d 30d"),
    *_decayed("bet_sum", _BET, "1d 7d 30d", "amount_minor"),
    *_decayed("win_sum", _WIN, "1d 7d 30d", "amount_minor"),
    *_decayed("withdrawal_count", _PAID, "7d 30d"),
    *_decayed("withdrawal_sum", _PAID, "7d 30d", "amount_minor"),
    *_decayed("session_count", _SESSION, "1d 7d 30d"),
    *_decayed("login_count", _LOGIN, "1d 7d 30d"),
    *(one for slot in TIMING_SLOTS for one in _decayed(f"active_{slot}", {**_ACTIVE, "timing_slot": (slot,)}, "30d")),
    *(
        one
        for event in ("sent", "opened", "clicked")
        for channel in CHANNELS
        for one in _decayed(f"{event}_{channel}", {"type": (event,), "channel": (channel,)}, "30d")
    ),
    _moment("last_deposit_at", Kind.LAST, _APPROVED),
    _moment("last_topup_at", Kind.LAST, _TOPUP),
    Feature("last_product", Dtype.STRING, "product", Use.MODEL, Kind.LATEST, _BET, "product", beside="last_bet_at"),
    _moment("last_bet_at", Kind.LAST, _BET),
    _moment("last_win_at", Kind.LAST, _WIN),
    _moment("last_withdrawal_at", Kind.LAST, _PAID),
    _moment("last_session_at", Kind.LAST, _SESSION),
    _moment("last_login_at", Kind.LAST, _LOGIN),
    _moment("last_contact_at", Kind.LAST, {"type": ("sent",)}),
    Feature("deposit_days_30d", Dtype.INT64, "bit per UTC day", Use.MODEL, Kind.DAYS, _APPROVED),
    # Later than the first build's. What comes back of bets beside wins: stakes of cancelled ones, payouts of settled.
    *_decayed("returned_sum", _RETURNED, "1d 7d 30d", "amount_minor"),
    *_decayed("login_failed", _REFUSED_LOGIN, "7d"),
    *(one for mood in ("low", "high") for one in _decayed(f"rated_{mood}", {**_RATED, "status": (mood,)}, "30d")),
    # Mask: what rules look at. Lifetime counts drift with the calendar, so no model sees them.
    _moment("harm_as_of", Kind.AS_OF, {}, Use.MASK),
    _moment("first_deposit_at", Kind.FIRST, _APPROVED, Use.MASK, 1),
    _moment("second_deposit_at", Kind.FIRST, _APPROVED, Use.MASK, 2),
    Feature("deposit_count", Dtype.INT64, "events", Use.MASK, Kind.COUNT, _APPROVED),
    Feature("active_days_30d", Dtype.INT64, "bit per UTC day", Use.MASK, Kind.DAYS, _ACTIVE),
    *_decayed("deposit_declined", _DECLINED, "1d 7d", use=Use.MASK),
    *_decayed("withdrawal_cancelled", _CANCELLED, "30d", use=Use.MASK),
    *_decayed("limit_raised", _RAISED, "30d", use=Use.MASK),
    *_decayed("support_count", _SUPPORT, "30d", use=Use.MASK),
    *_decayed("night_bet_sum", {**_BET, "night": (True,)}, "30d", "amount_minor", Use.MASK),
    *_calendar("bet", _BET, Kind.WEEK, WEEKS_BACK),
    *_calendar("win", _WIN, Kind.WEEK, WEEKS_BACK),
    *_calendar("deposit", _APPROVED, Kind.MONTH, 1),
    *_calendar("withdrawal", _PAID, Kind.MONTH, 1),
    *(
        one
        for product in PRODUCTS
        for one in _decayed(f"bet_{product}", {**_BET, "product": (product,)}, "30d", use=Use.MASK)
    ),
    Feature(
        "bet_square_30d",
        Dtype.FLOAT64,
        "minor units squared",
        Use.MASK,
        Kind.DECAYED,
        _BET,
        "amount_minor",
        30 * DAY,
        power=2,
    ),
    Feature("bonus_count", Dtype.INT64, "events", Use.MASK, Kind.COUNT, _BONUS),
    # Later than the first build's.
    *_calendar("returned", _RETURNED, Kind.WEEK, WEEKS_BACK),
    *_calendar("chargeback", _CHARGED_BACK, Kind.MONTH, 1),
    *_decayed("chargeback", _CHARGED_BACK, "30d", use=Use.MASK),
    *_decayed("limit_reached", _REACHED, "30d", use=Use.MASK),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One number of the vector that `forward` computes for a moment *now*."""

    name: str
    unit: str
    use: Use


def _reading(feature: Feature) -> Reading:
    if feature.kind in (Kind.FIRST, Kind.LAST):
        return Reading(f"{feature.name.removesuffix('_at')}_days_ago", "days, fractional", feature.use)
    if feature.kind is Kind.DAYS:
        return Reading(feature.name, f"days of the last {DAYS_WINDOW}", feature.use)
    return Reading(feature.name, feature.unit, feature.use)


DERIVED: Final = (
    Reading("net_loss_7d", "minor units", Use.MODEL),
    Reading("net_loss_30d", "minor units", Use.MODEL),
    Reading("deposit_trend", "share of the 30-day count that is of the last 7 days", Use.MODEL),
    Reading("play_trend", "share of the 30-day count that is of the last 7 days", Use.MODEL),
    Reading("night_share", "share of stakes", Use.MASK),
    *(Reading(f"net_loss_week_{nth}", "minor units", Use.MASK) for nth in range(WEEKS_BACK)),
    Reading("net_deposit_month_0", "minor units", Use.MASK),
    Reading("stake_variability", "standard deviation over mean", Use.MASK),
    Reading("net_loss_final_7d", "minor units", Use.MODEL),
    Reading("net_loss_final_30d", "minor units", Use.MODEL),
    *(Reading(f"net_loss_final_week_{nth}", "minor units", Use.MASK) for nth in range(WEEKS_BACK)),
    Reading("net_deposit_final_month_0", "minor units", Use.MASK),
)
"""What `forward` computes from several stored values at once."""

VECTOR: Final[tuple[Reading, ...]] = (
    *(_reading(feature) for feature in STORED if feature.kind is not Kind.AS_OF),
    *DERIVED,
)
MODEL_FEATURES: Final = tuple(reading.name for reading in VECTOR if reading.use is Use.MODEL)


_FORM: Final = Form("name dtype unit use kind when value half_life nth beside power")


@cache
def schema_hash() -> str:
    """Hash of the stored features, twelve hex digits."""
    return hash_of(STORED)


def hash_of(features: Sequence[Feature]) -> str:
    """Hash of a list of features, twelve hex digits, over the text of the first build."""
    return hash_of_definitions([definition(one) for one in features])


def definition(feature: Feature) -> dict[str, Any]:
    """What the hash covers of a feature: the fields of the first build, and later ones that are not as by default."""
    return _FORM.content(feature)


def hash_of_definitions(definitions: Iterable[Mapping[str, Any]]) -> str:
    """Hash of features by their definitions, also those of a build whose features had other fields."""
    told = [f"Feature({_told(one)})" for one in definitions]
    text = f"({', '.join(told)}{',' * (len(told) == 1)})"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _told(definition: Mapping[str, Any]) -> str:
    """Text of a feature for its hash; an enumeration as class, member and value."""
    enumerations = {"dtype": "Dtype", "use": "Use", "kind": "Kind"}
    return ", ".join(
        f"{name}=<{enumerations[name]}.{value.upper()}: {literal(value)}>"
        if name in enumerations
        else f"{name}={literal(value)}"
        for name, value in definition.items()
    )
