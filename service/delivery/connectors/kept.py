"""What the house keeps itself: tasks of agents, the players' inbox, the catcher."""

from __future__ import annotations

from typing import Final

from features.store.errors import StoreError
from service.delivery.calls import AGAIN_SECONDS
from service.delivery.message import Keeper, Later, Message, SendResult, Sent


class KeptSender:
    """Keeps messages, one for each key: a repeated attempt changes nothing."""

    honours_key: Final = True

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def send(self, message: Message) -> SendResult:
        """Keep a message."""
        try:
            return Sent(await self._keeper.keep(message))
        except StoreError:
            return Later(AGAIN_SECONDS, "the store did not answer")
