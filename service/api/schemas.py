"""Schemas of what the API answers: a struct for each body, from which the OpenAPI page is made.

A field that may be left out has `UNSET` for its default, one that may be null names None. Fields are added at the end
of what they belong to, and never changed or removed (`docs/compatibility.md`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from features.events import HarmLevel
from features.unshown import Unshown
from service.contacts.stops import JournalledStop, Stop
from service.decisions.explain import Why
from service.decisions.explain_player import AllowedContact, DeniedContacts, ExperimentMembership, PutOff
from service.decisions.missing import MissingFact
from service.decisions.record import JourneyPlace, ShadowPolicy, Versions
from service.players.harm import TriggeredMarker
from service.rules.inputs import InputRead

WITHHELD: Final = (
    "Fields left out, or told without what says where the player lives: the key does not allow `personal`."
)
Moment = Annotated[str, Meta(description="ISO 8601, UTC.", extra_json_schema={"format": "date-time"})]


class BodyFault(Struct, kw_only=True):
    """A place of a body that is not valid: what is wrong, what was expected, and what may have been meant."""

    pointer: Annotated[str, Meta(description="The place in the body, as a JSON pointer; empty for the whole of it.")]
    detail: str
    expected: str | UnsetType = UNSET
    example: Annotated[Any, Meta(description="A value that would be taken.")] = UNSET
    did_you_mean: Annotated[str | UnsetType, Meta(description="The nearest name or word that is known.")] = UNSET
    told_by: Annotated[list[str] | UnsetType, Meta(description="Types of events that have such a field.")] = UNSET


class Problem(Struct, kw_only=True):
    """A problem as RFC 9457 has them; `code` is for machines, `detail` for people."""

    type: str = "about:blank"
    title: str
    status: int
    code: Annotated[str, Meta(description="A word for machines, which keeps its meaning.")]
    detail: str
    pointer: Annotated[str | UnsetType, Meta(description="The place in the body, as a JSON pointer.")] = UNSET
    rules: Annotated[list[str] | UnsetType, Meta(description="What forbids the contact, by id.")] = UNSET
    stop: Annotated[str | UnsetType, Meta(description="The stop that does not hold everywhere yet.")] = UNSET
    unreached: Annotated[
        list[str] | UnsetType, Meta(description="Partitions that did not acknowledge it, as `p017`.")
    ] = UNSET
    errors: Annotated[
        list[BodyFault] | UnsetType, Meta(description="Every place that is not valid, the first of which is `pointer`.")
    ] = UNSET
    after_reached: Annotated[
        bool | UnsetType, Meta(description="Whether the features included the position that `after` named.")
    ] = UNSET


# --- Decisions


class OfferAnswer(Struct, kw_only=True):
    """The offer of the catalogue."""

    id: str
    name: str
    template: str
    parameters: Annotated[dict[str, Any], Meta(description="As the catalogue has them: yours.")]


class Offered(Struct, kw_only=True):
    """What to send: the offer, how, and from when."""

    offer: OfferAnswer
    channel: str
    timing_slot: str
    purpose: str
    send_at: Moment


class Lease(Struct, kw_only=True):
    """The right to send, once it is confirmed."""

    valid_until: Moment


class ChurnScore(Struct, kw_only=True):
    """Probability of no approved deposit within the model's horizon."""

    score: float
    model_version: str | None
    is_default: Annotated[
        bool | UnsetType,
        Meta(
            description="Whether it says nothing of this player: no model served, or the player never deposited, and "
            "models know of depositors only."
        ),
    ] = UNSET


class ExperimentPlace(Struct, kw_only=True):
    """The player's place in the experiment."""

    key: str
    variant: str


class Exclusion(Struct, kw_only=True):
    """Why actions were not eligible."""

    rule: Annotated[str, Meta(description="Id of a rule, of a limit as `cap:ID`, or of a reason of the house.")]
    reason: str
    source: str | UnsetType = UNSET
    actions: int | UnsetType = UNSET
    offers: list[str] | UnsetType = UNSET
    channels: list[str] | UnsetType = UNSET
    timing_slots: list[str] | UnsetType = UNSET


