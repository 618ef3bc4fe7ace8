"""The twenty-five types of rules, by number. Pure data.

Rules of law stand in `packs/`, the house's own in `packs/house.yaml`; how a type is applied is told in `rule.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from features.events import LEVELS, ConsentBasis, Jurisdiction, Origin, RegisterName
from features.exchange import Currency
from features.moments import DAY_US, HOUR_US
from features.schema import CHANNELS
from models.catalogue.limits import Name
from models.catalogue.offers import Mechanic, Offer
from service.rules.rule import ConditionContext, ConditionGroup, Hour, Money, RuleBase, Weekday


class JurisdictionScope(RuleBase):
    """1. Only where the house is licensed: residence, licence and present location each."""

    type: Literal["jurisdiction_scope"]
    licensed: tuple[Jurisdiction, ...] = Field(min_length=1)

    @property
    def needs(self) -> tuple[str, ...]:
        return ("residence",)

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        return f"i.named is None or not i.named <= {to.keep(frozenset(self.licensed))}"


class AccountState(RuleBase):
    """2. The account is open, verified, old enough, and not reopened a moment ago."""

    type: Literal["account_state"]
    verified: bool = False
    least_days: float = Field(default=0, ge=0)
    least_days_reopened: float = Field(default=0, ge=0)

    @property
    def needs(self) -> tuple[str, ...]:
        asked = {"kyc": self.verified, "opened": self.least_days, "reopened": self.least_days_reopened}
        return ("account", *(name for name, wanted in asked.items() if wanted))

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        parts = ["i.account != 'open'"]
        if self.verified:
            parts.append("i.kyc is not True")
        if self.least_days:
            parts.append(f"i.opened_us is None or i.now_us - i.opened_us < {int(self.least_days * DAY_US)}")
        if self.least_days_reopened:
            days = int(self.least_days_reopened * DAY_US)
            parts.append(f"i.reopened_us is None or i.now_us - i.reopened_us < {days}")
        return " or ".join(parts)


class ExclusionRegister(RuleBase):
    """3. Not while listed in a register of excluded people; `own` is the house's own."""

    type: Literal["exclusion_register"]
    registers: tuple[RegisterName, ...] = Field(min_length=1)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.registers

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        return " or ".join(f"i.listed.get({name!r}) is not False" for name in self.registers)


class RegisterFreshness(RuleBase):
    """4. Only with a recent answer of a register, counted to the moment of sending or of the decision."""

    type: Literal["register_freshness"]
    register_name: RegisterName
    hours: float = Field(gt=0)
    at: Literal["send", "decide"] = "send"

    @property
    def at_send(self) -> bool:
        return self.at == "send"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.register_name,)

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        moment = "t" if self.at == "send" else "i.now_us"
        return f"{moment} - i.checked.get({self.register_name!r}, i.never) > {int(self.hours * HOUR_US)}"


class TimeoutActive(RuleBase):
    """5. Not during a time-out that the player took."""

    type: Literal["timeout_active"]

    @property
    def needs(self) -> tuple[str, ...]:
        return ("time_out",)

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        return "i.time_out_until_us is None or i.time_out_until_us > i.now_us"


class PostExclusionLock(RuleBase):
    """6. After an exclusion: silence for some days, and new consent."""

    type: Literal["post_exclusion_lock"]
    grain: ClassVar[tuple[str, ...]] = ("channel", "product")
    days: float = Field(default=0, ge=0)
    new_consent: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        return ("returned", "consent") if self.new_consent else ("returned",)

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        parts = ["i.returned_us is None"]
        if self.days:
            parts.append(f"i.now_us - i.returned_us < {int(self.days * DAY_US)}")
        if self.new_consent:
            consent = f"i.consent({group.channel!r}, {group.product!r})"
            parts.append(f"(i.returned_us > 0 and ((c := {consent}) is None or c.since_us <= i.returned_us))")
        return " or ".join(parts)


