"""The door of the API: which hosts it answers for, and what a browser may not send from another site's page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import refuse
from service.errors import CrossSiteError, MisdirectedError, RequestRefused, UnsupportedMediaTypeError

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110, section 9.2.1)."""
JSON: Final = b"application/json"
PLAIN: Final = b"identity"
PACKED: Final = frozenset({None, PLAIN, b"gzip", b"x-gzip"})
"""How a body may be packed (RFC 9110, section 8.4.1; its `x-gzip` is an older name of the other)."""


class Doorkeeper:
    """What every request passes before any route: no key is read, and no body.

    A page of any site may make a browser send requests to a house on the browser's machine or network, under a name of
    that site (DNS rebinding) or under the house's own. The first is seen by Host, the second by what browsers say of
    the page (the Fetch standard's Origin, and Sec-Fetch-Site). No answer ever lets another site's page read it.

    Args:
        app: What answers.
        direct: What answers for it by method and path: routes that let no exception out and have no parameter in their
            path need neither search nor what is put around others.
    """

    def __init__(self, app: ASGIApp, direct: Mapping[tuple[str, str], ASGIApp]) -> None:
        self._app, self._direct = app, direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or let it pass; HEAD is answered as GET is, without the body (RFC 9110, section 9.3.2)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (refusal := _refusal(scope)) is not None:
            scope["app"].state.deps.metrics.refused(refusal)
            await refuse(refusal)(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET", "head": True}, _without_body(send)
        route = self._direct.get((scope["method"], scope["path"]), self._app)
        with suppress(ClientDisconnect):  # there is nobody to answer, and it is nobody's fault; the route counted it
            await route(scope, receive, send)


def _refusal(scope: Scope) -> RequestRefused | None:
    """Why a request may not pass; None lets it."""
    host = origin = site = b""
    for name, value in scope["headers"]:
        if name == b"host":
            host = value
        elif name == b"origin":
            origin = value
        elif name == b"sec-fetch-site":
            site = value
    named = name_of(host)
    if named not in scope["app"].state.settings.hosts and not _reached(scope, named):
        return MisdirectedError()
    if scope["method"] in READING:
        return None
    foreign = origin and not is_same(origin, host)
    return CrossSiteError() if foreign or site == b"cross-site" else None


def _reached(scope: Scope, named: str) -> bool:
    """Whether a Host is the address that the connection was made to, or none: no browser sends none."""
    return named == (scope.get("server") or ("",))[0] or (not named and scope["http_version"] == "1.0")


def is_same(origin: bytes, host: bytes) -> bool:
    """Whether a page's origin has the host of a request; behind a proxy that ends TLS only one of them has it."""
    return bool(host) and origin.partition(b"://")[2].lower() == host.lower()


def name_of(host: bytes) -> str:
    """The name or address in a Host field, without port, brackets and a last dot."""
    text = host.decode("latin-1").lower()
    return text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0].removesuffix(".")


def demand_json(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Refuse a body that is not sent as JSON: a page of another site can send any other sort unasked.

    Headers have names in lower case; of several of a name the first counts. Returns whether the body is gzipped.
    """
    kind = packed = None
    for name, value in headers:
        if name == b"content-type" and kind is None:
            kind = value.partition(b";")[0].strip().lower()
        elif name == b"content-encoding" and packed is None:
            packed = value.strip().lower()
    if kind != JSON or packed not in PACKED:
        raise UnsupportedMediaTypeError
    return packed not in {None, PLAIN}


def _without_body(send: Send) -> Send:
    async def head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return head
