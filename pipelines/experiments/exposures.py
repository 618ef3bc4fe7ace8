"""Exposures of an experiment: one row per player with what they did after, read from the lake.

Everybody who was asked about enters at their first decision, contacted or not (intention to treat), and is
followed for the same number of days. What did not happen is 0, never missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import duckdb
import msgspec
import pandas as pd
import pyarrow as pa

from features.lake.files import table_files, unmoved
from models.catalogue.offers import Catalogue
from pipelines.experiments.harm_points import harm_fifths
from pipelines.experiments.metrics import BACK_AFTER, Metric
from pipelines.experiments.own_metrics import OwnMetric, columns_over
from pipelines.experiments.refusals import ReportRefused
from pipelines.worker.lake import SCHEMAS
from service.players.harm import HarmSettings

DAY_US: Final = 86_400_000_000
BEFORE_DAYS: Final = 28
"""Days before the first decision whose money serves as covariate."""

_ASSIGNED: Final = """
    CREATE VIEW assigned AS
    WITH members AS (
        SELECT player, decision_id, "at", role, record, catalogue_version, churn_score, harm_level, stage,
            unnest(experiments) AS member FROM decisions
        WHERE experiments IS NOT NULL
        UNION ALL
        SELECT player, decision_id, "at", role, record, catalogue_version, churn_score, harm_level, stage,
            {'key': experiment, 'version': '', 'phase': 1, 'variant': variant, 'bucket': NULL} FROM decisions
        WHERE experiments IS NULL AND experiment IS NOT NULL
    )
    SELECT player, decision_id, "at", role, record, churn_score, harm_level, stage,
        member.key AS experiment, member.variant AS variant,
        coalesce(nullif(member.version, ''), catalogue_version, 'none') AS split,
        CASE WHEN coalesce(member.version, '') = '' THEN split ELSE 'phase ' || member.phase END AS phase
    FROM members
    WHERE role IN ('drawn', 'lost', 'holdout')
"""
"""Decisions by the experiments that the player was in; `split` is what split them, a release or a catalogue."""
_EXPERIMENTS: Final = """
    SELECT experiment FROM assigned GROUP BY experiment ORDER BY max("at") DESC, experiment
"""
_EXPOSED: Final = """
    CREATE TABLE exposed AS
    WITH mine AS (
        SELECT player, phase, variant, split, epoch_us("at") AS us, churn_score, harm_level, stage,
            {'at': "at", 'id': decision_id} AS place
        FROM assigned WHERE experiment = $experiment
    ), phases AS (
        SELECT player, phase, count(DISTINCT variant) AS variants FROM mine GROUP BY player, phase
    ), crossed AS (SELECT player, max(variants) AS variants FROM phases GROUP BY player)
    SELECT player,
        arg_min(variant, place) AS variant,
        arg_min(split, place) AS split,
        min(place).id AS first_decision,
        min(us) AS first_us,
        any_value(crossed.variants) AS variants,
        any_value(crossed.variants) = 1 AND count(DISTINCT variant) > 1 AS moved,
        arg_min_null(churn_score, place) AS churn_score,
        arg_min_null(harm_level, place) AS harm_level,
        arg_min_null(stage, place) AS stage
    FROM mine JOIN crossed USING (player) GROUP BY player
"""
"""Players by their first decision; by intention to treat, so whom the global holdout silences is among them."""
_REACH: Final = """
    WITH last AS (SELECT max("at") AS latest FROM decisions),
    met AS (
        SELECT player, min(date_diff('day', "at", latest)) AS days_ago
        FROM decisions, last WHERE role IN ('drawn', 'lost', 'holdout') GROUP BY player
    )
    SELECT days_ago + 1, sum(count(*)) OVER (ORDER BY days_ago) FROM met GROUP BY days_ago ORDER BY days_ago
