"""Make the exports that are asked for over HTTP, one after the other, and keep each for an hour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, NamedTuple, cast

import msgspec
import redis
import structlog

from features.store.deployment import open_house, real_now_us
from features.store.keys import EXPORTS, EXPORTS_WAITING, PlayerKeys
from pipelines.privacy.export import ExportTooLargeError, export
from service.players.sealing import Seals, seals_of
from service.privacy.exports import KEPT_SECONDS, Export, asked_about, change_command, seal_made

MOST_BYTES: Final = 32_000_000
"""Of what is answered over HTTP; the command has no such bound."""
ATTEMPTS: Final = 3
_ROWS: Final = 200_000
"""Events, outcomes and decisions that are read for it: more of them are more bytes than that."""
_BROKEN: Final = "it could not be made, and the log of the worker's host says why: ask again, or use `croupier export`"
_LOG: Final = structlog.get_logger()


class Waiting(NamedTuple):
    """An export that is to be made: its id, and how it is written in the store."""

    name: str
    held: bytes

    @property
    def staged(self) -> Export:
        """What is written there."""
        return msgspec.json.decode(self.held, type=Export)


def make_all(client: redis.Redis, home: Path) -> int:
    """Make every export that waits, the first one first; returns how many ended, well or not.

    Raises:
        HouseKeyError: The house key is not here.
    """
    seals, done = seals_of(open_house(client), home), 0
    _sweep(client)
    while (one := _next(client)) is not None:
        done += 1
        _make(client, home, seals, one)
    return done


def _next(client: redis.Redis) -> Waiting | None:
    while (name := cast("bytes | None", client.lindex(EXPORTS_WAITING, 0))) is not None:
        held = cast("bytes | None", client.hget(EXPORTS, name.decode()))
        if held is not None:
            return Waiting(name.decode(), held)
        client.lrem(EXPORTS_WAITING, 0, name.decode())
    return None


def _make(client: redis.Redis, home: Path, seals: Seals, one: Waiting) -> None:
    """Make an export. The key is read before anything that it will seal: an erasure meanwhile destroys it all."""
    staged = one.staged
    stored = cast("bytes | None", client.get(PlayerKeys(staged.player).seal))
    key = None if stored is None else seals.open(staged.player, stored)
    player_id = asked_about(staged, one.name, key)
    if key is None or player_id is None:  # erased since
        _change(client, one, None)
        return
    if staged.attempts >= ATTEMPTS:
        _fail(client, one, f"it was begun {ATTEMPTS} times and never ended; use `croupier export`")
        return
    begun = msgspec.structs.replace(staged, attempts=staged.attempts + 1)
    if not _change(client, one, begun):
        return
    one = Waiting(one.name, msgspec.json.encode(begun))
    try:
        told = _told(client, home, player_id)
    except redis.RedisError:  # it is begun again
        raise
    except ExportTooLargeError as error:
        _fail(client, one, str(error))
    except Exception:  # noqa: BLE001 - whoever asked is told, and the others are made
        _LOG.exception("export failed")
        _fail(client, one, _BROKEN)
    else:
        ready = msgspec.structs.replace(begun, state="ready", ends=_ends(client))
        _change(client, one, ready, seal_made(key, one.name, ready, told))


def _told(client: redis.Redis, home: Path, player_id: str) -> bytes:
    made = export(client, home / "lake", home, player_id, _ROWS)
    told = json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()
    if len(told) > MOST_BYTES:
        raise ExportTooLargeError
    return told


def _fail(client: redis.Redis, one: Waiting, reason: str) -> None:
    _change(client, one, msgspec.structs.replace(one.staged, state="failed", ends=_ends(client), reason=reason))


def _ends(client: redis.Redis) -> int:
    return real_now_us(client) // 1_000_000 + KEPT_SECONDS


def _change(client: redis.Redis, one: Waiting, after: Export | None, content: bytes = b"") -> bool:
    """Change an export unless others did; whether it was."""
    return bool(client.execute_command(*change_command(one.name, one.held, after, content)))  # type: ignore[no-untyped-call]


def _sweep(client: redis.Redis) -> None:
    """Forget exports that have ended."""
    now = real_now_us(client) // 1_000_000
    for name, held in cast("dict[bytes, bytes]", client.hgetall(EXPORTS)).items():
        one = Waiting(name.decode(), held)
        if 0 < one.staged.ends <= now:
            _change(client, one, None)
