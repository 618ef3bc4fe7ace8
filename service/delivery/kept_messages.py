"""Messages that stay in the house: the player's inbox, tasks of agents, and what its own catcher caught.

Each is sealed under the player's key, so that erasing the player destroys it. What forbids contact recalls what is
promotional in the same call of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from features.store.connection import TimedStore
from features.store.errors import StoreError
from features.store.keys import CAUGHT, TASKS, PlayerKeys, inbox_key, tasks_key
from service.contacts.ledger import RedisLedger
from service.delivery.message import Message
from service.players import sealing

KEPT_SECONDS: Final = 35 * 86_400
"""How long an inbox is kept after the last message."""
CAUGHT_MOST: Final = 1_000
Place = Literal["inbox", "task"]
_KEYS: Final = {"inbox": inbox_key, "task": tasks_key}


class KeptMessage(Struct, frozen=True, kw_only=True):
    """A message as it is kept. Moments are unix microseconds of house time; addresses are those of agents' calls."""

    decision_id: str
    brand: str
    channel: str
    purpose: str
    offer: str
    placement: str
    title: str
    body: str
    html: str
    url: str
    to: tuple[str, ...]
    parameters: dict[str, Any]
    kept_us: int
    valid_until_us: int


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(KeptMessage)


def kept(message: Message, now_us: int, *, with_address: bool) -> KeptMessage:
    """A message as it is kept, its address only where somebody needs it."""
    return KeptMessage(
        decision_id=message.decision_id,
        brand=message.brand,
        channel=message.channel,
        purpose=message.purpose,
        offer=message.offer,
        placement=message.placement,
        title=message.title or message.subject,
        body=message.body or message.text,
        html=message.html,
        url=message.url,
        to=message.to if with_address else (),
        parameters=dict(message.parameters),
        kept_us=now_us,
        valid_until_us=message.valid_until_us,
    )


class PlayerKeeper:
    """Keeps messages at their player: in the inbox, or as tasks of agents."""

    def __init__(self, ledger: RedisLedger, place: Place) -> None:
        self._ledger, self._place = ledger, place

    async def keep(self, message: Message) -> str:
        """Keep a message, the same again at a retry; raises StoreError, also if the player changed meanwhile."""
        ledger, keys = self._ledger, PlayerKeys(message.player)
        now_us, seal = await ledger.now_us(), await ledger.seal(keys)
        content = _ENCODER.encode(kept(message, now_us, with_address=self._place == "task"))
        sealed = sealing.encrypt(seal.key, content, message.decision_id)
        value = f"{message.purpose} {message.channel} ".encode() + sealed
        names = [keys.facts, keys.log, _KEYS[self._place](message.player)]
        if not await ledger.store.call("croupier_keep", names, [message.decision_id, value, KEPT_SECONDS]):
            raise StoreError("the player changed since the message was confirmed")
        if self._place == "task":
            await ledger.store.command("ZADD", TASKS, now_us, f"{message.player} {message.decision_id}")
        return message.decision_id


class Catcher:
    """Keeps what would have left the house, for looking."""

    def __init__(self, ledger: RedisLedger) -> None:
        self._ledger = ledger

    async def keep(self, message: Message) -> str:
        """Keep a message among the last ones."""
        ledger, keys = self._ledger, PlayerKeys(message.player)
        now_us, seal = await ledger.now_us(), await ledger.seal(keys)
        content = _ENCODER.encode(kept(message, now_us, with_address=True))
        sealed = sealing.encrypt(seal.key, content, message.decision_id)
        value = f"{message.player} {message.decision_id} {now_us} ".encode() + sealed
        await ledger.store.together(("LPUSH", CAUGHT, value), ("LTRIM", CAUGHT, 0, CAUGHT_MOST - 1))
        return message.decision_id


def opened(key: bytes | None, decision_id: str, value: bytes, words: int) -> KeptMessage | None:
    """A message from what the store holds after some words; None if the player was erased."""
    sealed = value.split(b" ", words)[words]
    plain = sealing.decrypt(key, sealed, decision_id)
    return None if plain is None else _DECODER.decode(plain)


async def at_player(ledger: RedisLedger, player: str, place: Place, now_us: int) -> list[KeptMessage]:
    """What is kept at a player and not over, the latest first; what is over is removed."""
    held = await ledger.store.hash(_KEYS[place](player))
    if not held:
        return []
    key = await ledger.seal_of(PlayerKeys(player))
    found = {name: opened(key, name.decode(), value, 2) for name, value in held.items()}
    living = {name: one for name, one in found.items() if one is not None and one.valid_until_us > now_us}
    if over := found.keys() - living.keys():
        await ledger.store.command("HDEL", _KEYS[place](player), *over)
    return sorted(living.values(), key=lambda one: one.kept_us, reverse=True)


async def done_with(ledger: RedisLedger, player: str, place: Place, decision_id: str) -> bool:
    """Remove a message; whether it was there."""
    return bool(await ledger.store.command("HDEL", _KEYS[place](player), decision_id))


async def open_tasks(ledger: RedisLedger, now_us: int, most: int) -> list[tuple[str, KeptMessage]]:
    """Tasks that wait for an agent, with the player's key, the oldest first."""
    found: list[tuple[str, KeptMessage]] = []
    for member in await ledger.store.command("ZRANGE", TASKS, 0, -1):
        player, decision_id = member.decode().split(" ")
        one = next(
            (one for one in await at_player(ledger, player, "task", now_us) if one.decision_id == decision_id), None
        )
        if one is None:
            await ledger.store.command("ZREM", TASKS, member)
        else:
            found.append((player, one))
        if len(found) == most:
            break
    return found


async def caught(store: TimedStore, ledger: RedisLedger, most: int) -> list[KeptMessage]:
    """What the catcher caught last, without what was of players who were erased."""
    found, keys = list[KeptMessage](), dict[str, bytes | None]()
    for value in await store.command("LRANGE", CAUGHT, 0, most - 1):
        player, decision_id = (word.decode() for word in value.split(b" ", 2)[:2])
        if player not in keys:
            keys[player] = await ledger.seal_of(PlayerKeys(player))
        if (one := opened(keys[player], decision_id, value, 3)) is not None:
            found.append(one)
    return found


def inbox_by_placement(found: list[KeptMessage], placement: str | None) -> list[KeptMessage]:
    """Those of a placement; all without one."""
    return [one for one in found if placement is None or one.placement == placement]


Keepers = Mapping[str, PlayerKeeper | Catcher]


def keepers(ledger: RedisLedger) -> Keepers:
    """What keeps messages in a house, by the kind of connector."""
    return {"inbox": PlayerKeeper(ledger, "inbox"), "task": PlayerKeeper(ledger, "task"), "catcher": Catcher(ledger)}
