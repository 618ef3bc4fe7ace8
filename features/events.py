"""Typed events about a player: what is accepted, and the flat row for log and lake. docs/events.md says what each does.

Every event names itself, its player, its brand and an aware moment. Unknown types, unknown fields, naive
times and wrong values are refused by the models here; lateness and the future are judged against the
house's clock by `timeliness`, from which what restricts contact is free (`service.players.facts.restricts`).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    model_validator,
)

from features import places, zones
from features.exchange import AnyCase, Currency, Exchange, Exchanged, day_of
from features.moments import MICROSECOND
from features.moments import micros as micros  # noqa: PLC0414 - exported: events are read in microseconds
from features.moments import moment as moment  # noqa: PLC0414
from features.schema import ChannelName, ProductName
from features.unshown import Unshown
from features.words import LOWER, SPELT, listed, nearest

REMEMBERED: Final = timedelta(days=35)
"""How long event ids are remembered; older events enter by import, against the lake."""
SKEW: Final = timedelta(seconds=5)
"""How far a caller's clock may run ahead of the house's."""


def _known_zone(name: str) -> str:
    if zones.known(name) is None:
        raise ValueError(no_zone(name))
    return name


def no_zone(name: str) -> str:
    """Sentence that refuses an unknown zone, with the nearest name."""
    near = nearest(name, sorted(zones.names()))
    return f"{name!r} is no IANA time zone" + (f": did you mean {near}?" if near else "")


def _of_our_time(at: datetime) -> datetime:
    if not _FIRST <= at < _LAST:
        raise ValueError(f"moments lie between {_FIRST:%Y} and {_LAST:%Y}")
    return at


_FIRST: Final = datetime(1970, 1, 2, tzinfo=UTC)
_LAST: Final = datetime(2200, 1, 1, tzinfo=UTC)
# Moment 0 is where a sandbox puts what it assumes: nothing real lies there.
Moment = Annotated[AwareDatetime, AfterValidator(_of_our_time)]
# An event that restricts contact is never refused for its moment; it is clamped to what calendars can count.
AnyMoment = Annotated[AwareDatetime, AfterValidator(lambda at: max(_FIRST, min(at, _LAST)))]
# Printable ASCII without space or braces: ids become parts of keys and of hash tags.
ID_PATTERN: Final = r"^[!-z|~]{1,64}$"
Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Brand = Annotated[str, LOWER, StringConstraints(pattern=r"^[a-z0-9_-]{1,32}$"), listed("brands")]
Jurisdiction = Annotated[str, BeforeValidator(places.spelt), StringConstraints(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")]
# Any text is accepted as a zone; facts keep valid zones only.
ZoneName = Annotated[str, BeforeValidator(zones.spelt), StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,64}$")]
TimeZone = Annotated[ZoneName, AfterValidator(_known_zone)]
Minor = Annotated[int, Field(ge=0, le=10**12)]
# Letters of any script and signs. Without controls, line ends of Unicode, and marks that turn the text around them.
_PLAIN: Final = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
TEXT_PATTERN: Final = rf"^{_PLAIN}{{1,200}}$"
Text = Annotated[str, StringConstraints(pattern=TEXT_PATTERN)]
"""Free text of one line."""
WORD_PATTERN: Final = rf"^{_PLAIN}{{1,64}}$"
Word = Annotated[str, StringConstraints(pattern=WORD_PATTERN)]
"""A short one: what a house names things by."""
Tag = Annotated[Word, listed("tags", kept=True)]
Product = Annotated[ProductName, SPELT]
Channel = Annotated[ChannelName, SPELT]
Scope = Annotated[Literal["brand", "all"], SPELT]
Locale = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Z][a-z]{3})?(-[A-Z]{2})?$")]
"""A language, script and country as in BCP 47: `de`, `pt-BR`, `sr-Latn`."""
Address = Annotated[str, StringConstraints(min_length=3, max_length=320)]
_ADDRESSES: Final = {
    "mail": re.compile(
        r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}"
    ),
    "phone": re.compile(r"\+[1-9][0-9]{6,14}"),
    "push": re.compile(r"[!-~]{8,256}"),
}
_ADDRESS_WORDS: Final = {
    "mail": "a mail address such as anna@example.com, its domain in ASCII",
    "phone": "a number as E.164 writes it, such as +35699123456",
    "push": "a subscription or token of 8 to 256 visible characters",
}
ConsentBasis = Annotated[Literal["express", "soft_opt_in", "implied", "enquiry"], SPELT]
Origin = Annotated[str, LOWER, StringConstraints(pattern=r"^[a-z0-9_.-]{1,64}$")]
RegisterName = Annotated[str, SPELT, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$"), listed("registers")]
HarmLevel = Literal["none", "low", "moderate", "strong"]
LEVELS: Final[tuple[HarmLevel, ...]] = get_args(HarmLevel)
_Level = Annotated[HarmLevel, SPELT]


def _with_a_rate(currency: str | None, info: ValidationInfo) -> str | None:
    """A currency for which there is a rate, None for that of the house; where no rates are known, as it is."""
    exchange, at = _exchange_of(info), info.data.get("occurred_at")
    if exchange is None or currency is None:
        return currency
    if currency != exchange.house and at is not None:
        exchange.rate(currency, day_of(at))
    return None if currency == exchange.house else currency


def _exchange_of(info: ValidationInfo) -> Exchange | None:
    return getattr(info.context, "exchange", None)


SaidIn = Annotated[Currency | None, AnyCase, AfterValidator(_with_a_rate)]
"""The currency in which an event tells its money; None for that of the house."""


class _Event(Unshown, BaseModel):
    """Fields of every event."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    event_id: Id
    player_id: Id
    occurred_at: Moment
    brand: Brand = "main"


