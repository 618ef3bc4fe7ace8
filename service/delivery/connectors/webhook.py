"""A signed webhook: the house's own service sends; Standard Webhooks both ways, with one secret.

`webhook-id` is the same at every attempt: the service is to send once for each, so that an attempt without an answer
may be repeated. What became of the message it tells in a callback, `message.delivered` and the like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from standardwebhooks import Webhook, WebhookVerificationError

from features.moments import moment
from service.delivery.calls import Clock, HttpAnswer, HttpCaller, untaken
from service.delivery.connectors_file import WebhookConnector
from service.delivery.message import Message, SendResult, Sent
from service.delivery.receipts import KINDS, Receipt, iso_us, text_of

_TEXTS: Final = [
    "decision_id",
    "brand",
    "channel",
    "purpose",
    "offer",
    "template",
    "locale",
    "subject",
    "html",
    "text",
    "title",
    "body",
    "url",
]


def request(message: Message) -> str:
    """The body that asks for a message to be sent, the same at every attempt."""
    told = {
        name: getattr(message, name)
        for name in (*_TEXTS, "to", "sender", "unsubscribe_url", "contact_token", "parameters")
    }
    told["valid_until"] = moment(message.valid_until_us)
    return msgspec.json.encode({"type": "message.send", "data": told}).decode()


class WebhookSender:
    """Asks an endpoint of the house to send."""

    honours_key: Final = True

    def __init__(self, connector: WebhookConnector, secret: str, caller: HttpCaller, clock: Clock) -> None:
        self._url, self._signing = str(connector.url), Webhook(secret)
        self._caller, self._clock = caller, clock

    async def send(self, message: Message) -> SendResult:
        """Ask for a message to be sent."""
        body, name, now = request(message), f"send_{message.idempotency_key}", self._clock.utc()
        headers = {
            "content-type": "application/json",
            "user-agent": "Croupier",
            "webhook-id": name,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signing.sign(name, now, body),
        }
        called = await self._caller.call("POST", self._url, headers, body.encode())
        return Sent(name) if isinstance(called, HttpAnswer) and called.taken else untaken(called, now)


# --- What it calls back


def verified(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a callback is signed with the secret, no longer than five minutes ago."""
    try:
        Webhook(secret).verify(body, dict(headers))
    except (WebhookVerificationError, ValueError, KeyError):
        return False
    return True


def receipts(headers: Mapping[str, str], body: bytes) -> Iterator[Receipt]:
    """The receipt of a callback; raises msgspec.MsgspecError for what is no JSON object."""
    told = msgspec.json.decode(body, type=dict[str, Any])
    prefix, _, named = str(told.get("type")).partition(".")
    kind = next((one for one in KINDS if one == named), None)
    if prefix != "message" or kind is None:
        return
    data = told.get("data")
    data = data if isinstance(data, dict) else {}
    yield Receipt(
        name=headers.get("webhook-id", ""),
        kind=kind,
        at_us=iso_us(told.get("timestamp")),
        decision_id=text_of(data, "decision_id"),
        hard=data.get("hard") is True,
        machine=data.get("machine") is True,
        contact_token=text_of(data, "contact_token"),
    )
