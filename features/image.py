"""The image of a player's features: all stored values as numbers in one field, beside Feast's own fields. Pure.

Feast keeps a field for every value, some ninety, that take the store and the process that serves longer to hand out and
to read than all else of a decision's view. Feast's fields are what holds: the image is written in the same call as
they, and counts only while the schema is this build's, and Feast's moment and the last entry that the worker applied
are those that it was written with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.aggregates import encode
from features.read_plan import ReadPlan
from features.schema import PRODUCTS, STORED, Dtype, schema_hash

FIELD: Final = b"croupier"
"""No name of Feast's: its fields have four bytes, or begin with `_ts:`."""
APPLIED: Final = b"_applied"
"""Field of the last entry of the log that the values hold: late ones change values and no moment."""
_BYTES: Final = 8 * len(STORED)
_LAYOUT: Final = np.dtype("<f8")
_WHOLE: Final = [at for at, feature in enumerate(STORED) if feature.dtype is Dtype.INT64]
_TEXTS: Final = [at for at, feature in enumerate(STORED) if feature.dtype is Dtype.STRING]
_EXACT: Final = 2**53
"""Below it a float tells every whole number."""


def fields(plan: ReadPlan) -> tuple[bytes, ...]:
    """Fields of a player's hash that `load` looks at."""
    return (FIELD, APPLIED, *plan.views.values())


def dump(values: NDArray[np.float64], moment: bytes, applied: bytes) -> bytes:
    """The image of stored values, as `features.aggregates.encode` gives them.

    Args:
        values: Shape (len(STORED),).
        moment: Bytes in Feast's fields of their moment.
        applied: The last entry that they hold.
    """
    return values.astype(_LAYOUT).tobytes() + _label(moment, applied)


def _label(moment: bytes, applied: bytes) -> bytes:
    return b" ".join((schema_hash().encode(), applied, moment))


def load(held: Mapping[bytes, bytes | None], plan: ReadPlan) -> NDArray[np.float64] | None:
    """Stored values as `features.aggregates.encode` gives them; None where there is no image, or an outdated one."""
    image, applied, moment = held.get(FIELD), held.get(APPLIED), _moment(held, plan)
    if image is None or applied is None or moment is None or image[_BYTES:] != _label(moment, applied):
        return None
    return np.frombuffer(image, _LAYOUT, len(STORED))


def fields_of_values(plan: ReadPlan) -> tuple[bytes, ...]:
    """Fields of a player's hash that `values` looks at."""
    return (*fields(plan), *(plan.features[at].field for at in _TEXTS))


def values(held: Mapping[bytes, bytes | None], plan: ReadPlan) -> list[Any] | None:
    """Stored values as Feast's fields tell them, to the bit; None where the image does not tell them all."""
    told = load(held, plan) if len(plan.features) == len(STORED) else None
    if told is None or (np.abs(told[_WHOLE]) >= _EXACT).any():
        return None
    found: list[Any] = [None if number != number else number for number in told.tolist()]  # noqa: PLR0124 - NaN
    for at in _WHOLE:
        found[at] = None if found[at] is None else int(found[at])
    for at in _TEXTS:
        if found[at] is None and held.get(plan.features[at].field):
            return None  # a text that has no number
        found[at] = None if found[at] is None else PRODUCTS[int(found[at])]
    return found


def draw(held: Mapping[bytes, bytes], plan: ReadPlan) -> bytes | None:
    """The image of what Feast's fields hold, all of them; None where nothing says since when they do.

    Raises:
        PlanError: They are of other types than the plan says.
    """
    applied, moment = held.get(APPLIED), _moment(held, plan)
    if applied is None or moment is None:
        return None
    return dump(encode(plan.decode([held.get(name) for name in plan.fields]).values), moment, applied)


def _moment(held: Mapping[bytes, bytes | None], plan: ReadPlan) -> bytes | None:
    """Bytes of the moment that the values of all views have; None where they differ or have none."""
    first, *others = [held.get(view) for view in plan.views.values()]
    return first if all(one == first for one in others) else None


def holds_any(held: Mapping[bytes, bytes | None]) -> bool:
    """Whether these fields hold any value: of a player who never did anything, or was erased, they do not."""
    return any(value is not None for name, value in held.items() if name != APPLIED)
