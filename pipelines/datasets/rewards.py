"""Rewards of the decisions in a lake, as the learner's attribution has them. Pure.

    entries of the lake in the learner's order --attribution--> training events --added up by decision--> rewards

Only what is known of decisions whose window is open is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from models.policy.learned import LEFT_ALONE
from pipelines.learning.attribution import Attribution, DrawnDecision, TrainingEvent
from pipelines.learning.training_log import LakeEntry, training_events


class RewardPart(NamedTuple):
    """One entry that a reward is made of, by its place in the lake; moments in unix microseconds."""

    table: str
    position: str | None
    type: str | None
    occurred_us: int | None
    known_us: int
    worth_minor: float
    penalty: str | None
    penalty_minor: float


class DecisionReward(msgspec.Struct):
    """The reward of a decision before costs.

    Attributes:
        begun_us: Begin of its window, unix microseconds; None for a contact that may still be confirmed.
        over: Whether the window is over, so that nothing can change any more.
        worth_minor: Worth of what the player's own money did in the window.
        parts: What it is made of, as it became known.
    """

    decision_id: str
    begun_us: int | None
    over: bool = False
    worth_minor: float = 0.0
    penalty_minor: float = 0.0
    parts: list[RewardPart] = msgspec.field(default_factory=list)


def rewards(entries: Iterable[LakeEntry], attribution: Attribution, latest_us: int) -> Iterator[DecisionReward]:
    """Rewards of all decisions among the entries, save those of contacts that were never confirmed.

    Args:
        entries: In the learner's order.
        attribution: A new one.
        latest_us: House time up to which the entries are whole: windows that end before it are over.

    Yields:
        Each when its window is over; those that are open at the end, last.
    """
    begun: dict[str, DecisionReward] = {}
    for entry in entries:
        for event in training_events(attribution, entry, _drawn):
            yield from _follow(begun, attribution, event, entry)
    yield from (_closed(begun, event) for event in attribution.pass_time(latest_us))
    yield from begun.values()
    waiting = attribution.open_rewards.touches.keys() - begun.keys()
    yield from (DecisionReward(name, None) for name in sorted(waiting))


def _drawn(columns: Mapping[str, Any]) -> DrawnDecision | None:
    """The decision of a row of the lake; every one has a reward, whoever learns from it."""
    name, player, at_us = columns["decision_id"], columns["player"], columns["at_us"]
    if columns["offer"] is None:
        return DrawnDecision(name, player, at_us, at_us, at_us, True, LEFT_ALONE, None, None, b"")
    moments = (at_us, columns["send_us"] or at_us, columns["valid_until_us"] or at_us)
    contact = (columns["offer"], columns["channel"], columns["timing_slot"])
    return DrawnDecision(name, player, *moments, bool(columns["activated"]), *contact, b"")


def _follow(
    begun: dict[str, DecisionReward], attribution: Attribution, event: TrainingEvent, entry: LakeEntry
) -> Iterator[DecisionReward]:
    """Add an event to the reward of its decision; yields the reward when it is over."""
    name = event.drawn.decision_id
    if event.kind == "zero":
        begun[name] = DecisionReward(name, attribution.open_rewards.touches[name].begun_us)
    elif event.kind in {"value", "nothing"}:
        yield _closed(begun, event)
    else:
        part = _part(event, entry)
        begun[name].worth_minor += part.worth_minor
        begun[name].penalty_minor += part.penalty_minor
        begun[name].parts.append(part)


def _closed(begun: dict[str, DecisionReward], event: TrainingEvent) -> DecisionReward:
    closed = begun.pop(event.drawn.decision_id)
    closed.over, closed.worth_minor = True, event.amount_minor
    return closed


def _part(event: TrainingEvent, entry: LakeEntry) -> RewardPart:
    said, amount = entry.columns, event.amount_minor
    worth, penalty = (amount, 0.0) if event.harm is None else (0.0, amount)
    moments = (said.get("occurred_us"), entry.known_us)
    return RewardPart(entry.table, said["position"], said["type"], *moments, worth, event.harm, penalty)
