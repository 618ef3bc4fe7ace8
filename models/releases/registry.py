"""The one home of MLflow: runs, model versions, aliases, and the record of every promotion.

A churn model is an MLflow model version that anybody can load with MLflow; what serves is the bundle beside it.

    run: params, metrics, model/ (LightGBM flavour), bundle.msgpack, features.json, test_rows.parquet, calibration.svg
    version n: alias `champion` serves, alias `previous` is what `rollback` brings back
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.backends.backend_svg import FigureCanvasSVG

from features.events import moment
from features.schema import MODEL_FEATURES, VECTOR, schema_hash
from features.settings.mlflow_file import Mlflow, Tracking, read_mlflow
from models.churn.plots import reliability_diagram
from models.churn.scorer import ChurnBundle
from models.churn.training import Evaluation, Rows, TrainedModel
from models.releases.journal import Release
from models.releases.registry_database import RegistryError, making, prepare

# Set before MLflow is imported: otherwise it calls a server on the internet, draws its own progress bars, and logs in a
# way of its own.
os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it remarks on type hints of its own
    import mlflow.lightgbm
    import mlflow.pyfunc.model
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

CHAMPION: Final = "champion"
PREVIOUS: Final = "previous"
_REPLACED: Final = "replaced"
_ENTRY: Final = "entry"
_KIND: Final = "kind"
_SNAPSHOT: Final = "snapshot"
_WHY: Final = "why"
_BUNDLE: Final = "bundle.msgpack"
_ROWS: Final = "test_rows.parquet"
_SQLITE: Final = "sqlite:///"

for _noisy in ("mlflow", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)


class Run:
    """An MLflow run under way.

    Attributes:
        id: MLflow's id of it.
    """

    def __init__(self, client: MlflowClient, run: str) -> None:
        self._client = client
        self.id = run

    def tell(
        self,
        parameters: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Record parameters (set once), metrics and tags."""
        self._client.log_batch(
            self.id,
            metrics=[Metric(name, value, 0, 0) for name, value in (metrics or {}).items()],
            params=[Param(name, str(value)) for name, value in (parameters or {}).items()],
            tags=[RunTag(name, text) for name, text in (tags or {}).items()],
        )

    def keep(self, files: Iterable[Path]) -> None:
        """Keep files as artifacts."""
        for file in files:
            self._client.log_artifact(self.id, str(file))


