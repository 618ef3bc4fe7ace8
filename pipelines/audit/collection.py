"""Collect snapshots of policies that nothing names any more: no pointer, journal, serving process, or decision.

    store --what nothing names--> noted --a day later, and still so--> deleted

The learner publishes snapshots as long as it learns, and by most of them nothing is decided; its journal remembers ten
thousand. All else (catalogues, rulebooks, experiments, templates, schemas, plans, churn models) is little, named by
journals or inside of records, and stays. When in doubt, a snapshot stays too: where the lake at hand does not reach as
far as the store says, nothing goes. What the store keeps of decisions needs no look: they stand in log or lake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis

from features.lake.files import table_files, unmoved
from features.moments import moment
from features.store.deployment import PARTITIONS, real_now_us
from features.store.keys import (
    BUNDLES,
    COLLECTING,
    COLLECTING_LOOKED,
    LAKE_LEASE,
    LIVE,
    POINTERS,
    POLICY_HELD,
    POLICY_WAITING,
    SHA256_BUNDLES,
    bundle_key,
    log_key,
)
from models.policy.learned import PolicyVersion, SnapshotError
from models.releases.release import KINDS, alone, journal
from pipelines.audit.period import AuditRefused
from pipelines.worker.lake import reach
from service.decisions.record import load_record

WAIT_US: Final = 24 * 3_600_000_000
"""How long nothing must name a snapshot before it goes, by the store's clock."""
_PAGE: Final = 1_000


class UnnamedSnapshot(msgspec.Struct, kw_only=True):
    """A snapshot that nothing names: its hash, its version, its size, since when, and whether it goes."""

    digest: str
    version: str
    bytes: int
    since: str
    goes: bool


def collect(client: redis.Redis, lake: Path, *, dry_run: bool = False) -> list[UnnamedSnapshot]:
    """Note snapshots that nothing names, and delete those that nothing has named for a day.

    Args:
        client: The store.
        lake: The house's lake, whose decisions name snapshots.
        dry_run: Change nothing; say what would be deleted.

    Raises:
        AuditRefused: The lake cannot be read, or is not the one that the store's log went into.
    """
    now_us = real_now_us(client)
    known = cast("dict[bytes, bytes]", client.hgetall(COLLECTING))
    versions = _versions(client)
    found = list(_unnamed(client, versions, _named_now(client) | set(_decided(client, lake)), known, now_us))
    if not dry_run:
        _note(client, known, found, now_us)
        with alone(client, "policy"):  # nobody publishes one or goes back to one meanwhile
            named = _named_now(client)
            for one in found:
                if one.goes and not named & {one.digest, *versions.get(one.digest, ())}:
                    _delete(client, one.digest, versions.get(one.digest, ()))
    return found


def _versions(client: redis.Redis) -> dict[str, list[str]]:
    """Names of versions by the hash of their bundle."""
    found: dict[str, list[str]] = {}
    for name, digest in cast("dict[bytes, bytes]", client.hgetall(BUNDLES)).items():
        found.setdefault(digest.decode(), []).append(name.decode())
    return found


def _unnamed(
    client: redis.Redis, versions: Mapping[str, list[str]], named: set[str], known: Mapping[bytes, bytes], now_us: int
) -> Iterator[UnnamedSnapshot]:
    for key in sorted(client.scan_iter(SHA256_BUNDLES, count=_PAGE)):
        digest = key.decode().rpartition(":")[2]
        called = versions.get(digest, [])
        bundle = None if named & {digest, *called} else cast("bytes | None", client.get(key))
        if bundle is not None and _is_snapshot(bundle):
            since_us = int(known.get(digest.encode(), now_us))
            yield UnnamedSnapshot(
                digest=digest,
                version=", ".join(called),
                bytes=len(bundle),
                since=moment(since_us).isoformat(timespec="seconds"),
                goes=now_us - since_us >= WAIT_US,
            )


def _is_snapshot(bundle: bytes) -> bool:
    try:
        PolicyVersion.loads(bundle)
    except SnapshotError:
        return False
    return True


def _named_now(client: redis.Redis) -> set[str]:
    """Hashes and versions that pointers, journals and serving processes name."""
    found = {value.decode() for value in _values(client)}
    for kind in KINDS:
        for entry in journal(client, kind):
            found |= {entry.version, entry.replaced or ""}
    for report in cast("set[bytes]", client.smembers(LIVE)):
        told = cast("bytes | None", client.get(report))
        found |= {str(value) for value in msgspec.json.decode(told or b"{}").values()}
    return found


def _decided(client: redis.Redis, lake: Path) -> Iterator[str]:
    """Versions that decisions name: of the log first, for what a flush moves meanwhile is then found in both."""
    yield from _of_log(client)
    yield from _of_lake(client, lake)


def _values(client: redis.Redis) -> Iterable[bytes]:
    keys = [*client.scan_iter(POINTERS, count=_PAGE), POLICY_HELD, POLICY_WAITING]
    return [value for key in keys if (value := cast("bytes | None", client.get(key))) is not None]


def _of_log(client: redis.Redis) -> Iterator[str]:
    for partition in range(PARTITIONS):
        after = "-"
        while entries := cast("list[Any]", client.xrange(log_key(partition), after, count=_PAGE)):
            for _, fields in entries:
                if fields.get(b"k") == b"decision":
                    record = load_record(fields[b"b"])
                    yield record.choice.policy_version
                    yield from (shadow.snapshot for shadow in record.shadows)
            after = f"({entries[-1][0].decode()}"


def _of_lake(client: redis.Redis, lake: Path) -> Iterator[str]:
    told = cast("bytes | None", client.hget(LAKE_LEASE, "watermark"))
    if reach(lake).flushed * 1_000 < int(told or b"0"):
        raise AuditRefused(f"{lake} is not the lake that the store's log went into: what its decisions name is unknown")
    try:
        with unmoved(lake):
            for file in table_files(lake, "decisions"):
                column = pq.read_table(file, columns=["policy_version"], partitioning=None)["policy_version"]
                yield from (name for name in pc.unique(column).to_pylist() if name is not None)
    except (OSError, pa.ArrowException) as error:
        raise AuditRefused(f"{lake} cannot be read, so nothing is collected: {error}") from error


def _note(client: redis.Redis, known: Mapping[bytes, bytes], found: list[UnnamedSnapshot], now_us: int) -> None:
    """Note what nothing names since when, and forget what something names again."""
    unnamed = {one.digest.encode() for one in found if not one.goes}
    gone = [digest for digest in known if digest not in unnamed and digest != COLLECTING_LOOKED.encode()]
    pipe = client.pipeline(transaction=True)
    for digest in unnamed - known.keys():
        pipe.hset(COLLECTING, digest.decode(), str(now_us))
    if gone:
        pipe.hdel(COLLECTING, *(digest.decode() for digest in gone))
    pipe.hset(COLLECTING, COLLECTING_LOOKED, str(now_us))
    pipe.execute()


def _delete(client: redis.Redis, digest: str, versions: Iterable[str]) -> None:
    """Delete a bundle after its names: no version may name what is not there."""
    for version in versions:
        client.hdel(BUNDLES, version)
    client.delete(bundle_key(digest))
