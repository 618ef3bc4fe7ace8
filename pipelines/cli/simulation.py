"""The command that drives a sandbox house with synthetic players."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.terminal import Json, console, fields, home, show


def simulate(
    address: Annotated[str, typer.Option(help="The sandbox house.")] = "http://127.0.0.1:8000",
    seed: Annotated[int, typer.Option(min=0)] = 1,
    players: Annotated[int, typer.Option(min=10)] = 600,
    days: Annotated[float, typer.Option(min=1, max=3_650, help="Of the house's clock.")] = 42,
    decisions: Annotated[int, typer.Option(min=100, help="About how many are asked for in all.")] = 20_000,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; by default CROUPIER_HOME/simulations.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Drive a sandbox house with a seeded crowd. Example: croupier up --players 0 --rate 10000; croupier simulate."""
    from rich.console import Console

    from models.catalogue.offers import load_catalogue
    from pipelines.machine.development_key import own_key
    from pipelines.simulation import results
    from pipelines.simulation.simulate import SimulationOptions
    from pipelines.simulation.simulate import simulate as drive
    from service.settings import catalogue_path

    catalogue = load_catalogue(catalogue_path())
    options = SimulationOptions(address, seed, players, days, decisions, own_key(home()))
    course = drive(options, catalogue, console())
    folder = (out or home() / "simulations") / f"seed-{seed}"
    found = results.measure(course)
    results.write(course, found, folder)
    if as_json:
        show(fields(found), as_json=True)
        return
    shown = Console()
    shown.print(results.table(found))
    shown.print(results.course(found), highlight=False, soft_wrap=True)
    if (pooled := results.pool(folder.parent)) is not None:
        shown.print(results.together(pooled))
    shown.print(f"results and plots are in {folder}", highlight=False)
