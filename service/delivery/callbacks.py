"""Callbacks: what a provider calls back, its signature before anything else, becomes outcomes.

raw body --signature, age--> receipts --once each, in any order--> outcomes

What nobody signed is refused before it is read. What a receipt says of a contact that is not kept any more, or that
cannot have been, is passed over: a provider that is refused sends the whole callback again, for days.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from features.moments import moment
from features.store.deployment import House
from features.unshown import Unshown
from models.catalogue.offers import Catalogue
from service.contacts.ledger import RedisLedger
from service.decisions.outcomes import WITHDRAWING, Contact, Outcome, take
from service.delivery.connectors import onesignal, sendgrid, twilio, webhook
from service.delivery.connectors_file import (
    AnyConnector,
    Connectors,
    OneSignalConnector,
    SendGridConnector,
    TwilioConnector,
    WebhookConnector,
)
from service.delivery.links import Links
from service.delivery.receipts import DECISION_ID, Receipt, ReceiptKind
from service.errors import CallbackRefusedError, ImplausibleError, InvalidJsonError, OutcomeIdReused, RequestRefused

TOLERANCE_SECONDS: Final = 300.0
"""How old a signature may be, or how far ahead, where it tells its moment."""
_TYPES: Final[Mapping[ReceiptKind, str]] = {"bounced": "failed"}
"""Types of outcomes that are called otherwise than the receipt."""


@dataclass(frozen=True, slots=True, repr=False)
class Callback(Unshown):
    """A callback as it came: path and query as the provider was told them, headers by lower-case name, raw body."""

    connector: str
    target: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, repr=False)
class CallbackDoor:
    """Reads callbacks of the connectors of a file.

    Attributes:
        told: The file.
        secrets: What each connector signs callbacks with; those without one are called back by nobody.
    """

    told: Connectors = field(default_factory=Connectors)
    secrets: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, told: Connectors) -> CallbackDoor:
        """Read the secrets; raises SecretError if one is missing."""
        found = {name: _secret(connector) for name, connector in told.connectors.items()}
        return cls(told, {name: secret for name, secret in found.items() if secret})

    def receipts(self, callback: Callback, now: float, now_us: int) -> list[Receipt]:
        """What a callback says.

        Args:
            callback: As it came.
            now: The unix second, for the age of signatures.
            now_us: House time, for receipts without a moment.

        Raises:
            CallbackRefusedError: No connector of ours signed it, or not lately.
            InvalidJsonError: It is signed, and cannot be read.
        """
        connector = self.told.connectors.get(callback.connector)
        secret = self.secrets.get(callback.connector)
        if connector is None or not secret:
            raise CallbackRefusedError
        try:
            return list(self._receipts(connector, secret, callback, now, now_us))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidJsonError("it is signed, and is not what this provider's callbacks are") from error

    def _receipts(
        self, connector: AnyConnector, secret: str, callback: Callback, now: float, now_us: int
    ) -> Iterable[Receipt]:
        headers, body = callback.headers, callback.body
        match connector:
            case SendGridConnector():
                signed_at = sendgrid.verified(connector, headers, body)
                if signed_at is not None and abs(now - signed_at) <= TOLERANCE_SECONDS:
                    return sendgrid.receipts(body)
            case TwilioConnector():
                if twilio.verified(secret, self.told.address(callback.target), headers, body):
                    return twilio.receipts(callback.query, body, now_us)
            case OneSignalConnector():
                if onesignal.verified(secret, headers):
                    return onesignal.receipts(body)
            case WebhookConnector():
                if webhook.verified(secret, headers, body):
                    return webhook.receipts(headers, body)
            case _:
                pass
        raise CallbackRefusedError


def _secret(connector: AnyConnector) -> str:
    """What a connector signs callbacks with, "" where it does not."""
    match connector:
        case SendGridConnector():
            return connector.callback_key or ""
        case TwilioConnector():
            return connector.token.read()
        case OneSignalConnector():
            return "" if connector.callback_secret is None else connector.callback_secret.read()
        case WebhookConnector():
            return connector.secret.read()
    return ""


# --- Receipts as outcomes


class Taken(NamedTuple):
    """What became of receipts: taken, known before, passed over."""

    taken: int = 0
    duplicates: int = 0
    passed_over: int = 0


def withdraws(receipts: Sequence[Receipt]) -> bool:
    """Whether one of them withdraws consent, so that nothing may keep it out."""
    return any(one.kind in WITHDRAWING for one in receipts)


class ReceiptTaker(NamedTuple):
    """Takes the receipts of a connector, each once."""

    connector: str
    house: House
    catalogue: Catalogue
    ledger: RedisLedger
    links: Links

    async def take(self, receipts: Iterable[Receipt]) -> Taken:
        """Take receipts in order, those that withdraw consent first; raises StoreError, after which all may come again.

        Each is answered for on its own: one that cannot be is passed over.
        """
        counts = {"taken": 0, "duplicate": 0, "passed over": 0}
        for receipt in sorted(receipts, key=lambda one: one.kind not in WITHDRAWING):
            counts[await self._take(receipt)] += 1
        return Taken(*counts.values())

    async def _take(self, receipt: Receipt) -> str:
        told = self.links.contact(receipt.contact_token)
        named = None if told is None else Contact(told.player, told.brand, told.channel)
        decision = receipt.decision_id if DECISION_ID.fullmatch(receipt.decision_id) else ""
        if not decision and told is not None and DECISION_ID.fullmatch(told.decision_id):
            decision = told.decision_id
        if not decision:
            return "passed over"
        now_us = await self.ledger.now_us()
        at_us = now_us if receipt.at_us is None else min(receipt.at_us, now_us)
        try:
            return await self._told(receipt, decision, at_us, named)
        except ImplausibleError:
            # The provider's clock is behind ours by more than is forgiven, or the contact was never ours to send.
            return await self._passed(receipt, decision, now_us, named)
        except RequestRefused:
            return "passed over"

    async def _passed(self, receipt: Receipt, decision: str, now_us: int, named: Contact | None) -> str:
        try:
            return await self._told(receipt, decision, now_us, named)
        except RequestRefused:
            return "passed over"

    async def _told(self, receipt: Receipt, decision: str, at_us: int, named: Contact | None) -> str:
        outcome = Outcome.model_validate(
            {
                "outcome_id": self._name(receipt, decision),
                "decision_id": decision,
                "type": _TYPES.get(receipt.kind, receipt.kind),
                "occurred_at": moment(at_us),
                "hard": receipt.hard,
                "machine": receipt.machine,
            }
        )
        try:
            done = await take(outcome, self.house, self.catalogue, self.ledger, named=named)
        except OutcomeIdReused:  # its moment was read otherwise before
            return "duplicate"
        return "duplicate" if done.duplicate else "taken"

    def _name(self, receipt: Receipt, decision: str) -> str:
        """The id of its outcome: of the provider's name for it, else of what it says."""
        said = receipt.name or f"{receipt.kind} {decision} {receipt.at_us}"
        return f"receipt-{self.house.digest('receipt', self.connector, receipt.kind, said).hex()}"
