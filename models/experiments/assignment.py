"""Assign a player: the variant in each experiment, who chooses, and what is kept from them. Pure.

player's own id --hash by salt--> bucket --owners--> variant, in every layer at once, and beside them the global holdout
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_
from typing import Final, NamedTuple

from models.catalogue.candidates import Candidates, CandidateSpace
from models.catalogue.experiment import BUCKETS, fnv1a32, place
from models.experiments.allocation import owners
from models.experiments.definition import GLOBAL_HOLDOUT, Experiment, Experiments, Layer, LeftOut, Policy, Use, Variant

HOLDOUT: Final = "holdout"
LEFT_OUT: Final = "left_out"
REASONS: Final = (HOLDOUT, GLOBAL_HOLDOUT, LEFT_OUT)
"""Names under which experiments exclude candidates."""


class Membership(NamedTuple):
    """A player's place in one experiment.

    Attributes:
        key: The experiment.
        version: Hash of the release that split it.
        phase: Number of its shares.
        variant: The player's.
        bucket: The player's, in [0, 1).
    """

    key: str
    version: str
    phase: int
    variant: str
    bucket: float


class Assignment(NamedTuple):
    """What the experiments make of a player.

    Attributes:
        memberships: Every experiment that the player is in, layer by layer.
        policy: Who chooses; `learnt` where no experiment says.
        use: What the decision serves for.
        withheld: What experiments keep from the player, by one of REASONS.
    """

    memberships: tuple[Membership, ...] = ()
    policy: Policy = "learnt"
    use: Use = "train"
    withheld: Mapping[str, Candidates] = {}

    @property
    def held_out(self) -> bool:
        """Whether the player gets no marketing at all."""
        return HOLDOUT in self.withheld or GLOBAL_HOLDOUT in self.withheld


class _Split:
    """One experiment, compiled over the candidates of a catalogue."""

    def __init__(self, layer: Layer, experiment: Experiment, version: str, space: CandidateSpace) -> None:
        self._salted, self._layer_salted = fnv1a32(experiment.salt), fnv1a32(f"layer:{layer.layer}:")
        self._range = None if experiment.range == (0.0, 1.0) else [round(end * BUCKETS) for end in experiment.range]
        self._named = (experiment.key, version, experiment.phase)
        variants = {one.name: (one, _withheld(one, space)) for one in experiment.variants}
        self._owned = [None if name is None else variants[name] for name in owners(experiment)]

    def of(self, unit: str) -> tuple[Membership, Variant, Mapping[str, Candidates]] | None:
        """Membership and variant of a unit with what is kept from it; None for one that is not in it."""
        if self._range is not None and not self._range[0] <= place(self._layer_salted, unit) < self._range[1]:
            return None
        at = place(self._salted, unit)
        if (owned := self._owned[at]) is None:
            return None
        variant, withheld = owned
        return Membership(*self._named, variant.name, at / BUCKETS), variant, withheld


class Splits:
    """Everything that splits players, compiled over the candidates of a catalogue.

    Args:
        experiments: What serves.
        space: Where what a variant leaves out is looked up; an offer that it lacks is ignored.
    """

    def __init__(self, experiments: Experiments, space: CandidateSpace) -> None:
        self.experiments = experiments
        self._splits = [
            _Split(layer, experiment, experiments.hash, space)
            for layer in experiments.layers
            for experiment in layer.experiments
        ]
        held = experiments.holdout
        self._held_salted, self._held = (0, 0) if held is None else (fnv1a32(held.salt), round(held.share * BUCKETS))
        self._everything = {GLOBAL_HOLDOUT: space.everything}

    def assign(self, unit: str) -> Assignment:
        """Assign a unit, by its own id."""
        found = [member for split in self._splits if (member := split.of(unit)) is not None]
        held = self._held and place(self._held_salted, unit) < self._held
        if len(found) == 1 and not held:
            ((membership, variant, withheld),) = found
            return Assignment((membership,), variant.policy or "learnt", variant.use, withheld)
        choosing = next((variant for _, variant, _ in found if variant.policy is not None), None)
        return Assignment(
            tuple(membership for membership, _, _ in found),
            "learnt" if choosing is None or choosing.policy is None else choosing.policy,
            "control" if held else _use(variant.use for _, variant, _ in found),
            _union([*(withheld for _, _, withheld in found), *([self._everything] if held else [])]),
        )


_STRICTEST: Final[tuple[Use, ...]] = ("eval", "control", "explore", "train")


def _use(uses: Iterator[Use]) -> Use:
    """What a decision serves for under several variants: the use that learns least."""
    return min(uses, key=_STRICTEST.index, default="train")


def _withheld(variant: Variant, space: CandidateSpace) -> Mapping[str, Candidates]:
    if variant.policy == "none":
        return {HOLDOUT: space.everything}
    if variant.leave_out == LeftOut():
        return {}
    offers, channels = variant.leave_out.offers, variant.leave_out.channels
    return {LEFT_OUT: space.where(lambda offer, channel: offer.id in offers or channel in channels)}


def _union(kept: list[Mapping[str, Candidates]]) -> Mapping[str, Candidates]:
    """What several variants keep back, by reason."""
    return {
        reason: reduce(or_, (withheld.get(reason, 0) for withheld in kept))
        for reason in REASONS
        if any(reason in withheld for withheld in kept)
    }