class _Gate(_Event):
    """An event that can restrict contact: accepted from any moment, however wrong the caller's clock."""

    occurred_at: AnyMoment


class _WithMoney(_Event):
    """An event with money: exchanged where it enters, at the rate of its day."""

    _exchanged: Exchanged | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _exchange(self, info: ValidationInfo) -> Self:
        said: Any = self
        if said.currency is not None and said.amount_minor is not None and (exchange := _exchange_of(info)) is not None:
            self._exchanged = exchange.exchanged(said.amount_minor, said.currency, day_of(self.occurred_at))
        return self

    def house_money(self) -> dict[str, Any]:
        """Columns of the amount: in the house's currency, and as it was told where that was another.

        Without a rate there is no amount in the house's currency: amounts of two currencies are never added up.
        """
        said: Any = self
        if said.currency is None:
            return {}
        told = {"currency": said.currency, "said_minor": said.amount_minor}
        if self._exchanged is None:
            return {"amount_minor": None, **told}
        house_minor, rate, source = self._exchanged
        return {"amount_minor": house_minor, **told, "rate": rate, "rate_source": source}


class _OfEarlier(_WithMoney):
    """An event with money that undoes what happened before: it belongs to that moment from its own moment on."""

    _SINCE: ClassVar[str]
    """The field that says when that was."""

    @property
    def counts_at(self) -> datetime | None:
        """The moment to which it belongs; None for its own."""
        at: datetime | None = getattr(self, self._SINCE)
        return at

    @model_validator(mode="after")
    def _comes_after(self) -> Self:
        if self.counts_at is not None and self.counts_at > self.occurred_at:
            raise ValueError(f"{self._SINCE}: it lies after occurred_at; what is undone was there before")
        return self


class Registered(_Event):
    """A player opened an account, or what is known of the person changed; `reopened` undoes a closure.

    `jurisdiction` is where the player lives, `licence` the one under which the account is held where it is another.
    """

    type: Literal["registered"]
    jurisdiction: Jurisdiction | None = None
    licence: Jurisdiction | None = None
    time_zone: ZoneName | None = None
    birth_date: date | None = None
    reopened: bool = False


class KycVerified(_Event):
    """Identity and age were verified; a birth date given here is the verified one."""

    type: Literal["kyc_verified"]
    birth_date: date | None = None


class KycRequested(_Event):
    """The player was asked for proof of what `asked` names; that they are verified is told by `kyc_verified` alone."""

    type: Literal["kyc_requested"]
    asked: tuple[Annotated[Literal["identity", "address", "age", "payment", "funds"], SPELT], ...] = Field(
        min_length=1, max_length=5, strict=False
    )


class Login(_Event):
    """The player logged in, or tried to (`result` other than `ok`); `location` is where they were."""

    type: Literal["login"]
    location: Jurisdiction | None = None
    result: Annotated[Literal["ok", "failed", "blocked"], SPELT] = "ok"


