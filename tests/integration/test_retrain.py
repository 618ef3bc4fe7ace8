"""Retraining and rollback of the churn model: MLflow's record, crashes, and serving processes under load."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
import redis
from mlflow.entities import Run
from rich.console import Console
from support.cluster import free_ports
from support.deadlines import PATIENT
from support.fault_house import until
from support.keys import HEADERS

from features.settings.mlflow_file import SHIPPED
from features.store.bundles import publish, published, serving_hashes
from features.store.connection import connect
from features.store.deployment import House
from features.store.errors import StoreError
from features.store.keys import pointer_key
from features.store.server import Server
from models.releases.registry import ChurnRegistry
from models.releases.release import GateRefused, alone, change, journal, new_release
from pipelines import __main__ as command_line
from pipelines.training.promotion import rollback, settle
from pipelines.training.retrain import RetrainResult, retrain

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning",  # mlflow 3.17 on SQLAlchemy 2.1
    "ignore:fetch_arrow_table:DeprecationWarning",  # ibis 12 on duckdb 2
)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def made(seeded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seeded house's lake, with features, and a registry of these tests, empty; to be copied."""
    home = tmp_path_factory.mktemp("made")
    shutil.copytree(seeded / "lake", home / "lake")
    ChurnRegistry(home)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "home")


@pytest.fixture
def house(store: redis.Redis, seeded: Path, home: Path) -> House:
    """The seeded house's clock, in the tests' store, with its key."""
    shutil.copy(seeded / "house.key", home)
    with connect(f"unix://{seeded / 'store' / 'valkey.sock'}") as client:
        store.set("croupier:house", client.get("croupier:house") or b"")
    return msgspec.json.decode(store.get("croupier:house") or b"", type=House)  # type: ignore[arg-type]


@pytest.fixture
def strict(home: Path) -> None:
    """A gate that nothing passes that comes after the first."""
    text = SHIPPED.read_text("utf8").replace("auc_above_champion: 0.0", "auc_above_champion: 0.4")
    (home / "mlflow.yaml").write_text(text, "utf8")


