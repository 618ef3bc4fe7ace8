"""The learnt policy: an immutable policy version, its scores and its probabilities. Pure.

    context --standardise--> x --blocks--> p (converts), v (worth it) --> net value over leaving alone --> pmf

A snapshot names offers, channels, slots and context readings by id, so that it fits catalogues and builds other than
those it was learnt under: an unknown offer has a block of zeros, one that is gone is ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.errors import CroupierError
from features.forms import Form
from features.schema import CHANNELS
from models.catalogue.offers import NO_CONTACT, SLOTS, Catalogue
from models.policy.context import READINGS
from models.policy.policy import Mask, Probabilities
from models.policy.value import cells

LEFT_ALONE: Final = "NO_CONTACT"
"""Offer name of the action that leaves the player alone, where offers are named."""
WIDEST: Final = 4.0
"""Standardised readings are cut to this many standard deviations."""
Vector = NDArray[np.float64]
_FORM: Final = Form(
    "lineage oracle number rows at_us cursor features mean sd blocks pairs value shifts smear bounds penalties kappa"
    " least_scale_minor"
)
_CURSOR: Final = Form("flush entries")


class SnapshotError(CroupierError, ValueError):
    """A bundle that is no snapshot, or one that this build cannot serve."""

    code = "invalid_snapshot"


class Cursor(msgspec.Struct, frozen=True):
    """A place in the learning log: a flush of the lake, `first-last`, and the number of its entries read."""

    flush: str = "0-0"
    entries: int = 0


class PolicyVersion(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A published policy version. Vectors are little-endian float64 bytes over (1, *features).

    Attributes:
        lineage: Names settings, terms and format of the training; versions of one lineage are ordered by number.
        oracle: Kind of the reward model.
        number: Batches closed before it; it rises with every snapshot of a lineage.
        rows: Rows learnt before it.
        at_us: House time of the last entry learnt, unix microseconds.
        cursor: The last entry learnt.
        features: Readings of `models.policy.context`, in order.
        mean: Standardisation, frozen when learning began, shape (features,).
        sd: See `mean`.
        blocks: Coefficients of the log odds by block, such as `offer=free_bet`; `""` is shared.
        pairs: Numbers by pair, such as `offer=free_bet|channel=sms`.
        value: m of log value = m.x + shifts[offer].
        shifts: See `value`.
        smear: Factor on exp(log value).
        bounds: Least and greatest value of a conversion, minor units.
        penalties: Mean penalty by cell, minor units (`models.policy.value.PenaltyModel`).
        kappa: How fast probability falls with the gap to the best.
        least_scale_minor: Gaps are measured against the best net value, but never less than this.
    """

    lineage: str
    oracle: str
    number: int
    rows: int
    at_us: int
    cursor: Cursor
    features: tuple[str, ...]
    mean: bytes
    sd: bytes
    blocks: dict[str, bytes]
    pairs: dict[str, float]
    value: bytes
    shifts: dict[str, float]
    smear: float
    bounds: tuple[float, float]
    penalties: dict[str, float]
    kappa: float
    least_scale_minor: float

    def dumps(self) -> bytes:
        """The snapshot as msgpack; equal snapshots give equal bytes."""
        content = _FORM.content(self)
        content |= {name: dict(sorted(one.items())) for name, one in content.items() if isinstance(one, dict)}
        return msgspec.msgpack.encode(content | {"cursor": _CURSOR.content(self.cursor)})

    @classmethod
    def loads(cls, data: bytes) -> Self:
        """Read a version that `dumps` wrote.

        Raises:
            SnapshotError: It is something else, or holds numbers that are none.
        """
        try:
            found = msgspec.msgpack.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SnapshotError(f"not a snapshot: {error}") from error
        found.check()
        return found

    def check(self) -> None:
        """Raise SnapshotError unless every number is finite and every vector has its length."""
        size = len(self.features)
        if foreign := sorted(set(self.features) - set(READINGS)):
            raise SnapshotError(f"this build does not know the readings {', '.join(foreign)}")
        vectors = {"mean": (self.mean, size), "sd": (self.sd, size), "value": (self.value, size + 1)}
        vectors |= {name or "shared": (block, size + 1) for name, block in self.blocks.items()}
        for name, (data, length) in vectors.items():
            if len(data) != 8 * length or not np.isfinite(_vector(data)).all():
                raise SnapshotError(f"its {name} is not {length} finite numbers")
        numbers = [*self.pairs.values(), *self.shifts.values(), *self.penalties.values(), *self.bounds, self.smear]
        if not np.isfinite([*numbers, self.kappa, self.least_scale_minor]).all() or (_vector(self.sd) <= 0).any():
            raise SnapshotError("a number in it is not finite")
        if self.kappa <= 0 or self.least_scale_minor <= 0:
            raise SnapshotError("kappa and the least scale must be above 0")

    @cached_property
    def version(self) -> str:
        """Name in decisions: reward model, number, and twelve hex digits of the content's hash."""
        return f"{self.oracle}-{self.number}-{hashlib.sha256(self.dumps()).hexdigest()[:12]}"


