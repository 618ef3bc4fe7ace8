"""Echo peers: the cost of receiving a request and sending it back, bare and with FastAPI and pydantic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Moment(BaseModel):
    """Context of a request as the caller knows it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    product: Literal["casino", "sports", "poker", "bingo", "lottery"] | None = None
    page: str | None = None
    device: Literal["desktop", "mobile", "tablet"] | None = None
    locale: str | None = None


class Body(BaseModel):
    """A decision request as of when this peer was written; frozen, so that measurements stay comparable."""

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
    """FastAPI application that validates the body and sends it back."""
    app = FastAPI()

    @app.post("/")
    async def answer(body: Body) -> Body:
        return body

    return app


def raw() -> Callable[[Message, Receive, Send], Awaitable[None]]:
    """Bare ASGI application that sends the body back."""

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = (await receive())["body"]
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer
