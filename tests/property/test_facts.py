"""Facts in the real store: the same in any order of arrival; of ties, the stricter."""

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from features.events import EVENT, Event, moment
from features.schema import CHANNELS, PRODUCTS
from features.store.connection import Store
from features.store.deployment import House, real_now_us
from features.store.keys import PlayerKeys
from features.store.server import Server
from pipelines.imports import bulk
from service.contacts.ledger import RedisLedger
from service.errors import RequestRefused
from service.events.accept import accept
from service.players import facts
from service.players.facts import Consent, Facts, assertions

SETTINGS = settings(max_examples=120, deadline=None, derandomize=True)
NAMES = (f"player-{n}" for n in itertools.count())
BRANDS = ("main", "other")
Told = list[dict[str, Any]]


@pytest.fixture
def base(house: House, store: redis.Redis) -> int:
    """A moment ten days ago; the seconds of the events of these tests count from it."""
    return house.now_us(real_now_us(store)) - timedelta(days=10) // timedelta(microseconds=1)


def said(kind: str, second: int, **more: Any) -> dict[str, Any]:
    """An event without id, player and base."""
    return {"type": kind, "second": second, **more}


def typed(stories: Sequence[dict[str, Any]], player: str, base: int) -> list[Event]:
    events = []
    for number, story in enumerate(stories):
        fields = {"event_id": f"e{number}", "player_id": player} | {k: v for k, v in story.items() if k != "second"}
        fields["occurred_at"] = moment(base + story["second"] * 1_000_000)
        if "until" in fields:
            fields["until"] = moment(base + fields["until"] * 1_000_000)
        events.append(EVENT.validate_python(fields))
    return events


class Door:
    """Tells the real store events in an order and in calls of our choice, and reads back what it holds."""

    def __init__(self, client: redis.Redis, house: House, base: int) -> None:
        self.client, self.house, self.base = client, house, base

    def tell(self, calls: Iterable[Iterable[Event]]) -> list[str]:
        """One pipeline; each inner list is one call of `croupier_ingest`, as imports make them."""
        items = bulk.Items(self.client, self.house)
        done = [bulk.append(self.client, self.house, [items.event(event) for event in call]) for call in calls]
        return [status for one in done for status in one.statuses]

    def raw(self, player: str) -> dict[bytes, bytes]:
        held: Any = self.client.hgetall(PlayerKeys(self.house.player_key(player)).facts)
        return dict(held)

    def facts(self, player: str, brand: str = "main") -> Facts:
        return facts.read(self.raw(player), brand)

    def after(self, *stories: dict[str, Any], brand: str = "main") -> Facts:
        """Facts after events told one by one, checked to be the same in the other direction."""
        read = []
        for order in (stories, stories[::-1]):
            player = next(NAMES)
            self.tell([[event] for event in typed(order, player, self.base)])
            read.append(self.facts(player, brand))
        assert unversioned(read[0]) == unversioned(read[1])
        return read[0]


def unversioned(found: Facts) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Facts.__struct_fields__ if name != "version"}


@pytest.fixture
def door(store: redis.Redis, house: House, base: int) -> Door:
    return Door(store, house, base)


