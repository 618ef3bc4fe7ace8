"""Choose the policy version that serves: the newest, except between a rollback and its release.

A snapshot follows the one that serves if it was learnt the same way and later, or another way from at least as many
rows. `rollback` lets an earlier one serve and holds all that is learnt meanwhile; `promote` lets the newest follow.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, cast

import redis

from features.moments import moment
from features.store.bundles import keep, published
from features.store.connection import connect
from features.store.deployment import open_house, real_now_us
from features.store.keys import POLICY_HELD, POLICY_WAITING, bundle_key, pointer_key
from models.policy.learned import PolicyVersion, SnapshotError
from models.releases.journal import LEARN, Release, previous, serves, was_released
from models.releases.release import GateRefused, Released, alone, change, follow, journal, new_release, reasoned

_DAY: Final = timedelta(days=1)


def let_follow(client: redis.Redis, newest: PolicyVersion) -> bool:
    """Publish a policy version if it follows the serving one and no rollback holds; returns whether it serves now.

    Raises:
        SnapshotError: It holds what cannot be served.
    """
    newest.check()
    with alone(client, "policy"):
        before = serving(client)
        if before is not None and not follows(newest, before):
            return False
        if client.exists(POLICY_HELD):
            keep(client, newest.dumps(), newest.version)
            client.set(POLICY_WAITING, newest.version)
            return False
        replaced = None if before is None else before.version
        follow(client, new_release(client, "policy", LEARN, newest.version, replaced, by="learner"), newest.dumps())
    return True


def follows(newest: PolicyVersion, before: PolicyVersion) -> bool:
    """Whether a version succeeds another: later in its lineage, or of another one learnt from no fewer rows."""
    if newest.lineage == before.lineage:
        return newest.number > before.number
    return newest.rows >= before.rows


def serving(client: redis.Redis) -> PolicyVersion | None:
    """The serving policy version; None if there is none that this build can read."""
    digest = cast("bytes | None", client.get(pointer_key("policy")))
    data = cast("bytes | None", client.get(bundle_key(digest.decode()))) if digest else None
    try:
        return None if data is None else PolicyVersion.loads(data)
    except SnapshotError:
        return None


def rollback(url: str, reason: str, version: str | None = None, by: str | None = None) -> Released:
    """Let an earlier version serve and hold newer ones back; returns when every serving process reports it.

    Args:
        url: The store.
        reason: Why, for the record.
        version: Of a snapshot; None is the one that served before the last promotion, and where nobody promoted one,
            the one that served a day of house time ago, or the first.
        by: Who does it, for the record; None is the user of this process.

    Raises:
        GateRefused: There is none to go back to, or no reason is given.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    reason, client = reasoned(reason), connect(url)
    with alone(client, "policy"):
        held = journal(client, "policy")
        target = version or (previous(held) if was_released(held) else None)
        if target is None and not client.exists(POLICY_HELD):
            target = _a_day_before(client, held)
        bundle = None if target is None else published(client, target)
        before = _replaced(client, held)
        if target is None or bundle is None or before == target:
            raise GateRefused(f"there is no policy {target or ''} before the one that serves to go back to")
        try:
            PolicyVersion.loads(bundle)
        except SnapshotError as error:
            raise GateRefused(f"{target} is no policy that can serve: {error}") from error
        entry = new_release(client, "policy", "rollback", target, before, reason=reason, by=by)
        return change(client, entry, bundle, {POLICY_HELD: target})


def promote(url: str, reason: str, by: str | None = None) -> Released:
    """End a rollback: the newest version serves now, and later ones as they come.

    Raises:
        GateRefused: Nothing is held, or no reason is given.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    reason, client = reasoned(reason), connect(url)
    with alone(client, "policy"):
        if not client.exists(POLICY_HELD):
            raise GateRefused("no policy is held back: what is learnt serves already")
        before = _replaced(client, journal(client, "policy"))
        waiting = cast("bytes | None", client.get(POLICY_WAITING))
        version = waiting.decode() if waiting else before
        bundle = published(client, version) if version else None
        if version is None or bundle is None:
            raise GateRefused(f"the store keeps no policy {version or ''} that could serve")
        entry = new_release(client, "policy", "promote", version, before, reason=reason, by=by)
        return change(client, entry, bundle, {POLICY_HELD: None, POLICY_WAITING: None})


def _replaced(client: redis.Redis, held: list[Release]) -> str | None:
    before = None if held else serving(client)
    return serves(held) if before is None else before.version


def _a_day_before(client: redis.Redis, held: list[Release]) -> str | None:
    ago = moment(open_house(client).now_us(real_now_us(client))) - _DAY
    old = [entry for entry in held if datetime.fromisoformat(entry.at) <= ago] or held[:1]
    return old[-1].version if old else None
