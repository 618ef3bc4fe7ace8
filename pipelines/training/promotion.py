"""Promote a churn model through its gate, and roll it back.

    promote:  registry --gate--> store --> serving processes --> journal --> registry
    rollback:          journal --> store --> serving processes --> journal ... --> registry

The store holds what serves, its journal who changed it; MLflow is told of each entry of the journal, by the command
itself or right after it. Whatever was left undone by a crash is done by the next command, whichever it is.
"""

from __future__ import annotations

import getpass
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import msgspec
import redis
from redis.exceptions import LockError

from features.errors import CroupierError
from features.moments import moment
from features.store.bundles import keep, published, serving_hashes
from features.store.connection import connect
from features.store.deployment import open_house, real_now_us
from features.store.errors import StoreError
from features.store.keys import CHURN_PROMOTIONS, CHURN_RECORDED, lock_key, pointer_key
from models.releases.promotions import JournalEntry, champion, previous

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from features.settings.mlflow_file import Gate
    from models.churn.training import Rows
    from models.releases.registry import ChurnRegistry

LIVE_WAIT_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02
_LOCK_SECONDS: Final = 120.0


class GateRefused(CroupierError):
    """A model version did not show what its promotion demands; the text has the numbers."""

    code = "gate_refused"
    exit_code = 2


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a promotion: serving and replaced version, number of serving processes, evidence of the gate."""

    model_version: str
    replaced: str | None
    serving: int
    evidence: dict[str, float]


def promote(home: Path, url: str, version: str, by: str | None = None) -> Promotion:
    """Let a version serve if it passes the gate of mlflow.yaml; returns when every serving process reports it.

    Args:
        home: Directory of the house.
        url: The store.
        version: `croupier-churn/7` or `7`.
        by: Who promotes, for the record; None is the user of this process.

    Raises:
        GateRefused: The version does not pass.
        RegistryError: There is no such version, or it is not whole.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    client = connect(url)
    registry = settle(home, client)
    version, replaced = registry.canonical(version), registry.champion()
    evidence = examine(registry, version, replaced, published(client, replaced) if replaced else None)
    judge(version, evidence, registry.settings.gates.churn)
    return install(registry, client, new_entry(client, "promote", version, replaced, evidence, by))


def install(registry: ChurnRegistry, client: redis.Redis, entry: JournalEntry) -> Promotion:
    """Let a version that passed its gate serve, and record the promotion."""
    serving = _change(client, entry, registry.bundle(entry.version))
    try:
        _record_all(registry, client)
    except Exception as error:  # noqa: BLE001 - it serves: MLflow is told by the next command, whatever kept it now
        import structlog  # noqa: PLC0415 - a rollback spares it

        structlog.get_logger().warning(
            "promotion", trouble=f"{entry.version} serves, but MLflow was not told yet: {error}"
        )
    return _done(entry, serving)


def rollback(home: Path, url: str, by: str | None = None) -> Promotion:
    """Let the previous champion serve again; returns when every serving process reports it.

    Needs the store alone, so that it takes no longer than the serving processes do; `settle` tells MLflow.

    Raises:
        GateRefused: There is none.
        RegistryError: It is not whole.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    client = connect(url)
    if not journal(client):
        settle(home, client)  # a store that was made anew learns from the registry
    held = journal(client)
    version = previous(held)
    if version is None:
        raise GateRefused(f"there is no churn model before {champion(held) or 'the first one'} to go back to")
    bundle = published(client, version) or settle(home, client).bundle(version)
    entry = new_entry(client, "rollback", version, champion(held), {}, by)
    return _done(entry, _change(client, entry, bundle))


def _done(entry: JournalEntry, serving: int) -> Promotion:
    return Promotion(
        model_version=entry.version, replaced=entry.replaced, serving=serving, evidence=dict(entry.evidence)
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


# --- The store


def journal(client: redis.Redis) -> list[JournalEntry]:
    """All promotions and rollbacks of the churn model, oldest first."""
    held = cast("list[bytes]", client.lrange(CHURN_PROMOTIONS, 0, -1))
    return [msgspec.json.decode(entry, type=JournalEntry) for entry in held]


def new_entry(
    client: redis.Redis,
    action: str,
    version: str,
    replaced: str | None,
    evidence: Mapping[str, float],
    by: str | None = None,
    run: str = "",
) -> JournalEntry:
    """Journal entry for a change about to be made, by default by this process's user."""
    return JournalEntry(
        id=secrets.token_hex(8),
        action=action,
        version=version,
        replaced=replaced,
        by=by or user(),
        at=moment(open_house(client).now_us(real_now_us(client))).isoformat(),
        evidence=dict(evidence),
        run=run,
    )


