"""Identity resolution: one person under several ids, with the strictest facts of each. Pure.

What is told of a linked id is kept beside the player's own facts under the id's key, register by register, so nothing
is lost and order does not matter. What stands is made when it is read: before a link two ids were two people, of whose
facts the stricter holds; what is told after it was told of the one person, and the latest holds as ever. A link holds
since the player took the id in, and after all that was told until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from service.players.facts import BY_MOMENT, NO_REGISTER, Assertion

LINK: Final = "link:"
ELSEWHERE: Final = "elsewhere:"
_UNDER: Final = "~"
_PLACES: Final = frozenset({"jurisdiction", "licence"})


class Register(NamedTuple):
    """One fact as it is held; sorts as facts merge: the latest, then the stricter."""

    moment_us: int
    rank: int
    text: str

    def dumps(self) -> bytes:
        """The register as the store holds it."""
        return f"{self.moment_us} {self.rank} {self.text}".encode()


def under(linked: str, told: Iterable[Assertion]) -> list[Assertion]:
    """Facts of a linked id as its player's hash holds them; those of an id linked to it keep its name."""
    return [one if one.field.startswith(_UNDER) else one._replace(field=_held(linked, one.field)) for one in told]


def _held(linked: str, field: str) -> str:
    return f"{_UNDER}{linked}|{field}"


def adopted(linked: str, raw: Mapping[bytes, bytes], owner: str) -> list[Assertion]:
    """What is known of an id, those that were linked to it before merged in, as its player, the owner, will hold it.

    The owner's own facts come home: where two ids were linked to each other at once, an id can hold what was told of
    one whom it belongs to.
    """
    own = _held(owner, "").encode()
    whole = together({name: value for name, value in raw.items() if not name.startswith(own)})
    told = {_held(linked, name.decode()): value for name, value in whole.items() if _is_told(name)}
    told |= {name.removeprefix(own).decode(): value for name, value in raw.items() if name.startswith(own)}
    return [Assertion(name, *_register(value)) for name, value in told.items()]


def _is_told(name: bytes) -> bool:
    return name not in NO_REGISTER and not name.startswith(LINK.encode())


def ids(linked: str, raw: Mapping[bytes, bytes], owner: str) -> list[str]:
    """The ids that the owner takes in with one: it and those that were linked to it."""
    return sorted({linked, *others(raw)} - {owner})


class Mark(NamedTuple):
    """Where an id was linked to: a player, `pending` until the id was taken in, and the sealed name of that player."""

    to: str
    state: str
    name: str

    @classmethod
    def loads(cls, text: str) -> Mark:
        """A mark as the store holds it."""
        to, state, name = text.split(" ")
        return cls(to, state, name)


def way(linked: str, marks: Mapping[str, str]) -> dict[str, str]:
    """The marks from an id on, in order, to the player or until they come round."""
    found: dict[str, str] = {}
    while linked in marks and linked not in found:
        found[linked] = marks[linked]
        linked = Mark.loads(marks[linked]).to
    return found


def end(way: Mapping[str, str]) -> str | None:
    """The player that marks lead to, None where there are none."""
    return Mark.loads(list(way.values())[-1]).to if way else None


def crossed(way: Mapping[str, str]) -> str | None:
    """The id whose mark has to go, where marks lead in a ring; None where they end at a player.

    Ids that were linked to each other at the same moment make a ring. Of its marks that nobody has taken in yet that of
    the greatest id goes, whoever comes by; so whoever looks decides alike.

    Args:
        way: The marks from an id on, in order.

    Raises:
        ValueError: All ids of the ring were taken in.
    """
    last = end(way)
    if last is None or last not in way:
        return None
    ring = list(way)[list(way).index(last) :]
    return max(name for name in ring if Mark.loads(way[name]).state == "pending")


def others(raw: Mapping[bytes, bytes]) -> list[str]:
    """Keys of the ids that are linked to a player."""
    return [name.decode().removeprefix(LINK) for name in raw if name.startswith(LINK.encode())]


def together(raw: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """A player's hash with the facts of all linked ids merged in; the very same hash where there are none."""
    mark = _UNDER.encode()
    if not any(name.startswith(mark) for name in raw):
        return raw
    whole = {name: value for name, value in raw.items() if not name.startswith(mark)}
    held = {name.decode(): _register(value) for name, value in whole.items() if name not in NO_REGISTER}
    for linked_us, told in _linked(raw, held):
        for field, one in told.items():
            held |= dict(_merged(field, held.get(field), one, linked_us))
    return whole | {name.encode(): one.dumps() for name, one in held.items()}


def _linked(raw: Mapping[bytes, bytes], own: Mapping[str, Register]) -> Sequence[tuple[int, dict[str, Register]]]:
    """What was told of each linked id, with the moment of its link, the first link first."""
    found: dict[str, dict[str, Register]] = {}
    for name, value in raw.items():
        if name.startswith(_UNDER.encode()):
            linked, _, field = name.decode()[1:].partition("|")
            found.setdefault(linked, {})[field] = _register(value)
    # A fact of an id whose link was not told yet is taken as told before it.
    moments = {linked: own[LINK + linked].moment_us if LINK + linked in own else 2**62 for linked in found}
    return [(moments[linked], found[linked]) for linked in sorted(found, key=lambda one: (moments[one], one))]


def _merged(field: str, own: Register | None, other: Register, linked_us: int) -> Iterable[tuple[str, Register]]:
    """A register of both: before the link the stricter, after it the latest."""
    if own is None or own == other:
        yield field, other
        return
    if field.partition(":")[0] in BY_MOMENT or max(own, other).moment_us >= linked_us:
        yield field, max(own, other)
        return
    stricter = max(own, other, key=lambda one: (one.rank, one.moment_us, one.text))
    yield field, stricter
    if field in _PLACES and own.text != other.text:
        # Both bind: who lives in one place under one id and in another under another is told by neither alone.
        for one in (own, other):
            yield f"{ELSEWHERE}{one.text}", one


def _register(value: bytes) -> Register:
    moment_us, rank, text = value.decode().split(" ", 2)
    return Register(int(moment_us), int(rank), text)
