"""Take in history that was told over HTTP: the import's own way, from what was staged in the store.

What is taken in, known already or refused leaves the store, once features and lake have it; an import that was killed
takes the same again, and finds in the lake what it took.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pipelines.imports.importer import CHUNK_ROWS, Import, OpenHouse, alone, known_words, opened
from pipelines.imports.mapping import OwnRows
from pipelines.imports.rejects import FOLDER, Rejects
from pipelines.imports.rows import Row
from service.events.history import StagedEvent, forget, staged

PORTION: Final = 400
"""Events of a partition that are taken in at once."""


class HistoryResult(NamedTuple):
    """Result of taking in: records = accepted + duplicates + conflicts + rejected; those of erased players are none.

    Attributes:
        records: Events that were staged and could be read.
        accepted: Those that are new.
        duplicates: Those that the house has already.
        conflicts: Those whose id was used for other content; they are in the rejects.
        rejected: Those that are refused now; they are in the rejects too.
        erased: Those whose player was erased since, of which nothing can be read.
        rejects: The file of the rejected ones, None if there are none.
        warnings: Doubts about accepted ones.
    """

    records: int
    accepted: int
    duplicates: int
    conflicts: int
    rejected: int
    erased: int
    rejects: str | None
    warnings: list[str]


def take_in(home: Path) -> HistoryResult:
    """Take in what waits; returns when features and lake have all of it.

    Raises:
        ImportRefused: Another import is running.
        StoreError: The house is not there, or its store or worker failed; it is taken in again.
    """
    with alone(home, brief=True), opened(home) as house:
        found = staged(house.client, PORTION)
        rows, erased = _rows(found, house)
        kept = home / FOLDER / f"history-{found[0].place if found else '0'}.csv"
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        with Rejects(home, kept, home, ["event_id"]) as rejects:
            known = known_words(house.client)
            done = Import(house, OwnRows(known), (), rejects, known, most=1.0)
            if rows:
                chunks = (rows[begins : begins + CHUNK_ROWS] for begins in range(0, len(rows), CHUNK_ROWS))
                done.take(chunks, lambda _: None)
        forget(house.client, found)
        return HistoryResult(
            records=done.records,
            accepted=done.accepted,
            duplicates=done.duplicates,
            conflicts=done.conflicts,
            rejected=rejects.count - done.conflicts,
            erased=erased,
            rejects=str(kept) if rejects.count else None,
            warnings=done.doubts.sentences(),
        )


def _rows(found: Sequence[StagedEvent], house: OpenHouse) -> tuple[list[Row], int]:
    """Staged events as rows of a file in our own format, and how many could not be opened.

    A person is shown their ids alone: what is written of a refused one outlives the erasure of its player.
    """
    texts = [one.open(house.client, house.seals) for one in found]
    told = [text for text in texts if text is not None]
    return [Row(n, n, 1, [text], [_id(text)]) for n, text in enumerate(told, 1)], len(texts) - len(told)


def _id(text: str) -> str:
    return str(msgspec.json.decode(text)["event_id"])
