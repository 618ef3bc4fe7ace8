"""How large will a house be? Measures one that runs, and prints a table of memory, disk and processes.

    python notebooks/sizing.py --address http://127.0.0.1:8000 --players 500

It tells of new players, lets them play and be decided about, and looks at what the store and the lake took for it. It
leaves these players in the house: do it in one for trials.
"""

import argparse
import os
import re
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx
import pyarrow.parquet as pq

HOME: Final = Path(os.environ.get("CROUPIER_HOME", "var"))
PLAY: Final = 20
"""Events of money and play per player that are measured."""
REMEMBERED_DAYS: Final = 35
"""How long ids of events, outcomes and decisions are remembered."""
BUSY: Final = 3.0
"""How many times the mean rate the busiest hour has."""


def event(player: str, number: int, **fields: object) -> dict[str, Any]:
    """An event of a player, now."""
    named = {"player_id": player, "event_id": f"{player}-{number}", "occurred_at": datetime.now(UTC).isoformat()}
    return named | fields


def arrival(player: str) -> Iterator[dict[str, Any]]:
    """What makes a player known."""
    yield event(player, 0, type="registered", jurisdiction="MT", time_zone="Europe/Malta", birth_date="1990-05-17")
    yield event(player, 1, type="kyc_verified")
    yield event(player, 2, type="consent_changed", channel="in_app", granted=True)


def play(player: str) -> Iterator[dict[str, Any]]:
    """Deposits and bets."""
    for number in range(3, 3 + PLAY, 2):
        yield event(player, number, type="deposit", status="approved", method="card", amount_minor=1_000)
        yield event(player, number + 1, type="bet", amount_minor=100, product="casino")


def settled(house: httpx.Client) -> float:
    """Bytes of the store, once features and lake have all that was told."""
    while True:
        time.sleep(5.5)  # a reading serves scrapes for five seconds
        told = dict(re.findall(r"^(croupier_\w+) (\S+)$", house.get("/metrics").raise_for_status().text, re.MULTILINE))
        if float(told["croupier_log_entries"]) == 0:
            return float(told["croupier_store_memory_used_bytes"])


def tell(house: httpx.Client, events: Iterator[dict[str, Any]]) -> None:
    """Send events."""
    for one in events:
        house.post("/v1/events", json=one).raise_for_status()


def decide(house: httpx.Client, players: list[str]) -> float:
    """Ask about each player once; seconds that it took."""
    begun = time.perf_counter()
    for player in players:
        asked = {"player_id": player, "request_id": "sizing", "channels": ["in_app"], "activate": True}
        house.post("/v1/decisions", json=asked).raise_for_status()
    return time.perf_counter() - begun


def lake_bytes(table: str) -> float:
    """Bytes of the lake per row of a table, records beside it counted."""
    files = list((HOME / "lake" / table).rglob("*.parquet"))
    whole = sum(file.stat().st_size for file in (HOME / "lake" / table).rglob("*") if file.is_file())
    rows: int = sum(pq.read_metadata(file).num_rows for file in files)
    return whole / rows


def table(player: float, played: float, decision: float, rate: float) -> Iterator[str]:
    """Lines of the table, for houses in which each active player makes 20 events and one decision a day."""
    yield "| active players | events a day | decisions a day | store, memory | lake, a year | API processes |"
    yield "|---|---|---|---|---|---|"
    for players in (10_000, 100_000, 1_000_000):
        memory = players * (player + REMEMBERED_DAYS * (PLAY * played + decision))
        disk = 365 * players * (PLAY * lake_bytes("events") + lake_bytes("decisions"))
        processes = max(1, round(BUSY * players / 86_400 / rate + 0.5))
        yield (
            f"| {players:,} | {PLAY * players:,} | {players:,} | {memory / 1e9:,.1f} GB | {disk / 1e9:,.0f} GB "
            f"| {processes} |"
        )


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--address", default="http://127.0.0.1:8000")
    words.add_argument("--players", type=int, default=500)
    asked = words.parse_args()
    key = (HOME / "development.key").read_text().strip()
    run = secrets.token_hex(3)
    names = [f"size-{run}-{number}" for number in range(asked.players)]
    with httpx.Client(base_url=asked.address, headers={"authorization": f"Bearer {key}"}, timeout=30) as house:
        sizes = [settled(house)]
        tell(house, (one for name in names for one in arrival(name)))
        sizes.append(settled(house))
        tell(house, (one for name in names for one in play(name)))
        sizes.append(settled(house))
        seconds = decide(house, names)
        sizes.append(settled(house))
    known, played, decided = (later - before for before, later in pairwise(sizes))
    each = len(names)
    print(
        f"memory: {known / each:,.0f} bytes a player, {played / each / PLAY:,.0f} an event, {decided / each:,.0f} a "
        f"decision; lake: {lake_bytes('events'):,.0f} an event, {lake_bytes('decisions'):,.0f} a decision; "
        f"{each / seconds:,.0f} decisions a second of one caller\n"
    )
    print(*table(known / each, played / each / PLAY, decided / each, each / seconds), sep="\n")
