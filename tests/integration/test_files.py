"""Import of generated files into a real store: every line, record and event is accounted for."""

import csv
import gzip
import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest
import redis
import yaml
from support.workers import running

from features.events import micros
from features.store.deployment import create_house
from features.store.server import Server
from pipelines.imports import importer
from pipelines.imports.columns import EventMapping
from pipelines.imports.importer import ImportRefused, ImportResult
from pipelines.imports.rows import Source
from pipelines.worker.process import Worker

NOON = datetime(2020, 3, 2, 12, tzinfo=UTC)
PARTS = 4
FILES = 500 if os.environ.get("CROUPIER_IMPORTS") == "all" else 30
"""Files of each part."""
HEADER = ["who", "at", "sum", "won", "ref", "kind", "note"]
Cells = list[str]


class Written(NamedTuple):
    """A file, its mapping, and what should become of its records (None where it was cut)."""

    content: bytes
    mapping: dict[str, Any]
    text: str
    expected: Counter[str] | None
    events: int


class Style(NamedTuple):
    """How a file is written."""

    delimiter: str
    quote: str
    encoding: str
    end: str
    packed: bool
    objects: bool
    named: str | None


def style(draw: random.Random) -> Style:
    encoding, named = draw.choice(
        [("utf-8", None), ("utf-8-sig", None), ("utf-16", None), ("utf-16-le", "utf-16-le"), ("latin-1", "latin-1")]
    )
    return Style(
        draw.choice([",", ",", ";", "\t", "|", "whitespace"]),
        draw.choice(['"', '"', "'"]),
        encoding,
        draw.choice(["\n", "\r\n", "\r"]),
        draw.random() < 0.3,
        draw.random() < 0.2,
        named,
    )


def mapping(how: Style) -> dict[str, Any]:
    said = {"encoding": how.named} if how.named else {}
    return said | {
        "delimiter": how.delimiter,
        "quote": how.quote,
        "player": "who",
        "time": "at",
        "id": {"column": "ref", "by_kind": True},
        "amount": "sum",
        "rules": [
            {"when": {"kind": "in"}, "event": "deposit", "fields": {"status": "approved", "method": "card"}},
            {"when": {"kind": "bet"}, "event": "bet", "fields": {"product": "casino"}},
            {
                "when": {"kind": "round"},
                "events": [
                    {"event": "bet", "fields": {"product": "casino"}},
                    {"event": "win", "fields": {"product": "casino"}, "amount": "won"},
                ],
            },
        ],
    }


class Rows:
    """Rows of a file, and a plain model of what is known by them."""

    def __init__(self, draw: random.Random, name: str, how: Style) -> None:
        self._draw, self._name, self._how = draw, name, how
        self._known: dict[tuple[str, str], tuple[str, str]] = {}
        self._good: list[Cells] = []
        self.expected = Counter[str]()
        self.events = 0
        self.bad = draw.choice([0.05, 0.2, 0.7])

    def row(self, number: int) -> Cells:
        draw = self._draw
        if self._good and draw.random() < 0.4:
            cells = list(draw.choice(self._good))
            if draw.random() < 0.5:
                cells[draw.choice([2, 3])] = str(draw.randrange(1, 5))
            if draw.random() < 0.3:
                cells[5] = draw.choice(["bet", "round"])
        else:
            at = (NOON - timedelta(minutes=draw.randrange(1, 400_000))).strftime("%Y-%m-%dT%H:%M:%SZ")
            amounts = [str(draw.randrange(1, 5)), str(draw.randrange(1, 5))]
            kind = draw.choice(["in", "bet", "round"])
            cells = [f"p{draw.randrange(4)}", at, *amounts, f"{self._name}-{number}", kind, ""]
        cells[6] = self._note()
        if draw.random() < self.bad:
            place, wrong = draw.choice([(0, "{no}"), (1, "yesterday"), (2, "much"), (5, "refund")])
            cells[place] = wrong
        self._judge(cells)
        return cells

    def _note(self) -> str:
        plain = ["fine", "Zoë said so", "x" * 300]
        marks = [f"a {self._how.quote}mark{self._how.quote}", f"a{self._how.delimiter}b"]
        over = [] if self._how.delimiter == "whitespace" else [f"two{self._how.end}lines", "a\n\nb"]
        return self._draw.choice([*plain, *marks, *over])

    def _judge(self, cells: Cells) -> None:
        who, at, stake, won, ref, kind, _ = cells
        made = {"in": [("deposit", stake)], "bet": [("bet", stake)], "round": [("bet", stake), ("win", won)]}.get(kind)
        if made is None or who == "{no}" or at == "yesterday" or stake == "much":
            self.expected["rejected"] += 1
            return
        told = {(who, f"{ref}:{event}"): (at, amount) for event, amount in made}
        if any(self._known.get(key, content) != content for key, content in told.items()):
            self.expected["conflicts"] += 1
            return
        fresh = told.keys() - self._known.keys()
        self._known |= told
        self._good.append(cells)
        self.events += len(fresh)
        self.expected["accepted" if fresh else "duplicates"] += 1


