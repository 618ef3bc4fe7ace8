"""Fold a player's rows into stored values in any order and in chunks of any size."""

import random
from collections.abc import Sequence
from typing import Any

from features.aggregates import Activity, empty, update


def folded(rows: Sequence[Activity], draw: random.Random) -> list[Any]:
    """Stored values after all rows."""
    left, stored = draw.sample(rows, len(rows)), empty()
    while left:
        size = draw.randint(1, len(left))
        stored, left = update(stored, left[:size]), left[size:]
    return stored
