"""Connectors over real sockets: what each asks its provider, and what it makes of every way to answer or not to."""

import asyncio
import base64
import smtplib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, Self, cast
from urllib.parse import parse_qs
from uuid import UUID

import msgspec
import pytest
from aiohttp import web
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from standardwebhooks import Webhook
from support.messages import CLOCK, DECISION, NOW, WHSEC, message

from service.delivery.connectors_file import Connectors
from service.delivery.message import Later, Message, Refused, Sender, Sent, Unknown
from service.delivery.senders import senders

KINDS = ("sendgrid", "twilio", "onesignal", "webhook")
CHANNEL = {"sendgrid": "email", "twilio": "sms", "onesignal": "push", "webhook": "email", "smtp": "email"}
ACCOUNT = "AC" + "0" * 32
APP = "00000000-0000-4000-8000-000000000000"
SECRETS = {"PROVIDER_KEY": "key-1", "PROVIDER_SECRET": WHSEC}
LOOPBACK = ["127.0.0.0/8"]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def connector(kind: str, port: int, **more: Any) -> dict[str, Any]:
    own: dict[str, dict[str, Any]] = {
        "sendgrid": {"key": {"env": "PROVIDER_KEY"}},
        "twilio": {"account": ACCOUNT, "token": {"env": "PROVIDER_KEY"}},
        "onesignal": {"app": APP, "key": {"env": "PROVIDER_KEY"}},
        "webhook": {"secret": {"env": "PROVIDER_SECRET"}},
    }
    if kind == "smtp":
        return {"kind": kind, "host": "127.0.0.1", "port": port, "tls": "none", **more}
    return {"kind": kind, "url": f"http://127.0.0.1:{port}", **own[kind], **more}


@asynccontextmanager
async def sender(kind: str, port: int, allow: list[str] = LOOPBACK, **more: Any) -> AsyncIterator[Sender]:
    told = Connectors.model_validate(
        {
            "public_url": "https://crm.example",
            "allow_private": allow,
            "connectors": {"there": connector(kind, port, **more)},
        }
    )
    async with senders(told, CLOCK, {}, sandbox=False) as found:
        yield found["there"]


class Provider:
    """An HTTP server that answers as it is told, and keeps what it got."""

    def __init__(self, answer: Answer) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self._answer = answer
        self.port = 0

    async def _take(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append((request.path, headers, await request.read()))
        return await self._answer(request)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = cast("Any", site._server).sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


def always(status: int, body: object = None, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=msgspec.json.encode(body or {}), headers=headers)

    return answer


async def never(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


TAKEN: dict[str, Answer] = {
    "sendgrid": always(202, **{"X-Message-Id": "sg-1"}),
    "twilio": always(201, {"sid": "SM1"}),
    "onesignal": always(200, {"id": "os-1"}),
    "webhook": always(200),
}
NAMED = {"sendgrid": "sg-1", "twilio": "SM1", "onesignal": "os-1", "webhook": f"send_{DECISION}"}


async def sent_to(provider: Provider, kind: str, **changed: Any) -> Any:
    async with sender(kind, provider.port, timeout_seconds=0.5) as there:
        return await there.send(message(CHANNEL[kind], **changed))


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_provider_took_is_sent_under_its_name(kind: str) -> None:
    async with Provider(TAKEN[kind]) as provider:
        assert await sent_to(provider, kind) == Sent(NAMED[kind])
    assert len(provider.got) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (always(429, **{"Retry-After": "7"}), Later(7.0, "answered 429")),
        (always(429), Later(1.0, "answered 429")),
        (always(503, **{"Retry-After": "9"}), Later(9.0, "answered 503")),
        (always(400), Refused("answered 400", permanent=True)),
        (always(401), Refused("answered 401", permanent=False)),
        (always(307, Location="http://127.0.0.1:9/"), Refused("answered 307", permanent=False)),
        (always(500), Unknown("answered 500")),
        (always(503), Unknown("answered 503")),
        (never, Unknown("did not answer in time")),
        (reset, Unknown("ServerDisconnectedError")),
    ],
    ids=["429-7", "429", "503-9", "400", "401", "307", "500", "503", "silence", "reset"],
)
async def test_every_other_answer_says_whether_it_may_have_been_taken(kind: str, answer: Answer, result: Any) -> None:
    async with Provider(answer) as provider:
        assert await sent_to(provider, kind) == result
    assert len(provider.got) == 1  # whatever comes of it, a connector asks once


