"""Webhooks of revoked leases: endpoints, payload, signature, retry schedule.

The file that CROUPIER_WEBHOOKS names says who is told. It names the environment's variables that hold the
secrets; a secret never stands in it. All but `read_webhooks` and the look at the environment is pure.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, Self

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, model_validator
from standardwebhooks import Webhook

from features.events import Brand, Channel
from features.files import load_yaml
from features.moments import moment
from features.settings.environment import environment, secrets_in
from models.catalogue.limits import Name
from service.delivery.networks import PrivateNetwork, bare

SECOND_US: Final = 1_000_000
RETRY_SECONDS: Final = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Waits after each failed attempt: the schedule of Standard Webhooks 1.0.0, "Deliverability and reliability"."""
JITTER: Final = 0.2
"""By which share a wait grows at most, so that what failed together does not come back together."""
_SECRET_BYTES: Final = range(24, 513)
Verdict = Literal["delivered", "gone", "failed"]


def _secrets(variable: str) -> str:
    if variable.startswith("whsec_"):
        raise ValueError("names a variable of the environment; the secret itself must not stand in a file")
    held = secrets_in(variable)
    if not held:
        raise ValueError(f"the environment has no variable {variable}")
    if not all(_is_secret(secret) for secret in held):
        raise ValueError(f"the variable {variable} holds no secret: whsec_ and 24 to 512 bytes in base64")
    return variable


def _is_secret(secret: str) -> bool:
    """Whether a secret is valid: prefix, length, and base64, which the library does not check."""
    text = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return False
    return secret.startswith("whsec_") and len(key) in _SECRET_BYTES


class Endpoint(BaseModel):
    """A subscriber's endpoint.

    Attributes:
        secret_env: The variable of the environment that holds the secret; two, divided by a space, sign both.
        brands, channels: Whose revoked leases it gets; None for all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: Name
    url: Annotated[HttpUrl, AfterValidator(bare)]
    secret_env: Annotated[str, AfterValidator(_secrets)]
    brands: tuple[Brand, ...] | None = None
    channels: tuple[Channel, ...] | None = None

    def wants(self, notice: Notice) -> bool:
        """Whether the endpoint subscribed to a notice."""
        return (self.brands is None or notice.brand in self.brands) and (
            self.channels is None or notice.channel in self.channels
        )


class Webhooks(BaseModel):
    """Settings of webhooks: endpoints and delivery.

    Attributes:
        allow_private: Private ranges that may be called all the same, also without TLS.
        retry_seconds: Waits after each failed attempt; when they are used up, the entry counts as undelivered.
        timeout_seconds: How long an endpoint may take to answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    endpoints: tuple[Endpoint, ...] = ()
    allow_private: tuple[PrivateNetwork, ...] = ()
    retry_seconds: tuple[Annotated[float, Field(ge=0, le=604_800)], ...] = RETRY_SECONDS
    timeout_seconds: float = Field(default=20.0, gt=0, le=30)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        ids = [one.id for one in self.endpoints]
        if len(set(ids)) < len(ids):
            raise ValueError("two endpoints share an id")
        return self


def read_webhooks() -> Webhooks:
    """Read the file named by CROUPIER_WEBHOOKS; no endpoints without one.

    Raises:
        CatalogueError: The file, or a secret that it names, is not valid.
    """
    file = environment().webhooks
    return load_yaml(file, Webhooks) if file else Webhooks()


@dataclass(frozen=True)
class Notice:
    """Notice of a revoked lease; `revoked_us` is house time, unix microseconds."""

    decision_id: str
    brand: str
    channel: str
    offer: str
    revoked_us: int


def notice(fields: Mapping[bytes, bytes]) -> Notice:
    """Notice of an outbox entry, without the player: the decision identifies the contact."""
    row = msgspec.msgpack.decode(fields[b"b"])
    return Notice(row["decision_id"], row["brand"], row["channel"], row["offer"], int(fields[b"t"]))


def body(told: Notice) -> str:
    """Request body of a notice, the same at every attempt."""
    at = moment(told.revoked_us)
    data = {
        "decision_id": told.decision_id,
        "brand": told.brand,
        "channel": told.channel,
        "offer": told.offer,
        "revoked_at": at,
    }
    return msgspec.json.encode({"type": "lease.revoked", "timestamp": at, "data": data}).decode()


def webhook_id(told: Notice, endpoint: str) -> str:
    """Idempotency key of a notice: a lease is revoked once, and for good."""
    return f"revoked_{told.decision_id}_{endpoint}"


def headers(secrets: Sequence[str], message: str, at: datetime, text: str) -> dict[str, str]:
    """Headers of an attempt, signed with every secret.

    Args:
        secrets: Those of the endpoint; more than one while it changes them.
        message: Its webhook-id.
        at: Moment of the attempt, aware, UTC.
        text: The body.
    """
    signed = " ".join(Webhook(secret).sign(message, at, text) for secret in secrets)
    return {
        "content-type": "application/json",
        "user-agent": "Croupier",
        "webhook-id": message,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signed,
    }


def verdict(status: int | None) -> Verdict:
    """Verdict on the status of an answer, None for no answer; a redirect is a failure, never followed."""
    if status is None:
        return "failed"
    return "gone" if status == 410 else "delivered" if status // 100 == 2 else "failed"


def wait_seconds(schedule: Sequence[float], attempts: int, asked: float, u: float) -> float | None:
    """Seconds to wait after failed attempts; None when the schedule is used up.

    Args:
        schedule: Wait after the first, second, ... failed attempt.
        attempts: Attempts made, from 1.
        asked: Seconds that the endpoint asked for, 0 for none.
        u: Uniform in [0, 1), for the jitter.
    """
    if attempts > len(schedule):
        return None
    return max(schedule[attempts - 1] * (1 + JITTER * u), asked)
