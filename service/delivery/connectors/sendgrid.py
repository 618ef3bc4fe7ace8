"""SendGrid v3: mail over HTTP, and its signed event webhook.

Its API has no idempotency key, and what was handed over can be called back by nobody: messages are held here until
they are due. Events come as a JSON array, signed with ECDSA over timestamp and raw body; `custom_args` bring the
decision back.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from email.utils import parseaddr
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from service.delivery.calls import Clock, HttpAnswer, HttpCaller, untaken
from service.delivery.connectors_file import SendGridConnector
from service.delivery.message import Message, SendResult, Sent
from service.delivery.receipts import Receipt, ReceiptKind, text_of, unix_us

_SIGNATURE: Final = "x-twilio-email-event-webhook-signature"
_TIMESTAMP: Final = "x-twilio-email-event-webhook-timestamp"


def request(message: Message) -> bytes:
    """The body of `POST /v3/mail/send` for a message."""
    name, sender = parseaddr(message.sender)
    contents = [{"type": "text/plain", "value": message.text}]
    if message.html:
        contents.append({"type": "text/html", "value": message.html})
    brought_back = {"decision_id": message.decision_id, "contact_token": message.contact_token}
    told: dict[str, Any] = {
        "personalizations": [{"to": [{"email": message.to[0]}], "custom_args": brought_back}],
        "from": {"email": sender} | ({"name": name} if name else {}),
        "subject": message.subject,
        "content": contents,
        # Links are ours already, and unsubscribing is withdrawn consent here, not a list over there.
        "tracking_settings": {
            "click_tracking": {"enable": False, "enable_text": False},
            "subscription_tracking": {"enable": False},
        },
    }
    if message.reply_to:
        told["reply_to"] = {"email": parseaddr(message.reply_to)[1]}
    if message.unsubscribe_url:
        told["headers"] = {
            "List-Unsubscribe": f"<{message.unsubscribe_url}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        }
    return msgspec.json.encode(told)


class SendGridSender:
    """Sends mails over SendGrid."""

    honours_key: Final = False

    def __init__(self, connector: SendGridConnector, key: str, caller: HttpCaller, clock: Clock) -> None:
        self._url = f"{str(connector.url).rstrip('/')}/v3/mail/send"
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._caller, self._clock = caller, clock

    async def send(self, message: Message) -> SendResult:
        """Hand a mail to SendGrid, once."""
        called = await self._caller.call("POST", self._url, self._headers, request(message))
        if isinstance(called, HttpAnswer) and called.taken:
            return Sent(called.headers.get("x-message-id", ""))
        return untaken(called, self._clock.utc())


# --- What it calls back

_KINDS: Final[Mapping[str, ReceiptKind]] = {
    "delivered": "delivered",
    "dropped": "bounced",
    "open": "opened",
    "click": "clicked",
    "unsubscribe": "unsubscribed",
    "group_unsubscribe": "unsubscribed",
    "spamreport": "complained",
}
"""Events that say something; `processed`, `deferred` and `group_resubscribe` do not."""


def verified(connector: SendGridConnector, headers: Mapping[str, str], body: bytes) -> float | None:
    """The unix second at which a callback was signed; None for one that SendGrid did not sign."""
    try:
        stamp, signature = headers[_TIMESTAMP], base64.b64decode(headers[_SIGNATURE], validate=True)
        key = load_der_public_key(base64.b64decode(connector.callback_key or "", validate=True))
        if not isinstance(key, EllipticCurvePublicKey):
            return None
        key.verify(signature, stamp.encode() + body, ECDSA(SHA256()))
        return float(stamp)
    except (KeyError, ValueError, binascii.Error, InvalidSignature, UnsupportedAlgorithm):
        return None


def receipts(body: bytes) -> Iterator[Receipt]:
    """Receipts of a callback's events; raises msgspec.MsgspecError for what is no array of objects."""
    for event in msgspec.json.decode(body, type=list[dict[str, Any]]):
        kind = _kind(event)
        if kind is not None:
            yield Receipt(
                name=text_of(event, "sg_event_id"),
                kind=kind,
                at_us=unix_us(event.get("timestamp")),
                decision_id=text_of(event, "decision_id"),
                hard=event.get("event") == "bounce" and event.get("type") != "blocked",
                machine=event.get("sg_machine_open") is True,
                contact_token=text_of(event, "contact_token"),
            )


def _kind(event: Mapping[str, Any]) -> ReceiptKind | None:
    return "bounced" if event.get("event") == "bounce" else _KINDS.get(str(event.get("event")))
