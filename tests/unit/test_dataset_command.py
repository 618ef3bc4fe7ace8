"""The data set as a command, a page and three lines of Python; lakes of the first build, of others, and broken ones."""

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.dataset_page import PAGE, page
from support.decision_lakes import World
from support.learning_log import BEGAN, CATALOGUE, DAY, Writer, record
from support.schemas import FEWER, keep_schema, rewritten

from features.kept_schemas import lacking
from pipelines import __main__ as cli
from pipelines.datasets import decisions
from pipelines.datasets.columns import COLUMNS, FEATURES, SCHEMA
from pipelines.datasets.decisions import dataset
from pipelines.worker.lake import POSITION, Reach

FROZEN = Path(__file__).parents[1] / "frozen"
TOLD: dict[str, Any] = json.loads((FROZEN / "house" / "told.json").read_text("utf8"))

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = tmp_path_factory.mktemp("made") / "lake"
    lake.mkdir()
    World(3, 10).write(lake, 200)
    return lake


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that has a lake and nothing else: no store."""
    shutil.copytree(made, tmp_path / "var" / "lake")
    monkeypatch.setenv("CROUPIER_HOME", str(tmp_path / "var"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "var"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `croupier dataset`: exit code, what it printed, and what it complained."""

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["croupier", "dataset", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, told.out, told.err

    return command


def test_the_page_of_columns_is_what_the_code_declares() -> None:
    assert PAGE.read_text("utf8") == page(), "the page is of other columns: make map"
    for one in COLUMNS:
        assert f"\n| `{one.name}` | " in page()


def test_every_column_has_a_name_of_its_own_a_meaning_and_says_when_it_is_known() -> None:
    assert len(set(SCHEMA.names)) == len(COLUMNS)
    assert all(one.meaning.endswith(".") and one.known in {"at", "known_at", "end"} for one in COLUMNS)
    assert [one.name for one in FEATURES if one.known != "at"] == []


@pytest.mark.usefixtures("home")
def test_the_three_lines_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf8"), re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) == 3
    left: dict[str, Any] = {}
    exec(lines, left)  # noqa: S102 - the page's own lines
    assert left["rows"].num_rows == 200
    assert "mean" in capsys.readouterr().out


def assert_schema(found: pa.Schema) -> None:
    """That a file has the columns of the page, each with its unit, when it is known, and its meaning."""
    assert found.equals(SCHEMA)
    for one in SCHEMA:
        assert one.metadata.items() <= found.field(one.name).metadata.items()


def test_the_command_writes_what_python_gives_with_the_columns_in_its_metadata(home: Path, run: Run) -> None:
    code, printed, complained = run("--json")
    assert code == 0, complained
    told = json.loads(printed)
    file = home / "datasets" / "decisions.parquet"
    assert told["files"] == [str(file)]
    rows = pq.read_table(file)
    assert_schema(rows.schema)
    assert rows.equals(dataset(home / "lake"))
    missing = rows["reward_missing"].to_pylist()
    assert (told["rows"], told["columns"]) == (200, len(COLUMNS))
    for names in ("not_matured", "without_reward"):
        assert told[names] == {name: missing.count(name) for name in told[names]}
    assert sum({**told["not_matured"], **told["without_reward"]}.values()) == 200 - missing.count(None)
    assert told["learnt"] == sum(rows["learnt"].to_pylist())
    assert told["window_days"] == 3.0
    assert list(file.parent.iterdir()) == [file]
    assert run("--since", "2d", "--out", file)[0] == 0
    assert 0 < pq.read_metadata(file).num_rows < 200


def test_a_folder_gets_files_of_a_bounded_size(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "PER_FILE", 60)
    monkeypatch.setattr("pipelines.datasets.log.ROWS", 50)
    monkeypatch.setattr(decisions, "ROWS", 50)
    code, printed, _ = run("--out", "many", "--json")
    files = json.loads(printed)["files"]
    assert (code, len(files)) == (0, 2)
    assert pa.concat_tables([pq.read_table(one) for one in files]).equals(dataset(home / "lake"))
    assert run("--out", "many")[::2] == (
        2,
        "croupier: many holds a data set already: name another folder, or a file that ends in .parquet\n",
    )


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lake", "nowhere"], "there is no lake at nowhere"),
        (["--since", "yesterday"], "--since takes 7d, 12h or a day such as 2026-11-01, not 'yesterday'"),
        (["--until", "99999999999d"], "--until takes 7d, 12h or a day such as 2026-11-01, not '99999999999d'"),
        (["--since", "1d", "--until", "2d"], "no decision lies between 1d and 2d: they are of "),
        (["--catalogue", "none.yaml"], "none.yaml: "),
        (["--out", "/proc/none/file.parquet"], "/proc/none/file.parquet cannot be written: "),
        (["--window-days", "0"], "Invalid value for '--window-days'"),
    ],
)
def test_what_cannot_be_done_ends_with_one_sentence(run: Run, words: list[str], sentence: str) -> None:
    code, printed, complained = run(*words)
    assert (code, printed) == (2, "")
    assert sentence in complained
    assert "Traceback" not in complained


