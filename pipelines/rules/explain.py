"""Explain what may be sent to a player now in a running house, as a decision would find it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from features.store.connection import Store, connect, deadline
from pipelines.rules.inspection import RulesRefused
from pipelines.rules.rulebooks import served
from service.contacts.ledger import RedisLedger
from service.decisions.explain_player import ExplainedPlayer, explained, read_player
from service.decisions.serving import Serving
from service.players.facts import nothing_told

_SECONDS: Final = 5.0


def explain(url: str, player_id: str, brand: str = "main") -> dict[str, Any]:
    """Explain what may be sent to a player now and what not, with reasons, sources and inputs.

    Args:
        url: The store.
        player_id: The caller's id.
        brand: The brand, in any spelling.

    Raises:
        RulesRefused: Nothing is known of the player, or nobody knows the brand.
        StoreError: The store does not answer.
    """
    serving = served(connect(url))
    try:
        brand = serving.brand(brand)
    except ValueError as error:
        raise RulesRefused(str(error)) from error
    player = asyncio.run(_read(url, player_id, brand, serving))
    if nothing_told(player.snapshot.facts):
        raise RulesRefused(f"nothing is known of a player {player_id}")
    return {"player_id": player_id, **msgspec.to_builtins(explained(player.assessment, serving))}


async def _read(url: str, player_id: str, brand: str, serving: Serving) -> ExplainedPlayer:
    store = Store(url, most=1)
    try:
        ledger = RedisLedger(store, serving.house).by(deadline(_SECONDS))
        return await read_player(player_id, brand, serving, ledger)
    finally:
        await store.close()
