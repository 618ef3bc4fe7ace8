"""Scheduled commands: mlflow.yaml's `schedules`, cron lines in the house's clock, UTC.

However many workers look, each due moment is taken once; moments that passed while nobody looked, or while a run was
under way, are one run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, cast

import msgspec
import redis
import structlog
from cronsim import CronSim, CronSimError

from features.errors import CroupierError
from features.moments import micros, moment
from features.settings.environment import for_children
from features.settings.mlflow_file import read_mlflow
from features.store.deployment import House, real_now_us
from features.store.keys import schedule_claim_key, schedule_key
from pipelines.worker.child import LAST, Child

COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {"retrain": ("retrain",)}
"""What can be scheduled -> the command line's words for it."""
STOP_SECONDS: Final = 10.0
"""How long a run is given to end when the worker ends; it must fit into what the worker itself is given."""
_CLAIM_SECONDS: Final = 86_400
_LOG: Final = structlog.get_logger()


class ScheduleError(CroupierError):
    """mlflow.yaml asks for what cannot be scheduled."""

    code = "invalid_schedule"
    exit_code = 2


def read_schedules(home: Path) -> dict[str, str]:
    """What a home's mlflow.yaml has run -> its cron line.

    Raises:
        SettingError: The file is not valid.
        ScheduleError: A line is no cron line.
    """
    lines = msgspec.structs.asdict(read_mlflow(home).schedules)
    found = {name: line for name, line in lines.items() if line is not None}
    for name, line in found.items():
        try:
            CronSim(line, moment(0))
        except CronSimError as error:
            raise ScheduleError(f"mlflow.yaml schedules {name} at {line!r}, which is no cron line: {error}") from error
    return found


def due(line: str, since: datetime, now: datetime) -> datetime | None:
    """The latest moment of a cron line in (since, now], None if there is none.

    Args:
        line: Five fields, or six with seconds first.
        since: Up to when everything was looked at, aware.
        now: Aware, of the same zone.
    """
    upto = now.replace(microsecond=0) + timedelta(seconds=1)
    found = next(CronSim(line, upto, reverse=True), None)
    return found if found is not None and found > since else None


class Scheduler:
    """Starts due commands, each in a process of its own, one at a time of each kind."""

    def __init__(self, client: redis.Redis, house: House, schedules: Mapping[str, str], home: Path, url: str) -> None:
        self._client, self._house, self._schedules = client, house, schedules
        logs = home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        own = for_children(home, url)
        self.children = {
            name: Child(name, [sys.executable, "-m", "pipelines", *COMMANDS[name]], own, logs / f"{name}.log", LAST)
            for name in schedules
        }
        self._running: set[str] = set()

    def look(self) -> None:
        """Start commands that have come due since the last look; raises redis.RedisError if the store is away."""
        now = moment(self._house.now_us(real_now_us(self._client)))
        for name, line in self._schedules.items():
            if not self._busy(name) and self._take(name, line, now):
                self.children[name].start()
                self._running.add(name)
                _LOG.info("scheduled run", name=name, log=str(self.children[name].log))

    def stop(self) -> None:
        """Terminate running commands in order: each records that it was stopped, and nothing of it serves."""
        for child in self.children.values():
            child.stop(STOP_SECONDS)

    def _busy(self, name: str) -> bool:
        child = self.children[name]
        if name in self._running and child.dead():
            self._running.remove(name)
            _LOG.info("scheduled run ended", name=name, code=child.process.returncode if child.process else None)
        return name in self._running

    def _take(self, name: str, line: str, now: datetime) -> bool:
        """Claim a due moment; false if another worker did, or the house has not looked before."""
        key = schedule_key(name)
        if self._client.set(key, micros(now), nx=True):
            return False
        since = moment(int(cast("bytes", self._client.get(key))))
        at = due(line, since, now)
        if at is None:
            return False
        # The claim decides between workers that saw the same moment; the key only spares looking back.
        taken = self._client.set(schedule_claim_key(name, micros(at)), os.getpid(), nx=True, ex=_CLAIM_SECONDS)
        self._client.set(key, micros(at))
        return bool(taken)
