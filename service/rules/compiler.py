"""Compile a rulebook to one Python function for a catalogue, called once per decision.

    Rulebook + catalogue --> CompiledRulebook;  Inputs + sending windows --CompiledRulebook.judge--> Verdict

Coverage is computed at compile time, so a decision evaluates each condition once for the player,
or once for each distinct channel, product, offer or sending moment it depends on, and gets every reason of every
candidate as a set (`CandidateSpace`). No free text becomes code: conditions are made of validated values.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from functools import lru_cache, reduce
from itertools import count, groupby, pairwise, product
from operator import or_
from types import CodeType
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from features.exchange import rate_on, since
from features.moments import DAY_US, MINUTE_US, micros, moment
from features.schema import CHANNELS
from models.catalogue.candidates import Candidates, CandidateSpace
from models.catalogue.offers import Offer, Window
from service.rules.inputs import Inputs
from service.rules.rule import ConditionContext, ConditionGroup, Money, RuleBase
from service.rules.rulebook import EVERYWHERE, FOREVER_US, RuleBinding, Rulebook
from service.rules.sending_hours import Deferral, HoursGroup, SendingTimes, Timetable, defer
from service.rules.types import CountCap, RegisterFreshness, SelectionBasis, TimeWindow, ValueCap

NO_RULES: Final = "no_rules"
"""Kind of the reason that denies in a licensed place whose law the rulebook does not hold, as `no_rules:AU-VIC`."""
Sends = Sequence[tuple[int, Candidates]]
Found = list[tuple[int, Candidates]]
_REMEMBERED: Final = 1_000
"""Zones and minutes whose sending times are remembered for the same places."""


@dataclass(frozen=True, slots=True, eq=False)
class PlaceRules:
    """The rules of some places, shared by all players there.

    Attributes:
        hours_groups: Contacts grouped by the sending hours that cover them.
        needs: Inputs that the rules need, in order.
        packs: Packs that bind.
        ever: Whether a rule counts contacts without a window.
        selections: Rules on what players may be selected by.
        times: Sending times of recent minutes, by zone, minute and windows; each with the moment that it was found at.
        forbidding: Which of `selections` forbid to choose by some readings.
    """

    hours_groups: tuple[HoursGroup, ...]
    needs: tuple[str, ...]
    packs: tuple[str, ...]
    ever: bool
    selections: tuple[RuleBinding, ...]
    times: dict[tuple[object, ...], tuple[int, SendingTimes]] = field(default_factory=dict)
    forbidding: dict[tuple[str, ...], tuple[RuleBinding, ...]] = field(default_factory=dict)


class Verdict(NamedTuple):
    """Result of applying a rulebook to all candidates at once.

    Attributes:
        blocked: Rule id, or trouble with an input (`stale_rofus`) -> candidates denied for it.
        moments: Sending moments after deferral, with the contacts sent then.
        deferrals: Contacts deferred by sending hours, and to when.
        rules: The rules of the player's places.
    """

    blocked: dict[str, Candidates]
    moments: Sends
    deferrals: Sequence[Deferral]
    rules: PlaceRules

    def sent_us(self, chosen: Candidates) -> int:
        """Sending moment of a candidate, unix microseconds."""
        return next(at for at, bits in self.moments if bits & chosen)


class CompiledRulebook:
    """A rulebook compiled for a catalogue.

    Attributes:
        book: The rulebook.
        layout: The catalogue.
        bound: Bindings of the rules that are not off, one for each rate of a rule's currency; a rule's number is its
            index here.
        names: Reason ids: of those rules, and of licensed places without rules.
        source: The generated function, as text.
        longest_us: The longest window that a rule looks back over.
    """

    def __init__(self, book: Rulebook, layout: CandidateSpace) -> None:
        self.book = book
        self.layout = layout
        self.bound = tuple(part for one in book.bound() for part in self._by_rate(one))
        self._constants: dict[str, Any] = {"lost": _lost, "months_after": _months_after}
        self._names = (f"K{number}" for number in count())
        self._places: dict[frozenset[str], PlaceRules] = {}
        self._asks = [(one.rule.id, one.rule.needs, isinstance(one.rule, RegisterFreshness)) for one in self.bound]
        self._timetables = {
            number: Timetable(one.rule) for number, one in enumerate(self.bound) if isinstance(one.rule, TimeWindow)
        }
        self._unruled = book.unruled()
        self.names = frozenset((*(one.rule.id for one in self.bound), *map(unruled, self._unruled)))
        self.source = "\n".join(self._lines())
        self._function = self._made(compile(self.source, f"<rulebook {book.hash}>", "exec"))
        windows = [one.rule.hours for one in self.bound if isinstance(one.rule, (CountCap, ValueCap))]
        self._named = frozenset(place for one in self.bound for place in one.places)
        self.longest_us = int(max((hours for hours in windows if hours), default=0) * DAY_US / 24)

    def _made(self, code: CodeType) -> Callable[[Inputs, Sends, int, int], Found]:
        space: dict[str, Any] = {**self._constants, "force": self._in_force}
        exec(code, space)  # noqa: S102 - our own text, made of validated values only
        return cast("Callable[[Inputs, Sends, int, int], Found]", space["judge"])

    # --- Compiling

    def _by_rate(self, one: RuleBinding) -> Iterator[RuleBinding]:
        """A binding for each rate that a rule's currency has while the rule binds."""
        rates = self.book.settings.exchange.get(getattr(one.rule, "currency", ""))
        days = () if rates is None else since(rates)
        turns = [at_us for day in days if one.begins_us < (at_us := _midnight_us(day)) < one.ends_us]
        for begins_us, ends_us in pairwise([one.begins_us, *turns, one.ends_us]):
            yield one._replace(begins_us=begins_us, ends_us=ends_us)

    def _money(self, one: RuleBinding) -> Money:
        """Amounts at the rates that hold when a binding begins."""
        day = moment(one.begins_us).date()
        rates = {currency: rate_on(rates, day) for currency, rates in self.book.settings.exchange.items()}
        known = {currency: rate for currency, rate in rates.items() if rate is not None}
        return Money(self.layout.catalogue.currency, known)

    def _denied(self, number: int) -> Candidates:
        """Candidates that a rule covers and that violate it."""
        rule, money = self.bound[number].rule, self._money(self.bound[number])

        def denied(offer: Offer, channel: str) -> bool:
            return rule.covers(offer, channel) and rule.violates(offer, channel, money)

        return self.layout.where(denied)

    def _keep(self, value: Any) -> str:  # noqa: ANN401 - constants of any kind
        name = next(self._names)
        self._constants[name] = value
        return name

    def _lines(self) -> Iterator[str]:
        yield "def judge(i, sends, first, last):"
        yield "    found, p = [], i.places"
        numbered = [number for number in range(len(self.bound)) if number not in self._timetables]
        for where, numbers in groupby(numbered, key=lambda number: self.bound[number].places):
            yield f"    if {_guard(where)}:"
            yield "        pass"
            for number in numbers:
                if denied := self._denied(number):
                    yield from ("        " + line for line in self._rule(number, denied))
        yield "    return found"

    def _rule(self, number: int, denied: Candidates) -> Iterator[str]:
        """Source lines of one rule: check that it is in force, then its condition for each group."""
        one = self.bound[number]
        yield f"# {one.rule.id}"
        ends = "" if one.ends_us >= FOREVER_US else f" and last < {one.ends_us}"
        yield f"v = {denied:#x} if {one.begins_us} <= first{ends} else force({number}, {denied:#x}, sends)"
        conditions = self._conditions(one, denied)
        if set(conditions) == {"True"}:
            yield f"if v: found.append(({number}, v))"
        elif one.rule.at_send:
            yield "b = 0"
            yield "for t, bits in sends:"
            for condition, bits in conditions.items():
                yield f"    if bits & v & {bits:#x} and ({condition}): b |= bits & {bits:#x}"
            yield f"if b & v: found.append(({number}, b & v))"
        elif len(conditions) == 1:
            yield f"if v and ({next(iter(conditions))}): found.append(({number}, v))"
        else:
            yield "b = 0"
            for condition, bits in conditions.items():
                yield f"if {condition}: b |= {bits:#x}"
            yield f"if b & v: found.append(({number}, b & v))"

    def _conditions(self, one: RuleBinding, denied: Candidates) -> dict[str, Candidates]:
        """Each distinct condition of a rule with the candidates that it denies."""
        rule = one.rule
        to = ConditionContext(self._money(one), self.layout.catalogue.offers, one.pack.time_zone, self._keep)
        found: dict[str, Candidates] = {}
        for group in self._groups(rule):
            if bits := denied & self.layout.where(group.holds):
                condition = rule.denies(group, to)
                found[condition] = found.get(condition, 0) | bits
        return found

    def _groups(self, rule: RuleBase) -> Iterator[ConditionGroup]:
        offers = self.layout.catalogue.offers
        channels = CHANNELS if "channel" in rule.grain else ("",)
        products = sorted({offer.product for offer in offers}) if "product" in rule.grain else [""]
        names = [offer.id for offer in offers] if "offer" in rule.grain else [""]
        return (ConditionGroup(*parts) for parts in product(channels, products, names))

    # --- Applying

    def judge(self, inputs: Inputs, windows: Sequence[Window], *, fixed: bool = False) -> Verdict:
        """Apply all rules to the candidates.

        Args:
            inputs: The player's.
            windows: Sending window of each timing slot, in the player's zone.
            fixed: The sending moment is fixed: sending hours block instead of deferring.

        A deferred contact must be allowed at both moments, so that one more rule never allows more.
        """
        rules = self._rules_of(inputs.places)
        settled = self._times(rules, inputs, windows, fixed=fixed)
        sends = [(window.send_us, bits) for window, bits in zip(windows, self.layout.slots, strict=True)]
        # Contacts are judged at the start of their slots, and at the moments they were deferred to.
        begun = {at for at, _ in sends}
        sends += [put_off for put_off in settled.moments if put_off[0] not in begun]
        found = self._function(inputs, sends, min(sends)[0], max(sends)[0])
        found += [(number, bits) for number, bits in settled.blocked.items() if bits]
        blocked = self._reasons(found, inputs)
        if not self._unruled.keys().isdisjoint(inputs.named or ()):
            blocked |= self._without_law(inputs, sends)
        return Verdict(blocked, settled.moments, settled.deferrals, rules)

    def _times(self, rules: PlaceRules, inputs: Inputs, windows: Sequence[Window], *, fixed: bool) -> SendingTimes:
        """Sending times of contacts in their windows.

        They are worked out once a minute and zone: hours begin and end at whole minutes (see `features.zones`), so
        that within one all stays as it is but the moment of what is sent now.
        """
        if fixed:  # a contact's own moments: hardly another has them
            return defer(windows, rules.hours_groups, inputs.zone, self.layout, fixed=True)
        now_us = inputs.now_us
        begun = [(None if at == now_us else at, ends) for at, ends in windows]
        key = (inputs.zone, now_us // MINUTE_US, *begun)
        if (found := rules.times.get(key)) is None:
            if len(rules.times) >= _REMEMBERED:
                rules.times.clear()
            times = defer(windows, rules.hours_groups, inputs.zone, self.layout, fixed=False)
            found = rules.times[key] = now_us, times
        then_us, times = found
        if then_us == now_us:
            return times
        return times._replace(moments=[(now_us if at == then_us else at, bits) for at, bits in times.moments])

    def _without_law(self, inputs: Inputs, sends: Sends) -> dict[str, Candidates]:
        """Promotional contacts sent while a licensed place of the player has no rules of its own, by place."""
        found = {}
        for place in sorted(self._unruled.keys() & (inputs.named or ())):
            late = reduce(or_, (bits for at, bits in sends if at >= self._unruled[place]), 0)
            if denied := late & self.layout.promotional:
                found[unruled(place)] = denied
        return found

    def _rules_of(self, where: frozenset[str]) -> PlaceRules:
        """Rules of some places, cached."""
        key = where & self._named
        if key not in self._places:
            bound = [number for number, one in enumerate(self.bound) if not key.isdisjoint(one.places)]
            rules = [self.bound[number].rule for number in bound]
            packs = {self.bound[number].pack.pack for number in bound}
            self._places[key] = PlaceRules(
                tuple(self._hours_groups(bound)),
                tuple(dict.fromkeys(name for rule in rules for name in rule.needs)),
                tuple(f"{one.pack}@{one.version} {one.checked_on}" for one in self.book.packs if one.pack in packs),
                any(isinstance(rule, CountCap) and rule.hours is None for rule in rules),
                tuple(self.bound[number] for number in bound if isinstance(self.bound[number].rule, SelectionBasis)),
            )
        return self._places[key]

    def _hours_groups(self, bound: Sequence[int]) -> Iterator[HoursGroup]:
        """Contacts grouped by the sending-hours rules that cover them."""
        timed = [number for number in bound if number in self._timetables]
        together: dict[tuple[int, ...], Candidates] = {}
        for offer, channel in product(self.layout.catalogue.offers, CHANNELS):
            mine = tuple(number for number in timed if self.bound[number].rule.covers(offer, channel))
            bits = self.layout.where(ConditionGroup(channel, "", offer.id).holds)
            together[mine] = together.get(mine, 0) | bits
        for mine, bits in together.items():
            if mine:
                yield HoursGroup(tuple((n, self._timetables[n], *self.bound[n][3:]) for n in mine), bits)

    def _in_force(self, number: int, denied: Candidates, sends: Sends) -> Candidates:
        """Candidates of a set that are sent while a rule is in force."""
        one, bits = self.bound[number], 0
        for at, sent in sends:
            if one.begins_us <= at < one.ends_us:
                bits |= sent
        return denied & bits

    def _reasons(self, found: Found, inputs: Inputs) -> dict[str, Candidates]:
        """Denied sets by rule id; an unreliable input is named beside the rules that need it."""
        blocked: dict[str, Candidates] = {}
        for number, bits in found:
            rule, needs, of_freshness = self._asks[number]
            blocked[rule] = bits
            for name in needs:
                trouble = inputs.troubles.get(name)
                if trouble is None and of_freshness:
                    trouble = "stale"
                if trouble is not None:
                    blocked[f"{trouble}_{name}"] = blocked.get(f"{trouble}_{name}", 0) | bits
        return blocked

    def needs(self, where: frozenset[str]) -> tuple[str, ...]:
        """Names of the inputs that the rules of some places need, in order."""
        return self._rules_of(where).needs

    def ever(self, where: frozenset[str]) -> bool:
        """Whether a rule of some places counts contacts without a window."""
        return self._rules_of(where).ever

    def packs(self, where: frozenset[str]) -> tuple[str, ...]:
        """Packs that bind in some places, such as `gb@1 2026-11-22`."""
        return self._rules_of(where).packs

    def bars(self, readings: tuple[str, ...], inputs: Inputs) -> bool:
        """Whether a rule forbids choosing for the player by some readings."""
        rules = self._rules_of(inputs.places)
        if (found := rules.forbidding.get(readings)) is None:
            found = rules.forbidding[readings] = tuple(
                one
                for one in rules.selections
                if any(one.rule.forbids(reading) for reading in readings)  # type: ignore[attr-defined]
            )
        return any(one.begins_us <= inputs.now_us < one.ends_us for one in found)

    def by_candidate(self, verdict: Verdict) -> NDArray[np.uint64]:
        """For each candidate the bits of the reasons that deny it, in the order of `verdict.blocked`."""
        return self.layout.by_candidate(list(verdict.blocked.values()))


def unruled(place: str) -> str:
    """Reason id for a licensed place without rules of its own."""
    return f"{NO_RULES}:{place}"


def _guard(where: tuple[str, ...]) -> str:
    """Condition under which rules of some places apply."""
    if EVERYWHERE in where:
        return "True"
    return " or ".join(f"{place!r} in p" for place in where)


def _lost(weeks: Sequence[float], running: int, amount: float) -> bool:
    """Whether losses reached an amount in `running` consecutive calendar weeks of those given."""
    return any(all(loss >= amount for loss in weeks[at : at + running]) for at in range(len(weeks) - running + 1))


def _midnight_us(day: date) -> int:
    return micros(datetime.combine(day, time(), UTC))


@lru_cache(maxsize=10_000)
def _months_after(at_us: int, months: int) -> int:
    """A moment some calendar months later, UTC; clipped to the last day of a shorter month."""
    at = moment(at_us)
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    day = min(at.day, monthrange(year, month + 1)[1])
    return micros(at.replace(year=year, month=month + 1, day=day))
