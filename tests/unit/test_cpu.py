"""CPU time by process."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import cpu

SECONDS = 0.3
BURN = "import time\nwhile time.{clock}() < {seconds}: pass\nprint(time.process_time(), flush=True)\ninput()"


@contextmanager
def running(script: str) -> Iterator[tuple[int, float]]:
    """A process that has printed its own CPU time, and waits."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield process.pid, float(process.stdout.readline())
        process.communicate("\n")


def test_a_process_that_burns_has_spent_what_it_says() -> None:
    with running(BURN.format(clock="process_time", seconds=SECONDS)) as (process, seconds):
        spent = cpu.microseconds({}, cpu.read([process]))
    assert spent / 1e6 == pytest.approx(seconds, abs=0.05)


def test_every_thread_counts_and_the_main_one_stands_apart() -> None:
    beside = f"import threading\nburn = lambda: [None for _ in iter(lambda: time.thread_time() < {SECONDS}, False)]\n"
    script = f"import time\n{beside}other = threading.Thread(target=lambda: (burn(), done.set(), end.wait()))\n"
    script += "done, end = threading.Event(), threading.Event()\nother.start()\ndone.wait()\n"
    script += "print(time.process_time(), flush=True)\ninput()\nend.set()"
    with running(script) as (process, seconds):
        reading = cpu.read([process])
    whole, main = cpu.microseconds({}, reading) / 1e6, cpu.microseconds({}, cpu.main_threads(reading)) / 1e6
    assert whole == pytest.approx(seconds, abs=0.05)
    assert whole - main == pytest.approx(SECONDS, abs=0.05)


def test_a_process_that_waits_spends_nothing() -> None:
    with running("print(0, flush=True)\ninput()") as (process, _):
        before = cpu.read([process])
        time.thread_time()
        assert cpu.microseconds(before, cpu.read([process])) < 20_000


def test_a_child_of_a_child_belongs_to_the_tree() -> None:
    inner = "import os; print(os.getpid(), flush=True); input()"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with running(script) as (process, innermost):
        assert cpu.tree(process) == [process, int(innermost)]


def test_a_process_that_has_ended_is_left_out() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cpu.read([process.pid]) == {}
    assert cpu.command(process.pid) == []


def test_a_thread_that_began_between_two_readings_counts_whole() -> None:
    assert cpu.microseconds({(1, 1): 1_000}, {(1, 1): 5_000, (1, 2): 3_000}) == 7.0
