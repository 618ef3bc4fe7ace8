"""Personal data at the HTTP door: a player erased, whichever of their ids is named."""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

from features.events import Id
from features.moments import when
from service.api.problems import OF_A_BODY
from service.api.routing import RESTRICTING_SECONDS, Deps, Operation, add_route, respond
from service.api.schemas import ErasureAnswer
from service.errors import ReasonNamesPlayerError
from service.privacy.erase import Eraser


class ErasureRequest(BaseModel):
    """Whom to erase, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    player_id: Id = Field(description="Your id of the player, any of them.")
    reason: str = Field(min_length=1, max_length=500, description="Why, for the journal; it names nobody.")


async def post_erasure(body: ErasureRequest, deps: Deps) -> Response:
    """Erase a player, with all ids that were linked to them.

    The key that opens their personal fields in log, lake and decisions is destroyed, and open leases are revoked. What
    restricts contact stays, under a pseudonym: exclusions, withdrawn consent, a closed account. A second time erases
    what was told since. The store's own files are written anew soon after.
    """
    deps = deps.within(RESTRICTING_SECONDS)
    serving = deps.serving
    features_key = serving.plan.key if serving.plan else lambda _: b""
    eraser = Eraser(serving.house, deps.ledger, features_key, serving)
    told, done = await eraser.erase(body.player_id, f"key {deps.caller.id}", body.reason)
    return respond(
        ErasureAnswer(
            erased_at=when(done.erased_us),
            ids=len(told.ids),
            leases_revoked=done.revoked,
            facts_removed=done.taken,
            facts_kept=done.staying,
        )
    )


def add(app: FastAPI) -> None:
    """Add the routes to an application."""
    refusals = (*OF_A_BODY, ReasonNamesPlayerError)
    add_route(app, Operation("/v1/erasures", post_erasure, "Know", "personal", ErasureAnswer, refusals, "POST"))
