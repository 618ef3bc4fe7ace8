"""The report of anybody's file: known experiments, spellings of numbers and answers, and every wrong input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tea_tasting as tt

from pipelines.experiments import page
from pipelines.experiments.comparisons import MetricRow
from pipelines.experiments.numerals import numerals, shape_of
from pipelines.experiments.refusals import ReportRefused
from pipelines.experiments.report import contents_of, of_table
from pipelines.experiments.result import Uplift
from pipelines.experiments.table import TableAsked
from pipelines.experiments.tabled import tabled


def report(folder: Path, rows: pd.DataFrame, control: str = "a", *, file: str = "rows.csv", **asked: Any) -> Uplift:
    """The report of a frame as a file."""
    path = folder / file
    if path.suffix == ".parquet":
        rows.to_parquet(path)
    else:
        rows.to_csv(path, index=False)
    wanted: dict[str, Any] = {"variant": "group", "metrics": ("bought:proportion",)} | asked
    return tabled(TableAsked(file=path, control=control, **wanted))


def row(found: Uplift, metric: str, variant: str = "b") -> MetricRow:
    return next(one for one in found.metrics if (one.metric, one.variant) == (metric, variant))


def halves(n: int = 400, seed: int = 1) -> pd.DataFrame:
    """Units of two variants, filled exactly as planned, that do not differ."""
    chance = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": [f"u{number}" for number in range(n)],
            "group": ["a", "b"] * (n // 2),
            "bought": (chance.random(n) < 0.3).astype(int),
            "spent": chance.gamma(2, 10, n).round(2),
            "before": chance.gamma(2, 10, n).round(2),
            "land": chance.choice(["x", "y"], n),
        }
    )


def test_the_users_of_tea_tastings_guide_give_what_its_guide_prints(tmp_path: Path) -> None:
    users = tt.make_users_data(rng=42, return_type="pandas").rename(columns={"variant": "group"})
    metrics = ("orders:mean", "orders_per_session:ratio:orders/sessions", "revenue:mean")
    told = report(tmp_path, users, "0", unit="user", metrics=metrics, file="users.parquet")
    orders = row(told, "orders", "1")
    assert (round(orders.mean_control, 4), round(orders.mean, 4)) == (0.5304, 0.5731)
    assert orders.relative is not None
    assert round(orders.relative.estimate, 4) == 0.0805
    assert (round(orders.relative.low, 4), round(orders.relative.high, 4)) == (-0.0195, 0.1907)
    p_values = [row(told, name, "1").absolute.p_value or 0 for name in ("orders", "orders_per_session", "revenue")]
    assert (round(p_values[0], 5), round(p_values[1], 4), round(p_values[2], 3)) == (0.11773, 0.0762, 0.123)
    assert told.srm.observed == {"0": 2023, "1": 1977}
    assert round(told.srm.p_value or 0, 3) == 0.467
    assert told.health.ok


def test_a_published_game_is_told_as_published_and_its_sample_ratio_is_spoken_of(tmp_path: Path) -> None:
    """Cookie Cats: 44,700 and 45,489 players, 8,502 and 8,279 came back after seven days (p = 0.0016)."""
    groups = {"gate_30": (44_700, 8_502), "gate_40": (45_489, 8_279)}
    parts = [pd.DataFrame({"group": name, "retention_7": np.arange(n) < had}) for name, (n, had) in groups.items()]
    told = report(tmp_path, pd.concat(parts), "gate_30", metrics=("retention_7:retention",))
    found = row(told, "retention_7", "gate_40")
    assert (round(found.mean_control, 4), round(found.mean, 4)) == (0.1902, 0.1820)
    assert round(found.absolute.p_value or 0, 4) == 0.0016
    assert round(told.srm.p_value or 0, 4) == 0.0086
    assert not told.srm.alarm
    assert told.health.ok
    assert any("0.0086" in reason for reason in told.health.reasons)
    assert "retention 7 is lower" in (told.verdict or "")


def test_three_groups_of_a_published_mailing_are_told_as_published(tmp_path: Path) -> None:
    """Hillstrom's mailing: visits of 21,307, 21,387 and 21,306 customers: 18.28, 15.14 and 10.62 %."""
    groups = {"Mens E-Mail": (21_307, 3_894), "Womens E-Mail": (21_387, 3_238), "No E-Mail": (21_306, 2_262)}
    parts = [pd.DataFrame({"group": name, "visit": np.arange(n) < had}) for name, (n, had) in groups.items()]
    told = report(tmp_path, pd.concat(parts), "no e-mail", metrics=("visit:proportion",))
    shown = [round(100 * row(told, "visit", name).mean, 2) for name in ("Mens E-Mail", "Womens E-Mail")]
    assert shown == [18.28, 15.14]
    assert round(100 * row(told, "visit", "Mens E-Mail").absolute.estimate, 2) == 7.66
    assert told.heads == [("Mens E-Mail", "No E-Mail"), ("Womens E-Mail", "No E-Mail")]


