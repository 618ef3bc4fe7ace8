"""Imports with a real store and worker: every row accounted for, every event once, also after a kill."""

import csv
import fcntl
import gzip
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import duckdb
import pytest
import redis
import yaml
from support.workers import running

from features.events import EVENT, micros
from features.read_plan import ReadPlan
from features.schema import STORED, Kind
from features.store.bundles import publish
from features.store.connection import load_library
from features.store.deployment import House, create_house, real_now_us
from features.store.errors import StoreError
from features.store.server import Server
from pipelines.imports import bulk, follower, importer
from pipelines.imports.importer import ImportRefused, ImportResult
from pipelines.imports.mapping import SHIPPED as SHIPPED_FOLDER
from pipelines.worker.process import Worker
from service.players import facts

NOON = datetime(2020, 3, 2, 12, tzinfo=UTC)
LOG = Path(__file__).parents[2].parent / "shared" / "data" / "payments" / "online_sports_payments.csv.gz"
HEADER = ["ReqTimeUTC", "TransactionType", "TransactionAmount", "Status", "AccountIdentifier"]
SHIPPED = Path("payments_log")
WHOLE = os.environ.get("CROUPIER_IMPORTS") == "all"
ODD = {"customer1191", "customer758", "customer2288", "customer586", "customer92", "customer4930", "customer3"}
"""Players of the payments log with rows that lack a status or are repeated."""
Cells = list[str]
Held = dict[str, list[Any]]


