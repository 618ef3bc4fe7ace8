"""Metrics of a running house: right over several processes, bounded, without ids, and there while the store is away"""

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Opened, app_of
from prometheus_client.parser import text_string_to_metric_families
from support.application import application
from support.fault_house import World
from support.keys import HEADERS
from support.players import adult_events

from service.api import metrics

PLAYERS = 40
PROCESSES = 4


def read(text: str) -> dict[tuple[str, ...], float]:
    """Samples by name and labels, as a real reader of the format has them."""
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(address: str) -> dict[tuple[str, ...], float]:
    return read(httpx.get(f"{address}/metrics", headers=HEADERS, timeout=10).text)


def counting(world: World) -> list[int]:
    """Process ids of the serving processes: those that count in a folder of ours."""
    found = []
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if "croupier-metrics-" in maps.read_text() and str(world.home) in environment_of(maps.parent):
                found.append(int(maps.parent.name))
        except OSError:  # it has ended
            continue
    return sorted(found)


def environment_of(process: Path) -> str:
    return (process / "environ").read_text()


def until(true: Callable[[], Any]) -> None:
    ends = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ends
        threading.Event().wait(0.05)


def sent(address: str, number: int) -> set[int]:
    """Statuses of refused requests over as many connections, so that every process gets some."""
    statuses = set()
    for _ in range(number):
        kind = {"content-type": "application/json", **HEADERS}
        statuses.add(httpx.post(f"{address}/v1/decisions", content=b"{", headers=kind, timeout=20).status_code)
    return statuses


@pytest.fixture
def served(world: World) -> Iterator[str]:
    home = {"CROUPIER_STORE": world.server.url, "CROUPIER_HOME": str(world.home)}
    with application(PROCESSES, **home) as address:
        until(lambda: len(counting(world)) == PROCESSES)
        until(lambda: scraped(address)[("croupier_processes_ready",)] == PROCESSES)
        yield address


def replaced(world: World, gone: int) -> bool:
    now = counting(world)
    return gone not in now and len(now) == PROCESSES


REFUSED = ("croupier_refusals_total", "code=invalid_json")
BAD = ("croupier_requests_total", "method=POST", "route=/v1/decisions", "status=400")
TIMED = ("croupier_request_seconds_count", "route=/v1/decisions")


def test_any_process_tells_what_all_counted_and_a_killed_ones_counts_stay(world: World, served: str) -> None:
    total = 0
    for _ in range(3):
        assert sent(served, 80) == {400}
        total += 80
        for _ in range(3 * PROCESSES):  # whichever of them answers
            found = scraped(served)
            assert [found[name] for name in (REFUSED, BAD, TIMED)] == [total] * 3
        alive = counting(world)
        os.kill(alive[0], signal.SIGKILL)
        until(partial(replaced, world, alive[0]))
        assert scraped(served)[REFUSED] == total


def test_the_folder_of_counts_is_closed_to_others_and_goes_with_the_house(world: World, served: str) -> None:
    told = environment_of(Path(f"/proc/{counting(world)[0]}"))
    folder = Path(re.findall(r"CROUPIER_METRICS=([^\0]+)", told)[0])
    assert folder.stat().st_mode & 0o77 == 0
    assert {file.stat().st_mode & 0o77 for file in folder.iterdir()} == {0}
    assert httpx.get(f"{served}/healthz").status_code == 200


def test_a_scrape_is_answered_within_a_second_while_the_store_is_silent(world: World, served: str) -> None:
    sent(served, 8)
    world.server.signal(signal.SIGSTOP)
    try:
        until(lambda: scraped(served)[("croupier_store_up",)] == 0)
        for _ in range(5):
            begun = time.monotonic()
            found = scraped(served)
            assert time.monotonic() - begun < 1
            assert found[REFUSED] == 8
    finally:
        world.server.signal(signal.SIGCONT)
    until(lambda: scraped(served)[("croupier_store_up",)] == 1)


# --- In one process


async def story(client: httpx.AsyncClient) -> None:
    """Decisions of every sort, retries, refusals and a batch."""
    for player in (f"p-{number}" for number in range(PLAYERS)):
        for event in adult_events(player):
            assert (await client.post("/v1/events", json=event)).status_code == 200
        asked = {"player_id": player, "request_id": f"r-{player}"}
        for _ in range(2):
            assert (await client.post("/v1/decisions", json=asked)).status_code == 200
    await client.post("/v1/decisions", json={"player_id": "p-1", "dry_run": True})
    await client.post("/v1/decisions/batch", json={"requests": [{"player_id": "p-2"}, {}, {"player_id": "nobody"}]})
    await client.post("/v1/decisions/000-aaaaaaaaaaaaaaaaaaaaaaaa/confirm")


