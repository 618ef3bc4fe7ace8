"""What falls due is confirmed, attempted and sent once, and ends in a known state whatever the provider does."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import Opened, Stored, app_of
from support.callers import post, states
from support.deliveries import CONNECTORS, Post, state, until_state, waiting, why
from support.players import adult_events, event, leased, tell, where_it_is_nine
from support.workers import running

from features.store.deployment import House
from features.store.keys import SENDS_COUNTED, lease_key, send_key
from features.store.restored import Restored, mark
from pipelines.backup.manifest import BackupError
from pipelines.backup.restore import resume
from pipelines.worker.process import Worker
from service.delivery.connectors_file import Connectors
from service.delivery.message import Later, Refused, SendResult, Sent, Unknown

MAIL = {"deliver": True, "channels": ["email"]}


@contextmanager
def sending(server: Stored, lake: Path, provider: Post, told: Connectors = CONNECTORS) -> Iterator[Worker]:
    with running(Worker(server.url, lake, delivery=provider.delivery(told))) as worker:
        yield worker


async def decided(client: Any, player: str, **more: Any) -> str:
    """A contact of a new player that the house is to send now."""
    app_of(client).state.deps.delivers = frozenset({"email"})
    position = await tell(client, adult_events(player, time_zone=where_it_is_nine()))
    (found,) = await leased(client, player, 1, due=True, after=position, **MAIL, **more)
    return str(found["decision_id"])


def kept_of(store: redis.Redis, decision: str, name: str) -> str:
    """A field of what is known of sending a contact."""
    found: Any = store.hget(send_key(decision), name)
    return (found or b"").decode()


async def reached(store: redis.Redis, decision: str, wanted: str) -> None:
    await asyncio.to_thread(until_state, store, decision, wanted)


async def test_what_falls_due_is_sent_and_told(opened: Opened, server: Stored, store: redis.Redis, lake: Path) -> None:
    provider = Post()
    with sending(server, lake, provider):
        async with opened() as client:
            decision = await decided(client, "p1")
            await reached(store, decision, "sent")
            assert kept_of(store, decision, "id") == f"id-{decision}"
            assert (await states(client, "p1"))[decision] == "confirmed"
            refused = await client.post(f"/v1/decisions/{decision}/confirm", json={})
            assert refused.json()["code"] == "sending"
    assert provider.handed == {decision: 1}
    assert not waiting(store, decision)
    counted: Any = store.hget(SENDS_COUNTED, "sent/post")
    assert counted == b"1"


@pytest.mark.parametrize(
    ("answer", "ends", "room"),
    [
        (Refused("no such mailbox", permanent=True), "failed", "released"),
        (Unknown("reset"), "unknown", "confirmed"),
        (ValueError("nora@example.com"), "unknown", "confirmed"),
        (Later(3_600.0, "answered 429"), "failed", "released"),
    ],
)
async def test_whatever_a_provider_answers_the_message_is_handed_over_once(
    opened: Opened, server: Stored, store: redis.Redis, lake: Path, answer: Any, ends: str, room: str
) -> None:
    provider = Post(lambda _: answer)
    with sending(server, lake, provider):
        async with opened() as client:
            decision = await decided(client, "p1")
            await reached(store, decision, ends)
            assert (await states(client, "p1"))[decision] == room
    assert provider.handed == {decision: 1}
    assert "nora" not in why(store, decision)
    assert waiting(store, decision) is (ends == "unknown")


async def test_a_provider_that_was_too_busy_gets_it_again_within_the_leave(
    opened: Opened, server: Stored, store: redis.Redis, lake: Path
) -> None:
    answers: Iterator[SendResult] = iter([Later(0.2, "answered 429"), Sent("second")])
    provider = Post(lambda _: next(answers))
    with sending(server, lake, provider):
        async with opened() as client:
            decision = await decided(client, "p1")
            await reached(store, decision, "sent")
    assert provider.handed == {decision: 2}
    assert kept_of(store, decision, "tries") == "2"


async def test_what_has_no_answer_is_repeated_where_the_provider_honours_our_key(
    opened: Opened, server: Stored, store: redis.Redis, lake: Path
) -> None:
    answers: Iterator[SendResult] = iter([Unknown("reset"), Sent("second")])
    provider = Post(lambda _: next(answers), honours_key=True)
    with sending(server, lake, provider):
        async with opened() as client:
            decision = await decided(client, "p1")
            await reached(store, decision, "sent")
    assert provider.handed == {decision: 2}


async def test_a_provider_that_is_silent_leaves_the_attempt_unknown(
    opened: Opened, server: Stored, store: redis.Redis, lake: Path
) -> None:
    told = Connectors.model_validate(
        CONNECTORS.model_dump(mode="json") | {"connectors": {"post": {"kind": "catcher", "timeout_seconds": 0.1}}}
    )
    provider = Post(lambda _: None)
    with sending(server, lake, provider, told):
        async with opened() as client:
            decision = await decided(client, "p1")
            await reached(store, decision, "unknown")
            outcome = {"outcome_id": "o1", "decision_id": decision, "type": "delivered"}
            await post(client, "/v1/outcomes", outcome | {"occurred_at": event("p1", "x")["occurred_at"]})
            assert state(store, decision) == "delivered"
    assert provider.handed == {decision: 1}


async def test_a_house_that_was_restored_sends_nothing_until_it_is_resumed(
    opened: Opened, server: Stored, store: redis.Redis, lake: Path
) -> None:
    told = Restored(at="2026-11-30T00:00:00Z", by="root", backup="x", taken_at="2026-11-29T00:00:00Z")
    mark(store, told)
    provider = Post()
    with sending(server, lake, provider):
        async with opened() as client:
            app_of(client).state.deps.delivers = frozenset({"email"})
            await tell(client, adult_events("p1", time_zone=where_it_is_nine()))
            asked = {"player_id": "p1", "purpose": "service", **MAIL}
            found = [(await post(client, "/v1/decisions", asked))["decision_id"] for _ in range(100)]
            assert not await asyncio.to_thread(provider.wait_for, 1, 2.5)
            assert {state(store, decision) for decision in found} == {"due"}


async def test_an_exclusion_while_messages_are_due_lets_none_leave(
    opened: Opened, server: Stored, store: redis.Redis, lake: Path, house: House
) -> None:
    """Contacts of many players wait; those who exclude themselves before a worker comes are sent nothing."""
    provider = Post()
    with running(Worker(server.url, lake)):
        async with opened() as client:
            found = {f"p{number}": await decided(client, f"p{number}") for number in range(6)}
            for player in ("p0", "p2", "p4"):
                await tell(client, [event(player, "self_excluded")])
    for partition in {int(one[:3]) for one in found.values()}:
        store.hset(lease_key(partition), "until", "0")
    with sending(server, lake, provider):
        for player in ("p1", "p3", "p5"):
            await reached(store, found[player], "sent")
    assert set(provider.handed) == {found[player] for player in ("p1", "p3", "p5")}
    assert {state(store, found[player]) for player in ("p0", "p2", "p4")} == {"withdrawn"}
    assert house.rate == 1.0


async def test_what_was_resumed_is_sent(opened: Opened, server: Stored, store: redis.Redis, lake: Path) -> None:
    mark(store, Restored(at="2026-11-30T00:00:00Z", by="root", backup="x", taken_at="2026-11-29T00:00:00Z"))
    provider = Post()
    with running(Worker(server.url, lake)):
        async with opened() as client:
            decision = await decided(client, "p1")
    for name in store.scan_iter("lease:*"):
        store.hset(name, "until", "0")
    resume(store, "anna", "the former house is off", datetime.now(UTC))
    with sending(server, lake, provider):
        await reached(store, decision, "sent")
    with pytest.raises(BackupError, match="anna resumed that"):
        resume(store, "bea", "again", datetime.now(UTC))


async def test_what_a_stop_holds_leaves_nowhere_and_service_goes_on(
    opened: Opened, server: Stored, store: redis.Redis, lake: Path
) -> None:
    provider = Post()
    with running(Worker(server.url, lake)):
        async with opened() as client:
            promotion = await decided(client, "p1")
            notice = await post(client, "/v1/decisions", {"player_id": "p1", "purpose": "service", **MAIL})
            await post(client, "/v1/stops", {"channel": "email", "reason": "a wrong link"})
    for name in store.scan_iter("lease:*"):
        store.hset(name, "until", "0")
    with sending(server, lake, provider):
        await reached(store, notice["decision_id"], "sent")
        await reached(store, promotion, "withdrawn")
    assert provider.handed == {notice["decision_id"]: 1}


async def test_a_providers_rate_holds_for_what_falls_due_at_once(
    opened: Opened, server: Stored, store: redis.Redis, lake: Path
) -> None:
    slow = CONNECTORS.connectors["post"].model_copy(update={"per_second": 4.0})
    provider = Post()
    with running(Worker(server.url, lake)):
        async with opened() as client:
            app_of(client).state.deps.delivers = frozenset({"email"})
            await tell(client, adult_events("p1", time_zone=where_it_is_nine()))
            asked = {"player_id": "p1", "purpose": "service", **MAIL}
            found = [(await post(client, "/v1/decisions", asked))["decision_id"] for _ in range(12)]
    for name in store.scan_iter("lease:*"):
        store.hset(name, "until", "0")
    begun = time.monotonic()
    with sending(server, lake, provider, CONNECTORS.model_copy(update={"connectors": {"post": slow}})):
        for decision in found:
            await reached(store, decision, "sent")
    assert time.monotonic() - begun > 1.5  # twelve at four a second, of which a second's worth may go at once
    assert provider.handed == dict.fromkeys(found, 1)
