"""Let a version serve and take it back, the same way for every kind: lock, journal, pointer, and a wait.

change:  lock --> what it replaces still serves --> bundle kept --> pointer and journal, one step
                                                                        |
         done <-- every live serving process reports it <---------------+--> else both as they were before

Whether a version may serve is the gate of its kind, which is asked before.
"""

from __future__ import annotations

import getpass
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple, cast

import msgspec
import redis
from redis.exceptions import LockError

from features.errors import CroupierError
from features.moments import moment
from features.prose import prose
from features.store.bundles import keep, serving_hashes
from features.store.deployment import open_house, real_now_us
from features.store.errors import StoreError
from features.store.keys import (
    CATALOGUE_PROMOTIONS,
    CHURN_PROMOTIONS,
    EXPERIMENT_RELEASES,
    POLICY_HISTORY,
    RULES_PROMOTIONS,
    TEMPLATE_RELEASES,
    lock_key,
    pointer_key,
)
from models.releases.journal import LEARN, Release, has_served, previous, read_entry, serves

LIVE_WAIT_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02
_LOCK_SECONDS: Final = 120.0
_REMEMBERED: Final = 10_000
_REASON: Final = 1_000


class Kind(NamedTuple):
    """Where the store keeps a kind's journal, and the name of the lock over what may not change at once with it."""

    journal: str
    lock: str


KINDS: Final[Mapping[str, Kind]] = {
    "churn": Kind(CHURN_PROMOTIONS, "promoting"),
    "policy": Kind(POLICY_HISTORY, "policy"),
    "rules": Kind(RULES_PROMOTIONS, "rules"),
    "catalogue": Kind(CATALOGUE_PROMOTIONS, "rules"),  # each is checked against the other
    "experiments": Kind(EXPERIMENT_RELEASES, "experiments"),
    "templates": Kind(TEMPLATE_RELEASES, "templates"),
}
_OF_WORKERS: Final = frozenset({"templates"})
"""Kinds that no serving process loads: workers look at the pointer before they use them."""


class GateRefused(CroupierError):
    """A version did not show what its promotion demands, or there is none; the text says which."""

    code = "gate_refused"
    exit_code = 2


class Released(Release, frozen=True, kw_only=True):
    """A release as its command reports it.

    Attributes:
        serving: Live serving processes, all of which report it.
        silent: Those that reported when it began and no more when it ended: they ended or hang.
    """

    serving: int
    silent: int = 0


def journal(client: redis.Redis, kind: str) -> list[Release]:
    """All entries of a kind, oldest first; raises StoreError if one is not readable."""
    held = cast("list[bytes]", client.lrange(KINDS[kind].journal, 0, -1))
    try:
        return [read_entry(kind, entry) for entry in held]
    except msgspec.DecodeError as error:
        raise StoreError(f"the journal of {kind} in the store is not readable: {error}") from error


def way_back(
    held: Sequence[Release], version: str | None, noun: str, refused: type[CroupierError] = GateRefused
) -> str:
    """The version that a rollback returns to: the named one, else the one before the last promotion.

    Args:
        held: The journal.
        version: One that served, if it is named.
        noun: What a version is, for the sentence.
        refused: Raised where there is none.
    """
    target = version or previous(held)
    if target is None:
        raise refused(f"there is no promotion of a {noun} to take back")
    if target == serves(held) or not has_served(held, target):
        raise refused(f"{target} is no {noun} that served before the one that serves")
    return target


def reasoned(reason: str) -> str:
    """A reason as it is kept; raises GateRefused if it says nothing, what cannot be seen, or more than MLflow takes."""
    try:
        said = prose(reason)
    except ValueError as error:
        raise GateRefused(f"--reason: {error}") from error
    if not said:
        raise GateRefused("say why, for the journal: --reason TEXT")
    if len(said) > _REASON:
        raise GateRefused(f"a reason has at most {_REASON:,} characters, this one has {len(said):,}")
    return said


def new_release(  # noqa: PLR0913 - the fields of an entry
    client: redis.Redis,
    kind: str,
    action: str,
    version: str,
    replaced: str | None,
    *,
    reason: str = "",
    by: str | None = None,
    evidence: Mapping[str, Any] | None = None,
    run: str = "",
) -> Release:
    """The entry of a change about to be made, by default by this process's user; all but `learn` need a reason."""
    return Release(
        kind=kind,
        id=secrets.token_hex(8),
        action=action,
        version=version,
        replaced=replaced,
        by=by or user(),
        reason=reason if action == LEARN else reasoned(reason),
        at=moment(open_house(client).now_us(real_now_us(client))).isoformat(),
        evidence=dict(evidence or {}),
        run=run,
    )


