"""Events that restrict contact: accepted at any age or clock, through links and without a decision."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import redis
from conftest import Opened, app_of
from support.callers import OTHER, PLAYER, asked, facts_of, marked, post, settled, states, with_brands
from support.keys import bearer, grant
from support.players import event, leased, tell

from features.store.deployment import House
from features.store.keys import PlayerKeys, decision_key, partition_of
from pipelines.worker.owners import owners_of
from service.contacts.identities import ROUNDS

RECENT = "ck_recent_" + "0123456789abcdef" * 3
"""A key of who may tell no history."""

pytestmark = pytest.mark.usefixtures("kept_in_the_log", "worker")

CHAIN = ROUNDS + 20
"""Links in a row, more than anyone follows before they look anew."""
RESTRICTING: list[dict[str, Any]] = [
    {"type_": "self_excluded"},
    {"type_": "time_out", "until": "2999-01-01T00:00:00Z"},
    {"type_": "closure_requested"},
    {"type_": "account_closed"},
    {"type_": "objection_changed", "objects": True},
    {"type_": "register_checked", "register_name": "gamstop", "listed": True},
    {"type_": "harm_scored", "source": "model-x", "level": "strong"},
    {"type_": "support_contact", "tags": ["harm"]},
    {"type_": "support_contact", "tags": ["complaint"]},
    {"type_": "consent_changed", "channel": "email", "granted": False},
]
FAR_AHEAD = ["+8 s", "+10 min", "+3 years", "9999"]


@pytest.fixture
def kept_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker flushes no log before it ends: what a test finds there may not hang on how fast it is."""
    monkeypatch.setattr("pipelines.worker.process.FLUSH_SECONDS", 3_600.0)


def ahead(how: str) -> str:
    now = datetime.now(UTC)
    if how == "9999":
        return "9999-12-31T23:59:59Z"
    number, unit = how[1:].split(" ")
    seconds = {"s": 1, "min": 60, "years": 365 * 86_400}[unit] * int(number)
    return (now + timedelta(seconds=seconds)).isoformat()


def ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


async def silent(client: Any, player: str, channel: str = "email") -> bool:
    answers = [await asked(client, player, channels=[channel], dry_run=True) for _ in range(20)]
    return all(answer["action"] == "NO_CONTACT" for answer in answers)


def logged(store: redis.Redis, player: str, kind: str) -> list[dict[str, Any]]:
    """Bodies of some kind in a player's log, in order."""
    entries: Any = store.xrange(PlayerKeys(player).log)
    bodies = [msgspec.msgpack.decode(fields[b"b"]) for _, fields in entries if fields[b"k"].decode() == kind]
    return [body for body in bodies if body["player"] == player]


@pytest.mark.parametrize("how", FAR_AHEAD)
async def test_what_restricts_holds_from_now_however_far_its_clock_is_ahead(
    opened: Opened, store: redis.Redis, house: House, how: str
) -> None:
    async with opened() as client:
        for number, said in enumerate(RESTRICTING):
            player = f"{PLAYER}-{number}"
            await settled(client, player)
            told = event(player, **said) | {"occurred_at": ahead(how)}
            first = await post(client, "/v1/events", told)
            again = await post(client, "/v1/events", told)
            assert (first["duplicate"], again["duplicate"]) == (False, True)
            assert again["position"] == first["position"]
            # A register binds where a law asks for it.
            listed = (await facts_of(client, player)).get("register:gamstop") == "listed"
            assert listed or await silent(client, player), said
            body = logged(store, house.player_key(player), "event")[-1]
            now_us = datetime.now(UTC).timestamp() * 1e6
            assert now_us - 60e6 < body["occurred_at"] <= now_us
            kept = datetime.fromisoformat(body["detail"]["told_at"])
            assert kept == min(datetime.fromisoformat(told["occurred_at"]), datetime(2200, 1, 1, tzinfo=UTC))


async def test_a_withdrawal_by_a_clock_far_ahead_outweighs_a_grant_by_one_a_little_ahead(opened: Opened) -> None:
    async with opened() as client:
        await settled(client, PLAYER)
        grant = event(PLAYER, "consent_changed", channel="email", granted=True) | {"occurred_at": ahead("+4 s")}
        ended = event(PLAYER, "consent_changed", channel="email", granted=False) | {"occurred_at": ahead("+30 s")}
        await tell(client, [grant, ended])
        assert (await facts_of(client, PLAYER))["consent:main:email"].startswith("withdrawn")
        assert await silent(client, PLAYER)