class ChurnRegistry:
    """Versions of the churn model in MLflow, named `croupier-churn/7`; `7` alone is accepted too.

    Attributes:
        settings: What mlflow.yaml says.
    """

    def __init__(self, home: Path) -> None:
        self.settings = read_mlflow(home)
        self._name = self.settings.models.churn
        self._client = _open(self.settings.tracking)
        self._experiment = _open_experiment(self._client, self.settings)

    @contextmanager
    def run(self, name: str, under: str | None = None) -> Iterator[Run]:
        """Run for the duration of a block: ends FINISHED, FAILED with the reason, or KILLED.

        Args:
            name: What people see.
            under: Id of the run that this is a step of.
        """
        tags = {} if under is None else {MLFLOW_PARENT_RUN_ID: under}
        run = Run(self._client, self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)
        try:
            yield run
        except Exception as error:
            run.tell(tags={_WHY: str(error) or repr(error)})
            self._end(run.id, RunStatus.FAILED)
            raise
        except BaseException:
            self._end(run.id, RunStatus.KILLED)
            raise
        self._end(run.id, RunStatus.FINISHED)

    def _end(self, run: str, status: int) -> None:
        self._client.set_terminated(run, RunStatus.to_string(status))

    def log(
        self,
        trained: TrainedModel,
        evaluation: Evaluation,
        test: Rows,
        parameters: Mapping[str, Any],
        run: Run | None = None,
    ) -> ChurnBundle:
        """Register a trained model as a new version with its evaluation; returns the bundle that would serve.

        Args:
            trained: The model.
            evaluation: What it is worth on `test`.
            test: Rows that it has not seen; a later gate scores it, and its champion, on them.
            parameters: What else to note of the training.
            run: Where it was trained; None gives it a run of its own.
        """
        if run is None:
            with self.run(f"train {self._name}") as own:
                return self.log(trained, evaluation, test, parameters, own)
        measured = metrics(evaluation)
        run.tell({"features": len(trained.features), "schema": schema_hash(), **parameters}, measured)
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), trained, evaluation, test)
            self._client.log_artifacts(run.id, folder)
        version = self._named(self._register(self._name, f"runs:/{run.id}/model", run.id))
        bundle = trained.bundle(version, measured | {"horizon_days": trained.horizon_days})
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, _BUNDLE).write_bytes(bundle.dumps())
            self._client.log_artifacts(run.id, folder)
        return bundle

    def bundle(self, version: str) -> bytes:
        """The bundle of a version, as `ChurnBundle.dumps` wrote it."""
        return self._artifact(version, _BUNDLE)

    def test_rows(self, version: str) -> Rows:
        """Test rows of a version."""
        return _read_rows(self._artifact(version, _ROWS))

    def canonical(self, version: str) -> str:
        """Full name of an existing version.

        Raises:
            RegistryError: There is no such version.
        """
        return self._named(self._version(version))

    def champion(self) -> str | None:
        """The serving version according to the registry."""
        return self._aliased(CHAMPION)

    def previous(self) -> str | None:
        """The version that `rollback` restores."""
        return self._aliased(PREVIOUS)

    def record(self, entry: Release) -> None:
        """Make a version the champion and record who did it, when, what it replaced and on which evidence.

        A promotion remembers what it replaced; a rollback brings back what its new champion had replaced in its
        time, so that several in a row walk back through history. Recording an entry again changes nothing, so that
        one that was recorded half may be finished.
        """
        told = _tags(entry)
        self._tell_run(entry, told)
        number = self._version(entry.version).version
        replaced = {_REPLACED: entry.replaced or ""} if entry.action == "promote" else {}
        for name, text in {**told, **replaced}.items():
            self._client.set_model_version_tag(self._name, number, name, text)
        self._alias(CHAMPION, entry.version)
        self._alias(PREVIOUS, self._version(entry.version).tags.get(_REPLACED, ""))

    def record_policy(self, entry: Release, snapshot: bytes) -> None:
        """Register the snapshot that somebody promoted or rolled back to, once, and make it the champion."""
        name = self.settings.models.policy
        run = self._tell_run(entry, _tags(entry) | {_KIND: entry.kind})
        known = self._client.search_model_versions(f"name = '{name}'") if self._is_registered(name) else []
        found = next((one for one in known if one.tags.get(_SNAPSHOT) == entry.version), None)
        if found is None:
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, _BUNDLE).write_bytes(snapshot)
                self._client.log_artifacts(run, folder)
            found = self._register(name, f"runs:/{run}/{_BUNDLE}", run)
            self._client.set_model_version_tag(name, found.version, _SNAPSHOT, entry.version)
        self._client.set_registered_model_alias(name, CHAMPION, found.version)

    def _tell_run(self, entry: Release, told: Mapping[str, str]) -> str:
        """Record an entry once, in its own run or in one of its own; returns the run's id."""
        if known := self._client.search_runs([self._experiment], f"tags.{_ENTRY} = '{entry.id}'"):
            return str(known[0].info.run_id)
        tags = {**told, _ENTRY: entry.id}
        if entry.run:
            Run(self._client, entry.run).tell(metrics=entry.evidence, tags=tags)
            return entry.run
        with self.run(f"{entry.action} {entry.version}") as run:
            run.tell(metrics=entry.evidence, tags=tags)
        return run.id

    def records(self) -> list[Release]:
        """All promotions and rollbacks of the churn model, the latest first."""
        runs = self._client.search_runs([self._experiment], "tags.action != ''")
        return [_entry(run.data.tags) for run in runs if _KIND not in run.data.tags]

    def _register(self, name: str, source: str, run: str) -> ModelVersion:
        if not self._is_registered(name):
            self._client.create_registered_model(name)
        return self._client.create_model_version(name, source, run)

    def _is_registered(self, name: str) -> bool:
        return bool(self._client.search_registered_models(f"name = '{name}'"))

    def _named(self, version: ModelVersion) -> str:
        return f"{self._name}/{version.version}"

    def _version(self, version: str) -> ModelVersion:
        number = version.removeprefix(f"{self._name}/")
        found = (
            self._client.search_model_versions(f"name = '{self._name}' and version_number = {number}")
            if (number.isdecimal())
            else []
        )
        if not found:
            raise RegistryError(f"there is no version {number} of {self._name}")
        return found[0]

    def _aliased(self, alias: str) -> str | None:
        # A search, not a lookup by alias, so that a failing registry is not mistaken for one without a champion.
        for model in self._client.search_registered_models(f"name = '{self._name}'"):
            if alias in model.aliases:
                return f"{self._name}/{model.aliases[alias]}"
        return None

    def _alias(self, alias: str, version: str) -> None:
        if version:
            self._client.set_registered_model_alias(self._name, alias, self._version(version).version)
        elif self._aliased(alias):
            self._client.delete_registered_model_alias(self._name, alias)

    def _artifact(self, version: str, name: str) -> bytes:
        run = str(self._version(version).run_id)
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self._client.download_artifacts(run, name, folder)).read_bytes()
            except (MlflowException, OSError) as error:
                raise RegistryError(f"version {version} of {self._name} has no {name}: train it again") from error


