"""Personal data at the HTTP door: a player erased, or told all that is held of them, whichever id is named."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Annotated

from fastapi import FastAPI, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from features.events import Id
from features.moments import when
from features.store.connection import connect
from features.store.errors import StoreError
from features.store.keys import export_key
from service.api.personal_schemas import ErasureAnswer, ExportAnswer, StagedExportAnswer
from service.api.problems import OF_A_BODY
from service.api.routing import RESTRICTING_SECONDS, Dependencies, Deps, Operation, add_route, respond
from service.errors import ExportFailed, ReasonNamesPlayerError, UnknownExportError, UnknownPlayerError
from service.privacy.erase import Eraser
from service.privacy.exports import Export, Exports, open_made


class ErasureRequest(BaseModel):
    """Whom to erase, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    player_id: Id = Field(description="Your id of the player, any of them.")
    reason: str = Field(min_length=1, max_length=500, description="Why, for the journal; it names nobody.")


async def post_erasure(body: ErasureRequest, deps: Deps) -> Response:
    """Erase a player, with all ids that were linked to them.

    The key that opens their personal fields in log, lake and decisions is destroyed, and open leases are revoked. What
    restricts contact stays, under a pseudonym: exclusions, withdrawn consent, a closed account. A second time erases
    what was told since; if nothing was, it changes nothing and says `already`. The store's own files are written anew
    soon after.
    """
    deps = deps.within(RESTRICTING_SECONDS)
    serving = deps.serving
    features_key = serving.plan.key if serving.plan else lambda _: b""
    eraser = Eraser(serving.house, deps.ledger, features_key, serving)
    told, done = await eraser.erase(body.player_id, deps.caller.name, body.reason)
    return respond(
        ErasureAnswer(
            erased_at=when(done.erased_us),
            ids=len(told.ids),
            leases_revoked=done.revoked,
            facts_removed=done.taken,
            facts_kept=done.staying,
            already=done.already,
        )
    )


class ExportRequest(BaseModel):
    """Of whom everything is asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    player_id: Id = Field(description="Your id of the player, any of them.")


ExportId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="As it was answered when it was asked for.")]


async def post_export(body: ExportRequest, deps: Deps) -> Response:
    """Ask for all that is held of a player, with all ids that were linked to them.

    A worker makes it and it is kept for an hour; fetch it by the id that is answered. A player has one export at a
    time: asked again meanwhile, the same id is answered. An erasure of the player destroys it.
    """
    serving = deps.serving
    features_key = serving.plan.key if serving.plan else lambda _: b""
    return _staged(*await Exports(serving.house, deps.ledger).ask(body.player_id, features_key))


async def get_export(export_id: ExportId, deps: Deps) -> Response:
    """All that is held of a player, once a worker has made it; 202 until then.

    As `croupier export` writes it: moments are ISO 8601, money is in minor units. What is too large for an answer
    fails, and is written by that command.
    """
    exports = Exports(deps.serving.house, deps.ledger)
    export = await exports.find(export_id)
    if export.state == "waiting":
        return _staged(export_id, export)
    key = await exports.key(export)
    made = await asyncio.to_thread(_fetched, deps, export_id, export, key)
    if made is None:
        raise UnknownExportError
    return Response(made, media_type="application/json")


def _fetched(deps: Dependencies, name: str, export: Export, key: bytes | None) -> bytes | None:
    """What was made, over a connection of its own: decisions must not stand behind megabytes."""
    try:
        client = connect(deps.store_url, deps.write_seconds)
    except StoreError as error:
        raise StoreError("no store answers") from error  # its address is for no caller
    with closing(client):
        sealed = client.get(export_key(name))
    return open_made(key, name, export, sealed) if isinstance(sealed, bytes) else None


def _staged(name: str, export: Export) -> Response:
    return respond(StagedExportAnswer(export_id=name, state=export.state, asked_at=when(export.asked_us)), 202)


def add(app: FastAPI) -> None:
    """Add the routes to an application."""
    refusals = (*OF_A_BODY, ReasonNamesPlayerError, UnknownPlayerError)
    add_route(app, Operation("/v1/erasures", post_erasure, "Personal", "personal", ErasureAnswer, refusals, "POST"))
    path, staged, asked = "/v1/exports", StagedExportAnswer, (*OF_A_BODY, UnknownPlayerError)
    add_route(app, Operation(path, post_export, "Personal", "personal", None, asked, "POST", meanwhile=staged))
    refusals, path = (UnknownExportError, ExportFailed), f"{path}/{{export_id}}"
    add_route(app, Operation(path, get_export, "Personal", "personal", ExportAnswer, refusals, meanwhile=staged))
