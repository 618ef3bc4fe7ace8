"""Compare two rulebooks on the recorded decisions of the lake.

A decision is judged from its own record alone: features, facts, contacts that counted, what was asked. So the same
record and rulebook give the same exclusions, at any time, on any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow.parquet as pq
import redis
from rich.console import Console
from rich.progress import track

from features.kept_schemas import LakeSchemas, SchemaError, lacking
from features.lake.files import table_files, unmoved
from features.moments import micros
from features.store.connection import connect
from features.store.deployment import open_house
from models.catalogue.candidates import Candidates, CandidateSpace
from models.experiments.assignment import Splits
from models.experiments.definition import Experiments
from pipelines.audit.period import moment_us
from pipelines.audit.records import key_of
from pipelines.rules.inspection import RulesRefused
from pipelines.rules.rulebooks import rulebook
from pipelines.served import served_catalogue
from service.contacts import limits
from service.decisions import reasons
from service.decisions.assess import Assessment, RecordedPlayer, assess
from service.decisions.eligibility import Asked
from service.decisions.personal import personal
from service.decisions.record import Record, assignment, load_record
from service.decisions.replay import recorded_player, recorded_request
from service.decisions.serving import Serving
from service.players.sealing import Seals, seals_of
from service.rules.compiler import CompiledRulebook


class ChangedDecisions(msgspec.Struct):
    """Decisions changed by one rule in one jurisdiction; counts over decisions.

    A contact that two rules deny counts for each of them, so that columns do not add up.
    """

    rule: str
    jurisdiction: str
    decisions: int = 0
    actions_denied: int = 0
    actions_allowed: int = 0
    contacts_stopped: int = 0


class RecordedCase(NamedTuple):
    """A recorded decision that can be judged again: record, player, and request."""

    record: Record
    player: RecordedPlayer
    asked: Asked

    def judged(self, serving: Serving) -> Assessment:
        """Assessment of the case under the rules of `serving`."""
        return assess(self.player, self.asked, assignment(self.record), self.record.at_us, serving)


def compare_rulebooks(url: str, lake: Path, old: str, new: str, since: str, console: Console) -> dict[str, Any]:
    """Compare what two rulebooks deny and allow on the decisions of a lake.

    Signs of harm that the worker noted stand as they were noted; a milder `harm.yaml` does not undo them.

    Args:
        url: The store, which holds the keys of personal fields.
        lake: Where decisions are.
        old: Folder or hash of a rulebook.
        new: Folder or hash of another.
        since: `7d`, `12h` or a day; the first two count back from the last decision.
        console: Where to show how far it is.

    Returns:
        `decisions` judged, and of them `fewer_features` (older than some feature, and judged by it as a new player is);
        those that were not: `erased`, `other_build` (the names of its features are not kept), `other_catalogue`;
        `made_under_old` and of them `reproduced` (the same exclusions came out again); `contacts`, `contacts_stopped`
        by the new rulebook, `contacts_put_off` to another moment; `changes` by rule and jurisdiction.
    """
    client = connect(url)
    house, layout = open_house(client), CandidateSpace(served_catalogue(client))
    laws = (CompiledRulebook(rulebook(name, client), layout) for name in (old, new))
    splits = Splits(Experiments(), layout)  # who was in which experiment stands in the records
    before, after = (Serving(house=house, plan=None, law=law, policies={}, churn=None, splits=splits) for law in laws)
    schemas, seals = LakeSchemas(lake), seals_of(house)
    counts: Counter[str] = Counter()
    changes: dict[tuple[str, str], ChangedDecisions] = {}
    for record in track(_unmoved_records(lake, since), "decisions", console=console, total=None):
        case = _case(client, record, layout, schemas, seals)
        if isinstance(case, str):
            counts[case] += 1
        else:
            counts["fewer_features"] += bool(lacking(schemas.find(record.versions.schema)))
            _compare(case, before, after, changes, counts)
    ranked = sorted(changes.values(), key=lambda one: (-one.contacts_stopped, -one.decisions, one.rule))
    told = {name: counts[name] for name in _COUNTED}
    hashes = {"old": before.book.hash, "new": after.book.hash, "catalogue": layout.catalogue.hash}
    return {**hashes, **told, "changes": [msgspec.to_builtins(one) for one in ranked]}


_COUNTED = (
    *("decisions", "fewer_features", "erased", "other_build", "other_catalogue", "made_under_old", "reproduced"),
    *("contacts", "contacts_stopped", "contacts_put_off"),
)


def _unmoved_records(lake: Path, since: str) -> Iterator[Record]:
    with unmoved(lake):
        yield from _records(lake, since)


def _records(lake: Path, since: str) -> Iterator[Record]:
    """Decisions about promotions since a moment, in the order of the lake."""
    files = table_files(lake, "decisions")
    last = next((at for file in reversed(files) for at in reversed(list(_column(file, "at")))), None)
    if last is None:
        raise RulesRefused(f"there is no decision in {lake}")
    begins_us = moment_us(since, last)
    for file in files:
        ends = datetime.combine(date.fromisoformat(file.parent.name[4:]), time(), UTC) + timedelta(days=1)
        if micros(ends) < begins_us:
            continue
        for body in _column(file, "record"):
            record = load_record(body)
            if record.at_us >= begins_us and record.choice.role in {"drawn", "lost", "holdout", "objected"}:
                yield record


def _column(file: Path, name: str) -> Iterator[Any]:
    with pq.ParquetFile(file) as opened:
        for rows in opened.iter_batches(columns=[name]):
            yield from rows[name].to_pylist()


def _case(
    client: redis.Redis, record: Record, layout: CandidateSpace, schemas: LakeSchemas, seals: Seals
) -> RecordedCase | str:
    """A recorded decision that can be judged again, or the reason why it cannot."""
    try:
        schema = schemas.find(record.versions.schema)
    except SchemaError:
        return "other_build"
    if record.versions.catalogue != layout.catalogue.hash:
        return "other_catalogue"
    opened = personal(key_of(client, record, seals), record)
    if opened is None:
        return "erased"
    return RecordedCase(record, recorded_player(record, opened, schema), recorded_request(record, opened))


def _compare(
    case: RecordedCase,
    before: Serving,
    after: Serving,
    changes: dict[tuple[str, str], ChangedDecisions],
    counts: Counter[str],
) -> None:
    """Judge one decision under both rulebooks and count the differences."""
    record, layout = case.record, before.layout
    found, other = case.judged(before), case.judged(after)
    old, new = _of_rules(found), _of_rules(other)
    logged = {name: layout.loads(bits) for name, bits in record.choice.excluded.items()}
    apart = _union({name: bits for name, bits in logged.items() if _apart(name)})
    counts["decisions"] += 1
    if record.versions.rules == before.book.hash:
        counts["made_under_old"] += 1
        counts["reproduced"] += {name: bits for name, bits in logged.items() if not _apart(name)} == old
    was, now = _union(old), _union(new)
    chosen = 0 if record.action is None else layout.bit(record.choice.place)
    counts["contacts"] += bool(chosen)
    counts["contacts_stopped"] += bool(chosen & now & ~was)
    counts["contacts_put_off"] += bool(chosen & ~now) and found.verdict.sent_us(chosen) != other.verdict.sent_us(chosen)
    place = found.facts.jurisdiction or "unknown"
    for name in (old.keys() | new.keys()) & (before.law.names | after.law.names):
        denied = new.get(name, 0) & ~was & ~apart
        freed = old.get(name, 0) & ~now & ~apart
        if denied | freed:
            change = changes.setdefault((name, place), ChangedDecisions(name, place))
            change.decisions += 1
            change.actions_denied += denied.bit_count()
            change.actions_allowed += freed.bit_count()
            change.contacts_stopped += bool(denied & chosen)


def _of_rules(assessed: Assessment) -> dict[str, Candidates]:
    """Denials of the rulebook alone, without those of house, catalogue and request."""
    return {name: bits for name, bits in assessed.verdict.blocked.items() if not _apart(name)}


def _apart(name: str) -> bool:
    """Whether a reason comes from outside the rulebook."""
    return name in reasons.OWN or (name.partition(":")[0] in limits.KINDS and ":" in name)


def _union(blocked: Mapping[str, Candidates]) -> Candidates:
    return reduce(or_, blocked.values(), 0)
