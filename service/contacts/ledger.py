"""The ledger on a Redis-protocol store: read a player, reserve, confirm and append, each in one atomic call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Final, Literal, NamedTuple, cast

from features.events import REMEMBERED
from features.lake.records import Place
from features.read_plan import ReadPlan
from features.store.connection import Store, TimedStore, deadline, hashed
from features.store.deployment import House, clock_arguments
from features.store.errors import StoreError
from features.store.keys import PlayerKeys, budget_given_key, decision_key, lease_key, log_key, probe_key, send_key
from service.contacts.addresses import SharedAddresses
from service.contacts.entries import Reservation
from service.contacts.households import Households
from service.contacts.identities import WALKS, Identities
from service.contacts.snapshot import Linked, PlayerSnapshot, read_snapshot
from service.players import identity
from service.players.facts import Assertion, forbids
from service.players.sealing import PlayerSeal, Seals

INGEST: Final = "croupier_ingest"
RESTRICT: Final = "croupier_restrict"
"""The same function by a name under which it takes what restricts contact while the store's memory is full, too."""
RECENT: Final = 20
"""Decisions that are remembered per player, the latest first."""
KEPT_SECONDS: Final = int(REMEMBERED.total_seconds())
SHARES: Final = 1_024
"""A partition draws this part of a budget at once, or what it needs if that is more."""
GRANTS: Final = 3
"""Times that a share of a budget is drawn for one decision; others of the partition may use it up in between."""
FETCH_SECONDS: Final = 5.0
"""Deadline of fetching a share of a budget, whatever that of the request: done by half, the share would be lost."""
_FETCHES: Final[set[asyncio.Task[bool]]] = set()
"""Fetches under way: an event loop holds its tasks weakly."""
PROBE_SECONDS: Final = 60
SENDING: Final = frozenset({b"attempted", b"sent", b"delivered", b"unknown"})
"""States of a contact that the house sends, or sent, or may have sent; as `ledger.lua` has them."""


async def finish_fetches() -> None:
    """Wait until every fetch under way has ended, before the store is closed."""
    if _FETCHES:
        await asyncio.wait(_FETCHES, timeout=FETCH_SECONDS)


class Entry(NamedTuple):
    """An event or outcome to append to a player's log, with the facts that it makes true.

    `seen` is the id that makes it unique, `digest` stands for its content, `release` names a decision whose contact
    did not happen, `note` is a response to a contact that limits look at, name in the ledger and text; `earlier` gives
    what the first build may have remembered for the same content.
    """

    kind: Literal["event", "outcome", "facts"]
    seen: str
    digest: bytes
    body: bytes
    facts: Sequence[Assertion] = ()
    release: str = ""
    note: tuple[str, str] = ("", "")
    earlier: Callable[[], Iterable[bytes]] = tuple

    def again(self, remembered: bytes) -> Appended:
        """What becomes of it where its id is remembered, as digest and place: `duplicate`, or `conflict`."""
        digest, place = remembered[: len(self.digest)], remembered[len(self.digest) :].decode()
        return Appended("duplicate" if digest == self.digest or digest in self.earlier() else "conflict", place)

    def under(self, merged: str) -> Entry:
        """This entry recorded under a merged id; keeps that id's own event ids and facts."""
        seen = self.seen if " " in self.seen else f"{merged} {self.seen}"
        return self._replace(seen=seen, facts=identity.under(merged, self.facts))


Status = Literal["new", "duplicate", "conflict", "linked"]


class Appended(NamedTuple):
    """What became of an entry, and its place in the partition's log."""

    status: Status
    stream_id: str


class Booking(NamedTuple):
    """A decision to commit, valid while facts and ledger have the versions that it was drawn from.

    `kept` is what the store keeps of the record after the log was trimmed, the whole of it if that is empty;
    `reservation` is None for no contact; `outdated` names entries that no limit can need any more; `budgets` is what
    may be spent in all, minor units, by budget and day that the contact charges; `over` are days of budgets that are
    past; `delivers` says that the house sends the contact.
    """

    decision_id: str
    record: bytes
    kept: bytes
    facts_version: str
    ledger_version: str
    seal: bytes
    reservation: Reservation | None
    outdated: Sequence[str]
    budgets: Mapping[str, int]
    over: Sequence[str]
    delivers: bool = False


