"""What stays in the house, at the HTTP door: the player's inbox, tasks of agents, and what the catcher caught."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from html import escape
from math import inf
from typing import Annotated, Final, Literal

import msgspec
from fastapi import FastAPI, Path, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from features.events import Id
from features.moments import when
from features.store.errors import StoreError
from features.unshown import Unshown
from service.api.problems import OF_A_BODY
from service.api.routing import Dependencies, Deps, Operation, add_route, keyless, respond
from service.api.schemas import InboxAnswer, InboxMessage, TaskAnswer, TaskDone, TasksAnswer
from service.decisions.kept import load_stored
from service.delivery.kept_messages import KeptMessage, at_player, caught, done_with, inbox_by_placement, open_tasks
from service.delivery.links import InboxToken
from service.errors import NoSuchRouteError, TooManyConnectionsError, UnknownTaskError

INBOX: Final = "/v1/inbox/"
CAUGHT: Final = "/inbox-of-the-house"
TOKEN_SECONDS: Final = 900
"""How long a browser may read an inbox by a token; its page asks the backend for another one."""
STREAMS_MOST: Final = 1_000
"""Inboxes that a process streams at once."""
LOOK_SECONDS: Final = 1.0
BEAT_SECONDS: Final = 15.0
"""How often a stream says that it lives, so that nothing between takes it for dead."""
TASKS_MOST: Final = 200
CAUGHT_MOST: Final = 50
_STREAM: Final = {
    "cache-control": "no-store",
    # Whoever has the token has the inbox, and nothing else: no cookie and no key is looked at.
    "access-control-allow-origin": "*",
    "x-accel-buffering": "no",
}
_PAGE: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "article{border:1px solid GrayText;border-radius:8px;padding:1rem;margin:1rem 0}h2{font-size:1.05rem;margin:0}"
    "iframe{width:100%;height:34rem;border:0;background:#fff}pre{white-space:pre-wrap}"
)
Placement = Literal["app", "site"]
_streams = 0


class InboxRequest(Unshown, BaseModel):
    """Whose inbox, and where it is shown."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    player_id: Id = Field(description="Your id of the player.")
    placement: Placement | None = Field(default=None, description="Only what is shown there; all without it.")


class TaskRequest(BaseModel):
    """What became of a task."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    done: Literal[True] = Field(description="It is done, or will not be: it leaves the list.")


TaskId = Annotated[str, Path(pattern=r"^\d{3}-[a-z2-7]{24}$", description="As the list names it.")]


async def post_inbox(body: InboxRequest, deps: Deps) -> Response:
    """What a player's inbox shows now, with a token by which their own browser may follow it.

    A message is there until `valid_until`, and not after a fact that forbids it was acknowledged: show none that you
    kept. `GET /v1/inbox/{token}` streams the same as server-sent events: `message` with a message, `recalled` with the
    `decision_id` of one that must not be shown any more. Tell the outcomes `opened` and `clicked` as of any contact.
    """
    ledger, house = deps.ledger, deps.serving.house
    player = await ledger.identities.owner(house.player_key(body.player_id))
    now_us = await ledger.now_us()
    found = inbox_by_placement(await at_player(ledger, player, "inbox", now_us), body.placement)
    until = int(time.time()) + TOKEN_SECONDS
    token = deps.links.made(InboxToken(player, body.placement or "", until))
    told = InboxAnswer(messages=[_shown(one) for one in found], token=token, token_until=when(until * 1_000_000))
    return respond(told)


def _shown(one: KeptMessage) -> InboxMessage:
    return InboxMessage(
        decision_id=one.decision_id,
        brand=one.brand,
        offer=one.offer,
        placement=one.placement,
        title=one.title,
        body=one.body,
        url=one.url,
        parameters=one.parameters,
        sent_at=when(one.kept_us),
        valid_until=when(one.valid_until_us),
    )


async def get_stream(request: Request, deps: Dependencies) -> Response:
    """Stream a player's inbox to their own browser until the token ends."""
    told = deps.links.inbox(str(request.path_params["token"]))
    if told is None or told.until <= time.time():
        raise NoSuchRouteError("this token is none of the house, or none any more: ask POST /v1/inbox for another one")
    if _streams >= STREAMS_MOST:
        raise TooManyConnectionsError
    return StreamingResponse(_events(told, deps), media_type="text/event-stream", headers=_STREAM)


