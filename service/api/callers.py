"""Who asks: the key or the cookie of a request, what it allows, and how often it may ask."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
from fastapi import Request

from features.store.connection import Store
from features.store.deployment import House
from features.store.errors import StoreError
from service.access import cookies
from service.access.keyring import STALE_SECONDS, Keyring
from service.access.keys import Caller, id_of
from service.access.rates import Rates
from service.access.scopes import Scope
from service.api.door import READING, is_same
from service.errors import (
    CrossSiteError,
    InsufficientScopeError,
    RateLimitedError,
    UnauthorisedError,
)

_LOG: Final = structlog.get_logger()
_COOKIE: Final = f"{cookies.NAME}=".encode()
Look = Callable[[float], Awaitable[None]]
"""Reads the keys anew for a request that arrived at a moment of the monotonic clock."""


class Callers:
    """Knows callers by their keys, counts their requests, and those with wrong keys.

    Attributes:
        keyring: Keys of the house.
        rates: Counts of requests.
        signing: What cookies are signed with.
    """

    def __init__(self, store: Store, house: House, words: Sequence[str]) -> None:
        self.keyring = Keyring(store, words, time.monotonic)
        self.rates = Rates(time.monotonic)
        self.signing = cookies.signing_key(house)

    async def admitted(self, request: Request, scope: Scope, look: Look) -> Caller:
        """The caller of a request, who may do it.

        Raises:
            UnauthorisedError: There is no key, or one that is none any more.
            RateLimitedError: There have been too many wrong ones from this address.
            InsufficientScopeError: The key does not allow it.
            CrossSiteError: Another site's page sent it with the cookie of somebody signed in.
            StoreError: Which keys there are cannot be known.
        """
        found = await self._known(request, look)
        if found is None:
            raise UnauthorisedError
        if scope not in found.scopes:
            raise InsufficientScopeError(f"this key does not allow `{scope}`", (scope,))
        return found

    async def may(self, request: Request, scope: Scope, look: Look) -> bool:
        """Whether the caller of a request that anybody may send has a key that allows more."""
        try:
            await self.admitted(request, scope, look)
        except (UnauthorisedError, InsufficientScopeError, RateLimitedError, CrossSiteError, StoreError):
            return False
        return True

    async def _known(self, request: Request, look: Look) -> Caller | None:
        sent = _authorization(request)
        if sent is None:
            return await self._signed_in(request, look)
        scheme, _, key = sent.partition(" ")
        if scheme.lower() != "bearer":
            return None
        return await self.by_key(key.lstrip(" "), request, look)

    async def by_key(self, key: str, request: Request, look: Look) -> Caller:
        """Who sent a key; raises as `admitted` does."""
        at, keyring = time.monotonic(), self.keyring
        if not (keyring.fresh(at) or keyring.of_environment(key)):
            await look(at)
        if (found := keyring.caller(key)) is not None:
            return found
        address = _address(request)
        if id_of(key) is not None and self.rates.may_be_wrong(address):
            # It may have been made a moment ago: only a look that begins from now on is recent enough.
            await look(at + STALE_SECONDS)
            found = keyring.caller(key)
        if found is None:
            raise self._wrong(address)
        return found

    async def _signed_in(self, request: Request, look: Look) -> Caller | None:
        if (cookie := _cookie(request)) is None:
            return None
        at = time.monotonic()
        if not self.keyring.fresh(at):
            await look(at)
        found = cookies.read_signed(cookie, self.signing, self.keyring.now())
        caller = None if found is None else self.keyring.named(*found)
        if caller is not None and request.method not in READING and not same_origin(request):
            raise CrossSiteError
        return caller

    def _wrong(self, address: str) -> UnauthorisedError | RateLimitedError:
        """Count and log a wrong key, never the key."""
        seconds = self.rates.wrong(address)
        if self.rates.logs():
            _LOG.warning("wrong key", address=address, told_to_wait=seconds > 0)
        if seconds:
            return RateLimitedError("too many wrong keys came from this address", seconds)
        return UnauthorisedError(sent=True)

    def limited(self, caller: Caller, cost: int = 1) -> RateLimitedError | None:
        """Why a caller must wait; None if the request is counted and may go on."""
        if caller.rate is None or not (seconds := self.rates.wait(caller.id, caller.rate, cost)):
            return None
        return RateLimitedError(f"this key may send {caller.rate} requests a second, over all of the house", seconds)


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host


def _authorization(request: Request) -> str | None:
    """The header of that name; None if there is none, empty if there are several."""
    found = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if not found:
        return None
    return found[0].decode("latin-1") if len(found) == 1 else ""


def _cookie(request: Request) -> str | None:
    """The cookie of who signed in."""
    if not any(name == b"cookie" and _COOKIE in value for name, value in request.scope["headers"]):
        return None
    return request.cookies.get(cookies.NAME)


def same_origin(request: Request) -> bool:
    """Whether a browser says that a page of this very host sent a request."""
    headers = request.headers
    return is_same(headers.get("origin", "").encode("latin-1"), headers.get("host", "").encode("latin-1"))
