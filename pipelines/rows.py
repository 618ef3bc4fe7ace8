"""A file of outside rows, read with suspicion: CSV or JSON lines, gzipped or not, told apart by their content."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self, cast

from pipelines.mapping import EventMapping, ImportRefused

_LINE: Final = 1 << 20
"""Longest row, and the block in which a file is read."""
_CHUNK_CHARACTERS: Final = 64 << 20
_TOO_LONG: Final = "the row is longer than a million characters"
_LOOKED_AT: Final = 100
"""Objects at the beginning that must have, between them, every column that the mapping names."""


class Row(NamedTuple):
    """One row of a file.

    Attributes:
        number: From 1 on, blank lines and a header not counted.
        cells: As the header of the source names them.
        original: What a person is shown of it.
        problem: What is wrong with it as a row; then there are no cells to be used.
    """

    number: int
    cells: Sequence[str]
    original: Sequence[str]
    problem: str = ""


def _broken(number: int, text: str, problem: str) -> Row:
    return Row(number, [], [text[:1_000]], problem)


class _Lines:
    """Lines of a text for `csv.reader`, none longer than a bound; what is longer is cut and marked."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.last = ""
        self.cut = False
        self.characters = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._text.readline(_LINE)
        if not line:
            raise StopIteration
        self.characters += len(line)
        self.last = line
        if len(line) == _LINE and line[-1] not in "\r\n":
            self.cut = True
            while (rest := self._text.readline(_LINE)) and rest[-1] not in "\r\n":
                pass
        return line


class Source:
    """A file as rows of text cells, checked whole where a fault could show late.

    Attributes:
        header: Names of the cells of a row.
        hashed: Places of the cells that stand for the row's content, in an order that no file changes.
        original: Names of the columns that a rejected row is shown with.
        size: Bytes on disk.

    Raises:
        ImportRefused: The file cannot be read, is damaged, or is neither CSV nor JSON lines.
    """

    def __init__(self, file: Path, mapping: EventMapping | None) -> None:
        if not file.is_file():
            raise ImportRefused(f"there is no file {file}" if not file.exists() else f"{file} is no regular file")
        self._file = file
        self.size = file.stat().st_size
        try:
            self._raw = io.BufferedReader(io.FileIO(file), _LINE)
        except OSError as error:
            raise ImportRefused(f"{file} cannot be read: {error.strerror}") from error
        with ExitStack() as unless_good:
            unless_good.callback(self._raw.close)
            self._open(mapping)
            unless_good.pop_all()

    def _open(self, mapping: EventMapping | None) -> None:
        packed = self._raw.peek(2)[:2] == b"\x1f\x8b"
        binary = cast("BinaryIO", gzip.GzipFile(fileobj=self._raw)) if packed else self._raw
        self._recognise(self._first_block(binary, whole=packed))
        self._lines = _Lines(io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline=""))
        if self._is_json:
            self._open_json(mapping)
        else:
            self._open_csv(mapping)

    def _first_block(self, binary: BinaryIO, *, whole: bool) -> bytes:
        """The beginning of the file, after reading all of it where only that shows that it is whole."""
        try:
            first = binary.read(_LINE)
            while whole and binary.read(_LINE):
                pass
            binary.seek(0)
        except EOFError as error:
            raise ImportRefused(f"{self._file} is a truncated gzip file: its end is missing") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ImportRefused(f"{self._file} is a damaged gzip file: {error}") from error
        except OSError as error:
            raise ImportRefused(f"{self._file} cannot be read: {error.strerror}") from error
        return first

    def _recognise(self, first: bytes) -> None:
        content = first.removeprefix(b"\xef\xbb\xbf").lstrip()
        if not content:
            raise ImportRefused(f"{self._file} is empty")
        if b"\0" in first:
            raise ImportRefused(f"{self._file} is neither CSV nor JSON lines: it holds bytes that no text in UTF-8 has")
        self._is_json = content[:1] == b"{"
        self._beginning = _objects(content) if self._is_json else []

    def _open_json(self, mapping: EventMapping | None) -> None:
        named = mapping.named() if mapping else []
        for name in named:
            if not any(name in found for found in self._beginning):
                raise ImportRefused(f"no object at the beginning of {self._file} has {name!r}, which the mapping names")
        self.header = [*named, "line"]
        self.hashed: Sequence[int] = [len(named)]
        self.original = ["line"]

    def _open_csv(self, mapping: EventMapping | None) -> None:
        if mapping is None:
            raise ImportRefused(f"{self._file} is no JSON lines of events: say what its columns are with --mapping")
        self._reader = csv.reader(self._lines, delimiter=mapping.delimiter, strict=True)
        try:
            self.header = next((cells for cells in self._reader if cells), [])
        except csv.Error as error:
            raise ImportRefused(f"{self._file} is no CSV: {error} in its header") from error
        self.hashed = sorted(range(len(self.header)), key=lambda place: (self.header[place], place))
        self.original = self.header

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def read_bytes(self) -> int:
        """Bytes of the file read so far."""
        return self._raw.tell()

    def chunks(self, rows: int) -> Iterator[list[Row]]:
        """All rows, some at a time; fewer at a time where they are huge."""
        stream = self._json_rows() if self._is_json else self._csv_rows()
        while chunk := list(self._some(stream, rows)):
            yield chunk

    def _some(self, stream: Iterator[Row], rows: int) -> Iterator[Row]:
        bound = self._lines.characters + _CHUNK_CHARACTERS
        for row in islice(stream, rows):
            yield row
            if self._lines.characters > bound:
                return

    def _csv_rows(self) -> Iterator[Row]:
        lines, width, number = self._lines, len(self.header), 0
        while True:
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                number += 1
                lines.cut = False
                yield _broken(number, lines.last, f"the row is no CSV: {error}")
                continue
            if not cells:
                continue
            number += 1
            if lines.cut:
                lines.cut = False
                yield _broken(number, lines.last, _TOO_LONG)
            else:
                problem = "" if len(cells) == width else f"the row has {len(cells)} cells, the header {width}"
                yield Row(number, cells, cells, problem)

    def _json_rows(self) -> Iterator[Row]:
        named, number = self.header[:-1], 0
        for line in self._lines:
            text = line.strip()
            if not text:
                continue
            number += 1
            if self._lines.cut:
                self._lines.cut = False
                yield _broken(number, text, _TOO_LONG)
            else:
                yield _json_row(number, text, named) if named else Row(number, [text], [text])


_JSON: Final = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
"""Numbers stay the text they are, so that no amount passes through binary fractions."""


def _objects(content: bytes) -> list[dict[str, object]]:
    """The first objects of a file, as far as they are whole."""
    found = []
    for line in content.splitlines()[:_LOOKED_AT]:
        try:
            found.append(_JSON.decode(line.decode()))
        except (ValueError, RecursionError):
            continue
    return [one for one in found if isinstance(one, dict)]


def _json_row(number: int, text: str, named: Sequence[str]) -> Row:
    """A row of an object: the cells that the mapping names, then the whole in one spelling."""
    try:
        found = _JSON.decode(text)
        whole = json.dumps(found, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        return Row(number, [], [text], f"the line is no JSON: {error}")
    if not isinstance(found, dict):
        return Row(number, [], [text], "the line is no JSON object")
    cells = []
    for name in named:
        if (cell := _cell(found.get(name))) is None:
            return Row(number, [], [text], f"{name!r} holds a list or an object, no single value")
        cells.append(cell)
    return Row(number, [*cells, whole], [text])


def _cell(value: object) -> str | None:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None
