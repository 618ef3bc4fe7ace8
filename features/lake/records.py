"""Files of records beside the lake's tables: one record of a flush by its place in the log, without Parquet.

    lake/decisions/day=2020-03-02/_1583107200000-1583107215000.records
    records, each deflated --> index of 26 bytes a record --> number of records and a mark, 16 bytes

A file is of the same flush as the Parquet file of its name, or of all flushes of the same day, and holds nothing that
this lacks.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.moments import moment
from features.store.deployment import order

SUFFIX: Final = ".records"
_NAMED: Final = re.compile(r"_(\d+)-(\d+)\.records")
_MARK: Final = b"CROUPIE1"
_INDEX: Final = np.dtype(
    [("partition", "<u2"), ("milliseconds", "<u8"), ("sequence", "<u4"), ("offset", "<u8"), ("size", "<u4")]
)


class Place(NamedTuple):
    """Place of an entry in the log: partition, stream id, and when it became known, unix microseconds of house time."""

    partition: int
    stream_id: str
    known_us: int


def pack_records(records: Iterable[tuple[int, str, bytes]]) -> bytes:
    """Content of a file of records, each with partition and stream id."""
    file = BytesIO()
    write_records(file, records)
    return file.getvalue()


def write_records(file: BinaryIO, records: Iterable[tuple[int, str, bytes]]) -> None:
    """Write a file of records, each with partition and stream id; only its index is held in memory."""
    index, offset = [], 0
    for partition, stream_id, body in records:
        deflated = zlib.compress(body, 1)
        file.write(deflated)
        index.append((partition, *order(stream_id), offset, len(deflated)))
        offset += len(deflated)
    file.write(np.array(index, _INDEX).tobytes() + len(index).to_bytes(8, "little") + _MARK)


def beside(file: Path) -> Path:
    """The file of records of a flush, by its Parquet file; readers of folders pass over names that begin so."""
    return file.with_name(f"_{file.stem}{SUFFIX}")


def find_record(lake: Path, place: Place) -> bytes | None:
    """A decision's record by its place; None if this lake does not hold it.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is not what it must be.
    """
    folder = lake / "decisions" / f"day={moment(place.known_us).date().isoformat()}"
    if not folder.is_dir():
        return None
    changed_ns = folder.stat().st_mtime_ns
    milliseconds = order(place.stream_id)[0]
    trouble: OSError | ValueError | None = None
    # Two files may come, or one become part of another, within one tick of the folder's clock: then it is listed anew.
    for listed in (_flushes, _flushes.__wrapped__):
        trouble = None
        for file in _candidates(folder, listed(folder, changed_ns), milliseconds):
            try:
                if (found := _read(file, place)) is not None:
                    return found
            except (OSError, ValueError) as error:
                trouble = error
    if trouble is not None:
        raise trouble
    return None


def _candidates(folder: Path, listed: Iterable[tuple[int, int, str]], milliseconds: int) -> Iterator[Path]:
    """Files that may hold an entry: several where it lies on a boundary, or where flushes became one file."""
    return (folder / name for first, last, name in listed if first <= milliseconds <= last)


@lru_cache(maxsize=64)
def _flushes(folder: Path, changed_ns: int) -> list[tuple[int, int, str]]:  # noqa: ARG001 - another time, another list
    """First and last millisecond of each file of records in a folder, which changes when one is added."""
    found = ((_NAMED.fullmatch(file.name), file.name) for file in folder.iterdir())
    return sorted((int(named[1]), int(named[2]), name) for named, name in found if named)


def every_record(file: Path, begins: int = 0, ends: int | None = None) -> Iterator[tuple[int, str, bytes]]:
    """Records of a file, each with partition and stream id: all, or those from one number to before another.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not what it must be.
    """
    with file.open("rb") as opened:
        told = file.stat()
        for partition, milliseconds, sequence, offset, size in _whole_index(file, told.st_mtime_ns, told.st_size)[
            begins:ends
        ].tolist():
            opened.seek(offset)
            yield partition, f"{milliseconds}-{sequence}", _inflated(file, opened.read(size))


@lru_cache(maxsize=1)
def _whole_index(file: Path, changed_ns: int, size: int) -> NDArray[np.void]:  # noqa: ARG001 - another file, another index
    """Index of a file that is read part by part."""
    with file.open("rb") as opened:
        return _index(file, opened)


def _inflated(file: Path, deflated: bytes) -> bytes:
    try:
        return zlib.decompress(deflated)
    except zlib.error as error:
        raise ValueError(f"{file.name} holds a record that is not whole") from error


def _index(file: Path, opened: BinaryIO) -> NDArray[np.void]:
    size = opened.seek(0, 2)
    opened.seek(max(0, size - 16))
    count, mark = int.from_bytes(opened.read(8), "little"), opened.read(8)
    begins = size - 16 - count * _INDEX.itemsize
    if mark != _MARK or begins < 0:
        raise ValueError(f"{file.name} is no file of records, or not whole")
    opened.seek(begins)
    return np.frombuffer(opened.read(count * _INDEX.itemsize), _INDEX)


def _read(file: Path, place: Place) -> bytes | None:
    with file.open("rb") as opened:
        index = _index(file, opened)
        milliseconds, sequence = order(place.stream_id)
        same = (index["milliseconds"] == milliseconds) & (index["sequence"] == sequence)
        found = index[same & (index["partition"] == place.partition)]
        if not len(found):
            return None
        opened.seek(int(found["offset"][0]))
        return _inflated(file, opened.read(int(found["size"][0])))
