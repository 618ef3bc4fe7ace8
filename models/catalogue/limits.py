"""Contact limits of the catalogue: caps, gaps, pauses and budgets.

A limit holds for a *group* of promotional contacts and denies what would overflow it. Caps, gaps and pauses look at
contacts of one player, of the player's household, or of one brand; budgets count the cost of an offer over all players.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from features.events import Channel, TimeZone
from features.schema import DAY, MICROS

HOUR_US: Final = 3_600 * MICROS
DAY_US: Final = DAY * MICROS
YEARS: Final = 10 * 366
"""Days that a limit looks back over at most, unless it holds for life."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Scope = Literal["player", "household", "brand"]
Calendar = Literal["day", "week"]
Response = Literal["sent", "delivered", "failed", "cancelled", "opened", "clicked", "unsubscribed", "complained"]
"""What may become of a contact."""


class ContactGroup(BaseModel):
    """A group of promotional contacts: all, or those of a channel, offer, category or purpose."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    channel: Channel | None = None
    offer: Name | None = None
    category: Name | None = None
    purpose: Literal["marketing", "bonus"] | None = None

    def holds(self, purpose: str, offer: str, category: str | None, channel: str) -> bool:
        """Whether a contact belongs to the group."""
        return (
            purpose in {"marketing", "bonus"}
            and self.channel in (None, channel)
            and self.offer in (None, offer)
            and self.category in (None, category)
            and self.purpose in (None, purpose)
        )


class _Limit(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    id: Name
    scope: Scope = "player"


class Cap(_Limit, ContactGroup):
    """At most `contacts` of a group in any window of `hours`, per day or week of the player's zone, or for life.

    Attributes:
        scope: Whose contacts count: the player's (linked ids included), the household's, or the player's of one brand.
        keep: How many of them are kept for offers of the priority `keep_for` or higher.
    """

    contacts: int = Field(ge=0)
    hours: float | None = Field(default=None, gt=0, le=YEARS * 24)
    calendar: Calendar | None = None
    lifetime: bool = False
    keep: int = Field(default=0, ge=0)
    keep_for: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.hours is not None) + (self.calendar is not None) + self.lifetime != 1:
            raise ValueError(f"{self.id}: a cap says one of hours, calendar and lifetime")
        if self.keep > self.contacts or bool(self.keep) != bool(self.keep_for):
            raise ValueError(f"{self.id}: keep is at most contacts, and keep_for says for which priority")
        return self

    @property
    def window_us(self) -> int:
        """Length of a sliding window, microseconds; raises TypeError for other caps."""
        if self.hours is None:
            raise TypeError(f"{self.id} has no sliding window")
        return int(self.hours * HOUR_US)

    @property
    def reach_us(self) -> int:
        """How long a contact counts, microseconds; a local day may last 25 hours. 0 for life: see `lifetime`."""
        spans = {"day": 2 * DAY_US, "week": 8 * DAY_US}
        return 0 if self.lifetime else spans[self.calendar] if self.calendar else self.window_us


class Gap(_Limit):
    """A distance between contacts: none of `of` within `hours` after one of `after`.

    Without groups it is the least time between any two contacts.
    """

    hours: float = Field(gt=0, le=YEARS * 24)
    of: ContactGroup = ContactGroup()
    after: ContactGroup = ContactGroup()

    @property
    def reach_us(self) -> int:
        """The distance, microseconds."""
        return int(self.hours * HOUR_US)


class Pause(_Limit):
    """After `responses` of one type to contacts of a group within `days`, the group pauses for `pause_days`."""

    scope: Literal["player", "brand"] = "player"
    type: Response
    responses: int = Field(ge=1)
    days: float = Field(gt=0, le=YEARS)
    pause_days: float = Field(gt=0, le=YEARS)
    of: ContactGroup = ContactGroup()

    @property
    def within_us(self) -> int:
        """Span that must contain all the responses, microseconds."""
        return int(self.days * DAY_US)

    @property
    def pause_us(self) -> int:
        """Length of the pause, microseconds."""
        return int(self.pause_days * DAY_US)

    @property
    def reach_us(self) -> int:
        """How long a response counts, microseconds."""
        return self.within_us + self.pause_us


class Budget(BaseModel):
    """Daily budget over all players, minor units, for an offer, category or purpose.

    A contact charges the `cost_minor` of its offer to the day of the zone in which it is to be sent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: Name
    cost_minor: int = Field(ge=0, le=10**12)
    offer: Name | None = None
    category: Name | None = None
    purpose: Literal["marketing", "bonus"] | None = None
    time_zone: TimeZone = "UTC"

    @property
    def group(self) -> ContactGroup:
        """Group of contacts that the budget pays for."""
        return ContactGroup(offer=self.offer, category=self.category, purpose=self.purpose)


class LookBack(NamedTuple):
    """How far back the limits of a catalogue look.

    Attributes:
        contacts_us: How long a contact counts at most, microseconds, but for `lifetime`.
        responses_us: How long a response counts at most, microseconds.
        lifetime: Caps that count contacts for life.
    """

    contacts_us: int
    responses_us: int
    lifetime: tuple[Cap, ...]
