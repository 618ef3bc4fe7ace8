"""Base of all rules: common fields, and what each type defines (coverage, violation, condition). Pure data.

A rule covers some candidates (by purposes, channels, products, kinds) and denies those that violate it while its
condition on the player holds. `violates` is evaluated once per offer and channel when a rulebook is compiled; `denies`
is the condition as a Python expression over `i` (`Inputs`) and, where the sending moment matters, over `t`. An unknown
input makes every condition hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from features import zones
from features.events import Channel, Jurisdiction, Product
from features.moments import micros
from models.catalogue.offers import Offer, OfferKind

RuleId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,47}$")]
Promotional = Literal["marketing", "bonus"]
Confidence = Literal["R", "T", "M", "weak", "house"]
State = Literal["on", "off", "strict"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun", "holiday", "eve"]


def _hour(text: object) -> str:
    # YAML reads an unquoted 21:00 as the number 1260, and a zone of its own would not be the player's.
    if not isinstance(text, str) or re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d|24:00", text) is None:
        raise ValueError('an hour is written in quotes as "21:00"')
    return text


Hour = Annotated[str, BeforeValidator(_hour)]


def _plain(text: str) -> str:
    if "\n" in text.strip():
        raise ValueError("a reason is one line")
    return text


Sentence = Annotated[str, StringConstraints(min_length=8, max_length=400), AfterValidator(_plain)]


class ConditionGroup(NamedTuple):
    """Part of the candidates that a condition depends on: a channel, product or offer, or all."""

    channel: str = ""
    product: str = ""
    offer: str = ""

    def holds(self, offer: Offer, channel: str) -> bool:
        """Whether an offer on a channel belongs to the group."""
        return self.channel in {"", channel} and self.product in {"", offer.product} and self.offer in {"", offer.id}


class Money(NamedTuple):
    """Currency conversion into house minor units; None where no rate is known."""

    currency: str
    exchange: dict[str, float]

    def house(self, amount_minor: float, currency: str) -> float | None:
        """Convert an amount to minor units of the house currency."""
        if currency == self.currency:
            return amount_minor
        rate = self.exchange.get(currency)
        return None if rate is None else amount_minor * rate

    def worth(self, offer: Offer, currency: str) -> float | None:
        """Value of an offer in a currency: as advertised to players, else by the house's rate."""
        if currency == self.currency:
            return offer.value_minor
        if currency in offer.local:
            return offer.local[currency]
        rate = self.exchange.get(currency)
        return None if rate is None else offer.value_minor / rate


class ConditionContext(NamedTuple):
    """What a rule type may use to write its condition.

    Attributes:
        money: Amounts in the house's currency.
        offers: Offers of the catalogue.
        zone: Time zone of the dates in the rule's pack.
        keep: Stores a constant that has no literal, returns its name.
    """

    money: Money
    offers: Sequence[Offer]
    zone: str
    keep: Callable[[Any], str]

    def midnight_us(self, day: date) -> int:
        """Start of a day in the pack's zone, unix microseconds."""
        return micros(datetime.combine(day, time(), zones.zone(self.zone)))


class RuleBase(BaseModel):
    """Common fields of all rules.

    Attributes:
        reason: Why a contact is denied, for callers and compliance officers.
        purposes: Purposes that it denies; messages of other purposes pass every rule.
        channels, products, kinds: What it covers; all where omitted.
        jurisdictions: Where it binds; in all of its pack's where omitted.
        valid_from, valid_to: First day, and first day after; in the pack's time zone, by the moment of sending.
        checked_on: Day it was last compared with its source; the pack's where omitted.
        confidence: R a regulator's, statute's or court's text was seen, T a law firm's or the press', M from memory,
            weak contradictory or doubtful, house our own policy.
        state: `off` for rules that are not applied, `strict` for those applied in the strictest reading of a doubt.
        note: The doubt, and why it ships as it does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    grain: ClassVar[tuple[str, ...]] = ()
    id: RuleId
    reason: Sentence
    purposes: tuple[Promotional, ...] = ("marketing", "bonus")
    channels: tuple[Channel, ...] | None = Field(default=None, min_length=1)
    products: tuple[Product, ...] | None = Field(default=None, min_length=1)
    kinds: tuple[OfferKind, ...] | None = Field(default=None, min_length=1)
    jurisdictions: tuple[Jurisdiction, ...] | None = Field(default=None, min_length=1)
    valid_from: date
    valid_to: date | None = None
    source: Sentence
    checked_on: date | None = None
    confidence: Confidence
    state: State = "on"
    note: str = ""

    @model_validator(mode="after")
    def _honest(self) -> Self:
        """Refuse a doubtful rule that ships as `on`, or one that is not `on` without a note."""
        if self.confidence in {"M", "weak"} and self.state == "on":
            raise ValueError(f"{self.id}: confidence {self.confidence} ships `off` or `strict`, never `on`")
        if self.state != "on" and not self.note:
            raise ValueError(f"{self.id}: a rule that is {self.state} needs a note that says why")
        if self.valid_to is not None and self.valid_to <= self.valid_from:
            raise ValueError(f"{self.id}: valid_to must lie after valid_from")
        return self

    def covers(self, offer: Offer, channel: str) -> bool:
        """Whether the rule applies to an offer on a channel."""
        return (
            offer.purpose in self.purposes
            and (self.channels is None or channel in self.channels)
            and (self.products is None or offer.product in self.products)
            and (self.kinds is None or offer.kind in self.kinds)
        )

    def violates(self, offer: Offer, channel: str, money: Money) -> bool:  # noqa: ARG002 - the types that ask more say so
        """Whether the rule denies an offer on a channel while its condition holds; unknown terms violate."""
        return True

    @property
    def at_send(self) -> bool:
        """Whether the condition depends on the moment of sending."""
        return False

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the inputs that must be known, fresh and not in the future; otherwise the condition holds."""
        return ()

    @property
    def asks(self) -> str:
        """Data that must be provided to meet the rule, in words of events and catalogue; empty for none."""
        return ""

    def denies(self, group: ConditionGroup, to: ConditionContext) -> str:  # noqa: ARG002
        """The condition as a Python expression; `True` if the candidate alone violates the rule."""
        return "True"
