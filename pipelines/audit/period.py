"""A period of the log, as commands ask for it."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from features.errors import CroupierError
from features.moments import micros, moment


class AuditRefused(CroupierError):
    """What was asked of the log cannot be answered: no such decision, action or moment."""

    code = "audit_refused"
    exit_code = 2


class Period(NamedTuple):
    """A period of house time, unix microseconds: from the first moment on, up to the second and without it."""

    since_us: int
    until_us: int

    def holds(self, at_us: int) -> bool:
        """Whether a moment lies in it."""
        return self.since_us <= at_us < self.until_us

    def near(self, day: date) -> bool:
        """Whether a day lies in it, or next to it."""
        first, last = moment(self.since_us).toordinal(), moment(self.until_us).toordinal()
        return first - 1 <= day.toordinal() <= last + 1


def moment_us(text: str, last: datetime, option: str = "--since") -> int:
    """A moment as an option names it: `7d` or `12h` before the last one, or a day or moment in UTC.

    Raises:
        AuditRefused: It is none of these.
    """
    try:
        if found := re.fullmatch(r"(\d+)([dh])", text):
            return micros(last - timedelta(**{"days" if found[2] == "d" else "hours": int(found[1])}))
        at = datetime.fromisoformat(text)
        return micros(at.replace(tzinfo=at.tzinfo or UTC))
    except (ValueError, OverflowError) as error:
        raise AuditRefused(f"{option} takes 7d, 12h or a day such as 2026-11-01, not {text!r}") from error
