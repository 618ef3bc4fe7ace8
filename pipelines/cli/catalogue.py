"""Commands about the catalogue of offers: check, show, compare."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipelines.cli.terminal import Commands, Json, paper, serving, show

catalogue = typer.Typer(cls=Commands, no_args_is_help=True, help="Read, check and compare catalogues.")
File = Annotated[
    str | None, typer.Argument(help="File, or a hash that decisions name; by default the one that serves.")
]


@catalogue.command("lint")
def catalogue_lint(file: File = None, as_json: Json = False) -> None:
    """Check a catalogue with the serving rulebook; exit code 1 if it errs. Example: croupier catalogue lint FILE."""
    from features.store.connection import connect
    from pipelines.rules import catalogues

    with serving() as url:
        client = connect(url)
        found = catalogues.linted(client, catalogues.catalogue(file, client))
    if as_json:
        show(found, as_json=True)
    else:
        print(f"Catalogue {found['catalogue']}: {found['offers']} offers, with rulebook {found['rulebook']}.")
        for one in found["findings"]:
            print(f"{one['grade']:<7}  {one['where']}: {one['what']}")
    if any(one["grade"] != "note" for one in found["findings"]):
        sys.exit(1)


@catalogue.command("show")
def catalogue_show(file: File = None, as_json: Json = False) -> None:
    """Show a catalogue, by default the one that serves. Example: croupier catalogue show."""
    from features.store.connection import connect
    from pipelines.rules import catalogues

    with serving() as url:
        found = catalogues.catalogue(file, connect(url))
    if as_json:
        show({"hash": found.hash, **found.model_dump(mode="json", by_alias=True)}, as_json=True)
        return
    from rich.table import Table

    table = Table(
        title=f"Catalogue {found.hash}, {len(found.offers)} offers", title_justify="left", box=None, pad_edge=False
    )
    for title in ("offer", "name", "purpose", "product", "cost", "priority"):
        table.add_column(title, overflow="fold")
    for one in found.offers:
        table.add_row(one.id, one.name, one.purpose, one.product, str(one.cost_minor), str(one.priority))
    paper().print(table, markup=False, highlight=False)


@catalogue.command("diff")
def catalogue_diff(
    old: Annotated[str, typer.Argument(help="File, or a hash that decisions name.")],
    new: File = None,
    as_json: Json = False,
) -> None:
    """Tell what another catalogue adds, drops and changes. Example: croupier catalogue diff OLD NEW."""
    from features.store.connection import connect
    from pipelines.rules import catalogues

    with serving() as url:
        client = connect(url)
        found = catalogues.compare(catalogues.catalogue(old, client), catalogues.catalogue(new, client))
    show(found, as_json=as_json)