class Deferral(Struct, kw_only=True):
    """What a rule put off, and to when."""

    rule: str
    allowed_from: Moment
    actions: int | UnsetType = UNSET
    offers: list[str] | UnsetType = UNSET
    channels: list[str] | UnsetType = UNSET
    timing_slots: list[str] | UnsetType = UNSET


class CandidateCount(Struct, kw_only=True):
    """Actions of the catalogue, and those left after rules and limits; leaving the player alone is one of each."""

    all: int
    eligible: int


class RecordedFeatures(Struct, kw_only=True):
    """Features as the decision saw them, brought forward to its moment."""

    age_seconds: float | None
    as_of: Moment | None
    values: Annotated[
        dict[str, float | None] | None,
        Meta(
            description="By name, null where it never happened, without those that the decision's build did not have; "
            "null as a whole where their names are not kept."
        ),
    ]


class Decided(Struct, kw_only=True):
    """What every answer about a decision holds."""

    decision_id: Annotated[str | None, Meta(description="Null when nothing was recorded.")]
    player_id: Annotated[str | None, Meta(description="Yours, as you sent it; null once the player was erased.")]
    action: Offered | Literal["NO_CONTACT"]
    propensity: Annotated[float | None, Meta(description="The exact probability with which the action was drawn.")]
    lease: Annotated[Lease | None, Meta(description="Null when there is nothing to send.")]
    churn: Annotated[ChurnScore | None, Meta(description="Null for a player who objected to profiling.")]
    harm_level: HarmLevel | None
    experiment: Annotated[ExperimentPlace | None, Meta(description="The first of `experiments`; null for none.")]
    policy_version: str | None
    rules_version: str | None
    degraded: Annotated[list[str], Meta(description="What was missing and done without.")]
    recorded: Annotated[bool, Meta(description="Whether the decision is logged and its contact reserved.")]
    sandbox: bool | UnsetType = UNSET
    assumed: Annotated[list[str] | UnsetType, Meta(description="Facts that a sandbox assumed.")] = UNSET
    lost: Annotated[str | UnsetType, Meta(description="Why the contact that was drawn is not sent.")] = UNSET
    exclusions: Annotated[
        list[Exclusion] | UnsetType, Meta(description="Why not: for no contact, and where it is to be explained.")
    ] = UNSET
    deferrals: list[Deferral] | UnsetType = UNSET
    candidates: CandidateCount | UnsetType = UNSET
    score: Annotated[float | UnsetType | None, Meta(description="The policy's score of the chosen action.")] = UNSET
    stage: Annotated[str | UnsetType, Meta(description="Stage of the player's life, as `new` or `lapsing`.")] = UNSET
    markers: Annotated[dict[str, float] | UnsetType, Meta(description="Markers of harm, by name.")] = UNSET
    harm_sources: Annotated[dict[str, str] | UnsetType, Meta(description="The harm level of each source.")] = UNSET
    features: RecordedFeatures | UnsetType = UNSET
    experiments: Annotated[list[ExperimentMembership], Meta(description="Every experiment that the player is in.")]
    missing: Annotated[
        list[MissingFact] | UnsetType,
        Meta(
            description="In every `NO_CONTACT`: what must be told of the player before they may be contacted; empty "
            "where nothing that is told would help."
        ),
    ] = UNSET


class DecisionAnswer(Decided, kw_only=True):
    """What now for this player: an action with its exact probability, or to leave the player alone.

    From `deferrals` on, fields are there where the request asked to explain.
    """

    why: Why | UnsetType = UNSET
    after_reached: Annotated[
        bool | UnsetType, Meta(description="Whether the features include the position that `after` named.")
    ] = UNSET
    delivers: Annotated[
        bool | UnsetType,
        Meta(
            description="Of a contact that the house was asked to send: whether it does. If not, its channel has no "
            "connector: confirm it and send it yourself."
        ),
    ] = UNSET


class Draw(Struct, kw_only=True):
    """The draw: a uniform number, and the place that it fell on."""

    u: float
    place: int


