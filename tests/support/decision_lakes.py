"""Write lakes of decisions that saw what was known, with confirms, responses and money after them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from support.learning_log import BEGAN, CATALOGUE, DAY, Writer, record

from features.aggregates import Activity, empty, encode, local_parts, update
from models.experiments.assignment import Membership
from service.decisions.record import pack_floats

HOUR = DAY // 24
PLAYERS = tuple(f"{{p{number:03d}}}{number:030x}" for number in range(30))
USES = ("train", "train", "train", "eval", "explore", "control")
DOINGS: tuple[dict[str, Any], ...] = (
    *({"type": "bet", "product": product} for product in ("casino", "sports", "bingo")),
    {"type": "win", "product": "casino"},
    {"type": "deposit", "status": "approved", "target": "account"},
    {"type": "deposit", "status": "declined", "target": "account"},
    {"type": "limit_set", "status": "lowered", "detail": '{"period": "day"}'},
    {"type": "support_contact", "detail": '{"tags": ["Harm "]}'},
    {"type": "consent_changed", "detail": '{"channel": "sms", "granted": false}'},
)
LIKELY = np.array([0.3, 0.15, 0.1, 0.15, 0.15, 0.06, 0.03, 0.03, 0.03])


class World:
    """Players of a seed, hour by hour: what they do, what is decided about them, what becomes of it."""

    def __init__(self, seed: int, days: int) -> None:
        self._random = np.random.default_rng(seed)
        self._days = days
        self._entries: list[tuple[int, Callable[[Writer], None]]] = []
        self._seen: list[tuple[int, str, Activity]] = []

    def write(self, lake: Path, decisions: int, flushes: int = 6) -> None:
        """Write a lake of so many decisions."""
        for _ in range(6 * decisions):
            self._do()
        self._seen.sort(key=lambda one: one[0])
        for number in range(decisions):
            self._decide(number)
        ends = BEGAN + self._days * DAY  # what comes after is not in the lake yet
        self._entries = sorted((one for one in self._entries if one[0] < ends), key=lambda one: one[0])
        writer, size = Writer(lake, share=1), -(-len(self._entries) // flushes)
        for start in range(0, len(self._entries), size):
            for _, add in self._entries[start : start + size]:
                add(writer)
            writer.flush()

    def _moment(self) -> int:
        return BEGAN + int(self._random.integers(self._days * DAY))

    def _do(self) -> None:
        """Something that a player does; a tenth becomes known hours later."""
        at, player = self._moment(), str(self._random.choice(PLAYERS))
        late = int(self._random.integers(30 * HOUR)) if self._random.random() < 0.1 else 0
        said = dict(DOINGS[self._random.choice(len(DOINGS), p=LIKELY)])
        money = said["type"] in {"bet", "win", "deposit"}
        amount = int(self._random.integers(100, 20_000)) if money else None
        slot, night = local_parts(at, "UTC")
        columns = said | {"amount_minor": amount, "timing_slot": slot, "night": night}
        self._entries.append((at + late, lambda writer: _event(writer, player, at, at + late, columns)))
        named = {name: said.get(name) for name in ("status", "target", "product")}
        row = Activity(said["type"], at, amount, **named, timing_slot=slot, night=night)
        self._seen.append((at + late, player, row))

    def _decide(self, number: int) -> None:
        at, player = self._moment(), str(self._random.choice(PLAYERS))
        known = [row for known_us, who, row in self._seen if known_us <= at and who == player]
        stored = encode(update(empty(), known))
        as_of = max((row.occurred_us for row in known), default=None)
        place = int(self._random.integers(1, CATALOGUE.size)) if self._random.random() < 0.7 else 0
        name, use = f"000-{number:024d}", str(self._random.choice(USES))
        made = record(name, player, at, place, self._random, use=use, contacts=int(self._random.integers(5, 60)))
        seen = msgspec.structs.replace(made.seen, features=pack_floats(stored), as_of_us=as_of)
        members = (Membership("policy_2026", "v1", 2, use, 0.25), Membership("tone", "v1", 1, "warm", 0.75))
        at_once = bool(place) and self._random.random() < 0.1
        made = msgspec.structs.replace(made, seen=seen, experiments=members, activated=at_once)
        self._entries.append((at, lambda writer: writer.decide(made)))
        if made.action is not None:
            self._become(name, player, at, at_once=at_once)

    def _become(self, name: str, player: str, at: int, *, at_once: bool) -> None:
        """Outcomes of a contact: most are confirmed within the lease, some fail before, some after."""
        moment = at + int(self._random.integers(1, DAY // 5))
        if self._random.random() < 0.1:
            self._outcome(name, player, "failed", moment)
            return
        if not at_once and self._random.random() < 0.85:
            self._outcome(name, player, "confirmed", moment)
        for type_, chance in (("delivered", 0.9), ("opened", 0.4), ("clicked", 0.1), ("unsubscribed", 0.05)):
            moment += int(self._random.integers(1, 6 * HOUR))
            if self._random.random() < chance:
                self._outcome(name, player, type_, moment)
        if self._random.random() < 0.05:
            self._outcome(name, player, "complained", moment + 2 * DAY)

    def _outcome(self, name: str, player: str, type_: str, at: int) -> None:
        self._entries.append((at, lambda writer: writer.outcome(name, player, type_, at)))


def _event(writer: Writer, player: str, at: int, known: int, columns: dict[str, Any]) -> None:
    writer.add("events", known, player=player, event_id=f"{player}-{at}", occurred_at=at, **columns)
