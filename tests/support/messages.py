"""Messages and a clock for tests of delivery."""

from datetime import UTC, datetime
from typing import Any

from features.events import micros
from service.delivery.calls import Clock
from service.delivery.message import Message

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
DECISION = "017-" + "abcdefgh" * 3
CLOCK = Clock(lambda: NOW, lambda until_us: (until_us - micros(NOW)) / 1_000_000)
WHSEC = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

_OWN: dict[str, dict[str, Any]] = {
    "email": {
        "to": ("anna@player.example",),
        "sender": "Casino Example <hello@casino.example>",
        "reply_to": "help@casino.example",
        "subject": "Twenty free spins für Anna",
        "html": "<html><body><p>Twenty free spins</p></body></html>",
        "text": "Twenty free spins",
        "unsubscribe_url": "https://casino.example/unsubscribe/TOKEN",
    },
    "sms": {"to": ("+35699123456",), "sender": "+15551234567", "body": "Twenty free spins. STOP to opt out"},
    "push": {
        "to": ("5e7b1c3a-8b8e-4f0a-9d0c-111111111111",),
        "title": "Twenty free spins",
        "body": "They wait",
        "url": "https://casino.example/c/TOKEN",
    },
    "in_app": {"title": "Twenty free spins", "body": "They wait"},
    "call": {"title": "Call Anna", "body": "About limits"},
}


def message(channel: str = "email", **changed: Any) -> Message:
    """A message of a channel, valid for ten minutes from NOW."""
    told: dict[str, Any] = {
        "decision_id": DECISION,
        "player": "{p017}" + "0" * 30,
        "brand": "main",
        "channel": channel,
        "purpose": "bonus",
        "offer": "free_spins",
        "template": "free_spins_v1",
        "connector": "there",
        "idempotency_key": DECISION,
        "valid_until_us": micros(NOW) + 600_000_000,
        "jurisdiction": "MT",
        "contact_token": "TOKEN",
    }
    return Message(**(told | _OWN[channel] | changed))
