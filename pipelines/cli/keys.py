"""Commands about API keys: who may ask the house what."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pipelines.cli.terminal import CommandRefused, Commands, Json, paper, serving, show

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from features.store.connection import TimedStore
    from service.access.register import NewKey

    Result = TypeVar("Result")

keys = typer.Typer(
    cls=Commands, no_args_is_help=True, help="API keys: who may ask the house what. A secret is shown once."
)
KeyId = Annotated[str, typer.Argument(metavar="ID", help="Its id, as `croupier keys list` names it.")]


@keys.command("create")
def create(
    scopes: Annotated[str, typer.Option(help="What it allows, divided by commas.", show_default=False)],
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    expires: Annotated[
        str | None, typer.Option(help="When it ends: in 90d or 12h, or on a date or moment. By default never.")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Requests a second over the whole house.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and show its secret once. Example: croupier keys create --scopes decide,events --label crm."""
    from models.releases.release import user
    from service.access.register import Author, WantedKey, create_key, now

    words = _scopes(scopes)
    text = label.strip()
    if len(text) > 100:
        raise CommandRefused("--label takes at most 100 characters")

    async def work(store: TimedStore) -> NewKey:
        ends = None if expires is None else _moment(expires, await now(store))
        return await create_key(store, WantedKey(scopes=words, label=text, expires_at=ends, rate=rate), Author(user()))

    _show_new(_done(work), as_json=as_json)


@keys.command("list")
def list_(as_json: Json = False) -> None:
    """List every key with scopes, state and last use; no secret of any. Example: croupier keys list."""
    from rich.table import Table

    from service.access.listed import listed
    from service.access.register import now, read_keys, read_used

    async def work(store: TimedStore) -> list[dict[str, Any]]:
        at, used = await now(store), await read_used(store)
        return [listed(name, key, at, used) for name, key in (await read_keys(store)).items()]

    found = _done(work)
    if as_json:
        show({"keys": found}, as_json=True)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("id", "label", "scopes", "state", "rate", "created", "by", "last used", "ends"):
        table.add_column(name, overflow="fold")
    for one in found:
        ends = one["revoked"]["reason"] if one["revoked"] else ", ".join(at or "never" for at in one["expires_at"])
        rate = "" if one["rate"] is None else f"{one['rate']}/s"
        used_at = one["last_used_at"] or "never"
        scopes = " ".join(one["scopes"])
        table.add_row(one["id"], one["label"], scopes, one["state"], rate, one["created_at"], one["by"], used_at, ends)
    paper().print(table, markup=False)


@keys.command("rotate")
def rotate(
    key_id: KeyId,
    keep: Annotated[str, typer.Option(help="How long the secret before it lives on: 24h, 30m, 7d or 0.")] = "24h",
    as_json: Json = False,
) -> None:
    """Give a key a new secret, beside the one it has for a while. Example: croupier keys rotate k3v9x2mp."""
    from models.releases.release import user
    from service.access.register import Author, rotate_key

    seconds = _seconds(keep)
    if seconds is None or seconds > 30 * 24 * 3_600:
        raise CommandRefused(f"--keep takes a time up to 30d, such as 24h, 30m, 7d or 0, not {keep!r}")
    _show_new(_done(lambda store: rotate_key(store, key_id, seconds, Author(user()))), as_json=as_json)


@keys.command("revoke")
def revoke(
    key_id: KeyId,
    reason: Annotated[str, typer.Option(help="Why, for the journal; must be given.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Revoke a key for ever, within a second everywhere. Example: croupier keys revoke k3v9x2mp --reason leaked."""
    from models.releases.release import user
    from service.access.listed import listed
    from service.access.register import Author, now, read_used, revoke_key

    if not reason.strip():
        raise CommandRefused("--reason must say why")

    async def work(store: TimedStore) -> dict[str, Any]:
        key = await revoke_key(store, key_id, reason.strip(), Author(user()))
        return listed(key_id, key, await now(store), await read_used(store))

    found = _done(work)
    if as_json:
        show(found, as_json=True)
    else:
        ended = found["revoked"]
        print(f"{key_id} is revoked since {ended['at']}, by {ended['by']}: {ended['reason']}")


def _done(work: Callable[[TimedStore], Coroutine[Any, Any, Result]]) -> Result:
    """The result of work on the home's store, which must hold a house; what is refused ends in one sentence."""
    import asyncio

    from features.store.connection import Store, TimedStore, deadline
    from service.errors import RequestRefused

    async def whole(url: str) -> Result:
        store = Store(url, 1)
        try:
            await store.house()
            return await work(TimedStore(store, deadline(10.0)))
        finally:
            await store.close()

    try:
        with serving() as url:
            return asyncio.run(whole(url))
    except RequestRefused as refusal:
        raise CommandRefused(str(refusal)) from refusal


def _scopes(text: str) -> tuple[str, ...]:
    from service.access.keys import known_scopes
    from service.access.scopes import SCOPES

    found, strange = known_scopes(word.strip() for word in text.split(","))
    if strange or not found:
        said = f"there is no scope {', '.join(repr(word) for word in strange)}" if strange else "a key needs a scope"
        raise CommandRefused(f"{said}; there are {', '.join(SCOPES)}")
    return tuple(found)


def _seconds(text: str) -> int | None:
    """Seconds of a time such as 90d, 12h, 30m, 45s or 0; None if it is none."""
    import re

    found = re.fullmatch(r"(\d{1,9})([dhms]?)", text.strip())
    if found is None or (not found[2] and int(found[1])):
        return None
    return int(found[1]) * {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "": 1}[found[2]]


def _moment(text: str, now: float) -> int:
    """The unix second that is so long from now, or at a date or moment, UTC where none is named."""
    from datetime import UTC, datetime

    if (seconds := _seconds(text)) is not None:
        at = int(now) + seconds
    else:
        try:
            read = datetime.fromisoformat(text)
        except ValueError as error:
            raise CommandRefused(
                f"--expires takes a time such as 90d or 12h, a date or a moment, not {text!r}"
            ) from error
        at = int(read.replace(tzinfo=read.tzinfo or UTC).timestamp())
    if not now < at < 1e11:
        raise CommandRefused(f"--expires must lie ahead, and {text!r} does not")
    return at


def _show_new(made: NewKey, *, as_json: bool) -> None:
    told = {"id": made.id, "scopes": list(made.key.scopes), "key": made.sent.text}
    if as_json:
        show(told, as_json=True)
        return
    print(made.sent.text)
    print(f"key {made.id} allows {', '.join(made.key.scopes)}; this is shown once, keep it now", file=sys.stderr)
