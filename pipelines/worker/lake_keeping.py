"""Errands that keep lake and store small: whole days become one file, snapshots that nothing names are collected."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final, cast

import redis

from features.moments import DAY_US
from features.settings.mlflow_file import read_mlflow
from features.store.deployment import open_house, real_now_us
from features.store.keys import COLLECTING, COLLECTING_LEASE, COLLECTING_LOOKED, LAKE_KEEPING_LEASE
from pipelines.lake.compaction import leftovers, tasks, today
from pipelines.lake.retention import expired
from pipelines.worker.errands import Errand
from pipelines.worker.lake import reach

_LOOK_SECONDS: Final = 300.0
_AGAIN_SECONDS: Final = 3_600.0
"""How long what a round did not settle, as where somebody reads or files are not what they must be, is left alone."""


def lake_keeping(lake: Path) -> Errand:
    """The errand of a lake."""
    return Errand("lake", ("lake", "compact"), LAKE_KEEPING_LEASE, _Waiting(lake).for_it, _LOOK_SECONDS)


def _is_due(client: redis.Redis) -> bool:
    """Whether nobody has looked for snapshots that nothing names for a day; a new house is looked at a day later."""
    looked = cast("bytes | None", client.hget(COLLECTING, COLLECTING_LOOKED))
    now_us = real_now_us(client)
    if looked is None:
        client.hset(COLLECTING, COLLECTING_LOOKED, str(now_us))
        return False
    return now_us - int(looked) >= DAY_US


COLLECTION: Final = Errand("collect", ("lake", "collect"), COLLECTING_LEASE, _is_due, 600.0)


class _Waiting:
    """Sees what waits; the same again is done again after an hour only, for whatever ails it may stay."""

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._seen: set[tuple[str, str, int]] = set()
        self._again = 0.0

    def for_it(self, client: redis.Redis) -> bool:
        """Whether a day is to be made one file, or something is left over."""
        flushed = reach(self._lake).flushed
        first_open = today(open_house(client).now_us(flushed * 1_000))
        waiting = {(task.table, task.day, len(task.files)) for task in tasks(self._lake, first_open, flushed)}
        waiting |= {("remove", str(file), 0) for file in leftovers(self._lake, time.time())}
        keep = read_mlflow(self._lake.parent).lake.keep_days
        waiting |= {("delete", str(day), 0) for days in expired(self._lake, keep, first_open).values() for day in days}
        now = time.monotonic()
        if not waiting or (waiting <= self._seen and now < self._again):
            return False
        self._seen, self._again = waiting, now + _AGAIN_SECONDS
        return True
