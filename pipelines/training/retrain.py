"""Retrain the churn model: materialise, train, gate, promote, as one MLflow run with a child per step.

retrain churn  FINISHED, or FAILED with the sentence that says why
  materialise  features at the cut-offs
  train        the model version's own run
  gate         what it shows beside the champion
  promote      the record of the promotion
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console

from features.events import moment
from features.store.bundles import published
from features.store.connection import connect
from features.store.errors import StoreError
from models.churn.population import TrainingRefused
from models.releases.registry import ChurnRegistry, Run
from models.releases.registry_database import RegistryError
from models.releases.release import GateRefused, new_release
from pipelines.training.churn import TrainingPopulation, TrainingResult, ask, learn
from pipelines.training.materialise import materialise
from pipelines.training.promotion import examine, install, judge, settle

REFUSALS = (TrainingRefused, GateRefused, RegistryError, StoreError)
"""What leaves everything that serves as it was, and is told in one sentence."""


class RetrainStep(msgspec.Struct, frozen=True):
    """A step that was begun, and its duration."""

    name: str
    seconds: float


class RetrainResult(msgspec.Struct, kw_only=True):
    """Result of a retraining, filled in step by step.

    Attributes:
        run_id: MLflow's parent run.
        model_version: The new version, None if training was refused.
        promoted: Whether it serves now.
        replaced: What served before it; None if it was not promoted, or was the first.
        serving: Serving processes that report it.
        reason: Why it was not promoted, one sentence; None if it was.
        auc: On its own test rows.
        auc_champion: The champion's on the same rows, None if there was none to compare with.
        steps: What was done, in order.
    """

    run_id: str
    model_version: str | None = None
    promoted: bool = False
    replaced: str | None = None
    serving: int = 0
    reason: str | None = None
    auc: float | None = None
    auc_champion: float | None = None
    steps: list[RetrainStep] = msgspec.field(default_factory=list)


class RetrainRun:
    """A retraining under way."""

    def __init__(self, home: Path, url: str, console: Console) -> None:
        self._home, self._url, self._console = home, url, console
        self._client = connect(url)
        self._registry: ChurnRegistry = settle(home, self._client)

    def run(self, by: str | None = None) -> RetrainResult:
        """Run the steps; a refusal ends them, is recorded, and becomes the result's `reason`."""
        result = RetrainResult(run_id="")
        try:
            with self._registry.run("retrain churn") as parent:
                result.run_id = parent.id
                self._steps(parent, result, by)
        except REFUSALS as refusal:
            result.reason = str(refusal)
        return result

    def _steps(self, parent: Run, result: RetrainResult, by: str | None) -> None:
        question = self._materialise(parent, result)
        version = result.model_version = self._train(parent, result, question).model_version
        champion = self._registry.champion()
        evidence = self._gate(parent, result, version, champion)
        with self._step(parent, result, "promote") as step:
            entry = new_release(
                self._client,
                "churn",
                "promote",
                version,
                champion,
                reason="retrained, and it passed the gate",
                by=by,
                evidence=evidence,
                run=step.id,
            )
            done = install(self._registry, self._client, entry)
            step.tell({"replaced": champion, "model_version": version}, {"serving": done.serving})
        result.promoted, result.replaced, result.serving = True, done.replaced, done.serving

    def _materialise(self, parent: Run, result: RetrainResult) -> TrainingPopulation:
        with self._step(parent, result, "materialise", quiet=True) as step:
            question = ask(self._home, self._url, self._registry.settings.churn.horizon_days)
            cutoffs = " ".join(moment(one).date().isoformat() for one in question.cutoffs_us)
            step.tell({"horizon_days": question.horizon_days, "cutoffs": cutoffs})
            done = materialise(self._home / "lake", question.cutoffs_us, question.now_us)
            step.tell(metrics={**done._asdict(), "rows": len(question.players)})
        return question

    def _train(self, parent: Run, result: RetrainResult, question: TrainingPopulation) -> TrainingResult:
        with self._step(parent, result, "train") as step:
            return learn(self._home, self._url, self._registry, question, step)

    def _gate(self, parent: Run, result: RetrainResult, version: str, champion: str | None) -> dict[str, float]:
        gate = self._registry.settings.gates.churn
        with self._step(parent, result, "gate") as step:
            step.tell({"model_version": version, "champion": champion, **msgspec.to_builtins(gate)})
            served = published(connect(self._url), champion) if champion else None
            evidence = examine(self._registry, version, champion, served)
            step.tell(metrics=evidence)
            result.auc, result.auc_champion = evidence["auc"], evidence.get("auc_champion")
            judge(version, evidence, gate)
        return evidence

    @contextmanager
    def _step(self, parent: Run, result: RetrainResult, name: str, *, quiet: bool = False) -> Iterator[Run]:
        """A timed child run for a step; `quiet` for a step with a progress bar of its own."""
        began = time.monotonic()
        try:
            with self._registry.run(name, under=parent.id) as run, self._shown(name, quiet=quiet):
                yield run
        finally:
            result.steps.append(RetrainStep(name, round(time.monotonic() - began, 3)))
            self._console.print(f"  {name}: {result.steps[-1].seconds:.1f} s", style="dim")

    @contextmanager
    def _shown(self, name: str, *, quiet: bool) -> Iterator[None]:
        if quiet:
            yield
            return
        with self._console.status(name):
            yield


def retrain(home: Path, url: str, console: Console, by: str | None = None) -> RetrainResult:
    """Train a model on the current lake and let it serve if it passes its gate.

    Args:
        home: Directory of the house.
        url: The store.
        console: Where progress is shown.
        by: Who asked, for the record; None is the user of this process.

    Raises:
        StoreError: Another retraining of this house is under way, or the store does not answer.
    """
    with _only(home):
        return RetrainRun(home, url, console).run(by)


@contextmanager
def _only(home: Path) -> Iterator[None]:
    """Allow one retraining of a house at a time, by a lock that ends with its process."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "retrain.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError("another retraining of this house is under way") from error
        yield