class SessionStarted(_Event):
    """A playing session began; `location` is where the player was."""

    type: Literal["session_started"]
    location: Jurisdiction | None = None


class SessionEnded(_Event):
    """A playing session ended."""

    type: Literal["session_ended"]


class Deposit(_WithMoney):
    """Money moved towards play: onto the gambling account, or into a wallet that funds it."""

    type: Literal["deposit"]
    status: Annotated[Literal["approved", "declined"], SPELT]
    method: Text
    amount_minor: Minor
    target: Annotated[Literal["account", "wallet"], SPELT] = "account"
    currency: SaidIn = None


class Chargeback(_OfEarlier):
    """The player's bank or card took an approved deposit back; a deposit is charged back once.

    `deposit_id` is the deposit's `event_id`, `deposited_at` its moment: without it the money is taken back when it was
    charged back.
    """

    _SINCE: ClassVar = "deposited_at"
    type: Literal["chargeback"]
    amount_minor: Minor
    deposit_id: Id | None = None
    deposited_at: Moment | None = None
    method: Text | None = None
    currency: SaidIn = None


class Bet(_WithMoney):
    """A stake was placed; `bet_id` is needed where the bet may be settled or cancelled by that name."""

    type: Literal["bet"]
    amount_minor: Minor
    product: Product
    bet_id: Id | None = None
    currency: SaidIn = None


class BetCancelled(_OfEarlier):
    """A bet was cancelled or voided: `amount_minor` of its stake went back; a bet is cancelled once.

    `placed_at` is when the bet was placed: without it the stake is undone when the bet was cancelled.
    """

    _SINCE: ClassVar = "placed_at"
    type: Literal["bet_cancelled"]
    bet_id: Id
    amount_minor: Minor
    product: Product
    placed_at: Moment | None = None
    currency: SaidIn = None


class BetSettled(_WithMoney):
    """A bet came to its end and paid `amount_minor`, 0 if it was lost; a bet is settled once.

    The payout counts like that of a `win`: tell one of the two, never both.
    """

    type: Literal["bet_settled"]
    bet_id: Id
    amount_minor: Minor
    product: Product
    currency: SaidIn = None


class Win(_WithMoney):
    """A stake paid out; a bet that is told as settled needs none."""

    type: Literal["win"]
    amount_minor: Minor
    product: Product
    currency: SaidIn = None


class WithdrawalRequested(_WithMoney):
    """The player asked for money back."""

    type: Literal["withdrawal_requested"]
    amount_minor: Minor
    method: Text | None = None
    currency: SaidIn = None


class WithdrawalPaid(_WithMoney):
    """A withdrawal was paid out."""

    type: Literal["withdrawal_paid"]
    amount_minor: Minor
    method: Text | None = None
    currency: SaidIn = None


class WithdrawalCancelled(_WithMoney):
    """The player took a withdrawal back (marker M14)."""

    type: Literal["withdrawal_cancelled"]
    amount_minor: Minor
    method: Text | None = None
    currency: SaidIn = None


class SupportContact(_Gate):
    """The player contacted support.

    The tag `harm` marks any mention of harm, debt or loss of control; `complaint` opens a complaint, `resolved` ends
    it, and so does `solved` for a complaint of the same contact. `by` is who answered.
    """

    type: Literal["support_contact"]
    tags: tuple[Tag, ...] = Field(default=(), max_length=16, strict=False)
    by: Annotated[Literal["person", "bot"], SPELT] | None = None
    solved: bool | None = None


class ConsentChanged(_Gate):
    """Consent to be contacted on a channel was given or withdrawn.

    `product` narrows it to one product; `basis` says what it rests on if it was not given in so many words, `origin`
    where it was given (a site, a form).
    """

    type: Literal["consent_changed"]
    channel: Channel
    granted: bool
    product: Product | None = None
    basis: ConsentBasis | None = None
    origin: Origin | None = None


class LimitSet(_Gate, _WithMoney):
    """A limit of the player's own was set, moved or removed."""

    type: Literal["limit_set"]
    limit: Annotated[Literal["deposit", "loss", "stake", "time"], SPELT]
    change: Annotated[Literal["set", "lowered", "raised", "removed"], SPELT]
    amount_minor: Minor | None = None
    currency: SaidIn = None


class LimitReached(_WithMoney):
    """The player came to a limit: money or play was stopped by it. `amount_minor` is the limit."""

    type: Literal["limit_reached"]
    limit: Annotated[Literal["deposit", "loss", "stake", "time"], SPELT]
    amount_minor: Minor | None = None
    currency: SaidIn = None