async def told(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    return read((await client.get("/metrics")).text)


def total(found: dict[tuple[str, ...], float], name: str, *labels: str) -> float:
    return sum(value for key, value in found.items() if key[0] == name and set(labels) <= set(key))


async def test_a_story_is_counted_as_it_went(opened: Opened) -> None:
    async with opened() as client:
        await story(client)
        found = await told(client)
    assert total(found, "croupier_decisions_total") == 2 * PLAYERS + 3
    assert total(found, "croupier_repeats_total", "kind=replayed") == PLAYERS
    assert total(found, "croupier_unrecorded_total", "why=dry_run") == 1
    assert total(found, "croupier_refusals_total", "code=invalid_body") == 1
    assert total(found, "croupier_refusals_total", "code=unknown_decision") == 1
    assert total(found, "croupier_batch_items_sum") == 3
    made = PLAYERS + 3
    assert total(found, "croupier_stage_seconds_count", "stage=compose") == made
    assert total(found, "croupier_stage_seconds_count", "stage=reserve") == made - 1
    assert total(found, "croupier_stage_seconds_count", "stage=read") == made + PLAYERS
    # Of each that was made here and left the player alone, why.
    silent = total(found, "croupier_decisions_total", "action=no_contact")
    assert 0 < total(found, "croupier_no_contact_total") <= silent
    assert total(found, "croupier_store_up") == 1


async def test_no_label_holds_what_callers_wrote_whatever_they_write(opened: Opened) -> None:
    async with opened() as client:
        await story(client)
        before = await told(client)
        for number in range(300):
            mark = f"zz-marker-{number}"
            body: dict[str, Any] = {"player_id": mark, "request_id": mark, "decision_point": "page"}
            await client.post("/v1/decisions", json=body | {"offers": [mark], mark: mark})
            await client.post(f"/v1/decisions/{mark}/confirm")
            await client.request(f"ZZ{number}", f"/v1/{mark}", headers={"x-request-id": mark, "traceparent": mark})
            await client.get(f"/v1/players/{mark}")
            await client.post("/v1/events", json={"type": mark, "event_id": mark, "player_id": mark})
        text = (await client.get("/metrics")).text
    assert "zz-marker" not in text
    assert not re.search(r"\d{3}-[a-z2-7]{24}|\{p\d{3}\}", text)
    series = {key for key in read(text) if not key[0].endswith("_bucket")}
    # A route and a code more each, however many ask.
    assert len(series - before.keys()) < 40


async def test_labels_are_words_of_closed_lists(opened: Opened) -> None:
    async with opened() as client:
        routes = {getattr(route, "path", "") for route in app_of(client).routes}
        await story(client)
        found = await told(client)
    words = {tuple(part.split("=", 1)) for key in found for part in key[1:]}
    by = {name: {value for label, value in words if label == name} for name, _ in words}
    assert by["route"] <= routes | {"decisions"}
    assert by["stage"] == {"read", "compose", "reserve"}
    assert by["action"] <= {"contact", "no_contact"}
    assert by["recorded"] <= {"true", "false"}
    assert by["method"] <= {"GET", "POST", "DELETE"}
    assert all(
        re.fullmatch(r"[A-Za-z0-9_:.-]{1,64}", value)
        for label, value in words - {("variant", "")}
        if label not in {"route", "le"}
    )
    assert {name for metric in metrics.COUNTED for name in metric.labels} >= by.keys() - {"le", "kind"}


async def test_scrapes_at_once_read_the_store_once(opened: Opened) -> None:
    async with opened() as client:
        begun = time.monotonic()
        texts = await asyncio.gather(*(client.get("/metrics") for _ in range(50)))
        assert time.monotonic() - begun < 10
    assert {one.status_code for one in texts} == {200}
    lags = {
        re.findall(r"^croupier_features_lag_sum_seconds .*$", one.text, re.MULTILINE)[0]
        for one in texts
        if "lag_sum" in one.text
    }
    assert len(lags) == 1