"""
_DONE: Final = """
    CREATE TABLE done AS
    WITH own AS (
        SELECT player, type, night, first_us,
            epoch_us(coalesce(counts_at, occurred_at)) AS us, us >= first_us AS after,
            type = 'deposit' AND status = 'approved' AND coalesce(target, 'account') = 'account' AS deposited,
            CASE WHEN deposited THEN amount_minor WHEN type = 'chargeback' THEN -amount_minor ELSE 0 END AS paid_minor,
            CASE WHEN type = 'bet' THEN amount_minor
                WHEN type IN ('win', 'bet_settled', 'bet_cancelled') THEN -amount_minor ELSE 0 END AS revenue_minor,
            type = 'limit_set' AND status IN ('set', 'lowered') AS limited,
            type = 'self_excluded' AS excluded,
            type IN ('self_excluded', 'time_out')
                OR limited
                OR type = 'support_contact'
                AND list_contains(list_transform(json_extract_string(detail::VARCHAR, '$.tags[*]'),
                    lambda tag: lower(trim(tag))), 'harm') AS harmed
        FROM events JOIN exposed USING (player)
        WHERE us >= first_us - $before_us AND epoch_us(occurred_at) < first_us + $window_us
            AND after = (epoch_us(occurred_at) >= first_us)
    )
    SELECT player,
        max(us) FILTER (after AND deposited) AS deposited_us,
        bool_or(after AND limited) AS limited,
        bool_or(after AND excluded) AS self_excluded,
        bool_or(after AND type = 'bet' AND night) AS night_play,
        bool_or(us >= first_us + $retained_us AND (deposited OR type = 'bet')) AS retained,
        sum(paid_minor) FILTER (after) AS deposits_minor,
        sum(revenue_minor) FILTER (after) AS revenue_minor,
        sum(paid_minor) FILTER (NOT after) AS before_deposits_minor,
        sum(revenue_minor) FILTER (NOT after) AS before_net_revenue_minor,
        coalesce(bool_or(after AND harmed), false) AS harm
    FROM own GROUP BY player
"""
_CONTACTED: Final = """
    CREATE TABLE contacted AS
    WITH confirmed AS (
        SELECT player, decision_id, offer, channel, epoch_us(occurred_at) AS us FROM outcomes WHERE type = 'confirmed'
        UNION ALL
        SELECT player, decision_id, offer, channel, epoch_us("at") FROM decisions WHERE activated AND offer IS NOT NULL
    )
    SELECT player, decision_id, min(offer) AS offer, min(channel) AS channel, min(us) AS contact_us
    FROM confirmed JOIN exposed USING (player)
    WHERE us >= first_us AND us < first_us + $window_us
        AND NOT EXISTS (FROM outcomes o
            WHERE o.decision_id = confirmed.decision_id AND o.type IN ('failed', 'cancelled'))
        AND NOT EXISTS (FROM decisions d
            WHERE d.decision_id = confirmed.decision_id AND d.purpose NOT IN ('marketing', 'bonus'))
    GROUP BY player, decision_id
"""
_PLAYERS: Final = """
    WITH sent AS (
        SELECT player, count(*) AS contacts, sum(cost_minor) AS cost_minor
        FROM contacted LEFT JOIN costs ON kind = 'channel' AND name = channel GROUP BY player
    ), played AS (
        SELECT player, epoch_us(occurred_at) AS us FROM events JOIN exposed USING (player)
        WHERE type = 'bet' OR type = 'deposit' AND status = 'approved' AND coalesce(target, 'account') = 'account'
    ), taken AS (
        SELECT player, sum(cost_minor) AS cost_minor
        FROM contacted JOIN costs ON kind = 'offer' AND name = offer
        WHERE EXISTS (FROM played
            WHERE played.player = contacted.player AND us > contact_us AND us <= contact_us + $taken_us)
        GROUP BY player
    ), opted_out AS (
        SELECT player, type, occurred_at FROM outcomes WHERE type IN ('unsubscribed', 'complained')
        UNION ALL
        SELECT player, type, occurred_at FROM events
        WHERE type = 'consent_changed' AND json_extract_string(detail::VARCHAR, '$.granted') = 'false'
    ), left_us AS (
        SELECT player, bool_or(type = 'complained') AS complained FROM opted_out JOIN exposed USING (player)
        WHERE epoch_us(occurred_at) >= first_us AND epoch_us(occurred_at) < first_us + $window_us
        GROUP BY player
    )
    SELECT exposed.* EXCLUDE (first_decision),
        (deposited_us IS NOT NULL)::BIGINT AS conversion,
        coalesce(deposits_minor, 0)::BIGINT AS deposits_minor,
        (coalesce(revenue_minor, 0) - coalesce(sent.cost_minor, 0) - coalesce(taken.cost_minor, 0))::BIGINT
            AS net_revenue_minor,
        (coalesce(sent.cost_minor, 0) + coalesce(taken.cost_minor, 0))::BIGINT AS cost_minor,
        coalesce(contacts, 0)::BIGINT AS contacts,
        (left_us.player IS NOT NULL)::BIGINT AS unsubscribed,
        coalesce(left_us.complained, false)::BIGINT AS complained,
        coalesce(limited, false)::BIGINT AS limited,
        coalesce(self_excluded, false)::BIGINT AS self_excluded,
        coalesce(night_play, false)::BIGINT AS night_play,
        coalesce(retained, false)::BIGINT AS retained,
        coalesce(harm, false)::BIGINT AS harm,
        coalesce(before_deposits_minor, 0)::BIGINT AS before_deposits_minor,
        coalesce(before_net_revenue_minor, 0)::BIGINT AS before_net_revenue_minor
    FROM exposed LEFT JOIN done USING (player) LEFT JOIN sent USING (player) LEFT JOIN taken USING (player)
        LEFT JOIN left_us USING (player)
    ORDER BY player
