"""Linked ids over HTTP: events, limits, decisions and budgets of one person under several ids."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import redis
from conftest import Opened, app_of
from support.callers import (
    IN_HOLDOUT,
    MORE,
    OTHER,
    PLAYER,
    asked,
    facts_of,
    marked,
    post,
    rules,
    settled,
    states,
    with_limits,
)
from support.players import adult_events, event, leased, tell
from support.rule_cases import HOUSE

from features.events import EVENT, Event
from features.store.deployment import House
from features.store.keys import PlayerKeys
from features.store.server import Server
from pipelines.imports import bulk
from pipelines.learning.training_log import drawn
from pipelines.rules.explain import explain
from pipelines.worker.consumer import Consumer, serving_plan
from service.decisions.archive import find_record
from service.players import sealing
from service.players.facts import Assertion
from service.rules.rulebook import load_rulebook, rulebook_path


def ago(days: int) -> dict[str, str]:
    return {"occurred_at": (datetime.now(UTC) - timedelta(days=days)).isoformat()}


@pytest.mark.usefixtures("worker")
async def test_an_exclusion_of_any_linked_id_silences_all_of_them_at_once(opened: Opened) -> None:
    async with opened() as client:
        position = await tell(client, adult_events(PLAYER))
        await tell(client, [event(PLAYER, "identify", anonymous_id="cookie-1")])
        await tell(client, [event(PLAYER, "alias", previous_id="old-7")])
        (mine,) = await leased(client, PLAYER, 1, after=position, channels=["email", "in_app"])
        (theirs,) = await leased(client, "cookie-1", 1, channels=["email", "in_app"])
        await tell(client, [event("old-7", "self_excluded")])
        for lease in (mine, theirs):
            refused = await post(client, f"/v1/decisions/{lease['decision_id']}/confirm", {}, 409)
            assert refused["code"] == "revoked"
        for name in (PLAYER, "cookie-1", "old-7"):
            assert (await asked(client, name))["action"] == "NO_CONTACT"
            assert set((await states(client, name)).values()) == {"revoked"}


@pytest.mark.usefixtures("worker")
async def test_what_an_id_held_is_the_players_its_leases_are_taken_back_and_retries_find_what_was_done(
    opened: Opened,
) -> None:
    async with opened() as client:
        position = await tell(client, [*adult_events(PLAYER), *adult_events(OTHER)])
        assert position
        (before,) = await leased(client, OTHER, 1, channels=["in_app", "email"])
        login = event(OTHER, "login")
        await tell(client, [login])
        linked = event(PLAYER, "alias", previous_id=OTHER)
        first, second = [await post(client, "/v1/events", linked) for _ in range(2)]
        assert (first["duplicate"], second["duplicate"]) == (False, True)
        assert first["position"] == second["position"]
        assert (await post(client, "/v1/events", login))["duplicate"]
        assert (await states(client, PLAYER))[before["decision_id"]] == "revoked"
        refused = await post(client, f"/v1/decisions/{before['decision_id']}/confirm", {}, 409)
        assert refused["code"] == "revoked"
        failed = {"outcome_id": "o1", "decision_id": before["decision_id"], "type": "failed"}
        await post(client, "/v1/outcomes", failed | {"occurred_at": datetime.now(UTC).isoformat()})
        explained = (await client.get(f"/v1/decisions/{before['decision_id']}")).json()
        assert explained["player_id"] == OTHER


@pytest.mark.usefixtures("worker")
async def test_a_link_is_for_good_and_never_to_two_players(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, [*adult_events(PLAYER), *adult_events(OTHER)])
        await tell(client, [event(PLAYER, "identify", anonymous_id="cookie-2")])
        refused = await post(client, "/v1/events", event(OTHER, "identify", anonymous_id="cookie-2"), 409)
        assert refused["code"] == "already_linked"
        await tell(client, [event(OTHER, "alias", previous_id=PLAYER)])
        await tell(client, [event("cookie-2", "self_excluded")])
        assert (await asked(client, OTHER))["action"] == "NO_CONTACT"
        again = await post(client, "/v1/events", event(PLAYER, "identify", anonymous_id=OTHER))
        assert again["position"]
        assert "exclusion" in {fact.split(":")[0] for fact in await facts_of(client, PLAYER)}


@pytest.mark.usefixtures("worker")
async def test_a_linked_id_belongs_to_the_variant_of_its_player(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, adult_events(IN_HOLDOUT))
        await tell(client, [event(IN_HOLDOUT, "identify", anonymous_id=MORE[0])])
        for name in (IN_HOLDOUT, MORE[0]):
            assert (await asked(client, name))["experiment"]["variant"] == "holdout"
        told = (await client.get(f"/v1/players/{MORE[0]}")).json()
        assert told["player_id"] == IN_HOLDOUT


@pytest.mark.usefixtures("worker")
async def test_rules_look_at_what_all_linked_ids_did(opened: Opened, server: Server) -> None:
    """One id made a deposit, the other none: the person is no newcomer; the model sees what it was trained on."""
    deposited = {"type": "deposit", "status": "approved", "method": "card", "amount_minor": 5_000}
    async with opened() as client:
        await tell(client, [one for one in adult_events(PLAYER) if one["type"] != "deposit"])
        at = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        position = await tell(client, [event("device-5", "login") | deposited | {"occurred_at": at}])
        await asked(client, "device-5", after=position, dry_run=True)
        before = await asked(client, PLAYER, dry_run=True)
        position = await tell(client, [event(PLAYER, "identify", anonymous_id="device-5")])
        after = await asked(client, PLAYER, after=position)
        assert (before["stage"], after["stage"]) == ("never_deposited", "first_deposit")
        assert after["features"]["values"]["deposit_count"] == 0
        assert (await asyncio.to_thread(explain, server.url, PLAYER))["stage"] == "first_deposit"
        kept = await find_record(after["decision_id"], app_of(client).state.deps.ledger, None)
        assert kept.seen.whole not in (None, kept.seen.features)


@pytest.mark.usefixtures("worker")
async def test_a_process_that_died_in_the_middle_of_a_link_leaves_nothing_open(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    """The id was marked, the player had not taken it in: whoever asks for either next finds what was told of the id."""
    async with opened() as client:
        await tell(client, adult_events(PLAYER))
        await tell(client, [event("cookie-3", "self_excluded")])
        ledger = app_of(client).state.deps.ledger
        key, linked = house.player_key(PLAYER), house.player_key("cookie-3")
        seal = (await ledger.seal(PlayerKeys(key))).key
        name = sealing.seal(seal, {"player_id": PLAYER}, sealing.NAME)
        import base64  # noqa: PLC0415 - as the house seals it

        await ledger.identities.begin_merge(linked, key, base64.b64encode(name).decode())
        assert b" pending " in store.hget(f"facts:{linked}", "to")  # type: ignore[operator]
        assert (await asked(client, "cookie-3"))["action"] == "NO_CONTACT"
        assert b" done " in store.hget(f"facts:{linked}", "to")  # type: ignore[operator]
        assert "own_exclusion" in " ".join(rules(await asked(client, PLAYER))) or (
            (await asked(client, PLAYER))["action"] == "NO_CONTACT"
        )


@pytest.mark.usefixtures("worker")
async def test_a_budget_over_all_players_is_never_overspent_and_what_is_lost_to_it_is_told(
    opened: Opened, store: redis.Redis
) -> None:
    """Bonuses cost 700 to 1,500 a contact and the day may cost 5,000: some draws are lost, and later ones masked."""
    async with opened() as client:
        with_limits(client, budgets=[{"id": "day", "cost_minor": 5_000, "purpose": "bonus"}])
        for name in MORE[:12]:
            await tell(client, adult_events(name))
        bodies = [(name, turn) for turn in range(5) for name in MORE[:12]]
        found = [
            await asked(client, name, request_id=f"r{turn}", purpose="bonus", channels=["in_app", "email"])
            for name, turn in bodies
        ]
        again = await asked(client, bodies[0][0], request_id="r0", purpose="bonus", channels=["in_app", "email"])
        assert again["decision_id"] == found[0]["decision_id"]
        found = [(await client.get(f"/v1/decisions/{one['decision_id']}")).json() for one in found]
        lost = [one for one in found if one["role"] == "lost"]
        deps = app_of(client).state.deps
        records = [await find_record(one["decision_id"], deps.ledger, deps.lake) for one in lost]
    costs = {one.id: one.cost_minor for one in HOUSE.offers}
    spent: Counter[str] = Counter()
    for one in found:
        if one["action"] != "NO_CONTACT":
            spent[one["action"]["send_at"][:10]] += costs[one["action"]["offer"]["id"]]
    assert all(0 < amount <= 5_000 for amount in spent.values())
    assert lost
    assert [drawn(record) for record in records] == [None] * len(lost), "what was lost does not teach"
    for one in lost:
        assert one["action"] == "NO_CONTACT"
        assert one["lease"] is None
        assert one["draw"]["place"] != 0
        assert 0 < one["propensity"] <= 1
        assert "budget" in one["lost"]
    assert any("budget:day" in rules(one) for one in found)
    given = {name: int(store.get(name)) for name in store.keys("croupier:budget:*")}  # type: ignore[union-attr, arg-type]
    assert all(amount <= 5_000 for amount in given.values())


@pytest.mark.usefixtures("worker")
async def test_a_contact_that_failed_gives_its_cost_back(opened: Opened) -> None:
    async with opened() as client:
        dearest = max(one.cost_minor for one in HOUSE.offers if one.purpose == "bonus")
        with_limits(client, budgets=[{"id": "day", "cost_minor": dearest, "purpose": "bonus"}])
        await tell(client, adult_events(PLAYER))
        for number in range(5):
            (made,) = await leased(client, PLAYER, 1, purpose="bonus", channels=["in_app", "email"])
            failed = {"outcome_id": f"o{number}", "decision_id": made["decision_id"], "type": "failed"}
            failed["occurred_at"] = datetime.now(UTC).isoformat()
            for _ in range(2):
                await post(client, "/v1/outcomes", failed)


@pytest.mark.usefixtures("worker")
async def test_answers_to_contacts_let_a_group_rest(opened: Opened) -> None:
    limit = {"id": "tired", "type": "failed", "responses": 2, "days": 7, "pause_days": 3, "of": {"channel": "email"}}
    async with opened() as client:
        with_limits(client, pauses=[limit])
        await tell(client, adult_events(PLAYER))
        for number in range(2):
            assert "pause:tired" not in rules(await asked(client, PLAYER, dry_run=True))
            (made,) = await leased(client, PLAYER, 1, channels=["email"])
            failed = {"outcome_id": f"o{number}", "decision_id": made["decision_id"], "type": "failed"}
            at = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
            await post(client, "/v1/outcomes", failed | {"occurred_at": at})
        found = await asked(client, PLAYER, dry_run=True)
        (tired,) = [one for one in found["exclusions"] if one["rule"] == "pause:tired"]
        assert tired["channels"] == ["email"]
        assert "rest" in tired["reason"]


@pytest.mark.usefixtures("worker")
async def test_two_ids_that_are_linked_to_each_other_at_once_end_as_one_player(opened: Opened) -> None:
    async with opened() as client:
        for number in range(10):
            one, other = f"one-{number}", f"other-{number}"
            await tell(client, [*adult_events(one), *adult_events(other)])
            both = [event(one, "alias", previous_id=other), event(other, "alias", previous_id=one)]
            answers = await asyncio.gather(*(client.post("/v1/events", json=body) for body in both))
            assert {answer.status_code for answer in answers} <= {200, 409, 503}
            for body in both:
                await client.post("/v1/events", json=body)
            await tell(client, [event(one, "self_excluded")])
            held = [(await client.get(f"/v1/players/{name}")).json()["player"] for name in (one, other)]
            assert len(set(held)) == 1
            assert (await asked(client, other))["action"] == "NO_CONTACT"


@pytest.mark.usefixtures("worker")
async def test_two_links_that_cross_and_whose_callers_died_are_untied_by_whoever_comes_by(
    opened: Opened, house: House
) -> None:
    async with opened() as client:
        await tell(client, [*adult_events(PLAYER), *adult_events(OTHER)])
        ledger = app_of(client).state.deps.ledger
        one, other = house.player_key(PLAYER), house.player_key(OTHER)
        await marked(ledger, house, PLAYER, OTHER)
        await marked(ledger, house, OTHER, PLAYER)
        await tell(client, [event(PLAYER, "login"), event(OTHER, "self_excluded")])
        held = {(await client.get(f"/v1/players/{name}")).json()["player"] for name in (PLAYER, OTHER)}
        assert len(held) == 1
        assert await ledger.identities.owner(one) == await ledger.identities.owner(other)


@pytest.mark.usefixtures("worker")
async def test_an_id_that_was_taken_in_and_turns_out_the_player_after_all_is_told_of_by_its_own_facts(
    opened: Opened, house: House, store: redis.Redis
) -> None:
    """The greater key is taken in by the lesser, the caller dies before saying so, and a link the other way crosses."""
    async with opened() as client:
        lesser, greater = sorted((PLAYER, OTHER), key=house.player_key)
        key, to = house.player_key(greater), house.player_key(lesser)
        await tell(client, [*adult_events(lesser), *adult_events(greater)])
        await tell(client, [event(greater, "self_excluded") | ago(10)])
        ledger = app_of(client).state.deps.ledger
        mark = await marked(ledger, house, greater, lesser)
        assert await ledger.identities.complete_merges({key: mark}, to)
        store.hset(f"facts:{key}", "to", mark)
        await marked(ledger, house, lesser, greater)
        await tell(client, [event(lesser, "login"), event(greater, "exclusion_ended") | ago(2)])
        assert {await ledger.identities.owner(one) for one in (key, to)} == {key}
        held = await facts_of(client, lesser)
        assert held["exclusion:*"] == "ended"


@pytest.mark.usefixtures("worker")
async def test_a_retry_across_a_link_finds_what_was_done(opened: Opened) -> None:
    """Decision, outcome, household and link, each told before and again after the id turned out to be a player."""
    async with opened() as client:
        await tell(client, [*adult_events(PLAYER), *adult_events(OTHER)])
        first = await asked(client, OTHER, request_id="again")
        (made,) = await leased(client, OTHER, 1, channels=["in_app", "email"])
        failed = {"outcome_id": "o1", "decision_id": made["decision_id"], "type": "failed"}
        failed["occurred_at"] = datetime.now(UTC).isoformat()
        told = [event(OTHER, "household_changed", household_id="h"), event(OTHER, "identify", anonymous_id="c-9")]
        await tell(client, told)
        await post(client, "/v1/outcomes", failed)
        await tell(client, [event(PLAYER, "alias", previous_id=OTHER)])
        assert (await asked(client, OTHER, request_id="again"))["decision_id"] == first["decision_id"]
        assert (await post(client, "/v1/outcomes", failed))["duplicate"]
        for body in told:
            assert (await post(client, "/v1/events", body))["duplicate"]


@pytest.mark.usefixtures("worker")
async def test_a_link_that_is_refused_links_nothing_and_ids_of_events_stay_the_ids_own(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, adult_events(PLAYER))
        used = event(PLAYER, "login")
        await tell(client, [used])
        reused = event(PLAYER, "identify", anonymous_id="c-1") | {"event_id": used["event_id"]}
        assert (await post(client, "/v1/events", reused, 409))["code"] == "event_id_reused"
        await tell(client, [event("c-1", "support_contact")])
        assert (await client.get("/v1/players/c-1")).json()["player_id"] == "c-1"
        await tell(client, [event(PLAYER, "identify", anonymous_id="c-2")])
        excluded = event("c-2", "self_excluded") | {"event_id": used["event_id"]}
        answer = await post(client, "/v1/events", excluded)
        assert not answer["duplicate"]
        found = await asked(client, "c-2", after=answer["position"])
        assert found["action"] == "NO_CONTACT"
        assert (await post(client, "/v1/events", excluded))["duplicate"]


@pytest.mark.usefixtures("worker")
async def test_a_link_told_late_lifts_no_exclusion_that_was_told_before_it(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, adult_events(PLAYER))
        await tell(client, [event("c-3", "self_excluded") | ago(5)])
        await tell(client, [event(PLAYER, "self_excluded") | ago(10), event(PLAYER, "exclusion_ended") | ago(2)])
        await tell(client, [event(PLAYER, "identify", anonymous_id="c-3") | ago(8)])
        held = await facts_of(client, PLAYER)
        assert held["exclusion:*"] == "on"


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("type_", ["identify", "alias"])
async def test_a_link_to_oneself_changes_nothing(opened: Opened, type_: str) -> None:
    other = {"identify": "anonymous_id", "alias": "previous_id"}[type_]
    async with opened() as client:
        position = await tell(client, adult_events(PLAYER))
        before = await asked(client, PLAYER, after=position, dry_run=True)
        await tell(client, [event(PLAYER, type_, **{other: PLAYER})])
        found = await asked(client, PLAYER, dry_run=True)
        assert found["candidates"]["eligible"] > 1
        assert found["stage"] == before["stage"]
        assert not [fact for fact in await facts_of(client, PLAYER) if fact.startswith("link:")]


@pytest.mark.usefixtures("worker")
async def test_a_link_of_a_link_lifts_no_exclusion_that_was_told_of_any_of_them(opened: Opened) -> None:
    """The player came back from an exclusion of their own after the other's began, then they were known as one."""
    async with opened() as client:
        await tell(client, [*adult_events(PLAYER), *adult_events(OTHER)])
        await tell(client, [event(PLAYER, "identify", anonymous_id="cookie-x")])
        await tell(client, [event(OTHER, "self_excluded") | ago(3)])
        await tell(client, [event("cookie-x", "self_excluded") | ago(0)])
        await tell(client, [event(OTHER, "exclusion_ended") | ago(0)])
        await tell(client, [event(OTHER, "consent_changed", channel="email", granted=True) | ago(0)])
        await tell(client, [event(OTHER, "alias", previous_id=PLAYER)])
        for name in (PLAYER, OTHER, "cookie-x"):
            held = await facts_of(client, name)
            assert held["exclusion:*"] == "on"


