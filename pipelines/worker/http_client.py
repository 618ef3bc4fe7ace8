"""HTTP client of webhooks: one signed POST to a checked address.

Whoever edits the subscriptions must not reach what only this machine reaches. So the very address that a socket
is opened to is checked, after the name was resolved, and no redirect is followed.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from features.errors import CroupierError
from features.moments import micros
from features.settings.environment import secrets_in
from pipelines.worker.webhooks import Endpoint, Network, Notice, Webhooks, body, headers, webhook_id

AT_ONCE: Final = 8
"""Requests under way to one endpoint."""
_LOOKUPS: Final = 2
_NAT64: Final = ip_network("64:ff9b::/96")
_TUNNELS: Final = tuple(map(ip_network, ("192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")))
"""Ranges that lead elsewhere or nowhere, though versions of Python call some of them global: 6to4 and its relays,
IETF protocols such as Teredo, documentation (IANA special-purpose registries, RFC 6890 and RFC 9637)."""
Address = IPv4Address | IPv6Address


class AddressRefused(CroupierError, OSError):
    """An address may not be called."""

    code = "address_refused"


def _inner_address(address: Address) -> Address:
    """The IPv4 address inside IPv4-mapped (RFC 4291) and NAT64 (RFC 6052) addresses, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address


def _public(address: Address) -> bool:
    special = address.is_multicast or address.is_reserved or getattr(address, "is_site_local", False)
    return address.is_global and not special and not any(address in one for one in _TUNNELS)


def refusal(scheme: str, address: str, allowed: Sequence[Network]) -> str | None:
    """Why an address may not be called, None if it may.

    Args:
        scheme: Scheme of the URL; plain http is for allowed ranges only.
        address: As the resolver gave it, or as it stands in the URL.
        allowed: Private ranges that may be called all the same.
    """
    meant = _inner_address(ip_address(address))
    if any(meant in one for one in allowed):
        return None
    if not _public(meant):
        return f"{address} is no public address, and allow_private does not name it"
    return None if scheme == "https" else f"{address} is public, so it is called by https only"


class AddressGuard(AbstractResolver):
    """Resolver and connector for one endpoint that refuses the addresses that `refusal` refuses.

    Lookups run in threads of the endpoint's own: a name that nobody answers for holds up no other.
    """

    def __init__(self, endpoint: Endpoint, allowed: Sequence[Network]) -> None:
        self._scheme, self._allowed = endpoint.url.scheme, allowed
        self._threads = ThreadPoolExecutor(_LOOKUPS, f"lookup-{endpoint.id}")

    def check(self, address: str) -> None:
        """Raise AddressRefused unless an address may be called."""
        if (trouble := refusal(self._scheme, address, self._allowed)) is not None:
            raise AddressRefused(errno.EACCES, trouble)

    async def addresses(self, host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
        """Addresses of a name; raises OSError if there are none."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [(family, str(place[0])) for family, *_, place in found]

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of a name if all of them may be called; a name that mixes them is refused."""
        found = await self.addresses(host, port)
        for _, address in found:
            self.check(address)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, address in found
            if family in (socket.AF_UNSPEC, kind)
        ]

    def open(self, info: tuple[Any, ...]) -> socket.socket:
        """Open a socket to an address, checked once more: literal addresses in a URL are never resolved."""
        family, kind, protocol, _, place = info
        self.check(place[0])
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        """Cancel pending lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class AttemptResult(NamedTuple):
    """Result of an attempt: a status, or None and the error."""

    status: int | None
    trouble: str
    retry_after: str | None = None


class HttpClient:
    """HTTP client of one endpoint."""

    def __init__(self, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        self._url = str(endpoint.url)
        self._secrets = secrets_in(endpoint.secret_env)
        self._session = session

    async def post(self, message: str, text: str, at: datetime) -> AttemptResult:
        """Send a body once; of the answer only status and headers are read.

        Args:
            message: Its webhook-id.
            text: The body.
            at: Now, aware, UTC.
        """
        signed = headers(self._secrets, message, at, text)
        try:
            async with self._session.post(
                self._url, data=text.encode(), headers=signed, allow_redirects=False
            ) as response:
                return AttemptResult(
                    response.status, f"answered {response.status}", response.headers.get("retry-after")
                )
        except TimeoutError:
            return AttemptResult(None, "did not answer in time")
        except Exception as error:  # noqa: BLE001 - whatever an endpoint provokes is its own failure, not the worker's
            return AttemptResult(None, f"{type(error).__name__}: {error}")


@asynccontextmanager
async def wire(endpoint: Endpoint, webhooks: Webhooks) -> AsyncIterator[HttpClient]:
    """Open an HTTP client for an endpoint: checked addresses, no proxy, no cookies."""
    guard = AddressGuard(endpoint, webhooks.allow_private)
    connector = aiohttp.TCPConnector(resolver=guard, socket_factory=guard.open, use_dns_cache=False, limit=AT_ONCE)
    timeout = aiohttp.ClientTimeout(total=webhooks.timeout_seconds)
    jar = aiohttp.DummyCookieJar()
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=jar) as session:
            yield HttpClient(endpoint, session)
    finally:
        await guard.close()


class EndpointCheck(NamedTuple):
    """Result of examining an endpoint: its addresses, and why it cannot be called ('' if it can)."""

    id: str
    host: str
    addresses: list[str]
    trouble: str


async def examine(endpoint: Endpoint, webhooks: Webhooks) -> EndpointCheck:
    """Resolve and check an endpoint without sending anything."""
    url, guard = urlsplit(str(endpoint.url)), AddressGuard(endpoint, webhooks.allow_private)
    host = url.hostname or ""
    try:
        found = await guard.addresses(host, url.port or 443)
    except (OSError, UnicodeError) as error:
        return EndpointCheck(endpoint.id, host, [], f"{host} cannot be resolved: {error}")
    finally:
        await guard.close()
    addresses = list(dict.fromkeys(address for _, address in found))
    troubles = (refusal(url.scheme, address, webhooks.allow_private) for address in addresses)
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