def _change(client: redis.Redis, entry: JournalEntry, bundle: bytes) -> int:
    """Let a bundle serve, then record it; after a crash in between, repeating it repairs the record.

    Raises:
        StoreError: Another command changed what serves since `entry` was made, or a process did not load it.
    """
    with alone(client, "promoting"):
        if champion(journal(client)) != entry.replaced:
            raise StoreError("another command has changed what serves meanwhile: look, and run this one again")
        note = None if entry.version == entry.replaced else (CHURN_PROMOTIONS, msgspec.json.encode(entry))
        return serve(client, bundle, entry.version, note=note)


def serve(
    client: redis.Redis,
    bundle: bytes,
    version: str | None = None,
    kind: str = "churn",
    note: tuple[str, bytes] | None = None,
) -> int:
    """Publish a bundle and wait until every live serving process reports it; returns their number.

    Args:
        client: The store.
        bundle: What is to serve.
        version: Its name.
        kind: Its kind.
        note: A journal and the entry to append to it in the same step, so that the journal is always complete.

    Raises:
        StoreError: One did not in time; pointer and journal are back where they were.
    """
    pointer = pointer_key(kind)
    before = cast("bytes | None", client.get(pointer))
    digest = keep(client, bundle, version)
    _point(client, pointer, digest.encode(), note)
    deadline = time.monotonic() + LIVE_WAIT_SECONDS
    while others := [one for one in serving_hashes(client, kind) if one != digest]:
        if time.monotonic() > deadline:
            _point(client, pointer, before, note, back=True)
            raise StoreError(
                f"{len(others)} serving processes did not load the {kind} model in {LIVE_WAIT_SECONDS:g} seconds; "
                "what served before goes on serving, and their log says why"
            )
        time.sleep(_POLL_SECONDS)
    return len(serving_hashes(client, kind))


def _point(
    client: redis.Redis, pointer: str, digest: bytes | None, note: tuple[str, bytes] | None, *, back: bool = False
) -> None:
    """Append to the journal and move a pointer, or undo both, in one step; on a cluster one after the other."""
    pipe = client.pipeline(transaction=True)
    if note is not None:
        _ = pipe.lrem(note[0], -1, note[1].decode()) if back else pipe.rpush(*note)
    _ = pipe.delete(pointer) if digest is None else pipe.set(pointer, digest)
    pipe.execute()


@contextmanager
def alone(client: redis.Redis, what: str) -> Iterator[None]:
    """Lock out other promotions of a kind in this store; raises StoreError if another one does not end."""
    try:
        with client.lock(lock_key(what), timeout=_LOCK_SECONDS, blocking_timeout=_LOCK_SECONDS, sleep=0.05):
            yield
    except LockError as error:
        raise StoreError("another command that changes what serves does not end: try again in two minutes") from error


def user() -> str:
    """Name of the user who runs this process, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return "unknown"


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
    with alone(client, "recording"):
        done = int(cast("bytes | None", client.get(CHURN_RECORDED)) or 0)
        for count, entry in enumerate(journal(client)[done:], done + 1):
            registry.record(entry)
            client.set(CHURN_RECORDED, count)
