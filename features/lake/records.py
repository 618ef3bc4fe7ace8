"""Files of records beside the lake's tables: one record of a flush by its place in the log, without Parquet.

    lake/decisions/day=2020-03-02/_1583107200000-1583107215000.records
    records, each deflated --> index of 26 bytes a record --> number of records and a mark, 16 bytes

A file is of the same flush as the Parquet file of its name, and holds nothing that this lacks.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
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


def pack_records(records: Sequence[tuple[int, str, bytes]]) -> bytes:
    """Content of a file of records, each with partition and stream id."""
    deflated = [zlib.compress(body, 1) for _, _, body in records]
    offsets = accumulate(map(len, deflated), initial=0)
    rows = [
        (partition, *order(stream_id), offset, len(body))
        for (partition, stream_id, _), body, offset in zip(records, deflated, offsets, strict=False)
    ]
    return b"".join(deflated) + np.array(rows, _INDEX).tobytes() + len(rows).to_bytes(8, "little") + _MARK


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
    trouble: OSError | ValueError | None = None
    for file in _candidates(folder, order(place.stream_id)[0]):
        try:
            if (found := _read(file, place)) is not None:
                return found
        except (OSError, ValueError) as error:
            trouble = error
    if trouble is not None:
        raise trouble
    return None


def _candidates(folder: Path, milliseconds: int) -> Iterator[Path]:
    """Files of the flushes that may hold an entry; two where it lies on a boundary."""
    if not folder.is_dir():
        return
    changed_ns = folder.stat().st_mtime_ns
    for listed in (_flushes, _flushes.__wrapped__):  # two files may come within one tick of the folder's clock
        found = [name for first, last, name in listed(folder, changed_ns) if first <= milliseconds <= last]
        if found:
            break
    yield from (folder / name for name in found)


@lru_cache(maxsize=64)
def _flushes(folder: Path, changed_ns: int) -> list[tuple[int, int, str]]:  # noqa: ARG001 - another time, another list
    """First and last millisecond of each file of records in a folder, which changes when one is added."""
    found = ((_NAMED.fullmatch(file.name), file.name) for file in folder.iterdir())
    return sorted((int(named[1]), int(named[2]), name) for named, name in found if named)


def every_record(file: Path) -> Iterator[tuple[int, str, bytes]]:
    """Records of a file, each with partition and stream id; raises OSError or ValueError as `find_record` does."""
    with file.open("rb") as opened:
        for partition, milliseconds, sequence, offset, size in _index(file, opened).tolist():
            opened.seek(offset)
            yield partition, f"{milliseconds}-{sequence}", _inflated(file, opened.read(size))


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
