"""Explain what may be sent to a player now and what not, with reasons, times and the inputs behind them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from features import zones
from features.moments import moment
from features.store.keys import PlayerKeys
from models.catalogue.candidates import Candidates
from service.contacts.ledger import RedisLedger
from service.contacts.snapshot import NO_DECISION, PlayerSnapshot
from service.contacts.stops import Stop
from service.decisions import reasons
from service.decisions.assess import Assessment, assess
from service.decisions.decide import own_id, player_keys
from service.decisions.eligibility import Asked
from service.decisions.explain import extent
from service.decisions.serving import Serving
from service.players import harm
from service.players.harm import TriggeredMarker
from service.rules.inputs import InputRead
from service.rules.sending_hours import promised


class ExplainedPlayer(NamedTuple):
    """A player as they were read, and what a decision would find.

    Attributes:
        own_id: The id by which they are split into variants.
        keys: Names of their keys.
        snapshot: As the store held them.
        assessment: For marketing and bonuses of one brand.
    """

    own_id: str
    keys: PlayerKeys
    snapshot: PlayerSnapshot
    assessment: Assessment


class ExperimentMembership(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment that the player is in."""

    key: str
    version: str
    phase: int
    variant: str
    bucket: float


class AllowedContact(msgspec.Struct, frozen=True, kw_only=True):
    """A contact that nothing denies, with the player's local time from which it may be sent."""

    offer: str
    channel: str
    timing_slot: str
    send_at: str


class DeniedContacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one reason denies: how many actions, and every offer, channel and slot among them."""

    rule: str
    reason: str
    source: str
    confidence: str | None
    actions: int
    offers: list[str]
    channels: list[str]
    timing_slots: list[str]


class PutOff(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule puts off, and to when."""

    rule: str
    timing_slot: str
    allowed_from: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """An assessment for people: what it was made by, what may be sent from when, what not and why."""

    at: str
    brand: str
    places: list[str]
    rulebook: str
    catalogue: str
    packs: list[str]
    harm: str
    harm_sources: dict[str, str]
    harm_markers: list[TriggeredMarker]
    variant: str | None
    experiments: list[ExperimentMembership]
    stage: str
    allowed: list[AllowedContact]
    denied: list[DeniedContacts]
    put_off: list[PutOff]
    inputs: dict[str, InputRead]
    stops: list[Stop] = []


async def read_player(player_id: str, brand: str, serving: Serving, ledger: RedisLedger) -> ExplainedPlayer:
    """Read and assess a player by any of their ids; raises StoreError if the store does not answer."""
    asked = serving.house.player_key(player_id)

    async def read(player: str) -> tuple[PlayerKeys, PlayerSnapshot]:
        keys = player_keys(serving, player)
        return keys, await ledger.view(keys, NO_DECISION, serving.plan)

    keys, snapshot = await ledger.identities.with_owner(asked, read)
    own = own_id(player_id, snapshot, (keys.player, asked), serving.seals)
    now_us = serving.house.now_us(snapshot.real_us)
    assignment = serving.splits.assign(own)
    return ExplainedPlayer(own, keys, snapshot, assess(snapshot, Asked(brand), assignment, now_us, serving))


def explained(assessed: Assessment, serving: Serving) -> Explanation:
    """Explain an assessment."""
    return Explanation(
        at=moment(assessed.at_us).isoformat(),
        brand=assessed.standing.asked.brand,
        places=sorted(assessed.inputs.named or ()),
        rulebook=serving.book.hash,
        catalogue=serving.layout.catalogue.hash,
        packs=list(serving.law.packs(assessed.inputs.places)),
        harm=assessed.harm.level,
        harm_sources=assessed.harm.sources,
        harm_markers=harm.explained(assessed.harm, assessed.inputs.places, serving.book.harm),
        variant=next((member.variant for member in assessed.assignment.memberships), None),
        experiments=[ExperimentMembership(**member._asdict()) for member in assessed.assignment.memberships],
        stage=assessed.stage,
        allowed=list(_allowed(assessed)),
        denied=[_denied(name, bits, serving) for name, bits in assessed.excluded.items()],
        put_off=[
            PutOff(rule=one.rule, timing_slot=one.timing_slot, allowed_from=moment(one.allowed_from_us).isoformat())
            for one in promised(assessed.verdict.deferrals, assessed.excluded)
        ],
        inputs=assessed.inputs.in_words(serving.law.needs(assessed.inputs.places)),
        stops=[one for one in assessed.standing.stops if isinstance(one, Stop) and one.rule in assessed.excluded],
    )


def _allowed(assessed: Assessment) -> Iterator[AllowedContact]:
    """Promotional candidates that nothing denies, with the local time from which each may be sent."""
    space, zone = assessed.space, zones.zone(assessed.facts.time_zone or "UTC")
    left = assessed.eligible & space.promotional
    for at_us, bits in assessed.verdict.moments:
        for place in np.flatnonzero(space.array(left & bits)):
            offer, channel, slot = space.catalogue.action(int(place))
            local = moment(at_us).astimezone(zone).isoformat(timespec="minutes")
            yield AllowedContact(offer=offer.id, channel=channel, timing_slot=slot, send_at=local)


def _denied(name: str, bits: Candidates, serving: Serving) -> DeniedContacts:
    why = reasons.reason(name, serving.reasons)
    return DeniedContacts(
        rule=name,
        reason=why.reason,
        source=why.source,
        confidence=why.confidence,
        **extent(serving.layout.array(bits), serving.layout.catalogue),
    )