def test_files_that_are_none_are_refused_and_leave_nothing_behind(home: Path, run: Run) -> None:
    file = next((home / "lake" / "outcomes").rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-100])
    code, _, complained = run("--out", "some.parquet")
    assert code == 2
    assert "cannot be read" in complained
    assert not list(Path().glob("*some*"))


@pytest.mark.parametrize("words", [("--until", "2020-01-01"), ("--since", "2099-01-01")])
def test_a_span_beside_all_decisions_replaces_no_data_set(home: Path, run: Run, words: tuple[str, str]) -> None:
    assert run()[0] == 0
    file = home / "datasets" / "decisions.parquet"
    before = file.read_bytes()
    code, _, complaint = run(*words)
    assert (code, "no decision lies between" in complaint) == (2, True)
    assert file.read_bytes() == before


def test_a_lake_without_decisions_is_a_data_set_without_rows(home: Path) -> None:
    (home / "empty").mkdir()
    assert dataset(home / "empty").num_rows == 0


def test_half_a_flush_is_left_out(home: Path) -> None:
    whole = dataset(home / "lake")
    flushed = msgspec.json.decode((home / "lake" / POSITION).read_bytes(), type=Reach).flushed
    before = max(int(file.stem.split("-")[0]) for file in (home / "lake" / "decisions").rglob("*.parquet"))
    assert before < flushed
    (home / "lake" / POSITION).write_bytes(msgspec.json.encode(Reach(flushed=before)))
    half = dataset(home / "lake")
    assert 0 < half.num_rows < whole.num_rows
    names = set(half["decision_id"].to_pylist())
    assert names < set(whole["decision_id"].to_pylist())


# --- Records of other builds, and of catalogues that are not there


@pytest.mark.parametrize("schema", FEWER.values(), ids=FEWER)
def test_features_of_another_build_are_found_by_name_and_null_where_it_lacked_them(home: Path, schema: Any) -> None:
    today = dataset(home / "lake")
    rewritten(home / "lake", schema)
    unknown = dataset(home / "lake")
    assert unknown["deposit_count_7d"].null_count == unknown.num_rows, "its names are not kept"
    assert not any(unknown["learnt"].to_pylist())
    keep_schema(home / "lake", schema)
    there = dataset(home / "lake")
    gone = lacking(schema)
    assert gone
    for one in FEATURES:
        if one.name in gone:
            assert there[one.name].null_count == there.num_rows
        else:
            assert there[one.name].equals(today[one.name])
    assert set(there["schema_version"].to_pylist()) == {schema.hash}


def one_contact(lake: Path, **changes: Any) -> dict[str, Any]:
    """The row of a lake with one contact that was confirmed, and a bet after it."""
    writer, player = Writer(lake), "{p001}1"
    made = record("d", player, BEGAN, 5, np.random.default_rng(1))
    made = msgspec.structs.replace(made, **{name: change(made) for name, change in changes.items()})
    writer.decide(made)
    writer.outcome("d", player, "confirmed", BEGAN + 1_000)
    writer.event(player, BEGAN + DAY, type="bet", product="casino", amount_minor=10_000)
    writer.event(player, BEGAN + 9 * DAY, type="bet", product="casino", amount_minor=10_000)
    writer.flush()
    (row,) = dataset(lake).to_pylist()
    found: dict[str, Any] = row
    return found


