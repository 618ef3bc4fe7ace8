"""A player's snapshot: facts, features, contacts and budgets, read in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from features.store.connection import TimedStore, hashed
from features.store.keys import PlayerKeys, household_key
from service.contacts.entries import RESPONSE, ContactResponse, Reservation
from service.contacts.limits import Held
from service.contacts.stops import Stop, read_stops
from service.players import identity
from service.players.facts import StoredFact

NO_DECISION: Final = "000-" + "a" * 24
"""Id under which no decision is held, for views that ask for none."""
_DRY: Final = "dry "


@dataclass(frozen=True, slots=True, repr=False)
class PlayerSnapshot:
    """A player as they stood in the store at one moment. `watermark_us` and `real_us` are the store's clock.

    `facts` are those of all merged ids together, `linked` the features that those ids had before; `household` and its
    version are None for a player without one. `stops` stand in the player's partition; the store compares
    `facts_version` with that of both.
    """

    real_us: int
    facts: Mapping[bytes, bytes]
    features: Mapping[bytes, bytes]
    ledger_version: str
    held: Held
    watermark_us: int | None
    seal: bytes | None
    record: bytes | None
    household_version: str | None = None
    linked: Sequence[Mapping[bytes, bytes]] = ()
    stops: tuple[Stop, ...] = ()
    stops_version: str = ""
    facts_version: str = field(init=False)
    household: str | None = field(init=False)

    def __post_init__(self) -> None:
        told = self.facts.get(b"household")
        version = self.facts.get(b"v", b"0").decode()
        object.__setattr__(self, "facts_version", f"{version} {self.stops_version}" if self.stops_version else version)
        object.__setattr__(self, "household", None if told is None else StoredFact.loads(told).text or None)

    @property
    def household_us(self) -> int:
        """Moment of that fact, unix microseconds; 0 if there is none."""
        told = self.facts.get(b"household")
        return 0 if told is None else StoredFact.loads(told).moment_us

    def beside(self, household: Mapping[bytes, bytes]) -> PlayerSnapshot:
        """This snapshot with the ledger of the player's household."""
        version, contacts, _ = _ledger(household)
        return replace(self, held=replace(self.held, household=contacts), household_version=version)


class Linked(Exception):
    """An id was merged into a player, who owns everything of it: `to` is the mark that names the player.

    `record` is the decision that was asked for, if it was made for the id before. Outside the tree of errors: control
    flow, for `Identities.with_owner` asks again about the player.
    """

    def __init__(self, to: str, record: bytes | None = None) -> None:
        super().__init__(to)
        self.to = to
        self.record = record


async def read_snapshot(store: TimedStore, keys: PlayerKeys, decision_id: str) -> PlayerSnapshot:
    """Read all that a decision looks at, in one call; one more for a household, and for each linked id.

    Raises:
        Linked: The id was merged into another player.
    """
    decision = keys.decision(decision_id)
    names: list[str | bytes] = [keys.facts, keys.features, keys.ledger, keys.lease, keys.seal, decision, keys.budget]
    reply = await store.call("croupier_view", [*names, keys.stops])
    if len(reply) == len(names) + 1:  # the store's functions are of an earlier build, as after a way back to it
        reply = [*reply, await store.command("HGETALL", keys.stops)]
    seen = _snapshot(reply)
    if [name for name in seen.facts if name.startswith(identity.OF_OTHERS)]:
        known = identity.together(seen.facts)
        found = await asyncio.gather(*(store.hash(keys.features_of(name)) for name in identity.others(known)))
        seen = replace(seen, facts=known, linked=found)
    if (household := seen.household) is None:
        return seen
    return seen.beside(await store.hash(household_key(household)))


def _snapshot(reply: Sequence[Any]) -> PlayerSnapshot:
    """Reply of `croupier_view`, facts of each merged id by themselves; raises Linked if the id itself was merged."""
    real, known, features, ledger, watermark, seal, record, budget, stopped = reply
    raw, behaviour, entries = hashed(known), hashed(features), hashed(ledger)
    if b"to" in raw:
        raise Linked(raw[b"to"].decode(), record)
    version, own, answers = _ledger(entries)
    shares, dry = _shares(budget)
    stops_version, stops = read_stops(hashed(stopped)) if stopped else ("", ())
    return PlayerSnapshot(
        int(real),
        raw,
        behaviour,
        version,
        Held(own, None, answers, shares, dry),
        int(watermark) if watermark else None,
        seal,
        record,
        stops=stops,
        stops_version=stops_version,
    )


def _ledger(found: Mapping[bytes, bytes]) -> tuple[str, dict[str, Reservation], dict[str, ContactResponse]]:
    """Version, contacts and responses of a ledger."""
    version, contacts, responses = "0", dict[str, Reservation](), dict[str, ContactResponse]()
    for raw, text in found.items():
        name, told = raw.decode(), text.decode()
        if name == "v":
            version = told
        elif name[0] == RESPONSE:
            responses[name] = ContactResponse.loads(told)
        else:
            contacts[name] = Reservation.loads(told)
    return version, contacts, responses


def _shares(flat: Sequence[bytes]) -> tuple[dict[str, int], frozenset[str]]:
    """What is left of budgets in a partition, and which have nothing more to give."""
    if not flat:
        return {}, frozenset()
    held = {name.decode(): value for name, value in hashed(flat).items()}
    shares = {name: int(value) for name, value in held.items() if not name.startswith(_DRY)}
    return shares, frozenset(name.removeprefix(_DRY) for name in held.keys() - shares.keys())