# Moments tie often.
SECOND = st.integers(1, 6)
BRAND = st.sampled_from(BRANDS)
PLACE = st.sampled_from([None, "MT", "IE"])
LEVELS = ("none", "low", "moderate", "strong")
LEVEL = st.sampled_from(LEVELS)
BORN = st.none() | st.sampled_from(["1980-05-17", "1999-12-31", "2009-02-28"])
KINDS = (
    st.builds(said, st.just("self_excluded"), SECOND, brand=BRAND, scope=st.sampled_from(["brand", "all"])),
    st.builds(said, st.just("exclusion_ended"), SECOND, brand=BRAND, scope=st.sampled_from(["brand", "all"])),
    st.builds(
        said,
        st.just("consent_changed"),
        SECOND,
        brand=BRAND,
        channel=st.sampled_from(["sms", "email"]),
        granted=st.booleans(),
        product=st.sampled_from([None, None, "casino", "sports"]),
        basis=st.sampled_from([None, "express", "soft_opt_in"]),
        origin=st.sampled_from([None, "form-1", "shop.site"]),
    ),
    st.builds(said, st.just("time_out"), SECOND, brand=BRAND, until=st.integers(1, 30)),
    st.builds(
        said,
        st.just("registered"),
        SECOND,
        brand=BRAND,
        birth_date=BORN,
        jurisdiction=st.sampled_from([None, "MT", "CA-ON", "NL"]),
        licence=st.sampled_from([None, "MT", "GB"]),
        time_zone=st.sampled_from([None, "Europe/Malta", "America/Toronto"]),
        reopened=st.booleans(),
    ),
    st.builds(said, st.just("kyc_verified"), SECOND, birth_date=BORN),
    st.builds(said, st.sampled_from(["account_closed", "closure_requested"]), SECOND),
    st.builds(
        said,
        st.just("support_contact"),
        SECOND,
        tags=st.lists(st.sampled_from(["harm", "billing", "vip", "complaint", "resolved"]), max_size=3, unique=True),
    ),
    st.builds(said, st.just("login"), SECOND, location=PLACE),
    st.builds(said, st.just("session_started"), SECOND, location=PLACE),
    st.builds(said, st.just("session_ended"), SECOND),
    st.builds(
        said,
        st.sampled_from(["withdrawal_requested", "withdrawal_paid", "withdrawal_cancelled"]),
        SECOND,
        amount_minor=st.just(5_000),
    ),
    st.builds(
        said,
        st.just("limit_set"),
        SECOND,
        limit=st.just("loss"),
        change=st.sampled_from(["set", "lowered", "raised", "removed"]),
    ),
    st.builds(
        said,
        st.just("register_checked"),
        SECOND,
        register_name=st.sampled_from(["gamstop", "rofus"]),
        listed=st.booleans(),
    ),
    st.builds(said, st.just("objection_changed"), SECOND, objects=st.booleans()),
    st.builds(said, st.just("harm_scored"), SECOND, source=st.sampled_from(["mindway", "own.model"]), level=LEVEL),
    st.builds(said, st.just("harm_reviewed"), SECOND, level=LEVEL),
    st.builds(said, st.just("vip_changed"), SECOND, vip=st.booleans(), checked=st.booleans()),
    st.builds(said, st.just("bonus_granted"), SECOND, amount_minor=st.just(500)),
)


def dated(story: dict[str, Any]) -> dict[str, Any]:
    """The birth date as a date: these tests build events in Python, where types are strict."""
    return story | {name: date.fromisoformat(story[name]) for name in ("birth_date",) if story.get(name)}


# Few kinds at once, and so many events of each: registers are put to the test by what is told of them again.
STORIES = st.sets(st.integers(0, len(KINDS) - 1), min_size=1, max_size=4).flatmap(
    lambda chosen: st.lists(st.one_of(*(KINDS[one] for one in sorted(chosen))).map(dated), min_size=1, max_size=16)
)


def modelled(events: Iterable[Event]) -> dict[str, tuple[int, int, str]]:
    """The register rule in one line: of all assertions about a field the greatest (moment, rank, text) holds."""
    held: dict[str, tuple[int, int, str]] = {}
    for one in (one for event in events for one in assertions(event)):
        held[one.field] = max(held.get(one.field, (-(10**18), 0, "")), one[1:])
    return held


def shuffled(events: Sequence[Event], chance: random.Random) -> list[list[Event]]:
    """The events in any order, some told again, in calls of any size."""
    told = [*events, *chance.choices(events, k=chance.randint(0, len(events)))]
    chance.shuffle(told)
    calls = []
    while told:
        size = chance.randint(1, len(told))
        calls.append(told[:size])
        told = told[size:]
    return calls


def law(check: Callable[[Told, random.Random], None]) -> None:
    settings(SETTINGS)(given(STORIES, st.randoms(use_true_random=False))(check))()


def test_any_order_any_repetition_and_any_grouping_end_in_the_same_facts(door: Door) -> None:
    def check(stories: Told, chance: random.Random) -> None:
        held = []
        for _ in range(3):
            player = next(NAMES)
            events = typed(stories, player, door.base)
            done = door.tell(shuffled(events, chance))
            assert done.count("new") == len(events)
            raw = door.raw(player)
            raw.pop(b"v", None)
            held.append(raw)
        assert held[0] == held[1] == held[2]

    law(check)


def test_the_store_follows_the_register_rule(door: Door) -> None:
    def check(stories: Told, chance: random.Random) -> None:
        player = next(NAMES)
        events = typed(stories, player, door.base)
        door.tell(shuffled(events, chance))
        found = {
            name.decode(): tuple(value.decode().split(" ", 2))
            for name, value in door.raw(player).items()
            if name != b"v"
        }
        wanted = {name: (str(at), str(rank), text) for name, (at, rank, text) in modelled(events).items()}
        assert found == wanted

    law(check)


