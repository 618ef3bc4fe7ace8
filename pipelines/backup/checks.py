"""What a restored house must show before it is one: the store of the manifest, its bundles, the chain, the models."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq
import redis

from features.errors import CroupierError
from features.settings.mlflow_file import read_mlflow
from features.store.bundles import KINDS
from features.store.deployment import PARTITIONS, open_house, order
from features.store.keys import BUNDLES, bundle_key, log_key, pointer_key
from features.store.server import Say
from pipelines.backup.manifest import BackupError, StoreReading
from pipelines.backup.progress import Progress
from pipelines.worker.lake import reach
from service.decisions.record import load_record

SQLITE: Final = "sqlite:///"
_SAMPLE: Final = 20
"""How many of the last entries of each log are looked at."""


def read_store(client: redis.Redis) -> StoreReading:
    """What a store holds."""
    pipe = client.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipe.xinfo_stream(log_key(partition))
    logs = {at: log for at, log in enumerate(pipe.execute(raise_on_error=False)) if isinstance(log, dict)}
    space = cast("dict[str, Any]", client.info("keyspace")).get("db0", {"keys": 0, "expires": 0})
    return StoreReading(
        last_ids={f"p{partition:03d}": log["last-generated-id"].decode() for partition, log in logs.items()},
        entries=sum(log["length"] for log in logs.values()),
        lasting=space["keys"] - space["expires"],
        keys=space["keys"],
    )


def check_store(client: redis.Redis, noted: StoreReading | None) -> int:
    """Check that a store is the one that was noted, and that what it serves is whole.

    Args:
        client: A store of which nothing was changed yet.
        noted: What the manifest says.

    Returns:
        How many decisions of its log were read.

    Raises:
        BackupError: It is another one, or something is missing or damaged.
        StoreError: It holds no house, or one of another format.
    """
    open_house(client)
    if noted is not None:
        found = read_store(client)
        if others := [name for name, last in noted.last_ids.items() if found.last_ids.get(name) != last]:
            raise BackupError(f"the store ends elsewhere than noted in {len(others)} partitions, as in {others[0]}")
        if (found.entries, found.lasting) != (noted.entries, noted.lasting):
            told = f"{found.entries} entries and {found.lasting} lasting keys"
            raise BackupError(f"the store holds {told}, noted are {noted.entries} and {noted.lasting}")
    _check_bundles(client)
    return _read_decisions(client)


def _check_bundles(client: redis.Redis) -> None:
    """Check that every bundle that a pointer or a version names is there with its hash."""
    pointers = {kind: cast("bytes | None", client.get(pointer_key(kind))) for kind in KINDS}
    versions = cast("dict[bytes, bytes]", client.hgetall(BUNDLES))
    named = {kind: digest.decode() for kind, digest in pointers.items() if digest}
    named |= {name.decode(): digest.decode() for name, digest in versions.items()}
    for name, digest in named.items():
        bundle = cast("bytes | None", client.get(bundle_key(digest)))
        if bundle is None or hashlib.sha256(bundle).hexdigest() != digest:
            raise BackupError(f"the bundle {name} ({digest[:12]}) is {'missing' if bundle is None else 'damaged'}")


def _read_decisions(client: redis.Redis) -> int:
    """Read the last decisions of each log; returns how many."""
    pipe = client.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipe.xrevrange(log_key(partition), count=_SAMPLE)
    entries = [fields for log in pipe.execute() for _, fields in log]
    try:
        return len([load_record(fields[b"b"]) for fields in entries if fields.get(b"k") == b"decision"])
    except (ValueError, KeyError) as error:
        raise BackupError(f"a decision of the log cannot be read: {error}") from error


def check_chain(lake: Path, say: Say) -> int:
    """Check that the chain of every partition runs from its beginning to the head that is noted.

    Args:
        lake: The lake's folder.
        say: Told how far it is.

    Returns:
        How many decisions were looked at.

    Raises:
        BackupError: It breaks, or ends elsewhere; the text names the place.
    """
    heads, count = defaultdict[str, bytes](bytes), 0
    files = _flushes(lake)
    progress = Progress("chain", len(files), say)
    for flush in files.values():
        progress.step()
        for place, record, link in _links(flush):
            partition = str(int(place[1:4]))
            heads[partition] = hashlib.sha256(heads[partition] + record).digest()
            count += 1
            if heads[partition] != link:
                raise BackupError(f"the chain of the lake breaks at {place}")
    told = {partition: head.hex() for partition, head in heads.items()}
    if told != reach(lake).heads:
        raise BackupError("the chain of the lake ends elsewhere than its last flush noted")
    return count


def _flushes(lake: Path) -> Mapping[str, Sequence[Path]]:
    """Files of decisions by flush, in the order of flushes."""
    found = defaultdict[str, list[Path]](list)
    for file in lake.glob("decisions/*/*.parquet"):
        found[file.stem].append(file)
    return dict(sorted(found.items(), key=lambda flush: int(flush[0].rpartition("-")[2])))


def _links(flush: Sequence[Path]) -> Iterator[tuple[str, bytes, bytes]]:
    """Place, record and link of the decisions of a flush, in the order of the log."""
    columns = ["position", "record", "chain"]
    try:
        rows = [row for file in flush for row in pq.read_table(file, columns=columns).to_pylist()]
    except (OSError, pa.ArrowException) as error:
        raise BackupError(f"{flush[0]} cannot be read: {error}") from error
    for row in sorted(rows, key=lambda one: (one["position"][:4], order(one["position"][5:]))):
        yield row["position"], row["record"], row["chain"]


def database_of(home: Path) -> Path | None:
    """MLflow's database of a home, None where that is elsewhere or not there yet."""
    uri = read_mlflow(home).tracking.uri
    file = Path(uri.removeprefix(SQLITE))
    return file if uri.startswith(SQLITE) and file.is_relative_to(home.resolve()) and file.exists() else None


def check_models(home: Path) -> str | None:
    """Open the registry of a home and load its champion; returns that version, None if there is none.

    Raises:
        BackupError: The registry does not open, or the champion does not load.
    """
    from models.churn.scorer import ChurnBundle, Scorer  # noqa: PLC0415 - LightGBM's library, and seconds of MLflow
    from models.releases.registry import ChurnRegistry  # noqa: PLC0415

    try:
        registry = ChurnRegistry(home)
        champion = registry.champion()
        if champion is not None:
            Scorer(ChurnBundle.loads(registry.bundle(champion)))
    except (CroupierError, ValueError, OSError) as error:
        raise BackupError(f"MLflow's models cannot be loaded: {error}") from error
    return champion
