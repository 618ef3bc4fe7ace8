"""Compare two rulebooks on the decisions of the lake.

A decision is judged from its own record alone: features, facts, contacts that counted, what was asked. So the same
record and rulebook give the same exclusions, at any time, on any machine.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import pyarrow.parquet as pq
import redis
from rich.console import Console
from rich.progress import track

from features.aggregates import forward
from features.moments import micros
from features.schema import schema_hash
from features.store.connection import connect
from models.catalogue.candidates import Candidates, CandidateSpace
from models.catalogue.offers import load_catalogue
from pipelines.rules.officer import RulesRefused
from pipelines.rules.rulebooks import rulebook
from service.api.app import catalogue_path
from service.contacts import limits
from service.contacts.snapshot import Keys
from service.decisions import eligibility
from service.decisions.decide import windows_of
from service.decisions.record import Record, load_record, unpack_floats
from service.players import facts, harm, sealing
from service.rules import inputs
from service.rules.compiler import CompiledRulebook, Verdict
from service.rules.inputs import Contact


class ChangedDecisions(msgspec.Struct):
    """What another rulebook changes by one rule in one jurisdiction; counts over decisions.

    A contact that two rules deny counts for each of them, so that columns do not add up.
    """

    rule: str
    jurisdiction: str
    decisions: int = 0
    actions_denied: int = 0
    actions_allowed: int = 0
    contacts_stopped: int = 0


class Case(NamedTuple):
    """A decision with the personal fields that rules look at."""

    record: Record
    known: Mapping[bytes, bytes]
    contacts: tuple[Contact, ...]
    at_once: bool


def differ(url: str, lake: Path, old: str, new: str, since: str, console: Console) -> dict[str, Any]:
    """What one rulebook would have denied or allowed that another did not, on the decisions of a lake.

    Signs of harm that the worker noted stand as they were noted; a milder `harm.yaml` does not undo them.

    Args:
        url: The store, which holds the keys of personal fields.
        lake: Where decisions are.
        old: Folder or hash of a rulebook.
        new: Folder or hash of another.
        since: `7d`, `12h` or a day; the first two count back from the last decision.
        console: Where to show how far it is.

    Returns:
        `decisions` judged; those that were not: `erased`, `other_build` (of the features), `other_catalogue`;
        `made_under_old` and of them `reproduced` (the same exclusions came out again); `contacts`, `contacts_stopped`
        by the new rulebook, `contacts_put_off` to another moment; `changes` by rule and jurisdiction.
    """
    client = connect(url)
    layout = CandidateSpace(load_catalogue(catalogue_path()))
    before, after = (CompiledRulebook(rulebook(name, client), layout) for name in (old, new))
    counts: Counter[str] = Counter()
    changes: dict[tuple[str, str], ChangedDecisions] = {}
    for record in track(_records(lake, since), "decisions", console=console, total=None):
        case = _case(client, record, layout)
        if isinstance(case, str):
            counts[case] += 1
        else:
            _compare(case, before, after, changes, counts)
    ranked = sorted(changes.values(), key=lambda one: (-one.contacts_stopped, -one.decisions, one.rule))
    told = {name: counts[name] for name in _COUNTED}
    books = {"old": before.book.hash, "new": after.book.hash}
    return {**books, **told, "changes": [msgspec.to_builtins(one) for one in ranked]}


_COUNTED = (
    *("decisions", "erased", "other_build", "other_catalogue", "made_under_old", "reproduced"),
    *("contacts", "contacts_stopped", "contacts_put_off"),
)


def _records(lake: Path, since: str) -> Iterator[Record]:
    """Decisions on promotions since a moment, in the order of the lake."""
    files = sorted(lake.glob("decisions/*/*.parquet"))
    last = next((at for file in reversed(files) for at in reversed(_column(file, "at"))), None)
    if last is None:
        raise RulesRefused(f"there is no decision in {lake}")
    begins_us = _since(since, last)
    for file in files:
        ends = datetime.combine(date.fromisoformat(file.parent.name[4:]), time(), UTC) + timedelta(days=1)
        if micros(ends) < begins_us:
            continue
        for body in _column(file, "record"):
            record = load_record(body)
            if record.at_us >= begins_us and record.choice.role in {"drawn", "lost", "holdout", "objected"}:
                yield record


def _column(file: Path, name: str) -> list[Any]:
    return cast("list[Any]", pq.read_table(file, columns=[name])[name].to_pylist())


def _since(text: str, last: datetime) -> int:
    try:
        if found := re.fullmatch(r"(\d+)([dh])", text):
            return micros(last - timedelta(**{"days" if found[2] == "d" else "hours": int(found[1])}))
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise RulesRefused(f"--since takes 7d, 12h or a day such as 2026-11-01, not {text!r}") from error
    return micros(at.replace(tzinfo=at.tzinfo or UTC))


def _case(client: redis.Redis, record: Record, layout: CandidateSpace) -> Case | str:
    """A decision as it can be judged again, or why it cannot."""
    if record.versions.schema != schema_hash():
        return "other_build"
    if record.versions.catalogue != layout.catalogue.hash:
        return "other_catalogue"
    key = cast("bytes | None", client.get(Keys(record.player).seal))
    personal = sealing.unseal(key, record.sealed, record.decision_id)
    if personal is None:
        return "erased"
    known = {name.encode(): value.encode() for name, value in personal["facts"].items()}
    contacts = tuple(Contact(*one) for one in personal.get("contacts", ()))
    return Case(record, known, contacts, bool(personal.get("asked", {}).get("activate")))


def judged(case: Case, law: CompiledRulebook) -> Verdict:
    """What a rulebook says of a recorded decision."""
    record = case.record
    told = facts.read(case.known, record.brand)
    vector = forward(unpack_floats(record.seen.whole or record.seen.features), record.at_us)
    found = harm.assess(vector, told, record.at_us, inputs.person(told, record.at_us), law.book.harm)
    trusted = None if {"features_unavailable", "features_stale"} & set(record.seen.degraded) else vector
    book = law.book
    seen = inputs.read(told, trusted, found, case.contacts, record.at_us, book.ages_us, book.settings)
    return law.judge(seen, windows_of(told, record.at_us), fixed=case.at_once)


def _compare(
    case: Case,
    before: CompiledRulebook,
    after: CompiledRulebook,
    changes: dict[tuple[str, str], ChangedDecisions],
    counts: Counter[str],
) -> None:
    """Judge one decision twice and note what is different."""
    record, layout = case.record, before.layout
    old, new = judged(case, before), judged(case, after)
    logged = {name: layout.loads(bits) for name, bits in record.choice.excluded.items()}
    apart = _union({name: bits for name, bits in logged.items() if _apart(name)})
    counts["decisions"] += 1
    if record.versions.rules == before.book.hash:
        counts["made_under_old"] += 1
        counts["reproduced"] += {name: bits for name, bits in logged.items() if not _apart(name)} == old.blocked
    was, now = _union(old.blocked), _union(new.blocked)
    chosen = 0 if record.action is None else layout.bit(record.choice.place)
    counts["contacts"] += bool(chosen)
    counts["contacts_stopped"] += bool(chosen & now & ~was)
    counts["contacts_put_off"] += bool(chosen & ~now) and old.sent_us(chosen) != new.sent_us(chosen)
    place = facts.read(case.known, record.brand).jurisdiction or "unknown"
    for name in (old.blocked.keys() | new.blocked.keys()) & (before.names | after.names):
        denied = new.blocked.get(name, 0) & ~was & ~apart
        freed = old.blocked.get(name, 0) & ~now & ~apart
        if denied | freed:
            change = changes.setdefault((name, place), ChangedDecisions(name, place))
            change.decisions += 1
            change.actions_denied += denied.bit_count()
            change.actions_allowed += freed.bit_count()
            change.contacts_stopped += bool(denied & chosen)


def _apart(name: str) -> bool:
    """Whether a reason is none of the rulebook's."""
    return name in eligibility.OWN or name.partition(":")[0] in limits.KINDS


def _union(blocked: Mapping[str, Candidates]) -> Candidates:
    return reduce(or_, blocked.values(), 0)
