"""The immutable serving configuration of a process, replaced as a whole on promotion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from features.read_plan import ReadPlan
from features.store.deployment import House
from features.words import ClosedList, Door
from models.catalogue.candidates import CandidateSpace
from models.churn.scorer import Scorer
from models.experiments.assignment import Splits
from models.policy.context import CHURN
from models.policy.policy import Policy
from service.decisions import reasons
from service.players.sealing import Seals
from service.rules.compiler import CompiledRulebook
from service.rules.rulebook import Rulebook


@dataclass(frozen=True)
class Serving:
    """All that a decision needs besides the player: one immutable set, swapped whole.

    Attributes:
        house: Clock, secret and partitions.
        plan: How features are read; None until definitions were applied.
        law: The rulebook, compiled for the catalogue.
        policies: By the names under which variants ask for them; `priority` serves purposes that no policy draws.
        churn: The churn model, None while none is promoted.
        splits: How experiments split players, over the same catalogue.
        seals: Opens and makes the seals of players.
        lawful: Whether the rulebook that was promoted could be read; else nothing promotional is sent.
        layout: The catalogue as sets of candidates.
        book: The rulebook.
        seen: All that each policy chooses by, under the policy's name.
    """

    house: House
    plan: ReadPlan | None
    law: CompiledRulebook
    policies: Mapping[str, Policy]
    churn: Scorer | None
    splits: Splits
    seals: Seals = field(default_factory=Seals)
    lawful: bool = True
    layout: CandidateSpace = field(init=False)
    book: Rulebook = field(init=False)
    seen: Mapping[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", self.law.layout)
        object.__setattr__(self, "book", self.law.book)
        object.__setattr__(self, "seen", {name: self.seen_by(policy) for name, policy in self.policies.items()})

    @cached_property
    def reasons(self) -> Mapping[str, reasons.Reason]:
        """Every reason that the rulebook can give, by id."""
        return reasons.reasons(self.book)

    @cached_property
    def door(self) -> Door:
        """The closed lists of words, and the rates, that hold where events and requests enter."""
        catalogue = self.layout.catalogue
        return self.book.door._replace(
            offers=ClosedList("offer of the catalogue", catalogue.ids), exchange=self.book.exchange(catalogue.currency)
        )

    def brand(self, name: str) -> str:
        """A brand of the house by any spelling of its name; raises ValueError with the known ones."""
        return self.door.brands.find(name) if self.door.brands else name

    def barred(self, now_us: int) -> dict[str, list[str]]:
        """Places that the policy may not serve, with the readings that bar it; business rules serve there."""
        found = self.book.barred(self.seen["learnt"], now_us)
        return {place: list(readings) for place, readings in found.items()}

    def seen_by(self, policy: Policy) -> tuple[str, ...]:
        """All that a policy chooses by: its readings, and what the churn score among them rests on."""
        churn = self.churn.bundle.features if self.churn and CHURN in policy.readings else ()
        return (*policy.readings, *churn)
