"""Commands about the rules of the house."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.terminal import CommandRefused, Commands, Json, console, home, paper, serving, show

rules = typer.Typer(cls=Commands, no_args_is_help=True, help="Read, check, explain and compare the rules of the house.")
Folder = Annotated[Path | None, typer.Argument(help="Folder of a rulebook; by default CROUPIER_RULES or our own.")]


@rules.command("lint")
def rules_lint(
    folder: Folder = None,
    served: Annotated[bool, typer.Option("--served", help="What serves, with the catalogue that serves.")] = False,
    as_json: Json = False,
) -> None:
    """Check a rulebook; exit code 2 if it does not load, 1 if it errs or warns. Example: croupier rules lint FOLDER."""
    from pipelines.rules.inspection import lint_files
    from pipelines.rules.rulebooks import lint_served
    from pipelines.rules.tables import findings

    if served and folder:
        raise CommandRefused("--served is what serves, not a folder: leave one of them out")
    if served:
        with serving() as url:
            found = lint_served(url)
    else:
        found = lint_files(folder, datetime.now(UTC).date())
    show(found, as_json=True) if as_json else paper().print(findings(found))
    if any(one["grade"] != "note" for one in found["findings"]):
        sys.exit(1)


@rules.command("list")
def rules_list(
    jurisdiction: Annotated[str, typer.Option(help="Country, or country and region, such as GB or US-FL.")],
    on: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day; by default today.")] = None,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """List the rules that bind in a place on a day. Example: croupier rules list --jurisdiction GB --on 2026-01-19."""
    from pipelines.rules.inspection import rules_of_place
    from pipelines.rules.tables import rules_of

    found = rules_of_place(folder, jurisdiction, (on or datetime.now(UTC)).date())
    show(found, as_json=True) if as_json else paper().print(rules_of(found))


@rules.command("explain")
def rules_explain(
    player: Annotated[str, typer.Argument(help="Your id of the player.")],
    brand: Annotated[str, typer.Option(help="Brand the contact would be for.")] = "main",
    as_json: Json = False,
) -> None:
    """Tell what may be sent to a player now, what not, and why. Example: croupier rules explain player-1."""
    from pipelines.rules.explain import explain
    from pipelines.rules.tables import explained

    with serving() as url:
        found = explain(url, player, brand)
    show(found, as_json=True) if as_json else paper().print(explained(found))


@rules.command("diff")
def rules_diff(
    old: Annotated[str, typer.Argument(help="Folder of a rulebook, or a hash that decisions name.")],
    new: Annotated[str, typer.Argument(help="Another one.")],
    since: Annotated[str, typer.Option(help="7d, 12h, or a day such as 2026-11-01.")] = "7d",
    lake: Annotated[Path | None, typer.Option(help="By default the house's.")] = None,
    as_json: Json = False,
) -> None:
    """Tell what another rulebook would have denied or allowed. Example: croupier rules diff OLD NEW --since 7d."""
    from pipelines.rules.compare import compare_rulebooks
    from pipelines.rules.tables import differences

    with serving() as url:
        found = compare_rulebooks(url, lake or home() / "lake", old, new, since, console())
    show(found, as_json=True) if as_json else paper().print(differences(found))


@rules.command("page")
def rules_page(folder: Folder = None) -> None:
    """Print the documentation of a rulebook as Markdown. Example: croupier rules page > docs/rules.md."""
    from pipelines.rules.page import page
    from service.rules.rulebook import load_rulebook, rulebook_path

    sys.stdout.write(page(load_rulebook(folder or rulebook_path())))
