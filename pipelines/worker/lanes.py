"""Lanes of connectors: each sends beside the others, at its own pace, and waits for nobody but its provider."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from features.store.deployment import House
from pipelines.worker.due import DueMessage
from pipelines.worker.rates import ConnectorRate
from service.decisions.kept import KeptDecision
from service.decisions.serving import Serving
from service.delivery.calls import Clock
from service.delivery.connectors_file import Connectors
from service.delivery.kept_messages import Keepers
from service.delivery.message import Message, Refused, Sender
from service.delivery.sends import SECOND_US


class Rendering(Protocol):
    """What makes messages of contacts."""

    def look(self, serving: Serving) -> None:
        """Take up what serves now; it may wait for the store. Raises CroupierError if that cannot be read."""
        ...

    def message(self, kept: KeptDecision, facts: Mapping[bytes, bytes], key: bytes | None) -> Message | Refused:
        """The message of a decision's contact, by the facts of its player, whose personal ones the key opens."""
        ...


OpenSenders = Callable[[Clock, Keepers], AbstractAsyncContextManager[Mapping[str, Sender]]]


class Delivery(NamedTuple):
    """What a house delivers with: the file of connectors, what renders, what opens the senders."""

    told: Connectors
    rendering: Rendering
    senders: OpenSenders


@dataclass(eq=False)
class Lane:
    """One connector: messages under way, what waits for a turn, pauses that its provider asked for."""

    name: str
    sender: Sender
    rate: ConnectorRate
    at_once: int
    timeout_seconds: float
    busy: int = 0
    paused_until: float = 0.0
    waiting: deque[DueMessage] = field(default_factory=deque)

    @property
    def is_full(self) -> bool:
        """Whether a message must wait for its turn."""
        return self.busy >= self.at_once


def lanes_of(told: Connectors, senders: Mapping[str, Sender], most: int) -> dict[str, Lane]:
    """A lane for each connector, with so many messages under way at most."""
    found = {}
    for name, sender in senders.items():
        one = told.connectors[name]
        found[name] = Lane(
            name, sender, ConnectorRate(name, one.per_second), min(one.at_once, most), one.timeout_seconds
        )
    return found


class HouseTime:
    """The store's clock and the house's, extrapolated since the store was last read."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._read_us, self._at = 0, 0.0

    def read(self, real_us: int) -> None:
        """Note what the store's clock says now."""
        self._read_us, self._at = real_us, time.monotonic()

    def real_us(self) -> int:
        """The store's clock, unix microseconds."""
        return self._read_us + int((time.monotonic() - self._at) * SECOND_US)

    def now_us(self) -> int:
        """House time."""
        return self._house.now_us(self.real_us())

    def after(self, seconds: float) -> int:
        """House time in some real seconds."""
        return self.now_us() + int(seconds * SECOND_US * self._house.rate)

    def left_seconds(self, at_us: int) -> float:
        """Real seconds until a moment of house time."""
        return (at_us - self.now_us()) / SECOND_US / self._house.rate
