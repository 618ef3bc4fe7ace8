"""Callbacks, clicks and unsubscribing at the door: signed by the vendors' own libraries, taken once, in any order."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
import pytest
import redis
from conftest import Opened, app_of
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sendgrid.helpers.eventwebhook import EventWebhook
from standardwebhooks import Webhook
from support.messages import WHSEC
from support.players import adult_events, leased, tell
from twilio.request_validator import RequestValidator

from features.store.deployment import House
from features.store.keys import PlayerKeys
from service.delivery.connectors_file import Connectors
from service.delivery.links import ClickToken, ContactToken, Links
from service.settings import Settings

TOKEN = "twilio-token"  # noqa: S105 - of a test
ONE_SECRET = "one-secret"  # noqa: S105 - of a test
PUBLIC = "https://crm.example"
KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC_KEY = base64.b64encode(
    KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
).decode()
ACCOUNT = "AC" + "0" * 32
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def where(where: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings with a connector of each vendor."""
    monkeypatch.setenv("TWILIO_TOKEN", TOKEN)
    monkeypatch.setenv("ONE_SECRET", ONE_SECRET)
    monkeypatch.setenv("HOOK_SECRET", WHSEC)
    told = Connectors.model_validate(
        {
            "public_url": PUBLIC,
            "connectors": {
                "grid": {"kind": "sendgrid", "key": {"env": "ONE_SECRET"}, "callback_key": PUBLIC_KEY},
                "sms": {"kind": "twilio", "account": ACCOUNT, "token": {"env": "TWILIO_TOKEN"}},
                "push": {
                    "kind": "onesignal",
                    "app": "00000000-0000-4000-8000-000000000000",
                    "key": {"env": "ONE_SECRET"},
                    "callback_secret": {"env": "ONE_SECRET"},
                },
                "own": {"kind": "webhook", "url": "https://sender.example/", "secret": {"env": "HOOK_SECRET"}},
                "deaf": {"kind": "sendgrid", "key": {"env": "ONE_SECRET"}},
            },
        }
    )
    return replace(where, connectors=told)


def _where_it_is_nine() -> str:
    """A zone in whose morning, the first of the timing slots, it is now."""
    ahead = 9 - datetime.now(UTC).hour
    ahead += 24 if ahead < -12 else 0
    return f"Etc/GMT{-ahead:+d}"


Sent = tuple[httpx.AsyncClient, dict[str, Any]]


@asynccontextmanager
async def sent(opened: Opened, player: str = "anna", **more: Any) -> AsyncIterator[Sent]:
    """A house with a contact of a player that was confirmed and sent."""
    async with opened() as client:
        await tell(client, adult_events(player, time_zone=_where_it_is_nine()))
        (decision,) = await leased(client, player, 1, due=True, **({"purpose": "service"} | more))
        answer = await client.post(f"/v1/decisions/{decision['decision_id']}/confirm")
        assert answer.status_code == 200, answer.text
        yield client, decision


