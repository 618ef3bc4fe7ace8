"""Links of messages at the HTTP door: the page that unsubscribes, and clicks; our signed token is the key."""

from __future__ import annotations

import time
from html import escape
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from structlog import get_logger

from features.errors import CroupierError
from features.moments import moment
from features.store.errors import StoreError
from service.api.routing import Dependencies, keyless
from service.decisions.outcomes import Contact, Outcome, take
from service.delivery.links import CLICK, UNSUBSCRIBE, ClickToken
from service.errors import RequestRefused

CHANNEL_WORDS: Final = {
    "email": "e-mails",
    "sms": "text messages",
    "push": "push messages",
    "in_app": "messages in the app",
    "call": "calls",
}
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex",
}
_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{margin:0;background:Canvas;color:CanvasText;font:18px/1.5 system-ui,sans-serif}"
    "main{max-width:30rem;margin:4rem auto;padding:1.5rem}"
    "h1{font-size:1.4rem;margin:0 0 1rem}button{font:inherit;padding:.7rem 1.2rem}"
)
_LOG: Final = get_logger()


async def get_unsubscribe(request: Request, deps: Dependencies) -> Response:
    """Ask whether somebody wants no more messages: programs that follow every link of a mail change nothing."""
    told = deps.links.contact(str(request.path_params["token"]))
    if told is None:
        return _unknown()
    what = CHANNEL_WORDS.get(told.channel, told.channel)
    form = '<form method="post"><button>Send me no more</button></form>'
    return _page(f"No more {what}?", f"<p>We will send you no more offers as {escape(what)}.</p>{form}")


async def post_unsubscribe(request: Request, deps: Dependencies) -> Response:
    """Withdraw consent to the channel; a mail program's one click (RFC 8058) is the same as the page's button.

    It is taken as often as it is asked for: consent may have been given anew since.
    """
    token = str(request.path_params["token"])
    told = deps.links.contact(token)
    if told is None:
        return _unknown()
    now_us = deps.serving.house.now_us(time.time_ns() // 1_000)
    name = deps.serving.house.digest("unsubscribe", token, str(now_us)).hex()
    outcome = _outcome(f"unsubscribe-{name}", "unsubscribed", told.decision_id, now_us)
    about, serving = Contact(told.player, told.brand, told.channel), deps.serving
    try:
        await deps.restricting(
            lambda ledger: take(outcome, serving.house, serving.layout.catalogue, ledger, named=about)
        )
    except StoreError as error:
        _LOG.warning("unsubscribe", trouble=error.code)
        return _page("Not yet", "<p>We could not note it now. Please try again in a minute.</p>", error)
    what = CHANNEL_WORDS.get(told.channel, told.channel)
    return _page("Done", f"<p>We send you no more offers as {escape(what)}.</p>")


async def get_click(request: Request, deps: Dependencies) -> Response:
    """Lead on, and note the click; whatever becomes of that, nobody is kept from where they want to go."""
    token = str(request.path_params["token"])
    told = deps.links.click(token)
    if told is None:
        return _unknown()
    if not request.scope.get("head"):
        await _note(told, token, deps)
    return RedirectResponse(told.url, 302, {"cache-control": "no-store", "referrer-policy": "no-referrer"})


async def _note(told: ClickToken, token: str, deps: Dependencies) -> None:
    """Note that a link was followed, once for each link of a message."""
    house, now_us = deps.serving.house, deps.serving.house.now_us(time.time_ns() // 1_000)
    outcome = _outcome(f"click-{house.digest('click', token).hex()}", "clicked", told.decision_id, now_us)
    try:
        await take(outcome, house, deps.serving.layout.catalogue, deps.ledger)
    except RequestRefused:
        pass  # noted before, or of a contact that is not kept any more
    except StoreError as error:
        _LOG.warning("click", trouble=error.code, decision_id=told.decision_id)


def _outcome(name: str, kind: str, decision: str, now_us: int) -> Outcome:
    return Outcome.model_validate(
        {"outcome_id": name, "decision_id": decision, "type": kind, "occurred_at": moment(now_us)}
    )


def _unknown() -> Response:
    text = "<p>This link is not whole. Please open it from the message again, or copy all of it.</p>"
    return _page("Not found", text, status=404)


def _page(title: str, text: str, error: CroupierError | None = None, status: int = 200) -> Response:
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    page = (
        f'<!doctype html><html lang="en"><head>{head}<title>{escape(title)}</title><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{text}</main></body></html>"
    )
    if error is None:
        return HTMLResponse(page, status, _HEADERS)
    return HTMLResponse(page, error.status, _HEADERS | error.headers())


def add(app: FastAPI) -> None:
    """Add the routes; they are for players, so that the page of the API leaves them out."""
    for path, endpoint, method in (
        (f"{UNSUBSCRIBE}{{token}}", get_unsubscribe, "GET"),
        (f"{UNSUBSCRIBE}{{token}}", post_unsubscribe, "POST"),
        (f"{CLICK}{{token}}", get_click, "GET"),
    ):
        app.router.add_api_route(
            path, keyless(endpoint, path), methods=[method], include_in_schema=False, response_class=Response
        )
