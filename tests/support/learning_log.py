"""Write a learning log of decisions, outcomes and events, in files like the worker's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.events import moment
from features.schema import STORED, schema_hash
from models.catalogue.offers import Catalogue, load_catalogue
from models.experiments.assignment import Membership
from pipelines.worker.lake import SCHEMAS, Reach, decision_row
from service.decisions.record import (
    Choice,
    ChosenContact,
    ObservedInputs,
    Record,
    Versions,
    dump_record,
    pack_floats,
    pack_places,
)

CATALOGUE = load_catalogue(Path(__file__).parents[2] / "service" / "catalogue.yaml")
DAY = 86_400_000_000
BEGAN = 1_790_000_000_000_000


def record(name: str, player: str, at_us: int, place: int, random: np.random.Generator, **changes: Any) -> Record:
    """A drawn decision of a player at a moment, as it would be logged."""
    catalogue: Catalogue = changes.pop("catalogue", CATALOGUE)
    mask = np.zeros(catalogue.size, dtype=np.bool_)
    mask[[0, *range(1, 1 + changes.pop("contacts", 40)), place]] = True
    pmf = np.full(int(mask.sum()), 1 / mask.sum())
    made = Record(
        decision_id=name,
        player=player,
        brand="main",
        at_us=at_us,
        attempt=0,
        request=b"",
        explain=False,
        purposes=("bonus", "marketing"),
        decision_point=None,
        experiments=(Membership("policy_2026", "", 1, "uniform", 0.5),),
        use="explore",
        action=sent(place, at_us, catalogue),
        activated=False,
        choice=Choice(
            role="drawn",
            policy_version="uniform",
            place=place,
            propensity=float(pmf[0]),
            u=0.5,
            mask=pack_places(mask),
            excluded={},
            scores=pack_floats(np.zeros(len(pmf))),
            pmf=pack_floats(pmf),
        ),
        seen=seen(at_us, random),
        versions=Versions(
            catalogue=catalogue.hash, rules="r", schema=schema_hash(), churn=None, time_zones="t", build="b"
        ),
        sandbox=True,
        sealed=b"",
    )
    return msgspec.structs.replace(made, **changes)


def sent(place: int, at_us: int, catalogue: Catalogue) -> ChosenContact | None:
    if place == 0:
        return None
    offer, channel, slot = catalogue.action(place)
    return ChosenContact(
        offer=offer.id,
        name=offer.name,
        template=offer.template,
        parameters={},
        purpose=offer.purpose,
        channel=channel,
        timing_slot=slot,
        send_us=at_us,
        valid_until_us=at_us + DAY // 4,
    )


def seen(at_us: int, random: np.random.Generator) -> ObservedInputs:
    # Of a generator of their own, so that a feature more changes nothing else that is drawn.
    stored = np.random.default_rng(random.integers(2**63)).lognormal(1, 1, len(STORED))
    for index, feature in enumerate(STORED):
        if feature.kind in {"first", "last"}:
            stored[index] = at_us - random.uniform(0, 20) * DAY
        if feature.kind == "as_of":
            stored[index] = at_us
        if feature.kind in {"days", "latest"}:
            stored[index] = random.integers(3)
    return ObservedInputs(
        features=pack_floats(stored),
        as_of_us=at_us,
        age_seconds=0.0,
        churn_score=float(random.random()),
        harm_level="none",
        markers={},
        stage="active",
        degraded=(),
        assumed=(),
        facts_version="1",
        ledger_version="0",
    )


class Writer:
    """Writes entries flush by flush; every entry gets the next place of its player's partition.

    So many entries `share` each millisecond of the store's clock.
    """

    def __init__(self, lake: Path, share: int = 3) -> None:
        self._lake, self._share = lake, share
        self._last = 0
        self._rows: dict[str, list[dict[str, Any]]] = {"decisions": [], "outcomes": [], "events": []}
        self._count = 0

    def add(self, table: str, known_us: int, **columns: Any) -> None:
        self._count += 1
        row = dict.fromkeys(SCHEMAS[table].names) | columns
        place = f"{self._last + 1 + self._count // self._share}-{self._count % self._share}"
        row |= {"known_at": known_us, "position": f"{columns['player'][1:5]}:{place}"}
        self._rows[table].append(row)

    def decide(self, made: Record) -> None:
        self.add("decisions", made.at_us, **decision_row(made, dump_record(made)))

    def outcome(self, name: str, player: str, type_: str, at_us: int) -> None:
        self.add("outcomes", at_us, player=player, decision_id=name, type=type_, occurred_at=at_us)

    def event(self, player: str, at_us: int, **columns: Any) -> None:
        self.add("events", at_us, player=player, event_id=f"e{self._count}", occurred_at=at_us, **columns)

    def flush(self) -> None:
        """Close a flush: its files, then how far the lake reaches."""
        first, self._last = self._last, self._last + 1_000 + self._count
        for table, rows in self._rows.items():
            for day in sorted({moment(row["known_at"]).date().isoformat() for row in rows}):
                mine = [row for row in rows if moment(row["known_at"]).date().isoformat() == day]
                self._write(table, day, f"{first}-{self._last}", mine)
            rows.clear()
        self._count = 0
        (self._lake / "_position.json").write_bytes(msgspec.json.encode(Reach(flushed=self._last)))

    def _write(self, table: str, day: str, name: str, rows: Sequence[dict[str, Any]]) -> None:
        folder = self._lake / table / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMAS[table]), folder / f"{name}.parquet")


def grow(lake: Path, flushes: int, decisions: int, seed: int = 1, every_us: int = DAY // 50) -> None:
    """A lake of some flushes with so many decisions each, in which free bets by push work."""
    writer, random, at = Writer(lake), np.random.default_rng(seed), BEGAN
    for flush in range(flushes):
        for number in range(decisions):
            at += every_us
            name, player = f"{flush:03d}-{number:024d}", f"{{p{int(random.integers(256)):03d}}}{number % 7}"
            place = int(random.integers(1, CATALOGUE.size)) if random.random() < 0.8 else 0
            made = record(name, player, at, place, random)
            writer.decide(made)
            likely = 0.1 if made.action is None or made.action.offer != "free_bet" else 0.6
            if place:
                writer.outcome(name, player, "confirmed", at + 1)
            if random.random() < likely:
                bet = {"type": "bet", "product": "sports", "amount_minor": int(random.integers(500, 50_000))}
                writer.event(player, at + DAY // 60, **bet)
            if place and random.random() < 0.02:
                writer.outcome(name, player, "unsubscribed", at + 5)
        writer.flush()
