"""The learner: one order over all partitions, and the same published bytes however often it is killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import redis
from conftest import Opened, app_of
from support.fault_house import until
from support.learning_log import BEGAN, CATALOGUE, DAY, Writer, grow, record
from support.schemas import ALIKE, FEWER, keep_schema, rewritten

from features.events import micros
from features.kept_schemas import Schema
from features.settings.mlflow_file import LearnerSettings
from features.store.keys import LEARNER_LEASE, bundle_key, pointer_key
from features.store.server import Server
from models.experiments.definition import Use
from models.policy.learned import PolicyVersion
from pipelines.learning import learner
from pipelines.learning.attribution import RewardTerms
from pipelines.learning.learner import LearnerProcess
from pipelines.learning.training_log import LearningLog, Training, drawn, open_training
from service.decisions.record import load_record

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
SETTINGS = LearnerSettings(batch=20, warm_up=30)
FLUSHES, DECISIONS = 6, 30


def school(lake: Path, settings: LearnerSettings = SETTINGS) -> Training:
    # A window that ends within the log, so that values are settled too.
    return Training(lake, settings, RewardTerms.read(), 0.5)


def process(server: Server, home: Path, step: Callable[[str], None] = lambda _: None) -> LearnerProcess:
    return LearnerProcess(server.url, home, school(home / "lake"), lambda _: None, step)


def serving(store: redis.Redis) -> bytes:
    digest: Any = store.get(pointer_key("policy"))
    bundle: Any = store.get(bundle_key(digest.decode()))
    assert isinstance(bundle, bytes)
    return bundle


def newest(lake: Path) -> bytes:
    """What a learner that is never disturbed arrives at."""
    whole = school(lake)
    for flush in whole.waiting():
        whole.learn(flush)
    assert whole.newest is not None
    return whole.newest.dumps()


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


class Executioner:
    """Kills a learner before its nth step."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.steps: list[str] = []

    def __call__(self, step: str) -> None:
        self.steps.append(step)
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.fixture
def always_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "CHECKPOINT_SECONDS", 0.0)


