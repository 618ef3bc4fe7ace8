"""What `mlflow.yaml` says, section by section.

A home may have an `mlflow.yaml` of its own: each section that it has stands in place of the shipped one, whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from features.settings.environment import SettingError, environment

SHIPPED: Final = Path(__file__).parents[2] / "mlflow.yaml"
"""The `mlflow.yaml` that comes with Croupier."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A section of mlflow.yaml."""


class Tracking(_Section, frozen=True):
    """Where runs and models are kept."""

    uri: Annotated[str, Meta(description="Address of MLflow's database or server; `{home}` is CROUPIER_HOME.")]
    artifacts: Annotated[str, Meta(description="Where files of runs lie, for a database without a server in front.")]


class Models(_Section, frozen=True):
    """Names of registered models."""

    churn: Annotated[str, Meta(description="Name of the churn model.")]
    policy: Annotated[str, Meta(description="Name of the policies that somebody promoted or rolled back to.")] = (
        "croupier-policy"
    )


class Gate(_Section, frozen=True):
    """What a churn model must show on its test rows before it serves."""

    auc_above_recency: Annotated[float, Meta(description="Least lead in AUC over days since the last activity.")]
    auc_above_champion: Annotated[float, Meta(description="Least lead in AUC over the model that serves.")]
    ece_above_noise: Annotated[
        float,
        Meta(description="Most calibration error (ECE) beyond what a faultless model shows on as few rows."),
    ]


class Gates(_Section, frozen=True):
    """Gates by kind of model."""

    churn: Gate


class Churn(_Section, frozen=True):
    """What the churn model predicts."""

    horizon_days: Annotated[int, Meta(description="Days without an approved deposit that make a churned player.")]


class Reward(_Section, frozen=True):
    """For how long a contact is felt."""

    window_days: Annotated[
        float, Meta(description="Days after a decision in which the player's own money counts for it.")
    ]


Oracle = Literal["kalman", "logistic"]
"""Kinds of `models.policy.reward_model`."""


class LearnerSettings(_Section, frozen=True):
    """Settings of the learner; a change begins again from the start of the lake."""

    oracle: Annotated[Oracle, Meta(description="Model of the probability that a contact converts.")] = "kalman"
    batch: Annotated[int, Meta(gt=0, description="Rows between snapshots.")] = 250
    warm_up: Annotated[int, Meta(gt=0, description="Rows that the standardisation is taken from.")] = 500
    keep: Annotated[float, Meta(gt=0, le=1, description="Forgetting factor per batch.")] = 0.995
    kappa: Annotated[
        float,
        Meta(
            gt=0,
            description="The larger, the more often the best action is drawn (`weigh` in models/policy/learned.py).",
        ),
    ] = 100.0
    least_scale_minor: Annotated[
        float, Meta(gt=0, description="Least value, minor units, by which the gap between two actions is measured.")
    ] = 5.0


class Report(_Section, frozen=True):
    """What the uplift report counts."""

    window_days: Annotated[
        int, Meta(description="Days after a player's first decision; only players for whom they are over enter it.")
    ]


class Schedules(_Section, frozen=True):
    """What the worker runs by itself: cron lines by the house's clock, UTC."""

    retrain: Annotated[str | None, Meta(description="When the churn model is trained anew; without it, never.")] = None


_LEAST_DAYS: Final = 36
"""The store remembers decisions and ids of events for 35 days."""


class KeepDays(_Section, frozen=True):
    """For how many days of the house's clock whole days of the lake are kept; null keeps them for good."""

    events: Annotated[int | None, Meta(description="Days that events are kept, at least 36; null for good.")] = None
    decisions: Annotated[
        int | None,
        Meta(description="Days that decisions are kept, at least 36, at most as the other two; null for good."),
    ] = None
    outcomes: Annotated[int | None, Meta(description="Days that outcomes are kept, at least 36; null for good.")] = None

    def __post_init__(self) -> None:
        """Refuse what the store knows better, and decisions that outlive what followed: they would mislead."""
        if any(days is not None and days < _LEAST_DAYS for days in (self.events, self.decisions, self.outcomes)):
            raise ValueError(f"days are kept for {_LEAST_DAYS} days at least")
        for days in (self.events, self.outcomes):
            if days is not None and (self.decisions is None or self.decisions > days):
                raise ValueError("decisions cannot be kept longer than events and outcomes: without these they mislead")


class LakeSettings(_Section, frozen=True):
    """What stays in the lake."""

    keep_days: KeepDays = KeepDays()


class Mlflow(_Section, frozen=True):
    """What mlflow.yaml says."""

    tracking: Tracking
    experiment: Annotated[str, Meta(description="MLflow's experiment that runs are kept under.")]
    models: Models
    gates: Gates
    churn: Churn
    reward: Reward
    learner: LearnerSettings
    report: Report
    schedules: Schedules
    lake: LakeSettings


def read_mlflow(home: Path) -> Mlflow:
    """What mlflow.yaml says to a home: each section by its own file, else by the shipped one; `{home}` is filled in.

    Raises:
        SettingError: A file cannot be read, or says what nothing reads or what cannot be.
    """
    found = msgspec.structs.replace(shipped(), **_own(home))
    uri, artifacts = (text.replace("{home}", str(home.resolve())) for text in msgspec.structs.astuple(found.tracking))
    return msgspec.structs.replace(found, tracking=Tracking(environment().mlflow or uri, artifacts))


def shipped() -> Mlflow:
    """What the mlflow.yaml that comes with Croupier says; raises SettingError."""
    try:
        return Mlflow(**_sections(SHIPPED))
    except TypeError as error:
        raise SettingError(f"{SHIPPED} is not whole: {error}") from error


def _own(home: Path) -> dict[str, Any]:
    """Sections of a home's own mlflow.yaml, which it need not have."""
    file = home / SHIPPED.name
    try:
        file.lstat()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingError(f"{file} cannot be read: {error.strerror}") from error
    return _sections(file)


def _sections(file: Path) -> dict[str, Any]:
    # It imports pydantic, which takes a tenth of a second, and most commands read no file.
    from features.files import CatalogueError, load_sections  # noqa: PLC0415

    try:
        return load_sections(file, Mlflow)
    except CatalogueError as error:
        raise SettingError(str(error)) from error
