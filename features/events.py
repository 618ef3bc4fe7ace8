"""Typed events about a player: what is accepted, and the flat row for log and lake.

Every event names itself, its player, its brand and an aware moment. Unknown types, unknown fields, naive
times and wrong values are refused by the models here; lateness and the future are judged against the
house's clock by `timeliness`, from which what restricts contact is free (`service.players.facts.restricts`).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
)

from features import places, zones
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
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 ._:/-]{1,64}$")]
Tag = Annotated[Word, listed("tags", kept=True)]
Product = Annotated[ProductName, SPELT]
Channel = Annotated[ChannelName, SPELT]
Scope = Annotated[Literal["brand", "all"], SPELT]
ConsentBasis = Annotated[Literal["express", "soft_opt_in", "implied", "enquiry"], SPELT]
Origin = Annotated[str, LOWER, StringConstraints(pattern=r"^[a-z0-9_.-]{1,64}$")]
RegisterName = Annotated[str, SPELT, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$"), listed("registers")]
HarmLevel = Literal["none", "low", "moderate", "strong"]
LEVELS: Final[tuple[HarmLevel, ...]] = get_args(HarmLevel)
_Level = Annotated[HarmLevel, SPELT]


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


class Login(_Event):
    """The player logged in; `location` is where they were."""

    type: Literal["login"]
    location: Jurisdiction | None = None


class SessionStarted(_Event):
    """A playing session began; `location` is where the player was."""

    type: Literal["session_started"]
    location: Jurisdiction | None = None


class SessionEnded(_Event):
    """A playing session ended."""

    type: Literal["session_ended"]


class Deposit(_Event):
    """Money moved towards play: onto the gambling account, or into a wallet that funds it."""

    type: Literal["deposit"]
    status: Annotated[Literal["approved", "declined"], SPELT]
    method: Word
    amount_minor: Minor
    target: Annotated[Literal["account", "wallet"], SPELT] = "account"


class Bet(_Event):
    """A stake was placed."""

    type: Literal["bet"]
    amount_minor: Minor
    product: Product


class Win(_Event):
    """A stake paid out."""

    type: Literal["win"]
    amount_minor: Minor
    product: Product


class WithdrawalRequested(_Event):
    """The player asked for money back."""

    type: Literal["withdrawal_requested"]
    amount_minor: Minor
    method: Word | None = None


class WithdrawalPaid(_Event):
    """A withdrawal was paid out."""

    type: Literal["withdrawal_paid"]
    amount_minor: Minor
    method: Word | None = None


class WithdrawalCancelled(_Event):
    """The player took a withdrawal back (marker M14)."""

    type: Literal["withdrawal_cancelled"]
    amount_minor: Minor
    method: Word | None = None


class SupportContact(_Gate):
    """The player contacted support.

    The tag `harm` marks any mention of harm, debt or loss of control; `complaint` opens a complaint, `resolved` ends
    it.
    """

    type: Literal["support_contact"]
    tags: tuple[Tag, ...] = Field(default=(), max_length=16, strict=False)


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


class LimitSet(_Gate):
    """A limit of the player's own was set, moved or removed."""

    type: Literal["limit_set"]
    limit: Annotated[Literal["deposit", "loss", "stake", "time"], SPELT]
    change: Annotated[Literal["set", "lowered", "raised", "removed"], SPELT]
    amount_minor: Minor | None = None


class TimeOut(_Gate):
    """The player took a break that ends by itself at `until`; beyond the year 2200 counts as its first day."""

    type: Literal["time_out"]
    until: AnyMoment


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


class BonusGranted(_Event):
    """A bonus was credited, whoever offered it."""

    type: Literal["bonus_granted"]
    amount_minor: Minor
    product: Product | None = None


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
    | Login
    | SessionStarted
    | SessionEnded
    | Deposit
    | Bet
    | Win
    | WithdrawalRequested
    | WithdrawalPaid
    | WithdrawalCancelled
    | SupportContact
    | ConsentChanged
    | LimitSet
    | TimeOut
    | SelfExcluded
    | ExclusionEnded
    | ClosureRequested
    | AccountClosed
    | RegisterChecked
    | ObjectionChanged
    | HarmScored
    | HarmReviewed
    | VipChanged
    | BonusGranted
    | Identify
    | Alias
    | HouseholdChanged
)
AnyEvent = Annotated[Event, Field(discriminator="type")]
EVENT: Final[TypeAdapter[Event]] = TypeAdapter(AnyEvent)

PERSONAL: Final = frozenset({"birth_date", "anonymous_id", "previous_id", "household_id"})
"""Fields that log and lake hold sealed only."""
_KEPT_APART: Final = PERSONAL | {"player_id"}
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
    if isinstance(event, LimitSet):
        flat["status"] = event.change
    flat["occurred_at"] = micros(event.occurred_at)
    return flat | ({"detail": detail} if detail else {})


def personal(event: Event) -> dict[str, str]:
    """Personal fields of an event as text; empty for most."""
    held = event.__dict__
    return {name: str(_plain(held[name])) for name in PERSONAL if held.get(name) is not None}


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value


def is_id(text: str) -> bool:
    """Whether a text is a valid id of a player, event, request or outcome."""
    return re.fullmatch(ID_PATTERN.strip("^$"), text) is not None
