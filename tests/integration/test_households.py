"""Household caps: members share them, through joins, links, retries and crashes."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pytest
import redis
from conftest import Opened, app_of
from support.callers import (
    MORE,
    OTHER,
    PLAYER,
    asked,
    asked_at_once,
    live_together,
    post,
    rules,
    settled,
    with_limits,
)
from support.players import adult_events, event, leased, tell

from features.store.deployment import House
from features.store.errors import StoreError
from features.store.keys import PlayerKeys, household_key
from service.contacts.entries import Reservation, decision_of
from service.contacts.households import Households
from service.contacts.ledger import Appended, RedisLedger
from service.contacts.snapshot import NO_DECISION

pytestmark = pytest.mark.usefixtures("worker")


async def test_members_of_a_household_share_its_caps(opened: Opened) -> None:
    async with opened() as client:
        with_limits(client, caps=[{"id": "home", "contacts": 2, "hours": 24, "scope": "household"}])
        await settled(client, PLAYER, OTHER, MORE[0])
        (earlier,) = await leased(client, PLAYER, 1, due=True, channels=["in_app", "email"])
        for name in (PLAYER, OTHER):
            await tell(client, [event(name, "household_changed", household_id="home-9")])
        (theirs,) = await leased(client, OTHER, 1, channels=["in_app", "email"])
        for name in (PLAYER, OTHER):
            assert "cap:home" in rules(await asked(client, name))
        assert "cap:home" not in rules(await asked(client, MORE[0], dry_run=True))
        confirmed = await post(client, f"/v1/decisions/{earlier['decision_id']}/confirm", {})
        assert confirmed["decision_id"] == earlier["decision_id"]
        failed = {"outcome_id": "o1", "decision_id": theirs["decision_id"], "type": "failed"}
        await post(client, "/v1/outcomes", failed | now())
        assert "cap:home" not in rules(await asked(client, PLAYER, dry_run=True))
        await tell(client, [event(OTHER, "household_changed", household_id=None)])
        assert "cap:home" not in rules(await asked(client, OTHER, dry_run=True))


async def test_a_household_that_is_asked_about_at_once_never_gets_more_than_its_cap(opened: Opened) -> None:
    async with opened() as client:
        with_limits(client, caps=[{"id": "home", "contacts": 3, "hours": 24, "scope": "household"}])
        members = MORE[:6]
        for name in members:
            await tell(client, [*adult_events(name), event(name, "household_changed", household_id="home-1")])
        answers = await asked_at_once(client, members * 6, channels=["in_app"])
        made = [one for one in answers if one["action"] != "NO_CONTACT"]
        assert 0 < len(made) <= 3
        (held,) = {(await client.get(f"/v1/players/{name}")).json()["household"] for name in members}
        assert held


async def test_a_link_brings_the_contacts_of_both_into_the_household(opened: Opened) -> None:
    async with opened() as client:
        with_limits(client, caps=[{"id": "home", "contacts": 1, "hours": 24, "scope": "household"}])
        await tell(client, [*adult_events(PLAYER), *adult_events(OTHER), *adult_events(MORE[0])])
        for name in (PLAYER, MORE[0]):
            await tell(client, [event(name, "household_changed", household_id="home-3")])
        sent = await asked(client, OTHER, channels=["in_app"], activate=True)
        while sent["action"] == "NO_CONTACT":
            sent = await asked(client, OTHER, channels=["in_app"], activate=True)
        await tell(client, [event(PLAYER, "alias", previous_id=OTHER)])
        assert "cap:home" in rules(await asked(client, MORE[0], dry_run=True))


async def test_room_that_a_confirm_took_in_the_household_and_never_used_comes_back_with_the_players_next_decision(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    """The household counted the contact for good, then its process died; the lease runs out unconfirmed."""
    async with opened() as client:
        await live_together(client, PLAYER, OTHER)
        (made,) = await leased(client, PLAYER, 1, channels=["in_app", "email"])
        name, keys = made["decision_id"], PlayerKeys(house.player_key(PLAYER))
        deps = app_of(client).state.deps
        view = await deps.ledger.view(keys, NO_DECISION)
        sure = view.held.own[name]._replace(state="confirmed")
        assert await deps.ledger.households.reserve(view.household, "", name, sure, view.held.in_household(name))
        assert "cap:home" in rules(await asked(client, PLAYER, dry_run=True)), "the lease still runs"
        past = sure._replace(state="reserved", valid_until_us=1)
        store.hset(keys.ledger, name, past.dumps())
        assert "cap:home" in rules(await asked(client, OTHER, dry_run=True)), "others cannot know"
        assert "cap:home" not in rules(await asked(client, PLAYER, dry_run=True))
        await asked(client, PLAYER, purpose="marketing", channels=["sms"])
        assert name not in (await deps.ledger.view(keys, NO_DECISION)).held.household


async def test_a_confirm_that_is_retried_too_late_frees_no_room_of_the_household(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with opened() as client:
        await live_together(client, PLAYER, OTHER)
        (made,) = await leased(client, PLAYER, 1, due=True, channels=["in_app", "email"])
        name = made["decision_id"]
        await post(client, f"/v1/decisions/{name}/confirm", {})
        ledger = f"ledger:{house.player_key(PLAYER)}"
        held = store.hget(ledger, name).decode().split(" ")  # type: ignore[union-attr]
        store.hset(ledger, name, " ".join([held[0], held[0], *held[2:]]))
        assert (await post(client, f"/v1/decisions/{name}/confirm", {}, 409))["code"] == "expired"
        assert "cap:home" in rules(await asked(client, OTHER, dry_run=True))


async def contacted(client: Any, player: str) -> dict[str, Any]:
    """A decision that contacts the player at once."""
    while (found := await asked(client, player, channels=["in_app"], activate=True))["action"] == "NO_CONTACT":
        pass
    return found


def now() -> dict[str, str]:
    return {"occurred_at": datetime.now(UTC).isoformat()}


class Killed(Exception):
    """The process died here."""


async def dies(*_: object) -> NoReturn:
    raise Killed


@pytest.mark.parametrize("step", ["join_household", "append"])
async def test_who_joins_a_household_brings_their_contacts_wherever_the_process_dies(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with opened() as client:
        with_limits(client, caps=[{"id": "home", "contacts": 1, "hours": 24, "scope": "household"}])
        for name in (PLAYER, OTHER):
            await tell(client, adult_events(name))
        await tell(client, [event(OTHER, "household_changed", household_id="home-c")])
        await contacted(client, PLAYER)
        joins = event(PLAYER, "household_changed", household_id="home-c")
        with monkeypatch.context() as patched:
            patched.setattr(RedisLedger, step, dies)
            await post(client, "/v1/events", joins, 500)
        assert "cap:home" in rules(await asked(client, PLAYER, dry_run=True))
        await client.post("/v1/events", json=joins)
        assert "cap:home" in rules(await asked(client, OTHER, dry_run=True))


async def test_a_link_that_was_cut_off_before_the_household_knew_is_made_good_by_the_next_decision(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as client:
        await live_together(client, OTHER)
        await tell(client, [*adult_events(PLAYER), event("c-h", "household_changed", household_id="home-4")])
        await contacted(client, PLAYER)
        with monkeypatch.context() as patched:
            patched.setattr(Households, "add_player", dies)
            await post(client, "/v1/events", event(PLAYER, "identify", anonymous_id="c-h"), 500)
        assert "cap:home" in rules(await asked(client, PLAYER, dry_run=True))
        await asked(client, PLAYER, channels=["sms"])
        assert "cap:home" in rules(await asked(client, OTHER, dry_run=True))


async def test_a_contact_counts_once_however_often_joining_is_told(opened: Opened) -> None:
    async with opened() as client:
        with_limits(client, caps=[{"id": "home", "contacts": 2, "hours": 24, "scope": "household"}])
        joins = [event(name, "household_changed", household_id="home-e") for name in (PLAYER, OTHER)]
        await tell(client, [*adult_events(PLAYER), *adult_events(OTHER), *joins])
        await contacted(client, PLAYER)
        assert (await post(client, "/v1/events", joins[0]))["duplicate"]
        await tell(client, [event(PLAYER, "identify", anonymous_id="c-e")])
        await tell(client, [event(PLAYER, "household_changed", household_id="home-e") | {"event_id": "again"}])
        assert "cap:home" not in rules(await asked(client, OTHER, dry_run=True))
        await contacted(client, OTHER)
        assert "cap:home" in rules(await asked(client, PLAYER, dry_run=True))


async def test_a_confirm_that_is_refused_late_undoes_no_other_confirm_of_the_lease(
    opened: Opened, house: House, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The player asks for money back while the first is under way, gets it, and the second sends."""
    confirm, hold, seen = RedisLedger.confirm, Households.reserve, list[str]()
    async with opened() as client:
        await live_together(client, PLAYER)
        (made,) = await leased(client, PLAYER, 1, due=True, channels=["email", "in_app"], purpose="bonus")

        async def moved_first(*given: Any) -> tuple[str, int]:
            if not seen:
                seen.append("requested")
                await tell(client, [event(PLAYER, "withdrawal_requested", amount_minor=500) | now()])
            return await confirm(*given)

        async def held_late(*given: Any) -> bool:
            if len(given) == 5 and given[4].state == "reserved" and seen == ["requested"]:
                seen.append("paid")
                await tell(client, [event(PLAYER, "withdrawal_paid", amount_minor=500) | now()])
                await post(client, f"/v1/decisions/{made['decision_id']}/confirm", {})
            return await hold(*given)

        monkeypatch.setattr(RedisLedger, "confirm", moved_first)
        monkeypatch.setattr(Households, "reserve", held_late)
        await post(client, f"/v1/decisions/{made['decision_id']}/confirm", {}, 409)
        assert seen == ["requested", "paid"]
        held: Any = store.hgetall(household_key(house.player_key("household home-4")))
        assert b" confirmed " in held[made["decision_id"].encode()]


