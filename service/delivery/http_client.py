"""HTTP client of what a house calls: the very address that a socket is opened to is checked, no redirect is followed.

A name is resolved first, and its address checked again as the socket is opened: a name that changes its mind between
the two gains nothing. What became of a call is a value, never an exception.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from features.errors import CroupierError
from service.delivery.calls import CallResult, HttpAnswer, NoAnswer, NotSent
from service.delivery.networks import Network, refusal

AT_ONCE: Final = 8
"""Requests under way to one endpoint, where nothing else is said."""
_LOOKUPS: Final = 2
_READ_MOST: Final = 65_536
"""Bytes of an answer that are read."""


class AddressRefused(CroupierError, OSError):
    """An address may not be called."""

    code = "address_refused"


class AddressGuard(AbstractResolver):
    """Resolver and opener of sockets for one endpoint that refuses the addresses that `refusal` refuses.

    Lookups run in threads of the endpoint's own: a name that nobody answers for holds up no other.

    Args:
        name: The endpoint's, for its threads.
        allowed: Private ranges that may be called all the same.
        sealed: Whether it is called by TLS.
    """

    def __init__(self, name: str, allowed: Sequence[Network], *, sealed: bool) -> None:
        self._sealed, self._allowed = sealed, allowed
        self._threads = ThreadPoolExecutor(_LOOKUPS, f"lookup-{name}")

    def check(self, address: str) -> None:
        """Raise AddressRefused unless an address may be called."""
        if (trouble := refusal(address, self._allowed, sealed=self._sealed)) is not None:
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

    async def connect(self, host: str, port: int) -> socket.socket:
        """A connected socket to a name, for protocols other than HTTP; raises OSError."""
        trouble: OSError | None = None
        for found in await self.resolve(host, port):
            family = found["family"]
            opened = self.open((family, socket.SOCK_STREAM, 0, "", (found["host"], port)))
            opened.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(opened, (found["host"], port))
            except OSError as error:
                opened.close()
                trouble = error
            except BaseException:
                opened.close()
                raise
            else:
                return opened
        raise trouble or OSError(f"{host} has no address")

    async def close(self) -> None:
        """Cancel pending lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class HttpClient:
    """HTTP client of one endpoint."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def call(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> CallResult:
        """Call once. What went wrong before a byte of the request left is `NotSent`."""
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status, told = response.status, {name.lower(): value for name, value in response.headers.items()}
                return HttpAnswer(status, told, await _read(response))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            return NotSent(_named(error))
        except TimeoutError:
            return NoAnswer("did not answer in time")
        except Exception as error:  # noqa: BLE001 - whatever an endpoint provokes is its own failure, not the caller's
            return NoAnswer(_named(error))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body as far as it is read; b"" where it breaks off, for the status has said what there is to say."""
    try:
        return await response.content.read(_READ_MOST)
    except (aiohttp.ClientError, OSError):
        return b""


def _named(error: Exception) -> str:
    """An error by its type, and what a check of ours says: the text of others may hold addresses."""
    inner = getattr(error, "os_error", error)
    return str(inner) if isinstance(inner, AddressRefused) else type(inner).__name__


@asynccontextmanager
async def opened(
    name: str, url: str, allowed: Sequence[Network], seconds: float, at_once: int = AT_ONCE
) -> AsyncIterator[HttpClient]:
    """Open an HTTP client for an endpoint: checked addresses, no proxy, no cookies.

    Args:
        name: The endpoint's.
        url: Where it is.
        allowed: Private ranges that may be called all the same.
        seconds: How long it may take to answer.
        at_once: Requests under way.
    """
    guard = AddressGuard(name, allowed, sealed=url.startswith("https:"))
    connector = aiohttp.TCPConnector(resolver=guard, socket_factory=guard.open, use_dns_cache=False, limit=at_once)
    timeout = aiohttp.ClientTimeout(total=seconds)
    jar = aiohttp.DummyCookieJar()
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=jar) as session:
            yield HttpClient(session)
    finally:
        await guard.close()
