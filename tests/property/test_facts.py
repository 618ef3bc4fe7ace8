"""Facts through the real store: whatever the order of arrival, the same; whatever ties, the stricter."""

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from typing import Any

import pytest
import redis
from conftest import run
from hypothesis import given, settings
from hypothesis import strategies as st

from features.events import EVENT, Event, moment
from features.schema import CHANNELS
from features.store import House, Server, Store, real_now_us
from pipelines import bulk
from service import facts
from service.facts import Facts, assertions
from service.know import Refused, know
from service.ledger import Keys, RedisLedger

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
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
        held: Any = self.client.hgetall(Keys(self.house.player_key(player), b"").facts)
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
    return {name: getattr(found, name) for name in Facts.__dataclass_fields__ if name != "version"}


@pytest.fixture
def door(store: redis.Redis, house: House, base: int) -> Door:
    return Door(store, house, base)


# Moments tie often.
SECOND = st.integers(1, 6)
BRAND = st.sampled_from(BRANDS)
BORN = st.none() | st.sampled_from(["1980-05-17", "1999-12-31", "2009-02-28"])
STORY = st.one_of(
    st.builds(said, st.just("self_excluded"), SECOND, brand=BRAND, scope=st.sampled_from(["brand", "all"])),
    st.builds(said, st.just("exclusion_ended"), SECOND, brand=BRAND, scope=st.sampled_from(["brand", "all"])),
    st.builds(
        said,
        st.just("consent_changed"),
        SECOND,
        brand=BRAND,
        channel=st.sampled_from(["sms", "email"]),
        granted=st.booleans(),
    ),
    st.builds(said, st.just("time_out"), SECOND, brand=BRAND, until=st.integers(1, 30)),
    st.builds(
        said,
        st.just("registered"),
        SECOND,
        brand=BRAND,
        birth_date=BORN,
        jurisdiction=st.sampled_from([None, "MT", "CA-ON", "NL"]),
        time_zone=st.sampled_from([None, "Europe/Malta", "America/Toronto"]),
    ),
    st.builds(said, st.just("kyc_verified"), SECOND, birth_date=BORN),
    st.builds(said, st.just("account_closed"), SECOND),
    st.builds(said, st.just("support_contact"), SECOND, tags=st.sampled_from([["harm"], ["billing", "harm"], ["vip"]])),
    st.builds(said, st.just("login"), SECOND),
    st.builds(said, st.just("limit_set"), SECOND, limit=st.just("loss"), change=st.just("lowered")),
)


def dated(story: dict[str, Any]) -> dict[str, Any]:
    """The birth date as a date: these tests build events in Python, where types are strict."""
    return story | {name: date.fromisoformat(story[name]) for name in ("birth_date",) if story.get(name)}


STORIES = st.lists(STORY.map(dated), min_size=1, max_size=12)


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

        for channel in CHANNELS:
            one = latest(of(stories, "consent_changed", brand=brand, channel=channel), lambda s: not s["granted"])
            held = found.consent.get(channel)
            assert (held and (held[0], seconds(held[1], door))) == (one and (one["granted"], one["second"]))

        ends = [one["until"] for one in of(stories, "time_out", brand=brand)]
        assert seconds(found.time_out_until_us, door) == max(ends, default=None)

        # A registration that does not say `reopened` never undoes a closure.
        registered, closed = of(stories, "registered"), of(stories, "account_closed")
        assert found.closed == (True if closed else False if registered else None)
        assert seconds(found.opened_us, door) == min((one["second"] for one in registered), default=None)
        assert found.kyc_verified == (True if of(stories, "kyc_verified") else None)
        harm = [one["second"] for one in of(stories, "support_contact") if "harm" in one["tags"]]
        assert seconds(found.harm_signal_us, door) == max(harm, default=None)
        assert found.known == any(assertions(event) for event in typed(stories, player, door.base))
        assert found.assumed == ()

    law(check)


def seconds(unix_us: int | None, door: Door) -> int | None:
    return None if unix_us is None else (unix_us - door.base) // 1_000_000


# Ties -------------------------------------------------------------------------------------------------------------


