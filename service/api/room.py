"""Room in the store: while it is nearly full, decisions and ordinary events are shed, and what restricts gets in."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from features.store.connection import Store
from features.store.memory import NEARLY_FULL
from service.errors import StoreFullError

LOOK_SECONDS: Final = 0.5
_LOG: Final = structlog.get_logger()


class StoreRoom:
    """Looks how full the store is, several times a second.

    Attributes:
        used: Share of its memory bound that the fullest server used a moment ago; 0 where none has a bound.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.used = 0.0

    @property
    def is_short(self) -> bool:
        """Whether the store is nearly full."""
        return self.used >= NEARLY_FULL

    def demand(self) -> None:
        """Refuse what would make the store fuller; raises StoreFullError."""
        if self.is_short:
            raise StoreFullError

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once; a store that does not answer is as full as it was."""
        before, found = self.is_short, await self._store.used_share()
        if found is not None:
            self.used = found
        if self.is_short != before:
            _LOG.warning("store", used=round(self.used, 3), takes="what restricts" if self.is_short else "everything")
