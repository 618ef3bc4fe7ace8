"""What a conversion is worth and what harm a contact does: the parts of a reward beside its probability. Pure.

Both models are sums over rows, so that what was learnt provisionally is put right exactly once it is final.
"""

from __future__ import annotations

from typing import Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
_RIDGE: Final = 25.0
_OFFER_ROWS: Final = 10.0
_HARM_ROWS: Final = 50.0


class ValueModel:
    """Ridge regression of the log value of conversions on context, with a shrunk shift per offer.

        log v = m.x + k[offer],   E[v] = smear x exp(m.x + k[offer])

    The smear, sum of v over sum of exp(m.x + k), undoes the bias of the logarithm (Duan 1983, JASA 78).

    Args:
        size: Length of the context vector, x_0 = 1.
    """

    def __init__(self, size: int) -> None:
        self._gram = np.eye(size) * _RIDGE
        self._gram[0, 0] = 1.0
        self._moment = np.zeros(size)
        self._offers: dict[str, tuple[float, float, Vector]] = {}
        self._bounds = (np.inf, 0.0)
        self._sums = (0.0, 0.0)

    def learn(self, x: Vector, offer: str, value_minor: float) -> None:
        """Learn the value of a conversion, minor units, above 0."""
        rows, logs, contexts = self._offers.get(offer, (0.0, 0.0, np.zeros(len(x))))
        self._gram += np.outer(x, x)
        self._offers[offer] = (rows + 1, logs, contexts + x)
        self.correct(x, offer, 1.0, value_minor)

    def correct(self, x: Vector, offer: str, before_minor: float, after_minor: float) -> None:
        """Put right the value of a conversion that was learnt as another one."""
        change = float(np.log(after_minor) - np.log(before_minor))
        rows, logs, contexts = self._offers[offer]
        self._moment += x * change
        self._offers[offer] = (rows, logs + change, contexts)

    def settle(self, x: Vector, offer: str, value_minor: float) -> None:
        """Let a final value count for smear and bounds."""
        shift = self.shifts().get(offer, 0.0)
        expected = float(np.exp(np.clip(self.weights() @ x + shift, -20.0, 20.0)))
        self._sums = (self._sums[0] + value_minor, self._sums[1] + expected)
        self._bounds = (min(self._bounds[0], value_minor), max(self._bounds[1], value_minor))

    def weights(self) -> Vector:
        """m, shape (size,)."""
        return np.asarray(np.linalg.solve(self._gram, self._moment))

    def shifts(self) -> dict[str, float]:
        """Shift k by offer: the mean residual, shrunk as if ten more rows had none."""
        m = self.weights()
        return {
            offer: float(logs - m @ sums) / (rows + _OFFER_ROWS) for offer, (rows, logs, sums) in self._offers.items()
        }

    @property
    def smear(self) -> float:
        """Factor on exp(m.x + k), 1 before anything is settled."""
        return float(np.clip(self._sums[0] / self._sums[1], 0.2, 5.0)) if self._sums[1] else 1.0

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest final value, minor units; any before one was seen."""
        return self._bounds if self._bounds[1] else (0.0, 1e12)

    def dumps(self) -> bytes:
        """The whole state: equal states give equal bytes."""
        offers = {name: (rows, logs, sums.tobytes()) for name, (rows, logs, sums) in self._offers.items()}
        state = (self._gram.tobytes(), self._moment.tobytes(), offers, self._bounds, self._sums)
        return msgspec.msgpack.encode(state, order="deterministic")

    @classmethod
    def loads(cls, data: bytes) -> Self:
        """The model that `dumps` wrote."""
        gram, moment, offers, bounds, sums = msgspec.msgpack.decode(data)
        held = np.frombuffer(moment).copy()
        model = cls(len(held))
        model._moment, model._gram = held, np.frombuffer(gram).reshape(len(held), -1).copy()
        model._offers = {name: (rows, logs, np.frombuffer(one).copy()) for name, (rows, logs, one) in offers.items()}
        model._bounds, model._sums = tuple(bounds), tuple(sums)
        return model


class PenaltyModel:
    """Mean penalty of a decision, minor units: by offer and channel, shrunk to the channel's, and that to the whole's.

    Each mean is taken as if fifty more rows had had the one above it, and the highest as if they had had none; leaving
    alone has its own mean, shrunk to none.
    """

    def __init__(self) -> None:
        self._rows: dict[str, float] = {}
        self._sums: dict[str, float] = {}

    def enter(self, offer: str, channel: str | None) -> None:
        """A decision that may draw penalties."""
        for name in cells(offer, channel):
            self._rows[name] = self._rows.get(name, 0.0) + 1.0

    def learn(self, offer: str, channel: str | None, penalty_minor: float) -> None:
        """A penalty of a decision that was entered before."""
        for name in cells(offer, channel):
            self._sums[name] = self._sums.get(name, 0.0) + penalty_minor

    def means(self) -> dict[str, float]:
        """Mean by cell, such as `free_bet|sms`, by channel `|sms`, of all contacts `|`, and of leaving alone."""
        found: dict[str, float] = {}
        for name in sorted(self._rows, key=_rank):
            above = _above(name)
            before = found[above] if above is not None else 0.0
            found[name] = (self._sums.get(name, 0.0) + _HARM_ROWS * before) / (self._rows[name] + _HARM_ROWS)
        return found

    def dumps(self) -> bytes:
        """The whole state: equal states give equal bytes."""
        return msgspec.msgpack.encode((self._rows, self._sums), order="deterministic")

    @classmethod
    def loads(cls, data: bytes) -> Self:
        """The model that `dumps` wrote."""
        model = cls()
        model._rows, model._sums = msgspec.msgpack.decode(data, type=tuple[dict[str, float], dict[str, float]])
        return model


def cells(offer: str, channel: str | None) -> list[str]:
    """Names of the cells of a decision, the narrowest first."""
    return [offer] if channel is None else [f"{offer}|{channel}", f"|{channel}", "|"]


def _above(name: str) -> str | None:
    if name == "|" or "|" not in name:
        return None
    return "|" if name.startswith("|") else name[name.index("|") :]


def _rank(name: str) -> tuple[bool, bool, str]:
    """Cells after those above them."""
    return (name != "|", not name.startswith("|"), name)
