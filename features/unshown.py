"""Values that show nothing of themselves: secrets, and whatever is a person's."""

from __future__ import annotations

from typing import Any


class Unshown:
    """A base whose instances are shown by their type alone, in faults and logs as in any text that they get into."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Nothing: tracebacks of rich ask structs and models for their fields otherwise."""
        return []
