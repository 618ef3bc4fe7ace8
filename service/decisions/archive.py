"""Where a decision's record is: in the store, in the log until that is trimmed, in a lake if this host has one."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from features.lake import records
from features.lake.anchor import read_anchor
from features.moments import moment
from features.store.deployment import position
from service.contacts.ledger import RedisLedger
from service.decisions.kept import load_stored
from service.decisions.record import Record, load_record
from service.errors import ArchivedError, LakeUnreadableError, UnknownDecisionError

_LOG: Final = structlog.get_logger()
_READERS: Final = ThreadPoolExecutor(4, "lake")
"""Threads of their own: a file system that hangs holds up nothing else."""


async def find_record(decision_id: str, ledger: RedisLedger, lake: Path | None) -> Record:
    """The whole record of a decision.

    Args:
        decision_id: As the decision answered it.
        ledger: The store.
        lake: The lake of this host, None if it has none.

    Raises:
        UnknownDecisionError: No such decision, or none that is still kept.
        ArchivedError: It lies in a lake that this host does not have; names the place.
        LakeUnreadableError: The lake of this host did not tell.
        StoreError: The store did not answer.
    """
    held = await ledger.decision(decision_id)
    if held is None:
        raise UnknownDecisionError
    _, record, place = load_stored(held)
    if record is not None:
        return record
    if place is None:  # of no build: what is kept in part says where the rest is
        raise UnknownDecisionError
    logged = await ledger.logged(place) or (None if lake is None else await _in_lake(lake, place, ledger.store.seconds))
    if logged is None:  # what the log lacks was in the lake's files before it was trimmed
        named = position(place.partition, place.stream_id)
        if lake is not None and moment(place.known_us).date().isoformat() <= read_anchor(lake).until:
            raise ArchivedError(f"the record lay at {named} of the lake, and its day was deleted, as the house says")
        raise ArchivedError(f"the record lies at {named} of the lake")
    if (record := load_record(logged)).decision_id != decision_id:
        _LOG.error("archive", trouble="another decision lies there", place=position(place.partition, place.stream_id))
        raise LakeUnreadableError
    return record


async def _in_lake(lake: Path, place: records.Place, seconds: float) -> bytes | None:
    """The record of a place; raises LakeUnreadableError if that cannot be told."""
    reading = asyncio.get_running_loop().run_in_executor(_READERS, records.find_record, lake, place)
    try:
        return await asyncio.wait_for(reading, seconds)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        trouble = str(error) or f"no answer within {seconds:.1f} s"
        _LOG.error("archive", trouble=trouble, place=position(place.partition, place.stream_id))
        raise LakeUnreadableError from error