def signed_by_sendgrid(events: list[dict[str, Any]], at: float | None = None) -> tuple[bytes, dict[str, str]]:
    body, stamp = json.dumps(events).encode(), str(int(time.time() if at is None else at))
    signature = base64.b64encode(KEY.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()
    assert EventWebhook(PUBLIC_KEY).verify_signature(body.decode(), signature, stamp)  # as the vendor's library sees it
    return body, {
        "x-twilio-email-event-webhook-signature": signature,
        "x-twilio-email-event-webhook-timestamp": stamp,
        "content-type": "application/json",
    }


def grid(decision: str, kind: str, name: str = "e1", **more: Any) -> dict[str, Any]:
    return {"event": kind, "sg_event_id": name, "timestamp": int(time.time()), "decision_id": decision, **more}


async def back(client: httpx.AsyncClient, body: bytes, headers: dict[str, str], path: str = "grid") -> httpx.Response:
    return await client.post(f"/v1/callbacks/{path}", content=body, headers=headers)


def outcomes(store: redis.Redis, player: str, house: House) -> list[str]:
    """Types of outcomes in the log of a player's partition."""
    keys = PlayerKeys(house.player_key(player))
    entries: Any = store.xrange(keys.log)
    rows = [msgspec.msgpack.decode(fields[b"b"]) for _, fields in entries if fields[b"k"] == b"outcome"]
    return [row["type"] for row in rows if row["player"] == keys.player]


def consents(store: redis.Redis, player: str, house: House) -> dict[str, bool]:
    held: Any = store.hgetall(PlayerKeys(house.player_key(player)).facts)
    found = {name.decode(): value.decode() for name, value in held.items()}
    return {name.rpartition(":")[2]: "granted" in text for name, text in found.items() if name.startswith("consent:")}


async def test_receipts_of_sendgrid_are_outcomes_once_each_and_a_machines_open_is_none_of_the_player(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with sent(opened) as (client, decision):
        name = decision["decision_id"]
        body, headers = signed_by_sendgrid(
            [
                grid(name, "click", "e4"),
                grid(name, "processed", "e0"),
                grid(name, "delivered", "e1"),
                grid(name, "open", "e2", sg_machine_open=True),
                grid(name, "open", "e3"),
            ]
        )
        first = await back(client, body, headers)
        again = await back(client, body, headers)
    assert (first.status_code, first.json()) == (200, {"taken": 4, "duplicates": 0, "passed_over": 0})
    assert again.json() == {"taken": 0, "duplicates": 4, "passed_over": 0}
    found = outcomes(store, "anna", house)
    assert sorted(found) == ["clicked", "delivered", "opened", "opened_by_machine"]


async def test_one_flipped_bit_of_body_signature_or_moment_is_refused(opened: Opened) -> None:
    async with sent(opened) as (client, decision):
        body, headers = signed_by_sendgrid([grid(decision["decision_id"], "delivered")])
        for at in (0, len(body) // 2, len(body) - 1):
            flipped = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            assert (await back(client, flipped, headers)).status_code == 403
        signature = "x-twilio-email-event-webhook-signature"
        whole = base64.b64decode(headers[signature])
        for at in range(len(whole)):
            wrong = base64.b64encode(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]).decode()
            assert (await back(client, body, headers | {signature: wrong})).status_code == 403
        for name in headers.keys() - {"content-type"}:
            assert (await back(client, body, {one: headers[one] for one in headers if one != name})).status_code == 403
        answer = await back(client, body, headers)
    assert answer.json()["taken"] == 1


@pytest.mark.parametrize(("seconds", "status"), [(-310, 403), (-290, 200), (290, 200), (310, 403)])
async def test_a_signature_holds_for_five_minutes(opened: Opened, seconds: int, status: int) -> None:
    async with sent(opened) as (client, decision):
        body, headers = signed_by_sendgrid([grid(decision["decision_id"], "delivered")], time.time() + seconds)
        assert (await back(client, body, headers)).status_code == status


@pytest.mark.parametrize("path", ["nobody", "deaf", "sms", "push", "own"])
async def test_a_callback_to_another_connector_is_refused(opened: Opened, path: str) -> None:
    async with sent(opened) as (client, decision):
        body, headers = signed_by_sendgrid([grid(decision["decision_id"], "delivered")])
        answer = await back(client, body, headers, path)
    assert (answer.status_code, answer.json()["code"]) == (403, "callback_refused")


async def test_a_spam_report_ends_every_channel_and_a_hard_bounce_the_address(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with sent(opened, channels=["email"]) as (client, decision):
        name = decision["decision_id"]
        body, headers = signed_by_sendgrid([grid(name, "bounce", "b1", type="bounce"), grid(name, "spamreport", "s1")])
        assert (await back(client, body, headers)).json()["taken"] == 2
    assert not any(consents(store, "anna", house).values())
    held: Any = store.hgetall(PlayerKeys(house.player_key("anna")).facts)
    assert b"unusable:main:email" in held
    assert {"complained", "failed"} <= set(outcomes(store, "anna", house))


async def test_what_is_not_known_any_more_is_passed_over_but_withdrawn_consent_is_not(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    """Forty days later the decision is gone; the token that the message brought says whose it was."""
    async with sent(opened, channels=["email"]) as (client, decision):
        name = decision["decision_id"]
        token = Links.of(house).made(ContactToken(house.player_key("anna"), "main", "email", name))
        store.delete(f"decision:{{p{name[:3]}}}{name}")
        events = [grid(name, "delivered", "d1"), grid(name, "unsubscribe", "u1", contact_token=token)]
        events += [
            {"event": "delivered"},
            grid("; DROP", "open", "x1"),
            grid(name, "unsubscribe", "u2", contact_token="none"),  # noqa: S106 - of nobody
        ]
        body, headers = signed_by_sendgrid(events)
        answer = await back(client, body, headers)
    assert answer.json() == {"taken": 1, "duplicates": 0, "passed_over": 4}
    assert consents(store, "anna", house)["email"] is False
    assert consents(store, "anna", house)["sms"] is True


async def test_a_provider_whose_clock_is_wrong_is_heard_all_the_same(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with sent(opened) as (client, decision):
        name = decision["decision_id"]
        early = grid(name, "delivered", "d1", timestamp=int(time.time()) - 3_600)
        late = grid(name, "open", "o1", timestamp=int(time.time()) + 3_600)
        body, headers = signed_by_sendgrid([late, early])
        assert (await back(client, body, headers)).json()["taken"] == 2
    assert {"delivered", "opened"} <= set(outcomes(store, "anna", house))


async def test_signed_nonsense_is_a_problem_and_no_fault(opened: Opened) -> None:
    async with opened() as client:
        for text in ("", "{}", "[1]", "nonsense", '[{"event": {}}]'):
            body, stamp = text.encode(), str(int(time.time()))
            signature = base64.b64encode(KEY.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()
            headers = {
                "x-twilio-email-event-webhook-signature": signature,
                "x-twilio-email-event-webhook-timestamp": stamp,
            }
            answer = await back(client, body, headers)
            assert answer.status_code in {200, 400}, text


# --- Twilio


def twilio(decision: str, status: str, **more: str) -> tuple[str, bytes, dict[str, str]]:
    """A status callback as Twilio's library signs it: target, body, headers."""
    target = f"/v1/callbacks/sms?{urlencode({'decision': decision, 'contact': ''})}"
    form = {"MessageSid": "SM1", "MessageStatus": status, "To": "+35699123456", "Empty": "", **more}
    signature = RequestValidator(TOKEN).compute_signature(f"{PUBLIC}{target}", form)
    return target, urlencode(form).encode(), {"content-type": FORM, "x-twilio-signature": signature}


async def test_status_callbacks_of_twilio_are_taken_as_its_library_signs_them(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with sent(opened, channels=["sms"]) as (client, decision):
        for status in ("sent", "delivered", "delivered"):
            target, body, headers = twilio(decision["decision_id"], status)
            assert (await client.post(target, content=body, headers=headers)).status_code == 200
        flipped = bytes([body[0] ^ 1]) + body[1:]
        assert (await client.post(target, content=flipped, headers=headers)).status_code == 403
        other = target.replace("contact=", "contact=x")
        assert (await client.post(other, content=body, headers=headers)).status_code == 403
    assert outcomes(store, "anna", house).count("delivered") == 1


async def test_a_stop_that_twilio_knows_of_withdraws_consent(opened: Opened, store: redis.Redis, house: House) -> None:
    async with sent(opened, channels=["sms"]) as (client, decision):
        target, body, headers = twilio(decision["decision_id"], "undelivered", ErrorCode="21610")
        assert (await client.post(target, content=body, headers=headers)).json()["taken"] == 2
    assert consents(store, "anna", house)["sms"] is False
    assert consents(store, "anna", house)["email"] is True


async def test_a_json_body_counts_as_forged_unless_its_hash_is_signed_with_the_url(opened: Opened) -> None:
    async with sent(opened) as (client, decision):
        body = json.dumps({"MessageSid": "SM1", "MessageStatus": "delivered"}).encode()
        bare = f"/v1/callbacks/sms?decision={decision['decision_id']}"
        hashed = f"{bare}&bodySHA256={sha256(body).hexdigest()}"
        validator = RequestValidator(TOKEN)
        for target, sent_body, status in ((bare, body, 403), (hashed, body, 200), (hashed, body + b" ", 403)):
            headers = {
                "content-type": "application/json",
                "x-twilio-signature": validator.compute_signature(f"{PUBLIC}{target}", {}),
            }
            answer = await client.post(target, content=sent_body, headers=headers)
            assert answer.status_code == status, target
            if status == 200:
                assert validator.validate(f"{PUBLIC}{target}", sent_body.decode(), headers["x-twilio-signature"])


# --- OneSignal and Standard Webhooks


async def test_onesignals_secret_opens_and_nothing_else_does(opened: Opened, store: redis.Redis, house: House) -> None:
    async with sent(opened) as (client, decision):
        told = {"kind": "message.push.clicked", "id": "n1", "timestamp": int(time.time())}
        body = json.dumps(told | {"data": {"decision_id": decision["decision_id"]}}).encode()
        for secret, status in (("", 403), (ONE_SECRET[:-1], 403), (f"{ONE_SECRET}x", 403), (ONE_SECRET, 200)):
            answer = await back(client, body, {"x-croupier-secret": secret}, "push")
            assert answer.status_code == status
    assert "clicked" in outcomes(store, "anna", house)


async def test_callbacks_by_standard_webhooks_are_taken_and_old_or_changed_ones_are_not(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with sent(opened) as (client, decision):
        now = datetime.now(UTC)
        told = {
            "type": "message.delivered",
            "timestamp": now.isoformat(),
            "data": {"decision_id": decision["decision_id"]},
        }
        text = json.dumps(told)

        def headers(at: datetime, name: str = "m1") -> dict[str, str]:
            signature = Webhook(WHSEC).sign(name, at, text)
            stamp = str(int(at.timestamp()))
            return {"webhook-id": name, "webhook-timestamp": stamp, "webhook-signature": signature}

        old = headers(now - timedelta(seconds=310))
        assert (await back(client, text.encode(), old, "own")).status_code == 403
        assert (await back(client, text.encode() + b" ", headers(now), "own")).status_code == 403
        assert (await back(client, text.encode(), headers(now), "own")).json()["taken"] == 1
        assert (await back(client, text.encode(), headers(now), "own")).json()["duplicates"] == 1
    assert "delivered" in outcomes(store, "anna", house)


async def test_a_thousand_receipts_at_once_are_taken_once_each(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with sent(opened) as (client, decision):
        events = [grid(decision["decision_id"], "open", f"o{n}", useragent="x" * 300) for n in range(1_000)]
        body, headers = signed_by_sendgrid(events)
        assert len(body) > 256 * 1024
        answers = await asyncio.gather(*(back(client, body, headers) for _ in range(3)))
    assert {one.status_code for one in answers} == {200}
    assert sum(one.json()["taken"] for one in answers) == 1_000
    assert outcomes(store, "anna", house).count("opened") == 1_000


# --- Links


async def test_the_unsubscribe_page_asks_and_one_click_withdraws_years_later(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with opened() as client:
        await tell(client, adult_events("anna"))
        token = Links.of(house).made(ContactToken(house.player_key("anna"), "main", "email", "017-" + "a" * 24))
        page = await client.get(f"/unsubscribe/{token}", headers={"authorization": ""})
        assert page.status_code == 200
        assert "<form" in page.text
        assert consents(store, "anna", house)["email"] is True  # whoever only looks changes nothing
        click: dict[str, Any] = {"content": b"List-Unsubscribe=One-Click"}
        click["headers"] = {"content-type": FORM, "authorization": ""}
        done = await client.post(f"/unsubscribe/{token}", **click)
        assert done.status_code == 200
        assert consents(store, "anna", house)["email"] is False
        given = {
            "type": "consent_changed",
            "channel": "email",
            "granted": True,
            "player_id": "anna",
            "event_id": "again",
        }
        await tell(client, [given | {"occurred_at": datetime.now(UTC).isoformat()}])
        assert consents(store, "anna", house)["email"] is True
        await client.post(f"/unsubscribe/{token}", **click)
    assert consents(store, "anna", house)["email"] is False  # consent was given anew, and is withdrawn anew


@pytest.mark.parametrize("path", ["unsubscribe", "c"])
async def test_a_token_that_is_not_ours_leads_nowhere(opened: Opened, house: House, path: str) -> None:
    async with opened() as client:
        token = Links.of(house).made(ContactToken(house.player_key("anna"), "main", "email"))
        click = Links.of(house).made(ClickToken("017-" + "a" * 24, "https://casino.example/"))
        foreign = Links(bytes(64)).made(ContactToken(house.player_key("anna"), "main", "email"))
        swapped = click if path == "unsubscribe" else token
        for wrong in ("x", token[:-1], token[:-2] + "AA", foreign, swapped, "%2e%2e", "a" * 5_000):
            answer = await client.get(f"/{path}/{wrong}")
            assert answer.status_code in {404, 414}, wrong
            assert "location" not in answer.headers
            if path == "unsubscribe":
                assert (await client.post(f"/{path}/{wrong}")).status_code in {404, 414}


async def test_a_click_leads_on_and_is_noted_once_for_each_link_and_head_is_no_click(
    opened: Opened, store: redis.Redis, house: House
) -> None:
    async with sent(opened) as (client, decision):
        url = "https://casino.example/bonus?a=1&b=ü"
        token = Links.of(house).made(ClickToken(decision["decision_id"], url))
        looked = await client.head(f"/c/{token}")
        assert looked.status_code == 302
        assert "clicked" not in outcomes(store, "anna", house)
        for _ in range(3):
            answer = await client.get(f"/c/{token}", headers={"authorization": ""})
            assert answer.status_code == 302
        assert answer.headers["location"] == "https://casino.example/bonus?a=1&b=%C3%BC"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert outcomes(store, "anna", house).count("clicked") == 1


async def test_the_public_name_is_answered_and_tokens_hold_no_id_in_the_clear(opened: Opened, house: House) -> None:
    token = Links.of(house).made(ContactToken(house.player_key("anna"), "main", "email"))
    again = Links.of(house).made(ContactToken(house.player_key("anna"), "main", "email"))
    assert token == again
    content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert house.player_key("anna")[6:].encode() not in content
    async with opened() as client:
        assert app_of(client).state.deps.callbacks.told.public_url is not None
