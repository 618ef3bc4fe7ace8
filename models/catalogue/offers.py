"""Actions (offer x channel x timing slot, or no contact) and the catalogue that defines them.

The candidates of a catalogue have fixed places: 0 is `NO_CONTACT`, then offer by offer, channel by channel,
slot by slot. Masks, scores and probabilities are arrays over these places, so a record needs no names.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import date, datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from features import zones
from features.events import Channel, Jurisdiction, Product, micros
from features.exchange import Currency
from features.files import load_yaml
from features.moments import MINUTE_US
from features.schema import CHANNELS, TIMING_SLOTS
from features.words import unknown
from models.catalogue.hashed import CATALOGUE
from models.catalogue.limits import Budget, Cap, ContactGroup, Gap, LookBack, Name, Pause

NO_CONTACT: Final = 0
"""Place of the action that leaves the player alone; always eligible."""
SLOTS: Final = tuple(TIMING_SLOTS)
_DAY_US: Final = 86_400_000_000
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()

Purpose = Literal["marketing", "bonus", "service", "rg_intervention", "regulatory"]
PROMOTIONAL: Final = frozenset[Purpose]({"marketing", "bonus"})
"""Purposes that rules may silence and that a policy draws from."""
Variant = Literal["holdout", "business_rules", "policy", "uniform"]
Stage = Literal["new", "never_deposited", "first_deposit", "active", "lapsing", "lapsed"]
OfferKind = Literal["message", "deposit_bonus", "free_bet", "free_spins", "cashback", "gift", "vip"]
Mechanic = Literal[
    "welcome",
    "reload",
    "win_back",
    "cashback",
    "refer_a_friend",
    "for_consent",
    "cancel_withdrawal",
    "urgency",
    "in_play",
    "recover_losses",
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BonusTerms(_Part):
    """Conditions of a bonus. A missing one is unknown, and a rule that needs it denies.

    Attributes:
        wagering: How many times the base must be staked.
        wagering_base: What is staked so many times.
        validity_days: Days to meet the terms.
        deposit_share: Deposit or stake asked for, as a share of the bonus' value; 0 for none.
        prior_bet: Whether the bonus follows a bet that was placed, rather than coming before one.
        full_weight: Whether every game counts in full.
        spin_stake_minor: Stake of a free spin; `spin_stake_local` in a currency that a law speaks of.
        qualifying_products, reward_products: Where the player must play, and where the bonus can be used.
        free_choice: Whether the player may use it wherever they like.
    """

    wagering: float | None = Field(default=None, ge=0)
    wagering_base: Literal["bonus", "deposit", "deposit_and_bonus", "winnings"] | None = None
    validity_days: float | None = Field(default=None, gt=0)
    deposit_share: float | None = Field(default=None, ge=0)
    prior_bet: bool | None = None
    full_weight: bool | None = None
    spin_stake_minor: int | None = Field(default=None, ge=0)
    spin_stake_local: dict[Currency, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    qualifying_products: tuple[Product, ...] | None = None
    reward_products: tuple[Product, ...] | None = None
    free_choice: bool = False


class Offer(_Part):
    """An offer. Money in minor units of the house currency.

    Attributes:
        kind: What it is by its nature; a bonus is never a mere message.
        category: A word of the house's own, by which limits may count.
        mechanics: How it works on the player; None for unknown.
        local: Its advertised value in currencies that laws name, minor units.
        audience: Whether everybody gets the same terms.
        tags: What its template says and shows; None for unknown.
        approved_on: When its template was approved.
        approval: Under which number a person approved it.
    """

    id: Name
    name: str
    template: str
    parameters: dict[str, Any]
    value_minor: int = Field(ge=0)
    cost_minor: int = Field(ge=0)
    purpose: Purpose
    product: Product
    jurisdictions: tuple[Jurisdiction, ...]
    stages: tuple[Stage, ...]
    priority: int = Field(ge=0)
    lever: float = Field(gt=0)
    category: Name | None = None
    kind: OfferKind = "message"
    mechanics: tuple[Mechanic, ...] | None = None
    terms: BonusTerms = BonusTerms()
    local: dict[Currency, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    audience: Literal["shared", "individual"] | None = None
    tags: tuple[Name, ...] | None = None
    approved_on: date | None = None
    approval: str | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.purpose == "bonus" and self.kind == "message":
            raise ValueError(f"{self.id}: a bonus must say its kind")
        if self.purpose != "bonus" and (self.kind != "message" or self.value_minor):
            raise ValueError(f"{self.id}: what is worth something is of purpose bonus, whatever it is called")
        return self

    @property
    def promotional(self) -> bool:
        """Whether rules may deny it and a policy may draw it."""
        return self.purpose in PROMOTIONAL


class ChannelTerms(_Part):
    """Cost of a contact on a channel, minor units."""

    cost_minor: int = Field(ge=0)


class Experiment(_Part):
    """Randomised split of players into variants; shares sum to 1."""

    key: Name
    variants: dict[Variant, Annotated[float, Field(ge=0, le=1)]]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(sum(self.variants.values()) - 1.0) > 1e-9:
            raise ValueError("the shares of the variants must sum to 1")
        return self


class Catalogue(_Part):
    """Offers, channels and limits of one dated file; `currency` is the house's.

    Attributes:
        experiment: Splits players until a release of experiments does.
    """

    version: Literal[1]
    currency: Currency = "EUR"
    channels: dict[Channel, ChannelTerms]
    offers: tuple[Offer, ...] = Field(min_length=1, max_length=200)
    caps: tuple[Cap, ...]
    gaps: tuple[Gap, ...] = ()
    pauses: tuple[Pause, ...] = ()
    budgets: tuple[Budget, ...] = ()
    experiment: Experiment | None = None
    exploration_floor: float = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("two offers share an id")
        if set(self.channels) != set(CHANNELS):
            raise ValueError(f"channels must be exactly {', '.join(CHANNELS)}")
        for kind in (self.caps, self.gaps, self.pauses, self.budgets):
            if len({one.id for one in kind}) != len(kind):
                raise ValueError("two caps, gaps, pauses or budgets share an id")
        _refuse_unknown("offer", [group.offer for group in self.groups], set(self.ids))
        _refuse_unknown("category", [group.category for group in self.groups], {one.category for one in self.offers})
        return self

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the offers, in file order."""
        return tuple(offer.id for offer in self.offers)

    @property
    def groups(self) -> list[ContactGroup]:
        """Groups named by the limits."""
        pairs = [group for gap in self.gaps for group in (gap.of, gap.after)]
        return [*self.caps, *pairs, *(one.of for one in self.pauses), *(one.group for one in self.budgets)]

    @cached_property
    def hash(self) -> str:
        """Content hash; decisions log it."""
        return CATALOGUE.hash(self)

    @cached_property
    def look_back(self) -> LookBack:
        """How far back its limits look."""
        return LookBack(
            max((*(cap.reach_us for cap in self.caps), *(gap.reach_us for gap in self.gaps)), default=0),
            max((one.reach_us for one in self.pauses), default=0),
            tuple(cap for cap in self.caps if cap.lifetime),
        )

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Number of offers, of channels and of timing slots."""
        return len(self.offers), len(CHANNELS), len(SLOTS)

    @cached_property
    def size(self) -> int:
        """Number of candidates, `NO_CONTACT` included."""
        offers, channels, slots = self.shape
        return 1 + offers * channels * slots

    def action(self, place: int) -> Action:
        """The contact at a place of the candidates (`NO_CONTACT` excluded)."""
        _, channels, slots = self.shape
        offer, rest = divmod(place - 1, channels * slots)
        channel, slot = divmod(rest, slots)
        return Action(self.offers[offer], CHANNELS[channel], SLOTS[slot])

    def place(self, offer: str, channel: str, timing_slot: str) -> int:
        """Place of a contact by its names; raises ValueError for an action that the catalogue lacks."""
        _, channels, slots = self.shape
        offers = [one.id for one in self.offers]
        return 1 + (offers.index(offer) * channels + CHANNELS.index(channel)) * slots + SLOTS.index(timing_slot)


def _refuse_unknown(kind: str, named: Iterable[str | None], known: AbstractSet[str | None]) -> None:
    for one in named:
        if one is not None and one not in known:
            raise ValueError(f"a limit: {unknown(one, kind, sorted(filter(None, known)))}")


class Action(NamedTuple):
    """A contact: offer, channel and timing slot."""

    offer: Offer
    channel: str
    timing_slot: str


def load_catalogue(path: Path) -> Catalogue:
    """Read a catalogue file; raises CatalogueError naming file and field."""
    return load_yaml(path, Catalogue)


class Window(NamedTuple):
    """Sending window of a timing slot: when a contact would be sent and when the slot ends, unix microseconds."""

    send_us: int
    ends_us: int


@lru_cache(maxsize=10_000)
def slots_at(minute: int, zone: str) -> tuple[Window, ...]:
    """Current or next occurrence of every slot in a minute since 1970, in an IANA zone; of one that runs, its rest."""
    return tuple(send_window(slot, minute * MINUTE_US, zone) for slot in SLOTS)


def send_window(timing_slot: str, now_us: int, zone: str) -> Window:
    """Current or next occurrence of a slot in an IANA zone; inside a slot, sending starts at once."""
    today = now_us // _DAY_US
    # Yesterday's occurrence may still run, and zones are up to a day apart from UTC.
    for day in range(today - 2, today + 3):
        opens, closes = _occurrence(timing_slot, day, zone)
        if closes > now_us:
            return Window(max(opens, now_us), closes)
    raise AssertionError("a slot recurs every day")


@lru_cache(maxsize=10_000)
def _occurrence(timing_slot: str, day: int, zone: str) -> tuple[int, int]:
    """Start and end of a slot on a local date (days since 1970), unix microseconds."""
    start, end = TIMING_SLOTS[timing_slot]
    opens = date.fromordinal(_EPOCH_DAY + day)
    closes = opens if start < end else opens + timedelta(days=1)
    local = zones.zone(zone)
    return micros(datetime.combine(opens, start, local)), micros(datetime.combine(closes, end, local))
