"""HTTP client of webhooks: one signed POST to a checked address."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from features.moments import micros
from features.settings.environment import secrets_in
from pipelines.worker.webhooks import Endpoint, Notice, Webhooks, body, headers, webhook_id
from service.delivery.calls import HttpAnswer, HttpCaller
from service.delivery.http_client import AddressGuard, opened
from service.delivery.networks import refusal


class AttemptResult(NamedTuple):
    """Result of an attempt: a status, or None and the error."""

    status: int | None
    trouble: str
    retry_after: str | None = None


class HttpClient:
    """HTTP client of one endpoint."""

    def __init__(self, endpoint: Endpoint, caller: HttpCaller) -> None:
        self._url = str(endpoint.url)
        self._secrets = secrets_in(endpoint.secret_env)
        self._caller = caller

    async def post(self, message: str, text: str, at: datetime) -> AttemptResult:
        """Send a body once; of the answer only status and headers are looked at.

        Args:
            message: Its webhook-id.
            text: The body.
            at: Now, aware, UTC.
        """
        signed = headers(self._secrets, message, at, text)
        called = await self._caller.call("POST", self._url, signed, text.encode())
        if isinstance(called, HttpAnswer):
            return AttemptResult(called.status, f"answered {called.status}", called.headers.get("retry-after"))
        return AttemptResult(None, called.reason)


@asynccontextmanager
async def wire(endpoint: Endpoint, webhooks: Webhooks) -> AsyncIterator[HttpClient]:
    """Open an HTTP client for an endpoint."""
    async with opened(endpoint.id, str(endpoint.url), webhooks.allow_private, webhooks.timeout_seconds) as caller:
        yield HttpClient(endpoint, caller)


class EndpointCheck(NamedTuple):
    """Result of examining an endpoint: its addresses, and why it cannot be called ('' if it can)."""

    id: str
    host: str
    addresses: list[str]
    trouble: str


async def examine(endpoint: Endpoint, webhooks: Webhooks) -> EndpointCheck:
    """Resolve and check an endpoint without sending anything."""
    url = urlsplit(str(endpoint.url))
    sealed = url.scheme == "https"
    guard = AddressGuard(endpoint.id, webhooks.allow_private, sealed=sealed)
    host = url.hostname or ""
    try:
        found = await guard.addresses(host, url.port or 443)
    except (OSError, UnicodeError) as error:
        return EndpointCheck(endpoint.id, host, [], f"{host} cannot be resolved: {error}")
    finally:
        await guard.close()
    addresses = list(dict.fromkeys(address for _, address in found))
    troubles = (refusal(address, webhooks.allow_private, sealed=sealed) for address in addresses)
    return EndpointCheck(endpoint.id, host, addresses, "; ".join(filter(None, troubles)))


async def examine_all(webhooks: Webhooks) -> list[EndpointCheck]:
    """Examine every endpoint at once; see `examine`."""
    return list(await asyncio.gather(*(examine(one, webhooks) for one in webhooks.endpoints)))


async def send_example(endpoint: Endpoint, webhooks: Webhooks) -> AttemptResult:
    """Send an endpoint one example notice, of the decision `example-...`."""
    now = datetime.now(UTC)
    told = Notice(f"example-{secrets.token_hex(8)}", "main", "email", "example", micros(now))
    async with wire(endpoint, webhooks) as way:
        return await way.post(webhook_id(told, endpoint.id), body(told), now)
