"""Stops in a running house: what is stopped is neither decided nor confirmed, whatever was reserved before."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import Opened, Stored
from support.callers import asked
from support.players import adult_events, leased, tell

from features.store.connection import connect
from features.store.deployment import PARTITIONS, House, clock_arguments
from features.store.keys import STOPS, PlayerKeys, stops_key
from pipelines.audit.account import account, denied, replayed
from pipelines.worker.process import Worker
from service.contacts import kill_switch
from service.contacts.kill_switch import StopWritten
from service.contacts.snapshot import NO_DECISION
from service.contacts.stops import journalled, wished


def stopped(store: redis.Redis, reason: str = "wrong mailing", **of: str) -> StopWritten:
    done = kill_switch.stop(store, wished("ops", reason, ["free_bet"], **of))
    assert done.acknowledged
    return done


async def confirm(client: Any, decision: dict[str, Any]) -> Any:
    return await client.post(f"/v1/decisions/{decision['decision_id']}/confirm", json={})


@pytest.mark.usefixtures("worker")
async def test_after_a_stop_nothing_is_offered_or_confirmed_and_after_its_lift_all_is_as_before(
    opened: Opened, store: redis.Redis
) -> None:
    async with opened() as client:
        position = await tell(client, adult_events("p1"))
        (due,) = await leased(client, "p1", 1, due=True, after=position, channels=["email", "in_app"])
        done = stopped(store)
        refused = await confirm(client, due)
        assert refused.status_code == 409
        assert refused.json()["rules"] == [done.stop.rule]
        assert refused.json()["detail"] == "marketing was stopped"
        answer = await asked(client, "p1")
        assert answer["action"] == "NO_CONTACT"
        assert {"rule": done.stop.rule, "reason": "marketing was stopped", "source": f"house: stop {done.stop.id}"} in [
            {name: one[name] for name in ("rule", "reason", "source")} for one in answer["exclusions"]
        ]
        kill_switch.lift(store, done.stop.id, "ops", "mended")
        assert (await confirm(client, due)).status_code == 200
        assert not store.exists(*(stops_key(one) for one in range(PARTITIONS)))


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("of", "hit"),
    [
        ({"jurisdiction": "mt"}, True),
        ({"jurisdiction": "US"}, False),
        ({"channel": "Email"}, True),
        ({"channel": "sms"}, False),
        ({"offer": "Free Bet"}, None),
    ],
)
async def test_a_stop_reaches_what_it_names_and_nothing_else(
    opened: Opened, store: redis.Redis, of: dict[str, str], *, hit: bool | None
) -> None:
    async with opened() as client:
        position = await tell(client, adult_events("p1"))
        (due,) = await leased(client, "p1", 1, due=True, after=position, channels=["email"])
        done = stopped(store, **of)
        expected = due["action"]["offer"]["id"] == "free_bet" if hit is None else hit
        answer = await confirm(client, due)
        assert (answer.status_code == 409) == expected
        page = (await client.get("/v1/players/p1")).json()
        named = {one["rule"] for one in page["denied"]}
        assert (done.stop.rule in named) == (hit is not False or "sms" in of.values())
        assert [one["reason"] for one in page["stops"]] == ["wrong mailing"] * (done.stop.rule in named)


@pytest.mark.usefixtures("worker")
async def test_the_record_says_what_was_stopped_by_whom_and_why_and_is_replayed_after_the_lift(
    opened: Opened, store: redis.Redis, tmp_path: Path
) -> None:
    async with opened() as client:
        position = await tell(client, adult_events("p1"))
        done = stopped(store, channel="email")
        answer = await asked(client, "p1", after=position)
        kill_switch.lift(store, done.stop.id, "ann", "mended")
        record = (await client.get(f"/v1/decisions/{answer['decision_id']}")).json()
        (told,) = record["stops"]
        assert (told["scope"], told["value"], told["by"], told["reason"]) == (
            "channel",
            "email",
            "ops",
            "wrong mailing",
        )
        assert told["lifted"]["by"] == "ann"
        (excluded,) = [one for one in record["exclusions"] if one["rule"] == done.stop.rule]
        assert excluded["channels"] == ["email"]
        found = account(store, tmp_path / "lake", None, answer["decision_id"])
        assert replayed(found)["verdict"] == "reproduced"
        assert "stop" in {one["kind"] for one in denied(found, None)["against"]}
        later = await asked(client, "p1")
        assert "stops" not in (await client.get(f"/v1/decisions/{later['decision_id']}")).json()


async def test_the_door_refuses_what_it_does_not_know_and_answers_the_same_stop_once(opened: Opened) -> None:
    async with opened() as client:

        async def refused(**body: Any) -> tuple[int, str, str]:
            answer = await client.post("/v1/stops", json=body)
            return answer.status_code, answer.json()["code"], answer.json()["detail"]

        for body, hint in (
            ({"jurisdiction": "UK"}, "did you mean GB?"),
            ({"jurisdiction": ""}, "which jurisdiction"),
            ({"offer": "free_bte"}, "did you mean free_bet?"),
            ({"channel": "emial"}, "did you mean email?"),
            ({"channel": "sms", "offer": "free_bet"}, "offer and channel"),
        ):
            status, code, detail = await refused(**body, reason="x")
            assert (status, code) == (422, "stop_refused")
            assert hint in detail
        assert (await refused(reason=" "))[1] == "stop_refused"
        assert (await refused(kind="journeys", reason="x"))[1] == "invalid_body"
        answers = await asyncio.gather(
            *(client.post("/v1/stops", json={"channel": "sms", "reason": f"by {n}"}) for n in range(60))
        )
        told = [one.json() for one in answers]
        assert len({one["id"] for one in told}) == 1
        assert len({one["reason"] for one in told}) == 1
        assert sorted(one["already"] for one in told) == [False] + [True] * 59
        name = told[0]["id"]
        assert (await client.delete(f"/v1/stops/{name}")).json()["code"] == "stop_refused"
        assert (await client.delete("/v1/stops/00000000", params={"reason": "x"})).json()["code"] == "unknown_stop"
        lifts = await asyncio.gather(
            *(client.delete(f"/v1/stops/{name}", params={"reason": f"by {n}"}) for n in range(60))
        )
        assert {one.status_code for one in lifts} == {200}
        assert len({one.json()["lifted"]["reason"] for one in lifts}) == 1
        page = (await client.get("/v1/stops")).json()
        assert page["standing"] == []
        assert [one["id"] for one in page["lifted"]] == [name]
        again = (await client.post("/v1/stops", json={"channel": "sms", "reason": "again"})).json()
        assert again["id"] != name


def test_stops_and_lifts_at_once_end_as_the_last_said_and_every_partition_agrees_with_the_journal(
    store: redis.Redis, house: House, server: Stored
) -> None:
    """Whatever was acknowledged as standing and lifted by nobody stands everywhere; what was lifted, nowhere."""
    wish = wished("ops", "so", None, channel="sms")

    def switch(number: int) -> tuple[str, str]:
        with closing(connect(server.url)) as client:
            done = kill_switch.stop(client, wish)
            if number % 2:
                kill_switch.lift(client, done.stop.id, "ops", "so")
            return done.stop.id, "lifted" if number % 2 else "stopped"

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(switch, range(80)))
    assert house.partitions == PARTITIONS
    lifted = {name for name, what in done if what == "lifted"}
    found = {one.stop.id: one for one in kill_switch.listed(store)}
    assert lifted <= {name for name, one in found.items() if not one.stop.stands}
    assert sum(one.stop.stands for one in found.values()) <= 1
    for name, what in done:
        assert what == "lifted" or not found[name].stop.stands or not found[name].unreached
    kill_switch.mend(store, range(PARTITIONS))
    assert [one for one in kill_switch.listed(store) if one.unreached] == []
    assert kill_switch.mend(store, range(PARTITIONS)) == 0


def test_what_partitions_lack_is_mended_and_what_the_journal_lacks_is_entered(store: redis.Redis, house: House) -> None:
    done = stopped(store, channel="sms").stop
    store.delete(*(stops_key(one) for one in range(0, PARTITIONS, 2)))
    assert kill_switch.mend(store, range(10)) == 5
    assert kill_switch.listed(store)[0].unreached == tuple(range(10, PARTITIONS, 2))
    # As after a journal that was away when the stop was written, and whose reading did not end in an error.
    store.delete(STOPS)
    assert kill_switch.mend(store, range(PARTITIONS)) > 0
    (found,) = kill_switch.listed(store)
    assert (found.stop, found.unreached) == (journalled(done, None), ())
    assert kill_switch.stop(store, wished("ann", "again", None, channel="sms")).stop.id == done.id
    assert house.partitions == PARTITIONS


async def test_a_running_worker_mends_within_seconds(opened: Opened, store: redis.Redis, worker: Worker) -> None:
    assert worker
    async with opened():
        stopped(store)
        store.delete(stops_key(7))
        patience = time.monotonic() + 30
        while not store.exists(stops_key(7)):
            assert time.monotonic() < patience
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("worker")
async def test_under_functions_of_an_earlier_build_a_stop_that_stands_still_holds(
    opened: Opened, store: redis.Redis
) -> None:
    """As after a way back to that build: they tell nothing of stops, and compare the version of facts alone."""
    async with opened() as client:
        position = await tell(client, adult_events("p1"))
        (due,) = await leased(client, "p1", 1, due=True, after=position, channels=["email", "in_app"])
        done = stopped(store)
        store.function_load(earlier_functions(), replace=True)
        answer = await confirm(client, due)
        assert (answer.status_code, answer.json()["rules"]) == (409, [done.stop.rule])
        assert (await client.post("/v1/decisions", json={"player_id": "p1"})).json()["code"] == "contended"
        refused = await client.post("/v1/stops", json={"channel": "sms", "reason": "x"})
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert "run `croupier create`" in refused.json()["detail"]


def earlier_functions() -> str:
    """The ledger's functions as they were before there were stops."""
    text = (Path(__file__).parents[2] / "service/contacts/ledger.lua").read_text("utf8")
    now = "  if keys[8] then seen[9] = redis.call('HGETALL', keys[8]) end\n"
    version = "  return stops and version .. ' ' .. stops or version\n"
    names = ("croupier_stop", "croupier_lift", "croupier_enter_stop", "croupier_enter_lift")
    lines = [line for line in text.splitlines(keepends=True) if not any(f"'{name}'" in line for name in names)]
    text = "".join(lines)
    assert now in text
    assert version in text
    return text.replace(now, "").replace(version, "  return version\n")


