"""Value of a conversion and penalty of a contact: the terms of a reward beside its probability. Pure.

Both models are sums over rows, so that what was learnt provisionally is taken back exactly once it is final, and what
is old fades with every batch.
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
_FINAL_LEAST: Final = 50.0
_SPREAD_MOST: Final = 3.0


class _Sums(msgspec.Struct):
    """Sufficient statistics of log values: sums over rows of x x', x log v, (log v)^2, and by offer."""

    gram: Vector
    moment: Vector
    squares: float = 0.0
    offers: dict[str, tuple[float, float, Vector]] = msgspec.field(default_factory=dict)

    def add(self, x: Vector, offer: str, value_minor: float, weight: float) -> None:
        """Add a row with a weight; -1 removes it again."""
        log_value = float(np.log(value_minor))
        rows, logs, contexts = self.offers.get(offer, (0.0, 0.0, np.zeros(len(x))))
        self.offers[offer] = (rows + weight, logs + weight * log_value, contexts + weight * x)
        self.gram += np.outer(weight * x, x)
        self.moment += (weight * log_value) * x
        self.squares += weight * log_value**2

    def fade(self, keep: float) -> None:
        """Scale the weight of every row by `keep`."""
        self.gram *= keep
        self.moment *= keep
        self.squares *= keep
        self.offers = {
            name: (rows * keep, logs * keep, sums * keep) for name, (rows, logs, sums) in self.offers.items()
        }

    @property
    def rows(self) -> float:
        """Weighted number of rows."""
        return sum(rows for rows, _, _ in self.offers.values())


def _none(size: int) -> _Sums:
    return _Sums(np.zeros((size, size)), np.zeros(size))


class ValueModel:
    """Ridge regression of the log value of conversions on context, with a shrunk shift per offer.

        log v = m.x + k[offer] + e,   E[v] = smear x exp(m.x + k[offer]),   smear = exp(var(e) / 2)

    Values whose window is still open are too low so far; they are used only until fifty are final.

    Args:
        size: Length of the context vector, x_0 = 1.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._open, self._final = _none(size), _none(size)
        self._bounds = (np.inf, 0.0)

    def learn(self, x: Vector, offer: str, value_minor: float) -> None:
        """Learn the provisional value of a conversion, minor units, above 0."""
        self._open.add(x, offer, value_minor, 1.0)

    def settle(self, x: Vector, offer: str, provisional_minor: float, value_minor: float) -> None:
        """Replace a provisional value by the final one, both in minor units."""
        self._open.add(x, offer, provisional_minor, -1.0)
        self._final.add(x, offer, value_minor, 1.0)
        self._bounds = (min(self._bounds[0], value_minor), max(self._bounds[1], value_minor))

    def forget(self, keep: float) -> None:
        """Scale the weight of final values by `keep`."""
        self._final.fade(keep)

    def fitted(self) -> tuple[Vector, dict[str, float], float]:
        """Fit the model: m, shape (size,); k by offer; the smear.

        k is the mean residual, shrunk as if ten more rows had none.
        """
        used = [self._final] if self._final.rows >= _FINAL_LEAST else [self._final, self._open]
        ridge = np.full(self._size, _RIDGE)
        ridge[0] = 1.0
        gram = np.sum([one.gram for one in used], axis=0)
        moment = np.sum([one.moment for one in used], axis=0)
        m = np.asarray(np.linalg.solve(gram + np.diag(ridge), moment))
        shifts = {
            offer: float(sum(one.offers[offer][1] - m @ one.offers[offer][2] for one in used if offer in one.offers))
            / (sum(one.offers[offer][0] for one in used if offer in one.offers) + _OFFER_ROWS)
            for offer in sorted({offer for one in used for offer in one.offers})
        }
        residual = sum(one.squares for one in used) - 2 * float(m @ moment) + float(m @ gram @ m)
        rows = sum(one.rows for one in used)
        variance = min(max(residual, 0.0) / rows, _SPREAD_MOST) if rows > 0 else 0.0
        return m, shifts, float(np.exp(variance / 2))

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest final value, minor units; (0, 1e12) before the first."""
        return self._bounds if self._bounds[1] else (0.0, 1e12)

    def dumps(self) -> bytes:
        """Serialise the whole state."""
        return msgspec.msgpack.encode((self._size, [_written(one) for one in (self._open, self._final)], self._bounds))

    @classmethod
    def loads(cls, data: bytes) -> Self:
        """Read a model that `dumps` wrote."""
        size, sums, bounds = msgspec.msgpack.decode(data)
        model = cls(size)
        model._open, model._final = (_read(size, *one) for one in sums)
        model._bounds = tuple(bounds)
        return model


