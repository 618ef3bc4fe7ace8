"""Records of imported files: shared ids, unreadable records, the share of rejects, and interrupted imports."""

import csv
import gzip
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import redis
import yaml

from features.events import EVENT, micros
from features.store.deployment import House, create_house
from features.store.keys import PlayerKeys
from features.store.server import Server
from pipelines.imports import bulk, importer
from pipelines.imports.importer import ImportResult

NOON = datetime(2020, 3, 2, 12, tzinfo=UTC)
CASINO = {"product": "casino"}
ROUNDS: dict[str, Any] = {
    "player": "Player",
    "time": {"column": "When", "zone": "Europe/Malta"},
    "amount": "Amount",
    "id": "Round",
    "rules": [
        {"when": {"Kind": "stake"}, "event": "bet", "fields": CASINO},
        {"when": {"Kind": "payout"}, "event": "win", "fields": CASINO},
    ],
}
HEADER = "Player;When;Amount;Round;Kind"


@pytest.fixture
def sandbox(store: redis.Redis) -> House:
    return create_house(store, clock_us=micros(NOON))


@pytest.fixture
def home(
    server: Server,
    sandbox: House,  # noqa: ARG001 - an import needs a house
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    monkeypatch.setattr("pipelines.worker.process.FLUSH_SECONDS", 0.1)
    (tmp_path / "house").mkdir()
    return tmp_path / "house"


def said(home: Path, **changes: Any) -> Path:
    file = home.parent / "mapping.yaml"
    file.write_text(yaml.safe_dump(ROUNDS | {"delimiter": ";"} | changes), "utf8")
    return file


def written(home: Path, rows: Sequence[str], header: str = HEADER, name: str = "rows.csv") -> Path:
    file = home.parent / name
    file.write_text("\n".join([header, *rows, ""]), "utf8")
    return file


def taken(home: Path, file: Path, mapping: Path | None) -> ImportResult:
    done = importer.run(home, file, mapping=mapping, progress=False)
    assert done.records == done.rows == done.accepted + done.duplicates + done.conflicts + done.rejected
    return done


def counts(done: ImportResult) -> tuple[int, int, int, int]:
    return done.accepted, done.duplicates, done.conflicts, done.rejected


def rejected(done: ImportResult) -> list[list[str]]:
    assert done.rejects
    with Path(done.rejects).open(encoding="utf-8", newline="") as kept:
        return list(csv.reader(kept))[1:]


def in_lake(home: Path, what: str = "count(*)") -> Any:
    ((found,),) = duckdb.execute(f"SELECT {what} FROM '{home}/lake/events/*/*.parquet'").fetchall()
    return found


def day(number: int) -> str:
    return f"{NOON - timedelta(days=number):%Y-%m-%d %H:%M:%S}"


@pytest.mark.parametrize("age", [3, 300], ids=["remembered by the store", "older than that"])
def test_another_event_under_a_used_id_is_a_conflict_in_one_file_or_two(home: Path, age: int) -> None:
    stakes = [f"p{n % 3};{day(age + n)};1.50;g{n};stake" for n in range(12)]
    payouts = [f"p{n % 3};{day(age + n)};4.00;g{n};payout" for n in range(12)]
    together = taken(
        home, written(home, [row for pair in zip(stakes, payouts, strict=True) for row in pair]), said(home)
    )
    assert counts(together) == (12, 0, 12, 0)
    assert {row[2] for row in rejected(together)} == {"this event id was used before for another event"}
    assert [row[-2:] for row in rejected(together)] == [[f"g{n}", "payout"] for n in range(12)]
    apart = taken(home, written(home, payouts, name="payouts.csv"), said(home))
    assert counts(apart) == (0, 0, 12, 0)
    assert apart.refusal is not None
    assert counts(taken(home, written(home, stakes, name="stakes.csv"), said(home))) == (0, 12, 0, 0)
    assert in_lake(home) == 12


@pytest.mark.parametrize("changed", ["Amount", "When", "Kind"])
def test_whatever_differs_under_an_id_makes_a_conflict(home: Path, changed: str) -> None:
    row = {"Player": "p", "When": day(50), "Amount": "5", "Round": "g", "Kind": "stake"}
    other = row | {changed: {"Amount": "5.01", "When": day(51), "Kind": "payout"}[changed]}
    alike = row | {"Amount": "5.00"}
    lines = [";".join(one.values()) for one in (row, other, alike)]
    assert counts(taken(home, written(home, lines), said(home))) == (1, 1, 1, 0)
    assert counts(taken(home, written(home, lines[1:]), said(home))) == (0, 1, 1, 0)


def test_sealed_content_that_differs_in_a_file_is_a_conflict(home: Path) -> None:
    def registered(born: str) -> str:
        moment = (NOON - timedelta(days=90)).isoformat()
        event = {"event_id": "r", "player_id": "p", "type": "registered", "occurred_at": moment, "birth_date": born}
        return json.dumps(event)

    file = home.parent / "people.jsonl"
    file.write_text("\n".join([registered("1980-01-02"), registered("1980-01-02"), registered("1990-01-02")]), "utf8")
    assert counts(taken(home, file, None)) == (1, 1, 1, 0)


def test_a_row_of_several_events_is_one_record_with_ids_by_kind(home: Path) -> None:
    several = {
        "id": {"column": "Round", "by_kind": True},
        "rules": [
            {
                "when": {},
                "events": [
                    {"event": "bet", "amount": "Amount", "fields": CASINO},
                    {"event": "win", "amount": "Won", "fields": CASINO, "unless": {"Won": ["0", ""]}},
                    {"event": "bonus_granted", "kind": "gift", "amount": "Gift", "unless": {"Gift": ""}},
                ],
            }
        ],
    }
    rows = [f"p;{day(9)};1;a;3;", f"p;{day(9)};1;b;0;", f"p;{day(9)};1;c;;2"]
    header = "Player;When;Amount;Round;Won;Gift"
    mapping = said(home, **several)
    done = taken(home, written(home, rows, header), mapping)
    assert (counts(done), done.events) == ((3, 0, 0, 0), 5)
    assert sorted(in_lake(home, "list(event_id)")) == ["a:bet", "a:win", "b:bet", "c:bet", "c:gift"]
    more = [f"p;{day(9)};1;a;4;", f"p;{day(9)};1;b;7;", f"p;{day(9)};2;d;much;", f"p;{day(9)};1;c;;2"]
    again = taken(home, written(home, more, header), mapping)
    assert (counts(again), again.events) == ((1, 1, 1, 1), 1)  # a pays otherwise, b has a win now, d cannot be read
    assert in_lake(home) == 6


def test_a_record_with_an_event_that_only_the_store_knows_otherwise_is_left_out_whole(
    home: Path, sandbox: House, store: redis.Redis
) -> None:
    """Where the lake's files are gone, or an event came over HTTP while the import ran."""
    told = {"event_id": "a:win", "player_id": "p", "type": "win", "amount_minor": 900, "product": "casino"}
    event = EVENT.validate_json(json.dumps(told | {"occurred_at": (NOON - timedelta(days=2)).isoformat()}))
    bulk.append(store, sandbox, [bulk.Items(store, sandbox).event(event)])
    taken(home, written(home, [f"q;{day(1)};1;x;stake"]), said(home))
    shutil.rmtree(home / "lake" / "events")
    rule = {"when": {}, "events": [{"event": "bet", "fields": CASINO}, {"event": "win", "fields": CASINO}]}
    mapping = said(home, id={"column": "Round", "by_kind": True}, rules=[rule])
    done = taken(home, written(home, [f"p;{day(2)};1;a;", f"p;{day(2)};1;b;"]), mapping)
    assert (counts(done), done.events) == ((1, 0, 1, 0), 2)
    assert sorted(in_lake(home, "list(event_id)")) == ["b:bet", "b:win"]


def test_an_id_that_the_store_forgot_is_known_by_the_lake(home: Path, sandbox: House, store: redis.Redis) -> None:
    """As on day 36: the same again is once in the lake, other content under it is refused."""
    rows = [f"p;{day(1)};{n + 1};g{n};stake" for n in range(5)]
    assert counts(taken(home, written(home, rows), said(home))) == (5, 0, 0, 0)
    keys = PlayerKeys(sandbox.player_key("p"))
    assert store.delete(*(keys.seen(f"g{n}") for n in range(5))) == 5
    assert counts(taken(home, written(home, rows), said(home))) == (0, 5, 0, 0)
    assert counts(taken(home, written(home, [f"p;{day(1)};77;g0;stake"]), said(home))) == (0, 0, 1, 0)
    assert in_lake(home) == 5


def test_ids_of_a_linked_player_conflict_as_their_own(home: Path, sandbox: House, store: redis.Redis) -> None:
    linked, player = sandbox.player_key("linked"), sandbox.player_key("player")
    store.hset(f"facts:{linked}", "to", f"{player} done x")
    rows = [f"linked;{day(age)};2;g{age};stake" for age in (2, 60)]
    assert counts(taken(home, written(home, rows), said(home))) == (2, 0, 0, 0)
    other = [row.replace(";2;", ";3;") for row in rows]
    assert counts(taken(home, written(home, [*rows, *other]), said(home))) == (0, 2, 2, 0)
    theirs = [row.replace("linked", "player") for row in other]
    assert counts(taken(home, written(home, theirs), said(home))) == (2, 0, 0, 0)


def test_an_open_quote_swallows_no_row(home: Path) -> None:
    rows = [f"p;{day(n + 1)};1;g{n};stake" for n in range(25)]
    rows[4] = rows[4].replace("g4", '"g4')
    done = taken(home, written(home, rows), said(home))
    assert counts(done) == (24, 0, 0, 1)
    assert done.lines == 26
    ((number, line, reason, text),) = rejected(done)
    assert (number, line) == ("5", "6")
    assert "quote" in reason
    assert text.strip() == rows[4]


def test_noise_is_rounded_amounts_are_computed_and_blanks_separate(home: Path) -> None:
    rows = [
        f"p \t{day(1).replace(' ', 'T')}   0.1   3      g1  stake",
        f"p  {day(1).replace(' ', 'T')} 158.82999999999998 1 'g2' payout  ",
        f"p  {day(1).replace(' ', 'T')} 0.1 3 g3",
    ]
    computed = {"compute": "Amount * Times", "round": True}
    mapping = said(home, delimiter="whitespace", quote="'", amount=computed)
    done = taken(home, written(home, rows, "Player When  Amount\tTimes Round Kind"), mapping)
    assert counts(done) == (2, 0, 0, 1)
    assert in_lake(home, "list(amount_minor ORDER BY event_id)") == [30, 15883]
    strict = said(home, delimiter="whitespace", quote="'", amount="Amount")
    noisy = taken(home, written(home, rows[1:2], "Player When Amount Times Round Kind"), strict)
    assert counts(noisy) == (0, 0, 0, 1)
    assert "`round`" in rejected(noisy)[0][2]


def croupier(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", "import", "events", *map(str, arguments)]
    environment = os.environ | {"CROUPIER_HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_an_import_that_rejects_everything_fails_with_the_commonest_reason(home: Path) -> None:
    rows = [*(f"p;{day(n)};1;g{n};refund" for n in range(1, 8)), "p;yesterday;1;g9;stake"]
    ended = croupier(home, written(home, rows), "--mapping", said(home), "--json")
    assert ended.returncode == 2
    assert "croupier: no rule of the mapping matches (7 rows, line 2 first): 8 of 8 records" in ended.stderr
    assert "nothing was taken" in ended.stderr
    told = json.loads(ended.stdout)
    assert [told[name] for name in ("records", "rows", "accepted", "rejected", "events")] == [8, 8, 0, 8, 0]
    assert list(told["reasons"].values()) == [7, 1]
    good = croupier(home, written(home, [f"p;{day(1)};1;g1;stake"]), "--mapping", said(home), "--json")
    assert good.returncode == 0
    assert "croupier:" not in good.stderr
    names = {"records", "accepted", "duplicates", "conflicts", "rejected", "events", "seconds", "rows"}
    assert names <= json.loads(good.stdout).keys()


def test_too_great_a_share_of_rejects_ends_an_import_early_and_says_what_was_taken(home: Path) -> None:
    rows = [f"p;{day(1)};{'1' if n % 5 == 0 else 'much'};g{n};stake" for n in range(2_500)]
    file, mapping = written(home, rows), said(home)
    done = taken(home, file, mapping)
    assert (counts(done), done.lines) == ((200, 0, 0, 800), 1_001)
    assert done.refusal is not None
    assert "200 were taken and stay, and the file was read no further than line 1,001" in done.refusal
    assert in_lake(home) == 200
    borne = taken(home, file, said(home, max_rejected_share=0.8))
    assert (counts(borne), borne.refusal, borne.lines) == ((300, 200, 0, 2_000), None, 2_501)
    assert importer.run(home, file, mapping=mapping, max_rejected_share=0.1, progress=False).refusal is not None
    assert importer.run(home, file, mapping=mapping, max_rejected_share=0.9, progress=False).refusal is None


def test_rejects_stand_in_the_house_for_its_owner_only(home: Path) -> None:
    (home.parent / "a").mkdir()
    (home.parent / "b").mkdir()
    files = [written(home, [f"p;{day(1)};x;g{name};stake"], name=f"{name}/rows.csv") for name in ("a", "b")]
    kept = [Path(taken(home, file, said(home)).rejects or "") for file in files]
    assert len(set(kept)) == 2
    for file, one in zip(files, kept, strict=True):
        assert one.parent == home / "rejects"
        assert stat.S_IMODE(one.stat().st_mode) == 0o600
        assert [found.name for found in file.parent.iterdir()] == ["rows.csv"]
    assert stat.S_IMODE((home / "rejects").stat().st_mode) == 0o700
    written(home, [f"p;{day(1)};1;ga;stake"], name="a/rows.csv")
    taken(home, files[0], said(home))
    assert "x" not in kept[0].read_text("utf8").splitlines()[-1]


_ENDED = """
import os, signal, sys
from pipelines import __main__
from pipelines.imports import bulk, importer as imports
from pipelines.worker import consumer as ingest
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
ingest.LEASE_SECONDS = 1
imports.CHUNK_ROWS, real, calls, number = 100, bulk.append, iter(range(100)), int(sys.argv.pop())
def dies(*given):
    done = real(*given)
    if next(calls) == 5:
        os.kill(os.getpid(), number)
    return done
bulk.append = dies
__main__.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_an_import_that_is_ended_leaves_no_half_file_and_can_be_run_again(home: Path, number: int) -> None:
    rows = [f"p{n % 7};{day(40)};{'x' if n % 9 == 0 else 1};g{n};stake" for n in range(900)]
    file, mapping = written(home, rows), said(home)
    arguments = ["import", "events", str(file), "--mapping", str(mapping), str(int(number))]
    environment = os.environ | {"CROUPIER_HOME": str(home)}
    ended = subprocess.run(
        [sys.executable, "-c", _ENDED, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == (-9 if number == signal.SIGKILL else 128 + number), ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list((home / "rejects").iterdir())
    assert {one.name for one in home.parent.iterdir()} == {"house", "rows.csv", "mapping.yaml"}
    spilled = [one.name for one in home.iterdir() if one.name.startswith(("import-", "."))]
    assert len(spilled) == (1 if number == signal.SIGKILL else 0)
    done = taken(home, file, mapping)
    assert done.rejected == 100
    assert 0 < done.accepted < 800
    assert in_lake(home, "count(DISTINCT event_id)") == in_lake(home) == 800
    assert not [one.name for one in home.iterdir() if one.name.startswith(("import-", "."))]


def test_ids_that_a_spreadsheet_changed_are_warned_of_with_count_and_first_line(home: Path) -> None:
    rows = [f"p;{day(1)};1;g1;stake", f"p;{day(2)};1;1.23457E+12;stake", f"9,1E+15;{day(3)};1;g3;stake"]
    rows += [f"p;{day(4)};1;2.1e+11;stake", f"p;{day(5)};1;#N/A;stake", f"p;{day(6)};1;1e5;stake"]
    done = taken(home, written(home, rows), said(home))
    assert counts(done) == (6, 0, 0, 0)
    assert done.warnings == [
        "an id looks as if a spreadsheet had changed it, such as 1.23457E+12 (4 rows, line 3 first)"
    ]
    told = croupier(home, written(home, rows), "--mapping", said(home))
    assert told.returncode == 0
    assert "warning: an id looks as if a spreadsheet had changed it" in told.stderr


def test_a_last_line_without_an_end_is_warned_of(home: Path) -> None:
    file = home.parent / "cut.gz"
    text = f"{HEADER}\np;{day(1)};100;g1;stake\np;{day(2)};1"
    file.write_bytes(gzip.compress(text.encode()))
    done = taken(home, file, said(home))
    assert counts(done) == (1, 0, 0, 1)
    assert done.warnings == ["the last line has no end: was the file cut?"]
