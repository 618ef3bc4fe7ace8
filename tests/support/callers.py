"""Call a house over HTTP, under other limits, brands and links."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from conftest import app_of
from support.players import adult_events, event, tell
from support.rule_cases import HOUSE

from features.store.deployment import House
from features.store.keys import PlayerKeys
from models.catalogue.candidates import CandidateSpace
from models.catalogue.experiment import variant
from models.catalogue.offers import Catalogue
from service.contacts.ledger import RedisLedger
from service.players import sealing


def variant_of(player: str) -> str:
    """The variant of a player in the house's catalogue."""
    assert HOUSE.experiment is not None
    return variant(HOUSE.experiment.key, player, HOUSE.experiment.variants)


def player_of(group: str, prefix: str = "p") -> str:
    """A player of a variant."""
    names = (f"{prefix}{number}" for number in range(1_000))
    return next(one for one in names if variant_of(one) == group)


def among(*variants: str) -> list[str]:
    """Players of some variants, by name."""
    names = (f"person-{number}" for number in range(400))
    return [one for one in names if variant_of(one) in variants]


PLAYER, OTHER, *MORE = among("policy")
IN_HOLDOUT = among("holdout")[0]


async def post(client: Any, route: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    answer = await client.post(route, json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


async def asked(client: Any, player: str, **more: Any) -> dict[str, Any]:
    return await post(client, "/v1/decisions", {"player_id": player, "explain": True, **more})


async def asked_at_once(client: Any, players: Sequence[str], **more: Any) -> list[dict[str, Any]]:
    """Answers to decisions that are asked for at the same moment; who finds the player changed each time gets none.

    Whoever is shed, because so many are too many for this machine, asks again when the others have their answers.
    """
    waiting, answers = [{"player_id": player, **more} for player in players], []
    while waiting:
        found = await asyncio.gather(*(client.post("/v1/decisions", json=body) for body in waiting))
        refused = {at: one.json()["code"] for at, one in enumerate(found) if one.status_code == 503}
        assert set(refused.values()) <= {"contended", "overloaded"}, refused
        assert all(one.status_code in {200, 503} for one in found)
        answers += [one.json() for one in found if one.status_code == 200]
        waiting = [body for at, body in enumerate(waiting) if refused.get(at) == "overloaded"]
    return answers


async def states(client: Any, player: str) -> dict[str, str]:
    told = (await client.get(f"/v1/players/{player}")).json()
    return {one["decision_id"]: one["state"] for one in told["reservations"]}


async def settled(client: Any, *names: str) -> None:
    """Adults whose features follow what was told of them: what is drawn for them now may be sent now."""
    for name in names:
        await asked(client, name, after=await tell(client, adult_events(name)), dry_run=True)


async def live_together(client: Any, *names: str) -> None:
    """Adults of one household, of whom one may be contacted once a day."""
    with_limits(client, caps=[{"id": "home", "contacts": 1, "hours": 24, "scope": "household"}])
    await settled(client, *names)
    await tell(client, [event(name, "household_changed", household_id="home-4") for name in names])


def with_limits(client: Any, **limits: Any) -> Catalogue:
    """Serve another catalogue: the same offers under other limits."""
    deps = app_of(client).state.deps
    plain = HOUSE.model_dump(mode="json") | {"caps": []} | limits
    catalogue = Catalogue.model_validate(plain)
    law = type(deps.serving.law)(deps.serving.law.book, CandidateSpace(catalogue))
    deps.serving = replace(deps.serving, law=law)
    return catalogue


def with_brands(client: Any, *brands: str) -> None:
    """Serve under a rulebook that names brands."""
    deps = app_of(client).state.deps
    book = deps.serving.book
    settings = book.settings.model_copy(update={"brands": brands})
    law = type(deps.serving.law)(book.model_copy(update={"settings": settings}), deps.serving.layout)
    deps.serving = replace(deps.serving, law=law)


def rules(answer: dict[str, Any]) -> set[str]:
    return {one["rule"] for one in answer["exclusions"]}


async def facts_of(client: Any, player: str) -> dict[str, str]:
    """Values of what is known of a player, by fact."""
    told = (await client.get(f"/v1/players/{player}")).json()
    return {one["fact"]: one["value"] for one in told["facts"]}


async def marked(ledger: RedisLedger, house: House, linked: str, player: str) -> str:
    """The mark on an id that a link begins with, as one leaves it who dies then."""
    key = house.player_key(player)
    seal = (await ledger.seal(PlayerKeys(key))).key
    name = base64.b64encode(sealing.seal(seal, {"player_id": player}, sealing.NAME)).decode()
    return (await ledger.identities.begin_merge(house.player_key(linked), key, name)).mark