def _written(sums: _Sums) -> tuple[bytes, bytes, float, dict[str, tuple[float, float, bytes]]]:
    offers = {name: (rows, logs, contexts.tobytes()) for name, (rows, logs, contexts) in sums.offers.items()}
    return sums.gram.tobytes(), sums.moment.tobytes(), sums.squares, offers


def _read(
    size: int, gram: bytes, moment: bytes, squares: float, offers: dict[str, tuple[float, float, bytes]]
) -> _Sums:
    held = {name: (rows, logs, np.frombuffer(sums).copy()) for name, (rows, logs, sums) in offers.items()}
    return _Sums(np.frombuffer(gram).reshape(size, size).copy(), np.frombuffer(moment).copy(), squares, held)


class PenaltyModel:
    """Mean penalty of a decision, minor units: by offer and channel, shrunk to the channel's, that to the overall mean.

    Each mean is taken as if fifty more rows had had the one above it, and the highest as if they had had none; leaving
    alone has its own mean, shrunk to none.
    """

    def __init__(self) -> None:
        self._rows: dict[str, float] = {}
        self._sums: dict[str, float] = {}

    def enter(self, offer: str, channel: str | None) -> None:
        """Count a decision that may draw penalties."""
        for name in cells(offer, channel):
            self._rows[name] = self._rows.get(name, 0.0) + 1.0

    def learn(self, offer: str, channel: str | None, penalty_minor: float) -> None:
        """Add a penalty, minor units, of a decision counted before."""
        for name in cells(offer, channel):
            self._sums[name] = self._sums.get(name, 0.0) + penalty_minor

    def forget(self, keep: float) -> None:
        """Scale the weight of everything by `keep`."""
        self._rows = {name: rows * keep for name, rows in self._rows.items()}
        self._sums = {name: total * keep for name, total in self._sums.items()}

    def means(self) -> dict[str, float]:
        """Mean penalty by cell, minor units: `free_bet|sms`, channel `|sms`, all contacts `|`, and no contact."""
        found: dict[str, float] = {}
        for name in sorted(self._rows, key=_rank):
            above = _above(name)
            before = found[above] if above is not None else 0.0
            found[name] = (self._sums.get(name, 0.0) + _HARM_ROWS * before) / (self._rows[name] + _HARM_ROWS)
        return found

    def dumps(self) -> bytes:
        """Serialise the whole state; equal states give equal bytes."""
        return msgspec.msgpack.encode((self._rows, self._sums), order="deterministic")

    @classmethod
    def loads(cls, data: bytes) -> Self:
        """Read a model that `dumps` wrote."""
        model = cls()
        model._rows, model._sums = msgspec.msgpack.decode(data, type=tuple[dict[str, float], dict[str, float]])
        return model


def cells(offer: str, channel: str | None) -> list[str]:
    """Names of a decision's cells, the narrowest first."""
    return [offer] if channel is None else [f"{offer}|{channel}", f"|{channel}", "|"]


def _above(name: str) -> str | None:
    if name == "|" or "|" not in name:
        return None
    return "|" if name.startswith("|") else name[name.index("|") :]


def _rank(name: str) -> tuple[bool, bool, str]:
    """Sort key that puts wider cells first."""
    return (name != "|", not name.startswith("|"), name)
