"""MLflow's user interface on the runs of a house, in one process."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
from support.cluster import free_ports
from support.fault_house import until

from models.releases.registry import ChurnRegistry


def test_the_screen_is_one_process_that_shows_the_runs_of_the_house(tmp_path: Path) -> None:
    with ChurnRegistry(tmp_path).run("shown"):
        pass
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "pipelines", "screen", "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "CROUPIER_HOME": str(tmp_path)})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as caller:
            until(lambda: caller.get("/").status_code == 200)
            asked = {"experiment_ids": ["1"], "max_results": 10}
            runs = caller.post("/api/2.0/mlflow/runs/search", json=asked).json()["runs"]
        assert [run["info"]["run_name"] for run in runs] == ["shown"]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children == []
    finally:
        process.terminate()
        process.wait()
