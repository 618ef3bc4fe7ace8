"""Settings: every variable of the environment and every section of `mlflow.yaml`, declared once and read here alone.

What is not set has the default that is declared here or in the `mlflow.yaml` that comes with Croupier. A home may have
an `mlflow.yaml` of its own: each section that it has stands in place of the shipped one, whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import reduce
from math import nan
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, Self, TypeVar, get_args, overload

import msgspec
from msgspec import Meta

from features.errors import CroupierError

SHIPPED: Final = Path(__file__).parents[1] / "mlflow.yaml"
"""The `mlflow.yaml` that comes with Croupier."""
MASK: Final = "***"
_PREFIX: Final = "CROUPIER_"
_SERVICE_LINK: Final = re.compile(r"CROUPIER(_[A-Z0-9]+)*_(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)")
"""Names that an orchestrator gives to the addresses of services that are called croupier or croupier-something."""
_SECRET_IN_URL: Final = re.compile(r"(?i)((?:password|secret|token)=)[^&\s]*")


class SettingError(CroupierError, ValueError):
    """A setting cannot be what it says."""

    code = "invalid_setting"
    exit_code = 2


# --- The environment

Value = TypeVar("Value")


@dataclass(frozen=True)
class Variable(Generic[Value]):
    """A variable of the environment, read as an attribute of `Environment`.

    Attributes:
        name: What it is called in the environment.
        kind: What its text is, for people.
        read: Its text as a value; raises ValueError with what it must be.
        default: Its value where it is not set.
        meaning: What it is for.
        secret: Whether its value is shown to nobody.
    """

    name: str
    kind: str
    read: Callable[[str], Value]
    default: Value
    meaning: str
    secret: bool = False

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Environment, owner: type) -> Value: ...
    def __get__(self, instance: Environment | None, owner: type) -> Self | Value:
        """The declaration of the class, the value of an environment; raises SettingError if there can be none."""
        if instance is None:
            return self
        text = instance.variables.get(self.name)
        if text is None:
            return self.default
        try:
            return self.read(text)
        except ValueError as error:
            raise SettingError(f"{self.name} {error}, and is {text!r}") from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = nan
    if not 0 < seconds <= 3_600:
        raise ValueError("must be a number of seconds above 0, at most 3600")
    return seconds


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 65_536):
        raise ValueError("must be a port from 1 to 65535")
    return int(text)


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _keys(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


@dataclass(frozen=True)
class Environment:
    """What the environment says; each variable is read when it is asked for, and one that is wrong is refused then."""

    variables: Mapping[str, str] = field(repr=False)

    home = Variable(
        "CROUPIER_HOME", "path", Path, Path("var"), "Directory of the house: its store, lake, models, logs and reports."
    )
    store = Variable[str | None](
        "CROUPIER_STORE",
        "URL",
        lambda text: text or None,
        None,
        "Address of a store elsewhere: `redis://`, `rediss://`, `redis+cluster://`, `rediss+cluster://` or `unix://`; "
        "without it the home has a server of its own.",
    )
    keys = Variable[tuple[str, ...]](
        "CROUPIER_KEYS",
        "words divided by commas",
        _keys,
        (),
        "API keys, one of which every caller must send; without any the API listens on loopback only.",
        secret=True,
    )
    port = Variable("PORT", "port", _port, 8000, "Port of the API, where `--port` names none.")
    catalogue = Variable[Path | None](
        "CROUPIER_CATALOGUE", "path", _path, None, "File of the catalogue; without it the one that comes with Croupier."
    )
    rules = Variable[Path | None](
        "CROUPIER_RULES", "path", _path, None, "Folder of the rulebook; without it the one that comes with Croupier."
    )
    webhooks = Variable[Path | None](
        "CROUPIER_WEBHOOKS",
        "path",
        _path,
        None,
        "File that says who is told that a lease was taken back; without it nobody is told.",
    )
    mlflow = Variable[str | None](
        "CROUPIER_MLFLOW",
        "URL",
        lambda text: text or None,
        None,
        "Address of MLflow, in place of `tracking.uri` of mlflow.yaml.",
    )
    read_seconds = Variable(
        "CROUPIER_READ_SECONDS", "seconds", _seconds, 0.25, "Deadline of a decision that names none."
    )
    write_seconds = Variable(
        "CROUPIER_WRITE_SECONDS",
        "seconds",
        _seconds,
        2.0,
        "Deadline of every other request; what restricts contact has 5.",
    )
    tied = Variable(
        "CROUPIER_TIED",
        "any text",
        lambda _: True,
        False,
        "Set by Croupier for processes that it starts, so that they end when it does; not for you to set.",
    )


VARIABLES: Final[tuple[Variable[Any], ...]] = tuple(
    one for one in vars(Environment).values() if isinstance(one, Variable)
)
"""Every variable that Croupier reads, but for the secrets that the file of the webhooks names."""
OF_TESTS: Final[Mapping[str, str]] = {
    "CROUPIER_TEST_STORE": "`cluster` runs the integration tests on three servers that share the keys.",
    "CROUPIER_EXAMPLES": "Stories that the laws of the ledger are tried on.",
    "CROUPIER_FAULTS": "`all` tries every fault in place of some.",
    "CROUPIER_BOOKS": "Rulebooks that the laws of the rules are tried on.",
    "CROUPIER_FILES": "Files that the law of imports is tried on.",
}
"""Variables that Croupier's own tests read, with their meaning; the product reads none of them."""


