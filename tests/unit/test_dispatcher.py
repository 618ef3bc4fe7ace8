"""Webhooks without a network: addresses, waits, signatures and the settings file."""

import json
import socket
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from features.files import CatalogueError, load_yaml
from pipelines.worker import webhooks as told
from pipelines.worker.webhooks import RETRY_SECONDS, Endpoint, Notice, Webhooks
from service.delivery.calls import ASKED_SECONDS, retry_after_seconds
from service.delivery.http_client import AddressGuard, AddressRefused
from service.delivery.networks import refusal

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + "A" * 32
NOTICE = Notice("017-abc", "main", "sms", "free_spins", 1_700_000_000_000_000)
NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)

REFUSED = [
    "0.0.0.0",  # noqa: S104 - refused, not listened on
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "233.252.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:a00:1",
    "64:ff9b::a00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:a00:1::",
    "2002:7f00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456:789a::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
TAKEN = ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_no_public_address_is_refused_whatever_the_scheme(address: str) -> None:
    for sealed in (True, False):
        assert "no public address" in (refusal(address, (), sealed=sealed) or "")


@pytest.mark.parametrize("address", TAKEN)
def test_a_public_address_is_called_by_https_only(address: str) -> None:
    assert refusal(address, (), sealed=True) is None
    assert "https only" in (refusal(address, (), sealed=False) or "")
    assert "https only" in (refusal(address, (ip_network("127.0.0.0/8"),), sealed=False) or "")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", "127.0.0.0/8"),
        ("::ffff:127.0.0.1", "127.0.0.0/8"),
        ("64:ff9b::a00:1", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.0/24"),
        ("fd00::1", "fd00::/8"),
        ("169.254.169.254", "169.254.0.0/16"),
    ],
)
def test_an_allowed_range_may_be_called_and_its_neighbours_not(address: str, allowed: str) -> None:
    assert refusal(address, (ip_network(allowed),), sealed=False) is None
    assert refusal("192.168.0.1", (ip_network(allowed),), sealed=False)


class Faces:
    """A resolver's answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


async def resolved(endpoint: Endpoint) -> list[str]:
    guard = AddressGuard(endpoint.id, (), sealed=True)
    try:
        return [one["host"] for one in await guard.resolve("sender.example", 443)]
    finally:
        await guard.close()


async def test_a_name_with_a_private_face_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SECRET", SECRET)
    endpoint = Endpoint.model_validate({"id": "crm", "url": "https://sender.example/", "secret_env": "CRM_SECRET"})
    Faces(monkeypatch, "8.8.8.8", "1.1.1.1")
    assert await resolved(endpoint) == ["8.8.8.8", "1.1.1.1"]
    Faces(monkeypatch, "8.8.8.8", "10.0.0.1")
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1 is no public address"):
        await resolved(endpoint)


def test_the_socket_itself_is_refused_for_an_address_that_was_never_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SECRET", SECRET)
    endpoint = Endpoint.model_validate({"id": "crm", "url": "https://10.0.0.1/", "secret_env": "CRM_SECRET"})
    with pytest.raises(AddressRefused):
        AddressGuard(endpoint.id, (), sealed=True).open((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 443)))


def test_waits_follow_the_schedule_grow_by_a_fifth_at_most_and_end() -> None:
    for attempts, wait in enumerate(RETRY_SECONDS, 1):
        assert told.wait_seconds(RETRY_SECONDS, attempts, 0, 0.0) == wait
        assert told.wait_seconds(RETRY_SECONDS, attempts, 0, 1.0) == pytest.approx(wait * 1.2)
    assert told.wait_seconds(RETRY_SECONDS, len(RETRY_SECONDS) + 1, 0, 0.0) is None
    assert told.wait_seconds((), 1, 0, 0.0) is None
    assert sum(RETRY_SECONDS) > timedelta(days=3).total_seconds()


def test_an_endpoint_may_ask_for_a_longer_wait_never_for_a_shorter_one() -> None:
    assert told.wait_seconds((5, 300), 1, 60, 0.0) == 60
    assert told.wait_seconds((5, 300), 2, 60, 0.0) == 300
    assert told.wait_seconds((5, 300), 3, 60, 0.0) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 0),
        ("120", 120),
        (" 120 ", 120),
        ("0", 0),
        ("-5", 0),
        ("soon", 0),
        ("", 0),
        ("²", 0),
        ("9" * 400, 0),
        ("99999999", ASKED_SECONDS),
        ("Mon, 02 Mar 2026 10:01:00 GMT", 60),
        ("Mon, 02 Mar 2026 09:00:00 GMT", 0),
        ("Mon, 02 Mar 2026 10:01:00 -0000", 0),
    ],
)
def test_what_a_retry_after_asks_for(text: str | None, seconds: float) -> None:
    assert retry_after_seconds(text, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        *((status, "delivered") for status in (200, 204, 299)),
        *((status, "failed") for status in (None, 199, 302, 404, 429, 500, 503)),
        (410, "gone"),
    ],
)
def test_what_an_answer_means(status: int | None, meaning: str) -> None:
    assert told.verdict(status) == meaning


def test_the_library_verifies_what_was_signed_and_nothing_else() -> None:
    text, at = told.body(NOTICE), datetime.now(UTC)
    signed = told.headers([SECRET], told.webhook_id(NOTICE, "crm"), at, text)
    assert Webhook(SECRET).verify(text, signed) == json.loads(text)
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(text, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(text.replace("sms", "email"), signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(text, signed | {"webhook-id": "another"})


def test_while_secrets_change_both_verify() -> None:
    text = told.body(NOTICE)
    signed = told.headers([SECRET, OTHER], "one", datetime.now(UTC), text)
    assert Webhook(SECRET).verify(text, signed) == Webhook(OTHER).verify(text, signed)


def test_the_body_names_the_decision_and_not_the_player() -> None:
    row = {"player": "{p017}secret", "decision_id": "017-abc", "brand": "main", "channel": "sms", "offer": "free_spins"}
    fields = {b"t": b"1700000000000000", b"b": msgspec.msgpack.encode({**row, "type": "revoked"})}
    assert told.notice(fields) == NOTICE
    assert json.loads(told.body(NOTICE)) == {
        "type": "lease.revoked",
        "timestamp": "2023-11-14T22:13:20Z",
        "data": {
            "decision_id": "017-abc",
            "brand": "main",
            "channel": "sms",
            "offer": "free_spins",
            "revoked_at": "2023-11-14T22:13:20Z",
        },
    }


def test_ids_are_of_one_notice_and_one_endpoint_and_hold_no_full_stop() -> None:
    ids = {told.webhook_id(NOTICE, "crm"), told.webhook_id(NOTICE, "mail")}
    assert len(ids | {told.webhook_id(NOTICE, "crm")}) == 2
    assert not any("." in one for one in ids)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, True),
        ({"channels": ["sms"]}, True),
        ({"channels": ["email"]}, False),
        ({"brands": ["main"], "channels": ["sms", "email"]}, True),
        ({"brands": ["other"]}, False),
        ({"brands": []}, False),
    ],
)
def test_who_subscribed_to_what(monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], wanted: bool) -> None:  # noqa: FBT001 - a case of the table
    monkeypatch.setenv("CRM_SECRET", SECRET)
    part = {"id": "crm", "url": "https://sender.example/", "secret_env": "CRM_SECRET"}
    assert Endpoint.model_validate(part | more).wants(NOTICE) is wanted


GOOD = """\
endpoints:
  - id: crm
    url: https://crm.example.com/hooks
    secret_env: CRM_SECRET
    channels: [email, sms]
