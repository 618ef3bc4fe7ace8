"""Data sets of decisions against queries of their own over the lake, and against what the learner learns from it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.decision_lakes import PLAYERS, World
from support.learning_log import CATALOGUE, DAY

from features.events import micros
from features.schema import PRODUCTS, VECTOR
from features.settings.mlflow_file import LearnerSettings
from models.policy.context import context
from models.policy.learned import LEFT_ALONE
from models.policy.learner import Learner
from pipelines.datasets.columns import SCHEMA
from pipelines.datasets.decisions import dataset
from pipelines.learning import training_log
from pipelines.learning.attribution import RewardTerms, TrainingEvent

WINDOW_DAYS = 3.0
DECISIONS = 1_500


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    World(8, 60).write(folder, DECISIONS)
    return folder


@pytest.fixture(scope="module")
def rows(lake: Path) -> pa.Table:
    return dataset(lake, window_days=WINDOW_DAYS)


@pytest.fixture
def sql(lake: Path, rows: pa.Table) -> Iterator[duckdb.DuckDBPyConnection]:
    """The lake's own files beside the data set, and prices as the catalogue's file has them."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table in ("events", "outcomes", "decisions"):
            connection.execute(f"CREATE VIEW {table} AS FROM read_parquet('{lake}/{table}/*/*.parquet')")
        connection.register("found", rows.drop_columns(["candidates", "reward_events", "outcomes"]))
        offers = [("offer", one.id, one.cost_minor) for one in CATALOGUE.offers]
        channels = [("channel", name, one.cost_minor) for name, one in CATALOGUE.channels.items()]
        connection.execute("CREATE TABLE prices (kind VARCHAR, name VARCHAR, minor DOUBLE)")
        connection.executemany("INSERT INTO prices VALUES (?, ?, ?)", offers + channels)
        yield connection


