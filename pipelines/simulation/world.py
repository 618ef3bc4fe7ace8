"""Seeded world of players that fills a new sandbox house."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np

from features.events import EVENT, Event, moment
from service.rules.rulebook import Rulebook, load_rulebook, rulebook_path

DAYS: Final = 240
"""History behind the house's clock; enough for rolling monthly cut-offs."""
_STAKED: Final = 0.75
"""How much more of the keen is staked: a model has more to go by than how long ago they played."""
ZONES: Final = {"MT": "Europe/Malta", "GB": "Europe/London", "SE": "Europe/Stockholm", "CA-ON": "America/Toronto"}


class _Player(NamedTuple):
    """A player's behaviour: days of play per week, stake, product, and the day they stop."""

    id: str
    joined: datetime
    stops: datetime
    days_per_week: float
    stake_minor: float
    product: str
    evening: bool


def events(players: int, now_us: int, seed: int) -> Iterator[Event]:
    """Events of a world of players up to a moment, player by player, in order of time.

    Args:
        players: How many.
        now_us: Moment the world's history ends, unix microseconds.
        seed: The same seed and moment give the same events.
    """
    now = moment(now_us).replace(microsecond=0)
    book = load_rulebook(rulebook_path())
    for number in range(1, players + 1):
        random = np.random.default_rng([seed, number])
        player = _player(random, number, now)
        for count, fields in enumerate(_life(random, player, now, book)):
            yield EVENT.validate_python({"event_id": f"w-{number}-{count}", "player_id": player.id, **fields})


def addresses(players: int, now_us: int) -> Iterator[Event]:
    """Mail addresses of the players, of a domain that nobody can have (RFC 2606), and what to call them."""
    at = moment(now_us).replace(microsecond=0)
    for number in range(1, players + 1):
        told = {"event_id": f"w-{number}-mail", "player_id": f"player-{number}", "occurred_at": at}
        mail = {"type": "address_changed", "kind": "mail", "address": f"player-{number}@players.example"}
        yield EVENT.validate_python({**told, **mail, "name": f"Player {number}", "verified": True})


def _player(random: np.random.Generator, number: int, now: datetime) -> _Player:
    joined = now - timedelta(days=float(random.uniform(5, DAYS)))
    lifetime = timedelta(days=float(random.exponential(600)))
    keenness = float(random.normal())
    return _Player(
        id=f"player-{number}",
        joined=joined,
        stops=joined + lifetime,
        days_per_week=float(np.clip(np.exp(-0.7 + keenness), 0.1, 6.5)),
        stake_minor=float(random.lognormal(6.2 + _STAKED * keenness, 0.5)),
        product="sports" if random.random() < 0.6 else "casino",
        evening=bool(random.random() < 0.6),
    )


def _life(random: np.random.Generator, player: _Player, now: datetime, book: Rulebook) -> Iterator[dict[str, Any]]:
    """Fields of one player's events, in order of time; registers are asked when the history ends."""
    place = list(ZONES)[int(random.choice(len(ZONES), p=[0.4, 0.3, 0.2, 0.1]))]
    yield from _arrival(random, player, place)
    day = player.joined + timedelta(hours=1)
    while day < min(player.stops, now - timedelta(hours=1)):
        yield from _day_of_play(random, player, day, now)
        day += timedelta(days=float(max(0.3, random.exponential(7 / player.days_per_week))))
    yield from checks(place, now, book)


def _arrival(random: np.random.Generator, player: _Player, place: str) -> Iterator[dict[str, Any]]:
    born = date(1955, 1, 1) + timedelta(days=int(random.integers(0, 45 * 365)))
    yield {
        "type": "registered",
        "occurred_at": player.joined,
        "jurisdiction": place,
        "time_zone": ZONES[place],
        "birth_date": born,
    }
    yield {"type": "kyc_verified", "occurred_at": player.joined + timedelta(minutes=10), "birth_date": born}
    for channel, share in {"email": 0.9, "sms": 0.6, "push": 0.7, "in_app": 0.95, "call": 0.2}.items():
        for fields in consents(place, channel, granted=bool(random.random() < share)):
            yield {"occurred_at": player.joined + timedelta(minutes=11), **fields}


def consents(place: str, channel: str, *, granted: bool) -> Iterator[dict[str, Any]]:
    """Consent events for a channel as a place's law requires: in Great Britain for each product."""
    origin = "ontario_site" if place == "CA-ON" else "site"
    told = {"type": "consent_changed", "channel": channel, "granted": granted, "basis": "express", "origin": origin}
    yield told
    if place == "GB":
        yield from (told | {"product": product} for product in ("casino", "sports"))


def checks(place: str, at: datetime, book: Rulebook) -> Iterator[dict[str, Any]]:
    """Register checks of a player of a place, none of which lists them."""
    for name in book.asked([place]):
        yield {"type": "register_checked", "occurred_at": at, "register_name": name, "listed": False}


def _day_of_play(
    random: np.random.Generator, player: _Player, day: datetime, now: datetime
) -> Iterator[dict[str, Any]]:
    hour = random.normal(19, 2) if player.evening else random.uniform(8, 23)
    at = day.replace(hour=0, minute=0, second=0) + timedelta(hours=float(np.clip(hour, 0, 23.5)))
    at = max(at, day)
    steps = _session(random, player, f"{day:%Y%m%d}")
    for step, fields in enumerate(steps):
        moment_ = at + timedelta(minutes=2 * step)
        if moment_ >= now:
            return
        yield {"occurred_at": moment_, **fields}


def _session(random: np.random.Generator, player: _Player, day: str) -> Iterator[dict[str, Any]]:
    """Log in, deposit, bet, perhaps win, perhaps take money out; bets on sports are settled by their names."""
    stake = max(100, int(player.stake_minor * random.lognormal(0, 0.3)))
    yield {"type": "login"}
    yield {"type": "session_started"}
    if random.random() < 0.05:
        yield {"type": "deposit", "status": "declined", "method": "card", "amount_minor": stake * 4}
    yield {"type": "deposit", "status": "approved", "method": "card", "amount_minor": stake * 4}
    paid = "bet_settled" if player.product == "sports" else "win"
    for number in range(int(random.integers(1, 4))):
        named = {"bet_id": f"{day}-{number}"} if paid == "bet_settled" else {}
        yield {"type": "bet", "amount_minor": stake, "product": player.product, **named}
        if random.random() < 0.4:
            won = int(stake * random.uniform(0.5, 3))
            yield {"type": paid, "amount_minor": won, "product": player.product, **named}
    yield {"type": "session_ended"}
    if random.random() < 0.1:
        yield {"type": "withdrawal_requested", "amount_minor": stake * 2, "method": "card"}
        yield {"type": "withdrawal_paid", "amount_minor": stake * 2, "method": "card"}