def environment() -> Environment:
    """What the environment says now."""
    return Environment(dict(os.environ))


def secrets_in(variable: str) -> list[str]:
    """Secrets in a variable that a file names, divided by blanks; none where it is not set."""
    return os.environ.get(variable, "").split()


def for_children(home: Path, url: str) -> dict[str, str]:
    """Variables by which a process that is started finds the home and the store of this one."""
    return {Environment.store.name: url, Environment.home.name: str(home)}


def use_store(url: str) -> None:
    """Let this process, and those that it starts, use a store."""
    os.environ[Environment.store.name] = url


def untie() -> bool:
    """Whether this process is to end with the one that started it; what it starts itself is not."""
    return os.environ.pop(Environment.tied.name, None) is not None


class Unknown(NamedTuple):
    """A variable that looks like ours and that nothing reads, with the known name that may be meant."""

    name: str
    nearest: str | None

    def __str__(self) -> str:
        """As a sentence."""
        return f"nothing reads {self.name}" + (f"; {self.nearest} may be meant" if self.nearest else "")


def unknown(given: Environment) -> list[Unknown]:
    """Variables that look like ours and that nothing reads; those that an orchestrator sets by itself are left out."""
    known = {one.name for one in VARIABLES} | OF_TESTS.keys()
    named = _named(given.webhooks)
    return [
        Unknown(name, _nearest(name))
        for name in sorted(given.variables)
        if name.startswith(_PREFIX) and name not in known | named and not _SERVICE_LINK.fullmatch(name)
    ]


def _named(file: Path | None) -> set[str]:
    """Words of the file of the webhooks, which names variables of its own."""
    with suppress(OSError, UnicodeDecodeError):
        return set(re.findall(r"\w+", file.read_text("utf8"))) if file else set()
    return set()


def _nearest(name: str) -> str | None:
    ours = {one.name.removeprefix(_PREFIX): one.name for one in VARIABLES if one is not Environment.tied}
    return next((ours[near] for near in get_close_matches(name.removeprefix(_PREFIX), ours, 1)), None)


