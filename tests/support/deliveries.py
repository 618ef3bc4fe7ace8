"""Deliver over a sender that does as it is told: what it was handed, and what it answers."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import redis

from features.store.keys import send_key, sends_key
from pipelines.worker.lanes import Delivery
from service.decisions.kept import KeptDecision
from service.decisions.serving import Serving
from service.delivery.calls import Clock
from service.delivery.connectors_file import Connectors
from service.delivery.kept_messages import Keepers
from service.delivery.message import Message, Refused, Sender, SendResult, Sent

CONNECTORS: Final = Connectors.model_validate(
    {
        "connectors": {"post": {"kind": "catcher", "timeout_seconds": 2, "at_once": 8}},
        "routes": [{"channel": "email", "connector": "post", "sender": "House <house@example.com>"}],
    }
)
Answer = Callable[[Message], SendResult | BaseException | None]
"""What a message meets: a result, an error, or None for no answer at all."""


class Plainly:
    """Renders without templates: every contact goes to one address."""

    def look(self, _serving: Serving) -> None:
        pass

    def message(self, kept: KeptDecision, _facts: Mapping[bytes, bytes], _key: bytes | None) -> Message | Refused:
        sent = kept.action
        assert sent is not None
        return Message(
            decision_id=kept.decision_id,
            player=kept.player,
            brand=kept.brand,
            channel=sent.channel,
            purpose=sent.purpose,  # type: ignore[arg-type]
            offer=sent.offer,
            template=sent.template,
            connector="post",
            idempotency_key=kept.decision_id,
            valid_until_us=sent.valid_until_us,
            to=("nora@example.com",),
            subject="hello",
            text="hello",
        )


class Post:
    """A provider in this process, and what it was handed, by decision."""

    def __init__(self, answer: Answer | None = None, *, honours_key: bool = False) -> None:
        self.answer = answer or (lambda message: Sent(f"id-{message.decision_id}"))
        self.honours_key = honours_key
        self.handed: Counter[str] = Counter()
        self.arrived = threading.Condition()

    async def send(self, message: Message) -> SendResult:
        with self.arrived:
            self.handed[message.decision_id] += 1
            self.arrived.notify_all()
        found = self.answer(message)
        if isinstance(found, BaseException):
            raise found
        if found is None:
            await asyncio.Event().wait()
        assert found is not None
        return found

    def wait_for(self, count: int, seconds: float = 30.0) -> bool:
        with self.arrived:
            return self.arrived.wait_for(lambda: self.handed.total() >= count, seconds)

    def delivery(self, told: Connectors = CONNECTORS) -> Delivery:
        @asynccontextmanager
        async def senders(_clock: Clock, _keepers: Keepers) -> AsyncIterator[Mapping[str, Sender]]:
            yield {"post": self}

        return Delivery(told, Plainly(), senders)


def state(store: redis.Redis, decision: str) -> str | None:
    found: Any = store.hget(send_key(decision), "state")
    return None if found is None else found.decode()


def why(store: redis.Redis, decision: str) -> str:
    found: Any = store.hget(send_key(decision), "why")
    return (found or b"").decode()


def waiting(store: redis.Redis, decision: str) -> bool:
    return store.zscore(sends_key(int(decision[:3])), decision) is not None


def until(met: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Wait until something is found, and return it."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := met()):
        assert time.monotonic() < deadline, "nothing came of it"
        pause.wait(0.05)
    return found


def tell(client: httpx.Client, events: list[dict[str, Any]]) -> str:
    """Send events one by one; the position of the last."""
    position = ""
    for each in events:
        answer = client.post("/v1/events", json=each)
        assert answer.status_code == 200, answer.text
        position = str(answer.json()["position"])
    return position


def promoted(client: httpx.Client, player: str, channel: str, after: str) -> str | None:
    """A promotional contact that the house sends at once; one that waits for another hour is taken back.

    It is decided by what was told up to a position: what the player's stage forbids would be revoked as it leaves.
    """
    asked = {"player_id": player, "channels": [channel], "deliver": True, "after": after, "deadline_ms": 20_000}
    answer = client.post("/v1/decisions", json=asked).json()
    if not answer.get("delivers"):
        return None
    decision, now = str(answer["decision_id"]), datetime.now(UTC)
    if datetime.fromisoformat(answer["action"]["send_at"]) <= now + timedelta(seconds=5):
        return decision
    cancelled = {"outcome_id": decision, "decision_id": decision, "type": "cancelled", "occurred_at": now.isoformat()}
    assert client.post("/v1/outcomes", json=cancelled).status_code == 200
    return None


def until_state(store: redis.Redis, decision: str, wanted: str, seconds: float = 30.0) -> None:
    """Wait until a message is in a state."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if state(store, decision) == wanted:
            return
        pause.wait(0.02)
    raise AssertionError(f"{decision} is {state(store, decision)}: {why(store, decision)}; not {wanted}")
