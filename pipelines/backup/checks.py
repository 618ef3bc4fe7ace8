"""What is seen of a restored house: the store that was noted, its bundles and decisions, the chain, the models.

Files and store that are not what the backup noted are refused. Everything else that is wrong was so in the former
house: it is told, and keeps nobody from having that house back.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import pyarrow as pa
import redis

from features.lake.flushes import FlushReader
from features.settings.mlflow_file import read_mlflow
from features.store.bundles import KINDS
from features.store.deployment import PARTITIONS, open_house, position
from features.store.keys import BUNDLES, bundle_key, log_key, pointer_key
from features.store.server import Say
from pipelines.audit.chain import Head, anchored, flushes, rows
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


def compare_store(client: redis.Redis, noted: StoreReading) -> None:
    """Compare a store, of which nothing was changed yet, with what was noted.

    Raises:
        BackupError: It is another one.
        StoreError: It holds no house, or one of another format.
    """
    open_house(client)
    found = read_store(client)
    if others := [name for name, last in noted.last_ids.items() if found.last_ids.get(name) != last]:
        raise BackupError(f"the store ends elsewhere than noted in {len(others)} partitions, as in {others[0]}")
    if (found.entries, found.lasting) != (noted.entries, noted.lasting):
        told = f"{found.entries} entries and {found.lasting} lasting keys"
        raise BackupError(f"the store holds {told}, noted are {noted.entries} and {noted.lasting}")


def store_faults(client: redis.Redis) -> list[str]:
    """Bundles that a pointer or a version names and that are missing or damaged, and unreadable decisions."""
    pointers = {kind: cast("bytes | None", client.get(pointer_key(kind))) for kind in KINDS}
    versions = cast("dict[bytes, bytes]", client.hgetall(BUNDLES))
    named = {name.decode(): digest.decode() for name, digest in versions.items()}
    named |= {kind: digest.decode() for kind, digest in pointers.items() if digest}
    return [*_bundle_faults(client, named), *_decision_faults(client)]


def _bundle_faults(client: redis.Redis, named: Mapping[str, str]) -> Iterator[str]:
    for name, digest in named.items():
        bundle = cast("bytes | None", client.get(bundle_key(digest)))
        if bundle is None:
            yield f"the bundle {name} ({digest[:12]}) is missing"
        elif hashlib.sha256(bundle).hexdigest() != digest:
            yield f"the bundle {name} ({digest[:12]}) is damaged"


def _decision_faults(client: redis.Redis) -> Iterator[str]:
    """The last unreadable decision of each log, of a sample."""
    pipe = client.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipe.xrevrange(log_key(partition), count=_SAMPLE)
    for partition, log in enumerate(pipe.execute()):
        for place, fields in log:
            try:
                if fields.get(b"k") == b"decision":
                    load_record(fields[b"b"])
            except (ValueError, KeyError) as error:
                yield f"the decision at {position(partition, place.decode())} cannot be read: {error}"
                break


def chain_faults(lake: Path, say: Say) -> tuple[int, list[str]]:
    """Follow the chain of every partition from its beginning to the head that the lake notes.

    Args:
        lake: The lake's folder.
        say: Told how far it is.

    Returns:
        How many decisions were followed, and where the chain breaks first or that it ends elsewhere.
    """
    heads, count = defaultdict[str, Head](Head, {str(at): head for at, head in anchored(lake).items()}), 0
    files, reader = flushes(lake), FlushReader()
    progress = Progress("chain", len(files), say)
    for flush in files.values():
        progress.step()
        try:
            for row in rows(reader, flush, ["position", "record", "chain"]):
                place = row["position"]
                if heads[str(int(place[1:4]))].follow(place, row["record"], row["chain"]) is not None:
                    return count, [f"the chain of the lake breaks at {place}"]
                count += 1
        except (OSError, pa.ArrowException) as error:
            return count, [f"{flush[0].file.name} of the lake cannot be read: {error}"]
    told = {partition: head.link.hex() for partition, head in heads.items()}
    return count, [] if told == reach(lake).heads else ["the chain of the lake ends elsewhere than its position says"]


def database_of(home: Path) -> Path | None:
    """MLflow's database of a home, None where that is elsewhere or not there yet."""
    uri = read_mlflow(home).tracking.uri
    file = Path(uri.removeprefix(SQLITE))
    return file if uri.startswith(SQLITE) and file.is_relative_to(home.resolve()) and file.exists() else None


def load_champion(home: Path) -> tuple[str | None, list[str]]:
    """Open the registry of a home and load its champion: that version, None if there is none, and what failed."""
    from models.churn.scorer import ChurnBundle, Scorer  # noqa: PLC0415 - LightGBM's library, and seconds of MLflow
    from models.releases.registry import ChurnRegistry  # noqa: PLC0415

    champion = None
    try:
        registry = ChurnRegistry(home)
        champion = registry.champion()
        if champion is not None:
            Scorer(ChurnBundle.loads(registry.bundle(champion)))
    except Exception as error:  # noqa: BLE001 - whatever MLflow meets: the house is restored all the same
        return champion, [f"MLflow's models cannot be loaded: {error}"]
    return champion, []