def test_at_one_moment_exclusion_beats_its_end(door: Door) -> None:
    found = door.after(said("self_excluded", 5), said("exclusion_ended", 5))
    assert (found.excluded_us, found.returned_us) == (door.base + 5_000_000, None)


def test_at_one_moment_withdrawal_beats_consent(door: Door) -> None:
    told = [said("consent_changed", 5, channel="sms", granted=granted) for granted in (True, False)]
    assert door.after(*told).consent == {"sms": (False, door.base + 5_000_000)}


def test_at_one_moment_closed_beats_open(door: Door) -> None:
    assert door.after(said("account_closed", 5), said("registered", 5, reopened=True)).closed is True


def test_a_closed_account_is_opened_again_only_by_a_registration_that_says_so(door: Door) -> None:
    assert door.after(said("account_closed", 5), said("registered", 6)).closed is True
    assert door.after(said("account_closed", 5), said("registered", 6, reopened=True)).closed is False


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
    """Facts keep both moments; the rule `consent` compares them."""
    told = [said("consent_changed", 3, channel="sms", granted=True), said("self_excluded", 5)]
    told += [said("exclusion_ended", 8), said("consent_changed", 9, channel="email", granted=True)]
    found = door.after(*told)
    assert found.excluded_us is None
    assert found.returned_us == door.base + 8_000_000
    alive = {channel for channel, (granted, at) in found.consent.items() if granted and at > found.returned_us}
    assert alive == {"email"}


def test_of_all_breaks_the_one_that_ends_last_holds(door: Door) -> None:
    told = [said("time_out", 5, until=20), said("time_out", 6, until=10)]
    assert door.after(*told).time_out_until_us == door.base + 20_000_000


def test_a_break_may_end_with_the_calendar(door: Door) -> None:
    player = next(NAMES)
    last = {"type": "time_out", "event_id": "t", "player_id": player, "occurred_at": moment(door.base)}
    door.tell([[EVENT.validate_python(last | {"until": moment(253_402_300_799_999_999)})]])
    held = door.facts(player).time_out_until_us
    assert held is not None
    assert abs(held - 253_402_300_799_999_999) <= 16


def test_facts_of_another_brand_are_not_facts_of_this_one(door: Door) -> None:
    player = next(NAMES)
    told = [
        said("self_excluded", 5, scope="brand", brand="other"),
        said("time_out", 5, until=20, brand="other"),
        said("consent_changed", 5, channel="sms", granted=True, brand="other"),
        said("account_closed", 5, brand="other"),
    ]
    door.tell([typed(told, player, door.base)])
    here, there = door.facts(player), door.facts(player, "other")
    assert (here.excluded_us, here.time_out_until_us, here.consent) == (None, None, {})
    assert there.excluded_us is not None
    assert there.time_out_until_us is not None
    assert there.consent["sms"][0]
    # What concerns the person or the account concerns every brand.
    assert here.closed
    assert there.closed


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


def test_an_id_counts_once_and_another_content_under_it_changes_nothing(door: Door, server: Server) -> None:
    player = next(NAMES)
    (first,) = typed([said("self_excluded", 5)], player, door.base)
    other = EVENT.validate_python(
        first.model_dump() | {"type": "exclusion_ended", "occurred_at": moment(door.base + 9_000_000)}
    )

    async def story() -> None:
        store = Store(server.url, 1)
        ledger = RedisLedger(store, door.house, 20)
        try:
            told = await know(first, door.house, ledger)
            assert not told.duplicate
            before = door.raw(player)
            again = await know(first, door.house, ledger)
            assert again.duplicate
            assert again.position == told.position
            with pytest.raises(Refused) as refusal:
                await know(other, door.house, ledger)
            assert (refusal.value.code, refusal.value.pointer) == ("event_id_reused", "/event_id")
            assert door.raw(player) == before
        finally:
            await store.close()

    run(story())
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
    assert door.after(said("login", 5), said("support_contact", 5, tags=["vip"])) == Facts()


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
        assert found.closed
        assert found.kyc_verified
        assert {channel: granted for channel, (granted, _) in found.consent.items()} == {"sms": False, "email": True}
        assert found.assumed == ("consent:main:email", "kyc")


def test_nothing_is_read_from_nothing() -> None:
    assert facts.read({}, "main") == Facts()
