"""The chain of the lake's decisions: each row's link covers its record and the link before it in the partition.

link = sha256(link before + record);  the last link of each partition stands in the lake's position too
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from features.lake.anchor import read_anchor
from features.lake.files import day_of, table_files
from features.lake.flushes import FlushReader, Part, by_flush
from features.store.deployment import order
from pipelines.worker.lake import link

_NAMED: Final = re.compile(r"\d+-\d+\.parquet")
_DAY: Final = re.compile(r"day=\d{4}-\d\d-\d\d")
CHANGED: Final = "the row is not as it was written, or rows before it are gone"
INSERTED: Final = "the row was put in"
RELINKED: Final = "the link of the row is not that of its record"
AGAIN: Final = "the row does not come after the one before it"


class Broken(NamedTuple):
    """Where a chain breaks: the position of the row that is at fault, why, and the row that was good before."""

    place: str
    what: str
    after: str


@dataclass
class Head:
    """Where the chain of a partition has got to.

    Attributes:
        link: The last link.
        place: Position of the last row, "" before the first.
        due: What the last link had to be.
        before: The link before the last, None where that is not known.
        before_place: Position of the row before the last.
    """

    link: bytes = b""
    place: str = ""
    due: bytes = b""
    before: bytes | None = None
    before_place: str = ""

    def follow(self, place: str, record: bytes, told: bytes) -> Broken | None:
        """Go on to a row; what is at fault, None if it follows.

        After a fault the chain is followed from the link that the row tells, so that later faults are seen too.
        """
        due = link(self.link, record)
        fault = self._fault(place, record, told, due)
        self.before, self.before_place = self.link, self.place
        self.link, self.due, self.place = told, due, place
        return fault

    def _fault(self, place: str, record: bytes, told: bytes, due: bytes) -> Broken | None:
        if told == due:
            return Broken(place, AGAIN, self.place) if self.place and _order(place) <= _order(self.place) else None
        if told == self.link:
            return Broken(place, INSERTED, self.place)
        if self.before is not None and link(self.before, record) == told:
            return Broken(self.place, INSERTED, self.before_place)
        if self.due and link(self.due, record) == told:
            return Broken(self.place, RELINKED, self.before_place)
        return Broken(place, CHANGED, self.place)


def _order(place: str) -> tuple[int, int]:
    return order(place[5:])


def is_of_a_flush(file: Path) -> bool:
    """Whether a file has the name and the folder of one that a flush left."""
    return bool(_NAMED.fullmatch(file.name) and _DAY.fullmatch(file.parent.name))


def flushes(lake: Path) -> Mapping[str, Sequence[Part]]:
    """Where decisions are by flush, in the order of flushes, whatever files they became part of; no deleted days."""
    until = read_anchor(lake).until
    files = filter(is_of_a_flush, table_files(lake, "decisions"))
    return by_flush(file for file in files if day_of(file) > until)


def anchored(lake: Path) -> dict[int, Head]:
    """Where the chain of each partition goes on after days that were deleted."""
    anchor = read_anchor(lake)
    return {
        int(partition): Head(bytes.fromhex(found), anchor.places[partition])
        for partition, found in anchor.links.items()
    }


def rows(reader: FlushReader, flush: Sequence[Part], columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a flush in the order of the log, partition by partition; of all columns, or of those named."""
    found = [row for part in flush for row in reader.read(part, columns).to_pylist()]
    yield from sorted(found, key=lambda one: (one["position"][:4], _order(one["position"])))
