"""Account for one decision of a house: show it whole, replay it, say why not another action."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import redis

from models.catalogue.offers import Catalogue
from models.policy.learned import LearnedPolicy
from pipelines.audit import why_not
from pipelines.audit.period import AuditRefused
from pipelines.audit.records import FoundRecord, find_record, key_of
from pipelines.audit.releases import Releases
from pipelines.served import served_catalogue
from service.api import answers
from service.contacts.kill_switch import journal
from service.decisions.differences import REASONS, TAKEN, Replayed
from service.decisions.explain import Evidence, why
from service.decisions.personal import personal
from service.decisions.reasons import Reason, reasons
from service.decisions.record import Record
from service.decisions.replay import is_limit, replay
from service.players.sealing import seals_of

_LIMITS: Final = "limits cannot be recomputed: the contacts that they counted do not stand in the record"


class Account(NamedTuple):
    """A decision with what it was made with, as far as it is kept; `seal` is None once the player was erased."""

    found: FoundRecord
    record: Record
    seal: bytes | None
    releases: Releases

    @property
    def catalogue(self) -> Catalogue | None:
        """The catalogue that it names."""
        layout = self.releases.layout(self.record.versions.catalogue)
        return None if layout is None else layout.catalogue

    @property
    def reasons(self) -> dict[str, Reason]:
        """The reasons of the rulebook that it names."""
        book = self.releases.book(self.record.versions.rules)
        return {} if book is None else reasons(book)


def account(client: redis.Redis, lake: Path, home: Path | None, decision_id: str) -> Account:
    """Find a decision and what it was made with; raises AuditRefused."""
    found, releases = find_record(client, lake, decision_id), Releases(client, home)
    key = key_of(client, found.record, seals_of(releases.house, home))
    return Account(found, found.record, key, releases)


def shown(client: redis.Redis, asked: Account) -> dict[str, Any]:
    """The whole record, as `GET /v1/decisions/{id}` answers it, and where it was found."""
    record, releases = asked.record, asked.releases
    opened = personal(asked.seal, record)
    catalogue = asked.catalogue
    made = releases.made_with(record)
    evidence = None
    if catalogue is not None:
        learnt = made.policy if isinstance(made.policy, LearnedPolicy) else None
        evidence = Evidence(catalogue, learnt, made.churn, made.schema)
    # Without its own catalogue a record is told by places: another's names would be wrong.
    told = answers.whole(
        record,
        opened,
        catalogue or served_catalogue(client),
        asked.reasons,
        made.schema,
        why(record, evidence),
        journal(client) if record.stops else {},
    )
    whole: dict[str, Any] = msgspec.to_builtins(told)
    return {**whole, "found": asked.found.where, "erased": asked.seal is None}


def replayed(asked: Account) -> dict[str, Any]:
    """What a replay of the record gives: its verdict, what differs, and what was not recomputed."""
    record = asked.record
    found: Replayed = replay(record, asked.seal, asked.releases.made_with(record))
    taken = dict(TAKEN) | {f"choice.excluded.{name}": _LIMITS for name in record.choice.excluded if is_limit(name)}
    return {
        "decision_id": record.decision_id,
        "found": asked.found.where,
        "verdict": found.verdict,
        "differences": [msgspec.to_builtins(one) for one in found.differences],
        "not_recomputed": [
            {"reason": reason, "why": REASONS[reason], "fields": list(fields)}
            for reason, fields in found.missing.items()
        ],
        "taken": taken,
    }


def denied(asked: Account, action: str | None) -> dict[str, Any]:
    """Why another action, or each of all others, was not the one.

    Raises:
        AuditRefused: The catalogue of the record has no such action, or is not kept.
    """
    catalogue = asked.catalogue
    if catalogue is None:
        name = asked.record.versions.catalogue
        raise AuditRefused(f"the catalogue {name}, which names the actions of this decision, is not kept")
    if action is None:
        return why_not.why_not_others(asked.record, catalogue, asked.reasons)
    return why_not.why_not(asked.record, catalogue, asked.reasons, action)
