"""The journals and rollbacks of today under the names, and with the fields, of the first build."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import redis

from features.moments import micros
from models.releases.journal import Release
from models.releases.release import journal
from pipelines.learning import policy as policies
from pipelines.rules import rulebooks as books
from pipelines.served import served_rulebook
from pipelines.training import promotion as promotions

_WHY: Final = "a test"


def _policy_change(entry: Release) -> dict[str, Any]:
    at_us = micros(datetime.fromisoformat(entry.at))
    told = {"action": entry.action, "version": entry.version, "replaced": entry.replaced, "by": entry.by}
    return told | {"at_us": at_us, "serving": 0}


def _rules_change(entry: Release) -> dict[str, Any]:
    told = {"rulebook": entry.version, "replaced": entry.replaced, "action": entry.action, "by": entry.by}
    return told | {"at": entry.at, "weaker": entry.evidence.get("weaker", []), "serving": 0}


def _back_to_rulebook(url: str) -> SimpleNamespace:
    return SimpleNamespace(rulebook=books.rollback(url, _WHY).version)


def _back_to_model(home: Path, url: str) -> SimpleNamespace:
    return SimpleNamespace(model_version=promotions.rollback(home, url, _WHY).version)


def _journal_of(kind: str) -> Any:
    return lambda client: journal(client, kind)


def _history(client: redis.Redis) -> list[dict[str, Any]]:
    return [_policy_change(entry) for entry in journal(client, "policy")]


promotion: Final = SimpleNamespace(journal=_journal_of("churn"), rollback=_back_to_model, settle=promotions.settle)
policy: Final = SimpleNamespace(
    history=_history, serving=policies.serving, rollback=lambda url, version: policies.rollback(url, _WHY, version)
)
rulebooks: Final = SimpleNamespace(
    history=lambda client: [_rules_change(entry) for entry in journal(client, "rules")],
    rollback=_back_to_rulebook,
    serving_rulebook=served_rulebook,
)
