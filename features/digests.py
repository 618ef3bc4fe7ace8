"""Digests of events and outcomes: tell a retry from other content under the same id.

A digest covers moments in UTC, so that the offset in which a moment is spelt says nothing. The first build's covered
the offset too; what it remembered stands in stores for 35 days, and is known by `earlier`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from typing import Final

from pydantic import BaseModel

from features.events import Event
from features.forms import Form

_EVERY: Final = "event_id player_id occurred_at brand type"
_OWN: Final = {
    "registered": "jurisdiction licence time_zone birth_date reopened",
    "kyc_verified": "birth_date",
    "login": "location",
    "session_started": "location",
    "session_ended": "",
    "deposit": "status method amount_minor target",
    "bet": "amount_minor product",
    "win": "amount_minor product",
    "withdrawal_requested": "amount_minor method",
    "withdrawal_paid": "amount_minor method",
    "withdrawal_cancelled": "amount_minor method",
    "support_contact": "tags",
    "consent_changed": "channel granted product basis origin",
    "limit_set": "limit change amount_minor",
    "time_out": "until",
    "self_excluded": "scope",
    "exclusion_ended": "scope",
    "closure_requested": "",
    "account_closed": "",
    "register_checked": "register_name listed",
    "objection_changed": "objects",
    "harm_scored": "source level",
    "harm_reviewed": "level",
    "vip_changed": "vip checked",
    "bonus_granted": "amount_minor product",
    "identify": "anonymous_id",
    "alias": "previous_id",
    "household_changed": "household_id",
    # Later than the first build's; a field that comes after a type's own is left out of its digest where it is at its
    # default.
    "kyc_requested": "asked",
    "chargeback": "amount_minor deposit_id deposited_at method",
    "bet_cancelled": "bet_id amount_minor product placed_at",
    "bet_settled": "bet_id amount_minor product",
    "limit_reached": "limit amount_minor",
    "satisfaction_rated": "score scale about",
    "address_changed": "kind address name locale verified removed",
}
_EVENTS: Final = {name: Form(f"{_EVERY} {own}") for name, own in _OWN.items()}
_OTHER: Final = Form(_EVERY)
_OFFSETS: Final = range(-12 * 60, 14 * 60 + 1, 15)
"""Offsets of all zones, minutes."""
_APART: Final = frozenset({0, 60})
"""Minutes between the UTC offsets of two moments of one content: none, or a change to daylight saving time."""


def form_of(event: Event) -> Form:
    """The hash form of an event, by its type."""
    return _EVENTS.get(event.type, _OTHER)


def digest(content: BaseModel, form: Form) -> bytes:
    """Digest of a content, 8 bytes, its moments in UTC."""
    return _digest(_in_utc(content, form))


def earlier(content: BaseModel, form: Form) -> Iterator[bytes]:
    """Digests that the first build may have stored for a content: as spelt now, then in every other UTC offset."""
    text = form.json(content)
    yield _digest(text)
    moments = _moments(content)
    now = {name: _spelt(name, at) for name, at in moments}
    zones = [(minutes, timezone(timedelta(minutes=minutes))) for minutes in _OFFSETS]
    then = {(name, one): _spelt(name, at.astimezone(zone)) for name, at in moments for one, zone in zones}
    for offsets in product(_OFFSETS, repeat=len(moments)):
        if max(offsets) - min(offsets) in _APART or 0 in offsets:
            other = text
            for name, offset in zip(now, offsets, strict=True):
                other = other.replace(now[name], then[name, offset])
            yield _digest(other)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).digest()


def _in_utc(content: BaseModel, form: Form) -> bytes:
    text = form.json(content)
    for name, at in _moments(content):
        if at.utcoffset():
            text = text.replace(_spelt(name, at), _spelt(name, at.astimezone(UTC)))
    return text


def _moments(content: BaseModel) -> list[tuple[str, datetime]]:
    return [(name, value) for name, value in content.__dict__.items() if isinstance(value, datetime)]


def _spelt(name: str, at: datetime) -> bytes:
    """A moment as JSON spells it."""
    return f'"{name}":"{at.isoformat().replace("+00:00", "Z")}"'.encode()
