"""The ledger at the store's door: read a player whole, change what may be sent in one atomic call each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

from features.events import REMEMBERED
from features.store import BUNDLES, House, Store, StoreError, bundle_key, partition_of, tag
from service import links
from service.caps import Answered, Held, Reservation, load_answer, load_reservation
from service.facts import Assertion, forbids

RECENT: Final = 20
"""Decisions that are remembered per player, the latest first."""
KEPT_SECONDS: Final = int(REMEMBERED.total_seconds())
HOPS: Final = 32
"""Links of ids that are followed at most."""
SHARES: Final = 1_024
"""A partition takes this part of a budget at once, or what it needs if that is more."""
GRANTS: Final = 3
"""Attempts to have enough of a budget, which others of the partition may use up in between."""
ANSWER: Final = "~"
"""Entries of a ledger that begin so are answers to contacts, not contacts."""
_DRY: Final = "dry "
NO_DECISION: Final = "000-" + "a" * 24
"""Id under which no decision is held, for views that ask for none."""
Result = TypeVar("Result")


class Entry(NamedTuple):
    """One thing to append to a player's log: an event or an outcome, with what it makes true.

    `seen` is the id that makes it unique, `digest` stands for its content, `release` names a decision whose
    contact did not happen, `note` is the answer to a contact that limits look at, with its name in the ledger.
    """

    kind: Literal["event", "outcome", "facts"]
    seen: str
    digest: bytes
    body: bytes
    facts: Sequence[Assertion] = ()
    release: str = ""
    note: tuple[str, str] = ("", "")


Status = Literal["new", "duplicate", "conflict", "linked"]


class Appended(NamedTuple):
    """What became of an entry, and its place in the partition's stream."""

    status: Status
    stream_id: str


@dataclass(frozen=True, slots=True)
class View:
    """A player as the store held them at one moment. `watermark_us` and `real_us` are the store's clock.

    `facts` are those of all linked ids together, `linked` the features that those ids had before; `household_version`
    is None for a player without a household.
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

    @property
    def facts_version(self) -> str:
        """Version of the facts."""
        return self.facts.get(b"v", b"0").decode()

    @property
    def household(self) -> str | None:
        """Key of the player's household."""
        told = self.facts.get(b"household")
        return None if told is None else told.decode().split(" ", 2)[2] or None

    def beside(self, household: Sequence[bytes]) -> View:
        """The same with the contacts of the player's household, as the store answers them."""
        version, contacts, _ = _ledger(household)
        return replace(self, held=replace(self.held, household=contacts), household_version=version)


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


class Linked(Exception):
    """An id turned out to be a player, who holds everything that is told of it; `to` is the pointer to them.

    `record` is the decision that was asked for, if it was made for the id before.
    """

    def __init__(self, to: str, record: bytes | None = None) -> None:
        super().__init__(to)
        self.to = to
        self.record = record


class Keys:
    """Names of a player's keys; all carry the tag of the player key, so they share one hash slot."""

    def __init__(self, player: str, features: bytes) -> None:
        slot = tag(partition_of(player))
        self.player = player
        self.partition = partition_of(player)
        self.features = features or f"features:{player}".encode()
        self.facts = f"facts:{player}"
        self.ledger = f"ledger:{player}"
        self.seal = f"seal:{player}"
        self.recent = f"recent:{player}"
        self.log = f"log:{slot}"
        self.lease = f"lease:{slot}"
        self.budget = f"budget:{slot}"
        self.expiry = f"expiry:{slot}"
        self._slot = slot

    def seen(self, name: str) -> str:
        """Key that remembers an event's or outcome's id."""
        return f"seen:{self.player} {name}"

    def features_of(self, linked: str) -> bytes:
        """Key of a linked id's features: player keys are of one length, and so are keys in Feast's format."""
        return self.features.replace(self.player.encode(), linked.encode())

    def decision(self, decision_id: str) -> str:
        """Key of a decision's record."""
        return f"decision:{self._slot}{decision_id}"


def household_key(household: str) -> str:
    """Key of the contacts of all members of a household."""
    return f"household:{household}"


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
    names = [keys.facts, keys.ledger, keys.log, keys.budget, *(keys.seen(entry.seen) for entry in entries)]
    arguments: list[Any] = clock_arguments(house)
    for entry in entries:
        arguments += [entry.kind, entry.digest, seconds, entry.body, entry.release, *entry.note, forbids(entry.facts)]
        arguments.append(len(entry.facts))
        for fact in entry.facts:
            arguments += [fact.field, fact.moment_us, fact.rank, fact.text]
    return names, arguments


def assert_command(house: House, keys: Keys, told: Sequence[Assertion]) -> tuple[list[str], list[Any]]:
    """Keys and arguments of `croupier_assert` for facts that the worker derives of a player."""
    arguments = [*clock_arguments(house), keys.player, forbids(told)]
    return [keys.facts, keys.ledger, keys.log, keys.budget], arguments + [part for one in told for part in one]


