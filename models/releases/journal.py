"""The journal of a kind: who let which version serve, why and on what evidence. Pure, and light to import.

promote   a person or a schedule let a version serve
rollback  a version that served before serves again
learn     the learner's newest snapshot followed: a line of history under a policy release, no deliberate change
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from features.moments import moment

LEARN: Final = "learn"
_PROMOTE: Final = "promote"
_ROLLBACK: Final = "rollback"


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One entry: what serves since, and how that came.

    Attributes:
        kind: `churn`, `policy`, `rules`, `catalogue`, `experiments`, `templates`.
        id: Unique; an entry that MLflow was told half is known by it and finished.
        action: `promote`, `rollback` or `learn`.
        version: What serves since: `croupier-churn/7`, a snapshot, the hash of a rulebook.
        replaced: What served before; None if nothing did.
        by: Who did it.
        reason: Why; empty for `learn` and for entries of the first build.
        at: When, by the house's clock, ISO 8601.
        evidence: What its gate saw.
        run: MLflow run that the record belongs to; empty for one of its own.
    """

    kind: str
    id: str
    action: str
    version: str
    replaced: str | None
    by: str
    reason: str = ""
    at: str
    evidence: dict[str, Any] = {}
    run: str = ""


def serves(journal: Sequence[Release]) -> str | None:
    """The version that serves after some entries, oldest first; None before the first."""
    return journal[-1].version if journal else None


def previous(journal: Sequence[Release]) -> str | None:
    """What served before the last deliberate change; several rollbacks in a row walk back, and end with None."""
    served = _served(journal)
    return served[-2] if len(served) > 1 else None


def was_released(journal: Sequence[Release]) -> bool:
    """Whether anybody ever promoted a version."""
    return any(entry.action == _PROMOTE for entry in journal)


def has_served(journal: Sequence[Release], version: str) -> bool:
    """Whether a version ever served, what came before the first entry included."""
    return any(version in {entry.version, entry.replaced} for entry in journal)


def _served(journal: Sequence[Release]) -> list[str | None]:
    """Versions that rollbacks return to, and last what serves; the first is what the first entry replaced."""
    served: list[str | None] = [entry.replaced for entry in journal[:1]]
    for entry in journal:
        if entry.action == _PROMOTE and served[-1] != entry.version:
            served.append(entry.version)
        elif entry.action == _ROLLBACK and entry.version in served[:-1]:
            del served[_last(served[:-1], entry.version) + 1 :]
        elif entry.action == _ROLLBACK and entry.kind != "policy" and served[-1] != entry.version:
            served.append(entry.version)  # a way forward again, to one that an earlier rollback had left
        elif entry.action != _PROMOTE:
            served[-1] = entry.version
    return served


def _last(served: list[str | None], version: str) -> int:
    return max(at for at, one in enumerate(served) if one == version)


# --- Entries of the first build


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The first build's entry of the churn model."""

    id: str
    action: str
    version: str
    replaced: str | None
    by: str
    at: str
    evidence: dict[str, float]
    run: str = ""

    def release(self) -> Release:
        """The same as an entry of today."""
        return Release(kind="churn", **msgspec.structs.asdict(self))


class PolicyChange(msgspec.Struct, frozen=True, kw_only=True):
    """The first build's entry of the policy."""

    action: str
    version: str
    replaced: str | None
    by: str
    at_us: int
    serving: int = 0

    def release(self) -> Release:
        """The same as an entry of today; its moment makes it unique."""
        return Release(
            kind="policy",
            id=f"{self.at_us:x}",
            action=self.action,
            version=self.version,
            replaced=self.replaced,
            by=self.by,
            at=moment(self.at_us).isoformat(),
        )


class RulesChange(msgspec.Struct, frozen=True, kw_only=True):
    """The first build's entry of the rulebook; `weaker` names the rules that it lost."""

    rulebook: str
    replaced: str
    action: str
    by: str
    at: str
    weaker: tuple[str, ...] = ()
    serving: int = 0

    def release(self) -> Release:
        """The same as an entry of today; its moment makes it unique."""
        return Release(
            kind="rules",
            id=f"{self.at} {self.rulebook}",
            action=self.action,
            version=self.rulebook,
            replaced=self.replaced,
            by=self.by,
            at=self.at,
            evidence={"weaker": list(self.weaker)} if self.weaker else {},
        )


_FIRST_BUILD: Final[dict[str, type[JournalEntry | PolicyChange | RulesChange]]] = {
    "churn": JournalEntry,
    "policy": PolicyChange,
    "rules": RulesChange,
}


def read_entry(kind: str, raw: bytes) -> Release:
    """Read an entry of a kind's journal, of this build or of the first."""
    if "kind" in msgspec.json.decode(raw):
        return msgspec.json.decode(raw, type=Release)
    return msgspec.json.decode(raw, type=_FIRST_BUILD[kind]).release()
