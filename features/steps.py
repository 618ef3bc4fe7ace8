"""Steps of what must survive being killed anywhere: told before each is done, so that tests can end a process there."""

from __future__ import annotations

from collections.abc import Callable

Step = Callable[[str], object]
"""Told the name of each step before it is done."""


def no_step(_: str) -> None:
    """Do nothing between two steps."""