def test_a_contact_of_a_catalogue_that_is_not_given_is_priced_by_ids_and_says_so(tmp_path: Path) -> None:
    here = one_contact(tmp_path)
    offer = next(one for one in CATALOGUE.offers if one.id == here["offer"])
    cost = offer.cost_minor + CATALOGUE.channels[here["channel"]].cost_minor
    assert (here["worth_minor"], here["cost_minor"], here["reward_minor"]) == (400.0, cost, 400.0 - cost)
    assert here["priced_by"] == here["catalogue_version"] == CATALOGUE.hash
    (tmp_path / "other").mkdir()
    other = one_contact(
        tmp_path / "other", versions=lambda made: msgspec.structs.replace(made.versions, catalogue="123456789abc")
    )
    assert (other["priced_by"], other["reward_minor"]) == (CATALOGUE.hash, here["reward_minor"])
    assert {one["offer"] for one in other["candidates"]} == {None}
    assert [one["place"] for one in other["candidates"]] == [one["place"] for one in here["candidates"]]


def test_a_contact_without_a_price_has_no_reward(tmp_path: Path) -> None:
    row = one_contact(tmp_path, action=lambda made: msgspec.structs.replace(made.action, offer="gone"))
    assert (row["reward_minor"], row["reward_missing"], row["cost_minor"]) == (None, "unpriced", None)
    assert row["worth_minor"] == 400.0


def test_what_is_no_record_has_no_row_and_is_counted(home: Path, run: Run) -> None:
    for file in (home / "lake" / "decisions").rglob("*.parquet"):
        table = pq.read_table(file, partitioning=None)
        records = [b"junk", *table["record"].to_pylist()[1:]]
        place = table.schema.get_field_index("record")
        pq.write_table(table.set_column(place, table.schema.field(place), pa.array(records, pa.binary())), file)
    files = len(list((home / "lake" / "decisions").rglob("*.parquet")))
    told = json.loads(run("--json")[1])
    assert (told["rows"], told["unreadable"]) == (200 - files, files)


# --- The first build


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The home of the frozen house of the first build, as files."""
    with tarfile.open(FROZEN / "house" / "home.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path


def words(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from words(one)


def test_the_house_of_the_first_build_is_read_with_its_names(first: Path) -> None:
    rows = dataset(first / "lake", catalogues=[first / "catalogue.yaml"], window_days=0.01).to_pylist()
    assert len(rows) == TOLD["lake"]["decisions"]
    answers = {one["answer"]["decision_id"]: one["answer"] for one in TOLD["decisions"]}
    known = [row for row in rows if row["decision_id"] in answers]
    assert len(known) > 5
    for row in known:
        answer = answers[row["decision_id"]]
        assert row["propensity"] == answer["propensity"]
        assert row["churn_score"] == (answer["churn"] and answer["churn"]["score"])
        split = [{name: one[name] for name in ("key", "variant")} for one in row["experiments"]]
        assert split == [answer["experiment"]] * (answer["experiment"] is not None)
        assert row["rules_version"] == answer["rules_version"]
    chosen = [one for row in rows for one in row["candidates"] if one["place"] == row["place"] and row["offer"]]
    assert all(one["offer"] for one in chosen)
    assert {row["use"] for row in rows} >= {"train", "control"}
    assert any(row["deposit_count"] for row in rows)


def test_no_id_of_a_caller_is_in_a_data_set(first: Path) -> None:
    said = [one["body"] for kind in ("events", "decisions", "outcomes") for one in TOLD[kind]]
    ids = {
        body[name] for body in said for name in ("player_id", "request_id", "event_id", "outcome_id") if name in body
    }
    assert {"ada", "dan"} <= ids
    told = set(words(dataset(first / "lake").to_pylist()))
    assert len(told) > 300
    assert not told & ids
    assert not {one for one in told if any(re.search(rf"\b{re.escape(name)}\b", one) for name in ids if len(name) > 3)}


@pytest.mark.parametrize("version", ["1", "2"])
def test_files_of_every_version_of_the_lake_are_read(tmp_path: Path, version: str) -> None:
    for table in ("decisions", "outcomes", "events"):
        (tmp_path / table).mkdir()
        shutil.copy(FROZEN / "readers" / "lake" / version / f"{table}.parquet", tmp_path / table)
    rows = dataset(tmp_path)
    logged = pq.read_table(tmp_path / "decisions").sort_by("decision_id")
    found = rows.sort_by("decision_id")
    for name in ("decision_id", "player", "offer", "propensity", "place", "churn_score", "harm_level", "stage"):
        assert found[name].to_pylist() == logged[name].to_pylist()
    assert all(row["candidates"] for row in rows.to_pylist())
