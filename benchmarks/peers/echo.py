"""Echoes: what it costs to receive a request and send it back, without a framework and with FastAPI and pydantic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Moment(BaseModel):
    """What a caller knows of the moment."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    product: Literal["casino", "sports", "poker", "bingo", "lottery"] | None = None
    page: str | None = None
    device: Literal["desktop", "mobile", "tablet"] | None = None
    locale: str | None = None


class Body(BaseModel):
    """A decision's request as it was when this peer was written; it stays, so that the measure does not move."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    player_id: str
    brand: str = "main"
    request_id: str | None = None
    decision_point: str | None = None
    channels: tuple[str, ...] | None = None
    offers: tuple[str, ...] | None = None
    purpose: str | None = None
    context: Moment | None = None
    explain: bool = False
    dry_run: bool = False
    activate: bool = False
    after: str | None = None


def validated() -> FastAPI:
    """The body, validated by pydantic and sent back by FastAPI."""
    app = FastAPI()

    @app.post("/")
    async def answer(body: Body) -> Body:
        return body

    return app


def raw() -> Callable[[Message, Receive, Send], Awaitable[None]]:
    """The bytes of the body, sent back by a bare ASGI application."""

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = (await receive())["body"]
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer
