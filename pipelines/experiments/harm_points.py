"""Points of harm of players as the experiment met them, in fifths: what records say of their markers.

A level of harm is coarse, and most players have none; whether contacts press on those who are nearest to it is seen
in the points that the levels are made of.
"""

from __future__ import annotations

from typing import Final

import duckdb
import numpy as np
import pandas as pd

from service.decisions.record import load_record
from service.players.harm import HarmSettings, points

_FIRST: Final = """
    SELECT exposed.player, record FROM exposed JOIN decisions ON decision_id = first_decision
    WHERE decisions.player = exposed.player AND octet_length(record) > 0
"""
_AT_ONCE: Final = 10_000


def harm_fifths(connection: duckdb.DuckDBPyConnection, players: pd.Series, settings: HarmSettings) -> pd.Series:
    """Fifth of each player by points at the first decision, as a label; null for a player without a record of it.

    Of players with as many points none stands in another fifth than the rest, so there may be fewer than five.

    Args:
        connection: It has `decisions`, and the table `exposed` with each player's first decision.
        players: Player keys.
        settings: Markers with their thresholds and points; each counts wherever it does.
    """
    found: dict[str, int] = {}
    asked = connection.execute(_FIRST)
    while rows := asked.fetchmany(_AT_ONCE):
        found |= {player: points(load_record(record).seen.markers, settings) for player, record in rows}
    told = players.map(found)
    return told.map(_labels(told.dropna().to_numpy(np.int64)))


def _labels(values: np.ndarray) -> dict[int, str]:
    """Label of each number of points, by the fifths of all."""
    if not len(values):
        return {}
    cuts = np.unique(np.quantile(values, [0.2, 0.4, 0.6, 0.8], method="inverted_cdf"))
    place = {int(one): int(np.searchsorted(cuts, one)) for one in np.unique(values)}
    spans = {at: [one for one in place if place[one] == at] for at in sorted(set(place.values()))}
    named = {at: f"{number}: {_span(min(of), max(of))}" for number, (at, of) in enumerate(spans.items(), 1)}
    return {one: named[at] for one, at in place.items()}


def _span(least: int, most: int) -> str:
    if least == most:
        return f"{least} point" if least == 1 else f"{least} points"
    return f"{least} to {most} points"
