"""Calls of the API: what each asks and how its answer is read, for both clients alike. Pure.

What a call writes has an id, made here where the caller gives none: once, before the first attempt, so that every
attempt is the same request.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Required, TypedDict, Unpack, cast
from urllib.parse import quote

import msgspec

from croupier_client.answers import (
    Accepted,
    Decision,
    Erasure,
    Export,
    Key,
    Keys,
    Leave,
    NewKey,
    Ready,
    Record,
    StagedExport,
    Stop,
    Stops,
)
from croupier_client.batches import AGAIN_SECONDS, BATCH_SECONDS, batched
from croupier_client.conversation import Call, Pause, reply, sent
from croupier_client.errors import CroupierError, IdReused, NotFound, Unavailable, sent_under
from croupier_client.messages import PATIENCE_SECONDS, Request, post, read

KEEP_SECONDS: Final = 24 * 3_600


class Asked(TypedDict, total=False):
    """What a request for a decision may say; what is left out is the house's own default.

    Attributes:
        request_id: Yours, unique per player: a retry gets the same answer. Made for you if you give none.
        brand: Brand the contact is for.
        decision_point: Where in your flow you ask.
        channels: Only these.
        offers: Only these.
        purpose: One purpose; without it, marketing and bonus.
        context: What you know of the moment: product, page, device, locale.
        explain: Answer with every reason and number.
        dry_run: Decide without reserving or recording.
        activate: Confirm at once, for what is shown right now.
        after: Wait until features include this position of an event.
        deadline_ms: How long the house may take over one attempt; by default 250.
    """

    request_id: str
    brand: str
    decision_point: str
    channels: Sequence[str]
    offers: Sequence[str]
    purpose: str
    context: Mapping[str, str]
    explain: bool
    dry_run: bool
    activate: bool
    after: str
    deadline_ms: int


class DecisionRequest(Asked, total=False):
    """A request for a decision, one of many."""

    player_id: Required[str]


Event = Mapping[str, Any]
"""An event, one of many: `type`, `player_id` and the fields of its type; the rest is as of a single one."""


def new_id() -> str:
    """An id that nobody used before."""
    return uuid.uuid4().hex


# --- Decisions


def decide(player_id: str, **asked: Unpack[Asked]) -> Call[Decision]:
    """Ask what to do for a player now: one contact to send, or to leave them alone.

    The contact is reserved until its lease ends: `confirm` it just before you send it.
    """
    body = _request({"player_id": player_id, **asked})
    with sent_under(body):
        patience = max(PATIENCE_SECONDS, asked.get("deadline_ms", 0) / 1_000 + 1)
        return read(Decision, (yield from sent(post("/v1/decisions", body, patience=patience))))


def decide_many(requests: Iterable[DecisionRequest]) -> Call[list[Decision | CroupierError]]:
    """Ask for many players at once: for each request, in order, the decision or why there is none.

    What the house could not do now is sent again within the deadline; one bad request spoils nothing.
    """
    bodies = [_request(dict(one)) for one in requests]
    return (yield from batched("/v1/decisions/batch", "requests", bodies, Decision))


def _request(body: dict[str, Any]) -> dict[str, Any]:
    """A request under an id; one that only tries is remembered by nobody."""
    return body if body.get("dry_run") else body | {"request_id": body.get("request_id") or new_id()}


def decision(decision_id: str) -> Call[Record]:
    """The whole record of a decision, with its reasons: why this action and not the next."""
    return read(Record, (yield from sent(Request("GET", f"/v1/decisions/{quote(decision_id, safe='')}"))))


def confirm(decision: Decision | str) -> Call[Leave]:
    """Ask, just before sending, whether a contact may still be sent: an answer is leave to send.

    Raises:
        NotSent: It must not; `rules` say why.
    """
    name = _name(decision)
    return read(Leave, (yield from sent(Request("POST", f"/v1/decisions/{quote(name, safe='')}/confirm"))))


def _name(decision: Decision | str) -> str:
    name = decision.decision_id if isinstance(decision, Decision) else decision
    if not name:
        raise ValueError("a decision that was not recorded has no id")
    return name


# --- Events and outcomes


def event(
    type: str,  # noqa: A002 - the word of the API
    player_id: str,
    *,
    occurred_at: datetime | None = None,
    event_id: str | None = None,
    **fields: Any,  # noqa: ANN401 - those of the type, which the house knows
) -> Call[Accepted]:
    """Tell what a player did, or a fact about them; now, unless `occurred_at` says when. Money is in minor units."""
    body = _event({"type": type, "player_id": player_id, "occurred_at": occurred_at, "event_id": event_id, **fields})
    with sent_under(body):
        return read(Accepted, (yield from sent(post("/v1/events", body))))


def events(many: Iterable[Event]) -> Call[list[Accepted | CroupierError]]:
    """Tell many events: for each, in order, that it was taken or why not; one bad event spoils nothing."""
    bodies = [_event(dict(one)) for one in many]
    try:
        return (yield from batched("/v1/events/batch", "events", bodies, Accepted))
    except NotFound:  # a house of an earlier build takes them one by one
        return (yield from _singly(bodies))


def _singly(bodies: Iterable[dict[str, Any]]) -> Call[list[Accepted | CroupierError]]:
    answers: list[Accepted | CroupierError] = []
    for body in bodies:
        try:
            with sent_under(body):
                answers.append(read(Accepted, (yield from sent(post("/v1/events", body)))))
        except CroupierError as error:
            answers.append(error)
    return answers


def _event(body: dict[str, Any]) -> dict[str, Any]:
    return body | _named("event_id", body.get("event_id"), body.get("occurred_at"))


def _named(word: str, name: str | None, at: datetime | str | None) -> dict[str, str]:
    """Id and moment of what happened; both are made here, or both are the caller's.

    An id of the caller's with a moment of ours would be another event at each repetition.
    """
    if name and at is None:
        raise ValueError(f"with {word} say occurred_at too: sent again it must be the same")
    return {word: name or new_id(), "occurred_at": _iso(at or datetime.now(UTC))}


def outcome(
    type: str,  # noqa: A002 - the word of the API
    decision: Decision | str | None = None,
    *,
    occurred_at: datetime | None = None,
    outcome_id: str | None = None,
    **fields: str,
) -> Call[Accepted]:
    """Tell what became of a contact: sent, delivered, failed, cancelled, opened, clicked, unsubscribed, complained.

    The last two may name `player_id` and `channel`, and `brand`, in place of a decision.
    """
    body = {"type": type, **_named("outcome_id", outcome_id, occurred_at), **fields}
    if decision is not None:
        body["decision_id"] = _name(decision)
    with sent_under(body):
        return read(Accepted, (yield from sent(post("/v1/outcomes", body))))


def _iso(at: datetime | str) -> str:
    if isinstance(at, str):
        return at
    if at.tzinfo is None:
        raise ValueError("a moment without a time zone: say which, as datetime.now(timezone.utc) does")
    return at.isoformat()


# --- Personal data


def erase(player_id: str, reason: str) -> Call[Erasure]:
    """Erase a player with all ids that were linked to them; what restricts contact stays, under a pseudonym."""
    return read(Erasure, (yield from sent(post("/v1/erasures", {"player_id": player_id, "reason": reason}))))


def export(player_id: str) -> Call[Export]:
    """All that is held of a player; a worker of the house makes it meanwhile."""
    staged = read(StagedExport, (yield from sent(post("/v1/exports", {"player_id": player_id}))))
    fetch = Request("GET", f"/v1/exports/{quote(staged.export_id, safe='')}", patience=BATCH_SECONDS)
    while (got := (yield from reply(fetch))).status == 202:
        yield Pause(AGAIN_SECONDS)
    return read(Export, got.body)


# --- Operation


def stop(
    reason: str, *, jurisdiction: str | None = None, offer: str | None = None, channel: str | None = None
) -> Call[Stop]:
    """Stop marketing and bonuses at once: all, or those of one jurisdiction, offer or channel.

    Raises:
        StopIncomplete: Some partitions did not acknowledge it yet.
    """
    named = {"jurisdiction": jurisdiction, "offer": offer, "channel": channel}
    body = {"reason": reason} | {name: value for name, value in named.items() if value is not None}
    return read(Stop, (yield from sent(post("/v1/stops", body))))


def stops() -> Call[Stops]:
    """What is stopped, by whom and why, and the stops that were lifted last."""
    return read(Stops, (yield from sent(Request("GET", "/v1/stops"))))


def lift(stop_id: str, reason: str) -> Call[Stop]:
    """Lift a stop."""
    return read(Stop, (yield from sent(_delete(f"/v1/stops/{quote(stop_id, safe='')}", reason))))


def keys() -> Call[list[Key]]:
    """Every key of the house with its scopes, its end and its last use."""
    return read(Keys, (yield from sent(Request("GET", "/v1/keys")))).keys


def create_key(
    scopes: Sequence[str],
    label: str = "",
    *,
    expires_at: datetime | None = None,
    rate: int | None = None,
    key_id: str | None = None,
) -> Call[NewKey]:
    """Make a key, whose secret is told this once.

    If the first answer was lost on the way, what it made is given a new secret, so that there is one key all the same.
    """
    name = key_id or secrets.token_hex(8)
    body = {"id": name, "scopes": list(scopes), "label": label, "rate": rate}
    if expires_at is not None:
        body["expires_at"] = _iso(expires_at)
    with sent_under(body):
        try:
            return read(NewKey, (yield from sent(post("/v1/keys", body))))
        except IdReused:
            if key_id is not None:
                raise
        return (yield from rotate_key(name, keep_seconds=0))


def rotate_key(key_id: str, keep_seconds: int = KEEP_SECONDS) -> Call[NewKey]:
    """Give a key a new secret; the one before lives on for a while, a day by default."""
    # With none kept it can be done again and again; otherwise a second time meets two live secrets.
    repeats = "unsent" if keep_seconds else "always"
    path = f"/v1/keys/{quote(key_id, safe='')}/rotate"
    return read(NewKey, (yield from sent(post(path, {"keep_seconds": keep_seconds}, repeats=repeats))))


def revoke_key(key_id: str, reason: str) -> Call[Key]:
    """Revoke a key for ever."""
    return read(Key, (yield from sent(_delete(f"/v1/keys/{quote(key_id, safe='')}", reason))))


def ready() -> Call[Ready]:
    """Whether the house serves, asked once: one that does not is an answer, none at all is an error."""
    try:
        return read(Ready, (yield from sent(Request("GET", "/readyz", repeats="never"))))
    except Unavailable as error:
        return Ready(ready=False, trouble=error.detail)


def request(method: str, path: str, body: Mapping[str, Any] | None = None, *, repeatable: bool = False) -> Call[Any]:
    """Any route of the house as JSON, for what has no method here.

    It is sent again after a failure only if you say that it is `repeatable`, or if it never arrived.
    """
    encoded = None if body is None else msgspec.json.encode(body)
    repeats = cast("Any", "always" if repeatable or method.upper() == "GET" else "unsent")
    return read(object, (yield from sent(Request(method.upper(), path, encoded, repeats=repeats))))


def _delete(path: str, reason: str) -> Request:
    return Request("DELETE", path, query={"reason": reason})
