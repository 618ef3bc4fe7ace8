"""Answers of the house as typed values. Fields that a newer house adds are passed over.

A field that is not always there has a default. Moments are aware datetimes, money is in minor units.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

NO_CONTACT: Final = "NO_CONTACT"
"""The action of leaving the player alone."""
Json: TypeAlias = dict[str, Any]
"""An object whose members are the house's to tell: see its page at `/docs`."""


class BodyFault(Struct, frozen=True, kw_only=True):
    """A place of a body that is not valid: what is wrong, what was expected, and what may have been meant."""

    pointer: str
    detail: str
    expected: str | None = None
    example: Any = None
    did_you_mean: str | None = None
    told_by: list[str] = []


class Problem(Struct, frozen=True, kw_only=True):
    """Why a request was refused (RFC 9457); `code` is for machines, `detail` for people."""

    status: int
    code: str
    title: str = ""
    detail: str = ""
    pointer: str | None = None
    errors: list[BodyFault] = []
    after_reached: bool | None = None
    rules: list[str] = []
    stop: str | None = None
    unreached: list[str] = []


# --- Decisions


class Offer(Struct, frozen=True, kw_only=True):
    """The offer of the catalogue."""

    id: str
    name: str
    template: str
    parameters: Json


class Contact(Struct, frozen=True, kw_only=True):
    """What to send: the offer, how, and from when."""

    offer: Offer
    channel: str
    timing_slot: str
    purpose: str
    send_at: datetime


class Lease(Struct, frozen=True, kw_only=True):
    """The right to send, once it is confirmed."""

    valid_until: datetime


class ChurnScore(Struct, frozen=True, kw_only=True):
    """Probability of no approved deposit within the model's horizon; a default says nothing of the player."""

    score: float
    model_version: str | None
    is_default: bool | None = None


class ExperimentPlace(Struct, frozen=True, kw_only=True):
    """The player's place in an experiment; the last three are told in `experiments`."""

    key: str
    variant: str
    version: str | None = None
    phase: int | None = None
    bucket: float | None = None


class Exclusion(Struct, frozen=True, kw_only=True):
    """Why actions were not eligible: id of a rule, of a limit as `cap:ID`, or of a reason of the house."""

    rule: str
    reason: str
    source: str | None = None
    actions: int | None = None
    offers: list[str] = []
    channels: list[str] = []
    timing_slots: list[str] = []


class Deferral(Struct, frozen=True, kw_only=True):
    """What a rule put off, and to when."""

    rule: str
    allowed_from: datetime
    actions: int | None = None
    offers: list[str] = []
    channels: list[str] = []
    timing_slots: list[str] = []


class CandidateCount(Struct, frozen=True, kw_only=True):
    """Actions of the catalogue, and those left after rules and limits."""

    all: int
    eligible: int


class Decision(Struct, frozen=True, kw_only=True):
    """What now for a player: a contact with the exact probability of its draw, or to leave them alone.

    From `deferrals` to `why`, fields are there where the request asked to explain. `missing` says what must be told of
    the player before they may be contacted.
    """

    decision_id: str | None
    player_id: str | None
    action: Contact | Literal["NO_CONTACT"]
    propensity: float | None
    lease: Lease | None
    churn: ChurnScore | None
    harm_level: str | None
    experiment: ExperimentPlace | None
    policy_version: str | None
    rules_version: str | None
    degraded: list[str]
    recorded: bool
    experiments: list[ExperimentPlace] = []
    sandbox: bool = False
    assumed: list[str] = []
    lost: str | None = None
    after_reached: bool | None = None
    exclusions: list[Exclusion] = []
    deferrals: list[Deferral] = []
    candidates: CandidateCount | None = None
    score: float | None = None
    stage: str | None = None
    why: Json = {}
    missing: list[Json] = []

    @property
    def contact(self) -> Contact | None:
        """What to send, once it is confirmed; None to leave the player alone."""
        return None if self.action == NO_CONTACT else self.action

    def __repr__(self) -> str:
        """Without what is the player's."""
        return f"{type(self).__name__}({self.decision_id or 'not recorded'})"


