"""The file of connectors: which channel, brand and jurisdiction goes over which provider, from whom, how fast.

The file that CROUPIER_CONNECTORS names. Secrets never stand in it: it names the variable of the environment, or the
file, that holds each.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, StringConstraints, model_validator

from features.errors import CroupierError
from features.events import Brand, Channel, Jurisdiction
from features.files import load_yaml
from features.settings.environment import environment, secrets_in
from models.catalogue.limits import Name
from service.delivery.networks import PrivateNetwork, bare

_LARGEST: Final = 4_096
"""Characters that a secret has at most."""
_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH
_HOST: Final = r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"
_PHONE: Final = re.compile(r"\+[1-9][0-9]{6,14}|[A-Za-z0-9 ]{1,11}|MG[0-9a-f]{32}")
Url = Annotated[HttpUrl, AfterValidator(bare)]


class SecretError(CroupierError):
    """A secret that a connector names is not there, or can be read by others."""

    code = "connector_secret"
    exit_code = 2


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretPlace(_Part):
    """Where a secret is: a variable of the environment or a file, which nobody else can read."""

    env: str | None = Field(default=None, pattern=r"^[A-Z][A-Z0-9_]*$")
    file: Path | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError(
                "names `env`, a variable of the environment, or `file`; the secret itself stands in no file"
            )
        return self

    def read(self) -> str:
        """The secret; raises SecretError if there is none, never with its text."""
        if self.env is not None:
            held = secrets_in(self.env)
            if len(held) != 1:
                raise SecretError(f"the variable {self.env} {'is not set' if not held else 'holds more than one word'}")
            return held[0]
        return _of_file(Path(str(self.file)))


def _of_file(file: Path) -> str:
    try:
        with file.open(encoding="utf8") as opened:
            mode, text = os.fstat(opened.fileno()).st_mode, opened.read(_LARGEST).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretError(f"the secret {file} cannot be read: {type(error).__name__}") from error
    if mode & _OTHERS:
        raise SecretError(f"everybody on this machine can read the secret {file}: chmod 600 it")
    if not text:
        raise SecretError(f"the secret {file} is empty")
    return text


class _Connector(_Part):
    """What every connector has.

    Attributes:
        per_second: Messages that the provider takes in a second, over all workers; None for as many as there are.
        timeout_seconds: How long it may take to answer; then the attempt is `unknown`.
        at_once: Messages under way.
    """

    per_second: float | None = Field(default=None, gt=0, le=100_000)
    timeout_seconds: float = Field(default=20.0, gt=0, le=60)
    at_once: int = Field(default=8, ge=1, le=256)


class SmtpConnector(_Connector):
    """A mail server or relay; `tls: none` is for private ranges. `ca` is the file of who signs its certificate."""

    kind: Literal["smtp"]
    host: str = Field(pattern=_HOST)
    port: int = Field(default=587, gt=0, lt=65_536)
    tls: Literal["starttls", "tls", "none"] = "starttls"
    ca: Path | None = None
    user: str | None = None
    password: SecretPlace | None = None

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("name both user and password, or neither")
        if self.user is not None and self.tls == "none":
            raise ValueError("a password is sent by TLS only")
        return self


class SendGridConnector(_Connector):
    """SendGrid v3; `callback_key` is the public key of its signed event webhook, as its page shows it."""

    kind: Literal["sendgrid"]
    url: Url = HttpUrl("https://api.sendgrid.com")
    key: SecretPlace
    callback_key: str | None = Field(default=None, pattern=r"^[A-Za-z0-9+/=]{80,400}$")


class TwilioConnector(_Connector):
    """Twilio Messages; its token signs callbacks too."""

    kind: Literal["twilio"]
    url: Url = HttpUrl("https://api.twilio.com")
    account: str = Field(pattern=r"^AC[0-9a-f]{32}$")
    token: SecretPlace


class OneSignalConnector(_Connector):
    """OneSignal push; `callback_secret` is what its event stream sends in the header `X-Croupier-Secret`."""

    kind: Literal["onesignal"]
    url: Url = HttpUrl("https://api.onesignal.com")
    app: str = Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    key: SecretPlace
    callback_secret: SecretPlace | None = None


class WebhookConnector(_Connector):
    """An endpoint of the house's own that sends: Standard Webhooks, both ways with the same secret."""

    kind: Literal["webhook"]
    url: Url
    secret: SecretPlace


class TaskConnector(_Connector):
    """A task for an agent, kept in the house."""

    kind: Literal["task"]


class InboxConnector(_Connector):
    """The player's inbox, kept in the house; `placement` says where it is shown."""

    kind: Literal["inbox"]
    placement: Literal["app", "site"] = "app"


class CatcherConnector(_Connector):
    """The house's own catcher: mails that go nowhere, for looking."""

    kind: Literal["catcher"]


AnyConnector = Annotated[
    SmtpConnector
    | SendGridConnector
    | TwilioConnector
    | OneSignalConnector
    | WebhookConnector
    | TaskConnector
    | InboxConnector
    | CatcherConnector,
    Field(discriminator="kind"),
]
KEPT: Final = frozenset({"task", "inbox", "catcher"})
"""Kinds whose messages stay in the house."""
SUITS: Final[dict[str, frozenset[str]]] = {
    "email": frozenset({"smtp", "sendgrid", "webhook", "catcher"}),
    "sms": frozenset({"twilio", "webhook", "catcher"}),
    "push": frozenset({"onesignal", "webhook", "catcher"}),
    "in_app": frozenset({"inbox", "webhook", "catcher"}),
    "call": frozenset({"task", "webhook", "catcher"}),
}
"""Kinds of connectors by the channel that they can serve."""