class EligibleAction(Struct, kw_only=True):
    """An eligible action: `action` for leaving the player alone, else offer, channel and slot."""

    place: int
    action: str | UnsetType = UNSET
    offer: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    timing_slot: str | UnsetType = UNSET
    score: float
    probability: float


class StoredFeatures(Struct, kw_only=True):
    """Names of the stored features of the decision's build, in order; empty where they are not kept."""

    stored: list[str]


class AskedFor(Unshown, Struct, kw_only=True):
    """What the request narrowed the answer to."""

    channels: list[str] | None
    offers: list[str] | None
    activate: bool


class Personal(Unshown, Struct, kw_only=True):
    """What of a record is personal: sealed in the log, and gone once the player is erased."""

    player_id: str
    request_id: str | None
    context: dict[str, str]
    facts: Annotated[dict[str, str], Meta(description="As the store held them, by field.")]
    inputs: Annotated[dict[str, InputRead] | UnsetType, Meta(description="What rules looked at, by name.")] = UNSET
    contacts: Annotated[
        list[tuple[int, str, str]] | UnsetType,
        Meta(description="Contacts that rules counted: unix microseconds, offer, channel."),
    ] = UNSET
    asked: AskedFor | UnsetType = UNSET


class RecordAnswer(Decided, kw_only=True):
    """The whole record of a decision, with its reasons."""

    player: Annotated[str, Meta(description="The player's key inside the house.")]
    brand: str
    at: Moment
    attempt: int
    purposes: list[str]
    decision_point: str | None
    role: Annotated[str, Meta(description="How it was chosen: drawn, lost, holdout, objected, priority or fallback.")]
    bucket: Annotated[float, Meta(description="In the first of its experiments; 0 in none.")]
    draw: Draw
    eligible: list[EligibleAction]
    versions: Versions
    schema: StoredFeatures
    facts_version: str
    ledger_version: str
    format: int
    personal: Annotated[Personal | None, Meta(description="Null once the player was erased.")]
    why: Why
    use: Annotated[str, Meta(description="What it serves for: train, eval, explore or control.")]
    journey: Annotated[JourneyPlace | None, Meta(description="The step of a journey that asked.")]
    shadows: Annotated[list[ShadowPolicy], Meta(description="Policies that are asked after the answer.")]
    withheld: Annotated[list[str] | UnsetType, Meta(description=WITHHELD)] = UNSET
    stops: Annotated[
        list[JournalledStop] | UnsetType, Meta(description="What the house had stopped, with who did it and why.")
    ] = UNSET


def _each(name: str) -> Meta:
    """What the page says of a list whose entries are answers of a name or problems: the union has no tag to go by."""
    kinds = [{"$ref": f"#/components/schemas/{one}"} for one in (name, "Problem")]
    return Meta(extra_json_schema={"items": {"anyOf": kinds}})


class BatchAnswer(Struct, kw_only=True):
    """One answer or problem per request, in order."""

    answers: Annotated[list[Any], _each("DecisionAnswer")]


class ConfirmAnswer(Struct, kw_only=True):
    """Leave to send, from `send_at` and by `send_by`."""

    decision_id: str
    confirmed_at: Moment
    send_at: Moment
    send_by: Moment


# --- Events and outcomes


class AcceptedAnswer(Struct, kw_only=True):
    """Taken and durable."""

    position: Annotated[str, Meta(description="May be given as `after` to a decision that must have seen it.")]
    duplicate: Annotated[bool, Meta(description="Whether it was taken before, and changed nothing now.")]
    warnings: Annotated[
        list[str] | UnsetType, Meta(description="What was unknown or cannot be, and how it was read.")
    ] = UNSET
    staged: Annotated[
        bool | UnsetType,
        Meta(description="Whether it is history, and waits for the import, which finds out whether it is a duplicate."),
    ] = UNSET


class CallbackAnswer(Struct, kw_only=True):
    """What became of the receipts of a callback; it need not come again."""

    taken: Annotated[int, Meta(description="Taken and durable.")]
    duplicates: Annotated[int, Meta(description="Taken before; they changed nothing now.")]
    passed_over: Annotated[int, Meta(description="Of contacts that are not kept any more, or that were never sent.")]