@pytest.mark.usefixtures("worker")
async def test_what_a_linked_player_settled_stays_settled_when_they_are_linked_further(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, [*adult_events(PLAYER), *adult_events(OTHER)])
        await tell(client, [event(PLAYER, "identify", anonymous_id="cookie-y")])
        await tell(client, [event("cookie-y", "self_excluded") | ago(0)])
        await tell(client, [event(PLAYER, "exclusion_ended") | ago(0)])
        await tell(client, [event(OTHER, "alias", previous_id=PLAYER)])
        held = await facts_of(client, OTHER)
        assert held["exclusion:*"] == "ended"


@pytest.mark.usefixtures("worker")
async def test_a_link_that_is_told_again_turns_back_nothing_told_since(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, adult_events(PLAYER))
        await tell(client, [event(PLAYER, "identify", anonymous_id="cookie-z")])
        await tell(client, [event("cookie-z", "consent_changed", channel="sms", granted=False) | ago(0)])
        await tell(client, [event(PLAYER, "consent_changed", channel="sms", granted=True) | ago(0)])
        for number in range(2):
            await tell(client, [event(PLAYER, "identify", anonymous_id="cookie-z") | {"event_id": f"again-{number}"}])
            held = await facts_of(client, PLAYER)
            assert held["consent:main:sms"].startswith("granted")


