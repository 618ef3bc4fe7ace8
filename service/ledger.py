"""The ledger at the store's door: read a player whole, change what may be sent in one atomic call each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, cast

from features.events import REMEMBERED
from features.store import BUNDLES, House, Store, bundle_key, partition_of, tag
from service.caps import Reservation, load_reservation
from service.facts import Assertion, forbids

RECENT: Final = 20
"""Decisions that are remembered per player, the latest first."""
KEPT_SECONDS: Final = int(REMEMBERED.total_seconds())
WRITE_SECONDS: Final = 2.0


class Entry(NamedTuple):
    """One thing to append to a player's log: an event or an outcome, with what it makes true.

    `seen` is the id that makes it unique, `digest` stands for its content, `release` names a decision whose
    contact did not happen.
    """

    kind: Literal["event", "outcome", "facts"]
    seen: str
    digest: bytes
    body: bytes
    facts: Sequence[Assertion] = ()
    release: str = ""


Status = Literal["new", "duplicate", "conflict"]


class Appended(NamedTuple):
    """What became of an entry, and its place in the partition's stream."""

    status: Status
    stream_id: str


@dataclass(frozen=True, slots=True)
class View:
    """A player as the store held them at one moment. `watermark_us` and `real_us` are the store's clock."""

    real_us: int
    facts: Mapping[bytes, bytes]
    features: Mapping[bytes, bytes]
    ledger_version: str
    reservations: Mapping[str, Reservation]
    watermark_us: int | None
    seal: bytes | None
    record: bytes | None

    @property
    def facts_version(self) -> str:
        """Version of the facts."""
        return self.facts.get(b"v", b"0").decode()


class Booking(NamedTuple):
    """A decision to commit: it holds only while facts and ledger have the versions that it was drawn from.

    `reservation` is None for no contact; `outdated` names reservations that no window can hold any more.
    """

    decision_id: str
    record: bytes
    facts_version: str
    ledger_version: str
    seal: bytes
    reservation: Reservation | None
    outdated: Sequence[str]


class Keys:
    """Names of a player's keys; all carry the tag of the player key, so they share one hash slot."""

    def __init__(self, player: str, features: bytes) -> None:
        slot = tag(partition_of(player))
        self.player = player
        self.partition = partition_of(player)
        self.features = features
        self.facts = f"facts:{player}"
        self.ledger = f"ledger:{player}"
        self.seal = f"seal:{player}"
        self.recent = f"recent:{player}"
        self.log = f"log:{slot}"
        self.lease = f"lease:{slot}"
        self._slot = slot

    def seen(self, name: str) -> str:
        """Key that remembers an event's or outcome's id."""
        return f"seen:{self.player} {name}"

    def decision(self, decision_id: str) -> str:
        """Key of a decision's record."""
        return f"decision:{self._slot}{decision_id}"


def decision_key(decision_id: str) -> str:
    """Key of a record by its id alone: an id starts with its partition."""
    return f"decision:{tag(int(decision_id[:3]))}{decision_id}"


def clock_arguments(house: House) -> list[str]:
    """The house's clock as store functions take it."""
    return [str(house.real_us), str(house.house_us), repr(house.rate)]


def kept_seconds(house: House) -> int:
    """Real seconds that ids and records are kept: 35 days of house time."""
    return max(1, int(KEPT_SECONDS / house.rate))


def ingest_command(
    house: House, keys: Keys, entries: Sequence[Entry], *, remember: bool = True
) -> tuple[list[str], list[Any]]:
    """Keys and arguments of `croupier_ingest` for entries of one player, shared by the API and imports."""
    seconds = kept_seconds(house) if remember else 0
    names = [keys.facts, keys.ledger, keys.log, *(keys.seen(entry.seen) for entry in entries)]
    arguments: list[Any] = clock_arguments(house)
    for entry in entries:
        arguments += [entry.kind, entry.digest, seconds, entry.body, entry.release, forbids(entry.facts)]
        arguments.append(len(entry.facts))
        for fact in entry.facts:
            arguments += [fact.field, fact.moment_us, fact.rank, fact.text]
    return names, arguments


def assert_command(house: House, keys: Keys, told: Sequence[Assertion]) -> tuple[list[str], list[Any]]:
    """Keys and arguments of `croupier_assert` for facts that the worker derives of a player."""
    arguments = [*clock_arguments(house), keys.player, "main", forbids(told)]
    return [keys.facts, keys.ledger, keys.log], arguments + [part for one in told for part in one]


def appended(reply: Sequence[bytes]) -> list[Appended]:
    """Reply of `croupier_ingest`, one per entry."""
    texts = [part.decode() for part in reply]
    return [Appended(status, place) for status, place in zip(texts[::2], texts[1::2], strict=True)]  # type: ignore[arg-type]