class TimeOut(_Gate):
    """The player took a break that ends by itself at `until`; beyond the year 2200 counts as its first day."""

    type: Literal["time_out"]
    until: AnyMoment


class AddressChanged(_Event):
    """An address of the player: of mail, phone or a device that takes push messages; `removed` takes it away.

    `verified` tells that the player proved it theirs; `name` is what to call them, `locale` the language to write in.
    """

    type: Literal["address_changed"]
    kind: Annotated[Literal["mail", "phone", "push"], SPELT]
    address: Address
    name: Annotated[str, StringConstraints(pattern=rf"^{_PLAIN}{{1,100}}$")] | None = None
    locale: Locale | None = None
    verified: bool = False
    removed: bool = False

    @model_validator(mode="after")
    def _is_address(self) -> Self:
        if not _ADDRESSES[self.kind].fullmatch(self.address):
            raise ValueError(f"address: {_ADDRESS_WORDS[self.kind]}")
        return self


class SelfExcluded(_Gate):
    """The player excluded themselves; it holds until `exclusion_ended` says otherwise, whatever the calendar."""

    type: Literal["self_excluded"]
    scope: Scope = "all"


class ExclusionEnded(_Event):
    """The player came back by an act of their own; consent must be given anew."""

    type: Literal["exclusion_ended"]
    scope: Scope = "all"


class AccountClosed(_Gate):
    """The account was closed."""

    type: Literal["account_closed"]


class ClosureRequested(_Gate):
    """The player asked for the account to be closed."""

    type: Literal["closure_requested"]


class RegisterChecked(_Gate):
    """A register of excluded people (ROFUS, Spelpaus, GAMSTOP ...) was asked about the player at `occurred_at`."""

    type: Literal["register_checked"]
    register_name: RegisterName
    listed: bool


class ObjectionChanged(_Gate):
    """The player objected to direct marketing and profiling for it (GDPR Art. 21(2)), or took that back."""

    type: Literal["objection_changed"]
    objects: bool


class HarmScored(_Gate):
    """Another system judged the player's level of harm."""

    type: Literal["harm_scored"]
    source: Origin
    level: _Level


class HarmReviewed(_Gate):
    """A person reviewed the signs of harm: from now on this level holds, until signs show again."""

    type: Literal["harm_reviewed"]
    level: _Level


class VipChanged(_Gate):
    """The player became or ceased to be a VIP; `checked` tells that affordability, funds and harm were checked."""

    type: Literal["vip_changed"]
    vip: bool
    checked: bool = False


class BonusGranted(_WithMoney):
    """A bonus was credited, whoever offered it."""

    type: Literal["bonus_granted"]
    amount_minor: Minor
    product: Product | None = None
    currency: SaidIn = None


class SatisfactionRated(_Event):
    """The player rated something on a scale."""

    type: Literal["satisfaction_rated"]
    score: Annotated[int, Field(ge=0, le=10)]
    scale: Literal["1-5", "0-10"]
    about: Text | None = None

    @model_validator(mode="after")
    def _on_its_scale(self) -> Self:
        if not self._ends[0] <= self.score <= self._ends[1]:
            raise ValueError(f"score: {self.score} is not on the scale {self.scale}")
        return self

    @property
    def _ends(self) -> tuple[int, int]:
        least, most = self.scale.split("-")
        return int(least), int(most)

    @property
    def mood(self) -> Literal["low", "middle", "high"]:
        """The half of the scale in which the score lies."""
        twice = 2 * self.score - sum(self._ends)
        return "low" if twice < 0 else "high" if twice > 0 else "middle"


class Identify(_Gate):
    """An anonymous or device id turned out to be the player: from now on both are one person."""

    type: Literal["identify"]
    anonymous_id: Id


class Alias(_Gate):
    """An id by which the player was known before, such as one of another system."""

    type: Literal["alias"]
    previous_id: Id


class HouseholdChanged(_Gate):
    """The player joined a household, whose members share caps, or left it (`household_id` null)."""

    type: Literal["household_changed"]
    household_id: Id | None