@pytest.mark.parametrize("kind", [*KINDS, "smtp"])
async def test_where_nobody_was_reached_it_is_later_and_not_unknown(kind: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody listens
        async with sender(kind, held.getsockname()[1]) as there:
            result = await there.send(message(CHANNEL[kind]))
    assert isinstance(result, Later)
    assert "nobody was reached" in result.reason


@pytest.mark.parametrize("kind", [*KINDS, "smtp"])
async def test_a_private_address_that_the_file_does_not_allow_is_never_called(kind: str) -> None:
    async with Provider(TAKEN.get(kind, always(200))) as provider, sender(kind, provider.port, []) as there:
        result = await there.send(message(CHANNEL[kind]))
    assert isinstance(result, Later)
    assert provider.got == []


async def test_sendgrid_is_asked_for_a_mail_that_unsubscribes_in_one_click_and_brings_the_decision_back() -> None:
    async with Provider(TAKEN["sendgrid"]) as provider:
        await sent_to(provider, "sendgrid")
    path, headers, body = provider.got[0]
    told = msgspec.json.decode(body)
    assert (path, headers["authorization"]) == ("/v3/mail/send", "Bearer key-1")
    assert told["personalizations"] == [
        {"to": [{"email": "anna@player.example"}], "custom_args": {"decision_id": DECISION, "contact_token": "TOKEN"}}
    ]
    assert told["from"] == {"email": "hello@casino.example", "name": "Casino Example"}
    assert told["headers"]["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert [one["type"] for one in told["content"]] == ["text/plain", "text/html"]


async def test_twilio_gets_what_is_left_of_the_lease_as_the_life_of_its_queue() -> None:
    async with Provider(TAKEN["twilio"]) as provider:
        await sent_to(provider, "twilio")
    path, headers, body = provider.got[0]
    form = parse_qs(body.decode())
    assert path == f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    assert headers["authorization"] == "Basic " + base64.b64encode(f"{ACCOUNT}:key-1".encode()).decode()
    assert form["ValidityPeriod"] == ["600"]
    assert form["StatusCallback"] == [f"https://crm.example/v1/callbacks/there?decision={DECISION}&contact=TOKEN"]
    assert form["To"] == ["+35699123456"]


@pytest.mark.parametrize("kind", ["twilio", "onesignal"])
async def test_what_could_only_leave_after_its_lease_is_not_handed_over(kind: str) -> None:
    async with Provider(TAKEN[kind]) as provider:
        result = await sent_to(provider, kind, valid_until_us=int(NOW.timestamp() * 1e6))
    assert result == Refused("its time is over", permanent=True)
    assert provider.got == []


async def test_onesignal_gets_the_same_uuid_at_every_attempt_and_another_for_another_decision() -> None:
    async with Provider(TAKEN["onesignal"]) as provider:
        for key in (DECISION, DECISION, DECISION[::-1]):
            await sent_to(provider, "onesignal", idempotency_key=key)
    keys = [msgspec.json.decode(body)["idempotency_key"] for _, _, body in provider.got]
    assert keys[0] == keys[1] != keys[2]
    assert UUID(keys[0]).version == 5


async def test_onesignals_200_without_an_id_means_that_nothing_was_sent() -> None:
    async with Provider(always(200, {"id": "", "errors": ["All included players are not subscribed"]})) as provider:
        result = await sent_to(provider, "onesignal")
    assert isinstance(result, Refused)
    assert result.permanent


async def test_a_webhook_is_signed_as_the_specification_says_and_keeps_its_id() -> None:
    async with Provider(TAKEN["webhook"]) as provider:
        await sent_to(provider, "webhook")
        await sent_to(provider, "webhook")
    (_, first, body), (_, second, again) = provider.got
    assert body == again
    assert first["webhook-id"] == second["webhook-id"] == f"send_{DECISION}"
    at_that_time = int(first["webhook-timestamp"])
    assert at_that_time == int(NOW.timestamp())
    assert first["webhook-signature"] == Webhook(WHSEC).sign(first["webhook-id"], NOW, body.decode())
    told = msgspec.json.decode(body)
    assert told["data"]["decision_id"] == DECISION
    assert told["data"]["to"] == ["anna@player.example"]
    assert "player" not in told["data"]


async def test_only_providers_that_drop_a_second_message_of_the_same_key_say_so() -> None:
    found = {}
    for kind in (*KINDS, "smtp"):
        async with sender(kind, 9) as there:
            found[kind] = there.honours_key
    assert found == {"sendgrid": False, "twilio": False, "onesignal": True, "webhook": True, "smtp": False}


async def test_a_sandbox_house_calls_no_provider_whatever_the_file_says() -> None:
    async with Provider(always(200)) as provider:
        told = Connectors.model_validate(
            {
                "public_url": "https://crm.example",
                "allow_private": LOOPBACK,
                "connectors": {kind: connector(kind, provider.port) for kind in (*KINDS, "smtp")},
            }
        )
        async with senders(told, CLOCK, {}, sandbox=True) as found:
            results = [await found[kind].send(message(CHANNEL[kind], connector=kind)) for kind in (*KINDS, "smtp")]
    assert all(isinstance(one, Refused) and one.permanent for one in results)
    assert provider.got == []


# --- SMTP, against a server of others


class Post:
    """Hooks of a mail server: answers by stage, and what it took."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.took: list[EmailMessage] = []
        self.texts = 0

    async def handle_RCPT(  # noqa: N802 - as the server calls it
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if (answer := self.answers.get("rcpt")) is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.texts += 1
        told = self.answers.get("data")
        if told in {"abort", "abort after"}:
            if told == "abort after":
                self._keep(envelope)
            cast("Any", server.transport).abort()
            return "250 OK"
        if told == "never":
            self._keep(envelope)
            await asyncio.sleep(3_600)
        if told is None:
            self._keep(envelope)
        return told or "250 OK"

    def _keep(self, envelope: Envelope) -> None:
        content = envelope.content
        assert isinstance(content, bytes)
        self.took.append(message_from_bytes(content, policy=policy.default))


@asynccontextmanager
async def post(**answers: str) -> AsyncIterator[tuple[Post, int]]:
    handler = Post(**answers)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Controller(handler, hostname="127.0.0.1", port=port)
    await asyncio.to_thread(server.start)
    try:
        yield handler, port
    finally:
        await asyncio.to_thread(server.stop)


async def mailed(port: int, sent: Message | None = None, **more: Any) -> Any:
    async with sender("smtp", port, **more) as there:
        return await there.send(sent or message())


async def test_a_mail_has_both_parts_a_stable_id_and_unsubscribes_in_one_click() -> None:
    async with post() as (server, port):
        first, second = await mailed(port), await mailed(port)
    assert first == second == Sent(f"{DECISION}@casino.example")
    mail = server.took[0]
    assert mail["Message-ID"] == f"<{DECISION}@casino.example>"
    assert mail["List-Unsubscribe"] == "<https://casino.example/unsubscribe/TOKEN>"
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mail["Subject"] == "Twenty free spins für Anna"
    assert mail["Reply-To"] == "help@casino.example"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]


@pytest.mark.parametrize(
    ("answers", "result"),
    [
        ({"rcpt": "550 no such mailbox"}, Refused("answered 550", permanent=True)),
        ({"rcpt": "451 greylisted"}, Later(60.0, "answered 451")),
        ({"data": "554 spam"}, Refused("answered 554", permanent=True)),
        ({"data": "452 full"}, Later(60.0, "answered 452")),
        ({"data": "abort"}, Unknown("no answer to the mail: SMTPServerDisconnected")),
        ({"data": "abort after"}, Unknown("no answer to the mail: SMTPServerDisconnected")),
        ({"data": "never"}, Unknown("no answer to the mail: SMTPReadTimeoutError")),
    ],
    ids=["550", "451", "554", "452", "abort", "abort after", "silence"],
)
async def test_a_mail_server_says_whether_it_may_have_taken_the_mail(answers: dict[str, str], result: Any) -> None:
    async with post(**answers) as (server, port):
        assert await mailed(port, timeout_seconds=0.5) == result
    assert server.texts <= 1


async def test_starttls_that_is_not_offered_sends_nothing_in_the_clear() -> None:
    async with post() as (server, port):
        assert isinstance(await mailed(port, tls="starttls"), Later)
    assert server.texts == 0


async def test_connections_are_used_again_and_one_that_died_meanwhile_costs_no_mail() -> None:
    async with post() as (server, port), sender("smtp", port) as there:
        assert isinstance(await there.send(message()), Sent)
        idle = cast("Any", there)._idle
        first = idle[0]
        assert isinstance(await there.send(message(idempotency_key="second")), Sent)
        assert idle[0] is first
        first.transport.abort()
        assert isinstance(await there.send(message(idempotency_key="third")), Sent)
        assert idle[0] is not first
    assert [mail["Message-ID"].partition("@")[0] for mail in server.took] == [f"<{DECISION}", "<second", "<third"]


@pytest.mark.parametrize("to", ["anna@player.example\r\nRCPT TO:<eve@evil.example>", "nobody", "", "a@b\n"])
async def test_an_address_that_is_none_reaches_no_server(to: str) -> None:
    async with post() as (server, port):
        result = await mailed(port, message(to=(to,)))
    assert isinstance(result, Refused)
    assert result.permanent
    assert server.texts == 0


async def test_the_server_that_takes_a_mail_is_one_that_standard_tools_reach_too() -> None:
    """The server is not bent to our client: Python's own delivers to it."""
    async with post() as (server, port):

        def send() -> None:
            with smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
                client.sendmail("a@b.example", ["c@d.example"], b"Subject: x\r\n\r\ny")

        await asyncio.to_thread(send)
    assert len(server.took) == 1