async def test_a_confirm_that_read_before_another_succeeded_reads_again(opened: Opened, house: House) -> None:
    async with opened() as client:
        await settled(client, PLAYER)
        (made,) = await leased(client, PLAYER, 1, due=True, channels=["email", "in_app"])
        ledger, keys = app_of(client).state.deps.ledger, PlayerKeys(house.player_key(PLAYER))
        view = await ledger.view(keys, NO_DECISION)
        await post(client, f"/v1/decisions/{made['decision_id']}/confirm", {})
        sent = view.held.own[made["decision_id"]].send_us
        assert (await ledger.confirm(keys, made["decision_id"], view, sent, b""))[0] == "moved"


async def test_attempts_whose_answer_got_lost_take_no_room_from_the_decision_that_there_is(
    opened: Opened, house: House, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_answer(*_: object) -> NoReturn:
        raise StoreError("no answer")

    async with opened() as client:
        await live_together(client, PLAYER)
        home = household_key(house.player_key("household home-4"))
        number, body = 0, {"player_id": PLAYER, "channels": ["in_app"], "activate": True}
        with monkeypatch.context() as patched:
            patched.setattr(RedisLedger, "reserve", no_answer)
            while not [name for name in store.hkeys(home) if b"#" in name]:  # type: ignore[union-attr]
                number += 1
                await post(client, "/v1/decisions", body | {"request_id": f"a{number}"}, 503)
        found = await post(client, "/v1/decisions", body | {"request_id": f"a{number}"})
        assert found["action"] != "NO_CONTACT"
        (held,) = [name for name in store.hkeys(home) if name != b"v"]  # type: ignore[union-attr]
        assert held.startswith(found["decision_id"].encode())


def ran_out(store: redis.Redis, key: str, decision_id: str) -> None:
    """Let the lease of a contact end, wherever a ledger holds it."""
    held: dict[bytes, bytes] = store.hgetall(key)  # type: ignore[assignment]
    for name, text in held.items():
        if decision_of(name.decode()) == decision_id:
            one = Reservation.loads(text.decode())
            store.hset(key, name.decode(), one._replace(valid_until_us=one.send_us + 1).dumps())


async def stays_counted(client: Any, store: redis.Redis, house: House, decision_id: str) -> None:
    """A contact that was sent takes its room in the household when its lease has ended too."""
    for key in (household_key(house.player_key("household home-4")), PlayerKeys(house.player_key(PLAYER)).ledger):
        ran_out(store, key, decision_id)
    for name in (PLAYER, OTHER):
        assert "cap:home" in rules(await asked(client, name, dry_run=True))


async def test_what_is_confirmed_outside_the_household_counts_in_it_after_the_return(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with opened() as client:
        await live_together(client, PLAYER, OTHER)
        (made,) = await leased(client, PLAYER, 1, due=True, channels=["in_app", "email"])
        await tell(client, [event(PLAYER, "household_changed", household_id=None)])
        await post(client, f"/v1/decisions/{made['decision_id']}/confirm", {})
        await tell(client, [event(PLAYER, "household_changed", household_id="home-4")])
        await stays_counted(client, store, house, made["decision_id"])


@pytest.mark.parametrize("then", ["goes on", "dies"])
async def test_what_is_confirmed_while_the_player_joins_counts_in_the_household(
    opened: Opened, store: redis.Redis, house: House, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """The confirm comes between bringing the contacts and the fact, and the process may die there too."""
    append = RedisLedger.append
    async with opened() as client:
        await live_together(client, OTHER)
        await settled(client, PLAYER)
        (made,) = await leased(client, PLAYER, 1, due=True, channels=["in_app", "email"])
        joins = event(PLAYER, "household_changed", household_id="home-4")

        loop = asyncio.get_running_loop()

        async def late(*given: Any) -> Appended:
            monkeypatch.setattr(RedisLedger, "append", append)
            confirms = post(client, f"/v1/decisions/{made['decision_id']}/confirm", {})
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(confirms, loop))
            return await (dies() if then == "dies" else append(*given))

        monkeypatch.setattr(RedisLedger, "append", late)
        await client.post("/v1/events", json=joins)
        await post(client, "/v1/events", joins)
        await stays_counted(client, store, house, made["decision_id"])


async def test_two_lost_answers_about_one_contact_leave_it_counted_once(
    opened: Opened, house: House, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt never reached the player's ledger, the second did, and only the third was answered."""
    reserve = RedisLedger.reserve
    async with opened() as client:
        await live_together(client, PLAYER)
        with_limits(client, caps=[{"id": "home", "contacts": 2, "hours": 24, "scope": "household"}])
        home, number, found = household_key(house.player_key("household home-4")), 0, {"action": "NO_CONTACT"}
        while found["action"] == "NO_CONTACT":
            number += 1
            body = {"player_id": PLAYER, "channels": ["in_app"], "activate": True, "request_id": f"a{number}"}
            for reaches in (False, True):

                async def lost(*given: Any, reaches: bool = reaches) -> NoReturn:
                    if reaches:
                        await reserve(*given)
                    raise StoreError("no answer")

                monkeypatch.setattr(RedisLedger, "reserve", lost)
                await post(client, "/v1/decisions", body, 503)
            monkeypatch.setattr(RedisLedger, "reserve", reserve)
            found = await post(client, "/v1/decisions", body)
        assert [name for name in store.hkeys(home) if name != b"v"] == [found["decision_id"].encode()]  # type: ignore[union-attr]


async def test_a_household_that_is_told_late_and_does_not_hold_gets_nothing(opened: Opened) -> None:
    async with opened() as client:
        await live_together(client, OTHER)
        await tell(client, adult_events(PLAYER))
        await contacted(client, PLAYER)
        await tell(client, [event(PLAYER, "household_changed", household_id="home-2")])
        earlier = {"occurred_at": (datetime.now(UTC) - timedelta(hours=1)).isoformat(), "event_id": "late"}
        await tell(client, [event(PLAYER, "household_changed", household_id="home-4") | earlier])
        assert "cap:home" not in rules(await asked(client, OTHER, dry_run=True))