@pytest.mark.usefixtures("always_kept", "house")
def test_killed_before_any_step_and_resumed_it_publishes_the_same_bytes(
    server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    grow(lake, FLUSHES, DECISIONS)
    counted = Executioner(0)
    (tmp_path / "counted").mkdir()
    (tmp_path / "counted" / "lake").symlink_to(lake)
    process(server, tmp_path / "counted", counted).work()
    expected = serving(store)
    assert expected == newest(lake)
    for at in range(1, len(counted.steps) + 1):
        store.delete(pointer_key("policy"))
        home = tmp_path / f"killed-{at}"
        home.mkdir()
        (home / "lake").symlink_to(lake)
        store.delete(LEARNER_LEASE)
        with pytest.raises(Killed):
            process(server, home, Executioner(at)).work()
        store.delete(LEARNER_LEASE)  # it has run out
        process(server, home).work()
        assert serving(store) == expected, f"killed before step {at}, {counted.steps[at - 1]}"


def test_it_learns_the_same_from_a_lake_that_grew_under_it_as_from_one_that_was_there(tmp_path: Path) -> None:
    lake, whole = tmp_path / "lake", tmp_path / "whole"
    grow(whole, FLUSHES, DECISIONS)
    pupil = school(lake)
    for flushes in range(1, FLUSHES + 1):
        grow(lake, flushes, DECISIONS)
        for flush in pupil.waiting():
            pupil.learn(flush)
    assert pupil.newest is not None
    assert pupil.newest.dumps() == newest(whole)


def test_the_cursor_inside_a_snapshot_says_what_it_was_learnt_from(tmp_path: Path) -> None:
    grow(tmp_path, FLUSHES, DECISIONS)
    pupil = school(tmp_path)
    known: dict[str, int] = {}
    for flush in pupil.waiting():
        pupil.learn(flush)
        known[flush] = len(LearningLog(tmp_path, frozenset({"bet"})).entries(flush))
        if pupil.newest is not None:
            assert pupil.newest.cursor.flush in known
            assert 0 < pupil.newest.cursor.entries <= known[pupil.newest.cursor.flush]
    assert pupil.newest is not None


def test_a_flush_that_is_not_whole_is_not_learnt(tmp_path: Path) -> None:
    grow(tmp_path, 2, 10)
    whole = school(tmp_path).waiting()
    held = json.loads((tmp_path / "_position.json").read_text())
    (tmp_path / "_position.json").write_text(json.dumps(held | {"flushed": held["flushed"] - 1}))
    assert school(tmp_path).waiting() == whole[:1]


def test_the_order_is_that_of_store_time_partition_and_place_so_decisions_precede_their_outcomes(
    tmp_path: Path,
) -> None:
    grow(tmp_path, 1, 200)
    log = LearningLog(tmp_path, frozenset({"bet"}))
    entries = log.entries(log.flushes("0-0")[0])
    told: list[str] = []
    for entry in entries:
        if entry.table == "decisions":
            told.append(load_record(entry.columns["record"]).decision_id)
        elif entry.table == "outcomes":
            assert entry.columns["decision_id"] in told
    files = [pq.read_table(file, columns=["position", "known_at"]) for file in tmp_path.glob("*/*/*.parquet")]
    rows = [(row["position"], micros(row["known_at"])) for file in files for row in file.to_pylist()]
    keyed = [
        ((int(place[5:].partition("-")[0]), int(place[1:4]), int(place.rpartition("-")[2])), at) for place, at in rows
    ]
    assert len({key[0] for key, _ in keyed}) < len(keyed), "no two entries of this lake share a millisecond"
    assert [entry.known_us for entry in entries] == [at for _, at in sorted(keyed)]


def test_every_entry_is_read_once_also_where_a_flush_goes_over_midnight(tmp_path: Path) -> None:
    grow(tmp_path, 3 * FLUSHES, DECISIONS)
    log = LearningLog(tmp_path, frozenset({"bet"}))
    entries = [entry for flush in log.flushes("0-0") for entry in log.entries(flush)]
    for table in ("decisions", "outcomes", "events"):
        files = list((tmp_path / table).glob("*/*.parquet"))
        assert len({file.stem for file in files}) < len(files), "no flush of this lake goes over midnight"
        rows = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
        assert sum(entry.table == table for entry in entries) == rows


def test_a_decision_that_cannot_be_read_is_left_out_and_the_rest_is_learnt(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    random = np.random.default_rng(1)
    writer.add("decisions", BEGAN, player="{p001}a", decision_id="d0", record=b"\x00damaged")
    writer.decide(record("d1", "{p001}a", BEGAN, 0, random))
    writer.flush()
    pupil = school(tmp_path)
    pupil.learn(pupil.waiting()[0])
    assert (pupil.unread, pupil.open) == (1, 1)


@pytest.mark.parametrize("schema", [*ALIKE.values(), *FEWER.values()], ids=[*ALIKE, *FEWER])
def test_from_records_of_another_build_it_learns_the_same_in_the_same_lineage(tmp_path: Path, schema: Schema) -> None:
    """The later half of the lake is as a build with other features would have written it."""
    grow(tmp_path / "lake", FLUSHES, DECISIONS)
    expected, files = newest(tmp_path / "lake"), sorted((tmp_path / "lake").glob("decisions/*/*.parquet"))
    pupil = school(tmp_path / "lake")
    for flush in pupil.waiting()[: FLUSHES // 2]:
        pupil.learn(flush)
    held = pupil.checkpoint()
    rewritten(tmp_path / "lake", schema, files[len(files) // 2 :])
    keep_schema(tmp_path / "lake", schema)
    assert newest(tmp_path / "lake") == expected
    pupil = school(tmp_path / "lake")
    assert pupil.resume(held)
    for flush in pupil.waiting():
        pupil.learn(flush)
    assert pupil.newest is not None
    assert (pupil.newest.dumps(), pupil.unread) == (expected, 0)


def test_records_whose_features_have_no_names_are_left_out_and_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grow(tmp_path, 2, 20)
    files = sorted(tmp_path.glob("decisions/*/*.parquet"))
    schema = ALIKE["one more in the middle"]
    count = rewritten(tmp_path, schema, files[:1])
    pupil = school(tmp_path)
    for flush in pupil.waiting():
        pupil.learn(flush)
    assert 0 < pupil.unread <= count
    assert pupil.open
    told = capsys.readouterr().out
    assert told.count(f"the features' schema {schema.hash} is not kept") == 1


@pytest.mark.usefixtures("house", "always_kept")
def test_one_that_does_not_hold_the_lease_learns_and_keeps_nothing(
    server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    grow(tmp_path / "lake", 3, DECISIONS)
    first, second = process(server, tmp_path), process(server, tmp_path)
    first.work()
    held = (tmp_path / "learner" / "checkpoint.msgpack").read_bytes()
    grow(tmp_path / "lake", 6, DECISIONS)
    second.work()
    assert (tmp_path / "learner" / "checkpoint.msgpack").read_bytes() == held
    store.delete(LEARNER_LEASE)
    second.work()
    assert serving(store) == newest(tmp_path / "lake")


def test_other_terms_or_settings_begin_again_from_the_lake(tmp_path: Path) -> None:
    grow(tmp_path / "lake", 3, DECISIONS)
    pupil = school(tmp_path / "lake")
    for flush in pupil.waiting():
        pupil.learn(flush)
    held = pupil.checkpoint()
    other = school(tmp_path / "lake", LearnerSettings(batch=25, warm_up=30))
    assert not other.resume(held)
    assert not other.resume(b"what is this")
    assert other.waiting()
    again = school(tmp_path / "lake")
    assert again.resume(held)
    assert not again.waiting()


def test_decisions_that_were_not_drawn_among_several_teach_nothing() -> None:
    random = np.random.default_rng(1)
    one = record("d", "{p001}a", BEGAN, 0, random, contacts=0)
    assert drawn(one) is None
    held = record("d", "{p001}a", BEGAN, 3, random)
    choice = type(held.choice)(
        **{name: getattr(held.choice, name) for name in held.choice.__struct_fields__} | {"role": "priority"}
    )
    assert drawn(record("d", "{p001}a", BEGAN, 3, random, choice=choice)) is None
    assert drawn(held) is not None


def test_decisions_that_serve_for_evaluation_teach_nothing() -> None:
    """A policy is judged by them, and would be judged by what it learnt."""
    random = np.random.default_rng(1)
    found = {use: drawn(record("d", "{p001}a", BEGAN, 3, random, use=use)) for use in get_args(Use)}
    assert {use for use, one in found.items() if one is None} == {"eval"}


async def test_offered_only_harm_the_policy_of_the_next_decision_leaves_players_alone(
    store: redis.Redis, server: Server, opened: Opened, tmp_path: Path
) -> None:
    """From the lake to the pmf of a serving process: contacts that annoy lose their probability."""
    writer, random, at = Writer(tmp_path / "lake"), np.random.default_rng(5), BEGAN
    for number in range(600):
        at += DAY // 100
        place = int(random.integers(1, CATALOGUE.size)) if random.random() < 0.7 else 0
        name, player = f"000-{number:024d}", f"{{p001}}{number}"
        writer.decide(record(name, player, at, place, random))
        if place:
            writer.outcome(name, player, "confirmed", at + 1)
            if random.random() < 0.3:
                writer.outcome(name, player, "complained", at + 2)
    writer.flush()
    process(server, tmp_path).work()
    published = PolicyVersion.loads(serving(store))
    async with opened() as client:
        assert (await client.get("/readyz")).json()["policy"] == published.version
        policy = app_of(client).state.deps.serving.policies["learnt"]
    context = np.random.default_rng(6).normal(size=len(published.features))
    pmf = policy.pmf(policy.scores(context), np.ones(CATALOGUE.size, dtype=np.bool_))
    assert pmf[0] > 0.9


@pytest.mark.usefixtures("house")
def test_a_learner_process_that_is_killed_outright_goes_on_where_it_was(
    server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    grow(tmp_path / "lake", 12, 120)
    expected = open_training(tmp_path)
    for flush in expected.waiting():
        expected.learn(flush)
    assert expected.newest is not None
    wanted = expected.newest.dumps()
    environment = {**os.environ, "CROUPIER_HOME": str(tmp_path), "CROUPIER_STORE": server.url}
    environment["CROUPIER_MLFLOW"] = "http://127.0.0.1:1"  # nobody answers there: learning goes on
    command = [sys.executable, "-m", "pipelines", "learn"]
    first = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    until((tmp_path / "learner" / "checkpoint.msgpack").exists)
    first.kill()
    first.wait()
    store.delete(LEARNER_LEASE)
    second = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        until(lambda: store.exists(pointer_key("policy")) == 1 and serving(store) == wanted)
    finally:
        second.send_signal(signal.SIGTERM)
        assert second.wait(60) == 0
