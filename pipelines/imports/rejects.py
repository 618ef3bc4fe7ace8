"""Rejects of an import: the file of rejected rows, reasons by number, and doubts."""

from __future__ import annotations

import csv
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, cast

from pipelines.imports.mapping import ImportRefused
from pipelines.imports.rows import Row

FOLDER: Final = "rejects"
_VALUE: Final = re.compile(r"^((?:player_id |event_id |occurred_at )?)(?:'.*?'(?= )|\".*?\"(?= )|\d{4}-\d\d-\d\dT\S+)")
_SHOWN: Final = 5


class SentenceCounts:
    """Counts of sentences, each with its first line; differing values are masked."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}

    def add(self, sentence: str, line: int) -> None:
        """Count a sentence about a line."""
        kind = _VALUE.sub(r"\1...", sentence)
        self._counts.setdefault(kind, [0, line])[0] += 1

    def counts(self) -> dict[str, int]:
        """Sentences and their counts, the commonest first."""
        return {kind: count for kind, (count, _) in self._ranked()}

    def sentences(self) -> list[str]:
        """The commonest sentences with count and first line."""
        return [f"{kind} ({count:,} rows, line {line:,} first)" for kind, (count, line) in self._ranked()[:_SHOWN]]

    def _ranked(self) -> list[tuple[str, list[int]]]:
        return sorted(self._counts.items(), key=lambda item: (-item[1][0], item[1][1]))


class Rejects:
    """File of rejected rows; replaces an earlier one when the import has ended.

    Until then the rows have no name on disk: whatever ends the import leaves nothing behind.

    Args:
        home: Where the house's state lies.
        path: Where the file will stand.
        source: The file that is imported.
        columns: Names of the columns of its rows.

    Attributes:
        count: Rows kept.
        reasons: Why.

    Raises:
        ImportRefused: No file can stand there.
    """

    def __init__(self, home: Path, path: Path, source: Path, columns: Sequence[str]) -> None:
        if path.is_dir():
            raise ImportRefused(f"--rejects {path} is a directory")
        if path.exists() and path.samefile(source):
            raise ImportRefused(f"--rejects {path} is the file to import itself")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise ImportRefused(f"the rejects file {path} cannot be written: name another with --rejects")
        self._path = path
        self._file = tempfile.TemporaryFile(  # noqa: SIM115 - __exit__ closes it
            "w+", encoding="utf-8", errors="surrogateescape", newline="", dir=home
        )
        self._writer = csv.writer(self._file)
        self._writer.writerow(["row", "line", "reason", *columns])
        self.count = 0
        self.reasons = SentenceCounts()

    def add(self, row: Row, reason: str) -> None:
        """Add a row with the reason of its rejection."""
        sentence = " ".join(reason.split())
        self._writer.writerow([row.number, row.line, sentence, *row.original])
        self.reasons.add(sentence, row.line)
        self.count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        with self._file:
            if kind is None and (self.count or self._path.exists()):
                self._finish()

    def _finish(self) -> None:
        self._file.flush()
        self._file.seek(0)
        unfinished = self._path.with_name(f".{self._path.name}.tmp")
        try:
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                shutil.copyfileobj(cast("BinaryIO", self._file.buffer), out)
            unfinished.replace(self._path)
        finally:
            unfinished.unlink(missing_ok=True)


def rejects_path(home: Path, source: Path) -> Path:
    """Default path of a file's rejects: in the house, by the file's name and place."""
    folder = home / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    place = blake2b(os.fsencode(source.resolve()), digest_size=4).hexdigest()
    return folder / f"{source.name[:200]}.{place}.csv"
