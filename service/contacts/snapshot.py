"""A player's snapshot: facts, features, contacts and budgets, read in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from features import image
from features.read_plan import PlanError, ReadPlan
from features.schema import MICROS
from features.store.connection import TimedStore, hashed
from features.store.errors import StoreError
from features.store.keys import PlayerKeys, household_key
from features.unshown import Unshown
from service.contacts.entries import RESPONSE, ContactResponse, Reservation
from service.contacts.limits import Held
from service.contacts.stops import Stop, read_stops
from service.players import identity
from service.players.facts import StoredFact

NO_DECISION: Final = "000-" + "a" * 24
"""Id under which no decision is held, for views that ask for none."""
_DRY: Final = "dry "
_KEEP: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HSET', KEYS[1], ARGV[3], ARGV[4]) end
"""


class PlayerSnapshot(Unshown, msgspec.Struct, frozen=True):
    """A player as they stood in the store at one moment. `watermark_us` and `real_us` are the store's clock.

    `facts` are those of all merged ids together, `features` what was read of the player's hash, None where nobody asked
    for it, `linked` the features that those ids had before; `household` and its
    version are None for a player without one. `stops` stand in the player's partition; the store compares
    `facts_version` with that of both.
    """

    real_us: int
    facts: Mapping[bytes, bytes]
    features: Mapping[bytes, bytes | None] | None
    ledger_version: str
    held: Held
    watermark_us: int | None
    seal: bytes | None
    record: bytes | None
    household_version: str | None = None
    linked: Sequence[Mapping[bytes, bytes]] = ()
    stops: tuple[Stop, ...] = ()
    stops_version: str = ""

    @property
    def facts_version(self) -> str:
        """Version of facts and stops together, as the store compares it."""
        version = self.facts.get(b"v", b"0").decode()
        return f"{version} {self.stops_version}" if self.stops_version else version

    @property
    def household(self) -> str | None:
        """Key of the player's household; None for a player without one."""
        told = self.facts.get(b"household")
        return None if told is None else StoredFact.loads(told).text or None

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


async def read_snapshot(
    store: TimedStore, keys: PlayerKeys, decision_id: str, plan: ReadPlan | None = None
) -> PlayerSnapshot:
    """Read all that a decision looks at, at one moment.

    One call; one more for features of which there is no image, for a household, and for each linked id.

    Args:
        store: Where the player is.
        keys: Theirs.
        decision_id: Of the decision whose record is looked for.
        plan: How features are kept; None where nobody looks at them.

    Raises:
        Linked: The id was merged into another player.
    """
    wanted = (image.FIELD,) if plan is None else image.fields(plan)
    found = await store.together(
        ("TIME",),
        ("HGETALL", keys.facts),
        ("HGETALL", keys.ledger),
        ("HGET", keys.lease, "watermark"),
        ("GET", keys.seal),
        ("GET", keys.decision(decision_id)),
        ("HGETALL", keys.budget),
        ("HGETALL", keys.stops),
        ("HMGET", keys.features, *wanted),
    )
    features = None if plan is None else dict(zip(wanted, found[-1], strict=True))
    seen = _snapshot(found, features)
    linked = [name for name in seen.facts if name.startswith(identity.OF_OTHERS)]
    if plan is not None and features is not None and (linked or _is_elsewhere(features, plan)):
        seen = replace(seen, features=await _drawn(store, keys, plan))
    if linked:
        known = identity.together(seen.facts)
        others = await asyncio.gather(*(store.hash(keys.features_of(name)) for name in identity.others(known)))
        seen = replace(seen, facts=known, linked=others)
    if (household := seen.household) is None:
        return seen
    return seen.beside(await store.hash(household_key(household)))


async def _drawn(store: TimedStore, keys: PlayerKeys, plan: ReadPlan) -> Mapping[bytes, bytes]:
    """A player's whole hash of features, with an image that the next reader finds there too.

    Nothing waits for that: a store that takes no more is read on, and what was applied or erased since stays as it is.
    """
    held = await store.hash(keys.features)
    with suppress(PlanError, StoreError):
        if (drawn := image.draw(held, plan)) is not None:
            arguments = held[image.APPLIED], image.FIELD, drawn
            await store.command("EVAL", _KEEP, 1, keys.features, image.APPLIED, *arguments)
            return {**held, image.FIELD: drawn}
    return held


def _is_elsewhere(features: Mapping[bytes, bytes | None], plan: ReadPlan) -> bool:
    """Whether there are features that no image tells, but Feast's fields do."""
    return image.load(features, plan) is None and image.holds_any(features)


def _snapshot(found: Sequence[Any], features: Mapping[bytes, bytes | None] | None) -> PlayerSnapshot:
    """What was read, facts of each merged id by themselves; raises Linked if the id itself was merged."""
    (seconds, rest), known, ledger, watermark, seal, record, budget, stopped, _ = found
    raw = hashed(known)
    if b"to" in raw:
        raise Linked(raw[b"to"].decode(), record)
    version, own, answers = _ledger(hashed(ledger))
    shares, dry = _shares(budget)
    stops_version, stops = read_stops(hashed(stopped)) if stopped else ("", ())
    return PlayerSnapshot(
        int(seconds) * MICROS + int(rest),
        raw,
        features,
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
