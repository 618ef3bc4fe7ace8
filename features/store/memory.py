"""Memory of the store: how much of its bound a server uses, and what bound a machine can give one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

import redis

from features.store.cluster import Cluster
from features.store.errors import StoreError

NEARLY_FULL: Final = 0.9
"""Share of its bound from which on a store only takes what restricts contact, and what makes room."""
_OWN_SHARE: Final = 0.5
"""Of the machine's memory: a server that writes its file anew may need as much once more for a while."""
_CONTAINER: Final = Path("/sys/fs/cgroup/memory.max")


def used_share(info: Mapping[str, Any]) -> float:
    """Share of its bound that a server uses, by its INFO; 0 where it has none."""
    bound = int(info.get("maxmemory", 0))
    return int(info.get("used_memory", 0)) / bound if bound else 0.0


def read_info(told: bytes) -> dict[str, str]:
    """Fields of a reply to INFO."""
    lines = (line.partition(":") for line in told.decode("utf8", "replace").splitlines())
    return {name: value for name, divided, value in lines if divided}


def demand_room(client: redis.Redis) -> None:
    """Refuse what would make a nearly full store fuller; raises StoreError."""
    servers = client.servers() if isinstance(client, Cluster) else [client]
    used = max(used_share(cast("Mapping[str, Any]", one.info("memory"))) for one in servers)
    if used >= NEARLY_FULL:
        raise StoreError(
            f"the store uses {used:.0%} of its memory, and takes only what restricts contact: give it more, then again"
        )


def own_bound() -> int:
    """Bytes that a home's own server may use, where nobody says: half of what the machine, or the container, has."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no container, or one without a bound
        most = min(most, int(_CONTAINER.read_text("ascii")))
    return int(most * _OWN_SHARE)
