"""The churn model on a year of real payments of an online sportsbook; skipped where the log is absent.

K. Ghaharian (2023), Raw payments transaction data from online casino players and online sports bettors, Mendeley
Data, 10.17632/9j5gcygnwg.1.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pytest
import redis

from features.events import micros
from features.store.deployment import create_house
from features.store.server import Server
from models.releases.registry import ChurnRegistry
from pipelines.training.churn import TrainingResult, train
from pipelines.training.promotion import promote

LOG = Path(__file__).parents[2].parent / "shared" / "data" / "payments" / "online_sports_payments.csv.gz"
NOW = micros(datetime(2020, 3, 2, 8, tzinfo=UTC))
pytestmark = [
    pytest.mark.skipif(not LOG.exists(), reason=f"the payments log is not at {LOG}; see its DOI above"),
    pytest.mark.filterwarnings(
        "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning",  # mlflow 3.17 on SQLAlchemy 2.1
        "ignore:fetch_arrow_table:DeprecationWarning",  # ibis 12 on duckdb 2
    ),
]

# Wallet to account is the deposit; card and bank into the wallet come before it. Exact duplicates are dropped, and
# so are the six rows without a status and the few withdrawals that were declined.
EVENTS = """
    COPY (
        WITH rows AS (
            SELECT DISTINCT * FROM read_csv($log, all_varchar = true, nullstr = 'NA') WHERE Status IS NOT NULL
        ), moments AS (
            SELECT *, strptime(ReqTimeUTC, '%Y-%m-%dT%H:%M:%S%z')::TIMESTAMPTZ AS moment,
                hour(moment AT TIME ZONE 'UTC') AS clock, TransactionType = 'LOYALTYCARDCREDIT' AS withdrawal
            FROM rows
        )
        SELECT
            printf('{p%03d}', (hash(AccountIdentifier) % 256)::INT) || AccountIdentifier AS player,
            CASE WHEN withdrawal THEN 'withdrawal_paid' ELSE 'deposit' END AS type,
            moment AS occurred_at, moment AS known_at, 'main' AS brand, NULL::VARCHAR AS detail,
            round(TransactionAmount::DOUBLE * 100)::BIGINT AS amount_minor,
            CASE WHEN NOT withdrawal THEN lower(Status) END AS status,
            CASE WHEN NOT withdrawal THEN if(TransactionType = 'LOYALTYCARDDEBIT', 'account', 'wallet') END AS target,
            CASE WHEN clock BETWEEN 8 AND 11 THEN 'morning' WHEN clock BETWEEN 12 AND 16 THEN 'afternoon'
                WHEN clock BETWEEN 17 AND 20 THEN 'evening' ELSE 'night' END AS timing_slot,
            clock < 6 AS night
        FROM moments WHERE NOT (withdrawal AND Status <> 'APPROVED')
    ) TO '{file}' (FORMAT parquet)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("payments")
    folder = home / "lake" / "events" / "day=2020-03-02"
    folder.mkdir(parents=True)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(EVENTS.replace("{file}", str(folder / "log.parquet")).replace("$log", f"'{LOG}'"))
    return home


@pytest.fixture
def learnt(home: Path, server: Server, store: redis.Redis, request: pytest.FixtureRequest) -> TrainingResult:
    create_house(store, clock_us=NOW)
    return train(home, server.url, request.param, last_cutoff=date(2020, 1, 1))


@pytest.mark.parametrize(("learnt", "least"), [(30, 0.785), (14, 0.795)], indirect=["learnt"])
def test_the_model_beats_the_reference_on_real_payments(
    learnt: TrainingResult, least: float, home: Path, server: Server
) -> None:
    assert (learnt.train_rows, learnt.test_rows) == (12_703, 5_016)
    assert (learnt.cutoffs[0], learnt.cutoffs[-1], len(learnt.cutoffs)) == ("2019-05-01", "2020-01-01", 9)
    rates = {30: (0.274, 0.219), 14: (0.375, 0.318)}[learnt.horizon_days]
    assert (learnt.train_churn_rate, learnt.test_churn_rate) == pytest.approx(rates, abs=0.0006)
    assert learnt.auc >= least
    assert learnt.auc >= learnt.auc_recency + 0.04
    assert list(learnt.ece_by_cutoff) == ["2019-12-01", "2020-01-01"]
    assert all(one.shifted <= 0.035 for one in learnt.ece_by_cutoff.values())
    if learnt.horizon_days == 30:
        assert promote(home, server.url, learnt.model_version, "a test").replaced is None
        assert ChurnRegistry(home).champion() == learnt.model_version
