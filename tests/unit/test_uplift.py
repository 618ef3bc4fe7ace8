"""Statistics of the uplift report: intervals that cover, known traps, and withheld verdicts."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from support.experiment_lakes import CATALOGUE, DAY, SHARES, SPLIT, START, Lake, experiment, frame

from features.events import micros
from features.settings.mlflow_file import read_mlflow
from pipelines.experiments import page
from pipelines.experiments.comparisons import MetricRow, Pair
from pipelines.experiments.comparisons import compare_all as compare_summaries
from pipelines.experiments.exposures import Costs, Exposures, exposures, opened
from pipelines.experiments.metrics import CONVERSION, METRICS, NET_REVENUE, Metric
from pipelines.experiments.refusals import ReportRefused
from pipelines.experiments.report import as_json, compute
from pipelines.experiments.result import Uplift
from pipelines.experiments.summaries import Summary
from pipelines.experiments.units import Key
from pipelines.experiments.uplift import uplift

SETTINGS = read_mlflow(Path("nowhere"))
PAIR = ("policy", "holdout")
LATE_US = 1_000 * 86_400_000_000
LIFT = {"policy": 300.0, "business_rules": 150.0}


def found(players: pd.DataFrame, *, has_bets: bool = True) -> Exposures:
    return Exposures(
        experiment="trial",
        others=[],
        players=players,
        window_days=28,
        has_bets=has_bets,
        unpriced=0,
        latest_us=LATE_US,
    )


def report(
    players: pd.DataFrame, shares: Mapping[str, float] = SHARES, as_of_us: int = LATE_US, *, has_bets: bool = True
) -> Uplift:
    return uplift(found(players, has_bets=has_bets), as_of_us, {"c1": shares}, {})


def compare_all(players: pd.DataFrame, metrics: Sequence[Metric], pairs: Sequence[Pair]) -> list[MetricRow]:
    """Comparisons of players that were all split alike; the first metric is primary."""
    roles = [msgspec.structs.replace(one, role="primary" if one is metrics[0] else one.role) for one in metrics]
    found: dict[str, dict[Key, Summary]] = {
        metric.name: {
            (str(name), "all"): Summary.of(mine[list(metric.columns)].to_numpy(np.float64))
            for name, mine in players.groupby("variant")
        }
        for metric in roles
    }
    return compare_summaries(found, roles, pairs)


def read(lake: Path, window_days: int = 28) -> Exposures:
    with opened(lake) as connection:
        return exposures(connection, Costs.of(CATALOGUE, 40), window_days)


def row_of(players: pd.DataFrame, player: str) -> dict[str, int]:
    return dict(players.set_index("player").loc[player])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return experiment(2_500, 1, LIFT).write(tmp_path_factory.mktemp("lake"))


def test_intervals_of_variants_that_do_not_differ_leave_out_zero_in_one_of_twenty() -> None:
    chance, rejected = np.random.default_rng(11), []
    for _ in range(150):
        players = frame(chance, 400, {"holdout": 0.5, "policy": 0.5})
        rows = compare_all(players, [NET_REVENUE, CONVERSION], [PAIR])
        for row in rows:
            assert row.absolute.low is not None
            assert row.absolute.high is not None
            rejected.append(not row.absolute.low <= 0 <= row.absolute.high)
    # 300 tests at 5 %: three standard errors are 3.8 points.
    assert abs(np.mean(rejected) - 0.05) < 0.038


def test_a_planted_difference_is_covered_and_found_though_the_control_mean_is_negative() -> None:
    chance, covered = np.random.default_rng(12), []
    for _ in range(60):
        players = frame(chance, 2_000)
        players["net_revenue_minor"] += np.where(players["variant"] == "policy", 400, 0) - 6_000
        row = compare_all(players, [NET_REVENUE], [PAIR])[0]
        assert row.mean_control < 0
        assert row.relative is None
        assert row.absolute.low is not None
        assert row.absolute.high is not None
        assert row.absolute.low < row.absolute.high
        assert row.absolute.estimate > 0
        covered.append(row.absolute.low <= 400 <= row.absolute.high)
    # Of 60 at 95 %, three standard errors below are 86.5 %.
    assert np.mean(covered) >= 0.865


def test_a_relative_difference_is_given_where_the_control_is_clear_of_zero() -> None:
    players = frame(np.random.default_rng(13), 2_000)
    players["net_revenue_minor"] += np.where(players["variant"] == "policy", 500, 0)
    row = compare_all(players, [NET_REVENUE], [PAIR])[0]
    assert row.relative is not None
    assert row.relative.low < row.absolute.estimate / row.mean_control < row.relative.high


def test_the_money_before_makes_intervals_narrower_and_moves_nothing() -> None:
    players = frame(np.random.default_rng(14), 4_000)
    both = players[players["variant"].isin(PAIR)]
    adjusted = compare_all(both, [NET_REVENUE], [PAIR])[0].absolute
    plain = compare_all(both, [msgspec.structs.replace(NET_REVENUE, before=None)], [PAIR])[0].absolute
    assert adjusted.low is not None
    assert adjusted.high is not None
    assert plain.low is not None
    assert plain.high is not None
    assert adjusted.high - adjusted.low < 0.8 * (plain.high - plain.low)
    assert plain.low < adjusted.estimate < plain.high


@pytest.mark.parametrize("column", ["net_revenue_minor", "before_deposits_minor", "harm"])
def test_a_missing_value_raises_and_is_not_left_out_in_silence(column: str) -> None:
    players = frame(np.random.default_rng(15), 500).astype({column: float})
    players.loc[7, column] = np.nan
    with pytest.raises(ValueError, match=column):
        report(players)


def test_a_metric_that_never_varies_has_a_difference_and_no_interval() -> None:
    players = frame(np.random.default_rng(16), 1_000)
    players[["harm", "before_deposits_minor"]] = 0
    players["contacts"] = (players["variant"] != "holdout").astype(int)
    rows = {row.metric: row for row in compare_all(players, list(METRICS.values()), [PAIR])}
    # A share that nobody has is tested exactly; what is no share and does not vary cannot be.
    harm = rows["harm"].absolute
    assert (rows["harm"].exact, harm.estimate, harm.p_value) == (True, 0, 1.0)
    assert harm.low is not None
    assert harm.low < 0
    assert (rows["contacts"].absolute.estimate, rows["contacts"].absolute.high) == (1.0, None)
    assert not rows["deposits_minor"].cuped
    assert rows["deposits_minor"].absolute.low is not None


def test_adjusted_p_values_are_those_of_holm_and_of_benjamini_and_hochberg() -> None:
    rows = report(frame(np.random.default_rng(17), 3_000)).metrics
    primary = [row for row in rows if row.role == "primary"]
    ordered = sorted((row.absolute.p_value or 0.0, row.p_adjusted) for row in primary)
    steps = [min(1.0, (len(ordered) - place) * p) for place, (p, _) in enumerate(ordered)]
    assert [adjusted for _, adjusted in ordered] == pytest.approx(np.maximum.accumulate(steps))
    second = sorted((row.absolute.p_value or 0.0, row.p_adjusted) for row in rows if row.role == "secondary")
    ratios = [p * len(second) / (place + 1) for place, (p, _) in enumerate(second)]
    assert [adjusted for _, adjusted in second] == pytest.approx(np.minimum.accumulate(ratios[::-1])[::-1])
    assert all(row.p_adjusted is None for row in rows if row.role in {"guardrail", "volume"})


def test_players_whose_window_is_not_over_stay_out_and_are_counted() -> None:
    players = frame(np.random.default_rng(18), 2_000)
    now_us = int(players["first_us"].iloc[1_199]) + 28 * 86_400_000_000
    early = report(players, as_of_us=now_us)
    alone = report(players.iloc[:1_200], as_of_us=now_us)
    assert (early.maturity.exposed, early.maturity.mature) == (2_000, 1_200)
    assert early.maturity.immature_share == pytest.approx(0.4)
    assert early.metrics == alone.metrics


def test_a_player_in_two_variants_is_dropped_and_more_than_one_in_a_hundred_is_unhealthy() -> None:
    players = frame(np.random.default_rng(19), 2_000)
    players.loc[:19, "variants"] = 2
    some = report(players)
    assert (some.crossed.players, some.maturity.exposed, some.health.ok) == (20, 1_980, True)
    assert some.metrics == report(players.iloc[20:]).metrics
    players.loc[:20, "variants"] = 2
    many = report(players)
    assert not many.health.ok
    assert many.verdict is None


def test_no_word_of_a_verdict_stands_in_a_page_whose_health_is_red() -> None:
    players = frame(np.random.default_rng(20), 2_000)
    players["net_revenue_minor"] += np.where(players["variant"] == "policy", 900, 0)
    good = report(players)
    assert good.health.ok
    assert good.verdict is not None
    assert "net revenue is higher, the policy against the business rules" in good.verdict
    assert good.verdict in page.html(good)
    bad = report(players, {"holdout": 0.6, "business_rules": 0.2, "policy": 0.2})
    assert bad.srm.alarm
    assert bad.verdict is None
    text = page.html(bad)
    for sentence in good.verdict.splitlines():
        assert sentence.split(":")[0] not in text
    assert "Withheld" in text
    assert all(reason.partition("(")[0] in text for reason in bad.health.reasons)


def test_shares_of_an_unknown_catalogue_are_red() -> None:
    unknown = uplift(found(frame(np.random.default_rng(21), 900)), LATE_US, {"other": SHARES}, {})
    assert unknown.srm.p_value is None
    assert any("unknown" in reason for reason in unknown.health.reasons)
    assert page.html(unknown)


def test_a_worse_guardrail_is_part_of_the_verdict_and_a_difference_not_shown_is_called_so() -> None:
    chance = np.random.default_rng(22)
    players = frame(chance, 3_000)
    harmed = (players["variant"] == "policy") & (chance.random(3_000) < 0.08)
    players["harm"] = players["harm"].mask(harmed, 1)
    said = report(players).verdict
    assert said is not None
    assert "harm sign rate is significantly worse under the policy than under the business rules" in said
    assert "no difference in net revenue is shown" in said
    assert "No guardrail is significantly worse." in (report(frame(np.random.default_rng(24), 3_000)).verdict or "")


def test_shares_that_change_while_money_changes_invent_no_effect() -> None:
    chance, claimed = np.random.default_rng(31), 0
    phases: dict[str, dict[str, float]] = {"c1": {"holdout": 0.1, "business_rules": 0.8, "policy": 0.1}}
    phases["c2"] = {"holdout": 0.1, "business_rules": 0.3, "policy": 0.6}
    for _ in range(8):
        parts = [frame(chance, 2_000, shares).assign(split=split) for split, shares in phases.items()]
        parts[1]["net_revenue_minor"] += 3_000
        told = uplift(found(pd.concat(parts, ignore_index=True)), LATE_US, phases, {})
        assert told.metrics[0].strata == 2
        claimed += "which is" in (told.verdict or "")
    # Each claims one of two falsely with 5 % at most; three of eight have a chance below 1 %.
    assert claimed <= 2


def test_a_guardrail_that_all_have_against_none_is_told_by_an_exact_test() -> None:
    players = frame(np.random.default_rng(32), 900, {"holdout": 0.5, "policy": 0.5})
    players["unsubscribed"] = (players["variant"] == "policy").astype(int)
    told = report(players, {"holdout": 0.5, "policy": 0.5})
    rows = {row.metric: row for row in told.metrics}
    assert rows["unsubscribed"].exact
    assert rows["unsubscribed"].guard == "beyond margin"
    assert "opt-out rate is significantly worse under the policy" in (told.verdict or "")


def test_variants_in_which_nobody_was_reached_get_no_verdict_and_hear_what_to_do() -> None:
    players = frame(np.random.default_rng(33), 2_000)
    players["contacts"] = 0
    told = report(players)
    assert told.verdict is None
    assert "nobody in policy was reached" in " ".join(told.health.reasons)
    assert "confirm before they send" in " ".join(told.until_green)
    assert "What would mend it" in page.html(told)


def test_a_verdict_that_waits_says_from_when_on_it_need_not() -> None:
    players = frame(np.random.default_rng(34), 2_000)
    told = report(players, as_of_us=int(players["first_us"].iloc[300]) + 28 * 86_400_000_000)
    assert any("mature players" in reason for reason in told.health.reasons)
    assert any("player of holdout is mature" in remedy for remedy in told.until_green)


def test_while_it_runs_the_verdict_rests_on_what_holds_at_every_look() -> None:
    players = frame(np.random.default_rng(35), 3_000)
    players["net_revenue_minor"] += np.where(players["variant"] == "policy", 150, 0)
    ended = report(players)
    runs = uplift(found(players), LATE_US, {"c1": SHARES}, {}, running=True)
    assert ended.metrics == runs.metrics
    assert "net revenue is higher" in (ended.verdict or "")
    assert "no difference in net revenue is shown" in (runs.verdict or "")
    assert "still runs" in (runs.verdict or "")


def test_what_was_told_twice_counts_once_and_is_said(tmp_path: Path) -> None:
    lake = experiment(400, 6)
    once = read(lake.write(tmp_path / "once")).players
    treated = {row["player"] for row in lake.rows["decisions"] if row["variant"] == "policy"}
    for table in ("events", "outcomes"):
        lake.rows[table] += [row for row in lake.rows[table] if row["player"] in treated]
    twice = read(lake.write(tmp_path / "twice"))
    pd.testing.assert_frame_equal(once, twice.players)
    assert twice.duplicates["events"] > 100
    told = uplift(twice, LATE_US, {CATALOGUE.hash: {str(name): share for name, share in SPLIT.variants.items()}}, {})
    assert any("counts once" in note for note in told.notes)
    assert f"{twice.duplicates['events']:,} events" in page.html(told)


def test_a_player_whom_a_change_of_shares_moved_stays_in_the_first_variant(tmp_path: Path) -> None:
    lake = Lake()
    for phase, player, variant in ((1, "a", "holdout"), (2, "a", "policy"), (1, "b", "policy"), (1, "b", "holdout")):
        member = {"key": SPLIT.key, "version": f"v{phase}", "phase": phase, "variant": variant, "bucket": 0.5}
        lake.decision(player, variant, START + phase * DAY, experiments=[member])
    told = read(lake.write(tmp_path))
    assert list(told.players["variant"]) == ["holdout", "policy"]
    assert (told.moved, list(told.players["variants"])) == (1, [1, 2])


def test_a_house_without_bets_is_judged_by_conversion() -> None:
    told = report(frame(np.random.default_rng(23), 1_500), has_bets=False)
    assert told.primary == "conversion"
    assert "net_revenue_minor" not in {row.metric for row in told.metrics}
    assert any("no bet" in note for note in told.notes)
    assert "conversion" in (told.verdict or "")


def test_variants_of_few_players_are_left_out_unless_the_verdict_needs_them() -> None:
    shares = {"holdout": 0.19, "business_rules": 0.39, "policy": 0.39, "uniform": 0.03}
    told = report(frame(np.random.default_rng(25), 1_500, shares), shares)
    assert told.health.ok
    assert "uniform" not in {row.variant for row in told.metrics} | {row.control for row in told.metrics}
    assert any("uniform" in note for note in told.notes)
    few = report(frame(np.random.default_rng(26), 300, shares), shares)
    assert any("holdout" in reason for reason in few.health.reasons)
    assert {row.control for row in few.metrics} == {"holdout", "business_rules"}


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_handful_of_players_is_reported_without_a_verdict(size: int) -> None:
    told = report(frame(np.random.default_rng(27), size))
    assert told.verdict is None
    assert page.html(told)
    assert page.table_csv(told)


def test_the_last_point_over_time_is_the_headline() -> None:
    told = report(frame(np.random.default_rng(28), 2_000))
    heads = {(row.variant, row.control): row for row in told.metrics if row.role == "primary"}
    for series in told.series:
        last, head = series.points[-1], heads[series.variant, series.control]
        assert (last.n, last.n_control) == (head.n, head.n_control)
        assert (last.estimate, last.low, last.high) == pytest.approx(
            (head.absolute.estimate, head.absolute.low, head.absolute.high)
        )
        assert len(series.points) >= 8


def test_what_a_player_did_counts_inside_the_window_only_and_costs_are_taken_off(tmp_path: Path) -> None:
    lake, at = Lake(), START
    name = lake.decision("a", "policy", at)
    second = lake.decision("a", "policy", at + DAY)
    third = lake.decision("a", "policy", at + DAY, activated=True, offer="free_bet", channel="in_app")
    lake.decision("b", "holdout", at)
    lake.decision("c", "holdout", at, role="priority")
    deposit = {"status": "approved", "method": "card", "target": "account"}
    for when, amount in ((-29 * DAY, 1), (-28 * DAY, 10), (-timedelta(microseconds=1), 100)):
        lake.event("a", "deposit", at + when, amount_minor=amount, **deposit)
        lake.event("a", "bet", at + when, amount_minor=amount, product="casino")
    for when, amount in ((timedelta(0), 1_000), (28 * DAY - timedelta(microseconds=1), 10_000), (28 * DAY, 100_000)):
        lake.event("a", "deposit", at + when, amount_minor=amount, **deposit)
        lake.event("a", "win", at + when, amount_minor=amount, product="casino")
    lake.event("a", "deposit", at + DAY, amount_minor=7, **deposit | {"status": "declined"})
    lake.event("a", "deposit", at + DAY, amount_minor=7, **deposit | {"target": "wallet"})
    lake.event("b", "support_contact", at + DAY, detail='{"tags": ["harm", "bill"]}')
    lake.event("a", "support_contact", at + DAY, detail='{"tags": ["harmless"]}')
    sent = {"offer": "free_spins", "channel": "sms"}
    lake.outcome("a", "confirmed", at + DAY, name, **sent)
    lake.outcome("a", "unsubscribed", at + 2 * DAY, name, **sent)
    lake.outcome("a", "confirmed", at + DAY, second, offer="reload_bonus", channel="call")
    lake.outcome("a", "failed", at + 2 * DAY, second, offer="reload_bonus", channel="call")
    told = read(lake.write(tmp_path))
    assert third
    assert list(told.players["player"]) == ["a", "b"]
    one = row_of(told.players, "a")
    assert (one["deposits_minor"], one["before_deposits_minor"]) == (11_000, 110)
    assert (one["contacts"], one["unsubscribed"], one["conversion"], one["harm"]) == (2, 1, 1, 0)
    # An SMS, free spins taken, a free bet taken in the app.
    assert one["cost_minor"] == 5 + 150 + 0 + 350
    assert (one["net_revenue_minor"], one["before_net_revenue_minor"]) == (-11_000 - 505, 110)
    other = row_of(told.players, "b")
    assert (other["harm"], other["conversion"], other["net_revenue_minor"]) == (1, 0, 0)


def test_an_offer_costs_nothing_until_a_deposit_follows_its_contact(tmp_path: Path) -> None:
    lake = Lake()
    name = lake.decision("a", "policy", START)
    lake.event("a", "bet", START + DAY, amount_minor=500, product="casino")
    lake.event("a", "deposit", START + DAY, amount_minor=9, status="approved", method="card", target="account")
    lake.outcome("a", "confirmed", START + 2 * DAY, name, offer="free_spins", channel="sms")
    assert row_of(read(lake.write(tmp_path)).players, "a")["net_revenue_minor"] == 500 - 5


def test_a_lake_is_read_whole_and_the_same_report_gives_the_same_bytes(lake: Path) -> None:
    told, again = compute(lake, SETTINGS), compute(lake, SETTINGS)
    assert told.health.ok, told.health.reasons
    assert told.propensity_srm is not None
    assert told.propensity_srm.decisions > 3_000
    assert told.verdict is not None
    assert page.html(told) == page.html(again)
    assert page.table_csv(told) == page.table_csv(again)
    assert as_json(told) == as_json(again)


def test_a_page_brings_all_it_needs_and_runs_nothing(lake: Path) -> None:
    text = page.html(compute(lake, SETTINGS))
    assert text.count("<svg") >= 5
    for word in ("<script", "<link", "src=", "@import", "url(http", "<?xml"):
        assert word not in text
    order = ["<h1>", "Health", "Verdict", "Primary metric", "Variants", "Over time", "How this was computed"]
    places = [text.index(word if word.startswith("<") else f"<h2>{word}") for word in order]
    assert places == sorted(places)


def test_names_in_somebody_elses_files_are_text_and_never_markup(tmp_path: Path) -> None:
    lake = experiment(400, 2)
    for row in lake.rows["decisions"]:
        row["experiment"] = "<script>alert(1)</script>"
        row["variant"] = row["variant"].replace("policy", "policy$<b>")
    text = page.html(compute(lake.write(tmp_path), SETTINGS))
    assert "<script" not in text
    assert "<b>" not in text.replace("<li><b>", "")


def test_an_empty_lake_or_an_unknown_experiment_is_refused_in_a_sentence(lake: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportRefused, match="no lake"):
        compute(tmp_path / "nowhere", SETTINGS)
    with pytest.raises(ReportRefused, match="no decision"):
        compute(tmp_path, SETTINGS)
    with pytest.raises(ReportRefused, match="policy_2026"):
        compute(lake, SETTINGS, experiment="another")


def test_times_without_a_zone_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "decisions"
    folder.mkdir()
    naive = pd.DataFrame({"player": ["a"], "at": [START.replace(tzinfo=None)]})
    naive.to_parquet(folder / "one.parquet")
    with pytest.raises(ReportRefused, match="time zone"):
        read(tmp_path)


def test_the_newest_experiment_is_reported_and_others_are_named(tmp_path: Path) -> None:
    lake = Lake()
    lake.decision("a", "policy", START, experiment="old")
    lake.decision("a", "holdout", START + DAY)
    told = read(lake.write(tmp_path))
    assert (told.experiment, told.others) == (SPLIT.key, ["old"])
    assert told.latest_us == micros(START + DAY)


def test_effect_and_contacts_are_told_by_fifths_of_the_points_of_harm(tmp_path: Path) -> None:
    """Points are those of the first decision's record; of players with as many points none stands apart."""
    lake, chance = Lake(), np.random.default_rng(3)
    for number in range(1_200):
        variant, at = ("policy", "holdout")[number % 2], START + timedelta(hours=float(chance.uniform(0, 48)))
        name = lake.decision(f"p{number}", variant, at, markers={"loss_of_a_day": 1e9 if number % 3 == 0 else 0.0})
        if variant == "policy" and number % 3 == 0:
            lake.outcome(f"p{number}", "confirmed", at, name, offer="free_spins", channel="email")
        lake.event(f"p{number}", "bet", at + DAY, amount_minor=int(chance.gamma(2, 500)))
    lake.event("p0", "login", START + 60 * DAY)
    told = compute(lake.write(tmp_path / "lake"), SETTINGS, days=28)
    of_harm = [one for one in told.segments if one.segment == "fifth of harm points"]
    (effect,), (contacts,) = ([one for one in of_harm if one.treatment is done] for done in (False, True))
    assert [level.level.partition(":")[0] for level in effect.levels] == ["1", "2"]
    assert effect.levels[0].level == "1: 0 points"
    assert contacts.p_adjusted is None
    assert [level.absolute and level.absolute.estimate for level in contacts.levels] == [0.0, 1.0]
    assert "contacts, what was done" in page.html(told)
