"""What each change of experiments makes of what serves, and why it may not be made. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from features.words import unknown
from models.catalogue.experiment import BUCKETS
from models.experiments.allocation import allocated, changed, moved, ordered, owners
from models.experiments.definition import (
    GLOBAL_HOLDOUT,
    Experiment,
    Experiments,
    GlobalHoldout,
    Layer,
    Variant,
)
from models.releases.release import GateRefused

Part = TypeVar("Part", bound=BaseModel)


def begun(before: Experiments, wanted: Experiments) -> Experiments:
    """What serves, with more experiments in it; raises GateRefused if they cannot run beside each other."""
    known = {one.key for one in before.running}
    for one in wanted.running:
        if one.key in known:
            raise GateRefused(f"{one.key} runs already: `croupier experiment ramp` changes its shares")
        if one.key in before.ended:
            raise GateRefused(f"{one.key} was stopped, and its decisions stand in the log: take another key")
        if one.phase != 1:
            raise GateRefused(f"{one.key}: an experiment begins with phase 1")
    layers = {layer.layer: layer for layer in before.layers}
    for layer in wanted.layers:
        held = layers[layer.layer].experiments if layer.layer in layers else ()
        new = tuple(allocated(one) for one in layer.experiments)
        layers[layer.layer] = _checked(Layer, layer=layer.layer, experiments=(*held, *new))
    after = _checked(
        Experiments,
        holdout=_wider(before.holdout, wanted.holdout) if wanted.holdout else before.holdout,
        layers=tuple(layers.values()),
        ended=before.ended,
    )
    return ordered(after)


def widened(before: Experiments, share: float) -> Experiments:
    """What serves, with a global holdout of at least what it was; raises GateRefused for less."""
    salt = before.holdout.salt if before.holdout else GlobalHoldout().salt
    return changed(before, holdout=_wider(before.holdout, _checked(GlobalHoldout, share=share, salt=salt)))


def _wider(before: GlobalHoldout | None, after: GlobalHoldout) -> GlobalHoldout:
    if before is None:
        return after
    if after.salt != before.salt:
        raise GateRefused("the salt of the global holdout never changes: it would hold out other players")
    if after.share < before.share:
        raise GateRefused(f"nobody leaves the global holdout: it has {before.share:g} of all players, and only grows")
    return after


def ramped(before: Experiments, key: str, shares: Mapping[str, float], phase: int) -> Experiments:
    """What serves, with other shares of an experiment; raises GateRefused if someone would leave a holdout."""
    layer, experiment = running(before, key)
    names = [variant.name for variant in experiment.variants]
    for name in shares:
        if name not in names:
            raise GateRefused(f"{key}: {unknown(name, 'variant', names)}")
    variants = tuple(_resized(variant, shares.get(variant.name, variant.share)) for variant in experiment.variants)
    if [one.share for one in variants] == [one.share for one in experiment.variants]:
        raise GateRefused(f"{key} has these shares already")
    new = _checked(Experiment, **{**dict(experiment), "variants": variants, "phase": phase})
    return _with(before, layer, experiment, allocated(new, owners(experiment)))


def _resized(variant: Variant, share: float) -> Variant:
    if variant.policy == "none" and share < variant.share:
        raise GateRefused(f"nobody leaves a holdout: {variant.name} has {variant.share:g}, and only grows")
    return _checked(Variant, **{**dict(variant), "share": share, "buckets": None})


def stopped(before: Experiments, key: str) -> Experiments:
    """What serves, without an experiment or the global holdout; raises GateRefused if it does not run."""
    if key == GLOBAL_HOLDOUT:
        if before.holdout is None:
            raise GateRefused("no global holdout runs")
        return changed(before, holdout=None)
    layer, experiment = running(before, key)
    return ordered(changed(_with(before, layer, experiment, None), ended=(*before.ended, key)))


def running(before: Experiments, key: str) -> tuple[Layer, Experiment]:
    """A running experiment with its layer; raises GateRefused if there is none of that key."""
    found = [(layer, one) for layer in before.layers for one in layer.experiments if one.key == key]
    if not found:
        keys = [one.key for one in before.running]
        raise GateRefused(unknown(key, "running experiment", keys) if keys else "no experiment runs")
    return found[0]


def _with(before: Experiments, layer: Layer, old: Experiment, new: Experiment | None) -> Experiments:
    """What serves, with one experiment in the place of another, or without it."""
    kept = (new if one is old else one for one in layer.experiments)
    own = changed(layer, experiments=tuple(one for one in kept if one is not None))
    return ordered(changed(before, layers=tuple(own if one is layer else one for one in before.layers)))


def _checked(part: type[Part], **fields: Any) -> Part:  # noqa: ANN401 - whatever the part holds
    """A part of these fields; raises GateRefused in the words of its checks."""
    try:
        return part.model_validate(fields)
    except ValueError as error:
        said = [each["msg"].removeprefix("Value error, ") for each in getattr(error, "errors", list)()]
        raise GateRefused("; ".join(said) or str(error)) from error


def evidence(before: Experiments, after: Experiments) -> dict[str, Any]:
    """What the journal keeps of a change: shares and phases after it, and the share of players who move."""
    shares = {one.key: {each.name: each.share for each in one.variants} for one in after.running}
    phases = {one.key: one.phase for one in after.running}
    old = {one.key: one for one in before.running}
    moving = {one.key: moved(owners(old[one.key]), owners(one)) / BUCKETS for one in after.running if one.key in old}
    return {
        "shares": shares,
        "phases": phases,
        "moved": moving,
        "global_holdout": after.holdout.share if after.holdout else 0.0,
    }