class Claim(NamedTuple):
    """A worker's claim to a message that the house sends.

    Attributes:
        epoch: Of its lease of the partition.
        tries: Attempts that it knows of.
        connector: Who is to send it.
        until_us: Until when its answer is awaited, house time.
        repeats: Whether an attempt without an answer may be repeated.
    """

    epoch: bytes
    tries: int
    connector: str
    until_us: int
    repeats: bool = False


def kept_seconds(house: House) -> int:
    """Real seconds that ids and records are kept: 35 days of house time."""
    return max(1, int(KEPT_SECONDS / house.rate))


def ingest_command(
    house: House, keys: PlayerKeys, entries: Sequence[Entry], *, remember: bool = True
) -> tuple[list[str], list[Any]]:
    """Keys and arguments of `INGEST` and `RESTRICT` for entries of one player, shared by the API and imports."""
    seconds = kept_seconds(house) if remember else 0
    names = [keys.facts, keys.ledger, keys.log, keys.budget, *(keys.seen(entry.seen) for entry in entries)]
    arguments: list[Any] = clock_arguments(house)
    for entry in entries:
        arguments += [entry.kind, entry.digest, seconds, entry.body, entry.release, *entry.note, forbids(entry.facts)]
        arguments.append(len(entry.facts))
        for fact in entry.facts:
            arguments += [fact.field, fact.moment_us, fact.rank, fact.text]
    return names, arguments


def assert_command(house: House, keys: PlayerKeys, told: Sequence[Assertion]) -> tuple[list[str], list[Any]]:
    """Keys and arguments of `croupier_assert` for facts that the worker derives about a player."""
    arguments = [*clock_arguments(house), keys.player, forbids(told)]
    return [keys.facts, keys.ledger, keys.log, keys.budget], arguments + [part for one in told for part in one]


def appended(reply: Sequence[bytes]) -> list[Appended]:
    """Reply of `croupier_ingest`, one per entry."""
    texts = [part.decode() for part in reply]
    return [Appended(status, place) for status, place in zip(texts[::2], texts[1::2], strict=True)]  # type: ignore[arg-type]


