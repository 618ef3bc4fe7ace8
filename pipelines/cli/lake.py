"""Commands that look at the lake and keep it."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.terminal import Commands, Json, console, fields, home, paper, relying, show, warn

lake = typer.Typer(cls=Commands, no_args_is_help=True, help="What the lake has; whole past days of it as one file.")


@lake.command("show")
def lake_show(as_json: Json = False) -> None:
    """Show days, files, rows and bytes by table. Example: croupier lake show."""
    from rich.table import Table

    from pipelines.lake.compaction import inventory

    found = [fields(one) for one in inventory(home() / "lake")]
    if as_json:
        show({"tables": found}, as_json=True)
        return
    table = Table(box=None, pad_edge=False)
    for name in found[0]:
        table.add_column(name.replace("_", " "), justify="left" if name == "table" else "right")
    for one in found:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in one.values()))
    paper().print(table, markup=False)


@lake.command("compact")
def lake_compact(as_json: Json = False) -> None:
    """Make past days one file each, delete those past their time, as workers do. Example: croupier lake compact."""
    import time

    from rich.progress import track

    from features.settings.mlflow_file import read_mlflow
    from features.store.connection import connect
    from features.store.deployment import open_house
    from pipelines.lake.compaction import NotCompactedError, compact, remove, tasks, today
    from pipelines.lake.retention import NotDeletedError, delete
    from pipelines.worker.lake import reach

    folder, keep = home() / "lake", read_mlflow(home()).lake.keep_days
    with relying() as url:
        flushed = reach(folder).flushed
        first_open = today(open_house(connect(url)).now_us(flushed * 1_000))
    days, left = [], []
    found = list(tasks(folder, first_open, flushed))
    for task in track(found, "Days", console=console(), disable=not found):
        try:
            done = compact(task)
        except NotCompactedError as error:
            left.append(str(error))
            warn(str(error))
            continue
        if done is not None:
            days.append(fields(done))
    removed, deleted = remove(folder, time.time()), 0
    try:
        deleted = delete(folder, keep, first_open)
    except NotDeletedError as error:
        left.append(str(error))
        warn(str(error))
    if as_json:
        show({"days": days, "left": left, "removed": removed, "deleted": deleted}, as_json=True)
        return
    for one in days:
        size = f"{one['bytes_before'] / 1e6:,.1f} MB became {one['bytes_after'] / 1e6:,.1f}"
        print(f"{one['table']} of {one['day']}: {one['files']:,} files, {one['rows']:,} rows, {size}")
    print(f"{len(days):,} days became one file each; {removed:,} files that were left over are removed")
    if deleted:
        print(f"{deleted:,} days of tables were past lake.keep_days of mlflow.yaml, and are deleted")


@lake.command("collect")
def lake_collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be deleted.")] = False,
    as_json: Json = False,
) -> None:
    """Delete snapshots of policies that nothing has named for a day. Example: croupier lake collect --dry-run."""
    from features.store.connection import connect
    from pipelines.audit.collection import collect

    with relying() as url:
        found = collect(connect(url), home() / "lake", dry_run=dry_run)
    if as_json:
        show({"snapshots": [fields(one) for one in found]}, as_json=True)
        return
    for one in found:
        print(f"{one.version or one.digest[:12]}  {one.bytes:,} bytes, named by nothing since {one.since}")
    gone = [one for one in found if one.goes]
    size, does = sum(one.bytes for one in gone) / 1e6, "would be" if dry_run else "were"
    print(f"{len(gone):,} snapshots {does} deleted, {size:,.1f} MB; {len(found) - len(gone):,} wait for their day")
