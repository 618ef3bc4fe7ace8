"""Bundles: what serves, kept by content hash, named by a pointer that serving processes follow."""

from __future__ import annotations

import hashlib
from typing import Final, cast

import msgspec
import redis

from features.store.connection import TimedStore
from features.store.keys import BUNDLES, LIVE, bundle_key, pointer_key

KINDS: Final = ("catalogue", "rules", "plan", "churn", "policy", "experiments")
"""What serving processes follow, in the order in which they load it."""

HASH_OF: Final = {"catalogue": "catalogue_hash", "rules": "rules_hash"}
"""Under which name a serving process reports the content hash of a kind, whether promoted or of its files."""

READY: Final = "ready"
"""What the report of a serving process holds beside the hashes once it was seen to serve."""


def keep(client: redis.Redis, bundle: bytes, version: str | None) -> str:
    """Keep a bundle by its content hash, and by its version's name if it has one; returns the hash."""
    digest = hashlib.sha256(bundle).hexdigest()
    client.set(bundle_key(digest), bundle)
    if version is not None:
        client.hset(BUNDLES, version, digest)
    return digest


def publish(client: redis.Redis, kind: str, bundle: bytes, version: str | None = None) -> str:
    """Keep a bundle and let it serve; returns its hash."""
    digest = keep(client, bundle, version)
    client.set(pointer_key(kind), digest)
    return digest


def published(client: redis.Redis, version: str) -> bytes | None:
    """The bundle of a version that was published in this store, None if there is none."""
    digest = cast("bytes | None", client.hget(BUNDLES, version))
    return None if digest is None else kept(client, digest.decode())


def kept(client: redis.Redis, digest: str) -> bytes | None:
    """A bundle by its hash, None if the store has none."""
    return cast("bytes | None", client.get(bundle_key(digest)))


async def read_bundle(store: TimedStore, digest: str) -> bytes | None:
    """Read a bundle by its hash: a catalogue, a rule file or a schema of features that records name."""
    return cast("bytes | None", await store.command("GET", bundle_key(digest)))


async def read_version(store: TimedStore, name: str) -> bytes | None:
    """Read a bundle by the name of its version, as records hold it."""
    digest = await store.command("HGET", BUNDLES, name)
    return None if digest is None else await read_bundle(store, digest.decode())


def serving_hashes(client: redis.Redis, kind: str) -> list[str | None]:
    """What each live serving process reports for a kind."""
    keys = cast("set[bytes]", client.smembers(LIVE))
    reports = {key: cast("bytes | None", client.get(key)) for key in keys}
    if gone := [key for key, report in reports.items() if report is None]:
        client.srem(LIVE, *gone)
    return [msgspec.json.decode(report).get(kind) for report in reports.values() if report]