def line(cells: Cells, how: Style, draw: random.Random) -> str:
    if how.objects:
        return json.dumps(dict(zip(HEADER, cells, strict=True)), ensure_ascii=False)
    between = draw.choice([" ", "   ", "\t "]) if how.delimiter == "whitespace" else how.delimiter
    special = (how.quote, "\r", "\n", *(" \t" if how.delimiter == "whitespace" else how.delimiter))
    return between.join(
        how.quote + cell.replace(how.quote, how.quote * 2) + how.quote if any(one in cell for one in special) else cell
        for cell in cells
    )


def written(seed: int) -> Written:
    draw = random.Random(seed)
    how = style(draw)
    rows = Rows(draw, f"f{seed}", how)
    lines = [] if how.objects else [line(HEADER, how, draw)]
    for number in range(draw.randrange(1, 60)):
        cells = rows.row(number)
        lines.append(line(cells, how, draw))
        if draw.random() < 0.1:
            lines.append("")
        if draw.random() < 0.1:
            rows.expected["rejected"] += 1
            lines.append("{" if how.objects else draw.choice([f"p1,{how.quote}open", f"p1 {how.quote}open", "short"]))
            if not how.objects and how.quote in lines[-1]:
                lines[-1] = line(cells[:6], how, draw) + (how.delimiter[:1] if len(how.delimiter) == 1 else " ")
                lines[-1] += f"{how.quote}never closed"
    text = how.end.join(lines) + (how.end if draw.random() < 0.8 else "")
    content = text.encode(how.encoding)
    cut = draw.random() < 0.3
    if cut:
        content = content[: draw.randrange(1, len(content))]
    text = content.decode(how.encoding, errors="replace").removeprefix("\ufeff")
    packed = gzip.compress(content) if how.packed else content
    return Written(packed, mapping(how), text, None if cut else rows.expected, rows.events)


@pytest.fixture
def home(server: Server, store: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    create_house(store, clock_us=micros(NOON))
    monkeypatch.setenv("CROUPIER_STORE", server.url)
    monkeypatch.setattr("pipelines.worker.process.FLUSH_SECONDS", 0.05)
    monkeypatch.setattr("pipelines.worker.process.RENEW_SECONDS", 0.1)
    with running(Worker(server.url, tmp_path / "lake")):
        yield tmp_path


def in_lake(home: Path) -> int:
    ((count,),) = duckdb.execute(f"SELECT count(*) FROM '{home}/lake/events/*/*.parquet'").fetchall()
    return int(count)


def physical(text: str) -> list[str]:
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z", text)


def assert_lines_are_accounted_for(file: Path, made: Written) -> None:
    """No line belongs to two rows, and what belongs to none is blank or the header."""
    with Source(file, EventMapping.model_validate(made.mapping)) as source:
        header = 0 if made.text.lstrip().startswith("{") else 1
        rows = [row for chunk in source.chunks(7) for row in chunk]
        lines = physical(made.text)
        assert source.lines == len(lines)
    held = [number for row in rows for number in range(row.line, row.line + row.lines)]
    assert len(held) == len(set(held))
    free = sorted(set(range(1, len(lines) + 1)) - set(held))
    content = [number for number in free if lines[number - 1].strip("\r\n")]
    assert content == ([1] if header else [])


def assert_records_are_accounted_for(done: ImportResult, made: Written) -> None:
    assert done.records == done.rows == done.accepted + done.duplicates + done.conflicts + done.rejected
    assert done.lines == len(physical(made.text))
    assert done.events >= done.accepted
    assert (done.refusal is not None) == (2 * (done.rejected + done.conflicts) > done.records)
    assert sum(done.reasons.values()) == done.rejected + done.conflicts
    if made.expected is not None:
        found = {name: getattr(done, name) for name in ("accepted", "duplicates", "conflicts", "rejected")}
        assert found == {name: made.expected[name] for name in found}
        assert done.events == made.events


def rejected(done: ImportResult) -> int:
    if done.rejects is None:
        return 0
    with Path(done.rejects).open(encoding="utf-8", errors="surrogateescape", newline="") as kept:
        return sum(1 for _ in csv.reader(kept)) - 1


@pytest.mark.parametrize("part", range(PARTS))
def test_every_line_record_and_event_of_generated_files_is_accounted_for(home: Path, part: int) -> None:
    (home / "files").mkdir()
    total = 0
    for seed in range(part * FILES, (part + 1) * FILES):
        made = written(seed)
        file, said = home / "files" / f"{seed}", home / f"{seed}.yaml"
        file.write_bytes(made.content)
        said.write_text(yaml.safe_dump(made.mapping), "utf8")
        try:
            done = importer.run(home, file, mapping=said, progress=False)
        except ImportRefused:
            assert made.expected is None, seed
            assert len(physical(made.text)) <= 1, seed
            continue
        assert_records_are_accounted_for(done, made)
        assert_lines_are_accounted_for(file, made)
        assert rejected(done) == done.rejected + done.conflicts
        total += done.events
        if seed % 10 == 0:
            again = importer.run(home, file, mapping=said, progress=False)
            assert (again.accepted, again.events, again.records) == (0, 0, done.records)
    assert in_lake(home) == total > FILES