def latest(stories: Told, strict: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """The latest of some events; of several at one moment a strict one."""
    return max(stories, key=lambda story: (story["second"], strict(story)), default=None)


def of(stories: Told, *kinds: str, **fields: Any) -> Told:
    return [s for s in stories if s["type"] in kinds and all(s.get(name) == value for name, value in fields.items())]


@pytest.mark.parametrize("brand", BRANDS)
def test_facts_say_what_the_events_of_a_brand_and_of_the_house_say(door: Door, brand: str) -> None:
    """The facts of a brand from the words of the events alone, not by way of assertions."""

    def check(stories: Told, chance: random.Random) -> None:
        player = next(NAMES)
        door.tell(shuffled(typed(stories, player, door.base), chance))
        found = door.facts(player, brand)

        exclusions = of(stories, "self_excluded", "exclusion_ended")
        scopes = (
            of(exclusions, "self_excluded", "exclusion_ended", **w)
            for w in ({"scope": "all"}, {"scope": "brand", "brand": brand})
        )
        standing = [one for one in (latest(scope, lambda s: s["type"] == "self_excluded") for scope in scopes) if one]
        on = [one["second"] for one in standing if one["type"] == "self_excluded"]
        ended = [one["second"] for one in standing if one["type"] == "exclusion_ended"]
        assert seconds(found.excluded_us, door) == max(on, default=None)
        assert seconds(found.returned_us, door) == max(ended, default=None)

        ends = [one["until"] for one in of(stories, "time_out", brand=brand)]
        assert seconds(found.time_out_until_us, door) == max(ends, default=None)
        assert found.known == any(assertions(event) for event in typed(stories, player, door.base))
        assert found.assumed == ()
        _consents_follow(stories, found, door, brand)
        _person_follows(stories, found, door)
        _circumstances_follow(stories, found, door)
        _harm_follows(stories, found, door)

    law(check)


def _consents_follow(stories: Told, found: Facts, door: Door, brand: str) -> None:
    """Consent by channel and product, with what it rests on; one that names no product stands for itself too."""
    wanted = set()
    for channel in CHANNELS:
        ended = last(of(stories, "consent_changed", brand=brand, channel=channel, product=None, granted=False))
        for product in (None, *PRODUCTS):
            mine = of(stories, "consent_changed", brand=brand, channel=channel, product=product)
            one = latest(mine, _withdrawn)
            if one is None:
                continue
            held = found.consent[channel, product or "*"]
            if product and ended is not None and ended >= one["second"]:
                assert (held.granted, seconds(held.since_us, door)) == (False, ended)
            else:
                assert (held.granted, seconds(held.since_us, door)) == (one["granted"], one["second"])
            # Of two alike at one moment either may be what it rests on, but never a mixture of both.
            alike = of(mine, "consent_changed", second=one["second"], granted=one["granted"])
            assert (held.basis, held.origin) in [(other["basis"] or "express", other["origin"]) for other in alike]
            wanted.add((channel, product or "*"))
    assert found.consent.keys() == wanted


def _withdrawn(story: dict[str, Any]) -> bool:
    return not story["granted"]


def _person_follows(stories: Told, found: Facts, door: Door) -> None:
    # A registration that does not say `reopened` never undoes a closure.
    registered, reopened = of(stories, "registered"), of(stories, "registered", reopened=True)
    changes = [*reopened, *of(stories, "closure_requested", "account_closed")]
    strict = ("registered", "closure_requested", "account_closed")
    one = max(changes, key=lambda story: (story["second"], strict.index(story["type"])), default=None)
    states = dict(zip(strict, ("open", "closing", "closed"), strict=True))
    assert found.account == (states[one["type"]] if one else "open" if registered else None)
    assert seconds(found.opened_us, door) == min((one["second"] for one in registered), default=None)
    assert seconds(found.reopened_us, door) == last(reopened)
    assert found.kyc_verified == (True if of(stories, "kyc_verified") else None)
    for name in ("jurisdiction", "licence", "time_zone"):
        assert getattr(found, name) == last_word(registered, name)
    assert found.location == last_word(of(stories, "login", "session_started"), "location")


def last(stories: Told) -> int | None:
    return max((one["second"] for one in stories), default=None)


def last_word(stories: Told, name: str) -> str | None:
    """What was said last of something, by those who said anything; of two at one moment the greater word."""
    words = [(one["second"], one[name]) for one in stories if one[name] is not None]
    return max(words)[1] if words else None


def _circumstances_follow(stories: Told, found: Facts, door: Door) -> None:
    def told(one: dict[str, Any] | None, text: Callable[[dict[str, Any]], str]) -> tuple[str, int] | None:
        return None if one is None else (text(one), one["second"])

    def held(one: Any) -> tuple[str, int] | None:
        return None if one is None else (one.text, (one.at_us - door.base) // 1_000_000)

    for name in ("gamstop", "rofus"):
        one = latest(of(stories, "register_checked", register_name=name), lambda s: s["listed"])
        assert held(found.registers.get(name)) == told(one, lambda s: "listed" if s["listed"] else "clear")
    assert found.registers.keys() == {one["register_name"] for one in of(stories, "register_checked")}

    one = latest(of(stories, "objection_changed"), lambda s: s["objects"])
    assert held(found.objection) == told(one, lambda s: "objects" if s["objects"] else "none")

    money = of(stories, "withdrawal_requested", "withdrawal_paid", "withdrawal_cancelled")
    one = latest(money, lambda s: s["type"] == "withdrawal_requested")
    assert held(found.withdrawal) == told(one, lambda s: "pending" if s["type"].endswith("requested") else "settled")

    one = latest(of(stories, "session_started", "session_ended"), lambda s: s["type"] == "session_started")
    assert held(found.session) == told(one, lambda s: "on" if s["type"] == "session_started" else "off")

    one = latest(of(stories, "vip_changed"), lambda s: s["vip"])
    assert held(found.vip) == told(one, lambda s: "vip" if s["vip"] else "none")
    assert seconds(found.vip_checked_us, door) == last(of(stories, "vip_changed", checked=True))

    support = of(stories, "support_contact")
    complaints = [one for one in support if "complaint" in one["tags"]]
    one = latest([s for s in support if {"complaint", "resolved"} & {*s["tags"]}], lambda s: "complaint" in s["tags"])
    assert held(found.complaint) == told(one, lambda s: "open" if "complaint" in s["tags"] else "resolved")
    assert seconds(found.complained_us, door) == last(complaints)
    assert seconds(found.support_us, door) == last(support)

    raised = [one for one in of(stories, "limit_set") if one["change"] in {"raised", "removed"}]
    assert seconds(found.limit_raised_us, door) == last(raised)


def _harm_follows(stories: Told, found: Facts, door: Door) -> None:
    """What each source said last of harm, and when it last said each level; a mention to support is strong."""
    said_by: dict[str, Told] = {
        "signal": [one | {"level": "strong"} for one in of(stories, "support_contact") if "harm" in one["tags"]],
        "review": of(stories, "harm_reviewed"),
        **{f"by:{name}": of(stories, "harm_scored", source=name) for name in ("mindway", "own.model")},
        **{
            f"by:{name}:{level}": of(stories, "harm_scored", source=name, level=level)
            for name, level in itertools.product(("mindway", "own.model"), LEVELS)
        },
    }
    wanted = {}
    for name, said in said_by.items():
        if said:
            one = max(said, key=lambda s: (s["second"], LEVELS.index(s["level"])))
            wanted[name] = (one["level"], door.base + one["second"] * 1_000_000)
    assert found.harm == wanted


def seconds(unix_us: int | None, door: Door) -> int | None:
    return None if unix_us is None else (unix_us - door.base) // 1_000_000


# Ties -------------------------------------------------------------------------------------------------------------


def test_at_one_moment_exclusion_beats_its_end(door: Door) -> None:
    found = door.after(said("self_excluded", 5), said("exclusion_ended", 5))
    assert (found.excluded_us, found.returned_us) == (door.base + 5_000_000, None)


def test_at_one_moment_withdrawal_beats_consent(door: Door) -> None:
    told = [said("consent_changed", 5, channel="sms", granted=granted) for granted in (True, False)]
    assert door.after(*told).consent == {("sms", "*"): Consent(False, door.base + 5_000_000, "express")}


def test_at_one_moment_closed_beats_a_wish_to_close_and_both_beat_open(door: Door) -> None:
    closed, asked, opened = (
        said("account_closed", 5),
        said("closure_requested", 5),
        said("registered", 5, reopened=True),
    )
    assert door.after(closed, asked, opened).account == "closed"
    assert door.after(asked, opened).account == "closing"


def test_a_closed_account_is_opened_again_only_by_a_registration_that_says_so(door: Door) -> None:
    for kind, state in (("account_closed", "closed"), ("closure_requested", "closing")):
        plain = door.after(said(kind, 5), said("registered", 6))
        assert (plain.account, plain.reopened_us) == (state, None)
        again = door.after(said(kind, 5), said("registered", 6, reopened=True))
        assert (again.account, again.reopened_us) == ("open", door.base + 6_000_000)


def test_who_asked_for_closure_stays_closing_whatever_else_happens(door: Door) -> None:
    others = [said("login", 9), said("session_started", 9), said("kyc_verified", 9), said("registered", 9)]
    assert door.after(said("closure_requested", 5), *others).account == "closing"
    assert door.after(said("closure_requested", 5), said("account_closed", 6)).account == "closed"


# Of each register: the event that restricts, the one that frees, and the words that are then held.
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, str]]] = {
    "objection": ({"type": "objection_changed", "objects": True}, {"objects": False}, ("objects", "none")),
    "withdrawal": (
        {"type": "withdrawal_requested", "amount_minor": 1},
        {"type": "withdrawal_paid"},
        ("pending", "settled"),
    ),
    "session": ({"type": "session_started"}, {"type": "session_ended"}, ("on", "off")),
    "vip": ({"type": "vip_changed", "vip": True}, {"vip": False}, ("vip", "none")),
    "complaint": ({"type": "support_contact", "tags": ["complaint"]}, {"tags": ["resolved"]}, ("open", "resolved")),
    "registers": (
        {"type": "register_checked", "register_name": "gamstop", "listed": True},
        {"listed": False},
        ("listed", "clear"),
    ),
    "harm": ({"type": "harm_reviewed", "level": "strong"}, {"level": "none"}, ("strong", "none")),
}


