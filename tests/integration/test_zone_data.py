"""A serving process on a machine with other time zones: hours follow the recorded zone data."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import tzdata
from conftest import Stored
from support.application import application
from support.keys import HEADERS
from support.players import adult_events

from features.events import micros
from features.store.deployment import create_house

NIGHT = datetime(2026, 11, 28, 4, 40, tzinfo=UTC)
"""The 27th in Vancouver by the package; the 28th by the zones that the machine offers."""


@pytest.fixture
def served(server: Stored, store: redis.Redis, tmp_path: Path) -> Iterator[httpx.Client]:
    """The application where Vancouver keeps the clock of Kiritimati."""
    create_house(store, clock_us=micros(NIGHT))
    (tmp_path / "America").mkdir()
    kiritimati = Path(str(resources.files("tzdata") / "zoneinfo" / "Pacific" / "Kiritimati"))
    shutil.copy(kiritimati, tmp_path / "America" / "Vancouver")
    with (
        application(CROUPIER_STORE=server.url, PYTHONTZPATH=str(tmp_path)) as address,
        httpx.Client(base_url=address, timeout=60, headers=HEADERS) as client,
    ):
        yield client


def decided(client: httpx.Client, player: str, born: str) -> dict[str, Any]:
    for event in adult_events(player, NIGHT, time_zone="America/Vancouver", birth_date=born):
        assert client.post("/v1/events", json=event).status_code == 200
    answer = client.post("/v1/decisions", json={"player_id": player, "explain": True})
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_a_player_comes_of_age_at_the_midnight_of_the_zones_that_the_record_names(served: httpx.Client) -> None:
    of_age, too_young = decided(served, "of-age", "2008-11-27"), decided(served, "too-young", "2008-11-28")
    assert "age" not in {one["rule"] for one in of_age["exclusions"]}
    assert "age" in {one["rule"] for one in too_young["exclusions"]}
    record = served.get(f"/v1/decisions/{too_young['decision_id']}").json()
    assert record["versions"]["time_zones"] == tzdata.IANA_VERSION
