"""Schemas of what the API answers about personal data: a player erased, and all that is held of one."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from features.unshown import Unshown
from service.api.schemas import AskedFor, Moment
from service.decisions.explain_player import ExperimentMembership
from service.decisions.record import JourneyPlace
from service.rules.inputs import InputRead


class ErasureAnswer(Struct, kw_only=True):
    """A player was erased, and what that did."""

    erased_at: Moment
    ids: Annotated[int, Meta(description="Ids of the player that were erased, linked ones too.")]
    leases_revoked: Annotated[int, Meta(description="Open contacts that were taken back.")]
    facts_removed: int
    facts_kept: Annotated[int, Meta(description="They restrict contact, and stay under a pseudonym.")]
    already: Annotated[
        bool, Meta(description="Whether they were erased before, and nothing was told of them since: nothing was done.")
    ] = False


class StagedExportAnswer(Struct, kw_only=True):
    """An export that was asked for, and how far it is."""

    export_id: Annotated[str, Meta(description="To fetch it by.")]
    state: Literal["waiting", "ready", "failed"]
    asked_at: Moment


_DESTROYED: Final = "A sentence instead, where the key was destroyed by an erasure."
Sentence = Annotated[str, Meta(description=_DESTROYED)]


class ExportedErasure(Struct, kw_only=True):
    """An erasure of the player: when it was asked for and done, by whom and why."""

    asked_at: Moment
    erased_at: Moment | None
    by: str
    reason: str


class ExportedFact(Unshown, Struct, kw_only=True):
    """What the house holds to be so."""

    fact: str
    of_linked_id: Annotated[str | None, Meta(description="The pseudonym that it was told of, if another.")]
    says: str
    since: Annotated[Moment | None, Meta(description="Null where no moment belongs to it.")]


class ExportedFeature(Unshown, Struct, kw_only=True):
    """Behaviour of one id as it was kept, at the last event that changed it."""

    of: Annotated[str, Meta(description="The pseudonym that it is of.")]
    feature: str
    value: float | str
    unit: Annotated[str, Meta(description="What the number counts; `moment` where it is one.")]


class ExportedContact(Struct, kw_only=True):
    """A contact that caps count, or what the player did with one."""

    decision_id: str | UnsetType = UNSET
    send_at: Moment | UnsetType = UNSET
    brand: str | UnsetType = UNSET
    state: str | UnsetType = UNSET
    purpose: str | UnsetType = UNSET
    offer: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    response: Annotated[str | UnsetType, Meta(description="What the player did with it.")] = UNSET
    responded_at: Moment | UnsetType = UNSET


class Told(Unshown, Struct, kw_only=True):
    """What events and outcomes have in common."""

    player: Annotated[str, Meta(description="The pseudonym that it was told of.")]
    type: str
    occurred_at: Moment
    known_at: Annotated[Moment, Meta(description="When the house took it.")]
    position: Annotated[str, Meta(description="Its place in the log.")]
    brand: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    time_zone: str | UnsetType = UNSET
    timing_slot: str | UnsetType = UNSET
    night: bool | UnsetType = UNSET
    told_at: Annotated[Moment | UnsetType, Meta(description="The moment told, if it lay far ahead.")] = UNSET


class ExportedEvent(Told, kw_only=True):
    """An event as it was told."""

    event_id: str
    amount_minor: int | UnsetType = UNSET
    status: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    target: str | UnsetType = UNSET
    product: str | UnsetType = UNSET
    detail: Annotated[str | UnsetType, Meta(description="Further fields, as JSON.")] = UNSET
    counts_at: Annotated[Moment | UnsetType, Meta(description="The moment of what it undoes.")] = UNSET
    currency: Annotated[str | UnsetType, Meta(description="In which the amount was told, if not the house's.")] = UNSET
    said_minor: Annotated[int | UnsetType, Meta(description="The amount as it was told in that currency.")] = UNSET
    rate: Annotated[float | UnsetType, Meta(description="House minor units for one of that currency.")] = UNSET
    rate_source: Annotated[str | UnsetType, Meta(description="Version of the rulebook that the rate is of.")] = UNSET
    personal: Annotated[dict[str, Any] | Sentence | UnsetType, Meta(description="Fields that are sealed.")] = UNSET


class ExportedOutcome(Told, kw_only=True):
    """What became of a contact, as it was told."""

    outcome_id: str
    decision_id: str | UnsetType = UNSET
    offer: str | UnsetType = UNSET


class ShownOffer(Struct, kw_only=True):
    """What a contact showed: name, template and parameters of the offer."""

    name: str
    template: str
    parameters: Annotated[dict[str, Any], Meta(description="As the catalogue had them: yours.")]


class ExportedCount(Struct, kw_only=True):
    """A contact that rules counted."""

    send_at: Moment
    offer: str
    channel: str


class ExportedPersonal(Unshown, Struct, kw_only=True):
    """What of a decision is personal: the id asked about, and what was seen of the player."""

    player_id: str
    request_id: str | None
    context: dict[str, str]
    facts: list[ExportedFact]
    inputs: Annotated[dict[str, InputRead] | None, Meta(description="What rules looked at, by name.")]
    contacts: list[ExportedCount]
    asked: AskedFor | None


class ExportedDecision(Unshown, Struct, kw_only=True):
    """A decision: what was chosen, by what, and what was seen of the player."""

    player: Annotated[str, Meta(description="The pseudonym that it was asked about.")]
    decision_id: str
    at: Moment
    known_at: Moment
    position: Annotated[str, Meta(description="Its place in the log.")]
    excluded_by: Annotated[list[str], Meta(description="Rules and limits that excluded something.")]
    shown: Annotated[ShownOffer | None, Meta(description="Null where the player was left alone.")]
    personal: ExportedPersonal | Sentence
    brand: str | UnsetType = UNSET
    decision_point: str | UnsetType = UNSET
    experiment: str | UnsetType = UNSET
    variant: str | UnsetType = UNSET
    role: str | UnsetType = UNSET
    policy_version: str | UnsetType = UNSET
    offer: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    timing_slot: str | UnsetType = UNSET
    purpose: str | UnsetType = UNSET
    send_at: Moment | UnsetType = UNSET
    valid_until: Moment | UnsetType = UNSET
    activated: bool | UnsetType = UNSET
    propensity: float | UnsetType = UNSET
    u: Annotated[float | UnsetType, Meta(description="What was drawn.")] = UNSET
    place: Annotated[int | UnsetType, Meta(description="Of what was chosen, among all candidates.")] = UNSET
    eligible: Annotated[int | UnsetType, Meta(description="How many candidates were allowed.")] = UNSET
    churn_score: float | UnsetType = UNSET
    churn_version: str | UnsetType = UNSET
    harm_level: str | UnsetType = UNSET
    stage: str | UnsetType = UNSET
    catalogue_version: str | UnsetType = UNSET
    rules_version: str | UnsetType = UNSET
    experiments: list[ExperimentMembership] | UnsetType = UNSET
    global_holdout: bool | UnsetType = UNSET
    use: str | UnsetType = UNSET
    journey: JourneyPlace | UnsetType = UNSET
    experiments_version: str | UnsetType = UNSET


class ExportAnswer(Unshown, Struct, kw_only=True):
    """All that is held of a player; what does not apply is left out."""

    schema: Annotated[int, Meta(description="Version of this object, to which fields are only added.")]
    made_at: Moment
    asked_for: Annotated[str, Meta(description="The id that was asked about.")]
    money: Annotated[str, Meta(description="The unit of amounts, in words.")]
    pseudonym: Annotated[str, Meta(description="The player's key inside the house.")]
    linked_pseudonyms: list[str]
    erased_at: Annotated[Moment | None, Meta(description="Since when all before is erased.")]
    erasures: list[ExportedErasure]
    facts: list[ExportedFact]
    features: list[ExportedFeature]
    contacts: list[ExportedContact]
    events: list[ExportedEvent]
    outcomes: list[ExportedOutcome]
    decisions: list[ExportedDecision]