class ScoreTerms(NamedTuple):
    """Score terms of all candidates for a context; arrays of shape (size,), money in minor units.

    Attributes:
        conversion: Probability that the player's own money moves within the window.
        worth: Expected value of that, before costs.
        cost: Expected cost of offer and channel.
        penalty: Expected penalty.
        net: Score of the policy: the offer's weight times the worth above no contact, less cost, less the penalty above
            no contact; exactly 0 for `NO_CONTACT`.
    """

    conversion: Vector
    worth: Vector
    cost: Vector
    penalty: Vector
    net: Vector


class LearnedPolicy:
    """A policy version applied to a catalogue.

    Args:
        snapshot: The policy version.
        catalogue: The candidates, their costs and weights.

    Raises:
        SnapshotError: The snapshot cannot be served.
    """

    def __init__(self, snapshot: PolicyVersion, catalogue: Catalogue) -> None:
        snapshot.check()
        self.snapshot = snapshot
        self.version = snapshot.version
        self.readings = snapshot.features
        self._chosen = np.array([READINGS.index(name) for name in snapshot.features], dtype=np.intp)
        self._mean, self._sd = _vector(snapshot.mean), _vector(snapshot.sd)
        self._levels = [LEFT_ALONE, *(offer.id for offer in catalogue.offers)]
        self._weights = self._stack()
        self._pairs = self._table(catalogue)
        self._shift = np.array([snapshot.shifts.get(offer, 0.0) for offer in self._levels])
        self._offer_weight = _spread([offer.lever for offer in catalogue.offers], catalogue, 0)
        self._taken = _spread([float(offer.cost_minor) for offer in catalogue.offers], catalogue, 0)
        self._sent = _spread([float(catalogue.channels[name].cost_minor) for name in CHANNELS], catalogue, 1)
        self._penalty = _penalties(snapshot.penalties, catalogue)
        self._above_none = self._penalty - self._penalty[NO_CONTACT]
        self._offer_of = np.append(0, np.repeat(np.arange(1, len(self._levels)), len(CHANNELS) * len(SLOTS)))

    def scores(self, context: Vector) -> Vector:
        """Net value of each candidate over no contact, minor units, shape (size,)."""
        return self.score(context).net

    def pmf(self, scores: Vector, eligible: Mask) -> Probabilities:
        """Relative-gap inverse-gap weighting (`weigh`) of the eligible candidates."""
        pmf, places = np.zeros(len(scores)), eligible.nonzero()[0]
        pmf[places] = weigh(scores.take(places), self.snapshot.kappa, self.snapshot.least_scale_minor)
        return pmf

    def score(self, context: Vector) -> ScoreTerms:
        """All terms of the scores for a context of `models.policy.context`."""
        x = self.standardised(context)
        found = self._weights @ x
        shared, offers, rest = found[0], found[2 : 2 + len(self._levels)], found[2 + len(self._levels) :]
        channels, slots = rest[: len(CHANNELS)], rest[len(CHANNELS) :]
        logit = np.empty(self._offer_of.shape)
        contacts = logit[NO_CONTACT + 1 :].reshape(self._pairs.shape)  # a view
        np.add(offers[1:, None, None] + channels[:, None], slots, out=contacts)
        contacts += self._pairs
        logit[NO_CONTACT] = offers[0]
        logit += shared
        return self._priced(logit, found[1])

    def _priced(self, logit: Vector, log_value: float) -> ScoreTerms:
        # Learnt from a 0 at once and a 1 on arrival, the odds of a row are the probability itself (Ktena 2019).
        conversion = np.exp(np.minimum(logit, 0.0, out=logit))  # in place it may round otherwise
        value = self.snapshot.smear * np.exp(_within(log_value + self._shift, -30.0, 30.0))
        worth = _within(value, *self.snapshot.bounds).take(self._offer_of)
        worth *= conversion
        cost = conversion * self._taken
        cost += self._sent
        net = worth - worth[NO_CONTACT]
        net *= self._offer_weight
        net -= cost
        net -= self._above_none
        net[NO_CONTACT] = 0.0
        return ScoreTerms(conversion, worth, cost, self._penalty, net)

    def standardised(self, context: Vector) -> Vector:
        """Vector that the coefficients apply to: 1, then standardised readings."""
        x = np.ones(len(self._chosen) + 1)
        readings = context.take(self._chosen, out=x[1:], mode="clip")  # "raise" would buffer; the places are in range
        readings -= self._mean
        readings /= self._sd
        np.minimum(np.maximum(readings, -WIDEST, out=readings), WIDEST, out=readings)
        return x

    def contributions(self, context: Vector, place: int, catalogue: Catalogue) -> dict[str, float]:
        """Contribution of each reading to the log odds of an action, beyond what it adds to every action."""
        x = self.standardised(context)
        levels = {"offer": LEFT_ALONE} if place == NO_CONTACT else _levels_of(place, catalogue)
        held = [self.snapshot.blocks.get(f"{factor}={level}") for factor, level in levels.items()]
        total = np.sum([_vector(block) for block in held if block is not None] or [np.zeros(len(x))], axis=0) * x
        return dict(zip(("always", *self.snapshot.features), total.tolist(), strict=True))

    def _stack(self) -> Vector:
        """Rows of coefficients: shared, log value, then offers (no contact first), channels, slots."""
        names = ["", *(f"offer={one}" for one in self._levels), *(f"channel={one}" for one in CHANNELS)]
        names += [f"timing_slot={one}" for one in SLOTS]
        none = bytes(8 * (len(self.snapshot.features) + 1))
        rows = [_vector(self.snapshot.blocks.get(name, none)) for name in names]
        return np.vstack([rows[0], _vector(self.snapshot.value), *rows[1:]])

    def _table(self, catalogue: Catalogue) -> Vector:
        """Sum of each contact's pair coefficients, in the catalogue's shape."""
        pairs = self.snapshot.pairs
        offers, channels, slots = catalogue.shape
        table = np.zeros((offers, channels, slots))
        for o, offer in enumerate(catalogue.offers):
            for c, channel in enumerate(CHANNELS):
                table[o, c] += pairs.get(f"offer={offer.id}|channel={channel}", 0.0)
            for s, slot in enumerate(SLOTS):
                table[o, :, s] += pairs.get(f"offer={offer.id}|timing_slot={slot}", 0.0)
        for c, channel in enumerate(CHANNELS):
            for s, slot in enumerate(SLOTS):
                table[:, c, s] += pairs.get(f"channel={channel}|timing_slot={slot}", 0.0)
        return table


