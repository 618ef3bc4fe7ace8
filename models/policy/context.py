"""Context of the policy: some readings of a player at decision time, scaled. Pure.

Counts and sums become log(1 + v), days since something 2^-(days / 7) (0 for never), the product of the last bet one
number per product; shares, trends and the churn score stay as they are. Harm and money lost are not among them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.aggregates import SOURCES as OF_VECTOR
from features.schema import CHANNELS, MODEL_FEATURES, PRODUCTS, TIMING_SLOTS, VECTOR

CHURN: Final = "churn_score"
_LAST_PRODUCT: Final = "last_product"
READINGS: Final[tuple[str, ...]] = (
    CHURN,
    *(f"deposit_count_{span}" for span in ("1d", "7d", "30d")),
    "deposit_sum_30d",
    *(f"bet_count_{span}" for span in ("1d", "7d", "30d")),
    "bet_sum_30d",
    "withdrawal_count_30d",
    *(f"session_count_{span}" for span in ("7d", "30d")),
    "login_count_7d",
    *(f"active_{slot}_30d" for slot in TIMING_SLOTS),
    *(f"{event}_{channel}_30d" for event in ("sent", "opened", "clicked") for channel in CHANNELS),
    *(f"last_{what}_days_ago" for what in ("deposit", "bet", "session", "login", "contact")),
    "deposit_days_30d",
    "deposit_trend",
    "play_trend",
    *(f"{_LAST_PRODUCT}={product}" for product in PRODUCTS[:2]),
)
"""Names of the context, in order; a snapshot names those that it was learnt from."""

_AT: Final = {reading.name: at for at, reading in enumerate(VECTOR)}
_UNIT: Final = {reading.name: reading.unit for reading in VECTOR}
SOURCES: Final = tuple(sorted({one for name in READINGS[1:] for one in OF_VECTOR[name.partition("=")[0]]}))
"""Stored features that the context is made of; the churn score is what it was recorded as."""
_RECENCY_DAYS: Final = 7.0
_FOREIGN: Final = {name.partition("=")[0] for name in READINGS} - set(MODEL_FEATURES) - {CHURN}
assert not _FOREIGN, f"no model may see {_FOREIGN}"  # noqa: S101 - an invariant of the schema


def _places(*units: str) -> slice:
    """Where the readings of some units stand, one after the other."""
    found = [at for at, name in enumerate(READINGS) if _UNIT.get(name) in units]
    assert found == list(range(found[0], found[-1] + 1))  # noqa: S101 - an invariant of READINGS
    return slice(found[0], found[-1] + 1)


_SOURCE: Final = np.array([_AT.get(name.partition("=")[0], 0) for name in READINGS], dtype=np.intp)
_LOGGED: Final = _places("events", "minor units")
_AGES: Final = _places("days, fractional")
_PRODUCT: Final = [(at, PRODUCTS.index(name.partition("=")[2])) for at, name in enumerate(READINGS) if "=" in name]


def context(vector: NDArray[np.float64], churn_score: float) -> NDArray[np.float64]:
    """Context of a player.

    Args:
        vector: The numbers of `schema.VECTOR` at the moment of the decision, NaN where missing.
        churn_score: As the decision saw it.

    Returns:
        The numbers of READINGS, finite, shape (len(READINGS),).
    """
    values: NDArray[np.float64] = vector.take(_SOURCE)
    values[0] = churn_score
    logged, ages = values[_LOGGED], values[_AGES]  # views
    values[_LOGGED] = np.log1p(np.maximum(logged, 0.0))  # in place it may round otherwise
    np.negative(ages, out=ages)
    ages /= _RECENCY_DAYS
    values[_AGES] = np.exp2(ages)
    for at, product in _PRODUCT:
        values[at] = values[at] == product
    values[~np.isfinite(values)] = 0.0
    return values
