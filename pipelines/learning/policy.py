"""Choose the policy version that serves: the newest, except between a rollback and its release.

A snapshot follows the one that serves if it was learnt the same way and later, or another way from at least as many
rows. `rollback` lets an earlier one serve and holds all that is learnt meanwhile; `promote` lets the newest follow.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec
import redis

from features.store.bundles import keep, publish, published
from features.store.connection import connect
from features.store.deployment import open_house, real_now_us
from features.store.keys import POLICY_HELD, POLICY_HISTORY, POLICY_WAITING, bundle_key, pointer_key
from models.policy.learned import PolicyVersion, SnapshotError
from pipelines.training.promotion import GateRefused, alone, serve, user

_REMEMBERED: Final = 10_000
_DAY_US: Final = 86_400_000_000


class PolicyChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the serving policy.

    Attributes:
        action: `learn` (a snapshot followed), `rollback` or `promote`.
        version: The version that serves since.
        replaced: The version that served before, None for the first.
        by: Who did it; the learner itself, or a user.
        at_us: House time, unix microseconds.
        serving: Serving processes that reported it when the command returned.
    """

    action: str
    version: str
    replaced: str | None
    by: str
    at_us: int
    serving: int = 0


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
        publish(client, "policy", newest.dumps(), newest.version)
        _note(client, PolicyChange(**_change(client, "learn", newest.version, before, "learner")))
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


def history(client: redis.Redis) -> list[PolicyChange]:
    """Changes of the serving policy, oldest first."""
    held = cast("list[bytes]", client.lrange(POLICY_HISTORY, 0, -1))
    return [msgspec.json.decode(one, type=PolicyChange) for one in held]


def rollback(url: str, version: str | None = None, by: str | None = None) -> PolicyChange:
    """Let an earlier version serve and hold newer ones back; returns when every serving process reports it.

    Args:
        url: The store.
        version: Of a snapshot; None is the one that served a day of house time ago, or the first.
        by: Who does it, for the record; None is the user of this process.

    Raises:
        GateRefused: There is none to go back to.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    client = connect(url)
    now_us = open_house(client).now_us(real_now_us(client))
    target = version or _a_day_before(history(client), now_us)
    bundle = None if target is None else published(client, target)
    before = serving(client)
    if target is None or bundle is None or (before is not None and before.version == target):
        raise GateRefused(f"there is no policy {target or ''} before the one that serves to go back to")
    try:
        PolicyVersion.loads(bundle)
    except SnapshotError as error:
        raise GateRefused(f"{target} is no policy that can serve: {error}") from error
    return _switch(client, "rollback", target, bundle, by)


def promote(url: str, by: str | None = None) -> PolicyChange:
    """End a rollback: the newest version serves now, and later ones as they come.

    Raises:
        GateRefused: Nothing is held.
        StoreError: A serving process did not load it; what served before goes on serving.
    """
    client = connect(url)
    if not client.exists(POLICY_HELD):
        raise GateRefused("no policy is held back: what is learnt serves already")
    waiting = cast("bytes | None", client.get(POLICY_WAITING))
    before = serving(client)
    version = waiting.decode() if waiting else None
    bundle = published(client, version) if version else None
    if version is None or bundle is None:
        client.delete(POLICY_HELD)
        return PolicyChange(**_change(client, "promote", before.version if before else "", before, by or user()))
    return _switch(client, "promote", version, bundle, by)


def _switch(client: redis.Redis, action: str, version: str, bundle: bytes, by: str | None) -> PolicyChange:
    with alone(client, "policy"):
        before = serving(client)
        if action == "rollback":
            client.set(POLICY_HELD, version)  # first, so that after a crash no newer version follows
        reported = serve(client, bundle, version, "policy")
        done = PolicyChange(**_change(client, action, version, before, by or user()), serving=reported)
        _note(client, done)
        if action == "promote":
            client.delete(POLICY_HELD, POLICY_WAITING)
    return done


def _change(client: redis.Redis, action: str, version: str, before: PolicyVersion | None, by: str) -> dict[str, Any]:
    at_us = open_house(client).now_us(real_now_us(client))
    replaced = None if before is None else before.version
    return {"action": action, "version": version, "replaced": replaced, "by": by, "at_us": at_us}


def _note(client: redis.Redis, change: PolicyChange) -> None:
    client.rpush(POLICY_HISTORY, msgspec.json.encode(change))
    client.ltrim(POLICY_HISTORY, -_REMEMBERED, -1)


def _a_day_before(held: list[PolicyChange], now_us: int) -> str | None:
    old = [one for one in held if one.at_us <= now_us - _DAY_US] or held[:1]
    return old[-1].version if old else None
