"""Heartbeat: a process whose loop stands still is ended; one that was stopped itself, and goes on, is not."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

SCRIPT = """
import asyncio, sys
from features import logs
from service.api.heartbeat import Heartbeat

async def main():
    beating = asyncio.create_task(Heartbeat("requests", seconds=0.4).beat())
    await asyncio.sleep(0)
    print("beats", flush=True)
    if (await asyncio.to_thread(sys.stdin.readline)).strip() == "hang":
        while True:
            pass
    beating.cancel()

logs.begin()
asyncio.run(main())
"""


def started() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=-1, stdout=-1, stderr=-1, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "beats\n"
    return process


def test_a_process_whose_loop_stands_still_is_ended_and_says_where() -> None:
    process = started()
    _, said = process.communicate("hang\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert "hung" in said
    assert "in main" in said


def test_a_process_that_was_stopped_and_goes_on_is_left_alone() -> None:
    process = started()
    process.send_signal(signal.SIGSTOP)
    while "T (stopped)" not in Path(f"/proc/{process.pid}/status").read_text():
        threading.Event().wait(0.01)
    threading.Event().wait(1.0)  # longer than a loop may stand still
    process.send_signal(signal.SIGCONT)
    process.communicate("go\n", timeout=60)
    assert process.returncode == os.EX_OK