"""
_DAILY: Final = """
    WITH places AS (SELECT player, first_us, row_number() OVER (ORDER BY player) - 1 AS place FROM exposed),
    money AS (
        SELECT place, epoch_us(coalesce(counts_at, occurred_at)) AS us, first_us,
            CASE WHEN $bets THEN
                CASE WHEN type = 'bet' THEN amount_minor
                    WHEN type IN ('win', 'bet_settled', 'bet_cancelled') THEN -amount_minor ELSE 0 END
            ELSE
                CASE WHEN type = 'deposit' AND status = 'approved' AND coalesce(target, 'account') = 'account'
                    THEN amount_minor WHEN type = 'chargeback' THEN -amount_minor ELSE 0 END
            END AS value
        FROM events JOIN places USING (player)
    )
    SELECT place, (us - first_us) // $day_us AS day, sum(value)::DOUBLE AS value FROM money
    WHERE us >= first_us AND us < first_us + $window_us AND value <> 0 GROUP BY ALL ORDER BY ALL
"""
"""Money of each player on each day since the first decision on which there was any, costs not taken off."""
_ONCE: Final = {
    "events": "player, event_id",
    "decisions": "decision_id",
    "outcomes": "player, decision_id, type, outcome_id, occurred_at",
}
"""What a row of each table is known by; further ones of the same are duplicates."""
_UNPRICED: Final = """
    SELECT count(*) FROM contacted
    WHERE offer NOT IN (SELECT name FROM costs WHERE kind = 'offer')
        OR channel NOT IN (SELECT name FROM costs WHERE kind = 'channel')
"""
_TELLS: Final = """
    SELECT (SELECT count(*) FROM outcomes) + (SELECT count(activated) FROM decisions)
"""
_LATEST: Final = """
    SELECT max(epoch_us(moment)) FROM (
        SELECT coalesce(known_at, "at") AS moment FROM decisions
        UNION ALL SELECT coalesce(known_at, occurred_at) FROM events
        UNION ALL SELECT coalesce(known_at, occurred_at) FROM outcomes)
"""
_RECORDS: Final = """
    SELECT variant, record FROM assigned
    WHERE role IN ('drawn', 'lost') AND experiment = $experiment AND octet_length(record) > 0
    ORDER BY decision_id
"""


_NANOSECONDS: Final = "TIMESTAMPTZ_NS"
"""Type of moments as pandas writes them; the lake's are microseconds."""
_MOMENTS: Final = frozenset({"TIMESTAMP WITH TIME ZONE", _NANOSECONDS})