def view_names(keys: Keys, decision_id: str) -> list[str | bytes]:
    """Keys of `croupier_view`."""
    held = [keys.facts, keys.features, keys.ledger, keys.lease, keys.seal, keys.decision(decision_id), keys.budget]
    return cast("list[str | bytes]", held)


def viewed(reply: Sequence[Any]) -> View:
    """Reply of `croupier_view`; raises Linked if the id turned out to be another player."""
    real, known, features, ledger, watermark, seal, record, budget = reply
    raw = _pairs(known)
    if b"to" in raw:
        raise Linked(raw[b"to"].decode(), record)
    version, own, answers = _ledger(ledger)
    shares, dry = _shares(budget)
    return View(
        int(real),
        links.together(raw),
        _pairs(features),
        version,
        Held(own, None, answers, shares, dry),
        int(watermark) if watermark else None,
        seal,
        record,
    )


def appended(reply: Sequence[bytes]) -> list[Appended]:
    """Reply of `croupier_ingest`, one per entry."""
    texts = [part.decode() for part in reply]
    return [Appended(status, place) for status, place in zip(texts[::2], texts[1::2], strict=True)]  # type: ignore[arg-type]


class RedisLedger:
    """The ledger on a Redis-protocol store; a decision's read and all other calls have a deadline each."""

    def __init__(self, store: Store, house: House, read_seconds: float, write_seconds: float) -> None:
        self._store = store
        self._read_seconds = read_seconds
        self._write_seconds = write_seconds
        self._house = house
        self._clock = clock_arguments(house)

    async def at_home(self, player: str, work: Callable[[str], Awaitable[Result]], hops: int = HOPS) -> Result:
        """Do something where a player is held: an id that was linked is held by another player.

        Raises:
            StoreError: The links of ids lead nowhere.
        """
        for left in range(hops, 0, -1):
            try:
                return await work(player)
            except Linked as linked:
                player = await self._follow(player, linked.to, left - 1)
        raise StoreError("the links of this id lead nowhere")

    async def home(self, player: str) -> str:
        """The player itself; raises Linked if it is held by another."""
        to = await self._store.command(self._write_seconds, "HGET", Keys(player, b"").facts, "to")
        if to is not None:
            raise Linked(to.decode())
        return player

    async def _follow(self, linked: str, to: str, hops: int = HOPS) -> str:
        """The player that an id is linked to; what is not yet taken in is taken in first."""
        player, state, _ = to.split(" ")
        if state == "pending":
            if not await self._ring_opened(linked):
                return linked
            await self._take_in(linked, player, hops)
        return player

    async def link(self, linked: str, player: str, sealed_name: str) -> str:
        """Link an id to a player for good: all of it is the player's from now on. Returns whom it is linked to.

        Begins with a mark on the id that sends everybody on; whoever meets it before all was taken in does that first.
        """
        to, _, _ = await self._frozen(linked, player, sealed_name)
        if (owner := await self._follow(linked, to)) == linked:
            raise StoreError("two ids were linked to each other at the same moment")
        return owner

    async def _ring_opened(self, linked: str) -> bool:
        """Whether an id is still linked once no ring of links leads through it.

        Where ids were linked to each other at the same moment, of the links that nobody has taken in yet that of the
        greatest id is taken away, whoever comes by; so whoever looks decides alike.
        """
        for _ in range(HOPS):
            marks = await self._marks(linked)
            if linked not in marks:
                return False
            last = marks[next(reversed(marks))].split(" ")[0]
            if last not in marks:
                return True
            names = list(marks)
            open_ = [name for name in names[names.index(last) :] if marks[name].split(" ")[1] == "pending"]
            if open_:
                thawed = max(open_)
                await self._store.call(self._write_seconds, "croupier_thaw", [Keys(thawed, b"").facts], [marks[thawed]])
        raise StoreError("the links of this id lead nowhere")

    async def _marks(self, linked: str) -> dict[str, str]:
        """The marks from an id on, in order, to the player or until they come round."""
        marks: dict[str, str] = {}
        while linked not in marks:
            to = await self._store.command(self._write_seconds, "HGET", Keys(linked, b"").facts, "to")
            if to is None:
                break
            marks[linked] = to.decode()
            linked = marks[linked].split(" ")[0]
        return marks

    async def _frozen(self, linked: str, *mark: str) -> tuple[str, dict[bytes, bytes], dict[bytes, bytes]]:
        keys = Keys(linked, b"")
        to, known, ledger = await self._store.call(
            self._write_seconds, "croupier_freeze", [keys.facts, keys.ledger], mark
        )
        return to.decode(), _pairs(known), _pairs(ledger)

    async def _take_in(self, linked: str, player: str, hops: int) -> None:
        to, known, ledger = await self._frozen(linked)
        if not to.startswith(f"{player} "):
            return
        name = to.split(" ")[2]
        contacts = {key.decode(): _adopted(key, text) for key, text in ledger.items() if key != b"v"}

        async def take(owner: str) -> None:
            if owner == linked:
                return  # linked to each other at once: this link was taken away again
            keys, told = Keys(owner, b""), links.adopted(linked, known, owner)
            arguments = [*self._clock, owner, name if owner == player else "", len(told)]
            arguments += [part for one in told for part in one] + [part for pair in contacts.items() for part in pair]
            names = [keys.facts, keys.ledger, keys.log, keys.budget]
            reply = await self._store.call(self._write_seconds, "croupier_adopt", names, arguments)
            if reply != 1:
                raise Linked(reply.decode())
            await self._bring(owner)

        await self.at_home(player, take, hops)
        await self._store.call(self._write_seconds, "croupier_settle", [Keys(linked, b"").facts], [to])

    async def view(self, keys: Keys, decision_id: str) -> View:
        """Read all that a decision looks at, in one call; one more for a household, and for each linked id.

        Raises:
            Linked: The id turned out to be another player.
        """
        asked = view_names(keys, decision_id)
        seen = viewed(await self._store.call(self._read_seconds, "croupier_view", asked, []))
        if names := links.linked(seen.facts):
            found = [await self._hash(keys.features_of(name)) for name in names]
            seen = replace(seen, linked=[_pairs(one) for one in found])
        if (household := seen.household) is None:
            return seen
        return seen.beside(await self._hash(household_key(household)))

    async def _hash(self, name: str | bytes) -> Sequence[bytes]:
        return _flat(await self._store.command(self._read_seconds, "HGETALL", name))

    async def hold(
        self, household: str, version: str, name: str, held: Reservation | None, outdated: Sequence[str] = ()
    ) -> bool:
        """Hold a contact in the player's household if that stands as it was read; version "" for as it is."""
        entry = held._replace(charges=()).dumps() if held else ""
        arguments = [version, name, entry, *outdated]
        return bool(await self._store.call(self._write_seconds, "croupier_hold", [household_key(household)], arguments))

    async def let_go(self, household: str, names: Sequence[str]) -> None:
        """Free what entries of a household hold."""
        if names:
            await self._store.call(self._write_seconds, "croupier_let_go", [household_key(household)], names)

    async def free(self, player: str, decision_id: str) -> None:
        """Free what a household holds for a decision, whichever attempt held it."""

        async def freed(owner: str) -> None:
            view = await self.view(Keys(owner, b""), NO_DECISION)
            if view.household:
                await self.let_go(view.household, view.held.in_household(decision_id))

        await self.at_home(player, freed)

    async def bring(self, player: str) -> None:
        """Bring a player's contacts into the household that the facts name."""
        await self.at_home(player, self._bring)

    async def _bring(self, player: str) -> None:
        view = await self.view(Keys(player, b""), NO_DECISION)
        if view.household:
            await self.join(view.household, view.held.own)

    async def join(self, household: str, held: Mapping[str, Reservation]) -> None:
        """Bring contacts into a household; those that are there stay."""
        pairs = [part for name, one in held.items() for part in (name, one._replace(charges=()).dumps())]
        await self._store.call(self._write_seconds, "croupier_join", [household_key(household)], pairs)

    async def reserve(self, keys: Keys, booking: Booking) -> tuple[str, bytes]:
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

    async def _reserve(self, keys: Keys, booking: Booking) -> Sequence[bytes]:
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
        return cast(
            "Sequence[bytes]", await self._store.call(self._write_seconds, "croupier_reserve", names, arguments)
        )

    async def _granted(self, keys: Keys, booking: Booking, account: str, left: int) -> bool:
        """Bring a part of a budget into the partition; between the two calls it can get lost, never doubled."""
        whole = booking.budgets[account]
        charged = dict(booking.reservation.charges if booking.reservation else ())[account]
        least = charged - left
        arguments = [whole, least, max(least, whole // SHARES), kept_seconds(self._house)]
        granted = await self._store.call(
            self._write_seconds, "croupier_grant", [f"croupier:budget:{account}"], arguments
        )
        await self._store.call(self._write_seconds, "croupier_credit", [keys.budget], [account, granted, *booking.over])
        return bool(granted)

    async def confirm(self, keys: Keys, decision_id: str, view: View, send_us: int, body: bytes) -> tuple[str, int]:
        """Confirm a reservation, to count at a moment, if the player is still as viewed; status and house time."""
        names = [keys.facts, keys.ledger, keys.log]
        arguments = [*self._clock, view.facts_version, decision_id, body, view.ledger_version, send_us]
        status, at = await self._store.call(self._write_seconds, "croupier_confirm", names, arguments)
        return status.decode(), int(at)

    async def known(self, keys: Keys, name: str, digest: bytes) -> Appended | None:
        """What became of an event or outcome that was told before under this id; None if none was."""
        held = await self._store.command(self._write_seconds, "GET", keys.seen(name))
        if held is None:
            return None
        return Appended("duplicate" if held.startswith(digest) else "conflict", held[len(digest) :].decode())

    async def append(self, keys: Keys, entry: Entry) -> Appended:
        """Apply facts, deduplicate and append in one call.

        Raises:
            Linked: The id turned out to be another player.
        """
        names, arguments = ingest_command(self._house, keys, [entry])
        done = appended(await self._store.call(self._write_seconds, "croupier_ingest", names, arguments))[0]
        if done.status == "linked":
            raise Linked(done.stream_id)
        return done

    async def seal(self, keys: Keys, fresh: bytes) -> bytes:
        """The player's key for personal fields; `fresh` becomes it if there was none."""
        return bytes(await self._store.call(self._write_seconds, "croupier_seal", [keys.seal], [fresh]))

    async def record(self, decision_id: str) -> bytes | None:
        """A decision's record while it is kept, else None."""
        return cast("bytes | None", await self._store.command(self._write_seconds, "GET", decision_key(decision_id)))

    async def recent(self, keys: Keys) -> list[bytes]:
        """Records of the player's last decisions that are still kept, the latest first."""
        named = await self._store.command(self._write_seconds, "LRANGE", keys.recent, 0, -1)
        if not named:
            return []
        held = await self._store.command(self._write_seconds, "MGET", *(keys.decision(name.decode()) for name in named))
        return [one for one in held if one is not None]

    async def version(self, name: str) -> bytes | None:
        """A bundle by the name of its version, as records hold it."""
        digest = await self._store.command(self._write_seconds, "HGET", BUNDLES, name)
        return None if digest is None else await self.bundle(digest.decode())

    async def bundle(self, digest: str) -> bytes | None:
        """A bundle by its hash: a catalogue or rule file that records name."""
        return cast("bytes | None", await self._store.command(self._write_seconds, "GET", bundle_key(digest)))

    async def fields(self, key: str) -> dict[bytes, bytes]:
        """A hash that is no player's, such as a published report; empty if there is none."""
        return dict(await self._store.command(self._write_seconds, "HGETALL", key))

    async def seal_of(self, keys: Keys) -> bytes | None:
        """The player's key for personal fields, None if erased."""
        return cast("bytes | None", await self._store.command(self._write_seconds, "GET", keys.seal))

    async def progress(self, partition: int) -> str:
        """Stream id up to which a partition's features are current."""
        found = await self._store.command(self._write_seconds, "HGET", f"lease:{tag(partition)}", "cursor")
        return (found or b"0-0").decode()

    async def reach(self) -> tuple[dict[str, bool], list[int]]:
        """See `Store.reach`."""
        return await self._store.reach()

    async def now_us(self) -> int:
        """House time."""
        seconds, rest = await self._store.command(self._write_seconds, "TIME")
        return self._house.now_us(int(seconds) * 1_000_000 + int(rest))


def _ledger(flat: Sequence[bytes]) -> tuple[str, dict[str, Reservation], dict[str, Answered]]:
    """Version, contacts and answers to contacts of a ledger."""
    held = _pairs(flat)
    version = held.pop(b"v", b"0").decode()
    texts = {name.decode(): text.decode() for name, text in held.items()}
    contacts = {name: load_reservation(text) for name, text in texts.items() if name[0] != ANSWER}
    return version, contacts, {name: load_answer(text) for name, text in texts.items() if name[0] == ANSWER}


def _shares(flat: Sequence[bytes]) -> tuple[dict[str, int], frozenset[str]]:
    """What is left of budgets in a partition, and which have nothing more to give."""
    held = {name.decode(): value for name, value in _pairs(flat).items()}
    shares = {name: int(value) for name, value in held.items() if not name.startswith(_DRY)}
    return shares, frozenset(name.removeprefix(_DRY) for name in held.keys() - shares.keys())


def _adopted(name: bytes, text: bytes) -> str:
    """A contact of a linked id as its player holds it: what an open one charged is given back where it was charged."""
    if name.startswith(ANSWER.encode()):
        return text.decode()
    held = load_reservation(text.decode())
    return (held._replace(charges=()) if held.state == "reserved" else held).dumps()


def _flat(found: Mapping[bytes, bytes] | Sequence[bytes]) -> Sequence[bytes]:
    """A hash as a reply of names and values in turn, whichever way the client gives it."""
    return [part for pair in found.items() for part in pair] if isinstance(found, Mapping) else found


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