FEATURES = """
    WITH known AS (
        SELECT d.decision_id, d."at" AS now, e.*, (epoch_us(d."at") - epoch_us(e.occurred_at)) / 86400e6 AS ago,
            date_diff('day', date_trunc('day', e.occurred_at), date_trunc('day', d."at")) AS days,
            e.type = 'deposit' AND e.status = 'approved' AND e.target = 'account' AS deposited
        FROM decisions d JOIN events e ON e.player = d.player AND e.known_at <= d."at"
    )
    SELECT decision_id,
        count(*) FILTER (deposited) AS deposit_count,
        coalesce(sum(2 ** (-ago / 7)) FILTER (deposited), 0) AS deposit_count_7d,
        coalesce(sum(amount_minor * 2 ** (-ago)) FILTER (deposited), 0) AS deposit_sum_1d,
        coalesce(sum(amount_minor * 2 ** (-ago / 30)) FILTER (type = 'bet'), 0) AS bet_sum_30d,
        coalesce(sum(2 ** (-ago / 30)) FILTER (type = 'bet' AND product = 'sports'), 0) AS bet_sports_30d,
        coalesce(sum(2 ** (-ago / 7)) FILTER (type = 'deposit' AND status = 'declined'), 0) AS deposit_declined_7d,
        coalesce(sum(CASE type WHEN 'bet' THEN 1 WHEN 'win' THEN -1 END * amount_minor * 2 ** (-ago / 7)), 0)
            AS net_loss_7d,
        count(DISTINCT days) FILTER (deposited AND days < 30) AS deposit_days_30d,
        coalesce(sum(amount_minor) FILTER (type = 'bet'
            AND date_trunc('week', occurred_at) = date_trunc('week', now - INTERVAL 7 DAY)), 0) AS bet_week_1,
        coalesce(sum(amount_minor) FILTER (deposited
            AND date_trunc('month', occurred_at) = date_trunc('month', now)), 0) AS deposit_month_0,
        min(ago) FILTER (type = 'bet') AS last_bet_days_ago,
        max(ago) FILTER (deposited) AS first_deposit_days_ago,
        arg_max(product, occurred_at) FILTER (type = 'bet') AS last_product
    FROM known GROUP BY decision_id
"""
REWARDS = """
    WITH terms(product, share) AS (
        VALUES ('casino', 0.04), ('sports', 0.06), ('poker', 0.05), ('bingo', 0.1), ('lottery', 0.2)
    ), fines(kind, minor) AS (
        VALUES ('unsubscribed', 500), ('complained', 5000), ('limit_set', 1000), ('harm_signalled', 10000)
    ), began AS (
        SELECT d.decision_id, d.player, d.offer, d.channel,
            CASE WHEN d.offer IS NULL OR d.activated THEN d."at" ELSE greatest(d.send_at, (
                SELECT min(o.occurred_at) FROM outcomes o WHERE o.decision_id = d.decision_id AND o.type = 'confirmed'
            )) END AS begins
        FROM decisions d
        WHERE d.offer IS NULL OR d.activated
            OR EXISTS (FROM outcomes o WHERE o.decision_id = d.decision_id AND o.type = 'confirmed')
    ), opened AS (
        SELECT *, begins + INTERVAL 3 DAY AS ends FROM began
    ), within AS (
        SELECT b.decision_id, b.channel AS sent_on, e.* FROM opened b JOIN events e ON e.player = b.player
            AND e.occurred_at > begins AND e.occurred_at <= ends AND e.known_at <= ends
    ), worth AS (
        SELECT decision_id, sum(amount_minor * share) AS minor FROM within JOIN terms USING (product)
        WHERE type = 'bet' GROUP BY decision_id
    ), harms AS (
        SELECT DISTINCT decision_id, CASE type WHEN 'limit_set' THEN 'limit_set' WHEN 'support_contact'
            THEN 'harm_signalled' ELSE 'unsubscribed' END AS kind
        FROM within WHERE type IN ('limit_set', 'support_contact') OR type = 'consent_changed' AND sent_on = 'sms'
        UNION
        SELECT o.decision_id, o.type FROM outcomes o JOIN opened b USING (decision_id)
        WHERE o.type IN ('unsubscribed', 'complained') AND o.known_at <= b.ends AND o.known_at > b.begins
    ), penalties AS (
        SELECT decision_id, sum(minor) AS minor FROM harms JOIN fines USING (kind) GROUP BY decision_id
    )
    SELECT decision_id, coalesce(worth.minor, 0) AS worth, coalesce(penalties.minor, 0) AS penalty,
        coalesce(sent.minor, 0) + coalesce(taken.minor, 0) * (coalesce(worth.minor, 0) > 0)::INT AS cost
    FROM opened LEFT JOIN worth USING (decision_id) LEFT JOIN penalties USING (decision_id)
        LEFT JOIN prices sent ON sent.kind = 'channel' AND sent.name = channel
        LEFT JOIN prices taken ON taken.kind = 'offer' AND taken.name = offer
    WHERE ends < (SELECT max(known_at) FROM (FROM (SELECT known_at FROM events)
        UNION ALL (SELECT known_at FROM outcomes) UNION ALL (SELECT known_at FROM decisions)))
"""


def frame(sql: duckdb.DuckDBPyConnection, question: str) -> Any:
    return sql.execute(question).df().set_index("decision_id").sort_index()


def test_features_are_those_that_a_query_of_what_was_known_then_computes(sql: duckdb.DuckDBPyConnection) -> None:
    expected = frame(sql, FEATURES)
    found = frame(sql, f"SELECT decision_id, {', '.join(expected.columns)} FROM found").loc[expected.index]
    assert len(expected) >= 1_000
    assert (found.pop("last_product").fillna("") == expected.pop("last_product").fillna("")).all()
    np.testing.assert_allclose(found.to_numpy(float), expected.to_numpy(float), rtol=1e-9, atol=1e-9)