async def test_what_a_clock_far_ahead_told_ends_like_any_other(opened: Opened) -> None:
    async with opened() as client:
        await settled(client, PLAYER)
        await tell(client, [event(PLAYER, "self_excluded") | {"occurred_at": ahead("+3 years")}])
        ended = event(PLAYER, "exclusion_ended") | {"occurred_at": datetime.now(UTC).isoformat()}
        await tell(client, [ended])
        assert (await facts_of(client, PLAYER))["exclusion:*"] == "ended"


@pytest.mark.parametrize(
    "said",
    [
        {"type_": "consent_changed", "channel": "sms", "granted": True},
        {"type_": "exclusion_ended"},
        {"type_": "register_checked", "register_name": "gamstop", "listed": False},
        {"type_": "login"},
    ],
)
async def test_what_allows_more_is_refused_as_ever(opened: Opened, store: redis.Redis, said: dict[str, Any]) -> None:
    grant(store, RECENT, "events")
    async with opened() as client:
        client.headers.update(bearer(RECENT))
        for when, code in ((ahead("+8 s"), "event_in_future"), (ago(36), "event_too_old")):
            answer = await post(client, "/v1/events", event(PLAYER, **said) | {"occurred_at": when}, 422)
            assert answer["code"] == code


async def test_what_restricted_long_ago_is_appended_once_and_a_duplicate_where_it_changes_nothing(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with opened() as client:
        for number, said in enumerate(RESTRICTING):
            player = f"{PLAYER}-{number}"
            told = event(player, **said) | {"occurred_at": ago(1_000)}
            assert not (await post(client, "/v1/events", told))["duplicate"]
            # After 35 days the id is forgotten, which a deleted key and another id stand for alike.
            store.delete(PlayerKeys(house.player_key(player)).seen(told["event_id"]))
            assert (await post(client, "/v1/events", told))["duplicate"], said
            other = await post(client, "/v1/events", told | {"event_id": "again"})
            assert other["duplicate"]
            assert len(logged(store, house.player_key(player), "event")) == 1
            await asked(client, player, after=other["position"])


async def test_a_link_told_of_long_ago_links_once(opened: Opened, store: redis.Redis, house: House) -> None:
    async with opened() as client:
        link = event(PLAYER, "alias", previous_id="before") | {"occurred_at": ago(1_000)}
        assert not (await post(client, "/v1/events", link))["duplicate"]
        assert (await post(client, "/v1/events", link | {"event_id": "again"}))["duplicate"]
        assert len(logged(store, house.player_key(PLAYER), "event")) == 1
        home = event(PLAYER, "household_changed", household_id="home-1") | {"occurred_at": ago(1_000)}
        assert not (await post(client, "/v1/events", home))["duplicate"]
        assert (await post(client, "/v1/events", home | {"event_id": "home again"}, 422))["code"] == "invalid_body"
        assert (await post(client, "/v1/events", home | {"event_id": "home-again"}))["duplicate"]


def withdrawal(type_: str, **more: Any) -> dict[str, Any]:
    told = {"outcome_id": f"o-{type_}", "type": type_, "occurred_at": datetime.now(UTC).isoformat()}
    return told | {"player_id": PLAYER, "channel": "email"} | more


@pytest.mark.parametrize("type_", ["unsubscribed", "complained"])
@pytest.mark.parametrize("when", ["now", "+10 min", "9999", "36 days ago", "3 years ago"])
async def test_who_unsubscribes_or_complains_needs_no_decision_that_is_kept(
    opened: Opened, type_: str, when: str
) -> None:
    async with opened() as client:
        await settled(client, PLAYER)
        await leased(client, PLAYER, 1, channels=["email"])
        at = {"36 days ago": ago(36), "3 years ago": ago(1_095), "now": ago(0)}.get(when) or ahead(when)
        told = withdrawal(type_, occurred_at=at)
        answers = [await post(client, "/v1/outcomes", told) for _ in range(2)]
        assert [answer["duplicate"] for answer in answers] == [False, True]
        if "ago" not in when:  # consent that was given since holds
            assert set((await states(client, PLAYER)).values()) == {"revoked"}
            assert await silent(client, PLAYER)
        stands = await facts_of(client, PLAYER)
        assert "unsubscribed:main:email" in stands
        assert ("complained" in stands) == (type_ == "complained")
        assert ("unsubscribed:main:sms" in stands) == (type_ == "complained")


async def test_a_decision_that_is_gone_is_told_with_the_way_to_unsubscribe(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        await settled(client, PLAYER)
        (contact,) = await leased(client, PLAYER, 1, channels=["email"])
        store.delete(decision_key(contact["decision_id"]))
        told = withdrawal("unsubscribed", decision_id=contact["decision_id"])
        alone = {name: value for name, value in told.items() if name not in {"player_id", "channel"}}
        refused = await post(client, "/v1/outcomes", alone, 404)
        assert "player_id and channel" in refused["detail"]
        assert not (await post(client, "/v1/outcomes", told))["duplicate"]
        assert (await facts_of(client, PLAYER))["consent:main:email"].startswith("withdrawn")


async def test_whom_an_outcome_names_is_whom_it_is_about(opened: Opened) -> None:
    """A decision of somebody else beside the player changes nothing for either but what was said of the player."""
    async with opened() as client:
        await settled(client, PLAYER, OTHER)
        (contact,) = await leased(client, OTHER, 1, channels=["email"])
        await post(client, "/v1/outcomes", withdrawal("unsubscribed", decision_id=contact["decision_id"]))
        assert (await facts_of(client, PLAYER))["consent:main:email"].startswith("withdrawn")
        assert (await facts_of(client, OTHER))["consent:main:email"].startswith("granted")


async def test_who_names_no_brand_withdraws_from_that_of_their_decision(opened: Opened) -> None:
    async with opened() as client:
        with_brands(client, "main", "second")
        await settled(client, PLAYER)
        grant = event(PLAYER, "consent_changed", channel="email", granted=True, brand="second")
        await tell(client, [grant])
        answer = await asked(client, PLAYER, brand="second", channels=["email"])
        told = withdrawal("unsubscribed", decision_id=answer["decision_id"])
        await post(client, "/v1/outcomes", told)
        stands = await facts_of(client, PLAYER)
        assert stands["consent:second:email"].startswith("withdrawn")
        assert stands["consent:main:email"].startswith("granted")
        await post(client, "/v1/outcomes", told | {"outcome_id": "other", "brand": "main"})
        assert (await facts_of(client, PLAYER))["consent:main:email"].startswith("withdrawn")


@pytest.mark.parametrize(("asks", "tells"), [("cookie-w", "cookie-w"), ("cookie-w", PLAYER), (PLAYER, "cookie-w")])
@pytest.mark.parametrize("merged_first", [True, False])
async def test_a_decision_is_that_of_every_id_of_its_player(
    opened: Opened, asks: str, tells: str, *, merged_first: bool
) -> None:
    """Consent ends for the brand of the decision, under whichever id it was asked for and is told of."""
    async with opened() as client:
        with_brands(client, "main", "second")
        for player in {PLAYER, asks}:
            await settled(client, player)
        merge = event(PLAYER, "identify", anonymous_id="cookie-w")
        if merged_first:
            await tell(client, [merge])
        answer = await asked(client, asks, brand="second")
        if not merged_first:
            await tell(client, [merge])
        await tell(client, [event(PLAYER, "consent_changed", channel="email", granted=True, brand="second")])
        told = withdrawal("unsubscribed", decision_id=answer["decision_id"]) | {"player_id": tells}
        for duplicate in (False, True):
            assert (await post(client, "/v1/outcomes", told))["duplicate"] is duplicate
        assert (await facts_of(client, PLAYER))["consent:second:email"].startswith("withdrawn")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"player_id": None, "channel": None}, "name the decision_id or player_id and channel"),
        ({"channel": None}, "name both player_id and channel"),
        ({"player_id": None}, "name both player_id and channel"),
        ({"type": "clicked"}, "are for complained and unsubscribed"),
        ({"type": "clicked", "player_id": None, "channel": None}, "name the decision_id"),
        ({"player_id": None, "channel": None, "brand": "main"}, "brand goes with player_id"),
    ],
)
async def test_an_outcome_names_a_decision_or_what_may_stand_in_its_place(
    opened: Opened, changes: dict[str, Any], said: str
) -> None:
    async with opened() as client:
        told = {name: value for name, value in (withdrawal("unsubscribed") | changes).items() if value is not None}
        refused = await post(client, "/v1/outcomes", told, 422)
        assert said in refused["detail"]


