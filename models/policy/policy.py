"""Policies: probabilities over eligible actions, and the one draw. Pure.

A policy scores the candidates; its pmf is a function of scores and eligible set alone, and both the draw and
the logged propensity come from that one pmf. So a record with mask, scores and u reproduces the choice.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.catalogue.offers import NO_CONTACT, Catalogue

Probabilities = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Policy(Protocol):
    """Protocol of a policy; every implementation passes the same laws."""

    @property
    def version(self) -> str:
        """Kind and parameters; the same version gives the same pmf for the same scores and mask."""
        ...

    @property
    def readings(self) -> tuple[str, ...]:
        """Names of the readings of `models.policy.context` that it uses; empty if none."""
        ...

    def scores(self, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score of each candidate for a context of `models.policy.context`, shape (size,)."""
        ...

    def pmf(self, scores: NDArray[np.float64], eligible: Mask) -> Probabilities:
        """Probabilities over the candidates, shape (size,): 0 where not eligible, sum 1 within 1e-12.

        `eligible` always contains `NO_CONTACT`.
        """
        ...


class Uniform(NamedTuple):
    """Equal probability for every eligible action, `NO_CONTACT` included; serves while no learnt policy does."""

    size: int

    @property
    def version(self) -> str:
        """Its name: there are no parameters."""
        return "uniform"

    @property
    def readings(self) -> tuple[str, ...]:
        """Empty: it uses no reading."""
        return ()

    def scores(self, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """Zeros: no preference, shape (size,)."""
        del context
        return np.zeros(self.size)

    def pmf(self, scores: NDArray[np.float64], eligible: Mask) -> Probabilities:
        """Probability 1/n for each of the n eligible actions."""
        del scores
        return np.asarray(eligible / eligible.sum(), dtype=np.float64)


class BusinessRules(NamedTuple):
    """The catalogue's priorities with an exploration floor: p = floor/n + (1 - floor) x (share of the best)."""

    priorities: NDArray[np.float64]
    floor: float

    @property
    def version(self) -> str:
        """Name with a hash of priorities and floor."""
        content = self.priorities.astype("<f8").tobytes() + str(self.floor).encode()
        digest = hashlib.sha256(content).hexdigest()[:12]
        return f"business_rules-{digest}"

    @property
    def readings(self) -> tuple[str, ...]:
        """Empty: it uses no reading."""
        return ()

    def scores(self, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """Priority of each action's offer, shape (size,); 0 for `NO_CONTACT`."""
        del context
        return self.priorities

    def pmf(self, scores: NDArray[np.float64], eligible: Mask) -> Probabilities:
        """Split 1 - floor evenly over the actions of the best priority, and the floor over all eligible ones."""
        best = eligible & (scores == scores[eligible].max())
        return np.asarray(self.floor * eligible / eligible.sum() + (1.0 - self.floor) * best / best.sum())


class Priority(NamedTuple):
    """Always the first action of the highest priority: for messages requested by purpose."""

    priorities: NDArray[np.float64]

    @property
    def version(self) -> str:
        """Its name: the catalogue's hash covers the priorities."""
        return "priority"

    @property
    def readings(self) -> tuple[str, ...]:
        """Empty: it uses no reading."""
        return ()

    def scores(self, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """Priority of each action's offer, shape (size,); -1 for `NO_CONTACT`, the last resort."""
        del context
        last_resort = self.priorities.copy()
        last_resort[NO_CONTACT] = -1.0
        return last_resort

    def pmf(self, scores: NDArray[np.float64], eligible: Mask) -> Probabilities:
        """Probability 1 for the first eligible action of the highest score."""
        chosen = np.zeros(len(scores))
        chosen[np.argmax(np.where(eligible, scores, -np.inf))] = 1.0
        return chosen


def priorities(catalogue: Catalogue) -> NDArray[np.float64]:
    """Priority of each candidate, shape (size,); 0 for `NO_CONTACT`."""
    offers, channels, slots = catalogue.shape
    flat = np.repeat([offer.priority for offer in catalogue.offers], channels * slots).astype(np.float64)
    assert len(flat) == offers * channels * slots  # noqa: S101 - an invariant of the catalogue
    return np.concatenate([[0.0], flat])


class Draw(NamedTuple):
    """A drawn action: its place, the uniform number used, and its exact probability."""

    place: int
    u: float
    propensity: float


_MANTISSA: Final = 2.0**-53


def uniform_number(seed: bytes) -> float:
    """A uniform number in [0, 1) from the first 53 bits of a seed."""
    return (int.from_bytes(seed[:8], "big") >> 11) * _MANTISSA


def draw(pmf: Probabilities, u: float) -> Draw:
    """Draw by inverse cdf: the first place whose cumulative probability exceeds u.

    Rounding may leave the total a hair below 1; a u beyond it falls to the last place that can be drawn.
    """
    place = int(pmf.cumsum().searchsorted(u, side="right"))
    if place >= len(pmf):
        place = int(np.flatnonzero(pmf)[-1])
    return Draw(place, u, float(pmf[place]))