def change(
    client: redis.Redis, release: Release, bundle: bytes, beside: Mapping[str, str | None] | None = None
) -> Released:
    """Let a release serve; returns when every live serving process reports it. Its kind is locked by the caller.

    Args:
        client: The store.
        release: Its entry for the journal; one that changes nothing is not entered, so a repetition repairs.
        bundle: What serves.
        beside: Further keys that change with it, None for one that goes.

    Raises:
        StoreError: Another command has changed what serves since `release` was made, or a process did not load it;
            then everything is as it was before.
    """
    held = journal(client, release.kind)
    if held and serves(held) != release.replaced:
        raise StoreError("another command has changed what serves meanwhile: look, and run this one again")
    idle = held and release.version == release.replaced and not beside
    note = None if idle else msgspec.json.encode(release)
    serving, silent = _serve(client, release.kind, bundle, release.version, note, beside or {})
    return Released(**msgspec.structs.asdict(release), serving=serving, silent=silent)


def follow(client: redis.Redis, release: Release, bundle: bytes) -> None:
    """Let a snapshot serve, and wait for nobody; a line of history, of which the last 10,000 stay."""
    list_key = KINDS[release.kind].journal
    digest = keep(client, bundle, release.version)
    _write(client, {pointer_key(release.kind): digest.encode()}, (list_key, msgspec.json.encode(release)))
    if cast("int", client.llen(list_key)) > _REMEMBERED:
        oldest = cast("list[bytes]", client.lrange(list_key, 0, _REMEMBERED))
        learnt = next((entry for entry in oldest if read_entry(release.kind, entry).action == LEARN), None)
        if learnt is not None:  # what persons did stays
            client.lrem(list_key, 1, learnt.decode())


def _serve(
    client: redis.Redis,
    kind: str,
    bundle: bytes,
    version: str,
    note: bytes | None,
    beside: Mapping[str, str | None],
) -> tuple[int, int]:
    """Point to a bundle and wait; returns how many processes serve, and how many fell silent meanwhile."""
    entry = None if note is None else (KINDS[kind].journal, note)
    digest = keep(client, bundle, version)
    wanted = {**beside, pointer_key(kind): digest}
    before = {key: cast("bytes | None", client.get(key)) for key in wanted}
    began = len(serving_hashes(client, kind))
    _write(client, {key: None if value is None else value.encode() for key, value in wanted.items()}, entry)
    try:
        if kind not in _OF_WORKERS:
            _await_reports(client, kind, digest)
    except BaseException:  # whoever interrupts the wait must not leave behind what nobody may be able to load
        with suppress(redis.RedisError):
            _write(client, before, entry, back=True)
        raise
    serving = len(serving_hashes(client, kind))
    return serving, max(0, began - serving)


def _await_reports(client: redis.Redis, kind: str, digest: str) -> None:
    """Wait until every live serving process reports a bundle; raises StoreError if one does not in time."""
    deadline = time.monotonic() + LIVE_WAIT_SECONDS
    while others := sum(one != digest for one in serving_hashes(client, kind)):
        if time.monotonic() > deadline:
            raise StoreError(
                f"{others} serving processes did not load the {kind} release in {LIVE_WAIT_SECONDS:g} seconds; "
                "what served before goes on serving, and their log says why"
            )
        time.sleep(_POLL_SECONDS)


def _write(
    client: redis.Redis, values: Mapping[str, bytes | None], entry: tuple[str, bytes] | None, *, back: bool = False
) -> None:
    """Append an entry to a journal and set keys, or undo both, in one step; on a cluster one after the other."""
    pipe = client.pipeline(transaction=True)
    if entry is not None:
        _ = pipe.lrem(entry[0], -1, entry[1].decode()) if back else pipe.rpush(*entry)
    for key, value in values.items():
        _ = pipe.delete(key) if value is None else pipe.set(key, value)
    pipe.execute()


@contextmanager
def alone(client: redis.Redis, what: str) -> Iterator[None]:
    """Lock out other commands of a kind, or of another name, in this store; raises StoreError if one does not end."""
    name = KINDS[what].lock if what in KINDS else what
    try:
        with client.lock(lock_key(name), timeout=_LOCK_SECONDS, blocking_timeout=_LOCK_SECONDS, sleep=0.05):
            yield
    except LockError as error:
        raise StoreError("another command that changes what serves does not end: try again in two minutes") from error


def user() -> str:
    """Name of the user who runs this process, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return "unknown"
