"""MLflow's web interface over the runs and models of a house, in one process.

MLflow's command for it starts one process that watches another, and eight more for jobs that no house has.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fastapi import FastAPI

from models.releases.registry import ChurnRegistry

_ARTIFACTS: Final = "mlflow-artifacts:/"


def screen(home: Path) -> FastAPI:
    """MLflow's web application over a home's database and artifacts; creates missing ones."""
    tracking = ChurnRegistry(home).settings.tracking
    # MLflow reads its settings from the environment while it is imported.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    from mlflow.server import constants, handlers  # noqa: PLC0415

    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: tracking.uri,
        constants.REGISTRY_STORE_URI_ENV_VAR: tracking.uri,
        constants.ARTIFACT_ROOT_ENV_VAR: _ARTIFACTS,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: tracking.artifacts,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    handlers.initialize_backend_stores(tracking.uri, tracking.uri, _ARTIFACTS)
    from mlflow.server.fastapi_app import app  # noqa: PLC0415

    found: FastAPI = app
    return found
