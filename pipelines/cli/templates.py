"""Commands about templates of messages: check, look at one for a player, look at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.terminal import CommandRefused, Commands, Json, serving, show

templates = typer.Typer(cls=Commands, no_args_is_help=True, help="Check and look at the templates of messages.")
Folder = Annotated[
    str | None, typer.Argument(help="Folder, or a hash that releases name; by default those that serve.")
]


@templates.command("lint")
def templates_lint(folder: Folder = None, as_json: Json = False) -> None:
    """Render each in every locale, at the edges; exit code 1 if one errs. Example: croupier templates lint FOLDER."""
    from features.store.connection import connect
    from pipelines.rules import message_templates

    with serving() as url:
        client = connect(url)
        chosen = message_templates.templates(folder, client)
        found = message_templates.linted(client, chosen)
    if as_json:
        show({"templates": chosen.hash, "findings": [one._asdict() for one in found]}, as_json=True)
    else:
        print(f"Templates {chosen.hash}: {len(chosen.templates)}, {len(found)} findings.")
        for one in found:
            print(f"{'error' if one.error else 'note':<7}  {message_templates.sentence(one)}")
    if any(one.error for one in found):
        sys.exit(1)


@templates.command("preview")
def templates_preview(
    name: Annotated[str, typer.Argument(help="The template.")],
    player: Annotated[str, typer.Option("--player", help="Whose name, language and jurisdiction.")],
    channel: Annotated[str, typer.Option("--channel", help="email, sms, push, in_app or call.")] = "email",
    locale: Annotated[str, typer.Option("--locale", help="By default the player's.")] = "",
    html: Annotated[Path | None, typer.Option("--html", help="File for the mail's HTML.")] = None,
    as_json: Json = False,
) -> None:
    """Show one as a player would see it; send nothing. Example: croupier templates preview reload_v1 --player p1."""
    from features.store.connection import connect
    from pipelines.rules.message_templates import preview

    with serving() as url:
        made = preview(connect(url), name, player, channel, locale)
    if html is not None:
        html.write_text(made.html, "utf8")
    if as_json:
        show(made._asdict(), as_json=True)
        return
    for title in ("subject", "text", "title", "body", "url"):
        if text := getattr(made, title):
            print(f"{title}: {text}")


@templates.command("page")
def templates_page(
    out: Annotated[Path, typer.Argument(help="File to write.")],
    folder: Annotated[str | None, typer.Option("--folder", help="By default those that serve.")] = None,
    place: Annotated[str | None, typer.Option("--jurisdiction", help="Whose parts are shown, such as GB.")] = None,
) -> None:
    """Write a page with every template in every locale. Example: croupier templates page templates.html."""
    from features.store.connection import connect
    from pipelines.rules import message_templates
    from pipelines.rules.template_page import page
    from pipelines.served import served_catalogue

    with serving() as url:
        client = connect(url)
        written = page(message_templates.templates(folder, client), served_catalogue(client), place)
    try:
        out.write_text(written, "utf8")
    except OSError as error:
        raise CommandRefused(f"{out} cannot be written: {error.strerror}") from error
    print(f"wrote {out}")