class EligibleAction(Struct, frozen=True, kw_only=True):
    """An action that was eligible: `action` for leaving the player alone, else offer, channel and slot."""

    place: int
    score: float
    probability: float
    action: str | None = None
    offer: str | None = None
    channel: str | None = None
    timing_slot: str | None = None


class Record(Decision, frozen=True, kw_only=True):
    """The whole record of a decision, with its reasons; `withheld` names what the key does not allow to be told."""

    player: str
    brand: str
    at: datetime
    attempt: int
    purposes: list[str]
    decision_point: str | None
    role: str
    eligible: list[EligibleAction]
    versions: Json
    personal: Json | None
    use: str | None = None
    withheld: list[str] = []

    __repr__ = Decision.__repr__


class Leave(Struct, frozen=True, kw_only=True):
    """Leave to send, from `send_at` and by `send_by`."""

    decision_id: str
    confirmed_at: datetime
    send_at: datetime
    send_by: datetime


# --- Events and outcomes


class Accepted(Struct, frozen=True, kw_only=True):
    """Taken and durable; `position` may be given as `after` to a decision that must have seen it.

    What is `staged` is history: it waits for the house's import, which finds out whether it is a duplicate.
    """

    position: str
    duplicate: bool
    warnings: list[str] = []
    staged: bool = False


# --- Personal data


class Erasure(Struct, frozen=True, kw_only=True):
    """A player was erased, and what that did."""

    erased_at: datetime
    ids: int
    leases_revoked: int
    facts_removed: int
    facts_kept: int
    already: bool = False


class StagedExport(Struct, frozen=True, kw_only=True):
    """An export that was asked for, and how far it is."""

    export_id: str
    state: str
    asked_at: datetime


class Export(Struct, frozen=True, kw_only=True):
    """All that is held of a player, under the ids that were linked to them."""

    made_at: datetime
    asked_for: str
    money: str
    pseudonym: str
    linked_pseudonyms: list[str]
    erased_at: datetime | None
    erasures: list[Json]
    facts: list[Json]
    features: list[Json]
    contacts: list[Json]
    events: list[Json]
    outcomes: list[Json]
    decisions: list[Json]

    def __repr__(self) -> str:
        """Without what is the player's."""
        return f"Export(made at {self.made_at.isoformat()})"


# --- Operation


class Done(Struct, frozen=True, kw_only=True):
    """When something was undone, by whom and why."""

    at: datetime
    by: str
    reason: str


class Stop(Struct, frozen=True, kw_only=True):
    """A stop of marketing and bonuses; `lifted` is None while it stands, `unreached` names partitions that lack it."""

    id: str
    at: datetime
    by: str
    reason: str
    kind: str = "marketing"
    scope: str = ""
    value: str = ""
    lifted: Done | None = None
    already: bool = False
    unreached: list[str] = []


class Stops(Struct, frozen=True, kw_only=True):
    """What is stopped, and the stops that were lifted last; the latest first."""

    standing: list[Stop]
    lifted: list[Stop]


class Key(Struct, frozen=True, kw_only=True):
    """A key of the house without its secret."""

    id: str
    label: str
    scopes: list[str]
    state: str
    created_at: datetime
    by: str
    rate: int | None
    last_used_at: datetime | None
    expires_at: list[datetime | None]
    revoked: Done | None = None


class Keys(Struct, frozen=True, kw_only=True):
    """Every key of the house, the oldest first."""

    keys: list[Key]


class NewKey(Key, frozen=True, kw_only=True):
    """A key with its new secret, which is told this once."""

    key: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"NewKey({self.id})"


class Clock(Struct, frozen=True, kw_only=True):
    """The clock of the house; its rate is of house seconds per real second."""

    now: datetime
    rate: float
    sandbox: bool


class Ready(Struct, frozen=True, kw_only=True):
    """Whether the house serves; what, and why not, is told to a key that allows `operate`."""

    ready: bool
    trouble: str | None = None
    churn_model: str | None = None
    policy: str | None = None
    rulebook: str | None = None
    clock: Clock | None = None
