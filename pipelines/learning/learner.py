"""The learner process: trains the policy from the lake and publishes its versions. One process, one writer.

lake --training--> snapshot --> store, MLflow          `--> checkpoint, between two flushes
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from features.store.connection import connect
from features.store.keys import LEARNER_LEASE
from models.policy.learned import SnapshotError
from pipelines.learning import policy
from pipelines.learning.training_log import Training

if TYPE_CHECKING:
    from models.releases.registry import LearnerJournal

LEASE_SECONDS: Final = 15
POLL_SECONDS: Final = 0.5
CHECKPOINT_SECONDS: Final = 20.0
JOURNAL_SECONDS: Final = 300.0
OFFER_SECONDS: Final = 5.0
"""A snapshot that may not follow now is offered again, in case what served was lost or held back."""
_LOG: Final = structlog.get_logger()

Step = Callable[[str], None]


class LearnerProcess:
    """Runs a training over a house's lake, keeps its checkpoint, and publishes policy versions.

    Only the holder of the lease learns, keeps and publishes; whoever takes it over goes on from the checkpoint.

    Args:
        url: The store.
        home: Directory of the house.
        training: The training.
        tell: Called with the training after a snapshot was published; must not fail.
        step: Called before every step with its name.
    """

    def __init__(self, url: str, home: Path, training: Training, tell: Callable[[Training], None], step: Step) -> None:
        self._client = connect(url)
        self._file = home / "learner" / "checkpoint.msgpack"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._training = training
        self._tell = tell
        self._step = step
        self._owner = secrets.token_hex(8)
        self._stopping = threading.Event()
        self._leading = False
        self._kept = 0.0
        self._offered, self._offer_again = "", 0.0

    def run(self) -> None:
        """Learn until `stop`."""
        while not self._stopping.is_set():
            self.work()
            self._stopping.wait(POLL_SECONDS)
        if self._leads():
            self._keep()
            self._client.fcall("croupier_release", 1, LEARNER_LEASE, self._owner)

    def stop(self) -> None:
        """Ask `run` to end after the flush under way."""
        self._stopping.set()

    def work(self) -> None:
        """Learn new flushes, then publish the newest version; does nothing while another process holds the lease."""
        if not self._leads():
            return
        for flush in self._training.waiting():
            self._step("learn")
            self._training.learn(flush)
            if not self._leads() or self._stopping.is_set():
                return
            if time.monotonic() - self._kept >= CHECKPOINT_SECONDS:
                self._keep()
        self._step("publish")
        self._publish()

    def _leads(self) -> bool:
        """Whether this process holds the learner's lease; on gaining it, the checkpoint is restored."""
        reached = str(self._training.reached_us() or "") if self._leading else ""
        held: object = self._client.fcall(
            "croupier_lease", 1, LEARNER_LEASE, self._owner, str(LEASE_SECONDS * 1_000_000), reached
        )
        if held == 0:
            self._leading = False
        elif not self._leading:
            self._leading = True
            self._resume()
        return self._leading

    def _resume(self) -> None:
        self._training.begin()
        if self._file.exists() and not self._training.resume(self._file.read_bytes()):
            _LOG.warning("learner", trouble="the checkpoint cannot be used; learning begins again from the lake")

    def _keep(self) -> None:
        self._step("write")
        unfinished = self._file.with_name(f".{self._owner}.tmp")
        with unfinished.open("wb") as file:
            file.write(self._training.checkpoint())
            file.flush()
            os.fsync(file.fileno())
        self._step("rename")
        unfinished.replace(self._file)
        self._kept = time.monotonic()

    def _publish(self) -> None:
        newest = self._training.newest
        if newest is None or (newest.version == self._offered and time.monotonic() < self._offer_again):
            return
        self._offered, self._offer_again = newest.version, time.monotonic() + OFFER_SECONDS
        try:
            if not policy.let_follow(self._client, newest):
                return
        except SnapshotError as error:
            _LOG.error("learner", trouble=f"{newest.version} is not published: {error}")
            return
        self._step("tell")
        self._tell(self._training)
        _LOG.info("published", version=newest.version, cursor=newest.cursor.flush, **self._training.measured)


class MlflowReporter:
    """Records published versions in MLflow; failures of MLflow are logged, and learning goes on."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._checkpoint = home / "learner" / "checkpoint.msgpack"
        self._kept = time.monotonic()
        self._journal: LearnerJournal | None = None

    def __call__(self, training: Training) -> None:
        """Record the newest version, and upload a checkpoint every few minutes."""
        if training.newest is None:
            return
        try:
            self._journal = self._journal or _journal(self._home, training.lineage)
            self._journal.note(training.newest.number, training.measured | {"open": float(training.open)})
            if time.monotonic() - self._kept > JOURNAL_SECONDS and self._checkpoint.exists():
                self._journal.keep(self._checkpoint)
                self._kept = time.monotonic()
        except Exception as error:  # noqa: BLE001 - whatever a remote server does, the policy must go on learning
            _LOG.warning("learner", trouble=f"MLflow was not told: {error}")


def _journal(home: Path, lineage: str) -> LearnerJournal:
    for name, value in {"MAX_RETRIES": "1", "TIMEOUT": "5"}.items():  # a server that is away must not hold up learning
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    from models.releases.registry import LearnerJournal as Journal  # noqa: PLC0415 - MLflow takes seconds to import

    return Journal(home, lineage)
