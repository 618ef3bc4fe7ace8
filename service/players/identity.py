"""Identity resolution: one person under several ids, with the strictest facts of each. Pure.

Facts of a linked id are kept beside the player's own under the id's key, register by register, so nothing is lost and
order does not matter. They are merged on reading: of facts asserted before the link, when the ids were two people, the
stricter holds; of facts asserted after it the latest holds, as ever. A link holds from the moment of the merge, after
everything asserted until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, cast

from service.players.facts import BY_MOMENT, NO_REGISTER, Assertion, StoredFact

LINK: Final = "link:"
ELSEWHERE: Final = "elsewhere:"
_UNDER: Final = "~"
OF_OTHERS: Final = (LINK.encode(), _UNDER.encode())
"""So begin the names of what a player's hash holds of ids that were linked to them."""
_PLACES: Final = frozenset({"jurisdiction", "licence"})


def under(linked: str, told: Iterable[Assertion]) -> list[Assertion]:
    """Facts of a linked id under the names that its player's hash holds them by."""
    return [one if one.field.startswith(_UNDER) else one._replace(field=_held(linked, one.field)) for one in told]


def _held(linked: str, field: str) -> str:
    return f"{_UNDER}{linked}|{field}"


def adopted_facts(linked: str, raw: Mapping[bytes, bytes], owner: str) -> list[Assertion]:
    """Facts of an id, with those of ids linked to it before, as its owner will hold them.

    The owner's own facts return to it: of two ids linked to each other at once, each can hold facts of the other.
    """
    own = _held(owner, "").encode()
    whole = together({name: value for name, value in raw.items() if not name.startswith(own)})
    told = {_held(linked, name.decode()): value for name, value in whole.items() if _is_told(name)}
    told |= {name.removeprefix(own).decode(): value for name, value in raw.items() if name.startswith(own)}
    return [Assertion(name, *StoredFact.loads(value)) for name, value in told.items()]


def _is_told(name: bytes) -> bool:
    return name not in NO_REGISTER and not name.startswith(LINK.encode())


def adopted_ids(linked: str, raw: Mapping[bytes, bytes], owner: str) -> list[str]:
    """Ids that the owner takes over with one: itself and those linked to it."""
    return sorted({linked, *others(raw)} - {owner})


class Mark(NamedTuple):
    """Link of an id to a player: target, state (`pending` until the merge is complete), the player's sealed name."""

    to: str
    state: Literal["pending", "done"]
    name: str

    @classmethod
    def loads(cls, text: str) -> Mark:
        """Read a mark: the store's functions write it and change its state."""
        to, state, name = text.split(" ")
        return cls(to, cast('Literal["pending", "done"]', state), name)

    def dumps(self) -> str:
        """The mark as the store holds it."""
        return " ".join(self)


def chain(linked: str, marks: Mapping[str, str]) -> dict[str, str]:
    """Chain of marks from an id, in order, up to the player or until it repeats."""
    found: dict[str, str] = {}
    while linked in marks and linked not in found:
        found[linked] = marks[linked]
        linked = Mark.loads(marks[linked]).to
    return found


def chain_end(way: Mapping[str, str]) -> str | None:
    """The player at the end of a chain of marks; None for an empty chain."""
    return Mark.loads(list(way.values())[-1]).to if way else None


def mark_to_remove(way: Mapping[str, str]) -> str | None:
    """The id whose mark must be removed to break a ring of marks; None where the chain ends at a player.

    Ids linked to each other at the same moment make a ring. It is broken deterministically: of its pending marks that
    of the greatest id is removed, so all callers agree.

    Args:
        way: The marks from an id on, in order.

    Raises:
        ValueError: No mark of the ring is pending.
    """
    last = chain_end(way)
    if last is None or last not in way:
        return None
    ring = list(way)[list(way).index(last) :]
    return max(name for name in ring if Mark.loads(way[name]).state == "pending")


def others(raw: Mapping[bytes, bytes]) -> list[str]:
    """Keys of the ids linked to a player."""
    return [name.decode().removeprefix(LINK) for name in raw if name.startswith(LINK.encode())]


def together(raw: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """A player's hash with the facts of all linked ids merged in; the same object where there are none."""
    mark = _UNDER.encode()
    if not any(name.startswith(mark) for name in raw):
        return raw
    whole = {name: value for name, value in raw.items() if not name.startswith(mark)}
    held = {name.decode(): StoredFact.loads(value) for name, value in whole.items() if name not in NO_REGISTER}
    for linked_us, told in _linked(raw, held):
        for field, one in told.items():
            held |= dict(_merged(field, held.get(field), one, linked_us))
    return whole | {name.encode(): one.dumps() for name, one in held.items()}


def _linked(raw: Mapping[bytes, bytes], own: Mapping[str, StoredFact]) -> Sequence[tuple[int, dict[str, StoredFact]]]:
    """Facts of each linked id with the moment of its link, the first link first."""
    found: dict[str, dict[str, StoredFact]] = {}
    for name, value in raw.items():
        if name.startswith(_UNDER.encode()):
            linked, _, field = name.decode()[1:].partition("|")
            found.setdefault(linked, {})[field] = StoredFact.loads(value)
    # Without a fact of the link itself, an id's facts count as asserted before it.
    moments = {linked: own[LINK + linked].moment_us if LINK + linked in own else 2**62 for linked in found}
    return [(moments[linked], found[linked]) for linked in sorted(found, key=lambda one: (moments[one], one))]


def _merged(field: str, own: StoredFact | None, other: StoredFact, linked_us: int) -> Iterable[tuple[str, StoredFact]]:
    """Merge a register of two ids: asserted before the link the stricter holds, after it the latest."""
    if own is None or own == other:
        yield field, other
        return
    if field.partition(":")[0] in BY_MOMENT or max(own, other).moment_us >= linked_us:
        yield field, max(own, other)
        return
    stricter = max(own, other, key=lambda one: (one.rank, one.moment_us, one.text))
    yield field, stricter
    if field in _PLACES and own.text != other.text:
        # Both places bind: neither id alone says where the person lives.
        for one in (own, other):
            yield f"{ELSEWHERE}{one.text}", one