class EventsAnswer(Struct, kw_only=True):
    """One answer or problem per event, in order."""

    answers: Annotated[list[Any], _each("AcceptedAnswer")]


# --- Players


class Fact(Unshown, Struct, kw_only=True):
    """A fact with the moment since which it holds; null for those without one, `assumed` in a sandbox."""

    fact: str
    value: str
    since: str | None


class FeatureValue(Struct, kw_only=True):
    """A feature brought forward to now; null where it never happened."""

    value: float | None
    unit: str


class PlayerFeatures(Struct, kw_only=True):
    """Behaviour, and how old it is; stale where the worker lags more than `max_age_seconds`."""

    age_seconds: float | None
    max_age_seconds: float
    as_of: Moment | None
    trouble: Annotated[str | None, Meta(description="Why behaviour cannot be used.")]
    values: Annotated[dict[str, FeatureValue], Meta(description="By name.")]


class PlayerHarm(Struct, kw_only=True):
    """The harm level, the level of each source, every marker, and those that speak."""

    level: HarmLevel
    sources: dict[str, str]
    markers: dict[str, float]
    speaking: list[TriggeredMarker]


class ReservedContact(Struct, kw_only=True):
    """A contact that is reserved, confirmed or was given back."""

    decision_id: str
    state: str
    offer: str
    channel: str
    send_at: Moment
    valid_until: Moment


class PlayerDecision(Struct, kw_only=True):
    """A recent decision: `action` for no contact, else offer, channel and slot."""

    decision_id: str
    at: Moment
    action: str | UnsetType = UNSET
    offer: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    timing_slot: str | UnsetType = UNSET
    propensity: float
    policy_version: str
    excluded_by: list[str]


class PlayerAnswer(Unshown, Struct, kw_only=True):
    """A player as the house sees them now."""

    player_id: Annotated[str, Meta(description="The id that the player was first known by.")]
    player: Annotated[str, Meta(description="The player's key inside the house.")]
    household: Annotated[str | None, Meta(description="Key of the household that the player lives in.")]
    at: Moment
    brand: str
    sandbox: bool
    facts: list[Fact]
    features: PlayerFeatures
    churn: Annotated[float | None, Meta(description="Null without a model, or for who objected to profiling.")]
    harm: PlayerHarm
    stage: str
    rules: Annotated[list[str], Meta(description="Packs of rules that bind the player.")]
    rulebook: str
    catalogue: str
    inputs: Annotated[dict[str, InputRead], Meta(description="What rules look at, by name.")]
    experiment: Annotated[ExperimentPlace | None, Meta(description="The first of `experiments`.")]
    experiments: Annotated[list[ExperimentMembership], Meta(description="Every experiment that the player is in.")]
    allowed: list[AllowedContact]
    denied: list[DeniedContacts]
    put_off: list[PutOff]
    reservations: list[ReservedContact]
    decisions: list[PlayerDecision]
    withheld: Annotated[list[str] | UnsetType, Meta(description=WITHHELD)] = UNSET
    stops: Annotated[list[Stop], Meta(description="What the house has stopped of what might be sent.")] = []
    churn_is_default: Annotated[
        bool | None, Meta(description="Whether the score says nothing of a player who never deposited.")
    ] = None


# --- Stops


class StopAnswer(JournalledStop, frozen=True, kw_only=True):
    """A stop that holds, or was lifted, everywhere."""

    already: Annotated[bool, Meta(description="Whether it stood, or was lifted, before.")]


class ListedStop(JournalledStop, frozen=True, kw_only=True):
    """A stop of the journal, and where it does not hold as it should."""

    unreached: Annotated[
        list[str], Meta(description="Partitions that lack it, have it still, or do not answer, as `p017`.")
    ]


class StopsAnswer(Struct, kw_only=True):
    """What is stopped, and the stops that were lifted last; the latest first."""

    standing: list[ListedStop]
    lifted: list[ListedStop]


# --- Operation


