"""A real Prometheus over a running house: its files load, every expression is evaluated, each alert fires when it must

Not part of the suite, since no package index has the server: `apt-get install prometheus`, then `make monitoring`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from support.cluster import free_ports
from support.keys import HEADERS, KEY
from support.monitoring import FOLDER, alerts, expressions

CASES: Final = Path(__file__).with_name("alert_cases.yaml")
SECONDS: Final = 180
ALWAYS: Final = {
    "Store A",
    "Ready A",
    "Ready B",
    "Decisions / s A",
    "p99 of a decision A",
    "5xx A",
    "Memory of the store A",
    "Requests by route A",
    "Time to decide A",
    "Time of a stage A",
    "Answers by what they say A",
    "Refusals by code A",
    "Trouble with the store A",
    "Lags A",
    "Lags B",
    "Age of behaviour at a decision A",
    "Waiting A",
    "Waiting B",
    "Repeats A",
    "Batches and callers who left A",
}
"""Targets of the dashboard that a house which decides has data for."""


@contextmanager
def running(*command: str | Path, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([str(part) for part in command], **how)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def until(ready: Any) -> Any:
    ends = time.monotonic() + SECONDS
    while True:
        try:
            if found := ready():
                return found
        except httpx.HTTPError:
            pass
        assert time.monotonic() < ends
        time.sleep(0.2)


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    found = {name: shutil.which(name) or "" for name in ("prometheus", "promtool")}
    assert all(found.values()), "`apt-get install prometheus` brings prometheus and promtool"
    return found


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home, (port,) = tmp_path_factory.mktemp("house"), free_ports(1)
    words = ["up", "--port", str(port), "--players", "50", "--workers", "2", "--no-screen"]
    with (
        (home / "up.log").open("wb") as log,
        running(
            sys.executable,
            "-m",
            "pipelines",
            *words,
            env={**os.environ, "CROUPIER_HOME": str(home / "home")},
            stdout=log,
        ),
    ):
        address = f"http://127.0.0.1:{port}"
        until(lambda: httpx.get(f"{address}/readyz").status_code == 200)
        yield address


def asked(house: str, number: int) -> None:
    """Requests of every sort."""
    with httpx.Client(base_url=house, headers=HEADERS, timeout=30) as client:
        for player in (f"player-{(number + more) % 50 + 1}" for more in range(10)):
            client.post("/v1/decisions", json={"player_id": player, "request_id": f"r-{number}"})
            client.post("/v1/decisions", json={"player_id": player, "request_id": f"r-{number}"})
        client.post("/v1/decisions/batch", json={"requests": [{"player_id": "player-1"}, {}]})
        client.post("/v1/decisions", content=b"{", headers={"content-type": "application/json"})


@pytest.fixture(scope="module")
def prometheus(tools: dict[str, str], house: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, (port,) = tmp_path_factory.mktemp("prometheus"), free_ports(1)
    content = yaml.safe_load((FOLDER / "prometheus.yaml").read_text("utf8"))
    content["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
    (scraped,) = content["scrape_configs"]
    scraped |= {"scrape_timeout": "1s", "static_configs": [{"targets": [house.removeprefix("http://")]}]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(content), "utf8")
    (folder / "croupier.key").write_text(KEY, "utf8")
    shutil.copy(FOLDER / "alerts.yaml", folder)
    address = f"127.0.0.1:{port}"
    options = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with running(tools["prometheus"], *options, f"--web.listen-address={address}", "--log.level=warn"):
        until(lambda: httpx.get(f"http://{address}/-/ready").status_code == 200)
        for number in range(12):
            asked(house, number)
            time.sleep(1)
        yield f"http://{address}"


def query(prometheus: str, text: str) -> list[Any]:
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": text}, timeout=30)
    found: dict[str, Any] = answer.json()
    assert found["status"] == "success", (text, found)
    result: list[Any] = found["data"]["result"]
    return result


def test_the_files_are_as_its_own_tool_wants_them(tools: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "files")
    (tmp_path / "files" / "croupier.key").write_text("key", "utf8")
    for words in (["config", "prometheus.yaml"], ["rules", "alerts.yaml"]):
        command = [tools["promtool"], "check", *words]
        done = subprocess.run(command, cwd=tmp_path / "files", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAILED" not in done.stdout


def test_each_alert_fires_when_it_must_and_not_before(tools: dict[str, str], tmp_path: Path) -> None:
    """By cases as the server's own tool runs them; every alert has one."""
    shutil.copy(CASES, tmp_path)
    shutil.copy(FOLDER / "alerts.yaml", tmp_path)
    done = subprocess.run(
        [tools["promtool"], "test", "rules", CASES.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = yaml.safe_load(CASES.read_text("utf8"))["tests"]
    fired = re.findall(r'alertname="(\w+)"', str([case["promql_expr_test"] for case in cases]))
    assert set(fired) == {alert["alert"] for alert in alerts()}


def test_every_expression_is_evaluated_and_the_dashboard_has_data(prometheus: str) -> None:
    found = {place: query(prometheus, text) for place, text, _ in expressions()}
    assert found.keys() >= ALWAYS
    assert {place for place in ALWAYS if not found[place]} == set()


def test_a_healthy_house_gives_no_alarm(prometheus: str) -> None:
    rules = httpx.get(f"{prometheus}/api/v1/rules", timeout=30).json()["data"]["groups"]
    states = {rule["name"]: (rule["health"], rule["state"]) for group in rules for rule in group["rules"]}
    assert states.keys() == {alert["alert"] for alert in alerts()}
    assert {name: state for name, state in states.items() if state != ("ok", "inactive")} == {}, json.dumps(rules)
