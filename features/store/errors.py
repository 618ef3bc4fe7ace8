"""What the store cannot do."""

from __future__ import annotations

from features.errors import CroupierError


class StoreError(CroupierError):
    """The store cannot serve: it is unreachable, late, full, or holds another house than the one asked for."""

    code = "store_unavailable"
    status = 503
    exit_code = 2


class StoreAbsentError(StoreError):
    """Nobody listens where the store should be: what was asked reached nobody, so nothing of it was done."""
