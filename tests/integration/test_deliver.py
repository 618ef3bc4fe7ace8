"""A contact that the house sends waits in its partition, until a worker, its caller or a fact takes it out."""

import asyncio
from typing import Any

import pytest
import redis
from conftest import Opened, app_of
from support.callers import post, states
from support.players import adult_events, event, leased, tell

from features.store.deployment import House
from features.store.keys import SENDS, inbox_key, lease_key, send_key, sends_key, tasks_key
from service.contacts.ledger import Claim
from service.decisions.confirm import attempt
from service.decisions.kept import load_stored
from service.errors import Revoked

pytestmark = pytest.mark.usefixtures("worker")
MAIL = {"deliver": True, "channels": ["email"]}
FAR_US = 10**18


def state(store: redis.Redis, decision: str) -> str | None:
    found: Any = store.hget(send_key(decision), "state")
    return None if found is None else found.decode()


def waiting(store: redis.Redis, decision: str) -> bool:
    return store.zscore(sends_key(int(decision[:3])), decision) is not None


def opens_mail(client: Any) -> None:
    """A house that sends mail by itself."""
    app_of(client).state.deps.delivers = frozenset({"email"})


async def sends(client: Any, player: str, count: int = 1, **more: Any) -> list[str]:
    """Contacts of a new player that the house is to send now."""
    opens_mail(client)
    position = await tell(client, adult_events(player))
    found = await leased(client, player, count, due=True, after=position, **MAIL, **more)
    return [one["decision_id"] for one in found]


async def claimed(client: Any, store: redis.Redis, decision: str, *, tries: int = 0, **more: Any) -> Any:
    """A worker's attempt at a message."""
    deps = app_of(client).state.deps
    epoch: Any = store.hget(lease_key(int(decision[:3])), "epoch")
    claim = Claim(more.pop("epoch", epoch), tries, "mail", FAR_US, **more)
    kept = load_stored(await deps.ledger.decision(decision)).kept
    return await attempt(kept, deps.serving, deps.ledger, claim)


async def test_a_contact_waits_from_its_reservation_on(opened: Opened, store: redis.Redis) -> None:
    heard: Any = store.pubsub()  # type: ignore[no-untyped-call]
    heard.subscribe(SENDS)
    assert heard.get_message(timeout=5)
    async with opened() as client:
        (decision,) = await sends(client, "p1")
    assert waiting(store, decision)
    assert state(store, decision) == "due"
    told = heard.get_message(timeout=5)
    assert told is not None
    assert told["data"] == decision[:3].encode()
    heard.close()


