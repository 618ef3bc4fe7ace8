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
_SECOND_US: Final = 1_000_000
_AGAIN_SECONDS: Final = 3_600
_PATIENCE_US: Final = 10_000_000
"""A request that erases may still be under way for so long."""


def settle(client: redis.Redis, url: str, home: Path, say: Say) -> int:
    """End whatever is left of erasures; returns how many there were. Doing it twice changes nothing."""
    real_us = real_now_us(client)
    found = erasures.waiting(client, real_us // _SECOND_US)
    if not found:
        return 0
    house = open_house(client)
    late_us = house.now_us(real_us - _PATIENCE_US)
    broken = [one for one in found if one.erased_us is None and one.begun_us < late_us]
    if broken:
        finish(client, url, house, seals_of(house, home), broken)
        found = erasures.waiting(client, real_us // _SECOND_US)
    done = [one for one in found if one.erased_us is not None]
    settled(client, home, done, say)
    return len(done)


def settled(client: redis.Redis, home: Path, done: list[Erasure], say: Say) -> bool:
    """Write erasures beside the store, and the store's files anew; whether that was done, which a store may refuse.

    It is asked again in an hour then, in case what it lacked is mended.
    """
    if not done:
        return False
    erasures.keep(home, done)
    rewritten = append_only.rewrite(client, say)
    again_at = None if rewritten else real_now_us(client) // _SECOND_US + _AGAIN_SECONDS
    for one in done:
        erasures.close(client, msgspec.structs.replace(one, rewritten=rewritten), again_at)
    return rewritten


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
