"""An MLflow database that several processes create at the same time."""

from pathlib import Path

import pytest
from support.fault_house import PATIENCE, PROCESSES

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
AT_ONCE = 3
SLOWLY = 5 * PATIENCE


def _opens(home: str, together: object) -> None:
    from models.releases.registry import ChurnRegistry  # noqa: PLC0415 - MLflow takes seconds to import, in this process alone

    together.wait(SLOWLY)  # type: ignore[attr-defined]
    assert ChurnRegistry(Path(home)).champion() is None


def test_a_registry_that_several_processes_make_at_once_is_made_once(tmp_path: Path) -> None:
    together = PROCESSES.Barrier(AT_ONCE)
    running = [PROCESSES.Process(target=_opens, args=(str(tmp_path), together)) for _ in range(AT_ONCE)]
    for process in running:
        process.start()
    for process in running:
        process.join(SLOWLY)
    assert [process.exitcode for process in running] == [0] * AT_ONCE
