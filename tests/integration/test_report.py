"""The uplift report from the lake to the page, through the command line and the API."""

import json
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import redis
import structlog
from conftest import Opened
from mlflow.tracking import MlflowClient
from support.deadlines import PATIENT
from support.experiment_lakes import CATALOGUE, experiment
from support.keys import HEADERS
from support.players import adult_events, tell
from support.workers import last_flush

from features.settings.mlflow_file import read_mlflow
from features.store.deployment import create_house
from features.store.keys import REPORTS, bundle_key
from features.store.server import Server
from models.experiments.definition import Experiments
from pipelines import __main__ as cli
from pipelines.experiments import exposures, report
from pipelines.served import bytes_of
from pipelines.worker.process import Worker
from service.api import app

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, server: Server, store: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A house with a lake in which the policy is better, and its store."""
    create_house(store)
    experiment(2_500, 1, {"policy": 300.0, "business_rules": 150.0}).write(tmp_path / "lake")
    monkeypatch.setenv("CROUPIER_HOME", str(tmp_path))
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    for name, seconds in PATIENT.items():
        monkeypatch.setenv(name, seconds)
    return tmp_path


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a store and without a lake."""
    monkeypatch.delenv("CROUPIER_STORE", raising=False)
    monkeypatch.setenv("CROUPIER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run `croupier` with these words: exit code, what it printed, and what it complained."""
    monkeypatch.setattr("sys.argv", ["croupier", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    # The command line logs to a stream that ends with the test.
    structlog.reset_defaults()
    told = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, told.out, told.err


async def test_what_the_command_writes_is_what_the_service_shows(
    home: Path, store: redis.Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed, _ = command(monkeypatch, capsys, "report", "uplift", "--json")
    assert code == 0
    told = json.loads(printed)
    assert told["health"] == {"ok": True, "reasons": []}
    assert {"p_value", "alarm"} <= told["srm"].keys()
    assert "net revenue is higher, the policy against the business rules" in told["verdict"]
    assert {"metric", "variant", "control", "n", "n_control", "mean", "mean_control", "absolute", "relative"} <= set(
        told["metrics"][0]
    )
    assert {"estimate", "low", "high", "p_value"} == told["metrics"][0]["absolute"].keys()
    files = {kind: (home / "reports" / f"uplift.{kind}").read_text("utf8") for kind in ("html", "csv", "json")}
    assert json.loads(files["json"])["verdict"] == told["verdict"]
    assert files["csv"].count("\n") == len(told["metrics"]) + 1
    assert store.hexists("croupier:report:uplift", "health")
    registry = MlflowClient(read_mlflow(home).tracking.uri)
    assert {file.path for file in registry.list_artifacts(told["run"])} == {f"uplift.{kind}" for kind in files}
    assert registry.get_run(told["run"]).data.params["experiment"] == "policy_2026"
    built = app.create()
    async with (
        app.lifespan(built),
        httpx.AsyncClient(transport=httpx.ASGITransport(built), base_url="http://localhost", headers=HEADERS) as client,
    ):
        listed = await client.get("/reports")
        assert (listed.status_code, listed.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert '<a href="/reports/uplift">' in listed.text
        assert "healthy" in listed.text
        for kind, path in (("html", "uplift"), ("csv", "uplift.csv"), ("json", "uplift.json")):
            answer = await client.get(f"/reports/{path}")
            assert answer.status_code == 200
            assert answer.text == files[kind]
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        again = (await client.get("/reports")).text
        assert "3 looks" in again
        assert "net revenue, policy vs business_rules" in again
        for path in ("other", "other.csv", "other.json", "uplift.xml"):
            missing = await client.get(f"/reports/{path}")
            assert (missing.status_code, missing.json()["code"]) == (404, "unknown_report")
        documented = (await client.get("/openapi.json")).json()["paths"]
        assert {"/reports", "/reports/{name}", "/reports/{name}.csv", "/reports/{name}.json"} <= documented.keys()


@pytest.mark.usefixtures("home")
async def test_a_list_without_reports_says_how_to_make_one_and_quotes_titles_as_text(store: redis.Redis) -> None:
    summary = b'{"title": "<script>", "at": "2026-03-02T10:00:00+00:00", "ok": false, "verdict": "<b>"}'
    built = app.create()
    async with (
        app.lifespan(built),
        httpx.AsyncClient(transport=httpx.ASGITransport(built), base_url="http://localhost", headers=HEADERS) as client,
    ):
        assert "croupier report uplift" in (await client.get("/reports")).text
        store.hset(REPORTS, "odd", summary)  # type: ignore[arg-type]
        shown = (await client.get("/reports")).text
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert "verdict withheld" in shown


def test_shares_of_an_earlier_catalogue_are_taken_from_the_store(home: Path, store: redis.Redis) -> None:
    lake = experiment(600, 3)
    for row in lake.rows["decisions"]:
        row["catalogue_version"] = "earlier00000"
    lake.write(home / "other")
    house = report.running(home)
    assert house is not None
    assert report.compute(home / "other", read_mlflow(home), house).srm.expected is None
    store.set(bundle_key("earlier00000"), CATALOGUE.model_dump_json(by_alias=True))
    assert report.compute(home / "other", read_mlflow(home), house).srm.expected is not None
    house.client.close()


def test_each_of_several_experiments_is_reported_by_the_releases_that_split_its_players(
    home: Path, store: redis.Redis
) -> None:
    """Half of the players came before a ramp, half after it: the sample ratio expects the shares of both phases."""
    lake, chance = experiment(1_200, 3), np.random.default_rng(4)
    players = sorted({row["player"] for row in lake.rows["decisions"]})
    releases = [fewer({"all": 0.5, "less": 0.5}, 1), fewer({"all": 0.9, "less": 0.1}, 2)]
    late = set(players[::2])
    variants = {one: chance.choice(["all", "less"], p=[0.9, 0.1] if one in late else [0.5, 0.5]) for one in players}
    for row in lake.rows["decisions"]:
        release = releases[row["player"] in late]
        member = {"key": "fewer", "version": release.hash, "phase": 1 + (row["player"] in late), "bucket": 0.5}
        policy = {"key": row["experiment"], "version": "", "phase": 1, "variant": row["variant"], "bucket": 0.5}
        row["experiments"] = [policy, member | {"variant": str(variants[row["player"]])}]
    lake.write(home / "other")
    house = report.running(home)
    assert house is not None
    unknown = report.compute(home / "other", read_mlflow(home), house, experiment="fewer")
    assert unknown.srm.expected is None
    assert "Other experiments in the lake: policy_2026." in unknown.notes
    for release in releases:
        store.set(bundle_key(release.hash), bytes_of(release))
    told = report.compute(home / "other", read_mlflow(home), house, experiment="fewer")
    counted = Counter(variants.values())
    assert told.srm.observed == dict(sorted(counted.items()))
    wanted = {"all": 0.7, "less": 0.3}
    assert told.srm.expected == pytest.approx({name: share * len(players) for name, share in wanted.items()})
    assert not told.srm.alarm
    assert report.compute(home / "other", read_mlflow(home), house, experiment="policy_2026").srm.expected is not None
    house.client.close()


def test_a_ramp_that_takes_in_players_leaves_no_shares_to_compare_with() -> None:
    small, wide = fewer({"all": 0.5, "less": 0.1}, 1), fewer({"all": 0.5, "less": 0.5}, 2)
    players = pd.DataFrame({"split": [small.hash, wide.hash]})
    found = exposures.Exposures(
        experiment="fewer", others=[], players=players, window_days=14, has_bets=True, unpriced=0, latest_us=0
    )
    told = report.shares(found, {one.hash: one for one in (small, wide)}, None)
    assert told == {small.hash: {"all": pytest.approx(5 / 6), "less": pytest.approx(1 / 6)}}
    assert report.shares(found, {wide.hash: wide}, None) == {wide.hash: {"all": 0.5, "less": 0.5}}


def fewer(shares: dict[str, float], phase: int) -> Experiments:
    """A release with one experiment of these shares."""
    variants = [{"name": name, "share": share} for name, share in shares.items()]
    said = {"key": "fewer", "phase": phase, "variants": variants}
    return Experiments.model_validate({"layers": [{"layer": "offers", "experiments": [said]}]})


def test_somebody_elses_files_need_no_store_and_are_not_published(
    nobody: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = experiment(300, 4).write(tmp_path / "theirs")
    code, printed, _ = command(monkeypatch, capsys, "report", "uplift", "--lake", str(lake), "--window-days", "7")
    assert code == 0
    assert "verdict withheld" in printed
    assert "published" not in printed
    assert json.loads((nobody / "reports" / "uplift.json").read_text("utf8"))["window_days"] == 7


PLAN = """version: 1
layers:
- layer: policy
  experiments:
  - key: {key}
    variants:
    - {{name: holdout, share: {holdout}, policy: none}}
    - {{name: business_rules, share: 0.4, policy: business_rules}}
    - {{name: policy, share: 0.4, policy: learnt}}
"""


def theirs(folder: Path, players: int = 1_500) -> Path:
    """Files as pandas writes them, of the columns that must be there alone: moments are nanoseconds, numbers floats."""
    chance = np.random.default_rng(1)
    first = pd.Timestamp("2026-03-02 09:00", tz="UTC") + pd.to_timedelta(chance.integers(0, 600, players), unit="h")
    variant = chance.choice(["holdout", "business_rules", "policy"], players, p=[0.2, 0.4, 0.4])
    named = pd.DataFrame({"player": [f"p{number}" for number in range(players)]})
    decided: Any = {"decision_id": "d-" + named["player"], "at": first, "experiment": "spring", "variant": variant}
    told: Any = {"event_id": "e-" + named["player"], "type": "bet", "occurred_at": first + pd.Timedelta(days=1)}
    last = pd.DataFrame([{"player": "last", "event_id": "x", "type": "login", "occurred_at": first.max()}])
    last["occurred_at"] += pd.Timedelta(days=30)
    bets = named.assign(**told, amount_minor=chance.gamma(2.0, 900.0, players).astype(int))
    files = {
        "decisions": named.assign(**decided, role=np.where(variant == "holdout", "holdout", "drawn")),
        "events": pd.concat([bets, last]),
    }
    for table, rows in files.items():
        (folder / table).mkdir(parents=True)
        rows.to_parquet(folder / table / "all.parquet")
    return folder


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("", "verdict withheld: the shares of the experiment are unknown"),
        (PLAN.format(key="spring", holdout=0.2), "95 % interval"),
        (PLAN.format(key="spring", holdout=0.1), "verdict withheld"),
    ],
    ids=["unknown", "planned", "planned otherwise"],
)
def test_somebody_elses_files_are_judged_by_the_shares_that_were_planned(
    nobody: Path,  # noqa: ARG001 - there is no house
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    plan: str,
    said: str,
) -> None:
    (tmp_path / "plan.yaml").write_text(plan)
    words = ("--plan", str(tmp_path / "plan.yaml")) if plan else ()
    lake = str(theirs(tmp_path / "theirs"))
    code, printed, _ = command(monkeypatch, capsys, "report", "uplift", "--lake", lake, "--window-days", "7", *words)
    assert code == 0
    assert said in " ".join(printed.split())
    assert ("healthy" in printed) == (plan != "" and "holdout, share: 0.2" in plan)


def test_a_plan_of_another_experiment_is_refused_by_name(
    nobody: Path,  # noqa: ARG001 - there is no house
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.format(key="autumn", holdout=0.2))
    words = ("--lake", str(theirs(tmp_path / "theirs", 300)), "--plan", str(tmp_path / "plan.yaml"))
    code, _, complaint = command(monkeypatch, capsys, "report", "uplift", *words)
    assert code == 2
    assert "plans no experiment spring" in complaint


@pytest.mark.parametrize("words", [(), ("--lake", "nowhere"), ("--window-days", "0")])
def test_where_there_is_nothing_to_report_one_sentence_says_so(
    nobody: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed, complaint = command(monkeypatch, capsys, "report", "uplift", *words)
    assert (code, printed) == (2, "")
    assert complaint
    assert not nobody.exists()


def test_the_analysts_notebook_runs_on_a_lake(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment(1_200, 5).write(nobody / "lake")
    monkeypatch.syspath_prepend(str(ROOT))
    told = runpy.run_path(str(ROOT / "notebooks" / "analyst.py"))
    assert "<svg" in (nobody / "reports" / "forest.svg").read_text("utf8")
    assert len(told["table"]) == len(told["report"].metrics)
    assert set(told["health"]["name"]) >= {"Sample ratio", "Propensity ratio"}
    assert len(told["segment"]) > 0
    assert "healthy" in capsys.readouterr().out


async def test_decisions_of_the_service_itself_pass_the_propensity_check_once_they_are_in_the_lake(
    opened: Opened, worker: Worker, lake: Path, store: redis.Redis, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    async with opened() as client:
        for number in range(10):
            await tell(client, adult_events(f"p{number}"))
            for turn in range(3):
                asked = {"player_id": f"p{number}", "activate": turn == 0}
                assert (await client.post("/v1/decisions", json=asked)).status_code == 200
    last_flush(worker, store, lake)
    told = report.run(lake.parent, days=1)
    assert told.published
    assert told.report.maturity.exposed == 10
    assert told.report.maturity.mature == 0
    assert told.report.propensity_srm is not None
    assert told.report.propensity_srm.decisions > 10
    assert not told.report.propensity_srm.alarm
    assert told.report.lag_seconds is not None
    assert told.report.verdict is None
    with exposures.opened(lake) as connection:
        found = exposures.exposures(connection, exposures.Costs.of(CATALOGUE, 3), 1)
    assert found.players["contacts"].sum() > 0