async def _events(told: InboxToken, deps: Dependencies) -> AsyncIterator[bytes]:
    """Messages as they come, and what is recalled."""
    global _streams  # noqa: PLW0603 - of this process
    _streams += 1
    shown: dict[str, KeptMessage] = {}
    beat = -inf
    try:
        while (now := time.time()) < told.until:
            try:
                found = await _now(told, deps)
            except StoreError:
                found = list(shown.values())  # what is shown may be out of date by the time that the store is away
            for one in found:
                if one.decision_id not in shown:
                    yield _event("message", msgspec.to_builtins(_shown(one)))
            living = {one.decision_id: one for one in found}
            for gone in shown.keys() - living.keys():
                yield _event("recalled", {"decision_id": gone})
            shown = living
            if now - beat >= BEAT_SECONDS:
                beat = now
                yield b": beat\n\n"
            await asyncio.sleep(LOOK_SECONDS)
        yield _event("ended", {})
    finally:
        _streams -= 1


async def _now(told: InboxToken, deps: Dependencies) -> list[KeptMessage]:
    ledger = deps.asked().ledger
    found = await at_player(ledger, told.player, "inbox", await ledger.now_us())
    return inbox_by_placement(found, told.placement or None)


def _event(name: str, content: object) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(content) + b"\n\n"


async def get_tasks(deps: Deps) -> Response:
    """Tasks that wait for an agent, the oldest first: whom to call, what for, and until when.

    A task leaves when it is told as done, when its time is over, and when what it offers is forbidden.
    """
    now_us = await deps.ledger.now_us()
    found = await open_tasks(deps.ledger, now_us, TASKS_MOST)
    return respond(TasksAnswer(tasks=[_task(one) for _, one in found]))


def _task(one: KeptMessage) -> TaskAnswer:
    return TaskAnswer(
        task_id=one.decision_id,
        decision_id=one.decision_id,
        brand=one.brand,
        channel=one.channel,
        offer=one.offer,
        to=list(one.to),
        title=one.title,
        body=one.body,
        parameters=one.parameters,
        opened_at=when(one.kept_us),
        valid_until=when(one.valid_until_us),
    )


async def post_task(task_id: TaskId, body: TaskRequest, deps: Deps) -> Response:  # noqa: ARG001 - it says the one thing
    """Take a task off the list. A second time changes nothing. What came of the call are outcomes of its decision."""
    ledger = deps.ledger
    held = await ledger.decision(task_id)
    if held is None:
        raise UnknownTaskError
    await done_with(ledger, load_stored(held).kept.player, "task", task_id)
    return respond(TaskDone(task_id=task_id, done=True))


async def get_caught(deps: Deps) -> Response:
    """What the house sent to itself alone, as its players would have got it, the latest first."""
    found = await caught(deps.ledger.store, deps.ledger, CAUGHT_MOST)
    told = "".join(map(_article, found)) or "<p>Nothing was caught yet.</p>"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    page = (
        f'<!doctype html><html lang="en"><head>{head}<title>Inbox of the house</title><style>{_STYLE}</style></head>'
        f"<body><main><h1>Inbox of the house</h1><p>Nothing of this left the house.</p>{told}</main></body></html>"
    )
    return HTMLResponse(page, headers=_PAGE)


def _article(one: KeptMessage) -> str:
    about = f"{escape(one.channel)} to {escape(', '.join(one.to) or 'nobody')}, {when(one.kept_us)}"
    title = escape(one.title or one.offer)
    if one.html:
        shown = f'<iframe sandbox="" title="{title}" srcdoc="{escape(one.html, quote=True)}"></iframe>'
    else:
        shown = f"<pre>{escape(one.body)}</pre>"
    return f"<article><h2>{title}</h2><p>{about}<br><code>{escape(one.decision_id)}</code></p>{shown}</article>"


def add(app: FastAPI) -> None:
    """Add the routes to an application; the stream is for players' browsers, so the page of the API leaves it out."""
    for operation in (
        Operation("/v1/inbox", post_inbox, "Deliver", "decide", InboxAnswer, OF_A_BODY, "POST"),
        Operation("/v1/tasks", get_tasks, "Deliver", "tasks", TasksAnswer, ()),
        Operation(
            "/v1/tasks/{task_id}", post_task, "Deliver", "tasks", TaskDone, (*OF_A_BODY, UnknownTaskError), "POST"
        ),
        Operation(CAUGHT, get_caught, "Deliver", "personal", "text/html", ()),
    ):
        add_route(app, operation)
    path = f"{INBOX}{{token}}"
    app.router.add_api_route(
        path, keyless(get_stream, path), methods=["GET"], include_in_schema=False, response_class=Response
    )
