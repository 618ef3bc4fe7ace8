"""Players of a campaign: ids from a file of lines, CSV or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import CroupierError

COLUMN: Final = "player_id"
_DELIMITERS: Final = ",;\t"


class PlayersRefused(CroupierError):
    """A file of players cannot be read."""

    code = "players_refused"
    exit_code = 2


def read_players(file: Path, column: str | None = None) -> tuple[list[str], int]:
    """Ids of a file in order, each once, and how many stood there again.

    Parquet and CSV with a header have them in `column`, by default `player_id`; any other file has one a line.

    Raises:
        PlayersRefused: There is no such file or column, or it holds no id.
    """
    try:
        found = list(_parquet(file, column or COLUMN) if _is_parquet(file) else _text(file, column))
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise PlayersRefused(f"{file} cannot be read as a file of players: {error}") from error
    once = list(dict.fromkeys(found))
    if not once:
        raise PlayersRefused(f"{file} holds no player")
    return once, len(found) - len(once)


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(4) == b"PAR1"


def _parquet(file: Path, column: str) -> Iterator[str]:
    with pq.ParquetFile(file) as content:
        names = content.schema_arrow.names
        if column not in names:
            raise PlayersRefused(f"{file} has no column {column!r}; it has {', '.join(names)[:200]}")
        for batch in content.iter_batches(columns=[column]):
            yield from (str(one).strip() for one in batch.column(0).to_pylist() if one is not None and str(one).strip())


def _text(file: Path, column: str | None) -> Iterator[str]:
    with file.open(encoding="utf-8-sig", newline="") as content:
        first = content.readline()
        # As many as there are of it: an id has no comma, nor has a header another delimiter than its rows.
        delimiter = max(_DELIMITERS, key=first.count)
        header = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
        if (column or COLUMN) in header:
            at = header.index(column or COLUMN)
            rows = csv.reader(content, delimiter=delimiter)
            yield from (row[at].strip() for row in rows if len(row) > at and row[at].strip())
        elif column is not None or len(header) > 1:
            names = ", ".join(header)[:200]
            raise PlayersRefused(f"{file} has no column {column or COLUMN!r}: --column names one of {names}")
        else:
            content.seek(0)
            yield from (line.strip() for line in content if line.strip())
