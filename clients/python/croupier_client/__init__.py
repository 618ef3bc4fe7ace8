"""Client of a Croupier house: ask for decisions, confirm them, tell events and outcomes; sync and async.

with Croupier("http://127.0.0.1:8000", key) as croupier:
    decision = croupier.decide("player-1")
    if decision.contact and croupier.confirm(decision):
        ...  # send it
"""

from croupier_client.answers import (
    NO_CONTACT,
    Accepted,
    BodyFault,
    Contact,
    Decision,
    Erasure,
    Exclusion,
    Export,
    Key,
    Leave,
    NewKey,
    Problem,
    Ready,
    Record,
    Stop,
    Stops,
)
from croupier_client.calls import Asked, DecisionRequest, Event
from croupier_client.client import AsyncCroupier, Croupier
from croupier_client.errors import (
    Conflict,
    CroupierError,
    Fault,
    IdReused,
    NoAnswer,
    NotAllowed,
    NotFound,
    NotSent,
    NotValid,
    RateLimited,
    Refused,
    StopIncomplete,
    Unavailable,
    UnreadableAnswer,
)

__all__ = [
    "NO_CONTACT",
    "Accepted",
    "Asked",
    "AsyncCroupier",
    "BodyFault",
    "Conflict",
    "Contact",
    "Croupier",
    "CroupierError",
    "Decision",
    "DecisionRequest",
    "Erasure",
    "Event",
    "Exclusion",
    "Export",
    "Fault",
    "IdReused",
    "Key",
    "Leave",
    "NewKey",
    "NoAnswer",
    "NotAllowed",
    "NotFound",
    "NotSent",
    "NotValid",
    "Problem",
    "RateLimited",
    "Ready",
    "Record",
    "Refused",
    "Stop",
    "StopIncomplete",
    "Stops",
    "Unavailable",
    "UnreadableAnswer",
]
