"""Attribution: match outcomes to decisions and turn them into training events. Pure.

    decision, confirm, outcomes, the player's own events --in the log's order--> lessons

A decision that was drawn among several actions opens a *touch*: `NO_CONTACT` when it is logged, a contact when it is
confirmed. Everything the player's money does in the window after that counts for it, whatever other touches are open.
A touch teaches a 0 when it opens, a 1 when money first moves, penalties as they come, and its final value when the
window has passed by the log's own clock (fake negatives, calibrated in the policy: Ktena et al. 2019, RecSys).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from features.words import fold
from models.catalogue.files import load_yaml

TERMS: Final = Path(__file__).parents[1] / "reward.yaml"
Penalty = Literal["unsubscribed", "complained", "limit_set", "harm_signalled", "time_out", "self_excluded"]
HARMFUL: Final = frozenset({"consent_changed", "limit_set", "support_contact", "time_out", "self_excluded"})
"""Types of events of a player that may draw a penalty."""
_ENDED: Final = frozenset({"failed", "cancelled"})


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Worth(_Part):
    """Value of an event type as a share of its amount; a missing field matches anything."""

    type: Literal["bet", "deposit"]
    product: str | None = None
    status: str | None = None
    target: str | None = None
    share: float = Field(ge=0, le=1)


class Terms(_Part):
    """Reward terms: value of events, penalties in minor units."""

    version: Literal[1]
    worth: tuple[Worth, ...]
    penalties_minor: dict[Penalty, Annotated[int, Field(ge=0)]]

    @classmethod
    def read(cls, path: Path = TERMS) -> Self:
        """Read reward.yaml; raises CatalogueError naming file and field."""
        return load_yaml(path, cls)

    def value_minor(self, event: Mapping[str, Any]) -> float:
        """Value of an event, minor units; 0 for events without money."""
        for one in self.worth:
            asked = {"type": one.type, "product": one.product, "status": one.status, "target": one.target}
            if all(wanted in (None, event.get(column)) for column, wanted in asked.items()):
                return one.share * float(event.get("amount_minor") or 0)
        return 0.0


class DrawnDecision(NamedTuple):
    """A drawn decision; moments in unix microseconds, `context` float32 bytes of `models.policy.context`.

    `channel` and `timing_slot` are None for `NO_CONTACT`; `at_once` marks what needs no confirm.
    """

    decision_id: str
    player: str
    at_us: int
    send_us: int
    valid_until_us: int
    at_once: bool
    offer: str
    channel: str | None
    timing_slot: str | None
    context: bytes


class OpenReward(msgspec.Struct, kw_only=True):
    """A decision whose reward is open; its window begins at `begun_us` (0: a contact not confirmed yet)."""

    drawn: DrawnDecision
    begun_us: int = 0
    value_minor: float = 0.0
    penalties: set[str] = msgspec.field(default_factory=set)


class TrainingEvent(NamedTuple):
    """A training event about a decision.

    Attributes:
        kind: `zero` (it began), `one` (money moved for the first time), `penalty`, `value` (final, converted) or
            `nothing` (final, not converted).
        drawn: The decision.
        amount_minor: The value so far, the penalty, or the final value.
        provisional_minor: For `value`: what `one` said.
    """

    kind: Literal["zero", "one", "penalty", "value", "nothing"]
    drawn: DrawnDecision
    amount_minor: float = 0.0
    provisional_minor: float = 0.0


class OpenRewards(msgspec.Struct, kw_only=True):
    """State of attribution; part of a checkpoint.

    Attributes:
        touches: Open decisions by id.
        firsts: Value that `one` told, by decision.
        due: (moment, decision) at which a touch closes, a heap.
        by_player: Open decisions of a player.
        events: Ids of the events that counted for a player since one was open.
        early: Outcomes that came before their decision: (known, type, occurred) by decision.
    """

    touches: dict[str, OpenReward] = msgspec.field(default_factory=dict)
    firsts: dict[str, float] = msgspec.field(default_factory=dict)
    due: list[tuple[int, str]] = msgspec.field(default_factory=list)
    by_player: dict[str, list[str]] = msgspec.field(default_factory=dict)
    events: dict[str, set[str]] = msgspec.field(default_factory=dict)
    early: dict[str, list[tuple[int, str, int]]] = msgspec.field(default_factory=dict)


class Attribution:
    """Turns log entries into training events, in the order of the log.

    Args:
        terms: What things are worth.
        window_us: Length of the reward window, microseconds.
        books: Where it left off.
    """

    def __init__(self, terms: Terms, window_us: int, books: OpenRewards | None = None) -> None:
        self._terms = terms
        self._penalties: dict[str, int] = {str(kind): minor for kind, minor in terms.penalties_minor.items()}
        self._window_us = window_us
        self.books = books or OpenRewards()

    def pass_time(self, now_us: int) -> Iterator[TrainingEvent]:
        """Close rewards whose window has ended at a moment of the log's clock, the earliest first."""
        due, early = self.books.due, self.books.early
        while early and (oldest := next(iter(early))) and early[oldest][0][0] + self._window_us < now_us:
            del early[oldest]  # its decision taught nothing
        while due and due[0][0] < now_us:
            ends_us, name = heapq.heappop(due)
            touch = self.books.touches.get(name)
            if touch is not None and self._ends(touch) == ends_us:
                yield from self._close(touch)

    def decided(self, drawn: DrawnDecision, known_us: int) -> Iterator[TrainingEvent]:
        """Open the reward of a logged decision; a repeated decision yields nothing."""
        books, name = self.books, drawn.decision_id
        if name in books.touches:
            return
        touch = books.touches[name] = OpenReward(drawn=drawn)
        books.by_player.setdefault(drawn.player, []).append(name)
        if drawn.at_once:
            touch.begun_us = drawn.at_us
            yield TrainingEvent("zero", drawn)
        heapq.heappush(books.due, (self._ends(touch), name))
        for _, type_, occurred_us in books.early.pop(name, ()):
            yield from self.outcome(name, type_, occurred_us, known_us)

    def outcome(self, name: str, type_: str, occurred_us: int, known_us: int) -> Iterator[TrainingEvent]:
        """Apply an outcome of a contact: `confirmed` opens its window, others may cost a penalty.

        One that failed before it was confirmed is over; after that it was meant to happen, and its window goes on
        (intention to treat), or what players do by themselves would count for leaving alone only.
        """
        touch = self.books.touches.get(name)
        if touch is None:
            self.books.early.setdefault(name, []).append((known_us, type_, occurred_us))
            return
        if type_ == "confirmed" and not touch.begun_us:
            touch.begun_us = max(occurred_us, touch.drawn.send_us)
            heapq.heappush(self.books.due, (self._ends(touch), name))
            yield TrainingEvent("zero", touch.drawn)
        elif type_ in _ENDED and not touch.begun_us:
            yield from self._close(touch)
        elif type_ in {"unsubscribed", "complained"}:
            yield from self._punish(touch, type_)

    def event(self, player: str, event: Mapping[str, Any], occurred_us: int) -> Iterator[TrainingEvent]:
        """Apply a player's event to every open reward whose window contains it."""
        held = [self.books.touches[name] for name in self.books.by_player.get(player, ())]
        within = [one for one in held if one.begun_us and one.begun_us < occurred_us <= one.begun_us + self._window_us]
        seen = self.books.events.setdefault(player, set()) if within else set()
        if not within or event["event_id"] in seen:
            return
        seen.add(event["event_id"])
        value, harm = self._terms.value_minor(event), _harm(event)
        for touch in within:
            if value > 0:
                yield from self._earn(touch, value)
            if harm is not None and _concerns(event, touch):
                yield from self._punish(touch, harm)

    def _earn(self, touch: OpenReward, value_minor: float) -> Iterator[TrainingEvent]:
        first = touch.value_minor == 0.0
        touch.value_minor += value_minor
        if first:
            self.books.firsts[touch.drawn.decision_id] = value_minor
            yield TrainingEvent("one", touch.drawn, value_minor)

    def _punish(self, touch: OpenReward, kind: str) -> Iterator[TrainingEvent]:
        if touch.begun_us and kind not in touch.penalties:
            touch.penalties.add(kind)
            yield TrainingEvent("penalty", touch.drawn, float(self._penalties.get(kind, 0)))

    def _ends(self, touch: OpenReward) -> int:
        return touch.begun_us + self._window_us if touch.begun_us else touch.drawn.valid_until_us

    def _close(self, touch: OpenReward) -> Iterator[TrainingEvent]:
        books, name = self.books, touch.drawn.decision_id
        del books.touches[name]
        others = books.by_player[touch.drawn.player]
        others.remove(name)
        if not others:
            del books.by_player[touch.drawn.player]
            books.events.pop(touch.drawn.player, None)
        first = books.firsts.pop(name, 0.0)
        if first:
            yield TrainingEvent("value", touch.drawn, touch.value_minor, first)
        elif touch.begun_us:
            yield TrainingEvent("nothing", touch.drawn)


def _harm(event: Mapping[str, Any]) -> str | None:
    """Kind of penalty that an event draws, None for most."""
    type_ = event["type"]
    if type_ in {"time_out", "self_excluded"}:
        return str(type_)
    if type_ == "consent_changed" and event.get("granted") is False:
        return "unsubscribed"
    if type_ == "limit_set" and event.get("status") in {"set", "lowered"}:
        return "limit_set"
    if type_ == "support_contact" and "harm" in map(fold, event.get("tags") or ()):
        return "harm_signalled"
    return None


def _concerns(event: Mapping[str, Any], touch: OpenReward) -> bool:
    """Whether an event may penalise a contact; withdrawn consent penalises contacts on its channel only."""
    return event["type"] != "consent_changed" or event.get("channel") == touch.drawn.channel
