"""Sending hours: defer a contact outside of them to the next allowed moment. Pure.

A contact is deferred to the first moment within the hours of every rule that covers it; if its timing slot ends before
that, it is blocked. Hours are the player's local time, so when clocks are set back both occurrences of an hour are
treated alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from features import zones
from features.moments import micros, moment
from models.catalogue.candidates import Candidates, CandidateSpace
from models.catalogue.offers import SLOTS, Window
from service.rules.types import TimeWindow

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_AHEAD: Final = 4
"""Days searched for the next allowed moment; longer than any timing slot."""


class Deferral(NamedTuple):
    """Contacts of a timing slot that a rule defers, to a moment in unix microseconds."""

    rule: str
    timing_slot: str
    candidates: Candidates
    allowed_from_us: int


def promised(put_off: Sequence[Deferral], excluded: Mapping[str, Candidates]) -> list[Deferral]:
    """What hours put off of contacts that nothing but hours excludes: without consent, no channel is promised."""
    hours, never = {one.rule for one in put_off}, 0
    if not hours:
        return []
    for rule, bits in excluded.items():
        if rule not in hours:
            never |= bits
    return [one._replace(candidates=left) for one in put_off if (left := one.candidates & ~never)]


class Timetable:
    """Sending hours of one rule."""

    def __init__(self, rule: TimeWindow) -> None:
        self.rule = rule
        self._years = {day.year for day in rule.holidays}
        self._named = {day for span in rule.allow for day in span.days}
        self._days: dict[date, tuple[tuple[int, int], ...]] = {}

    def on(self, day: date) -> tuple[tuple[int, int], ...]:
        """Allowed spans of a local day in minutes, in order; the end is exclusive."""
        if day not in self._days:
            kind = self._kind(day)
            spans = [(_minutes(one.start), _minutes(one.end)) for one in self.rule.allow if kind in one.days]
            self._days[day] = tuple(sorted(spans))
        return self._days[day]

    def _kind(self, day: date) -> str:
        if self._free(day):
            return "holiday"
        return "eve" if "eve" in self._named and self._free(day + timedelta(days=1)) else _DAYS[day.weekday()]

    def _free(self, day: date) -> bool:
        """Whether a day is a holiday; every day is in a year without listed holidays."""
        return bool(self._years) and (day in self.rule.holidays or day.year not in self._years)

    def next(self, at_us: int, zone: str) -> int | None:
        """The moment itself if allowed, else the next allowed one; None if there is none for days."""
        local = moment(at_us).astimezone(zones.zone(zone))
        clock, today = local.hour * 60 + local.minute, local.date()
        for ahead in range(_AHEAD):
            day = today + timedelta(days=ahead)
            for start, end in self.on(day):
                if not ahead and start <= clock < end:
                    return at_us
                if (opens := _next_showing(day, start, zone, at_us)) is not None and (ahead or clock < end):
                    return opens
        return None


def _minutes(hour: str) -> int:
    return int(hour[:2]) * 60 + int(hour[3:])


def _next_showing(day: date, minute: int, zone: str, after_us: int) -> int | None:
    """The first moment after another at which the local clock of a day shows a minute."""
    return next((at for at in _showings(day, minute, zone) if at > after_us), None)


@lru_cache(maxsize=10_000)
def _showings(day: date, minute: int, zone: str) -> tuple[int, ...]:
    """Moments at which the local clock of a day shows a minute; two where clocks are set back."""
    local = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=zones.zone(zone))
    return tuple(sorted({micros(local), micros(local.replace(fold=1))}))


class SendingTimes(NamedTuple):
    """Sending moments of contacts after all sending hours were applied.

    Attributes:
        moments: Sending moments with the contacts sent then; together every contact once.
        blocked: Rule number -> contacts whose slot ends before the rule's hours begin.
        deferrals: Deferred contacts, by rule.
    """

    moments: list[tuple[int, Candidates]]
    blocked: dict[int, Candidates]
    deferrals: list[Deferral]


class HoursGroup(NamedTuple):
    """Contacts under the same sending-hours rules, and those rules by number."""

    rules: tuple[tuple[int, Timetable, int, int], ...]
    candidates: Candidates


def defer(
    windows: Sequence[Window],
    hours_groups: Iterable[HoursGroup],
    zone: str | None,
    layout: CandidateSpace,
    *,
    fixed: bool,
) -> SendingTimes:
    """Defer contacts to moments that all sending hours allow.

    Args:
        windows: Sending window of each timing slot.
        hours_groups: Contacts by the rules that cover them; each contact in one group at most.
        zone: The player's time zone; where unknown the rules block.
        layout: The catalogue.
        fixed: The moment is fixed: contacts outside of the hours are blocked.
    """
    done = SendingTimes([], defaultdict(int), [])
    moments: dict[int, Candidates] = defaultdict(int)
    rest = layout.everything
    for group in hours_groups:
        rest &= ~group.candidates
        for slot, window, bits in zip(SLOTS, windows, layout.slots, strict=True):
            if mine := bits & group.candidates:
                moments[_defer_slot(group, window, mine, slot, zone, done, fixed=fixed)] |= mine
    for window, bits in zip(windows, layout.slots, strict=True):
        moments[window.send_us] |= bits & rest
    done.moments.extend((at, bits) for at, bits in moments.items() if bits)
    return done


def _defer_slot(
    group: HoursGroup,
    window: Window,
    mine: Candidates,
    slot: str,
    zone: str | None,
    done: SendingTimes,
    *,
    fixed: bool,
) -> int:
    """Sending moment of some contacts of one slot; records in `done` which rules blocked or deferred them."""
    at, causes = _first_allowed(group, window, zone)
    if at is None or (causes and at >= window.ends_us) or (fixed and at != window.send_us):
        for number in causes:
            done.blocked[number] |= mine
        return window.send_us
    done.deferrals.extend(
        Deferral(rule.rule.id, slot, mine, at) for number, rule, *_ in group.rules if number in causes
    )
    return at


def _first_allowed(group: HoursGroup, window: Window, zone: str | None) -> tuple[int | None, list[int]]:
    """The first moment that all rules in force allow, and the numbers of the rules that deferred it."""
    at, causes = window.send_us, dict[int, None]()
    if zone is None:
        return None, [number for number, _, begins, ends in group.rules if begins <= at < ends]
    while True:
        asked = (
            (number, rule.next(at, zone), ends) for number, rule, begins, ends in group.rules if begins <= at < ends
        )
        # A rule that ends before its next hours allows all from there on.
        shut = {number: ends if opens is None else min(opens, ends) for number, opens, ends in asked if opens != at}
        if not shut:
            break
        causes |= dict.fromkeys(shut)
        at = max(shut.values())
        if at >= window.ends_us:
            break
    return at, list(causes)
