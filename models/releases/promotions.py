"""Which churn model serves, from the journal of promotions and rollbacks. Pure, and light to import.

The journal lies in the store beside what serves, so that going back needs no registry; MLflow is told of each entry.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One promotion or rollback.

    Attributes:
        id: Unique; an entry that was recorded half is known by it and finished.
        action: `promote` or `rollback`.
        version: What serves since, `croupier-churn/7`.
        replaced: What served before, None for the first.
        by: Who did it.
        at: When, by the house's clock, ISO 8601.
        evidence: What the gate saw.
        run: MLflow run that the record belongs to; empty for one of its own.
    """

    id: str
    action: str
    version: str
    replaced: str | None
    by: str
    at: str
    evidence: dict[str, float]
    run: str = ""


def champion(journal: Sequence[JournalEntry]) -> str | None:
    """The version that serves after some entries, oldest first."""
    return journal[-1].version if journal else None


def previous(journal: Sequence[JournalEntry]) -> str | None:
    """The version that a rollback restores: the one before the champion, with rollbacks undone.

    Several rollbacks in a row therefore walk back through history, and end.
    """
    stack: list[str] = []
    for entry in journal:
        if entry.action == "rollback" and len(stack) > 1:
            stack.pop()
        elif not stack or stack[-1] != entry.version:
            stack.append(entry.version)
    return stack[-2] if len(stack) > 1 else None