@pytest.mark.usefixtures("worker")
async def test_a_clock_that_is_ahead_lifts_no_exclusion_of_before_the_link(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, [*adult_events(PLAYER), event("cookie-w", "self_excluded")])
        ahead = {"occurred_at": (datetime.now(UTC) + timedelta(seconds=4)).isoformat()}
        await tell(client, [event(PLAYER, "self_excluded") | ago(2), event(PLAYER, "exclusion_ended") | ahead])
        await tell(client, [event(PLAYER, "identify", anonymous_id="cookie-w")])
        held = await facts_of(client, PLAYER)
        assert held["exclusion:*"] == "on"


@pytest.mark.usefixtures("worker")
async def test_what_an_import_tells_of_an_id_holds_whichever_way_its_link_is_untied(
    opened: Opened, house: House, store: redis.Redis
) -> None:
    async with opened() as client:
        lesser, greater = sorted((PLAYER, OTHER), key=house.player_key)
        position = await tell(client, [*adult_events(lesser), *adult_events(greater)])
        (lease,) = await leased(client, greater, 1, after=position, due=True, channels=["in_app", "email"])
        ledger = app_of(client).state.deps.ledger
        await marked(ledger, house, greater, lesser)
        told: Event = EVENT.validate_json(json.dumps(event(greater, "self_excluded")))
        assert bulk.append(store, house, [bulk.Items(store, house).event(told)]).statuses == ["new"]
        await marked(ledger, house, lesser, greater)
        await post(client, f"/v1/decisions/{lease['decision_id']}/confirm", {}, 409)
        for name in (lesser, greater):
            assert (await asked(client, name))["action"] == "NO_CONTACT"