def test_processes_of_earlier_builds_are_refused_while_a_stop_stands_and_served_as_before_without_one(
    store: redis.Redis, house: House
) -> None:
    """They read seven keys and commit against the version of facts alone."""
    keys = PlayerKeys(house.player_key("p1"))
    names = [keys.facts, keys.features, keys.ledger, keys.lease, keys.seal, keys.decision(NO_DECISION), keys.budget]
    assert len(store.fcall("croupier_view", 7, *names)) == 8  # type: ignore[arg-type]

    def commit(number: int) -> Any:
        name = f"{keys.partition:03d}-{'a' * 23}{'abc'[number]}"
        held = [
            keys.facts,
            keys.ledger,
            keys.log,
            keys.decision(name),
            keys.seal,
            keys.recent,
            keys.budget,
            keys.expiry,
        ]
        arguments = ["", *clock_arguments(house), "0", "0", b"s" * 32, 60, name, b"record", 20, "", 0]
        return store.fcall("croupier_decide", len(held), *held, *arguments)[0]  # type: ignore[index]

    assert commit(0) == b"reserved"
    done = stopped(store, channel="sms")
    assert commit(1) == b"moved"
    kill_switch.lift(store, done.stop.id, "ops", "mended")
    assert commit(2) == b"reserved"
