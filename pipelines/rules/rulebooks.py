"""Which rulebook serves: that of the files until one is promoted; promotion, rollback and history.

folder --lint, compile--> store --> serving processes and worker;  every change is written into a journal
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import redis

from features.files import CatalogueError
from features.moments import moment
from features.store.bundles import keep
from features.store.connection import connect
from features.store.deployment import open_house, real_now_us
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import Catalogue
from models.churn.scorer import ChurnBundle
from models.experiments.assignment import Splits
from models.policy.context import CHURN
from models.policy.learned import PolicyVersion
from models.policy.policy import BusinessRules, Policy, Priority, priorities
from models.releases.journal import serves
from models.releases.release import GateRefused, Released, alone, change, journal, new_release, reasoned, way_back
from pipelines.rules.inspection import RulesRefused, linted, warnings_of
from pipelines.served import bytes_of, kept_by_hash, promoted, served_catalogue, served_experiments, served_rulebook
from pipelines.worker.consumer import serving_plan
from service.decisions.serving import Serving
from service.players.sealing import seals_of
from service.rules.compiler import CompiledRulebook
from service.rules.rulebook import RuleBinding, Rulebook, load_rulebook


def rulebook(name: str, client: redis.Redis | None = None) -> Rulebook:
    """A rulebook by its folder, or by a hash that the store keeps.

    Raises:
        RulesRefused: There is neither, or this build cannot read it.
        CatalogueError: Its files are not valid.
    """
    if Path(name).is_dir():
        return load_rulebook(Path(name))
    if re.fullmatch(r"[0-9a-f]{12}", name) and client is not None:
        held = kept_by_hash(client, name)
        if held is not None:
            try:
                return Rulebook.model_validate_json(held)
            except ValueError as error:
                raise RulesRefused(f"{name} is no rulebook that this build can read") from error
    raise RulesRefused(f"{name} is no folder of a rulebook, and the store keeps none of that hash")


def lint_served(url: str) -> dict[str, Any]:
    """Lint the rulebook that serves with the catalogue that serves; see `linted`."""
    client = connect(url)
    return linted(served_rulebook(client), served_catalogue(client), house_day(client))


def served(client: redis.Redis) -> Serving:
    """Serving configuration for rules: rulebook, catalogue, read plan, and business rules as the policy."""
    layout = CandidateSpace(served_catalogue(client))
    ranks = priorities(layout.catalogue)
    plain = BusinessRules(ranks, layout.catalogue.exploration_floor)
    policies: dict[str, Policy] = {
        "learnt": plain,
        "business_rules": plain,
        "priority": Priority(ranks),
    }
    law = CompiledRulebook(served_rulebook(client), layout)
    splits, plan = Splits(served_experiments(client), layout), serving_plan(client)
    house = open_house(client)
    return Serving(house=house, plan=plan, law=law, policies=policies, churn=None, splits=splits, seals=seals_of(house))


def places_forbidden_to_policy(client: redis.Redis) -> dict[str, list[str]]:
    """Places where business rules serve, because the law forbids the learnt policy's readings; with those readings."""
    policy, churn = (promoted(client, kind) for kind in ("policy", "churn"))
    if policy is None:
        return {}
    readings = PolicyVersion.loads(policy).features
    seen = ChurnBundle.loads(churn).features if churn and CHURN in readings else ()
    now_us = open_house(client).now_us(real_now_us(client))
    found = served_rulebook(client).barred((*readings, *seen), now_us)
    return {place: list(names) for place, names in found.items()}


def promote(url: str, folder: str, reason: str, by: str | None = None, *, weaker: bool = False) -> Released:
    """Let a rulebook serve that loads, compiles and lints clean; returns when every serving process reports it.

    Args:
        url: The store.
        folder: Folder of the rulebook, or the hash of one that served.
        reason: Why, for the record.
        by: Who promotes, for the record; None is the user of this process.
        weaker: Whether it may lack rules that are applied now.

    Raises:
        RulesRefused: Its lint finds an error or warns, or it lacks rules that are applied now.
        GateRefused: No reason is given.
        CatalogueError: Its files are not valid.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    reason, client = reasoned(reason), connect(url)
    book = rulebook(folder, client)
    with alone(client, "rules"):
        catalogue, before = served_catalogue(client), _before(client)
        CompiledRulebook(book, CandidateSpace(catalogue))
        if warned := warnings_of(book, catalogue, house_day(client)):
            raise RulesRefused(f"not promoted: {'; '.join(warned)}")
        lost = ("all of a rulebook that this build cannot read",) if before is None else lost_rules(before, book)
        if lost and not weaker:
            raise RulesRefused(f"not promoted: {', '.join(lost)} would be applied no more; `--weaker` if that is meant")
        if before is not None:
            keep(client, bytes_of(before), before.hash)
        evidence = {"catalogue": catalogue.hash} | ({"weaker": list(lost)} if lost else {})
        replaced = serves(journal(client, "rules")) or (before.hash if before else None)
        entry = new_release(client, "rules", "promote", book.hash, replaced, reason=reason, by=by, evidence=evidence)
        return change(client, entry, bytes_of(book))


def _before(client: redis.Redis) -> Rulebook | None:
    """The rulebook that serves; None if this build cannot read it, so that a promotion can end the silence."""
    try:
        return served_rulebook(client)
    except CatalogueError:
        if promoted(client, "rules") is None:
            raise
        return None


def refuse_misfit(book: Rulebook, catalogue: Catalogue) -> None:
    """Refuse a rulebook and a catalogue that processes cannot serve together; raises GateRefused."""
    CompiledRulebook(book, CandidateSpace(catalogue))
    if strange := book.unknown_tags(catalogue):
        raise GateRefused("; ".join(f"offer {offer}: {what}" for offer, what in strange))


def house_day(client: redis.Redis) -> date:
    """The day by the house's clock, UTC."""
    return moment(open_house(client).now_us(real_now_us(client))).date()


def lost_rules(before: Rulebook, after: Rulebook) -> tuple[str, ...]:
    """Rules of one rulebook that another lacks, or applies for less time, in fewer places, or to less."""
    held = {one.rule.id: one for one in after.bound()}
    return tuple(one.rule.id for one in before.bound() if one.rule.id not in held or _less(one, held[one.rule.id]))


def _less(before: RuleBinding, after: RuleBinding) -> bool:
    """Whether a rule begins later, ends earlier or covers less than before; its parameters are not compared."""
    narrower = any(
        mine is not None and (theirs is None or not set(theirs) <= set(mine))
        for theirs, mine in (
            (getattr(before.rule, name), getattr(after.rule, name)) for name in ("channels", "products", "kinds")
        )
    )
    fewer = not set(before.places) <= set(after.places) or not set(before.rule.purposes) <= set(after.rule.purposes)
    return after.begins_us > before.begins_us or after.ends_us < before.ends_us or narrower or fewer


def rollback(url: str, reason: str, version: str | None = None, by: str | None = None) -> Released:
    """Let a rulebook serve again.

    Args:
        url: The store.
        reason: Why, for the record.
        version: Hash of one that served; None is the one that served before the last promotion.
        by: Who does it, for the record; None is the user of this process.

    Raises:
        RulesRefused: There is none.
        GateRefused: No reason is given.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    reason, client = reasoned(reason), connect(url)
    with alone(client, "rules"):
        held = journal(client, "rules")
        target = way_back(held, version, "rulebook", RulesRefused)
        book = rulebook(target, client)
        refuse_misfit(book, served_catalogue(client))
        return change(
            client, new_release(client, "rules", "rollback", target, serves(held), reason=reason, by=by), bytes_of(book)
        )
