"""What experiments are: layers of experiments with variants beside a global holdout, as a file and as a release.

A file says shares; a release also says which of the 10,000 buckets each variant owns, so that players stay where they
are whatever the order of lines. Keys, names and shares of one experiment never tell how another one splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from features.events import Channel
from features.files import load_yaml
from features.forms import Form
from models.catalogue.experiment import BUCKETS

GLOBAL_HOLDOUT: Final = "global_holdout"
"""Name of the players whom no marketing reaches, whatever experiments say; an experiment may not be called so."""

Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")]
Salt = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Policy = Literal["none", "business_rules", "learnt", "uniform"]
"""Who chooses: nobody (the variant gets no marketing), fixed priorities, the learner's policy, chance."""
Use = Literal["train", "eval", "explore", "control"]
"""What a variant's decisions serve for; nothing is learnt from those of `eval`."""
_USES: Final[Mapping[str, Use]] = {"none": "control", "uniform": "explore"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _in_buckets(share: float) -> float:
    """A share as its number of buckets says it; raises ValueError for a part of one."""
    if abs(share * BUCKETS - round(share * BUCKETS)) > 1e-6:
        raise ValueError(f"a share is a multiple of {1 / BUCKETS}")
    return round(share * BUCKETS) / BUCKETS


class LeftOut(_Part):
    """What a variant goes without."""

    offers: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = ()


class Variant(_Part):
    """A group of an experiment.

    Attributes:
        name: Free, unique in its experiment.
        share: Of the experiment's players, a multiple of 0.0001.
        policy: Who chooses for it; None in a layer that leaves the choice alone.
        use: What its decisions serve for; by default `control` without marketing, `explore` by chance, else `train`.
        leave_out: Offers and channels it goes without; only in a layer that names no policy.
        buckets: Half-open intervals of the buckets that are its own; None until a release allocates them.
    """

    name: Word
    share: Share
    policy: Policy | None = None
    use: Use = "train"
    leave_out: LeftOut = LeftOut()
    buckets: tuple[tuple[int, int], ...] | None = None

    _whole = field_validator("share")(_in_buckets)

    @model_validator(mode="before")
    @classmethod
    def _used(cls, said: Any) -> Any:  # noqa: ANN401 - whatever the file says
        return {"use": _USES.get(str(said.get("policy")), "train"), **said} if isinstance(said, dict) else said

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.policy is not None and self.leave_out != LeftOut():
            raise ValueError(f"{self.name}: a variant names a policy or leaves something out, in layers of their own")
        if self.policy == "none" and self.use != "control":
            raise ValueError(f"{self.name}: who gets no marketing is a control")
        if self.buckets is not None and sum(end - start for start, end in self.buckets) != self.size:
            raise ValueError(f"{self.name}: its buckets are not {self.size:,}, which its share is")
        return self

    @property
    def size(self) -> int:
        """Number of buckets that its share is."""
        return round(self.share * BUCKETS)


class Experiment(_Part):
    """A randomised comparison; players whom no variant owns are not in it.

    Attributes:
        key: Names it for ever: decisions record it.
        salt: Of its split; by default the key.
        range: Part of its layer's players that it takes, half-open in [0, 1].
        variants: Its groups; their shares sum to at most 1.
        phase: Number of the shares, raised by every change of them.
    """

    key: Word
    salt: Salt
    range: tuple[Share, Share] = (0.0, 1.0)
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=20)
    phase: int = Field(default=1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _salted(cls, said: Any) -> Any:  # noqa: ANN401 - whatever the file says
        return {"salt": said.get("key"), **said} if isinstance(said, dict) else said

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.key == GLOBAL_HOLDOUT:
            raise ValueError(f"{GLOBAL_HOLDOUT} is the name of the players whom no marketing reaches")
        _refuse_twice(f"{self.key}: two variants", [variant.name for variant in self.variants])
        if sum(variant.size for variant in self.variants) > BUCKETS:
            raise ValueError(f"{self.key}: the shares of its variants sum to more than 1")
        if self.range[0] >= self.range[1]:
            raise ValueError(f"{self.key}: its range is empty")
        if len({variant.policy is None for variant in self.variants}) > 1:
            raise ValueError(f"{self.key}: either every variant names a policy or none does")
        owned = sorted(span for variant in self.variants for span in variant.buckets or ())
        if any(start < before for (_, before), (start, _) in pairwise(owned)):
            raise ValueError(f"{self.key}: two variants own the same bucket")
        if any(not 0 <= start < end <= BUCKETS for start, end in owned):
            raise ValueError(f"{self.key}: buckets are half-open intervals in 0 to {BUCKETS:,}")
        return self

    @property
    def chooses(self) -> bool:
        """Whether its variants name policies."""
        return self.variants[0].policy is not None


class Layer(_Part):
    """Experiments that share players among them; each layer splits all players anew."""

    layer: Word
    experiments: tuple[Experiment, ...] = ()

    @model_validator(mode="after")
    def _apart(self) -> Self:
        taken = sorted((experiment.range, experiment.key) for experiment in self.experiments)
        for (span, key), (other, next_key) in pairwise(taken):
            if other[0] < span[1]:
                raise ValueError(f"{self.layer}: {key} and {next_key} take the same players; give them ranges apart")
        if len({experiment.chooses for experiment in self.experiments}) > 1:
            raise ValueError(f"{self.layer}: all experiments of a layer name policies, or none does")
        return self


class GlobalHoldout(_Part):
    """Share of all players whom no marketing reaches, by a salt of its own."""

    share: float = Field(default=0.05, gt=0, le=0.5)
    salt: Salt = "global-holdout"

    _whole = field_validator("share")(_in_buckets)


class Experiments(_Part):
    """All that splits players; as a file what shall start, as a release what serves.

    Attributes:
        holdout: None while nobody started it.
        layers: One of them may name policies.
        ended: Keys that were stopped; none begins again.
    """

    version: Literal[1] = 1
    holdout: GlobalHoldout | None = None
    layers: tuple[Layer, ...] = ()
    ended: tuple[Word, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _refuse_twice("two layers", [layer.layer for layer in self.layers])
        _refuse_twice("two experiments", [experiment.key for experiment in self.running])
        choosing = [layer.layer for layer in self.layers if any(one.chooses for one in layer.experiments)]
        if len(choosing) > 1:
            raise ValueError(f"only one layer may name policies, not {' and '.join(choosing)}")
        return self

    @property
    def running(self) -> Iterator[Experiment]:
        """All experiments, layer by layer."""
        return (experiment for layer in self.layers for experiment in layer.experiments)

    @cached_property
    def hash(self) -> str:
        """Content hash, the version that decisions name."""
        return EXPERIMENTS.hash(self)


EXPERIMENTS: Final = Form(
    "version holdout layers ended",
    holdout=Form("share salt"),
    layers=Form(
        "layer experiments",
        experiments=Form(
            "key salt range variants phase",
            variants=Form("name share policy use leave_out buckets", leave_out=Form("offers channels")),
        ),
    ),
)


def _refuse_twice(what: str, names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{what} are called {', '.join(twice)}")


def load_experiments(path: Path) -> Experiments:
    """Read a file of experiments; raises CatalogueError naming file and field."""
    return load_yaml(path, Experiments)
