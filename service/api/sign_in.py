"""The page at which people sign in with a key, and are given a cookie for it; it works without scripts."""

from __future__ import annotations

import re
from html import escape
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from features.errors import CroupierError
from service.access import cookies
from service.api.callers import same_origin
from service.api.problems import REFUSALS
from service.api.routing import SIGN_IN, body_of, dependencies_of
from service.errors import CrossSiteError, UnauthorisedError

SIGN_OUT: Final = "/sign-out"
_AFTERWARDS: Final = "/docs"
_LOCAL: Final = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""A path of this host: a browser takes `//host` and `/\\host` for another one, and passes over invisible characters."""
FORM_BYTES: Final = 4_096
"""Of a form: nobody has shown a key yet, and reading one takes time in which all others wait."""
_FORM: Final = "application/x-www-form-urlencoded"
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    ),
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
_STYLE: Final = (
    "body{margin:0;background:#f5f7fa;color:#1f2933;font:16px/1.5 system-ui,sans-serif}"
    "main{max-width:26rem;margin:4rem auto;padding:1.5rem;background:#fff;border:1px solid #d9e0e7;border-radius:8px}"
    "h1{font-size:1.3rem;margin:0 0 1rem}input,button{font:inherit;padding:.5rem;width:100%;box-sizing:border-box}"
    "button{margin-top:1rem}p{margin:.8rem 0}.bad{color:#b42318}"
)


async def get_sign_in(request: Request) -> Response:
    """The page."""
    return _page(_next(request.query_params.get("next", "")))


async def post_sign_in(request: Request) -> Response:
    """Exchange a key for a cookie, and go where the browser wanted to."""
    found = dependencies_of(request)
    asked: dict[str, list[str]] = {}
    try:
        if not same_origin(request):
            raise CrossSiteError
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM:
            asked = parse_qs((await body_of(request, FORM_BYTES)).decode("utf8", "replace"))
        key = asked.get("key", [""])[0].strip()
        if not key:
            raise UnauthorisedError("type a key of the house")
        caller = await found.callers.by_key(key, request, found.renew)
    except REFUSALS as refusal:
        return _page(_next(asked.get("next", [""])[0]), refusal)
    answer = RedirectResponse(_next(asked.get("next", [""])[0]), 303, _HEADERS)
    cookie = cookies.signed(caller, found.callers.signing, found.callers.keyring.now())
    answer.set_cookie(
        cookies.NAME,
        cookie,
        max_age=cookies.SECONDS,
        path="/",
        secure=not _is_plain_loopback(request),
        httponly=True,
        samesite="strict",
    )
    return answer


async def post_sign_out(request: Request) -> Response:
    """Forget the cookie."""
    if not same_origin(request):
        return _page(_AFTERWARDS, CrossSiteError())
    answer = RedirectResponse(SIGN_IN, 303, _HEADERS)
    answer.delete_cookie(
        cookies.NAME, path="/", secure=not _is_plain_loopback(request), httponly=True, samesite="strict"
    )
    return answer


def _next(path: str) -> str:
    """Where to go: a path of this host, else the page of the API."""
    return path if _LOCAL.fullmatch(path) else _AFTERWARDS


def _is_plain_loopback(request: Request) -> bool:
    """Whether a request came over plain HTTP from this machine: a secure cookie would not come back."""
    host = "" if request.client is None else request.client.host
    try:
        return request.url.scheme == "http" and ip_address(host).is_loopback
    except ValueError:
        return False


def _page(path: str, refusal: CroupierError | None = None) -> Response:
    said = "" if refusal is None else f'<p class="bad" role="alert">{escape(str(refusal))}</p>'
    form = (
        f'<form method="post" action="{SIGN_IN}"><input type="hidden" name="next" value="{escape(path)}">'
        '<label for="key">A key of this house</label>'
        '<input id="key" name="key" type="password" autocomplete="off" spellcheck="false" required autofocus>'
        "<button>Sign in</button></form>"
    )
    out = f'<form method="post" action="{SIGN_OUT}"><button>Sign out</button></form>'
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    text = (
        f'<!doctype html><html lang="en"><head>{head}<title>Sign in to Croupier</title><style>{_STYLE}</style></head>'
        f"<body><main><h1>Sign in to Croupier</h1>{said}{form}"
        f"<p>It lasts for {cookies.SECONDS // 3_600} hours, or until the key ends; to sign out forgets it in this "
        f"browser.</p>{out}</main></body></html>"
    )
    headers = _HEADERS if refusal is None else _HEADERS | refusal.headers()
    return HTMLResponse(text, 200 if refusal is None else refusal.status, headers)


def add(app: FastAPI) -> None:
    """Add the routes; they ask for no key, and are pages for people, so that the page of the API leaves them out."""
    for path, endpoint, method in (
        (SIGN_IN, get_sign_in, "GET"),
        (SIGN_IN, post_sign_in, "POST"),
        (SIGN_OUT, post_sign_out, "POST"),
    ):
        app.router.add_api_route(path, endpoint, methods=[method], include_in_schema=False, response_class=Response)
