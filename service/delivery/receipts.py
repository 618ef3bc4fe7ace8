"""Receipts: what providers call back about a message, in the words of the house. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, get_args

from features.moments import micros

ReceiptKind = Literal["delivered", "bounced", "opened", "clicked", "unsubscribed", "complained"]
DECISION_ID: Final = re.compile(r"[0-9]{3}-[a-z2-7]{24}")
"""Of what providers bring back: they may bring anything."""
KINDS: Final[tuple[ReceiptKind, ...]] = get_args(ReceiptKind)


class Receipt(NamedTuple):
    """One event of a message at its provider.

    Attributes:
        name: The provider's own, by which it is taken once; "" for none.
        kind: What happened.
        at_us: When, unix microseconds of the provider's clock; None where it does not say.
        decision_id: Whose message; "" where the provider did not bring it back.
        hard: Of a bounce, whether the address itself is no good.
        machine: Whether a machine opened it for the player, as mail proxies do.
        contact_token: That of the message, where the provider brought it back.
    """

    name: str
    kind: ReceiptKind
    at_us: int | None
    decision_id: str
    hard: bool = False
    machine: bool = False
    contact_token: str = ""


def text_of(told: Mapping[str, Any], name: str) -> str:
    """A field that is a text, "" for none."""
    found = told.get(name)
    return found if isinstance(found, str) else ""


def unix_us(told: object) -> int | None:
    """Unix seconds as microseconds, None for what is no moment."""
    try:
        seconds = float(str(told))
    except ValueError:
        return None
    return int(seconds * 1_000_000) if 0 < seconds < 2**33 else None


def iso_us(told: object) -> int | None:
    """An aware moment of ISO 8601 as microseconds, None for what is none."""
    try:
        at = datetime.fromisoformat(str(told))
    except ValueError:
        return None
    return None if at.tzinfo is None else micros(at)
