"""Write lakes of seeded synthetic experiments, in the lake's own columns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.catalogue.offers import load_catalogue
from models.experiments.assignment import Membership
from models.policy.policy import draw
from pipelines.worker.lake import SCHEMAS
from service.decisions.record import Choice, ObservedInputs, Record, Versions, dump_record, pack_floats, pack_places

CATALOGUE = load_catalogue(Path(__file__).parents[2] / "service" / "catalogue.yaml")
assert CATALOGUE.experiment is not None
SPLIT = CATALOGUE.experiment
START = datetime(2026, 3, 2, 9, tzinfo=UTC)
DAY = timedelta(days=1)
ACTIONS = 5
SHARES: dict[str, float] = {"holdout": 0.2, "business_rules": 0.4, "policy": 0.4}


@dataclass
class Lake:
    """Rows of a lake before they are written."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {table: [] for table in SCHEMAS})

    def write(self, folder: Path) -> Path:
        """Write a file per table."""
        for table, rows in self.rows.items():
            if rows:
                place = folder / table / "day=2026-03-02"
                place.mkdir(parents=True)
                pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[table]), place / "0-1.parquet")
        return folder

    def event(self, player: str, kind: str, at: datetime, **columns: Any) -> None:
        name = f"e{len(self.rows['events'])}"
        row = {"player": player, "event_id": name, "type": kind, "occurred_at": at, "known_at": at}
        self.rows["events"].append(row | columns)

    def outcome(self, player: str, kind: str, at: datetime, decision_id: str, **columns: Any) -> None:
        row = {"player": player, "outcome_id": f"o{len(self.rows['outcomes'])}", "type": kind, "occurred_at": at}
        self.rows["outcomes"].append(row | {"decision_id": decision_id, "known_at": at} | columns)

    def decision(
        self,
        player: str,
        variant: str,
        at: datetime,
        u: float = 0.5,
        markers: Mapping[str, float] = MappingProxyType({}),
        **columns: Any,
    ) -> str:
        """A decision of a variant; the record holds a uniform draw over a few actions."""
        name = f"000-{len(self.rows['decisions']):024d}"
        choice = drawn("holdout" if variant == "holdout" else "drawn", f"{variant}-1", np.full(ACTIONS, 1 / ACTIONS), u)
        row = {
            "player": player,
            "decision_id": name,
            "at": at,
            "known_at": at,
            "experiment": SPLIT.key,
            "variant": variant,
            "role": choice.role,
            "policy_version": choice.policy_version,
            "catalogue_version": CATALOGUE.hash,
            "record": dump_record(record(name, player, variant, choice, markers)),
        }
        self.rows["decisions"].append(row | columns)
        return name


def drawn(role: str, version: str, pmf: NDArray[np.float64], u: float, mask: NDArray[np.bool_] | None = None) -> Choice:
    """A choice drawn from a pmf; `mask` may claim other eligible places than those of the pmf."""
    found = draw(pmf, u)
    eligible = pmf > 0 if mask is None else mask
    return Choice(
        role=role,
        policy_version=version,
        place=found.place,
        propensity=found.propensity,
        u=u,
        mask=pack_places(eligible),
        excluded={},
        scores=b"",
        pmf=pack_floats(pmf[eligible]),
    )


def record(
    name: str, player: str, variant: str, choice: Choice, markers: Mapping[str, float] = MappingProxyType({})
) -> Record:
    """A record around a choice."""
    seen = ObservedInputs(
        features=b"",
        as_of_us=None,
        age_seconds=None,
        churn_score=0.5,
        harm_level="none",
        markers=dict(markers),
        stage="active",
        degraded=(),
        assumed=(),
        facts_version="0",
        ledger_version="0",
    )
    return Record(
        decision_id=name,
        player=player,
        brand="main",
        at_us=0,
        attempt=0,
        request=b"",
        explain=False,
        purposes=("bonus", "marketing"),
        decision_point=None,
        experiments=(Membership(SPLIT.key, "", 1, variant, 0.0),),
        use="train",
        action=None,
        activated=False,
        choice=choice,
        seen=seen,
        versions=Versions(catalogue=CATALOGUE.hash, rules="", schema="", churn=None, time_zones="", build=""),
        sandbox=False,
        sealed=b"",
    )