def linked_in_a_row(names: list[str]) -> list[dict[str, Any]]:
    return [event(to, "alias", previous_id=name) for name, to in pairwise(names)]


async def crossed(client: Any, house: House, names: list[str], store: redis.Redis) -> None:
    """A ring of links whose callers all died at the same moment."""
    ledger = app_of(client).state.deps.ledger
    for name, to in zip(names, [*names[1:], names[0]], strict=True):
        await marked(ledger, house, name, to)
    assert all(store.hexists(f"facts:{house.player_key(name)}", "to") for name in names)


async def chained(client: Any, house: House, names: list[str], store: redis.Redis) -> None:
    await tell(client, linked_in_a_row(names))
    marks = [store.hget(f"facts:{house.player_key(name)}", "to") for name in names[:-1]]
    assert {str(mark).split(" ")[0].removeprefix("b'") for mark in marks} == {house.player_key(names[-1])}


async def chained_at_once(client: Any, house: House, names: list[str], store: redis.Redis) -> None:
    links = linked_in_a_row(names)
    random.Random(4).shuffle(links)
    for _ in range(20):
        answers = await asyncio.gather(*(client.post("/v1/events", json=link) for link in links))
        links = [link for link, answer in zip(links, answers, strict=True) if answer.status_code != 200]
        assert {answer.status_code for answer in answers} <= {200, 503}
    assert not links
    assert store.hexists(f"facts:{house.player_key(names[0])}", "to")


