"""The learner: training events in, policy versions out. Pure: the same events in the same order, the same bytes.

    zero, one --standardise--> reward model (converts?)
    one, settle -------------> value of a conversion
    penalty -----------------> mean penalty                  every `batch` rows --> a policy version

The first `warm_up` rows wait, give the standardisation that is frozen from then on, and are learnt in their order.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.errors import CroupierError
from features.settings.mlflow_file import LearnerSettings
from models.policy.context import READINGS
from models.policy.learned import LEFT_ALONE, WIDEST, Cursor, PolicyVersion
from models.policy.reward_model import REWARD_MODELS, Levels, RewardModel, sigmoid
from models.policy.value import PenaltyModel, ValueModel

Vector = NDArray[np.float64]
FORMAT: Final = 2
"""Raised with every change of what is learnt from the same training events."""


class LearnerError(CroupierError, ValueError):
    """A state that another build wrote; the text says why."""

    code = "invalid_learner"
    exit_code = 2


class NamedAction(NamedTuple):
    """An action by name; `channel` and `timing_slot` are None for no contact."""

    offer: str
    channel: str | None = None
    timing_slot: str | None = None

    @property
    def levels(self) -> Levels:
        """Levels of the action for a reward model."""
        return (self.offer, self.channel, self.timing_slot)


ALONE: Final = NamedAction(LEFT_ALONE)


class _Row(NamedTuple):
    """A row that waits for the warm-up to end."""

    kind: str
    context: bytes
    act: NamedAction
    amount: float
    before: float


class _State(msgspec.Struct, kw_only=True):
    """Serialised state of a learner."""

    format: int = FORMAT
    readings: tuple[str, ...]
    settings: LearnerSettings
    number: int
    rows: int
    loss: float
    ones: int
    waiting: list[_Row]
    begun: bool
    mean: bytes
    sd: bytes
    oracle: bytes
    value: bytes
    penalty: bytes


class Learner:
    """Trains a policy row by row; contexts are the numbers of `models.policy.context.READINGS`.

    Attributes:
        number: Batches closed.
        closed: What was measured of the batch that the last row closed, empty after any other row.
    """

    def __init__(self, settings: LearnerSettings) -> None:
        self.settings = settings
        self.number = 0
        self.closed: dict[str, float] = {}
        self._oracle: RewardModel = REWARD_MODELS[settings.oracle]()
        self._value = ValueModel(1 + len(READINGS))
        self._penalty = PenaltyModel()
        self._begun = False
        self._mean, self._sd = np.zeros(len(READINGS)), np.ones(len(READINGS))
        self._waiting: list[_Row] = []
        self._rows, self._ones, self._loss = 0, 0, 0.0

    def zero(self, context: Vector, act: NamedAction) -> None:
        """Learn a new decision as a provisional non-conversion."""
        self._take("zero", context, act)

    def one(self, context: Vector, act: NamedAction, value_minor: float) -> None:
        """Learn a conversion with its provisional value, minor units, above 0."""
        self._take("one", context, act, value_minor)

    def settle(self, context: Vector, act: NamedAction, value_minor: float, provisional_minor: float) -> None:
        """Learn the final value of a conversion, minor units; `provisional_minor` is the value given to `one`."""
        self._take("settle", context, act, value_minor, provisional_minor)

    def penalise(self, act: NamedAction, penalty_minor: float) -> None:
        """Learn a penalty of a decision, minor units."""
        self._penalty.learn(act.offer, act.channel, penalty_minor)

    def _take(self, kind: str, context: Vector, act: NamedAction, amount: float = 0.0, before: float = 0.0) -> None:
        self.closed = {}
        if self._begun:
            self._learn(kind, context, act, amount, before)
            return
        self._waiting.append(_Row(kind, context.astype("<f8").tobytes(), act, amount, before))
        if len(self._waiting) >= self.settings.warm_up:
            self._begin()

    def _begin(self) -> None:
        """Freeze the standardisation and learn the rows that waited."""
        waited, self._waiting, self._begun = self._waiting, [], True
        seen = np.array([np.frombuffer(row.context) for row in waited if row.kind == "zero"])
        spread = seen.std(axis=0)
        self._mean, self._sd = seen.mean(axis=0), np.where(spread > 1e-9, spread, 1.0)
        for kind, context, act, amount, before in waited:
            self._learn(kind, np.frombuffer(context), act, amount, before)

    def _learn(self, kind: str, context: Vector, act: NamedAction, amount: float, before: float) -> None:
        x = np.append(1.0, np.clip((context - self._mean) / self._sd, -WIDEST, WIDEST))
        if kind == "settle":
            self._value.settle(x, act.offer, before, amount)
            return
        if kind == "one":
            self._value.learn(x, act.offer, amount)
        else:
            self._penalty.enter(act.offer, act.channel)
        self._row(x, act, converted=kind == "one")

    def _row(self, x: Vector, act: NamedAction, *, converted: bool) -> None:
        predicted = sigmoid(self._oracle.logit(x, act.levels))
        self._loss -= math.log(max(predicted if converted else 1 - predicted, 1e-12))
        self._ones += converted
        self._oracle.learn(x, act.levels, converted)
        self._rows += 1
        if self._rows == self.settings.batch:
            self._close()

    def _close(self) -> None:
        self.number += 1
        self.closed = {"log_loss": self._loss / self._rows, "ones": self._ones / self._rows}
        for model in (self._oracle, self._value, self._penalty):
            model.forget(self.settings.keep)
        self._rows, self._ones, self._loss = 0, 0, 0.0

    def snapshot(self, lineage: str, at_us: int, cursor: Cursor) -> PolicyVersion:
        """Make a policy version of everything learnt so far; only after the warm-up.

        Args:
            lineage: See `PolicyVersion`.
            at_us: House time of the last entry learnt, unix microseconds.
            cursor: The last entry learnt.
        """
        learnt, (value, shifts, smear) = self._oracle.coefficients(), self._value.fitted()
        size = 1 + len(READINGS)
        blocks = {
            name: np.pad(one, (0, size - len(one))).astype("<f8").tobytes() for name, one in learnt.blocks.items()
        }
        return PolicyVersion(
            lineage=lineage,
            oracle=self.settings.oracle,
            number=self.number,
            rows=self.number * self.settings.batch,
            at_us=at_us,
            cursor=cursor,
            features=READINGS,
            mean=self._mean.astype("<f8").tobytes(),
            sd=self._sd.astype("<f8").tobytes(),
            blocks=blocks,
            pairs=learnt.pairs,
            value=value.astype("<f8").tobytes(),
            shifts=shifts,
            smear=smear,
            bounds=self._value.bounds,
            penalties=self._penalty.means(),
            kappa=self.settings.kappa,
            least_scale_minor=self.settings.least_scale_minor,
        )

    def dumps(self) -> bytes:
        """Serialise the whole state between two rows."""
        state = _State(
            readings=READINGS,
            settings=self.settings,
            number=self.number,
            rows=self._rows,
            loss=self._loss,
            ones=self._ones,
            waiting=self._waiting,
            begun=self._begun,
            mean=self._mean.tobytes(),
            sd=self._sd.tobytes(),
            oracle=self._oracle.dumps(),
            value=self._value.dumps(),
            penalty=self._penalty.dumps(),
        )
        return msgspec.msgpack.encode(state)

    @classmethod
    def loads(cls, data: bytes, settings: LearnerSettings) -> Self:
        """Restore a state that `dumps` wrote under the same settings and readings.

        Raises:
            LearnerError: It was written under others: what was learnt does not fit, and is learnt afresh from the log.
        """
        try:
            state = msgspec.msgpack.decode(data, type=_State)
        except msgspec.MsgspecError as error:
            raise LearnerError(f"not a learner's state: {error}") from error
        if (state.format, state.readings, state.settings) != (FORMAT, READINGS, settings):
            raise LearnerError("the state was written under other settings or readings")
        learner = cls(settings)
        learner._restore(state)
        return learner

    def _restore(self, state: _State) -> None:
        self.number, self._rows, self._ones, self._loss = state.number, state.rows, state.ones, state.loss
        self._waiting = state.waiting
        self._begun = state.begun
        self._mean, self._sd = np.frombuffer(state.mean).copy(), np.frombuffer(state.sd).copy()
        self._oracle.loads(state.oracle)
        self._value = ValueModel.loads(state.value)
        self._penalty = PenaltyModel.loads(state.penalty)
