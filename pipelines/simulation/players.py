"""Synthetic players: their traits, and the true effect of a contact. Pure.

Nature is drawn from a segment: what they play, when, for how much, through which channel and at which hour they can be
reached, which offers move them, how soon they are annoyed, whether play harms them, when they lose interest. The truth
of a contact follows from it alone, so that every figure of a policy can be held against what it could have reached.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.schema import CHANNELS, TIMING_SLOTS
from models.catalogue.offers import NO_CONTACT, SLOTS, Catalogue
from pipelines.simulation.world import consents

Vector = NDArray[np.float64]
WINDOW_DAYS: Final = 3.0
MARGIN: Final = {"casino": 0.04, "sports": 0.06}
"""Worth of stakes, as the reward counts it."""
UNSUBSCRIBED_MINOR: Final = 500.0
LIMIT_MINOR: Final = 1000.0
"""What annoying and harming cost, as the reward counts it."""
ZONES: Final = {"MT": "Europe/Malta", "GB": "Europe/London", "IE": "Europe/Dublin", "CA-ON": "America/Toronto"}
_FATIGUE: Final = 0.85
"""What each contact of the last three days leaves of a contact's effect."""


class Segment(NamedTuple):
    """A kind of player.

    Attributes:
        share: Of all players.
        product: What they play.
        days_per_week: On which they play by themselves.
        stake_minor: Median stakes of a day of play.
        taste: Offer id -> how much of a contact's effect it reaches; others a tenth.
        reach: Channel -> the same.
        hours: Timing slot -> the same, and how likely they play then.
        annoyed: Probability that a contact makes them unsubscribe from its channel.
        harmed: Probability that a bonus makes them set a limit.
        fading: Rate at which they lose interest, per day.
    """

    share: float
    product: str
    days_per_week: float
    stake_minor: float
    taste: dict[str, float]
    reach: dict[str, float]
    hours: dict[str, float]
    annoyed: float
    harmed: float
    fading: float


SEGMENTS: Final = {
    "fan": Segment(
        0.35,
        "sports",
        0.5,
        22_000,
        {"match_preview": 0.45, "free_bet": 1.0, "reload_bonus": 0.4},
        {"push": 1.0, "in_app": 0.7, "sms": 0.5, "email": 0.3, "call": 0.2},
        {"morning": 0.3, "afternoon": 0.6, "evening": 1.0, "night": 0.3},
        0.004,
        0.0,
        1 / 240,
    ),
    "regular": Segment(
        0.3,
        "casino",
        0.45,
        24_000,
        {"new_game": 0.35, "free_spins": 1.0, "reload_bonus": 0.6},
        {"email": 1.0, "in_app": 0.6, "sms": 0.4, "push": 0.3, "call": 0.2},
        {"morning": 0.8, "afternoon": 1.0, "evening": 0.5, "night": 0.2},
        0.006,
        0.0,
        1 / 240,
    ),
    "bargainer": Segment(
        0.2,
        "casino",
        0.3,
        9_000,
        {"free_spins": 1.0, "reload_bonus": 1.0, "free_bet": 0.8, "win_back_bonus": 1.0, "new_game": 0.2},
        {"sms": 1.0, "email": 0.8, "push": 0.6, "in_app": 0.5, "call": 0.1},
        {"morning": 0.5, "afternoon": 0.7, "evening": 0.8, "night": 0.9},
        0.01,
        0.01,
        1 / 120,
    ),
    "high": Segment(
        0.07,
        "sports",
        0.8,
        80_000,
        {"free_bet": 1.0, "reload_bonus": 1.0, "match_preview": 0.4, "win_back_bonus": 1.0},
        {"call": 1.0, "in_app": 0.5, "sms": 0.4, "email": 0.3, "push": 0.3},
        {"morning": 0.4, "afternoon": 1.0, "evening": 0.7, "night": 0.2},
        0.008,
        0.0,
        1 / 300,
    ),
    "strained": Segment(
        0.08,
        "casino",
        1.0,
        18_000,
        {"free_spins": 0.8, "reload_bonus": 0.9, "new_game": 0.5},
        {"push": 0.9, "sms": 0.8, "email": 0.6, "in_app": 0.6, "call": 0.2},
        {"morning": 0.2, "afternoon": 0.3, "evening": 0.6, "night": 1.0},
        0.03,
        0.06,
        1 / 180,
    ),
}
_STRONGEST: Final = 0.7
"""Probability that the best contact brings one more day of play."""


