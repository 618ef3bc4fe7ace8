"""The store's append-only file, written anew: what was deleted or replaced is then in no file of it."""

from __future__ import annotations

import time
from typing import Any, Final, cast

import redis

from features.store.server import Say

_LOOK_SECONDS: Final = 0.05
_TELL_SECONDS: Final = 5.0


def rewrite(client: redis.Redis, say: Say, seconds: float = 3_600.0) -> bool:
    """Write the store's append-only file anew and wait until that is done; whether it was.

    A rewrite under way is waited for first: what it began with may be older than what has to go. A store elsewhere may
    forbid it, keep other files, or be many servers: that is said, and is its keeper's to do.
    """
    try:
        if not _told(client).get("aof_enabled"):
            say("  the store keeps no append-only file: how long its copies keep what was deleted is yours to settle")
            return False
        _ended(client, say, seconds)
        client.execute_command("BGREWRITEAOF")  # type: ignore[no-untyped-call]
        return _ended(client, say, seconds)
    except redis.RedisError as error:
        say(f"  the append-only file could not be written anew ({type(error).__name__}): the store's keeper can")
        return False


def _told(client: redis.Redis) -> dict[str, Any]:
    return cast("dict[str, Any]", client.info("persistence"))


def _ended(client: redis.Redis, say: Say, seconds: float) -> bool:
    """Wait for the end of a rewrite under way; whether the last one succeeded."""
    begun = said = time.monotonic()
    while True:
        told = _told(client)
        if not told["aof_rewrite_in_progress"] and not told.get("aof_rewrite_scheduled"):
            return bool(told["aof_last_bgrewrite_status"] == "ok")
        now = time.monotonic()
        if now - begun > seconds:
            say("  the append-only file is still being written anew: it goes on by itself")
            return False
        if now - said > _TELL_SECONDS:
            said = now
            say(f"  the append-only file is being written anew, for {now - begun:.0f} s")
        time.sleep(_LOOK_SECONDS)