class Costs(msgspec.Struct, frozen=True):
    """Cost of a taken offer and of a contact on a channel, minor units by id.

    An offer counts as taken if the player bets or deposits within `taken_days` after the contact, as in the reward.
    """

    offers: Mapping[str, int]
    channels: Mapping[str, int]
    taken_days: float
    currency: str = ""

    @classmethod
    def of(cls, catalogue: Catalogue, taken_days: float) -> Self:
        """Costs of a catalogue."""
        return cls(
            {offer.id: offer.cost_minor for offer in catalogue.offers},
            {channel: terms.cost_minor for channel, terms in catalogue.channels.items()},
            taken_days,
            catalogue.currency,
        )

    def frame(self) -> pd.DataFrame:
        """Costs as a frame with the columns `kind`, `name` and `cost_minor`."""
        offers = [("offer", name, cost) for name, cost in self.offers.items()]
        channels = [("channel", name, cost) for name, cost in self.channels.items()]
        return pd.DataFrame(offers + channels, columns=["kind", "name", "cost_minor"])


class Exposures(msgspec.Struct, frozen=True, kw_only=True):
    """Players of one experiment.

    Attributes:
        experiment: Key of the experiment.
        others: Keys of the other experiments in the lake.
        players: One row per player, sorted: `player`, `variant` and `split` (hash of what split them) of the first
            decision, `first_us` (unix microseconds, UTC), `variants` (how many of one phase the player was seen in),
            what was known then (`churn_score`, `harm_level`, `harm_fifth`, `stage`), and over the window from there on:
            `conversion`, `retained` (played or deposited in its last quarter) and the guardrails (0 or 1), `contacts`,
            `deposits_minor`, `net_revenue_minor`, `cost_minor`, and over the 28 days before:
            `before_deposits_minor`, `before_net_revenue_minor`.
        window_days: Length of the window.
        has_bets: Whether the lake holds any bet: without one there is no net revenue.
        unpriced: Contacts whose offer or channel has no known cost; they count as free.
        latest_us: When the newest entry of the lake became known, unix microseconds.
        duplicates: Rows of each table whose id was there already.
        moved: Players who changed their variant when shares were changed; they count in the first one.
        daily: Money by `place` of the player in `players`, and `day` since the first decision.
        metrics: Further metrics whose columns `players` has.
        currency: Of all money.
        own: Declarations of metrics of one's own, as JSON.
        tells_contacts: Whether the lake says of anything whether it was confirmed; somebody else's may say nothing.
    """

    experiment: str
    others: list[str]
    players: pd.DataFrame
    window_days: int
    has_bets: bool
    unpriced: int
    latest_us: int
    duplicates: Mapping[str, int] = {}
    moved: int = 0
    daily: pd.DataFrame | None = None
    metrics: tuple[Metric, ...] = ()
    currency: str = ""
    own: tuple[str, ...] = ()
    tells_contacts: bool = True