@pytest.mark.parametrize(
    ("yes", "no"),
    [("TRUE", "False"), ("Yes", "no"), ("y", "N"), ("ja", "nein"), ("1.0", "0"), ("on", "OFF"), ("t", "f")],
)
def test_yes_and_no_are_read_in_any_usual_spelling(tmp_path: Path, yes: str, no: str) -> None:
    rows = halves()
    numbers = report(tmp_path, rows)
    told = report(tmp_path, rows.assign(bought=np.where(rows["bought"] == 1, yes, no)))
    assert told.metrics == numbers.metrics


@pytest.mark.parametrize(
    ("write", "unit"),
    [
        (lambda value: f"${value:,.2f}", "$"),
        (lambda value: f"{value:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".") + " €", "€"),
        (lambda value: f"EUR {value:,.2f}".replace(",", " "), "EUR"),
        (lambda value: f"{value:,.2f}".replace(",", "'"), "number"),
        (lambda value: f"({-value:,.2f})" if value < 0 else f"{value:,.2f}", "number"),
        (lambda value: f"{value:.2f}".replace(".", ","), "number"),
        (lambda value: f"{value:e}", "number"),
    ],
    ids=["dollars", "euros", "code", "apostrophes", "brackets", "decimal commas", "powers"],
)
def test_amounts_are_read_with_currencies_and_thousands(
    tmp_path: Path, write: Callable[[float], str], unit: str
) -> None:
    rows = halves()
    rows["spent"] = (rows["spent"] * 100 - 1_000).round(2)
    plain = report(tmp_path, rows, metrics=("spent:mean",))
    told = report(tmp_path, rows.assign(spent=rows["spent"].map(write)), metrics=("spent:mean",))
    assert row(told, "spent").mean == pytest.approx(row(plain, "spent").mean, rel=1e-6)
    assert row(told, "spent").unit == unit


@pytest.mark.parametrize(
    ("cells", "decimal", "thousands"),
    [
        (["1,234", "12,345"], ".", True),
        (["1,234.5", "12"], ".", True),
        (["1.234,5", "12"], ",", True),
        (["0,5", "12"], ",", False),
        (["€1.234", "€12.345"], ",", True),
        (["1 234,50", "12,00"], ",", True),
        (["12,34,567.00", "1,000.00"], ".", True),
    ],
)
def test_a_column_says_as_a_whole_what_its_marks_mean(cells: list[str], decimal: str, thousands: bool) -> None:  # noqa: FBT001 - a parameter
    found = numerals(map(shape_of, cells))
    assert (found.decimal, found.thousands) == (decimal, thousands)


@pytest.mark.parametrize(
    "cells", [["1.5", "1,5"], ["$1", "£2"], ["abc"], ["1,234.5", "1.234,5"], ["12%"], ["1,23,4.0"]]
)
def test_numbers_that_can_be_read_in_two_ways_are_refused(cells: list[str]) -> None:
    with pytest.raises(ValueError, match=r"number|several|stands|decimal|thousands"):
        numerals(map(shape_of, cells))


WRONG: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], dict[str, Any], str]] = {
    "a missing column": (lambda rows: rows, {"metrics": ("boght:proportion",)}, "did you mean bought"),
    "no such kind": (lambda rows: rows, {"metrics": ("bought:median",)}, "no kind of metric"),
    "no kind": (lambda rows: rows, {"metrics": ("bought",)}, "NAME:KIND"),
    "a ratio of one": (lambda rows: rows, {"metrics": ("r:ratio:spent",)}, "two columns"),
    "no such control": (lambda rows: rows, {"control": "c"}, "known are a, b"),
    "one variant": (lambda rows: rows.assign(group="a"), {}, "only|one variant"),
    "no variant in some rows": (lambda rows: rows.assign(group=["", *rows["group"][1:]]), {}, "name no variant"),
    "gaps": (lambda rows: rows.assign(bought=["", *rows["bought"][1:]]), {}, "1 rows have no value of bought"),
    "NaN": (lambda rows: rows.assign(spent=["NaN", *rows["spent"][1:]]), {"metrics": ("spent:mean",)}, "no value"),
    "infinity": (lambda rows: rows.assign(spent=["inf", *rows["spent"][1:]]), {"metrics": ("spent:mean",)}, "infinite"),
    "no share": (lambda rows: rows, {"metrics": ("spent:proportion",)}, "number per unit is a mean"),
    "words": (lambda rows: rows, {"metrics": ("land:mean",)}, "does not hold numbers"),
    "two currencies": (
        lambda rows: rows.assign(spent=["$1", *(f"£{one}" for one in rows["spent"][1:])]),
        {"metrics": ("spent:mean",)},
        "several currencies",
    ),
    "a row for each event": (
        lambda rows: pd.concat([rows, rows.assign(spent=rows["spent"] + 1)]),
        {"unit": "id", "metrics": ("spent:mean",)},
        "row for each event",
    ),
    "an empty segment": (lambda rows: rows.assign(land=""), {"segments": ("land",)}, "the segment land is empty"),
    "rounded ids": (lambda rows: rows.assign(id="1.23457E+12"), {"unit": "id"}, "spreadsheet"),
    "no ids": (lambda rows: rows.assign(id=["", *rows["id"][1:]]), {"unit": "id"}, "have no id"),
    "a guardrail that is no metric": (lambda rows: rows, {"guardrails": {"left": 0.1}}, "no metric"),
    "a share of nobody": (lambda rows: rows, {"shares": {"c": 0.5}}, "no variant"),
    "the variant as a metric": (lambda rows: rows, {"metrics": ("group:mean",)}, "cannot be a metric"),
    "no rows": (lambda rows: rows[:0], {}, "no rows"),
    "no times": (lambda rows: rows.assign(at="soon"), {"day": "at"}, "no time in at"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_gets_one_sentence_and_no_number(tmp_path: Path, name: str) -> None:
    change, asked, said = WRONG[name]
    with pytest.raises(ReportRefused, match=said):
        report(tmp_path, change(halves()), **asked)


def test_a_unit_in_two_variants_is_left_out_and_said_and_many_withhold_the_verdict(tmp_path: Path) -> None:
    rows = halves(2_000)
    some = report(tmp_path, pd.concat([rows, rows[:4].assign(group="b")]), unit="id")
    assert (some.crossed.players, some.maturity.exposed) == (2, 1_998)
    assert some.health.ok
    assert any("two variants" in reason for reason in some.health.reasons)
    many = report(tmp_path, pd.concat([rows, rows[:60].assign(group="b")]), unit="id")
    assert many.crossed.players == 30
    assert not many.health.ok
    assert many.verdict is None


def test_rows_that_repeat_a_unit_count_once_and_are_counted(tmp_path: Path) -> None:
    rows = halves()
    twice = report(tmp_path, pd.concat([rows, rows[rows["group"] == "b"]]), unit="id", metrics=("spent:mean",))
    assert twice.duplicates == {"rows": 200}
    assert twice.metrics == report(tmp_path, rows, unit="id", metrics=("spent:mean",)).metrics


def test_a_group_and_a_page_that_disagree_are_found_without_being_asked_for(tmp_path: Path) -> None:
    rows = halves(2_000)
    shown = np.where(rows["group"] == "a", "old", "new")
    assert report(tmp_path, rows.assign(landing=shown)).health.reasons == []
    shown[:60:2] = "new"
    told = report(tmp_path, rows.assign(landing=shown))
    assert "group and landing disagree in 30 of 2,000 rows" in told.health.reasons[0]
    assert told.verdict is None


def test_a_negative_control_has_a_difference_and_no_relative_one(tmp_path: Path) -> None:
    rows = halves()
    rows["spent"] -= 100
    found = row(report(tmp_path, rows, metrics=("spent:mean",)), "spent")
    assert found.relative is None
    assert "not above 0" in (found.withheld or "")
    assert found.absolute.low is not None


def test_a_segment_without_units_of_a_variant_has_no_number(tmp_path: Path) -> None:
    rows = halves(1_000)
    rows.loc[rows["group"] == "a", "land"] = "x"
    told = report(tmp_path, rows, segments=("land",))
    levels = {level.level: level for level in told.segments[0].levels}
    assert levels["x"].absolute is not None
    assert levels["y"].absolute is None
    assert (levels["y"].n_control, told.segments[0].p_value) == (0, None)
    assert not told.health.ok
    assert "land y" in told.health.reasons[0]


def test_covariates_narrow_segments_are_tested_scores_ranked_and_costs_returned(tmp_path: Path) -> None:
    rows = halves(4_000, 3)
    rows["spent"] += 3 * rows["before"] + 4 * (rows["group"] == "b") * (rows["land"] == "x")
    rows["paid"] = 0.5 * (rows["group"] == "b")
    rows["at"] = pd.Timestamp("2026-03-02") + pd.to_timedelta(np.arange(len(rows)) % 28, unit="D")
    asked: dict[str, Any] = {"metrics": ("spent:mean", "bought:proportion"), "lower": ("bought",)}
    asked |= {"segments": ("land",), "score": "before", "cost": "paid", "day": "at", "guardrails": {"bought": 0.05}}
    plain, told = report(tmp_path, rows, **asked), report(tmp_path, rows, covariates=("before",), **asked)
    assert row(told, "spent").explained > 0.7
    assert told.segments[0].p_adjusted is not None
    assert told.segments[0].p_adjusted < 0.001
    assert len(told.series[0].points) == 4
    assert told.rankings[0].judged.p_value > 0.01
    assert told.returns[0].cost == pytest.approx(0.5 * 2_000)
    assert row(told, "bought").guard == "passed"
    assert row(plain, "spent").explained == 0
    texts = contents_of(told)
    assert texts == contents_of(report(tmp_path, rows, covariates=("before",), **asked))
    assert texts["html"].count("<svg") == 6
    for word in ("<script", "<link", "src=", "@import", "url(http", "<?xml"):
        assert word not in texts["html"]


def test_files_are_written_and_no_cell_of_the_csv_is_a_formula(tmp_path: Path) -> None:
    rows = halves().replace({"group": {"b": "=1+1|cmd", "a": "@a"}})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    asked = TableAsked(file=tmp_path / "rows.csv", variant="group", control="@a", metrics=("bought:share",))
    done = of_table(asked, tmp_path / "out")
    assert [file.name for file in done.files] == ["uplift.html", "uplift.csv", "uplift.json"]
    cells = (tmp_path / "out" / "uplift.csv").read_text().splitlines()[1].split(",")
    assert "'=1+1|cmd" in cells
    assert not any(cell.startswith(("=", "@", "+")) for cell in cells)
    assert float(cells[9]) == done.report.metrics[0].absolute.estimate
    assert page.harmless("-1") == "'-1"
    assert page.harmless(-1) == -1
    told = json.loads((tmp_path / "out" / "uplift.json").read_text())
    assert {"health", "srm", "verdict", "metrics"} <= told.keys()