class RedisLedger:
    """The ledger on a Redis-protocol store.

    Args:
        store: Where it is.
        house: Whose it is.
        until: Deadline of all calls together, on the monotonic clock.
        turns: To follow links, shared by all copies.
        seals: Opens and makes the seals of players.
        restricting: Whether all that it appends restricts contact, and is taken by a store whose memory is full, too.

    Attributes:
        store: The store with that deadline.
    """

    def __init__(
        self,
        store: Store,
        house: House,
        until: float = inf,
        turns: asyncio.Semaphore | None = None,
        seals: Seals | None = None,
        *,
        restricting: bool = False,
    ) -> None:
        self._whole = store
        self._restricting = restricting
        self._house = house
        self._seals = seals or Seals()
        self._turns = turns or asyncio.Semaphore(WALKS)
        self.store = TimedStore(store, until)

    def by(self, until: float) -> RedisLedger:
        """A copy whose calls share one deadline, on the monotonic clock."""
        whole, house = self._whole, self._house
        return RedisLedger(whole, house, until, self._turns, self._seals, restricting=self._restricting)

    @property
    def seals(self) -> Seals:
        """What opens and makes the seals of players."""
        return self._seals

    @property
    def households(self) -> Households:
        """The ledgers of households, with the same deadline."""
        return Households(self.store, self._house)

    @property
    def addresses(self) -> SharedAddresses:
        """Who shares an address, with the same deadline."""
        return SharedAddresses(self.store, self.identities)

    @property
    def identities(self) -> Identities:
        """The owners of ids, with the same deadline."""
        return Identities(self.store, self._house, self._turns)

    def view(
        self, keys: PlayerKeys, decision_id: str, plan: ReadPlan | None = None
    ) -> Coroutine[None, None, PlayerSnapshot]:
        """See `read_snapshot`."""
        return read_snapshot(self.store, keys, decision_id, plan)

    async def release_in_household(self, player: str, decision_id: str) -> None:
        """Release what the household of an id's player holds for a decision, whichever attempt reserved it."""
        households = self.households
        await self.identities.with_owner(player, lambda owner: households.release_decision(owner, decision_id))

    async def join_household(self, player: str, household: str | None = None, since_us: int | None = None) -> None:
        """Add the contacts of an id's player to a household; see `Households.add_player`."""
        households = self.households
        await self.identities.with_owner(player, lambda owner: households.add_player(owner, household, since_us))

    async def reserve(self, keys: PlayerKeys, booking: Booking) -> tuple[str, bytes]:
        """Commit a decision: (`reserved`, stream id), (`replay`, what is kept), or (`moved` or `lost`, empty).

        `lost` is a contact that a budget over all players cannot bear; nothing was changed then.
        """
        for attempt in range(len(booking.budgets) * GRANTS + 1):
            reply = [bytes(part) for part in await self._reserve(keys, booking)]
            if reply[0] == b"moved" and attempt:
                break  # redrawing now would make acceptance depend on the action and bias the propensity
            if reply[0] != b"short":
                return reply[0].decode(), reply[1] if len(reply) > 1 else b""
            if not await self._funded(keys, booking, reply[1].decode(), int(reply[2])):
                break
        return "lost", b""

    async def _reserve(self, keys: PlayerKeys, booking: Booking) -> Sequence[bytes]:
        names = [keys.facts, keys.ledger, keys.log, keys.decision(booking.decision_id), keys.seal, keys.recent]
        held = booking.reservation
        arguments = [
            booking.kept,
            *clock_arguments(self._house),
            booking.facts_version,
            booking.ledger_version,
            booking.seal,
            kept_seconds(self._house),
            booking.decision_id,
            booking.record,
            RECENT,
            held.dumps() if held else "",
            held.valid_until_us if held else 0,
            *booking.outdated,
        ]
        names += [keys.budget, keys.expiry]
        function = "croupier_deliver" if booking.delivers else "croupier_decide"
        return cast("Sequence[bytes]", await self.store.call(function, names, arguments))

    async def _funded(self, keys: PlayerKeys, booking: Booking, account: str, left: int) -> bool:
        """Whether the partition's share of a budget could be filled up, within this request's deadline.

        The fetch has a deadline of its own: a granted share must not be lost to a time-out.
        """
        fetch = asyncio.create_task(self.by(deadline(FETCH_SECONDS)).fetch_share(keys, booking, account, left))
        _FETCHES.add(fetch)
        fetch.add_done_callback(_FETCHES.discard)
        done, _ = await asyncio.wait([fetch], timeout=min(self.store.seconds, FETCH_SECONDS))
        if not done:
            fetch.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise StoreError("a part of a budget did not come before the deadline")
        return fetch.result()

    async def fetch_share(self, keys: PlayerKeys, booking: Booking, account: str, left: int) -> bool:
        """Draw a share of a budget for the partition; if a process dies between the calls it is lost, never doubled."""
        whole = booking.budgets[account]
        charged = dict(booking.reservation.charges if booking.reservation else ())[account]
        least = charged - left
        arguments = [whole, least, max(least, whole // SHARES), kept_seconds(self._house)]
        granted = await self.store.call("croupier_grant", [budget_given_key(account)], arguments)
        await self.store.call("croupier_credit", [keys.budget], [account, granted, *booking.over])
        return bool(granted)

    async def confirm(
        self, keys: PlayerKeys, decision_id: str, view: PlayerSnapshot, send_us: int, body: bytes
    ) -> tuple[str, int]:
        """Confirm a reservation, to count at a moment, if the player is still as read; status and house time."""
        names = [keys.facts, keys.ledger, keys.log]
        arguments = [*clock_arguments(self._house), view.facts_version, decision_id, body, view.ledger_version, send_us]
        status, at = await self.store.call("croupier_confirm", names, arguments)
        return status.decode(), int(at)

    async def attempt(
        self, keys: PlayerKeys, decision_id: str, view: PlayerSnapshot, send_us: int, body: bytes, claim: Claim
    ) -> tuple[str, int]:
        """Confirm a reservation that the house sends, and note the attempt, in one call; as `confirm`.

        The status may also be `fenced`, if the partition has another owner, or `taken`, if it does not wait any more.
        """
        names = [keys.facts, keys.ledger, keys.log, keys.lease]
        arguments = [*clock_arguments(self._house), view.facts_version, decision_id, body, view.ledger_version, send_us]
        arguments += [claim.epoch, claim.tries, claim.connector, claim.until_us, int(claim.repeats)]
        status, at = await self.store.call("croupier_attempt", names, arguments)
        return status.decode(), int(at)

    async def is_delivered(self, decision_id: str) -> bool:
        """Whether the house sends a decision's contact, or did."""
        return await self._send_state(decision_id) is not None

    async def is_sending(self, decision_id: str) -> bool:
        """Whether the house began to send a decision's contact."""
        return await self._send_state(decision_id) in SENDING

    async def _send_state(self, decision_id: str) -> bytes | None:
        return cast("bytes | None", await self.store.command("HGET", send_key(decision_id), "state"))

    async def known(self, keys: PlayerKeys, entry: Entry) -> Appended | None:
        """What becomes of an entry whose id is remembered, None if it is not."""
        held = await self.store.command("GET", keys.seen(entry.seen))
        return None if held is None else entry.again(held)

    async def known_or_facts(self, keys: PlayerKeys, entry: Entry) -> tuple[Appended | None, Mapping[bytes, bytes]]:
        """See `known`, and the player's facts as they stand.

        Raises:
            Linked: Its id is not remembered, and the player was merged into another.
        """
        known, facts = await asyncio.gather(self.known(keys, entry), self.store.hash(keys.facts))
        if known is None and b"to" in facts:
            raise Linked(facts[b"to"].decode())
        return known, facts

    async def append(self, keys: PlayerKeys, entry: Entry) -> Appended:
        """Apply facts, deduplicate and append in one call.

        Raises:
            Linked: The player was merged into another.
        """
        names, arguments = ingest_command(self._house, keys, [entry])
        function = RESTRICT if self._restricting else INGEST
        done = appended(await self.store.call(function, names, arguments))[0]
        if done.status == "linked":
            raise Linked(done.stream_id)
        if done.status == "conflict":
            return await self.known(keys, entry) or done
        return done

    async def seal(self, keys: PlayerKeys) -> PlayerSeal:
        """The player's seal, a new one if there was none."""
        fresh = self._seals.new(keys.player)
        stored = bytes(await self.store.call("croupier_seal", [keys.seal], [fresh.stored]))
        return fresh if stored == fresh.stored else self._seals.of(keys.player, stored)

    async def reservation(self, keys: PlayerKeys, decision_id: str) -> Reservation | None:
        """What the player's ledger holds for a decision, None if nothing or nothing any more."""
        held = await self.store.command("HGET", keys.ledger, decision_id)
        return None if held is None else Reservation.loads(held.decode())

    async def decision(self, decision_id: str) -> bytes | None:
        """What is kept of a decision, None if nothing is."""
        return cast("bytes | None", await self.store.command("GET", decision_key(decision_id)))

    async def logged(self, place: Place) -> bytes | None:
        """A record at its place in the log, None once that was trimmed."""
        log, stream_id = log_key(place.partition), place.stream_id
        found = await self.store.command("XRANGE", log, stream_id, stream_id)
        return hashed(found[0][1])[b"b"] if found else None

    async def recent(self, keys: PlayerKeys) -> list[bytes]:
        """What is kept of the player's last decisions, the latest first."""
        named = await self.store.command("LRANGE", keys.recent, 0, -1)
        if not named:
            return []
        held = await self.store.command("MGET", *(keys.decision(name.decode()) for name in named))
        return [one for one in held if one is not None]

    async def seal_of(self, keys: PlayerKeys) -> bytes | None:
        """The player's key for personal fields, None if there is none."""
        stored = await self.store.command("GET", keys.seal)
        return None if stored is None else self._seals.open(keys.player, stored)

    async def progress(self, partition: int) -> str:
        """Stream id up to which a partition's features are current."""
        found = await self.store.command("HGET", lease_key(partition), "cursor")
        return (found or b"0-0").decode()

    async def probe(self, partition: int, content: bytes) -> None:
        """Write to a partition under a key that expires, to see that writes are acknowledged."""
        await self.store.command("SET", probe_key(partition), content, "EX", PROBE_SECONDS)

    async def now_us(self) -> int:
        """House time."""
        seconds, rest = await self.store.command("TIME")
        return self._house.now_us(int(seconds) * 1_000_000 + int(rest))
