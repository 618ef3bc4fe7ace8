"""Rows of a file: CSV or JSON lines, gzipped or not, recognised by content and checked.

Every line of the file is a line of its header, a blank one, or belongs to exactly one row. What reads as one record
of several lines but does not fit the header is taken apart: its first line is a broken row, the others are read again,
so that a quote which is never closed costs its own line only.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self, cast

from pipelines.imports.columns import WHITESPACE, EventMapping
from pipelines.imports.mapping import ImportRefused

_LINE: Final = 1 << 20
"""Longest row, and the block in which a file is read."""
_CHUNK_CHARACTERS: Final = 64 << 20
_TOO_LONG: Final = "the row is longer than a million characters"
_LOOKED_AT: Final = 100
"""Objects at the beginning that must have, between them, every column that the mapping names."""
_SHOWN: Final = 1_000
"""Characters of a broken row that a person is shown."""


class Row(NamedTuple):
    """One row of a file.

    Attributes:
        number: From 1 on, blank lines and a header not counted.
        line: Where in the file it begins, from 1 on.
        lines: How many lines it has.
        cells: As the header of the source names them.
        original: What a person is shown of it.
        problem: What is wrong with it as a row; then there are no cells to be used.
        doubt: What may be wrong with it, though it can be used.
    """

    number: int
    line: int
    lines: int
    cells: Sequence[str]
    original: Sequence[str]
    problem: str = ""
    doubt: str = ""


class _Lines:
    """Lines of a text, cut at a maximal length.

    Attributes:
        taken: The lines of the row that is being read.
        number: Lines read so far.
        whole: Whether the last line had an end.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        self.number = self.characters = 0
        self.whole = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._read()
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        return line

    def _read(self) -> str:
        line = self._text.readline(_LINE)
        if self.number == 0:
            line = line.removeprefix("\ufeff")
        self.characters += len(line)
        rest = line
        while rest and rest[-1] not in "\r\n":
            rest = self._text.readline(_LINE)
        if line:
            self.whole = bool(rest)
        return line

    @property
    def cut(self) -> bool:
        """Whether a line of the row was cut."""
        return any(len(line) >= _LINE and line[-1] not in "\r\n" for line in self.taken)

    def begin(self) -> None:
        """Begin a new row."""
        self.taken.clear()

    def only_first(self) -> None:
        """Reduce the row to its first line; the others are read again."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        del self.taken[1:]


class _Blanks:
    """Cells separated by blanks and tabs, like `csv.reader`; a quoted cell ends in its line."""

    def __init__(self, lines: Iterator[str], quote: str | None) -> None:
        self._lines = lines
        mark = re.escape(quote or "")
        quoted = f"{mark}((?:[^{mark}]|{mark}{mark})*){mark}(?=[ \t]|$)|([^ \t{mark}][^ \t]*)"
        self._cell = re.compile(quoted if quote else "()([^ \t]+)")
        self._quote = quote or ""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[str]:
        line, at, cells = next(self._lines).strip(" \t\r\n"), 0, []
        while at < len(line):
            if (found := self._cell.match(line, at)) is None:
                raise csv.Error(f"what begins with {line[at : at + 20]!r} is no cell between blanks")
            quoted, plain = found.groups()
            cells.append(plain if plain is not None else quoted.replace(self._quote * 2, self._quote))
            at = found.end()
            while at < len(line) and line[at] in " \t":
                at += 1
        return cells


class Source:
    """A file as rows of text cells; read whole first where a fault could show late.

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
        self._number = 0
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
        first = self._first_block(binary, whole=packed)
        encoding = mapping.encoding if mapping and mapping.encoding else _encoding(first)
        # Bytes that are no UTF-8 stay what they are, for the rejects; other encodings do not let them.
        self._replaced = codecs.lookup(encoding).name != "utf-8"
        errors = "replace" if self._replaced else "surrogateescape"
        self._recognise(codecs.getincrementaldecoder(encoding)(errors="replace").decode(first))
        self._lines = _Lines(io.TextIOWrapper(binary, encoding=encoding, errors=errors, newline=""))
        if self._is_json:
            self._open_json(mapping)
        else:
            self._open_csv(mapping)
        self._rows = self._json_rows() if self._is_json else self._csv_rows()

    def _first_block(self, binary: BinaryIO, *, whole: bool) -> bytes:
        """First block of the file, after reading all of it where only that shows that it is complete."""
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

    def _recognise(self, first: str) -> None:
        content = first.removeprefix("\ufeff").lstrip()
        if not content:
            raise ImportRefused(f"{self._file} is empty")
        if "\0" in first:
            what = "is neither CSV nor JSON lines: it holds bytes that no text has"
            raise ImportRefused(f"{self._file} {what} in UTF-8; a mapping can name another `encoding`")
        self._is_json = content[:1] == "{"
        self._beginning = _objects(content) if self._is_json else []

    def _open_json(self, mapping: EventMapping | None) -> None:
        named = mapping.named() if mapping else []
        for name in named:
            if not any(name in found for found in self._beginning):
                raise ImportRefused(f"no object at the beginning of {self._file} has {name!r}, which the mapping names")
        self.header = [*named, "line"]
        self.hashed: Sequence[int] = [len(named)]
        self.original = ["content"]

    def _open_csv(self, mapping: EventMapping | None) -> None:
        if mapping is None:
            raise ImportRefused(f"{self._file} is no JSON lines of events: say what its columns are with --mapping")
        self._delimiter = mapping.delimiter
        self._reader = _reader(self._lines, mapping)
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

    @property
    def lines(self) -> int:
        """Number of lines read so far, header and blank lines included."""
        return self._lines.number

    @property
    def cut_short(self) -> bool:
        """Whether the last line read has no line end, as in a truncated file."""
        return not self._lines.whole

    def read_bytes(self) -> int:
        """Number of bytes of the file read so far."""
        return self._raw.tell()

    def chunk(self, rows: int) -> list[Row]:
        """The next rows, at most so many; fewer where they are huge, none at the end."""
        return list(self._some(rows))

    def chunks(self, rows: int) -> Iterator[list[Row]]:
        """All remaining rows, in chunks."""
        while chunk := self.chunk(rows):
            yield chunk

    def _some(self, rows: int) -> Iterator[Row]:
        bound = self._lines.characters + _CHUNK_CHARACTERS
        for row in islice(self._rows, rows):
            yield row
            if self._lines.characters > bound:
                return

    def _row(self, cells: Sequence[str], original: Sequence[str], problem: str = "", doubt: str = "") -> Row:
        lines = self._lines
        if self._replaced and not problem and any("\ufffd" in line for line in lines.taken):
            problem = "the row is no text in the encoding of the file"
        self._number += 1
        return Row(self._number, lines.number - len(lines.taken) + 1, len(lines.taken), cells, original, problem, doubt)

    def _broken(self, problem: str) -> Row:
        return self._row([], ["".join(self._lines.taken)[:_SHOWN]], problem)

    def _csv_rows(self) -> Iterator[Row]:
        lines, width = self._lines, len(self.header)
        while True:
            lines.begin()
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield self._apart(f"the row is no CSV: {error}")
                continue
            if not cells:
                continue
            if lines.cut:
                yield self._broken(_TOO_LONG)
            elif len(cells) == width:
                yield self._row(cells, cells, doubt=self._swallowed())
            elif len(lines.taken) > 1:
                yield self._apart(f"the row has {len(cells)} cells, the header {width}")
            else:
                yield self._row(cells, cells, f"the row has {len(cells)} cells, the header {width}")

    def _apart(self, problem: str) -> Row:
        """Broken row of the first line only; the others are read again."""
        if (count := len(self._lines.taken)) > 1:
            last = self._lines.number
            problem += f"; a quote takes lines {last - count + 1} to {last} together: the others are read on their own"
        self._lines.only_first()
        return self._broken(_TOO_LONG if self._lines.cut else problem)

    def _swallowed(self) -> str:
        """Doubt about a row of several lines: that some of them are rows of their own."""
        between = len(self.header) - 1
        alike = (line.count(self._delimiter) == between for line in self._lines.taken[1:-1])
        return "a quoted cell holds lines that look like rows: is a quote missing?" if between and any(alike) else ""

    def _json_rows(self) -> Iterator[Row]:
        named, lines = self.header[:-1], self._lines
        while True:
            lines.begin()
            if (line := next(lines, None)) is None:
                return
            if not (text := line.strip()):
                continue
            if lines.cut:
                yield self._broken(_TOO_LONG)
            else:
                yield self._row(*_json_cells(text, named) if named else ([text], [text]))


