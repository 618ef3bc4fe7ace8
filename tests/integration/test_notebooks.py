"""The notebooks, run from top to bottom on a small house."""

import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from support.decision_lakes import World

from features.schema import MODEL_FEATURES
from features.store.connection import connect
from features.store.server import serving
from models.churn.training import Rows
from models.releases.journal import serves
from models.releases.registry import ChurnRegistry
from models.releases.release import journal
from pipelines.datasets.columns import SCHEMA

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning",  # mlflow 3.17 on SQLAlchemy 2.1
    "ignore:fetch_arrow_table:DeprecationWarning",  # ibis 12 on duckdb 2
)
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "scientist.py"


@pytest.fixture
def decided(seeded: Path, tmp_path: Path) -> Iterator[Path]:
    """The seeded house with decisions in its lake."""
    World(1, 10).write(tmp_path, 100)
    files = sorted((tmp_path / "decisions").glob("*/*.parquet"))
    for file in files:
        there = seeded / "lake" / file.relative_to(tmp_path)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, there)
    yield seeded
    shutil.rmtree(seeded / "lake" / "decisions")


def test_the_scientists_notebook_ends_at_the_gate_with_a_model_of_its_own(
    decided: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeded = decided
    monkeypatch.setenv("CROUPIER_HOME", str(seeded))
    left = runpy.run_path(str(NOTEBOOK))
    told, version = capsys.readouterr().out, left["version"]
    registry = ChurnRegistry(seeded)
    assert registry.canonical(version) == version
    assert f"AUC {left['measured'].auc:.3f}" in told
    with serving(seeded) as url:
        champion = serves(journal(connect(url), "churn"))
    promoted = f"{version} serves in place of" in told
    assert promoted != (f"{version} is not promoted" in told)
    assert promoted == (champion == version)

    frame: pd.DataFrame = left["frame"]
    assert list(frame.columns) == ["player", "cutoff", "churned", *MODEL_FEATURES]
    again = Rows.of(frame)
    pd.testing.assert_frame_equal(again.frame(), frame.drop(columns="player"))
    assert len(left["learn"]) + len(left["test"]) <= len(again)
    assert left["learn"].cutoff_us.max() < left["test"].cutoff_us.min()

    decisions = left["decisions"]
    assert decisions.num_rows == 100
    assert decisions.schema.equals(SCHEMA)
    assert left["rewards"].size().sum() == 100