@pytest.mark.usefixtures("worker")
async def test_an_event_that_is_refused_holds_nowhere_whatever_the_link(
    opened: Opened, house: House, store: redis.Redis
) -> None:
    """Its id was used in an import while the link was open, which only the player's own slot knows."""
    async with opened() as client:
        await tell(client, [*adult_events(PLAYER), event("cookie-u", "support_contact")])
        await marked(app_of(client).state.deps.ledger, house, "cookie-u", PLAYER)
        used = event("cookie-u", "login")
        told: Event = EVENT.validate_json(json.dumps(used))
        assert bulk.append(store, house, [bulk.Items(store, house).event(told)]).statuses == ["new"]
        reused = event("cookie-u", "self_excluded") | {"event_id": used["event_id"]}
        assert (await post(client, "/v1/events", reused, 409))["code"] == "event_id_reused"
        assert not [fact for fact in await facts_of(client, PLAYER) if fact.startswith("exclusion")]


@pytest.mark.usefixtures("worker")
async def test_an_exclusion_that_unties_a_link_takes_the_leases_back(opened: Opened, house: House) -> None:
    async with opened() as client:
        lesser, greater = sorted((PLAYER, OTHER), key=house.player_key)
        position = await tell(client, [*adult_events(lesser), *adult_events(greater)])
        (lease,) = await leased(client, greater, 1, after=position, due=True, channels=["in_app", "email"])
        ledger = app_of(client).state.deps.ledger
        await marked(ledger, house, greater, lesser)
        await marked(ledger, house, lesser, greater)
        await tell(client, [event(greater, "self_excluded")])
        assert (await states(client, greater))[lease["decision_id"]] == "revoked"


