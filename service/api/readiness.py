"""Readiness of a process: it is ready once it was seen to decide and to write in time."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Final

import structlog

from features.errors import told
from features.store.errors import StoreError
from features.store.keys import partition_of
from service.api.routing import Dependencies
from service.decisions.decide import decide
from service.decisions.record import dump_record
from service.decisions.request import DecisionRequest

TIMES: Final = 3
"""Decisions and writes in a row, each in time, before a process counts as ready."""
POLL_SECONDS: Final = 0.2
_LOG: Final = structlog.get_logger()
_NOBODY: Final = "readiness"
"""Begins the ids of the players asked about, of whom nothing is ever stored."""


class Readiness:
    """Composes dry-run decisions and writes as much as a record takes, until three in a row were in time.

    Nothing of it enters log, lake or counters; what is written ends by itself. Into a store that is nearly full nothing
    is written: what restricts contact must get in.

    Attributes:
        trouble: Why the process is not ready, None if it is.
    """

    def __init__(self, deps: Dependencies) -> None:
        self.trouble: str | None = "no decision was composed here yet"
        self._desk = deps

    async def run(self) -> None:
        """Look again and again, until cancelled, while the process is not ready."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self.trouble is not None:
                await self.look()

    async def look(self) -> None:
        """Serve a few times in a row, each within the deadline of a decision."""
        try:
            for number in range(TIMES):
                await self._serve(number)
        except StoreError as error:
            self.trouble = str(error)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from deciding, what restricts must get in
            self.trouble = told(error)
            _LOG.exception("readiness", trouble=self.trouble)
        else:
            self.trouble = None

    async def _serve(self, number: int) -> None:
        """Decide about somebody whose partition can be reached, and write as much as the record takes."""
        _, away = await self._desk.asked().ledger.store.reach()
        player = self._somebody(number, frozenset(away))
        deps = self._desk.asked()
        deps = deps.within(deps.read_seconds)
        done = await decide(DecisionRequest(player_id=player, dry_run=True), deps.serving, deps.ledger)
        if not deps.room.is_short:
            await deps.ledger.probe(partition_of(done.kept.player), dump_record(done.record) if done.record else b"")

    def _somebody(self, number: int, away: frozenset[int]) -> str:
        """An id in a partition that can be reached; another one for each number."""
        house = self._desk.serving.house
        if len(away) == house.partitions:
            raise StoreError("no partition of the store can be reached")
        names = (f"{_NOBODY}-{number}-{attempt}" for attempt in count())
        return next(name for name in names if partition_of(house.player_key(name)) not in away)
