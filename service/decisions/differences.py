"""What a replay finds: fields of a record that come out otherwise, and those not recomputed, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from service.decisions.record import BUILD

WITHIN: Final = 1e-9
"""Relative tolerance of numbers that another build made."""

TAKEN: Final[Mapping[str, str]] = {
    "v": "the format that it was written in",
    "brand": "as it was asked",
    "at_us": "the moment that everything else is recomputed for",
    "attempt": "part of what the draw is made of",
    "request": "the digest of a body of which the record keeps only what decided",
    "explain": "as it was asked",
    "purposes": "as it was asked",
    "decision_point": "as it was asked",
    "journey": "the journey's own",
    "shadows": "asked after the answer",
    "stops": "what the house had stopped; what that excludes is recomputed",
    "chain": "checked by `croupier verify`",
    "seen.features": "what everything else is recomputed from",
    "seen.whole": "what everything else is recomputed from",
    "seen.age_seconds": "how far the worker was",
    "seen.facts_version": "the count of the store",
    "seen.ledger_version": "the count of the store",
    "versions.time_zones": "named where this build has other time zones",
    "versions.build": "named where numbers are not those of this build",
}
"""Fields that are taken as they stand, and why; limits among the exclusions are too."""

ERASED: Final = "erased"
OTHER_FEATURES: Final = "other_features"
OTHER_BUILD: Final = "other_build"
OTHER_ZONES: Final = "other_time_zones"
REASONS: Final[Mapping[str, str]] = {
    ERASED: "the player was erased: what was personal is gone",
    "catalogue_not_kept": "the catalogue that it names is not kept",
    "rulebook_not_kept": "the rulebook that it names is not kept",
    "policy_not_kept": "the policy that it names is not kept",
    "churn_model_not_kept": "the churn model that it names is not kept",
    "experiments_not_kept": "the release of experiments that it names is not kept",
    OTHER_FEATURES: "nothing names its features, or it lacks some that this build looks at",
    OTHER_BUILD: f"another build made the numbers: they agree within {WITHIN:g}, not bit for bit",
    OTHER_ZONES: "it was made with other data of time zones, and hours come out otherwise",
}
"""Why something is not recomputed."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a record that comes out otherwise."""

    field: str
    recorded: str
    recomputed: str


@dataclass
class Replayed:
    """What became of a replay.

    Attributes:
        differences: Fields that come out otherwise.
        missing: Why something was not recomputed (one of REASONS) -> its fields.
    """

    differences: list[Difference] = field(default_factory=list)
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`differs`, else `reproduced`, else the first reason why not all was recomputed."""
        return "differs" if self.differences else next(iter(self.missing), "reproduced")

    def same(self, name: str, recorded: object, recomputed: object) -> None:
        """Note a field if it differs."""
        if recorded != recomputed and repr(recorded) != repr(recomputed):  # what is no number equals itself here
            self.differs(name, recorded, recomputed)

    def differs(self, name: str, recorded: object, recomputed: object) -> None:
        """Note a field that differs."""
        self.differences.append(Difference(field=name, recorded=str(recorded), recomputed=str(recomputed)))

    def near(self, name: str, recorded: Any, recomputed: Any, build: str) -> None:  # noqa: ANN401 - numbers, one or many
        """Note numbers that differ: bit for bit on the build that made them, else beyond the tolerance."""
        if np.asarray(recorded, dtype=np.float64).tobytes() == np.asarray(recomputed, dtype=np.float64).tobytes():
            return
        alike = np.shape(recorded) == np.shape(recomputed)
        if build != BUILD and alike and np.allclose(recorded, recomputed, WITHIN, WITHIN, equal_nan=True):
            self.lacks(OTHER_BUILD, name)
        else:
            self.differs(name, numbers(recorded), numbers(recomputed))

    def add(self, other: Replayed, elsewhere: str | None) -> None:
        """Add another's; what differs where something of another build may be the reason is not recomputed."""
        for reason, names in other.missing.items():
            self.lacks(reason, *names)
        if elsewhere is not None and other.differences:
            self.lacks(elsewhere, *(one.field for one in other.differences))
        else:
            self.differences += other.differences

    def lacks(self, reason: str, *names: str) -> None:
        """Note fields that cannot be recomputed."""
        self.missing[reason] = (*self.missing.get(reason, ()), *names)


def numbers(values: Any) -> str:  # noqa: ANN401 - one or many
    """The first of some numbers, as text."""
    listed = np.ravel(values).tolist()
    return ", ".join(map(repr, listed[:3])) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