class AgeBand(RuleBase):
    """7. Not under an age in completed years; an unverified age counts as too young."""

    type: Literal["age_band"]
    under: int = Field(ge=18, le=120)

    @property
    def needs(self) -> tuple[str, ...]:
        return ("age",)

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        return f"i.age is None or i.age < {self.under}"


class HarmGate(RuleBase):
    """8. Not at or above a harm level."""

    type: Literal["harm_gate"]
    at_least: Literal["low", "moderate", "strong"]

    @property
    def needs(self) -> tuple[str, ...]:
        return ("harm",)

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        return f"i.harm is None or i.harm >= {LEVELS.index(self.at_least)}"


class AmountByAge(BaseModel):
    """An amount in minor units for players under an age; the last one applies to all others."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    under: int | None = None
    amount_minor: int = Field(gt=0)


class LossOrDepositThreshold(RuleBase):
    """9. Only below an amount of net losses in consecutive weeks, or of net deposits in the month."""

    type: Literal["loss_or_deposit_threshold"]
    metric: Literal["net_loss_week", "net_deposit_month"]
    weeks: int = Field(default=1, ge=1, le=4)
    amounts: tuple[AmountByAge, ...] = Field(min_length=1)
    currency: Currency

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        ages = [one.under for one in self.amounts[:-1]]
        if self.amounts[-1].under is not None or None in ages or ages != sorted(ages, key=int):  # type: ignore[arg-type]
            raise ValueError(f"{self.id}: amounts stand by rising age, the last one without")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.metric, "age") if len(self.amounts) > 1 else (self.metric,)

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        amounts = [to.money.house(one.amount_minor, self.currency) for one in self.amounts]
        if None in amounts:
            return "True"
        limit = repr(amounts[-1])
        for one, amount in reversed(list(zip(self.amounts[:-1], amounts[:-1], strict=True))):
            limit = f"({amount!r} if i.age < {one.under} else {limit})"
        unknown = "i.age is None or " if len(self.amounts) > 1 else ""
        if self.metric == "net_deposit_month":
            return f"{unknown}i.net_deposit_month is None or i.net_deposit_month >= {limit}"
        return f"{unknown}i.net_loss_weeks is None or lost(i.net_loss_weeks, {self.weeks}, {limit})"


class ConsentRequired(RuleBase):
    """10. Only with consent for the channel, and as configured: product, basis, place, since a day."""

    type: Literal["consent_required"]
    grain: ClassVar[tuple[str, ...]] = ("channel", "product")
    per_product: bool = False
    bases: tuple[ConsentBasis, ...] = ()
    origins: tuple[Origin, ...] = ()
    since: date | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return ("consent",)

    @property
    def asks(self) -> str:
        parts = (("basis", self.bases), ("origin", self.origins))
        named = [f"{name} {' or '.join(words)}" for name, words in parts if words]
        return f"tell consent with {' and '.join(named)}" if named else ""

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        asked = f"{group.channel!r}, {group.product!r}" + (", narrow=True" if self.per_product else "")
        parts = [f"(c := i.consent({asked})) is None or not c.granted"]
        if self.bases:
            parts.append(f"c.basis not in {self.bases!r}")
        if self.origins:
            parts.append(f"c.origin not in {self.origins!r}")
        if self.since:
            parts.append(f"c.since_us < {to.midnight_us(self.since)}")
        return " or ".join(parts)


class Suppression(RuleBase):
    """11. Not after an objection to direct marketing, or an opt-out of a channel."""

    type: Literal["suppression"]
    grain: ClassVar[tuple[str, ...]] = ("channel", "product")
    by: Literal["objection", "opt_out"]

    @property
    def needs(self) -> tuple[str, ...]:
        return ("objection",) if self.by == "objection" else ("consent",)

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        if self.by == "objection":
            return "i.objects is not False"
        return f"(c := i.consent({group.channel!r}, {group.product!r})) is None or not c.granted"


class ConsentLapse(RuleBase):
    """12. Consent lapses some calendar months after the last login or deposit, or after it was given."""

    type: Literal["consent_lapse"]
    grain: ClassVar[tuple[str, ...]] = ("channel", "product")
    since: Literal["login", "deposit", "consent"]
    months: int = Field(ge=1)
    bases: tuple[ConsentBasis, ...] = ()

    @property
    def at_send(self) -> bool:
        return True

    @property
    def needs(self) -> tuple[str, ...]:
        return ("consent",) if self.since == "consent" else ("consent", f"last_{self.since}")

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        begun = "c.since_us" if self.since == "consent" else f"i.last_{self.since}_us"
        lapsed = f"{begun} is None or t >= months_after({begun}, {self.months})"
        if self.bases:
            lapsed = f"c.basis is None or (c.basis in {self.bases!r} and ({lapsed}))"
        return f"(c := i.consent({group.channel!r}, {group.product!r})) is None or {lapsed}"


class ChannelBan(RuleBase):
    """13. Never by these channels."""

    type: Literal["channel_ban"]


class BonusBan(RuleBase):
    """14. No bonus, or none that is given before a bet."""

    type: Literal["bonus_ban"]
    unless_prior_bet: bool = False

    def violates(self, offer: Offer, channel: str, money: Money) -> bool:
        return not (self.unless_prior_bet and offer.terms.prior_bet)


class MechanicBan(RuleBase):
    """15. None of these mechanics: cashback, urgency, win-back, referral, inviting to cancel a withdrawal."""

    type: Literal["mechanic_ban"]
    mechanics: tuple[Mechanic, ...] = Field(min_length=1)

    def violates(self, offer: Offer, channel: str, money: Money) -> bool:
        return offer.mechanics is None or bool(set(self.mechanics) & set(offer.mechanics))


class SingleProduct(RuleBase):
    """16. Wagering and reward are of one product, unless the player may choose freely."""

    type: Literal["single_product"]

    def violates(self, offer: Offer, channel: str, money: Money) -> bool:
        terms = offer.terms
        if terms.free_choice:
            return False
        if terms.qualifying_products is None or terms.reward_products is None:
            return True
        return len({*terms.qualifying_products, *terms.reward_products}) > 1


class TermLimit(RuleBase):
    """17. Bounds on the terms of a bonus."""

    type: Literal["term_limit"]
    most_wagering: float | None = Field(default=None, gt=0)
    wagering_bases: tuple[Literal["bonus", "deposit", "deposit_and_bonus", "winnings"], ...] = ()
    least_validity_days: float | None = Field(default=None, gt=0)
    deposit_shares: tuple[float, ...] = ()
    full_weight: bool = False

    def violates(self, offer: Offer, channel: str, money: Money) -> bool:
        terms = offer.terms
        return (
            (self.most_wagering is not None and (terms.wagering is None or terms.wagering > self.most_wagering))
            or (bool(self.wagering_bases and terms.wagering != 0) and terms.wagering_base not in self.wagering_bases)
            or (
                self.least_validity_days is not None
                and (terms.validity_days is None or terms.validity_days < self.least_validity_days)
            )
            or (bool(self.deposit_shares) and terms.deposit_share not in self.deposit_shares)
            or (self.full_weight and terms.full_weight is not True)
        )


class ContactsToCount(NamedTuple):
    """Contacts that a rule counts: offers, channels, a window (None: ever), and the value of each.

    A contact of an offer that the catalogue has no more counts too, for nobody knows what it was.
    """

    pairs: frozenset[tuple[str, str]]
    known: frozenset[str]
    window_us: int | None
    worth: dict[str, float | None]

    def holds(self, offer: str, channel: str) -> bool:
        """Whether a contact counts."""
        return (offer, channel) in self.pairs or offer not in self.known


def _counted(
    rule: RuleBase, offers: Sequence[Offer], window_us: int | None, worth: dict[str, float | None]
) -> ContactsToCount:
    pairs = frozenset((one.id, channel) for one in offers for channel in CHANNELS if rule.covers(one, channel))
    return ContactsToCount(pairs, frozenset(one.id for one in offers), window_us, worth)


class ValueCap(RuleBase):
    """18. A cap on the value of an offer: alone, or with all of its kind in a window; for some ages only."""

    type: Literal["value_cap"]
    grain: ClassVar[tuple[str, ...]] = ("offer",)
    measure: Literal["value", "spin_stake"] = "value"
    amount_minor: int = Field(ge=0)
    currency: Currency
    from_age: int = Field(default=0, ge=0)
    under: int | None = None
    hours: float | None = Field(default=None, gt=0)

    def worth(self, offer: Offer, money: Money) -> float | None:
        """Value of an offer that the rule measures, in its own currency; None where unknown."""
        if self.measure == "value":
            return money.worth(offer, self.currency)
        if self.currency in offer.terms.spin_stake_local:
            return offer.terms.spin_stake_local[self.currency]
        stake = offer.terms.spin_stake_minor
        whole = money.house(1.0, self.currency)
        return None if stake is None or whole is None else stake / whole

    def violates(self, offer: Offer, channel: str, money: Money) -> bool:
        worth = self.worth(offer, money)
        return worth is None or self.hours is not None or worth > self.amount_minor

    @property
    def needs(self) -> tuple[str, ...]:
        return ("age",) if self._aged else ()

    @property
    def at_send(self) -> bool:
        return self.hours is not None

    @property
    def _aged(self) -> bool:
        return bool(self.from_age) or self.under is not None

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        parts = []
        if self._aged:
            upper = "" if self.under is None else f" < {self.under}"
            parts.append(f"(i.age is None or {self.from_age} <= i.age{upper})")
        if self.hours is not None:
            worth = {offer.id: self.worth(offer, to.money) for offer in to.offers}
            counted = to.keep(_counted(self, to.offers, int(self.hours * HOUR_US), worth))
            parts.append(f"i.spent({counted}, {group.offer!r}, t) > {self.amount_minor}")
        return " and ".join(parts) or "True"


class CountCap(RuleBase):
    """19. At most so many covered contacts in a window, or ever; confirmed and reserved ones count.

    Ever counts bonuses that the house was told of too; one that was both sent and told counts twice: the strict side.
    """

    type: Literal["count_cap"]
    most: int = Field(ge=0)
    hours: float | None = Field(default=None, gt=0)

    @property
    def at_send(self) -> bool:
        return True

    @property
    def needs(self) -> tuple[str, ...]:
        return ("bonuses",) if self.hours is None else ()

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        window = None if self.hours is None else int(self.hours * HOUR_US)
        return f"not i.room({to.keep(_counted(self, to.offers, window, {}))}, {self.most}, t)"


class MinGapAfter(RuleBase):
    """20. Silence for some hours after an event."""

    type: Literal["min_gap_after"]
    event: Literal["support_contact", "complaint", "big_loss"]
    hours: float = Field(gt=0)

    @property
    def at_send(self) -> bool:
        return True

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.event,)

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        last = f"i.{self.event}_us"
        return f"{last} is None or t - {last} < {int(self.hours * HOUR_US)}"


class StateBlock(RuleBase):
    """21. Not in a state: withdrawal pending, session running, complaint open, limit raised, has played."""

    type: Literal["state_block"]
    states: tuple[Literal["withdrawal_pending", "in_session", "complaint_open", "limit_raised", "has_played"], ...] = (
        Field(min_length=1)
    )
    days: float = Field(default=30, gt=0)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.states

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        raised = f"i.limit_raised_us is None or i.now_us - i.limit_raised_us < {int(self.days * DAY_US)}"
        return " or ".join(raised if state == "limit_raised" else f"i.{state} is not False" for state in self.states)


class Span(BaseModel):
    """Hours of some weekdays; "24:00" is the end of the day."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    days: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    start: Hour = Field(alias="from")
    end: Hour = Field(alias="to")

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.start >= self.end:
            raise ValueError("a span ends later on the day it begins; what crosses midnight is two spans")
        return self


