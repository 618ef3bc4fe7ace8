"""A small house for ledger tests: few players, tight limits, a movable clock, and what must always hold."""

import asyncio
import random
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import redis

from features.events import EVENT, moment
from features.store.connection import Store, connect
from features.store.deployment import House, clock_arguments
from features.store.keys import PlayerKeys, household_key, partition_of, tag
from models.catalogue.candidates import CandidateSpace
from models.catalogue.limits import Cap
from models.catalogue.offers import Catalogue, load_catalogue
from pipelines.worker.consumer import log_entry
from service.contacts import limits
from service.contacts.entries import Reservation, State
from service.contacts.ledger import Booking, Entry, RedisLedger
from service.contacts.limits import LimitQuery
from service.contacts.snapshot import NO_DECISION, PlayerSnapshot
from service.events.accept import accept
from service.players import sealing

Result = TypeVar("Result")
HOUR = 3_600_000_000
DAY = 24 * HOUR
WHOLE = load_catalogue(Path(__file__).parents[2] / "service" / "catalogue.yaml")
BUDGET = 2_000
CATALOGUE = Catalogue.model_validate(
    WHOLE.model_dump(mode="json", by_alias=True)
    | {
        "offers": [
            WHOLE.offers[at].model_dump(mode="json") | {"id": name, "cost_minor": cost, "category": category}
            for at, name, cost, category in ((0, "dear", 700, "large"), (1, "cheap", 300, "small"))
        ],
        "caps": [
            {"id": "day", "contacts": 2, "hours": 24},
            {"id": "week", "contacts": 4, "calendar": "week"},
            {"id": "local_day", "contacts": 2, "calendar": "day"},
            {"id": "sms", "contacts": 1, "hours": 48, "channel": "sms"},
            {"id": "dear", "contacts": 2, "lifetime": True, "offer": "dear"},
            {"id": "small", "contacts": 3, "hours": 72, "category": "small"},
            {"id": "home", "contacts": 3, "hours": 24, "scope": "household"},
            {"id": "brand", "contacts": 1, "hours": 24, "scope": "brand"},
        ],
        "gaps": [
            {"id": "rest", "hours": 1},
            {"id": "after_dear", "hours": 30, "of": {"offer": "cheap"}, "after": {"offer": "dear"}},
        ],
        "budgets": [{"id": "bonus_day", "cost_minor": BUDGET, "purpose": "bonus"}],
    }
)
LAYOUT = CandidateSpace(CATALOGUE)
ZONE = "Europe/Malta"
CHANNELS = ("email", "sms")
BRANDS = ("main", "other")
PLAYERS = tuple(f"player-{number}" for number in range(4))
DEVICES = ("device-1", "device-2")


class Attempt(NamedTuple):
    """A decision that was drawn from what was seen, and waits to be committed."""

    player: str
    view: PlayerSnapshot
    name: str
    held: Reservation | None