def experiment(players: int, seed: int = 0, lift: Mapping[str, float] | None = None, days: int = 56) -> Lake:
    """A lake in which every mature player deposits, bets and is contacted by chance.

    Args:
        players: Number of players, over the catalogue's variants.
        seed: Of the numbers.
        lift: What a variant adds to a player's mean stake, minor units.
        days: First decisions are spread over these days.
    """
    chance, lake = np.random.default_rng(seed), Lake()
    shares = SPLIT.variants
    for number in range(players):
        player = f"{{p000}}{number:030x}"
        variant = str(chance.choice(list(shares), p=list(shares.values())))
        at = START + timedelta(seconds=int(chance.integers(days * 86_400)))
        _life(lake, player, at, chance, (lift or {}).get(variant, 0.0))
        for later in range(int(chance.integers(1, 4))):
            moment = at + later * 3 * DAY
            name = lake.decision(player, variant, moment, float(chance.random()))
            if variant != "holdout" and chance.random() < 0.6:
                _contact(lake, player, name, moment, chance)
    lake.event("{p000}end", "login", START + timedelta(days=days + 29))
    return lake


def _life(lake: Lake, player: str, at: datetime, chance: np.random.Generator, lift: float) -> None:
    worth = chance.gamma(2.0, 1_000.0)
    for begin, extra in ((at - 27 * DAY, 0.0), (at + timedelta(hours=1), lift)):
        stake = int(max(0.0, chance.normal(worth + extra, 400.0)))
        lake.event(player, "bet", begin, amount_minor=stake, product="casino")
        lake.event(player, "win", begin + timedelta(minutes=5), amount_minor=stake // 2, product="casino")
        if chance.random() < 0.4:
            deposit = {"amount_minor": stake, "status": "approved", "method": "card", "target": "account"}
            lake.event(player, "deposit", begin + 4 * DAY, **deposit)
    if chance.random() < 0.01:
        lake.event(player, "support_contact", at + 2 * DAY, detail='{"tags": ["harm"]}')


def _contact(lake: Lake, player: str, name: str, at: datetime, chance: np.random.Generator) -> None:
    sent = {"offer": "free_spins", "channel": "email"}
    lake.outcome(player, "confirmed", at, name, **sent)
    if chance.random() < 0.03:
        lake.outcome(player, "unsubscribed", at + timedelta(hours=1), name, **sent)


def frame(chance: np.random.Generator, players: int, shares: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Mature players by chance, no variant better than another: the columns of `Exposures.players`."""
    planned = shares or SHARES
    before = chance.gamma(1.5, 2_000.0, players)
    return pd.DataFrame(
        {
            "player": [f"p{number}" for number in range(players)],
            "variant": chance.choice(list(planned), players, p=list(planned.values())),
            "split": "c1",
            "first_us": np.sort(chance.integers(0, 56 * 86_400_000_000, players)),
            "variants": 1,
            "conversion": (chance.random(players) < 0.3).astype(int),
            "deposits_minor": (before * chance.random(players)).astype(int),
            "net_revenue_minor": (0.7 * before + chance.normal(0.0, 1_500.0, players)).astype(int),
            "cost_minor": 0,
            "contacts": chance.poisson(2.0, players),
            "unsubscribed": (chance.random(players) < 0.02).astype(int),
            "harm": (chance.random(players) < 0.02).astype(int),
            **dict.fromkeys(("retained", "complained", "limited", "self_excluded", "night_play"), 0),
            "before_deposits_minor": before.astype(int),
            "before_net_revenue_minor": before.astype(int),
        }
    )
