"""The ledger on a Redis-protocol store: read a player whole, reserve, confirm and append, each in one atomic call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite
from time import monotonic
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

from features.events import REMEMBERED
from features.store.connection import Store
from features.store.deployment import House
from features.store.errors import StoreError
from features.store.keys import (
    BUNDLES,
    PlayerKeys,
    budget_given_key,
    bundle_key,
    decision_key,
    household_key,
    lease_key,
    probe_key,
)
from service.contacts.entries import RESPONSE, Reservation
from service.contacts.limits import Held
from service.contacts.snapshot import NO_DECISION, Linked, PlayerSnapshot, hashed, view_names, viewed
from service.players import identity
from service.players.facts import Assertion, forbids
from service.players.harm import SKEW_US

RECENT: Final = 20
"""Decisions that are remembered per player, the latest first."""
KEPT_SECONDS: Final = int(REMEMBERED.total_seconds())
WALKS: Final = 4
"""Ways of links that a process walks at once: as many as connections are kept for what restricts contact."""
ROUNDS: Final = 100
"""Times that the way of an id's links is looked up at most, while others change it."""
SHARES: Final = 1_024
"""A partition takes this part of a budget at once, or what it needs if that is more."""
GRANTS: Final = 3
"""Attempts to have enough of a budget, which others of the partition may use up in between."""
FETCH_SECONDS: Final = 5.0
"""What fetching a part of a budget may take, whoever still waits for it: half of it done would be a part lost."""
_FETCHES: Final[set[asyncio.Task[bool]]] = set()
"""Fetches under way: an event loop alone would let them be forgotten."""
PROBE_SECONDS: Final = 60
Result = TypeVar("Result")


async def fetched() -> None:
    """Wait until every fetch under way has ended, before the store is closed."""
    if _FETCHES:
        await asyncio.wait(_FETCHES, timeout=FETCH_SECONDS)


class Entry(NamedTuple):
    """One thing to append to a player's log: an event or an outcome, with what it makes true.

    `seen` is the id that makes it unique, `digest` stands for its content, `release` names a decision whose
    contact did not happen, `note` is the answer to a contact that limits look at, with its name in the ledger;
    `earlier` gives what the first build may have remembered for the same content.
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
        """What becomes of it where a digest and a place are remembered under its id: the same content, or another."""
        digest, place = remembered[: len(self.digest)], remembered[len(self.digest) :].decode()
        return Appended("duplicate" if digest == self.digest or digest in self.earlier() else "conflict", place)

    def of(self, asked: str) -> Entry:
        """The same as told of an id that is linked to a player: known by the id's own names, its facts kept apart."""
        seen = self.seen if " " in self.seen else f"{asked} {self.seen}"
        return self._replace(seen=seen, facts=identity.under(asked, self.facts))


Status = Literal["new", "duplicate", "conflict", "linked"]


class Appended(NamedTuple):
    """What became of an entry, and its place in the partition's stream."""

    status: Status
    stream_id: str


class Booking(NamedTuple):
    """A decision to commit: it holds only while facts and ledger have the versions that it was drawn from.

    `reservation` is None for no contact; `outdated` names entries that nothing can need any more; `budgets` is what the
    house may spend, minor units, by budget and day that the contact charges; `over` are days of budgets that are past.
    """

    decision_id: str
    record: bytes
    facts_version: str
    ledger_version: str
    seal: bytes
    reservation: Reservation | None
    outdated: Sequence[str]
    budgets: Mapping[str, int]
    over: Sequence[str]


def clock_arguments(house: House) -> list[str]:
    """The house's clock as store functions take it."""
    return [str(house.real_us), str(house.house_us), repr(house.rate)]


def kept_seconds(house: House) -> int:
    """Real seconds that ids and records are kept: 35 days of house time."""
    return max(1, int(KEPT_SECONDS / house.rate))