# --- mlflow.yaml


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A section of mlflow.yaml."""


class Tracking(_Section, frozen=True):
    """Where runs and models are kept."""

    uri: Annotated[str, Meta(description="Address of MLflow's database or server; `{home}` is CROUPIER_HOME.")]
    artifacts: Annotated[str, Meta(description="Where files of runs lie, for a database without a server in front.")]


class Models(_Section, frozen=True):
    """Names of registered models."""

    churn: Annotated[str, Meta(description="Name of the churn model.")]


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


# --- Shown to people


class Row(NamedTuple):
    """A setting as people see it: its value, what it would be by itself, who said so, what it is for."""

    name: str
    value: str | float | None
    default: str | float | None
    source: str
    meaning: str


class Declared(NamedTuple):
    """A key of mlflow.yaml: its path, the type of its value as people read it, what it is for."""

    path: tuple[str, ...]
    kind: str
    meaning: str

    def of(self, settings: Mlflow) -> Any:  # noqa: ANN401 - of the key's type
        """Its value."""
        return reduce(getattr, self.path, settings)

    def source(self, own: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
        """The file that has its section, a home's own first; a key that is left out there has its default."""
        name = f"CROUPIER_HOME/{SHIPPED.name}" if self.path[0] in own else f"shipped {SHIPPED.name}"
        part: Any = {**ours, **own}
        for step in self.path:
            if step not in part:
                return "default"
            part = part[step]
        return name


def listed(home: Path) -> list[Row]:
    """Every setting of a home; secrets and passwords are masked. Raises SettingError."""
    given = environment()
    return [*_of_environment(given), *_of_file(home, given)]


def _of_environment(given: Environment) -> Iterator[Row]:
    for one in VARIABLES:
        value = one.__get__(given, Environment)
        shown = (MASK if value else None) if one.secret else _shown(value)
        source = "environment" if one.name in given.variables else "default"
        yield Row(one.name, shown, _shown(one.default), source, one.meaning)


def _of_file(home: Path, given: Environment) -> Iterator[Row]:
    found, default = read_mlflow(home), shipped()
    own, ours = _written(home / SHIPPED.name), _written(SHIPPED)
    for one in declared():
        moved = given.mlflow and one.path == ("tracking", "uri")
        source = "environment" if moved else one.source(own, ours)
        yield Row(".".join(one.path), _shown(one.of(found)), _shown(one.of(default)), source, one.meaning)


def _written(file: Path) -> Any:  # noqa: ANN401 - a mapping, as was checked before
    """What stands in a file, without defaults."""
    from features.files import read_yaml  # noqa: PLC0415 - see `_sections`

    return read_yaml(file.read_text("utf8")) or {} if file.exists() else {}


def declared() -> list[Declared]:
    """Every key that mlflow.yaml may have."""
    return list(_declared(Mlflow))


def _declared(kind: type[msgspec.Struct], *above: str) -> Iterator[Declared]:
    for one in msgspec.structs.fields(kind):
        path = (*above, one.encode_name)
        if isinstance(one.type, type) and issubclass(one.type, msgspec.Struct):
            yield from _declared(one.type, *path)
        else:
            base, meta = get_args(one.type)
            yield Declared(path, _kind(base, meta), meta.description)


def _kind(base: Any, meta: Meta) -> str:  # noqa: ANN401 - any annotation
    words = {
        int: "whole number",
        float: "number",
        str: "text",
        str | None: "text",
        Oracle: " or ".join(get_args(Oracle)),
    }
    bounds = [f"above {meta.gt}"] if meta.gt is not None else []
    bounds += [f"at most {meta.le}"] if meta.le is not None else []
    return ", ".join([words[base], *bounds])


def _shown(value: object) -> str | float | None:
    if value is None or value is False or value == ():
        return None
    return value if isinstance(value, int | float) else masked(str(value))


def masked(text: str) -> str:
    """A text without the passwords of the address that it may be."""
    scheme, between, rest = _SECRET_IN_URL.sub(rf"\1{MASK}", text).partition("://")
    user, at, place = rest.rpartition("@")
    name, divided, _ = user.partition(":")
    return f"{scheme}{between}{name}{f':{MASK}' if divided else ''}{at}{place}"
