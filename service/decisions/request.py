"""A request for a decision, as callers send it."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from features.events import Brand, Channel, Id, Product, Text, Word
from features.forms import Form
from features.unshown import Unshown
from features.words import SPELT, listed
from models.catalogue.offers import PROMOTIONAL, Purpose
from service.decisions.eligibility import Asked

OfferName = Annotated[Word, listed("offers")]
Position = Annotated[str, Field(pattern=r"^p\d{3}:\d{1,20}-\d{1,20}$")]


_FORM: Final = Form(
    "player_id brand request_id decision_point channels offers purpose context explain dry_run activate after",
    "deadline_ms",
    context=Form("product page device locale"),
)
"""What of a request is its content; how long the caller waits is none of it."""


class Context(Unshown, BaseModel):
    """What the caller knows of the moment; only these keys are taken."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    product: Product | None = None
    page: Text | None = None
    device: Annotated[Literal["desktop", "mobile", "tablet"], SPELT] | None = None
    locale: Annotated[str, Field(pattern=r"^[a-z]{2}(-[A-Z]{2})?$")] | None = None


class DecisionRequest(Unshown, BaseModel):
    """A request for a decision: what now for this player?"""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    player_id: Id = Field(description="Your id of the player.")
    brand: Brand = Field(default="main", description="Brand the contact is for.")
    request_id: Id | None = Field(default=None, description="Yours, unique per player: a retry gets the same answer.")
    decision_point: Text | None = Field(default=None, description="Where in your flow you ask; logged.")
    channels: tuple[Channel, ...] | None = Field(default=None, min_length=1, description="Only these channels.")
    offers: tuple[OfferName, ...] | None = Field(default=None, min_length=1, max_length=200, description="Only these.")
    purpose: Annotated[Purpose, SPELT] | None = Field(
        default=None, description="One purpose; without it, marketing and bonus."
    )
    context: Context | None = None
    explain: bool = Field(default=False, description="Answer with every reason and number.")
    dry_run: bool = Field(default=False, description="Decide without reserving or logging.")
    activate: bool = Field(default=False, description="Confirm at once, for what is shown right now.")
    after: Position | None = Field(default=None, description="Wait until features include this event position.")
    deadline_ms: Annotated[int, Field(ge=1, le=30_000)] | None = Field(
        default=None, description="How long you can wait for the answer, ms; by default 250."
    )

    deliver: bool | None = Field(
        default=None, description="Whether the house sends the contact; as the house is set up, by default not."
    )

    @cached_property
    def purposes(self) -> frozenset[Purpose]:
        """Purposes asked for."""
        return PROMOTIONAL if self.purpose is None else frozenset((self.purpose,))

    @property
    def asked(self) -> Asked:
        """What the answer may be about."""
        return Asked(
            self.brand,
            self.purposes,
            None if self.channels is None else frozenset(self.channels),
            None if self.offers is None else frozenset(self.offers),
            self.activate,
        )

    @property
    def digest(self) -> bytes:
        """Sixteen bytes that stand for the body."""
        return hashlib.blake2b(_FORM.json(self), digest_size=16).digest()