async def test_a_sign_of_harm_is_told_of_an_id_whichever_way_its_link_is_untied(
    opened: Opened, house: House, store: redis.Redis
) -> None:
    """The worker meets two marks that cross, whose callers died."""
    async with opened() as client:
        await tell(client, [*adult_events(PLAYER), *adult_events(OTHER)])
        ledger = app_of(client).state.deps.ledger
        await marked(ledger, house, PLAYER, OTHER)
        await marked(ledger, house, OTHER, PLAYER)
        plan = serving_plan(store)
        assert plan is not None
        consumer = Consumer(store, plan, load_rulebook(rulebook_path()).harm)
        sign = Assertion("harm:own:strong", 1_700_000_000_000_000, 3, "strong")
        assert consumer._tell({house.player_key(PLAYER): [sign]}) == set()
        for name in (OTHER, PLAYER):
            assert "harm:own:strong" in await facts_of(client, name)


@pytest.mark.usefixtures("worker")
async def test_rules_look_at_an_id_whose_link_another_caller_had_begun(opened: Opened, house: House) -> None:
    deposited = {"type": "deposit", "status": "approved", "method": "card", "amount_minor": 5_000}
    async with opened() as client:
        await tell(client, [one for one in adult_events(PLAYER) if one["type"] != "deposit"])
        position = await tell(client, [event("device-6", "login") | deposited | ago(1)])
        await asked(client, "device-6", after=position, dry_run=True)
        await marked(app_of(client).state.deps.ledger, house, "device-6", PLAYER)
        assert (await asked(client, "device-6"))["stage"] == "first_deposit"