def _encoding(first: bytes) -> str:
    """Encoding of a file by its first bytes."""
    return "utf-16" if first[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE} else "utf-8"


def _reader(lines: _Lines, mapping: EventMapping) -> Iterator[list[str]]:
    if mapping.delimiter == WHITESPACE:
        return _Blanks(lines, mapping.quote)
    if mapping.quote is None:
        return csv.reader(lines, delimiter=mapping.delimiter, quoting=csv.QUOTE_NONE, strict=True)
    return csv.reader(lines, delimiter=mapping.delimiter, quotechar=mapping.quote, strict=True)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


_JSON: Final = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=_once)
"""Numbers stay the text they are, so that no amount passes through binary fractions."""


def _objects(content: str) -> list[dict[str, object]]:
    """The first complete objects of a file."""
    found = []
    for line in re.split(r"\r\n?|\n", content, maxsplit=_LOOKED_AT)[:_LOOKED_AT]:
        try:
            found.append(_JSON.decode(line.strip()))
        except (ValueError, RecursionError):
            continue
    return [one for one in found if isinstance(one, dict)]


def _json_cells(text: str, named: Sequence[str]) -> tuple[Sequence[str], Sequence[str], str]:
    """Cells of a JSON object (the mapped ones, then the whole object), its text, and its problem."""
    try:
        found = _JSON.decode(text)
        whole = json.dumps(found, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        return [], [text], f"the line is no JSON: {error}"
    if not isinstance(found, dict):
        return [], [text], "the line is no JSON object"
    cells = []
    for name in named:
        if (cell := _cell(found.get(name))) is None:
            return [], [text], f"{name!r} holds a list or an object, no single value"
        cells.append(cell)
    return [*cells, whole], [text], ""


def _cell(value: object) -> str | None:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None
