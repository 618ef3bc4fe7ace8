"""Erase a player by hand: keys, then the file beside the store, then the store's own files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import msgspec
import redis

from features.moments import moment
from features.store.connection import Store, deadline
from features.store.erasures import Erasure
from features.store.server import Say
from pipelines.rules.rulebooks import served
from pipelines.worker.erasures import settled
from service.contacts.ledger import RedisLedger
from service.privacy.erase import Done, Eraser

_SECONDS: Final = 60.0


class ErasureResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure did.

    Attributes:
        erased_at: When the last key was destroyed, ISO 8601, UTC, by the house's clock.
        ids: Ids of the player that were erased, linked ones too.
        leases_revoked: Open contacts that were taken back.
        facts_removed: Facts that are gone.
        facts_kept: Facts that stay, for they restrict contact.
        rewritten: Whether the store's append-only file was written anew.
        already: Whether the player was erased before and nothing was told of them since: nothing was done now.
    """

    erased_at: str
    ids: int
    leases_revoked: int
    facts_removed: int
    facts_kept: int
    rewritten: bool
    already: bool = False


def erase(client: redis.Redis, url: str, home: Path, player_id: str, by: str, reason: str, say: Say) -> ErasureResult:
    """Erase a player by any of their ids; see `Eraser.erase`."""
    told, done = asyncio.run(_erased(client, url, player_id, by, reason))
    state = "were destroyed before, and nothing was told since" if done.already else "are destroyed"
    say(f"  the keys of {len(told.ids)} ids {state}; what restricts contact stays: {done.staying} facts")
    rewritten = settled(client, home, [] if done.already else [told], say)
    return ErasureResult(
        erased_at=moment(done.erased_us).isoformat(),
        ids=len(told.ids),
        leases_revoked=done.revoked,
        facts_removed=done.taken,
        facts_kept=done.staying,
        rewritten=rewritten,
        already=done.already,
    )


async def _erased(client: redis.Redis, url: str, player_id: str, by: str, reason: str) -> tuple[Erasure, Done]:
    serving, store = served(client), Store(url, 1)
    try:
        ledger = RedisLedger(store, serving.house, deadline(_SECONDS), seals=serving.seals)
        features_key = serving.plan.key if serving.plan else lambda _: b""
        return await Eraser(serving.house, ledger, features_key, serving).erase(player_id, by, reason)
    finally:
        await store.close()
