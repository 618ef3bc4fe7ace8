"""What the store cannot do."""

from __future__ import annotations


class StoreError(Exception):
    """The store cannot serve: it is unreachable, late, full, or holds another house than the one asked for."""


class Absent(StoreError):
    """Nobody listens where the store should be: what was asked reached nobody, so nothing of it was done."""