def weigh(scores: Vector, kappa: float, least_scale: float) -> Probabilities:
    """Relative-gap inverse-gap weighting: exact probabilities over n scores of either sign, sum 1.

        p_a = 1 / (n (1 + kappa gap_a)) for a != b,  p_b = 1 - sum of the others,
        gap_a = clip((f_b - f_a) / max(|f_b|, least_scale), 0, 1)

    Inverse-gap weighting is Foster & Rakhlin 2020 (SquareCB, eq. 4) with the gap measured against the best score b, so
    that kappa needs no tuning per currency; every probability is at least 1 / (n (1 + kappa)).

    Raises:
        SnapshotError: A score is not finite.
    """
    if not np.isfinite(scores).all():
        raise SnapshotError("a score is not finite, so there is no probability to draw with")
    best = int(scores.argmax())
    highest = float(scores[best])
    p = highest - scores
    p /= max(abs(highest), least_scale)
    np.minimum(p, 1.0, out=p)
    p *= kappa
    p += 1.0
    p *= len(scores)
    np.divide(1.0, p, out=p)
    p[best] = 0.0
    p[best] = 1.0 - float(np.add.reduce(p))
    return p


def _within(values: Vector, least: float, most: float) -> Vector:
    """`np.clip`, in a third of its time on short arrays."""
    return np.minimum(np.maximum(values, least), most)


def _vector(data: bytes) -> Vector:
    return np.frombuffer(data, dtype="<f8")


def _levels_of(place: int, catalogue: Catalogue) -> dict[str, str]:
    offer, channel, slot = catalogue.action(place)
    return {"offer": offer.id, "channel": channel, "timing_slot": slot}


def _spread(values: Sequence[float], catalogue: Catalogue, axis: int) -> Vector:
    """Broadcast a number per offer (axis 0) or channel (1) to all candidates; 0 for `NO_CONTACT`."""
    shape = [1, 1, 1]
    shape[axis] = len(values)
    return np.append(0.0, np.broadcast_to(np.reshape(values, shape), catalogue.shape).ravel())


def _penalties(means: Mapping[str, float], catalogue: Catalogue) -> Vector:
    """Expected penalty of each candidate, from the narrowest known cell."""

    def nearest(offer: str, channel: str | None) -> float:
        return next((means[name] for name in cells(offer, channel) if name in means), 0.0)

    contacts = [nearest(offer.id, channel) for offer in catalogue.offers for channel in CHANNELS]
    return np.append(nearest(LEFT_ALONE, None), np.repeat(contacts, len(SLOTS)))