def held_in(found: Facts, name: str) -> Any:
    """What a register holds; of several under one name the only one."""
    held = getattr(found, name)
    return next(iter(held.values())) if isinstance(held, dict) else held


@pytest.mark.parametrize("name", PAIRS)
def test_of_a_register_the_later_word_holds_and_at_one_moment_the_stricter(door: Door, name: str) -> None:
    strict, freeing, (on, off) = PAIRS[name]
    free = strict | freeing
    for first, second, text in ((5, 6, off), (6, 5, on), (5, 5, on)):
        found = door.after(strict | {"second": first}, free | {"second": second})
        assert held_in(found, name) == (text, door.base + max(first, second) * 1_000_000)
    assert held_in(door.after(free | {"second": 5}), name) == (off, door.base + 5_000_000)
    assert not getattr(facts.read({}, "main"), name)


@pytest.mark.parametrize("kind", ["registered", "kyc_verified"])
def test_at_one_moment_the_younger_birth_date_holds(door: Door, kind: str) -> None:
    old, young = date(1980, 5, 17), date(2009, 1, 1)
    assert door.after(*(said(kind, 5, birth_date=born) for born in (old, young))).birth_date == young


def test_the_later_says_what_holds_and_never_the_one_that_came_last(door: Door) -> None:
    found = door.after(
        said("registered", 5, jurisdiction="MT", time_zone="Europe/Malta", birth_date=date(2009, 1, 1)),
        said("registered", 6, jurisdiction="GB", time_zone="Europe/London", birth_date=date(1980, 1, 1)),
        said("registered", 7),
    )
    assert (found.jurisdiction, found.time_zone, found.birth_date) == ("GB", "Europe/London", date(2009, 1, 1))


