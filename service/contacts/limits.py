"""Contact limits: caps, gaps, pauses and budgets that a contact would break. Pure.

What a player holds is read with its versions; what is computed here is committed only if those still stand, so the
check and the write are one step. A contact counts at the moment at which it is to be sent.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache, reduce
from operator import or_
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from features import zones
from features.moments import micros, moment
from models.catalogue.candidates import Candidates, CandidateSpace
from models.catalogue.limits import Budget, Calendar, Cap, Gap, Pause, Scope
from models.catalogue.offers import PROMOTIONAL, Catalogue, Offer
from service.contacts.entries import ContactResponse, Reservation, decision_of

KINDS: Final = ("cap", "gap", "pause", "budget")
"""Reasons of limits are named by kind and id: `cap:player_day`."""
_SPENT: Final = timedelta(days=40)
"""After this a contact can no longer be told to have failed."""


class Held(msgspec.Struct, frozen=True):
    """What limits look at: contacts of the player and of the household by decision, answers to them, budgets.

    Attributes:
        own: The player's contacts, those of linked ids among them.
        household: Contacts of all members; None for a player without one, who is a household of one.
        answers: What became of contacts.
        shares: What is left of budgets in the player's partition, minor units, by budget and day.
        dry: Budgets and days of which nothing more can be had from all partitions' share.
    """

    own: Mapping[str, Reservation] = {}
    household: Mapping[str, Reservation] | None = None
    answers: Mapping[str, ContactResponse] = {}
    shares: Mapping[str, int] = {}
    dry: frozenset[str] = frozenset()

    def in_household(self, decision_id: str) -> list[str]:
        """Entries that the household holds for a decision."""
        return [name for name in self.household or () if decision_of(name) == decision_id]

    def freed(self, now_us: int) -> list[str]:
        """Entries that the household holds for contacts of the player that take no room any more.

        A lease was taken back, ran out, or its confirm was cut off after the household had counted it.
        """
        if not self.household:
            return []
        over = {name for name, one in self.own.items() if not one.counts(now_us)}
        return [name for name in self.household if decision_of(name) in over]

    def lacking(self, now_us: int) -> dict[str, Reservation]:
        """Contacts of the player that the household should hold and does not, or not as confirmed.

        Who brought them in was cut off, or they were confirmed while the player was not of it.
        """
        there = {(decision_of(name), one.state) for name, one in (self.household or {}).items()}
        return {
            name: one
            for name, one in self.own.items()
            if one.counts(now_us)
            and one.purpose in PROMOTIONAL
            and not there & {(name, one.state), (name, "confirmed")}
        }

    def without(self, decision_id: str) -> Held:
        """The same but for the contact of one decision."""
        return replace(
            self, own=_others(self.own, decision_id), household=self.household and _others(self.household, decision_id)
        )

    def counted(self, scope: Scope, brand: str, now_us: int) -> list[Reservation]:
        """Promotional contacts that take room, of a scope."""
        held = self.own
        if scope == "household" and self.household is not None:
            free, lacking = set(self.freed(now_us)), self.lacking(now_us)
            there = self.household.items()
            held = {name: one for name, one in there if name not in free and decision_of(name) not in lacking} | lacking
        return [
            one
            for one in held.values()
            if one.counts(now_us) and one.purpose in PROMOTIONAL and (scope != "brand" or one.brand == brand)
        ]


def _others(held: Mapping[str, Reservation], decision_id: str) -> dict[str, Reservation]:
    return {name: one for name, one in held.items() if decision_of(name) != decision_id}


class LimitQuery(NamedTuple):
    """For which brand, in which zone (None: unknown) and at which moment of house time contacts are asked about."""

    brand: str
    zone: str | None
    now_us: int


Sends = Sequence[tuple[int, Candidates]]
"""When contacts would be sent, unix microseconds."""


def evaluate(
    layout: CandidateSpace, held: Held, moments: Iterable[tuple[int, Candidates]], asking: LimitQuery
) -> dict[str, Candidates]:
    """The limits that have no room, each with the candidates that it denies, by `cap:`, `gap:`, `pause:` and `budget:`.

    Args:
        layout: The catalogue.
        held: What the player holds.
        moments: When contacts would be sent.
        asking: For whom and when.
    """
    catalogue, sends = layout.catalogue, list(moments)
    by_scope: dict[Scope, list[Reservation]] = {
        scope: held.counted(scope, asking.brand, asking.now_us) for scope in layout.scopes
    }
    found: dict[str, Candidates] = {}
    for cap in catalogue.caps:
        # Where fewer contacts are held than it allows, it has room, whichever of them it counts.
        if len(taken := by_scope[cap.scope]) >= cap.contacts - cap.keep:
            found[f"cap:{cap.id}"] = _capped(layout, cap, taken, sends, asking)
    for gap in catalogue.gaps:
        if taken := by_scope[gap.scope]:
            found[f"gap:{gap.id}"] = _too_close(layout, gap, taken, sends)
    for pause in catalogue.pauses if held.answers else ():
        found[f"pause:{pause.id}"] = _resting(layout, pause, held, sends, asking.brand)
    for budget in catalogue.budgets if held.dry else ():
        found[f"budget:{budget.id}"] = _spent(layout, budget, held, sends)
    return {name: bits for name, bits in found.items() if bits}


# --- Caps


def _capped(
    layout: CandidateSpace, cap: Cap, held: Iterable[Reservation], sends: Sends, asking: LimitQuery
) -> Candidates:
    inside = [one for one in held if one.within(cap)]
    blocked = _full(layout.group(cap), cap, cap.contacts, inside, sends, asking)
    if not cap.keep:
        return blocked
    # What is kept for higher priorities is what lower ones may not take, however many of the higher there are.
    lower = [one for one in inside if one.priority < cap.keep_for]
    return blocked | _full(layout.group(cap, cap.keep_for), cap, cap.contacts - cap.keep, lower, sends, asking)


def _full(
    group: Candidates, cap: Cap, most: int, held: Sequence[Reservation], sends: Sends, asking: LimitQuery
) -> Candidates:
    if len(held) < most:
        return 0
    taken = sorted(one.send_us for one in held)
    has_room = _room(cap, asking.zone)
    return group & _union(bits for at_us, bits in sends if not has_room(taken, at_us, most))


def _room(cap: Cap, zone: str | None) -> Callable[[Sequence[int], int, int], bool]:
    """Whether one more contact at a moment leaves room, given sorted moments and how many there may be."""
    if cap.lifetime:
        return lambda taken, _, most: len(taken) < most
    if cap.calendar is not None:
        calendar: Calendar = cap.calendar
        return lambda taken, at_us, most: _same(taken, at_us, calendar, zone) < most
    return lambda taken, at_us, most: fits(taken, at_us, most, cap.window_us)


def _same(taken: Sequence[int], at_us: int, calendar: Calendar, zone: str | None) -> int:
    """How many moments lie in the local day or week of another; in UTC where the zone is unknown."""
    begins, ends = period(at_us, calendar, zone or "UTC")
    return bisect_left(taken, ends) - bisect_left(taken, begins)


def period(at_us: int, calendar: Calendar, zone: str) -> tuple[int, int]:
    """Begin and end of the local day or week (from Monday) around a moment, unix microseconds."""
    today = moment(at_us).astimezone(zones.zone(zone)).date()
    return _period(today, calendar, zone)


@lru_cache(maxsize=10_000)
def _period(today: date, calendar: Calendar, zone: str) -> tuple[int, int]:
    first = today - timedelta(days=today.weekday() if calendar == "week" else 0)
    after = first + timedelta(days=7 if calendar == "week" else 1)
    return _midnight(first, zone), _midnight(after, zone)


def _midnight(day: date, zone: str) -> int:
    return micros(datetime(day.year, day.month, day.day, tzinfo=zones.zone(zone)).astimezone(UTC))


def fits(taken: Sequence[int], send_us: int, contacts: int, window_us: int) -> bool:
    """Whether one more contact at a moment leaves every half-open window of the length with at most `contacts`.

    Args:
        taken: Sorted moments of the contacts already counted.
        send_us: Moment of the new one.
        contacts: The cap.
        window_us: Length of the window; all in microseconds.
    """
    near = list(taken[bisect_right(taken, send_us - window_us) : bisect_left(taken, send_us + window_us)])
    near.insert(bisect_left(near, send_us), send_us)
    return all(near[last] - near[last - contacts] >= window_us for last in range(contacts, len(near)))


# --- Gaps


def _too_close(layout: CandidateSpace, gap: Gap, held: Sequence[Reservation], sends: Sends) -> Candidates:
    """Contacts that would follow too soon, and those that would come too soon before one that is reserved already."""
    before = [one.send_us for one in held if one.within(gap.after)]
    behind = [one.send_us for one in held if one.within(gap.of)]
    follow = _union(bits for at, bits in sends if any(0 <= at - one < gap.reach_us for one in before))
    lead = _union(bits for at, bits in sends if any(0 <= one - at < gap.reach_us for one in behind))
    return (layout.group(gap.of) & follow) | (layout.group(gap.after) & lead)


# --- Pauses


def _resting(layout: CandidateSpace, pause: Pause, held: Held, sends: Sends, brand: str) -> Candidates:
    answered = sorted(
        one.at_us
        for one in held.answers.values()
        if one.type == pause.type and one.within(pause.of) and (pause.scope != "brand" or one.brand == brand)
    )
    rests = list(_rests(answered, pause))
    if not rests:
        return 0
    return layout.group(pause.of) & _union(
        bits for at, bits in sends if any(begin <= at < begin + pause.pause_us for begin in rests)
    )


def _rests(answered: Sequence[int], pause: Pause) -> Iterator[int]:
    """Moments at which the group begins to rest: each response that is the last of so many within the span."""
    for last in range(pause.responses - 1, len(answered)):
        if answered[last] - answered[last - pause.responses + 1] < pause.within_us:
            yield answered[last]


# --- Budgets


def _spent(layout: CandidateSpace, budget: Budget, held: Held, sends: Sends) -> Candidates:
    """Contacts whose cost the partition's share cannot bear while nothing more is to be had."""
    blocked = 0
    for at_us, bits in sends:
        name = account(budget, at_us)
        if name in held.dry:
            blocked |= bits & _dearer(layout, budget, held.shares.get(name, 0))
    return blocked


