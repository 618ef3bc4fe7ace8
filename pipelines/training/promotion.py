"""Promote a churn model through its gate, and roll it back.

    promote:  registry --gate--> store --> serving processes --> journal --> registry
    rollback:          journal --> store --> serving processes --> journal ... --> registry

The store holds what serves, its journal who changed it; MLflow is told of each entry of the journal, by the command
itself or right after it. Whatever was left undone by a crash is done by the next command, whichever it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
import redis

from features.store.bundles import published
from features.store.connection import connect
from features.store.keys import CHURN_PROMOTIONS, CHURN_RECORDED, POLICY_RECORDED
from models.releases.journal import LEARN, Release, has_served, previous, serves
from models.releases.release import GateRefused, Released, alone, change, journal, new_release, reasoned

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from features.settings.mlflow_file import Gate
    from models.churn.training import Rows
    from models.releases.registry import ChurnRegistry


def promote(home: Path, url: str, version: str, reason: str, by: str | None = None) -> Released:
    """Let a version serve if it passes the gate of mlflow.yaml; returns when every serving process reports it.

    Args:
        home: Directory of the house.
        url: The store.
        version: `croupier-churn/7` or `7`.
        reason: Why, for the record.
        by: Who promotes, for the record; None is the user of this process.

    Raises:
        GateRefused: The version does not pass, or no reason is given.
        RegistryError: There is no such version, or it is not whole.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    reason, client = reasoned(reason), connect(url)
    registry = settle(home, client)
    version, replaced = registry.canonical(version), registry.champion()
    evidence = examine(registry, version, replaced, published(client, replaced) if replaced else None)
    judge(version, evidence, registry.settings.gates.churn)
    entry = new_release(client, "churn", "promote", version, replaced, reason=reason, by=by, evidence=evidence)
    return install(registry, client, entry)


def install(registry: ChurnRegistry, client: redis.Redis, entry: Release) -> Released:
    """Let a version that passed its gate serve, and record the promotion."""
    with alone(client, "churn"):
        done = change(client, entry, registry.bundle(entry.version))
    try:
        _record_all(registry, client)
    except Exception as error:  # noqa: BLE001 - it serves: MLflow is told by the next command, whatever kept it now
        import structlog  # noqa: PLC0415 - a rollback spares it

        structlog.get_logger().warning(
            "promotion", trouble=f"{entry.version} serves, but MLflow was not told yet: {error}"
        )
    return done


