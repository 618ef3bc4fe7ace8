"""Erasures that the worker ends: what broke off, the file beside the store, and the store's own files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import msgspec
import redis

from features.store import append_only, erasures
from features.store.connection import Store, deadline
from features.store.deployment import House, open_house, real_now_us
from features.store.erasures import Erasure
from features.store.server import Say
from pipelines.worker.consumer import serving_plan
from service.contacts.ledger import RedisLedger
from service.players.sealing import Seals, seals_of
from service.privacy.erase import Eraser

_SECONDS: Final = 60.0
_PATIENCE_US: Final = 10_000_000
"""A request that erases may still be under way for so long."""


def settle(client: redis.Redis, url: str, home: Path, say: Say) -> int:
    """End whatever is left of erasures; returns how many there were. Doing it twice changes nothing."""
    waiting = [one for one in erasures.journal(client) if not one.rewritten]
    if not waiting:
        return 0
    house = open_house(client)
    late_us = house.now_us(real_now_us(client) - _PATIENCE_US)
    broken = [one for one in waiting if one.erased_us is None and one.begun_us < late_us]
    if broken:
        finish(client, url, house, seals_of(house, home), broken)
    done = [one for one in erasures.journal(client) if not one.rewritten and one.erased_us is not None]
    return settled(client, home, done, say)


def settled(client: redis.Redis, home: Path, done: list[Erasure], say: Say) -> int:
    """Write erasures beside the store, and the store's files anew."""
    if not done:
        return 0
    erasures.keep(home, done)
    append_only.rewrite(client, say)
    for one in done:
        erasures.note(client, msgspec.structs.replace(one, rewritten=True))
    return len(done)


def finish(client: redis.Redis, url: str, house: House, seals: Seals, broken: list[Erasure]) -> None:
    """End erasures that broke off, or that a store brought back from a backup knows nothing of."""
    plan = serving_plan(client)

    async def work() -> None:
        store = Store(url, 1)
        try:
            for one in broken:
                ledger = RedisLedger(store, house, deadline(_SECONDS), seals=seals)
                await Eraser(house, ledger, plan.key if plan else lambda _: b"").finish(one)
        finally:
            await store.close()

    asyncio.run(work())