def _dearer(layout: CandidateSpace, budget: Budget, left: int) -> Candidates:
    return layout.group(budget.group) & layout.where(lambda offer, _: offer.cost_minor > left)


def account(budget: Budget, send_us: int) -> str:
    """The day of a budget that a contact is charged to, as `bonus_day/2026-11-22`."""
    return f"{budget.id}/{moment(send_us).astimezone(zones.zone(budget.time_zone)).date().isoformat()}"


def charges(catalogue: Catalogue, offer: Offer, channel: str, send_us: int) -> tuple[tuple[str, int], ...]:
    """What a contact charges to which budgets."""
    return tuple(
        (account(budget, send_us), offer.cost_minor)
        for budget in catalogue.budgets
        if offer.cost_minor and budget.group.holds(offer.purpose, offer.id, offer.category, channel)
    )


def over(held: Held, now_us: int) -> list[str]:
    """Days of budgets in the partition that no contact can be charged to or given back to any more."""
    if not held.shares and not held.dry:
        return []
    limit = (moment(now_us) - _SPENT).date().isoformat()
    return [name for name in {*held.shares, *held.dry} if name.partition("/")[2] < limit]


# --- What no longer matters


def outdated(catalogue: Catalogue, held: Held, now_us: int, longest_us: int, *, ever: bool) -> list[str]:
    """Entries that can no longer matter: contacts that no limit reaches and nobody can confirm, and old answers.

    Args:
        catalogue: Whose limits look back.
        held: What the player holds.
        now_us: House time.
        longest_us: The longest window that rules look back over.
        ever: Whether a rule counts bonuses of the player for ever.
    """
    reach, answered, lifetime = catalogue.look_back
    reach = max(reach, longest_us)

    def kept(one: Reservation) -> bool:
        if one.state == "reserved":
            return bool(one.charges)  # what it charged is given back first
        always = (ever and one.purpose == "bonus") or any(one.within(cap) for cap in lifetime)
        return one.state == "confirmed" and always

    gone = [
        name
        for name, one in held.own.items()
        if max(one.send_us + reach, one.valid_until_us) < now_us and not kept(one)
    ]
    return gone + [name for name, one in held.answers.items() if one.at_us + answered < now_us]


def _union(sets: Iterable[Candidates]) -> Candidates:
    return reduce(or_, sets, 0)
