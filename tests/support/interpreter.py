"""A plain interpreter of rulebooks, rule by rule and candidate by candidate: the oracle of the compiler."""

from collections import defaultdict
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import Any

from features import zones
from features.moments import micros, moment
from features.schema import CHANNELS
from models.catalogue.offers import SLOTS, Catalogue, Offer, Window
from service.rules import types
from service.rules.inputs import Inputs
from service.rules.rulebook import Pack, Rulebook

HOUR = timedelta(hours=1) // timedelta(microseconds=1)
DAY = 24 * HOUR
STEP = HOUR // 4
"""Hours of generated rules begin and end on quarters, as the offsets of all zones in use do."""


class Reading:
    """A rulebook read for one player at one moment."""

    def __init__(self, book: Rulebook, catalogue: Catalogue, seen: Inputs) -> None:
        self.book, self.catalogue, self.seen = book, catalogue, seen
        self._binding = list(self.binding())
        self._waits: dict[tuple[Any, ...], tuple[int, list[Any]]] = {}

    # --- Candidates

    def blocked(self, windows: Any, *, fixed: bool = False) -> tuple[dict[str, set[int]], dict[int, int]]:
        """Reason -> places denied, and place -> the moment at which it would be sent."""
        found: dict[str, set[int]] = defaultdict(set)
        moments: dict[int, int] = {}
        for offer in self.catalogue.offers:
            for channel in CHANNELS:
                for slot, window in zip(SLOTS, windows, strict=True):
                    place = self.catalogue.place(offer.id, channel, slot)
                    at, closed = self.put_off(offer, channel, window, fixed=fixed)
                    moments[place] = at
                    for rule in closed:
                        self.note(found, rule, place)
                    for sent in {window.send_us, at}:
                        for pack, rule in self._binding:
                            if not isinstance(rule, types.TimeWindow) and self.denies(pack, rule, offer, channel, sent):
                                self.note(found, rule, place)
                        if offer.purpose in {"marketing", "bonus"}:
                            for where in self.lawless(sent):
                                found[f"no_rules:{where}"].add(place)
        return dict(found), moments

    def lawless(self, sent: int) -> list[str]:
        """Licensed places of the player whose own rules have all ended at a moment, or never were."""
        applied = [(pack, rule) for pack in self.book.packs for rule in pack.rules if rule.state != "off"]
        licensed = {one for _, rule in applied if rule.type == "jurisdiction_scope" for one in rule.licensed}
        own = {
            place
            for pack, rule in applied
            if "*" not in pack.jurisdictions and (rule.valid_to is None or sent < midnight(rule.valid_to, pack))
            for place in rule.jurisdictions or pack.jurisdictions
        }
        return sorted((licensed & (self.seen.named or set())) - own)

    def note(self, found: dict[str, set[int]], rule: Any, place: int) -> None:
        found[rule.id].add(place)
        for name in needed(rule):
            trouble = self.seen.troubles.get(name)
            if trouble is None and isinstance(rule, types.RegisterFreshness):
                trouble = "stale"
            if trouble is not None:
                found[f"{trouble}_{name}"].add(place)

    def binding(self) -> list[tuple[Pack, Any]]:
        return [
            (pack, rule)
            for pack in self.book.packs
            for rule in pack.rules
            if rule.state != "off"
            if any(place == "*" or place in self.seen.places for place in rule.jurisdictions or pack.jurisdictions)
        ]

    def in_force(self, pack: Pack, rule: Any, sent: int) -> bool:
        begins = midnight(rule.valid_from, pack)
        return begins <= sent and (rule.valid_to is None or sent < midnight(rule.valid_to, pack))

    def speaks_of(self, rule: Any, offer: Offer, channel: str) -> bool:
        return all(
            allowed is None or value in allowed
            for value, allowed in (
                (offer.purpose, rule.purposes),
                (channel, rule.channels),
                (offer.product, rule.products),
                (offer.kind, rule.kinds),
            )
        )

    def denies(self, pack: Pack, rule: Any, offer: Offer, channel: str, sent: int) -> bool:
        if not self.in_force(pack, rule, sent) or not self.speaks_of(rule, offer, channel):
            return False
        return bool(getattr(self, rule.type)(rule, offer, channel, sent))

    # --- Hours

    def put_off(self, offer: Offer, channel: str, window: Window, *, fixed: bool) -> tuple[int, list[Any]]:
        """When it would be sent, and the rules that leave no moment in the slot."""
        hours = [
            (pack, rule)
            for pack, rule in self._binding
            if isinstance(rule, types.TimeWindow) and self.speaks_of(rule, offer, channel)
        ]
        # Most candidates of a slot wait for the same rules.
        asked = (window, fixed, *(rule.id for _, rule in hours))
        if asked not in self._waits:
            self._waits[asked] = self.wait(hours, window, fixed=fixed)
        return self._waits[asked]

    def wait(self, hours: list[tuple[Pack, Any]], window: Window, *, fixed: bool) -> tuple[int, list[Any]]:
        at, closed = window.send_us, []
        if self.seen.zone is None:
            return at, [rule for pack, rule in hours if self.in_force(pack, rule, at)]
        while at < window.ends_us:
            shut = [r for p, r in hours if self.in_force(p, r, at) and not open_at(r, at, self.seen.zone)]
            if not shut:
                break
            closed += [rule for rule in shut if rule not in closed]
            waiting, begun = set(map(id, shut)), at
            while waiting and at < begun + 4 * DAY:
                at = (at // STEP + 1) * STEP
                now_open = {id(r) for p, r in hours if not self.in_force(p, r, at) or open_at(r, at, self.seen.zone)}
                waiting -= now_open
        if at >= window.ends_us or (fixed and at != window.send_us):
            return window.send_us, closed
        return at, []

    # --- The twenty-five types

    def jurisdiction_scope(self, rule: Any, *_: Any) -> bool:
        return self.seen.named is None or any(place not in rule.licensed for place in self.seen.named)

    def account_state(self, rule: Any, *_: Any) -> bool:
        i = self.seen
        young = rule.least_days > 0 and (i.opened_us is None or i.now_us < i.opened_us + rule.least_days * DAY)
        again = rule.least_days_reopened > 0 and (
            i.reopened_us is None or i.now_us < i.reopened_us + rule.least_days_reopened * DAY
        )
        return i.account != "open" or (rule.verified and not i.kyc) or young or again

    def exclusion_register(self, rule: Any, *_: Any) -> bool:
        return any(self.seen.listed.get(name, True) for name in rule.registers)

    def register_freshness(self, rule: Any, _: Offer, __: str, sent: int) -> bool:
        asked = self.seen.checked.get(rule.register_name)
        counted_to = sent if rule.at == "send" else self.seen.now_us
        return asked is None or counted_to > asked + rule.hours * HOUR

    def timeout_active(self, *_: Any) -> bool:
        until = self.seen.time_out_until_us
        return until is None or self.seen.now_us < until

    def post_exclusion_lock(self, rule: Any, offer: Offer, channel: str, _: int) -> bool:
        back = self.seen.returned_us
        if back is None:
            return True
        if rule.days and self.seen.now_us < back + rule.days * DAY:
            return True
        if not rule.new_consent or back == 0:
            return False
        consent = self.consent(offer, channel)
        return consent is None or consent.since_us <= back

    def consent(self, offer: Offer, channel: str) -> Any:
        held = self.seen.consents
        return held.get((channel, offer.product), held.get((channel, "*")))

    def age_band(self, rule: Any, *_: Any) -> bool:
        return self.seen.age is None or self.seen.age < rule.under

    def harm_gate(self, rule: Any, *_: Any) -> bool:
        order = ("none", "low", "moderate", "strong")
        return self.seen.harm is None or order[self.seen.harm] in order[order.index(rule.at_least) :]

    def loss_or_deposit_threshold(self, rule: Any, *_: Any) -> bool:
        i = self.seen
        rate = self.rate(rule.currency)
        if rate is None:
            return True
        if len(rule.amounts) > 1 and i.age is None:
            return True
        amount = next(one.amount_minor for one in rule.amounts if one.under is None or i.age < one.under) * rate
        if rule.metric == "net_deposit_month":
            return i.net_deposit_month is None or i.net_deposit_month >= amount
        if i.net_loss_weeks is None:
            return True
        reached = "".join("x" if loss >= amount else "." for loss in i.net_loss_weeks)
        return "x" * rule.weeks in reached

    def rate(self, currency: str) -> float | None:
        rate = self.book.settings.exchange.get(currency)
        assert not isinstance(rate, dict), "the rulebooks of these tests have rates that always held"
        return 1.0 if currency == self.catalogue.currency else rate

    def consent_required(self, rule: Any, offer: Offer, channel: str, _: int) -> bool:
        one = self.seen.consents.get((channel, offer.product)) if rule.per_product else self.consent(offer, channel)
        if one is None or not one.granted:
            return True
        if (rule.bases and one.basis not in rule.bases) or (rule.origins and one.origin not in rule.origins):
            return True
        return rule.since is not None and one.since_us < midnight(rule.since, self.book.packs[0])

    def suppression(self, rule: Any, offer: Offer, channel: str, _: int) -> bool:
        if rule.by == "objection":
            return self.seen.objects is None or self.seen.objects
        one = self.consent(offer, channel)
        return one is None or not one.granted

    def consent_lapse(self, rule: Any, offer: Offer, channel: str, sent: int) -> bool:
        one = self.consent(offer, channel)
        if one is None:
            return True
        if rule.bases and one.basis is None:
            return True
        if rule.bases and one.basis not in rule.bases:
            return False
        since = {"login": self.seen.last_login_us, "deposit": self.seen.last_deposit_us, "consent": one.since_us}
        began = since[rule.since]
        if began is None:
            return True
        at = moment(began)
        count = at.month - 1 + rule.months
        year, month = at.year + count // 12, count % 12 + 1
        after = date(year + month // 12, month % 12 + 1, 1)
        last = (after - timedelta(days=1)).day
        return moment(sent) >= at.replace(year=year, month=month, day=min(at.day, last))

    def channel_ban(self, *_: Any) -> bool:
        return True

    def bonus_ban(self, rule: Any, offer: Offer, *_: Any) -> bool:
        return not rule.unless_prior_bet or offer.terms.prior_bet is not True

    def mechanic_ban(self, rule: Any, offer: Offer, *_: Any) -> bool:
        return offer.mechanics is None or any(one in rule.mechanics for one in offer.mechanics)

    def single_product(self, _: Any, offer: Offer, *__: Any) -> bool:
        terms = offer.terms
        if terms.free_choice:
            return False
        return (
            terms.qualifying_products is None
            or terms.reward_products is None
            or len(set(terms.qualifying_products + terms.reward_products)) > 1
        )

    def term_limit(self, rule: Any, offer: Offer, *_: Any) -> bool:
        terms = offer.terms
        faults = []
        if rule.most_wagering is not None:
            faults.append(terms.wagering is None or terms.wagering > rule.most_wagering)
        if rule.wagering_bases and terms.wagering != 0:
            faults.append(terms.wagering_base is None or terms.wagering_base not in rule.wagering_bases)
        if rule.least_validity_days is not None:
            faults.append(terms.validity_days is None or terms.validity_days < rule.least_validity_days)
        if rule.deposit_shares:
            faults.append(terms.deposit_share is None or terms.deposit_share not in rule.deposit_shares)
        if rule.full_weight:
            faults.append(terms.full_weight is not True)
        return any(faults)

    def worth(self, rule: Any, offer: Offer) -> float | None:
        rate = self.rate(rule.currency)
        if rule.measure == "spin_stake":
            if rule.currency in offer.terms.spin_stake_local:
                return offer.terms.spin_stake_local[rule.currency]
            stake = offer.terms.spin_stake_minor
            return None if stake is None or rate is None else stake / rate
        if rule.currency != self.catalogue.currency and rule.currency in offer.local:
            return offer.local[rule.currency]
        return None if rate is None else offer.value_minor / rate

    def value_cap(self, rule: Any, offer: Offer, _: str, sent: int) -> bool:
        age = self.seen.age
        if age is not None and not (rule.from_age <= age < (999 if rule.under is None else rule.under)):
            return False
        worth = self.worth(rule, offer)
        if worth is None or rule.hours is None:
            return worth is None or worth > rule.amount_minor
        spent = worth
        for one in self.counted(rule):
            if abs(one.send_us - sent) < rule.hours * HOUR:
                gone = all(one.offer != offer.id for offer in self.catalogue.offers)
                other = None if gone else self.worth(rule, self.offer(one.offer))
                if other is None:
                    return True
                spent += other
        return bool(spent > rule.amount_minor)

    def offer(self, name: str) -> Offer:
        return next(one for one in self.catalogue.offers if one.id == name)

    def counted(self, rule: Any) -> list[Any]:
        known = {one.id for one in self.catalogue.offers}
        return [
            one
            for one in self.seen.contacts
            if one.offer not in known or self.speaks_of(rule, self.offer(one.offer), one.channel)
        ]

    def count_cap(self, rule: Any, _: Offer, __: str, sent: int) -> bool:
        counted = [one.send_us for one in self.counted(rule)]
        if rule.hours is None:
            return self.seen.bonuses is None or self.seen.bonuses + len(counted) >= rule.most
        length = int(rule.hours * HOUR)
        # Every half-open window of the length that holds the new contact begins at one of the contacts in it.
        starts = [one for one in (*counted, sent) if one <= sent < one + length]
        return any(sum(start <= one < start + length for one in (*counted, sent)) > rule.most for start in starts)

    def min_gap_after(self, rule: Any, _: Offer, __: str, sent: int) -> bool:
        last = getattr(self.seen, f"{rule.event}_us")
        return last is None or sent < last + rule.hours * HOUR

    def state_block(self, rule: Any, *_: Any) -> bool:
        for state in rule.states:
            if state == "limit_raised":
                raised = self.seen.limit_raised_us
                if raised is None or self.seen.now_us < raised + rule.days * DAY:
                    return True
            elif getattr(self.seen, state) in (None, True):
                return True
        return False

    def selection_basis(self, rule: Any, offer: Offer, *_: Any) -> bool:
        some = [one in offer.stages for one in ("active", "lapsing", "lapsed")]
        return (rule.shared_only and offer.audience != "shared") or (rule.no_inactivity and any(some) and not all(some))

    def content_required(self, rule: Any, offer: Offer, *_: Any) -> bool:
        if offer.tags is None:
            return True
        lacks = any(tag not in offer.tags for tag in rule.must)
        says = any(tag in offer.tags for tag in rule.must_not)
        return lacks or says or (rule.approved and offer.approved_on is None)

    def approval_required(self, rule: Any, offer: Offer, _: str, sent: int) -> bool:
        if rule.vip_only and self.seen.vip is False:
            return False
        if rule.checks_days is None:
            return offer.approval is None
        checked = self.seen.vip_checked_us
        return checked is None or sent > checked + rule.checks_days * DAY


def needed(rule: Any) -> tuple[str, ...]:
    return tuple(rule.needs)


def midnight(day: date, pack: Pack) -> int:
    return _midnight(day, pack.time_zone)


@cache
def _midnight(day: date, zone: str) -> int:
    return micros(datetime.combine(day, time(), zones.zone(zone)))


def open_at(rule: Any, at_us: int, zone: str) -> bool:
    """Whether the clock on the player's wall lies in the hours of a rule."""
    local = moment(at_us).astimezone(zones.zone(zone))
    names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    kind = names[local.weekday()]
    if rule.holidays:
        listed = {day.year for day in rule.holidays}

        def free(day: date) -> bool:
            return day in rule.holidays or day.year not in listed

        today = local.date()
        if free(today):
            kind = "holiday"
        elif free(today + timedelta(days=1)) and any("eve" in span.days for span in rule.allow):
            kind = "eve"
    clock = f"{local:%H:%M}"
    return any(kind in span.days and span.start <= clock < span.end for span in rule.allow)
