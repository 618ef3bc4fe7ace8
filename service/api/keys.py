"""Keys at the HTTP door: listed, made, rotated and revoked by who has a key that allows `admin`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import FastAPI, Path, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from service.access.keys import ID_PATTERN, KEEP_SECONDS, Key, id_is_valid, known_scopes
from service.access.listed import listed
from service.access.register import (
    Author,
    NewKey,
    WantedKey,
    create_key,
    now,
    read_keys,
    read_used,
    revoke_key,
    rotate_key,
)
from service.access.scopes import Scope
from service.api.problems import OF_A_BODY
from service.api.routing import Dependencies, Deps, Operation, add_route, respond
from service.api.schemas import KeyAnswer, KeysAnswer, NewKeyAnswer, RevocationAnswer
from service.errors import (
    InvalidBodyError,
    KeyIdReused,
    KeyRevoked,
    RotationUnfinishedError,
    UnknownKeyError,
)

LABEL_LENGTH: Final = 100
REASON_LENGTH: Final = 200
RATE_MOST: Final = 1_000_000
KEEP_MOST: Final = 30 * 24 * 3_600
_SECRET: Final = {"cache-control": "no-store"}

KeyId = Annotated[str, Path(pattern=ID_PATTERN, description="As its list names it: the part after `ck_`.")]
Why = Annotated[str, Query(max_length=REASON_LENGTH, description="Why, for the journal; must be given.")]


class KeyRequest(BaseModel):
    """A key that is to be made."""

    model_config = ConfigDict(extra="forbid")
    scopes: list[Scope] = Field(min_length=1, description="What it allows, of what your own key does.")
    label: str = Field(default="", max_length=LABEL_LENGTH, description="What it is for.")
    expires_at: AwareDatetime | None = Field(default=None, description="From when it is refused; null is never.")
    rate: int | None = Field(
        default=None, ge=1, le=RATE_MOST, description="Requests a second over the whole house; null is no limit."
    )
    id: str | None = Field(
        default=None, pattern=ID_PATTERN, description="Your own id for it, so that a retry makes no second key."
    )

    @field_validator("expires_at")
    @classmethod
    def _is_a_second(cls, at: datetime | None) -> datetime | None:
        if at is not None and not 0 < at.timestamp() < 1e11:
            raise ValueError("must be a moment that can be")
        return at


class RotationRequest(BaseModel):
    """A key that is to get a new secret."""

    model_config = ConfigDict(extra="forbid")
    keep_seconds: int = Field(
        default=KEEP_SECONDS, ge=0, le=KEEP_MOST, description="How long the secret before it lives on."
    )


async def get_keys(deps: Deps) -> Response:
    """Every key with its scopes, its end and its last use; no secret of any."""
    store = deps.ledger.store
    at, used = await now(store), await read_used(store)
    found = await read_keys(store)
    return respond(KeysAnswer(keys=[KeyAnswer(**_told(name, key, at, used)) for name, key in found.items()]))


async def post_key(body: KeyRequest, deps: Deps) -> Response:
    """Make a key, whose secret is shown this once.

    It allows no scope that your own key lacks. With an `id` of yours, a retry is answered with 409: if the first answer
    was lost, rotate that key.
    """
    if body.expires_at is not None and body.expires_at.timestamp() <= await now(deps.ledger.store):
        raise InvalidBodyError("expires_at lies in the past", "/expires_at")
    wish = WantedKey(
        scopes=tuple(known_scopes(body.scopes)[0]),
        label=body.label,
        expires_at=None if body.expires_at is None else int(body.expires_at.timestamp()),
        rate=body.rate,
        id=body.id,
    )
    return await _shown(await create_key(deps.ledger.store, wish, _author(deps)), deps)


async def post_rotation(key_id: KeyId, body: RotationRequest, deps: Deps) -> Response:
    """Give a key a new secret, which is shown this once.

    The one before lives on for `keep_seconds`, a day by default, so that callers can change over; with 0 every earlier
    one ends at once. At most two are live.
    """
    _check(key_id)
    return await _shown(await rotate_key(deps.ledger.store, key_id, body.keep_seconds, _author(deps)), deps)


async def delete_key(key_id: KeyId, deps: Deps, reason: Why = "") -> Response:
    """Revoke a key for ever.

    A second after the answer no process takes it any more. It stays in the list with who revoked it and why; to revoke
    it again changes nothing.
    """
    _check(key_id)
    if not reason.strip() or len(reason) > REASON_LENGTH:
        raise InvalidBodyError(f"say why in the query, as `?reason=`, in 1 to {REASON_LENGTH} characters")
    store = deps.ledger.store
    key = await revoke_key(store, key_id, reason.strip(), _author(deps))
    return respond(KeyAnswer(**_told(key_id, key, await now(store), await read_used(store))))


def _check(key_id: str) -> None:
    if not id_is_valid(key_id):
        raise UnknownKeyError


def _author(deps: Dependencies) -> Author:
    return Author(deps.caller.name, deps.caller.scopes)


async def _shown(made: NewKey, deps: Dependencies) -> Response:
    told = _told(made.id, made.key, await now(deps.ledger.store), {})
    answer = respond(NewKeyAnswer(**told, key=made.sent.text))
    answer.headers.update(_SECRET)
    return answer


def _told(key_id: str, key: Key, at: float, used: dict[str, int]) -> dict[str, Any]:
    """The fields of a key's answer."""
    found = listed(key_id, key, at, used)
    return found | {"revoked": found["revoked"] and RevocationAnswer(**found["revoked"])}


def add(app: FastAPI) -> None:
    """Add the routes to an application."""
    path, tag, one = "/v1/keys", "Keys", "/v1/keys/{key_id}"
    made, rotated = (*OF_A_BODY, KeyIdReused), (*OF_A_BODY, UnknownKeyError, KeyRevoked, RotationUnfinishedError)
    for operation in (
        Operation(path, get_keys, tag, "admin", KeysAnswer, ()),
        Operation(path, post_key, tag, "admin", NewKeyAnswer, made, "POST"),
        Operation(f"{one}/rotate", post_rotation, tag, "admin", NewKeyAnswer, rotated, "POST"),
        Operation(one, delete_key, tag, "admin", KeyAnswer, (UnknownKeyError, InvalidBodyError), "DELETE"),
    ):
        add_route(app, operation)
