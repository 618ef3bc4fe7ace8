"""Scheduled runs over a real store, with a sandbox clock that is moved by hand."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from support.workers import running

from features.moments import micros
from features.store.connection import connect
from features.store.deployment import House, real_now_us
from features.store.server import Server
from pipelines.worker.process import Worker
from pipelines.worker.schedule import Scheduler

MONDAY = datetime(2020, 3, 2, 4, tzinfo=UTC)
LINE = {"retrain": "0 4 * * 1"}
ENDS = "print('ran')"
LASTS = "import threading; threading.Event().wait()"


class Clock:
    """A house whose time is set; the store's clock goes on by itself and is taken out again."""

    def __init__(self, house: House, client: redis.Redis) -> None:
        self.house, self._client = house, client

    def at(self, moment: datetime) -> House:
        return msgspec.structs.replace(
            self.house, house_us=micros(moment), real_us=real_now_us(self._client), rate=0.000001
        )


class Stage:
    """Schedulers as so many workers would have, and what they start."""

    def __init__(self, clock: Clock, url: str, home: Path) -> None:
        self._clock, self._url, self._home = clock, url, home
        self.workers: list[Scheduler] = []
        self.home = home

    def hire(self, program: str = ENDS) -> Scheduler:
        home = self._home / f"{len(self.workers)}"
        worker = Scheduler(connect(self._url), self._clock.house, LINE, home, self._url)
        worker.children["retrain"].command = [sys.executable, "-c", program]
        self.workers.append(worker)
        return worker

    def look(self, worker: Scheduler, moment: datetime) -> bool:
        """Whether a run was started."""
        before = worker.children["retrain"].process
        worker._house = self._clock.at(moment)
        worker.look()
        return worker.children["retrain"].process is not before

    def ended(self, worker: Scheduler) -> int:
        process = worker.children["retrain"].process
        assert process
        return process.wait(60)


@pytest.fixture
def stage(store: redis.Redis, house: House, server: Server, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(Clock(house, store), server.url, tmp_path)
    yield made
    for worker in made.workers:
        worker.stop()


def test_a_new_house_waits_for_its_first_due_moment_and_runs_once_for_it(stage: Stage) -> None:
    worker = stage.hire()
    assert not stage.look(worker, MONDAY - timedelta(hours=3))
    assert not stage.look(worker, MONDAY - timedelta(seconds=1))
    assert stage.look(worker, MONDAY)
    assert stage.ended(worker) == 0
    assert not stage.look(worker, MONDAY + timedelta(days=6))
    assert (stage.home / "0/logs/retrain.log").read_text() == "ran\n"


def test_a_house_that_is_made_at_a_due_moment_waits_for_the_next(stage: Stage) -> None:
    worker = stage.hire()
    assert not stage.look(worker, MONDAY)
    assert not stage.look(worker, MONDAY + timedelta(days=6))
    assert stage.look(worker, MONDAY + timedelta(days=7))


def test_moments_that_were_missed_are_one_run(stage: Stage) -> None:
    stage.look(stage.hire(), MONDAY - timedelta(hours=1))
    later = stage.hire()  # everything was down for years
    assert stage.look(later, MONDAY + timedelta(days=1_000))
    assert stage.ended(later) == 0
    assert not stage.look(later, MONDAY + timedelta(days=1_000))


def test_of_many_workers_one_runs_a_due_moment(stage: Stage) -> None:
    workers = [stage.hire() for _ in range(8)]
    for worker in workers:
        stage.look(worker, MONDAY - timedelta(hours=1))
    gate, started = threading.Barrier(len(workers)), []

    def work(worker: Scheduler) -> None:
        gate.wait()
        started.append(stage.look(worker, MONDAY))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(started) == 1


def test_a_worker_that_looked_late_neither_repeats_a_run_nor_hides_the_next(stage: Stage) -> None:
    quick, late = stage.hire(), stage.hire()
    stage.look(quick, MONDAY - timedelta(hours=1))
    assert stage.look(quick, MONDAY + timedelta(days=7))
    stage.ended(quick)
    assert not stage.look(late, MONDAY)  # its reading of the clock is a week old
    assert not stage.look(late, MONDAY + timedelta(days=7))
    assert stage.look(late, MONDAY + timedelta(days=14))


def test_while_a_run_lasts_no_other_begins_and_what_came_due_is_one_run_after_it(stage: Stage) -> None:
    worker = stage.hire(LASTS)
    stage.look(worker, MONDAY - timedelta(hours=1))
    assert stage.look(worker, MONDAY)
    assert not stage.look(worker, MONDAY + timedelta(days=7))
    assert not stage.look(worker, MONDAY + timedelta(days=14))
    worker.stop()
    assert stage.look(worker, MONDAY + timedelta(days=15))


def test_a_worker_that_stops_ends_its_run_and_gives_its_partitions_back(
    stage: Stage, store: redis.Redis, server: Server, lake: Path
) -> None:
    scheduler = stage.hire(LASTS)
    stage.look(scheduler, MONDAY - timedelta(hours=1))
    assert stage.look(scheduler, MONDAY)
    worker = Worker(server.url, lake, scheduler)
    thread = threading.Thread(target=worker.run)
    thread.start()
    worker.stop()
    thread.join(60)
    assert scheduler.children["retrain"].dead()
    leases: Any = store.keys("lease:*")
    held: list[Any] = [store.hget(lease, "until") for lease in leases]
    assert set(held) == {b"0"}


def test_the_worker_looks_by_itself(stage: Stage, server: Server, lake: Path, house: House) -> None:
    scheduler = stage.hire()
    assert house.rate == 1
    stage.look(scheduler, MONDAY - timedelta(hours=1))
    scheduler._house = stage._clock.at(MONDAY)
    worker = Worker(server.url, lake, scheduler)
    begun = threading.Event()
    scheduler.children["retrain"].start = begun.set  # type: ignore[method-assign]
    with running(worker):
        assert begun.wait(60)