class Person(NamedTuple):
    """Traits of one player; see `Segment`. `fades_day` is the simulation day on which interest is lost."""

    id: str
    segment: str
    product: str
    place: str
    days_per_week: float
    stake_minor: float
    taste: Vector
    reach: Vector
    hours: Vector
    annoyed: float
    harmed: float
    fades_day: float

    def play_rate(self, day: float) -> float:
        """Expected days of play per day, on a day of the simulation."""
        return self.days_per_week / 7 * (1.0 if day < self.fades_day else 0.15)

    @property
    def deposit_minor(self) -> float:
        """Expected deposit, and stakes, per day of play, minor units."""
        return self.stake_minor * float(np.exp(0.5 * _SPREAD**2))

    @property
    def worth_minor(self) -> float:
        """Expected value of a day of play, minor units."""
        return self.deposit_minor * MARGIN[self.product]


_SPREAD: Final = 0.4


def people(count: int, seed: int, catalogue: Catalogue) -> list[Person]:
    """Make the players of a simulation, by a seed."""
    names, shares = list(SEGMENTS), [one.share for one in SEGMENTS.values()]
    found = []
    for number in range(1, count + 1):
        random = np.random.default_rng([seed, number])
        found.append(
            _person(random, f"sim-{seed}-{number}", names[int(random.choice(len(names), p=shares))], catalogue)
        )
    return found


def _person(random: np.random.Generator, name: str, segment: str, catalogue: Catalogue) -> Person:
    kind = SEGMENTS[segment]

    def own(values: list[float], spread: float) -> Vector:
        return np.clip(np.array(values) * random.lognormal(0, spread, len(values)), 0.0, 1.2)

    return Person(
        id=name,
        segment=segment,
        product=kind.product,
        place=list(ZONES)[int(random.choice(len(ZONES), p=[0.4, 0.35, 0.15, 0.1]))],
        days_per_week=float(np.clip(kind.days_per_week * random.lognormal(0, 0.4), 0.1, 6.0)),
        stake_minor=float(kind.stake_minor * random.lognormal(0, 0.5)),
        taste=own([kind.taste.get(offer.id, 0.1) for offer in catalogue.offers], 0.2),
        reach=own([kind.reach[channel] for channel in CHANNELS], 0.3),
        hours=own([kind.hours[slot] for slot in SLOTS], 0.2),
        annoyed=kind.annoyed,
        harmed=kind.harmed,
        fades_day=float(random.exponential(1 / kind.fading)),
    )


def effect(person: Person, catalogue: Catalogue, recent: int) -> Vector:
    """Probability that each action brings one more day of play, shape (size,) over the candidates.

    Args:
        person: The player.
        catalogue: The candidates.
        recent: Contacts of the last three days.
    """
    cube = person.taste[:, None, None] * person.reach[:, None] * person.hours
    assert cube.shape == catalogue.shape  # noqa: S101 - an invariant of the catalogue
    return np.append(0.0, np.minimum(_STRONGEST * _FATIGUE**recent * cube.ravel(), 0.9))


