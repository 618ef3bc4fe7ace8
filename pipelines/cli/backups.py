"""Commands that take a backup of a house and restore one."""

from __future__ import annotations

import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pipelines.cli.terminal import CommandRefused, Json, console, fields, home, serving, show, warn

if TYPE_CHECKING:
    from pipelines.backup.restore import RestoreResult


def backup(
    target: Annotated[Path, typer.Argument(help="Folder that does not exist yet, best on another disk.")],
    as_json: Json = False,
) -> None:
    """Copy a house, running or not, without stopping it. Example: croupier backup /backups/monday."""
    from pipelines.backup.backup import back_up

    signal.signal(signal.SIGTERM, _stop)
    say = console().print
    found = back_up(home(), target, say)
    if as_json:
        show(fields(found) | {"backup": str(target)}, as_json=True)
        return
    print(f"{target} holds the house as of {found.taken_at}: {found.files:,} files, {found.bytes / 1e6:,.1f} MB")
    for fault in found.faults:
        print(f"wrong with the house: {fault}")
    for what, place in found.named.items():
        print(f"not copied: {what}, which is at {place}")
    if found.key:
        print(f"not in it: the house key {found.key}; keep a copy apart, for no player can be read without it")


def restore(
    target: Annotated[Path | None, typer.Argument(help="Folder that `croupier backup` wrote.")] = None,
    new_home: Annotated[
        Path | None, typer.Option("--home", help="Home of the restored house; by default CROUPIER_HOME.")
    ] = None,
    house_key: Annotated[
        Path | None, typer.Option(help="The house key, which no backup has; by default `house.key` of the new home.")
    ] = None,
    erasures: Annotated[
        Path | None, typer.Option(help="File of who was erased since; by default `erasures` of the new home.")
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Let the restored house of this home send; takes no TARGET.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why it may, for the record; must be given.", show_default=False)] = "",
    as_json: Json = False,
) -> None:
    """Restore a backup; exit code 1 if the house has faults. Example: croupier restore /backups/monday --home var2."""
    if accept:
        _accept(target, new_home, reason, as_json=as_json)
        return
    if target is None or reason:
        raise CommandRefused("name the backup to restore; --reason goes with --accept")
    from models.releases.release import user
    from pipelines.backup import restore as restoring

    signal.signal(signal.SIGTERM, _stop)
    place = new_home or home()
    found = restoring.restore(
        target, place, user(), datetime.now(UTC), console().print, restoring.KeptApart(house_key, erasures)
    )
    for sentence in found.warnings:
        warn(sentence)
    if as_json:
        show(fields(found), as_json=True)
    else:
        _tell(found)
    if found.faults:
        sys.exit(1)


def _tell(found: RestoreResult) -> None:
    print(f"{found.home} holds the house of {found.backup}, as of {found.taken_at}")
    for fault in found.faults:
        print(f"wrong with the house, and was when the backup was taken: {fault}")
    for what, where in found.named.items():
        print(f"not in the backup: {what}, which is at {where}")
    for variable, file in found.settings.items():
        print(f"let {variable} name {file}")
    if found.held_back:
        print("it sends nothing until somebody runs `croupier restore --accept --reason TEXT`")


def _accept(target: Path | None, new_home: Path | None, reason: str, *, as_json: bool) -> None:
    from features.store.connection import connect
    from features.store.server import serving as serving_home
    from models.releases.release import user
    from pipelines.backup import restore as restoring

    if target is not None or not reason.strip():
        raise CommandRefused("--accept takes no backup, and demands --reason TEXT")
    with serving() if new_home is None else serving_home(new_home) as url:
        done = restoring.accept(connect(url), user(), reason.strip(), datetime.now(UTC))
    if as_json:
        show(fields(done), as_json=True)
    elif done.accepted is not None:
        print(f"the house may send from now on, by {done.accepted.by}: {done.accepted.reason}")


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt
