"""Twilio Messages: SMS over HTTP, and its status callbacks.

Its API has no idempotency key. A callback is signed with HMAC-SHA1 over the exact URL and the sorted fields of the
form; a JSON body is signed by its SHA-256 in the URL's `bodySHA256`, and counts as forged without it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import msgspec

from service.delivery.calls import Clock, HttpAnswer, HttpCaller, untaken
from service.delivery.connectors_file import TwilioConnector
from service.delivery.message import Message, Refused, SendResult, Sent
from service.delivery.receipts import Receipt, ReceiptKind

DECISION: Final = "decision"
CONTACT: Final = "contact"
"""Parameters of the callback's URL: whose receipt it is."""
_QUEUED_SECONDS: Final = range(1, 36_001)
"""What `ValidityPeriod` may be."""


class TwilioSender:
    """Sends SMS over Twilio.

    Args:
        callback_url: Where Twilio tells what became of a message; "" where nobody listens.
    """

    honours_key: Final = False

    def __init__(
        self, connector: TwilioConnector, token: str, caller: HttpCaller, clock: Clock, callback_url: str
    ) -> None:
        root = str(connector.url).rstrip("/")
        self._url = f"{root}/2010-04-01/Accounts/{connector.account}/Messages.json"
        basic = base64.b64encode(f"{connector.account}:{token}".encode()).decode()
        self._headers = {"authorization": f"Basic {basic}", "content-type": "application/x-www-form-urlencoded"}
        self._caller, self._clock, self._callback_url = caller, clock, callback_url

    async def send(self, message: Message) -> SendResult:
        """Hand an SMS to Twilio, once; what it cannot pass on while it may be sent, it drops."""
        left = int(self._clock.left_seconds(message.valid_until_us))
        if left < _QUEUED_SECONDS.start:
            return Refused("its time is over", permanent=True)
        form = {"To": message.to[0], "Body": message.body, "ValidityPeriod": str(min(left, _QUEUED_SECONDS[-1]))}
        form["MessagingServiceSid" if message.sender.startswith("MG") else "From"] = message.sender
        if self._callback_url:
            form["StatusCallback"] = (
                f"{self._callback_url}?{urlencode({DECISION: message.decision_id, CONTACT: message.contact_token})}"
            )
        called = await self._caller.call("POST", self._url, self._headers, urlencode(form).encode())
        if isinstance(called, HttpAnswer) and called.taken:
            return Sent(_sid(called.body))
        return untaken(called, self._clock.utc())


def _sid(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body, type=dict[str, Any]).get("sid", ""))
    except msgspec.MsgspecError:
        return ""


# --- What it calls back

_KINDS: Final[Mapping[str, ReceiptKind]] = {
    "delivered": "delivered",
    "read": "opened",
    "undelivered": "bounced",
    "failed": "bounced",
}
_HARD: Final = frozenset({"21211", "21610", "21614", "30003", "30005", "30006"})
"""Errors of the number itself: none, unsubscribed, no mobile, unreachable, unknown, a landline."""
_STOPPED: Final = "21610"
"""The player answered STOP."""


def verified(token: str, url: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether Twilio signed a callback.

    Args:
        token: Its account's.
        url: The exact URL that it was told to call.
        headers: Of the callback, by lower-case name.
        body: The raw one.
    """
    form, query = headers.get("content-type", "").partition(";")[0].strip(), parse_qs(urlsplit(url).query)
    if form == "application/x-www-form-urlencoded":
        if "bodySHA256" in query:
            return False
        fields = sorted(set(parse_qsl(body.decode("utf8", "surrogateescape"), keep_blank_values=True)))
        signed = url + "".join(name + value for name, value in fields)
    elif query.get("bodySHA256", [""])[-1].lower() == hashlib.sha256(body).hexdigest():
        signed = url
    else:
        return False
    made = hmac.new(token.encode(), signed.encode("utf8", "surrogateescape"), hashlib.sha1).digest()
    given = headers.get("x-twilio-signature", "").encode("utf8", "surrogateescape")
    return hmac.compare_digest(base64.b64encode(made), given)


def receipts(query: Mapping[str, str], body: bytes, now_us: int) -> Iterator[Receipt]:
    """The receipt of a status callback, dated now: what dates it carries have no zone."""
    told = dict(parse_qsl(body.decode("utf8", "replace"), keep_blank_values=True))
    status, error = told.get("MessageStatus", ""), told.get("ErrorCode", "")
    kind, sid = _KINDS.get(status), told.get("MessageSid", "")
    if kind is None:
        return
    told_of: dict[str, Any] = {
        "at_us": now_us,
        "decision_id": query.get(DECISION, ""),
        "contact_token": query.get(CONTACT, ""),
    }
    yield Receipt(name=f"{sid}/{status}", kind=kind, hard=error in _HARD, **told_of)
    if error == _STOPPED:
        yield Receipt(name=f"{sid}/stop", kind="unsubscribed", **told_of)