def test_the_place_of_a_player_is_the_last_that_a_login_or_session_told(door: Door) -> None:
    found = door.after(
        said("registered", 4, jurisdiction="MT", licence="GB"),
        said("login", 5, location="IE"),
        said("session_started", 6, location="US-NJ"),
        said("login", 7),
    )
    assert (found.jurisdiction, found.licence, found.location) == ("MT", "GB", "US-NJ")


def test_registers_and_sources_of_harm_are_kept_apart(door: Door) -> None:
    found = door.after(
        said("register_checked", 5, register_name="gamstop", listed=True),
        said("register_checked", 6, register_name="rofus", listed=False),
        said("harm_scored", 5, source="mindway", level="strong"),
        said("harm_scored", 6, source="other", level="none"),
        said("harm_reviewed", 7, level="low"),
    )
    assert {name: one.text for name, one in found.registers.items()} == {"gamstop": "listed", "rofus": "clear"}
    assert {name: one.text for name, one in found.harm.items()} == {
        "by:mindway": "strong",
        "by:mindway:strong": "strong",
        "by:other": "none",
        "by:other:none": "none",
        "review": "low",
    }


def test_a_lower_score_of_a_source_stands_beside_the_graver_one_before(door: Door) -> None:
    """It does not undo it: only a review or quiet days do."""
    told = [said("harm_scored", n, source="mindway", level=level) for n, level in ((5, "strong"), (6, "low"))]
    found = door.after(*told).harm
    assert found["by:mindway"] == ("low", door.base + 6_000_000)
    assert found["by:mindway:strong"] == ("strong", door.base + 5_000_000)


def test_a_resolved_complaint_is_closed_and_its_moment_stays(door: Door) -> None:
    told = [said("support_contact", 5, tags=["complaint"]), said("support_contact", 6, tags=["resolved"])]
    found = door.after(*told)
    assert found.complaint == ("resolved", door.base + 6_000_000)
    assert found.complained_us == door.base + 5_000_000
    both = door.after(said("support_contact", 5, tags=["resolved", "complaint"]))
    assert both.complaint == ("open", door.base + 5_000_000)