class ConnectorRoute(_Part):
    """Which connector sends the contacts of a channel, and from whom. A jurisdiction covers its parts.

    Attributes:
        brands, jurisdictions: Whose contacts; None for all. A player of unknown jurisdiction has routes without one.
        sender: Whom they come from: `Name <mail@address>`; a number, a name or a messaging service of an SMS.
        reply_to: Where answers to a mail go.
    """

    channel: Channel
    connector: Name
    brands: tuple[Brand, ...] | None = Field(default=None, min_length=1)
    jurisdictions: tuple[Jurisdiction, ...] | None = Field(default=None, min_length=1)
    sender: Annotated[str, StringConstraints(max_length=200)] = ""
    reply_to: Annotated[str, StringConstraints(max_length=200)] = ""

    def fits(self, channel: str, brand: str, jurisdiction: str | None) -> bool:
        """Whether it is for a contact."""
        places = () if jurisdiction is None else (jurisdiction, jurisdiction.partition("-")[0])
        return (
            self.channel == channel
            and (self.brands is None or brand in self.brands)
            and (self.jurisdictions is None or any(place in self.jurisdictions for place in places))
        )

    def covers(self, other: ConnectorRoute) -> bool:
        """Whether every contact that another is for would come here first."""
        return (
            self.channel == other.channel
            and (self.brands is None or set(other.brands or ("",)) <= set(self.brands))
            and (
                self.jurisdictions is None
                or all(
                    place in self.jurisdictions or place.partition("-")[0] in self.jurisdictions
                    for place in other.jurisdictions or ("",)
                )
            )
        )


class Connectors(_Part):
    """Settings of delivery.

    Attributes:
        public_url: Where callbacks, clicks and unsubscribing reach the house from outside.
        deliver: Whether the house sends where a request does not say.
        allow_private: Private ranges that may be called all the same, also without TLS.
        connectors: By name.
        routes: In order: the first that fits a contact is its own.
    """

    public_url: Url | None = None
    deliver: bool = False
    allow_private: tuple[PrivateNetwork, ...] = ()
    connectors: dict[Name, AnyConnector] = Field(default_factory=dict)
    routes: tuple[ConnectorRoute, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        troubles = [trouble for place, route in enumerate(self.routes, 1) for trouble in self._troubles(place, route)]
        if troubles:
            raise ValueError("; ".join(troubles))
        return self

    def _troubles(self, place: int, route: ConnectorRoute) -> Iterator[str]:
        held, name = self.connectors.get(route.connector), f"route {place} ({route.channel} to {route.connector})"
        if held is None:
            yield f"{name}: there is no such connector; the file has {', '.join(self.connectors) or 'none'}"
            return
        if held.kind not in SUITS[route.channel]:
            yield f"{name}: a connector of kind {held.kind} sends no {route.channel}"
        elif (trouble := _sender_trouble(route, held.kind)) is not None:
            yield f"{name}: {trouble}"
        if any(earlier.covers(route) for earlier in self.routes[: place - 1]):
            yield f"{name}: an earlier route takes all its contacts; name the narrower one first"
        if held.kind not in KEPT and self.public_url is None:
            yield f"{name}: `public_url` must say where unsubscribing and callbacks reach this house"

    @property
    def channels(self) -> frozenset[str]:
        """Channels on which the house sends, somebody's contacts at least."""
        return frozenset([one.channel for one in self.routes])

    def route(self, channel: str, brand: str, jurisdiction: str | None) -> ConnectorRoute | None:
        """Which route a contact takes, None where nobody sends it."""
        return next((one for one in self.routes if one.fits(channel, brand, jurisdiction)), None)

    def address(self, path: str) -> str:
        """A path of this house as it is reached from outside; "" where nothing says where that is."""
        return "" if self.public_url is None else f"{str(self.public_url).rstrip('/')}{path}"


def _sender_trouble(route: ConnectorRoute, kind: str) -> str | None:
    """Why a route's sender is none for its channel."""
    if route.channel == "email" and kind != "webhook":
        return _no_mail_address(route.sender) or (_no_mail_address(route.reply_to) if route.reply_to else None)
    if kind == "twilio" and not _PHONE.fullmatch(route.sender):
        return "`sender` must be a number such as +15551234567, a name of up to 11 letters, or a messaging service"
    return None


def _no_mail_address(text: str) -> str | None:
    name, address = parseaddr(text)
    try:
        whole = Address(name, addr_spec=address)
    except (HeaderParseError, ValueError, IndexError):
        whole = Address()
    if not (whole.username and "." in whole.domain) or not text.isprintable():
        return f"{text!r} is no mail address such as `Casino <hello@example.com>`"
    return None


def read_connectors() -> Connectors:
    """Read the file named by CROUPIER_CONNECTORS; no connectors without one.

    Raises:
        CatalogueError: The file is not valid.
    """
    file = environment().connectors
    return load_yaml(file, Connectors) if file else Connectors()
