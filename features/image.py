"""The image of a player's features: all stored values as numbers in one field, beside Feast's own fields. Pure.

Feast keeps a field for every value, some ninety, that take the store and the process that serves longer to hand out and
to read than all else of a decision's view. Feast's fields are what holds: the image is written in the same call as
they, and counts only while it is of this build's schema and their moment is the one that it was written with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.aggregates import encode
from features.read_plan import ReadPlan
from features.schema import STORED, schema_hash

FIELD: Final = b"croupier"
"""No name of Feast's: its fields have four bytes, or begin with `_ts:`."""
_BYTES: Final = 8 * len(STORED)
_LAYOUT: Final = np.dtype("<f8")


def fields(plan: ReadPlan) -> tuple[bytes, ...]:
    """Fields of a player's hash that `load` looks at."""
    return (FIELD, *plan.views.values())


def dump(values: Sequence[Any], moment: bytes) -> bytes:
    """The image of stored values that Feast's fields hold with a moment, in its bytes."""
    return encode(values).astype(_LAYOUT).tobytes() + schema_hash().encode() + moment


def load(held: Mapping[bytes, bytes | None], plan: ReadPlan) -> NDArray[np.float64] | None:
    """Stored values as `features.aggregates.encode` gives them; None where there is no image, or an outdated one."""
    if (image := held.get(FIELD)) is None:
        return None
    label = image[_BYTES:]
    for view in plan.views.values():
        if (moment := held.get(view)) is None or label != schema_hash().encode() + moment:
            return None
    return np.frombuffer(image, _LAYOUT, len(STORED))


def holds_any(held: Mapping[bytes, bytes | None]) -> bool:
    """Whether these fields hold anything: of a player who never did anything they are empty."""
    return any(value is not None for value in held.values())