class TimeWindow(RuleBase):
    """22. Only in these hours of the player's local time; a contact outside is deferred to the next.

    A holiday takes the place of its weekday, and so does the day before one (`eve`) where a span names it. Holidays are
    dates of the rule; a year without any counts as one whole holiday.
    """

    type: Literal["time_window"]
    allow: tuple[Span, ...] = Field(min_length=1)
    holidays: tuple[date, ...] = ()

    @model_validator(mode="after")
    def _knows_holidays(self) -> Self:
        if not self.holidays and any({"holiday", "eve"} & set(span.days) for span in self.allow):
            raise ValueError(f"{self.id}: hours of holidays need the holidays")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        return ("time_zone",)


class SelectionBasis(RuleBase):
    """23. Limits on selecting players: no forbidden readings of the policy, no terms for single players.

    `forbidden` are names of readings (or a pattern with a final `*`) that no policy which serves the player may see;
    `no_inactivity` bars offers that are for some of active, lapsing and lapsed players only.
    """

    type: Literal["selection_basis"]
    forbidden: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+\*?$")], ...] = ()
    shared_only: bool = False
    no_inactivity: bool = False

    def violates(self, offer: Offer, channel: str, money: Money) -> bool:
        idle = {"active", "lapsing", "lapsed"} & set(offer.stages)
        return (self.shared_only and offer.audience != "shared") or (self.no_inactivity and len(idle) in {1, 2})

    def forbids(self, reading: str) -> bool:
        """Whether a policy that uses a reading may not serve."""
        return any(reading.startswith(one[:-1]) if one.endswith("*") else reading == one for one in self.forbidden)