def runs(registry: ChurnRegistry, result: RetrainResult) -> tuple[Run, list[Run]]:
    """The run of a retraining and its children, oldest first."""
    found = registry._client.search_runs([registry._experiment], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    return registry._client.get_run(result.run_id), sorted(found, key=lambda run: run.info.start_time)


def named(children: list[Run]) -> list[tuple[str, str]]:
    return [(run.info.run_name, run.info.status) for run in children]


def state(home: Path, store: redis.Redis) -> object:
    """Everything that serves or says what does."""
    registry = ChurnRegistry(home)
    return (
        registry.champion(),
        registry.previous(),
        registry.records(),
        store.get(pointer_key("churn")),
        journal(store, "churn"),
    )


@pytest.mark.usefixtures("house")
def test_a_retraining_is_one_run_with_a_child_for_each_step(home: Path, server: Server, store: redis.Redis) -> None:
    result = retrain(home, server.url, QUIET, by="ann")
    registry = ChurnRegistry(home)
    assert (result.promoted, result.reason, result.replaced) == (True, None, None)
    parent, children = runs(registry, result)
    assert parent.info.status == "FINISHED"
    steps = ["materialise", "train", "gate", "promote"]
    assert named(children) == [(step, "FINISHED") for step in steps]
    assert [step.name for step in result.steps] == steps
    for run in children:
        assert run.data.params
        assert run.data.metrics
        assert run.info.end_time >= run.info.start_time
    _, trained, gate, promoted = children
    version = registry._version(result.model_version or "")
    assert version.run_id == trained.info.run_id
    assert gate.data.metrics["auc"] == pytest.approx(result.auc)
    (record,) = registry.records()
    assert (record.version, record.by, record.replaced) == (result.model_version, "ann", None)
    assert promoted.data.tags["to"] == result.model_version
    assert registry.champion() == result.model_version
    assert published(store, result.model_version or "") == registry.bundle(result.model_version or "")


def test_a_refused_retraining_changes_nothing_that_serves_and_says_why(
    home: Path,
    server: Server,
    store: redis.Redis,
    house: House,
    strict: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (house.sandbox, strict) == (True, None)
    first = retrain(home, server.url, QUIET)
    before = state(home, store)
    monkeypatch.setenv("CROUPIER_HOME", str(home))
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    code, told = croupier("retrain", "--json", monkeypatch=monkeypatch, capsys=capsys)
    again = msgspec.json.decode(told, type=RetrainResult)
    assert (code, again.promoted, again.replaced) == (2, False, None)
    assert again.auc == pytest.approx(again.auc_champion)
    assert again.model_version != first.model_version
    assert "above the champion's" in (again.reason or "")
    assert state(home, store) == before
    parent, children = runs(ChurnRegistry(home), again)
    assert (parent.info.status, parent.data.tags["why"]) == ("FAILED", again.reason)
    assert named(children) == [("materialise", "FINISHED"), ("train", "FINISHED"), ("gate", "FAILED")]
    assert children[-1].data.tags["why"] == again.reason
    assert children[-1].data.metrics["auc_champion"] == pytest.approx(again.auc_champion)


def croupier(*words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """Exit code and output of a command, in this process."""
    monkeypatch.setattr(sys, "argv", ["croupier", *words])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    capsys.readouterr()
    with pytest.raises(SystemExit) as leave:
        command_line.main()
    return leave.value.code, capsys.readouterr().out


@pytest.mark.usefixtures("house")
def test_too_little_data_ends_a_retraining_in_a_sentence(home: Path, server: Server, store: redis.Redis) -> None:
    shutil.rmtree(home / "lake")
    result = retrain(home, server.url, QUIET)
    assert (result.promoted, result.model_version) == (False, None)
    assert "nothing to learn from yet" in (result.reason or "")
    parent, children = runs(ChurnRegistry(home), result)
    assert (parent.info.status, parent.data.tags["why"]) == ("FAILED", result.reason)
    assert named(children) == [("materialise", "FAILED")]
    assert store.get(pointer_key("churn")) is None


@pytest.mark.usefixtures("house")
def test_a_retraining_that_is_stopped_is_recorded_as_stopped(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.training.retrain.learn", stop)
    with pytest.raises(KeyboardInterrupt):
        retrain(home, server.url, QUIET)
    registry = ChurnRegistry(home)
    found = registry._client.search_runs([registry._experiment])
    assert sorted(named(found)) == [("materialise", "FINISHED"), ("retrain churn", "KILLED"), ("train", "KILLED")]


def test_two_retrainings_of_a_house_never_run_at_once(tmp_path: Path, server: Server) -> None:
    with (tmp_path / "retrain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"^another retraining of this house is under way$"):
            retrain(tmp_path, server.url, QUIET)


@pytest.mark.usefixtures("house")
def test_whatever_a_crash_leaves_undone_is_mended_by_the_next_command(
    home: Path, server: Server, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = retrain(home, server.url, QUIET).model_version or ""
    second = retrain(home, server.url, QUIET).model_version or ""
    registry = ChurnRegistry(home)
    # The store has changed and the journal has not: again, as if nothing had happened.
    publish(store, "churn", registry.bundle(first), first)
    done = rollback(home, server.url, "a test")
    assert (done.version, done.replaced) == (first, second)
    # The journal has changed and MLflow was not told, or told half: once is enough.
    assert registry.champion() == second
    monkeypatch.setattr(ChurnRegistry, "_alias", boom)
    with pytest.raises(ZeroDivisionError):
        settle(home, store)
    monkeypatch.undo()
    assert registry.champion() == second
    settle(home, store)
    settle(home, store)
    assert (registry.champion(), registry.previous()) == (first, None)
    assert [(one.action, one.version) for one in registry.records()] == [
        ("rollback", first),
        ("promote", second),
        ("promote", first),
    ]
    # A store that was made anew learns from the registry what it has forgotten.
    kept = journal(store, "churn")
    store.delete(*[key for key in store.keys("croupier:promotions*")])  # type: ignore[union-attr]  # noqa: C416
    with pytest.raises(GateRefused, match=f"no churn model before {first} to go back to"):
        rollback(home, server.url, "a test")
    assert [one.version for one in journal(store, "churn")] == [one.version for one in kept]


def boom(*_: object) -> None:
    raise ZeroDivisionError


@pytest.mark.usefixtures("house")
def test_of_two_commands_at_once_the_second_must_look_again(store: redis.Redis) -> None:
    first = new_release(store, "churn", "promote", "croupier-churn/1", None, reason="a test")
    late = new_release(store, "churn", "promote", "croupier-churn/2", None, reason="a test")
    with alone(store, "churn"):
        change(store, first, b"one")
        with pytest.raises(StoreError, match="another command has changed what serves"):
            change(store, late, b"two")
    assert store.get(pointer_key("churn")) == sha256(b"one").hexdigest().encode()
    assert journal(store, "churn") == [first]


# --- Two serving processes


@contextmanager
def served(url: str, home: Path) -> Iterator[int]:
    """Two serving processes; the port they share."""
    (port,) = free_ports(1)
    words = [sys.executable, "-m", "pipelines", "serve", "--workers", "2", "--port", str(port)]
    environment = {**os.environ, "CROUPIER_STORE": url, "CROUPIER_HOME": str(home), **PATIENT}
    process = subprocess.Popen(words, env=environment)
    try:
        until(lambda: len(serving_hashes(connect(url), "churn")) == 2)
        until(lambda: listens(port))  # a process reports before it listens
        yield port
    finally:
        process.terminate()
        process.wait(60)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Callers:
    """Ask for decisions, one after the other, until the block ends; every answer is kept."""

    def __init__(self, port: int, number: int) -> None:
        self._port, self._stopping = port, threading.Event()
        self.answers: list[tuple[int, str]] = []
        self._threads = [threading.Thread(target=self._call, args=(one,)) for one in range(number)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.answers) > 40)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _call(self, one: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._stopping.is_set():
            body = json.dumps({"player_id": f"player-{len(self.answers) % 100 + one}"})
            connection.request("POST", "/v1/decisions", body, {"content-type": "application/json", **HEADERS})
            answer = connection.getresponse()
            churn = json.loads(answer.read()).get("churn") or {}
            self.answers.append((answer.status, churn.get("model_version") or ""))
        connection.close()


@pytest.mark.usefixtures("house")
def test_going_back_under_load_fails_no_request_and_reaches_every_process(
    home: Path, server: Server, store: redis.Redis
) -> None:
    first = retrain(home, server.url, QUIET).model_version or ""
    second = retrain(home, server.url, QUIET).model_version or ""
    words = [sys.executable, "-m", "pipelines", "rollback", "churn", "--reason", "a test", "--json"]
    environment = {**os.environ, "CROUPIER_STORE": server.url, "CROUPIER_HOME": str(home)}
    with served(server.url, home) as port, Callers(port, 4) as callers:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        reports, asked = serving_hashes(store, "churn"), len(callers.answers)
        until(lambda: len(callers.answers) > asked + 40)
    told = json.loads(done.stdout)
    assert {name: told[name] for name in ("model_version", "replaced", "serving", "evidence", "reason")} == {
        "model_version": first,
        "replaced": second,
        "serving": 2,
        "evidence": {},
        "reason": "a test",
    }
    pointer: Any = store.get(pointer_key("churn"))
    assert reports == [pointer.decode()] * 2
    assert set(Counter(status for status, _ in callers.answers)) == {200}
    # The four that were under way when the command ended may have begun before it.
    assert {version for _, version in callers.answers[asked + 4 :]} <= {first, ""}
    # MLflow is told beside the command; whoever asks next waits for it, and it is told once.
    registry = settle(home, store)
    assert (registry.champion(), registry.previous()) == (first, None)
    assert [one.action for one in registry.records()] == ["rollback", "promote", "promote"]