def net_value(person: Person, catalogue: Catalogue, recent: int, day: float) -> Vector:
    """True expected net value of each action over no contact, minor units, shape (size,).

    Worth of the day of play that it brings, less the offer's cost if they play at all within the window, less the
    channel's, less what annoying and harming cost.
    """
    brought = effect(person, catalogue, recent)
    alone = float(np.exp(-WINDOW_DAYS * person.play_rate(day)))
    plays = 1.0 - alone * (1.0 - brought)
    offers = [
        (float(one.cost_minor), person.harmed * LIMIT_MINOR * (one.purpose == "bonus")) for one in catalogue.offers
    ]
    taken, harmed = (np.reshape(column, (-1, 1, 1)) for column in np.array(offers).T)
    sent = np.reshape([float(catalogue.channels[name].cost_minor) for name in CHANNELS], (1, -1, 1))
    fixed = np.broadcast_to(harmed + sent + person.annoyed * UNSUBSCRIBED_MINOR, catalogue.shape).ravel()
    cost = np.broadcast_to(taken, catalogue.shape).ravel() * plays[1:] + fixed
    net = brought * person.worth_minor
    net[1:] -= cost
    net[NO_CONTACT] = 0.0
    return net


def arrival(person: Person, random: np.random.Generator, at: datetime) -> list[dict[str, Any]]:
    """Events that register a player, some weeks before a moment."""
    joined = at - timedelta(days=float(random.uniform(20, 30)))
    born = date(1960, 1, 1) + timedelta(days=int(random.integers(0, 38 * 365)))
    first = {"jurisdiction": person.place, "time_zone": ZONES[person.place], "birth_date": born.isoformat()}
    events: list[dict[str, Any]] = [{"type": "registered", **first}, {"type": "kyc_verified"}]
    for channel, share in {"email": 0.95, "sms": 0.85, "push": 0.9, "in_app": 0.97, "call": 0.6}.items():
        events += consents(person.place, channel, granted=bool(random.random() < share))
    return [one | {"occurred_at": joined + timedelta(minutes=at)} for at, one in enumerate(events)]


def past(person: Person, random: np.random.Generator, at: datetime) -> list[dict[str, Any]]:
    """Events of the days of play between the arrival and a moment."""
    ago = 19.0
    events: list[dict[str, Any]] = []
    while (ago := ago - float(random.exponential(7 / person.days_per_week))) > 1.0:
        events += play(person, random, at - timedelta(days=ago))
    return events


LONGEST: Final = timedelta(minutes=30)
"""A day's play is over after this."""


def hour_of(person: Person, random: np.random.Generator) -> float:
    """Draw a local hour at which the player plays unprompted."""
    weights = person.hours / person.hours.sum()
    start, end = TIMING_SLOTS[SLOTS[int(random.choice(len(SLOTS), p=weights))]]
    length = (end.hour - start.hour) % 24
    return (start.hour + float(random.uniform(0, min(length, 5)))) % 24


def play(person: Person, random: np.random.Generator, at: datetime) -> list[dict[str, Any]]:
    """Events of one day of play from a moment on: deposit, stakes, perhaps winnings.

    Bets on sports have names, by which they are settled.
    """
    sports = person.product == "sports"
    first, second = [{"bet_id": f"{at:%Y%m%dT%H%M%S.%f}-{number}"} if sports else {} for number in (1, 2)]
    stakes = int(person.stake_minor * random.lognormal(0, _SPREAD))
    half = max(1, stakes // 2)
    steps: list[tuple[int, dict[str, Any]]] = [
        (0, {"type": "deposit", "status": "approved", "method": "card", "amount_minor": stakes}),
        (4, {"type": "bet", "amount_minor": half, "product": person.product, **first}),
        (20, {"type": "bet", "amount_minor": half, "product": person.product, **second}),
    ]
    if random.random() < 0.5:
        # Over many days players lose the theoretical margin of what they stake.
        won = int(2 * stakes * (1 - MARGIN[person.product]) * random.uniform(0.6, 1.4))
        paid = "bet_settled" if sports else "win"
        steps.append((25, {"type": paid, "amount_minor": won, "product": person.product, **second}))
    return [fields | {"occurred_at": at + timedelta(minutes=minutes)} for minutes, fields in steps]


def worth(events: list[dict[str, Any]]) -> float:
    """Value of a day of play, minor units, as the reward counts it: stakes times the theoretical margin."""
    return sum(float(one["amount_minor"]) * MARGIN[one["product"]] for one in events if one["type"] == "bet")
