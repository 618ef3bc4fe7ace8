"""Send states: what becomes of a message that the house sends, and when it is looked at again. Pure.

    due --confirm and attempt, in one--> attempted --taken--> sent --receipt--> delivered
     ^                                    | | |--not taken--> failed: its room is given back
     '------not taken, and time is left---' | '--nobody knows--> unknown --receipt--> delivered, failed
                                            |                       '--a day without one--> sent, never proved
    due --a fact, the caller, its lease--> withdrawn

An attempt without an answer is not repeated for marketing and bonus, save where the provider honours our key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, Self, cast

from models.catalogue.offers import PROMOTIONAL, Purpose
from service.delivery.message import Later, Refused, SendResult, Sent, Unknown

SendState = Literal["due", "attempted", "sent", "delivered", "failed", "unknown", "withdrawn"]
NEVER_PROVED: Final = "never proved"
"""Why an attempt without an answer counts as sent."""
SETTLE_SECONDS: Final = 86_400
"""How long a receipt is waited for, house seconds; most come within minutes."""
WAITS: Final = (1.0, 5.0, 15.0, 60.0, 300.0)
"""Seconds before an attempt without an answer is repeated, where it may be; the last of them from then on."""
MOST_TRIES: Final = 20
"""Attempts at one message: one that is never answered must not be sent for ever."""
SECOND_US: Final = 1_000_000


class Send(NamedTuple):
    """What is known of sending a contact. `at_us` is house time, when it came into this state."""

    state: SendState
    at_us: int
    tries: int
    connector: str = ""
    provider_id: str = ""
    why: str = ""

    @classmethod
    def loads(cls, held: Mapping[bytes, bytes]) -> Self | None:
        """Read what the store holds, None where that is nothing."""
        told = {name.decode(): value.decode() for name, value in held.items()}
        if "state" not in told:
            return None
        state = cast("SendState", told["state"])
        rest = told.get("connector", ""), told.get("id", ""), told.get("why", "")
        return cls(state, int(told.get("at", 0)), int(told.get("tries", 0)), *rest)


def may_repeat(purpose: str, *, honours_key: bool) -> bool:
    """Whether an attempt without an answer may be made again: the provider honours our key, or it must arrive."""
    return honours_key or purpose not in PROMOTIONAL


class Attempt(NamedTuple):
    """An attempt at a message.

    Attributes:
        purpose: Of its contact.
        honours_key: Whether the provider drops a second message of our key.
        tries: Attempts so far, this one with them.
        send_by_us: When its confirm ends, house time.
        valid_until_us: When its lease ends.
        rate: House seconds in a real one.
    """

    purpose: Purpose
    honours_key: bool
    tries: int
    send_by_us: int
    valid_until_us: int
    rate: float = 1.0

    @property
    def repeats(self) -> bool:
        """Whether it may be repeated without an answer."""
        return may_repeat(self.purpose, honours_key=self.honours_key)

    @property
    def last_us(self) -> int:
        """Until when it may be repeated: what is promotional has leave for a minute, whatever must arrive its lease."""
        return self.send_by_us if self.purpose in PROMOTIONAL else self.valid_until_us

    def again_us(self, now_us: int, seconds: float) -> int | None:
        """When it is made again that many real seconds from now; None if that is too late, or too often."""
        at_us = now_us + int(seconds * self.rate * SECOND_US)
        return at_us if at_us <= self.last_us and self.tries < MOST_TRIES else None


class Next(NamedTuple):
    """What comes after an attempt.

    Attributes:
        state: The state that it leaves.
        look_us: When to look at it again, None for never.
        why: For people, without an address.
        provider_id: The provider's name of it.
    """

    state: SendState
    look_us: int | None = None
    why: str = ""
    provider_id: str = ""


def after(result: SendResult, made: Attempt, now_us: int) -> Next:
    """What comes after a connector's answer."""
    match result:
        case Sent(provider_id):
            return Next("sent", provider_id=provider_id)
        case Later(seconds, reason):
            again_us = made.again_us(now_us, seconds)
            return Next("failed", why=f"not in time: {reason}") if again_us is None else Next("due", again_us, reason)
        case Refused(reason, _):
            return Next("failed", why=reason)
        case Unknown(reason):
            return unanswered(made, now_us, reason)


def unanswered(made: Attempt, now_us: int, why: str) -> Next:
    """What comes after an attempt of which nobody knows: it is repeated where it may be, or waits for a receipt."""
    wait = WAITS[min(made.tries, len(WAITS)) - 1]
    again_us = made.again_us(now_us, wait) if made.repeats else None
    return Next("unknown", now_us + SETTLE_SECONDS * SECOND_US if again_us is None else again_us, why)
