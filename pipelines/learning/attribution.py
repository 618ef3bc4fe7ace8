"""Attribution: match outcomes to decisions and turn them into training events. Pure.

    decision, confirm, outcomes, the player's own events --in the log's order--> training events

A decision drawn among several actions opens a *reward*: `NO_CONTACT` when it is logged, a contact when it is confirmed.
Everything the player's money does in the window after that counts for it, whatever other rewards are open. An open
reward teaches a 0 when it opens, a 1 when money first moves, penalties as they come, and its final value when the
window has passed by the log's own clock (fake negatives, calibrated in the policy: Ktena et al. 2019, RecSys).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from features.events import once
from features.files import load_yaml
from features.moments import micros
from features.words import fold

TERMS: Final = Path(__file__).parents[1] / "reward.yaml"
Penalty = Literal["unsubscribed", "complained", "limit_set", "harm_signalled", "time_out", "self_excluded"]
HARMFUL: Final = frozenset({"consent_changed", "limit_set", "support_contact", "time_out", "self_excluded"})
"""Types of events of a player that may draw a penalty."""
UNDOES: Final[Mapping[str, Mapping[str, str]]] = {
    "bet_cancelled": {"type": "bet"},
    "chargeback": {"type": "deposit", "status": "approved", "target": "account"},
}
"""Type of an event that takes money back -> columns of the event that it undoes."""
_ENDED: Final = frozenset({"failed", "cancelled"})


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EventValue(_Part):
    """Value of an event type as a share of its amount; a missing field matches anything."""

    type: Literal["bet", "deposit"]
    product: str | None = None
    status: str | None = None
    target: str | None = None
    share: float = Field(ge=0, le=1)


class RewardTerms(_Part):
    """Reward terms: value of events, penalties in minor units."""

    version: Literal[1]
    worth: tuple[EventValue, ...]
    penalties_minor: dict[Penalty, Annotated[int, Field(ge=0)]]

    @classmethod
    def read(cls, path: Path = TERMS) -> Self:
        """Read reward.yaml; raises CatalogueError naming file and field."""
        return load_yaml(path, cls)

    @property
    def types(self) -> frozenset[str]:
        """Types of events with a value, and of those that take one back."""
        named = {one.type for one in self.worth}
        return frozenset(named | {type_ for type_, undone in UNDOES.items() if undone["type"] in named})

    def value_minor(self, event: Mapping[str, Any]) -> float:
        """Value of an event, minor units; negative for one that takes it back, 0 for events without money."""
        if (undone := UNDOES.get(event["type"])) is not None:
            return -self.value_minor({**event, **undone})
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
        kind: `zero` (it began), `one` (money moved for the first time), `more` (it moved again; teaches nothing by
            itself), `penalty`, `value` (final, converted) or `nothing` (final, not converted).
        drawn: The decision.
        amount_minor: What the money that moved is worth, the penalty, or the final value.
        provisional_minor: For `value`: what `one` said.
        harm: For `penalty`: what it is for, a word of `Penalty`.
    """

    kind: Literal["zero", "one", "more", "penalty", "value", "nothing"]
    drawn: DrawnDecision
    amount_minor: float = 0.0
    provisional_minor: float = 0.0
    harm: str | None = None