def test_checks_of_a_vip_are_those_that_were_told_and_stay_when_the_vip_goes(door: Door) -> None:
    found = door.after(said("vip_changed", 5, vip=True, checked=True), said("vip_changed", 6, vip=False))
    assert found.vip == ("none", door.base + 6_000_000)
    assert found.vip_checked_us == door.base + 5_000_000
    assert door.after(said("vip_changed", 5, vip=True)).vip_checked_us is None


def test_a_limit_that_is_raised_or_removed_is_noted_and_one_that_is_set_or_lowered_is_not(door: Door) -> None:
    def after(*changes: str) -> int | None:
        return door.after(
            said("registered", 1), *(said("limit_set", 3 + n, limit="loss", change=c) for n, c in enumerate(changes))
        ).limit_raised_us

    assert after("raised", "lowered") == after("removed", "set") == door.base + 3_000_000
    assert after("set", "lowered") is None


# Exclusion, consent, breaks ---------------------------------------------------------------------------------------


def test_an_exclusion_holds_until_it_is_ended_whatever_else_happens(door: Door) -> None:
    others = [
        said("registered", 9, jurisdiction="MT"),
        said("kyc_verified", 9),
        said("consent_changed", 9, channel="sms", granted=True),
        said("login", 9),
        said("time_out", 9, until=9),
        said("exclusion_ended", 2),
        said("exclusion_ended", 9, scope="brand"),
    ]
    assert door.after(said("self_excluded", 5), *others).excluded_us == door.base + 5_000_000
    assert door.after(said("self_excluded", 5), *others, said("exclusion_ended", 6)).excluded_us is None


def test_the_end_of_a_brands_exclusion_does_not_end_that_of_the_house_nor_the_other_way_round(door: Door) -> None:
    house, brand = said("self_excluded", 5), said("self_excluded", 5, scope="brand")
    ends = [said("exclusion_ended", 6), said("exclusion_ended", 6, scope="brand")]
    assert door.after(house, brand, ends[0]).excluded_us is not None
    assert door.after(house, brand, ends[1]).excluded_us is not None
    assert door.after(house, brand, *ends).excluded_us is None


def test_of_two_exclusions_the_later_one_counts_and_of_two_returns_the_later_return(door: Door) -> None:
    began = [said("self_excluded", 3), said("self_excluded", 5, scope="brand")]
    assert door.after(*began).excluded_us == door.base + 5_000_000
    ended = [said("exclusion_ended", 7), said("exclusion_ended", 6, scope="brand")]
    assert door.after(*began, *ended).returned_us == door.base + 7_000_000


def test_consent_counts_from_after_the_return_only(door: Door) -> None:
    """Facts keep both moments; the rule `consent_after_return` compares them."""
    told = [said("consent_changed", 3, channel="sms", granted=True), said("self_excluded", 5)]
    told += [said("exclusion_ended", 8), said("consent_changed", 9, channel="email", granted=True)]
    found = door.after(*told)
    assert found.excluded_us is None
    assert found.returned_us == door.base + 8_000_000
    alive = {key for key, one in found.consent.items() if one.granted and one.since_us > found.returned_us}
    assert alive == {("email", "*")}


def consent(second: int, *, granted: bool = True, **more: Any) -> dict[str, Any]:
    return said("consent_changed", second, channel="sms", granted=granted, **more)


def test_consent_is_kept_by_product_with_what_it_rests_on(door: Door) -> None:
    found = door.after(
        consent(3, basis="implied"),
        consent(4, product="casino", basis="express", origin="form-1"),
        consent(5, product="sports", origin="shop.site"),
    )
    at = door.base
    assert found.consent == {
        ("sms", "*"): Consent(True, at + 3_000_000, "implied", None),
        ("sms", "casino"): Consent(True, at + 4_000_000, "express", "form-1"),
        ("sms", "sports"): Consent(True, at + 5_000_000, "express", "shop.site"),
    }


def test_consent_is_express_unless_it_is_told_to_rest_on_something_else(door: Door) -> None:
    assert door.after(consent(3)).consent["sms", "*"].basis == "express"
    for basis in ("express", "soft_opt_in", "implied", "enquiry"):
        assert door.after(consent(3, basis=basis)).consent["sms", "*"].basis == basis


def test_a_later_consent_rests_on_what_it_names_itself(door: Door) -> None:
    """What was told once does not carry over: consent given anew replaces the one before, with basis and origin."""
    found = door.after(consent(3, basis="soft_opt_in", origin="form-1"), consent(4))
    assert found.consent["sms", "*"] == Consent(True, door.base + 4_000_000, "express", None)
    weaker = door.after(consent(3, basis="express", origin="form-1"), consent(4, basis="implied"))
    assert weaker.consent["sms", "*"] == Consent(True, door.base + 4_000_000, "implied", None)


