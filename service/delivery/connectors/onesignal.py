"""OneSignal: push over HTTP, and what its event streams tell.

Its idempotency key stands in the body and must be a UUID: version 5 of the decision's id. Status 200 without an id
means that nothing was sent. It signs no callback: an event stream is set up to send a secret in a header of ours.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID, uuid5

import msgspec

from service.delivery.calls import Clock, HttpAnswer, HttpCaller, untaken
from service.delivery.connectors_file import OneSignalConnector
from service.delivery.message import Message, Refused, SendResult, Sent, Unknown
from service.delivery.receipts import Receipt, ReceiptKind, text_of, unix_us

HEADER: Final = "x-croupier-secret"
"""Header in which its event stream sends the secret."""
_NAMESPACE: Final = UUID("5b0c2e0e-3f0a-5d57-9a3c-6f1f0f3f9a61")
"""Of the keys made of decisions' ids; never another, or a repeated attempt would be a second push."""


class OneSignalSender:
    """Sends push messages over OneSignal."""

    honours_key: Final = True

    def __init__(self, connector: OneSignalConnector, key: str, caller: HttpCaller, clock: Clock) -> None:
        self._app, self._url = connector.app, f"{str(connector.url).rstrip('/')}/notifications"
        self._headers = {"authorization": f"Key {key}", "content-type": "application/json"}
        self._caller, self._clock = caller, clock

    async def send(self, message: Message) -> SendResult:
        """Hand a push message to OneSignal; it drops a second one of the same key."""
        left = int(self._clock.left_seconds(message.valid_until_us))
        if left < 1:
            return Refused("its time is over", permanent=True)
        told = {
            "app_id": self._app,
            "name": message.decision_id,  # its event streams can bring it back
            "idempotency_key": str(uuid5(_NAMESPACE, message.idempotency_key)),
            "target_channel": "push",
            "include_subscription_ids": list(message.to),
            "headings": {"en": message.title},
            "contents": {"en": message.body},
            "data": {"decision_id": message.decision_id, "contact_token": message.contact_token},
            "ttl": left,
        } | ({"url": message.url} if message.url else {})
        called = await self._caller.call("POST", self._url, self._headers, msgspec.json.encode(told))
        if isinstance(called, HttpAnswer) and called.taken:
            return _taken(called.body)
        return untaken(called, self._clock.utc())


def _taken(body: bytes) -> SendResult:
    try:
        told = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError:
        return Unknown("answered 200 with what is no JSON")
    if named := told.get("id"):
        return Sent(str(named))
    return Refused("answered 200 without an id: no subscription of the player is left", permanent=True)


# --- What it calls back

_KINDS: Final[Mapping[str, ReceiptKind]] = {
    "message.push.received": "delivered",
    "message.push.clicked": "clicked",
    "message.push.failed": "bounced",
    "message.push.unsubscribed": "unsubscribed",
}


def verified(secret: str, headers: Mapping[str, str]) -> bool:
    """Whether a callback brings the secret, compared in constant time."""
    return hmac.compare_digest(secret.encode(), headers.get(HEADER, "").encode("utf8", "surrogateescape"))


def receipts(body: bytes) -> Iterator[Receipt]:
    """The receipt of an event of its stream; raises msgspec.MsgspecError for what is no JSON object."""
    told = msgspec.json.decode(body, type=dict[str, Any])
    kind = _KINDS.get(str(told.get("event.kind", told.get("kind"))))
    if kind is None:
        return
    data = told.get("event.data", told.get("data"))
    data = data if isinstance(data, dict) else {}
    yield Receipt(
        name=text_of(told, "event.id") or text_of(told, "id"),
        kind=kind,
        at_us=unix_us(told.get("event.timestamp", told.get("timestamp"))),
        decision_id=text_of(data, "decision_id"),
        contact_token=text_of(data, "contact_token"),
    )
