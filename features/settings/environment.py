"""Variables of the environment, each declared once. Light to import."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import nan
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, Self, TypeVar, overload

from features.errors import CroupierError
from features.settings.masks import masked

_PREFIX: Final = "CROUPIER_"
_SERVICE_LINK: Final = re.compile(r"CROUPIER(_[A-Z0-9]+)*_(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)")
"""Names that an orchestrator gives to the addresses of services that are called croupier or croupier-something."""
_KEY: Final = re.compile(r"[!#-&(-+\--_a-~]+")
"""What can be sent as a key and be meant as one: visible ASCII, no comma, and no quotes, which a shell forgot."""


class SettingError(CroupierError, ValueError):
    """A setting cannot be what it says."""

    code = "invalid_setting"
    exit_code = 2


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
            raise SettingError(f"{self.name} {error}" + ("" if self.secret else f", and is {masked(text)!r}")) from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = nan
    if not 0 < seconds <= 3_600:
        raise ValueError("must be a number of seconds above 0, at most 3600")
    return seconds


def _mebibytes(text: str) -> int:
    if not (text.isdecimal() and 64 <= int(text) < 2**30):
        raise ValueError("must be a number of mebibytes, at least 64")
    return int(text) * 2**20


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 65_536):
        raise ValueError("must be a port from 1 to 65535")
    return int(text)


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _keys(text: str) -> tuple[str, ...]:
    """Keys divided by commas; says which is odd by its place, never by its text."""
    if not text.strip():
        raise ValueError("is set and holds no key: leave it out, or name keys")
    found = text.split(",")
    for place, key in enumerate(found, 1):
        if not key.strip():
            raise ValueError(f"holds an empty key in place {place}: divide keys by one comma each")
        if not _KEY.fullmatch(key):
            raise ValueError(f"holds an odd key in place {place}: no blanks, quotes or characters beyond ASCII")
        if key in found[: place - 1]:
            raise ValueError(f"holds the key in place {place} twice")
    return tuple(found)


_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:.]+:[0-9a-f:.]*")


def _hosts(text: str) -> tuple[str, ...]:
    """Names or addresses that callers reach the API by, each without scheme and port."""
    hosts = tuple(word.strip().lower().strip("[]") for word in text.split(","))
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise ValueError("must be names or addresses divided by commas, without scheme, port or `*`")
    return hosts


def _networks(text: str) -> tuple[str, ...]:
    """Addresses and networks, each as it is written."""
    from ipaddress import ip_network  # noqa: PLC0415 - few houses have proxies

    networks = tuple(word.strip() for word in text.split(","))
    try:
        for network in networks:
            ip_network(network)
    except ValueError:
        raise ValueError("must be addresses or networks divided by commas, such as 10.0.0.0/8") from None
    return networks


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
    store_memory = Variable[int | None](
        "CROUPIER_STORE_MEMORY",
        "MiB",
        _mebibytes,
        None,
        "Memory that the home's own store may use; without it half of the machine's. From nine tenths of it on only "
        "what restricts contact is taken.",
    )
    keys = Variable[tuple[str, ...]](
        "CROUPIER_KEYS",
        "words divided by commas",
        _keys,
        (),
        "API keys with every scope but `admin`, beside those of `croupier keys`; the next release does not read them.",
        secret=True,
    )
    key = Variable[str | None](
        "CROUPIER_KEY",
        "API key",
        lambda text: text or None,
        None,
        "API key that `up`, `simulate` and `decide` send; without it the first of CROUPIER_KEYS, else the home's own.",
        secret=True,
    )
    house_key = Variable[str | None](
        "CROUPIER_HOUSE_KEY",
        "32 bytes in hex or base64",
        lambda text: text or None,
        None,
        "House key, under which players' keys are sealed, where it stands in no file.",
        secret=True,
    )
    house_key_file = Variable[Path | None](
        "CROUPIER_HOUSE_KEY_FILE",
        "path",
        _path,
        None,
        "File of the house key, in place of `house.key` in the home; others must not be able to read it.",
    )
    hosts = Variable[tuple[str, ...]](
        "CROUPIER_HOSTS",
        "names divided by commas",
        _hosts,
        (),
        "Names and addresses by which callers reach the API, as their requests' Host has them, without port; those of "
        "loopback and what `--host` names are always answered. Any other Host gets 421.",
    )
    proxies = Variable[tuple[str, ...]](
        "CROUPIER_PROXIES",
        "addresses or networks divided by commas",
        _networks,
        (),
        "Proxies before the API whose X-Forwarded-For and X-Forwarded-Proto are believed; without any nobody's are.",
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
    templates = Variable[Path | None](
        "CROUPIER_TEMPLATES",
        "path",
        _path,
        None,
        "Folder of the messages' templates; without it the one that comes with Croupier.",
    )
    connectors = Variable[Path | None](
        "CROUPIER_CONNECTORS",
        "path",
        _path,
        None,
        "File that says over which providers the house sends; without it callers send themselves.",
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
    telemetry = Variable[str | None](
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "URL",
        lambda text: text or None,
        None,
        "Address of an OpenTelemetry collector: the API sends it traces over HTTP where the extra `traces` is there; "
        "OpenTelemetry's other variables hold too.",
    )
    traces = Variable[str | None](
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "URL",
        lambda text: text or None,
        None,
        "The same for traces alone, with the whole path.",
    )
    metrics = Variable[Path | None](
        "CROUPIER_METRICS",
        "path",
        _path,
        None,
        "Set by Croupier: the folder in which the processes of one `serve` count together; not for you to set.",
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
"""Every variable that Croupier reads, but for the secrets that the files of webhooks and connectors name."""
OF_TESTS: Final[Mapping[str, str]] = {
    "CROUPIER_TEST_STORE": "`cluster` runs the integration tests on three servers that share the keys.",
    "CROUPIER_EXAMPLES": "Stories that the laws of the ledger are tried on.",
    "CROUPIER_FAULTS": "`all` tries every fault in place of some.",
    "CROUPIER_BOOKS": "Rulebooks that the laws of the rules are tried on.",
    "CROUPIER_IMPORTS": "`all` imports thousands of generated files and the whole payments log in place of some.",
    "CROUPIER_RACES": "How many confirms are raced against stops.",
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


def answer_for(hosts: Iterable[str]) -> None:
    """Let the processes that this one starts answer requests for hosts."""
    os.environ[Environment.hosts.name] = ",".join(hosts)


def count_in(folder: Path) -> None:
    """Let the serving processes that this one starts count in one folder."""
    os.environ[Environment.metrics.name] = str(folder)


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
    named = _named(given.webhooks) | _named(given.connectors)
    return [
        Unknown(name, _nearest(name))
        for name in sorted(given.variables)
        if name.startswith(_PREFIX) and name not in known | named and not _SERVICE_LINK.fullmatch(name)
    ]


def _named(file: Path | None) -> set[str]:
    """Words of a file of webhooks or connectors, which names variables of its own."""
    with suppress(OSError, UnicodeDecodeError):
        return set(re.findall(r"\w+", file.read_text("utf8"))) if file else set()
    return set()


def _nearest(name: str) -> str | None:
    ours = {one.name.removeprefix(_PREFIX): one.name for one in VARIABLES if one is not Environment.tied}
    return next((ours[near] for near in get_close_matches(name.removeprefix(_PREFIX), ours, 1)), None)
