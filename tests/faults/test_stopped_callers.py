"""A key that was revoked is refused within a second, whatever happens to the process or to the store meanwhile."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import httpx
import pytest
from support.deadlines import PATIENT
from support.fault_house import Serving, World, speaking, until
from support.keys import HEADERS, bearer, grant

from features.store.keys import API_KEYS
from service.access.keyring import STALE_SECONDS

KEY = "ck_leaving_" + "0123456789abcdef" * 3


@pytest.fixture
def serving(world: World, tmp_path: Path) -> Iterator[Serving]:
    grant(world.client, KEY, "read", "decide", "events")
    with Serving(world.server.url, tmp_path, **PATIENT) as made:
        yield made


def asked(serving: Serving, key: str = KEY) -> httpx.Response:
    with speaking(serving.socket) as client:
        return client.get("/reports", headers=bearer(key))


def passed(seconds: float) -> None:
    """Wait on the monotonic clock."""
    threading.Event().wait(seconds)


def test_a_process_that_was_stopped_and_woken_takes_no_key_that_was_revoked_meanwhile(
    world: World, serving: Serving
) -> None:
    assert asked(serving).status_code == 200
    pid = serving.process.pid
    assert pid is not None
    for _ in range(5):
        grant(world.client, KEY, "read")
        until(lambda: asked(serving).status_code == 200)
        os.kill(pid, signal.SIGSTOP)
        world.client.hdel(API_KEYS, "leaving")
        acknowledged = monotonic()
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(asked, serving) for _ in range(4)]  # they lie in its socket when it wakes
            passed(acknowledged + STALE_SECONDS - monotonic())
            os.kill(pid, signal.SIGCONT)
            assert {one.result().status_code for one in waiting} <= {401, 429}


def test_while_the_store_hangs_no_key_is_taken_that_was_not_seen_for_a_second(world: World, serving: Serving) -> None:
    assert asked(serving).status_code == 200
    world.server.signal(signal.SIGSTOP)
    try:
        passed(STALE_SECONDS)
        answer = asked(serving)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert answer.headers["retry-after"]
        with speaking(serving.socket) as client:
            plain = client.get("/healthz")
        assert plain.status_code == 200
    finally:
        world.server.signal(signal.SIGCONT)
    until(lambda: asked(serving).status_code == 200)


def test_where_nobody_listens_callers_are_told_to_leave_people_alone(world: World, serving: Serving) -> None:
    world.server.signal(signal.SIGKILL)
    until(lambda: not world.server.lives())
    passed(STALE_SECONDS)
    with speaking(serving.socket) as client:
        for headers in (bearer(KEY), HEADERS):
            answer = client.post("/v1/decisions", json={"player_id": "p1"}, headers=headers)
            assert (answer.status_code, answer.json()["recorded"]) == (200, False)
        assert client.get("/reports", headers=bearer(KEY)).status_code == 503
        assert client.get("/reports", headers=bearer(KEY + "x")).status_code == 401


def test_what_restricts_waits_for_a_store_that_hangs_for_a_while(world: World, serving: Serving) -> None:
    assert asked(serving).status_code == 200
    world.server.signal(signal.SIGSTOP)
    told = {"type": "self_excluded", "event_id": "x", "player_id": "p1", "occurred_at": "2020-01-01T00:00:00Z"}
    passed(STALE_SECONDS)
    with ThreadPoolExecutor(1) as pool, speaking(serving.socket) as client:
        answer = pool.submit(lambda: client.post("/v1/events", json=told, headers=bearer(KEY)))
        passed(2.0)
        world.server.signal(signal.SIGCONT)
        assert answer.result().status_code == 200
