"""A key as people and callers see it in a list: everything but its secret. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from features.moments import when
from service.access.keys import Key


def listed(key_id: str, key: Key, at: float, used: Mapping[str, int]) -> dict[str, Any]:
    """A key at a unix second, with the seconds of the last use of keys by id."""
    ended = key.revoked
    return {
        "id": key_id,
        "label": key.label,
        "scopes": list(key.scopes),
        "state": key.state(at),
        "created_at": _when(key.created_at),
        "by": key.by,
        "rate": key.rate,
        "last_used_at": _when(used.get(key_id)),
        "expires_at": [_when(one.expires_at) for one in key.live(at)],
        "rotated_at": _when(key.rotated_at),
        "rotated_by": key.rotated_by,
        "revoked": None if ended is None else {"at": _when(ended.at), "by": ended.by, "reason": ended.reason},
    }


def _when(seconds: int | None) -> str | None:
    return None if seconds is None else when(seconds * 1_000_000)