async def never_taken_in(client: Any, house: House, names: list[str], store: redis.Redis) -> None:
    """A row of links whose callers all died, as long as one of an earlier build may be."""
    ledger = app_of(client).state.deps.ledger
    for name, to in pairwise(names):
        await marked(ledger, house, name, to)
    assert store.hexists(f"facts:{house.player_key(names[0])}", "to")


@pytest.mark.parametrize("linked", [chained, chained_at_once, never_taken_in, crossed])
@pytest.mark.parametrize("size", [2, 33, CHAIN])
async def test_what_restricts_gets_in_and_holds_for_every_linked_id_however_many_there_are(
    opened: Opened, store: redis.Redis, house: House, linked: Callable[..., Any], size: int
) -> None:
    async with opened() as client:
        names = [f"id-{number:03}" for number in random.Random(size).sample(range(size), size)]
        await settled(client, names[0], names[-1])
        await linked(client, house, names, store)
        told = random.Random(1).choice(names)
        await tell(client, [event(told, "self_excluded")])
        some = {names[0], names[size // 2], names[-1], told}
        for name in some:
            answer = await asked(client, name, deadline_ms=5_000)
            assert answer["action"] == "NO_CONTACT"
            assert (await facts_of(client, name))["exclusion:*"] == "on"
        home = {(await client.get(f"/v1/players/{name}")).json()["player"] for name in some}
        assert len(home) == 1


async def test_what_restricts_gets_in_while_its_ids_are_being_linked(opened: Opened) -> None:
    """A ring of links and exclusions of its ids, all at once."""
    async with opened() as client:
        names = [f"id-{number:03}" for number in range(60)]
        await settled(client, names[0])
        told = linked_in_a_row([*names, names[0]]) + [event(name, "self_excluded") for name in names * 4]
        told = [one | {"event_id": f"e{place}"} for place, one in enumerate(told)]
        random.Random(9).shuffle(told)
        answers = await asyncio.gather(*(client.post("/v1/events", json=one) for one in told))
        taken = [one.status_code for one, said in zip(answers, told, strict=True) if said["type"] == "self_excluded"]
        assert set(taken) == {200}
        assert (await asked(client, names[0], deadline_ms=5_000))["action"] == "NO_CONTACT"


async def test_an_import_reaches_the_end_of_any_chain_and_unties_a_ring(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with opened() as client:
        names = [f"id-{number:03}" for number in range(60)]
        await never_taken_in(client, house, names, store)
        ring = [f"ring-{number:03}" for number in range(40)]
        await crossed(client, house, ring, store)
        found = owners_of(store, [house.player_key(name) for name in (*names, *ring)])
        assert {found[house.player_key(name)] for name in names} == {house.player_key(names[-1])}
        assert len({found[house.player_key(name)] for name in ring}) == 1
        assert {partition_of(home) for home in found.values()}
