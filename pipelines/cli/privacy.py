"""Commands about one person: erase them, write down all that is held of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.terminal import CommandRefused, Json, Reason, console, fields, home, serving, show

Player = Annotated[
    str, typer.Argument(help="Any id of the player; - reads it from standard input, and keeps it out of your history.")
]


def make_exports() -> None:
    """Make the exports that are asked for over HTTP, as a worker lets it. Example: croupier make-exports."""
    from features import logs
    from features.store.connection import connect
    from pipelines.privacy.exports import make_all

    logs.begin()
    with serving() as url:
        make_all(connect(url), home())


def erase(player: Player, reason: Reason, as_json: Json = False) -> None:
    """Erase a player; what restricts contact stays. Example: croupier erase - --reason "asked by letter" < id.txt."""
    from features.store.connection import connect
    from models.releases.release import user
    from pipelines.privacy.erase import erase as erased
    from service.errors import RequestRefused

    player_id = _player(player)
    if not reason.strip():
        raise CommandRefused("--reason must say why, in words that name nobody: it is kept")
    try:
        with serving() as url:
            found = erased(connect(url), url, home(), player_id, user(), reason.strip(), console().print)
    except RequestRefused as refusal:
        raise CommandRefused(str(refusal)) from refusal
    show(fields(found), as_json=as_json)


def _player(told: str) -> str:
    from features.events import is_id

    player_id = sys.stdin.readline().strip() if told == "-" else told
    if not is_id(player_id):
        raise CommandRefused("that is no id of a player: 1 to 64 printable letters without blanks and braces")
    return player_id


def export(
    player: Player,
    output: Annotated[
        Path | None, typer.Option(help="File that does not exist yet, for you alone; without it, standard output.")
    ] = None,
) -> None:
    """Write all that is held of a player, as JSON. Example: croupier export - --output one.json < id.txt."""
    from features.store.connection import connect
    from pipelines.privacy.export import export as exported
    from service.errors import UnknownPlayerError

    player_id = _player(player)
    try:
        with serving() as url:
            text = json.dumps(exported(connect(url), home() / "lake", home(), player_id), indent=2, ensure_ascii=False)
    except UnknownPlayerError as unknown:
        raise CommandRefused(str(unknown)) from unknown
    if output is None:
        print(text)
        return
    try:
        held = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CommandRefused(f"{output} cannot be written: {error.strerror}") from error
    with os.fdopen(held, "w", encoding="utf8") as out:
        out.write(text + "\n")
