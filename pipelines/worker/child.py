"""Child processes: start, watch, stop."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from features.settings.environment import Environment, untie

LAST: Final = 19
"""Niceness of what may take as long as it takes."""


def end_with_parent() -> None:
    """In a child: ask this process to end when the one that started it has ended, were it killed outright."""
    if not untie():
        return

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def give_way(pid: int, niceness: int = LAST) -> None:
    """Lower the priority of a process that was just started, and of everything it starts."""
    with suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + niceness)


@dataclass
class Child:
    """A child process in a session of its own; `niceness` 1 to 19 lowers its priority."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    niceness: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it, its output appended to its log."""
        environment = {**os.environ, **self.environment, Environment.tied.name: "yes"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - the command is ours
                self.command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        if self.niceness:
            give_way(self.process.pid, self.niceness)

    def dead(self) -> bool:
        """Whether the process was started and has ended."""
        if self.process is None or self.process.poll() is None:
            return False
        self._let_go(self.process)
        return True

    def _let_go(self, process: subprocess.Popen[bytes]) -> None:
        """Close our end of an ended child's input."""
        if process.stdin is not None:
            process.stdin.close()

    def wait(self) -> int:
        """Wait until the process has ended; returns its exit code."""
        assert self.process is not None, "it was not started"  # noqa: S101
        code = self.process.wait()
        self._let_go(self.process)
        return code

    def stop(self, seconds: float = 20.0) -> None:
        """Terminate the process, wait, and kill it after a while."""
        if self.process is None or self.dead():
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._let_go(self.process)