Event = (
    Registered
    | KycVerified
    | KycRequested
    | Login
    | SessionStarted
    | SessionEnded
    | Deposit
    | Chargeback
    | Bet
    | BetCancelled
    | BetSettled
    | Win
    | WithdrawalRequested
    | WithdrawalPaid
    | WithdrawalCancelled
    | SupportContact
    | ConsentChanged
    | LimitSet
    | LimitReached
    | TimeOut
    | SelfExcluded
    | ExclusionEnded
    | ClosureRequested
    | AccountClosed
    | AddressChanged
    | RegisterChecked
    | ObjectionChanged
    | HarmScored
    | HarmReviewed
    | VipChanged
    | BonusGranted
    | SatisfactionRated
    | Identify
    | Alias
    | HouseholdChanged
)
AnyEvent = Annotated[Event, Field(discriminator="type")]
EVENT: Final[TypeAdapter[Event]] = TypeAdapter(AnyEvent)


def type_of(kind: type[BaseModel]) -> str:
    """The type of the events that a model is of."""
    return str(get_args(kind.model_fields["type"].annotation)[0])


EVENT_TYPES: Final = tuple(map(type_of, get_args(Event)))
"""The types of events."""

PERSONAL: Final = frozenset({"birth_date", "anonymous_id", "previous_id", "household_id", "address", "name"})
"""Fields that log and lake hold sealed only."""
_KEPT_APART: Final = PERSONAL | {"player_id", "currency"}
_COLUMNS: Final = frozenset(
    {"event_id", "type", "occurred_at", "brand", "amount_minor", "status", "method", "target", "product", "channel"}
)


def timeliness(occurred_us: int, now_us: int) -> Literal["ahead", "old"] | None:
    """Whether a moment is `ahead` of the house's clock beyond SKEW, or too `old` for its id to be remembered."""
    if occurred_us > now_us + SKEW // MICROSECOND:
        return "ahead"
    return "old" if occurred_us < now_us - REMEMBERED // MICROSECOND else None


def of_our_time(event: Event) -> bool:
    """Whether the moment of an event lies between 1970 and 2200; events that restrict contact are clamped to it."""
    return _FIRST < event.occurred_at < _LAST


def row(event: Event) -> dict[str, Any]:
    """Flat columns of an event for log and lake, without personal fields and player id.

    Fields that are no column of their own go to `detail`; times are unix microseconds.
    """
    flat: dict[str, Any] = {}
    detail: dict[str, Any] = {}
    for name, value in event.__dict__.items():
        if value is None or name in _KEPT_APART:
            continue
        if name in _COLUMNS:
            flat[name] = value
        else:
            detail[name] = _plain(value)
    match event:
        case LimitSet():
            flat["status"] = event.change
        case Login() if event.result != "ok":
            flat["status"] = event.result
        case SatisfactionRated():
            flat["status"] = event.mood
        case _:
            pass
    flat["occurred_at"] = micros(event.occurred_at)
    if isinstance(event, _OfEarlier) and event.counts_at is not None:
        flat["counts_at"] = micros(event.counts_at)
    if isinstance(event, _WithMoney):
        flat |= event.house_money()
    return flat | ({"detail": detail} if detail else {})


def personal(event: Event) -> dict[str, str]:
    """Personal fields of an event as text; empty for most."""
    held = event.__dict__
    if PERSONAL.isdisjoint(held):
        return {}
    return {name: str(_plain(held[name])) for name in PERSONAL if held.get(name) is not None}


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value


def once(type_: str, event_id: str, of: str | None) -> str:
    """The name under which an event counts once for its player: its id, or kind and id of what can happen once only.

    Args:
        type_: Of the event.
        event_id: Of the event.
        of: Id of the bet that it settles or cancels, or of the deposit that it charges back.
    """
    return event_id if of is None or type_ not in ONCE else f"{type_}{_OF}{of}"


_OF: Final = "\x1f"
"""In no id: what happens once is never taken for an event of that name."""
ONCE: Final = {"bet_cancelled": "bet_id", "bet_settled": "bet_id", "chargeback": "deposit_id"}
"""Types of what happens once to a bet or deposit, and the field that names it."""


def unique(event: Event) -> str:
    """The name under which an event counts once for its player; see `once`."""
    of = ONCE.get(event.type)
    return event.event_id if of is None else once(event.type, event.event_id, getattr(event, of))


def is_id(text: str) -> bool:
    """Whether a text is a valid id of a player, event, request or outcome."""
    return re.fullmatch(ID_PATTERN.strip("^$"), text) is not None
