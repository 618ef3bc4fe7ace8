"""Checks of connectors: whether each could be called, and one example sent to whoever asks."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from service.delivery.callbacks import CallbackDoor
from service.delivery.calls import Clock
from service.delivery.connectors_file import (
    KEPT,
    SUITS,
    AnyConnector,
    Connectors,
    SecretError,
    SmtpConnector,
)
from service.delivery.http_client import AddressGuard
from service.delivery.message import Message, Refused, SendResult
from service.delivery.networks import refusal
from service.delivery.senders import secret_of, senders

_VALID_US: Final = 300_000_000


class ConnectorCheck(NamedTuple):
    """Result of examining a connector: the channels that go over it, and why it cannot be used ('' if it can)."""

    name: str
    kind: str
    channels: list[str]
    trouble: str


async def examine_all(told: Connectors) -> list[ConnectorCheck]:
    """Examine every connector at once, without sending anything."""
    return list(await asyncio.gather(*(_examine(name, one, told) for name, one in told.connectors.items())))


async def _examine(name: str, connector: AnyConnector, told: Connectors) -> ConnectorCheck:
    channels = [route.channel for route in told.routes if route.connector == name]
    found = ConnectorCheck(name, connector.kind, list(dict.fromkeys(channels)), "")
    if connector.kind in KEPT:
        return found
    try:
        secret_of(connector)
        CallbackDoor.of(told.model_copy(update={"connectors": {name: connector}}))
    except SecretError as error:
        return found._replace(trouble=str(error))
    return found._replace(trouble=await _unreachable(name, connector, told))


async def _unreachable(name: str, connector: AnyConnector, told: Connectors) -> str:
    """Why the addresses of a connector cannot be called, "" if they can."""
    if isinstance(connector, SmtpConnector):
        host, port, sealed = connector.host, connector.port, connector.tls != "none"
    else:
        url = urlsplit(str(getattr(connector, "url", "")))
        host, port, sealed = url.hostname or "", url.port or 443, url.scheme == "https"
    guard = AddressGuard(name, told.allow_private, sealed=sealed)
    try:
        addresses = dict.fromkeys(address for _, address in await guard.addresses(host, port))
    except (OSError, UnicodeError) as error:
        return f"{host} cannot be resolved: {error}"
    finally:
        await guard.close()
    return "; ".join(filter(None, (refusal(one, told.allow_private, sealed=sealed) for one in addresses)))


async def send_example(name: str, to: str, told: Connectors, *, sandbox: bool) -> SendResult:
    """Send an example over a connector, to one address, as a message of a decision that never was.

    Raises:
        SecretError: Its secret is missing.
    """
    connector = told.connectors[name]
    if connector.kind in KEPT:
        return Refused("its messages stay in the house: there is nobody to send to", permanent=True)
    now_us = time.time_ns() // 1_000
    clock = Clock(lambda: datetime.now(UTC), lambda until_us: (until_us - time.time_ns() // 1_000) / 1_000_000)
    only = told.model_copy(update={"connectors": {name: connector}})
    message = _example(name, to, _channel(told, name, connector.kind), now_us, told)
    async with senders(only, clock, {}, sandbox=sandbox) as found:
        return await found[name].send(message)


def _channel(told: Connectors, name: str, kind: str) -> str:
    """The channel of the first route over a connector, else one that its kind serves."""
    routed = (route.channel for route in told.routes if route.connector == name)
    return next(routed, next(channel for channel in SUITS if kind in SUITS[channel]))


def _example(name: str, to: str, channel: str, now_us: int, told: Connectors) -> Message:
    route = next((one for one in told.routes if one.connector == name), None)
    decision = f"000-{secrets.token_hex(12).translate(str.maketrans('0189', 'wxyz'))}"
    text = "This is an example, sent by `croupier connectors test`. Nothing was offered to anybody."
    return Message(
        decision_id=decision,
        player="",
        brand="main",
        channel=channel,
        purpose="service",
        offer="example",
        template="example",
        connector=name,
        idempotency_key=decision,
        valid_until_us=now_us + _VALID_US,
        to=(to,),
        sender="" if route is None else route.sender,
        subject="An example of Croupier",
        html=f"<p>{text}</p>",
        text=text,
        title="An example of Croupier",
        body=text,
    )