def test_a_withdrawal_that_names_no_product_ends_what_was_given_before_for_each(door: Door) -> None:
    given = [consent(3, product="casino", basis="express"), consent(6, product="sports", basis="express")]
    found = door.after(*given, consent(5, granted=False))
    assert {key: one.granted for key, one in found.consent.items()} == {
        ("sms", "*"): False,
        ("sms", "casino"): False,
        ("sms", "sports"): True,
    }
    assert door.after(*given, consent(6, granted=False)).consent["sms", "sports"].granted is False


def test_what_a_withdrawal_ended_stays_ended_when_consent_without_a_product_is_given_anew(door: Door) -> None:
    """Else the consent of the past would stand again that was withdrawn for good."""
    told = [consent(3, product="casino"), consent(4, granted=False), consent(5)]
    found = door.after(*told)
    assert found.consent["sms", "*"].granted
    assert found.consent["sms", "casino"] == Consent(False, door.base + 4_000_000, "express")
    assert door.after(*told, consent(6, product="casino")).consent["sms", "casino"].granted


def test_a_withdrawal_for_a_product_ends_no_other_and_a_consent_without_one_does_not_undo_it(door: Door) -> None:
    found = door.after(
        consent(3, product="casino"), consent(3, product="sports"), consent(4, product="casino", granted=False)
    )
    assert found.consent["sms", "sports"].granted
    assert not found.consent["sms", "casino"].granted
    later = door.after(consent(4, product="casino", granted=False), consent(5))
    assert later.consent["sms", "*"].granted
    assert not later.consent["sms", "casino"].granted


def test_of_all_breaks_the_one_that_ends_last_holds(door: Door) -> None:
    told = [said("time_out", 5, until=20), said("time_out", 6, until=10)]
    assert door.after(*told).time_out_until_us == door.base + 20_000_000


def test_a_break_that_ends_with_the_calendar_holds_as_long_as_moments_are_counted(door: Door) -> None:
    player = next(NAMES)
    last = {"type": "time_out", "event_id": "t", "player_id": player, "occurred_at": moment(door.base)}
    door.tell([[EVENT.validate_python(last | {"until": moment(253_402_300_799_999_999)})]])
    assert door.facts(player).time_out_until_us == 7_258_118_400_000_000


def test_facts_of_another_brand_are_not_facts_of_this_one(door: Door) -> None:
    player = next(NAMES)
    told = [
        said("self_excluded", 5, scope="brand", brand="other"),
        said("time_out", 5, until=20, brand="other"),
        said("consent_changed", 5, channel="sms", granted=True, brand="other"),
        said("account_closed", 5, brand="other"),
        said("objection_changed", 5, objects=True, brand="other"),
        said("register_checked", 5, register_name="rofus", listed=True, brand="other"),
        said("withdrawal_requested", 5, amount_minor=1, brand="other"),
        said("harm_scored", 5, source="mindway", level="strong", brand="other"),
    ]
    door.tell([typed(told, player, door.base)])
    here, there = door.facts(player), door.facts(player, "other")
    assert (here.excluded_us, here.time_out_until_us, here.consent) == (None, None, {})
    assert there.excluded_us is not None
    assert there.time_out_until_us is not None
    assert there.consent["sms", "*"].granted
    # What concerns the person or the account concerns every brand.
    for found in (here, there):
        assert found.account == "closed"
        assert found.objection is not None
        assert found.registers["rofus"].text == "listed"
        assert found.withdrawal is not None
        assert found.harm["by:mindway"].text == "strong"


def test_an_exclusion_from_the_house_holds_for_every_brand(door: Door) -> None:
    for brand in BRANDS:
        assert door.after(said("self_excluded", 5, brand="other"), brand=brand).excluded_us is not None


# The person -------------------------------------------------------------------------------------------------------


def test_a_birth_date_that_is_merely_stated_never_replaces_the_verified_one(door: Door) -> None:
    """The age must come from a verified identity (rules.yaml); else a minor states another date and is of age."""
    verified, stated = date(2010, 1, 1), date(1980, 1, 1)
    found = door.after(said("kyc_verified", 5, birth_date=verified), said("registered", 6, birth_date=stated))
    assert found.birth_date == verified


def test_a_date_stated_after_verification_does_not_make_a_minor_of_age(door: Door) -> None:
    """Identity was verified while another date was stated; only a new verification may make the player older."""
    found = door.after(
        said("registered", 1, birth_date=date(2010, 1, 1)),
        said("kyc_verified", 2),
        said("registered", 3, birth_date=date(1980, 1, 1)),
    )
    assert found.birth_date == date(2010, 1, 1)