def ingest_command(
    house: House, keys: PlayerKeys, entries: Sequence[Entry], *, remember: bool = True
) -> tuple[list[str], list[Any]]:
    """Keys and arguments of `croupier_ingest` for entries of one player, shared by the API and imports."""
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
    """Keys and arguments of `croupier_assert` for facts that the worker derives of a player."""
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
        until: When all of its calls must have been answered, on the monotonic clock.
        turns: To follow links, for all who share them.
    """

    def __init__(self, store: Store, house: House, until: float = inf, turns: asyncio.Semaphore | None = None) -> None:
        self._store = store
        self._house = house
        self._clock = clock_arguments(house)
        self._until = until
        self._turns = turns or asyncio.Semaphore(WALKS)

    def by(self, until: float) -> RedisLedger:
        """The same with another end for all of its calls together."""
        return RedisLedger(self._store, self._house, until, self._turns)

    @property
    def _seconds(self) -> float:
        return self._until - monotonic()

    async def at_home(self, asked: str, work: Callable[[str], Awaitable[Result]]) -> Result:
        """Do something where a player is held: an id that was linked is held by another player."""
        try:
            return await work(asked)
        except Linked as linked:
            mark = identity.Mark.loads(linked.to)
        player = mark.to if mark.state == "done" else await self._follow(asked)
        while True:
            try:
                return await work(player)
            except Linked:
                player = await self._follow(asked)

    async def home(self, player: str) -> str:
        """The player itself; raises Linked if it is held by another."""
        if (to := await self._marked(player)) is not None:
            raise Linked(to)
        return player

    async def link(self, linked: str, player: str, sealed_name: str) -> str:
        """Link an id to a player for good: all of it is the player's from now on. Returns who holds it.

        Begins with a mark on the id that sends everybody on; whoever meets it before all was taken in does that first.
        Ids that were linked to this one lead to the player at once, so that no way of links grows long.
        """
        known = await self.mark(linked, player, sealed_name)
        if (owner := await self._follow(linked)) == linked:
            raise StoreError("two ids were linked to each other at the same moment")
        await asyncio.gather(*(self._shorten(name, owner) for name in identity.others(known)))
        return owner

    async def mark(self, linked: str, player: str, sealed_name: str) -> Mapping[bytes, bytes]:
        """Begin a link, unless the id is linked already; what is known of the id."""
        return (await self._frozen(linked, player, sealed_name))[1]

    async def _follow(self, linked: str) -> str:
        """The player that an id belongs to; who was not yet taken in on the way is taken in first.

        A few at a time: of a thousand who meet the same way of links, those walk it, and the others find it short.
        """
        try:
            async with asyncio.timeout(max(0.0, self._seconds) if isfinite(self._until) else None), self._turns:
                return await self._followed(linked)
        except TimeoutError as error:
            raise StoreError("the links of this id were not followed before the deadline") from error

    async def _followed(self, linked: str) -> str:
        for _ in range(ROUNDS):
            way: Mapping[str, str] = await self._way(linked)
            owner = identity.chain_end(way) or linked
            if owner in way:
                way, owner = await self._untied(way)
            if await self._taken_in(way, owner):
                return owner
        raise StoreError("the links of this id are being changed by others")

    async def _way(self, linked: str) -> dict[str, str]:
        """The marks from an id on, in order, to the player or until they come round."""
        way: dict[str, str] = {}
        while linked not in way and (mark := await self._marked(linked)) is not None:
            way[linked] = mark
            linked = identity.Mark.loads(mark).to
        return way

    async def _marked(self, player: str) -> str | None:
        to = await self._store.command(self._seconds, "HGET", PlayerKeys(player).facts, "to")
        return None if to is None else to.decode()

    async def _untied(self, way: Mapping[str, str]) -> tuple[Mapping[str, str], str]:
        """Take one mark of a ring away: the way to the id that bore it, and that id, to whom it leads from now on.

        Raises:
            StoreError: All were taken in since the first mark was read.
        """
        try:
            crossed = identity.mark_to_remove(way) or ""
        except ValueError as error:
            raise StoreError("the links of this id are being changed by others") from error
        await self._store.call(self._seconds, "croupier_thaw", [PlayerKeys(crossed).facts], [way[crossed]])
        names = list(way)
        return {name: way[name] for name in names[: names.index(crossed)]}, crossed

    async def _taken_in(self, way: Mapping[str, str], owner: str) -> bool:
        """Let a player take in all ids of a way and be found at once; False if any was linked elsewhere meanwhile."""
        marks = {name: identity.Mark.loads(mark) for name, mark in way.items()}
        pending = [name for name, mark in marks.items() if mark.state == "pending"]
        try:
            if pending and not await self._take_in({name: way[name] for name in pending}, owner):
                return False
        except Linked:
            return False
        far = [name for name, mark in marks.items() if mark.state == "done" and mark.to != owner]
        await asyncio.gather(*(self._settle(name, way[name], owner) for name in far))
        return True

    async def _shorten(self, linked: str, owner: str) -> None:
        """Let an id that was taken in by another before lead to its player at once."""
        mark = await self._marked(linked)
        if mark is not None and identity.Mark.loads(mark).state == "done" and identity.Mark.loads(mark).to != owner:
            await self._settle(linked, mark, owner)

    async def _settle(self, linked: str, mark: str, owner: str) -> None:
        await self._store.call(self._seconds, "croupier_settle", [PlayerKeys(linked).facts], [mark, owner])

    async def _frozen(self, linked: str, *mark: str) -> tuple[str, dict[bytes, bytes], dict[bytes, bytes]]:
        keys = PlayerKeys(linked)
        to, known, ledger = await self._store.call(self._seconds, "croupier_freeze", [keys.facts, keys.ledger], mark)
        return to.decode(), hashed(known), hashed(ledger)

    async def _take_in(self, pending: Mapping[str, str], owner: str) -> bool:
        """Let a player take in ids that bear marks, all in one call; False if any was linked elsewhere meanwhile.

        Raises:
            Linked: The player was linked, after all was taken in.
        """
        frozen = await asyncio.gather(*(self._frozen(name) for name in pending))
        if [to for to, _, _ in frozen] != list(pending.values()):
            return False
        names = {mark.to: mark.name for mark in map(identity.Mark.loads, pending.values())}
        facts = dict(zip(pending, (known for _, known, _ in frozen), strict=True))
        ids = sorted({one for name, known in facts.items() for one in identity.adopted_ids(name, known, owner)})
        told = [one for name, known in facts.items() for one in identity.adopted_facts(name, known, owner)]
        contacts = {
            key.decode(): _adopted(key, text) for _, _, held in frozen for key, text in held.items() if key != b"v"
        }
        arguments = [*self._clock, owner, names.get(owner, ""), SKEW_US, len(ids), *ids, len(told)]
        arguments += [part for one in told for part in one] + [part for pair in contacts.items() for part in pair]
        keys = PlayerKeys(owner)
        into = [keys.facts, keys.ledger, keys.log, keys.budget]
        if await self._store.call(self._seconds, "croupier_adopt", into, arguments) != 1:
            return False
        await asyncio.gather(*(self._settle(name, mark, owner) for name, mark in pending.items()))
        await self._bring(owner)
        return True

    async def view(self, keys: PlayerKeys, decision_id: str) -> PlayerSnapshot:
        """Read all that a decision looks at, in one call; one more for a household, and for each linked id.

        Raises:
            Linked: The id turned out to be another player.
        """
        asked = view_names(keys, decision_id)
        seen = viewed(await self._store.call(self._seconds, "croupier_view", asked, []))
        if names := identity.others(seen.facts):
            found = await asyncio.gather(*(self._hash(keys.features_of(name)) for name in names))
            seen = replace(seen, linked=found)
        if (household := seen.household) is None:
            return seen
        return seen.beside(await self._hash(household_key(household)))

    async def _hash(self, name: str | bytes) -> dict[bytes, bytes]:
        return hashed(await self._store.command(self._seconds, "HGETALL", name))

    async def hold(
        self, household: str, version: str, name: str, held: Reservation | None, outdated: Sequence[str] = ()
    ) -> bool:
        """Hold a contact in the player's household if that stands as it was read; version "" for as it is."""
        entry = held.uncharged().dumps() if held else ""
        arguments = [version, name, entry, *outdated]
        return bool(await self._store.call(self._seconds, "croupier_hold", [household_key(household)], arguments))

    async def let_go(self, household: str, names: Sequence[str]) -> None:
        """Free what entries of a household hold."""
        if names:
            await self._store.call(self._seconds, "croupier_let_go", [household_key(household)], names)

    async def free(self, player: str, decision_id: str) -> None:
        """Free what a household holds for a decision, whichever attempt held it."""

        async def freed(owner: str) -> None:
            view = await self.view(PlayerKeys(owner), NO_DECISION)
            if view.household:
                await self.let_go(view.household, view.held.in_household(decision_id))

        await self.at_home(player, freed)

    async def bring(self, player: str, household: str | None = None, since_us: int | None = None) -> None:
        """Bring a player's contacts into a household, by default the one that the facts name.

        Nothing is brought into one that facts told at `since_us` will name, if they name a later one already.
        """
        await self.at_home(player, lambda owner: self._bring(owner, household, since_us))

    async def _bring(self, player: str, household: str | None = None, since_us: int | None = None) -> None:
        view = await self.view(PlayerKeys(player), NO_DECISION)
        if household and household != view.household:
            if since_us is not None and since_us < view.household_us:
                return
            view = view.beside(await self._hash(household_key(household)))
        if home := household or view.household:
            await self.join(home, view.held, view.held.lacking(self._house.now_us(view.real_us)))

    async def join(self, household: str, held: Held, lacking: Mapping[str, Reservation]) -> None:
        """Bring into a household, of which `held` is known, contacts that it lacks."""
        over = [name for decision_id in lacking for name in held.in_household(decision_id) if name != decision_id]
        pairs = [part for name, one in lacking.items() for part in (name, one.uncharged().dumps())]
        if pairs:
            arguments = [len(over), *over, *pairs]
            await self._store.call(self._seconds, "croupier_join", [household_key(household)], arguments)

    async def reserve(self, keys: PlayerKeys, booking: Booking) -> tuple[str, bytes]:
        """Commit a decision: (`reserved`, stream id), (`replay`, the record held), or (`moved` or `lost`, empty).

        `lost` is a contact that a budget over all players cannot bear; nothing was changed then.
        """
        for attempt in range(len(booking.budgets) * GRANTS + 1):
            reply = [bytes(part) for part in await self._reserve(keys, booking)]
            if reply[0] == b"moved" and attempt:
                break  # it was accepted as drawn, but for its cost: to draw again would make that hang on the action
            if reply[0] != b"short":
                return reply[0].decode(), reply[1] if len(reply) > 1 else b""
            if not await self._granted(keys, booking, reply[1].decode(), int(reply[2])):
                break
        return "lost", b""

    async def _reserve(self, keys: PlayerKeys, booking: Booking) -> Sequence[bytes]:
        names = [keys.facts, keys.ledger, keys.log, keys.decision(booking.decision_id), keys.seal, keys.recent]
        held = booking.reservation
        arguments = [
            *self._clock,
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
        return cast("Sequence[bytes]", await self._store.call(self._seconds, "croupier_reserve", names, arguments))

    async def _granted(self, keys: PlayerKeys, booking: Booking, account: str, left: int) -> bool:
        """Whether a part of a budget was brought into the partition; what was begun ends, whoever still waits."""
        fetch = asyncio.create_task(self.by(monotonic() + FETCH_SECONDS).fetch(keys, booking, account, left))
        _FETCHES.add(fetch)
        fetch.add_done_callback(_FETCHES.discard)
        done, _ = await asyncio.wait([fetch], timeout=min(self._seconds, FETCH_SECONDS))
        if not done:
            fetch.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise StoreError("a part of a budget did not come before the deadline")
        return fetch.result()

    async def fetch(self, keys: PlayerKeys, booking: Booking, account: str, left: int) -> bool:
        """Bring a part of a budget into the partition; between the two calls it can get lost, never doubled."""
        whole = booking.budgets[account]
        charged = dict(booking.reservation.charges if booking.reservation else ())[account]
        least = charged - left
        arguments = [whole, least, max(least, whole // SHARES), kept_seconds(self._house)]
        granted = await self._store.call(self._seconds, "croupier_grant", [budget_given_key(account)], arguments)
        await self._store.call(self._seconds, "croupier_credit", [keys.budget], [account, granted, *booking.over])
        return bool(granted)

    async def confirm(
        self, keys: PlayerKeys, decision_id: str, view: PlayerSnapshot, send_us: int, body: bytes
    ) -> tuple[str, int]:
        """Confirm a reservation, to count at a moment, if the player is still as viewed; status and house time."""
        names = [keys.facts, keys.ledger, keys.log]
        arguments = [*self._clock, view.facts_version, decision_id, body, view.ledger_version, send_us]
        status, at = await self._store.call(self._seconds, "croupier_confirm", names, arguments)
        return status.decode(), int(at)

    async def known(self, keys: PlayerKeys, entry: Entry) -> Appended | None:
        """What became of an event or outcome that was told before under this id; None if none was."""
        held = await self._store.command(self._seconds, "GET", keys.seen(entry.seen))
        return None if held is None else entry.again(held)

    async def known_or_facts(self, keys: PlayerKeys, entry: Entry) -> tuple[Appended | None, Mapping[bytes, bytes]]:
        """See `known`, and the player's facts as they stand.

        Raises:
            Linked: It was not told before, and the id turned out to be another player.
        """
        known, facts = await asyncio.gather(self.known(keys, entry), self._hash(keys.facts))
        if known is None and b"to" in facts:
            raise Linked(facts[b"to"].decode())
        return known, facts

    async def append(self, keys: PlayerKeys, entry: Entry) -> Appended:
        """Apply facts, deduplicate and append in one call.

        Raises:
            Linked: The id turned out to be another player.
        """
        names, arguments = ingest_command(self._house, keys, [entry])
        done = appended(await self._store.call(self._seconds, "croupier_ingest", names, arguments))[0]
        if done.status == "linked":
            raise Linked(done.stream_id)
        if done.status == "conflict":
            return await self.known(keys, entry) or done
        return done

    async def seal(self, keys: PlayerKeys, fresh: bytes) -> bytes:
        """The player's key for personal fields; `fresh` becomes it if there was none."""
        return bytes(await self._store.call(self._seconds, "croupier_seal", [keys.seal], [fresh]))

    async def record(self, decision_id: str) -> bytes | None:
        """A decision's record while it is kept, else None."""
        return cast("bytes | None", await self._store.command(self._seconds, "GET", decision_key(decision_id)))

    async def recent(self, keys: PlayerKeys) -> list[bytes]:
        """Records of the player's last decisions that are still kept, the latest first."""
        named = await self._store.command(self._seconds, "LRANGE", keys.recent, 0, -1)
        if not named:
            return []
        held = await self._store.command(self._seconds, "MGET", *(keys.decision(name.decode()) for name in named))
        return [one for one in held if one is not None]

    async def version(self, name: str) -> bytes | None:
        """A bundle by the name of its version, as records hold it."""
        digest = await self._store.command(self._seconds, "HGET", BUNDLES, name)
        return None if digest is None else await self.bundle(digest.decode())

    async def bundle(self, digest: str) -> bytes | None:
        """A bundle by its hash: a catalogue or rule file that records name."""
        return cast("bytes | None", await self._store.command(self._seconds, "GET", bundle_key(digest)))

    async def fields(self, key: str) -> dict[bytes, bytes]:
        """A hash that is no player's, such as a published report; empty if there is none."""
        return dict(await self._store.command(self._seconds, "HGETALL", key))

    async def seal_of(self, keys: PlayerKeys) -> bytes | None:
        """The player's key for personal fields, None if erased."""
        return cast("bytes | None", await self._store.command(self._seconds, "GET", keys.seal))

    async def progress(self, partition: int) -> str:
        """Stream id up to which a partition's features are current."""
        found = await self._store.command(self._seconds, "HGET", lease_key(partition), "cursor")
        return (found or b"0-0").decode()

    async def probe(self, partition: int, content: bytes) -> None:
        """Write something to a partition that ends by itself, to see that writes are acknowledged."""
        await self._store.command(self._seconds, "SET", probe_key(partition), content, "EX", PROBE_SECONDS)

    async def reach(self) -> tuple[dict[str, bool], list[int]]:
        """See `Store.reach`."""
        return await self._store.reach()

    async def now_us(self) -> int:
        """House time."""
        seconds, rest = await self._store.command(self._seconds, "TIME")
        return self._house.now_us(int(seconds) * 1_000_000 + int(rest))


def _adopted(name: bytes, text: bytes) -> str:
    """A contact of a linked id as its player holds it: what an open one charged is given back where it was charged."""
    if name.startswith(RESPONSE.encode()):
        return text.decode()
    held = Reservation.loads(text.decode())
    return (held.uncharged() if held.state == "reserved" else held).dumps()