@contextmanager
def opened(lake: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connection with the views `decisions`, `events` and `outcomes` of a lake; missing files are empty views.

    Raises:
        ReportRefused: A file cannot be read, or holds times without a zone.
    """
    with unmoved(lake), duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table, schema in SCHEMAS.items():
            _view(connection, lake, table, schema)
        connection.execute(_ASSIGNED)
        yield connection


def _view(connection: duckdb.DuckDBPyConnection, lake: Path, table: str, schema: pa.Schema) -> None:
    # Columns that somebody else's files lack are null, as in the lake's own older files.
    relation = connection.from_arrow(schema.empty_table())
    if found := [str(file) for file in table_files(lake, table)]:
        try:
            files = connection.read_parquet(found, union_by_name=True, hive_partitioning=False)
        except duckdb.Error as error:
            raise ReportRefused(f"the files of {lake / table} cannot be read: {error}") from error
        moment = "at" if table == "decisions" else "occurred_at"
        types = dict(zip(files.columns, map(str, files.types), strict=True))
        if types.get(moment) not in _MOMENTS:
            raise ReportRefused(f"the column {moment} of {lake / table} must hold moments with a time zone")
        relation.create_view(f"no_{table}")
        fine = [name for name, kind in types.items() if kind == _NANOSECONDS]
        cast = ", ".join(f'CAST("{name}" AS TIMESTAMPTZ) AS "{name}"' for name in fine)
        (files.project(f"* REPLACE ({cast})") if fine else files).create_view(f"files_{table}")
        try:
            relation = connection.sql(f"FROM no_{table} UNION ALL BY NAME FROM files_{table}")
        except duckdb.Error as error:
            raise ReportRefused(f"columns of {lake / table} are of other types than the lake's: {error}") from error
    relation.create_view(table)


def exposures(
    connection: duckdb.DuckDBPyConnection,
    costs: Costs,
    window_days: int,
    experiment: str | None = None,
    own: Sequence[OwnMetric] = (),
    harm: HarmSettings | None = None,
) -> Exposures:
    """Players of an experiment with what they did in the window.

    Args:
        connection: As `opened` gave it; used once.
        costs: Prices of contacts.
        window_days: Days from the first decision that count, at least 1.
        experiment: Key; None takes the one that decided last.
        own: Metrics of one's own.
        harm: What makes points of harm, for the segment of their fifths; None leaves it out.

    Raises:
        ReportRefused: No such decisions, or a metric that cannot be read.
    """
    keys = [key for (key,) in connection.execute(_EXPERIMENTS).fetchall()]
    if not keys:
        raise ReportRefused("the lake holds no decision of an experiment yet, so there is nothing to report")
    chosen = keys[0] if experiment is None else experiment
    if chosen not in keys:
        raise ReportRefused(f"the lake holds no decision of {chosen}, only of {', '.join(keys)}")
    duplicates = _once(connection)
    window = {"window_us": window_days * DAY_US}
    connection.register("costs", costs.frame())
    connection.execute(_EXPOSED, {"experiment": chosen})
    retained = {"retained_us": int(window_days * DAY_US * BACK_AFTER)}
    connection.execute(_DONE, window | retained | {"before_us": BEFORE_DAYS * DAY_US})
    connection.execute(_CONTACTED, window)
    has_bets = bool(_number(connection, "SELECT count(*) FROM events WHERE type = 'bet'"))
    daily = connection.execute(_DAILY, window | {"day_us": DAY_US, "bets": has_bets}).df()
    players = connection.execute(_PLAYERS, window | {"taken_us": int(costs.taken_days * DAY_US)}).df()
    if harm is not None:
        players["harm_fifth"] = harm_fifths(connection, players["player"], harm)
    if own:
        players = columns_over(connection, players, own, window_days, BEFORE_DAYS, costs.currency)
    return Exposures(
        experiment=chosen,
        others=sorted(set(keys) - {chosen}),
        daily=daily,
        players=players,
        metrics=tuple(one.metric for one in own),
        own=tuple(one.model_dump_json() for one in own),
        window_days=window_days,
        has_bets=has_bets,
        duplicates=duplicates,
        moved=_number(connection, "SELECT count(*) FROM exposed WHERE moved"),
        currency=costs.currency,
        tells_contacts=bool(_number(connection, _TELLS)),
        unpriced=_number(connection, _UNPRICED),
        latest_us=_number(connection, _LATEST),
    )


def _once(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Let every row of the lake count once, however often it stands there; numbers of the others by table.

    An event that was told twice under one id is one, whatever its second telling says.
    """
    found = {}
    for table, key in _ONCE.items():
        more = _number(connection, f"SELECT count(*) - count(DISTINCT ({key})) FROM {table}")  # noqa: S608 - our own names
        if more:
            found[table] = more
            connection.execute(
                f"CREATE TABLE once_{table} AS SELECT DISTINCT ON ({key}) * FROM {table} ORDER BY {key}"  # noqa: S608 - our own names
            )
            connection.execute(f"CREATE OR REPLACE VIEW {table} AS FROM once_{table}")
    return found


def _number(connection: duckdb.DuckDBPyConnection, question: str) -> int:
    rows = connection.execute(question).fetchall()
    return int(rows[0][0] or 0) if rows else 0


def met_within(connection: duckdb.DuckDBPyConnection) -> list[tuple[int, int]]:
    """Days, and the players who were decided about within so many days before the last decision, the fewest first."""
    return [(int(days), int(players)) for days, players in connection.execute(_REACH).fetchall()]


def records(connection: duckdb.DuckDBPyConnection, experiment: str) -> Iterator[tuple[str, bytes]]:
    """Variant and record of an experiment's drawn decisions, by decision id."""
    asked = connection.execute(_RECORDS, {"experiment": experiment})
    while rows := asked.fetchmany(10_000):
        yield from rows
