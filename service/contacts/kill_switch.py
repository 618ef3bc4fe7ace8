"""The kill switch: write a stop to every partition, where decisions and confirms read it, lift it, mend what lacks it.

stop    journal --> every partition --> acknowledged when all have it; those out of reach are named
lift    journal --> every partition     by its id only
worker  what the journal has and one of its partitions lacks, or the other way round, is mended within seconds

Ids are never used twice, and what was lifted stays so: whoever writes late can only stop too much, for a moment.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import redis

from features.moments import moment
from features.store.cluster import is_away, replies
from features.store.deployment import PARTITIONS, House, open_house, real_now_us
from features.store.errors import StoreError
from features.store.keys import STOPS, stops_key, tag
from service.contacts.stops import (
    LIFTED,
    VERSION,
    JournalledStop,
    Lifted,
    Stop,
    WantedStop,
    journalled,
    read_journal,
    read_stop,
    reasoned,
)
from service.errors import UnknownStopError

_STANDS: Final = "stands "
_ID_BYTES: Final = 4
_TURNS: Final = 20
"""Times that a stop is entered anew because others stopped or lifted the same meanwhile."""


class StopWritten(NamedTuple):
    """What became of a stop or a lift.

    Attributes:
        stop: The stop.
        already: Whether it stood, or was lifted, before.
        unreached: Partitions that did not acknowledge it.
        journalled: Whether the journal has it.
    """

    stop: JournalledStop
    already: bool
    unreached: tuple[int, ...]
    journalled: bool = True

    @property
    def acknowledged(self) -> bool:
        """Whether it holds everywhere."""
        return self.journalled and not self.unreached

    @property
    def trouble(self) -> str:
        """What it means that it does not hold everywhere."""
        lacking = f"{len(self.unreached)} of {PARTITIONS} partitions" if self.unreached else "the journal"
        effect = "lack" if self.stop.stands else "may still hold"
        return f"{lacking} did not acknowledge stop {self.stop.id} and {effect} it until the worker reaches them"


def stop(client: redis.Redis, wish: WantedStop) -> StopWritten:
    """Stop something in every partition; what stands already is written again, where it lacks.

    Raises:
        StoreError: The store, or all of a cluster, does not answer, or its functions are of an earlier build.
    """
    for _ in range(_TURNS):
        fresh = _fresh(client, wish)
        text, known = _entered(client, fresh)
        if not text:
            continue
        held = read_stop(fresh.id, text)
        unreached = _everywhere(client, "croupier_stop", held.id, text)
        if not known or not _is_lifted(client, held.id):
            return StopWritten(journalled(held, None), held != fresh, unreached, known)
    raise StoreError("the same was stopped and lifted again and again meanwhile: try again")


def _fresh(client: redis.Redis, wish: WantedStop) -> Stop:
    """The stop that is wished; its id is the house's n-th of what it stops, any where the journal is away."""
    house, noted = _asked(lambda: open_house(client)), _asked(lambda: client.hgetall(STOPS))
    stop = Stop(
        id=secrets.token_hex(_ID_BYTES),
        scope=wish.scope,
        value=wish.value,
        at=_now(client, house),
        by=wish.by,
        reason=wish.reason,
    )
    if house is None or noted is None:
        return stop
    earlier = sum(one.what == stop.what for one in read_journal(noted).values())
    own: bytes = house.digest("stop", stop.what, str(earlier))
    return msgspec.structs.replace(stop, id=own[:_ID_BYTES].hex())


def _entered(client: redis.Redis, fresh: Stop) -> tuple[bytes, bool]:
    """Text of the stop that stands, none if the id is taken, and whether the journal has it.

    Where the journal is away, partitions are asked what stands.
    """
    text = msgspec.json.encode(fresh)
    standing = _asked(lambda: client.fcall("croupier_enter_stop", 1, STOPS, fresh.what, fresh.id, text))
    if standing is not None:
        return standing, True
    found = (held for there in _held(client).values() for held in there.values())
    return next((held for held in found if read_stop("", held).what == fresh.what), text), False


def _is_lifted(client: redis.Redis, stop_id: str) -> bool:
    return bool(_asked(lambda: client.hexists(STOPS, LIFTED + stop_id)))


def lift(client: redis.Redis, stop_id: str, by: str, reason: str) -> StopWritten:
    """Lift a stop; a second time changes nothing and tells who did it first.

    Raises:
        UnknownStopError: There is none of this id.
        StoreError: The journal cannot be written, and nothing was lifted.
    """
    said = reasoned(reason)
    known = journal(client).get(stop_id)
    if known is None and (text := _texts(_held(client)).get(stop_id)) is not None:
        _told(lambda: client.hsetnx(STOPS, stop_id, text))  # type: ignore[arg-type]
        known = journalled(read_stop(stop_id, text), None)
    if known is None:
        raise UnknownStopError(f"there is no stop {stop_id!r}: see the list")
    at = _now(client, _asked(lambda: open_house(client)))
    text = msgspec.json.encode(Lifted(at=at, by=by, reason=said))
    first = _told(lambda: client.fcall("croupier_enter_lift", 1, STOPS, stop_id, known.what, text))
    unreached = _everywhere(client, "croupier_lift", stop_id)
    return StopWritten(journalled(known, msgspec.json.decode(first, type=Lifted)), first != text, unreached)


