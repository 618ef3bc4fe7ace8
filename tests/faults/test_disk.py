"""A full disk under the lake: decisions and features go on, the log keeps its entries, the lake catches up."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.fault_house import PROCESSES, Caller, World, players, timed, until

from features.store.connection import connect
from features.store.deployment import PARTITIONS
from features.store.keys import tag
from pipelines.worker import process
from pipelines.worker.lake import Lake, reach
from pipelines.worker.process import Worker

DISK = 1_000_000
"""Bytes of the disk under the lake."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, mounted where the lake is."""
    folder = tmp_path / "lake"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=False)  # noqa: S607
    if mounted.returncode:
        pytest.skip("a disk may not be mounted here; the same is shown with a limit on files")
    yield folder
    subprocess.run(["umount", folder], check=True)  # noqa: S607


def _work(url: str, lake: Path, log: Path) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
    process.FLUSH_SECONDS = 0.1  # type: ignore[misc]
    Worker(url, lake).run()


def logged(world: World) -> int:
    """Entries that the log holds."""
    pipe = world.client.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipe.xlen(f"log:{tag(partition)}")
    return sum(pipe.execute())


def whole(lake: Path) -> int:
    """Files of a lake that can be seen; each can be read."""
    seen = list(lake.glob("*/*/*.parquet"))
    for file in seen:
        pq.read_table(file)
    return len(seen)


def test_with_the_disk_full_everything_but_the_lake_goes_on_and_the_lake_follows_when_there_is_room(
    world: World, disk: Path, caller: Caller, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    process = PROCESSES.Process(target=_work, args=(world.server.url, disk, log))
    process.start()
    try:
        (player,) = players("p")
        caller.welcome(player)
        until(lambda: reach(disk).flushed > 0 and logged(world) == 0)
        filler = disk / "filler"
        fill(filler)
        before, deposits = reach(disk).flushed, 0
        for _ in range(20):
            approved = {"type": "deposit", "status": "approved", "method": "card", "amount_minor": 100}
            answer = caller.event(player, **approved)
            deposits += 1
        position = answer.json()["position"]
        until(lambda: log.read_text().count("it cannot be written") >= 3)
        assert "No space left on device" in log.read_text()
        for told in timed("disk of the lake full, decision", [lambda: caller.ask(player)] * 30):
            assert told.json()["recorded"]
        found = caller.ask(player, after=position, dry_run=True, explain=True).json()
        assert found["features"]["values"]["deposit_count"] == deposits + 2, "features stood still"
        assert process.is_alive()
        assert reach(disk).flushed == before
        assert logged(world) >= deposits + 30, "the log was trimmed of what the lake does not have"
        whole(disk)
        assert [file.name for file in disk.rglob("*.tmp")] == []
        filler.unlink()
        until(lambda: logged(world) == 0)
        assert reach(disk).flushed > before
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
    world.consumer()
    world.keeps(caller)


def fill(filler: Path) -> None:
    """Write until nothing more fits."""
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue


def _flush(url: str, lake: Path, most: int, answer: Any) -> None:
    """Flush where no file may grow beyond some bytes; says what came of it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        Lake(connect(url), lake).flush()
    except OSError as error:
        answer.send(str(error))
    else:
        answer.send("")


@pytest.mark.parametrize("most", [0, 10, 500, 5_000])
def test_a_flush_that_cannot_write_shows_no_half_file_trims_nothing_and_is_done_again(
    world: World, caller: Caller, most: int
) -> None:
    """At the first file that is too long: the position, its end, the first table, or a longer one."""
    (player,) = players("p")
    caller.welcome(player)
    world.apply()
    for _ in range(5):
        caller.ask(player)
    held = logged(world)
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_flush, args=(world.server.url, world.lake, most, there))
    process.start()
    said = here.recv()
    process.join(60)
    assert "File too large" in said
    assert reach(world.lake).flushed == 0
    assert logged(world) == held
    whole(world.lake)
    assert [file.name for file in world.lake.rglob("*.tmp")] == []
    world.apply()
    world.keeps(caller)
    assert logged(world) == 0