@pytest.mark.usefixtures("worker")
async def test_who_takes_an_id_in_too_late_takes_nothing_back(opened: Opened, house: House) -> None:
    async with opened() as client:
        await settled(client, PLAYER)
        await tell(client, [event("cookie-s", "login"), event(PLAYER, "identify", anonymous_id="cookie-s")])
        (lease,) = await leased(client, PLAYER, 1, due=True, channels=["in_app", "email"])
        ledger = app_of(client).state.deps.ledger
        linked, owner = house.player_key("cookie-s"), house.player_key(PLAYER)
        assert await ledger.identities.complete_merges({linked: await ledger.identities.mark_of(linked)}, owner)
        await post(client, f"/v1/decisions/{lease['decision_id']}/confirm", {})


@pytest.mark.usefixtures("worker")
async def test_an_outcome_of_a_linked_id_is_told_of_that_id(opened: Opened) -> None:
    """Its ids stay its own, and consent that the player gave before the link does not outweigh its withdrawal."""
    async with opened() as client:
        await tell(client, adult_events(OTHER))
        position = await tell(client, adult_events(PLAYER))
        (theirs,) = await leased(client, OTHER, 1, channels=["email"])
        (mine,) = await leased(client, PLAYER, 1, due=True, after=position, channels=["email"])
        await post(client, f"/v1/decisions/{mine['decision_id']}/confirm", {})
        told = {"outcome_id": "o1", "occurred_at": datetime.now(UTC).isoformat()}
        await post(client, "/v1/outcomes", told | {"decision_id": mine["decision_id"], "type": "sent"})
        await tell(client, [event(PLAYER, "consent_changed", channel="email", granted=True)])
        await tell(client, [event(PLAYER, "alias", previous_id=OTHER)])
        ended = told | {"decision_id": theirs["decision_id"], "type": "unsubscribed"}
        assert [(await post(client, "/v1/outcomes", ended))["duplicate"] for _ in range(2)] == [False, True]
        held = await facts_of(client, PLAYER)
        assert held["consent:main:email"].startswith("withdrawn")


@pytest.mark.usefixtures("worker")
async def test_one_request_id_asked_under_two_ids_of_a_person_stands_for_two_decisions(opened: Opened) -> None:
    async with opened() as client:
        await tell(client, [*adult_events(PLAYER), event(PLAYER, "identify", anonymous_id="cookie-q")])
        found = [await asked(client, name, request_id="campaign-7") for name in (PLAYER, "cookie-q")]
        assert len({one["decision_id"] for one in found}) == 2
        again = [await asked(client, name, request_id="campaign-7") for name in (PLAYER, "cookie-q")]
        assert [one["decision_id"] for one in again] == [one["decision_id"] for one in found]