@pytest.fixture
def home(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    monkeypatch.setattr("pipelines.worker.process.FLUSH_SECONDS", 0.1)
    monkeypatch.setattr(importer, "CHUNK_ROWS", 300)
    return tmp_path


@pytest.fixture
def sandbox(store: redis.Redis) -> House:
    return create_house(store, clock_us=micros(NOON))


@pytest.fixture
def following(
    server: Server,
    sandbox: House,  # noqa: ARG001 - a worker needs a house
    home: Path,
) -> Iterator[Worker]:
    with running(Worker(server.url, home / "lake")) as worker:
        yield worker


def rows(count: int, seed: int = 1, players: int = 23) -> list[Cells]:
    """Distinct rows like those of the payments log, the last hours of the house within reach."""
    draw = random.Random(seed)
    kinds = ["LOYALTYCARDDEBIT", "LOYALTYCARDCREDITCL", "LOYALTYCARDCREDITACH", "LOYALTYCARDCREDIT"]
    return [
        [
            (NOON - timedelta(seconds=draw.randrange(60, 400 * 86_400))).strftime("%Y-%m-%dT%H:%M:%S+0000"),
            draw.choice(kinds),
            f"{draw.randrange(100_000) / 100:g}",
            draw.choice(["APPROVED", "APPROVED", "DECLINED"]),
            f"customer{number % players}",
        ]
        for number in range(count)
    ]


def write(file: Path, cells: list[Cells]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([HEADER, *cells])
    return file


def load(home: Path, file: Path, mapping: Path | None = SHIPPED) -> ImportResult:
    done = importer.run(home, file, mapping=mapping, rejects=home / "rejects.csv", progress=False)
    assert done.records == done.rows == done.accepted + done.duplicates + done.conflicts + done.rejected
    return done


def counts(done: ImportResult) -> tuple[int, int, int]:
    return done.accepted, done.duplicates, done.rejected


def features(store: redis.Redis, house: House, plan: ReadPlan, players: set[str]) -> Held:
    def one(player: str) -> list[Any]:
        held: dict[bytes, bytes] = store.hgetall(plan.key(house.player_key(player)))  # type: ignore[assignment, arg-type]
        return list(plan.decode([held.get(name) for name in plan.fields]).values)

    return {player: one(player) for player in players}


def assert_same(found: Held, expected: Held) -> None:
    """Counts, firsts and lasts to the bit, decayed sums within 1e-9."""
    assert found.keys() == expected.keys()
    for player, values in found.items():
        for feature, value, wanted in zip(STORED, values, expected[player], strict=True):
            if feature.kind is Kind.DECAYED and value is not None:
                assert math.isclose(value, wanted, rel_tol=1e-9, abs_tol=1e-12), (player, feature.name)
            else:
                assert value == wanted, (player, feature.name)


def ask(home: Path, columns: str, where: str) -> list[tuple[Any, ...]]:
    """What the lake says of its events."""
    lake = f"{home}/lake/events/*/*.parquet"
    return duckdb.execute(f"SELECT {columns} FROM read_parquet($1) WHERE {where}", [lake]).fetchall()


def in_lake(home: Path) -> tuple[int, int]:
    """Events in the lake, and how many different ones."""
    ((rows, different),) = ask(home, "count(*), count(DISTINCT (player, event_id))", "type <> 'facts_assumed'")
    return rows, different


def logged(store: redis.Redis) -> int:
    logs: Any = store.keys("log:*")
    lengths: list[Any] = [store.xlen(key) for key in logs]
    return sum(lengths)


def players_of(cells: list[Cells]) -> set[str]:
    return {row[4] for row in cells}


def afresh(store: redis.Redis, plan: ReadPlan) -> House:
    """Another empty house in the same store."""
    store.flushall()
    load_library(store, "service.contacts", "ledger.lua")
    load_library(store, "pipelines.worker", "consume.lua")
    publish(store, "plan", plan.dumps())
    return create_house(store, clock_us=micros(NOON))


def elsewhere(home: Path, name: str) -> Path:
    (home / name).mkdir()
    return home / name


def test_every_row_is_accounted_for(home: Path, sandbox: House, store: redis.Redis, plan: ReadPlan) -> None:
    good = rows(1_000)
    odd = [
        ["2019-12-01T09:29:45+0000", "LOYALTYCARDCREDITCL", "103", "NA", "customer1"],
        ["2019-12-01T09:29:45", "LOYALTYCARDDEBIT", "103", "APPROVED", "customer1"],
        ["2019-12-01T09:29:45+0000", "LOYALTYCARDDEBIT", "1e400", "APPROVED", "customer1"],
        ["2019-12-01T09:29:45+0000", "LOYALTYCARDDEBIT", "-5", "APPROVED", "customer1"],
        ["2020-03-03T00:00:00+0000", "LOYALTYCARDDEBIT", "5", "APPROVED", "customer1"],
        ["2019-12-01T09:29:45+0000", "LOYALTYCARDDEBIT", "5", "APPROVED"],
    ]
    done = load(home, write(home / "a.csv", [*good[:500], *odd, *good[500:], good[3], good[700]]))
    assert counts(done) == (1_000, 2, 6)
    assert done.seconds > 0
    assert done.events_per_second > 0
    assert in_lake(home) == (1_000, 1_000)
    held = features(store, sandbox, plan, {"customer1"})["customer1"]
    deposits = [row for row in good if row[4] == "customer1" and row[1] == "LOYALTYCARDDEBIT" and row[3] == "APPROVED"]
    assert held[[feature.name for feature in STORED].index("deposit_count")] == len(deposits)


@pytest.mark.usefixtures("sandbox")
def test_rejected_rows_are_kept_with_number_reason_and_columns(home: Path) -> None:
    good = rows(3)
    unmatched = ["2019-12-01T09:29:45+0000", "LOYALTYCARDCREDITCL", "103", "NA", "quoted, \n name"]
    late = ["2020-03-03T00:00:00+0000", "LOYALTYCARDDEBIT", "5", "APPROVED", "customer1"]
    done = load(home, write(home / "a.csv", [good[0], unmatched, good[1], late, good[2]]))
    assert done.rejects == str(home / "rejects.csv")
    with (home / "rejects.csv").open(encoding="utf-8", newline="") as found:
        assert list(csv.reader(found)) == [
            ["row", "line", "reason", *HEADER],
            ["2", "3", "no rule of the mapping matches", *unmatched],
            ["4", "6", "occurred_at 2020-03-03T00:00:00+00:00 lies in the future of the house's clock", *late],
        ]


@pytest.mark.usefixtures("sandbox")
def test_without_rejects_no_file_is_made_and_an_old_one_is_emptied(home: Path) -> None:
    assert load(home, write(home / "a.csv", rows(3))).rejects is None
    assert not (home / "rejects.csv").exists()
    (home / "rejects.csv").write_text("row,reason\n1,old\n", "utf8")
    load(home, write(home / "a.csv", rows(3)))
    assert "old" not in (home / "rejects.csv").read_text("utf8")
    assert not list(home.glob(".*.tmp"))


def test_a_second_import_adds_nothing(home: Path, sandbox: House, store: redis.Redis, plan: ReadPlan) -> None:
    cells = rows(900)
    file = write(home / "a.csv", cells)
    first = load(home, file)
    before = features(store, sandbox, plan, players_of(cells))
    with gzip.open(home / "b", "wt", encoding="utf-8") as packed:
        packed.write(file.read_text("utf8"))
    second = load(home, home / "b")
    assert (counts(first), counts(second)) == ((900, 0, 0), (0, 900, 0))
    assert features(store, sandbox, plan, players_of(cells)) == before
    assert in_lake(home) == (900, 900)
    assert logged(store) == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_shuffled_and_half_repeated_is_the_same(
    home: Path, sandbox: House, store: redis.Redis, plan: ReadPlan, seed: int
) -> None:
    cells = rows(1_200, seed)
    assert counts(load(home, write(home / "a.csv", cells))) == (1_200, 0, 0)
    expected = features(store, sandbox, plan, players_of(cells))
    mixed = [*cells, *cells[::2]]
    random.Random(seed).shuffle(mixed)
    house = afresh(store, plan)
    assert counts(load(elsewhere(home, "other"), write(home / "b.csv", mixed))) == (1_200, 600, 0)
    assert_same(features(store, house, plan, players_of(cells)), expected)


@pytest.mark.parametrize("behind", [False, True], ids=["before the log took a chunk", "after it took it"])
def test_an_import_that_dies_midway_and_runs_again_ends_the_same(
    home: Path, sandbox: House, store: redis.Redis, plan: ReadPlan, monkeypatch: pytest.MonkeyPatch, *, behind: bool
) -> None:
    cells = rows(1_500)
    file = write(home / "a.csv", [*cells, *cells[:100]])
    load(home, file)
    expected = features(store, sandbox, plan, players_of(cells))
    house, other, calls = afresh(store, plan), elsewhere(home, "other"), iter(range(100))
    real = bulk.append

    def dies(*given: Any) -> bulk.Batch:
        at = next(calls)
        if at == 4 and not behind:
            raise KeyboardInterrupt
        done = real(*given)
        if at == 4:
            raise KeyboardInterrupt
        return done

    with monkeypatch.context() as patched:
        patched.setattr(bulk, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            load(other, file)
    done = load(other, file)
    assert 0 < done.accepted < 1_500
    assert done.rows == 1_600
    assert in_lake(other) == (1_500, 1_500)
    assert_same(features(store, house, plan, players_of(cells)), expected)


_KILLED = """
import os, signal, sys
from pathlib import Path
from threading import Thread
from pipelines.imports import bulk, importer as imports
from pipelines.worker import consumer as ingest
ingest.LEASE_SECONDS = 1
imports.CHUNK_ROWS, real, calls = 300, bulk.append, iter(range(100))
def dies(*given):
    done = real(*given)
    if next(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
bulk.append = dies
imports.run(Path(sys.argv[1]), Path(sys.argv[2]), mapping=Path("payments_log"), progress=False)
"""


def kill_midway(home: Path, file: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(home), str(file)], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr.decode()


@pytest.mark.usefixtures("following")
def test_an_import_killed_beside_a_worker_and_run_again_takes_the_rest(home: Path) -> None:
    file = write(home / "a.csv", rows(1_500))
    kill_midway(home, file)
    done = load(home, file)
    assert 0 < done.accepted < 1_500
    assert in_lake(home) == (1_500, 1_500)


@pytest.mark.usefixtures("sandbox")
def test_an_import_killed_with_its_own_worker_finds_again_what_only_the_log_holds(
    home: Path, store: redis.Redis
) -> None:
    file = write(home / "a.csv", rows(1_500))
    kill_midway(home, file)
    assert logged(store) > 300
    assert not (home / "lake" / "events").exists()
    done = load(home, file)
    assert 0 < done.accepted < 1_500
    assert in_lake(home) == (1_500, 1_500)


@pytest.mark.usefixtures("following")
def test_a_worker_that_runs_is_not_joined_by_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(*_: Any) -> Worker:
        raise AssertionError("another worker")

    monkeypatch.setattr(follower, "Worker", second)
    assert counts(load(home, write(home / "a.csv", rows(700)))) == (700, 0, 0)
    assert in_lake(home) == (700, 700)


@pytest.mark.usefixtures("sandbox")
def test_the_log_is_held_back_where_features_lag(
    home: Path, monkeypatch: pytest.MonkeyPatch, store: redis.Redis
) -> None:
    monkeypatch.setattr(importer, "AHEAD", 0)
    monkeypatch.setattr(importer, "CHUNK_ROWS", 50)
    behind: list[int] = []
    real = bulk.append

    def watched(*given: Any) -> bulk.Batch:
        lag = 0
        leases: Any = store.keys("lease:{*")
        for lease in leases:
            cursor: Any = store.hget(lease, "cursor") or b"0-0"
            entries: Any = store.xrange(f"log:{lease.decode()[6:]}", f"({cursor.decode()}")
            lag += len(entries)
        behind.append(lag)
        return real(*given)

    monkeypatch.setattr(bulk, "append", watched)
    load(home, write(home / "a.csv", rows(400)))
    assert max(behind) <= 50 + 23


@pytest.mark.usefixtures("sandbox")
def test_a_worker_that_fails_ends_the_import(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Worker) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Worker, "run", fails)
    with pytest.raises(StoreError, match="disk full"):
        load(home, write(home / "a.csv", rows(10)))


def test_what_is_assumed_are_facts_of_every_player_once(home: Path, sandbox: House, store: redis.Redis) -> None:
    cells = rows(50)
    load(home, write(home / "a.csv", cells))
    load(home, write(home / "b.csv", [*cells, *rows(50, seed=2)]))
    for player in players_of(cells):
        known = facts.read(store.hgetall(f"facts:{sandbox.player_key(player)}"), "main")  # type: ignore[arg-type]
        assert (known.jurisdiction, known.time_zone, known.kyc_verified, known.account) == ("MT", "UTC", True, "open")
        assert len(known.consent) == 5
        assert {"account", "kyc", "birth_date", "jurisdiction", "time_zone"} <= set(known.assumed)
    assert ask(home, "count(*), count(DISTINCT player)", "type = 'facts_assumed'") == [(23, 23)]
    assert ask(home, "DISTINCT time_zone", "type = 'deposit'") == [("UTC",)]


def test_only_a_sandbox_assumes(home: Path, house: House, store: redis.Redis) -> None:
    assert not house.sandbox
    file = write(home / "a.csv", rows(10))
    with pytest.raises(ImportRefused, match="sandbox"):
        load(home, file)
    assert logged(store) == 0
    plain = yaml.safe_load((SHIPPED_FOLDER / "payments_log.yaml").read_text("utf8"))
    del plain["assume"]
    (home / "plain.yaml").write_text(yaml.safe_dump(plain), "utf8")
    assert counts(load(home, file, home / "plain.yaml")) == (10, 0, 0)


@pytest.mark.usefixtures("sandbox")
def test_what_is_wrong_with_the_file_is_found_before_anything_is_appended(home: Path, store: redis.Redis) -> None:
    content = write(home / "good.csv", rows(2_000)).read_bytes()
    (home / "cut").write_bytes(gzip.compress(content)[:-9])
    (home / "header.csv").write_bytes(content.replace(b"Status", b"State", 1))
    (home / "naive.csv").write_bytes(content.replace(b"+0000", b""))
    for name, reason in (("cut", "truncated"), ("header.csv", "'Status'"), ("naive.csv", "zone"), ("none", "no file")):
        with pytest.raises(ImportRefused, match=reason):
            load(home, home / name)
    with pytest.raises(ImportRefused, match="itself"):
        importer.run(home, home / "good.csv", mapping=SHIPPED, rejects=home / "good.csv", progress=False)
    with pytest.raises(ImportRefused, match="--rejects"):
        importer.run(home, home / "good.csv", mapping=SHIPPED, rejects=home / "no" / "r.csv", progress=False)
    with pytest.raises(ImportRefused, match="directory"):
        importer.run(home, home / "good.csv", mapping=SHIPPED, rejects=home, progress=False)
    assert logged(store) == 0
    assert not list(home.glob(".*.tmp"))


@pytest.mark.usefixtures("store")
def test_without_a_house_nothing_is_imported(home: Path) -> None:
    file = write(home / "a.csv", rows(3))
    with pytest.raises(StoreError, match="no house"):
        load(home, file)
    with pytest.raises(StoreError, match="no house"):
        importer.run(home / "nowhere", file, mapping=SHIPPED, rejects=home / "r.csv", progress=False)


@pytest.mark.usefixtures("sandbox")
def test_one_import_at_a_time(home: Path) -> None:
    file = write(home / "a.csv", rows(3))
    with (home / "import.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ImportRefused, match="another import"):
            load(home, file)
    assert counts(load(home, file)) == (3, 0, 0)


@pytest.mark.usefixtures("sandbox")
def test_an_import_waits_for_one_of_history_and_not_the_other_way_round(home: Path) -> None:
    file, done = write(home / "a.csv", rows(3)), list[Any]()
    waiting = Thread(target=lambda: done.append(load(home, file)))
    with importer.alone(home, brief=True):
        waiting.start()
        waiting.join(0.5)
        assert not done
        with pytest.raises(ImportRefused, match="another import"), importer.alone(home, brief=True):
            pass
    waiting.join(60)
    assert counts(done[0]) == (3, 0, 0)
    with importer.alone(home), pytest.raises(ImportRefused, match="another import"), importer.alone(home):
        pass


def own(number: int, **fields: Any) -> dict[str, Any]:
    at = NOON - timedelta(days=number)
    event = {"event_id": f"e{number}", "player_id": "p1", "occurred_at": at.isoformat(), "type": "login"}
    return {name: value for name, value in (event | fields).items() if value is not None}


def test_our_own_events_need_no_mapping(home: Path, sandbox: House, store: redis.Redis) -> None:
    lines = [
        own(1),
        own(400, type="registered", birth_date="1980-05-17", jurisdiction="MT", time_zone="Europe/Malta"),
        own(3, type="deposit", amount_minor=500, status="approved", method="card"),
        own(1),
        own(5, occurred_at="2020-01-01T00:00:00"),
        own(6, type="jackpot"),
        own(-1),
        own(7, colour="red"),
    ]
    file = home / "events.jsonl"
    file.write_text("\n\n".join([*map(json.dumps, lines), "{"]), "utf8")
    assert counts(load(home, file, None)) == (3, 1, 5)
    with (home / "rejects.csv").open(encoding="utf-8", newline="") as found:
        rejected = list(csv.reader(found))
    assert [row[0] for row in rejected] == ["row", "5", "6", "7", "8", "9"]
    assert json.loads(rejected[1][3]) == lines[4]
    known = facts.read(store.hgetall(f"facts:{sandbox.player_key('p1')}"), "main")  # type: ignore[arg-type]
    assert known.jurisdiction == "MT"
    assert counts(load(home, file, None)) == (0, 4, 5)


def test_what_came_by_the_api_is_not_taken_again(home: Path, sandbox: House, store: redis.Redis) -> None:
    recent = EVENT.validate_json(json.dumps(own(1)))
    bulk.append(store, sandbox, [bulk.Items(store, sandbox).event(recent)])
    file = home / "events.jsonl"
    file.write_text("\n".join(json.dumps(own(number)) for number in (1, 2)), "utf8")
    assert counts(load(home, file, None)) == (1, 1, 0)
    assert in_lake(home) == (2, 2)


def test_event_ids_of_a_linked_id_are_its_own(home: Path, sandbox: House, store: redis.Redis) -> None:
    """They are known again however old, and the player's own event of the same id is another."""
    linked, player = sandbox.player_key("linked"), sandbox.player_key("player")
    store.hset(f"facts:{linked}", "to", f"{player} done x")
    old = (NOON - timedelta(days=60)).isoformat()

    def written(name: str, who: str, type_: str, count: int) -> Path:
        (home / name).write_text(
            "".join(
                json.dumps({"event_id": f"e{n}", "player_id": who, "type": type_, "occurred_at": old}) + "\n"
                for n in range(count)
            )
        )
        return home / name

    theirs, own_ = written("theirs.jsonl", "linked", "login", 3), written("own.jsonl", "player", "self_excluded", 1)
    assert counts(load(home, theirs, None)) == (3, 0, 0)
    assert counts(load(home, own_, None)) == (1, 0, 0)
    assert store.hget(f"facts:{player}", "exclusion:*") is not None
    assert counts(load(home, theirs, None)) == (0, 3, 0)
    assert counts(load(home, own_, None)) == (0, 1, 0)


def test_the_house_clock_says_what_lies_in_the_future(home: Path, sandbox: House, store: redis.Redis) -> None:
    now = sandbox.now_us(real_now_us(store))
    assert abs(now - micros(NOON)) < 600_000_000
    file = home / "events.jsonl"
    soon = (NOON + timedelta(hours=1)).isoformat()
    file.write_text("\n".join(json.dumps(event) for event in (own(1), own(2, occurred_at=soon))), "utf8")
    assert counts(load(home, file, None)) == (1, 0, 1)


def test_a_moment_that_cannot_be_is_taken_of_what_restricts_only(
    home: Path, sandbox: House, store: redis.Redis
) -> None:
    never = "0001-01-01T00:00:00Z"
    lines = [
        own(1, type="consent_changed", channel="email", granted=True, occurred_at=never),
        own(2, type="consent_changed", channel="sms", granted=False, occurred_at=never),
        own(3, type="register_checked", register_name="rofus", listed=False, occurred_at=never),
        own(4, type="self_excluded", occurred_at=never),
    ]
    file = home / "events.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), "utf8")
    assert counts(load(home, file, None)) == (2, 0, 2)
    known = facts.read(store.hgetall(f"facts:{sandbox.player_key('p1')}"), "main")  # type: ignore[arg-type]
    assert [(channel, consent.granted) for channel, consent in known.consent.items()] == [(("sms", "*"), False)]
    assert known.excluded_us is not None
    assert known.registers == {}


def test_what_restricts_and_came_by_the_api_from_a_clock_ahead_is_not_taken_again(
    home: Path, sandbox: House, store: redis.Redis
) -> None:
    """Nor is it another event once only the lake remembers its id."""
    soon = (NOON + timedelta(minutes=10)).isoformat()
    lines = [own(1, type="self_excluded", occurred_at=soon), own(2, type="time_out", until=soon, occurred_at=soon)]
    items = bulk.Items(store, sandbox)
    bulk.append(store, sandbox, [items.event(EVENT.validate_json(json.dumps(line))) for line in lines])
    file = home / "events.jsonl"
    file.write_text("\n".join(map(json.dumps, [*lines, own(3)])), "utf8")
    assert counts(load(home, file, None)) == (1, 2, 0)
    store.delete(*store.keys("seen:*"))  # type: ignore[misc]
    assert counts(load(home, file, None)) == (0, 3, 0)


def real_rows() -> list[Cells]:
    """Rows of the payments log: of its odd players, and of a tenth or a hundredth of the others."""
    with gzip.open(LOG, "rt", encoding="utf-8", newline="") as log:
        return [row for row in csv.reader(log) if row[4] in ODD or row[4].endswith("7" if WHOLE else "77")]


@pytest.mark.skipif(not LOG.exists(), reason=f"the payments log is not at {LOG} (Mendeley Data 10.17632/9j5gcygnwg.1)")
def test_the_real_log(
    home: Path, sandbox: House, store: redis.Redis, plan: ReadPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its rows 6 have no status (5 of them repeat the first), and 11 of the others are repeated."""
    some = real_rows()
    rows, log = (447_853, LOG) if WHOLE else (7_866, write(home / "log.csv", some))
    monkeypatch.setattr(importer, "CHUNK_ROWS", 20_000 if WHOLE else 1_500)
    monkeypatch.setattr("pipelines.worker.process.FLUSH_SECONDS", 5.0 if WHOLE else 0.5)
    assert counts(load(home, log)) == (rows - 17, 11, 6)
    assert in_lake(home) == (rows - 17, rows - 17)
    expected = features(store, sandbox, plan, players_of(some))
    assert counts(load(home, log)) == (0, rows - 6, 6)
    assert features(store, sandbox, plan, players_of(some)) == expected
    mixed = [*some, *some[::2]]
    random.Random(7).shuffle(mixed)
    house = afresh(store, plan)
    load(elsewhere(home, "other"), write(home / "mixed.csv", mixed))
    assert_same(features(store, house, plan, players_of(some)), expected)
