"""Delete whole days of the lake that are past what `lake.keep_days` of mlflow.yaml says; null keeps them for good.

    the chain's heads at the cut --> _anchor.json --> files of the days deleted, oldest first

Killed in between, the days count as deleted already, and the next round deletes what is left of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import msgspec
import pyarrow as pa

from features.errors import CroupierError
from features.lake.anchor import ANCHOR, Anchor, read_anchor
from features.lake.files import TABLES, day_of, locked, put, table_files
from features.lake.flushes import FlushReader, Part, by_flush
from features.settings.mlflow_file import KeepDays
from features.steps import Step, no_step
from features.store.deployment import order, place


class NotDeletedError(CroupierError):
    """Days past their time stay: decisions of later days came before some of theirs, or they cannot be read."""

    code = "not_deleted"
    exit_code = 2


def expired(lake: Path, keep: KeepDays, first_open: date) -> dict[str, list[Path]]:
    """Folders of days past their time by table, the oldest first.

    Args:
        lake: The lake's folder.
        keep: For how many days each table is kept.
        first_open: First day that may still grow, of the house's clock.
    """
    found = {}
    for table in TABLES:
        days: int | None = getattr(keep, table)
        cut = "" if days is None else (first_open - timedelta(days=days)).isoformat()
        found[table] = [day for day in sorted((lake / table).glob("day=*")) if "" < day_of(day) < cut]
    return found


def delete(lake: Path, keep: KeepDays, first_open: date, step: Step = no_step) -> int:
    """Delete days past their time; returns how many folders. Those that somebody may read stay until the next round.

    Raises:
        NotDeletedError: The chain of decisions cannot be cut there.
        OSError: The folder cannot be written.
    """
    count = 0
    for table, days in expired(lake, keep, first_open).items():
        if days:
            with locked(lake / table) as unread:
                if unread and table == "decisions":
                    _anchor(lake, day_of(days[-1]), step)
                for day in days if unread else ():
                    step("delete day")
                    shutil.rmtree(day)
                    count += 1
    return count


def _anchor(lake: Path, until: str, step: Step) -> None:
    """Keep the heads of the chains at the end of a day."""
    before = read_anchor(lake)
    if until <= before.until:
        return  # a round that was killed has kept them
    try:
        flushes = by_flush(file for file in table_files(lake, "decisions") if day_of(file) > before.until)
        goes, stays = _divided(flushes, until)
        if goes and stays and goes[-1].boundary > min(part.boundary for part in stays):
            raise NotDeletedError(f"decisions of days up to {until} were logged after some of later days: they stay")
        links, places = dict(before.links), dict(before.places)
        for named, link in _ends(goes):
            partition = str(place(named)[0])
            links[partition], places[partition] = link.hex(), named
    except (OSError, ValueError, pa.ArrowException) as error:
        raise NotDeletedError(f"decisions of days up to {until} cannot be read, and stay: {error}") from error
    made = msgspec.json.encode(Anchor(until=until, links=links, places=places))
    put(lake / ANCHOR, lambda file: file.write_bytes(made), step)


def _divided(flushes: dict[str, list[Part]], until: str) -> tuple[list[Part], list[Part]]:
    parts = [part for flush in flushes.values() for part in flush]
    return [one for one in parts if day_of(one.file) <= until], [one for one in parts if day_of(one.file) > until]


def _ends(parts: list[Part]) -> Iterator[tuple[str, bytes]]:
    """Position and link of each row, in the order of the log."""
    reader = FlushReader()
    for part in parts:
        rows = reader.read(part, ["position", "chain"]).to_pylist()
        for row in sorted(rows, key=lambda one: (place(one["position"])[0], order(place(one["position"])[1]))):
            yield row["position"], row["chain"] or b""
