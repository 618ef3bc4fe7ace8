"""Addresses of players: sealed, verified or not, gone after a bounce, silent where somebody excluded shares them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import redis
from conftest import Opened
from support.players import adult_events, event, leased, tell, where_it_is_nine

from features.store.deployment import House
from features.store.keys import PlayerKeys, address_key
from service.decisions.kept import load_stored
from service.delivery.connectors_file import Connectors
from service.delivery.links import Links
from service.delivery.message import Message, Refused
from service.delivery.rendering import Renderer
from service.delivery.templates import load_templates, templates_path
from service.players import addresses, identity
from service.players.addresses import Recipient
from service.players.sealing import seals_of

MAIL = "Anna.Planted@player.example"


def address(player: str, kind: str = "mail", told: str = MAIL, **more: Any) -> dict[str, Any]:
    return event(player, "address_changed", kind=kind, address=told, **more)


def held(store: redis.Redis, house: House, player: str) -> tuple[Any, bytes | None]:
    """A player's facts and their own key."""
    keys = PlayerKeys(house.player_key(player))
    facts: Any = store.hgetall(keys.facts)
    stored: Any = store.get(keys.seal)
    key = None if stored is None else seals_of(house).open(keys.player, stored)
    return identity.together(facts), key


def to(store: redis.Redis, house: House, player: str, channel: str = "email") -> Recipient | str:
    facts, key = held(store, house, player)
    return addresses.recipient(facts, "main", channel, key)


async def test_an_address_is_sealed_everywhere_and_opens_under_the_players_key(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with opened() as client:
        await tell(client, [address("anna", name="Anna Planted", locale="de", verified=True)])
    for key in store.scan_iter("*"):
        whole = store.dump(key)
        assert isinstance(whole, bytes)
        assert b"lanted" not in whole, key
    found = to(store, house, "anna")
    assert isinstance(found, Recipient)
    assert (found.addresses, found.name) == ((MAIL,), "Anna Planted")
    assert "Planted" not in repr(found)
    facts, _ = held(store, house, "anna")
    (told,) = addresses.held(facts, "main", "email")
    assert told.verified
    assert facts[b"locale:main"].endswith(b" de")


async def test_the_latest_address_holds_in_any_order_and_a_removed_one_is_none(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with opened() as client:
        old = address("anna", told="old@player.example")
        old["occurred_at"] = (datetime.now(UTC) - timedelta(days=2)).isoformat()
        await tell(client, [address("anna"), old | {"event_id": "old"}])
        found = to(store, house, "anna")
        assert isinstance(found, Recipient)
        assert found.addresses == (MAIL,)
        await tell(client, [address("anna", removed=True)])
        assert isinstance(to(store, house, "anna"), str)


async def test_a_player_has_a_push_token_on_each_device(opened: Opened, store: redis.Redis, house: House) -> None:
    async with opened() as client:
        await tell(client, [address("anna", "push", f"token-of-device-{n}") for n in range(3)])
        await tell(client, [address("anna", "push", "token-of-device-1", removed=True)])
    found = to(store, house, "anna", "push")
    assert isinstance(found, Recipient)
    assert set(found.addresses) == {"token-of-device-0", "token-of-device-2"}


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("mail", "nobody"),
        ("mail", "a@b"),
        ("mail", "a@b.example\r\nBcc: x@y.example"),
        ("mail", "ä@b.example"),
        ("phone", "0049 30 1234"),
        ("phone", "+49-30-1234"),
        ("push", "a b c d e f g h"),
    ],
)
async def test_what_is_no_address_is_refused_without_being_repeated(opened: Opened, kind: str, told: str) -> None:
    async with opened() as client:
        answer = await client.post("/v1/events", json=address("anna", kind, told))
    assert answer.status_code == 422
    assert told not in answer.text