class OpenRewards(msgspec.Struct, kw_only=True):
    """State of attribution; part of a checkpoint.

    Attributes:
        touches: Decision -> its open reward.
        firsts: Decision -> provisional value of its `one`.
        due: (moment, decision) at which a reward closes, a heap.
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
        terms: Value of events, and penalties.
        window_us: Length of the reward window, microseconds.
        open_rewards: State to continue from.
    """

    def __init__(self, terms: RewardTerms, window_us: int, open_rewards: OpenRewards | None = None) -> None:
        self._terms = terms
        self._penalties: dict[str, int] = {str(kind): minor for kind, minor in terms.penalties_minor.items()}
        self._window_us = window_us
        self.open_rewards = open_rewards or OpenRewards()

    def pass_time(self, now_us: int) -> Iterator[TrainingEvent]:
        """Close rewards whose window has ended at a moment of the log's clock, the earliest first."""
        due, early = self.open_rewards.due, self.open_rewards.early
        while early and (oldest := next(iter(early))) and early[oldest][0][0] + self._window_us < now_us:
            del early[oldest]  # its decision taught nothing
        while due and due[0][0] < now_us:
            ends_us, name = heapq.heappop(due)
            reward = self.open_rewards.touches.get(name)
            if reward is not None and self._ends(reward) == ends_us:
                yield from self._close(reward)

    def decided(self, drawn: DrawnDecision, known_us: int) -> Iterator[TrainingEvent]:
        """Open the reward of a logged decision; a repeated decision yields nothing."""
        rewards, name = self.open_rewards, drawn.decision_id
        if name in rewards.touches:
            return
        reward = rewards.touches[name] = OpenReward(drawn=drawn)
        rewards.by_player.setdefault(drawn.player, []).append(name)
        if drawn.at_once:
            reward.begun_us = drawn.at_us
            yield TrainingEvent("zero", drawn)
        heapq.heappush(rewards.due, (self._ends(reward), name))
        for _, type_, occurred_us in rewards.early.pop(name, ()):
            yield from self.outcome(name, type_, occurred_us, known_us)

    def outcome(self, name: str, type_: str, occurred_us: int, known_us: int) -> Iterator[TrainingEvent]:
        """Apply an outcome of a contact: `confirmed` opens its window, others may cost a penalty.

        One that failed before it was confirmed is over; after that it was meant to happen, and its window goes on
        (intention to treat), or what players do by themselves would count for leaving alone only.
        """
        reward = self.open_rewards.touches.get(name)
        if reward is None:
            self.open_rewards.early.setdefault(name, []).append((known_us, type_, occurred_us))
            return
        if type_ == "confirmed" and not reward.begun_us:
            reward.begun_us = max(occurred_us, reward.drawn.send_us)
            heapq.heappush(self.open_rewards.due, (self._ends(reward), name))
            yield TrainingEvent("zero", reward.drawn)
        elif type_ in _ENDED and not reward.begun_us:
            yield from self._close(reward)
        elif type_ in {"unsubscribed", "complained"}:
            yield from self._punish(reward, type_)

    def event(self, player: str, event: Mapping[str, Any], occurred_us: int) -> Iterator[TrainingEvent]:
        """Apply a player's event to every open reward whose window contains it.

        What undoes an earlier event lies in the windows that the earlier one lies in, whichever becomes known first.
        """
        occurred_us = undone_us(event, occurred_us)
        held = [self.open_rewards.touches[name] for name in self.open_rewards.by_player.get(player, ())]
        within = [one for one in held if one.begun_us and one.begun_us < occurred_us <= one.begun_us + self._window_us]
        seen = self.open_rewards.events.setdefault(player, set()) if within else set()
        name = once(event["type"], event["event_id"], event.get("bet_id") or event.get("deposit_id"))
        if not within or name in seen:
            return
        seen.add(name)
        value, harm = self._terms.value_minor(event), _harm(event)
        for reward in within:
            if value:
                yield from self._earn(reward, value)
            if harm is not None and _concerns(event, reward):
                yield from self._punish(reward, harm)

    def _earn(self, reward: OpenReward, value_minor: float) -> Iterator[TrainingEvent]:
        first = value_minor > 0 and reward.drawn.decision_id not in self.open_rewards.firsts
        reward.value_minor += value_minor
        if first:
            self.open_rewards.firsts[reward.drawn.decision_id] = value_minor
        yield TrainingEvent("one" if first else "more", reward.drawn, value_minor)

    def _punish(self, reward: OpenReward, kind: str) -> Iterator[TrainingEvent]:
        if reward.begun_us and kind not in reward.penalties:
            reward.penalties.add(kind)
            yield TrainingEvent("penalty", reward.drawn, float(self._penalties.get(kind, 0)), harm=kind)

    def _ends(self, reward: OpenReward) -> int:
        return reward.begun_us + self._window_us if reward.begun_us else reward.drawn.valid_until_us

    def _close(self, reward: OpenReward) -> Iterator[TrainingEvent]:
        rewards, name = self.open_rewards, reward.drawn.decision_id
        del rewards.touches[name]
        others = rewards.by_player[reward.drawn.player]
        others.remove(name)
        if not others:
            del rewards.by_player[reward.drawn.player]
            rewards.events.pop(reward.drawn.player, None)
        first = rewards.firsts.pop(name, 0.0)
        if first:
            yield TrainingEvent("value", reward.drawn, reward.value_minor, first)
        elif reward.begun_us:
            yield TrainingEvent("nothing", reward.drawn)


def undone_us(event: Mapping[str, Any], occurred_us: int) -> int:
    """The moment of what an event undoes, its own where it undoes nothing or does not say; unix microseconds."""
    told = event.get("placed_at") or event.get("deposited_at")
    return occurred_us if told is None else micros(datetime.fromisoformat(told))


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


def _concerns(event: Mapping[str, Any], reward: OpenReward) -> bool:
    """Whether an event may penalise a contact; withdrawn consent penalises contacts on its channel only."""
    return event["type"] != "consent_changed" or event.get("channel") == reward.drawn.channel