class HealthAnswer(Struct, kw_only=True):
    """The process is alive."""

    alive: bool


class StoreReach(Struct, kw_only=True):
    """Nodes of the store and whether each answers, partitions that cannot be reached, and how full it is.

    `memory_share` is that of its bound which the fullest node uses; from 0.9 on only what restricts contact is taken.
    """

    nodes: dict[str, bool]
    partitions_away: list[int]
    memory_share: float


class HouseClock(Struct, kw_only=True):
    """The clock of the house; its rate is of house seconds per real second."""

    now: Moment
    rate: float
    sandbox: bool


class ReadyAnswer(Struct, kw_only=True):
    """The process serves; what, is told to who sends a key that allows `operate`."""

    ready: bool
    store: StoreReach | UnsetType = UNSET
    churn_model: str | UnsetType | None = UNSET
    policy: str | UnsetType = UNSET
    rulebook: str | UnsetType = UNSET
    barred: Annotated[
        dict[str, list[str]] | UnsetType,
        Meta(description="Places where a law bars the policy, with the readings: business rules serve there."),
    ] = UNSET
    clock: HouseClock | UnsetType = UNSET


# --- Keys


class RevocationAnswer(Struct, kw_only=True):
    """When a key was revoked, by whom (`key ID`, or the user at the command line), and why."""

    at: Moment
    by: str
    reason: str


class KeyAnswer(Struct, kw_only=True):
    """A key without what its caller sends, which nobody knows but they."""

    id: str
    label: Annotated[str, Meta(description="What it is for.")]
    scopes: list[str]
    state: Annotated[str, Meta(description="live, expired or revoked.")]
    created_at: Moment
    by: Annotated[str, Meta(description="Who made it: `key ID`, or the user at the command line.")]
    rate: Annotated[int | None, Meta(description="Requests a second over the whole house; null is no limit.")]
    last_used_at: Annotated[Moment | None, Meta(description="To a minute or so; null where it was never used.")]
    expires_at: Annotated[
        list[Moment | None], Meta(description="Of each live secret, the newest first; null is never.")
    ]
    rotated_at: Moment | None
    rotated_by: str | None
    revoked: RevocationAnswer | None


class InboxMessage(Struct, kw_only=True):
    """A message to show, until its time is over or it is recalled."""

    decision_id: str
    brand: str
    offer: str
    placement: Annotated[str, Meta(description="`app` or `site`.")]
    title: str
    body: str
    url: Annotated[str, Meta(description="Where it leads; empty for nowhere.")]
    parameters: Annotated[dict[str, Any], Meta(description="As the catalogue has them: yours.")]
    sent_at: Moment
    valid_until: Moment


class InboxAnswer(Struct, kw_only=True):
    """What a player's inbox shows now, the latest first, and the token by which their browser may follow it."""

    messages: list[InboxMessage]
    token: Annotated[str, Meta(description="For `GET /v1/inbox/{token}`; for the player's own browser only.")]
    token_until: Moment


class TaskAnswer(Struct, kw_only=True):
    """A task: whom to call, and what to offer."""

    task_id: str
    decision_id: str
    brand: str
    channel: str
    offer: str
    to: Annotated[list[str], Meta(description="Numbers to call.")]
    title: str
    body: str
    parameters: Annotated[dict[str, Any], Meta(description="As the catalogue has them: yours.")]
    opened_at: Moment
    valid_until: Moment


class TasksAnswer(Struct, kw_only=True):
    """Tasks that wait for an agent, the oldest first."""

    tasks: list[TaskAnswer]


class TaskDone(Struct, kw_only=True):
    """A task that left the list."""

    task_id: str
    done: bool


class KeysAnswer(Struct, kw_only=True):
    """Every key of the house, the oldest first."""

    keys: list[KeyAnswer]


class NewKeyAnswer(KeyAnswer, kw_only=True):
    """A key with its new secret."""

    key: Annotated[str, Meta(description="To be sent as `Authorization: Bearer KEY`. It is shown this once.")]

    def __repr__(self) -> str:
        return f"NewKeyAnswer({self.id})"