def _open(tracking: Tracking) -> MlflowClient:
    """Open MLflow over a prepared database; raises RegistryError."""
    if tracking.uri.startswith(_SQLITE):
        file = Path(tracking.uri.removeprefix(_SQLITE))
        file.parent.mkdir(parents=True, exist_ok=True)
        prepare(file, Path(tracking.artifacts))
        with making(file):
            return MlflowClient(tracking_uri=tracking.uri, registry_uri=tracking.uri)
    return MlflowClient(tracking_uri=tracking.uri, registry_uri=tracking.uri)


def _open_experiment(client: MlflowClient, settings: Mlflow) -> str:
    name, tracking = settings.experiment, settings.tracking
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = "://" in tracking.uri and not tracking.uri.startswith("http")
    return str(client.create_experiment(name, artifact_location=tracking.artifacts if local else None))


class LearnerJournal:
    """The learner's run in MLflow: metrics per policy version, and checkpoints.

    MLflow only watches: while it cannot be reached, learning goes on and nothing is noted.
    """

    def __init__(self, home: Path, lineage: str) -> None:
        settings = read_mlflow(home)
        self._client = _open(settings.tracking)
        self._experiment = _open_experiment(self._client, settings)
        self._lineage = lineage
        self._run: str | None = None

    def note(self, number: int, measured: Mapping[str, float]) -> None:
        """Record the metrics of a policy version by its number."""
        metrics = [Metric(name, value, 0, number) for name, value in measured.items()]
        self._client.log_batch(self._id(), metrics=metrics)

    def keep(self, checkpoint: Path) -> None:
        """Upload a checkpoint file, replacing the previous one."""
        self._client.log_artifact(self._id(), str(checkpoint))

    def _id(self) -> str:
        """Id of this lineage's run, created if missing."""
        if self._run is None:
            found = self._client.search_runs([self._experiment], f"tags.lineage = '{self._lineage}'", max_results=1)
            made = (
                found[0]
                if found
                else self._client.create_run(
                    self._experiment, run_name=f"learner {self._lineage}", tags={"lineage": self._lineage}
                )
            )
            self._run = str(made.info.run_id)
        return self._run


def _tags(entry: Release) -> dict[str, str]:
    told = {"action": entry.action, "by": entry.by, "at": entry.at, "from": entry.replaced or "", "to": entry.version}
    return told | {"evidence": json.dumps(entry.evidence, sort_keys=True), "reason": entry.reason}


def _entry(tags: Mapping[str, str]) -> Release:
    return Release(
        kind="churn",
        id=tags.get(_ENTRY, ""),
        action=tags["action"],
        version=tags["to"],
        replaced=tags["from"] or None,
        by=tags["by"],
        reason=tags.get("reason", ""),
        at=tags["at"],
        evidence=json.loads(tags["evidence"]),
    )


def metrics(evaluation: Evaluation) -> dict[str, float]:
    """Metrics of an evaluation by name; those of a cut-off carry its date."""
    whole = {
        "auc": evaluation.auc,
        "auc_recency": evaluation.auc_recency,
        "ece": evaluation.ece,
        "ece_above_noise": evaluation.ece_above_noise,
        "test_rows": float(evaluation.rows),
        "churn_rate": evaluation.churn_rate,
    }
    parts = {
        f"{name}_{moment(one.cutoff_us).date()}": value
        for one in evaluation.calibration
        for name, value in (("ece", one.raw), ("ece_shifted", one.shifted), ("ece_floor", one.floor))
    }
    return whole | parts


def _write(folder: Path, trained: TrainedModel, evaluation: Evaluation, test: Rows) -> None:
    """Write the artifacts of a run, without the bundle, which needs the version's name."""
    columns = Schema([ColSpec("double", name) for name in trained.features])
    signature = ModelSignature(columns, Schema([ColSpec("double")]))
    needed = [f"lightgbm=={lightgbm.__version__}"]
    mlflow.lightgbm.save_model(trained.booster, str(folder / "model"), signature=signature, pip_requirements=needed)
    gains = trained.booster.feature_importance("gain").tolist()
    described = dict(zip(trained.features, gains, strict=True))
    (folder / "features.json").write_text(json.dumps(described, indent=2), encoding="utf-8")
    rows = {name: test.columns([name])[:, 0] for name in MODEL_FEATURES}
    pq.write_table(pa.table(rows | {"cutoff_us": test.cutoff_us, "churned": test.churned}), folder / _ROWS)
    FigureCanvasSVG(reliability_diagram(evaluation)).print_svg(folder / "calibration.svg")  # type: ignore[no-untyped-call]


def _read_rows(data: bytes) -> Rows:
    """Read logged rows; features added to the schema since are missing."""
    table = pq.read_table(pa.BufferReader(data))
    missing = np.full(table.num_rows, np.nan)
    known = [table[one.name].to_numpy() if one.name in table.column_names else missing for one in VECTOR]
    return Rows(np.column_stack(known), table["churned"].to_numpy(), table["cutoff_us"].to_numpy())