async def test_what_was_asked_for_says_whether_the_house_sends_it(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        opens_mail(client)
        position = await tell(client, adult_events("p1"))
        (plain,) = await leased(client, "p1", 1, channels=["email"], after=position)
        assert "delivers" not in plain
        assert not waiting(store, plain["decision_id"])
        for channel, delivers in (("email", True), ("in_app", False)):
            body = {
                "player_id": "p1",
                "purpose": "service",
                "deliver": True,
                "channels": [channel],
                "request_id": channel,
            }
            first, again = [await post(client, "/v1/decisions", body) for _ in range(2)]
            assert first["delivers"] is again["delivers"] is delivers
            assert waiting(store, first["decision_id"]) is delivers


async def test_what_is_shown_at_once_is_not_sent_too(opened: Opened) -> None:
    async with opened() as client:
        opens_mail(client)
        body = {"player_id": "p1", "activate": True, "deliver": True}
        refused = await client.post("/v1/decisions", json=body)
        assert (refused.status_code, refused.json()["pointer"]) == (422, "/deliver")
        app_of(client).state.deps.delivers_unasked = True
        assert (await client.post("/v1/decisions", json={"player_id": "p1", "activate": True})).status_code == 200


async def test_a_callers_confirm_takes_the_message_out(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        (decision,) = await sends(client, "p1")
        for _ in range(2):
            await post(client, f"/v1/decisions/{decision}/confirm", {})
        assert state(store, decision) == "withdrawn"
        assert not waiting(store, decision)
        assert await claimed(client, store, decision) is None


async def test_a_callers_confirm_of_what_the_house_began_to_send_is_refused(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        (decision,) = await sends(client, "p1")
        assert await claimed(client, store, decision) is not None
        assert state(store, decision) == "attempted"
        refused = await client.post(f"/v1/decisions/{decision}/confirm", json={})
        assert (refused.status_code, refused.json()["code"]) == (409, "sending")
        assert (await states(client, "p1"))[decision] == "confirmed"


async def test_of_caller_and_house_at_once_one_sends(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        for number in range(8):
            (decision,) = await sends(client, f"p{number}")
            path = f"/v1/decisions/{decision}/confirm"
            mine, theirs = await asyncio.gather(
                claimed(client, store, decision), client.post(path, json={}), return_exceptions=False
            )
            assert (mine is not None) + (theirs.status_code == 200) == 1


async def test_an_attempt_is_made_once_unless_it_may_be_repeated(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        (decision,) = await sends(client, "p1")
        assert await claimed(client, store, decision, epoch=b"0") is None
        assert state(store, decision) == "due"
        first = await claimed(client, store, decision)
        assert first is not None
        assert await claimed(client, store, decision) is None
        assert await claimed(client, store, decision, tries=1) is None
        assert await claimed(client, store, decision, tries=1, repeats=True) == first
        tries: Any = store.hget(send_key(decision), "tries")
        assert tries == b"2"


@pytest.mark.parametrize("provider_was_late", [False, True])
async def test_an_exclusion_takes_out_what_waits_and_what_no_provider_took(
    opened: Opened, store: redis.Redis, *, provider_was_late: bool
) -> None:
    async with opened() as client:
        (decision,) = await sends(client, "p1")
        if provider_was_late:
            assert await claimed(client, store, decision) is not None
            put_back = [decision, " attempted ", "1", FAR_US, "state", "due"]
            names = [send_key(decision), sends_key(int(decision[:3]))]
            went_on: Any = store.fcall("croupier_go_on", 2, *names, *map(str, put_back))
            assert went_on == 1
        await tell(client, [event("p1", "self_excluded")])
        assert state(store, decision) == "withdrawn"
        assert not waiting(store, decision)
        assert (await states(client, "p1"))[decision] == "revoked"
        with pytest.raises(Revoked):
            await claimed(client, store, decision, tries=int(provider_was_late))


async def test_a_cancelled_contact_is_taken_out(opened: Opened, store: redis.Redis) -> None:
    async with opened() as client:
        (decision,) = await sends(client, "p1")
        told = event("p1", "cancelled")
        outcome = {"outcome_id": "o1", "decision_id": decision, "type": "cancelled", "occurred_at": told["occurred_at"]}
        await post(client, "/v1/outcomes", outcome)
        assert state(store, decision) == "withdrawn"
        assert not waiting(store, decision)


async def test_an_exclusion_recalls_what_is_promotional(opened: Opened, store: redis.Redis, house: House) -> None:
    player = house.player_key("p1")
    async with opened() as client:
        await tell(client, adult_events("p1"))
        for key in (inbox_key(player), tasks_key(player)):
            for number, (purpose, channel) in enumerate(
                (("bonus", "in_app"), ("marketing", "call"), ("service", "sms"))
            ):
                store.hset(key, f"decision-{number}", f"{purpose} {channel} sealed")
        await tell(client, [event("p1", "consent_changed", channel="in_app", granted=False)])
        assert set(store.hkeys(inbox_key(player))) == {b"decision-1", b"decision-2"}  # type: ignore[arg-type]
        await tell(client, [event("p1", "self_excluded")])
    for key in (inbox_key(player), tasks_key(player)):
        assert store.hkeys(key) == [b"decision-2"]


async def test_an_erased_player_is_sent_nothing_and_nothing_is_known_of_what_was(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    player = house.player_key("p1")
    async with opened() as client:
        (promotion,) = await sends(client, "p1")
        notice = await post(client, "/v1/decisions", {"player_id": "p1", "purpose": "service", **MAIL})
        store.hset(inbox_key(player), notice["decision_id"], "service in_app sealed")
        assert waiting(store, notice["decision_id"])
        await post(client, "/v1/erasures", {"player_id": "p1", "reason": "asked by letter"})
    for decision in (promotion, notice["decision_id"]):
        assert not waiting(store, decision)
        assert state(store, decision) is None
    assert not store.exists(inbox_key(player))


@pytest.mark.parametrize(
    ("told", "known"),
    [
        ("sent", "sent"),
        ("delivered", "delivered"),
        ("opened", "delivered"),
        ("clicked", "delivered"),
        ("failed", "failed"),
    ],
)
async def test_an_outcome_proves_what_became_of_an_attempt(
    opened: Opened, store: redis.Redis, told: str, known: str
) -> None:
    async with opened() as client:
        (decision,) = await sends(client, "p1")
        assert await claimed(client, store, decision) is not None
        at = event("p1", told)["occurred_at"]
        for name, type_ in (("o1", told), ("o2", "sent")):  # in whatever order they come
            outcome = {"outcome_id": name, "decision_id": decision, "type": type_, "occurred_at": at}
            await client.post("/v1/outcomes", json=outcome)
        assert state(store, decision) == known
        assert not waiting(store, decision)
