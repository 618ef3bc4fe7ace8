"""Start, ramp and stop experiments: each change is a release, gated, logged, and taken back like any other.

file or shares --+--> checked against what serves --> every variant's buckets --> store --> serving processes
what serves -----+

While nothing was released, the catalogue's own experiment is what serves, and the first release takes it over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import redis

from features.files import CatalogueError
from features.store.bundles import keep
from features.store.connection import connect
from features.store.errors import StoreError
from features.words import unknown
from models.catalogue.offers import Catalogue
from models.experiments.definition import Experiment, Experiments, Layer, load_experiments
from models.releases.journal import Release, serves
from models.releases.release import GateRefused, Released, alone, change, journal, new_release, reasoned, way_back
from pipelines.experiments.changes import begun, evidence, ramped, running, stopped, widened
from pipelines.served import bytes_of, kept_by_hash, read_kept, served_catalogue, served_experiments

KIND: Final = "experiments"


def start(url: str, file: Path, reason: str, by: str | None = None) -> Released:
    """Start the experiments of a file beside those that run, or the global holdout that it names.

    Args:
        url: The store.
        file: Experiments that do not run yet.
        reason: Why, for the record.
        by: Who does it, for the record; None is the user of this process.

    Raises:
        GateRefused: It cannot start beside what serves, or no reason is given.
        CatalogueError: The file is not valid.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    wanted = load_experiments(file)

    def started(client: redis.Redis, before: Experiments) -> Experiments:
        _refuse_unknown(client, wanted)
        after = begun(before, wanted)
        _refuse_used(client, before, wanted)
        return after

    return _released(url, "promote", started, reason, by)


def hold_out(url: str, share: float, reason: str, by: str | None = None) -> Released:
    """Start or widen the global holdout; raises as `start` does."""
    return _released(url, "promote", lambda _, before: widened(before, share), reason, by)


def ramp(url: str, key: str, shares: Mapping[str, float], reason: str, by: str | None = None) -> Released:
    """Change the shares of an experiment's variants; those that are not named keep theirs. Raises as `start` does."""
    return _released(
        url, "promote", lambda client, before: ramped(before, key, shares, _phase(client, key)), reason, by
    )


def stop(url: str, key: str, reason: str, by: str | None = None) -> Released:
    """End an experiment for good, or the global holdout; raises as `start` does."""
    return _released(url, "promote", lambda _, before: stopped(before, key), reason, by)


def rollback(url: str, reason: str, version: str | None = None, by: str | None = None) -> Released:
    """Let experiments serve again as a release had them, shares and phases too.

    Args:
        url: The store.
        reason: Why, for the record.
        version: Hash of one that served; None is the one that served before the last change.
        by: Who does it, for the record; None is the user of this process.

    Raises:
        GateRefused: There is none, or no reason is given.
        StoreError: A serving process did not load it; what served before goes on serving.
    """

    def earlier(client: redis.Redis, _: Experiments) -> Experiments:
        target = way_back(journal(client, KIND), version, "experiments")
        if (kept := kept_by_hash(client, target)) is None:
            raise GateRefused(f"the store keeps no experiments {target}")
        return read_kept(Experiments, kept)

    return _released(url, "rollback", earlier, reason, by)


def planned(url: str, what: str) -> tuple[Experiment, Catalogue]:
    """An experiment by its file or as it runs, with buckets or without, and the catalogue that serves.

    Raises:
        GateRefused: There is neither, or the file holds none or several.
        CatalogueError: The file is not valid.
    """
    client = connect(url)
    if Path(what).is_file():
        held = list(load_experiments(Path(what)).running)
        if len(held) != 1:
            raise GateRefused(f"{what} holds {len(held)} experiments: plan one at a time")
        return held[0], served_catalogue(client)
    return running(served_experiments(client), what)[1], served_catalogue(client)


def _released(
    url: str,
    action: str,
    made: Callable[[redis.Redis, Experiments], Experiments],
    reason: str,
    by: str | None,
) -> Released:
    reason, client = reasoned(reason), connect(url)
    with alone(client, KIND):
        before = _serving(client, action)
        after = made(client, before)
        if after == before:
            raise GateRefused("that is what serves already")
        keep(client, bytes_of(before), before.hash)
        replaced = serves(journal(client, KIND)) or before.hash
        found = evidence(before, after)
        entry = new_release(client, KIND, action, after.hash, replaced, reason=reason, by=by, evidence=found)
        return change(client, entry, bytes_of(after))


def _serving(client: redis.Redis, action: str) -> Experiments:
    """What serves; for a rollback nothing, if it cannot be read: then that is the way out."""
    try:
        return served_experiments(client)
    except (CatalogueError, StoreError):
        if action == "rollback":
            return Experiments()
        raise


def _phase(client: redis.Redis, key: str) -> int:
    """Number of the next phase of an experiment: no two sets of shares have the same."""
    phases = (entry.evidence.get("phases", {}).get(key, 1) for entry in journal(client, KIND))
    return max(phases, default=1) + 1


def _refuse_used(client: redis.Redis, before: Experiments, wanted: Experiments) -> None:
    """Refuse keys of experiments that ran once, also of those that a rollback ended."""
    ran = {key for entry in journal(client, KIND) for key in entry.evidence.get("phases", {})}
    if again := sorted(ran.intersection(each.key for each in wanted.running) - {each.key for each in before.running}):
        raise GateRefused(f"{again[0]} ran already, and its decisions stand in the log: take another key")


def _refuse_unknown(client: redis.Redis, wanted: Experiments) -> None:
    """Refuse offers that the serving catalogue lacks."""
    known = served_catalogue(client).ids
    for experiment in wanted.running:
        for offer in (offer for variant in experiment.variants for offer in variant.leave_out.offers):
            if offer not in known:
                raise GateRefused(f"{experiment.key}: {unknown(offer, 'offer of the catalogue', known)}")


def listed(url: str) -> dict[str, Any]:
    """What runs and what changed, the latest last: keys as `experiment list --json` prints them."""
    client = connect(url)
    serving, entries = served_experiments(client), journal(client, KIND)
    began = {key: entry.at for entry in reversed(entries) for key in entry.evidence.get("phases", {})}
    return {
        "version": serving.hash,
        "source": "release" if entries else "catalogue",
        "global_holdout": serving.holdout.share if serving.holdout else 0.0,
        "experiments": [
            _shown(layer, one, began.get(one.key)) for layer in serving.layers for one in layer.experiments
        ],
        "ended": list(serving.ended),
        "changes": [_change(entry) for entry in entries],
    }


def _shown(layer: Layer, experiment: Experiment, began: str | None) -> dict[str, Any]:
    variants = [one.model_dump(mode="json", exclude={"buckets"}, exclude_defaults=True) for one in experiment.variants]
    said = experiment.model_dump(mode="json", exclude={"variants"})
    return {"layer": layer.layer, **said, "released_at": began, "variants": variants}


def _change(entry: Release) -> dict[str, Any]:
    said = {"at": entry.at, "action": entry.action, "version": entry.version, "by": entry.by, "reason": entry.reason}
    return said | entry.evidence