def test_late_news_is_in_no_row_that_came_before_it(sql: duckdb.DuckDBPyConnection) -> None:
    (late,) = sql.execute(
        """SELECT count(*) FROM found f JOIN events e USING (player)
        WHERE e.occurred_at < f."at" AND e.known_at > f."at" """
    ).fetchone() or (0,)
    assert late > 100, "the lake has what came too late for some decisions"
    (seen,) = sql.execute(
        """SELECT count(*) FROM found f WHERE features_as_of > "at" OR features_as_of IS DISTINCT FROM (
            SELECT max(e.occurred_at) FROM events e WHERE e.player = f.player AND e.known_at <= f."at")"""
    ).fetchone() or (1,)
    assert seen == 0


def test_rewards_are_those_that_a_query_over_each_window_computes(sql: duckdb.DuckDBPyConnection) -> None:
    expected = frame(sql, REWARDS)
    found = frame(
        sql,
        "SELECT decision_id, worth_minor, penalty_minor, cost_minor, reward_minor FROM found"
        " WHERE reward_minor IS NOT NULL",
    )
    assert len(expected) >= 1_000
    assert list(found.index) == list(expected.index)
    assert min((expected[name] > 0).sum() for name in ("worth", "penalty", "cost")) > 100
    np.testing.assert_allclose(
        found[["worth_minor", "penalty_minor", "cost_minor"]], expected[["worth", "penalty", "cost"]], rtol=1e-12
    )
    np.testing.assert_allclose(
        found["reward_minor"], expected["worth"] - expected["cost"] - expected["penalty"], rtol=1e-12, atol=1e-9
    )


def test_propensities_are_those_of_the_lake_and_of_the_place_among_the_candidates(
    sql: duckdb.DuckDBPyConnection, rows: pa.Table
) -> None:
    (apart,) = sql.execute(
        """SELECT count(*) FROM decisions d FULL JOIN found f USING (decision_id)
        WHERE d.propensity IS DISTINCT FROM f.propensity OR d.place IS DISTINCT FROM f.place
            OR d.offer IS DISTINCT FROM f.offer OR d.use IS DISTINCT FROM f.use"""
    ).fetchone() or (1,)
    assert apart == 0
    for row in rows.select(["candidates", "place", "propensity", "offer", "channel", "timing_slot"]).to_pylist():
        (drawn,) = [one for one in row["candidates"] if one["place"] == row["place"]]
        assert drawn["pmf"] == row["propensity"]
        assert [drawn[name] for name in ("offer", "channel", "timing_slot")] == [
            row[name] for name in ("offer", "channel", "timing_slot")
        ]
        assert sum(one["pmf"] for one in row["candidates"]) == pytest.approx(1)


def test_why_a_reward_is_missing_is_said(sql: duckdb.DuckDBPyConnection) -> None:
    told = dict(sql.execute("SELECT reward_missing, count(*) FROM found GROUP BY ALL").fetchall())
    assert told.keys() == {None, "window_open", "not_confirmed", "not_confirmed_yet"}
    (wrong,) = sql.execute(
        """SELECT count(*) FROM found WHERE (reward_missing IS NULL) <> (reward_minor IS NOT NULL)
            OR reward_missing = 'not_confirmed' AND (confirmed_at IS NOT NULL OR activated OR offer IS NULL)
            OR reward_missing = 'window_open' AND reward_ends_at < (SELECT max(known_at) FROM events)"""
    ).fetchone() or (1,)
    assert wrong == 0


def test_what_a_reward_is_made_of_adds_up_and_lies_in_its_window(lake: Path, rows: pa.Table) -> None:
    with duckdb.connect() as connection:
        tables = " UNION ALL ".join(
            f"SELECT position, epoch_us(occurred_at) FROM '{lake}/{table}/*/*.parquet'"
            for table in ("events", "outcomes")
        )
        places = dict(connection.execute(tables).fetchall())
    for row in rows.filter(pc.is_valid(rows["reward_minor"])).to_pylist():
        parts = row["reward_events"]
        assert sum(one["worth_minor"] for one in parts) == pytest.approx(row["worth_minor"])
        assert sum(one["penalty_minor"] for one in parts) == pytest.approx(row["penalty_minor"])
        for part in parts:
            assert places[part["position"]] == micros(part["occurred_at"])
            assert part["known_at"] <= row["reward_ends_at"]
            assert row["reward_begins_at"] < part["occurred_at"] <= row["reward_ends_at"]


