"""Moments: unix microseconds in the code, aware datetimes in requests, files and answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, overload

MICROSECOND: Final = timedelta(microseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment: datetime) -> int:
    """Unix microseconds of an aware datetime, exact."""
    return (moment - EPOCH) // MICROSECOND


def moment(unix_us: int) -> datetime:
    """Aware UTC datetime of unix microseconds, exact."""
    return EPOCH + timedelta(microseconds=unix_us)


MINUTE_US: Final = 60_000_000
HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US


@overload
def when(unix_us: int) -> str: ...


@overload
def when(unix_us: int | None) -> str | None: ...


def when(unix_us: int | None) -> str | None:
    """Unix microseconds as ISO 8601 in UTC."""
    return None if unix_us is None else moment(unix_us).isoformat().replace("+00:00", "Z")
