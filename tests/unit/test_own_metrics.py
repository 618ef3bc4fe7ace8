"""Metrics of one's own: from events or by SQL, each player with a number, and clear sentences for what is none."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from support.experiment_lakes import CATALOGUE, DAY, START, Lake, experiment

from features.files import CatalogueError
from features.settings.mlflow_file import read_mlflow
from pipelines.experiments.exposures import Costs, Exposures, exposures, opened
from pipelines.experiments.own_metrics import load
from pipelines.experiments.refusals import ReportRefused
from pipelines.experiments.report import compute

SETTINGS = read_mlflow(Path("nowhere"))
STAKES = {
    "name": "casino_stakes",
    "events": {"types": ["bet"], "where": {"product": "casino"}, "value": "amount_minor"},
}
LOGINS = {"name": "logins", "events": {"types": ["login"]}, "days": 7}
LARGEST = """
    SELECT player, max(amount_minor) AS value FROM during
    WHERE type = 'bet' AND day BETWEEN 0 AND 28 GROUP BY player
"""


def declared(folder: Path, *metrics: object) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "metrics.yaml"
    file.write_text(yaml.safe_dump({"metrics": list(metrics)}))
    return file


def two_players(folder: Path) -> Path:
    """One who bets and logs in, before and after the first decision, and one who does nothing."""
    lake = Lake()
    for player, variant in (("busy", "policy"), ("still", "holdout")):
        lake.decision(player, variant, START)
    for days, amount, product in ((-3, 500, "casino"), (1, 300, "casino"), (2, 70, "sports"), (30, 9_000, "casino")):
        lake.event("busy", "bet", START + days * DAY, amount_minor=amount, product=product)
    for days in (-2, 1, 6, 7, 20):
        lake.event("busy", "login", START + days * DAY)
    lake.event("busy", "win", START + 2 * DAY, amount_minor=100, product="casino")
    return lake.write(folder / "lake")


def read(lake: Path, file: Path, window_days: int = 28) -> Exposures:
    with opened(lake) as connection:
        return exposures(connection, Costs.of(CATALOGUE, 40), window_days, own=load(file))


def of(found: Exposures, player: str) -> dict[str, float]:
    return dict(found.players.set_index("player").loc[player])


def test_what_counts_is_what_lies_in_the_window_and_who_did_nothing_has_0(tmp_path: Path) -> None:
    found = read(two_players(tmp_path), declared(tmp_path, STAKES, LOGINS))
    busy, still = of(found, "busy"), of(found, "still")
    assert (busy["own casino_stakes"], busy["before casino_stakes"]) == (300, 500)
    assert (busy["own logins"], busy["before logins"]) == (2, 1)
    assert [still[name] for name in ("own casino_stakes", "own logins", "before logins")] == [0, 0, 0]
    assert [one.unit for one in found.metrics] == ["minor", "count"]


def test_a_share_a_return_and_a_ratio_are_what_their_words_say(tmp_path: Path) -> None:
    paid = {"name": "pay_back", "kind": "ratio", "events": {"types": ["win"], "value": "amount_minor"}}
    metrics = (
        {"name": "won", "kind": "proportion", "events": {"types": ["win"]}},
        {"name": "back", "kind": "retention", "events": {"types": ["login"]}},
        paid | {"over": {"types": ["bet"], "value": "amount_minor"}},
    )
    lake = two_players(tmp_path)
    busy = of(read(lake, declared(tmp_path, *metrics), window_days=24), "busy")
    assert (busy["own won"], busy["own back"]) == (1, 1)
    assert (busy["own pay_back"], busy["over pay_back"]) == (100, 370)
    assert of(read(lake, declared(tmp_path, metrics[1])), "busy")["own back"] == 0


def test_a_question_answers_a_number_for_each_player(tmp_path: Path) -> None:
    found = read(two_players(tmp_path), declared(tmp_path, {"name": "largest_bet", "sql": LARGEST}))
    assert of(found, "busy")["own largest_bet"] == 300
    assert of(found, "still")["own largest_bet"] == 0


@pytest.mark.parametrize(
    ("sql", "kind", "sentence"),
    [
        ("SELECT player, amount_minor AS value FROM during", "mean", "players have more than one row: GROUP BY player"),
        ("SELECT player FROM exposed", "mean", "must answer player, value, and answers player"),
        ("SELECT player, 2 AS value FROM exposed", "proportion", "must answer 1 or 0"),
        ("SELECT player, 'inf'::DOUBLE AS value FROM exposed", "mean", "infinite"),
        ("SELECT player, 'much' AS value FROM exposed", "mean", "bad: Conversion Error"),
        ("SELECT nobody", "mean", "bad: Binder Error"),
        ("SELEC player", "mean", "bad: Parser Error"),
    ],
)
def test_a_question_that_answers_no_metric_is_refused_in_a_sentence(
    tmp_path: Path, sql: str, kind: str, sentence: str
) -> None:
    with pytest.raises(ReportRefused, match=sentence):
        read(two_players(tmp_path), declared(tmp_path, {"name": "bad", "kind": kind, "sql": sql}))


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (STAKES | {"events": {"types": ["bets"]}}, "did you mean bet"),
        (STAKES | {"events": {"types": ["bet"], "where": {"produkt": "x"}}}, "did you mean product"),
        (STAKES | {"name": "conversion"}, "is a metric of every report already"),
        (STAKES | {"role": "guardrail"}, "a guardrail has a margin"),
        (STAKES | {"sql": "SELECT 1"}, "by one of the two"),
        (STAKES | {"kind": "ratio"}, "a ratio of events has `over`"),
        ({"name": "a", "sql": "SELECT 1", "days": 3}, "in sql say `WHERE day < 3`"),
        (STAKES | {"windw": 3}, "windw"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_with_its_place(tmp_path: Path, metric: object, sentence: str) -> None:
    with pytest.raises(CatalogueError, match=r"metrics\.yaml:") as told:
        load(declared(tmp_path, metric))
    assert sentence in str(told.value)


def test_a_window_or_a_currency_that_is_not_the_reports_is_refused(tmp_path: Path) -> None:
    lake = two_players(tmp_path)
    with pytest.raises(ReportRefused, match="take --window-days 30"):
        read(lake, declared(tmp_path, STAKES | {"days": 30}))
    with pytest.raises(ReportRefused, match="is in SEK, and the report in EUR"):
        read(lake, declared(tmp_path, STAKES | {"currency": "SEK"}))


def test_it_stands_in_the_report_adjusted_corrected_and_as_a_guardrail(tmp_path: Path) -> None:
    lake = experiment(2_500, 1, {"policy": 300.0, "business_rules": 150.0}).write(tmp_path / "lake")
    stakes = {"name": "stakes", "title": "all stakes", "events": {"types": ["bet"], "value": "amount_minor"}}
    guard = {"name": "calls", "kind": "proportion", "events": {"types": ["support_contact"]}, "direction": "lower"}
    file = declared(tmp_path, stakes, guard | {"role": "guardrail", "margin": 0.02})
    plain, report = compute(lake, SETTINGS, days=28), compute(lake, SETTINGS, days=28, metrics=file)
    pair = ("policy", "holdout")
    rows = {row.metric: row for row in report.metrics if (row.variant, row.control) == pair}
    assert (rows["stakes"].title, rows["stakes"].unit) == ("all stakes", "minor")
    assert rows["calls"].role == "guardrail"
    assert rows["calls"].absolute.high is not None
    assert rows["calls"].absolute.high < 0.02
    before = {row.metric: row for row in plain.metrics if (row.variant, row.control) == pair}
    assert rows["net_revenue_minor"].absolute == before["net_revenue_minor"].absolute
    assert report.config_hash != plain.config_hash
    assert compute(lake, SETTINGS, days=28, metrics=file) == report


def test_days_are_counted_from_the_first_decision_to_the_microsecond(tmp_path: Path) -> None:
    lake = Lake()
    lake.decision("p", "policy", START)
    for at in (timedelta(microseconds=-1), timedelta(0), 7 * DAY - timedelta(microseconds=1), 7 * DAY):
        lake.event("p", "login", START + at)
    assert of(read(lake.write(tmp_path / "lake"), declared(tmp_path, LOGINS)), "p")["own logins"] == 2