async def test_a_hard_bounce_ends_an_address_until_a_later_one_is_told(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with opened() as client:
        await tell(client, [*adult_events("anna", time_zone=where_it_is_nine()), address("anna")])
        (decision,) = await leased(client, "anna", 1, due=True, purpose="service", channels=["email"])
        await client.post(f"/v1/decisions/{decision['decision_id']}/confirm")
        bounced = {"outcome_id": "b", "decision_id": decision["decision_id"], "type": "failed", "hard": True}
        answer = await client.post("/v1/outcomes", json=bounced | {"occurred_at": datetime.now(UTC).isoformat()})
        assert answer.status_code == 200, answer.text
        assert "bounced" in str(to(store, house, "anna"))
        later = {"occurred_at": datetime.now(UTC).isoformat()}
        await tell(client, [address("anna", told="new@player.example") | later])
    found = to(store, house, "anna")
    assert isinstance(found, Recipient)
    assert found.addresses == ("new@player.example",)


async def confirmed(client: httpx.AsyncClient, decision: dict[str, Any]) -> httpx.Response:
    return await client.post(f"/v1/decisions/{decision['decision_id']}/confirm")


@pytest.mark.usefixtures("worker")
async def test_a_shared_address_of_an_excluded_player_is_silent_at_confirm(opened: Opened) -> None:
    """Both spell it differently; who has an address of their own is written to."""
    async with opened() as client:
        asked: dict[str, Any] = {"channels": ["email"], "offers": ["match_preview", "new_game"]}
        kept = {}
        await tell(client, [address("anna")])
        for player, own in (("bea", MAIL.lower()), ("cleo", "cleo@player.example")):
            position = await tell(
                client, [*adult_events(player, time_zone=where_it_is_nine()), address(player, told=own)]
            )
            (kept[player],) = await leased(client, player, 1, due=True, after=position, **asked)
        await tell(client, [event("anna", "self_excluded")])
        refused, allowed = await confirmed(client, kept["bea"]), await confirmed(client, kept["cleo"])
    assert (refused.status_code, refused.json()["code"]) == (409, "revoked")
    assert "excluded" in refused.json()["detail"]
    assert allowed.status_code == 200, allowed.text


@pytest.mark.usefixtures("worker")
async def test_an_address_that_the_excluded_player_gave_up_is_silent_no_more(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with opened() as client:
        position = await tell(client, adult_events("bea", time_zone=where_it_is_nine()))
        await tell(client, [address("anna"), address("bea"), address("anna", told="other@player.example")])
        await tell(client, [event("anna", "self_excluded")])
        asked = {"channels": ["email"], "after": position, "offers": ["match_preview", "new_game"]}
        (decision,) = await leased(client, "bea", 1, due=True, **asked)
        answer = await confirmed(client, decision)
    facts, _ = held(store, house, "bea")
    (told,) = addresses.held(facts, "main", "email")
    assert store.scard(address_key(told.key)) == 2  # both told it, and one has it still
    assert answer.status_code == 200, answer.text


async def test_a_reserved_contact_becomes_a_whole_message(opened: Opened, store: redis.Redis, house: House) -> None:
    async with opened() as client:
        await tell(client, [*adult_events("anna"), address("anna", name="Anna", locale="de")])
        (decision,) = await leased(client, "anna", 1, purpose="service", channels=["email"])
        (sms,) = await leased(client, "anna", 1, purpose="service", channels=["sms"])
    told = Connectors.model_validate(
        {
            "public_url": "https://crm.example",
            "connectors": {"mail": {"kind": "smtp", "host": "mail.example"}},
            "routes": [{"channel": "email", "connector": "mail", "sender": "Casino <hello@casino.example>"}],
        }
    )
    renderer = Renderer(load_templates(templates_path()), told, Links.of(house), "EUR")
    facts, key = held(store, house, "anna")

    def made(name: str, key: bytes | None) -> Message | Refused:
        stored: Any = store.get(f"decision:{{p{name[:3]}}}{name}")
        return renderer.message(load_stored(stored).kept, facts, key)

    message = made(decision["decision_id"], key)
    assert isinstance(message, Message)
    assert (message.to, message.connector, message.locale) == ((MAIL,), "mail", "de")
    assert "Guten Tag Anna" in message.text
    assert message.unsubscribe_url == ""  # a notice about the account is no marketing
    assert "Anna" not in repr(message)
    assert isinstance(made(decision["decision_id"], None), Refused)  # the player was erased
    assert isinstance(made(sms["decision_id"], key), Refused)  # nobody sends it
