"""Promote a catalogue, roll it back, lint it and compare two of them.

file --loads, compiles with the rulebook that serves, lints clean--> store --> serving processes, with the rulebook
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import redis

from features.store.bundles import keep
from features.store.connection import connect
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import Catalogue, load_catalogue
from models.experiments.allocation import of_catalogue
from models.releases.journal import serves
from models.releases.release import GateRefused, Released, alone, change, journal, new_release, reasoned, way_back
from pipelines.rules.inspection import lint
from pipelines.rules.rulebooks import house_day, refuse_misfit
from pipelines.served import bytes_of, read_by_hash, served_catalogue, served_rulebook
from service.rules.compiler import CompiledRulebook

_IGNORED: Final = "ignored, because experiments were released: `croupier experiment list`"


def catalogue(name: str | None, client: redis.Redis) -> Catalogue:
    """A catalogue by its file, or by a hash that the store keeps; None is the one that serves.

    Raises:
        GateRefused: There is neither.
        CatalogueError: Its file is not valid, or this build cannot read it.
    """
    if name is None:
        return served_catalogue(client)
    if Path(name).is_file():
        return load_catalogue(Path(name))
    if (held := read_by_hash(client, Catalogue, name)) is not None:
        return held
    raise GateRefused(f"{name} is no file of a catalogue, and the store keeps none of that hash")


def promote(url: str, file: str, reason: str, by: str | None = None) -> Released:
    """Let a catalogue serve that passes its gate; returns when every serving process reports it.

    Args:
        url: The store.
        file: File of the catalogue, or the hash of one that served.
        reason: Why, for the record.
        by: Who promotes, for the record; None is the user of this process.

    Raises:
        GateRefused: With the rulebook that serves its lint finds an error or warns, or no reason is given.
        CatalogueError: The file is not valid.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    reason, client = reasoned(reason), connect(url)
    chosen = catalogue(file, client)
    with alone(client, "catalogue"):
        before = served_catalogue(client)
        found = [one for one in linted(client, chosen, before)["findings"] if one["grade"] != "note"]
        if found:
            raise GateRefused(f"not promoted: {'; '.join(': '.join((one['where'], one['what'])) for one in found)}")
        keep(client, bytes_of(before), before.hash)
        _keep_splits(client, before, chosen)
        replaced = serves(journal(client, "catalogue")) or before.hash
        evidence = {"rulebook": served_rulebook(client).hash, **_counts(before, chosen)}
        entry = new_release(
            client, "catalogue", "promote", chosen.hash, replaced, reason=reason, by=by, evidence=evidence
        )
        return change(client, entry, bytes_of(chosen))


def rollback(url: str, reason: str, version: str | None = None, by: str | None = None) -> Released:
    """Let a catalogue serve again.

    Args:
        url: The store.
        reason: Why, for the record.
        version: Hash of one that served; None is the one that served before the last promotion.
        by: Who does it, for the record; None is the user of this process.

    Raises:
        GateRefused: There is none, or no reason is given.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    reason, client = reasoned(reason), connect(url)
    with alone(client, "catalogue"):
        held = journal(client, "catalogue")
        target = way_back(held, version, "catalogue")
        chosen = catalogue(target, client)
        refuse_misfit(served_rulebook(client), chosen)
        _keep_splits(client, chosen)
        entry = new_release(client, "catalogue", "rollback", target, serves(held), reason=reason, by=by)
        return change(client, entry, bytes_of(chosen))


def _keep_splits(client: redis.Redis, *catalogues: Catalogue) -> None:
    """Keep the experiments that catalogues name: while none were released, decisions name them by their hash."""
    for one in catalogues:
        splits = of_catalogue(one.experiment)
        keep(client, bytes_of(splits), splits.hash)


def linted(client: redis.Redis, chosen: Catalogue, before: Catalogue | None = None) -> dict[str, Any]:
    """Lint a catalogue with the rulebook that serves; of what the rulebook is to blame for, only what is new.

    Raises:
        ValueError: They cannot be compiled together.
    """
    book, today = served_rulebook(client), house_day(client)
    CompiledRulebook(book, CandidateSpace(chosen))
    known = [] if before is None else lint(book, before, today)
    found = [one for one in lint(book, chosen, today) if one not in known]
    if chosen.experiment is not None and journal(client, "experiments"):
        found.append({"grade": "note", "where": "experiment", "what": _IGNORED})
    return {"catalogue": chosen.hash, "rulebook": book.hash, "offers": len(chosen.offers), "findings": found}


def compare(old: Catalogue, new: Catalogue) -> dict[str, Any]:
    """What another catalogue adds, drops and changes: offers by id, and the names of other sections."""
    before, after = ({offer.id: offer for offer in one.offers} for one in (old, new))
    sections = Catalogue.model_fields.keys() - {"offers"}
    return {
        "old": old.hash,
        "new": new.hash,
        "added": sorted(after.keys() - before.keys()),
        "dropped": sorted(before.keys() - after.keys()),
        "changed": {
            name: _differing(before[name].model_dump(mode="json"), after[name].model_dump(mode="json"))
            for name in sorted(before.keys() & after.keys())
            if before[name] != after[name]
        },
        "sections": sorted(name for name in sections if getattr(old, name) != getattr(new, name)),
    }


def _differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return sorted(name for name in after if before.get(name) != after[name])


def _counts(before: Catalogue, after: Catalogue) -> dict[str, int]:
    found = compare(before, after)
    return {name: len(found[name]) for name in ("added", "dropped", "changed")}