def learnt(lake: Path, monkeypatch: pytest.MonkeyPatch) -> list[TrainingEvent]:
    """What the learner learns from a lake, and goes on learning."""
    heard: list[TrainingEvent] = []
    teach = training_log.teach

    def listen(learner: Learner, event: TrainingEvent) -> None:
        heard.append(event)
        teach(learner, event)

    monkeypatch.setattr(training_log, "teach", listen)
    training = training_log.Training(lake, LearnerSettings(batch=50, warm_up=100), RewardTerms.read(), WINDOW_DAYS)
    for flush in training.waiting():
        training.learn(flush)
    return heard


def test_rewards_and_contexts_are_those_that_the_learner_got(
    lake: Path, rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = learnt(lake, monkeypatch)
    penalties: dict[str, float] = {}
    for one in heard:
        if one.kind == "penalty":
            name = one.drawn.decision_id
            penalties[name] = penalties.get(name, 0.0) + one.amount_minor
    final = {one.drawn.decision_id: one for one in heard if one.kind in {"value", "nothing"}}
    began = {one.drawn.decision_id for one in heard if one.kind == "zero"}
    mine = {row["decision_id"]: row for row in rows.to_pylist() if row["learnt"]}
    assert began == {name for name, row in mine.items() if row["reward_begins_at"] is not None}
    assert final.keys() <= {name for name, row in mine.items() if row["reward_minor"] is not None}
    assert len(final) > 500
    for name, event in final.items():
        assert mine[name]["worth_minor"] == event.amount_minor
        assert mine[name]["penalty_minor"] == penalties.get(name, 0.0)
        seen = context(vector(mine[name]), mine[name]["churn_score"]).astype("<f4").tobytes()
        assert seen == event.drawn.context
        assert event.drawn.offer == (mine[name]["offer"] or LEFT_ALONE)


def vector(row: dict[str, Any]) -> Any:
    """The numbers of VECTOR as a row has them."""
    told = {"last_product": None if row["last_product"] is None else PRODUCTS.index(row["last_product"])}
    return np.array([(row | told)[one.name] for one in VECTOR], dtype=float)


def test_what_serves_for_evaluation_is_in_the_data_set_and_not_learnt_from(
    lake: Path, rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {row["decision_id"] for row in rows.select(["decision_id", "use"]).to_pylist() if row["use"] == "eval"}
    assert len(kept) > 100
    assert not kept & {one.drawn.decision_id for one in learnt(lake, monkeypatch)}
    evaluated = rows.filter(pc.equal(rows["use"], "eval"))
    assert not any(evaluated["learnt"].to_pylist())
    assert evaluated["reward_minor"].null_count < len(kept) / 2


def test_a_span_has_the_rows_that_the_whole_has_of_it(lake: Path, rows: pa.Table) -> None:
    since, until = "2026-10-05", "2026-10-25T12:00:00"
    some = dataset(lake, since, until, window_days=WINDOW_DAYS)
    at = rows["at"]
    first, last = (pa.scalar(f"{one[:10]} {one[11:] or '00:00:00'}").cast(pa.timestamp("us")) for one in (since, until))
    inside = pc.and_(pc.greater_equal(at, first.cast(at.type)), pc.less(at, last.cast(at.type)))
    assert 200 < some.num_rows < DECISIONS
    assert some.equals(rows.filter(inside))


def test_a_shorter_window_takes_less_and_the_same_lake_gives_the_same_rows(lake: Path, rows: pa.Table) -> None:
    short = dataset(lake, window_days=0.5)
    assert pc.sum(short["worth_minor"]).as_py() < pc.sum(rows["worth_minor"]).as_py()
    assert short["reward_minor"].null_count <= rows["reward_minor"].null_count
    assert dataset(lake, window_days=WINDOW_DAYS).equals(rows)
    assert rows.schema.equals(SCHEMA, check_metadata=True)
    assert set(rows["player"].to_pylist()) <= set(PLAYERS)
    assert DAY == 86_400_000_000
