"""Senders: every connector of the file, opened once, with its secret, its client and its guard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from service.delivery.calls import Clock
from service.delivery.connectors.kept import KeptSender
from service.delivery.connectors.onesignal import OneSignalSender
from service.delivery.connectors.sendgrid import SendGridSender
from service.delivery.connectors.smtp import SmtpSender
from service.delivery.connectors.twilio import TwilioSender
from service.delivery.connectors.webhook import WebhookSender
from service.delivery.connectors_file import (
    KEPT,
    AnyConnector,
    Connectors,
    OneSignalConnector,
    SendGridConnector,
    SmtpConnector,
    TwilioConnector,
    WebhookConnector,
)
from service.delivery.http_client import AddressGuard, opened
from service.delivery.links import CALLBACKS
from service.delivery.message import Keeper, Message, Refused, Sender, SendResult


class SandboxSender:
    """What stands for a provider in a sandbox house, which sends to its own catcher only."""

    honours_key: Final = True

    async def send(self, message: Message) -> SendResult:
        """Refuse."""
        return Refused(f"a sandbox house sends nothing over {message.connector}", permanent=True)


@asynccontextmanager
async def senders(
    told: Connectors, clock: Clock, keepers: Mapping[str, Keeper], *, sandbox: bool
) -> AsyncIterator[Mapping[str, Sender]]:
    """Open a sender for each connector, by its name.

    Args:
        told: The file.
        clock: The time.
        keepers: What keeps messages in the house, by the kind of connector: task, inbox, catcher.
        sandbox: Whether the house is a sandbox: its providers are never called, whatever the file says.

    Raises:
        SecretError: A secret is missing.
    """
    async with AsyncExitStack() as stack:
        found: dict[str, Sender] = {}
        for name, connector in told.connectors.items():
            if connector.kind in KEPT:
                found[name] = KeptSender(keepers[connector.kind])
            elif sandbox:
                found[name] = SandboxSender()
            else:
                found[name] = await _opened(name, connector, told, clock, stack)
        yield found


async def _opened(name: str, connector: AnyConnector, told: Connectors, clock: Clock, stack: AsyncExitStack) -> Sender:
    if isinstance(connector, SmtpConnector):
        guard = AddressGuard(name, told.allow_private, sealed=connector.tls != "none")
        stack.push_async_callback(guard.close)
        password = "" if connector.password is None else connector.password.read()
        sender = SmtpSender(connector, password, guard, clock)
        stack.push_async_callback(sender.close)
        return sender
    secret, url = secret_of(connector), str(getattr(connector, "url", ""))
    client = opened(name, url, told.allow_private, connector.timeout_seconds, connector.at_once)
    caller = await stack.enter_async_context(client)
    match connector:
        case SendGridConnector():
            return SendGridSender(connector, secret, caller, clock)
        case TwilioConnector():
            return TwilioSender(connector, secret, caller, clock, told.address(f"{CALLBACKS}{name}"))
        case OneSignalConnector():
            return OneSignalSender(connector, secret, caller, clock)
        case WebhookConnector():
            return WebhookSender(connector, secret, caller, clock)
    raise AssertionError(connector.kind)


def secret_of(connector: AnyConnector) -> str:
    """The secret that a connector sends with, "" where it needs none; raises SecretError."""
    match connector:
        case SmtpConnector():
            return "" if connector.password is None else connector.password.read()
        case SendGridConnector() | OneSignalConnector():
            return connector.key.read()
        case TwilioConnector():
            return connector.token.read()
        case WebhookConnector():
            return connector.secret.read()
    return ""