class ContentRequired(RuleBase):
    """24. What a template must and must not contain, and whether it must be approved."""

    type: Literal["content_required"]
    must: tuple[Name, ...] = ()
    must_not: tuple[Name, ...] = ()
    approved: bool = False

    @property
    def asks(self) -> str:
        return f"tag the offer {' and '.join(self.must)}" if self.must else ""

    def violates(self, offer: Offer, channel: str, money: Money) -> bool:
        tags = offer.tags
        if tags is None or (self.approved and offer.approved_on is None):
            return True
        return not set(self.must) <= set(tags) or bool(set(self.must_not) & set(tags))


class ApprovalRequired(RuleBase):
    """25. Only with a person's approval: of the offer, or of checks of a VIP player."""

    type: Literal["approval_required"]
    vip_only: bool = False
    checks_days: float | None = Field(default=None, gt=0)

    @property
    def at_send(self) -> bool:
        return self.checks_days is not None

    def violates(self, offer: Offer, channel: str, money: Money) -> bool:
        return self.checks_days is not None or offer.approval is None

    @property
    def needs(self) -> tuple[str, ...]:
        return (*(("vip",) if self.vip_only else ()), *(("vip_checked",) if self.checks_days else ()))

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:
        parts = ["i.vip is not False"] if self.vip_only else []
        if self.checks_days is not None:
            days = int(self.checks_days * DAY_US)
            parts.append(f"(i.vip_checked_us is None or t - i.vip_checked_us > {days})")
        return " and ".join(parts) or "True"


Rule = (
    JurisdictionScope
    | AccountState
    | ExclusionRegister
    | RegisterFreshness
    | TimeoutActive
    | PostExclusionLock
    | AgeBand
    | HarmGate
    | LossOrDepositThreshold
    | ConsentRequired
    | Suppression
    | ConsentLapse
    | ChannelBan
    | BonusBan
    | MechanicBan
    | SingleProduct
    | TermLimit
    | ValueCap
    | CountCap
    | MinGapAfter
    | StateBlock
    | TimeWindow
    | SelectionBasis
    | ContentRequired
    | ApprovalRequired
)
AnyRule = Annotated[Rule, Field(discriminator="type")]