def test_news_about_a_person_do_not_make_the_account_new(door: Door) -> None:
    """`registered` also tells what changed; `opened_us` feeds the stage `new`."""
    found = door.after(said("registered", 1, jurisdiction="MT"), said("registered", 6, jurisdiction="GB"))
    assert found.opened_us == door.base + 1_000_000


# Ids --------------------------------------------------------------------------------------------------------------


async def test_an_id_counts_once_and_another_content_under_it_changes_nothing(door: Door, server: Server) -> None:
    player = next(NAMES)
    (first,) = typed([said("self_excluded", 5)], player, door.base)
    other = EVENT.validate_python(
        first.model_dump() | {"type": "exclusion_ended", "occurred_at": moment(door.base + 9_000_000)}
    )
    store = Store(server.url, 1)
    ledger = RedisLedger(store, door.house)
    try:
        told = await accept(first, door.house, ledger)
        assert not told.duplicate
        before = door.raw(player)
        again = await accept(first, door.house, ledger)
        assert again.duplicate
        assert again.position == told.position
        with pytest.raises(RequestRefused) as refusal:
            await accept(other, door.house, ledger)
        assert (refusal.value.code, refusal.value.pointer) == ("event_id_reused", "/event_id")
        assert door.raw(player) == before
    finally:
        await store.close()
    assert door.facts(player).excluded_us is not None


def test_an_import_does_not_call_a_conflict_a_duplicate(door: Door) -> None:
    """Else an exclusion under a reused id is dropped, and the import reports that it was known already."""
    player = next(NAMES)
    login, exclusion = (typed([said(kind, 5)], player, door.base)[0] for kind in ("login", "self_excluded"))
    assert door.tell([[login], [login], [exclusion]]) == ["new", "duplicate", "conflict"]


def test_the_same_id_of_two_players_is_two_events(door: Door) -> None:
    one, other = next(NAMES), next(NAMES)
    events = [typed([said("self_excluded", 5)], player, door.base)[0] for player in (one, other)]
    assert door.tell([events]) == ["new", "new"]
    assert door.facts(one).excluded_us == door.facts(other).excluded_us is not None


def test_the_version_moves_with_the_facts_and_only_with_them(door: Door) -> None:
    player = next(NAMES)
    exclusion, login, late, later = typed(
        [said("self_excluded", 5), said("login", 6), said("exclusion_ended", 4), said("exclusion_ended", 6)],
        player,
        door.base,
    )
    versions = []
    for event in (login, exclusion, exclusion, login, late, later):
        door.tell([[event]])
        versions.append(door.facts(player).version)
    assert versions == ["0", "1", "1", "1", "1", "2"]


def test_a_player_of_whom_only_behaviour_is_known_is_unknown(door: Door) -> None:
    behaviour = [
        said("login", 5),
        said("bet", 5, amount_minor=100, product="casino"),
        said("limit_set", 5, limit="loss", change="lowered"),
        said("bonus_granted", 5, amount_minor=100),
    ]
    assert door.after(*behaviour) == Facts()


def test_a_contact_with_support_tells_its_moment_and_nothing_of_the_person(door: Door) -> None:
    found = door.after(said("support_contact", 5, tags=["vip"]))
    at_us = door.base + 5_000_000
    assert unversioned(found) == unversioned(Facts(known=True, support_us=at_us, told_us={"support": at_us}))


def test_what_is_assumed_yields_to_whatever_is_known(door: Door) -> None:
    def assume(player: str) -> None:
        items = bulk.Items(door.client, door.house)
        assumed = [facts.Assertion("account", 0, 0, "open"), facts.Assertion("kyc", 0, 0, "verified")]
        assumed += [facts.consent("main", channel, 0, granted=True) for channel in ("sms", "email")]
        bulk.append(door.client, door.house, [items.assumed(player, assumed)])

    told = [said("account_closed", 1), said("consent_changed", 1, channel="sms", granted=False)]
    for first in (True, False):
        player = next(NAMES)
        if first:
            assume(player)
        door.tell([typed(told, player, door.base)])
        if not first:
            assume(player)
        found = door.facts(player)
        assert found.account == "closed"
        assert found.kyc_verified
        granted = {key: one.granted for key, one in found.consent.items()}
        assert granted == {("sms", "*"): False, ("email", "*"): True}
        assert found.assumed == ("consent:main:email", "kyc")


def test_nothing_is_read_from_nothing() -> None:
    assert facts.read({}, "main") == Facts()