class Rooms:
    """The ledger of a house, driven step by step with a clock of its own."""

    def __init__(self, url: str, house: House) -> None:
        self.client = connect(url)
        self.house = house
        self.loop = asyncio.new_event_loop()
        self._store = Store(url, 4)
        self.ledger = RedisLedger(self._store, house)
        self._names = 0
        self.forgotten: Counter[str] = Counter()
        """What contacts cost that were made so long ago that the ledger no longer knows them."""
        self.before: set[str] = set()
        """Contacts that were made before their player joined others: they count, but were allowed without them."""

    def close(self) -> None:
        self.do(self._store.close())
        self.loop.close()
        self.client.close()

    def do(self, work: Awaitable[Result]) -> Result:
        """Run a call to its end; the steps of Hypothesis's state machines cannot be coroutines."""
        return self.loop.run_until_complete(work)

    def wait(self, span_us: int) -> None:
        """Let time of the house pass at once."""
        self.house = msgspec.structs.replace(self.house, house_us=self.house.house_us + span_us)
        self.ledger = RedisLedger(self._store, self.house)

    def now_us(self) -> int:
        return self.do(self.ledger.now_us())

    def key(self, player: str) -> str:
        return self.house.player_key(player)

    # --- Steps

    def look(self, player: str, chance: random.Random) -> Attempt:
        """See a player and draw a contact that every limit allows, or none."""

        async def seen(key: str) -> tuple[str, PlayerSnapshot]:
            return key, await self.ledger.view(PlayerKeys(key), NO_DECISION)

        key, view = self.do(self.ledger.identities.with_owner(self.key(player), seen))
        self._names += 1
        name = f"{partition_of(key):03d}-{chance.getrandbits(60):020d}{self._names:04d}"
        return Attempt(key, view, name, self._drawn(view, chance))

    def _drawn(self, view: PlayerSnapshot, chance: random.Random) -> Reservation | None:
        now_us = self.house.now_us(view.real_us)
        send_us = now_us + chance.choice((0, 0, HOUR, 5 * HOUR, 26 * HOUR, 60 * HOUR))
        brand = chance.choice(BRANDS)
        full = limits.evaluate(LAYOUT, view.held, [(send_us, LAYOUT.everything)], LimitQuery(brand, ZONE, now_us))
        options = [
            (offer, channel)
            for offer in CATALOGUE.offers
            for channel in CHANNELS
            if not any(bits & LAYOUT.find(offer.id, channel, "morning") for bits in full.values())
        ]
        if not options:
            return None
        offer, channel = chance.choice(options)
        charges = limits.charges(CATALOGUE, offer, channel, send_us)
        valid_us = send_us + chance.choice((HOUR // 4, HOUR, 3 * HOUR))
        state: State = "reserved"
        return Reservation(
            send_us, valid_us, state, "bonus", offer.id, channel, "morning", 0, brand, offer.category, 1, charges
        )

    def commit(self, attempt: Attempt) -> str:
        """Commit what was drawn, in the household first, as a decision does."""
        view, held, name = attempt.view, attempt.held, f"{attempt.name}#1"
        version, free = view.household_version or "0", view.held.freed(self.house.now_us(view.real_us))
        if view.household and not self.do(self.ledger.households.reserve(view.household, version, name, held, free)):
            return "moved"
        booking = self._booking(attempt, held)
        status, _ = self.do(self.ledger.reserve(PlayerKeys(attempt.player), booking))
        if status == "reserved" and held:
            for one in booking.outdated:
                old = view.held.own[one]
                self.forgotten.update(dict(old.charges) if old.state == "confirmed" else {})
        if view.household and status != "reserved" and held:
            self.do(self.ledger.households.release(view.household, [name]))
        return status

    def _booking(self, attempt: Attempt, held: Reservation | None) -> Booking:
        view, now_us = attempt.view, self.now_us()
        return Booking(
            attempt.name,
            msgspec.msgpack.encode(
                {"player": attempt.player, "name": attempt.name, "held": held.dumps() if held else ""}
            ),
            b"",
            view.facts_version,
            view.ledger_version,
            view.seal or sealing.new_seal(),
            held,
            limits.outdated(CATALOGUE, view.held, now_us, 0, ever=False),
            {name: BUDGET for name, _ in (held.charges if held else ())},
            limits.over(view.held, now_us),
        )

    def confirm(self, player: str, name: str) -> str:
        """Confirm a contact at the later of its moment and now, if limits still allow it there."""

        async def confirmed(key: str) -> str:
            keys = PlayerKeys(key)
            view = await self.ledger.view(keys, name)
            mine, others = view.held.own.get(name), view.held.without(name)
            now_us = self.house.now_us(view.real_us)
            if mine is None or (mine.state == "reserved" and mine.send_us > now_us):
                return "early"
            send_us = max(mine.send_us, now_us)
            full = limits.evaluate(LAYOUT, others, [(send_us, LAYOUT.everything)], LimitQuery(mine.brand, ZONE, now_us))
            bit = LAYOUT.find(mine.offer, mine.channel, "morning")
            if any(bits & bit for reason, bits in full.items() if not reason.startswith("budget:")):
                return "full"
            if view.household and mine.state == "reserved":
                sure = mine._replace(state="confirmed", send_us=send_us)
                over = [*view.held.in_household(name), *view.held.freed(now_us)]
                version, households = view.household_version or "0", self.ledger.households
                if not await households.reserve(view.household, version, name, sure, over):
                    return "moved"
            body = msgspec.msgpack.encode({"name": name, "send_us": send_us})
            status, _ = await self.ledger.confirm(keys, name, view, send_us, body)
            if view.household and status not in {"confirmed", "moved"} and mine.state == "reserved":
                await self.ledger.households.release(view.household, [name, *view.held.in_household(name)])
            return status

        return self.do(self.ledger.identities.with_owner(self.key(player), confirmed))

    def release(self, player: str, name: str) -> str:
        """Tell that a contact failed."""

        async def told(key: str) -> str:
            keys, body = PlayerKeys(key), msgspec.msgpack.encode({"player": key, "name": name})
            entry = Entry("outcome", f"outcome/{name}", name.encode()[-8:], body, (), name)
            return (await self.ledger.append(keys, entry)).status

        status = self.do(self.ledger.identities.with_owner(self.key(player), told))
        self.do(self.ledger.release_in_household(self.key(player), name))
        return status

    def tell(self, player: str, type_: str, **more: Any) -> str:
        """Tell an event of now."""
        self._names += 1
        at = moment(self.now_us()).isoformat()
        body = {"type": type_, "event_id": f"e{self._names}-{id(self)}", "player_id": player, "occurred_at": at, **more}
        event = EVENT.validate_json(msgspec.json.encode(body))
        self.do(accept(event, self.house, self.ledger))
        return "told"

    def join(self, player: str, home: str) -> None:
        """Let a player join a household."""
        self._remember(player)
        self.tell(player, "household_changed", household_id=home)

    def link(self, player: str, device: str) -> None:
        """Let a device turn out to be a player."""
        self._remember(device)
        self.tell(player, "identify", anonymous_id=device)

    def _remember(self, player: str) -> None:
        self.before |= self.entries(f"ledger:{self.key(player)}").keys()

    def sweep(self) -> int:
        """Give back what leases charged that ran out, as the worker does."""
        given, now_us = 0, self.now_us()
        for partition in {partition_of(self.key(one)) for one in (*PLAYERS, *DEVICES)}:
            expiry, budget = f"expiry:{tag(partition)}", f"budget:{tag(partition)}"
            for one in cast("list[bytes]", self.client.zrangebyscore(expiry, 0, now_us - 1)):
                ledger, decision = one.decode().split(" ")
                clock = clock_arguments(self.house)
                given += cast("int", self.client.fcall("croupier_expire", 3, expiry, budget, ledger, *clock, decision))
        return given

    # --- What must hold

    def contacts(self) -> dict[str, dict[str, Reservation]]:
        """All that the ledgers hold, by player key and decision; of linked ids their player holds it."""
        found: dict[str, dict[str, Reservation]] = {}
        for player in (*PLAYERS, *DEVICES):
            key = self.key(player)
            if self.client.hexists(f"facts:{key}", "to"):
                continue
            found[key] = self.entries(f"ledger:{key}")
        return found

    def entries(self, name: str) -> dict[str, Reservation]:
        held = cast("dict[bytes, bytes]", self.client.hgetall(name))
        return {one.decode(): Reservation.loads(text.decode()) for one, text in held.items() if one[:1].isdigit()}

    def check(self) -> None:
        """Every limit holds over what is counted now."""
        now_us = self.now_us()
        for held in self.contacts().values():
            check_limits([one for name, one in held.items() if one.counts(now_us) and name not in self.before])
        for household in {self.key(f"household {home}") for home in HOMES}:
            held = self.entries(household_key(household))
            members = [one for name, one in held.items() if one.counts(now_us) and name not in self.before]
            for cap in CATALOGUE.caps:
                if cap.scope == "household":
                    assert most_at_once(members, cap) <= cap.contacts
        self.check_budgets()

    def check_budgets(self) -> None:
        """What was given out is what partitions have left and what contacts hold, to the minor unit; never too much."""
        given, bound = self.given(), self.bound()
        assert all(amount <= BUDGET for amount in given.values())
        assert {name: bound[name] + self.forgotten[name] for name in given} == dict(given)
        assert set(+bound) <= set(given)

    def given(self) -> Counter[str]:
        """What partitions were given, by budget and day."""
        given: Counter[str] = Counter()
        for name in cast("list[bytes]", self.client.keys("croupier:budget:*")):
            given[name.decode().split(":")[-1]] = int(cast("bytes", self.client.get(name)))
        return given

    def bound(self) -> Counter[str]:
        """What partitions have left, and what contacts hold."""
        bound: Counter[str] = Counter()
        for name in cast("list[bytes]", self.client.keys("budget:*")):
            for account, left in cast("dict[bytes, bytes]", self.client.hgetall(name.decode())).items():
                if not account.startswith(b"dry "):
                    assert int(left) >= 0
                    bound[account.decode()] += int(left)
        for name in cast("list[bytes]", self.client.keys("ledger:*")):
            for held in self.entries(name.decode()).values():
                if held.state in {"reserved", "confirmed"} and not self._moved_on(name.decode(), held):
                    bound.update(dict(held.charges))
        return bound

    def _moved_on(self, ledger: str, held: Reservation) -> bool:
        """Whether a contact of a linked id is its player's now; what an open one charged is given back where it was."""
        linked = self.client.hexists(f"facts:{ledger.removeprefix('ledger:')}", "to")
        return bool(linked) and held.state == "confirmed"


HOMES = ("home-1", "home-2")


def check_limits(counted: list[Reservation]) -> None:
    """Caps and gaps of one player, by looking at every pair and every window."""
    for cap in CATALOGUE.caps:
        if cap.scope == "player":
            assert most_at_once(counted, cap) <= cap.contacts, cap.id
        if cap.scope == "brand":
            for brand in BRANDS:
                assert most_at_once([one for one in counted if one.brand == brand], cap) <= cap.contacts, cap.id
    for gap in CATALOGUE.gaps:
        for first in counted:
            for then in counted:
                if first is not then and first.within(gap.after) and then.within(gap.of):
                    assert not 0 <= then.send_us - first.send_us < gap.reach_us, gap.id


def most_at_once(counted: list[Reservation], cap: Cap) -> int:
    """The most contacts that any window of a cap holds."""
    sends = sorted(one.send_us for one in counted if one.within(cap))
    if cap.lifetime:
        return len(sends)
    if cap.calendar:
        return max(Counter(limits.period(send, cap.calendar, ZONE) for send in sends).values(), default=0)
    return max((bisect_left(sends, send + cap.window_us) - at for at, send in enumerate(sends)), default=0)


def history(client: redis.Redis, players: dict[str, str]) -> Iterator[dict[str, dict[str, Reservation]]]:
    """What each player held after every entry of the log, in the order in which the store took them."""
    for partition in sorted({partition_of(key) for key in players.values()}):
        held: dict[str, dict[str, Reservation]] = defaultdict(dict)
        owners: dict[str, str] = {}
        for stream_id, fields in cast("list[Any]", client.xrange(f"log:{tag(partition)}")):
            entry = log_entry(stream_id, fields)
            body = msgspec.msgpack.decode(entry.body)
            follow(entry.kind, body, held, owners, entry.known_us)
            yield held


def follow(
    kind: str,
    body: dict[str, Any],
    held: dict[str, dict[str, Reservation]],
    owners: dict[str, str],
    now_us: int,
) -> None:
    """Take an entry of the log into what is held."""
    if kind == "decision" and body["held"]:
        one = Reservation.loads(body["held"])
        owner = owners[body["name"]] = body["player"]
        held[owner][body["name"]] = one
    elif kind == "exposure":
        mine = held[owners[body["name"]]]
        mine[body["name"]] = mine[body["name"]]._replace(state="confirmed", send_us=body["send_us"])
    elif kind in {"revocation", "outcome"}:
        name = body["decision_id" if kind == "revocation" else "name"]
        held[owners[name]].pop(name, None)
    for mine in held.values():
        for name in [name for name, one in mine.items() if not one.counts(now_us)]:
            del mine[name]
