"""Moments: unix microseconds inside, aware datetimes at the doors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

MICROSECOND: Final = timedelta(microseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment: datetime) -> int:
    """Unix microseconds of an aware moment, exact."""
    return (moment - EPOCH) // MICROSECOND


def moment(unix_us: int) -> datetime:
    """Aware UTC datetime of unix microseconds, exact."""
    return EPOCH + timedelta(microseconds=unix_us)