class RedisLedger:
    """The ledger on a Redis-protocol store."""

    def __init__(self, store: Store, house: House, read_seconds: float) -> None:
        self._store = store
        self._read_seconds = read_seconds
        self._house = house
        self._clock = clock_arguments(house)

    async def view(self, keys: Keys, decision_id: str) -> View:
        """Read all that a decision looks at, in one call."""
        names: list[str | bytes] = [
            keys.facts,
            keys.features,
            keys.ledger,
            keys.lease,
            keys.seal,
            keys.decision(decision_id),
        ]
        real, facts, features, ledger, watermark, seal, record = await self._store.call(
            self._read_seconds, "croupier_view", names, []
        )
        held = _pairs(ledger)
        version = held.pop(b"v", b"0").decode()
        return View(
            int(real),
            _pairs(facts),
            _pairs(features),
            version,
            {name.decode(): load_reservation(entry.decode()) for name, entry in held.items()},
            int(watermark) if watermark else None,
            seal,
            record,
        )

    async def reserve(self, keys: Keys, booking: Booking) -> tuple[str, bytes]:
        """Commit a decision: (`reserved`, stream id), (`replay`, the record held) or (`moved`, empty)."""
        names = [keys.facts, keys.ledger, keys.log, keys.decision(booking.decision_id), keys.seal, keys.recent]
        held = booking.reservation.dumps() if booking.reservation else ""
        arguments = [
            *self._clock,
            booking.facts_version,
            booking.ledger_version,
            booking.seal,
            kept_seconds(self._house),
            booking.decision_id,
            booking.record,
            RECENT,
            held,
            *booking.outdated,
        ]
        reply = await self._store.call(WRITE_SECONDS, "croupier_reserve", names, arguments)
        return reply[0].decode(), reply[1] if len(reply) > 1 else b""

    async def confirm(self, keys: Keys, decision_id: str, view: View, send_us: int, body: bytes) -> tuple[str, int]:
        """Confirm a reservation, to count at a moment, if the player is still as viewed; status and house time."""
        names = [keys.facts, keys.ledger, keys.log]
        arguments = [*self._clock, view.facts_version, decision_id, body, view.ledger_version, send_us]
        status, at = await self._store.call(WRITE_SECONDS, "croupier_confirm", names, arguments)
        return status.decode(), int(at)

    async def append(self, keys: Keys, entry: Entry) -> Appended:
        """Apply facts, deduplicate and append in one call."""
        names, arguments = ingest_command(self._house, keys, [entry])
        return appended(await self._store.call(WRITE_SECONDS, "croupier_ingest", names, arguments))[0]

    async def seal(self, keys: Keys, fresh: bytes) -> bytes:
        """The player's key for personal fields; `fresh` becomes it if there was none."""
        return bytes(await self._store.call(WRITE_SECONDS, "croupier_seal", [keys.seal], [fresh]))

    async def record(self, decision_id: str) -> bytes | None:
        """A decision's record while it is kept, else None."""
        return cast("bytes | None", await self._store.command(WRITE_SECONDS, "GET", decision_key(decision_id)))

    async def recent(self, keys: Keys) -> list[bytes]:
        """Records of the player's last decisions that are still kept, the latest first."""
        named = await self._store.command(WRITE_SECONDS, "LRANGE", keys.recent, 0, -1)
        if not named:
            return []
        held = await self._store.command(WRITE_SECONDS, "MGET", *(keys.decision(name.decode()) for name in named))
        return [one for one in held if one is not None]

    async def version(self, name: str) -> bytes | None:
        """A bundle by the name of its version, as records hold it."""
        digest = await self._store.command(WRITE_SECONDS, "HGET", BUNDLES, name)
        return None if digest is None else await self.bundle(digest.decode())

    async def bundle(self, digest: str) -> bytes | None:
        """A bundle by its hash: a catalogue or rule file that records name."""
        return cast("bytes | None", await self._store.command(WRITE_SECONDS, "GET", bundle_key(digest)))

    async def fields(self, key: str) -> dict[bytes, bytes]:
        """A hash that is no player's, such as a published report; empty if there is none."""
        return dict(await self._store.command(WRITE_SECONDS, "HGETALL", key))

    async def seal_of(self, keys: Keys) -> bytes | None:
        """The player's key for personal fields, None if erased."""
        return cast("bytes | None", await self._store.command(WRITE_SECONDS, "GET", keys.seal))

    async def progress(self, partition: int) -> str:
        """Stream id up to which a partition's features are current."""
        found = await self._store.command(WRITE_SECONDS, "HGET", f"lease:{tag(partition)}", "cursor")
        return (found or b"0-0").decode()

    async def reach(self) -> tuple[dict[str, bool], list[int]]:
        """See `Store.reach`."""
        return await self._store.reach()

    async def now_us(self) -> int:
        """House time."""
        seconds, rest = await self._store.command(WRITE_SECONDS, "TIME")
        return self._house.now_us(int(seconds) * 1_000_000 + int(rest))


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