def rollback(home: Path, url: str, reason: str, version: str | None = None, by: str | None = None) -> Released:
    """Let a version serve again; returns when every serving process reports it.

    Needs the store alone, so that it takes no longer than the serving processes do; `settle` tells MLflow.

    Args:
        home: Directory of the house.
        url: The store.
        reason: Why, for the record.
        version: One that served; None is the one that served before the last promotion.
        by: Who does it, for the record; None is the user of this process.

    Raises:
        GateRefused: There is none, or no reason is given.
        RegistryError: It is not whole.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    reason, client = reasoned(reason), connect(url)
    if not journal(client, "churn"):
        settle(home, client)  # a store that was made anew learns from the registry
    held = journal(client, "churn")
    target = version or previous(held)
    if target is None:
        raise GateRefused(f"there is no churn model before {serves(held) or 'the first one'} to go back to")
    if target == serves(held) or not has_served(held, target):
        raise GateRefused(f"{target} is no churn model that served before {serves(held)}")
    bundle = published(client, target) or settle(home, client).bundle(target)
    with alone(client, "churn"):
        return change(
            client, new_release(client, "churn", "rollback", target, serves(held), reason=reason, by=by), bundle
        )


# --- The gate


def examine(
    registry: ChurnRegistry, version: str, against: str | None, served: bytes | None = None
) -> dict[str, float]:
    """Evidence for a version and the champion on the version's test rows, scored as in serving.

    Args:
        registry: Where both are.
        version: The candidate.
        against: The champion, None without one.
        served: Its bundle as the store holds it; None asks the registry for it.

    Raises:
        GateRefused: The version cannot be served.
        RegistryError: It is not whole.
    """
    from models.churn.training import evaluate  # noqa: PLC0415 - see settle
    from models.releases.registry import metrics  # noqa: PLC0415

    rows = registry.test_rows(version)
    found = metrics(evaluate(rows, _scores(version, registry.bundle(version), rows)))
    if against is None or against == version:
        return found
    bundle = served or registry.bundle(against)
    try:
        champion_shows = evaluate(rows, _scores(against, bundle, rows))
    except GateRefused:
        return found  # what cannot be loaded any more cannot serve, and is no measure
    return found | {"auc_champion": champion_shows.auc, "ece_champion": champion_shows.ece}


def _scores(version: str, bundle: bytes, rows: Rows) -> NDArray[np.float64]:
    from models.churn.scorer import BundleError, ChurnBundle, Scorer  # noqa: PLC0415 - a rollback scores nothing

    try:
        scorer = Scorer(ChurnBundle.loads(bundle))
    except BundleError as error:
        raise GateRefused(f"{version} cannot be served: {error}") from error
    try:
        return scorer.score_many(rows.matrix)
    finally:
        scorer.close()


def judge(version: str, evidence: Mapping[str, float], gate: Gate) -> None:
    """Apply the gate to a version's evidence; raises GateRefused unless it passes."""
    if blind := [name for name, value in evidence.items() if not math.isfinite(value)]:
        raise GateRefused(f"{version} is not promoted: its {', '.join(blind)} on the test rows cannot be measured")
    auc, rows = evidence["auc"], f"{evidence['test_rows']:,.0f} test rows"
    if auc < evidence["auc_recency"] + gate.auc_above_recency:
        raise GateRefused(
            f"{version} is not promoted: its AUC {auc:.4f} on {rows} is not {gate.auc_above_recency:g} above the "
            f"{evidence['auc_recency']:.4f} of ranking by days since the last deposit"
        )
    if auc < evidence.get("auc_champion", 0.0) + gate.auc_above_champion:
        raise GateRefused(
            f"{version} is not promoted: its AUC {auc:.4f} on {rows} is not {gate.auc_above_champion:g} or more above "
            f"the champion's {evidence['auc_champion']:.4f} on the same rows"
        )
    if evidence["ece_above_noise"] > gate.ece_above_noise:
        raise GateRefused(
            f"{version} is not promoted: its calibration error {evidence['ece']:.4f} on {rows} is "
            f"{evidence['ece_above_noise']:.4f} above what so few show by chance, more than {gate.ece_above_noise:g}"
        )


# --- The registry


def settle(home: Path, client: redis.Redis) -> ChurnRegistry:
    """Reconcile journal and MLflow: MLflow records missing entries, a new store learns them from MLflow."""
    from models.releases.registry import ChurnRegistry  # noqa: PLC0415 - MLflow takes seconds to import, a rollback has two

    registry = ChurnRegistry(home)
    with alone(client, "recording"):
        if not client.exists(CHURN_PROMOTIONS) and (known := registry.records()):
            client.rpush(CHURN_PROMOTIONS, *(msgspec.json.encode(entry) for entry in reversed(known)))
            client.set(CHURN_RECORDED, len(known))
    _record_all(registry, client)
    return registry


def _record_all(registry: ChurnRegistry, client: redis.Redis) -> None:
    """Tell MLflow of promotions and rollbacks that it lacks: of the churn model, then of policies."""

    def tell_policy(entry: Release) -> None:
        if (snapshot := published(client, entry.version)) is not None:
            registry.record_policy(entry, snapshot)

    with alone(client, "recording"):
        _record(client, "churn", CHURN_RECORDED, registry.record)
        _record(client, "policy", POLICY_RECORDED, tell_policy)


def _record(client: redis.Redis, kind: str, recorded: str, tell: Callable[[Release], None]) -> None:
    with alone(client, kind):  # an entry that may still be taken back is not told of
        deliberate = [entry for entry in journal(client, kind) if entry.action != LEARN]
    done = min(int(cast("bytes | None", client.get(recorded)) or 0), len(deliberate))
    for count, entry in enumerate(deliberate[done:], done + 1):
        tell(entry)
        client.set(recorded, count)
