"""Callbacks at the HTTP door: what providers tell of messages; no key is asked for, the provider's signature is."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import Scope

from features.store.errors import StoreError
from service.api.bounds import BOUNDS
from service.api.problems import AT_THE_DOOR
from service.api.routing import Dependencies, Operation, add_route, body_of, respond
from service.api.schemas import CallbackAnswer
from service.contacts.ledger import RedisLedger
from service.decisions.outcomes import WITHDRAWING
from service.delivery.callbacks import Callback, ReceiptTaker, Taken
from service.delivery.links import CALLBACKS
from service.delivery.receipts import Receipt
from service.errors import CallbackRefusedError, FaultError, InvalidJsonError, TooLargeError

CALLBACK_SECONDS = 30.0
"""Deadline of a callback as a whole; what withdraws consent is taken first, within its own."""


async def post_callback(request: Request, deps: Dependencies) -> Response:
    """Take a provider's callback.

    `connector` is the name in the file of connectors. The body is what the provider sends, signed as it signs:
    SendGrid's event webhook, Twilio's status callback, an event stream of OneSignal with its secret header, Standard
    Webhooks. What is not signed so, or longer than five minutes ago, is refused and not read. Each receipt is taken
    once, in any order: the whole callback may come again.
    """
    body = await body_of(request, BOUNDS.callback_bytes)
    callback = Callback(
        str(request.path_params["connector"]),
        target_of(request.scope),
        dict(request.query_params),
        {name.lower(): value for name, value in request.headers.items()},
        body,
    )
    now_us = deps.serving.house.now_us(time.time_ns() // 1_000)
    receipts = deps.callbacks.receipts(callback, time.time(), now_us)
    first = [one for one in receipts if one.kind in WITHDRAWING]
    rest = [one for one in receipts if one.kind not in WITHDRAWING]
    taken = Taken()
    if first:
        taken = await deps.restricting(lambda ledger: _take(callback.connector, first, deps, ledger))
    if rest:
        more = await _take(callback.connector, rest, deps, deps.within(CALLBACK_SECONDS).ledger)
        taken = Taken(*(one + other for one, other in zip(taken, more, strict=True)))
    return respond(CallbackAnswer(**taken._asdict()))


def _take(
    connector: str, receipts: Sequence[Receipt], deps: Dependencies, ledger: RedisLedger
) -> Coroutine[Any, Any, Taken]:
    catalogue = deps.serving.layout.catalogue
    return ReceiptTaker(connector, deps.serving.house, catalogue, ledger, deps.links).take(receipts)


def target_of(scope: Scope) -> str:
    """Path and query of a request, as they were sent."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return (path + (b"?" + query if query else b"")).decode("latin-1")


def add(app: FastAPI) -> None:
    """Add the route."""
    refusals = (CallbackRefusedError, InvalidJsonError, TooLargeError, StoreError, FaultError, *AT_THE_DOOR)
    path = f"{CALLBACKS}{{connector}}"
    add_route(app, Operation(path, post_callback, "Deliver", None, CallbackAnswer, refusals, "POST", keyless=True))
