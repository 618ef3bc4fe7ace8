"""Seeded population of a bench: many players with short, eventful histories in four jurisdictions.

The world of a new house has 240 days of some hundred players; this one has a few sessions of many, and Denmark.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np

from features.events import EVENT, Event, moment
from pipelines.simulation.world import checks, consents
from service.rules.rulebook import Rulebook, load_rulebook, rulebook_path

SEED: Final = 11
ZONES: Final = {
    "GB": "Europe/London",
    "MT": "Europe/Malta",
    "SE": "Europe/Stockholm",
    "DK": "Europe/Copenhagen",
}
_SHARES: Final = (0.4, 0.3, 0.15, 0.15)
_CONSENT: Final = {"email": 0.95, "sms": 0.7, "push": 0.8, "in_app": 0.95, "call": 0.2}


def name(number: int) -> str:
    """Id of a player by number, from 0."""
    return f"player-{number}"


def events(first: int, last: int, now_us: int) -> Iterator[Event]:
    """Events of the players `first` to `last` - 1, player by player, in order of time.

    Args:
        first: Number of the first player.
        last: Number after the last one's.
        now_us: Moment the histories end, unix microseconds; the same moment gives the same events.
    """
    now = moment(now_us).replace(microsecond=0)
    book = load_rulebook(rulebook_path())
    for number in range(first, last):
        random = np.random.default_rng([SEED, number])
        for count, fields in enumerate(_life(random, now, book)):
            about = {"event_id": f"b-{number}-{count}", "player_id": name(number)}
            yield EVENT.validate_python(about | fields)


def _life(random: np.random.Generator, now: datetime, book: Rulebook) -> Iterator[dict[str, Any]]:
    place = list(ZONES)[int(random.choice(len(ZONES), p=_SHARES))]
    joined = now - timedelta(days=float(random.uniform(10, 200)))
    yield from _arrival(random, joined, place)
    # Most played this month; some have lapsed.
    ended = min(float(random.exponential(12)), (now - joined) / timedelta(days=1) - 2)
    days = ended + np.sort(random.exponential(6, 1 + random.poisson(1.5)))[::-1]
    for ago in days:
        yield from _session(random, max(now - timedelta(days=float(ago)), joined + timedelta(hours=1)))
    yield from checks(place, now, book)


def _arrival(random: np.random.Generator, joined: datetime, place: str) -> Iterator[dict[str, Any]]:
    born = date(1955, 1, 1) + timedelta(days=int(random.integers(0, 45 * 365)))
    about = {"jurisdiction": place, "time_zone": ZONES[place], "birth_date": born}
    yield {"type": "registered", "occurred_at": joined, **about}
    yield {"type": "kyc_verified", "occurred_at": joined + timedelta(minutes=10), "birth_date": born}
    for channel, share in _CONSENT.items():
        for fields in consents(place, channel, granted=bool(random.random() < share)):
            yield {"occurred_at": joined + timedelta(minutes=11), **fields}


def _session(random: np.random.Generator, at: datetime) -> Iterator[dict[str, Any]]:
    """Events of a session: login, deposit, one or two bets, perhaps a win."""
    stake = max(100, int(random.lognormal(6.2, 0.9)))
    product = "sports" if random.random() < 0.5 else "casino"
    steps: list[dict[str, Any]] = [
        {"type": "login"},
        {"type": "session_started"},
        {"type": "deposit", "status": "approved", "method": "card", "amount_minor": stake * 4},
        *({"type": "bet", "amount_minor": stake, "product": product} for _ in range(int(random.integers(1, 3)))),
    ]
    if random.random() < 0.4:
        steps.append({"type": "win", "amount_minor": int(stake * random.uniform(0.5, 3)), "product": product})
    for step, fields in enumerate(steps):
        yield {"occurred_at": at + timedelta(minutes=2 * step), **fields}