allow_private: [10.0.0.0/8]
"""


def read(tmp_path: Path, text: str) -> Webhooks:
    file = tmp_path / "webhooks.yaml"
    file.write_text(text, "utf8")
    return load_yaml(file, Webhooks)


def test_a_file_that_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SECRET", f"{SECRET} {OTHER}")
    monkeypatch.setenv("CROUPIER_WEBHOOKS", str(tmp_path / "webhooks.yaml"))
    found = read(tmp_path, GOOD)
    assert told.read_webhooks() == found
    assert found.retry_seconds == RETRY_SECONDS
    assert found.endpoints[0].channels == ("email", "sms")


def test_without_a_file_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROUPIER_WEBHOOKS", raising=False)
    assert told.read_webhooks() == Webhooks()


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("CRM_SECRET", "NOT_THERE", "webhooks.yaml:4: endpoints.0.secret_env: the environment has no variable"),
        ("CRM_SECRET", "SHORT_SECRET", "webhooks.yaml:4: endpoints.0.secret_env: the variable SHORT_SECRET holds no"),
        ("CRM_SECRET", SECRET, "webhooks.yaml:4: endpoints.0.secret_env: names a variable of the environment"),
        ("https://crm", "ftp://crm", "webhooks.yaml:3: endpoints.0.url: URL scheme"),
        ("https://crm", "https://me:word@crm", "webhooks.yaml:3: endpoints.0.url: takes no user"),
        ("[email, sms]", "[fax]", "webhooks.yaml:5: endpoints.0.channels.0: "),
        ("channels", "chanels", "webhooks.yaml:5: endpoints.0.chanels: Extra inputs"),
        ("10.0.0.0/8", "0.0.0.0/0", "webhooks.yaml:6: allow_private.0: 0.0.0.0/0 is no private range"),
        ("10.0.0.0/8", "8.8.8.0/24", "webhooks.yaml:6: allow_private.0: 8.8.8.0/24 is no private range"),
        ("10.0.0.0/8", "10.0.0.0/7", "webhooks.yaml:6: allow_private.0: 10.0.0.0/7 is no private range"),
        ("10.0.0.0/8", "10.0.0.1/8", "webhooks.yaml:6: allow_private.0: 10.0.0.1/8 has host bits set"),
        ("10.0.0.0/8", "home", "webhooks.yaml:6: allow_private.0: 'home' does not appear to be"),
        ("allow_private: [10.0.0.0/8]", "timeout_seconds: 31", "webhooks.yaml:6: timeout_seconds: "),
        ("allow_private: [10.0.0.0/8]", "retry_seconds: [5, -1]", "webhooks.yaml:6: retry_seconds.1: "),
    ],
)
def test_a_fault_in_the_file_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, place: str
) -> None:
    monkeypatch.setenv("CRM_SECRET", SECRET)
    monkeypatch.setenv("SHORT_SECRET", "whsec_c2hvcnQ=")
    with pytest.raises(CatalogueError) as refused:
        read(tmp_path, GOOD.replace(old, new))
    assert place in str(refused.value)
    assert SECRET not in str(refused.value)


def test_two_endpoints_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SECRET", SECRET)
    again = "\n".join(GOOD.splitlines()[1:4])
    with pytest.raises(CatalogueError, match="two endpoints share an id"):
        read(tmp_path, f"endpoints:\n{again}\n{again}\n")
