"""Messages: one rendered contact, what may become of the attempt to send it, and who sends. Pure.

    reserved contact --render--> Message --Sender.send--> Sent | Later | Refused | Unknown

What is rendered but may not leave any more is dropped by who holds it, never by a connector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from features.unshown import Unshown
from models.catalogue.offers import Purpose


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Message(Unshown):
    """One rendered contact, on its way to one player over one connector. Moments are unix microseconds of house time.

    It shows nothing of itself: addresses and texts are the player's.

    Attributes:
        decision_id: The decision whose contact it is; with it providers' receipts find back.
        player: The player's key, a pseudonym; connectors send it nowhere.
        connector: The name of the connector in `connectors.yaml` that sends it.
        to: Addresses of the player on the channel: one of mail or phone, every token of push; none for what the house
            itself keeps (tasks, inbox).
        sender: Whom it comes from, as the channel writes it: `Casino <hello@example.com>`, a number, a name.
        reply_to: Where answers to a mail go; "" where they go to the sender.
        idempotency_key: The same at every attempt, and in no other message.
        valid_until_us: After this moment it must not leave.
        subject: Of a mail; `title` heads a push or an inbox message, `body` is its text and that of an SMS.
        html, text: The two parts of a mail.
        url: Where the one who taps it is led.
        unsubscribe_url: Page that withdraws consent to the channel without a login; "" where there is none.
        contact_token: What finds the player of a receipt whose decision is not kept any more, see `links`.
        placement: Where the inbox shows it.
        parameters: What the offer gives, for a connector that renders elsewhere.
    """

    decision_id: str
    player: str
    brand: str
    channel: str
    purpose: Purpose
    offer: str
    template: str
    connector: str
    idempotency_key: str
    valid_until_us: int
    jurisdiction: str | None = None
    locale: str = "en"
    to: tuple[str, ...] = ()
    sender: str = ""
    reply_to: str = ""
    subject: str = ""
    html: str = ""
    text: str = ""
    title: str = ""
    body: str = ""
    url: str = ""
    unsubscribe_url: str = ""
    contact_token: str = ""
    placement: str = "app"
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Sent(NamedTuple):
    """The provider took the message; `provider_id` is the name by which its receipts know it."""

    provider_id: str


class Later(NamedTuple):
    """The provider surely did not take it, and may later: no attempt counts before these seconds are over."""

    seconds: float
    reason: str


class Refused(NamedTuple):
    """It surely was not taken. `permanent`: the same message will never be; else another connector or hour may do.

    `reason` is a word or sentence for people, without an address.
    """

    reason: str
    permanent: bool


class Unknown(NamedTuple):
    """No answer to the attempt: the provider may have taken it. A receipt settles it, or it counts as sent."""

    reason: str


SendResult = Sent | Later | Refused | Unknown


class Sender(Protocol):
    """A connector: one vendor's way to send a message. It raises nothing: whatever goes wrong is a result."""

    @property
    def honours_key(self) -> bool:
        """Whether the provider drops a second message of the same idempotency key.

        Only then an attempt without an answer may be repeated for marketing and bonus.
        """
        ...

    async def send(self, message: Message) -> SendResult:
        """Hand a message to the provider, once."""
        ...


class Keeper(Protocol):
    """Where a house keeps messages that it sends to nobody: tasks of agents, the players' inbox."""

    async def keep(self, message: Message) -> str:
        """Keep a message, one for each idempotency key, and return its id; raises StoreError if the store does not."""
        ...
