"""Which buckets each variant owns, and who moves when shares change: only who must. Pure.

shares --sizes--> owners of the 10,000 buckets --spans--> intervals of each variant
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final, TypeVar

from pydantic import BaseModel

from models.catalogue.experiment import BUCKETS, variant_at
from models.catalogue.offers import Experiment as Block
from models.experiments.definition import Experiment, Experiments, Layer, Policy, Variant

Owners = Sequence[str | None]
"""The variant that owns each of the 10,000 buckets; None for none."""

LAYER: Final = "policy"
"""Layer of an experiment that a catalogue names."""


def ramp(owners: Owners, sizes: Mapping[str, int]) -> Owners:
    """Give each variant its number of buckets, and change as few owners as that needs.

    Who shrinks gives up its highest buckets; who grows, in the order of names, takes those first and then buckets that
    nobody owned, the lowest first.

    Args:
        owners: As they are.
        sizes: Wanted buckets of each variant; a variant that is not named gives up all. At most 10,000 in all.
    """
    own: dict[str | None, list[int]] = {name: [] for name in (None, *sizes)}
    for place, name in enumerate(owners):
        own.setdefault(name, []).append(place)
    after: list[str | None] = [name if name in sizes else None for name in owners]
    freed = sorted(place for name, places in own.items() if name for place in places[sizes.get(name, 0) :])
    for place in freed:
        after[place] = None
    free = iter((*freed, *own[None]))
    for name in sorted(sizes):
        for _ in range(sizes[name] - len(own[name])):
            after[next(free)] = name
    return after


def moved(before: Owners, after: Owners) -> int:
    """Number of buckets whose owner changes; players of a bucket that nobody owned do not move, they begin."""
    return sum(old not in {None, new} for old, new in zip(before, after, strict=True))


def owners(experiment: Experiment) -> Owners:
    """The owner of each bucket of an experiment whose variants own some; nobody's where none is allocated."""
    found: list[str | None] = [None] * BUCKETS
    for one in experiment.variants:
        for start, end in one.buckets or ():
            found[start:end] = [one.name] * (end - start)
    return found


def spans(owned: Owners) -> dict[str, tuple[tuple[int, int], ...]]:
    """Half-open intervals of the buckets of each variant."""
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    start = 0
    for name, run in groupby(owned):
        end = start + len(list(run))
        if name is not None:
            found[name] = (*found.get(name, ()), (start, end))
        start = end
    return found


def allocated(experiment: Experiment, before: Owners | None = None) -> Experiment:
    """An experiment whose variants, by name, own as many buckets as their shares say.

    Args:
        experiment: Buckets that its variants name are kept.
        before: Owners until now; None begins anew.
    """
    sizes = {one.name: one.size for one in experiment.variants}
    own = spans(ramp(owners(experiment) if before is None else before, sizes))
    by_name = sorted(experiment.variants, key=lambda one: one.name)
    variants = tuple(changed(one, buckets=own.get(one.name, ())) for one in by_name)
    return changed(experiment, variants=variants)


def ordered(experiments: Experiments) -> Experiments:
    """A release in the one order of its parts, so that the order of lines in files makes no other version."""
    layers = (
        changed(layer, experiments=tuple(sorted(layer.experiments, key=lambda one: one.key)))
        for layer in experiments.layers
        if layer.experiments
    )
    by_name = tuple(sorted(layers, key=lambda layer: layer.layer))
    return changed(experiments, layers=by_name, ended=tuple(sorted(experiments.ended)))


_POLICIES: Final[Mapping[str, Policy]] = {"holdout": "none", "policy": "learnt"}


def of_catalogue(block: Block | None) -> Experiments:
    """The experiment that a catalogue names, with the buckets that its order of lines gives each variant."""
    if block is None:
        return Experiments()
    owned = [variant_at(place / BUCKETS, block.variants) for place in range(BUCKETS)]
    own = spans(owned)
    variants = tuple(
        Variant(
            name=name,
            share=owned.count(name) / BUCKETS,
            policy=_POLICIES.get(name, name),
            buckets=own.get(name, ()),
        )
        for name in sorted(block.variants)
    )
    experiment = Experiment.model_validate({"key": block.key, "variants": variants})
    return Experiments(layers=(Layer(layer=LAYER, experiments=(experiment,)),))


Part = TypeVar("Part", bound=BaseModel)


def changed(part: Part, **change: object) -> Part:
    """A part with some fields changed, checked again."""
    return type(part).model_validate({name: getattr(part, name) for name in type(part).model_fields} | change)