def journal(client: redis.Redis) -> dict[str, JournalledStop]:
    """Every stop by id, the oldest first; raises StoreError where the journal cannot be read."""
    return read_journal(_told(lambda: client.hgetall(STOPS)))


class StopReach(NamedTuple):
    """A stop of the journal, and the partitions in which it does not hold as the journal says, or that are away."""

    stop: JournalledStop
    unreached: tuple[int, ...]


def listed(client: redis.Redis) -> list[StopReach]:
    """Every stop, the oldest first, those too that reached partitions only; raises StoreError without a journal."""
    held = _held(client)
    known = journal(client)
    strays = {name: journalled(read_stop(name, text), None) for name, text in _texts(held).items()}
    found = strays | known
    away = frozenset(range(PARTITIONS)).difference(held)
    return [
        StopReach(one, tuple(sorted(away.union(at for at, ids in held.items() if (name in ids) != one.stands))))
        for name, one in sorted(found.items(), key=lambda item: (item[1].at, item[0]))
    ]


def mend(client: redis.Redis, partitions: Iterable[int]) -> int:
    """Write stops that stand to partitions that lack them, take lifted ones away; returns how many calls that took.

    A stop that reached partitions only, while the journal was away, is entered there. What is away is left for later.

    Raises:
        StoreError: The journal cannot be read.
    """
    held = _held(client, partitions)  # before the journal: what is written meanwhile is in the journal first
    noted: dict[bytes, bytes] = _told(lambda: client.hgetall(STOPS))
    stands = _standing(noted)
    pipe = client.pipeline(transaction=False)
    for name, text in _texts(held).items():
        if name.encode() not in noted:
            stands[name] = text
            pipe.hsetnx(STOPS, name, text)  # type: ignore[arg-type]
            pipe.hsetnx(STOPS, _STANDS + read_stop(name, text).what, name)
    for at, there in held.items():
        for name in sorted(stands.keys() - there.keys()):
            pipe.fcall("croupier_stop", 1, stops_key(at), name, stands[name])
        if over := sorted(there.keys() - stands.keys()):
            pipe.fcall("croupier_lift", 1, stops_key(at), *over)
    calls = len(pipe.command_stack)
    if calls:
        _told(lambda: replies(pipe))
    return calls


def _texts(held: Mapping[int, Mapping[str, bytes]]) -> dict[str, bytes]:
    """Texts of all stops that any partition holds, by id."""
    return {name: text for there in held.values() for name, text in there.items()}


def _standing(noted: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """Texts of the journal's stops that stand, by id."""
    texts = {name.decode(): text for name, text in noted.items()}
    return {name: text for name, text in texts.items() if " " not in name and LIFTED + name not in texts}


def _everywhere(client: redis.Redis, function: str, *arguments: Any) -> tuple[int, ...]:  # noqa: ANN401 - of any function
    """Call a function for every partition, node by node; returns those that did not acknowledge."""
    pipe = client.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipe.fcall(function, 1, stops_key(partition), *arguments)
    return tuple([at for at, reply in enumerate(_told(lambda: replies(pipe))) if is_away(reply)])


def _held(client: redis.Redis, partitions: Iterable[int] = range(PARTITIONS)) -> dict[int, dict[str, bytes]]:
    """Texts of stops by id in partitions, without those that are away."""
    asked, pipe = tuple(partitions), client.pipeline(transaction=False)
    for partition in asked:
        pipe.hgetall(stops_key(partition))
    found = _told(lambda: replies(pipe)) if asked else []
    return {
        at: {name.decode(): text for name, text in reply.items() if name != VERSION}
        for at, reply in zip(asked, found, strict=True)
        if not is_away(reply)
    }


def _now(client: redis.Redis, house: House | None) -> str:
    """House time; where nobody tells what that is, the time of the store, which differs in a sandbox only."""
    real_us = _told(lambda: real_now_us(client))
    return moment(real_us if house is None else house.now_us(real_us)).isoformat()


def _asked(call: Callable[[], Any]) -> Any:  # noqa: ANN401 - replies have the shape of the call
    """Reply to a call, None where its node is away."""
    try:
        return call()
    except redis.RedisError as error:
        if not is_away(error):
            raise _trouble(error) from error
        return None


def _told(call: Callable[[], Any]) -> Any:  # noqa: ANN401 - replies have the shape of the call
    """Reply to a call; raises StoreError."""
    try:
        return call()
    except redis.RedisError as error:
        raise _trouble(error) from error


def _trouble(error: redis.RedisError) -> StoreError:
    if "unction not found" in str(error):
        return StoreError("the store's functions are of an earlier build, which knows no stops: run `croupier create`")
    return StoreError(f"the store cannot take it now: {error}")


def names_of(partitions: Iterable[int]) -> list[str]:
    """Names of partitions, as `p017`."""
    return [tag(one).strip("{}") for one in partitions]
